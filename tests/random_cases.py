"""Seeded random targets and settings: widths, ranks, batches and layers of many kinds, float64."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from cases import Case, Transformer, normal, seeded, stream
from torch import Tensor, nn

from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run
from l3d_core.toys import Superposition

VARIANTS = {
    "text": ("mse", {}),
    "code": (
        "half_reference_mse",
        {"loss": "recon_sq", "k_extra": 1, "v_out_norm": "tensor_sum", "dense_epochs": 1, "weight_decay": 0.0},
    ),
    "tuned": ("mse", {"encoder_init": "random", "weight_decay": 0.0, "k_fraction": 0.3}),
}
"""The three ways to read the method, as (divergence, settings)."""


class WordBag(nn.Module):
    """The mean of word embeddings, read out by one layer."""

    def __init__(self, n_tokens: int, width: int, n_o: int) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(n_tokens, width), nn.Linear(width, n_o)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns outputs `[n, n_o]` for tokens `[n, length]`."""
        return self.read(torch.tanh(self.embed(tokens)).mean(1))


def perceptron(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a perceptron of one to three layers, with or without biases."""
    widths = [draw.randint(2, 7) for _ in range(draw.randint(2, 4))]
    layers: list[nn.Module] = []
    for i, o in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(i, o, bias=draw.random() < 0.7), draw.choice([nn.GELU(), nn.Tanh(), nn.ELU()])]
    return Case(seeded(nn.Sequential(*layers), seed), normal(n, widths[0], seed=seed + 1), "*", 1, widths[-1])


def normed(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a perceptron with a layer norm."""
    i, h, o = draw.randint(2, 6), draw.randint(4, 6), draw.randint(2, 6)  # A norm over 2 leaves hardly a gradient.
    model = seeded(nn.Sequential(nn.Linear(i, h), nn.GELU(), nn.LayerNorm(h), nn.Linear(h, o)), seed)
    return Case(model, normal(n, i, seed=seed + 1), "*", 1, o)


def convolution(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a convolutional network with batch norm in evaluation mode."""
    i, c, o, side = (draw.randint(2, 3) for _ in range(4))
    options = {"stride": draw.randint(1, 2), "padding": draw.randint(0, 1), "dilation": draw.randint(1, 2)}
    conv = nn.Conv2d(i, c, 2, bias=draw.random() < 0.5, **options)
    size = conv(torch.zeros(1, i, side + 2, side + 2)).shape[-1]
    layers = [conv, nn.BatchNorm2d(c), nn.GELU(), nn.Flatten(), nn.Linear(c * size**2, o)]
    model = seeded(nn.Sequential(*layers), seed)
    model[1].running_mean.copy_(normal(c, seed=seed + 1))
    model[1].running_var.copy_(normal(c, seed=seed + 2).square() + 0.5)
    return Case(model, normal(n, i, side + 2, side + 2, seed=seed + 3), "*", 1, o)


def distinct_tokens(n: int, length: int, seed: int) -> Tensor:
    """Returns texts of tokens below n + 5, their first all different: equal samples would tie at the threshold."""
    first = 5 + torch.randperm(n, generator=stream(seed))
    return torch.cat([first[:, None], torch.randint(5, (n, length - 1), generator=stream(seed + 1))], 1)


def words(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a bag of words."""
    width, o, length = draw.randint(2, 5), draw.randint(2, 5), draw.randint(1, 4)
    return Case(seeded(WordBag(n + 5, width, o), seed), distinct_tokens(n, length, seed + 1), "*", 1, o)


def attention(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a transformer of one block whose position weights every text shares."""
    width, length = draw.randint(4, 6), draw.randint(2, 4)
    model = seeded(Transformer(n + 5, width, length), seed)
    return Case(model, distinct_tokens(n, length, seed + 1), "*", length, n + 5)


def tied(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a toy model of superposition with one weight for both its layers."""
    i, h = draw.randint(3, 7), draw.randint(2, 3)
    model = Superposition(normal(i, h, seed=seed), normal(i, seed=seed + 1) / 10, tied=True).eval()
    return Case(model, normal(n, i, seed=seed + 2).abs(), "*", 1, i)


def series(draw: random.Random, seed: int, n: int) -> Case:
    """Returns a one-dimensional convolution whose outputs have positions; its weight's gradient comes whole."""

    class Series(nn.Module):
        def __init__(self, i: int, c: int, o: int) -> None:
            super().__init__()
            self.conv, self.read = nn.Conv1d(i, c, 2), nn.Linear(c, o)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(torch.tanh(self.conv(x)).mT)

    i, c, o, length = draw.randint(2, 3), draw.randint(2, 4), draw.randint(2, 4), draw.randint(3, 5)
    return Case(seeded(Series(i, c, o), seed), normal(n, i, length, seed=seed + 1), "*", length - 1, o)


def language_model(kind: str, draw: random.Random, seed: int, n: int) -> Case:
    """Returns a tiny GPT-Neo, GPT-2 or Llama with random weights, logits at every position."""
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoConfig,
        GPTNeoForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    width, n_tokens, length = 4 * draw.randint(1, 2), n + 5, draw.randint(2, 3)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    if kind == "neo":
        sizes = {"hidden_size": width, "num_layers": 2, "num_heads": 2, "vocab_size": n_tokens, "window_size": 2}
        places = {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 4}
        model = GPTNeoForCausalLM(GPTNeoConfig(**sizes, **places, **ends))
        names = draw.choice([["transformer.h.1.attn.*"], ["transformer.h.0.mlp.*", "transformer.ln_f.*"], ["*w?e*"]])
    elif kind == "gpt2":
        sizes = {"n_embd": width, "n_layer": 2, "n_head": 2, "vocab_size": n_tokens, "n_positions": 4}
        model = GPT2LMHeadModel(GPT2Config(**sizes, **ends))
        names = draw.choice([["transformer.h.*.weight"], ["transformer.h.1.*", "transformer.wpe.*"]])
    else:
        sizes = {"hidden_size": width, "intermediate_size": 6, "num_hidden_layers": 2, "vocab_size": n_tokens}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends))
        names = draw.choice([["model.layers.1.*"], ["model.layers.0.mlp.*", "model.norm.*", "lm_head.*"]])
    return Case(seeded(model, seed), distinct_tokens(n, length, seed + 1), names, length, n_tokens)


KINDS: dict[str, Callable[[random.Random, int, int], Case]] = {
    "perceptron": perceptron,
    "normed": normed,
    "convolution": convolution,
    "words": words,
    "attention": attention,
    "tied": tied,
    "series": series,
    "neo": lambda *a: language_model("neo", *a),
    "gpt2": lambda *a: language_model("gpt2", *a),
    "llama": lambda *a: language_model("llama", *a),
}
"""Every kind of target by name."""


def settings_of(draw: random.Random, form: str, n_positions: int) -> tuple[str, dict]:
    """Returns a divergence and settings that runs of one stack may differ in."""
    divergence, variant = VARIANTS[draw.choice(list(VARIANTS))]
    settings: dict = dict(variant)
    ranks = [1, 1, 0.5, {"*bias": 1, "*": 0.6}] if form == "tucker" else [1]
    settings["rank"] = draw.choice(ranks)
    optional = {
        "loss": ["recon_norm", "recon_sq"],
        "v_out_norm": ["l2", "tensor_sum"],
        "encoder_init": ["random", "random", "copy"],
        "dense_epochs": [0, 1, 2],
        "weight_decay": [0.0, 0.01, 0.1],
        "k_fraction": [0.1, 0.25, 0.5],
        "k_extra": [0, 1],
        "lr": [0.01, 0.003, 0.03],
        "lr_decay_every_epochs": [100, 2, None],
        "reference": ["sample", "sample", "mean", "uniform"],
    }
    settings |= {name: draw.choice(values) for name, values in optional.items() if draw.random() < 0.5}
    return draw.choice([divergence, "kl"]) if n_positions > 1 else divergence, settings


def random_runs(seed: int, kind: str) -> list[Run]:
    """Returns one to three runs of one random target, 20 steps and more; some share their batches."""
    draw = random.Random(seed)
    size, n_batches = draw.randint(2, 5), draw.randint(3, 5)
    n = size * n_batches + draw.choice([0, 1])
    case, form = KINDS[kind](draw, seed, n), draw.choice(["tucker", "tucker", "cp"])
    base = {"n_v": draw.randint(2, 6), "batch_size": size, "epochs": -(-20 // n_batches), "form": form}
    n_runs, shared = draw.randint(1, 3), draw.random() < 0.4
    runs = []
    for r in range(n_runs):
        if not (shared and r):
            divergence, settings = settings_of(draw, form, case.n_positions)
        config = L3DConfig(**base, **settings)
        batch_seed = seed if shared else None
        runs.append(Run(case.model, case.inputs, config, divergence, seed + r, case.parameters, batch_seed=batch_seed))
    return runs
