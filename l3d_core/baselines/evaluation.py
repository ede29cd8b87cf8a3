"""Directions that are not learned by L3D, and how well they rebuild gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..l3d import L3DConfig, reconstruct


class Directions(NamedTuple):
    """n_v directions as full rows, in the order of the columns of the gradients they were made from.

    Attributes:
        v_in: Encoder V_in, `[..., n_v, n_w]`; leading axes are runs.
        v_out: Decoder V_out, `[..., n_v, n_w]`.
    """

    v_in: Tensor
    v_out: Tensor


class Errors(NamedTuple):
    """How much of some gradients is not rebuilt.

    Attributes:
        top_k: recon_sq with batch top-k, mean over batches, `[...]`.
        dense: The same with every coefficient kept, `[...]`.
    """

    top_k: Tensor
    dense: Tensor


def reconstruction_errors(directions: Directions, g: Tensor, config: L3DConfig) -> Errors:
    """Returns recon_sq of gradients with batch top-k and with all coefficients kept (paper Eqs. 3-5).

    Args:
        directions: `[..., n_v, n_w]`.
        g: Gradients `[..., n, n_w]`, cut into batches in their order.
        config: Gives the batch size and, with the directions' own n_v, how many coefficients of a batch are kept.

    Returns:
        Means over batches, `[...]` each.
    """
    config = replace(config, n_v=directions.v_out.shape[-2])
    found = [
        [reconstruct(batch, *directions, config.k_count(batch.shape[-2]), dense).recon_sq for dense in (False, True)]
        for batch in g.split(config.batch_size, -2)
    ]
    return Errors(*(torch.stack(errors).mean(0) for errors in zip(*found, strict=True)))
