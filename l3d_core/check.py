"""Whether what the book shows is whole, current and consistent with the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import experiments, explorer_pages, record
from .artifacts import provenance
from .chapters import apd_chapter, real_chapter
from .chapters.statistics import settings_digest
from .chapters.studies import fit_job
from .claims import CLAIMS, ledger
from .parallel import run_jobs, small_work
from .publish import toc_pages
from .real_experiments import NEEDS, missing_data
from .runner import incomplete
from .streams import FIRST_LOSSES

TOLERANCE = 1e-5


def check_all(root: Path, progress: bool = False) -> list[str]:
    """Returns everything that is wrong with the committed notebooks and results, an empty list if nothing is.

    Args:
        root: Top folder of the project.
        progress: Say on standard output what is checked.
    """
    problems, pending = check_lists(root) + check_explorers(root), {}
    for name in experiments.notebooks():
        path = root / "book" / "results" / f"{name}.ipynb"
        if not path.exists():
            problems.append(f"{name} has no full run; run l3d run {name} --preset paper.")
            continue
        found = check_result(root / "notebooks" / f"{name}.ipynb", path, name)
        missing = missing_data(name)
        if missing and progress:
            print(f"{name}: first losses not recomputed for want of {' and '.join(missing)}, see L3D_HUB")
        if not found and not missing:
            pending[name] = record.read(path)
        problems += found
    if progress and pending:
        print(f"recomputing the first losses of the runs of {', '.join(pending)}", flush=True)
    for name, now in _recomputed(pending).items():
        problems += check_losses(name, pending[name], now)
    return problems or check_claims(root)


def check_lists(root: Path) -> list[str]:
    """Returns where manifest, notebooks on disk and table of contents disagree."""
    import yaml

    on_disk = {path.stem for path in (root / "notebooks").glob("*.ipynb")}
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text())
    in_toc = {Path(page).name for page in toc_pages(toc) if page.startswith("book/results/")}
    listed = set(experiments.notebooks())
    return [
        f"{place} and the manifest disagree about {sorted(found ^ listed)}; list each notebook in both."
        for place, found in {"notebooks/": on_disk, "book/_toc.yml": in_toc}.items()
        if found != listed
    ]


def check_explorers(root: Path) -> list[str]:
    """Returns which of the book's explorers cannot be shown, or are not of today's paper preset."""
    try:
        blocks = explorer_pages.book_explorers(root)
    except RuntimeError as error:
        return [str(error)]
    return [
        f"{name}: the paper preset has changed since its explorer was made; run l3d explore {name} --preset paper."
        for name, block in blocks.items()
        if dict(block["facts"]).get("settings") != settings_digest(experiments.settings(name, "paper"))
    ]


def check_result(source: Path, result: Path, name: str) -> list[str]:
    """Returns why a full run is not whole or not of today's notebook and settings."""
    import nbformat

    ran, now = nbformat.read(result, as_version=4), nbformat.read(source, as_version=4)
    problems = [f"{result.name}: {problem}; run it again." for problem in incomplete(ran)]
    injected = [c for c in ran.cells if "injected-parameters" in c.metadata.get("tags", [])]
    cells = [[(c.cell_type, c.source) for c in nb.cells if c not in injected] for nb in (ran, now)]
    if cells[0] != cells[1]:
        problems.append(f"{name}: the notebook has changed since its full run; run l3d run {name} --preset paper.")
    if not problems:
        found = record.read(result)
        if found["preset"] != "paper" or found["settings"] != settings_digest(experiments.settings(name, "paper")):
            problems.append(f"{name}: the paper preset has changed since its full run; run it again.")
    return problems


def check_losses(name: str, found: dict[str, Any], now: Mapping[str, Tensor] | None = None) -> list[str]:
    """Returns which stacks of runs no longer give the losses their full run began with.

    The losses of each run's first steps, 50 of L3D and 10 of APD, are recomputed from the paper preset (on real models
    for those of `real_chapter.kinds`); a relative difference above 1e-5 means that mathematics, settings or data have
    changed. A processor that is not the record's rounds otherwise, and where a gradient is zero but for rounding Adam
    makes a whole step of it, so that some runs part from the second loss on. There the first loss of every run has to
    agree, and all losses of most runs.

    Args:
        name: Name of a notebook.
        found: The record of its full run.
        now: The losses computed anew by stack, `[n_runs, n]`; None to compute them here.
    """
    settings, problems = experiments.settings(name, "paper"), []
    jobs, stored = experiments.CHAPTERS[name].jobs(settings), found["first_losses"]
    if set(jobs) != set(stored):
        return [f"{name}: its record and the preset differ in {sorted(set(jobs) ^ set(stored))}; run it again."]
    same, apart = found["provenance"]["device"] == provenance()["device"], []
    for stack in real_chapter.kinds(jobs):
        losses = _losses(name, stack) if now is None else now[stack]
        then = torch.tensor(stored[stack], dtype=torch.float64).flatten(0, 1)
        if losses.shape != then.shape:
            problems.append(f"{name}, {stack}: {len(then)} runs stored, {len(losses)} in the preset; run it again.")
            continue
        difference = (losses - then).abs() / then.abs().clamp_min(1e-12)
        apart += (~(difference <= TOLERANCE).all(1)).tolist()
        worst = float((difference if same else difference[:, :1]).max())
        if not worst <= TOLERANCE:
            problems.append(f"{name}, {stack}: first losses differ by {worst:.1e} (limit {TOLERANCE:g}); run it again.")
    if 2 * sum(apart) >= len(apart) > 0 and not problems:
        problems.append(f"{name}: first losses of {sum(apart)} of {len(apart)} runs differ; run it again.")
    return problems


def _recomputed(pending: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Returns the first losses of notebooks by stack, computed on all cores, those of the real models first."""
    stacks = {name: real_chapter.kinds(experiments.CHAPTERS[name].jobs(experiments.settings(name, "paper")))
              for name in pending}  # fmt: skip
    longest = sorted(stacks, key=lambda name: name not in NEEDS)
    calls = [{"name": name, "stack": stack} for name in longest for stack in stacks[name]]
    found = dict(zip([tuple(call.values()) for call in calls], run_jobs(_losses, calls), strict=True))
    return {name: {stack: found[name, stack] for stack in stacks[name]} for name in pending}


def _losses(name: str, stack: str) -> Tensor:
    """Returns the first losses of a stack's runs, computed anew, `[n_runs, n]`."""
    job = experiments.CHAPTERS[name].jobs(experiments.settings(name, "paper"))[stack]
    with small_work(True):  # As the runs were made; on two threads many small operations wait for each other.
        if isinstance(job, apd_chapter.APDJob):
            return apd_chapter.first_losses(job).double()
        return torch.stack([l3d.history.first_losses for l3d in fit_job(job, max_steps=FIRST_LOSSES)]).double()


def check_claims(root: Path) -> list[str]:
    """Returns claims that the results have no values for, or whose figure the manifest does not know."""
    known = {exhibit.id for exhibit in experiments.EXHIBITS}
    claims = [claim for claim in CLAIMS if claim.notebook in experiments.notebooks()]
    problems = [f"claim {c.id}: figure {c.figure!r} is not in the manifest." for c in claims if c.figure not in known]
    try:
        ledger(root)
    except ValueError as error:
        problems.append(str(error))
    return problems
