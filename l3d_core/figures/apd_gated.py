"""The gated functions made by hand, and APD's components of them as wiring diagrams (APD App. B.1)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from .apd import APD, TARGET
from .style import CATEGORIES, GREY, SMALL, panel_grid, style

# Weights that are zero in the target, and the smallest share of the target's largest weight that is drawn.
ABSENT, FAINTEST = "#7a2fb5", 0.01


def plot_functions(x: Tensor, target: Tensor, top_k: Tensor) -> Figure:
    """Returns the gated functions and what the components of top-k make of them (APD Fig. 12).

    Args:
        x: `[n_x]`.
        target: `[n_functions, n_x]`.
        top_k: The same of APD.
    """
    with style():
        figure, axes = panel_grid(len(target), 2, 2.3)
        for i, ax in enumerate(axes):
            ax.plot(x, target[i], color=TARGET, lw=2, label="target")
            ax.plot(x, top_k[i], "--", color=APD, lw=2, label="APD, top-k")
            ax.set(title=f"function {i}", xlabel="x")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_wiring(networks: Mapping[str, Mapping[str, Tensor]], owner: Mapping[str, Tensor]) -> Figure:
    """Returns residual MLPs as nodes and links, coloured by the function a weight is for in the target (APD Fig. 13).

    From bottom to top: the residual stream (x, a bit for each function, the output), the neurons of a layer, the
    stream again, and so on. A link's opacity is the root of its share of the first network's largest absolute weight
    in the same matrix.

    Args:
        networks: Weight matrices `[n_in, n_out]` by name, W_in.0, W_out.0, W_in.1 and so on, by title, the target
            first.
        owner: Function of each weight, -1 where the target's is zero, by the same names.
    """
    with style():
        figure, axes = panel_grid(len(networks), 3, 3.0)
        largest = {name: float(w.abs().max()) or 1.0 for name, w in next(iter(networks.values())).items()}
        for ax, (title, weights) in zip(axes, networks.items(), strict=True):
            _draw(ax, weights, owner, largest)
            ax.set_title(title, pad=3)
        used = sorted({int(i) for of in owner.values() for i in of.unique() if i >= 0})
        handles = [plt.Line2D([], [], color=CATEGORIES[i], lw=2.5, label=f"function {i}") for i in used]
        handles.append(plt.Line2D([], [], color=ABSENT, lw=2.5, label="zero in the target"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _draw(ax: Axes, weights: Mapping[str, Tensor], owner: Mapping[str, Tensor], largest: Mapping[str, float]) -> None:
    """Draws one residual MLP."""
    n_layers, (n_stream, n_mlp) = len(weights) // 2, weights["W_in.0"].shape
    stream, neurons = np.linspace(0.1, 0.9, n_stream), np.linspace(0, 1, n_mlp)
    for level, (name, w) in enumerate(weights.items()):
        below, above = (stream, neurons) if level % 2 == 0 else (neurons, stream)
        share = (w.abs() / largest[name]).clamp(max=1).numpy()
        i, j = (share >= FAINTEST).nonzero()
        order = np.argsort(share[i, j])
        i, j = i[order], j[order]
        ends = np.stack([np.stack([below[i], np.full(len(i), level)], -1),
                         np.stack([above[j], np.full(len(j), level + 1)], -1)], 1)  # fmt: skip
        of = owner[name].numpy()[i, j]
        colours = [to_rgba(ABSENT if f < 0 else CATEGORIES[f], s**0.5) for f, s in zip(of, share[i, j], strict=True)]
        ax.add_collection(LineCollection(ends, colors=colours, linewidths=1.6, zorder=1))
    for level in range(2 * n_layers + 1):
        at = stream if level % 2 == 0 else neurons
        ax.scatter(at, np.full(len(at), level), s=16, color="white", edgecolors=GREY, linewidths=0.8, zorder=2)
    for place, label in zip(stream, ("x", *range(n_stream - 2), "y"), strict=True):
        ax.text(place, -0.2, label, ha="center", va="top", fontsize=SMALL)
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.6, 2 * n_layers + 0.15))
    ax.axis("off")
