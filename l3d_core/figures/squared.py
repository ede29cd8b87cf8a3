"""Figures of chapter 4, the squaring network (paper Table 1 and Figs. 1, 9, 10 and S4 to S7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from .. import toys
from .curves import plot_counts, plot_loss_curves
from .interventions import plot_delta_grid, plot_surface
from .networks import plot_architecture, plot_networks
from .style import GREY, VARIANT_COLOURS, WIDE, category, panel_grid, style
from .subnetworks import model_panel, subnetwork_panels

if TYPE_CHECKING:
    from torch import Tensor

    from ..chapters.landscape import Landscape
    from ..chapters.moves import Moves
    from ..chapters.squared_signs import Impacts
    from ..chapters.squared_summary import Seen
    from ..chapters.studies import Study
    from ..chapters.toy_chapter import ToyResult

# The networks that variants are decomposed on, as the axis of a figure names them.
GELU, ELU = "GELU, as in the text", "ELU, as in the code"
# What the paper's Table 1 says of each toy.
PROPERTIES = {
    "feature superposition": (True, True, True, True),
    "circuit superposition": (False, True, True, True),
    "circuits of rank above 1": (False, False, True, "probably"),
    "complex loss landscape": (False, False, False, True),
}


def plot_toys(seeds: tuple[int, int, int, int]) -> Figure:
    """Returns the four toy targets side by side, with what the paper says each is a model of (paper Table 1).

    Args:
        seeds: Which target of each toy, in the order of the chapters.
    """
    makers = (toys.superposition, toys.circuit_superposition, toys.high_rank, toys.squared)
    names = ("superposition\n$X \\mapsto X$", "circuit superpos.\n$X \\mapsto XA$", "higher rank\n$X \\mapsto XA$",
             "squaring\n$X \\mapsto X^2$")  # fmt: skip
    groups = (None, None, 5, None)
    models = [
        model_panel(make(seed).model, name, group)
        for make, seed, name, group in zip(makers, seeds, names, groups, strict=True)
    ]
    ticks = [{row: marks[i] for row, marks in PROPERTIES.items()} for i in range(len(models))]
    return plot_architecture(models, ticks)


def _rows(study: Study, name: str, **more: object) -> list[dict[str, Any]]:
    """Returns one row a target with the error of its last 100 epochs."""
    errors = study.of("recon_sq", name)[:, -100:].mean(1).tolist()
    return [{"target": seed, "recon_sq": e, **more} for seed, e in zip(study.seeds, errors, strict=True)]


def plot_variants(result: ToyResult, paper: float) -> Figure:
    """Returns the errors of the variants on both networks, one dot a target.

    Args:
        result: The chapter's.
        paper: The error that the paper states.
    """
    studies, main = result.studies, result.main
    rows = [row for name in ("text", "tuned") for row in _rows(main, name, variant=name, network=GELU)]
    rows += _rows(studies["gelu"], "code", variant="code", network=GELU)
    rows += _rows(studies["elu"], "text", variant="text", network=ELU)
    rows += _rows(main, "code", variant="code", network=ELU)
    return plot_counts(pd.DataFrame(rows), "network", "recon_sq", paper=dict.fromkeys((GELU, ELU), paper))


def _sweep(result: ToyResult, name: str) -> Study:
    return result.studies["n_v-code" if name == "code" else "n_v"]


def _of(study: Study, name: str) -> dict[int, str]:
    """Returns the names of a variant's decompositions in a sweep of n_v."""
    return {int(key.split()[-1]): key for key in study.names if key.startswith(f"{name}, n_v ")}


def plot_sweep(result: ToyResult, name: str, n_v: int, model: torch.nn.Module) -> Figure:
    """Returns the subnetworks of the first target with one n_v (a row of paper Fig. S6).

    Args:
        result: The chapter's.
        name: The variant.
        n_v: How many subnetworks.
        model: The target that was decomposed.
    """
    study = _sweep(result, name)
    return plot_networks(subnetwork_panels(study, _of(study, name)[n_v], model), columns=min(n_v, 5))


def plot_curves(result: ToyResult, name: str, paper: dict[str, dict[str, list]]) -> Figure:
    """Returns the error over epochs with each n_v (paper Fig. S7).

    Args:
        result: The chapter's.
        name: The variant.
        paper: The paper's curves by n_v in words, each with lists `epoch` and `loss`.
    """
    study, parts = _sweep(result, name), []
    for n_v, key in _of(study, name).items():
        for seed, losses in zip(study.seeds, study.of("recon_sq", key).tolist(), strict=True):
            epochs = range(1, len(losses) + 1)
            parts.append(pd.DataFrame({"epoch": epochs, "recon_sq": losses, "n_v": n_v, "target": seed}))
    curves = pd.concat(
        pd.DataFrame({"epoch": c["epoch"], "recon_sq": c["loss"], "n_v": int(n_v)}) for n_v, c in paper.items()
    )
    table = pd.concat(parts, ignore_index=True)
    last = table["epoch"].max()
    return plot_loss_curves(table, hue="n_v", paper_curves=curves[curves["epoch"] <= last], log_y=True)


def plot_by_n_v(result: ToyResult, papers: dict[str, dict[str, Any]]) -> Figure:
    """Returns the error of the last epochs against n_v for each variant, with the paper's values.

    Args:
        result: The chapter's.
        papers: The paper's own numbers, see `record.paper_values`.
    """
    rows = []
    for name in ("text", "code", "tuned"):
        study = _sweep(result, name)
        for n_v, key in _of(study, name).items():
            rows += _rows(study, key, variant=name, n_v=n_v)
    table = pd.DataFrame(rows)
    paper = {n_v: papers[f"squared_n{n_v}"]["value"] for n_v in table["n_v"].unique()}
    return plot_counts(table, "n_v", "recon_sq", paper=paper, log_y=True)


def plot_moved(moved: Moves, deltas: tuple[float, ...], ratios: Tensor | None = None, most: int = 500) -> Figure:
    """Returns what steps of several sizes along each subnetwork change in every output (paper Figs. 10 and S4).

    Args:
        moved: See `chapters.moves.moves`.
        deltas: The steps.
        ratios: How much more the relevant output moves, `[n_v, n_deltas]`, to be written into the panels.
        most: Samples drawn at most.
    """
    x, base = moved.x[:most], moved.base[:most]
    after = base + moved.change[:, :, :most].transpose(0, 1)
    relevant = moved.relevant.tolist()
    return plot_delta_grid(x, base, after, deltas, relevant, ratios=None if ratios is None else ratios.mT)


def _by_target(seen: Seen, key: str, column: str, values: tuple[float, ...], name: str) -> list[dict[str, Any]]:
    """Returns means over the live subnetworks of each target, one row for each of some steps."""
    return [
        {column: value, name: float(found[:, i].mean()), "variant": variant}
        for variant, measures in seen.moved.items()
        for found in measures[key]
        for i, value in enumerate(values)
    ]


def plot_far(seen: Seen, deltas: tuple[float, ...]) -> Figure:
    """Returns how selective steps of each size are for each variant, one dot a target (paper Fig. S4 over targets).

    Args:
        seen: See `squared_summary.observe`.
        deltas: The steps.
    """
    table = pd.DataFrame(_by_target(seen, "far", "delta", deltas, "ratio"))
    labels = {"delta": r"step $\delta$ along the subnetwork", "ratio": "change of relevant / mean other"}
    return plot_counts(table, "delta", "ratio", log_y=True, labels=labels)


def plot_reach(seen: Seen, steps: tuple[float, ...]) -> Figure:
    """Returns how wrong the linear prediction of a step is, by size and variant, one dot a target.

    Args:
        seen: See `squared_summary.observe`.
        steps: The sizes.
    """
    table = pd.DataFrame(_by_target(seen, "reach", "delta", steps, "error"))
    labels = {"delta": r"step $\delta$ along the subnetwork", "error": "error of the linear prediction"}
    return plot_counts(table, "delta", "error", labels=labels)


def plot_signs(seen: Seen) -> Figure:
    """Returns which sign of its feature each live subnetwork serves, by variant.

    Args:
        seen: See `squared_summary.observe`.
    """
    shares = {name: torch.cat(found).clamp(0, 1) for name, found in seen.signs.items()}
    with style():
        figure, axes = plt.subplots(1, len(shares), figsize=(WIDE, 3.1), sharey=True)
        for ax, (name, values) in zip(axes, shares.items(), strict=True):
            values = values[values.isfinite()]
            sns.histplot(x=values.numpy(), bins=10, binrange=(0, 1), ax=ax, stat="percent", alpha=0.85,
                         color=VARIANT_COLOURS[name])  # fmt: skip
            ax.axvline(0.5, color=GREY, lw=1, ls="--")
            ax.set(ylabel="live subnetworks (%)", xlim=(-0.02, 1.02))
            ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            ax.set_title(f"{name}, n = {len(values)}")
        figure.supxlabel("share of impact from samples with a positive input", fontsize=12.5)
    return figure


def plot_impacts(found: Impacts) -> Figure:
    """Returns the impact of subnetworks against the value of their feature, where it is the only active one.

    One panel a feature, with the live subnetworks whose top input it is, each over its largest impact there.

    Args:
        found: See `chapters.squared_signs.impacts`.
    """
    n = found.x.shape[1]
    with style():
        figure, axes = panel_grid(n, min(n, 3), 2.3, 0.3, sharey=True)
        for feature, ax in enumerate(axes):
            only = (found.x != 0).sum(1) == 1
            only &= found.x[:, feature] != 0
            x = found.x[only, feature]
            for place, i in enumerate((found.top == feature).nonzero().flatten().tolist()):
                values = found.values[only, i]
                v = int(found.subnetworks[i])
                ax.scatter(x, values / values.max(), s=9, lw=0, alpha=0.7, color=category(place)["color"],
                           marker=category(5 * place)["marker"], label=f"$v_{{{v}}}$")  # fmt: skip
            ax.set_title(f"input {feature}, n = {int(only.sum())}", fontsize=12.5)
            ax.set(xticks=[-1, 0, 1], ylim=(-0.05, 1.4), yticks=[0, 0.5, 1])
            ax.legend(loc="upper center", ncols=3, handletextpad=0.1, columnspacing=0.7, markerscale=1.6)
        figure.supxlabel("value of the input", fontsize=12.5)
        figure.supylabel("impact / largest of the subnetwork", fontsize=12.5)
    return figure


def plot_landscape(found: Landscape) -> Figure:
    """Returns the divergence of three samples over the plane of two subnetworks (paper Fig. 1).

    Args:
        found: See `chapters.landscape.landscape`.
    """
    values = [(int(x.abs().argmax()), float(x[x.abs().argmax()])) for x in found.x]
    names = [f"$x_{{{feature}}}$ = {value:.2f}" for feature, value in values]
    first, second = found.subnetworks[:2]
    axes = (rf"$\delta$ along $v_{{{first}}}$", rf"perpendicular, to $v_{{{second}}}$")
    parts = (found.divergences, found.directions, found.slopes)
    figure = plot_surface(found.positions, found.positions, *parts, names=names, axes_names=axes)
    for ax in figure.axes[: len(names)]:  # Numbers at the ends would run into those of the next panel.
        ax.set_xticks([-0.5, 0, 0.5])
    return figure
