"""Figures of the chapters on real models: errors over epochs, how often subnetworks are active, coherence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .style import GREY, PAPER, SMALL, VARIANT_COLOURS, WIDE, style

LINES = ("-", "--", ":", "-.")


def _colour(name: str) -> str:
    return VARIANT_COLOURS.get(name.split("-")[0].split(",")[0], GREY)


def _lines(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns colour and dashes of each decomposition's line: a colour a variant, dashes for its further seeds."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        colour = _colour(name)
        before = sum(line["color"] == colour for line in found.values())
        found[name] = {"color": colour, "ls": LINES[before]}
    return found


def plot_errors(
    curves: Mapping[str, Tensor], held_out: Mapping[str, float], paper: float | None, principal: float | None = None
) -> Figure:
    """Returns the error in training over epochs, with what is left on held-out samples at the end.

    Args:
        curves: recon_sq of each epoch `[epochs]`, by decomposition; names before a comma are variants.
        held_out: Error on held-out samples by decomposition.
        paper: The paper's number, of another model; None for none.
        principal: What as many principal directions of the gradients leave with the same top-k; None for none.
    """
    with style():
        figure, ax = plt.subplots(figsize=(WIDE, 4.4))
        for name, line in _lines(curves).items():
            curve = curves[name]
            ax.plot(np.arange(1, len(curve) + 1), curve.numpy(), label=name, lw=1.8, **line)
            ax.plot(len(curve), held_out[name], "o", color=line["color"], ms=7, mfc="white", mew=1.8, zorder=5)
        ax.plot([], [], "o", color=PAPER, mfc="white", mew=1.8, ms=7, label="held out")
        if paper is not None:
            ax.axhline(paper, ls=":", color=PAPER, lw=1.4, label="paper, another model")
        if principal is not None:
            ax.axhline(principal, ls=(0, (1, 3)), color=GREY, lw=2, label="principal, top-k")
        ax.set(xlabel="epoch", ylabel="recon_sq (squared error ratio)")
        ax.set_xscale("log")
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if t <= max(map(len, curves.values()))]
        ax.set_xticks(ticks, labels=[str(t) for t in ticks])
        ax.minorticks_off()
        figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL)
    return figure


def plot_activity(p_active: Mapping[str, Tensor]) -> Figure:
    """Returns P_act of every subnetwork, the most active first, by decomposition; dead ones are where a line ends.

    Args:
        p_active: Of the last epoch `[n_v]`.
    """
    with style():
        figure, ax = plt.subplots(figsize=(WIDE, 3.8))
        for name, line in _lines(p_active).items():
            p = p_active[name]
            alive = np.sort(p[p > 0].numpy())[::-1]
            label = f"{name} ({len(p) - len(alive)} dead)"
            ax.plot(np.arange(1, len(alive) + 1), alive, lw=1.8, label=label, **line)
        ax.set_yscale("log")
        ax.set(xlabel="subnetworks, most active first", ylabel="$P_{act}$")
        figure.legend(loc="outside lower center", ncols=2, fontsize=SMALL)
    return figure


def plot_coherence(found: Mapping[str, Mapping[str, Tensor]], chances: Mapping[str, float]) -> Figure:
    """Returns how alike the top samples of directions are, one panel a label: circles by how many directions, means.

    Args:
        found: By kind of label, coherence by set of directions, `[n]` each; the same sets for all kinds.
        chances: Coherence of random samples by kind of label.
    """
    sets: Sequence[str] = list(next(iter(found.values())))
    with style():
        figure, axes = plt.subplots(len(found), 1, figsize=(WIDE, (0.42 * len(sets) + 0.9) * len(found)), squeeze=False)
        for ax, (label, own) in zip(axes[:, 0], found.items(), strict=True):
            for i, name in enumerate(sets):
                values, counts = np.unique(own[name].numpy().round(6), return_counts=True)
                sizes = 420 * counts / counts.sum()
                ax.scatter(values, [i] * len(values), sizes, color=_colour(name), alpha=0.6, linewidths=0)
                mean = float(own[name].mean())
                ax.plot([mean, mean], [i - 0.36, i + 0.36], color="black", lw=2.2)
            ax.axvline(chances[label], ls=":", color=PAPER, lw=1.4)
            ax.set_yticks(range(len(sets)), labels=sets)
            ax.set(xlabel=f"share of pairs with the same {label}", xlim=(-0.05, 1.05), ylim=(len(sets) - 0.4, -0.6))
    return figure
