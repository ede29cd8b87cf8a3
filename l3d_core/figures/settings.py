"""The figure of the page on settings: what the number of kept coefficients does to recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .style import CATEGORIES, GREY, WIDE, style

MARKERS = {"mse": "o", "half_reference_mse": "^"}


def plot_kept(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Returns how often all circuits are found, and how pure they are, against coefficients kept per active circuit.

    Args:
        rows: By toy, the candidates of its tuning: 'per_active', 'found' of 'targets', 'share' and 'divergence'.
    """
    with style():
        figure, (above, below) = plt.subplots(2, 1, figsize=(WIDE, 6.6), sharex=True)
        for n, (colour, (toy, own)) in enumerate(zip(CATEGORIES, rows.items(), strict=False)):
            # Later toys are drawn smaller, so that marks at the same place are all seen.
            size = 8 + 2 * (len(rows) - 1 - n)
            for divergence, marker in MARKERS.items():
                part = [row for row in own if row["divergence"] == divergence]
                x = [row["per_active"] for row in part]
                look = {"color": colour, "marker": marker, "ls": "", "ms": size, "alpha": 0.75, "mec": "white"}
                above.plot(x, [row["found"] / row["targets"] for row in part], **look)
                below.plot(x, [row["share"] for row in part], **look)
            above.plot([], [], color=colour, marker="s", ls="", ms=size, label=toy)
        for name, marker in zip(("true mse", "half reference"), MARKERS.values(), strict=True):
            above.plot([], [], color=GREY, marker=marker, ls="", label=name)
        for ax in (above, below):
            ax.axvline(1, color=GREY, lw=0.8, ls=":")
        above.set(ylabel="targets with all circuits found", ylim=(-0.05, 1.08))
        above.yaxis.set_major_formatter("{x:.0%}")
        below.set(ylabel="top-input share, median", xlabel="coefficients kept per active circuit")
        figure.legend(*above.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
