"""Numbers, first losses and provenance of chapter 9 as one record."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .comparison import METHODS, Comparison, jobs
from .comparison_changes import STEP
from .comparison_measures import COVERED, OUTPUT_ERROR, RECON, median
from .comparison_parts import N_LIVE
from .comparison_settings import ComparisonSettings
from .comparison_subjects import subject
from .comparison_tables import CHANGES, CIRCUITS, GRADIENTS, NEEDED, OUTPUTS, TITLES, amount, cell, ratios
from .comparison_tuning import N_JUDGED, chosen
from .statistics import made_in, settings_digest, seven_digits

# Measures with a number of their own in the text.
NAMED = CIRCUITS | GRADIENTS | OUTPUTS | CHANGES | {"agreement": ("", 2), "live": ("", 0)}
# Of these less is better; of the others more.
LESS = (*NEEDED, "gradient_circuits", "output_circuits", "output_rest", "gradient_all", "gradient_own")


def frame(result: Comparison, key: str) -> pd.DataFrame:
    """Returns one measure of every target and method, to be drawn.

    Args:
        result: The comparison.
        key: The measure.
    """
    rows = [
        {"target": TITLES[name], "method": method, "value": value}
        for name in result.measures
        for method in METHODS
        for value in result.of(name, method, key).tolist()
    ]
    return pd.DataFrame(rows)


def spent_frame(result: Comparison, what: str) -> pd.DataFrame:
    """Returns a cost of every target and method, one each, to be drawn.

    Args:
        result: The comparison.
        what: 'seconds' or 'mib'.
    """
    rows = [
        {"target": TITLES[name], "method": method, "value": float(spent[f"{method}/{what}"])}
        for name, spent in result.costs.items()
        for method in METHODS[:3]
    ]
    return pd.DataFrame(rows)


def ahead(result: Comparison, key: str, first: str = "L3D", second: str = "APD") -> list[str]:
    """Returns on which kinds of targets the median of one method is better than that of another, on the same targets.

    Args:
        result: The comparison.
        key: The measure.
        first: The one.
        second: The other.
    """
    found = []
    for name in result.measures:
        both = torch.stack([result.of(name, method, key) for method in (first, second)])
        # A number of parts that is not reached is above all others; what was not measured for both does not count.
        both = both.nan_to_num(nan=torch.inf) if key in NEEDED else both[:, ~both.isnan().any(0)]
        one, other = map(median, both)
        if one < other if key in LESS else one > other:
            found.append(name)
    return found


def listed(names: list[str]) -> str:
    """Returns kinds of targets as words: 'all' or 'none' of them, or which."""
    titles = [TITLES[name] for name in names]
    if len(titles) in (0, len(TITLES)):
        return "all kinds of targets" if titles else "no kind of target"
    return " and ".join(filter(None, [", ".join(titles[:-1]), titles[-1]]))


def fixed(settings: ComparisonSettings) -> dict[str, Any]:
    """Returns the numbers of the chapter's prose that were set and not measured."""
    own, tried = settings.targets, settings.candidates.values()
    mlps = [name for name in own if name.startswith("mlp")]
    return {
        "n_kinds": len(own), "n_held_out": f"{settings.n_held_out:,}", "cost_steps": settings.cost_steps,
        "output_error": f"{OUTPUT_ERROR:.0%}".replace("%", " %"), "recon": RECON, "half": COVERED,
        "step": f"{STEP:.0%}".replace("%", " %"), "n_live_samples": f"{N_LIVE:,}", "n_judged": f"{N_JUDGED:,}",
        "tuning_seeds": " and ".join(map(str, sorted({seed for one in tried for seed in one.seeds}))),
        "apd_steps_tried": f"{max((one.apd.config.steps for one in tried if one.apd), default=0):,}",
        **{f"n_again_{name}": sum(len(run.seeds) for run in one.apd_again) for name, one in own.items()},
        **{f"terms_{name}": own[name].apd[0].config.n_terms for name in mlps},
        **{f"purest_{name}": f"{subject(name, own[name].seeds[0]).purest:.2f}" for name in mlps},
    }  # fmt: skip


def numbers(result: Comparison) -> dict[str, Any]:
    """Returns the measured numbers of the chapter's prose.

    '<measure>_<target>_<method>' is median and range, 'median_...' the median alone; 'ahead_<measure>_<method>' names
    the kinds of targets on which that method's median is the better of L3D's and APD's. Costs and what was chosen are
    there too.
    """
    found: dict[str, Any] = {}
    for key in NAMED:
        found[f"ahead_{key}_L3D"], found[f"ahead_{key}_APD"] = (
            listed(ahead(result, key, *pair)) for pair in (("L3D", "APD"), ("APD", "L3D"))
        )
    for name, own in result.measures.items():
        found[f"n_{name}"] = len(own["seeds"])
        found[f"cosine_reachable_{name}"] = f"{median(own['cosine_reachable']):.3f}"
        for method in METHODS:
            for key, (_, digits) in NAMED.items():
                values = result.of(name, method, key)
                found[f"{key}_{name}_{method}"] = text = cell(values, digits, key in NEEDED) or "not run"
                found[f"median_{key}_{name}_{method}"] = text.split(" [")[0]
        for what in ("seconds", "mib"):
            each = {method: amount(float(result.costs[name][f"{method}/{what}"])) for method in METHODS[:3]}
            found |= {f"{what}_{name}_{method}": text for method, text in each.items()}
    found |= tuning_numbers(result)
    for what in ("seconds", "mib"):
        times = sorted(ratios(result, what).values())
        found |= {f"least_{what}": amount(times[0]), f"most_{what}": amount(times[-1])}
    return found


def tuning_numbers(result: Comparison) -> dict[str, str]:
    """Returns the label of what was chosen by target and method, and of APD what choosing by outputs would have given.

    'chosen_error_...' and 'chosen_covered_...' are of the chosen candidate, 'least_...' of that with the smallest
    error of the outputs, in the mean over targets.
    """
    tried, all_of = result.tried, result.settings.candidates
    best, found = chosen(all_of, tried), {}
    for at in ((name, method) for name in result.measures for method in METHODS[:2]):
        found["chosen_{}_{}".format(*at)] = all_of[best[at]].label if at in best else "nothing"
    for (target, method), name in best.items():
        own = [other for other, one in all_of.items() if (one.target, one.method) == (target, method)]
        least = min(own, key=lambda other: float(tried[other].output.mean()))
        for word, which in (("chosen", name), ("least", least)) if method == "APD" else ():
            found[f"{word}_error_{target}"] = f"{float(tried[which].output.mean()):.2f}"
            found[f"{word}_covered_{target}"] = f"{tried[which].rank[0]:.2f}"
    return found


def rows(result: Comparison) -> list[dict[str, Any]]:
    """Returns one row for each target and method, for tables of sweeps."""
    return [
        {
            "target": name, "method": method, "seed": seed,
            **{key: _number(result.of(name, method, key)[i]) for key in NAMED},
        }
        for name, own in result.measures.items()
        for i, seed in enumerate(own["seeds"].tolist())
        for method in METHODS
    ]  # fmt: skip


def _number(value: Tensor) -> float | None:
    """Returns a number as JSON has it: None for what is not finite."""
    return round(float(value), 6) if value.isfinite() else None


def first_losses(result: Comparison) -> dict[str, list]:
    """Returns the first losses of every stack of `comparison.jobs` to seven digits."""
    found = {}
    for job in jobs(result.settings):
        method, name = job.split(", ")[:2]
        found[job] = [seven_digits(result.measures[name][f"{method}/first_losses"])]
    return found


def summarise(result: Comparison, preset: str) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, first losses and provenance (JSON-able).

    Args:
        result: The comparison.
        preset: The preset it ran.
    """
    seconds = {name: round(facts["core_seconds"], 1) for name, facts in result.facts.items()}
    return {
        "preset": preset, "settings": settings_digest(result.settings), "claims": {},
        "numbers": fixed(result.settings) | numbers(result) | {"core_minutes": f"{sum(seconds.values()) / 60:.0f}"},
        "table": rows(result), "first_losses": first_losses(result),
        "provenance": made_in(next(iter(result.facts.values())), seconds),
    }  # fmt: skip
