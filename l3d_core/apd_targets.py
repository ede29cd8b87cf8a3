"""The targets of the APD paper: tied superposition, residual MLPs and gated functions made by hand (App. D and B.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .baselines.apd_networks import ResidualMLP, TiedSuperposition

# Gated functions: the range of x, neurons for each, and what a control bit that is off takes off before the ReLU.
MOST, N_PIECES, SUPPRESSION = 5.0, 10, 10.0


@dataclass(frozen=True, kw_only=True)
class SparseInputs:
    """Inputs whose features are active independently; rows without an active feature are kept (APD App. D)."""

    n_features: int
    """Length of a row."""
    p_active: float
    """Probability that a feature is active: .05 for superposition, .01 for residual MLPs."""
    signed: bool = False
    """Uniform in [-1, 1] where active (residual MLPs), instead of [0, 1]."""

    def __call__(self, generator: torch.Generator, n: int) -> Tensor:
        """Returns inputs `[n, n_features]`, float32."""
        size = torch.rand(n, self.n_features, generator=generator)
        size = 2 * size - 1 if self.signed else size
        return size * (torch.rand(n, self.n_features, generator=generator) < self.p_active)


@dataclass(frozen=True, kw_only=True)
class GatedInputs:
    """A number in [0, 5] and control bits, each on with a probability (APD App. B.1.1)."""

    n_functions: int = 4
    """Number of control bits."""
    p_active: float = 0.05
    """Probability that a bit is on."""

    def __call__(self, generator: torch.Generator, n: int) -> Tensor:
        """Returns inputs `[n, 1 + n_functions]`, float32."""
        bits = torch.rand(n, self.n_functions, generator=generator) < self.p_active
        return torch.cat([MOST * torch.rand(n, 1, generator=generator), bits.float()], 1)


@dataclass(frozen=True, kw_only=True)
class TargetTraining:
    """How a target is trained (APD App. D.1 and D.2)."""

    kind: str
    """'superposition', labels x; or 'residual', labels x + relu(x)."""
    n_features: int
    """Input features."""
    n_hidden: int
    """Hidden axes of superposition; neurons of a residual MLP, in all layers together."""
    n_layers: int = 1
    """Layers of a residual MLP."""
    n_resid: int = 1000
    """Axes of its residual stream."""
    p_active: float = 0.05
    """Probability that a feature is active."""
    steps: int = 5000
    """AdamW steps."""
    batch_size: int = 1024
    """Samples of a batch, drawn anew."""
    lr: float = 0.005
    """Learning rate at the start."""
    schedule: str = "linear"
    """'linear' down to 0, 'cosine' (its first quarter), or 'constant'."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    init_runs: int = 1
    """Number of targets side by side in the authors' code, which changed their starting values."""

    @property
    def inputs(self) -> SparseInputs:
        """The distribution of the inputs."""
        return SparseInputs(n_features=self.n_features, p_active=self.p_active, signed=self.kind == "residual")

    def lr_at(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        done = step / self.steps
        return self.lr * {"linear": 1 - done, "cosine": math.cos(math.pi / 2 * done), "constant": 1.0}[self.schedule]


def started(config: TargetTraining, seeds: Sequence[int]) -> TiedSuperposition | ResidualMLP:
    """Returns untrained targets.

    The authors' Xavier start took a stack of matrices `[n, d, d']` for a convolution: standard deviation
    `sqrt(2 / ((n + d) d'))`.

    Args:
        config: The architecture.
        seeds: One for each target.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawn(n_in: int, n_out: int) -> Tensor:
        std = math.sqrt(2 / ((config.init_runs + n_in) * n_out))
        return torch.stack([std * torch.randn(n_in, n_out, generator=g) for g in generators])

    if config.kind == "superposition":
        w = drawn(config.n_features, config.n_hidden)
        return TiedSuperposition(w, torch.zeros(w.shape[:2]))
    embed = torch.stack([torch.randn(config.n_features, config.n_resid, generator=g) for g in generators])
    embed = torch.nn.functional.normalize(embed, dim=-1)
    wide = config.n_hidden // config.n_layers
    pairs = [(drawn(config.n_resid, wide), drawn(wide, config.n_resid)) for _ in range(config.n_layers)]
    w_in, w_out = zip(*pairs, strict=True)
    none = tuple(torch.zeros(len(seeds), wide) for _ in range(config.n_layers))
    return ResidualMLP(embed, w_in, none, w_out, embed.mT.contiguous())


class TrainedTargets(NamedTuple):
    """Targets, one for each seed, and how their training went.

    Attributes:
        network: The targets.
        losses: Mean squared errors over the last tenth of the steps `[n_runs]`.
    """

    network: TiedSuperposition | ResidualMLP
    losses: Tensor


def train_targets(config: TargetTraining, seeds: Sequence[int], *, progress: bool = False) -> TrainedTargets:
    """Returns targets trained side by side, each as it would be alone (APD App. D.1 and D.2).

    Args:
        config: What to train.
        seeds: Starting values and data of each.
        progress: Show a bar on standard error.
    """
    network = started(config, seeds)
    embedded = isinstance(network, ResidualMLP)
    w = {name: value.clone().requires_grad_() for name, value in network.weights.items()}
    b = None if embedded else network.b.clone().requires_grad_()
    trained = [*w.values()] if embedded else [*w.values(), b]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    generators = [torch.Generator().manual_seed(2**31 + seed) for seed in seeds]
    last, n_last = 0, max(config.steps // 10, 1)
    for step in tqdm(range(config.steps), disable=not progress, mininterval=5.0, desc=config.kind, unit="step"):
        x = torch.stack([config.inputs(generator, config.batch_size) for generator in generators])
        y = network.outputs(x, w) if embedded else torch.relu(x @ w["W"] @ w["W"].mT + b[:, None])
        labels = x + torch.relu(x) if embedded else x
        errors = (y - labels).square().mean((1, 2))
        optimiser.zero_grad()
        errors.sum().backward()
        optimiser.param_groups[0]["lr"] = config.lr_at(step)
        optimiser.step()
        last = last + errors.detach() * (step >= config.steps - n_last) / n_last
    found = {name: value.detach() for name, value in w.items()}
    if embedded:
        layers = range(config.n_layers)
        w_in, w_out = (tuple(found[f"{kind}.{i}"] for i in layers) for kind in ("W_in", "W_out"))
        return TrainedTargets(network._replace(w_in=w_in, w_out=w_out), last)
    return TrainedTargets(TiedSuperposition(found["W"], b.detach()), last)


class GatedFunctions(NamedTuple):
    """A network made by hand whose output is the sum of the functions whose control bits are on (APD App. B.1).

    Attributes:
        network: Of one run: two residual layers; the stream holds x, the control bits and the output.
        coefficients: a, b, c, d, e, f, g of each function `[n_functions, 7]`, see `trigonometric`.
        owner: Which function each neuron works for, -1 for none, `[n_layers, n_mlp]`.
    """

    network: ResidualMLP
    coefficients: Tensor
    owner: Tensor


def trigonometric(coefficients: Tensor, x: Tensor) -> Tensor:
    """Returns `a cos(b x + c) + d sin(e x + f) + g` (APD App. B.1.1).

    Args:
        coefficients: `[n_functions, 7]`.
        x: `[n]`.

    Returns:
        `[n_functions, n]`.
    """
    a, b, c, d, e, f, g = coefficients.T[..., None]
    return a * torch.cos(b * x + c) + d * torch.sin(e * x + f) + g


def gated_functions(seed: int, *, n_functions: int = 4, n_mlp: int = 20, n_layers: int = 2) -> GatedFunctions:
    """Returns a network of gated functions with coefficients drawn from APD Table 2.

    Each function is a broken line through its values at ten even knots of [0, 5], of ten neurons
    `relu(x + 10 bit - 10 - t)` anywhere in the layers, with t = -1, 0, 5/9, ..., 40/9. With the bit off all are off.

    Args:
        seed: Seeds coefficients and the neurons' places.
        n_functions: Functions, with ten neurons each.
        n_mlp: Neurons of a layer.
        n_layers: Layers.

    Raises:
        ValueError: Fewer neurons than the functions need.
    """
    if n_functions * N_PIECES > n_mlp * n_layers:
        raise ValueError(
            f"{n_functions} functions take {n_functions * N_PIECES} neurons; got {n_layers} layers of {n_mlp}."
        )
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-1, 0.1, -math.pi] * 2 + [-1]), torch.tensor([1, 1, math.pi] * 2 + [1])
    coefficients = low + torch.rand(n_functions, 7, generator=generator) * (high - low)
    places = torch.randperm(n_mlp * n_layers, generator=generator)[: n_functions * N_PIECES].view(n_functions, N_PIECES)
    knots = torch.linspace(0, MOST, N_PIECES)
    values = trigonometric(coefficients, knots)
    slopes = values.diff(dim=1) / knots.diff()
    # The first neuron brings the value at 0, with a slope of as much, which the second takes away again.
    writes = torch.cat([values[:, :1], slopes[:, :1] - values[:, :1], slopes.diff(dim=1)], 1)
    n = n_functions + 2
    w_in, b, w_out = torch.zeros(n, n_mlp * n_layers), torch.zeros(n_mlp * n_layers), torch.zeros(n_mlp * n_layers, n)
    owner = torch.full((n_mlp * n_layers,), -1)
    starts = torch.cat([torch.tensor([-1.0]), knots[:-1]])
    for i, own in enumerate(places):
        w_in[0, own], w_in[1 + i, own], b[own] = 1.0, SUPPRESSION, -SUPPRESSION - starts
        w_out[own, -1], owner[own] = writes[i], i
    embed, unembed = torch.eye(n)[: n - 1], torch.eye(n)[:, -1:]
    cut = (tuple(part[None] for part in whole.split(n_mlp, axis)) for whole, axis in ((w_in, 1), (b, 0), (w_out, 0)))
    return GatedFunctions(ResidualMLP(embed[None], *cut, unembed[None]), coefficients, owner.view(n_layers, n_mlp))
