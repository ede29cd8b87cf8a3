"""One notebook at every point of a grid of parameters, and one table of what the runs recorded."""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from jupyter_core.utils import ensure_event_loop

from . import record
from .artifacts import artifact_path, config_hash
from .runner import clean, incomplete, read_value, run_notebook, split_parameter, staged


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Tells it from the others, fit for a file.
        parameters: What the notebook is given.
        columns: What the table tells of them.
    """

    name: str
    parameters: dict[str, Any]
    columns: dict[str, Any]


class Outcome(NamedTuple):
    """What a sweep gave.

    Attributes:
        table: The path of the table; None if no point gave a row.
        failures: Why a point failed, by its name.
    """

    table: Path | None
    failures: dict[str, str]


def parse_grid(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the values of each parameter, names in alphabetical order.

    `name=1,2,3` are three values, `name=[1,2]` is one and so is `name=0:8`, the list of the whole numbers from 0 to 7.

    Raises:
        ValueError: No parameter, one with an option of its own, or one or a value missing, malformed or given twice.
    """
    if not pairs:
        raise ValueError("got no parameter; expected -p name=1,2,3, once for each. For a single run use l3d run.")
    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        name, text = split_parameter(pair)
        if name in grid:
            raise ValueError(f"-p {name} is given twice; expected it once. Separate its values by commas.")
        grid[name] = [_read(piece, pair) for piece in _split(text, pair)]
        labels = [_label(value).casefold() for value in grid[name]]
        same = [label for label in labels if labels.count(label) > 1]
        if same:
            raise ValueError(f"-p {pair!r} has {len(same)} values called {same[0]}; expected each value once.")
    return dict(sorted(grid.items()))


def _split(text: str, pair: str) -> list[str]:
    """Returns the parts between commas outside brackets and quotes."""
    pieces: list[str] = []
    for part in text.split(","):
        if pieces and _is_open(pieces[-1]):
            pieces[-1] += f",{part}"
        else:
            pieces.append(part)
    if _is_open(pieces[-1]):
        raise ValueError(f"-p {pair!r} has no readable value; expected brackets and quotes in pairs.")
    return pieces


def _is_open(text: str) -> bool:
    """Returns whether a bracket or quote is without its other half."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", text)
    return "'" in bare or '"' in bare or sum(map(bare.count, "([{")) != sum(map(bare.count, ")]}"))


def _read(piece: str, pair: str) -> Any:
    """Returns one value of an axis."""
    piece = piece.strip()
    if not piece:
        raise ValueError(f"-p {pair!r} lacks a value; expected one, or several between commas. Use None for none.")
    # YAML would take these for times of day.
    if re.fullmatch(r"[-+_.\d\s]*:[-+_.:\d\s]*", piece):
        bounds = re.fullmatch(r"(-?\d+):(-?\d+)", piece)
        if bounds is None or int(bounds[1]) >= int(bounds[2]):
            raise ValueError(f"-p {pair!r} holds no numbers from {piece}; expected first:end with first < end.")
        return list(range(int(bounds[1]), int(bounds[2])))
    try:
        # Tuples become lists, as a notebook takes no others.
        return json.loads(json.dumps(read_value(piece, pair)))
    except TypeError as error:
        raise ValueError(f"-p {pair!r}: {error}; expected numbers, texts, True, False, None or lists.") from error


def make_points(grid: Mapping[str, Sequence[Any]]) -> list[Point]:
    """Returns every combination of the values in a grid; the last name varies fastest.

    Lists are in no column, unless they tell points apart.
    """
    axes = [name for name, values in grid.items() if len(values) > 1]
    points = []
    for values in itertools.product(*grid.values()):
        parameters = dict(zip(grid, values, strict=True))
        name = ",".join(f"{key}={_label(parameters[key])}" for key in axes or grid)
        if len(name) > 180:
            name = f"{name[:180]}-{config_hash({'name': name})}"
        columns = {
            key: value if _is_scalar(value) else json.dumps(value)
            for key, value in parameters.items()
            if _is_scalar(value) or key in axes
        }
        points.append(Point(name, parameters, columns))
    return points


def _label(value: Any) -> str:
    """Returns a value as it stands in a file's name, shortened where it has other signs or is long."""
    text = value if isinstance(value, str) else repr(value)
    if re.fullmatch(r"[\w.+-]{1,40}", text, re.ASCII):
        return text
    plain = re.sub(r"[^\w.+]+", "-", text, flags=re.ASCII).strip("-")
    return f"{plain[:24]}-{config_hash({'value': value})}"


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def sweep_folder(root: Path, name: str, preset: str, grid: Mapping[str, Any], output: Path | None = None) -> Path:
    """Returns where the runs of a sweep go.

    Args:
        root: The checkout.
        name: The notebook.
        preset: 'quick' or 'paper'.
        grid: Of `parse_grid`.
        output: A folder asked for; None for one of this notebook, preset and grid under artifacts/.

    Raises:
        ValueError: The folder asked for is a file or belongs to the book.
    """
    if output is None:
        return artifact_path(root / "artifacts/sweeps", name, {"notebook": name, "preset": preset, "grid": dict(grid)})
    folder, own = output.resolve(), [root.resolve() / part for part in ("notebooks", "book")]
    if folder.is_file() or any(folder.is_relative_to(part) for part in own):
        raise ValueError(f"--output {output} is refused; expected a folder outside notebooks/ and book/.")
    return folder


def run_sweep(
    source: Path, folder: Path, points: Sequence[Point], shared: Mapping[str, Any], *, jobs: int, progress: bool = False
) -> Outcome:
    """Runs a notebook at each point, those left out that are done, and returns where the table of all points is.

    The table has a row for each row of a record's "table", a list of flat dicts, or else one of its "numbers"; the
    point's own parameters come first. A failed or interrupted sweep keeps every run that reached its end. The package
    may have changed since: empty the folder to run all points with today's.

    Args:
        source: The notebook.
        folder: Where the executed copies and table.csv go.
        points: Of `make_points`.
        shared: Parameters that all points have in common.
        jobs: Runs at a time.
        progress: Print a line on standard error for each point.

    Raises:
        ValueError: jobs is less than 1.
        OSError: The table cannot be written.
    """
    if jobs < 1:
        raise ValueError(f"got jobs = {jobs}; expected at least 1. Leave --jobs out for one run at a time.")
    plan = {point.name: (folder / f"{point.name}.ipynb", {**shared, **point.parameters}) for point in points}
    left = {name: task for name, task in plan.items() if not is_done(source, *task)}
    if progress:
        print(f"{len(plan)} points, {len(plan) - len(left)} of them done before", file=sys.stderr, flush=True)
    failed, rows = _run_points(source, left, jobs, progress), []
    for point in points:
        if point.name not in failed:
            try:
                rows += read_rows(plan[point.name][0], point.columns)
            except ValueError as error:
                failed[point.name] = str(error)
    table = folder / "table.csv"
    if rows:
        with staged(table) as part:
            writer = csv.DictWriter(part, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return Outcome(table if rows else None, {name: failed[name] for name in plan if name in failed})


def is_done(source: Path, path: Path, parameters: Mapping[str, Any]) -> bool:
    """Returns whether an executed notebook is whole and of the same code cells and parameters as a run now would be.

    Args:
        source: The notebook.
        path: The executed copy, if there is one.
        parameters: All that the run would be given; where results lie makes no difference.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    try:
        ran = nbformat.read(path, as_version=4)
    except Exception:  # No file, or not a notebook in any of many ways: it is written anew.
        return False
    given = parameterize_notebook(
        load_notebook_node(str(source)), dict(parameters), kernel_name="python3", language="python"
    )
    cells = [[cell.source for cell in nb.cells if cell.cell_type == "code"] for nb in (ran, clean(given))]
    return cells[0] == cells[1] and not incomplete(ran)


def _run_points(
    source: Path, tasks: Mapping[str, tuple[Path, dict[str, Any]]], jobs: int, progress: bool
) -> dict[str, str]:
    """Runs points, several at a time, and returns why some failed; if interrupted, stops those under way."""
    failed, futures = {}, {}
    pool = ThreadPoolExecutor(jobs)
    try:
        for name, task in tasks.items():
            futures[pool.submit(_run_point, source, *task)] = name
        for count, future in enumerate(as_completed(futures), 1):
            name, error = futures[future], future.exception()
            if error:
                told = isinstance(error, RuntimeError | OSError | ValueError)
                failed[name] = str(error) if told else repr(error)
            if progress:
                how = "failed" if error else f"{future.result():.0f} s"
                print(f"{count}/{len(tasks)} {name}: {how}", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop_kernels(futures)
    return failed


def _run_point(source: Path, path: Path, parameters: Mapping[str, Any]) -> float:
    """Runs one point and returns the seconds it took."""
    start = time.monotonic()
    with closing(ensure_event_loop()):  # The one that talks to this thread's kernel, which nobody else would close.
        run_notebook(source, path, parameters, progress=False)
    return time.monotonic() - start


def _stop_kernels(futures: Collection[Future[float]]) -> None:
    """Ends the kernels of this process until no run is left; one may just be starting when the first are ended."""
    while not all(future.done() for future in futures):
        with suppress(KeyboardInterrupt, SystemExit):  # They are on their way out; being told again changes nothing.
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if "ipykernel_launcher" in child.cmdline():
                        child.kill()
            wait(futures, timeout=0.2)


def read_rows(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows that an executed notebook adds to the table.

    Args:
        path: The executed notebook.
        columns: What each row begins with.

    Raises:
        ValueError: The notebook has no record, its table is no list of flat dicts or contradicts the columns.
    """
    found = record.read(path)
    numbers = {name: value for name, value in found.get("numbers", {}).items() if _is_scalar(value)}
    table = found.get("table", [numbers])
    flat = isinstance(table, list) and all(isinstance(r, dict) and all(map(_is_scalar, r.values())) for r in table)
    if not (flat and table):
        raise ValueError(f"{path} records no table of rows; expected a list of flat dicts. Change what it publishes.")
    for name, value in columns.items():
        others = [row[name] for row in table if row.get(name, value) != value]
        if others:
            raise ValueError(
                f"{path} records {name} = {others[0]!r} at the point {name} = {value!r}; expected the same. "
                "Rename the column in what it publishes."
            )
    return [{**columns, **row} for row in table]
