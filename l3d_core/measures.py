"""Measures of what toy decompositions find: rank, overlap, linearity, sources of error, agreement, signs of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .gradients import side_by_side
from .intervention import delta_sweep, output_gradients
from .l3d import L3DConfig, batch_top_k
from .metrics import match_directions
from .training import L3D


class EffectiveRank(NamedTuple):
    """How many singular values of a matrix count.

    Attributes:
        singular_ratio: Second over first singular value, `[...]`, in [0, 1].
        rank: Effective rank, `[...]`, between 1 and the number of singular values.
    """

    singular_ratio: Tensor
    rank: Tensor


def effective_rank(matrices: Tensor) -> EffectiveRank:
    """Returns how far a subnetwork's matrices are from rank 1, from their singular values s.

    `singular_ratio = s_2 / s_1`; `rank = exp(-sum_i p_i log p_i)` with `p_i = s_i^2 / sum_j s_j^2`, the effective
    rank of Roy and Vetterli (2007) with squares, so that p is each part's share of the squared norm.

    Args:
        matrices: `[..., a, b]`, such as one tensor of all subnetworks `[n_v, a, b]`.

    Returns:
        Both, `[...]`; 0 for a matrix of zeros, and ratio 0 where there is one singular value.
    """
    s = torch.linalg.svdvals(matrices)
    first, squares = s[..., 0], s.square()
    nonzero = first > 0
    second = s[..., 1] if s.shape[-1] > 1 else torch.zeros_like(first)
    p = squares / torch.where(nonzero, squares.sum(-1), 1)[..., None]
    return EffectiveRank(second / torch.where(nonzero, first, 1), nonzero * torch.special.entr(p).sum(-1).exp())


class Overlap(NamedTuple):
    """abs(cos) over all pairs of subnetworks of one decomposition, 0-dimensional; NaN where there is no pair."""

    mean: Tensor
    largest: Tensor


def overlap(v: Tensor, live: Tensor | None = None) -> Overlap:
    """Returns how much live subnetworks share directions: circuit superposition (paper Table 1) as a number.

    Args:
        v: Directions `[n_v, ...]`, whole or on one tensor; a zero direction has cosine 0.
        live: Which subnetworks count `[n_v]`; None for all.

    Returns:
        Mean and largest `|<v_i, v_j>| / (|v_i| |v_j|)` over pairs i < j.
    """
    rows = normalize(v.flatten(1) if live is None else v[live].flatten(1), dim=-1)
    i, j = torch.triu_indices(len(rows), len(rows), 1, device=v.device)
    cosines = (rows @ rows.mT).abs()[i, j]
    return Overlap(cosines.mean(), cosines.max() if len(cosines) else cosines.mean())


class Linearity(NamedTuple):
    """How far along each subnetwork the outputs change linearly.

    Attributes:
        error: Relative error of the linear prediction, `[n_v, n_deltas]`.
        reach: Largest abs(delta) up to which it is small, `[n_v]`; 0 if at none.
    """

    error: Tensor
    reach: Tensor


def linearity(l3d: L3D, inputs: Tensor, deltas: Sequence[float] | Tensor, *, limit: float = 0.2) -> Linearity:
    """Returns how well the derivative along a subnetwork predicts an intervention (paper Eqs. 6 and 10).

    `error = |dy - delta df/ddelta| / |dy|` with `dy = f(x, W_0 + delta v) - f(x, W_0)`, norms over samples and
    outputs. The reach is the largest of the deltas' sizes such that the error is below the limit there and at every
    delta given that is smaller in size, of either sign.

    Args:
        l3d: A decomposition.
        inputs: `[n, ...]`.
        deltas: Steps in units of v_out, the same for all subnetworks `[n_deltas]` or for each its own
            `[n_v, n_deltas]`, such as `matched_deltas(l3d, 1)[:, None] * lengths`.
        limit: Errors below it are small.

    Returns:
        Errors and reaches. Where nothing changes the error is 0 if nothing was predicted, and infinite otherwise.
    """
    like, errors = l3d.v_out.flat, []
    steps = torch.as_tensor(deltas, dtype=torch.float64).expand(l3d.v_out.n_v, -1)
    for v, own in enumerate(steps.tolist()):
        base, *moved = delta_sweep(l3d, v, [0.0, *own], inputs)
        change = torch.stack(moved) - base
        predicted = torch.einsum("d,...->d...", steps[v].to(like), output_gradients(l3d, v, inputs))
        wrong, actual = (change - predicted).flatten(1).norm(dim=1), change.flatten(1).norm(dim=1)
        unmoved = torch.where(wrong > 0, torch.inf, 0.0)
        errors.append(torch.where(actual > 0, wrong / torch.where(actual > 0, actual, 1), unmoved))
    error, size = torch.stack(errors), steps.abs().to(like)
    # The smallest step that fails bounds the reach.
    failed = torch.where(error < limit, torch.inf, size).min(1, keepdim=True).values
    return Linearity(error, torch.where(size < failed, size, 0).max(1).values)


class ErrorPart(NamedTuple):
    """Where the error of a reconstruction lies.

    Attributes:
        recon_sq: Squared residual over squared size of all gradients, 0-dimensional.
        group_recon_sq: The same of each group of samples, `[n_groups]`.
        group_share: Each group's share of the squared residual, `[n_groups]`.
        tensor_share: Each tensor's share of the squared residual, 0-dimensional, by name.
    """

    recon_sq: Tensor
    group_recon_sq: Tensor
    group_share: Tensor
    tensor_share: dict[str, Tensor]


class ErrorSplit(NamedTuple):
    """The error with batch top-k beside the error that the same directions leave with every coefficient kept.

    Attributes:
        top_k: With batch top-k.
        dense: With every coefficient kept.
        labels: The groups' labels, ascending, `[n_groups]`.
    """

    top_k: ErrorPart
    dense: ErrorPart
    labels: Tensor

    @property
    def shortage(self) -> Tensor:
        """recon(k) - recon(k = 1); below 0 where directions trained with top-k disturb one another without it."""
        return self.top_k.recon_sq - self.dense.recon_sq

    @property
    def group_shortage(self) -> Tensor:
        """The same for each group, `[n_groups]`."""
        return self.top_k.group_recon_sq - self.dense.group_recon_sq


def error_split(
    gradients: Mapping[str, Tensor], v_in: Tensor, v_out: Tensor, config: L3DConfig, groups: Tensor
) -> ErrorSplit:
    """Returns how much of the error is due to top-k, and in which samples and tensors it lies (design: error split).

    Differs from a mean over batches: sums over all samples are divided once, so that groups and tensors add up to
    the whole.

    Args:
        gradients: What `divergence_gradients` returns, a dict of `[n_s, *shape]`.
        v_in: Encoder directions as rows `[n_v, n_w]`.
        v_out: Decoder directions as rows `[n_v, n_w]`.
        config: Gives the batch size, batches being cut in the order of the samples, and how many are kept of each.
        groups: Each sample's group, whole numbers such as how many features are active `[n_s]`.

    Returns:
        Both errors and their parts; shares are 0 where there is no residual.

    Raises:
        ValueError: Not one group per sample.
    """
    g = side_by_side(gradients)
    if groups.shape != g.shape[:1]:
        raise ValueError(f"groups have shape {tuple(groups.shape)}; expected one number per sample, ({len(g)},).")
    labels, member = groups.to(g.device).unique(return_inverse=True)
    z = g @ v_in.mT
    kept = torch.cat([batch_top_k(batch, config.k_count(len(batch))) for batch in z.split(config.batch_size)])
    size, widths = g.square().sum(1), [part[0].numel() for part in gradients.values()]

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        return a / torch.where(b > 0, b, 1)

    def by_group(x: Tensor) -> Tensor:
        return x.new_zeros(len(labels)).index_add(0, member, x)

    def part(coefficients: Tensor) -> ErrorPart:
        squares = (g - coefficients @ v_out).square()
        each, total = by_group(squares.sum(1)), squares.sum()
        shares = [ratio(own.sum(), total) for own in squares.split(widths, 1)]
        named = dict(zip(gradients, shares, strict=True))
        return ErrorPart(ratio(total, size.sum()), ratio(each, by_group(size)), ratio(each, total), named)

    return ErrorSplit(part(z * kept), part(z), labels)


class Agreement(NamedTuple):
    """How far two decompositions found the same subnetworks, both 0-dimensional.

    Attributes:
        mean: Mean abs(cos) of matched subnetworks.
        share: Share of the matches whose abs(cos) is above a limit.
    """

    mean: Tensor
    share: Tensor


def agreement(
    a: Tensor, b: Tensor, live_a: Tensor | None = None, live_b: Tensor | None = None, *, limit: float = 0.9
) -> Agreement:
    """Returns the agreement of two decompositions of one model, `metrics.seed_agreement` of stored tensors.

    Live subnetworks are matched one to one with the largest total abs(cos); those left over on the larger side do
    not count.

    Args:
        a: v_out of one, `[n_a, ...]`.
        b: v_out of the other, `[n_b, ...]`.
        live_a: Which of a count `[n_a]`; None for all.
        live_b: Which of b count `[n_b]`; None for all.
        limit: A match counts as found again above it.

    Returns:
        Mean and share, 0 where there is no match.
    """
    rows = (v.flatten(1) if live is None else v[live].flatten(1) for v, live in ((a, live_a), (b, live_b)))
    cosines = match_directions(*rows).cosines
    matches = max(len(cosines), 1)
    return Agreement(cosines.sum() / matches, (cosines > limit).sum() / matches)


def sign_split(impacts: Tensor, x: Tensor, relevant: Tensor) -> Tensor:
    """Returns how much of each subnetwork's impact on its feature's samples comes from positive values (paper 3.4).

    `sum of impact where x_i > 0 / sum of impact where x_i != 0`: 1 or 0 for a subnetwork of one sign only, about 1/2
    for one circuit that serves both.

    Args:
        impacts: `[n_s, n_v]`, not negative, see `impact`.
        x: Inputs `[n_s, n_features]`.
        relevant: Index of each subnetwork's feature `[n_v]`.

    Returns:
        Shares `[n_v]`; NaN for a subnetwork without impact where its feature is active.

    Raises:
        ValueError: Shapes that do not fit together.
    """
    if len(impacts) != len(x) or impacts.shape[1:] != relevant.shape:
        raise ValueError(
            f"impacts {tuple(impacts.shape)}, x {tuple(x.shape)}, relevant {tuple(relevant.shape)}; "
            "expected [n_s, n_v], [n_s, n_features] and [n_v]."
        )
    own = x[:, relevant]
    return (impacts * (own > 0)).sum(0) / (impacts * (own != 0)).sum(0)
