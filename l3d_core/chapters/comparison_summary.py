"""Numbers, first losses and provenance of chapter 9 as one record."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .comparison import METHODS, Comparison
from .comparison_settings import jobs
from .comparison_tables import CHANGES, CIRCUITS, GRADIENTS, NEEDED, OUTPUTS, TITLES, cell, ratios
from .comparison_tuning import chosen
from .statistics import made_in, settings_digest, seven_digits

# Measures with a number of their own in the text.
NAMED = CIRCUITS | GRADIENTS | OUTPUTS | CHANGES | {"agreement": ("", 2), "live": ("", 0)}


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


def numbers(result: Comparison) -> dict[str, Any]:
    """Returns the numbers of the chapter's prose: '<measure>_<target>_<method>', with costs and what was chosen."""
    found: dict[str, Any] = {"n_held_out": result.settings.n_held_out, "cost_steps": result.settings.cost_steps}
    for name, own in result.measures.items():
        found[f"n_{name}"] = len(own["seeds"])
        for method in METHODS:
            for key, (_, digits) in NAMED.items():
                values = result.of(name, method, key)
                found[f"{key}_{name}_{method}"] = cell(values, digits, key in NEEDED) or "not run"
        spent = result.costs[name]
        found |= {
            f"seconds_{name}_{method}": f"{float(spent[f'{method}/seconds']):.3g}" for method in METHODS[:3]
        }  # fmt: skip
        found[f"faster_{name}"] = f"{ratios(result, 'seconds')[name]:.0f}"
    labels = result.settings.candidates
    for (target, method), name in chosen(labels, result.tried).items():
        found[f"chosen_{target}_{method}"] = labels[name].label
    return found


def rows(result: Comparison) -> list[dict[str, Any]]:
    """Returns one row for each target and method, for tables of sweeps."""
    return [
        {
            "target": name, "method": method, "seed": seed,
            **{key: round(float(result.of(name, method, key)[i]), 6) for key in NAMED},
        }
        for name, own in result.measures.items()
        for i, seed in enumerate(own["seeds"].tolist())
        for method in METHODS
    ]  # fmt: skip


def first_losses(result: Comparison) -> dict[str, list]:
    """Returns the first losses of every stack of `comparison.jobs` to seven digits."""
    found = {}
    for job in jobs(result.settings):
        method, name = job.split(", ")[:2]
        found[job] = [seven_digits(result.measures[name][f"{method}/first_losses"])]
    return found


def summarise(result: Comparison, preset: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, first losses and provenance (JSON-able).

    Args:
        result: The comparison.
        preset: The preset it ran.
        values: Further numbers.
    """
    seconds = {name: round(facts["core_seconds"], 1) for name, facts in result.facts.items()}
    return {
        "preset": preset, "settings": settings_digest(result.settings), "claims": {},
        "numbers": numbers(result) | {"core_minutes": f"{sum(seconds.values()) / 60:.0f}"} | values,
        "table": rows(result), "first_losses": first_losses(result),
        "provenance": made_in(next(iter(result.facts.values())), seconds),
    }  # fmt: skip
