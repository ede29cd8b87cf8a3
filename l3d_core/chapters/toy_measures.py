"""What chapters 2 to 4 measure of one decomposition of a toy target."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import toys
from ..gradients import divergence_gradients, side_by_side
from ..intervention import matched_deltas, perturb
from ..l3d import reconstruct
from ..metrics import coverage, gradient_reconstruction, selectivity, top_share
from ..training import L3D

# Samples of the seeds 2^21 + seed are seen by no training: neither the targets' nor a decomposition's.
FRESH = 2**21
N_FRESH = 1000


def layers(tensors: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns weights `[..., n_i, n_o]` and biases `[..., n_o]` of a toy model or its subnetworks, layer by layer."""
    if "W_in" in tensors:
        w_in, w_out, b = tensors["W_in"], tensors["W_out"], tensors["b"]
        return [w_in, w_out], [b.new_zeros(*b.shape[:-1], w_in.shape[-1]), b]
    names = [f"layers.{i}" for i in range(len(tensors) // 2)]
    return [tensors[f"{name}.weight"].mT for name in names], [tensors[f"{name}.bias"] for name in names]


def measure_numbers(l3d: L3D, task: toys.Task) -> dict[str, Tensor]:
    """Returns errors, activity, shares and recovery of one decomposition.

    Args:
        l3d: The decomposition.
        task: Its target.

    Returns:
        By name: the history, P_act, each subnetwork's top input (or group) and output with their shares of the squared
        norm of its first and last weights, how many features (or groups) live subnetworks cover, and the error on
        fresh samples in batches of the size trained with.
    """
    group = task.config.group_size
    weights, _ = layers(l3d.v_out.dense())
    top_in, top_out = top_share(weights[0], group), top_share(weights[-1].mT)
    n = task.config.n_groups
    counts = coverage(top_in.index, l3d.live, n)
    x = fresh(task).to(l3d.v_out.matrix())
    errors = [gradient_reconstruction(l3d, part, seed=task.seed).recon_sq for part in x.split(l3d.config.batch_size)]
    facts = {
        "recon_sq": l3d.history.recon_sq, "recon_norm": l3d.history.recon_norm,
        "first_losses": l3d.history.first_losses, "p_active": l3d.p_active,
        "top_input": top_in.index, "share_in": top_in.share, "top_output": top_out.index, "share_out": top_out.share,
        "covered": (counts > 0).sum()[None], "once": ((counts == 1).all() & (l3d.live.sum() == n))[None],
        "recon_fresh": torch.stack(errors).mean()[None],
    }  # fmt: skip
    if task.config.toy in ("circuit_superposition", "high_rank"):
        facts |= coefficients(l3d, task)
    return {name: t.detach().cpu() for name, t in facts.items()}


def measure_all(l3d: L3D, task: toys.Task, *, length: float) -> dict[str, Tensor]:
    """Returns the numbers, the directions themselves and the effects of interventions.

    Args:
        l3d: The decomposition.
        task: Its target.
        length: Euclidean length of an intervention's step of size 1.
    """
    facts = measure_numbers(l3d, task) | {"v_out": l3d.v_out.matrix(), "v_in": l3d.v_in.matrix()}
    facts |= error_parts(l3d, task) | interventions(l3d, task, length)
    return {name: t.detach().cpu() for name, t in facts.items()}


def measure_directions(l3d: L3D, task: toys.Task) -> dict[str, Tensor]:
    """Returns the numbers and the directions themselves."""
    return measure_numbers(l3d, task) | {"v_out": l3d.v_out.matrix().detach().cpu()}


def fresh(task: toys.Task) -> Tensor:
    """Returns samples that neither the target nor a decomposition of it was trained on, `[N_FRESH, n_features]`."""
    return task.sample(N_FRESH, seed=FRESH + task.seed)


def coefficients(l3d: L3D, task: toys.Task) -> dict[str, Tensor]:
    """Returns the entries of A read back from each subnetwork, and how they correlate with A (paper Eq. 9).

    As in the authors' code, the row of `W_in W_out` whose absolute values add up to the most is compared with the same
    row of A; dead subnetworks are left out of the correlations. A subnetwork's length is arbitrary: `r_scaled` lets
    each be scaled by its own least-squares slope first.
    """
    v = l3d.v_out.dense()
    product = v["W_in"] @ v["W_out"]
    row = product.abs().sum(-1).argmax(-1)
    index = torch.arange(len(row), device=row.device)
    a_hat, a = product[index, row], task.coefficients.to(product)[row]
    slope = (a_hat * a).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True)
    scaled, live = a_hat / torch.where(slope == 0, 1, slope), l3d.live
    r = [torch.corrcoef(torch.stack([t[live].flatten(), a[live].flatten()]))[0, 1] for t in (a_hat, scaled)]
    own = torch.tensor(task.ceiling)
    return {"a": a, "a_hat": a_hat, "a_row": row, "r": r[0][None], "r_scaled": r[1][None], "ceiling": own[None]}


def error_parts(l3d: L3D, task: toys.Task) -> dict[str, Tensor]:
    """Returns the error that is left with every coefficient kept, by number of active features and by tensor.

    Gradients of fresh samples; references are drawn from all of them. The shares by tensor are of the squared error.
    """
    x = fresh(task).to(l3d.v_out.matrix())
    active = task.config.active(x).sum(1)
    gradients = divergence_gradients(l3d.model, x, l3d.divergence, references=l3d.config.reference, seed=task.seed)
    g = side_by_side(gradients)
    v_in, v_out = l3d.v_in.matrix(), l3d.v_out.matrix()
    parts = [g[active == 1], g[active > 1]]
    dense = [reconstruct(part, v_in, v_out, 1, dense=True).recon_sq for part in (g, *parts)]
    residual = (g - (g @ v_in.mT) @ v_out).square().sum(0)
    sizes = [gradients[name][0].numel() for name in l3d.parameters]
    by_tensor = torch.stack([part.sum() for part in residual.split(sizes)]) / residual.sum()
    return {"recon_dense": torch.stack(dense), "residual_by_tensor": by_tensor}


def interventions(l3d: L3D, task: toys.Task, length: float) -> dict[str, Tensor]:
    """Returns the effect of steps of one L2 length along each subnetwork, in both directions, on fresh samples.

    "Up" is the direction that raises the relevant output, a subnetwork's top output.
    """
    x, relevant = fresh(task).to(l3d.v_out.matrix()), top_share(layers(l3d.v_out.dense())[0][-1].mT).index
    with torch.no_grad():
        base = l3d.model(x)
    both = []
    for v, delta in enumerate(matched_deltas(l3d, length).tolist()):
        changes = [perturb(l3d, {v: sign * delta})(x) - base for sign in (1, -1)]
        rises = changes[0][:, relevant[v]].mean() >= changes[1][:, relevant[v]].mean()
        both.append(torch.stack(changes if rises else changes[::-1]))
    up, down = torch.stack(both).detach().unbind(1)
    chosen, swing = selectivity(up, relevant), selectivity(up - down, relevant)
    return {
        "selectivity_mean": chosen.over_mean, "selectivity_max": chosen.over_max,
        "swing_mean": swing.over_mean, "swing_max": swing.over_max,
    }  # fmt: skip
