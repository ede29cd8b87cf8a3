"""L3D, APD and baselines side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from torch import Tensor

from .style import GREY, WIDE, plain_log, style

# Beyond this ratio of largest to smallest a logarithmic axis has powers of ten only.
FEW_DECADES = 200

# Numbers of parts per sample begin here, after none at all.
FEWEST = 0.1
COLOURS = {"L3D": "#3b6fb6", "APD": "#d9822b", "principal": "#2e8b57", "random": GREY}


def plot_measures(panels: Mapping[str, pd.DataFrame], logarithmic: tuple[str, ...] = ()) -> Figure:
    """Returns a panel for each measure with a point for every target and method.

    Args:
        panels: By title; columns 'target', 'method' and 'value'; values that are not reached are NaN and left out.
        logarithmic: Titles of panels with a logarithmic axis.
    """
    with style():
        figure, axes = plt.subplots(len(panels), 1, figsize=(WIDE, 1.75 * len(panels) + 1.0), sharex=True)
        for ax, (title, frame) in zip(axes, panels.items(), strict=True):
            sns.stripplot(
                frame, x="target", y="value", hue="method", hue_order=COLOURS, palette=COLOURS, dodge=True, jitter=0.1,
                size=4.5, alpha=0.75, ax=ax, legend=False,
            )  # fmt: skip
            ax.set(ylabel="", xlabel="")
            ax.set_title(title, loc="left")
            if title in logarithmic:
                _logarithmic(ax)
            for place in range(frame["target"].nunique() - 1):
                ax.axvline(place + 0.5, color="0.9", lw=0.8, zorder=0)
        axes[-1].tick_params(axis="x", rotation=35)
        for label in axes[-1].get_xticklabels():
            label.set_horizontalalignment("right")
        handles = [plt.Line2D([], [], color=c, marker="o", ls="", label=m) for m, c in COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def plot_curves(
    curves: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], limit: float, label: str, count: str
) -> Figure:
    """Returns the error against the parts per sample, a panel for each target, from no parts on.

    A dot stands where a curve first has what has to be reached. Errors of less than a tenth of that are drawn there.

    Args:
        curves: Parts and errors by target and method.
        limit: What has to be reached, dotted.
        label: Of the vertical axis.
        count: Of the horizontal axis.
    """
    with style():
        n = len(curves)
        figure, grid = plt.subplots(-(-n // 2), 2, figsize=(WIDE, 2.3 * -(-n // 2) + 0.6), squeeze=False)
        for ax in list(grid.flat)[n:]:
            ax.remove()
        for ax, (title, methods) in zip(grid.flat, curves.items(), strict=False):
            for method, (active, error) in methods.items():
                shown = error.clamp_min(limit / 10)
                ax.plot(active, shown, color=COLOURS[method], lw=1.8, label=method)
                there = (error <= limit).nonzero().flatten()[:1]
                ax.scatter(active[there], shown[there], color=COLOURS[method], s=28, zorder=3, clip_on=False)
            ax.axhline(limit, color="black", ls=":", lw=1.2)
            ax.set_title(title)
            ax.set_xscale("symlog", linthresh=FEWEST, linscale=0.5)
            most = max(float(active[-1]) for active, _ in methods.values())
            ticks = [0.0, *(t for t in (0.1, 1.0, 10.0, 100.0) if t <= most)]
            ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
            ax.set_xlim(0, most * 1.1)
            _logarithmic(ax)
        for ax in grid[:, 0]:
            ax.set_ylabel(label)
        for ax in list(grid.flat)[max(n - 2, 0) : n]:
            ax.set_xlabel(count)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS))
    return figure


def _logarithmic(ax: Axes) -> None:
    """Makes the vertical axis logarithmic, with as many plain numbers as have room."""
    plain_log(ax)
    low, high = ax.get_ylim()
    if high > FEW_DECADES * low:
        ax.yaxis.set_major_locator(LogLocator(numticks=6))
