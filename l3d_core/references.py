"""The reference output each sample is compared with (paper section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("sample", "mean", "uniform")


def draw_partners(n_batches: int, n_s: int, generator: torch.Generator) -> Tensor:
    """Returns, for each sample, which sample of its batch is its reference (Alg. 1 line 4).

    Drawn with replacement, so a sample may be its own reference, as in the authors' code.

    Args:
        n_batches: Number of batches.
        n_s: Samples in each batch, at least 1.
        generator: The run's random stream, on the CPU.

    Returns:
        Integers in `[0, n_s)`, shape `[n_batches, n_s]`.
    """
    return torch.randint(n_s, (n_batches, n_s), generator=generator)


def reference_outputs(y: Tensor, kind: str, *, partners: Tensor | None = None, probabilities: bool = False) -> Tensor:
    """Returns the reference output y_r of every sample, cut off from the graph (paper section 2.2).

    Args:
        y: Outputs of the samples of a batch `[..., n_s, n_o]`.
        kind: 'sample', another sample of the batch (the paper's third choice, which it uses);
            'mean', each output averaged over the batch (its second); 'uniform', a vector of equal
            values (its first): the mean of all outputs, or equal logits for probabilities.
        partners: For 'sample', the index of each sample's reference `[..., n_s]`.
        probabilities: True if y holds logits, which 'mean' averages as probabilities and 'uniform' sets to 1 / n_o.

    Returns:
        `[..., n_s, n_o]`, without gradient.

    Raises:
        ValueError: An unknown kind, or 'sample' without partners of the right shape.
    """
    y = y.detach()
    if kind == "sample":
        if partners is None or partners.shape != y.shape[:-1]:
            got = None if partners is None else tuple(partners.shape)
            raise ValueError(
                f"partners have shape {got}; expected one index per sample, {tuple(y.shape[:-1])}. "
                "Draw them with draw_partners."
            )
        flat, places = y.reshape(-1, *y.shape[-2:]), partners.to(y.device).reshape(-1, y.shape[-2])
        places = places + torch.arange(len(flat), device=y.device)[:, None] * y.shape[-2]
        return flat.flatten(0, 1).index_select(0, places.flatten()).view(y.shape)
    if kind == "mean":
        mean = y.softmax(-1).mean(-2, keepdim=True).log() if probabilities else y.mean(-2, keepdim=True)
        return mean.expand_as(y)
    if kind == "uniform":
        return torch.zeros_like(y) if probabilities else y.mean((-2, -1), keepdim=True).expand_as(y)
    raise ValueError(f"reference {kind!r} is unknown; expected one of {list(KINDS)}, or give reference outputs.")
