"""Runs notebooks with papermill: a whole new notebook replaces the last one, anything else leaves it as it was."""

from __future__ import annotations

import ast
import glob
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import nbformat
from nbformat import NotebookNode

ERROR_CELL = "papermill-error-cell-tag"
INJECTED = "injected-parameters"
# Where results lie is a matter of the machine, not of the result, so it is not stored.
_PATH_PARAMETERS = ("artifacts_dir",)
_START_RACES = ("Address already in use", "Kernel died before replying")
# Parameters that the commands set through options of their own.
_OWN_OPTIONS = {"preset": "--preset", "device": "--device", "artifacts_dir": "--artifacts"}
# What each run under way found in the environment; runs may share a process.
_FOUND: list[dict[str, str | None]] = []
_ENVIRONMENT_LOCK = threading.Lock()


def run_notebook(
    source: Path, destination: Path, parameters: Mapping[str, Any], *, in_place: bool = False, progress: bool = True
) -> None:
    """Runs a notebook in its own folder and puts the executed copy in place when it is whole.

    Threads may do this at the same time.

    Args:
        source: The notebook.
        destination: Where the executed copy goes. A failed or killed run leaves an earlier one untouched.
        parameters: Values for names in its parameters cell.
        in_place: Store outputs only: the parameters passed are the notebook's own, so no cell with them is added.
        progress: Show a bar, and what the cells write there, on standard error.

    Raises:
        ValueError: The notebook is missing or does not take one of the parameters.
        RuntimeError: A cell failed, the kernel died, or a cell was not run.
        OSError: The copy cannot be written.
    """
    check_parameters(source, parameters)
    with staged(destination) as part:
        notebook = _execute(source, parameters, progress)
        problems = incomplete(notebook)
        if problems:
            raise RuntimeError(
                f"{source.name} did not run to its end: {'; '.join(problems)}. {destination} is as it was; run again."
            )
        nbformat.write(clean(notebook, keep_injected=not in_place), part)


def split_parameter(pair: str) -> tuple[str, str]:
    """Returns name and text of a parameter given as name=value.

    Raises:
        ValueError: No '=', no name, or a name that has its own option.
    """
    name, equals, text = pair.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"-p {pair!r} is no parameter; expected -p name=value.")
    if name in _OWN_OPTIONS:
        raise ValueError(f"-p {name} is not taken; use {_OWN_OPTIONS[name]} {text}.")
    return name, text


def read_value(text: str, pair: str) -> Any:
    """Returns a parameter's value, read as a Python literal or else as YAML.

    Args:
        text: The value as given.
        pair: Where it stands, for the message.

    Raises:
        ValueError: It is neither.
    """
    import yaml

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"-p {pair!r} has no readable value; expected a Python literal or YAML.") from error


def check_parameters(source: Path, parameters: Mapping[str, Any]) -> None:
    """Refuses parameters that a notebook does not take; papermill alone would run with its defaults.

    Raises:
        ValueError: An unknown parameter, or no such notebook.
    """
    import papermill

    if not source.is_file():
        raise ValueError(f"{source} does not exist; expected a notebook. See l3d list.")
    known = papermill.inspect_notebook(str(source))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"{source.name} has no parameter {', '.join(unknown)}; expected names among {sorted(known)}.")


def incomplete(notebook: NotebookNode) -> list[str]:
    """Returns why a notebook is no whole run, an empty list if it is one.

    papermill's own status says completed even of cells that a dead kernel never ran, so each cell is looked at.
    """
    problems = []
    for number, cell in enumerate(notebook.cells, 1):
        if ERROR_CELL in cell.metadata.get("tags", []):
            problems.append(f"cell {number} reports an error")
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            problems.append(f"cell {number} was not run")
        problems += [f"cell {number} raised {o.ename}" for o in cell.outputs if o.output_type == "error"]
    return problems


def clean(notebook: NotebookNode, *, keep_injected: bool = True) -> NotebookNode:
    """Returns a notebook without what differs from run to run: times, progress bars, versions, chance identifiers.

    Args:
        notebook: Executed; changed in place.
        keep_injected: Whether the cell with the parameters passed stays, hidden from the page.
    """
    cells = [cell for cell in notebook.cells if keep_injected or not _is_injected(cell)]
    notebook.cells = cells
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in cells:
        _clean_cell(cell)
    executed = [cell for cell in cells if cell.cell_type == "code" and cell.execution_count is not None]
    for count, cell in enumerate(executed, 1):
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
    return notebook


def _is_injected(cell: NotebookNode) -> bool:
    return INJECTED in cell.metadata.get("tags", [])


def _clean_cell(cell: NotebookNode) -> None:
    """Strips one cell of what differs from run to run."""
    for name in ("papermill", "execution"):
        cell.metadata.pop(name, None)
    if not cell.metadata.get("tags", True):
        del cell.metadata["tags"]
    if _is_injected(cell):
        cell.id = INJECTED
        cell.metadata["tags"] = [INJECTED, "remove-cell"]
        lines = cell.source.splitlines()
        cell.source = "\n".join(line for line in lines if line.split(" = ")[0] not in _PATH_PARAMETERS)
    if cell.cell_type == "code":
        cell.outputs = _merged([o for o in cell.outputs if o.get("name") != "stderr"])


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Returns outputs with neighbouring pieces of printed text joined, whose cuts depend on timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


@contextmanager
def staged(destination: Path) -> Iterator[TextIO]:
    """Gives a file beside the destination that replaces it at the end, or vanishes if anything is raised.

    It is made before the run, so that an unwritable folder is found at once and not after hours. Its name holds this
    process's number, by which a later run finds and removes what a killed one left.

    Raises:
        OSError: It cannot be written.
    """
    import psutil

    part = destination.with_name(f".{destination.name}.{os.getpid()}.part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        for old in destination.parent.glob(f".{glob.escape(destination.name)}.*.part"):
            if not psutil.pid_exists(int(old.name.split(".")[-2])):
                old.unlink(missing_ok=True)
        with part.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(destination)
    except OSError as error:
        raise OSError(
            f"{destination} cannot be written ({error.strerror or error}); expected a writable folder with room. "
            "What was there is as it was. Make room or choose another with --output."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _execute(source: Path, parameters: Mapping[str, Any], progress: bool) -> NotebookNode:
    """Returns a notebook as papermill left it; once more if the kernel lost the race for its ports."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # The folder goes to the kernel alone; papermill's own option would move this whole process into it.
    options = {"kernel_name": "python3", "resources": {"metadata": {"path": str(source.parent)}}}
    options |= {"request_save_on_cell_execute": False, "progress_bar": progress}
    options |= {"stderr_file": sys.stderr if progress else None}
    for attempt in (1, 2):
        try:
            with _kernel_environment():
                check_kernel()
                # No output path: the notebook stays in memory until it is known to be whole.
                return papermill.execute_notebook(str(source), None, dict(parameters), **options)
        except PapermillExecutionError as error:
            raise RuntimeError(f"{source.name} failed: {error.ename}: {error.evalue}\n{error}") from error
        except (RuntimeError, OSError) as error:
            if attempt == 2 or not any(words in str(error) for words in _START_RACES):
                advice = "Often the memory was too small. " if isinstance(error, DeadKernelError) else ""
                raise RuntimeError(
                    f"{source.name} failed: {error}. {advice}Run again: finished results and checkpoints are reused."
                ) from error
    raise AssertionError("unreachable")


@contextmanager
def _kernel_environment() -> Iterator[None]:
    """Sets what a kernel inherits, and puts it back after the last of the runs that share this process.

    Kernels are looked for in this environment first. One thread unless told otherwise: the notebooks' many small
    operations are slower with more, and sums keep one order. An inherited MPLBACKEND would leave figures out.
    """
    with _ENVIRONMENT_LOCK:
        _FOUND.append(_FOUND[0] if _FOUND else _set_environment())
    try:
        yield
    finally:
        with _ENVIRONMENT_LOCK:
            found = _FOUND.pop()
            if not _FOUND:
                for name in found:
                    os.environ.pop(name, None)
                os.environ.update({name: value for name, value in found.items() if value is not None})


def _set_environment() -> dict[str, str | None]:
    """Sets what a kernel inherits; returns what was there, None for nothing."""
    found = {name: os.environ.get(name) for name in ("JUPYTER_PATH", "OMP_NUM_THREADS", "MPLBACKEND")}
    here = Path(sys.prefix) / "share" / "jupyter"
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(here), found["JUPYTER_PATH"]]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.pop("MPLBACKEND", None)
    return found


def check_kernel() -> None:
    """Refuses a python3 kernel that is another interpreter than this one, whose packages would differ.

    Raises:
        RuntimeError: The kernel is another interpreter.
    """
    from jupyter_client.manager import KernelManager

    command = KernelManager(kernel_name="python3").format_kernel_cmd()
    if Path(command[0]) != Path(sys.executable):
        raise RuntimeError(
            f"kernel python3 runs {command[0]}; expected {sys.executable}. "
            "Run: python -m ipykernel install --sys-prefix --name python3"
        )
