"""What an executed notebook leaves for the book: glued numbers, and one record that pages and checks read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MIME = "application/vnd.l3d.record+json"


def publish(record: dict[str, Any]) -> None:
    """Glues every number of a result for use in prose, and stores the whole record in the notebook.

    Args:
        record: JSON-able; `record["numbers"]` is a flat dict of floats, ints and strings, glued under their names.
    """
    from IPython.display import display
    from myst_nb import glue

    for name, value in record["numbers"].items():
        glue(name, value, display=False)
    display({MIME: record, "text/plain": "record"}, raw=True)


def read(notebook: str | Path) -> dict[str, Any]:
    """Returns the record that `publish` stored in an executed notebook.

    Raises:
        ValueError: The notebook holds none.
    """
    import nbformat

    for cell in reversed(nbformat.read(notebook, as_version=4).cells):
        for output in cell.get("outputs", []):
            if MIME in output.get("data", {}):
                return output["data"][MIME]
    raise ValueError(f"{notebook} holds no record; expected an executed notebook. Run l3d run for it.")


def paper_values(root: Path) -> dict[str, dict[str, Any]]:
    """Returns the paper's own numbers, each with its place and source, from book/paper_values.json.

    Args:
        root: Top folder of the project.
    """
    return json.loads((root / "book" / "paper_values.json").read_text())


def paper_curves(root: Path) -> dict[str, dict[str, Any]]:
    """Returns curves and points of the paper's figures, each with its place and source, from book/paper_curves.json.

    Args:
        root: Top folder of the project.

    Returns:
        By name: 'loss_vs_rank' and 'loss_vs_nsub_x2' have `curves`, by rank or number of subnetworks in words, with
        lists `epoch` and `loss`; 'fig7_points_a_ahat_by_subnetwork' has `points`, one list of pairs a subnetwork.
    """
    return json.loads((root / "book" / "paper_curves.json").read_text())
