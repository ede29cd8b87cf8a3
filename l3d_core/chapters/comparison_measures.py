"""How well the parts that a method finds are single circuits, rebuild gradients, and run the model in small numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..baselines.apd_losses import applied_active, listed
from ..baselines.apd_networks import Factors, applied
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients
from ..l3d import batch_top_k
from ..metrics import match_directions, top_share
from ..metrics import selectivity as by_output
from .comparison_parts import Parts, as_factors, attributed
from .comparison_subjects import Subject

# A circuit is covered by a part that has more than half of its squared reading of the inputs on it.
COVERED = 0.5
# What has to be reached: an output error of so much of the outputs' variance, and recon_sq.
OUTPUT_ERROR, RECON = 0.05, 0.2
# Steps along directions, as a share of the weights' length; samples at once.
STEP, CHUNK = 0.02, 250


class Found(NamedTuple):
    """How parts relate to the circuits known.

    Attributes:
        covered: Circuits covered, as a share.
        cosine: Mean abs(cos) between how each circuit's inputs are read in the model and in its part, matched one to
            one; a circuit without a part counts 0.
        purity: Mean share of a live part's largest circuit.
        circuit: That circuit, of all parts `[n_v]`.
    """

    covered: float
    cosine: float
    purity: float
    circuit: Tensor


def found_circuits(subject: Subject, parts: Parts) -> Found:
    """Returns how parts relate to the circuits known, by how they read the inputs; signs and lengths do not matter.

    Args:
        subject: The target.
        parts: What was found in it.
    """
    read = subject.readers(parts.v_out)
    top = top_share(read, subject.group_size)
    good = parts.live & (top.share > COVERED)
    whole, n = subject.readers(subject.w0)[0], subject.n_circuits
    of = torch.arange(len(whole)) // subject.group_size
    truth = torch.stack([whole * (of == i)[:, None] for i in range(n)])
    pairs = match_directions(truth.flatten(1), read[parts.live].flatten(1))
    shares = top.share[parts.live]
    covered = len(top.index[good].unique()) / n
    return Found(covered, float(pairs.cosines.sum()) / n, float(shares.mean()) if len(shares) else 0.0, top.index)


def gradients(subject: Subject, x: Tensor, divergence: str = "mse", seed: int = 0) -> Tensor:
    """Returns the gradients that L3D decomposes, of inputs `[n, n_i]`, as rows `[n, n_w]`."""
    named = divergence_gradients(
        subject.module, x, resolve_divergence(divergence), parameters=subject.parameters, seed=seed, chunk_size=CHUNK
    )
    return subject.rows(named)


class Sparsity(NamedTuple):
    """How much is left with some parts per sample in the mean.

    Attributes:
        active: Parts per sample `[n]`, ascending.
        error: What is left with so many `[n]`.
        needed: The fewest with which no more is left than asked for; NaN if none do.
        at_circuits: What is left with as many as there are active circuits.
    """

    active: Tensor
    error: Tensor
    needed: float
    at_circuits: float


class OutputSparsity(NamedTuple):
    """The same of outputs.

    Attributes:
        added: The error over the variance of what the decomposed weights add to the outputs.
        needed: The fewest parts for an error of the whole outputs' variance; a residual MLP passes its inputs on by
            itself, so that this is more lenient.
    """

    added: Sparsity
    needed: float


def _numbers(n_v: int, n_s: int) -> Tensor:
    """Returns numbers of parts per sample to try, each about a tenth more than the last from .1 on, up to all."""
    found, k = [], 0.1
    while k < n_v:
        found.append(round(k * n_s) / n_s)
        k *= 1.1
    return torch.tensor([*found, float(n_v)])


def _sparsity(active: Tensor, errors: list[float], limit: float, at_circuits: float) -> Sparsity:
    error = torch.tensor(errors, dtype=torch.float64)
    return Sparsity(active[: len(error)], error, _fewest(active, error, limit), at_circuits)


def _fewest(active: Tensor, error: Tensor, limit: float) -> float:
    enough = (error <= limit).nonzero()
    return float(active[enough[0, 0]]) if len(enough) else float("nan")


def gradient_left(parts: Parts, g: Tensor) -> Callable[[float], float]:
    """Returns what tells recon_sq of gradients `[n, n_w]` with so many coefficients kept per sample."""
    z, onto, gram = g @ parts.v_in.mT, g @ parts.v_out.mT, (parts.v_out @ parts.v_out.mT).double()
    total = g.square().sum()

    def left(k: float) -> float:
        a = (z * batch_top_k(z, max(round(k * len(g)), 1))).double()
        # |g - a V|^2 without ever forming a V.
        return float((total - 2 * (a * onto).sum() + ((a @ gram) * a).sum()) / total)

    return left


def gradient_sparsity(parts: Parts, g: Tensor, n_active: float = 1.0) -> Sparsity:
    """Returns recon_sq of gradients against how many coefficients are kept per sample (batch top-k over all).

    Args:
        parts: What was found.
        g: Gradients `[n, n_w]`.
        n_active: Active circuits per sample.
    """
    left, active = gradient_left(parts, g), _numbers(len(parts.v_out), len(g))
    at_circuits = left(min(n_active, len(parts.v_out)))
    return _sparsity(active, [left(float(k)) for k in active], RECON, at_circuits)


def output_sparsity(subject: Subject, parts: Parts, x: Tensor) -> OutputSparsity:
    """Returns the outputs' error against how many components run on each sample.

    Components are chosen by attribution (batch top-k over all samples), the rest is always on. No more components are
    tried than are needed.

    Args:
        subject: The target.
        parts: What was found in it.
        x: Inputs `[n, n_i]`.
    """
    scores, factors = attributed(subject, parts.components, x), as_factors(subject, parts.components)
    rest = subject.matrices(parts.rest)
    y = run(subject, x)
    added = float((y - run(subject, x, -subject.w0)).var(0, correction=0).mean())

    def left(k: float) -> float:
        count = round(k * len(x))
        kept = batch_top_k(scores, count) if count else torch.zeros_like(scores, dtype=torch.bool)
        return float((_run_some(subject, factors, rest, x, kept) - y).square().mean()) / added

    active, errors = torch.cat([torch.zeros(1), _numbers(len(parts.components), len(x))]), []
    for k in active:
        errors.append(left(float(k)))
        if errors[-1] <= OUTPUT_ERROR:
            break
    n_active = float(subject.active(x).sum(1).double().mean())
    found = _sparsity(active, errors, OUTPUT_ERROR, left(min(n_active, len(scores[0]))))
    share = added / float(y.var(0, correction=0).mean())
    return OutputSparsity(found, _fewest(active, found.error * share, OUTPUT_ERROR))


def run(subject: Subject, x: Tensor, moved: Tensor | None = None) -> Tensor:
    """Returns the target's outputs `[n, n_o]`, its weights moved by a row `[1, n_w]`."""
    row = subject.w0 if moved is None else subject.w0 + moved
    with torch.no_grad():
        return subject.network.forward(x[None], applied(subject.matrices(row)))[0][0]


def _run_some(
    subject: Subject, factors: dict[str, Factors], rest: dict[str, Tensor], x: Tensor, kept: Tensor
) -> Tensor:
    """Returns outputs with some components on each sample and the rest on all."""
    found = []
    for part, own in zip(x.split(CHUNK), kept.split(CHUNK), strict=True):
        some, always = applied_active(factors, listed(own[None])), applied(rest)

        def apply(name: str, h: Tensor, transposed: bool = False, some=some, always=always) -> Tensor:  # noqa: ANN001
            return some(name, h, transposed) + always(name, h, transposed)

        with torch.no_grad():
            found.append(subject.network.forward(part[None], apply)[0][0])
    return torch.cat(found)


class Selectivity(NamedTuple):
    """How much more a change of the weights moves outputs where it should than elsewhere, of several changes `[n]`.

    Attributes:
        samples: Root mean squared change on samples with the circuit active over that on the others; NaN where it is
            never active, or nothing moves.
        outputs: Mean absolute change of the circuit's own output over that of the others, samples all; NaN for targets
            whose circuits have no output of their own.
    """

    samples: Tensor
    outputs: Tensor


def selectivity(subject: Subject, moves: Tensor, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns how selective changes of the weights are.

    Args:
        subject: The target.
        moves: Changes of the weights `[n, n_w]`, all of them tried.
        circuit: The circuit of each `[n]`.
        x: Inputs `[n_s, n_i]`.
    """
    y, active, samples, outputs = run(subject, x), subject.active(x), [], []
    for move, own in zip(moves, circuit, strict=True):
        change = run(subject, x, move[None]) - y
        squares, on = change.square().mean(1), active[:, own]
        samples.append((squares[on].mean() / squares[~on].mean()).sqrt())
        whole = by_output(change[None], own[None]).over_mean[0] if subject.own_outputs else change.new_tensor(torch.nan)
        outputs.append(whole)
    return Selectivity(torch.stack(samples), torch.stack(outputs))


def step_selectivity(subject: Subject, parts: Parts, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns `selectivity` of small steps of one length along live directions, both ways, `[2 n_live]`."""
    steps = STEP * subject.w0.norm() * parts.v_out[parts.live]
    return selectivity(subject, torch.cat([steps, -steps]), circuit[parts.live].repeat(2), x)


def ablation_selectivity(subject: Subject, parts: Parts, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns `selectivity` of taking live components away, `[n_live]`."""
    return selectivity(subject, -parts.components[parts.live], circuit[parts.live], x)
