"""Tables of chapter 9: methods side by side on every target."""

from __future__ import annotations

import math

import pandas as pd
import torch
from torch import Tensor

from .comparison import METHODS, Comparison
from .comparison_measures import OUTPUT_ERROR
from .comparison_settings import ComparisonSettings

# Targets by what the tables call them.
TITLES = {
    "tms_5-2": "superposition 5 in 2", "tms_40-10": "superposition 40 in 10", "tmcs": "circuit superposition",
    "high_rank": "higher rank", "squared": "squares", "mlp_1": "MLP of 1 layer", "mlp_2": "MLP of 2 layers",
}  # fmt: skip
# Measures by what the tables call them, with decimals.
CIRCUITS = {"covered": ("covered", 2), "cosine": ("matched |cos|", 3), "purity": ("purity", 2)}
AGREE = {"agreement": ("agreement of seeds", 2), "live": ("live", 0), "parts": ("of", 0)}
GRADIENTS = {
    "gradient_active": ("coefficients for recon_sq 0.2", 2), "gradient_circuits": ("recon_sq, one a circuit", 2),
    "gradient_all": ("all kept", 3), "gradient_own": ("all kept, L3D's divergence", 3),
}  # fmt: skip
OUTPUTS = {
    "output_rest": ("error, rest alone", 2), "output_circuits": ("one a circuit", 2),
    "added_active": ("parts for 5 %", 2), "output_active": ("for 5 % of the whole", 2),
    "held": ("weights in the parts", 2),
}  # fmt: skip
CHANGES = {
    "step": ("steps, by samples", 1), "ablation": ("ablations, by samples", 1),
    "step_outputs": ("steps, by outputs", 1), "ablation_outputs": ("ablations, by outputs", 1),
}  # fmt: skip
SUMMARY = {
    "covered": ("covered", 2), "cosine": ("matched |cos|", 2), "gradient_circuits": ("recon_sq", 2),
    "gradient_active": ("coefficients for recon_sq 0.2", 1), "agreement": ("agreement", 2),
    "output_circuits": ("output error", 2), "added_active": ("parts for error 5 %", 1), "held": ("held", 2),
    "ablation": ("ablation", 1),
}  # fmt: skip
REFERENCE = "a gradient direction each"
# Numbers of parts, of which NaN says that none were enough; any other NaN says that there is nothing to measure.
NEEDED = ("gradient_active", "output_active", "added_active")


def cell(values: Tensor, digits: int, needed: bool = False) -> str:
    """Returns 'median [least, most]' of targets, with the number of those measured if these are not all.

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
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" + (f", n = {n}" if n < len(values) else "")


def amount(value: float) -> str:
    """Returns a number to two digits, or whole from 100 on."""
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


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
    """Returns the few measures to quote, with the seconds and the memory of one decomposition."""

    def spent(what: str) -> list[str]:
        """Returns a column of costs; random directions take next to nothing and were not measured."""
        shown = []
        for name in result.measures:
            numbers = [float(result.costs[name][f"{method}/{what}"]) for method in METHODS[:3]]
            shown += [*map(amount, numbers), ""]
        return shown

    return table(result, SUMMARY).assign(**{"core-seconds": spent("seconds"), "peak MiB": spent("mib")})


def circuit_table(result: Comparison) -> pd.DataFrame:
    """Returns how circuits are found, with what one direction of gradients for each circuit reaches, as a last row."""
    found, (title, digits) = table(result, CIRCUITS), CIRCUITS["cosine"]
    blocks = []
    for name, own in result.measures.items():
        mine = found.loc[[f"{TITLES[name]}, n = {len(own['seeds'])}"]]
        last = dict.fromkeys(found.columns, "") | {title: cell(own["cosine_reachable"], digits)}
        blocks += [mine, pd.DataFrame([last], index=pd.MultiIndex.from_tuples([(mine.index[0][0], REFERENCE)]))]
    return pd.concat(blocks).rename_axis(["target", "method"])


def cost_table(result: Comparison) -> pd.DataFrame:
    """Returns what one decomposition of one target takes."""
    rows = {}
    for name, spent in result.costs.items():
        for method in METHODS[:3]:
            seconds, mib, numbers = (float(spent[f"{method}/{what}"]) for what in ("seconds", "mib", "numbers"))
            rows[TITLES[name], method] = {
                "core-seconds": amount(seconds), "peak memory, MiB": f"{mib:,.0f}",
                "numbers trained": "0" if method == METHODS[2] else f"{numbers:,.0f}",
            }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis(["target", "method"])


def settings_table(settings: ComparisonSettings) -> pd.DataFrame:
    """Returns what both methods ran with."""
    rows = {}
    for name, own in settings.targets.items():
        l3d, apd = own.l3d.config, own.apd[0].config
        rows[TITLES[name], "L3D"] = {
            "parts": l3d.n_v, "rank": l3d.rank,
            "trained on": f"{own.n_inputs:,} samples, {l3d.epochs} times",
            "settings": f"{l3d.k_fraction * l3d.n_v:.3g} kept a sample, {own.l3d.divergence}"
            + (", revival" if l3d.revival else ""),
        }  # fmt: skip
        rows[TITLES[name], "APD"] = {
            "parts": apd.n_components, "rank": f"up to {apd.n_terms}",
            "trained on": f"{apd.steps:,} batches of {apd.batch_size:,}",
            "settings": f"top-k {apd.top_k:g}, simplicity {apd.simplicity:g}, p {apd.p:g}, lr {apd.lr:g}",
        }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis(["target", "method"])


def curve(result: Comparison, name: str, method: str, kind: str) -> tuple[Tensor, Tensor]:
    """Returns parts per sample, from none on, and the median error over targets.

    Outputs' curves end where a target reaches what is asked for. There it stays at what it reached while the others go
    on, and the median ends where it has reached it itself, or with all parts.

    Args:
        result: The comparison.
        name: Of the targets.
        method: One of `METHODS`.
        kind: 'gradient' or 'output'.
    """
    active, error = (result.of(name, method, f"{kind}_curve_{what}") for what in ("active", "error"))
    n = (~error.isnan()).sum(1)
    place = torch.minimum(torch.arange(error.shape[1]), n[:, None] - 1)
    middle = error.gather(1, place).quantile(0.5, 0)
    there = (middle <= OUTPUT_ERROR).nonzero() if kind == "output" else []
    end = int(there[0]) + 1 if len(there) else len(middle)
    return active[n.argmax(), :end], middle[:end]


def ratios(result: Comparison, key: str, over: str = "APD", under: str = "L3D") -> dict[str, float]:
    """Returns how many times a cost of one method is that of another, by target."""
    return {name: float(spent[f"{over}/{key}"] / spent[f"{under}/{key}"]) for name, spent in result.costs.items()}
