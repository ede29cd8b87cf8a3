"""Chapters 5 and 6: what they compute of a real model, its decompositions first and then what these act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts
from ..baselines.evaluation import Directions, reconstruction_errors
from ..baselines.principal import principal_directions
from ..baselines.random_directions import random_directions
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients, side_by_side
from ..intervention import top_samples
from ..l3d import L3DConfig
from ..parallel import run_jobs
from ..runs import Run
from .circuits import coherence, impacts, random_sets
from .meaning import matched_steps, sameness, step_selectivity
from .real_models import DIVERGENCE, Decomposed, Language, Planned, Subject, Vision, decomposed, run

# Inputs whose gradients are formed at once.
CHUNK = 32


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
    n_top: int = 5
    """Most affected samples shown of each subnetwork (the authors' code: 5 texts, 10 images)."""
    n_references: int = 10
    """References that impacts are averaged over (App. B.4: 10)."""
    n_random: int = 8
    """Sets of random directions to compare with."""
    n_principal: int = 2048
    """Samples of which principal directions are taken."""
    n_moved: int = 300
    """Held-out inputs on which steps are compared."""
    change: float = 0.01
    """Mean KL divergence, in nats, that every step causes."""
    share: float = 0.01
    """Of samples that count as most affected by a step."""


class RealResult(NamedTuple):
    """Everything a chapter on a real model shows.

    Attributes:
        settings: Its settings.
        subject: The model and its data.
        runs: Decompositions by name.
        candidates: Those that `tuned` was chosen from.
        measures: By '<set of directions>/<measure>'; sets are the decompositions, 'random 0' and on, 'principal'.
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

    def with_changes(planned: Mapping[str, Planned]) -> dict[str, Planned]:
        return {name: one._replace(config=replace(one.config, **config)) for name, one in planned.items()}

    source = replace(settings.source, **other)
    tried = min(settings.n_candidate, source.n // 2)
    both = {"runs": with_changes(settings.runs), "candidates": with_changes(settings.candidates)}
    return replace(settings, source=source, n_candidate=tried, **both)


def jobs(settings: RealSettings) -> dict[str, RealJob]:
    """Returns a chapter's decompositions by name."""
    return {name: RealJob(settings.source, planned) for name, planned in settings.runs.items()}


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
    folder = artifacts.project_root() / "artifacts" if folder is None else folder
    options = {"folder": folder, "device": device, "workers": workers, "progress": progress}
    done = run(settings.chapter, settings.source, settings.runs, **options)
    candidates = tried(settings, **options)
    subject = settings.source.load(device)
    sets = {name: (one.l3d.v_in.matrix(), one.l3d.v_out.matrix()) for name, one in done.items()}
    key = {
        "labels": {kind: artifacts.tensor_digest([of]) for kind, of in labels.items()},
        "groups": None if groups is None else artifacts.tensor_digest([groups]),
        "directions": {name: artifacts.tensor_digest(pair) for name, pair in sets.items()},
        "data": artifacts.tensor_digest([subject.inputs, subject.held_out]),
        "settings": {name: value for name, value in vars(settings).items() if name.startswith("n_")}
        | {"change": settings.change, "share": settings.share, "parameters": settings.source.parameters},
        "torch": torch.__version__,
        "code": artifacts.code_digest(["real_chapter", "circuits", "meaning", "principal", "random_directions"]),
    }  # fmt: skip

    def measured(_: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return measure(settings, subject, done, labels, groups), {}

    measures, _, facts = artifacts.cached(folder, f"{settings.chapter}-measures", key, measured, device)
    return RealResult(settings, subject, done, candidates, measures, facts)


def tried(
    settings: RealSettings, *, folder: str | Path, device: str, workers: int | None, progress: bool
) -> dict[str, Decomposed]:
    """Returns the candidates, decomposed on the first inputs and judged on the ones behind them."""
    common = {"settings": settings, "folder": folder, "device": device}
    calls = [{"name": name, **common} for name in settings.candidates]
    run_jobs(_try, [{**call, "progress": progress} for call in calls], workers if device == "cpu" else 1)
    return {name: _tried(**call) for name, call in zip(settings.candidates, calls, strict=True)}


def _try(**call: Any) -> None:  # noqa: ANN401
    """Decomposes a candidate and leaves it on disk."""
    _tried(**call)


def _tried(settings: RealSettings, name: str, *, folder: str | Path, device: str, progress: bool = False) -> Decomposed:
    """Returns one candidate, from disk if it is there; no sample that the chapter judges by takes part."""
    whole, n = settings.source.load(device), settings.n_candidate
    few = whole._replace(inputs=whole.inputs[:n], held_out=whole.inputs[n : 2 * n])
    at = f"{settings.chapter}-tried-{name.replace(' ', '-').replace('/', '-').replace(',', '')}"
    options = {"folder": folder, "device": device, "progress": progress}
    return decomposed(at, replace(settings.source, n=n), settings.candidates[name], subject=few, **options)


def measure(
    settings: RealSettings, subject: Subject, done: Mapping[str, Decomposed], labels: Mapping[str, Tensor],
    groups: Tensor | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns what the directions of all sets act on, and how that compares; keys as in `RealResult.measures`."""
    parameters, config = settings.source.parameters, next(iter(done.values())).l3d.config
    few = subject.inputs[torch.randperm(len(subject.inputs), generator=torch.Generator().manual_seed(0))]
    g = _gradients(subject, few[: settings.n_principal // _positions(subject)], parameters)
    held_out = _gradients(subject, subject.held_out[: settings.n_moved], parameters)
    sets = {name: Directions(one.l3d.v_in.matrix(), one.l3d.v_out.matrix()) for name, one in done.items()}
    sets |= {f"random {i}": random_directions(g, config.n_v, seed=i) for i in range(settings.n_random)}
    sets["principal"] = principal_directions(g, config.n_v)
    encoders = torch.cat([pair.v_in for pair in sets.values()])
    options = {"n_references": settings.n_references, "chunk_size": CHUNK}
    found = impacts(subject.model, subject.held_out, encoders, resolve_divergence(DIVERGENCE), parameters, **options)
    sizes = [len(pair.v_in) for pair in sets.values()]
    absolute = dict(zip(sets, found.absolute.split(sizes, 1), strict=True))
    signed = dict(zip(sets, found.signed.split(sizes, 1), strict=True))
    measures = _coherences(settings, {"": absolute, " signed": signed}, labels, groups)
    for name, pair in sets.items():
        errors = reconstruction_errors(pair, held_out, _samples(config, subject))
        measures |= {f"{name}/top_k": errors.top_k, f"{name}/dense": errors.dense}
        if name in done or name in ("random 0", "principal"):
            measures |= _moved(settings, subject, name, pair.v_out, absolute[name])
    return {key: t.cpu().contiguous() for key, t in (measures | _agreements(done, sets, absolute)).items()}


def _samples(config: Any, subject: Subject) -> Any:  # noqa: ANN401
    """Returns settings whose batch is counted in samples, as gradients are."""
    return replace(config, batch_size=config.batch_size * _positions(subject))


def _positions(subject: Subject) -> int:
    return len(subject.labels) // len(subject.held_out)


def _gradients(subject: Subject, inputs: Tensor, parameters: str) -> Tensor:
    found = divergence_gradients(subject.model, inputs, DIVERGENCE, parameters=parameters, chunk_size=CHUNK)
    return side_by_side(found)


def _coherences(
    settings: RealSettings, kinds: Mapping[str, Mapping[str, Tensor]], labels: Mapping[str, Tensor],
    groups: Tensor | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns each set's top samples and how alike they are, by absolute and by signed impact."""
    found = {}
    for kind, scores in kinds.items():
        for name, impact in scores.items():
            top = top_samples(impact, settings.n_top, groups=groups)
            found[f"{name}/top{kind}"] = top
            found |= {f"{name}/{label}{kind}": coherence(top, of) for label, of in labels.items()}
    one = next(iter(kinds[""].values()))
    return found | {f"samples/{label}": random_sets(one, of, settings.n_top) for label, of in labels.items()}


def _moved(settings: RealSettings, subject: Subject, name: str, v_out: Tensor, impact: Tensor) -> dict[str, Tensor]:
    """Returns lengths of matched steps and their selectivity for the samples their direction affects most."""
    inputs = subject.held_out[: settings.n_moved]
    moved = matched_steps(subject.model, inputs, v_out, settings.source.parameters, settings.change)
    selective = step_selectivity(moved.divergence, impact[: moved.divergence.shape[1]], settings.share)
    return {f"{name}/length": moved.lengths, f"{name}/selectivity": selective}


def _agreements(
    done: Mapping[str, Decomposed], sets: Mapping[str, Directions], impact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns how far every set agrees with `text` of the first seed, in directions and responses `[2]`."""
    first, found = next(iter(done)), {}
    alive = {name: one.l3d.live.cpu() for name, one in done.items()}
    for name, pair in sets.items():
        if name == first:
            continue
        other = alive.get(name, torch.ones(len(pair.v_out), dtype=torch.bool))
        args = (sets[first].v_out[alive[first]], pair.v_out[other])
        same = sameness(*args, impact[first][:, alive[first]], impact[name][:, other])
        found[f"{name}/agreement"] = torch.stack([same.direction, same.response.to(same.direction)])
    return found
