"""What steps along stored subnetworks do to a toy target (paper Figs. 10, S4, S5; the draft's hidden layers)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .. import toys
from ..metrics import top_share
from .toy_measures import fresh, layers

# The paper's sizes of steps in Figures 10 and S4 / S5.
STEP = 0.3
DELTAS = (-1.0, -0.5, -0.1, 0.1, 0.5, 1.0)


class Moves(NamedTuple):
    """What steps do to the outputs of fresh samples.

    Attributes:
        x: The samples `[n, n_features]`.
        base: Outputs before `[n, n_o]`.
        relevant: Each subnetwork's top output `[n_v]`.
        change: Of outputs, `[n_v, n_deltas, n, n_o]`.
    """

    x: Tensor
    base: Tensor
    relevant: Tensor
    change: Tensor


def shaped(v: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Returns directions `[n_v, n_w]` in the shapes of a model's parameters, `[n_v, *shape]` each."""
    named = {name: p.shape for name, p in model.named_parameters()}
    parts = v.split([shape.numel() for shape in named.values()], 1)
    return {name: part.unflatten(1, shape) for (name, shape), part in zip(named.items(), parts, strict=True)}


def outputs_at(model: nn.Module, steps: dict[str, Tensor], x: Tensor) -> Tensor:
    """Returns outputs of a model moved by each of several steps, `[n_steps, n, n_o]` (paper Eq. 6).

    Args:
        model: The target.
        steps: By parameter, `[n_steps, *shape]`.
        x: Samples.
    """
    with torch.no_grad():
        w = {name: p + steps[name] for name, p in model.named_parameters()}
        return vmap(lambda w: functional_call(model, w, (x,)))(w)


def moves(task: toys.Task, v: Tensor, deltas: tuple[float, ...], length: float, hidden: bool = False) -> Moves:
    """Returns the effect of steps of several sizes along each subnetwork of a target.

    Args:
        task: The target.
        v: Its directions v_out `[n_v, n_w]`.
        deltas: Sizes of steps, in the paper's units.
        length: Euclidean length of a step of size 1.
        hidden: Leave the first and the last layer as they are, as the draft did.
    """
    x = fresh(task)
    norms = v.norm(dim=1, keepdim=True)
    unit = shaped(torch.where(norms > 0, length * v / torch.where(norms > 0, norms, 1), 0), task.model)
    relevant = top_share(layers(unit)[0][-1].mT).index
    if hidden:
        last = len(unit) // 2 - 1
        unit = {name: t * (name.split(".")[1] not in ("0", str(last))) for name, t in unit.items()}
    size = torch.tensor(deltas)
    steps = {name: (size.view(1, -1, *(1,) * (t.ndim - 1)) * t.unsqueeze(1)).flatten(0, 1) for name, t in unit.items()}
    with torch.no_grad():
        base = task.model(x)
    change = outputs_at(task.model, steps, x) - base
    return Moves(x, base, relevant, change.unflatten(0, (len(v), len(deltas))))


def ratios(moved: Moves) -> tuple[Tensor, Tensor]:
    """Returns how much more the relevant output moves than the others' mean and maximum, `[n_v, n_deltas]` each."""
    size = moved.change.abs().mean(2)
    own = torch.zeros_like(size, dtype=torch.bool)
    own.scatter_(2, moved.relevant[:, None, None].expand(-1, size.shape[1], 1), True)
    relevant, others = size[own].view(size.shape[:2]), size[~own].view(*size.shape[:2], -1)
    return relevant / others.mean(2), relevant / others.amax(2)


def swing(moved: Moves) -> Moves:
    """Returns the difference between the last and the first step as one change: the paper's y(+) - y(-)."""
    return moved._replace(change=(moved.change[:, -1:] - moved.change[:, :1]))


def by_activity(moved: Moves) -> Tensor:
    """Returns the relevant output's mean change where its feature is zero over that where it is active, `[n_v]`."""
    found = []
    for change, i in zip(moved.change[:, 0], moved.relevant, strict=True):
        active = moved.x[:, i] != 0
        found.append(change[~active, i].abs().mean() / change[active, i].abs().mean())
    return torch.stack(found)


class Pair(NamedTuple):
    """Mean changes of outputs under two steps at once, the paper's Figure S5.

    Attributes:
        first: Of the first subnetwork's output, `[n_deltas, n_deltas]`, its own step along the first axis.
        second: Of the second subnetwork's.
        bystander: The largest absolute one of any other output.
    """

    first: Tensor
    second: Tensor
    bystander: Tensor


def pair(task: toys.Task, v: Tensor, chosen: tuple[int, int], length: float) -> Pair:
    """Returns the effect of steps along two subnetworks at once, all pairs of `DELTAS`.

    Args:
        task: The target.
        v: Its directions v_out `[n_v, n_w]`.
        chosen: The two subnetworks, of different top outputs.
        length: Euclidean length of a step of size 1.
    """
    x = fresh(task)
    unit = shaped(length * v / v.norm(dim=1, keepdim=True), task.model)
    relevant = top_share(layers(unit)[0][-1].mT).index[list(chosen)]
    size, n = torch.tensor(DELTAS), len(DELTAS)
    both = torch.cartesian_prod(size, size)
    steps = {name: torch.tensordot(both, t[list(chosen)], 1) for name, t in unit.items()}
    with torch.no_grad():
        change = (outputs_at(task.model, steps, x) - task.model(x)).mean(1).view(n, n, -1)
    others = [o for o in range(change.shape[-1]) if o not in relevant.tolist()]
    return Pair(change[..., relevant[0]], change[..., relevant[1]], change[..., others].abs().amax(-1))


def cross_effect(found: Pair) -> tuple[float, float]:
    """Returns how far each relevant output varies at most over the other's step, as a share of its own range.

    Its own range is that over its own step, averaged over the other's.
    """
    shares = []
    for change, own in ((found.first, 0), (found.second, 1)):
        varies, by_own = (change.amax(1 - own) - change.amin(1 - own)).max(), change.mean(1 - own)
        shares.append(float(varies / (by_own.max() - by_own.min())))
    return shares[0], shares[1]


def linear_error(task: toys.Task, v: Tensor, deltas: tuple[float, ...], length: float, small: float = 1e-3) -> Tensor:
    """Returns how far the change of outputs is from the linear prediction at W_0, `[n_v, n_deltas]`.

    The norm of the difference over the norm of the change, both over samples and outputs; the prediction is the change
    at a step of size `small`, scaled.
    """
    change = moves(task, v, (small, *deltas), length).change
    linear = change[:, :1] * (torch.tensor(deltas) / small).view(1, -1, 1, 1)
    actual = change[:, 1:]
    return (actual - linear).flatten(2).norm(dim=2) / actual.flatten(2).norm(dim=2).clamp_min(1e-12)
