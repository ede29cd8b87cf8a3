"""Tables of chapter 9: methods side by side on every target."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from .comparison import METHODS, Comparison

# Targets by what the tables call them.
TITLES = {
    "tms_5-2": "superposition 5 in 2", "tms_40-10": "superposition 40 in 10", "tmcs": "circuit superposition",
    "high_rank": "higher rank", "squared": "squares", "mlp_1": "MLP, 1 layer", "mlp_2": "MLP, 2 layers",
}  # fmt: skip
# Measures by what the tables call them, with decimals.
CIRCUITS = {"covered": ("covered", 2), "cosine": ("matched |cos|", 3), "purity": ("purity", 2)}
AGREE = {"agreement": ("agreement of seeds", 2), "live": ("live", 0), "parts": ("of", 0)}
GRADIENTS = {"gradient_active": ("coefficients for recon_sq 0.2", 2), "gradient_all": ("recon_sq, all kept", 3)}
OUTPUTS = {"output_active": ("parts for 5 % error", 2), "held": ("weights in the parts", 2)}
CHANGES = {"step": ("selectivity of steps", 1), "ablation": ("selectivity of ablations", 1)}
SUMMARY = {
    "covered": ("covered", 2), "cosine": ("matched |cos|", 2), "gradient_active": ("coefficients", 2),
    "output_active": ("parts", 2), "ablation": ("selectivity of ablations", 1),
}  # fmt: skip


def cell(values: Tensor, digits: int) -> str:
    """Returns 'median [least, most]' of targets; those that reach nothing (NaN) count as above all others, '–'.

    Args:
        values: `[n]`.
        digits: Decimals.
    """
    ordered = sorted(math.inf if math.isnan(v) else v for v in values.tolist())
    n = len(ordered)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    shown = ["–" if math.isinf(v) else f"{v:.{digits}f}" for v in ((low + high) / 2, ordered[0], ordered[-1])]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def known(values: Tensor) -> Tensor:
    """Returns values without NaN."""
    return values[~values.isnan()]


def table(result: Comparison, columns: dict[str, tuple[str, int]]) -> pd.DataFrame:
    """Returns measures of every method on every target, median and range over targets.

    Args:
        result: The comparison.
        columns: Title and decimals of each measure.
    """
    rows = {}
    for name in result.measures:
        n = len(result.measures[name]["seeds"])
        for method in METHODS:
            values = {key: result.of(name, method, key) for key in columns}
            if "agreement" in values:
                values["agreement"] = known(values["agreement"])
            rows[f"{TITLES[name]}, n = {n}", method] = {
                title: cell(values[key], digits) if len(values[key]) else "" for key, (title, digits) in columns.items()
            }
    return pd.DataFrame(rows).T.rename_axis(["target", "method"])


def summary_table(result: Comparison) -> pd.DataFrame:
    """Returns the few measures to quote, with the seconds of one decomposition."""
    found = table(result, SUMMARY)
    seconds = [
        f"{float(result.costs[name][f'{method}/seconds']):.2g}" if method != "random" else ""
        for name in result.measures
        for method in METHODS
    ]
    return found.assign(**{"core-seconds": seconds})


def cost_table(result: Comparison) -> pd.DataFrame:
    """Returns what one decomposition of one target takes."""
    rows = {}
    for name, spent in result.costs.items():
        for method in METHODS[:3]:
            seconds, mib, numbers = (float(spent[f"{method}/{what}"]) for what in ("seconds", "mib", "numbers"))
            rows[TITLES[name], method] = {
                "core-seconds": f"{seconds:.3g}" if seconds < 100 else f"{seconds:,.0f}",
                "peak memory, MiB": f"{mib:,.0f}",
                "numbers trained": "0" if method == METHODS[2] else f"{numbers:,.0f}",
            }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis(["target", "method"])


def curve(result: Comparison, name: str, method: str, kind: str) -> tuple[Tensor, Tensor]:
    """Returns parts per sample and the median error over targets, as far as all targets tell it.

    Args:
        result: The comparison.
        name: Of the targets.
        method: One of `METHODS`.
        kind: 'gradient' or 'output'.
    """
    active, error = (result.of(name, method, f"{kind}_curve_{what}") for what in ("active", "error"))
    whole = ~error.isnan().any(0)
    return active[0, whole], error[:, whole].median(0).values


def ratios(result: Comparison, key: str, over: str = "APD", under: str = "L3D") -> dict[str, float]:
    """Returns how many times a cost of one method is that of another, by target."""
    return {name: float(spent[f"{over}/{key}"] / spent[f"{under}/{key}"]) for name, spent in result.costs.items()}


def medians(result: Comparison, key: str) -> dict[str, dict[str, float]]:
    """Returns the median of a measure over targets by target and method; infinite where most reach nothing."""
    found = {}
    for name in result.measures:
        of = {method: result.of(name, method, key).nan_to_num(torch.inf) for method in METHODS}
        found[name] = {method: float(values.quantile(0.5, interpolation="higher")) for method, values in of.items()}
    return found
