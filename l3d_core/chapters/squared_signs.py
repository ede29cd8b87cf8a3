"""Which sign of its feature each subnetwork of the squaring network serves: one circuit for x^2, or two."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import toys
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients, side_by_side
from ..measures import sign_split
from .recovery import live
from .studies import Study, Variant
from .toy_chapter import ToyResult
from .toy_measures import fresh

# A subnetwork serves one sign if less than a tenth of its impact is of the other.
ONE_SIDED = (0.1, 0.9)


def task_of(name: str, seed: int) -> toys.Task:
    """Returns the target of a variant: `code` decomposes the network of the authors' code."""
    return toys.squared(seed, elu=name.startswith("code"))


def variant_of(result: ToyResult, name: str) -> Variant:
    """Returns the settings of one of the three variants."""
    own = result.settings.variants
    return own[name] if name in own else result.settings.extras[name].variants[name]


class Impacts(NamedTuple):
    """Impacts of the live subnetworks of one target (paper Eq. 8).

    Attributes:
        x: Fresh samples `[n, n_features]`.
        values: `[n, n_live]`.
        top: Top input of each `[n_live]`.
        subnetworks: Their indices `[n_live]`.
    """

    x: Tensor
    values: Tensor
    top: Tensor
    subnetworks: Tensor


def impacts(result: ToyResult, name: str, target: int = 0, n_references: int = 10) -> Impacts:
    """Returns the impacts of a variant's live subnetworks on fresh samples.

    Args:
        result: The chapter's.
        name: A variant.
        target: Which of the main study's targets.
        n_references: Reference samples that impacts are averaged over.
    """
    main, divergence = result.main, resolve_divergence(variant_of(result, name).divergence)
    task, alive = task_of(name, main.seeds[target]), live(main, name)[target]
    x = fresh(task)
    v_in, values = main.of("v_in", name)[target][alive], torch.zeros(len(x), int(alive.sum()))
    for draw in range(n_references):
        parts = divergence_gradients(task.model, x, divergence, seed=draw)
        values += (side_by_side(parts) @ v_in.mT).abs() / n_references
    return Impacts(x, values, main.of("top_input", name)[target][alive], alive.nonzero().flatten())


def sign_shares(result: ToyResult, name: str) -> list[Tensor]:
    """Returns the share of each live subnetwork's impact that falls on samples with a positive feature, per target.

    Only samples in which the subnetwork's feature is active count.
    """
    every = (impacts(result, name, i) for i in range(len(result.main.seeds)))
    return [sign_split(found.values, found.x, found.top) for found in every]


def split_features(main: Study, name: str, shares: list[Tensor]) -> Tensor:
    """Returns how many features of each target have a live subnetwork for either sign of x, `[n_targets]`.

    Args:
        main: The study of the variant.
        name: The variant.
        shares: See `sign_shares`.
    """
    counts, alive = [], live(main, name)
    for top, lives, share in zip(main.of("top_input", name), alive, shares, strict=True):
        own = top[lives]
        negative, positive = (set(own[side].tolist()) for side in (share < ONE_SIDED[0], share > ONE_SIDED[1]))
        counts.append(len(negative & positive))
    return torch.tensor(counts)
