"""How chapter 9 takes targets apart: settings, the stacks of decompositions they stand for, and shorter ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ..training import Run
from .apd_chapter import APDJob
from .apd_runs import APDRun
from .comparison_subjects import OF_APD, Subject, kept, subject
from .comparison_tuning import Candidate
from .studies import Variant


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How the targets of one kind are taken apart."""

    seeds: tuple[int, ...]
    """Of the targets; those that do not do what they are for are left out."""
    l3d: Variant
    """Settings of L3D."""
    n_inputs: int
    """What L3D decomposes on."""
    stored: str
    """What APD's decompositions are called on disk; chapter 7 has some of them too."""
    apd: tuple[APDRun, ...]
    """Decompositions of APD, whose seeds together are those of the targets or more."""
    apd_again: tuple[APDRun, ...]
    """Decompositions of the first targets anew."""


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What chapter 9 compares."""

    targets: Mapping[str, Compared]
    """By name, see `comparison_subjects.NAMES`."""
    candidates: Mapping[str, Candidate]
    """What settings were chosen from, by name."""
    n_held_out: int = 1000
    """Samples on which everything is measured."""
    cost_steps: int = 200
    """Steps of APD from which the time of all is taken."""
    apart: bool = True
    """Take costs in processes of their own, whose start takes seconds each."""


class L3DJob(NamedTuple):
    """L3D's decompositions of the targets of one kind, for `studies.fit_job` to begin again."""

    name: str
    own: Compared

    def runs(self, device: str = "cpu") -> list[Run]:
        """Returns the runs, one for each kept target; on the CPU only."""
        return l3d_runs(subjects(self.name, self.own.seeds), self.own)


def jobs(settings: ComparisonSettings) -> dict[str, L3DJob | APDJob]:
    """Returns the chapter's stacks of decompositions by name, but those that chapter 7 has too."""
    found: dict[str, L3DJob | APDJob] = {}
    for name, own in settings.targets.items():
        found[f"L3D, {name}"] = L3DJob(name, own)
        if name not in OF_APD:
            found |= {f"APD, {name}, {i}": APDJob(run) for i, run in enumerate(own.apd)}
    return found


def subjects(name: str, seeds: Sequence[int], folder: Path | None = None) -> list[Subject]:
    """Returns those targets of one kind that do what they are for."""
    return [one for one in (subject(name, seed, folder) for seed in seeds) if kept(one)]


def l3d_runs(targets: list[Subject], own: Compared, offset: int = 0) -> list[Run]:
    """Returns L3D's runs on some targets, with the weight matrices that APD decomposes too.

    Args:
        targets: The targets.
        own: Gives the settings.
        offset: Added to the targets' seeds to seed the decompositions and their inputs.
    """
    return [
        Run(one.module, one.draw(own.n_inputs, seed=one.seed + offset), own.l3d.config, own.l3d.divergence,
            seed=one.seed + offset, parameters=one.parameters)
        for one in targets
    ]  # fmt: skip


def shortened(own: Compared, steps: int, epochs: int, n_seeds: int, n_inputs: int) -> Compared:
    """Returns the quick preset of one kind of target."""
    seeds = own.seeds[:n_seeds]

    def few(runs: tuple[APDRun, ...]) -> tuple[APDRun, ...]:
        """Returns those of the seeds, with few steps."""
        short = [replace(run, config=replace(run.config, steps=steps, batch_size=256)) for run in runs]
        short = [replace(run, seeds=tuple(s for s in run.seeds if s in seeds)) for run in short]
        return tuple(run for run in short if run.seeds)

    l3d = own.l3d._replace(config=replace(own.l3d.config, epochs=epochs))
    return replace(own, seeds=seeds, l3d=l3d, n_inputs=n_inputs, apd=few(own.apd), apd_again=few(own.apd_again))
