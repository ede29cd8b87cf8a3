"""What speed is measured on: four toys with known circuits, one block of a small language model, all of GPT-2 small.

Speed does not depend on the values of weights: the language models have random ones and the true shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l3d_core import toys
from l3d_core.metrics import coverage, top_share

N_INPUTS = 1000
N_TRAINING = 10_000


class BenchCase(NamedTuple):
    """A target and the settings it is decomposed with.

    Attributes:
        name: For example 'tms'.
        model: The target, in evaluation mode.
        inputs: `[n, ...]`.
        n_v: Number of subnetworks.
        rank: Rank of every axis.
        divergence: Name of the divergence.
        parameters: Name patterns of the parameters to decompose.
        n_features: Features, or groups of inputs, that can be recovered; 0 for a model without known circuits.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    n_v: int
    rank: int
    divergence: str = "half_reference_mse"
    parameters: tuple[str, ...] = ("*",)
    n_features: int = 0


class Perceptron(nn.Module):
    """One hidden layer without a nonlinearity of its own, `f(x) = relu(x W_in W_out + b)`.

    Args:
        n: Inputs and outputs.
        n_hidden: Hidden dimensions.
        generator: Draws W_in and W_out.
    """

    def __init__(self, n: int, n_hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.randn(n, n_hidden, generator=generator))
        self.W_out = nn.Parameter(torch.randn(n_hidden, n, generator=generator))
        self.b = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n_s, n]` for inputs of the same shape."""
        return torch.relu(x @ self.W_in @ self.W_out + self.b)


def grouped_inputs(n: int, n_groups: int, group_size: int, *, seed: int) -> Tensor:
    """Returns sparse inputs `[n, n_groups * group_size]`; a group is on or off as one, values uniform in [0, 1]."""
    on = toys.sparse_inputs(n, n_groups, seed=seed) > 0
    values = torch.rand(n, n_groups, group_size, generator=torch.Generator().manual_seed(seed + 1))
    return (values * on[:, :, None]).flatten(1)


def signed_inputs(n: int, n_features: int, *, seed: int) -> Tensor:
    """Returns sparse inputs `[n, n_features]`, uniform in [-1, 1] where active."""
    sign = torch.rand(n, n_features, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    return toys.sparse_inputs(n, n_features, seed=seed) * (1 - 2 * sign.float())


def train_target(model: nn.Module, x: Tensor, y: Tensor, *, seed: int, lr: float, n_steps: int = 4000) -> float:
    """Trains a model in place with AdamW on mean squared error, batches of 128, lr falling to 0.

    Args:
        model: float32.
        x: Inputs `[n, n_i]`.
        y: Wanted outputs `[n, n_o]`.
        seed: Seeds the order.
        lr: Learning rate at the start.
        n_steps: Steps.

    Returns:
        The mean squared error over all of x at the end, as a share of the mean square of y.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.001, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for chosen in torch.randint(len(x), (n_steps, 128), generator=generator):
        optimiser.zero_grad()
        (model(x[chosen]) - y[chosen]).square().mean().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float((model(x) - y).square().mean() / y.square().mean())


def tms(seed: int = 1, dtype: torch.dtype = torch.float32) -> BenchCase:
    """Returns the toy model of superposition 5-2-5, shipped with the package."""
    task = toys.superposition(seed=seed)
    return BenchCase("tms", task.model.to(dtype), task.inputs.to(dtype), n_v=5, rank=1, n_features=5)


def _linear_map(
    name: str, n: int, n_hidden: int, draw: Callable[..., Tensor], seed: int, dtype: torch.dtype, **facts: int
) -> BenchCase:
    """Returns a perceptron trained to y = x A, with A uniform in [0, 3]."""
    generator = torch.Generator().manual_seed(seed)
    model, a = Perceptron(n, n_hidden, generator), 3 * torch.rand(n, n, generator=generator)
    x = draw(N_TRAINING, seed=2**20 + seed)
    train_target(model, x, x @ a, seed=seed, lr=0.01)
    return BenchCase(name, model.eval().to(dtype), draw(N_INPUTS, seed=seed).to(dtype), **facts)


def tmcs(seed: int = 0, dtype: torch.dtype = torch.float32) -> BenchCase:
    """Returns the toy model of circuit superposition 10-5-10."""

    def draw(n: int, *, seed: int) -> Tensor:
        return toys.sparse_inputs(n, 10, seed=seed)

    return _linear_map("tmcs", 10, 5, draw, seed, dtype, n_v=10, rank=1, n_features=10)


def high_rank(seed: int = 0, dtype: torch.dtype = torch.float32) -> BenchCase:
    """Returns the toy model of circuits of higher rank 30-10-30, its inputs in 6 groups of 5."""

    def draw(n: int, *, seed: int) -> Tensor:
        return grouped_inputs(n, 6, 5, seed=seed)

    return _linear_map("high_rank", 30, 10, draw, seed, dtype, n_v=8, rank=3, n_features=6)


def squared(seed: int = 0, dtype: torch.dtype = torch.float32) -> BenchCase:
    """Returns the squaring network 5-10-10-10-10-5, GELU between its layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(5, 10)]
        for n_o in (10, 10, 10, 5):
            layers += [nn.GELU(), nn.Linear(10, n_o)]
    model, x = nn.Sequential(*layers), signed_inputs(N_TRAINING, 5, seed=2**20 + seed)
    train_target(model, x, x**2, seed=seed, lr=0.01)
    inputs = signed_inputs(N_INPUTS, 5, seed=seed).to(dtype)
    return BenchCase("squared", model.eval().to(dtype), inputs, n_v=10, rank=1, n_features=5)


TOYS = {"tms": tms, "tmcs": tmcs, "high_rank": high_rank, "squared": squared}


def recovered(case: BenchCase, v_out: dict[str, Tensor], live: Tensor) -> int:
    """Returns how many features (or groups of inputs) are the top input of some live subnetwork.

    Args:
        case: A toy.
        v_out: Directions, `[n_v, *shape]` each.
        live: Which subnetworks count `[n_v]`.
    """
    rows = v_out["0.weight"].mT if "0.weight" in v_out else v_out["W_in"]
    top = top_share(rows, rows.shape[-2] // case.n_features).index
    return int((coverage(top, live, case.n_features) > 0).sum())


def _random_tokens(n: int, n_tokens: int, n_vocabulary: int, seed: int) -> Tensor:
    return torch.randint(n_vocabulary, (n, n_tokens), generator=torch.Generator().manual_seed(seed))


def language_block(
    n: int = 16,
    n_tokens: int = 16,
    *,
    width: int = 256,
    n_layers: int = 8,
    n_heads: int = 16,
    n_vocabulary: int = 50257,
    n_v: int = 100,
    rank: int = 25,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> BenchCase:
    """Returns the attention of block n_layers / 2 of a GPT-Neo with TinyStories-8M's sizes and random weights.

    Args:
        n: Texts of random tokens.
        n_tokens: Length of a text.
        width: Width of the model.
        n_layers: Blocks, an even number; the attention is global and local in turn.
        n_heads: Heads of each block.
        n_vocabulary: Tokens.
        n_v: Number of subnetworks.
        rank: Rank of every axis.
        seed: Seeds weights and tokens.
        dtype: Of the weights.
    """
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=n_vocabulary, max_position_embeddings=2048, hidden_size=width, num_layers=n_layers,
        attention_types=[[["global", "local"], n_layers // 2]], num_heads=n_heads, window_size=256, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = _seeded(GPTNeoForCausalLM, config, seed).to(dtype)
    pattern = f"transformer.h.{n_layers // 2}.attn.attention.*"
    inputs = _random_tokens(n, n_tokens, n_vocabulary, seed)
    return BenchCase("language_block", model, inputs, n_v, rank, "kl", (pattern,))


def gpt2(
    n: int = 16,
    n_tokens: int = 16,
    *,
    width: int = 768,
    n_layers: int = 12,
    n_heads: int = 12,
    n_vocabulary: int = 50257,
    n_v: int = 1000,
    rank: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> BenchCase:
    """Returns all 4 n_layers weight matrices of the blocks of a GPT-2 with random weights, by default GPT-2 small.

    Args:
        n: Texts of random tokens.
        n_tokens: Length of a text.
        width: Width of the model.
        n_layers: Blocks.
        n_heads: Heads of each block.
        n_vocabulary: Tokens.
        n_v: Number of subnetworks.
        rank: Rank of every axis.
        seed: Seeds weights and tokens.
        dtype: Of the weights.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=n_vocabulary, n_embd=width, n_layer=n_layers, n_head=n_heads, use_cache=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = _seeded(GPT2LMHeadModel, config, seed).to(dtype)
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    patterns = tuple(f"transformer.h.*.{name}.weight" for name in names)
    return BenchCase("gpt2", model, _random_tokens(n, n_tokens, n_vocabulary, seed), n_v, rank, "kl", patterns)


def _seeded(kind: Callable[..., nn.Module], config: object, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()
