"""Chapter 7: APD on the targets of its own paper, each result from disk where it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .. import artifacts
from ..apd_targets import TargetTraining
from ..baselines.apd_training import FIRST, decompose_apd
from ..parallel import run_jobs
from .apd_runs import APDRun, Decomposed, decomposed, joined, targets


@dataclass(frozen=True, kw_only=True)
class APDSettings:
    """What chapter 7 decomposes."""

    runs: Mapping[str, tuple[APDRun, ...]]
    """By name; the parts of one differ in their seeds alone and are joined."""


def with_full_ranks(settings: APDSettings) -> APDSettings:
    """Returns settings in which residual MLPs have the rank-one terms of the authors' code, one for each neuron.

    No component can have a higher rank than a layer has neurons: 50 with one layer, 25 with two (APD App. D.2).

    Args:
        settings: The chapter's.
    """

    def full(run: APDRun) -> APDRun:
        if not (isinstance(run.target, TargetTraining) and run.target.kind == "residual"):
            return run
        return replace(run, config=replace(run.config, n_terms=run.target.n_hidden // run.target.n_layers))

    return replace(settings, runs={name: tuple(map(full, parts)) for name, parts in settings.runs.items()})


class APDJob(NamedTuple):
    """One stack of decompositions, to be made or made again in part."""

    run: APDRun


def jobs(settings: APDSettings) -> dict[str, APDJob]:
    """Returns the chapter's stacks of decompositions by name."""
    return {f"{name}, {i}": APDJob(run) for name, parts in settings.runs.items() for i, run in enumerate(parts)}


def first_losses(job: APDJob, folder: Path | None = None) -> Tensor:
    """Returns the losses of a stack's first steps, computed anew, `[n_runs, n]`.

    Args:
        job: The stack.
        folder: Where its targets lie or are left; None for `artifacts/` of the project.
    """
    network, _ = targets(job.run, artifacts.results_folder(folder))
    return decompose_apd(network, job.run.sample, job.run.config, job.run.drawn, max_steps=FIRST).first_losses


def compute(
    settings: APDSettings, *, folder: str | Path | None = None, device: str = "cpu", workers: int | None = None,
    progress: bool = False,
) -> dict[str, Decomposed]:  # fmt: skip
    """Returns the chapter's decompositions by name, several at once, one to a core, or one by one on a GPU.

    Args:
        settings: See `apd_experiments.SETTINGS`.
        folder: Where results lie; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Processes; None for one per core.
        progress: Show bars on standard error.

    Raises:
        OSError: A result cannot be written.
        FloatingPointError: A loss became NaN or infinite.
    """
    calls = [
        {"name": name, "run": run, "folder": artifacts.results_folder(folder), "device": device}
        for name, parts in settings.runs.items()
        for run in parts
    ]
    decompose_all(calls, workers, progress)
    found: dict[str, list[Decomposed]] = {}
    for call in calls:
        found.setdefault(call["name"], []).append(decomposed(**call))
    return {name: joined(parts) for name, parts in found.items()}


def decompose_all(calls: Sequence[dict[str, Any]], workers: int | None = None, progress: bool = False) -> None:
    """Makes decompositions, several at once, the longest first, and leaves them on disk; one by one on a GPU.

    Args:
        calls: Arguments of `decomposed` for each.
        workers: Processes; None for one per core.
        progress: Show bars on standard error.
    """
    longest = sorted(calls, key=lambda call: -_work(call["run"]))
    alone = any(call["device"] != "cpu" for call in calls)
    run_jobs(_make, [{**call, "progress": progress} for call in longest], 1 if alone else workers)


def _work(run: APDRun) -> int:
    """Returns a number that grows with how long a run takes."""
    config, n_in = run.config, 1 if run.target is None else run.target.n_features * run.target.n_hidden
    return config.steps * config.n_components * config.n_terms * n_in * len(run.seeds)


def _make(**call: object) -> None:
    """Decomposes and leaves the result on disk."""
    decomposed(**call)
