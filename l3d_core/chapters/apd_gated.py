"""How APD's components share the gated functions made by hand (APD App. B.1)."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ..apd_targets import MOST, GatedFunctions
from .apd_measures import masked_outputs, most_attributed
from .apd_runs import Decomposed
from .statistics import spread_text

# Values of x at which functions are compared.
N_X = 201


class Gated(NamedTuple):
    """What components make of each function, one bit on at a time.

    Attributes:
        x: `[n_x]`.
        target: The network's outputs `[n_functions, n_x]`.
        top_k: With the one component of the largest attribution on each sample `[n_runs, n_functions, n_x]`.
        errors: Mean squared error of these over the variance of the target's `[n_runs, n_functions]`.
        shares: Of each component's squared weights, kinds alike, on the target's weights for each function, and last
            on weights that are zero in the target `[n_runs, n_components, n_functions + 1]`.
    """

    x: Tensor
    target: Tensor
    top_k: Tensor
    errors: Tensor
    shares: Tensor


def gated(one: Decomposed, functions: GatedFunctions) -> Gated:
    """Returns the measures of APD Figs. 12 and 13.

    Args:
        one: Decompositions of the gated functions.
        functions: The same network with what each neuron is for.
    """
    n = len(functions.coefficients)
    x = torch.linspace(0, MOST, N_X)
    inputs = torch.cat([torch.stack([x, *bit[:, None].expand(-1, N_X)], 1) for bit in torch.eye(n)])
    inputs = inputs.expand(len(one.apd.seeds), -1, -1)
    kept = most_attributed(one.network, one.apd, inputs, 1.0, 1)
    found = masked_outputs(one.network, one.apd, inputs, kept)[..., 0].unflatten(1, (n, N_X))
    target = functions.network.outputs(inputs[:1])[0, :, 0].view(n, N_X)
    errors = (found - target).square().mean(-1) / target.var(-1, correction=0)
    return Gated(x, target, found, errors, shares(one, functions))


def function_weights(functions: GatedFunctions) -> dict[str, Tensor]:
    """Returns which function each weight is for, -1 where the network's weight is zero, by name of matrix."""
    found = {}
    for name, w in functions.network.weights.items():
        kind, layer = name.split(".")
        owner = functions.owner[int(layer)]
        owner = owner[None] if kind == "W_in" else owner[:, None]
        found[name] = torch.where(w[0] != 0, owner.expand_as(w[0]), -1)
    return found


def shares(one: Decomposed, functions: GatedFunctions) -> Tensor:
    """Returns how each component's squared weights are shared among functions, see `Gated.shares`.

    Weights that read x, that read bits and that write count alike: each kind's squares are divided by what the target
    has of it. Else the bits' weights of 10 would be all that counts.
    """
    n, of, target = len(functions.coefficients), function_weights(functions), functions.network.weights
    kinds = {m: _kinds(m, w[0].shape) for m, w in target.items()}
    mass = torch.stack([sum(w[0].square()[kinds[m] == kind].sum() for m, w in target.items()) for kind in range(3)])
    squares = {m: own.each().square() / mass[kinds[m]] for m, own in one.apd.components.items()}
    parts = [sum((squares[m] * (of[m] == i)).sum((-2, -1)) for m in of) for i in (*range(n), -1)]
    found = torch.stack(parts, -1)
    return found / found.sum(-1, keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)


def _kinds(name: str, shape: torch.Size) -> Tensor:
    """Returns of what kind the weights of a matrix are: 0 if they read x, 1 if anything else, 2 if they write."""
    kinds = torch.full(shape, 2 if name.startswith("W_out") else 1)
    if name.startswith("W_in"):
        kinds[0] = 0
    return kinds


def purity(found: Gated) -> Tensor:
    """Returns the largest share that each component has of its weights on one function, `[n_runs, n_components]`."""
    return found.shares[..., :-1].amax(-1)


def one_each(found: Gated, least: float = 0.5) -> Tensor:
    """Returns whether every function has a component with more than such a share of its weights on it, `[n_runs]`."""
    return (found.shares[..., :-1] > least).any(1).all(-1)


def best(found: Gated) -> int:
    """Returns the run whose top-k outputs are nearest to the target's, in the mean over functions."""
    return int(found.errors.mean(1).argmin())


def gated_table(found: Gated, seeds: tuple[int, ...]) -> pd.DataFrame:
    """Returns one row for each run, with its errors and purities, and their spread.

    Args:
        found: The measures.
        seeds: Of the runs.
    """
    rows = []
    for seed, errors, pure, each in zip(seeds, found.errors, purity(found), one_each(found), strict=True):
        rows.append({
            "seed": str(seed), **{f"error {i}": f"{float(e):.3f}" for i, e in enumerate(errors)},
            "purity, lowest": f"{float(pure.min()):.2f}", "purity, mean": f"{float(pure.mean()):.2f}",
            "a component for each": "yes" if each else "no",
        })  # fmt: skip
    pure = purity(found)
    rows.append({
        "seed": "all", **{f"error {i}": spread_text(e) for i, e in enumerate(found.errors.T)},
        "purity, lowest": spread_text(pure.amin(1), 2), "purity, mean": spread_text(pure.mean(1), 2),
        "a component for each": f"{int(one_each(found).sum())} of {len(pure)}",
    })  # fmt: skip
    return pd.DataFrame(rows).set_index("seed")


def drawn_weights(functions: GatedFunctions, one: Decomposed, run: int) -> dict[str, dict[str, Tensor]]:
    """Returns the matrices of the target and of each component of a run by name, by title, to be drawn."""
    found = {"target": {name: w[0] for name, w in functions.network.weights.items()}}
    each = {name: own.each()[run] for name, own in one.apd.components.items()}
    return found | {f"component {c}": {m: p[c] for m, p in each.items()} for c in range(one.apd.config.n_components)}
