"""Networks of any depth drawn as nodes and links, as maps, and the four toy models side by side (paper Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import GREY, NEGATIVE, POSITIVE, SIGNED, SMALL, WIDE, panel_grid, style

FAINTEST = 0.03
"""Edges below this share of a panel's largest are not drawn."""
DEAD = "#767676"
GAP = 1.2
"""Between groups of inputs, in distances between nodes."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A network, or a subnetwork with the shape of one."""

    weights: Sequence[Tensor]
    """Of each layer `[n_i, n_o]`, n_o of one being n_i of the next; transpose those of `nn.Linear`."""
    biases: Sequence[Tensor | None] | None = None
    """Of each layer `[n_o]`, None for a layer without; None for a network without."""
    title: str = ""
    """Above the panel; three lines at most."""
    group_size: int | None = None
    """Boxes consecutive inputs in groups of this size; None for no boxes."""
    dead: bool = False
    """Writes the title in grey, for a subnetwork that is never active."""

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("got no weights; expected those of one layer or more.")
        sizes = [tuple(w.shape) for w in self.weights]
        if any(len(s) != 2 for s in sizes) or any(a[1] != b[0] for a, b in zip(sizes, sizes[1:], strict=False)):
            raise ValueError(
                f"weights have shapes {sizes}; expected [n_i, n_o], n_o of one layer being n_i of the next."
            )
        fits = [None if b is None else tuple(b.shape) for b in self.biases or ()]
        wanted = [s[1:] if f else None for f, s in zip(fits, sizes, strict=False)]
        if self.biases is not None and (fits != wanted or len(fits) != len(sizes)):
            raise ValueError(f"biases do not fit weights of shapes {sizes}; expected [n_o] or None for each layer.")
        if self.group_size is not None and sizes[0][0] % self.group_size:
            raise ValueError(f"group_size {self.group_size} does not divide the {sizes[0][0]} inputs.")

    @property
    def sizes(self) -> list[int]:
        """Nodes of each layer, the inputs first."""
        return [len(self.weights[0]), *(w.shape[1] for w in self.weights)]

    @property
    def largest(self) -> float:
        """The largest absolute weight, 1 where all are 0."""
        return max(float(w.abs().max()) for w in self.weights) or 1.0


def _heights(panel: Panel) -> list[np.ndarray]:
    """Returns the heights of the nodes of each layer in [0, 1], the first on top, with a gap between groups."""
    widest = max(max(panel.sizes) - 1, 1)
    found = [0.5 + np.linspace(0.5, -0.5, n) * ((n - 1) / widest) ** 0.5 for n in panel.sizes]
    if panel.group_size:
        steps = np.arange(panel.sizes[0]) + GAP * (np.arange(panel.sizes[0]) // panel.group_size)
        found[0] = found[0][0] - np.ptp(found[0]) * steps / max(steps[-1], 1)
    return found


def _edges(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends `[n, 2, 2]` and colours `[n, 4]` of the edges to be drawn, the strongest last."""
    heights, ends, strengths = _heights(panel), [], []
    for layer, weight in enumerate(panel.weights):
        i, j = np.indices(weight.shape).reshape(2, -1)
        left = np.stack([np.full(len(i), float(layer)), heights[layer][i]], -1)
        right = np.stack([np.full(len(j), layer + 1.0), heights[layer + 1][j]], -1)
        ends.append(np.stack([left, right], 1))
        strengths.append(weight.detach().double().cpu().numpy().ravel() / panel.largest)
    ends, strength = np.concatenate(ends), np.concatenate(strengths)
    order = np.argsort(abs(strength))
    order = order[abs(strength[order]) >= FAINTEST]
    rgb = np.where(strength[order, None] > 0, to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return ends[order], np.concatenate([rgb, abs(strength[order, None])], -1)


def draw_network(ax: Axes, panel: Panel, size: float) -> None:
    """Draws a network; size is the diameter of a node in points."""
    ends, colours = _edges(panel)
    ax.add_collection(LineCollection(ends, colors=colours, linewidths=0.3 * size**0.9, zorder=1))
    biases = panel.biases or [None] * len(panel.weights)
    for layer, (heights, b) in enumerate(zip(_heights(panel), [None, *biases], strict=True)):
        fill = "white" if b is None else plt.get_cmap(SIGNED)(0.5 + 0.5 * b.detach().cpu().numpy() / panel.largest)
        ax.scatter(np.full(len(heights), layer), heights, s=size**2, c=fill, edgecolors="k", linewidths=0.6, zorder=2)
    if panel.group_size:
        rows = _heights(panel)[0].reshape(-1, panel.group_size)
        gap = 0.8 * abs(rows[0, 0] - rows[0, 1]) if panel.group_size > 1 else 0.03
        wide = 0.13 * len(panel.weights)
        for row in rows:
            ax.add_patch(
                Rectangle((-wide / 2, row[-1] - gap), wide, row[0] - row[-1] + 2 * gap, fill=False, ec="k", lw=0.9)
            )
    depth = len(panel.weights)
    ax.set(xlim=(-0.13 * depth, 1.13 * depth), ylim=(-0.05, 1.05))
    ax.set_title(panel.title, fontsize=12, color=DEAD if panel.dead else "black", pad=3)
    ax.axis("off")


def _diameter(panel: Panel, height: float) -> float:
    """Returns the diameter in points of nodes that do not touch in a panel of some inches."""
    return float(np.clip(0.62 * 72 * height / (1.12 * max(panel.sizes)), 2.2, 6.5))


def _number(ax: Axes, panel: Panel) -> None:
    """Writes the first and last number of the inputs, or of their groups, and of the outputs beside their nodes."""
    heights, last = _heights(panel), len(panel.weights)
    centres = heights[0].reshape(-1, panel.group_size or 1).mean(1)
    out = panel.sizes[-1] - 1
    left = -last * (0.09 if panel.group_size else 0.05)
    for y, number in ((centres[0], 0), (centres[-1], len(centres) - 1)):
        ax.text(left, y, number, ha="right", va="center", fontsize=SMALL)
    for y, number in ((heights[-1][0], 0), (heights[-1][-1], out)):
        ax.text(1.05 * last, y, number, ha="left", va="center", fontsize=SMALL)


def network_key(figure: Figure, biased: bool = True, dead: bool = False) -> None:
    """Explains colours below a figure of networks."""
    handles = [plt.Line2D([], [], color=colour, lw=2, label=f"weight {sign} 0")
               for colour, sign in ((POSITIVE, ">"), (NEGATIVE, "<"))]  # fmt: skip
    if biased:
        fill = {"marker": "o", "ls": "", "markeredgecolor": "k", "markersize": 7}
        handles.append(plt.Line2D([], [], markerfacecolor="#e58368", label="fill: bias", **fill))
    if dead:
        handles.append(plt.Line2D([], [], ls="", label="grey title: dead"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.3, columnspacing=1.4)


def _columns(n: int) -> int:
    """Returns how many of n panels stand in a row: as even as can be, five at most."""
    if n <= 5:
        return n
    return min(range(5, 2, -1), key=lambda c: (-(-n // c) * c - n, -c))


def plot_networks(panels: Sequence[Panel], *, columns: int | None = None, height: float | None = None) -> Figure:
    """Returns networks as nodes and links (paper Figs. 6, 8, 9, S1, S3 and S6).

    Red edges are positive and blue ones negative. The opacity of an edge is its share of the panel's largest absolute
    weight, and edges below 3 % of it are left out. Nodes are filled by their bias on the scale of the same weight.
    Nodes are counted from the top; the first panel of each row has the first and last number.

    Args:
        panels: At least one.
        columns: Panels in a row; None for five at most.
        height: Of a panel in inches, None for one that suits the number of nodes.

    Raises:
        ValueError: There are no panels.
    """
    columns = columns or _columns(len(panels))
    widest = max((max(panel.sizes) for panel in panels), default=1)
    inches = height or float(np.clip(0.07 * widest + 0.75, 1.3, 2.9))
    with style():
        lines = max((panel.title.count("\n") + 1 for panel in panels), default=1)
        figure, axes = panel_grid(len(panels), columns, inches + 0.24 * lines, 0.4)
        for place, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            draw_network(ax, panel, _diameter(panel, inches))
            if place % columns == 0:
                _number(ax, panel)
        network_key(figure, any(panel.biases for panel in panels), any(panel.dead for panel in panels))
    return figure


def _strip(panel: Panel) -> np.ndarray:
    """Returns a network's layers side by side over their largest entry, with an empty column between."""
    tall, parts = max(panel.sizes[:-1]), []
    for weight in panel.weights:
        part = np.full((tall, weight.shape[1] + 1), np.nan)
        part[: len(weight), :-1] = weight.detach().cpu().numpy() / panel.largest
        parts.append(part)
    return np.concatenate(parts, 1)[:, :-1]


def _product(panel: Panel) -> np.ndarray:
    """Returns the product of a network's layers `[n_i, n_o]` over its largest entry."""
    values = panel.weights[0].detach().double()
    for weight in panel.weights[1:]:
        values = values @ weight.detach().double()
    return (values / (values.abs().max() or 1)).cpu().numpy()


def plot_maps(panels: Sequence[Panel], *, layers: bool | None = None, columns: int | None = None) -> Figure:
    """Returns maps of networks, each over its own largest entry, to go beside `plot_networks`.

    Args:
        panels: At least one.
        layers: False for the product of all layers, from input to output; True for the layers one by one, side by
            side; None for products unless a network has more than two layers, where a product means little.
        columns: Panels in a row; None for five at most, or three for layers side by side.

    Raises:
        ValueError: There are no panels.
    """
    layers = any(len(panel.weights) > 2 for panel in panels) if layers is None else layers
    columns = columns or (
        3 if len(panels) % 3 == 0 else min(2, max(len(panels), 1)) if layers else _columns(len(panels))
    )
    with style():
        lines = max((panel.title.count("\n") + 1 for panel in panels), default=1)
        height = (1.5 if layers else 0.78 * WIDE) / columns + 0.24 * lines + (0.05 if layers else 0.3)
        figure, axes = panel_grid(len(panels), columns, height, 1.1)
        for place, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            values = _strip(panel) if layers else _product(panel)
            image = ax.imshow(values, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
            ax.set_title(panel.title, fontsize=12, color=DEAD if panel.dead else "black", pad=4)
            (_outline if layers else _square)(ax, panel, place % columns == 0)
        groups = " in groups" if any(panel.group_size for panel in panels) else ""
        label = "layers from first to last, weight" if layers else "product of the layers"
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.6, aspect=30, ticks=[-1, 0, 1],
                        label=f"{label} / largest of the panel\nrows: inputs{groups}; columns: outputs")  # fmt: skip
    return figure


def _outline(ax: Axes, panel: Panel, _: bool) -> None:
    """Frames the layers of a strip."""
    at = 0
    for weight in panel.weights:
        ax.add_patch(
            Rectangle((at - 0.5, -0.5), weight.shape[1], len(weight), fill=False, ec=GREY, lw=0.7, clip_on=False)
        )
        at += weight.shape[1] + 1
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])


def _square(ax: Axes, panel: Panel, first: bool) -> None:
    """Parts the groups of a map from input to output, and numbers its sides, rows only in the first of a row."""
    n_i, n_o, g = panel.sizes[0], panel.sizes[-1], panel.group_size or 1
    ax.set_xticks([0, n_o - 1])
    for edge in range(g, n_i if g > 1 else 0, g):
        ax.axhline(edge - 0.5, color="0.35", lw=0.6)
    numbers = range(n_i // g) if g > 1 else [0, n_i - 1]
    ax.set_yticks([n * g + (g - 1) / 2 for n in numbers], numbers if first else [""] * len(numbers))


def plot_architecture(models: Sequence[Panel], ticks: Sequence[Mapping[str, bool | str]]) -> Figure:
    """Returns the target networks side by side, with what each is a model of below (paper Table 1).

    Args:
        models: One panel a network; the title names it.
        ticks: For each network, what its circuits have: True draws a tick, False a cross, and text is written.
            The names are the rows, those of the first network on top.

    Raises:
        ValueError: There are no networks, or the rows differ between them.
    """
    if not models or len(models) != len(ticks) or any(list(t) != list(ticks[0]) for t in ticks):
        raise ValueError(
            f"got {len(models)} models and ticks {[list(t) for t in ticks]}; expected the same rows for each."
        )
    n, rows = len(models), list(ticks[0])
    with style():
        figure = plt.figure(figsize=(WIDE, 2.9 + 0.6 * len(rows)))
        grid = figure.add_gridspec(2, n, height_ratios=(2.9, 0.6 * len(rows)))
        table = figure.add_subplot(grid[1, :])
        for place, (model, marks) in enumerate(zip(models, ticks, strict=True)):
            draw_network(figure.add_subplot(grid[0, place]), model, _diameter(model, 1.9))
            for line, mark in enumerate(marks.values()):
                _mark(table, ((place + 0.5) / n, len(rows) - line - 0.68), mark)
        for line, name in enumerate(rows):
            table.axhline(len(rows) - line, color="0.8", lw=0.8)
            table.text(0, len(rows) - line - 0.06, name, va="top")
        table.set(xlim=(0, 1), ylim=(0, len(rows)))
        table.axis("off")
    return figure


def _mark(ax: Axes, place: tuple[float, float], mark: bool | str) -> None:
    """Draws a tick, a cross or a word."""
    text = mark if isinstance(mark, str) else "\u2713" if mark else "\u00d7"
    look = {"fontsize": 12} if isinstance(mark, str) else {"fontsize": 17, "weight": "bold"}
    ax.text(*place, text, ha="center", va="center", color="#1b7837" if mark else "#8c510a", **look)
