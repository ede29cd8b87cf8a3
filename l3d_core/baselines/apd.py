"""Attribution-based Parameter Decomposition (APD): components that add up to the weights, few at work at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .apd_losses import Losses, attributions, l_p_losses, squared_attributions, top_k_losses
from .apd_networks import Factors, Network


@dataclass(frozen=True, kw_only=True)
class APDConfig:
    """Settings of APD. Defaults are what most experiments of the paper share."""

    n_components: int
    """Number of components C."""
    n_terms: int
    """Rank-one terms of each component in each weight matrix, the m of APD Eq. 20."""
    steps: int
    """Optimiser steps."""
    batch_size: int = 2048
    """Samples in a batch, drawn anew for each (App. D)."""
    top_k: float = 1.0
    """Active components per sample, in the mean over a batch (App. D: .211 to 1.28)."""
    form: str = "top_k"
    """'top_k' (App. A.2.2), or 'l_p', a penalty on attributions instead (App. A.2.3)."""
    attributions: str = "target"
    """Where derivatives are taken: 'target' (Eq. 8), or 'components', at their sum (section 3.1 for TMS 5-2)."""
    faithfulness: float = 1.0
    """Coefficient of the faithfulness loss."""
    minimality: float = 1.0
    """Coefficient of the minimality loss, beta."""
    simplicity: float = 1.0
    """Coefficient of the simplicity loss, alpha."""
    hidden: float = 0.0
    """Coefficient of the error of hidden activations (App. A.2.2)."""
    p: float = 0.9
    """Power of the Schatten norm, in (0, 2]."""
    p_attribution: float = 1.0
    """Power of attributions in the form 'l_p', in (0, 2]."""
    lr: float = 1e-3
    """Highest learning rate."""
    schedule: str = "cosine"
    """'cosine', the first quarter of a cosine, down to 0; or 'constant'."""
    warmup: float = 0.01
    """Share of the steps in which the learning rate rises in a line."""
    unit_norm: bool = False
    """Keep the columns of U at length 1 (App. D.2, for the residual MLP of one layer)."""
    init: str = "xavier"
    """'xavier' (normal) or 'kaiming' (uniform), as the authors' code called them: see `start`."""
    init_scale: float = 1.0
    """Factor on the starting values (2 for residual MLPs in the authors' code)."""
    init_runs: int = 1
    """Number of runs side by side in the authors' code, which changed their starting values: see `start`."""

    def __post_init__(self) -> None:
        for name in ("n_components", "n_terms", "steps", "batch_size", "init_runs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")
        if not 1 <= self.k_count <= self.batch_size * self.n_components:
            raise ValueError(
                f"top_k is {self.top_k}, {self.k_count} active in a batch; expected at least 1 of "
                f"{self.batch_size} samples and at most n_components ({self.n_components}) each."
            )
        for name in ("faithfulness", "minimality", "simplicity", "hidden"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite coefficient of at least 0.")
        for name in ("p", "p_attribution"):
            if not 0 < getattr(self, name) <= 2:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a power in (0, 2], such as 0.9.")
        if not (0 < self.lr < math.inf and 0 <= self.warmup <= 1 and 0 < self.init_scale < math.inf):
            raise ValueError(
                f"lr {self.lr}, warmup {self.warmup}, init_scale {self.init_scale}; "
                "expected lr and init_scale above 0, warmup in [0, 1]."
            )
        choices = {
            "form": ("top_k", "l_p"), "attributions": ("target", "components"), "schedule": ("cosine", "constant"),
            "init": ("xavier", "kaiming"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {list(allowed)}.")

    @property
    def k_count(self) -> int:
        """How many components are active in a batch, over all samples (App. D.1.1: .211 * 2048 = 432)."""
        return math.floor(self.top_k * self.batch_size + 1e-9)

    def lr_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        rising = math.floor(self.warmup * self.steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        if self.schedule == "constant":
            return self.lr
        return self.lr * math.cos(math.pi / 2 * (step - rising) / (self.steps - rising))


class APD(NamedTuple):
    """A decomposition of several networks of one shape.

    Attributes:
        components: U and V of each weight matrix.
        history: Losses, means over some steps each, see `apd_training.RECORD`, `[n_runs, n_records]` each.
        first_losses: The whole loss of the first steps `[n_runs, n]`, to tell whether a run is still what it was.
        config: The settings.
        seeds: Of each run.
    """

    components: dict[str, Factors]
    history: Losses
    first_losses: Tensor
    config: APDConfig
    seeds: tuple[int, ...]


def start(network: Network, config: APDConfig, generators: Sequence[torch.Generator]) -> dict[str, Factors]:
    """Returns the components that runs start from.

    PyTorch takes a tensor of more than two axes for a convolution's kernel, so that the authors' starting values are
    much smaller than those of a matrix would be, and depend on the number of networks side by side: with n of these,
    U of shape `[n, C, d, m]` gets the standard deviation `scale sqrt(2 / ((n + C) d m))`, V of `[n, C, m, d]` likewise.

    Args:
        network: The targets.
        config: Gives C, m and how to draw.
        generators: One for each run.
    """

    def drawn(d: int) -> Tensor:
        shape, size = (config.n_components, d, config.n_terms), d * config.n_terms
        if config.init == "xavier":
            std = config.init_scale * math.sqrt(2 / ((config.init_runs + config.n_components) * size))
            return torch.stack([std * torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])
        bound = config.init_scale * math.sqrt(6 / (config.n_components * size))
        return torch.stack([bound * (2 * torch.rand(shape, generator=g, dtype=torch.float64) - 1) for g in generators])

    return {
        name: Factors(
            drawn(w.shape[1]).transpose(1, 2).contiguous().to(w), drawn(w.shape[2]).transpose(2, 3).contiguous().to(w)
        )
        for name, w in network.weights.items()
    }


def losses(network: Network, x: Tensor, components: dict[str, Factors], config: APDConfig) -> Losses:
    """Returns the terms of the loss of one batch, by the form of the config, `[n_runs]` each.

    Args:
        network: The targets.
        x: Inputs `[n_runs, n_s, n_i]`.
        components: P_c of each weight matrix.
        config: The settings.
    """
    at = network.weights
    if config.attributions == "components":
        at = {name: own.total() for name, own in components.items()}
    if config.form == "l_p":
        squares = squared_attributions(network, x, at, components)
        return l_p_losses(network, x, components, squares, config.p_attribution, config.p)
    with torch.no_grad():
        scores = attributions(network, x, at, components)
    k_count = math.floor(config.top_k * x.shape[1] + 1e-9)
    return top_k_losses(network, x, components, scores, k_count, config.p, config.hidden > 0)


def weighted(found: Losses, config: APDConfig) -> Tensor:
    """Returns the loss of each run, the sum of its terms times their coefficients (APD Eq. 23)."""
    return (
        config.faithfulness * found.faithfulness + config.minimality * found.minimality
        + config.simplicity * found.simplicity + config.hidden * found.hidden
    )  # fmt: skip
