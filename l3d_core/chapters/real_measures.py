"""What directions in a real model's parameters act on and rebuild: those of its decompositions, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..baselines.evaluation import Directions
from ..baselines.principal import principal_directions
from ..baselines.random_directions import random_directions
from ..checkpoints import write_whole
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients, side_by_side
from ..intervention import top_samples
from ..l3d import L3DConfig, reconstruct
from .circuits import coherence, impacts, random_sets
from .meaning import matched_steps, sameness, step_selectivity
from .own_model_measures import at_start
from .real_models import DIVERGENCE, Decomposed, Subject

# Inputs whose gradients are formed at once, and most numbers of gradients that principal directions are taken of.
CHUNK, GRADIENT_NUMBERS = 32, 2**30


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How what directions act on is measured."""

    n_top: int = 5
    """Most affected samples of each direction (the authors' code: 5 texts, 10 images)."""
    n_references: int = 10
    """References that impacts are averaged over (App. B.4: 10)."""
    n_random: int = 8
    """Sets of random directions, and of random rotations of the principal ones, to compare with."""
    n_principal: int = 4096
    """Samples whose gradients' principal directions are taken."""
    n_moved: int = 300
    """Held-out inputs on which errors and steps of all sets are compared."""
    change: float = 0.01
    """Mean KL divergence, in nats, that every step causes."""
    share: float = 0.01
    """Of samples that count as most affected by a step."""


def measure(
    measuring: Measuring, parameters: str, subject: Subject, done: Mapping[str, Decomposed],
    labels: Mapping[str, Tensor], groups: Tensor | None, scratch: Path, *, progress: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns what the directions of all sets act on, by '<set>/<measure>'.

    Sets are the decompositions by name; 'untrained', what the first of them started from; 'random 0' and on;
    'principal', the principal directions of training gradients; and 'rotated 0' and on, random rotations of these
    within their span. Measures of all sets: 'top' (samples of largest impact `[n_v, n_top]`) and the coherence of each
    kind of label `[n_v]`, also with ' signed' behind; of all but the repeated ones: 'top_k', 'dense' and 'span' (errors
    on held-out samples), 'length', 'selectivity' and 'crossed' `[n_v]` (of matched steps), 'agreement' `[3]`.

    Args:
        measuring: How.
        parameters: Name patterns.
        subject: The model and its data.
        done: Its decompositions.
        labels: By kind, what each held-out sample is `[n_s]`.
        groups: Text or image that each is part of `[n_s]`; None if each stands for itself.
        scratch: Folder for the parts that are done, which a later call with the same arguments goes on from.
        progress: Show bars on standard error.
    """
    sets = direction_sets(measuring, parameters, subject, done)
    once = {name: pair for name, pair in sets.items() if name.split(" ")[-1] in ("0", name)}
    acting = partial(_acted_on, measuring, parameters, subject, sets, set(once), labels, groups, progress)
    acted = _resumed(scratch / "acted", acting)
    impact = {name: acted.pop(f"{name}/impact") for name in once}
    config = next(iter(done.values())).l3d.config
    configs = {name: done[name].l3d.config if name in done else config for name in once}
    measures = acted | _resumed(scratch / "errors", lambda: _errors(measuring, parameters, subject, once, configs))
    for name, pair in once.items():
        moved = partial(_moved, measuring, parameters, subject, name, pair.v_out, impact[name], progress)
        measures |= _resumed(scratch / f"moved {name}", moved)
    return measures | {key: t.contiguous() for key, t in _agreements(done, once, impact).items()}


def _resumed(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns what was computed before, or computes it and leaves it on disk; on the CPU."""
    if not path.exists():
        found = {key: t.cpu().contiguous() for key, t in compute().items()}
        write_whole(path, lambda part: save_file(found, part))
    return load_file(path)


def _acted_on(
    measuring: Measuring, parameters: str, subject: Subject, sets: Mapping[str, Directions],
    once: Collection[str], labels: Mapping[str, Tensor], groups: Tensor | None, progress: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns each set's top samples and coherence, and impacts `[n_s, n_v]` of those that are not repeated."""
    encoders, sizes = torch.cat([pair.v_in for pair in sets.values()]), [len(pair.v_in) for pair in sets.values()]
    options = {"n_references": measuring.n_references, "chunk_size": CHUNK, "progress": progress}
    found = impacts(subject.model, subject.held_out, encoders, resolve_divergence(DIVERGENCE), parameters, **options)
    absolute, signed = (dict(zip(sets, part.split(sizes, 1), strict=True)) for part in found)
    measures = _coherences(measuring, {"": absolute, " signed": signed}, labels, groups)
    return measures | {f"{name}/impact": each for name, each in absolute.items() if name in once}


def direction_sets(
    measuring: Measuring, parameters: str, subject: Subject, done: Mapping[str, Decomposed]
) -> dict[str, Directions]:
    """Returns all sets of directions by name, see `measure`."""
    first = next(iter(done.values())).l3d
    start = at_start(first, subject.inputs[: first.config.batch_size])  # Which inputs does not matter.
    trained = {name: one.l3d for name, one in done.items()} | {"untrained": start}
    sets = {name: Directions(l3d.v_in.matrix(), l3d.v_out.matrix()) for name, l3d in trained.items()}
    n_w, n_v = sets["untrained"].v_out.shape[1], first.config.n_v
    most = min(measuring.n_principal, GRADIENT_NUMBERS // n_w)
    order = torch.randperm(len(subject.inputs), generator=torch.Generator().manual_seed(0))
    few = subject.inputs[order[: max(1, most // _positions(subject))].to(subject.inputs.device)]
    g = _gradients(subject, few, parameters)
    principal = sets["principal"] = principal_directions(g, n_v)
    for i in range(measuring.n_random):
        sets[f"random {i}"] = random_directions(g, n_v, seed=i)
        drawn = torch.randn(n_v, n_v, generator=torch.Generator().manual_seed(i))
        rotated = torch.linalg.qr(drawn).Q.to(g) @ principal.v_out
        sets[f"rotated {i}"] = Directions(rotated, rotated)
    return sets


def _positions(subject: Subject) -> int:
    return len(subject.labels) // len(subject.held_out)


def _gradients(subject: Subject, inputs: Tensor, parameters: str, seed: int = 0) -> Tensor:
    options = {"parameters": parameters, "chunk_size": CHUNK, "seed": seed}
    return side_by_side(divergence_gradients(subject.model, inputs, DIVERGENCE, **options))


def _coherences(
    measuring: Measuring, kinds: Mapping[str, Mapping[str, Tensor]], labels: Mapping[str, Tensor],
    groups: Tensor | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns each set's top samples and how alike they are, by absolute and by signed impact."""
    found = {}
    for kind, scores in kinds.items():
        for name, impact in scores.items():
            top = top_samples(impact, measuring.n_top, groups=groups)
            found[f"{name}/top{kind}"] = top
            found |= {f"{name}/{label}{kind}": coherence(top, of) for label, of in labels.items()}
    one = next(iter(kinds[""].values()))
    return found | {f"samples/{label}": random_sets(one, of, measuring.n_top) for label, of in labels.items()}


def _errors(
    measuring: Measuring, parameters: str, subject: Subject, sets: Mapping[str, Directions],
    configs: Mapping[str, L3DConfig],
) -> dict[str, Tensor]:  # fmt: skip
    """Returns what sets leave of held-out gradients, mean over batches: with top-k, all coefficients, the best ones.

    The best coefficients are those of the projection on the span of V_out: what no choice of V_in can improve on.
    """
    size = next(iter(configs.values())).batch_size
    batches = [x for x in subject.held_out[: measuring.n_moved].split(size) if len(x) == size]
    spans = {name: torch.linalg.qr(pair.v_out.mT).Q for name, pair in sets.items()}
    found: dict[str, list[Tensor]] = {}
    for i, x in enumerate(batches):
        g = _gradients(subject, x, parameters, seed=i)
        for name, pair in sets.items():
            kept = configs[name].k_count(len(g))
            errors = {kind: reconstruct(g, *pair, kept, kind == "dense").recon_sq for kind in ("top_k", "dense")}
            errors["span"] = 1 - (g @ spans[name]).square().sum() / g.square().sum()
            for kind, error in errors.items():
                found.setdefault(f"{name}/{kind}", []).append(error)
    return {key: torch.stack(errors).mean() for key, errors in found.items()}


def _moved(
    measuring: Measuring, parameters: str, subject: Subject, name: str, v_out: Tensor, impact: Tensor, progress: bool
) -> dict[str, Tensor]:
    """Returns lengths of matched steps, and their selectivity for the top samples of their direction or the next."""
    inputs, bar = subject.held_out[: measuring.n_moved], f"steps, {name}" if progress else None
    moved = matched_steps(subject.model, inputs, v_out, parameters, measuring.change, progress=bar)
    own = impact[: moved.divergence.shape[1]]
    return {
        f"{name}/length": moved.lengths,
        f"{name}/selectivity": step_selectivity(moved.divergence, own, measuring.share),
        f"{name}/crossed": step_selectivity(moved.divergence, own.roll(1, 1), measuring.share),
    }


def _agreements(
    done: Mapping[str, Decomposed], sets: Mapping[str, Directions], impact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns how far every set agrees with the first, and other seeds of it with one another ('seeds/agreement')."""
    alive = {name: done[name].l3d.live.cpu() if name in done else slice(None) for name in sets}

    def agree(a: str, b: str) -> Tensor:
        (one, other), kept = (sets[a].v_out[alive[a]], sets[b].v_out[alive[b]]), (alive[a], alive[b])
        same = sameness(one, other, impact[a][:, kept[0]], impact[b][:, kept[1]])
        return torch.tensor([float(same.direction), float(same.response), min(len(one), len(other))])

    first, *others = sets
    found = {f"{name}/agreement": agree(first, name) for name in others}
    for a, b in pairwise([name for name in done if name.startswith(f"{first}-")]):
        found["seeds/agreement"] = agree(a, b)
    return found
