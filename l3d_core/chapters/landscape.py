"""The divergence of single samples over a plane of parameters spanned by two subnetworks (paper Fig. 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import toys
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients, side_by_side
from .moves import DELTAS, outputs_at, shaped
from .toy_measures import fresh

# Smallest size of the one feature that is active in a sample of a landscape.
LEAST = 0.5


class Landscape(NamedTuple):
    """Divergences of samples over the plane of two subnetworks, n_s samples for as many chosen subnetworks.

    Attributes:
        subnetworks: The chosen ones, those of the plane first `[n_s]`.
        x: The sample of each `[n_s, n_features]`.
        y_ref: The reference output that all are compared with `[n_o]`.
        positions: Distances from W_0 along either axis of the plane, in steps of the paper `[n]`.
        divergences: `[n_s, n, n]`, the first axis of the plane first.
        directions: Components of all subnetworks' unit vectors in the plane `[n_v, 2]`.
        slopes: Derivative of each sample's divergence along each subnetwork at W_0, by step of the paper `[n_s, n_v]`.
    """

    subnetworks: list[int]
    x: Tensor
    y_ref: Tensor
    positions: Tensor
    divergences: Tensor
    directions: Tensor
    slopes: Tensor


def plane_outputs(task: toys.Task, axes: Tensor, sizes: Tensor, x: Tensor) -> Tensor:
    """Returns outputs at the points of a grid on a plane through W_0, `[n_sizes, n_sizes, n, n_o]`.

    Args:
        task: The target.
        axes: The plane's two axes `[2, n_w]`.
        sizes: Multiples of either axis `[n_sizes]`.
        x: Samples `[n, n_features]`.
    """
    steps = shaped(torch.cartesian_prod(sizes, sizes) @ axes, task.model)
    return outputs_at(task.model, steps, x).unflatten(0, (len(sizes), len(sizes)))


def pair_changes(task: toys.Task, v: Tensor, chosen: tuple[int, int], length: float) -> Tensor:
    """Returns mean changes of all outputs under two steps at once, all pairs of `moves.DELTAS` (paper Fig. S5).

    Args:
        task: The target.
        v: Its directions v_out `[n_v, n_w]`.
        chosen: The two subnetworks.
        length: Euclidean length of a step of size 1.

    Returns:
        `[n_deltas, n_deltas, n_o]`, the first subnetwork's step along the first axis.
    """
    x = fresh(task)
    axes = length * torch.nn.functional.normalize(v[list(chosen)], dim=1)
    with torch.no_grad():
        return (plane_outputs(task, axes, torch.tensor(DELTAS), x) - task.model(x)).mean(2)


def three_apart(top: Tensor, p_active: Tensor) -> list[int]:
    """Returns the three most active subnetworks with different top inputs; two, if there are no more.

    Args:
        top: Top input of each subnetwork `[n_v]`.
        p_active: Activity `[n_v]`.

    Raises:
        ValueError: All live subnetworks have the same top input.
    """
    found: dict[int, int] = {}
    for v in p_active.argsort(descending=True, stable=True).tolist():
        if p_active[v] > 0:
            found.setdefault(int(top[v]), v)
    if len(found) < 2:
        raise ValueError(f"live subnetworks have top inputs {sorted(found)}; expected at least two different ones.")
    return list(found.values())[:3]


def alone(x: Tensor, feature: int) -> Tensor:
    """Returns the first sample in which one feature alone is active, with at least `LEAST`, `[n_features]`.

    Raises:
        ValueError: There is none.
    """
    others = torch.arange(x.shape[1]) != feature
    fit = (x[:, feature].abs() >= LEAST) & (x[:, others] == 0).all(1)
    if not fit.any():
        raise ValueError(f"in no sample is feature {feature} alone active with at least {LEAST}; give more samples.")
    return x[int(fit.nonzero()[0])]


def landscape(
    task: toys.Task, v: Tensor, top: Tensor, p_active: Tensor, length: float, divergence: str = "mse", n: int = 41
) -> Landscape:
    """Returns a real piece of the picture that the paper's Figure 1 sketches.

    Three live subnetworks of different features: the three that are most active. For each, the first fresh sample in
    which its feature alone is active. The reference is the output of the first sample in which a feature of none of
    the three is alone active, as another sample's output is in the method. The plane is that of the first two
    subnetworks: its axes are the first, and the part of the second that is perpendicular to it.

    Args:
        task: The target.
        v: Its directions v_out `[n_v, n_w]`.
        top: Top input of each subnetwork `[n_v]`.
        p_active: Activity `[n_v]`.
        length: Euclidean length of a step of size 1.
        divergence: Its name.
        n: Points along a side of the grid, an odd number to have W_0 among them.

    Raises:
        ValueError: See `three_apart` and `alone`.
    """
    chosen, samples = three_apart(top, p_active), fresh(task)
    features = top[chosen].tolist()
    rest = next(i for i in range(samples.shape[1]) if i not in features)
    x = torch.stack([alone(samples, feature) for feature in features])
    d = resolve_divergence(divergence)
    with torch.no_grad():
        y_ref = task.model(alone(samples, rest)[None])[0]
    unit = torch.nn.functional.normalize(v, dim=1)
    first, other = unit[chosen[0]], unit[chosen[1]]
    second = other - (other @ first) * first
    axes = torch.stack([first, second / second.norm()])
    positions = torch.linspace(-1, 1, n)
    y = plane_outputs(task, length * axes, positions, x)
    g = divergence_gradients(task.model, x, d, references=y_ref.expand(len(x), -1))
    slopes = side_by_side(g) @ (length * unit).mT
    values = d.value(y.flatten(0, 1), y_ref.expand_as(y.flatten(0, 1))).unflatten(0, (n, n))
    return Landscape(chosen, x, y_ref, positions, values.permute(2, 0, 1), unit @ axes.mT, slopes)


def own_slopes(found: Landscape) -> Tensor:
    """Returns how much steeper each sample slopes along its own subnetwork than along the other chosen ones, `[n_s]`.

    The absolute slope over the mean of the others'.
    """
    size = found.slopes[:, found.subnetworks].abs()
    own = size.diagonal()
    return own / ((size.sum(1) - own) / (len(size) - 1))
