"""Toy tasks with known circuits: their settings, and targets trained side by side (paper section 3 and App. B.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from .toy_models import DeepPerceptron, Perceptron, Superposition, grouped_inputs, signed_inputs, sparse_inputs

GROUP = 5
KINDS = ("superposition", "circuit_superposition", "high_rank", "squared", "squared_elu")
SQUARED = ("squared", "squared_elu")
# Layers of the squaring network between its first and its last.
DEPTH = 5


@dataclass(frozen=True, kw_only=True)
class ToyTraining:
    """Settings of the training of toy targets (paper App. B.2; weight decay from the authors' code)."""

    toy: str = "superposition"
    """'superposition': f(x) is x; 'circuit_superposition': x A (section 3.2); 'high_rank': x A, features in groups of
    five (3.3); 'squared': x^2 with GELU (3.4); 'squared_elu': x^2 as the authors' code has it."""
    n_features: int = 5
    """Inputs and outputs of the model."""
    n_hidden: int = 2
    """Hidden dimensions."""
    n_points: int = 10_000
    """Training rows."""
    epochs: int = 1000
    """Passes over them."""
    batch_size: int = 32
    """Rows in a batch."""
    lr: float = 0.001
    """AdamW learning rate, constant."""
    weight_decay: float = 0.001
    """AdamW weight decay; the paper is silent."""

    def __post_init__(self) -> None:
        if self.toy not in KINDS:
            raise ValueError(f"toy {self.toy!r} is unknown; expected one of {list(KINDS)}.")
        for name, value in asdict(self).items():
            if name not in ("toy", "weight_decay") and value <= 0:
                raise ValueError(f"{name} is {value}; expected a positive number.")
        if self.toy == "high_rank" and self.n_features % GROUP:
            raise ValueError(f"n_features is {self.n_features}; expected a multiple of {GROUP}, the size of a group.")

    @property
    def name(self) -> str:
        """The name of tasks trained so."""
        return f"{self.toy}_{self.n_features}-{self.n_hidden}"

    def draw(self, n: int, *, seed: int) -> Tensor:
        """Returns inputs of the toy's distribution `[n, n_features]`."""
        if self.toy == "high_rank":
            return grouped_inputs(n, self.n_features // GROUP, GROUP, seed=seed)
        return (signed_inputs if self.toy in SQUARED else sparse_inputs)(n, self.n_features, seed=seed)

    @property
    def group_size(self) -> int:
        """How many inputs are on or off together: what serves them should be one circuit."""
        return GROUP if self.toy == "high_rank" else 1

    @property
    def n_groups(self) -> int:
        """Circuits that the toy should have: one for each input, or group of inputs."""
        return self.n_features // self.group_size

    def active(self, x: Tensor) -> Tensor:
        """Returns which inputs, or groups of them, are on, booleans `[n, n_groups]`, for inputs `[n, n_features]`."""
        return (x.unflatten(1, (-1, self.group_size)) != 0).any(-1)

    def coefficients(self, seed: int) -> Tensor | None:
        """Returns A of a target, uniform in [0, 3], `[n_features, n_features]`; None for toys without one."""
        if self.toy not in ("circuit_superposition", "high_rank"):
            return None
        return 3 * torch.rand(self.n_features, self.n_features, generator=torch.Generator().manual_seed(2**22 + seed))

    def wanted(self, x: Tensor, a: Tensor | None) -> Tensor:
        """Returns what a target is trained to give for inputs x `[..., n, n_features]`."""
        if a is not None:
            return x @ a
        return x.square() if self.toy in SQUARED else x


def _start(config: ToyTraining, generator: torch.Generator) -> dict[str, Tensor]:
    """Returns the starting values of one target; deviations as the authors' code has them."""
    n, n_hidden = config.n_features, config.n_hidden

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    if config.toy == "superposition":  # Xavier.
        return {"W_in": normal(n, n_hidden, std=(2 / (n + n_hidden)) ** 0.5), "b": torch.zeros(n)}
    if config.toy not in SQUARED:
        return {"W_in": normal(n, n_hidden), "W_out": normal(n_hidden, n), "b": torch.zeros(n)}
    sides, found = [n, *[n_hidden] * (DEPTH - 1), n], {}
    for i, (n_i, n_o) in enumerate(zip(sides[:-1], sides[1:], strict=True)):
        found[f"weight_{i}"] = normal(n_o, n_i, std=(2 / n_i) ** 0.5)  # Kaiming for relu.
        uniform, bound = torch.rand(n_o, generator=generator), 1 / math.sqrt(n_i)
        found[f"bias_{i}"] = 0.01 + 0.99 * uniform if config.toy == "squared_elu" else bound * (2 * uniform - 1)
    return found


def _outputs(config: ToyTraining, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Returns the outputs of targets side by side, `[n_seeds, n, n_o]`."""
    if config.toy not in SQUARED:
        w_out = w["W_out"] if "W_out" in w else w["W_in"].mT
        return torch.relu(torch.baddbmm(w["b"].unsqueeze(1), x @ w["W_in"], w_out))
    for i in range(DEPTH):
        x = torch.baddbmm(w[f"bias_{i}"].unsqueeze(1), x, w[f"weight_{i}"].mT)
        if config.toy == "squared_elu":
            x = F.elu(x)
        elif i + 1 < DEPTH:
            x = F.gelu(x)
    return x


@dataclass(frozen=True)
class Task:
    """A toy target with its data.

    Attributes:
        config: How it was trained.
        seed: Seed of the target's training and of its inputs.
        model: The trained model, in evaluation mode, untied.
        inputs: What to decompose on `[1000, n_features]` (paper App. B.3).
        loss: The target's own mean squared error on its training data in the last epoch.
        coefficients: A, `[n_features, n_features]`; None for toys without one.
    """

    config: ToyTraining
    seed: int
    model: nn.Module
    inputs: Tensor
    loss: float
    coefficients: Tensor | None = None

    @property
    def name(self) -> str:
        """For example 'superposition_5-2'."""
        return self.config.name

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Returns fresh inputs of the same distribution `[n, n_features]`."""
        return self.config.draw(n, seed=seed)

    @property
    def ceiling(self) -> float:
        """Pearson r between A and the model's own W_in W_out: the most that its circuits can tell of A."""
        own = (self.model.W_in @ self.model.W_out).detach().cpu()
        return float(torch.corrcoef(torch.stack([own.flatten(), self.coefficients.flatten()]))[0, 1])

    @property
    def kept(self) -> bool:
        """Whether the target does what its toy is for, judged on the target alone.

        Superposition: all rows of W_in are longer than 0.5. Circuit superposition: the ceiling is at least 0.85 and no
        row of W_in is shorter than a quarter of the longest. Squaring: the mean squared error is at most 2e-4.
        """
        if self.config.toy in SQUARED:
            return self.loss <= 2e-4
        rows = self.model.W_in.norm(dim=1)
        if self.config.toy == "superposition":
            return bool((rows > 0.5).all())
        return self.config.toy == "high_rank" or (self.ceiling >= 0.85 and bool((4 * rows >= rows.max()).all()))


@dataclass(frozen=True)
class TrainedToys:
    """Targets trained side by side.

    Attributes:
        config: Their settings.
        seeds: One for each target.
        weights: What was trained, `[n_seeds, ...]` each.
        losses: Mean squared errors in the last epoch `[n_seeds]`.
        wall_seconds: Time taken.
    """

    config: ToyTraining
    seeds: list[int]
    weights: dict[str, Tensor]
    losses: Tensor
    wall_seconds: float

    def task(self, seed: int) -> Task:
        """Returns the target of one seed with 1000 inputs drawn from the same seed.

        Raises:
            ValueError: The seed was not trained.
        """
        config = self.config
        if seed not in self.seeds:
            raise ValueError(
                f"no target {config.name} of seed {seed}; expected one of {self.seeds}. "
                "Train it with toys.train(ToyTraining(...), seeds=[...])."
            )
        i = self.seeds.index(seed)
        w = {name: t[i] for name, t in self.weights.items()}
        if config.toy in SQUARED:
            activation = "elu" if config.toy == "squared_elu" else "gelu"
            weights, biases = ([w[f"{kind}_{i}"] for i in range(DEPTH)] for kind in ("weight", "bias"))
            model = DeepPerceptron(weights, biases, activation)
        else:
            model = Superposition(w["W_in"], w["b"]) if config.toy == "superposition" else Perceptron(*_ordered(w))
        inputs = config.draw(1000, seed=seed)
        return Task(config, seed, model.eval(), inputs, float(self.losses[i]), config.coefficients(seed))


def _ordered(w: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return w["W_in"], w["W_out"], w["b"]


def train(config: ToyTraining, seeds: Sequence[int], *, device: str = "cpu", progress: bool = False) -> TrainedToys:
    """Returns toy targets trained side by side, one per seed (paper App. B.2).

    Each seed has its own starting values, data and order, drawn from that seed alone, so that a seed's
    target does not depend on which others are trained beside it.

    Args:
        config: Toy, sizes and optimiser.
        seeds: One target each.
        device: Where to train.
        progress: Show a bar on standard error.

    Returns:
        The trained targets, on the CPU.

    Raises:
        ValueError: No seeds, or a seed twice.
    """
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {seeds}; expected at least one, each once.")
    start = time.monotonic()
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    starts = [_start(config, g) for g in streams]
    w = {name: torch.stack([one[name] for one in starts]).to(device).requires_grad_() for name in starts[0]}
    x_all = torch.stack([config.draw(config.n_points, seed=2**20 + seed) for seed in seeds])
    wanted = [config.wanted(x, config.coefficients(seed)) for seed, x in zip(seeds, x_all, strict=True)]
    x_all, y_all = x_all.to(device), torch.stack(wanted).to(device)
    optimiser = torch.optim.AdamW(list(w.values()), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    run = torch.arange(len(seeds))[:, None]
    for _ in tqdm(range(config.epochs), disable=not progress, mininterval=5.0, desc=config.name, unit="epoch"):
        order = torch.stack([torch.randperm(config.n_points, generator=g) for g in streams])
        total = torch.zeros(len(seeds), device=device)
        for x, y in zip(*(t[run, order].split(config.batch_size, 1) for t in (x_all, y_all)), strict=True):
            losses = (_outputs(config, w, x) - y).square().mean((1, 2))
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            total += losses.detach() * x.shape[1]
    weights = {name: t.detach().cpu() for name, t in w.items()}
    return TrainedToys(config, seeds, weights, (total / config.n_points).cpu(), time.monotonic() - start)
