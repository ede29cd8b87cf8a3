"""Tables of chapter 7, APD on the targets of its own paper."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .apd_measures import (
    Scrubbed,
    contributions,
    feature_components,
    geometry,
    monosemantic_error,
    n_found,
    n_own,
    scrubbing,
)
from .apd_runs import APDRun, Decomposed
from .statistics import spread_text

# Samples on which random halves are tried (the authors' figures: 10,000), and the seed of these samples.
N_SCRUBBED, SEED = 10_000, 0


class Superposed(NamedTuple):
    """How near components of superposition are to single features, by run `[n_runs]`.

    Attributes:
        mmcs: Mean over features of the largest cosine (APD Eq. 3).
        ml2r: Mean over features of the ratio of lengths (APD Eq. 4).
        found: Features with a component of their own.
        sum_error: Mean squared difference of the sum of components and W.
    """

    mmcs: Tensor
    ml2r: Tensor
    found: Tensor
    sum_error: Tensor


def superposed(one: Decomposed) -> Superposed:
    """Returns the measures of Table 1 of the APD paper, by run.

    Args:
        one: Decompositions of superposition.
    """
    w, each = one.network.w, one.apd.components["W"].each()
    near = geometry(w, each)
    return Superposed(near.cosine.mean(1), near.ratio.mean(1), n_found(near), (each.sum(1) - w).square().mean((1, 2)))


def superposed_table(found: dict[str, Decomposed]) -> pd.DataFrame:
    """Returns APD Table 1 over runs: median, range and number, and how many runs have all features.

    Args:
        found: Decompositions of superposition by the name that readers see.
    """
    rows = []
    for name, one in found.items():
        own, n = superposed(one), one.network.w.shape[1]
        rows.append({
            "target": name, "MMCS": spread_text(own.mmcs), "ML2R": spread_text(own.ml2r),
            "best MMCS": f"{float(own.mmcs.max()):.3f}", "features found": spread_text(own.found, 0),
            "all found": f"{int((own.found == n).sum())} of {len(own.found)}",
            "sum, squared error": spread_text(own.sum_error, 6),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("target")


class Residual(NamedTuple):
    """What components of residual MLPs do, by run.

    Attributes:
        own: Features with a component of their own `[n_runs]`.
        halves: Errors with random halves of the components `[n_runs, n_s]`.
        monosemantic: Error of one neuron for a feature `[n_runs]`.
    """

    own: Tensor
    halves: Scrubbed
    monosemantic: Tensor


def residual(one: Decomposed, run: APDRun) -> Residual:
    """Returns the measures of APD Figs. 8 and 25, on samples that nothing was trained on.

    Args:
        one: Decompositions of residual MLPs.
        run: Any of their parts, for the inputs' distribution.
    """
    generator = torch.Generator().manual_seed(2**30 + SEED)
    x = run.sample(generator, N_SCRUBBED).expand(len(one.apd.seeds), -1, -1)
    component = feature_components(one.network, one.apd, x.shape[-1])
    halves = scrubbing(one.network, one.apd, x, batch_size=run.config.batch_size, seed=SEED)
    return Residual(n_own(component), halves, monosemantic_error(one.network, x))


def residual_table(found: dict[str, Residual]) -> pd.DataFrame:
    """Returns mean errors with random halves of the components, their ratio, and features with a component.

    Args:
        found: Measures by the name that readers see.
    """
    rows = []
    for name, one in found.items():
        means = {kind: getattr(one.halves, kind).mean(1) for kind in Scrubbed._fields}
        rows.append({
            "target": name, "features with their own": spread_text(one.own, 0),
            **{kind.replace("_", "-"): spread_text(mean, 6) for kind, mean in means.items()},
            "anti-scrubbed / scrubbed": spread_text(means["anti_scrubbed"] / means["scrubbed"], 1),
            "one neuron a feature": spread_text(one.monosemantic, 6),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("target")


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
