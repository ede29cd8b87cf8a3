"""Curves, counts and coefficients of the chapters on the later toys (paper Figs. 7, S2 and S7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from .style import GREY, PAPER, SMALL, VARIANT_COLOURS, category, plain_log, style

WIDTH = 6.6
"""Inches; narrow, so that text is still of a readable size on a phone."""
NAMES = {"n_v": "$n_v$, subnetworks", "recon_sq": "recon_sq (squared error ratio)", "k_fraction": "k, share kept"}
"""What is written for the names of columns."""


def _colours(values: Iterable[Any]) -> dict[Any, Any]:
    """Returns a colour for each value: of the variants, else from dark to light in the order of numbers."""
    values = list(dict.fromkeys(values))
    if set(values) <= set(VARIANT_COLOURS):
        return {name: VARIANT_COLOURS[name] for name in VARIANT_COLOURS if name in values}
    if all(isinstance(v, int | float | np.number) for v in values):
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.88, len(values)))
        return dict(zip(sorted(values), map(tuple, shades), strict=True))
    return {value: category(i)["color"] for i, value in enumerate(values)}


def _counted(counts: Iterable[int]) -> str:
    """Returns 'n = 16', or 'n = 15 to 16' where counts differ."""
    low, high = min(found := list(counts)), max(found)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def _needs(table: pd.DataFrame, *columns: str) -> None:
    """Raises ValueError for a table that is empty or lacks a column."""
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        raise ValueError(
            f"the table has {len(table)} rows and columns {list(table)}; expected rows and {list(columns)}."
        )


def _rescaled(a: np.ndarray, a_hat: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns the derived coefficients of each subnetwork over their least-squares slope through zero."""
    found = np.empty_like(a_hat)
    for v in np.unique(index):
        of = index == v
        slope = (a[of] * a_hat[of]).sum() / (a[of] ** 2).sum()
        found[of] = a_hat[of] / (slope if slope else 1)
    return found


def plot_coefficients(
    a: Tensor, a_hat: Tensor, subnetwork: Tensor, ceiling: Tensor, r: Mapping[str, float],
    paper_points: Sequence[Sequence[Sequence[float]]] | None = None,
) -> Figure:  # fmt: skip
    """Returns the coefficients derived from subnetworks against the true ones of one target (paper Fig. 7).

    The scale of a subnetwork is arbitrary, so that they are drawn as derived and over the least-squares slope of
    each subnetwork; beside them is what the target itself computes, which a model of too few hidden dimensions cannot
    get right either. r is Pearson's; the paper's "r^2" is an r.

    Args:
        a: True coefficients `[m]`.
        a_hat: Derived ones `[m]`.
        subnetwork: The subnetwork each was derived from `[m]`, integers.
        ceiling: Entries of the target's own W_in W_out `[m]`.
        r: Pearson's r of 'derived', 'rescaled' and 'ceiling' with a.
        paper_points: Pairs of a and a_hat by subnetwork, as read off the paper's figure; drawn in grey, rescaled.

    Raises:
        ValueError: Lengths differ.
    """
    a, a_hat, subnetwork, ceiling = (t.detach().cpu().numpy() for t in (a, a_hat, subnetwork, ceiling))
    if not len(a) == len(a_hat) == len(subnetwork) == len(ceiling):
        raise ValueError(
            f"got {len(a)}, {len(a_hat)}, {len(subnetwork)}, {len(ceiling)} values; expected as many each."
        )
    panels = {"derived": ("as derived", a_hat), "rescaled": ("each subnetwork rescaled", None),
              "ceiling": ("the target itself", ceiling)}  # fmt: skip
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 6.8))
        for ax, (key, (title, values)) in zip(axes.flat, panels.items(), strict=False):
            values = _rescaled(a, a_hat, subnetwork) if values is None else values
            for v in np.unique(subnetwork):
                of = subnetwork == v
                look = {**category(int(v)), "alpha": 0.75, "lw": 0}
                ax.scatter(a[of], values[of], s=20, label=f"$v_{{{v}}}$", **look)
            ax.set_title(f"{title}\n$r$ = {r[key]:.3f}, $r^2$ = {r[key] ** 2:.3f}", fontsize=12)
            ax.set(xlabel="true coefficient $a$")
            if key != "derived":
                ax.axline((0, 0), slope=1, color=PAPER, lw=0.9, ls="--", zorder=0)
        for ax, label in zip(axes.flat, (r"$\hat{a}$", r"$\hat{a}$ / slope", "$W_{in}W_{out}$"), strict=False):
            ax.set_ylabel(label)
        if paper_points is not None:
            _paper_points(axes[0, 1], paper_points)
        axes[1, 1].axis("off")
        entries = axes[0, 1].get_legend_handles_labels()
        title = f"n = {len(a)} coefficients"
        axes[1, 1].legend(*entries, loc="center", ncols=2, title=title, handletextpad=0.3, columnspacing=1.2)
    return figure


def _paper_points(ax: Axes, points: Sequence[Sequence[Sequence[float]]]) -> None:
    """Draws the paper's points behind, each subnetwork over its own slope."""
    pairs = np.concatenate([np.asarray(of, dtype=float) for of in points])
    index = np.repeat(np.arange(len(points)), [len(of) for of in points])
    values = _rescaled(pairs[:, 0], pairs[:, 1], index)
    ax.scatter(pairs[:, 0], values, s=26, c="0.8", lw=0, zorder=0, label="paper")


def plot_loss_curves(
    table: pd.DataFrame, x: str = "epoch", y: str = "recon_sq", hue: str = "rank", unit: str = "target", *,
    paper_curves: pd.DataFrame | None = None, band: str = "range", log_x: bool = False, log_y: bool = False,
    labels: Mapping[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Returns losses over epochs, median and range over targets, for each of some settings (paper Figs. S2 and S7).

    Args:
        table: One row for each epoch of each run, with columns x, y, hue and unit.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        hue: Column of the setting, one curve each.
        unit: Column that tells runs of a setting apart; counted as n.
        paper_curves: Columns x, y and hue, as read off the paper's figure; thin dotted lines, in grey where there is
            no curve of ours for the setting.
        band: 'range' from the least to the most, 'quartiles' for the middle half, or 'none'.
        log_x: Logarithmic horizontal axis; rows at 0 are left out.
        log_y: Logarithmic vertical axis.
        labels: What to write for the names of columns, where not as `NAMES`.

    Raises:
        ValueError: An unknown band, an empty table or a missing column.
    """
    ends = {"range": (0.0, 1.0), "quartiles": (0.25, 0.75), "none": None}
    if band not in ends:
        raise ValueError(f"band is {band!r}; expected one of {list(ends)}.")
    _needs(table, x, y, hue, unit)
    named, colours = {**NAMES, **(labels or {})}, _colours(table[hue])
    kept = table[table[x] > 0] if log_x else table
    with style():
        figure, ax = plt.subplots(figsize=(WIDTH, 4.6))
        for setting, colour in colours.items():
            found = kept[kept[hue] == setting].groupby(x)[y]
            middle = found.median()
            ax.plot(middle.index, middle, color=colour, lw=1.5, label=str(setting))
            if ends[band]:
                low, high = (found.quantile(q) for q in ends[band])
                ax.fill_between(middle.index, low, high, color=colour, alpha=0.13, lw=0)
        _paper_curves(ax, paper_curves, (x, y, hue), colours, log_x)
        ax.set(xlabel=named.get(x, x), ylabel=named.get(y, y))
        ax.set(xscale="log" if log_x else "linear")
        plain_log(ax) if log_y else None
        shown = {"range": "median and range", "quartiles": "median and quartiles", "none": "median"}[band]
        counts = _counted(table.groupby(hue)[unit].nunique())
        entries = ax.get_legend_handles_labels()
        columns = 4 if len(entries[1]) > 7 or max(map(len, entries[1])) > 5 else 7
        title = f"{named.get(hue, hue)}; {shown} over {unit}s, {counts}"
        figure.legend(*entries, loc="outside upper center", ncols=columns, title=title,
                      handlelength=1.4, columnspacing=1.3)  # fmt: skip
    return figure


def _paper_curves(
    ax: Axes, curves: pd.DataFrame | None, columns: tuple[str, str, str], colours: Mapping[Any, Any], log_x: bool
) -> None:
    """Draws the paper's curves as dotted lines in the colours of ours."""
    if curves is None:
        return
    x, y, hue = columns
    _needs(curves, *columns)
    for setting, curve in curves[curves[x] > 0].groupby(hue) if log_x else curves.groupby(hue):
        ax.plot(curve[x], curve[y], color=colours.get(setting, GREY), ls=":", lw=1.1, zorder=1.5)
    ax.plot([], [], color=PAPER, ls=":", lw=1.1, label="paper")
    if not set(curves[hue]) <= set(colours):
        others = sorted(set(curves[hue]) - set(colours))
        ax.plot([], [], color=GREY, ls=":", lw=1.1, label=f"paper, {', '.join(map(str, others))}")


def plot_counts(
    table: pd.DataFrame, x: str, y: str, hue: str = "variant", *, paper: Mapping[Any, float] | None = None,
    paper_range: tuple[float, float] | None = None, log_y: bool = False, labels: Mapping[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Returns values against a swept setting: one dot a run, with median and range, and n under each setting.

    Args:
        table: One row a run, with columns x, y and hue.
        x: Column of the setting, such as n_v, rank or k.
        y: Column of the values.
        hue: Column that is told by colour.
        paper: The paper's value for some settings.
        paper_range: The range of the paper's values, the same for all settings; drawn behind in grey.
        log_y: Logarithmic vertical axis.
        labels: What to write for the names of columns, where not as `NAMES`.

    Raises:
        ValueError: An empty table or a missing column.
    """
    _needs(table, x, y, hue)
    named, colours, order = {**NAMES, **(labels or {})}, _colours(table[hue]), _order(table[x])
    look = {"x": x, "y": y, "hue": hue, "order": order, "hue_order": list(colours), "palette": colours, "legend": False}
    apart = 0.8 - 0.8 / len(colours) if len(colours) > 1 else False
    with style():
        figure, ax = plt.subplots(figsize=(WIDTH, 4.4))
        sns.stripplot(table, ax=ax, dodge=len(colours) > 1, size=4, alpha=0.45, jitter=0.12, **look)
        sns.pointplot(table, ax=ax, dodge=apart, estimator="median", errorbar=("pi", 100), linestyle="none", marker="_",
                      markersize=15, markeredgewidth=2.4, err_kws={"linewidth": 1.4}, **look)  # fmt: skip
        for place, setting in enumerate(order):
            if paper and setting in paper:
                ax.plot([place - 0.42, place + 0.42], 2 * [paper[setting]], color=PAPER, ls=":", lw=1.6)
        ax.set_xticks(range(len(order)), _ticks(table, x, hue, order))
        ax.set(xlabel=named.get(x, x), ylabel=named.get(y, y))
        plain_log(ax) if log_y else ax.set_ylim(min(0, table[y].min()), None)
        marks = []
        if paper:
            marks.append(plt.Line2D([], [], color=PAPER, ls=":", lw=1.6, label="paper"))
        if paper_range:
            marks.append(ax.axhspan(*paper_range, color=PAPER, alpha=0.15, lw=0, zorder=0, label="paper, range"))
        _legend(figure, colours, "median and range", marks)
    return figure


def _order(values: pd.Series) -> list[Any]:
    """Returns the different settings, numbers by size and others as they come."""
    found = values.unique()
    return sorted(found) if pd.api.types.is_numeric_dtype(values) else list(found)


def _ticks(table: pd.DataFrame, x: str, hue: str, order: Sequence[Any]) -> list[str]:
    """Returns settings with the number of runs of each hue under them."""
    counts = table.groupby([x, hue], sort=False).size()
    return [f"{setting:g}\n{_counted(counts[setting])}" if isinstance(setting, int | float | np.number)
            else f"{setting}\n{_counted(counts[setting])}" for setting in order]  # fmt: skip


def _legend(figure: Figure, colours: Mapping[Any, Any], title: str | None = None, marks: Iterable[Any] = ()) -> None:
    """Explains colours above the panel."""
    handles = [plt.Line2D([], [], color=c, marker="s", ls="", ms=8, label=str(name)) for name, c in colours.items()]
    handles += marks
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)), title=title,
                  handletextpad=0.4, columnspacing=1.4)  # fmt: skip


def plot_success(
    table: pd.DataFrame, x: str, hue: str = "variant", y: str = "success", *, labels: Mapping[str, str] | None = None
) -> Figure:
    """Returns how often something was reached, as bars with the counts on them.

    Args:
        table: One row a run, with columns x, hue and y.
        x: Column of the setting.
        hue: Column that is told by colour.
        y: Column of true and false.
        labels: What to write for the names of columns, where not as `NAMES`.

    Raises:
        ValueError: An empty table or a missing column.
    """
    _needs(table, x, y, hue)
    named, colours, order = {**NAMES, **(labels or {})}, _colours(table[hue]), _order(table[x])
    found = table.assign(reached=table[y].astype(float)).groupby([x, hue])["reached"].agg(["sum", "count"])
    width = 0.84 / len(colours)
    crowded = len(order) * len(colours) > 9
    with style():
        figure, ax = plt.subplots(figsize=(WIDTH, 4.2))
        for place, (name, colour) in enumerate(colours.items()):
            at = [i for i, setting in enumerate(order) if (setting, name) in found.index]
            counts = [found.loc[order[i], name] for i in at]
            shift = (place - (len(colours) - 1) / 2) * width
            bars = ax.bar(
                [i + shift for i in at], [100 * c["sum"] / c["count"] for c in counts], 0.9 * width, color=colour
            )
            ax.bar_label(bars, [f"{c['sum']:.0f}/{c['count']:.0f}" for c in counts], padding=2, fontsize=SMALL,
                         rotation=90 if crowded else 0)  # fmt: skip
        ax.set_xticks(range(len(order)), order)
        ax.set(xlabel=named.get(x, x), ylabel=named.get(y, f"{y} (% of runs)"), ylim=(0, 120 if crowded else 110))
        ax.set_yticks(range(0, 101, 25))
        ax.xaxis.set_minor_locator(NullLocator())
        _legend(figure, colours)
    return figure
