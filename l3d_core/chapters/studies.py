"""What all chapters do: decompose targets with several variants, measure each, and keep the measures on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts, toys
from ..l3d import L3DConfig
from ..parallel import run_jobs
from ..runs import Run
from ..training import L3D, fit


class Variant(NamedTuple):
    """One way to decompose.

    Attributes:
        config: The settings.
        divergence: Its name.
        n_inputs: How many of the target's inputs are used, the first ones; None for all.
        seed_offset: Added to the target's seed to seed the decomposition.
    """

    config: L3DConfig
    divergence: str
    n_inputs: int | None = None
    seed_offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stack of decompositions: every variant on every kept target."""

    toy: str
    """'superposition', 'circuit_superposition', 'high_rank', 'squared' or 'squared_elu'."""
    size: tuple[int, int]
    """Features and hidden dimensions."""
    seeds: tuple[int, ...]
    """Targets to consider; those that are not kept are left out and counted."""
    variants: dict[str, Variant]
    """By name."""
    epochs: int
    """Of every decomposition."""
    measure: Callable[[L3D, toys.Task], dict[str, Tensor]]
    """What is kept of each: tensors by name. A function of a module, or a partial of one."""

    def tasks(self) -> list[toys.Task]:
        """Returns the kept targets.

        Raises:
            ValueError: None is kept.
        """
        trained = toys.shipped(self.toy, *self.size)
        kept = [task for task in map(trained.task, self.seeds) if task.kept]
        if not kept:
            raise ValueError(f"no target of {list(self.seeds)} of {trained.config.name} is kept; give more seeds.")
        return kept

    def runs(self, device: str = "cpu") -> list[Run]:
        """Returns the runs, variant by variant and target by target."""
        tasks = self.tasks()
        models, inputs = [t.model.to(device) for t in tasks], [t.inputs.to(device) for t in tasks]
        shortened: dict[tuple, Tensor] = {}  # Runs share their gradients only if their inputs are one tensor.
        found = []
        for variant in self.variants.values():
            config = replace(variant.config, epochs=self.epochs)
            for i, task in enumerate(tasks):
                x = shortened.setdefault((i, variant.n_inputs), inputs[i][: variant.n_inputs])
                seed = task.seed + variant.seed_offset
                found.append(Run(models[i], x, config, variant.divergence, seed=seed))
        return found


@dataclass(frozen=True)
class Study:
    """The measures of one job.

    Attributes:
        tensors: By '<variant>/<measure>', targets first.
        names: The variants.
        seeds: The kept targets.
        n_trained: Targets considered.
        facts: Provenance and seconds.
    """

    tensors: dict[str, Tensor]
    names: list[str]
    seeds: list[int]
    n_trained: int
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, key: str, name: str) -> Tensor:
        """Returns a measure of one variant, targets first."""
        return self.tensors[f"{name}/{key}"]

    def all(self, name: str) -> dict[str, Tensor]:
        """Returns every measure of one variant."""
        start = f"{name}/"
        return {key.removeprefix(start): t for key, t in self.tensors.items() if key.startswith(start)}

    def part(self, names: Mapping[str, str], seeds: Sequence[int] | None = None) -> Study:
        """Returns some variants under new names, on all targets or some."""
        columns = [i for i, seed in enumerate(self.seeds) if seeds is None or seed in seeds]
        tensors = {f"{new}/{key}": t[columns] for name, new in names.items() for key, t in self.all(name).items()}
        return replace(self, tensors=tensors, names=list(names.values()), seeds=[self.seeds[i] for i in columns])

    def beside(self, other: Study) -> Study:
        """Returns two studies of the same targets as one, their variants one after the other; else a ValueError."""
        if self.seeds != other.seeds:
            raise ValueError(f"targets {self.seeds} and {other.seeds}; expected the same ones.")
        return replace(self, tensors=self.tensors | other.tensors, names=[*self.names, *other.names])


def _stackable(runs: list[Run]) -> list[list[int]]:
    """Returns which runs stand in one stack: those of one rank, since the highest sets what all of a stack cost."""
    groups: dict[tuple, list[int]] = {}
    for i, run in enumerate(runs):
        config = run.config
        key = (len(run.inputs), config.n_v, config.batch_size, config.form, str(config.rank))
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def fit_job(job: Job, device: str = "cpu", folder: Path | None = None, progress: str = "", **options: Any) -> list[L3D]:
    """Returns a job's decompositions in the order of its runs, stacked as far as their shapes allow.

    Args:
        job: The job.
        device: 'cpu' or 'cuda'.
        folder: Where checkpoints lie, None for none.
        progress: A name for the bar, none if empty.
        options: Further ones of `training.fit`.
    """
    runs = job.runs(device)
    found: list[L3D | None] = [None] * len(runs)
    for number, members in enumerate(_stackable(runs)):
        path = None if folder is None else folder / f"checkpoint_{number}.safetensors"
        bar = f"{progress}, {len(members)} runs" if progress else False
        part = fit([runs[i] for i in members], checkpoint=path, checkpoint_seconds=15, progress=bar, **options)
        for i, l3d in zip(members, part, strict=True):
            found[i] = l3d
    return found


def study(name: str, job: Job, folder: str | Path, device: str = "cpu", progress: bool = False) -> Study:
    """Returns a job's measures from disk, or computes them, resuming where it stopped.

    Args:
        name: What to call it on disk.
        job: What to decompose and measure.
        folder: Where results lie.
        device: 'cpu' or 'cuda'.
        progress: Show bars on standard error.

    Raises:
        ValueError: No target is kept, or see `training.fit`.
    """
    tasks = job.tasks()
    config = {
        "toy": job.toy, "size": job.size, "seeds": list(job.seeds), "kept": [task.seed for task in tasks],
        "epochs": job.epochs, "code": artifacts.code_digest(["studies", _module(job.measure)]),
        "torch": torch.__version__,
        "variants": [[key, config_facts(v.config), *v[1:]] for key, v in job.variants.items()],
        "measure": described(job.measure),
        "data": artifacts.tensor_digest([t for task in tasks for t in (task.inputs, *task.model.parameters())]),
    }  # fmt: skip

    def compute(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = fit_job(job, device, scratch, name if progress else "")
        per_run = [job.measure(l3d, tasks[i % len(tasks)]) for i, l3d in enumerate(found)]
        tensors = {}
        for v, variant in enumerate(job.variants):
            own = per_run[v * len(tasks) : (v + 1) * len(tasks)]
            tensors |= {f"{variant}/{key}": torch.stack([facts[key] for facts in own]).cpu() for key in own[0]}
        return tensors, {}

    tensors, _, facts = artifacts.cached(folder, name, config, compute, device)
    return Study(tensors, list(job.variants), config["kept"], len(job.seeds), facts)


def config_facts(config: L3DConfig) -> dict[str, Any]:
    """Returns settings to tell results apart by: the patterns of a rank as a list, since the first match counts."""
    facts = asdict(config)
    return facts | {"rank": list(config.rank.items())} if isinstance(config.rank, Mapping) else facts


def described(function: Callable) -> list:
    """Returns a function's name and, of a partial, its arguments, to tell results apart by."""
    if isinstance(function, partial):
        return [*described(function.func), repr(function.args), repr(sorted(function.keywords.items()))]
    return [f"{function.__module__}.{function.__qualname__}"]


def _module(function: Callable) -> str:
    """Returns the last part of the name of the module that a function, or that of a partial, stands in."""
    return (function.func if isinstance(function, partial) else function).__module__.split(".")[-1]


def run_studies(
    chapter: str, jobs: Mapping[str, Job], *, folder: str | Path | None = None, device: str = "cpu",
    workers: int | None = None, progress: bool = False,
) -> dict[str, Study]:  # fmt: skip
    """Returns the studies of a chapter by name, each from disk where it is done, several side by side.

    Args:
        chapter: First part of their names on disk.
        jobs: By name, the longest first.
        folder: Where results lie; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Studies run side by side; None for one per core on the CPU, and one on a GPU.
        progress: Show bars on standard error.

    Raises:
        ValueError: See `study`.
    """
    folder = artifacts.project_root() / "artifacts" if folder is None else folder
    common = {"folder": folder, "device": device, "progress": progress}
    calls = [{"name": f"{chapter}-{name}", "job": job, **common} for name, job in jobs.items()]
    return dict(zip(jobs, run_jobs(study, calls, workers if device == "cpu" else 1), strict=True))


def made_by(studies: Mapping[str, Study], main: Study) -> dict[str, Any]:
    """Returns the provenance of a chapter's record: that of its main study, and the core-seconds of every one."""
    facts = {name: value for name, value in main.facts.items() if name not in ("wall_seconds", "core_seconds")}
    seconds = {name: found.facts["core_seconds"] for name, found in studies.items()}
    return {**facts, "core_seconds": round(sum(seconds.values()), 1), "seconds": seconds}


def first_losses(studies: Mapping[str, Study]) -> dict[str, list]:
    """Returns the first losses of every run to seven digits, by study: variants, targets, steps."""
    return {
        name: [
            [[float(f"{x:.7g}") for x in row] for row in found.of("first_losses", variant).tolist()]
            for variant in found.names
        ]
        for name, found in studies.items()
    }
