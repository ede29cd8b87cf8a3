"""Tables of chapter 9: methods side by side on every target."""

from __future__ import annotations

import math

import pandas as pd
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
GRADIENTS = {
    "gradient_active": ("coefficients for recon_sq 0.2", 2), "gradient_circuits": ("recon_sq, one a circuit", 2),
    "gradient_all": ("all kept", 3), "gradient_own": ("all kept, L3D's divergence", 3),
}  # fmt: skip
OUTPUTS = {
    "output_active": ("parts for 5 % of the variance", 2), "added_active": ("of what is added", 2),
    "output_circuits": ("error, one a circuit", 2), "held": ("weights in the parts", 2),
}  # fmt: skip
CHANGES = {
    "step": ("steps, by samples", 1), "ablation": ("ablations, by samples", 1),
    "step_outputs": ("steps, by outputs", 1), "ablation_outputs": ("ablations, by outputs", 1),
}  # fmt: skip
SUMMARY = {
    "covered": ("covered", 2), "cosine": ("matched |cos|", 2), "gradient_circuits": ("recon_sq", 2),
    "output_circuits": ("output error", 2), "held": ("held", 2), "ablation": ("selectivity", 1),
}  # fmt: skip
# Numbers of parts, of which NaN says that none were enough; any other NaN says that there is nothing to measure.
NEEDED = ("gradient_active", "output_active", "added_active")


def cell(values: Tensor, digits: int, needed: bool = False) -> str:
    """Returns 'median [least, most]' of targets.

    Args:
        values: `[n]`; NaN is left out, and nothing but NaN gives an empty text.
        digits: Decimals.
        needed: NaN says that none were enough, and counts as above all numbers, '–'.
    """
    ordered = sorted(math.inf if math.isnan(v) else v for v in (values if needed else known(values)).tolist())
    n = len(ordered)
    if not n:
        return ""
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    beyond = "–" if needed else "∞"
    shown = [beyond if math.isinf(v) else f"{v:.{digits}f}" for v in ((low + high) / 2, ordered[0], ordered[-1])]
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
            rows[f"{TITLES[name]}, n = {n}", method] = {
                title: cell(result.of(name, method, key), digits, key in NEEDED)
                for key, (title, digits) in columns.items()
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
