"""One form for what any method finds: directions that rebuild gradients, and components that add up to the weights.

L3D finds directions and APD components; each is turned into the other here, so that both are read in both ways.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..baselines.apd import APD
from ..baselines.apd_losses import attributions
from ..baselines.apd_networks import Factors
from ..baselines.principal import principal_directions
from ..baselines.random_directions import random_directions
from ..training import L3D
from .comparison_subjects import Subject

# Gradients of more numbers than these are decomposed by random projections, as good as exact for the first directions.
EXACT = 2e7
# Samples, as APD was trained on, that tell which of its components are live.
N_LIVE = 4000


class Parts(NamedTuple):
    """What a method finds in one target, rows in the order of the network's matrices.

    Attributes:
        v_in: Encoder directions `[n_v, n_w]`.
        v_out: Decoder directions of length 1, or 0 `[n_v, n_w]`.
        components: What is added up to make the weights `[n_v, n_w]`.
        rest: What is added to these and always on `[1, n_w]`.
        live: Which are used `[n_v]`.
    """

    v_in: Tensor
    v_out: Tensor
    components: Tensor
    rest: Tensor
    live: Tensor


def from_directions(v_in: Tensor, v_out: Tensor, w0: Tensor, live: Tensor | None = None) -> Parts:
    """Returns directions with the components they make of the weights: `W_0 = rest + sum_v c_v v`, least squares in c.

    Args:
        v_in: `[n_v, n_w]`.
        v_out: `[n_v, n_w]`.
        w0: The weights `[1, n_w]`.
        live: Which are used `[n_v]`; None for all. Dead ones get a c of 0 and directions of 0.
    """
    live = torch.ones(len(v_out), dtype=torch.bool) if live is None else live
    used = (v_out * live[:, None]).double()
    # The shortest c there is, through the Gram matrix: directions may be more than they span.
    c = torch.linalg.pinv(used @ used.mT, rtol=1e-6, hermitian=True) @ (used @ w0.double().mT)
    components = (c * used).to(v_out)
    return Parts(v_in * live[:, None], v_out * live[:, None], components, w0 - components.sum(0), live)


def of_l3d(l3d: L3D, subject: Subject) -> Parts:
    """Returns an L3D decomposition of a target, see `from_directions`."""
    v_in, v_out = (subject.rows({n: t.detach() for n, t in side.dense().items()}) for side in (l3d.v_in, l3d.v_out))
    return from_directions(v_in, v_out, subject.w0, l3d.live)


def of_apd(apd: APD, subject: Subject, x: Tensor, run: int = 0) -> Parts:
    """Returns an APD decomposition of a target: `v_out = P_c / |P_c|`, v_in its pseudo-inverse, no rest.

    Dead components have directions of 0.

    Args:
        apd: Decompositions.
        subject: The target of one of them.
        x: Inputs as APD was trained on, those without an active feature too, on which a live component is among the
            largest attributions once `[n, n_i]`.
        run: Which.
    """
    each = {m: own.each()[run] for m, own in apd.components.items()}
    rows = torch.cat([each[m].flatten(1) for m in subject.network.weights], 1)
    scores = attributed(subject, rows, x)
    k_count = max(int(apd.config.top_k * len(x)), 1)
    live = (scores >= scores.flatten().topk(k_count).values[-1]).any(0) & (scores > 0).any(0)
    v_in, v_out = torch.zeros_like(rows), normalize(rows, dim=1) * live[:, None]
    v_in[live] = torch.linalg.pinv(v_out[live].double(), rtol=1e-6).mT.to(rows)
    return Parts(v_in, v_out, rows, torch.zeros_like(subject.w0), live)


def principal(g: Tensor, n_v: int, subject: Subject) -> Parts:
    """Returns the principal directions of gradients `[n, n_w]`, as many as there can be up to n_v."""
    v = leading(g, min(n_v, *g.shape))
    return from_directions(v, v, subject.w0)


def leading(g: Tensor, n_v: int) -> Tensor:
    """Returns the n_v leading right singular vectors of gradients as rows."""
    if g.numel() <= EXACT:
        return principal_directions(g, n_v).v_out
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.svd_lowrank(g, q=n_v + 50, niter=4)[2].mT[:n_v].contiguous()


def random(g: Tensor, n_v: int, subject: Subject, seed: int) -> Parts:
    """Returns random directions with the encoder that makes the most of them."""
    return from_directions(*random_directions(g, n_v, seed=seed), subject.w0)


def as_factors(subject: Subject, rows: Tensor) -> dict[str, Factors]:
    """Returns components of full rank as APD's networks take them.

    Args:
        subject: The target.
        rows: `[n_v, n_w]`.
    """
    found = {}
    for m, p in subject.matrices(rows).items():
        n_v, n_in, n_out = p.shape
        if n_in >= n_out:
            u, v = p.transpose(0, 1), torch.eye(n_out).to(p).expand(n_v, -1, -1)
        else:
            u, v = torch.eye(n_in).to(p)[:, None].expand(-1, n_v, -1), p
        found[m] = Factors(u[None].contiguous(), v[None].contiguous())
    return found


def attributed(subject: Subject, rows: Tensor, x: Tensor, chunk: int = 500) -> Tensor:
    """Returns how much each component moves each sample's outputs to first order (APD Eq. 8), `[n, n_v]`.

    Args:
        subject: The target, where derivatives are taken.
        rows: Components `[n_v, n_w]`.
        x: Inputs `[n, n_i]`.
        chunk: Samples at once.
    """
    factors, network = as_factors(subject, rows), subject.network
    with torch.no_grad():
        parts = [attributions(network, part[None], network.weights, factors)[0] for part in x.split(chunk)]
    return torch.cat(parts)
