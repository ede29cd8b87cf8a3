"""Whether the tests notice wrong formulas: each mutant changes one, and some listed test has to fail.

`python tests/mutants.py [id ...]` runs all mutants of mutants.json, or those named. It exits with 0 only if the
unchanged package passes and every mutant is caught by a failing test, not by an error before the tests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 240
JOBS = 2
CAUGHT, SURVIVED, NOT_RUN = 1, 0, -1
"""Exit codes: some test failed, none did, the tests could not run as meant."""


class Mutant(NamedTuple):
    """One wrong formula.

    Attributes:
        id: A short name.
        file: The changed file, relative to the project.
        old: Text that occurs in it exactly once.
        new: What replaces it.
        why: What is wrong with the mutant.
        tests: Test files of which one has to fail.
    """

    id: str
    file: str
    old: str
    new: str
    why: str
    tests: list[str]


class Outcome(NamedTuple):
    """How a run of the tests ended: CAUGHT, SURVIVED or NOT_RUN, what pytest says in a line, the seconds it took."""

    code: int
    detail: str
    seconds: float


def read_mutants(path: Path, chosen: Sequence[str] = ()) -> list[Mutant]:
    """Returns the mutants of a JSON list, all or the chosen ones.

    Raises:
        ValueError: An id twice or unknown, or a text that does not occur exactly once in its file.
    """
    mutants = [Mutant(**entry) for entry in json.loads(path.read_text())]
    ids = [mutant.id for mutant in mutants]
    wrong = [name for name in ids if ids.count(name) > 1] + [name for name in chosen if name not in ids]
    if wrong:
        raise ValueError(f"mutant {wrong[0]!r} is unknown or listed twice; expected ids that are there once.")
    for mutant in mutants:
        count = (ROOT / mutant.file).read_text().count(mutant.old)
        if count != 1 or mutant.new == mutant.old:
            raise ValueError(
                f"mutant {mutant.id!r}: its text occurs {count} times in {mutant.file}; expected once, and a new text "
                "that differs. Bring mutants.json up to date with the package."
            )
    return [mutant for mutant in mutants if not chosen or mutant.id in chosen]


def copy_project(folder: Path) -> None:
    """Copies what the tests need: package, tests and their settings."""
    for part in ("l3d_core", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "book").mkdir()
    for file in ("pyproject.toml", "book/paper_values.json"):
        shutil.copy(ROOT / file, folder / file)


def run_tests(folder: Path, tests: Sequence[str]) -> Outcome:
    """Returns how the tests of a copy end, stopped at the first failure."""
    start = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Outcome(NOT_RUN, f"no end after {SECONDS} s", time.monotonic() - start)
    failed = re.search(r"^FAILED (?:tests/)?(\S+)", done.stdout, re.MULTILINE)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    # A file that cannot be imported ends pytest with the code of a failed test, but without one.
    code = done.returncode if done.returncode == SURVIVED or (done.returncode == CAUGHT and failed) else NOT_RUN
    return Outcome(code, failed[1] if failed else "".join(last), time.monotonic() - start)


def try_mutant(mutant: Mutant | None, tests: Sequence[str]) -> Outcome:
    """Returns how the tests end on a fresh copy with one mutant, or with none."""
    with tempfile.TemporaryDirectory(prefix="l3d-mutant-") as name:
        folder = Path(name)
        copy_project(folder)
        if mutant is not None:
            file = folder / mutant.file
            file.write_text(file.read_text().replace(mutant.old, mutant.new))
        return run_tests(folder, tests)


def main(chosen: Sequence[str]) -> int:
    """Runs the baseline, then the mutants, and prints a table; returns the exit code."""
    try:
        mutants = read_mutants(Path(__file__).with_name("mutants.json"), chosen)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    start = time.monotonic()
    baseline = try_mutant(None, sorted({test for mutant in mutants for test in mutant.tests}))
    print(f"baseline: {baseline.detail}", flush=True)
    if baseline.code != SURVIVED:
        print("the unchanged package fails its tests; expected none to fail before mutants are tried.", file=sys.stderr)
        return 2
    n_caught, width = 0, max(len(mutant.id) for mutant in mutants)
    with ThreadPoolExecutor(JOBS) as pool:
        outcomes = pool.map(lambda mutant: try_mutant(mutant, mutant.tests), mutants)
        for mutant, outcome in zip(mutants, outcomes, strict=True):
            n_caught += outcome.code == CAUGHT
            word = {CAUGHT: "caught", SURVIVED: "SURVIVED", NOT_RUN: "NOT RUN"}[outcome.code]
            why = "" if outcome.code == CAUGHT else f"  ({mutant.why})"
            print(f"{mutant.id:{width}}  {word:8}  {outcome.seconds:5.1f} s  {outcome.detail}{why}", flush=True)
    print(f"{n_caught} of {len(mutants)} mutants caught in {time.monotonic() - start:.0f} s")
    return 0 if n_caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
