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
from ..references import draw_partners, reference_outputs
from .comparison_parts import Parts, as_factors, attributed
from .comparison_subjects import Subject

# A circuit is covered by a part that has more than half of its squared reading of the inputs on it.
COVERED = 0.5
# What has to be reached: an output error of so much of the outputs' variance, and recon_sq.
OUTPUT_ERROR, RECON = 0.05, 0.2
# Samples at once, and gradients put in their place at once.
CHUNK, BLOCK = 250, 1000


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
    n = subject.n_circuits
    pairs = match_directions(_truth(subject), read[parts.live].flatten(1))
    shares = top.share[parts.live]
    covered = len(top.index[good].unique()) / n
    return Found(covered, float(pairs.cosines.sum()) / n, float(shares.mean()) if len(shares) else 0.0, top.index)


def _truth(subject: Subject) -> Tensor:
    """Returns how each circuit's inputs are read in the model, `[n_circuits, n]`."""
    whole = subject.readers(subject.w0)[0]
    of = torch.arange(len(whole)) // subject.group_size
    return torch.stack([(whole * (of == i)[:, None]).flatten() for i in range(subject.n_circuits)])


def gradients(subject: Subject, x: Tensor, divergence: str = "mse", seed: int = 0) -> Tensor:
    """Returns the gradients that L3D decomposes, of inputs `[n, n_i]`, as rows `[n, n_w]`.

    They are put in their place a block at a time, so that many of a large target need room for little more than
    themselves; references are drawn among all inputs.
    """
    partners = draw_partners(1, len(x), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        references = reference_outputs(subject.module(x)[None], "sample", partners=partners)[0]
    found = x.new_empty(len(x), subject.w0.shape[1])
    for rows, some, y_ref in zip(found.split(BLOCK), x.split(BLOCK), references.split(BLOCK), strict=True):
        named = divergence_gradients(
            subject.module, some, resolve_divergence(divergence), references=y_ref, parameters=subject.parameters,
            chunk_size=CHUNK,
        )  # fmt: skip
        rows.copy_(subject.rows(named))
    return found


def reachable_cosine(subject: Subject, g: Tensor, x: Tensor) -> float:
    """Returns what `Found.cosine` would be with one direction of gradients for each circuit, a reference for it.

    The direction of a circuit is the leading right singular vector of the gradients of those samples on which it
    alone is active: the one that rebuilds them best, and so what a subnetwork for this circuit alone would be. How it
    reads the inputs differs from how the model reads the circuit's own, since a gradient tells which change of the
    weights moves an output, and not what the weights do now. A reference and no bound: a direction that serves other
    samples as well may come nearer.

    Args:
        subject: The target.
        g: Gradients `[n, n_w]`.
        x: Their inputs `[n, n_i]`.

    Returns:
        The mean over circuits; those never active alone are left out, and NaN if all are.
    """
    active = subject.active(x)
    alone, cosines = active & (active.sum(1) == 1)[:, None], []
    for own, truth in zip(alone.T, _truth(subject), strict=True):
        if own.any():
            rows = g[own].double()
            # From the Gram matrix of the samples, which are far fewer than weights.
            v = torch.linalg.eigh(rows @ rows.mT).eigenvectors[None, :, -1] @ rows
            read = subject.readers(v.to(g))[0].flatten()
            cosines.append(float(torch.nn.functional.cosine_similarity(read, truth, 0).abs()))
    return sum(cosines) / len(cosines) if cosines else float("nan")


def median(values: Tensor) -> float:
    """Returns the median of what is not NaN, of an even number the mean of the middle two; NaN of nothing."""
    ordered = values[~values.isnan()].sort().values.tolist()
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else float("nan")


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
    """Returns numbers of parts per sample to try: none, then from .1 on about a tenth more each time, up to all."""
    found, k = [0.0], 0.1
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
        if not (count := round(k * len(g))):
            return 1.0
        a = (z * batch_top_k(z, count)).double()
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
    """Returns the outputs' error against how many components run on each sample, see `output_left`.

    The first number is none at all, the error of the rest alone. No more components are tried than are needed.

    Args:
        subject: The target.
        parts: What was found in it.
        x: Inputs `[n, n_i]`.
    """
    left, active, errors = output_left(subject, parts, x), _numbers(len(parts.components), len(x)), []
    for k in active:
        errors.append(left(float(k)))
        if errors[-1] <= OUTPUT_ERROR:
            break
    found = _sparsity(active, errors, OUTPUT_ERROR, left(one_a_circuit(subject, parts, x)))
    share = _added(subject, x) / float(run(subject, x).var(0, correction=0).mean())
    return OutputSparsity(found, _fewest(active, found.error * share, OUTPUT_ERROR))


def output_left(subject: Subject, parts: Parts, x: Tensor) -> Callable[[float], float]:
    """Returns what tells the outputs' error with so many components per sample.

    Components are chosen by attribution (batch top-k over all samples), the rest is always on. The error is over the
    variance of what the decomposed weights add to the outputs.

    Args:
        subject: The target.
        parts: What was found in it.
        x: Inputs `[n, n_i]`.
    """
    scores, factors = attributed(subject, parts.components, x), as_factors(subject, parts.components)
    rest, y, added = subject.matrices(parts.rest), run(subject, x), _added(subject, x)

    def left(k: float) -> float:
        count = round(k * len(x))
        kept = batch_top_k(scores, count) if count else torch.zeros_like(scores, dtype=torch.bool)
        return float((_run_some(subject, factors, rest, x, kept) - y).square().mean()) / added

    return left


def one_a_circuit(subject: Subject, parts: Parts, x: Tensor) -> float:
    """Returns how many parts per sample there are with one for each active circuit, or all."""
    return min(float(subject.active(x).sum(1).double().mean()), len(parts.components))


def _added(subject: Subject, x: Tensor) -> float:
    """Returns the variance of what the decomposed weights add to the outputs."""
    return float((run(subject, x) - run(subject, x, -subject.w0)).var(0, correction=0).mean())


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
