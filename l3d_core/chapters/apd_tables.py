"""Tables of chapter 7, APD on the targets of its own paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .apd_chapter import APDSettings
from .apd_measures import (
    Scrubbed,
    feature_components,
    geometry,
    monosemantic_error,
    n_found,
    n_own,
    scrubbing,
    whole,
)
from .apd_runs import APDRun, Decomposed
from .statistics import spread_text

# Runs by what the tables call them: with the numbers of the paper, of the files of its code, and of ours.
TITLES = {
    "tms-5-2": "5 in 2, attributions at the components", "tms-5-2-target": "5 in 2, at the target",
    "tms-40-10": "40 in 10, text", "tms-40-10-code": "40 in 10, code", "tms-40-10-tuned": "40 in 10, tuned",
}  # fmt: skip
MLP_TITLES = {
    "mlp-1": "1 layer", "mlp-2": "2 layers", "mlp-1-top-1": "1 layer, top-k 1", "mlp-2-top-1": "2 layers, top-k 1"
}  # fmt: skip
ALL_TITLES = TITLES | MLP_TITLES | {"gated": "gated functions"}
# What the paper has of these, by the ends of the names of its numbers.
PAPER_TITLES = {"5": "paper, 5 in 2, one instance", "40": "paper, 40 in 10, one instance"}
PAPER_MLP_TITLES = {"1": "paper, 1 layer", "2": "paper, 2 layers"}
# Samples on which random halves are tried (the authors' figures: 10,000), and the seed of these samples.
N_SCRUBBED, SEED = 10_000, 0


class Superposed(NamedTuple):
    """How near components of superposition are to single features, by run of a kept target `[n_kept]`.

    Attributes:
        kept: Numbers of the runs: those whose target misses no feature, see `whole`.
        mmcs: Mean over features of the largest cosine (APD Eq. 3).
        ml2r: Mean over features of the ratio of lengths (APD Eq. 4).
        found: Features with a component of their own.
        share: These over all features.
        sum_error: Mean squared difference of the sum of components and W.
    """

    kept: Tensor
    mmcs: Tensor
    ml2r: Tensor
    found: Tensor
    share: Tensor
    sum_error: Tensor

    @property
    def best(self) -> int:
        """The number of the run with the most features found, and of those the highest MMCS."""
        return int(self.kept[(self.found + self.mmcs.clamp(0, 0.999)).argmax()])


def superposed(one: Decomposed) -> Superposed:
    """Returns the measures of Table 1 of the APD paper, by run.

    Args:
        one: Decompositions of superposition.
    """
    kept = whole(one.network.w).nonzero().flatten()
    w, each = one.network.w[kept], one.apd.components["W"].each()[kept]
    near, found = geometry(w, each), n_found(w, each)
    error = (each.sum(1) - w).square().mean((1, 2))
    return Superposed(kept, near.cosine.mean(1), near.ratio.mean(1), found, found / w.shape[1], error)


def superposed_table(found: Mapping[str, Superposed], papers: Mapping[str, Any]) -> pd.DataFrame:
    """Returns APD Table 1 over runs: median, range and number, and how many runs have all features.

    Args:
        found: Measures by the name of a run, see `TITLES`.
        papers: See `record.paper_values`.
    """
    rows = [
        {"target": title, **{key: f"{papers[f'apd_{key.lower()}_{n}']['value']:.3f}" for key in ("MMCS", "ML2R")}}
        for n, title in PAPER_TITLES.items()
    ]
    for name, title in TITLES.items():
        own = found[name]
        rows.append({
            "target": title, "MMCS": spread_text(own.mmcs), "ML2R": spread_text(own.ml2r),
            "best MMCS": f"{float(own.mmcs.max()):.3f}", "features found": spread_text(own.found, 0),
            "all found": f"{int((own.share == 1).sum())} of {len(own.found)}",
            "sum, squared error": f"{float(own.sum_error.max()):.0e} at most",
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("target").fillna("")


class Residual(NamedTuple):
    """What components of residual MLPs do, by run.

    Attributes:
        own: Features with a component of their own `[n_runs]`.
        halves: Errors with random halves of the components `[n_runs, n_s]`.
        monosemantic: Error of one neuron for a feature against the target `[n_runs]`.
    """

    own: Tensor
    halves: Scrubbed
    monosemantic: Tensor


def held_out(one: Decomposed, run: APDRun) -> Tensor:
    """Returns samples that nothing was trained on, the same for all runs, `[n_runs, n_s, n_features]`.

    Args:
        one: Decompositions of residual MLPs.
        run: Any of their parts, for the inputs' distribution.
    """
    generator = torch.Generator().manual_seed(2**30 + SEED)
    return run.sample(generator, N_SCRUBBED).expand(len(one.apd.seeds), -1, -1)


def residual(one: Decomposed, run: APDRun) -> Residual:
    """Returns the measures of APD Figs. 8 and 25, on samples that nothing was trained on.

    Args:
        one: Decompositions of residual MLPs.
        run: Any of their parts, for the inputs' distribution.
    """
    x = held_out(one, run)
    component = feature_components(one.network, one.apd, x.shape[-1])
    halves = scrubbing(one.network, one.apd, x, batch_size=run.config.batch_size, seed=SEED)
    return Residual(n_own(component), halves, monosemantic_error(one.network, x))


def residual_table(found: Mapping[str, Residual], papers: Mapping[str, Any]) -> pd.DataFrame:
    """Returns mean errors with random halves of the components, their ratio, and features with a component.

    Args:
        found: Measures by the name of a run, see `MLP_TITLES`.
        papers: See `record.paper_values`.
    """
    ratio, mono = "anti-scrubbed / scrubbed", "one neuron a feature"
    rows = []
    for n, title in PAPER_MLP_TITLES.items():
        read = {kind: papers[f"apd_{kind}_{n}"]["value"] for kind in (*Scrubbed._fields, "monosemantic")}
        means = {kind.replace("_", "-"): f"{1e4 * read[kind]:.2f}" for kind in Scrubbed._fields}
        ends = {ratio: f"{read['anti_scrubbed'] / read['scrubbed']:.1f}", mono: f"{1e4 * read['monosemantic']:.1f}"}
        rows.append({"target": title, "features with their own": "", **means, **ends})
    for name, one in found.items():
        means = {kind: getattr(one.halves, kind).mean(1) for kind in Scrubbed._fields}
        rows.append({
            "target": MLP_TITLES[name], "features with their own": spread_text(one.own, 0),
            **{kind.replace("_", "-"): spread_text(1e4 * mean, 2) for kind, mean in means.items()},
            ratio: spread_text(means["anti_scrubbed"] / means["scrubbed"], 1),
            mono: spread_text(1e4 * one.monosemantic, 2),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("target")


def settings_table(settings: APDSettings, runs: dict[str, Decomposed]) -> pd.DataFrame:
    """Returns what each decomposition was run with, and the processor seconds of a target.

    Args:
        settings: The chapter's.
        runs: All decompositions.
    """
    columns = {}
    for name, title in ALL_TITLES.items():
        config, one = runs[name].apd.config, settings.runs[name][0]
        columns[title] = {
            "components C": config.n_components, "rank-one terms": config.n_terms, "steps": config.steps,
            "batch": config.batch_size, "top-k": f"{config.top_k:g}", "faithfulness": f"{config.faithfulness:g}",
            "minimality": f"{config.minimality:g}", "simplicity": f"{config.simplicity:g}, p {config.p:g}",
            "hidden": f"{config.hidden:g}",
            "learning rate": f"{config.lr:g}, {config.schedule}, {100 * config.warmup:g} % warm-up",
            "start": f"{config.init}, {config.init_scale:g} times", "unit U": "yes" if config.unit_norm else "no",
            "attributions at": config.attributions, "targets": len(runs[name].apd.seeds),
            "numbers trained": sum(part[0].numel() for own in runs[name].apd.components.values() for part in own),
            "core-seconds a target": f"{runs[name].facts['core_seconds'] / len(runs[name].apd.seeds):.0f}",
            "target's loss": "" if one.target is None else spread_text(runs[name].losses, 5),
        }  # fmt: skip
    return pd.DataFrame(columns).rename_axis("")
