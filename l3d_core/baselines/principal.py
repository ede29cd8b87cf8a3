"""Gradient principal directions: the n_v orthogonal directions that hold most of the gradients' squares."""

from __future__ import annotations

import torch
from torch import Tensor

from .evaluation import Directions


def principal_directions(g: Tensor, n_v: int) -> Directions:
    """Returns the top right singular vectors of the gradients as V_in and V_out alike.

    `g = U S V^T`, not centred; with every coefficient kept no n_v directions rebuild g better (Eckart and Young),
    and the error is `sum_{i > n_v} S_i^2 / sum_i S_i^2`.

    Args:
        g: Gradients `[..., n, n_w]`.
        n_v: Directions wanted, at most n and n_w.

    Returns:
        Orthonormal rows, the largest singular value first.

    Raises:
        ValueError: n_v below 1, or more than there are singular vectors.
    """
    most = min(g.shape[-2:])
    if not 1 <= n_v <= most:
        raise ValueError(f"n_v is {n_v}; expected 1 to {most}, as {tuple(g.shape[-2:])} gradients have no more.")
    v = torch.linalg.svd(g, full_matrices=False).Vh[..., :n_v, :]
    return Directions(v, v)
