"""What steps along subnetworks change, and the loss surface they live on (paper Figs. 1, 10, S4 and S5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.patheffects as effects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import CATEGORIES, GREY, PAPER, SIGNED, SMALL, WIDE, category, panel_grid, plain_log, style

POINTED, HALO = CATEGORIES[2], effects.withStroke(linewidth=2.5, foreground="white")
DOTS, HOLLOW = {"marker": "o", "linewidths": 0}, {"marker": "o", "facecolors": "none", "linewidths": 0.7}


def _check(x: Tensor, before: Tensor, after: Tensor, relevant: Sequence[int]) -> None:
    """Raises ValueError unless inputs, outputs and subnetworks fit each other."""
    n_v = after.shape[-3] if after.ndim > 2 else None
    if x.shape != before.shape or after.shape[-2:] != before.shape or n_v != len(relevant):
        raise ValueError(
            f"got x {list(x.shape)}, outputs before {list(before.shape)} and after {list(after.shape)} and "
            f"{len(relevant)} relevant outputs; expected [n, n_o], [n, n_o] and [..., n_v, n, n_o] for n_v of them."
        )


def _colour(output: int, relevant: int, n_o: int) -> str:
    """Returns the colour of an output: its own, or with more than ten outputs that of the relevant one or grey."""
    return CATEGORIES[output] if n_o <= len(CATEGORIES) else POINTED if output == relevant else GREY


def _changes(ax: Axes, x: np.ndarray, change: np.ndarray, relevant: int, size: float) -> None:
    """Draws the change of every output over the input of the same index, those of inactive ones in a strip beside."""
    n, n_o = x.shape
    low = float(x.min())
    span = float(x.max()) - low or 1.0
    strip = low - span * (0.08 + 0.12 * np.random.default_rng(0).random(n))
    for output in [*(o for o in range(n_o) if o != relevant), relevant]:
        on, colour = x[:, output] != 0, _colour(output, relevant, n_o)
        ax.scatter(x[on, output], change[on, output], s=size, color=colour, alpha=0.6, rasterized=True, **DOTS)
        ax.scatter(
            strip[~on], change[~on, output], s=1.3 * size, edgecolors=colour, alpha=0.4, rasterized=True, **HOLLOW
        )
    ax.axvspan(low - 0.23 * span, low - 0.05 * span, color="0.94", zorder=0, lw=0)
    ax.axhline(0, color="0.4", lw=0.6, zorder=1)
    # In small panels there is no room for a number beside the strip.
    ends = sorted({0.0, low + span} if size < 5 and low < 0 else {low, 0.0, low + span})
    ax.set_xticks([low - 0.14 * span, *ends], ["off", *(f"{round(end, 1):g}" for end in ends)])
    ax.set_xlim(low - 0.23 * span, low + 1.04 * span)


def _outputs_key(figure: Figure, n_o: int) -> None:
    """Explains the colours of outputs, above the panels."""
    if n_o <= len(CATEGORIES):
        looks = [(CATEGORIES[o], f"output {o}" if n_o <= 5 else str(o)) for o in range(n_o)]
    else:
        looks = [(POINTED, "relevant output"), (GREY, "other outputs")]
    marks = [plt.Line2D([], [], marker="o", ls="", color=c, label=label) for c, label in looks]
    figure.legend(handles=marks, loc="outside upper center", ncols=5, handletextpad=0.2, columnspacing=1.1,
                  title=None if n_o <= 5 or n_o > len(CATEGORIES) else "output")  # fmt: skip


def plot_effects(
    x: Tensor, before: Tensor, after: Tensor, relevant: Sequence[int], *, names: Sequence[str] | None = None,
    step: str = "", columns: int = 3,
) -> Figure:  # fmt: skip
    """Returns what one step along each subnetwork changes in every output of every sample (paper Fig. 10).

    A sample stands at the input of the same index as the output; where this input is 0, the sample is a ring in the
    grey strip, so that a change of the relevant output there can be seen: it is not selective by sample.

    Args:
        x: Inputs `[n, n_o]`, 0 where inactive.
        before: Outputs of the target `[n, n_o]`.
        after: Outputs after the step along each subnetwork `[n_v, n, n_o]`.
        relevant: The relevant output of each subnetwork.
        names: Titles of the subnetworks; None for their numbers.
        step: What the step is, such as 'step +0.3'; written on the vertical axis.
        columns: Panels in a row.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check(x, before, after, relevant)
    values, changes = x.cpu().numpy(), (after - before).detach().cpu().numpy()
    names = names or [f"$v_{{{v}}}$ (output {o})" for v, o in enumerate(relevant)]
    columns = min(columns, len(relevant))
    with style():
        figure, axes = panel_grid(len(relevant), columns, 2.4, 0.75, sharey=True)
        for place, (ax, change, o) in enumerate(zip(axes, changes, relevant, strict=True)):
            _changes(ax, values, change, o, 9)
            ax.set_title(names[place], fontsize=12)
            ax.tick_params(labelleft=place % columns == 0)
        figure.supxlabel(f"input of the same index as the output (off: 0); n = {len(x)} samples", fontsize=12.5)
        figure.supylabel(f"change of output{', ' if step else ''}{step}", fontsize=12.5)
        _outputs_key(figure, x.shape[1])
    return figure


def plot_delta_grid(
    x: Tensor, before: Tensor, after: Tensor, deltas: Sequence[float], relevant: Sequence[int], *,
    ratios: Tensor | None = None,
) -> Figure:  # fmt: skip
    """Returns what steps of several sizes along each subnetwork change (paper Figs. 10 and S4); see `plot_effects`.

    Args:
        x: Inputs `[n, n_o]`, 0 where inactive.
        before: Outputs of the target `[n, n_o]`.
        after: Outputs after each step along each subnetwork `[n_deltas, n_v, n, n_o]`.
        deltas: The steps, one row each.
        relevant: The relevant output of each subnetwork, one column each.
        ratios: Selectivity `[n_deltas, n_v]` written into the panels, or None.

    Raises:
        ValueError: The shapes do not fit.
    """
    _check(x, before, after, relevant)
    if after.ndim != 4 or len(after) != len(deltas):
        raise ValueError(f"got outputs {list(after.shape)} for {len(deltas)} steps; expected [n_deltas, n_v, n, n_o].")
    values, changes = x.cpu().numpy(), (after - before).detach().cpu().numpy()
    n_rows, n_v = after.shape[:2]
    with style():
        figure, axes = panel_grid(n_rows * n_v, n_v, 1.45, 1.1, sharex=True, sharey="row")
        for place, ax in enumerate(axes):
            row, v = divmod(place, n_v)
            _changes(ax, values, changes[row, v], relevant[v], 4)
            ax.yaxis.set_major_locator(MaxNLocator(3))
            ax.margins(y=0.05 if ratios is None else 0.22)
            if row == 0:
                ax.set_title(f"$v_{{{v}}}$ (out {relevant[v]})", fontsize=12)
            if v == 0:
                ax.set_ylabel(rf"$\delta$ = {deltas[row]:+g}")
            if ratios is not None:
                ax.annotate(f"{float(ratios[row, v]):.1f}x", (0.98, 0.97), xycoords="axes fraction", fontsize=SMALL,
                            ha="right", va="top", path_effects=[HALO])  # fmt: skip
        corners = "" if ratios is None else "\nin the corners: change of the relevant output / mean other"
        figure.supxlabel(
            f"input of the same index as the output (off: 0); n = {len(x)} samples{corners}", fontsize=12.5
        )
        figure.supylabel("change of output, each row to its scale", fontsize=12.5)
        _outputs_key(figure, x.shape[1])
    return figure


def plot_pairs(
    changes: Tensor, deltas: tuple[Sequence[float], Sequence[float]], relevant: tuple[int, int], *,
    subnetworks: tuple[int, int] = (0, 1), n: int | None = None,
) -> Figure:  # fmt: skip
    """Returns how two steps at once change both relevant outputs and the most moved other one (paper Fig. S5).

    Without interference the first map has equal rows, the second equal columns, and the third is white; one scale
    serves all three.

    Args:
        changes: Mean change of every output `[n_deltas_0, n_deltas_1, n_o]`.
        deltas: Steps along the first and along the second subnetwork.
        relevant: The relevant output of each.
        subnetworks: Their numbers.
        n: Samples behind the means.

    Raises:
        ValueError: The shapes do not fit, or no other output is left.
    """
    if changes.ndim != 3 or changes.shape[:2] != (len(deltas[0]), len(deltas[1])) or changes.shape[2] < 3:
        raise ValueError(f"got changes {list(changes.shape)} for {len(deltas[0])} and {len(deltas[1])} steps; "
                         "expected [n_deltas_0, n_deltas_1, n_o] with at least 3 outputs.")  # fmt: skip
    values = changes.detach().cpu().numpy()
    others = np.delete(values, list(relevant), axis=2)
    index = np.delete(np.arange(values.shape[2]), list(relevant))
    most = abs(others).argmax(2)
    maps = [(values[:, :, o], f"output {o} (of $v_{{{v}}}$)") for o, v in zip(relevant, subnetworks, strict=True)]
    maps.append((np.take_along_axis(others, most[..., None], 2)[..., 0], "most moved other (its index)"))
    along = [rf"$\delta$ along $v_{{{v}}}$" for v in subnetworks]
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDE, 7.2))
        for place, (ax, (shown, title)) in enumerate(zip(axes.flat, maps, strict=False)):
            image = ax.imshow(shown, cmap=SIGNED, vmin=-abs(values).max(), vmax=abs(values).max(), aspect="auto")
            which = index[most] if place == 2 else None
            _cells(ax, shown, float(abs(values).max()), which)
            ax.set_xticks(range(len(deltas[1])), [f"{d:g}" for d in deltas[1]])
            ax.set_yticks(range(len(deltas[0])), [f"{d:g}" for d in deltas[0]])
            ax.set(xlabel=along[1], ylabel=along[0])
            ax.set_title(title, fontsize=12.5)
        axes[1, 1].axis("off")
        count = "" if n is None else f"\nn = {n} samples"
        bar = figure.colorbar(image, cax=axes[1, 1].inset_axes((0.1, 0.05, 0.12, 0.9)))
        bar.set_label(f"mean change of output{count}")
    return figure


def _cells(ax: Axes, values: np.ndarray, top: float, which: np.ndarray | None) -> None:
    """Writes the values of a map into its cells, below them the output where one is given."""
    for (i, j), value in np.ndenumerate(values):
        number = f"{round(float(value), 2) + 0:.2f}"
        number = number.replace("0.", ".", 1) if abs(value) < 0.995 else number
        text = number + ("" if which is None else f"\n({which[i, j]})")
        colour = "white" if abs(value) > 0.6 * top else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=colour)


def plot_ratio(
    table: pd.DataFrame, x: str = "delta", y: str = "ratio", hue: str = "subnetwork", *,
    paper: Mapping[float, float] | None = None,
) -> Figure:  # fmt: skip
    """Returns selectivity against the step, one line a subnetwork, and their median (paper Fig. S4 in one panel).

    Args:
        table: Columns x, y and hue; several rows of a subnetwork at a step are drawn as their median.
        x: Column of steps.
        y: Column of ratios, relevant output to mean other.
        hue: Column that tells subnetworks apart.
        paper: The paper's mean ratio at some steps.

    Raises:
        ValueError: An empty table or a missing column.
    """
    if table.empty or not {x, y, hue} <= set(table):
        raise ValueError(f"the table has {len(table)} rows and columns {list(table)}; expected rows and {[x, y, hue]}.")
    with style():
        figure, ax = plt.subplots(figsize=(6.6, 4.3))
        for place, (name, rows) in enumerate(table.groupby(hue)):
            line = rows.groupby(x)[y].median()
            ax.plot(line.index, line, lw=1.2, ms=5, alpha=0.85, label=f"$v_{{{name}}}$", **category(place))
        middle = table.groupby(x)[y].median()
        ax.plot(middle.index, middle, color="0.15", lw=3, zorder=3, label=f"median, n = {table[hue].nunique()} {hue}s")
        if paper:
            ax.plot(
                sorted(paper), [paper[d] for d in sorted(paper)], color=PAPER, ls=":", marker="x", label="paper, mean"
            )
        ax.axhline(1, color=GREY, lw=1, ls="--", zorder=0)
        ax.annotate("not selective", (1, 1), xycoords=("axes fraction", "data"), xytext=(0, 2), ha="right", va="bottom",
                    textcoords="offset points", color=PAPER, fontsize=SMALL)  # fmt: skip
        ax.set(xlabel=r"step $\delta$ along the subnetwork", ylabel="change of relevant / mean other")
        plain_log(ax)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, handlelength=1.6,
                      columnspacing=1.1)  # fmt: skip
    return figure


def plot_surface(
    w_1: Tensor, w_2: Tensor, divergences: Tensor, directions: Tensor, slopes: Tensor, *,
    names: Sequence[str] | None = None, axes_names: tuple[str, str] = ("$w_1$", "$w_2$"),
) -> Figure:  # fmt: skip
    """Returns the divergence of single samples over a plane of parameters, with subnetworks in it (paper Fig. 1).

    Filled contours instead of the paper's surfaces in space: a surface hides what is behind it and its slopes depend
    on where one looks from, while a direction that crosses contours is seen to change the divergence, and one that
    runs along them is seen not to. Each panel has its own scale, as samples differ in how far they are from theirs.

    Args:
        w_1: Positions along the plane's first direction from W_0 `[n_1]`, ascending.
        w_2: Positions along the second `[n_2]`, ascending.
        divergences: D of each sample `[n_s, n_1, n_2]`.
        directions: The subnetworks' components in the plane `[n_v, 2]`; drawn in proportion to their lengths.
        slopes: The derivative of each sample's D along each subnetwork `[n_s, n_v]`; the steepest is drawn thick.
        names: Titles of the samples; None for their numbers.
        axes_names: What the plane's directions are.

    Raises:
        ValueError: The shapes do not fit.
    """
    n_s, n_v = slopes.shape
    if divergences.shape != (n_s, len(w_1), len(w_2)) or directions.shape != (n_v, 2):
        raise ValueError(
            f"got divergences {list(divergences.shape)} and directions {list(directions.shape)}; "
            f"expected {[n_s, len(w_1), len(w_2)]} and {[n_v, 2]}."
        )
    side = [t.detach().cpu().numpy() for t in (w_1, w_2)]
    reach = 0.9 * min(abs(s).max() for s in side) / float(directions.norm(dim=1).max())
    names = names or [f"sample {i}" for i in range(n_s)]
    with style():
        figure, axes = plt.subplots(1, n_s, figsize=(WIDE, 1.5 + 0.92 * WIDE / max(n_s, 2)), squeeze=False, sharey=True)
        for ax, values, slope, name in zip(axes[0], divergences, slopes, names, strict=True):
            heights = values.detach().cpu().numpy().T
            image = ax.contourf(*side, heights, levels=12, cmap="Greys", vmax=1.6 * heights.max() - 0.6 * heights.min())
            ax.contour(image, colors="0.5", linewidths=0.5)
            steepest = int(slope.abs().argmax())
            for v, way in enumerate((reach * directions).tolist()):
                look = {"lw": 4, "ls": "-", "zorder": 3} if v == steepest else {"lw": 1.6, "ls": "--", "zorder": 2}
                ax.plot([-way[0], way[0]], [-way[1], way[1]], color=CATEGORIES[v % 10], label=f"$v_{{{v}}}$", **look,
                        path_effects=[effects.withStroke(linewidth=look["lw"] + 1.8, foreground="white")])  # fmt: skip
            ax.plot(0, 0, "ko", ms=7, mec="white", zorder=4)
            ax.set_title(f"{name}\nsteepest: $v_{{{steepest}}}$", fontsize=12.5)
            ax.set_xlabel(axes_names[0])
            bar = figure.colorbar(image, ax=ax, location="bottom", label="$D(f(x_i, W), y_r)$", aspect=12)
            # Numbers at the ends would run into those of the next bar.
            low, high = image.levels[0], image.levels[-1]
            ends = 0.12 * (high - low)
            bar.set_ticks([t for t in MaxNLocator(4).tick_values(low, high) if low + ends < t < high - ends])
        axes[0, 0].set_ylabel(axes_names[1])
        lines = [plt.Line2D([], [], color=CATEGORIES[v % 10], lw=3, label=f"$v_{{{v}}}$") for v in range(n_v)]
        lines.append(plt.Line2D([], [], color="k", marker="o", ls="", label="$W_0$"))
        figure.legend(handles=lines, loc="outside upper center", ncols=min(len(lines), 6))
    return figure
