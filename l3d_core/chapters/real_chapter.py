"""Chapters 5 and 6: what they compute of a real model, its decompositions first and then what these act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts
from ..l3d import L3DConfig
from ..parallel import run_jobs
from ..runs import Run
from .real_measures import Measuring, measure
from .real_models import DIVERGENCE, Decomposed, Language, Planned, Subject, Vision, decomposed, run, with_settings

# Modules that measures come from.
MEASURED_BY = ("real_measures", "circuits", "meaning", "principal", "random_directions", "evaluation")


@dataclass(frozen=True, kw_only=True)
class RealSettings:
    """What a chapter on a real model computes."""

    chapter: str
    """First part of the names of its results on disk."""
    source: Language | Vision
    """What is decomposed."""
    runs: dict[str, Planned]
    """Its decompositions by name, the longest first: `text`, `code`, `tuned`, and `text` again with other seeds."""
    candidates: dict[str, Planned] = field(default_factory=dict)
    """What `tuned` was chosen from."""
    n_candidate: int = 2000
    """Inputs that each of them is decomposed on."""
    measuring: Measuring = Measuring()
    """How what they act on is measured."""


class RealResult(NamedTuple):
    """Everything a chapter on a real model shows.

    Attributes:
        settings: Its settings.
        subject: The model and its data.
        runs: Decompositions by name.
        candidates: Those that `tuned` was chosen from.
        measures: By '<set of directions>/<measure>', see `real_measures.measure`.
        facts: Provenance and seconds of the measures.
    """

    settings: RealSettings
    subject: Subject
    runs: dict[str, Decomposed]
    candidates: dict[str, Decomposed]
    measures: dict[str, Tensor]
    facts: dict[str, Any]

    def of(self, key: str, name: str) -> Tensor:
        """Returns a measure of one set of directions."""
        return self.measures[f"{name}/{key}"]


class RealJob(NamedTuple):
    """One decomposition of a chapter, for `studies.fit_job` to begin again.

    Attributes:
        source: What is decomposed.
        planned: Settings and seed.
    """

    source: Language | Vision
    planned: Planned

    def runs(self, device: str = "cpu") -> list[Run]:
        """Returns its one run; errors are those of `Language.load`."""
        subject, planned = _loaded(self.source, device), self.planned
        args = (subject.model, subject.inputs, planned.config, DIVERGENCE, planned.seed, self.source.parameters)
        return [Run(*args)]


@lru_cache(maxsize=1)
def _loaded(source: Language | Vision, device: str) -> Subject:
    """Returns what a source loads; several jobs and candidates of one source load it once."""
    return source.load(device)


def changed(settings: RealSettings, **changes: Any) -> RealSettings:  # noqa: ANN401
    """Returns settings for another model, other data or other decompositions.

    Args:
        settings: The chapter's.
        changes: Fields of its source, such as 'model_id', 'data_id', 'network', 'parameters' or 'n', and fields of
            `L3DConfig`, such as 'n_v', 'rank' or 'epochs', for every decomposition; those that are None stay as they
            are. With another model or other parameters ranks are a tenth of each axis, unless they are given.

    Raises:
        ValueError: A field that neither has, or a value that `L3DConfig` refuses.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    own, shared = ({f.name for f in fields(kind)} for kind in (settings.source, L3DConfig))
    unknown = sorted(given.keys() - own - shared)
    if unknown:
        raise ValueError(f"{unknown[0]!r} cannot be changed; expected one of {sorted(own)} or {sorted(shared)}.")
    other = {name: value for name, value in given.items() if name in own}
    config = {name: value for name, value in given.items() if name in shared}
    if other.keys() & {"model_id", "network", "parameters"}:
        config = {"rank": 0.1} | config

    if "weights" in other and Path(other["weights"]).suffix:
        other["weights"] = Path(other["weights"])
    source, measuring = replace(settings.source, **other), settings.measuring
    n_v = config.get("n_v", 1)
    return replace(
        settings, source=source, runs=with_settings(settings.runs, **config),
        candidates=with_settings(settings.candidates, **config),
        n_candidate=min(settings.n_candidate, source.n),
        measuring=replace(measuring, n_principal=max(measuring.n_principal, 2 * n_v)),
    )  # fmt: skip


def jobs(settings: RealSettings) -> dict[str, RealJob]:
    """Returns a chapter's decompositions by name."""
    return {name: RealJob(settings.source, planned) for name, planned in settings.runs.items()}


def kinds(jobs: Mapping[str, Any]) -> list[str]:
    """Returns the names of jobs, of those on a real model the first of each kind alone.

    Two that differ in the seed and the number of epochs begin with the same kind of steps, and each needs half a minute
    before its first one.

    Args:
        jobs: Jobs of any chapter by name.
    """
    found: dict[str, str] = {}
    for name, job in jobs.items():
        alike = repr((job.source, replace(job.planned.config, epochs=1))) if isinstance(job, RealJob) else name
        found.setdefault(alike, name)
    return list(found.values())


def compute(
    settings: RealSettings, labels: Mapping[str, Tensor], groups: Tensor | None = None,
    *, folder: str | Path | None = None, device: str = "cpu", workers: int | None = None, progress: bool = False,
) -> RealResult:  # fmt: skip
    """Returns a chapter's results, each part from disk where it is done.

    Args:
        settings: See `experiments.settings`.
        labels: By kind, what each held-out sample is, whole numbers `[n_s]`.
        groups: Text or image that each held-out sample is part of `[n_s]`; None if each stands for itself.
        folder: Where results lie; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Decompositions side by side; None for one per core on the CPU, and one on a GPU.
        progress: Show bars on standard error.

    Raises:
        OSError: The model or the data cannot be had; see `real_models.decomposed`.
    """
    folder = artifacts.results_folder(folder)
    options = {"folder": folder, "device": device, "workers": workers, "progress": progress}
    done = run(settings.chapter, settings.source, settings.runs, **options)
    candidates = tried(settings, **options)
    subject = _loaded(settings.source, device)
    sets = {name: (one.l3d.v_in.matrix(), one.l3d.v_out.matrix()) for name, one in done.items()}
    key = {
        "labels": {kind: artifacts.tensor_digest([of]) for kind, of in labels.items()},
        "groups": None if groups is None else artifacts.tensor_digest([groups]),
        "directions": {name: artifacts.tensor_digest(pair) for name, pair in sets.items()},
        "data": artifacts.tensor_digest([subject.inputs, subject.held_out]),
        "settings": asdict(settings.measuring) | {"parameters": settings.source.parameters},
        "torch": torch.__version__, "code": artifacts.code_digest(MEASURED_BY),
    }  # fmt: skip

    def measured(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        what = (settings.measuring, settings.source.parameters, subject, done, labels, groups)
        return measure(*what, scratch, progress=progress), {}

    measures, _, facts = artifacts.cached(folder, f"{settings.chapter}-measures", key, measured, device)
    return RealResult(settings, subject, done, candidates, measures, facts)


def tried(
    settings: RealSettings, *, folder: str | Path, device: str, workers: int | None, progress: bool
) -> dict[str, Decomposed]:
    """Returns the candidates, decomposed on the first inputs and judged on held-out ones that nothing else is."""
    common = {"settings": settings, "folder": folder, "device": device}
    calls = [{"name": name, **common} for name in settings.candidates]
    run_jobs(_try, [{**call, "progress": progress} for call in calls], workers if device == "cpu" else 1)
    return {name: _tried(**call) for name, call in zip(settings.candidates, calls, strict=True)}


def _try(**call: Any) -> None:  # noqa: ANN401
    """Decomposes a candidate and leaves it on disk."""
    _tried(**call)


def _tried(settings: RealSettings, name: str, *, folder: str | Path, device: str, progress: bool = False) -> Decomposed:
    """Returns one candidate, from disk if it is there; no sample that the chapter judges by takes part."""
    n, judged = settings.n_candidate, settings.source.n_held_out
    whole = _loaded(replace(settings.source, n_held_out=2 * judged), device)
    few = whole._replace(inputs=whole.inputs[:n], held_out=whole.held_out[judged:])
    at = f"{settings.chapter}-tried-{name.replace(' ', '-').replace('/', '-').replace(',', '')}"
    options = {"folder": folder, "device": device, "progress": progress}
    return decomposed(at, replace(settings.source, n=n), settings.candidates[name], subject=few, **options)
