"""The look of every figure: one style, one palette by meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

VARIANT_COLOURS = {"text": "#3b6fb6", "code": "#d9822b", "tuned": "#2e8b57", "matched": "#7a5aa6"}
FEATURE_COLOURS = ["#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0"]
CATEGORIES = [*FEATURE_COLOURS, "#87d67c", "#000000", "#966a5f", "#600e5b", "#0609f9"]
"""Subnetworks or features by index; apart from each other without red or without green cones too."""
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"
SIGNED = "RdBu_r"
PAPER = "#555555"
GREY = "#9a9a9a"
WIDE = 7.0
"""Inches; figures of many panels are no wider, so that their text can be read on a phone."""
SMALL = 11.5
"""Points, of the smallest text; 8 pixels on a phone, where a figure of `WIDE` is 360 pixels wide."""

_RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.labelsize": 12.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "font.size": 12.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Draws figures made inside in the book's style, and leaves global settings as they were."""
    with sns.axes_style("ticks"), mpl.rc_context(_RC):
        yield
        # A notebook's backend turns interactive mode on with the first figure; undoing that would hide all later ones.
        interactive = mpl.is_interactive()
    mpl.interactive(interactive)


def category(index: int) -> dict[str, str]:
    """Returns colour and marker of a subnetwork or feature; no two of the first fifty share both."""
    return {"color": CATEGORIES[index % 10], "marker": "oD^sv"[index // 5 % 5]}


def panel_grid(n: int, columns: int, height: float, extra: float = 0, **options: object) -> tuple[Figure, list[Axes]]:
    """Returns a figure as wide as `WIDE` with n panels in rows, and its axes; the rest of the last row is empty.

    Args:
        n: Panels, at least 1.
        columns: Panels in a row.
        height: Of a panel, inches.
        extra: Inches added to the figure's height, for what stands outside the panels.
        options: Passed on to `plt.subplots`.

    Raises:
        ValueError: There is nothing to draw.
    """
    if n < 1:
        raise ValueError("got no panels; expected at least one.")
    rows = -(-n // columns)
    size = (WIDE, rows * height + extra)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for ax in list(grid.flat)[n:]:
        ax.remove()
    return figure, list(grid.flat)[:n]


def plain_log(ax: Axes) -> None:
    """Makes the vertical axis logarithmic, with plain numbers on it."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
