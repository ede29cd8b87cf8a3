"""Figures of the page on speed, from the sections of the benchmark's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .style import GREY, PAPER, style

PACKAGE, SHARED = "#00798c", "#d1495b"
PROGRAMS = {"this package": (PACKAGE, "o"), "textbook (U2)": (GREY, "s"), "as published (U1)": (PAPER, "D")}
MODES = {"own batches": (PACKAGE, "o"), "shared batches": (SHARED, "s")}
AXES = {"n_w": "$n_w$ of one square matrix", "n_v": "$n_v$, subnetworks", "T": "$T$, positions of a text"}
WIDTH = 6.2
"""Inches; narrow, so that text is still of a readable size on a phone."""


def _spread(ax: Axes, x: Sequence[float], found: Sequence[Mapping[str, float]], **look: Any) -> None:
    """Draws medians with bars from the least to the most."""
    middle = [s["median"] for s in found]
    low, high = ([abs(s[end] - s["median"]) for s in found] for end in ("min", "max"))
    ax.errorbar(x, middle, yerr=[low, high], capsize=3, **look)


def plot_toys(toys: Mapping[str, Any]) -> Figure:
    """Returns the steps a second of one decomposition of each toy, by the package and both baselines."""
    rows, names = toys["rows"], list(dict.fromkeys(row["toy"] for row in toys["rows"]))
    with style():
        figure, ax = plt.subplots(figsize=(WIDTH, 4))
        for place, (program, (colour, marker)) in enumerate(PROGRAMS.items()):
            part = [row for row in rows if row["program"] == program]
            x = [names.index(row["toy"]) + 0.16 * (place - 1) for row in part]
            found = [row["steps_per_second"] for row in part]
            _spread(ax, x, found, color=colour, marker=marker, ls="", label=program)
        _log_ticks(ax, "y", [row["steps_per_second"][end] for row in rows for end in ("min", "max")])
        ax.set(ylabel="steps a second, one thread", xlim=(-0.5, len(names) - 0.5))
        ax.set_xticks(range(len(names)), names)
        ax.set_title(f"one run; median and range of {rows[0]['steps_per_second']['n']} blocks")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def plot_stacked(stacked: Mapping[str, Any]) -> Figure:
    """Returns the decompositions in an hour of one core against how many runs are trained side by side."""
    series = stacked["series"]
    names = list(dict.fromkeys(one["toy"] for one in series))
    counts = sorted({one["n_runs"] for one in series})
    n_rows = -(-len(names) // 2)
    with style():
        figure, grid = plt.subplots(n_rows, 2, figsize=(WIDTH, 0.6 + 2.9 * n_rows), squeeze=False, sharex=True)
        for ax, name in zip(grid.flat, names, strict=False):
            part = [one for one in series if one["toy"] == name]
            for how, (colour, marker) in MODES.items():
                line = [one for one in part if one["how"] == how]
                _spread(ax, [p["n_runs"] for p in line], [p["per_core_hour"] for p in line], color=colour,
                        marker=marker, label=how)  # fmt: skip
            [alone] = [one["per_core_hour"]["median"] for one in part if one["how"] not in MODES]
            ax.axhline(alone, color=PAPER, ls=":", label="one run of U1")
            ax.set(xscale="log", title=name)
            _log_ticks(ax, "y", [alone, *(p["per_core_hour"]["max"] for p in part)])
            ax.set_xticks(counts, counts)
            ax.minorticks_off()
        for ax in list(grid.flat)[len(names) :]:
            ax.axis("off")
        for ax in grid[:, 0]:
            ax.set_ylabel("decompositions / core-hour", fontsize=11)
        for ax in grid[-1]:
            ax.set_xlabel("runs side by side")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _log_ticks(ax: Axes, side: str, values: Sequence[float]) -> None:
    """Makes the 'x' or 'y' axis logarithmic over at least a decade around some values, with plain numbers on it."""
    low, high = min(values), max(values)
    room = max(1.25, (10 * low / high) ** 0.5)
    axis = getattr(ax, f"{side}axis")
    ax.set(**{f"{side}scale": "log", f"{side}lim": (low / room, high * room)})
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high < 300 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axis.set_minor_locator(NullLocator())


def plot_scaling(scaling: Mapping[str, Any]) -> Figure:
    """Returns time and memory of a step against n_w, n_v and T, by package (with exponents) and textbook."""
    exponents = scaling["exponents"]
    with style():
        figure, grid = plt.subplots(len(exponents), 2, figsize=(WIDTH, 0.6 + 2.9 * len(exponents)), squeeze=False)
        for (against, exponent), (left, right) in zip(exponents.items(), grid, strict=True):
            points = [point for point in scaling["points"] if point["against"] == against]
            for program, prefix in (("this package", ""), ("textbook (U2)", "textbook_")):
                part = [point for point in points if f"{prefix}ms_per_step" in point]
                x, (colour, marker) = [point["x"] for point in part], PROGRAMS[program]
                look = {"color": colour, "marker": marker, "label": program}
                _spread(left, x, [point[f"{prefix}ms_per_step"] for point in part], **look)
                right.plot(x, [point[f"{prefix}growth_mib"] for point in part], **look)
            times = [point.get(f"{k}ms_per_step") for point in points for k in ("", "textbook_")]
            _log_ticks(left, "y", [time[end] for time in times if time for end in ("min", "max")])
            _log_ticks(right, "y", [p[k] for p in points for k in ("growth_mib", "textbook_growth_mib") if k in p])
            left.set(ylabel="ms a step", title=f"time: exponent {exponent['time']:.2f}")
            right.set(ylabel="memory (MiB)", title=f"memory: exponent {exponent['memory']:.2f}")
            ticks = [point["x"] for point in points]
            for ax in (left, right):
                ax.set(xscale="log", xlabel=AXES[against])
                ax.set_xticks(ticks, [_short(v) for v in ticks])
                ax.xaxis.set_minor_locator(NullLocator())
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _short(value: float) -> str:
    """Returns a number of at most four characters, thousands as k and millions as M."""
    if value >= 999_500:
        return f"{value / 1e6:.2g}M"
    return f"{value / 1e3:.3g}k" if value > 1024 else f"{value:g}"


def plot_paths(paths: Mapping[str, Any]) -> Figure:
    """Returns how much dearer the dense path is, as measured against as counted; the chosen path is told by colour."""
    rows = [
        {"counted": row["dense_counted"] / row["factored_counted"], "chosen": row["chosen"],
         "measured": row["dense_ms"]["median"] / row["factored_ms"]["median"]}
        for row in paths["rows"]
    ]  # fmt: skip
    with style():
        figure, ax = plt.subplots(figsize=(WIDTH, 4.6))
        sns.scatterplot(pd.DataFrame(rows), x="counted", y="measured", hue="chosen", style="chosen", s=55, ax=ax,
                        palette={"dense": SHARED, "factored": PACKAGE}, markers={"dense": "s", "factored": "o"},
                        hue_order=["dense", "factored"], style_order=["dense", "factored"])  # fmt: skip
        ax.axhline(1, color=PAPER, lw=0.8, ls=":")
        ax.axvline(1, color=PAPER, lw=0.8, ls=":")
        for side in ("x", "y"):
            _log_ticks(ax, side, [1, *(row["counted" if side == "x" else "measured"] for row in rows)])
        ax.set(xlabel="counted operations, dense / factored", ylabel="measured time, dense / factored",
               title=f"{len(rows)} shapes")  # fmt: skip
        ax.get_legend().remove()
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, [f"{label} is chosen" for label in labels], loc="outside upper center", ncols=2)
    return figure
