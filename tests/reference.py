"""Slow, plain twins of the package's fast paths: loops over samples, directions and entries.

Nothing here imports the package, so that no error can be shared. In the order of the package's modules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def mse(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns the mean squared error of one output vector, term by term."""
    return sum((a - b) ** 2 for a, b in zip(y, y_ref, strict=True)) / len(y)


def half_reference_mse(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns the mean over outputs of y (y - y_ref), what the authors differentiated; not the package's value."""
    return sum(a * (a - b) for a, b in zip(y, y_ref, strict=True)) / len(y)


def kl(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns sum_o q_o log(q_o / p_o) of two logit vectors, term by term, from exponentials."""
    p_total, q_total = sum(a.exp() for a in y), sum(b.exp() for b in y_ref)
    total = 0.0
    for a, b in zip(y, y_ref, strict=True):
        p, q = a.exp() / p_total, b.exp() / q_total
        total = total + q * (q / p).log()
    return total


DIVERGENCES = {"mse": mse, "half_reference_mse": half_reference_mse, "kl": kl}


def per_vector(function: Callable[[Tensor, Tensor], Tensor], y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns a divergence of vectors applied to each of the `[..., n_o]` vectors, `[...]`."""
    pairs = zip(y.reshape(-1, y.shape[-1]), y_ref.reshape(-1, y.shape[-1]), strict=True)
    return torch.stack([function(a, b) for a, b in pairs]).reshape(y.shape[:-1])


def reference_outputs(y: Tensor, kind: str, partners: Tensor | None = None, probabilities: bool = False) -> Tensor:
    """Returns the references of one batch `[n_s, n_o]`, entry by entry."""
    n_s, n_o = y.shape
    y_ref = torch.zeros_like(y)
    for s, o in itertools.product(range(n_s), range(n_o)):
        if kind == "sample":
            y_ref[s, o] = y[int(partners[s]), o]
        elif kind == "mean" and probabilities:
            y_ref[s, o] = math.log(sum(float(row[o].exp() / row.exp().sum()) for row in y) / n_s)
        elif kind == "mean":
            y_ref[s, o] = sum(float(row[o]) for row in y) / n_s
        elif probabilities:
            y_ref[s, o] = math.log(1 / n_o)
        else:
            y_ref[s, o] = sum(float(value) for value in y.flatten()) / (n_s * n_o)
    return y_ref


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the outputs of one input on its own, `[n_positions, n_o]`."""
    y = model(x[None])
    y = y if isinstance(y, Tensor) else y.logits
    return y.reshape(-1, y.shape[-1])


def gradients(
    model: nn.Module,
    inputs: Tensor,
    y_ref: Tensor,
    divergence: Callable[[Tensor, Tensor], Tensor],
    names: list[str],
) -> dict[str, Tensor]:
    """Returns one `backward` per input and position, `[n_s, *shape]`; y_ref is `[n_s, n_o]`, positions fastest."""
    parameters = dict(model.named_parameters())
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    s = 0
    for x in inputs:
        for position in range(len(outputs(model, x))):
            model.zero_grad(set_to_none=True)
            divergence(outputs(model, x)[position], y_ref[s]).backward()
            for name in names:
                grad = parameters[name].grad
                found[name].append(torch.zeros_like(parameters[name]) if grad is None else grad.clone())
            s += 1
    model.zero_grad(set_to_none=True)
    return {name: torch.stack(parts).detach() for name, parts in found.items()}


def dense_tensor(numbers: Tensor, shape: tuple[int, ...], ranks: tuple[int, ...], form: str) -> Tensor:
    """Returns one tensor of one direction from its numbers, entry by entry (paper Eq. 11).

    `T[i_1..i_m] = sum_{a_1..a_m} G[a_1..a_m] U_1[a_1, i_1] .. U_m[a_m, i_m]`, the core G first in `numbers`;
    the polyadic form has no G and one common a.
    """
    values = numbers.tolist()
    n_core = math.prod(ranks) if form == "tucker" or not shape else 0
    core, values = values[:n_core], values[n_core:]
    factors = []
    for r, n in zip(ranks, shape, strict=True):
        factors.append([values[a * n : (a + 1) * n] for a in range(r)])
        values = values[r * n :]
    assert not values
    tensor = torch.zeros(shape, dtype=numbers.dtype)
    for entry in itertools.product(*map(range, shape)):
        total = 0.0
        if form == "cp" and shape:
            for a in range(ranks[0]):
                total += math.prod(factors[axis][a][i] for axis, i in enumerate(entry))
        else:
            for place, chosen in enumerate(itertools.product(*map(range, ranks))):
                total += core[place] * math.prod(
                    factors[axis][a][i] for axis, (a, i) in enumerate(zip(chosen, entry, strict=True))
                )
        tensor[entry] = total
    return tensor


def n_numbers(shape: tuple[int, ...], ranks: tuple[int, ...], form: str) -> int:
    """Returns how many numbers one tensor of one direction takes."""
    core = math.prod(ranks) if form == "tucker" or not shape else 0
    return core + sum(r * n for r, n in zip(ranks, shape, strict=True))


def dense_directions(
    flat: Tensor, shapes: Mapping[str, tuple[int, ...]], ranks: Mapping[str, tuple[int, ...]], form: str
) -> list[dict[str, Tensor]]:
    """Returns the dense tensors of each direction `[n_v, n_numbers]`, one dict per direction."""
    directions = []
    for row in flat:
        start, named = 0, {}
        for name, shape in shapes.items():
            size = n_numbers(shape, ranks[name], form)
            named[name] = dense_tensor(row[start : start + size], shape, ranks[name], form)
            start += size
        directions.append(named)
    return directions


def inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Returns the inner product of two dicts of tensors, as a sum of products of entries."""
    pairs = [zip(a[name].flatten().tolist(), b[name].flatten().tolist(), strict=True) for name in b]
    return math.fsum(p * q for pair in pairs for p, q in pair)


def project(gradients: Mapping[str, Tensor], directions: list[dict[str, Tensor]]) -> Tensor:
    """Returns V_in grad D, one inner product per sample and direction, `[n_s, n_v]`."""
    n_s = len(next(iter(gradients.values())))
    rows = [[inner({n: g[s] for n, g in gradients.items()}, v) for v in directions] for s in range(n_s)]
    return torch.tensor(rows, dtype=torch.float64)


def combine(coefficients: Tensor, directions: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns V_out z, a running sum over directions for each sample, `[n_s, *shape]`."""
    total = {name: torch.zeros(len(coefficients), *v.shape, dtype=v.dtype) for name, v in directions[0].items()}
    for s, v in itertools.product(range(len(coefficients)), range(len(directions))):
        for name, tensor in directions[v].items():
            total[name][s] += float(coefficients[s, v]) * tensor
    return total


def norm(direction: Mapping[str, Tensor], kind: str) -> float:
    """Returns the Euclidean length over all tensors, or the sum of the tensors' own lengths."""
    squares = [math.fsum(x * x for x in tensor.flatten().tolist()) for tensor in direction.values()]
    return math.sqrt(math.fsum(squares)) if kind == "l2" else math.fsum(map(math.sqrt, squares))
