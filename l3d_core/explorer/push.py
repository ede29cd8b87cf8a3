"""Pushing a model along one subnetwork: a grid of delta, the real outputs along it, and where lines cease to hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..gradients import by_position, model_outputs
from ..intervention import output_gradients, top_outputs
from .explored import Explored
from .settings import TOLERANCE, ExplorerSettings

# The first step's share of the length of the weights, how often it is doubled or halved, and how often the end is
# looked for between two of these.
FIRST, DOUBLINGS, BISECTIONS = 1e-2, 40, 6


class Pushed(NamedTuple):
    """What a subnetwork does to some samples.

    Attributes:
        deltas: The grid.
        moved: Outputs moved most `[n_s, n_moved]`.
        slopes: Their derivatives by delta (Eq. 10) `[n_s, n_moved]`.
        real: These outputs along the grid `[n_s, n_deltas, n_moved]`.
        normaliser: Logarithm of the sum of the exponentials of all outputs `[n_s, n_deltas]`.
        linear: See `linear_between`.
    """

    deltas: list[float]
    moved: Tensor
    slopes: Tensor
    real: Tensor
    normaliser: Tensor
    linear: list[float] | None


def outputs_along(
    one: Explored, inputs: Tensor, positions: Tensor, delta: float, chunk_size: int, v: dict[str, Tensor] | None = None
) -> Tensor:
    """Returns the outputs of samples at W_0 + delta v, `[n_s, n_o]`.

    Args:
        one: A decomposition of one subnetwork.
        inputs: `[n_s, ...]`.
        positions: Of each sample in its input `[n_s]`.
        delta: The step.
        chunk_size: Inputs at once.
        v: The subnetwork's tensors, if they are at hand.
    """
    v = dense(one) if v is None else v
    w0 = dict(one.model.named_parameters())
    moved = {name: w0[name].detach() + delta * direction for name, direction in v.items()}
    found = []
    with torch.no_grad():
        for x, p in zip(inputs.split(chunk_size), positions.split(chunk_size), strict=True):
            found.append(by_position(model_outputs(one.model, moved, x))[torch.arange(len(x)), p])
    return torch.cat(found)


def dense(one: Explored) -> dict[str, Tensor]:
    """Returns the tensors of a decomposition's only subnetwork."""
    return {name: t[0].detach() for name, t in one.v_out.dense().items()}


def moved_by(one: Explored, inputs: Tensor, positions: Tensor, chunk_size: int) -> Tensor:
    """Returns the derivatives of the outputs of samples by delta (paper Eq. 10), `[n_s, n_o]`; see `outputs_along`."""
    found = []
    for x, p in zip(inputs.split(chunk_size), positions.split(chunk_size), strict=True):
        found.append(by_position(output_gradients(one, 0, x))[torch.arange(len(x)), p])
    return torch.cat(found)


def change_of(before: Tensor, after: Tensor, distribution: bool, scale: float) -> float:
    """Returns how far outputs have moved, in the mean over samples.

    Args:
        before: `[n_s, n_o]`.
        after: `[n_s, n_o]`.
        distribution: Take the KL divergence of the distributions after from those before, in nats.
        scale: Otherwise the root mean square change is divided by this.
    """
    if distribution:
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        # What cannot be before, such as a masked output, adds nothing, whatever it is after.
        return float(torch.where(p == -math.inf, 0.0, p.exp() * (p - q)).sum(-1).mean())
    return float((after - before).square().mean().sqrt()) / scale


def grid_end(change: Callable[[float], float], first: float, wanted: float) -> float | None:
    """Returns a delta at which a change that grows is about as large as wanted; None if it never is.

    Args:
        change: Of delta; NaN counts as too large.
        first: Where to begin.
        wanted: The change.
    """

    def enough(delta: float) -> bool:
        found = change(delta)
        return not found < wanted

    low, high = first, first
    if enough(first):
        for _ in range(DOUBLINGS):
            low /= 2
            if not enough(low):
                break
            high = low
    else:
        for _ in range(DOUBLINGS):
            high *= 2
            if enough(high):
                break
            low = high
        else:
            return None
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return math.sqrt(low * high)


def symmetric_grid(end: float, n_steps: int) -> list[float]:
    """Returns n_steps deltas on either side of 0, equally far apart, the step being `end / n_steps` to two digits."""
    step = float(f"{end / n_steps:.2g}")
    return [float(f"{step * i:.4g}") for i in range(-n_steps, n_steps + 1)]


def linear_between(deltas: Sequence[float], change: Tensor, slopes: Tensor, tolerance: float) -> list[float] | None:
    """Returns the deltas of a grid between which linear predictions hold; None where nothing is moved or known.

    A prediction `delta s` of a change c is off by `abs(delta s - c) / abs(c)`, 0 where both are 0. It holds at a delta
    if the median over samples is at most the tolerance, and at all deltas between this one and 0. On either side of 0
    the last delta at which it holds is given, 0 if there is none.

    Args:
        deltas: The grid, rising, 0 among it.
        change: Of one output of each sample `[n_s, n_deltas]`.
        slopes: Its derivatives `[n_s]`.
        tolerance: Such as .2.
    """
    steps = torch.tensor(deltas, dtype=torch.float64)
    change, predicted = change.double(), slopes.double()[:, None] * steps
    if not slopes.any() or not (change.isfinite() & predicted.isfinite())[:, steps != 0].any():
        return None
    off, size = (predicted - change).abs(), change.abs()
    off = torch.where(off == 0, 0.0, off / size)
    # The median of an even number of values is the mean of the middle two.
    median = off.nan_to_num(nan=math.inf).sort(0).values
    n = len(median)
    holds = ((median[(n - 1) // 2] + median[n // 2]) / 2 <= tolerance).tolist()
    zero = deltas.index(0.0)

    def last(side: Sequence[int]) -> float:
        found = 0.0
        for i in side:
            if not holds[i]:
                break
            found = deltas[i]
        return found

    return [last(range(zero - 1, -1, -1)), last(range(zero + 1, len(deltas)))]


def own_grid(
    one: Explored, v: dict[str, Tensor], before: Tensor, middle: Tensor, settings: ExplorerSettings,
    along: Callable[[float], Tensor],
) -> list[float]:  # fmt: skip
    """Returns a subnetwork's own grid, at whose ends outputs have moved as far as settings ask; see `push`.

    Args:
        one: A decomposition of one subnetwork.
        v: Its tensors.
        before: Outputs of the samples that count `[n_s, n_o]`.
        middle: The mean output `[n_o]`.
        settings: How far.
        along: Gives these outputs at a delta.
    """
    deviation = float((before - middle).square().mean().sqrt()) or 1.0
    wanted = settings.divergence if one.distribution else settings.change

    def changed(delta: float) -> float:
        return sum(change_of(before, along(d), one.distribution, deviation) for d in (-delta, delta)) / 2

    w0 = dict(one.model.named_parameters())
    size, length = _length([w0[name].detach() for name in v]), _length(v.values())
    end = grid_end(changed, FIRST * (size or 1.0) / length, wanted) if length > 0 else None
    return symmetric_grid(settings.n_steps if end is None else end, settings.n_steps)


def push(
    one: Explored, inputs: Tensor, positions: Tensor, n_top: int, settings: ExplorerSettings, middle: Tensor,
    chunk_size: int = 32,
) -> Pushed:  # fmt: skip
    """Returns what a decomposition's only subnetwork does to samples, along a grid of its own.

    Args:
        one: See `Explored.alone`.
        inputs: `[n_s, ...]`.
        positions: Of each sample in its input `[n_s]`.
        n_top: The first samples, on which the end of the grid and the reach of lines are judged.
        settings: How far, and how many of everything.
        middle: The mean output `[n_o]`.
        chunk_size: Inputs at once.
    """
    v = dense(one)

    def along(delta: float, n: int | None = None) -> Tensor:
        return outputs_along(one, inputs[:n], positions[:n], delta, chunk_size, v)

    before = along(0.0)
    own = partial(own_grid, one, v, before[:n_top], middle, settings, partial(along, n=n_top))
    deltas = own() if one.grid is None else list(one.grid)
    slopes = moved_by(one, inputs, positions, chunk_size)
    moved = top_outputs(slopes, min(settings.n_moved, slopes.shape[-1]))
    slopes = slopes.gather(-1, moved)
    outputs = [along(delta) for delta in deltas]
    real = torch.stack([y.gather(-1, moved) for y in outputs], 1)
    normaliser = torch.stack([y.logsumexp(-1) for y in outputs], 1)
    change = real[:n_top, :, 0] - before.gather(-1, moved)[:n_top, :1]
    reach = linear_between(deltas, change.cpu(), slopes[:n_top, 0].cpu(), TOLERANCE)
    return Pushed(deltas, moved.cpu(), slopes.cpu(), real.cpu(), normaliser.cpu(), reach)


def _length(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))
