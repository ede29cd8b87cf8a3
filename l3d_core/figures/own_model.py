"""Figures of chapter 8: training and use of subnetworks, and what each serves and moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .curves import plot_counts
from .style import CATEGORIES, PAPER, WIDE, style


def plot_training(
    recon_sq: Mapping[str, Tensor], held_out: Mapping[str, float], p_active: Mapping[str, Tensor]
) -> Figure:
    """Returns the error over epochs and how often each subnetwork is used at the end, of some decompositions.

    Args:
        recon_sq: Of each, by epoch `[epochs]`.
        held_out: The error of each on held-out samples, drawn as a dotted level.
        p_active: Of each, share of samples for which a subnetwork is kept `[n_v]`.

    Raises:
        ValueError: They are not of the same decompositions.
    """
    if not set(recon_sq) == set(held_out) == set(p_active):
        raise ValueError(
            f"got errors of {list(recon_sq)}, held-out ones of {list(held_out)}, P_act of {list(p_active)}."
        )
    with style():
        figure, (above, below) = plt.subplots(2, 1, figsize=(WIDE, 6.4))
        for colour, (name, curve) in zip(CATEGORIES, recon_sq.items(), strict=False):
            epochs = range(1, len(curve) + 1)
            above.plot(epochs, curve.tolist(), color=colour, lw=1.8, label=name)
            above.axhline(held_out[name], color=colour, lw=1.2, ls=":")
            ordered = p_active[name].sort(descending=True).values
            dead = ordered == 0
            below.plot(range(1, len(ordered) + 1), ordered.tolist(), color=colour, marker="o", ms=4, lw=1, label=name)
            below.plot([i + 1 for i in dead.nonzero().flatten().tolist()], [0] * int(dead.sum()), ls="", marker="x",
                       ms=9, color=colour)  # fmt: skip
        above.plot([], [], color=PAPER, lw=1.2, ls=":", label="on held-out samples")
        above.set(xlabel="epoch", ylabel="recon_sq (squared error ratio)", ylim=(0, None))
        below.plot([], [], color=PAPER, marker="x", ls="", ms=9, label="dead")
        below.set(xlabel="subnetworks, by use", ylabel="$P_{act}$, share of samples")
        above.legend()
        below.legend()
    return figure


def plot_served(impact: Tensor, effect: Tensor, names: Sequence[str], labels: Sequence[str]) -> Figure:
    """Returns two maps of subnetworks by groups of samples: impact, and the effect of a step along each.

    Rows are over their sum, so that a row shows which group a subnetwork is for, and not how strong it is.

    Args:
        impact: Shares `[n_v, n_groups]`, each row summing to 1.
        effect: The same of effects.
        names: Of groups.
        labels: Of subnetworks.

    Raises:
        ValueError: Shapes that do not fit the names and labels.
    """
    expected = (len(labels), len(names))
    if impact.shape != expected or effect.shape != expected:
        raise ValueError(
            f"got {tuple(impact.shape)} and {tuple(effect.shape)}; expected {expected}, a row a subnetwork."
        )
    top = impact.argmax(1)
    order = sorted(range(len(labels)), key=lambda v: (int(top[v]), -float(impact[v].max())))
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDE, 1.3 + 0.23 * len(labels)), sharey=True)
        for ax, values, title in zip(axes, (impact, effect), ("impact", "effect of a step"), strict=True):
            image = _map(ax, values[order], [top[v] for v in order], names)
            ax.set_title(f"{title}, n = {len(labels)}")
        axes[0].set_yticks(range(len(labels)), [labels[v] for v in order])
        axes[0].set_ylabel("subnetwork")
        figure.colorbar(image, ax=axes, location="bottom", shrink=0.7, aspect=40, label="share of the row")
    return figure


def _map(ax: Axes, values: Tensor, top: Sequence[Tensor], names: Sequence[str]):  # noqa: ANN202
    """Draws one map, with lines between the rows of different top groups; returns the image."""
    image = ax.imshow(values.tolist(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(length=0)
    for row in range(1, len(top)):
        if top[row] != top[row - 1]:
            ax.axhline(row - 0.5, color=PAPER, lw=1)
    for spine in ax.spines.values():
        spine.set_visible(True)
    return image


def plot_purity(table: pd.DataFrame) -> Figure:
    """Returns how many top samples of a subnetwork share a label, by variant and label, one dot a model.

    Args:
        table: Columns 'variant', 'label' and 'purity', a row for each model.

    Raises:
        ValueError: An empty table or a missing column.
    """
    labels = {"variant": "", "purity": "share of the top samples"}
    figure = plot_counts(table, "variant", "purity", "label", labels=labels)
    figure.axes[0].set_ylim(0, 1.05)
    return figure
