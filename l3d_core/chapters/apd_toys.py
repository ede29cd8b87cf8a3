"""The toys of L3D as networks that APD takes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import toys
from ..baselines.apd_networks import Chain, Network


@dataclass(frozen=True)
class ToyInputs:
    """The inputs of a toy of L3D, none of them all zero, drawn as APD asks for them."""

    config: toys.ToyTraining
    """The toy."""

    def __call__(self, generator: torch.Generator, n: int) -> Tensor:
        """Returns inputs `[n, n_features]`, float32."""
        return self.config.draw(n, seed=int(torch.randint(2**31, (1,), generator=generator)))


def chain(model: nn.Module) -> tuple[Chain, dict[str, tuple[str, bool]]]:
    """Returns a toy's layers as a chain of one run, biases always on.

    Args:
        model: A `toys.Perceptron` or the squaring network.

    Returns:
        The chain; and for each weight matrix of the model the chain's, and whether that is its transpose.
    """
    w = {name: p.detach() for name, p in model.named_parameters()}
    if isinstance(model, toys.Perceptron):
        pair = (w["W_in"][None], w["W_out"][None])
        biases = (torch.zeros(1, pair[0].shape[2]), w["b"][None])
        return Chain(pair, biases, ("none", "relu")), {"W_in": ("W.0", False), "W_out": ("W.1", False)}
    n = len(model.layers)
    weights = tuple(w[f"layers.{i}.weight"].mT[None].contiguous() for i in range(n))
    biases = tuple(w[f"layers.{i}.bias"][None] for i in range(n))
    last = "elu" if model.activation == "elu" else "none"
    kinds = (*(model.activation,) * (n - 1), last)
    return Chain(weights, biases, kinds), {f"layers.{i}.weight": (f"W.{i}", True) for i in range(n)}


def toy_networks(config: toys.ToyTraining, seeds: Sequence[int]) -> tuple[Network, Tensor]:
    """Returns shipped toys side by side and their losses `[n_runs]`.

    Args:
        config: Which toy; the untied ones, superposition is no chain.
        seeds: Of the targets.

    Raises:
        ValueError: A seed is not shipped.
    """
    shipped = toys.shipped(config.toy, config.n_features, config.n_hidden)
    tasks = [shipped.task(seed) for seed in seeds]
    return side_by_side([chain(task.model)[0] for task in tasks]), torch.tensor([task.loss for task in tasks])


def side_by_side(networks: Sequence[Network]) -> Network:
    """Returns networks of one shape as if they had been made side by side."""

    def joined(parts: Sequence) -> object:
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return tuple(map(joined, zip(*parts, strict=True))) if isinstance(parts[0], tuple) else parts[0]

    return type(networks[0])(*map(joined, zip(*networks, strict=True)))


def on_device(network: Network, device: str) -> Network:
    """Returns networks on 'cpu' or 'cuda'."""

    def moved(part: object) -> object:
        if isinstance(part, Tensor):
            return part.to(device)
        return tuple(map(moved, part)) if isinstance(part, tuple) else part

    return type(network)(*map(moved, network))
