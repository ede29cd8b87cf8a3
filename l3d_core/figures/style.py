"""The look of every figure: one style, one palette by meaning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
import seaborn as sns

VARIANT_COLOURS = {"text": "#3b6fb6", "code": "#d9822b", "tuned": "#2e8b57", "matched": "#7a5aa6"}
FEATURE_COLOURS = ["#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0"]
SIGNED = "RdBu_r"
PAPER = "#555555"
GREY = "#9a9a9a"

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
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
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
