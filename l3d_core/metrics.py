"""Measures of a decomposition: shares, matching, coverage, selectivity, agreement, held-out error."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .gradients import divergence_gradients
from .l3d import Reconstruction, reconstruct
from .training import L3D


class TopShare(NamedTuple):
    """Which row (or group of rows) of each matrix is largest, and its share of the squared norm.

    Attributes:
        index: `[...]`, integers.
        share: `[...]`, in (0, 1]; 0 for a matrix of zeros.
    """

    index: Tensor
    share: Tensor


def top_share(rows: Tensor, group_size: int = 1) -> TopShare:
    """Returns the share of the largest row in the squared norm of a matrix.

    With v = v_out and rows = v.W_in this is the top-input share, `max_i |W_in[i]|^2 / sum_i |W_in[i]|^2`.

    Args:
        rows: `[..., n, n_h]`; for the top output pass the transpose of W_out.
        group_size: Consecutive rows counted together, a divisor of n.

    Returns:
        Index of the row (or group) and its share, `[...]`.

    Raises:
        ValueError: group_size does not divide n.
    """
    n = rows.shape[-2]
    if group_size < 1 or n % group_size:
        raise ValueError(f"group_size {group_size} does not divide the {n} rows; expected a divisor.")
    energy = rows.square().sum(-1).unflatten(-1, (-1, group_size)).sum(-1)
    largest = energy.max(-1)
    total = energy.sum(-1)
    return TopShare(largest.indices, largest.values / torch.where(total > 0, total, 1))


def coverage(top: Tensor, live: Tensor, n_features: int) -> Tensor:
    """Returns how many live subnetworks have each feature as their top input.

    Args:
        top: Top input of each subnetwork `[n_v]`.
        live: Which subnetworks count `[n_v]`.
        n_features: Number of features.

    Returns:
        Counts `[n_features]`; a feature is covered where it is at least 1, once where it is 1.
    """
    return torch.bincount(top[live], minlength=n_features)


class Matching(NamedTuple):
    """A one-to-one matching of the rows of two sets of vectors.

    Attributes:
        rows: Indices into the first set `[m]`.
        columns: Indices into the second set `[m]`.
        cosines: abs(cos) of each pair `[m]`.
    """

    rows: Tensor
    columns: Tensor
    cosines: Tensor


def match_directions(a: Tensor, b: Tensor) -> Matching:
    """Returns the pairing of two sets of vectors with the largest total abs(cos) (Hungarian algorithm).

    Args:
        a: `[n_a, n]`.
        b: `[n_b, n]`.

    Returns:
        The min(n_a, n_b) pairs. Sign and length of a vector do not matter; a zero vector has cosine 0.
    """
    cosines = (torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).mT).abs()
    rows, columns = linear_sum_assignment(cosines.cpu().numpy(), maximize=True)
    rows, columns = torch.as_tensor(rows), torch.as_tensor(columns)
    return Matching(rows, columns, cosines.cpu()[rows, columns])


def seed_agreement(a: L3D, b: L3D) -> float:
    """Returns the mean matched abs(cos) over live subnetworks of two decompositions of one model."""
    cosines = match_directions(a.v_out.matrix()[a.live], b.v_out.matrix()[b.live]).cosines
    return float(cosines.mean()) if len(cosines) else 0.0


class Selectivity(NamedTuple):
    """How much more an intervention moves the relevant output than the others.

    Attributes:
        over_mean: Mean abs change of the relevant output / mean abs change of the other outputs.
        over_max: The same over the most moved other output.
    """

    over_mean: Tensor
    over_max: Tensor


def selectivity(change: Tensor, relevant: Tensor) -> Selectivity:
    """Returns the selectivity of interventions from the changes of outputs they cause.

    Args:
        change: `f(W_0 + delta v) - f(W_0)`, `[n_v, n_s, n_o]`, one intervention for each subnetwork.
        relevant: Index of each subnetwork's relevant output `[n_v]`.

    Returns:
        Two ratios per subnetwork, `[n_v]` each; averages over samples come before the ratio.
    """
    moved = change.abs().mean(1)
    own = moved.gather(1, relevant[:, None]).squeeze(1)
    others = torch.ones_like(moved, dtype=torch.bool).scatter(1, relevant[:, None], False)
    rest = moved[others].reshape(len(moved), -1)
    return Selectivity(own / rest.mean(1), own / rest.max(1).values)


def gradient_reconstruction(
    l3d: L3D, inputs: Tensor, *, k_fraction: float | None = None, seed: int = 0, chunk_size: int | None = None
) -> Reconstruction:
    """Returns the reconstruction of gradients on any inputs, such as held-out ones (paper Eqs. 3-5).

    Args:
        l3d: A finished decomposition.
        inputs: One batch `[n, ...]`.
        k_fraction: Fraction of coefficients kept; None for the one it was trained with. 1 keeps all, so that
            the difference to the trained value is the error due to top-k alone.
        seed: Seeds the references.
        chunk_size: See `divergence_gradients`.

    Returns:
        Error and mask.

    Raises:
        ValueError: k_fraction outside (0, 1], or inputs that cannot be used, see `divergence_gradients`.
    """
    gradients = divergence_gradients(
        l3d.model, inputs, l3d.divergence, references=l3d.config.reference,
        parameters=l3d.parameters, chunk_size=chunk_size, seed=seed,
    )  # fmt: skip
    g = torch.cat([part.reshape(len(part), -1) for part in gradients.values()], 1)
    config = l3d.config if k_fraction is None else replace(l3d.config, k_fraction=k_fraction)
    return reconstruct(g, l3d.v_in.matrix(), l3d.v_out.matrix(), config.k_count(len(g)), dense=False)
