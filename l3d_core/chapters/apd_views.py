"""What single features do in residual MLPs and their decompositions, for the figures of chapter 7."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..baselines.apd_networks import ResidualMLP
from .apd_measures import SERVES, FeatureErrors, contributions, feature_components, masked_outputs, most_attributed
from .apd_runs import Decomposed
from .apd_tables import Residual

# The feature that the paper shows, random halves of the components, and values of an input.
FEATURE, N_HALVES, N_X = 42, 1000, 101
# Neurons that contribute as much to a feature are looked at one by one.
LARGE = 0.1


def shown_feature(network: ResidualMLP) -> int:
    """Returns the feature that the paper shows, or the last one of a smaller network."""
    return min(FEATURE, network.embed.shape[1] - 1)


class Responses(NamedTuple):
    """What a network makes of single features.

    Attributes:
        outputs: For each feature alone at 1 `[n_features, n_o]`.
        curves: Output of each feature over its input, the others at 0 `[n_features, n_x]`.
        x: Inputs `[n_x]`.
    """

    outputs: Tensor
    curves: Tensor
    x: Tensor


def responses(network: ResidualMLP, run: int = 0) -> Responses:
    """Returns what one target makes of single features (APD Figs. 14, 15, 19 and 20).

    Args:
        network: The targets.
        run: Which of them.
    """
    one = ResidualMLP(*(tuple(t[run, None] for t in p) if isinstance(p, tuple) else p[run, None] for p in network))
    n = one.embed.shape[1]
    x = torch.linspace(0, 1, N_X)
    single = torch.eye(n)
    curves = torch.stack([one.outputs((single * value)[None])[0].diagonal() for value in x], 1)
    return Responses(one.outputs(single[None])[0], curves, x)


class Halves(NamedTuple):
    """Outputs of the MLP layers, without the embedded input, on one feature at 1.

    Attributes:
        feature: Which.
        target: `[n_o]`.
        top_k: With the component of the largest attribution `[n_o]`.
        scrubbed: With that of the feature and a random half of the others `[n_halves, n_o]`.
        anti_scrubbed: With a random half without it `[n_halves, n_o]`.
    """

    feature: int
    target: Tensor
    top_k: Tensor
    scrubbed: Tensor
    anti_scrubbed: Tensor


def halves_of_feature(one: Decomposed, *, seed: int = 0) -> Halves:
    """Returns what is left of the first target's output on one feature (APD Figs. 7 and 24).

    Args:
        one: Decompositions of residual MLPs.
        seed: Seeds the halves.
    """
    network, n_runs = one.network, len(one.apd.seeds)
    n, feature = network.embed.shape[1], shown_feature(network)
    x = one_hot(torch.tensor([feature]), n).float().expand(n_runs, N_HALVES, -1)
    own = one_hot(feature_components(network, one.apd, n)[:, feature], one.apd.config.n_components)[:, None] > 0
    coin = torch.rand(n_runs, N_HALVES, own.shape[-1], generator=torch.Generator().manual_seed(seed)) < 0.5
    straight = (x @ network.embed @ network.unembed)[0]
    target = network.outputs(x[:, :1])[0] - straight[:1]
    kept = most_attributed(network, one.apd, x[:, :1], 1.0, 1)
    top_k = masked_outputs(network, one.apd, x[:, :1], kept)[0] - straight[:1]
    found = [masked_outputs(network, one.apd, x, mask)[0] - straight for mask in (coin | own, coin & ~own)]
    return Halves(feature, target[0], top_k[0], *found)


def predominant(one: Decomposed) -> tuple[Tensor, Tensor]:
    """Returns the neurons' contributions in the target and in each feature's predominant component (APD Fig. 6).

    Predominant is the component in which the largest contribution of a neuron to the feature is largest.

    Args:
        one: Decompositions of residual MLPs.

    Returns:
        `[n_runs, n_features, n_neurons]` twice.
    """
    target = contributions(one.network, one.network.weights)
    each = contributions(one.network, {name: own.each() for name, own in one.apd.components.items()})
    best = each.amax(-1).argmax(1)  # Of each feature `[n_runs, n_features]`.
    return target, each.gather(1, best[:, None, :, None].expand(-1, 1, -1, each.shape[-1]))[:, 0]


def kept_contributions(one: Decomposed) -> Tensor:
    """Returns what the predominant components have of the target's contributions above `LARGE`, medians `[n_runs]`.

    That is NaN of a target with none.

    Args:
        one: Decompositions of residual MLPs.
    """
    target, best = predominant(one)
    return torch.where(target > LARGE, best / target, torch.nan).flatten(1).nanquantile(0.5, dim=1)


def across_layers(one: Decomposed) -> tuple[Tensor, Tensor]:
    """Returns to how many features neurons of every layer contribute at least `SERVES`, `[n_runs]` twice.

    Args:
        one: Decompositions of residual MLPs.

    Returns:
        That number in the target, and in each feature's predominant component.
    """
    wide = one.network.b[0].shape[1]
    parts = [(part >= SERVES).unflatten(-1, (-1, wide)) for part in predominant(one)]
    return tuple(part.any(-1).all(-1).sum(1) for part in parts)


def first_contributions(one: Decomposed) -> tuple[Tensor, Tensor]:
    """Returns `predominant` of the first run."""
    target, best = predominant(one)
    return target[0], best[0]


def first_halves(found: Residual) -> dict[str, Tensor]:
    """Returns the errors of the first run with some components only, by name."""
    return {kind.replace("_", "-"): getattr(found.halves, kind)[0] for kind in found.halves._fields}


def first_errors(found: FeatureErrors) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the errors of the first run by feature: of the target, of one component, of batch top-k."""
    return found.target[0], found.single[0], found.batch[0]


def ray_panels(one: Decomposed, run: int) -> dict[str, Tensor]:
    """Returns W, the sum of the components and each component of one run of superposition, by title."""
    each = one.apd.components["W"].each()[run]
    panels = {"target": one.network.w[run], "sum": each.sum(0)}
    return panels | {f"component {c}": p for c, p in enumerate(each)}


def history(one: Decomposed) -> dict[str, Tensor]:
    """Returns the terms of the loss that a decomposition has, over training, `[n_runs, n_records]` by name."""
    return {term: t for term, t in one.apd.history._asdict().items() if t.any()}
