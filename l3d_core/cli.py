"""The command line: l3d list | run | sweep | targets | explore | book | check."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from .artifacts import project_root
from .experiments import PRESETS
from .requested import check_names, destination, parse_overrides, resolve_device, shared_parameters


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What follows `l3d`; None for the process's own.

    Returns:
        0 when all is well, 1 for a failed run, build or check, 2 for a command that makes no sense.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except BrokenPipeError:  # The reader, `head` say, has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        print(f"l3d: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(f"l3d: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("l3d: interrupted; what was there is as it was.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="l3d", description="An executable companion to the L3D paper.")
    commands = parser.add_subparsers(required=True, metavar="list | run | sweep | targets | explore | book | check")
    table = commands.add_parser("list", help="figures and tables of the paper, with notebook, command and state")
    table.add_argument("--json", action="store_true", help="print JSON")
    table.set_defaults(command=_list)
    run = commands.add_parser("run", help="run notebooks")
    run.add_argument("names", nargs="*", metavar="NAME", help="a notebook such as 01_superposition")
    run.add_argument("--all", action="store_true", help="every notebook, in reading order")
    run.add_argument("-p", dest="overrides", action="append", default=[], metavar="name=value", help="a parameter")
    run.add_argument("--output", type=Path, metavar="PATH", help="where the executed notebook goes")
    run.add_argument("--in-place", action="store_true", help="quick only: refresh the outputs in notebooks/")
    run.set_defaults(command=_run)
    sweep = commands.add_parser("sweep", help="run a notebook at every point of a grid, and make one table of the runs")
    sweep.add_argument("name", metavar="NAME", help="a notebook such as 01_superposition")
    axis = "values of a parameter; [1,2] is one value, 0:8 too: the list from 0 to 7"
    sweep.add_argument("-p", dest="overrides", action="append", default=[], metavar="name=1,2,3", help=axis)
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="points at a time (default: 1)")
    sweep.add_argument("--output", type=Path, metavar="DIR", help="where executed notebooks and table.csv go")
    sweep.set_defaults(command=_sweep)
    for parser_of_runs in (run, sweep):
        _add_run_options(parser_of_runs)
    targets = commands.add_parser("targets", help="train the shipped targets anew")
    targets.add_argument("names", nargs="*", metavar="NAME", help="such as squared_5-10; none for all toys")
    targets.add_argument("--output", type=Path, metavar="DIR", help="where they go (default: into the package)")
    targets.set_defaults(command=_targets)
    _add_explore(commands.add_parser("explore", help="write the page of a decomposition that explore left in a folder"))
    commands.add_parser("book", help="build the book").set_defaults(command=_book)
    commands.add_parser("check", help="check results, claims and notebooks").set_defaults(command=_check)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every command that runs notebooks has."""
    parser.add_argument("--preset", choices=PRESETS, default="quick", help="size of the run (default: quick)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, cuda if present"
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="where results and checkpoints lie")


def _add_explore(explore: argparse.ArgumentParser) -> None:
    """Adds the options of `l3d explore`."""
    explore.add_argument("result", metavar="RESULT", help="a folder that explore left, or a chapter: 05_language_model")
    explore.add_argument("--against", metavar="RESULT", help="another one of the same model, shown beside it")
    explore.add_argument("--output", type=Path, metavar="PAGE.html", help="where it goes; .json for its data alone")
    explore.add_argument("--run", metavar="NAME", help="of a chapter: which decomposition, such as tuned")
    explore.add_argument("-p", dest="overrides", action="append", default=[], metavar="name=value",
                         help="of a chapter: a setting, such as n_v=50")  # fmt: skip
    _add_run_options(explore)
    explore.set_defaults(command=_explore)


def _targets(options: argparse.Namespace) -> int:
    from .targets import retrain
    from .toys import WEIGHTS

    for name, seconds in retrain(options.names, options.output or WEIGHTS).items():
        print(f"{name}: {seconds:.0f} s")
    return 0


def _list(options: argparse.Namespace) -> int:
    from .experiments import EXHIBITS

    root = project_root()
    states = {name: _state(root, name) for name in {exhibit.notebook for exhibit in EXHIBITS}}
    rows = [
        (one.place, one.notebook, states[one.notebook], f"l3d run {one.notebook} --preset paper", one.title)
        for one in EXHIBITS
    ]
    names = ("shown in", "notebook", "state", "command", "title")
    if options.json:
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
        return 0
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _state(root: Path, name: str) -> str:
    """Returns how far a notebook is: quick only, or what its committed paper run is worth."""
    source, result = root / "notebooks" / f"{name}.ipynb", root / "book" / "results" / f"{name}.ipynb"
    if not result.is_file():
        return "quick only"
    from .check import check_result

    return "paper run out of date" if check_result(source, result, name) else "paper run"


def _run(options: argparse.Namespace) -> int:
    root = project_root()
    names = [name for name in check_names(options.names, options.all) if not (options.all and _lacks_data(name))]
    overrides = parse_overrides(options.overrides)
    if options.output and len(names) > 1:
        raise ValueError(f"--output names one file for {len(names)} notebooks; run them one by one.")
    plan = [(root / "notebooks" / f"{name}.ipynb", destination(root, name, options, overrides)) for name in names]
    from .runner import check_parameters, run_notebook

    parameters = {**shared_parameters(options), **overrides}
    for source, _ in plan:
        check_parameters(source, parameters)
    with _stoppable():
        for source, target in plan:
            run_notebook(source, target, parameters, in_place=options.in_place)
            print(os.path.relpath(target))
    return 0


def _lacks_data(name: str) -> bool:
    """Returns whether data that a notebook needs are not at hand, and says so; asked for by name it may fetch them."""
    from .real_experiments import missing_data

    missing = missing_data(name)
    if missing:
        what = f"{name} skipped: L3D_HUB does not hold {' and '.join(missing)}"
        print(f"{what}. The committed run stays in the book; set L3D_HUB, or run it by name with a network.")
    return bool(missing)


def _sweep(options: argparse.Namespace) -> int:
    root = project_root()
    [name] = check_names([options.name], False)
    from .runner import check_parameters
    from .sweep import make_points, parse_grid, run_sweep, sweep_folder

    grid = parse_grid(options.overrides)
    folder = sweep_folder(root, name, options.preset, grid, options.output)
    source, parameters = root / "notebooks" / f"{name}.ipynb", shared_parameters(options)
    check_parameters(source, {**parameters, **grid})
    with _stoppable():
        outcome = run_sweep(source, folder, make_points(grid), parameters, jobs=options.jobs, progress=True)
    for point, why in outcome.failures.items():
        print(f"l3d: {point} failed: {why}", file=sys.stderr)
    if outcome.table:
        print(os.path.relpath(outcome.table))
    return 1 if outcome.failures else 0


@contextmanager
def _stoppable() -> Iterator[None]:
    """Lets a polite kill stop what runs inside."""
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(number: int, frame: FrameType | None) -> None:
    """Turns a polite kill into an exit that stops the kernel and removes unfinished files."""
    sys.exit(128 + number)


def _explore(options: argparse.Namespace) -> int:
    from .chapter_explorers import CHAPTERS
    from .explorer_pages import write_explorer

    if options.output and options.output.suffix not in (".html", ".json"):
        raise ValueError(f"--output {options.output} is refused; expected an .html file, or .json for the data alone.")
    with _stoppable():
        named = options.result not in CHAPTERS and Path(options.result).is_dir()
        results = _folders(options) if named else _chapter_results(options)
        for path in write_explorer(*results, outputs=_outputs(options, results[0])):
            print(os.path.relpath(path))
    return 0


def _chapter_results(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Returns the folders of a chapter's explorer, computed where they are not there."""
    from .chapter_explorers import explore_chapter

    return explore_chapter(
        options.result, options.preset, options.run, options.against, parse_overrides(options.overrides),
        folder=options.artifacts, device=resolve_device(options.device), progress=True,
    )  # fmt: skip


def _folders(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Returns the folders that were named; options that only a chapter takes are refused."""
    named = {"--run": options.run, "-p": options.overrides, "--artifacts": options.artifacts,
             "--preset": options.preset != PRESETS[0], "--device": options.device != "auto"}  # fmt: skip
    for name in (name for name, value in named.items() if value):
        raise ValueError(f"{name} is for chapters, and {options.result!r} is a folder, which is only read; leave it.")
    return Path(options.result).resolve(), None if options.against is None else Path(options.against)


def _outputs(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Returns where an explorer goes: where asked, or beside its result and, of a paper preset, into the book."""
    page = options.output or folder.with_name(f"{folder.name}.html")
    if options.output or options.preset != "paper" or options.run or options.against or options.overrides:
        return [page]
    return [page, project_root() / "book" / "explorer" / f"{options.result}.json"]


def _book(options: argparse.Namespace) -> int:
    from .publish import build_book

    print(os.path.relpath(build_book(project_root())))
    return 0


def _check(options: argparse.Namespace) -> int:
    from .check import check_all

    problems = check_all(project_root(), progress=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"problems: {len(problems)}" if problems else "all checks passed")
    return 1 if problems else 0
