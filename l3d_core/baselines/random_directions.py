"""Random directions, with the encoder that makes the most of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .evaluation import Directions


def random_directions(g: Tensor, n_v: int, *, seed: int = 0) -> Directions:
    """Returns random directions of unit length as V_out, with their pseudo-inverse as V_in.

    With every coefficient kept `V_out^T V_in g` is then the projection of g on the span of V_out, the least squares
    solution. With n_v at or above n_w the span is everything.

    Args:
        g: Gradients `[n, n_w]`, from which length, device and precision of the directions are taken.
        n_v: Directions wanted.
        seed: Seeds the draw, uniform on the sphere.

    Returns:
        The directions.

    Raises:
        ValueError: n_v below 1.
    """
    if n_v < 1:
        raise ValueError(f"n_v is {n_v}; expected at least 1.")
    drawn = torch.randn(n_v, g.shape[-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    v_out = normalize(drawn, dim=-1)
    return Directions(torch.linalg.pinv(v_out).mT.to(g), v_out.to(g))
