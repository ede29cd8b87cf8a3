"""What chapter 1 measures of one decomposition of a toy model of superposition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .. import toys
from ..gradients import divergence_gradients, side_by_side
from ..intervention import delta_sweep, matched_deltas, perturb
from ..l3d import reconstruct
from ..metrics import coverage, gradient_reconstruction, selectivity, top_share
from ..training import L3D

DELTAS = tuple(i / 5 for i in range(-15, 16))
# What every study keeps; the main one has the directions and the interventions too.
NUMBERS = ("recon_sq", "recon_norm", "first_losses", "p_active", "recovered", "covered", "share_in", "cos_out")


def measure_numbers(l3d: L3D, task: toys.Task) -> dict[str, Tensor]:
    """Returns what every study of the chapter keeps of one decomposition."""
    facts = measure(l3d)
    return {name: facts[name] for name in NUMBERS}


def measure_all(l3d: L3D, task: toys.Task, *, n_samples: int, length: float) -> dict[str, Tensor]:
    """Returns everything that is measured of one decomposition, see `measure` and `measure_behaviour`."""
    return measure(l3d) | measure_behaviour(l3d, task, n_samples, length)


def measure(l3d: L3D) -> dict[str, Tensor]:
    """Returns what the directions and the history of one decomposition of a TMS target tell.

    Args:
        l3d: The decomposition.

    Returns:
        Tensors by name: errors over epochs, P_act, the subnetworks' tensors, shares and cosines.
    """
    v, live = l3d.v_out.dense(), l3d.live
    top_in, top_out = top_share(v["W_in"]), top_share(v["W_out"].mT)
    index = torch.arange(l3d.v_out.n_v, device=live.device)
    features = l3d.model.W_in.detach()
    counts = coverage(top_in.index, live, len(features))
    facts = {
        "recon_sq": l3d.history.recon_sq,
        "recon_norm": l3d.history.recon_norm,
        "first_losses": l3d.history.first_losses,
        "p_active": l3d.p_active,
        "W_in": v["W_in"], "W_out": v["W_out"], "b": v["b"], "encoder_W_in": l3d.v_in.dense()["W_in"],
        "model_W_in": features,
        "top_input": top_in.index, "share_in": top_in.share, "share_out": top_out.share,
        "cos_out": cosine_similarity(v["W_out"].mT[index, top_in.index], features[top_in.index], dim=-1).abs(),
        "recovered": ((counts == 1).all() & (live.sum() == len(features)))[None],
        "covered": (counts > 0).sum()[None],
    }  # fmt: skip
    return {name: t.detach().cpu() for name, t in facts.items()}


def measure_behaviour(l3d: L3D, task: toys.Task, n_samples: int, length: float) -> dict[str, Tensor]:
    """Returns what one decomposition of a TMS target does on fresh samples: errors, and the effect of interventions.

    Args:
        l3d: The decomposition.
        task: Its target.
        n_samples: Fresh samples.
        length: Euclidean length of every intervention's step.

    Returns:
        Tensors by name, the samples among them.
    """
    x = task.sample(n_samples, seed=2**21 + task.seed).to(l3d.model.W_in)
    relevant = top_share(l3d.v_out.dense()["W_in"]).index
    facts = {"x": x, **errors_on(l3d, task, x), **interventions(l3d, x, relevant, length)}
    return {name: t.detach().cpu() for name, t in facts.items()}


def errors_on(l3d: L3D, task: toys.Task, x: Tensor) -> dict[str, Tensor]:
    """Returns the error on fresh samples, and with every coefficient kept on rows of one and several active inputs.

    The first is a mean over batches of the size used in training. Keeping every coefficient leaves out the part of
    the error that is due to top-k, so that what remains shows whether features that are active together are harder
    to rebuild; references are drawn from all rows.
    """
    batches = x.split(l3d.config.batch_size)
    fresh = [gradient_reconstruction(l3d, batch, seed=task.seed).recon_sq for batch in batches]
    gradients = divergence_gradients(l3d.model, x, l3d.divergence, references=l3d.config.reference, seed=task.seed)
    g, several = side_by_side(gradients), (x > 0).sum(1) > 1
    parts = {"recon_single": g[~several], "recon_several": g[several]}
    v_in, v_out = l3d.v_in.matrix(), l3d.v_out.matrix()
    errors = {name: reconstruct(rows, v_in, v_out, 1, dense=True).recon_sq for name, rows in parts.items()}
    return {"recon_fresh": torch.stack(fresh).mean()[None], **{name: e[None] for name, e in errors.items()}}


def interventions(l3d: L3D, x: Tensor, relevant: Tensor, length: float) -> dict[str, Tensor]:
    """Returns the effect of stepping along each subnetwork by the same L2 length, both ways.

    The sign of a direction means nothing, so "up" is the one that raises the relevant output.
    """
    with torch.no_grad():
        base = l3d.model(x)
    deltas = matched_deltas(l3d, length)
    ups, downs, signs, off, ratios = [], [], [], [], []
    for v, delta in enumerate(deltas.tolist()):
        plus, minus = (perturb(l3d, {v: s * delta})(x) - base for s in (1, -1))
        up_first = plus[:, relevant[v]].mean() >= minus[:, relevant[v]].mean()
        ups.append(plus if up_first else minus)
        downs.append(minus if up_first else plus)
        signs.append(1.0 if up_first else -1.0)
        active = x[:, relevant[v]] > 0
        off.append((base + downs[-1])[active, relevant[v]].mean())
        moved = ups[-1][:, relevant[v]].abs()
        ratios.append(moved[~active].mean() / moved[active].mean())
    up, down = torch.stack(ups), torch.stack(downs)
    chosen, swing = selectivity(up, relevant), selectivity(up - down, relevant)
    return {
        "up": up,
        "down": down,
        "selectivity_mean": chosen.over_mean,
        "selectivity_max": chosen.over_max,
        "selectivity_swing": swing.over_mean,
        "switched_off": torch.stack(off),
        "inactive_ratio": torch.stack(ratios),
        "sign": torch.tensor(signs),
        "sweep": sweep(l3d, x, deltas * torch.tensor(signs).to(deltas)),
    }


def sweep(l3d: L3D, x: Tensor, steps: Tensor) -> Tensor:
    """Returns the median change of each output along each subnetwork (paper Fig. 5).

    As in the authors' figure, the median is over samples where the output is not zero both before and after.

    Args:
        l3d: The decomposition.
        x: Samples `[n, n_features]`.
        steps: The delta of one unit for each subnetwork, its sign raising the relevant output `[n_v]`.

    Returns:
        `[n_v, n_deltas, n_o]`.
    """
    with torch.no_grad():
        base = l3d.model(x)
    medians = []
    for v, step in enumerate(steps.tolist()):
        y = delta_sweep(l3d, v, [delta * step for delta in DELTAS], x)
        change = torch.where((y == 0) & (base == 0), torch.nan, y - base)
        medians.append(change.nanmedian(1).values)
    return torch.stack(medians).nan_to_num()
