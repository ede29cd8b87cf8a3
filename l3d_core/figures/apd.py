"""Figures of the chapter on APD: components of superposition, and what those of residual MLPs do."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from .networks import Panel
from .style import GREY, PAPER, SMALL, WIDE, category, panel_grid, style

TARGET, APD, SCRUBBED, ANTI = "#3b6fb6", "#d9822b", "#7a5aa6", "#2e8b57"


def plot_instances(mmcs: Mapping[str, Tensor], found: Mapping[str, Tensor], paper: Mapping[str, float]) -> Figure:
    """Returns MMCS and the share of features with a component of their own, a point for each run.

    Args:
        mmcs: `[n_runs]` by name.
        found: The same of shares.
        paper: MMCS of the paper by name.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 1.2 + 0.55 * len(mmcs)), sharey=True)
        for ax, values in ((left, mmcs), (right, found)):
            frame = pd.DataFrame([{"run": n, "value": float(x)} for n, of in values.items() for x in of])
            sns.stripplot(frame, x="value", y="run", hue="run", palette="deep", ax=ax, size=6, alpha=0.7, legend=False)
            ax.set_ylabel("")
        for row, name in enumerate(mmcs):
            left.plot([paper[name]] * 2, [row - 0.35, row + 0.35], color=PAPER, lw=1.6)
        left.set_yticks(range(len(mmcs)), [name.replace(", ", ",\n") for name in mmcs])
        left.set(xlabel="MMCS; bars: paper")
        right.set(xlabel="share of features found")
    return figure


def plot_losses(history: Mapping[str, Mapping[str, Tensor]], every: int) -> Figure:
    """Returns the terms of the loss over training, median and range over runs, a panel for each decomposition.

    Args:
        history: Losses `[n_runs, n_records]` by term, by name.
        every: Steps between two records.
    """
    with style():
        figure, axes = panel_grid(len(history), 2, 2.5)
        for ax, (name, terms) in zip(axes, history.items(), strict=True):
            for i, (term, values) in enumerate(terms.items()):
                steps = every * (1 + np.arange(values.shape[1]))
                colour = sns.color_palette("deep")[i]
                ax.plot(steps, values.median(0).values, "." if len(steps) == 1 else "-", color=colour, label=term)
                ax.fill_between(steps, values.amin(0), values.amax(0), color=colour, alpha=0.25, lw=0)
            ax.set(yscale="log", title=name, xlabel="step")
        handles = {h.get_label(): h for ax in axes for h in ax.lines}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    return figure


def plot_rays(panels: Mapping[str, Tensor], columns: int = 4) -> Figure:
    """Returns the rows of several weight matrices as rays in the plane, a panel each (APD Fig. 3, top).

    Args:
        panels: Matrices `[n_features, 2]` by title.
        columns: Panels in a row.
    """
    with style():
        most = 1.15 * max(float(w.norm(dim=1).max()) for w in panels.values())
        figure, axes = panel_grid(len(panels), columns, 1.9)
        for ax, (title, w) in zip(axes, panels.items(), strict=True):
            for i, (x, y) in enumerate(w.tolist()):
                ax.plot([0, x], [0, y], color=category(i)["color"], lw=2)
                ax.plot(x, y, ms=5, ls="", **category(i))
            ax.set(xlim=(-most, most), ylim=(-most, most), aspect="equal", xticks=[], yticks=[], title=title)
    return figure


def as_networks(panels: Mapping[str, Tensor]) -> list[Panel]:
    """Returns tied weights `[n_features, n_hidden]` by title as networks from features to features (Fig. 3, bottom)."""
    return [Panel(weights=[w, w.T], title=title) for title, w in panels.items()]


def plot_contributions(target: Tensor, best: Tensor, n_layers: int = 1, n_features: int = 10) -> Figure:
    """Returns how much each neuron has to do with the first features, in the target and in APD (APD Figs. 6 and 10).

    Args:
        target: Contributions `[n_features, n_neurons]`, see `apd_measures.contributions`.
        best: Those of each feature's predominant component, the same shape.
        n_layers: Layers, whose neurons stand one behind the other.
        n_features: Features shown.
    """
    with style():
        figure, axes = plt.subplots(2, 1, figsize=(WIDE, 6.2), sharex=True, sharey=True)
        n = target.shape[1] // n_layers
        named = target > 0.1
        for ax, values, title in zip(axes, (target, best), ("target", "predominant component"), strict=True):
            for layer in range(n_layers):
                part = values[:n_features, layer * n : (layer + 1) * n]
                x = np.repeat(np.arange(n_features), n) + (layer - (n_layers - 1) / 2) * 0.3
                colour = (TARGET, APD)[layer]
                label = f"MLP {layer + 1}" if n_layers > 1 else None
                ax.plot(x, part.flatten(), "o", ms=4, color=colour, alpha=0.6, mew=0, label=label)
            for i, j in named[:n_features].nonzero().tolist():
                shift = (j // n - (n_layers - 1) / 2) * 0.3 + 0.08
                ax.text(i + shift, float(values[i, j]), str(j), fontsize=SMALL, va="center")
            ax.set(ylabel="contribution", title=title)
        axes[1].set(xlabel="input feature", xticks=range(n_features))
        if n_layers > 1:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=n_layers)
    return figure


def plot_scrubbed_outputs(target: Tensor, top_k: Tensor, scrubbed: Tensor, anti_scrubbed: Tensor) -> Figure:
    """Returns the outputs of the MLP on one active feature, with random halves of the components (Figs. 7 and 24).

    Args:
        target: `[n_o]`.
        top_k: With the component of the largest attribution `[n_o]`.
        scrubbed: Runs with the feature's own component among those kept `[n_runs, n_o]`.
        anti_scrubbed: Runs without it `[n_runs, n_o]`.
    """
    with style():
        figure, ax = plt.subplots(figsize=(WIDE, 4.2))
        x = np.arange(len(target))
        kinds = ((scrubbed, SCRUBBED, "scrubbed", 3.0), (anti_scrubbed, ANTI, "anti-scrubbed", 1.5))
        for runs, colour, label, width in kinds:
            low, high = (runs.quantile(q, dim=0).numpy() for q in (0.0, 1.0))
            name = f"{label}, range of {len(runs)}"
            ax.vlines(x, low, high, color=colour, alpha=0.6, lw=width, label=name)
        ax.plot(x, target, "x", color=TARGET, ms=5, label="target")
        ax.plot(x, top_k, "+", color=APD, ms=6, label="top component")
        ax.set(xlabel="output", ylabel="output of the MLP")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_errors_of_halves(errors: Mapping[str, Tensor], monosemantic: float) -> Figure:
    """Returns histograms of squared errors with some components only (APD Figs. 8 and 25).

    Args:
        errors: Mean squared error of each sample `[n]`, by 'top-k', 'scrubbed' and 'anti-scrubbed'. Zeros take part in
            the means, and have no place in the histograms.
        monosemantic: Error of a network with a neuron for each of as many features as it has neurons.
    """
    colours = {"top-k": APD, "scrubbed": SCRUBBED, "anti-scrubbed": ANTI}
    with style():
        figure, ax = plt.subplots(figsize=(WIDE, 4.2))
        bins = np.geomspace(1e-8, 1e-1, 80)
        for name, values in errors.items():
            values = values.double().numpy()
            label = f"{name}, mean {values.mean():.1e}"
            sns.histplot(x=values[values > 0], bins=bins, color=colours[name], alpha=0.5, lw=0, ax=ax, label=label)
            ax.axvline(values.mean(), color=colours[name], ls="--", lw=1.6)
        ax.axvline(monosemantic, color=GREY, lw=2, label=f"one neuron a feature, {monosemantic:.1e}")
        ax.set(xscale="log", xlim=(1e-8, 1e-1), xlabel="mean squared error", ylabel="samples")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_target_outputs(outputs: Tensor, curves: Tensor, x: Tensor, feature: int | None = None) -> Figure:
    """Returns what a target makes of single features, and each feature's curve (APD Figs. 14, 15, 19 and 20).

    Args:
        outputs: For each feature alone at 1 `[n_features, n_o]`.
        curves: Output of each feature over its input, the others at 0 `[n_features, n_x]`.
        x: Inputs `[n_x]`.
        feature: Show this one only.
    """
    shown = range(len(outputs)) if feature is None else [feature]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 3.6))
        colours = sns.color_palette("viridis", len(outputs))
        for i in shown:
            colour = TARGET if feature is not None else colours[i]
            left.plot(outputs[i], "o", ms=3, color=colour, mew=0)
            right.plot(x, curves[i], color=colour, lw=1.2, alpha=1 if feature is not None else 0.5)
        left.plot(list(shown), [2.0] * len(shown), "x", color="#b51d14", ms=5, label="label at the active feature")
        right.plot(x, x + x.clamp_min(0), ":", color="#b51d14", lw=2, label="x + relu(x)")
        left.set(xlabel="output", ylabel="value")
        right.set(xlabel="input", ylabel="output of the same feature")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_feature_errors(target: Tensor, single: Tensor, batch: Tensor, top_k: float) -> Figure:
    """Returns the error on each feature alone, sorted, with one component and with batch top-k (Figs. 16 and 21).

    Args:
        target: Mean squared error of the target on samples with this feature alone `[n_features]`.
        single: Of APD with one component each.
        batch: Of APD with batch top-k.
        top_k: Active components per sample in batch top-k.
    """
    with style():
        figure, axes = plt.subplots(2, 1, figsize=(WIDE, 5.6), sharex=True, sharey=True)
        titles = ("one component each", f"batch top-k, {top_k:g}")
        for ax, errors, title in zip(axes, (single, batch), titles, strict=True):
            order = errors.argsort(descending=True)
            x = np.arange(len(errors))
            ax.bar(x, errors[order].numpy(), width=1.0, color=APD, label="APD")
            ax.bar(x, target[order].numpy(), width=1.0, color=TARGET, alpha=0.7, label="target")
            ax.set(ylabel="mean squared error", title=title)
        axes[1].set(xlabel="input feature, sorted by the error of APD")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def plot_errors_against_active(single: Tensor, active: Tensor) -> Figure:
    """Returns components at work against the error that one alone leaves (APD Figs. 18 and 23).

    Args:
        single: Squared error against the target with one component each, by feature `[n_features]`.
        active: Mean number of components that batch top-k gives to samples of the feature `[n_features]`.
    """
    with style():
        figure, ax = plt.subplots(figsize=(WIDE, 3.8))
        ax.plot(single, active, "o", color=APD, ms=5, alpha=0.7, mew=0)
        ax.set(xlabel="squared error with one component", ylabel="mean active components")
        ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    return figure
