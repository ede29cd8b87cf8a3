"""Whether the subnetworks of a real model mean anything: selectivity of steps, and agreement of decompositions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import kl_div, normalize
from tqdm import tqdm

from ..cuts import cut_prefix
from ..gradients import build_target, by_position, model_outputs, select_parameters, split_parameters
from ..metrics import match_directions

# How near the mean change of outputs comes to the one asked for, and how often a step's length is corrected.
NEAR, CORRECTIONS = 0.02, 12
# The first step's share of the length of the weights.
FIRST = 1e-2
# Inputs run at once, and most numbers to keep of what comes before the parameters.
CHUNK, STORED = 250, 2**28


class Moved(NamedTuple):
    """What steps of one mean change of the outputs do, each along a direction of its own.

    Attributes:
        lengths: Euclidean length of each step `[n_directions]`; NaN where no length gives the change asked for.
        divergence: KL divergence of each sample's outputs from those before `[n_directions, n_s]`.
    """

    lengths: Tensor
    divergence: Tensor


def matched_steps(
    model: nn.Module, inputs: Tensor, directions: Tensor, parameters: str | Sequence[str], change: float,
    *, progress: str | None = None,
) -> Moved:  # fmt: skip
    """Returns what a step along each direction does, of such a length that the outputs change as much in the mean.

    Args:
        model: The target, whose outputs are logits.
        inputs: `[n, ...]`.
        directions: Rows `[n_directions, n_w]`; their sign says which way the step goes.
        parameters: Name patterns of what they are directions of.
        change: KL divergence from the outputs before, in nats, mean over all samples.
        progress: Name of a bar on standard error; None for none.

    Raises:
        ValueError: The weights are all zero.
    """
    w0 = {name: p.detach() for name, p in select_parameters(model, parameters).items()}
    shapes = {name: tuple(p.shape) for name, p in w0.items()}
    size = float(torch.cat([p.flatten() for p in w0.values()]).norm())
    if not size > 0:
        raise ValueError("the decomposed weights are all zero; expected some length to scale a first step by.")
    log_probabilities = _log_probabilities(model, inputs, parameters)
    base = log_probabilities(w0)

    def diverged(direction: Tensor, length: float) -> Tensor:
        step = split_parameters(direction * length, shapes)
        after = log_probabilities({name: w0[name] + step[name] for name in w0})
        return kl_div(after, base, reduction="none", log_target=True).sum(-1)

    found, length = [], FIRST * size
    for v in tqdm(directions, disable=progress is None, desc=progress, unit="step"):
        found.append(_matched(diverged, v / v.norm(), length, change))
        length = found[-1][0] if found[-1][0] > 0 else length  # A good guess for the next one.
    return Moved(torch.tensor([length for length, _ in found]), torch.stack([each for _, each in found]).cpu())


def _matched(
    diverged: Callable[[Tensor, float], Tensor], direction: Tensor, length: float, change: float
) -> tuple[float, Tensor]:
    """Returns the length at which the mean divergence is near the one asked for, and the samples' divergences.

    The divergence is taken for a power of the length: 2 at first, then as the last two lengths had it.
    """
    each, power, before = diverged(direction, length), 2.0, None
    for _ in range(CORRECTIONS):
        mean = float(each.mean())
        if abs(mean / change - 1) <= NEAR:
            return length, each
        if before is not None and mean > 0 and before[1] > 0 and mean != before[1]:
            power = min(max(math.log(mean / before[1]) / math.log(length / before[0]), 0.5), 8.0)
        before = length, mean
        # Not more than tenfold at once: far from zero the divergence is anything but a power.
        length *= min(max((change / max(mean, 1e-30)) ** (1 / power), 0.1), 10)
        each = diverged(direction, length)
    return float("nan"), torch.full_like(each, torch.nan)


def _log_probabilities(
    model: nn.Module, inputs: Tensor, parameters: str | Sequence[str]
) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Returns a function of the decomposed parameters that returns `[n_s, n_o]`, positions being samples of their own.

    What comes before these parameters runs once.
    """
    target = build_target([model], parameters)
    prefix = cut_prefix(target, inputs, STORED)
    short = target if prefix is None else prefix.target
    rest = {name: t[0] for name, t in short.rest.items()}

    def outputs(weights: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for chosen in torch.arange(len(inputs), device=inputs.device).split(CHUNK):
            if prefix is not None:
                prefix.at(chosen)
            with torch.no_grad():
                y = model_outputs(short.module, {**weights, **rest}, inputs[chosen])
            parts.append(by_position(y).flatten(0, 1))
        return torch.cat(parts).log_softmax(-1)

    return outputs


def step_selectivity(divergence: Tensor, impacts: Tensor, share: float) -> Tensor:
    """Returns how much more a step changes the samples its direction affects most than the others.

    Args:
        divergence: Of each sample, see `Moved` `[n_directions, n_s]`.
        impacts: `[n_s, n_directions]`, see `circuits.impacts`.
        share: Of samples that count as most affected.

    Returns:
        Mean divergence of those samples over that of the rest `[n_directions]`.

    Raises:
        ValueError: A share that leaves no sample on one of the sides.
    """
    n_s = len(impacts)
    n = round(share * n_s)
    if not 0 < n < n_s:
        raise ValueError(f"share is {share}; expected one that parts the {n_s} samples. Take more samples.")
    top = torch.zeros_like(divergence, dtype=torch.bool).scatter(1, impacts.topk(n, 0).indices.T, True)
    own, rest = ((divergence * side).sum(1) / side.sum(1) for side in (top, ~top))
    return own / rest


class Same(NamedTuple):
    """How far two sets of directions are the same, both 0-dimensional.

    Attributes:
        direction: Mean abs(cos) of directions, matched one to one with the largest total.
        response: Mean correlation over samples of the logarithms of impacts, directions matched anew by these.
    """

    direction: Tensor
    response: Tensor


def sameness(a: Tensor, b: Tensor, impacts_a: Tensor, impacts_b: Tensor) -> Same:
    """Returns how far two decompositions of one model agree, in their directions and in what these respond to.

    Each sample's mean over a set's directions is taken off the logarithms first: a sample with a long gradient has
    large impacts along any direction, also a random one.

    Args:
        a: Directions of one `[n_a, n_w]`, those that are live.
        b: Of the other.
        impacts_a: Of the same directions `[n_s, n_a]`.
        impacts_b: Of the other's, on the same samples.
    """

    def responses(impacts: Tensor) -> Tensor:
        logs = impacts.double().clamp_min(1e-12).log()
        logs = logs - logs.mean(1, keepdim=True)
        return (logs - logs.mean(0)).T

    one, other = responses(impacts_a), responses(impacts_b)
    correlations = normalize(one, dim=1) @ normalize(other, dim=1).mT
    rows, columns = linear_sum_assignment(correlations.numpy(), maximize=True)
    return Same(match_directions(a, b).cosines.mean(), correlations[rows, columns].mean())
