"""Small seeded models and parameter sets, float64, that many tests share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l3d_core.toys import Superposition

SHAPES = {"a": (3,), "b": (4, 3), "c": (2, 3, 4), "d": (3, 2, 2, 3)}
"""One tensor of each order from 1 to 4, 75 parameter values in all."""


class Case(NamedTuple):
    """A model in evaluation mode with inputs it takes.

    Attributes:
        model: The target.
        inputs: `[n, ...]`.
        parameters: Name patterns of the parameters to decompose.
        n_positions: Samples that each input gives.
        n_o: Outputs of each sample.
    """

    model: nn.Module
    inputs: Tensor
    parameters: str | list[str]
    n_positions: int
    n_o: int


def stream(seed: int) -> torch.Generator:
    """Returns a seeded random stream."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Returns seeded standard normal numbers, float64."""
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def seeded(model: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    """Returns the model in float64 and evaluation mode, each parameter drawn normal in turn from one stream."""
    generator = stream(seed)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def mlp(seed: int = 0, n: int = 6) -> Case:
    """Returns a perceptron with one hidden layer, 4 -> 5 -> 3."""
    model = seeded(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)), seed)
    return Case(model, normal(n, 4, seed=seed + 100), "*", 1, 3)


def tms(seed: int = 0, n: int = 8, *, tied: bool = False) -> Case:
    """Returns a toy model of superposition of 5 features in 2 dimensions, tied or not."""
    w_in, b = normal(5, 2, seed=seed), normal(5, seed=seed + 1) / 10
    model = Superposition(w_in, b, tied=tied).eval()
    return Case(model, normal(n, 5, seed=seed + 100).abs(), "*", 1, 5)


def cnn(seed: int = 0, n: int = 3) -> Case:
    """Returns a small convolutional network whose batch norm uses running statistics far from 0 and 1."""
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    model = seeded(nn.Sequential(*layers), seed)
    model[1].running_mean.copy_(normal(3, seed=seed + 1))
    model[1].running_var.copy_(normal(3, seed=seed + 2).square() + 0.5)
    return Case(model, normal(n, 2, 5, 5, seed=seed + 100), "*", 1, 2)


def conv1d(seed: int = 0, n: int = 3) -> Case:
    """Returns a one-dimensional convolution whose outputs have positions, and a 3-D weight."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3)
            self.read = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(torch.tanh(self.conv(x)).mT)

    return Case(seeded(Positions(), seed), normal(n, 2, 6, seed=seed + 100), "*", 4, 3)


class Transformer(nn.Module):
    """One block of causal attention with one head and a small perceptron, over tokens; logits at every position."""

    def __init__(self, n_tokens: int = 7, width: int = 4, length: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_tokens, width)
        self.place = nn.Parameter(torch.zeros(length, width))
        self.norm = nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.read = nn.Linear(width, n_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits `[n, length, n_tokens]` for tokens `[n, length]`."""
        h = self.embed(tokens) + self.place
        x = self.norm(h)
        later = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).triu(1)
        scores = (self.query(x) @ self.key(x).mT / 2).masked_fill(later, -torch.inf)
        h = h + scores.softmax(-1) @ self.value(x)
        return self.read(h + self.down(torch.relu(self.up(h))))


class Later(nn.Module):
    """Puts positions before inputs, and a layer works on that, on every row alike or on rows in one list."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.layer = flat, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[n, length, 2]` for inputs of the same shape."""
        h = x.transpose(0, 1)
        h = self.layer(h.reshape(-1, 2)).reshape(h.shape) if self.flat else self.layer(h)
        return torch.tanh(h).transpose(0, 1)


def transformer(seed: int = 0, n: int = 3) -> Case:
    """Returns a transformer of one block over integer tokens, every parameter selected."""
    tokens = torch.randint(7, (n, 5), generator=stream(seed + 100))
    return Case(seeded(Transformer(), seed), tokens, "*", 5, 7)


CASES = {
    "mlp": mlp,
    "tms": tms,
    "tms_tied": lambda: tms(tied=True),
    "cnn": cnn,
    "conv1d": conv1d,
    "transformer": transformer,
}
"""Every case by name, for parametrised tests."""


def gradients(n_s: int = 5, seed: int = 0, lead: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Returns random tensors `[*lead, n_s, *shape]` for `SHAPES`."""
    return {name: normal(*lead, n_s, *shape, seed=seed + i) for i, (name, shape) in enumerate(SHAPES.items())}
