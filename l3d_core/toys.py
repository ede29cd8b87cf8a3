"""Toy tasks with known circuits: model, data and training (paper section 3.1 and App. B.2)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

WEIGHTS = Path(__file__).parent / "weights"
SIZES = ((5, 2), (10, 4), (20, 6), (40, 10))
P_ACTIVE = 0.05


class Superposition(nn.Module):
    """The toy model of superposition, `f(x) = relu(x W_in W_out + b)` (paper section 3.1.1).

    Trained with tied weights, decomposed with W_in and W_out as separate parameters, as the authors did.

    Args:
        w_in: Embeddings of the features `[n_features, n_hidden]`.
        b: Output bias `[n_features]`.
        tied: Keep W_out as the transpose of W_in instead of a parameter of its own.
    """

    def __init__(self, w_in: Tensor, b: Tensor, *, tied: bool = False) -> None:
        super().__init__()
        self.W_in = nn.Parameter(w_in.clone())
        self.W_out = None if tied else nn.Parameter(w_in.mT.contiguous().clone())
        self.b = nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n, n_features]` for inputs of the same shape."""
        w_out = self.W_in.mT if self.W_out is None else self.W_out
        return torch.relu(x @ self.W_in @ w_out + self.b)


def sparse_inputs(n: int, n_features: int, p_active: float = P_ACTIVE, *, seed: int = 0) -> Tensor:
    """Returns random sparse inputs, uniform in [0, 1] where active, none of them all zero (paper App. B.2).

    The paper calls p_active "sparsity". Rows without an active feature are dropped, as the authors' code did,
    so that a feature is active in `p / (1 - (1 - p)^n_features)` of the rows.

    Args:
        n: Rows wanted.
        n_features: Length of a row.
        p_active: Probability that a feature is active, before empty rows are dropped; in (0, 1].
        seed: Seeds the draw.

    Returns:
        `[n, n_features]`, float32.

    Raises:
        ValueError: p_active outside (0, 1], or sizes below 1.
    """
    if n < 1 or n_features < 1 or not 0 < p_active <= 1:
        raise ValueError(f"n {n}, n_features {n_features}, p_active {p_active}; expected n >= 1, p_active in (0, 1].")
    generator = torch.Generator().manual_seed(seed)
    found, rows = 0, []
    while found < n:
        values = torch.rand(n, n_features, generator=generator)
        active = torch.rand(n, n_features, generator=generator) < p_active
        kept = (values * active)[active.any(1)]
        rows.append(kept)
        found += len(kept)
    return torch.cat(rows)[:n]


def active_share(n_features: int, p_active: float = P_ACTIVE) -> float:
    """Returns the share of the rows of `sparse_inputs` in which a feature is active: p / (1 - (1 - p)^n_features)."""
    return p_active / (1 - (1 - p_active) ** n_features)


@dataclass(frozen=True)
class Task:
    """A toy target with its data.

    Attributes:
        name: For example 'superposition_5-2'.
        seed: Seed of the target's training and of its inputs.
        model: The trained model, in evaluation mode, untied.
        inputs: What to decompose on `[1000, n_features]` (paper App. B.3).
        loss: The target's own mean squared error on its training data after the last epoch.
    """

    name: str
    seed: int
    model: Superposition
    inputs: Tensor
    loss: float

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Returns fresh inputs of the same distribution `[n, n_features]`."""
        return sparse_inputs(n, self.inputs.shape[1], seed=seed)

    @property
    def kept(self) -> bool:
        """Whether the target represents every feature: all rows of W_in longer than 0.5."""
        return bool((self.model.W_in.norm(dim=1) > 0.5).all())


@dataclass(frozen=True, kw_only=True)
class ToyTraining:
    """Settings of the training of toy targets (paper App. B.2; weight decay from the authors' code)."""

    n_features: int = 5
    """Inputs and outputs of the model."""
    n_hidden: int = 2
    """Hidden dimensions, fewer than features."""
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
        for name, value in asdict(self).items():
            if value <= 0 and name != "weight_decay":
                raise ValueError(f"{name} is {value}; expected a positive number.")

    @property
    def name(self) -> str:
        """The name of tasks trained so."""
        return f"superposition_{self.n_features}-{self.n_hidden}"


@dataclass(frozen=True)
class TrainedToys:
    """Targets trained side by side: `w_in [n_seeds, n_features, n_hidden]`, `b [n_seeds, n_features]`, final losses."""

    config: ToyTraining
    seeds: list[int]
    w_in: Tensor
    b: Tensor
    losses: Tensor
    wall_seconds: float

    def task(self, seed: int) -> Task:
        """Returns the target of one seed with 1000 inputs drawn from the same seed.

        Raises:
            ValueError: The seed was not trained.
        """
        if seed not in self.seeds:
            raise ValueError(
                f"no target {self.config.name} of seed {seed}; expected one of {self.seeds}. "
                "Train it with toys.train(ToyTraining(...), seeds=[...])."
            )
        i = self.seeds.index(seed)
        inputs = sparse_inputs(1000, self.config.n_features, seed=seed)
        model = Superposition(self.w_in[i], self.b[i]).eval()
        return Task(self.config.name, seed, model, inputs, float(self.losses[i]))


def _xavier(n_features: int, n_hidden: int, generator: torch.Generator) -> Tensor:
    std = (2 / (n_features + n_hidden)) ** 0.5
    return torch.randn(n_features, n_hidden, generator=generator) * std


def train(config: ToyTraining, seeds: Sequence[int], *, device: str = "cpu", progress: bool = False) -> TrainedToys:
    """Returns toy targets trained side by side, one per seed (paper App. B.2).

    Each seed has its own starting values, data and order, drawn from that seed alone, so that a seed's
    target does not depend on which others are trained beside it.

    Args:
        config: Sizes and optimiser.
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
    w_in = torch.stack([_xavier(config.n_features, config.n_hidden, g) for g in streams]).to(device).requires_grad_()
    b = torch.zeros(len(seeds), 1, config.n_features, device=device, requires_grad=True)
    draw = partial(sparse_inputs, config.n_points, config.n_features)
    x_all = torch.stack([draw(seed=2**20 + seed) for seed in seeds]).to(device)
    optimiser = torch.optim.AdamW([w_in, b], lr=config.lr, weight_decay=config.weight_decay, fused=True)
    run = torch.arange(len(seeds))[:, None]
    for _ in tqdm(range(config.epochs), disable=not progress, mininterval=5.0, desc=config.name, unit="epoch"):
        order = torch.stack([torch.randperm(config.n_points, generator=g) for g in streams])
        shuffled = x_all[run, order]
        total = torch.zeros(len(seeds), device=device)
        for x in shuffled.split(config.batch_size, 1):
            y = torch.relu(torch.baddbmm(b, x @ w_in, w_in.mT))
            losses = (y - x).square().mean((1, 2))
            optimiser.zero_grad()
            losses.sum().backward()
            optimiser.step()
            total += losses.detach() * x.shape[1]
    seconds = time.monotonic() - start
    return TrainedToys(
        config, seeds, w_in.detach().cpu(), b.detach()[:, 0].cpu(), (total / config.n_points).cpu(), seconds
    )


def save_toys(toys: TrainedToys, path: Path, provenance: dict[str, object]) -> None:
    """Writes trained targets as safetensors with their settings and provenance.

    Args:
        toys: What `train` returned.
        path: The file.
        provenance: Version, device and the like, see `artifacts.provenance`.
    """
    tensors = {"w_in": toys.w_in, "b": toys.b, "losses": toys.losses, "seeds": torch.tensor(toys.seeds)}
    facts = {"config": asdict(toys.config), "wall_seconds": toys.wall_seconds, **provenance}
    save_file(tensors, path, metadata={"facts": json.dumps(facts, sort_keys=True)})


def load_toys(path: Path) -> TrainedToys:
    """Returns the targets written by `save_toys`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no shipped targets at {path}; expected one of the sizes {SIZES}. Use toys.train.")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = ToyTraining(**facts["config"])
    seeds = tensors["seeds"].tolist()
    return TrainedToys(config, seeds, tensors["w_in"], tensors["b"], tensors["losses"], facts["wall_seconds"])


def superposition(seed: int = 0, n_features: int = 5, n_hidden: int = 2) -> Task:
    """Returns a shipped toy model of superposition with its inputs (paper section 3.1).

    Args:
        seed: 0 to 15, or for 5-2 also 1000 to 1015, on which the recommended settings were chosen.
        n_features: 5, 10, 20 or 40.
        n_hidden: 2, 4, 6 or 10 for these.

    Returns:
        The task.

    Raises:
        FileNotFoundError: No such size is shipped.
        ValueError: The seed is not shipped.
    """
    return load_toys(WEIGHTS / f"superposition_{n_features}-{n_hidden}.safetensors").task(seed)
