"""What a study's decompositions found: live subnetworks, covered features, shares and errors of each target."""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import last_epochs
from .studies import Study


def live(study: Study, name: str) -> Tensor:
    """Returns which subnetworks were used in the last epoch, `[n_targets, n_v]`."""
    return study.of("p_active", name) > 0


def found_all(study: Study, name: str, n: int) -> Tensor:
    """Returns on which targets every one of n features (or groups) is the top input of a live subnetwork."""
    return study.of("covered", name).flatten() == n


def live_share(study: Study, name: str, key: str = "share_in") -> Tensor:
    """Returns the mean share of the live subnetworks of each target, `[n_targets]`."""
    alive = live(study, name)
    return (study.of(key, name) * alive).sum(1) / alive.sum(1).clamp_min(1)


def covered_with(study: Study, name: str, n: int, share: float) -> Tensor:
    """Returns on which targets each feature has a live subnetwork with at least such a share of it."""
    good = live(study, name) & (study.of("share_in", name) >= share)
    tops = [top[g].unique().numel() for top, g in zip(study.of("top_input", name), good, strict=True)]
    return torch.tensor(tops) == n


def error(study: Study, name: str) -> Tensor:
    """Returns the mean error of the last 100 epochs of each target."""
    return last_epochs(study.of("recon_sq", name))


def of_n(values: Tensor) -> str:
    """Returns 'k of n' for values that are true or false."""
    return f"{int(values.sum())} of {values.numel()}"
