"""Small notebooks for the tests of the runner and the command line."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PARAMETERS = 'preset = "quick"\ndevice = "cpu"\nartifacts_dir = "../artifacts"\nn = 1'


def tiny(*sources: str) -> nbformat.NotebookNode:
    """A notebook with a parameters cell and the cells given."""
    notebook = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    notebook.cells = [
        new_markdown_cell("# Tiny"),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    return notebook


def executed(*sources: str) -> nbformat.NotebookNode:
    """The same as a complete run leaves it."""
    notebook = tiny(*sources)
    for count, cell in enumerate(notebook.cells[1:], 1):
        cell.execution_count = count
        cell.outputs = [new_output("stream", name="stdout", text="1\n")]
    return notebook


def write(path: Path, notebook: nbformat.NotebookNode) -> Path:
    """Writes a notebook and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def printed(path: Path) -> str:
    """All that the cells of a notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.text for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream")
