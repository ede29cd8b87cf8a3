"""What the subnetworks of a real model act on: impacts on held-out samples, and how alike the samples of each are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..divergences import Divergence
from ..gradients import build_target, sample_gradients, target_outputs
from ..references import draw_partners, reference_outputs


class Impacts(NamedTuple):
    """Impacts of directions on samples, positions of a text being samples of their own, `[n_s, n_directions]` each.

    Attributes:
        absolute: Mean over references of the absolute value (paper Eq. 8).
        signed: Absolute value of the mean, as the authors' code had it for tokens.
    """

    absolute: Tensor
    signed: Tensor


def impacts(
    model: nn.Module, inputs: Tensor, v_in: Tensor, divergence: Divergence, parameters: str | Sequence[str],
    *, n_references: int = 10, seed: int = 0, chunk_size: int = 256, progress: bool = False,
) -> Impacts:  # fmt: skip
    """Returns the impacts of any directions, those of several decompositions and of baselines in one pass.

    Gradients are formed once for all directions; `intervention.impact` gives the same for one decomposition.

    Args:
        model: The target.
        inputs: `[n, ...]`; references are outputs of other samples among them, drawn with replacement.
        v_in: Encoder directions as rows `[n_directions, n_w]`.
        divergence: Whose gradients are taken.
        parameters: Name patterns.
        n_references: References to average over (10 in App. B.4).
        seed: Seeds the references.
        chunk_size: Inputs whose gradients are formed at once.
        progress: Show a bar on standard error.
    """
    target = build_target([model], parameters)
    y = torch.cat([target_outputs(target, x[None]) for x in inputs.split(chunk_size)], 1)
    flat, generator = y.flatten(1, 2), torch.Generator().manual_seed(seed)
    absolute, signed = (torch.zeros(flat.shape[1], len(v_in), dtype=v_in.dtype) for _ in range(2))
    for _ in tqdm(range(n_references), disable=not progress, desc="impacts", unit="reference"):
        partners = draw_partners(1, flat.shape[1], generator)
        cotangents = divergence.cotangent(flat, reference_outputs(flat, "sample", partners=partners)).reshape(y.shape)
        at = 0
        for x, c in zip(inputs.split(chunk_size), cotangents[0].split(chunk_size), strict=True):
            z = (sample_gradients(target, x[None], c[None])[0] @ v_in.mT).cpu()
            absolute[at : at + len(z)] += z.abs()
            signed[at : at + len(z)] += z
            at += len(z)
    return Impacts(absolute / n_references, signed.abs() / n_references)


def coherence(top: Tensor, labels: Tensor) -> Tensor:
    """Returns the share of pairs among each direction's top samples that have one label, `[n_directions]`.

    Args:
        top: Top samples of each direction `[n_directions, n]`, see `intervention.top_samples`; n at least 2.
        labels: What each sample is, whole numbers: its next token, its class `[n_s]`.

    Raises:
        ValueError: Fewer than two top samples.
    """
    n = top.shape[1]
    if n < 2:
        raise ValueError(f"got {n} top samples of each direction; expected at least 2, to have pairs.")
    own = labels[top]
    same = (own[:, :, None] == own[:, None, :]).sum((1, 2)) - n
    return same / (n * (n - 1))


def random_sets(scores: Tensor, labels: Tensor, n: int, *, draws: int = 1000, seed: int = 0) -> Tensor:
    """Returns mean coherences of as many sets of random samples as there are directions, drawn again and again.

    Args:
        scores: Impacts `[n_s, n_directions]`; only their shape counts.
        labels: See `coherence`.
        n: Samples of a set.
        draws: How often all sets are drawn.
        seed: Seeds the draws.

    Returns:
        `[draws]`.
    """
    generator = torch.Generator().manual_seed(seed)
    n_s, n_directions = scores.shape
    sets = torch.randint(n_s, (draws * n_directions, n), generator=generator)
    return coherence(sets, labels).view(draws, n_directions).mean(1)


def z_score(value: float, against: Tensor) -> float:
    """Returns how many standard deviations of some values another lies above their mean.

    Args:
        value: Such as the mean coherence of a decomposition.
        against: Such as those of random directions, `[n]`, n at least 2.

    Raises:
        ValueError: Fewer than two values, or all of them equal.
    """
    spread = float(against.double().std()) if len(against) > 1 else 0.0
    if spread == 0:
        raise ValueError(
            f"got {len(against)} values without spread; expected at least two that differ. Take more seeds."
        )
    return (value - float(against.double().mean())) / spread
