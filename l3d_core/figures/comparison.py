"""L3D, APD and baselines side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from .style import GREY, WIDE, plain_log, style

COLOURS = {"L3D": "#3b6fb6", "APD": "#d9822b", "principal": "#2e8b57", "random": GREY}


def plot_measures(panels: Mapping[str, pd.DataFrame], logarithmic: tuple[str, ...] = ()) -> Figure:
    """Returns a panel for each measure with a point for every target and method.

    Args:
        panels: By title; columns 'target', 'method' and 'value'; values that are not reached are NaN and left out.
        logarithmic: Titles of panels with a logarithmic axis.
    """
    with style():
        figure, axes = plt.subplots(len(panels), 1, figsize=(WIDE, 2.0 * len(panels) + 1.0), sharex=True)
        for ax, (title, frame) in zip(axes, panels.items(), strict=True):
            sns.stripplot(
                frame, x="target", y="value", hue="method", palette=COLOURS, dodge=True, jitter=0.1, size=4.5,
                alpha=0.75, ax=ax, legend=False,
            )  # fmt: skip
            ax.set(ylabel="", xlabel="")
            ax.set_title(title, loc="left")
            if title in logarithmic:
                plain_log(ax)
            for place in range(frame["target"].nunique() - 1):
                ax.axvline(place + 0.5, color="0.9", lw=0.8, zorder=0)
        axes[-1].tick_params(axis="x", rotation=35)
        for label in axes[-1].get_xticklabels():
            label.set_horizontalalignment("right")
        handles = [plt.Line2D([], [], color=c, marker="o", ls="", label=m) for m, c in COLOURS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def plot_curves(curves: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], limit: float, label: str) -> Figure:
    """Returns the error against the parts per sample, a panel for each target.

    Args:
        curves: Parts and errors by target and method.
        limit: What has to be reached, dotted.
        label: Of the vertical axis.
    """
    with style():
        n = len(curves)
        figure, grid = plt.subplots(-(-n // 2), 2, figsize=(WIDE, 2.3 * -(-n // 2) + 0.6), squeeze=False)
        for ax in list(grid.flat)[n:]:
            ax.remove()
        for ax, (title, methods) in zip(grid.flat, curves.items(), strict=False):
            for method, (active, error) in methods.items():
                ax.plot(active, error.clamp_min(1e-4), color=COLOURS[method], lw=1.8, label=method)
            ax.axhline(limit, color="black", ls=":", lw=1.2)
            ax.set(xscale="log", title=title)
            plain_log(ax)
        for ax in grid[:, 0]:
            ax.set_ylabel(label)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS))
    return figure
