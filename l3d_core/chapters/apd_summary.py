"""Everything that chapter 7 measures on APD's components, with its numbers, claims and provenance as one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..apd_targets import GatedFunctions, gated_functions
from .apd_chapter import APDSettings, jobs
from .apd_gated import Gated, best, gated, one_each, purity
from .apd_measures import FOUND, LONG, SERVES, FeatureErrors, contributions, feature_errors
from .apd_runs import GATED_SEED, Decomposed
from .apd_tables import N_SCRUBBED, Residual, Superposed, held_out, residual, superposed
from .apd_views import LARGE, across_layers, kept_contributions, responses, shown_feature
from .statistics import made_in, settings_digest, seven_digits, spread_text

# Which run stands for the paper's text, for its authors' code at its defaults and for settings of ours, by what the
# claims call it. What the code's files had for 40 features ran on a single target, too few for a verdict.
SUPERPOSED = {
    "5": {"text": "tms-5-2", "code": "tms-5-2-target"},
    "40": {"text": "tms-40-10", "tuned": "tms-40-10-tuned"},
}
# A sum is W's if the mean squared difference is below this. Least ratios of errors without and with a feature's
# components. Least features with a component of their own. A component serves a function if more than half of its
# squared weights do. All stand in the list of claims too.
SUM_ERROR, RATIOS, LEAST_OWN = 1e-4, {"mlp-1": 3.0, "mlp-2": 2.5}, 0.9
# One component alone serves a feature badly if its error against the labels is so many times the target's; of how many
# features that has to hold for computations to be split over components, the paper having about a fifth.
BAD, LEAST_BAD = 1.5, 0.1


class APDResult(NamedTuple):
    """Decompositions of chapter 7 and what was measured on them, by the names of the settings.

    Attributes:
        settings: The chapter's.
        runs: All decompositions.
        functions: The gated functions with their neurons.
        superposed: Of superposition.
        residual: Of residual MLPs, with random halves of their components.
        alone: Of residual MLPs, feature by feature.
        gated: Of the gated functions.
    """

    settings: APDSettings
    runs: dict[str, Decomposed]
    functions: GatedFunctions
    superposed: dict[str, Superposed]
    residual: dict[str, Residual]
    alone: dict[str, FeatureErrors]
    gated: Gated


def measured(settings: APDSettings, runs: dict[str, Decomposed]) -> APDResult:
    """Returns the chapter's decompositions with all measures.

    Args:
        settings: The chapter's.
        runs: What `apd_chapter.compute` returned.
    """
    functions = gated_functions(GATED_SEED)
    mlps = {name: (one, settings.runs[name][0]) for name, one in runs.items() if name.startswith("mlp")}
    return APDResult(
        settings, runs, functions,
        {name: superposed(one) for name, one in runs.items() if name.startswith("tms")},
        {name: residual(one, run) for name, (one, run) in mlps.items()},
        {
            name: feature_errors(one.network, one.apd, held_out(one, run), batch_size=run.config.batch_size)
            for name, (one, run) in mlps.items()
        },
        gated(runs["gated"], functions),
    )  # fmt: skip


def ratio(found: Residual) -> Tensor:
    """Returns the mean error without the components of active features over that with them, `[n_runs]`."""
    return found.halves.anti_scrubbed.mean(1) / found.halves.scrubbed.mean(1)


def n_bad(found: FeatureErrors) -> tuple[Tensor, Tensor]:
    """Returns how many features are served badly, by one component and by batch top-k, `[n_runs]` each."""
    return tuple((each > BAD * found.target).sum(1) for each in (found.single, found.batch))


def against_active(found: FeatureErrors) -> Tensor:
    """Returns the correlation over features of the error that one component leaves and those at work, `[n_runs]`."""
    pairs = zip(found.single_target, found.active, strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs])


def n_shared(one: Decomposed) -> Tensor:
    """Returns how many components serve several features, by the largest contribution of a neuron, `[n_runs]`."""
    each = contributions(one.network, {name: own.each() for name, own in one.apd.components.items()})
    return ((each.amax(-1) >= SERVES).sum(-1) > 1).sum(1)


def claims(result: APDResult) -> dict[str, dict[str, list]]:
    """Returns the values of APD's claims by 'text', 'code' and 'tuned', as far as these were run."""
    found: dict[str, dict[str, list]] = {}
    for size, names in SUPERPOSED.items():
        for key in ("mmcs", "ml2r"):
            values = {variant: getattr(result.superposed[name], key) for variant, name in names.items()}
            found[f"apd-{key}-{size}"] = {v: [round(float(x), 6) for x in each] for v, each in values.items()}
        found[f"apd-found-{size}"] = {v: (result.superposed[name].share == 1).tolist() for v, name in names.items()}
    found["apd-sum"] = {"text": [
        bool(error < SUM_ERROR) for names in SUPERPOSED.values() for error in result.superposed[names["text"]].sum_error
    ]}  # fmt: skip
    found["apd-attributions"] = {
        "text": (result.superposed["tms-5-2"].mmcs > result.superposed["tms-5-2-target"].mmcs).tolist()
    }
    for name, least in RATIOS.items():
        one, n = result.residual[name], result.runs[name].network.embed.shape[1]
        own, scrubbed = one.own >= LEAST_OWN * n, one.halves.scrubbed.mean(1)
        found[f"apd-own-{name}"] = {"code": own.tolist()}
        found[f"apd-scrubbed-{name}"] = {"code": ((ratio(one) >= least) & (scrubbed < one.monosemantic)).tolist()}
    of_one, of_two = (n_shared(result.runs[name]) for name in ("mlp-1", "mlp-2"))
    found["apd-two-layers"] = {"code": (of_two > of_one.double().quantile(0.5)).tolist()}
    bad, n = n_bad(result.alone["mlp-1"]), result.runs["mlp-1"].network.embed.shape[1]
    found["apd-split"] = {"code": ((bad[0] >= LEAST_BAD * n) & (bad[1] == 0)).tolist()}
    found["apd-gated"] = {"text": one_each(result.gated).tolist()}
    return found


def numbers(result: APDResult) -> dict[str, Any]:
    """Returns the numbers of the chapter's prose."""
    found: dict[str, Any] = {
        "n_scrubbed": f"{N_SCRUBBED:,}", "long": LONG, "least_cosine": FOUND[0], "least_length": FOUND[1],
        "serves": SERVES, "bad": BAD, "large": LARGE, "sum_error": f"{SUM_ERROR:.0e}",
        "feature": shown_feature(result.runs["mlp-1"].network),
    }  # fmt: skip
    for name, one in result.superposed.items():
        found |= {
            f"n_{name}": len(one.mmcs), f"mmcs_{name}": spread_text(one.mmcs), f"ml2r_{name}": spread_text(one.ml2r),
            f"best_{name}": f"{float(one.mmcs.max()):.3f}", f"found_{name}": spread_text(one.found, 0),
            f"all_{name}": f"{int((one.share == 1).sum())} of {len(one.found)}",
            f"sum_{name}": f"{float(one.sum_error.max()):.0e}", f"n_trained_{name}": len(result.runs[name].apd.seeds),
            f"shown_{name}": result.runs[name].apd.seeds[one.best],
        }  # fmt: skip
    for name in result.residual:
        found |= residual_numbers(result, name)
    config = result.runs["gated"].apd.config
    pure, at = purity(result.gated), best(result.gated)
    return found | {
        "gated_best": result.runs["gated"].apd.seeds[at], "gated_n": len(pure), "gated_steps": f"{config.steps:,}",
        "gated_batch": f"{config.batch_size:,}", "gated_one_each": int(one_each(result.gated).sum()),
        "gated_error": spread_text(result.gated.errors.mean(1)),
        "gated_best_error": f"{float(result.gated.errors[at].mean()):.3f}",
        "gated_purity": spread_text(pure.mean(1), 2), "gated_best_purity": f"{float(pure[at].mean()):.2f}",
    }  # fmt: skip


def residual_numbers(result: APDResult, name: str) -> dict[str, Any]:
    """Returns those on residual MLPs.

    Args:
        result: The chapter's.
        name: Of the decompositions.
    """
    one, run, alone = result.residual[name], result.runs[name], result.alone[name]
    bad, config, target = n_bad(alone), run.apd.config, result.settings.runs[name][0].target
    across = dict(zip(("across_target", "across"), across_layers(run), strict=True))
    found = {
        f"n_{name}": len(one.own), f"own_{name}": spread_text(one.own, 0), f"ratio_{name}": spread_text(ratio(one), 1),
        f"shared_{name}": spread_text(n_shared(run), 0), f"mono_{name}": spread_text(1e4 * one.monosemantic, 2),
        f"bad_single_{name}": spread_text(bad[0], 0), f"bad_batch_{name}": spread_text(bad[1], 0),
        f"loss_{name}": spread_text(run.losses, 5), f"kept_{name}": spread_text(kept_contributions(run), 2),
        f"response_{name}": spread_text(responses(run.network).outputs.diagonal(), 2),
        f"active_r_{name}": spread_text(against_active(alone), 2), f"features_{name}": target.n_features,
        f"components_{name}": config.n_components, f"terms_{name}": config.n_terms,
        f"full_terms_{name}": target.n_hidden // target.n_layers, f"top_k_of_{name}": f"{config.top_k:g}",
        f"steps_{name}": f"{config.steps:,}", f"batch_{name}": config.batch_size,
    }  # fmt: skip
    kinds = {kind: 1e4 * getattr(one.halves, kind).mean(1) for kind in one.halves._fields}
    found |= {f"{what}_{name}": spread_text(n, 0) for what, n in across.items()}
    return found | {f"{kind}_{name}": spread_text(mean, 2) for kind, mean in kinds.items()}


def rows(result: APDResult) -> list[dict[str, Any]]:
    """Returns one row for each decomposition, for tables of sweeps."""
    found = []
    for name, one in result.runs.items():
        columns, seeds = {}, one.apd.seeds
        if name in result.superposed:
            columns = result.superposed[name]._asdict()
            seeds = [one.apd.seeds[i] for i in columns.pop("kept")]
        elif name in result.residual:
            columns = {"own": result.residual[name].own, "ratio": ratio(result.residual[name])}
        else:
            columns = {"error": result.gated.errors.mean(1), "purity": purity(result.gated).mean(1)}
        for i, seed in enumerate(seeds):
            values = {key: round(float(values[i]), 6) for key, values in columns.items()}
            found.append({"variant": name, "seed": seed, **values})
    return found


def paper_texts(papers: Mapping[str, Any]) -> dict[str, str]:
    """Returns the paper's numbers that the page's text names.

    Args:
        papers: See `record.paper_values`.
    """
    names = ("mmcs_5", "ml2r_5", "mmcs_40", "ml2r_40")
    value = {name.removeprefix("apd_"): one["value"] for name, one in papers.items() if name.startswith("apd_")}
    ratios = {f"paper_ratio_{n}": f"{value[f'anti_scrubbed_{n}'] / value[f'scrubbed_{n}']:.1f}" for n in (1, 2)}
    return {f"paper_{name}": f"{value[name]:.3f}" for name in names} | ratios


def summarise(result: APDResult, preset: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: The chapter's.
        preset: The preset it ran.
        values: Further numbers.
    """
    seconds = {name: round(one.facts["core_seconds"], 1) for name, one in result.runs.items()}
    left = {name: iter(one.apd.first_losses) for name, one in result.runs.items()}
    losses = {}
    for job, one in jobs(result.settings).items():
        rows_of = left[job.rsplit(", ", 1)[0]]
        losses[job] = [seven_digits(torch.stack([next(rows_of) for _ in one.run.seeds]))]
    return {
        "preset": preset, "settings": settings_digest(result.settings),
        "numbers": numbers(result) | {"core_minutes": f"{sum(seconds.values()) / 60:.0f}"} | values,
        "claims": claims(result), "table": rows(result), "first_losses": losses,
        "provenance": made_in(next(iter(result.runs.values())).facts, seconds),
    }  # fmt: skip
