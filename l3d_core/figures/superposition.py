"""Figures of chapter 1, the toy model of superposition (paper Figs. 2-5 and the draft's S2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..chapters.statistics import last_epochs
from .networks import Panel, draw_network, network_key
from .style import FEATURE_COLOURS, GREY, PAPER, SIGNED, SMALL, VARIANT_COLOURS, WIDE, plain_log, style

if TYPE_CHECKING:
    from ..chapters.studies import Study


def _ordered(main: Study, variant: str, target: int) -> Tensor:
    """Returns a target's subnetworks in the order of their top input."""
    return main.of("top_input", variant)[target].argsort(stable=True)


def plot_subnetworks(main: Study, variant: str = "tuned", target: int = 0) -> Figure:
    """Returns the subnetworks as networks and as maps from input to output (paper Fig. 2).

    Args:
        main: The chapter's main study.
        variant: 'text', 'code' or 'tuned'.
        target: Position among the kept targets.
    """
    order = _ordered(main, variant, target)
    w_in, w_out, b = (main.of(key, variant)[target][order] for key in ("W_in", "W_out", "b"))
    share_in, share_out, p_active = (
        main.of(key, variant)[target][order] for key in ("share_in", "share_out", "p_active")
    )
    with style():
        figure, axes = plt.subplots(2, len(order), figsize=(WIDE, 5.4))
        maps = w_in @ w_out
        for v, (above, below) in enumerate(axes.T):
            title = f"$v_{int(order[v])}$\n$P_{{act}}$ {p_active[v]:.2f}"
            draw_network(above, Panel(weights=[w_in[v], w_out[v]], biases=[None, b[v]], title=title), 6.5)
            image = below.imshow(maps[v] / maps[v].abs().max(), cmap=SIGNED, vmin=-1, vmax=1)
            below.set(xlabel="output", xticks=[0, 2, 4], yticks=range(5))
            below.set_title(f"in {share_in[v]:.3f}\nout {share_out[v]:.3f}", fontsize=12)
        axes[1, 0].set_ylabel("input")
        label = "$W_{in}W_{out}$ / largest of the map\nabove: shares of the top input and of the top output"
        figure.colorbar(image, ax=axes[1], location="bottom", shrink=0.6, aspect=30, ticks=[-1, 0, 1], label=label)
        network_key(figure)
    return figure


def plot_directions(main: Study, variant: str = "tuned", target: int = 0) -> Figure:
    """Returns the model's feature directions with those of its subnetworks' decoder and encoder (Fig. 3, draft S2).

    Args:
        main: The chapter's main study.
        variant: 'text', 'code' or 'tuned'.
        target: Position among the kept targets.
    """
    features = main.of("model_W_in", variant)[target]
    top = main.of("top_input", variant)[target]
    index = torch.arange(len(top))
    sides = {
        "decoder (Fig. 3):\ncolumns of $v_{out}.W_{out}$": main.of("W_out", variant)[target].mT[index, top],
        "encoder (draft Fig. S2):\nrows of $v_{in}.W_{in}$": main.of("encoder_W_in", variant)[target][index, top],
    }
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDE, 5.3), sharey=True)
        for ax, (title, rows) in zip(axes, sides.items(), strict=True):
            for i, f in enumerate(features):
                ax.plot([0, f[0]], [0, f[1]], color=FEATURE_COLOURS[i], lw=2.5, alpha=0.55)
                ax.annotate(f"{i}", f.tolist(), color=FEATURE_COLOURS[i], weight="bold", ha="center", va="center",
                            xytext=(1.12 * f).tolist(), textcoords="data")  # fmt: skip
            cosines = torch.nn.functional.cosine_similarity(rows, features[top], dim=-1).abs()
            for v in top.argsort().tolist():
                line = 1.3 * rows[v] / rows[v].norm()
                colour = FEATURE_COLOURS[int(top[v])]
                label = f"$v_{v}$: {cosines[v]:.4f}"
                ax.plot([-line[0], line[0]], [-line[1], line[1]], "--", color=colour, lw=1.2, label=label)
            ax.set(
                title=title, xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal"
            )
            ax.set(xlabel="hidden dimension 0 ($W_{i,0}$)")
            ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.18), ncols=2, handlelength=1.2, columnspacing=1.0,
                      title="|cos| with the solid line")  # fmt: skip
        axes[0].set_ylabel("hidden dimension 1 ($W_{i,1}$)")
    return figure


def plot_interventions(main: Study, variant: str = "tuned", target: int = 0) -> Figure:
    """Returns the change of every output after a step along each subnetwork, up and down (paper Fig. 4).

    Inactive inputs (exactly 0) are drawn in a strip left of 0, spread sideways so that they can be seen.

    Args:
        main: The chapter's main study.
        variant: 'text', 'code' or 'tuned'.
        target: Position among the kept targets.
    """
    order = _ordered(main, variant, target)
    x, top = main.of("x", variant)[target], main.of("top_input", variant)[target]
    strip = -0.05 - 0.14 * np.random.default_rng(0).random(len(x))
    with style():
        figure, axes = plt.subplots(2, len(order), figsize=(WIDE, 5.2), sharex=True, sharey=True)
        for row, word in enumerate(("up", "down")):
            change = main.of(word, variant)[target]
            for ax, v in zip(axes[row], order.tolist(), strict=True):
                relevant = int(top[v])
                for o in [*(i for i in range(x.shape[1]) if i != relevant), relevant]:
                    where = np.where(x[:, o] > 0, x[:, o], strip)
                    ax.scatter(where, change[v, :, o], s=5, color=FEATURE_COLOURS[o], alpha=0.5, linewidths=0)
                ax.axvspan(-0.21, -0.03, color="0.93", zorder=0)
                ax.axhline(0, color="0.4", lw=0.6)
                if row == 0:
                    ax.set_title(
                        f"$v_{v}$\nfeature {relevant}", color=FEATURE_COLOURS[relevant], weight="bold", fontsize=12
                    )
            axes[row, 0].set_ylabel(f"change of output,\nstep {word}")
        axes[1, 0].set_xticks([-0.12, 0.5, 1], ["off", "0.5", "1"])
        figure.supxlabel(f"input of the same index as the output (off: 0); n = {len(x)} samples", fontsize=12.5)
        marks = [plt.Line2D([], [], marker="o", ls="", color=FEATURE_COLOURS[i], label=f"output {i}") for i in range(5)]
        figure.legend(handles=marks, loc="outside upper center", ncols=5, handletextpad=0.2, columnspacing=1.1)
    return figure


def plot_sweep(
    main: Study, deltas: tuple[float, ...], length: float, variant: str = "tuned", target: int = 0
) -> Figure:
    """Returns the median change of outputs along each subnetwork of one target, and over all targets (paper Fig. 5).

    Args:
        main: The chapter's main study.
        deltas: Steps in units of length.
        length: Euclidean length of one step.
        variant: 'text', 'code' or 'tuned'.
        target: Position among the kept targets of the five panels.
    """
    order = _ordered(main, variant, target)
    sweep, top = main.of("sweep", variant), main.of("top_input", variant)
    own = sweep.gather(-1, top[..., None, None].expand(*sweep.shape[:-1], 1)).squeeze(-1).flatten(0, 1)
    others = sweep.abs().scatter(-1, top[..., None, None].expand(*sweep.shape[:-1], 1), 0).amax(-1).flatten(0, 1)
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(WIDE, 5.4), sharex=True, sharey=True)
        for ax, v in zip(axes.flat, order.tolist(), strict=False):
            for o in range(sweep.shape[-1]):
                relevant = o == int(top[target, v])
                ax.plot(deltas, sweep[target, v, :, o], color=FEATURE_COLOURS[o], lw=2.2 if relevant else 1.1,
                        label=f"output {o}", zorder=3 if relevant else 2)  # fmt: skip
            ax.set_title(f"$v_{v}$ (feature {int(top[target, v])})", fontsize=12)
        last = axes.flat[-1]
        for values, colour, label in ((own, "#222222", "relevant output"), (others, GREY, "most moved\nother")):
            last.plot(deltas, values.quantile(0.5, 0), color=colour, lw=2, label=label)
            last.fill_between(deltas, values.min(0).values, values.max(0).values, color=colour, alpha=0.2, lw=0)
        last.set_title(f"all {len(own)} subnetworks\nof {len(sweep)} targets", fontsize=12)
        last.legend(loc="upper left", handlelength=1, borderaxespad=0)
        marks = axes[0, 0].get_legend_handles_labels()
        figure.legend(*marks, loc="outside upper center", ncols=5, handlelength=1.2, columnspacing=1.1)
        figure.supxlabel(rf"step along the subnetwork, in units of $\|\delta v\|_2 = {length:g}$", fontsize=12.5)
        figure.supylabel("median change of output", fontsize=12.5)
    return figure


def _by_variant(ax: Axes, table: pd.DataFrame, counts: list[str], **options: object) -> None:
    """Draws one dot per row of a table with columns `variant` and `value`, n under each name."""
    sns.stripplot(table, x="variant", y="value", hue="variant", palette=VARIANT_COLOURS, ax=ax, **options)
    ax.set_xticks(range(len(counts)), counts)
    ax.set_xlabel("")


def plot_recon(main: Study, paper: float) -> Figure:
    """Returns the error of the variants over targets and over epochs, beside the error the paper states."""
    errors = {name: last_epochs(main.of("recon_sq", name)).tolist() for name in main.names}
    table = pd.DataFrame([{"variant": name, "value": e} for name, values in errors.items() for e in values])
    counts = [f"{name}\nn = {len(errors[name])}" for name in main.names]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 4), width_ratios=(1, 1.25), sharey=True)
        sns.boxplot(table, x="variant", y="value", hue="variant", palette=VARIANT_COLOURS, ax=left, width=0.5,
                    saturation=1, fliersize=0, boxprops={"alpha": 0.35})  # fmt: skip
        _by_variant(left, table, counts, size=5, jitter=0.12)
        left.set(ylabel="recon_sq (squared error ratio)", title="last 100 epochs,\none dot per target")
        for name in main.names:
            curves, colour = main.of("recon_sq", name), VARIANT_COLOURS[name]
            epochs = range(1, curves.shape[1] + 1)
            right.plot(epochs, curves.quantile(0.5, 0), color=colour, label=name, lw=1.2)
            right.fill_between(epochs, curves.min(0).values, curves.max(0).values, color=colour, alpha=0.15, lw=0)
        right.set(xlabel="epoch", xscale="log", title="each epoch, median\nand range over targets", ylim=(0, 0.6))
        for ax in (left, right):
            ax.axhline(paper, color=PAPER, ls=":", lw=1.3)
        where = {"xycoords": ("axes fraction", "data"), "ha": "left", "va": "bottom", "color": PAPER}
        right.annotate(f"paper: {100 * paper:g}%", (0.01, paper), **where)
        right.legend(loc="upper right", handlelength=1.4)
    return figure


def plot_recovery(main: Study, paper: dict[str, dict]) -> Figure:
    """Returns four measures of every subnetwork on every kept target, by variant.

    Shares and cosines are drawn as their distance from 1 on a logarithmic axis, where they can be told apart.

    Args:
        main: The chapter's main study.
        paper: The paper's numbers, see `record.paper_values`; ranges read off its figures are drawn behind.
    """
    measures = {
        "share_in": ("1 - top-input share", True),
        "cos_out": ("1 - |cos| to the feature", True),
        "selectivity_mean": ("selectivity", False),
        "switched_off": ("output when switched off", False),
    }
    names = {"share_in": "tms_share_in", "cos_out": "tms_cos", "switched_off": "tms_switched_off"}
    ranges = {key: paper[name]["range"] for key, name in names.items()}
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(WIDE, 6.8))
        for ax, (key, (label, from_one)) in zip(axes.flat, measures.items(), strict=True):
            values = {name: main.of(key, name).flatten() for name in main.names}
            shown = {name: (1 - v).clamp_min(1e-6) if from_one else v.clamp_min(1e-4) for name, v in values.items()}
            rows = [{"variant": name, "value": float(e)} for name, v in shown.items() for e in v]
            counts = [f"{name}\nn = {len(v)}" for name, v in values.items()]
            _by_variant(ax, pd.DataFrame(rows), counts, size=3.5, jitter=0.25, alpha=0.7)
            ax.set(ylabel=label, yscale="log")
            if key == "selectivity_mean":
                plain_log(ax)
            ax.set_title("higher is better" if key == "selectivity_mean" else "lower is better")
            if key in ranges:
                low, high = (max(1 - p, 1e-6) for p in ranges[key][::-1]) if from_one else ranges[key]
                ax.axhspan(low, high, color=PAPER, alpha=0.15, lw=0, label="range of the paper, read off its figures")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center")
    return figure


def plot_references(references: Study) -> Figure:
    """Returns reconstruction error and recovery for three kinds of reference output.

    Args:
        references: The chapter's study of references; names are '<variant> <kind>'.
    """
    rows = []
    for name in references.names:
        variant, kind = name.split()
        found = zip(last_epochs(references.of("recon_sq", name)), references.of("recovered", name), strict=True)
        rows += [{"variant": variant, "reference": kind, "error": float(e), "recovered": bool(r)} for e, r in found]
    table, n = pd.DataFrame(rows), len(references.seeds)
    look = {"x": "reference", "hue": "variant", "palette": VARIANT_COLOURS}
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 4.2))
        sns.stripplot(table, y="error", dodge=True, ax=left, size=4.5, **look)
        left.set(xlabel="reference output", ylabel="recon_sq, last 100 epochs", ylim=(0, 1.06 * table["error"].max()))
        left.set_title(f"one dot per target, n = {n}")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3, markerscale=1.5)
        left.get_legend().remove()
        shares = table.groupby(["reference", "variant"], sort=False)["recovered"].sum().reset_index()
        sns.barplot(shares, y="recovered", ax=right, saturation=1, **look)
        for bars in right.containers:
            right.bar_label(bars, fmt=f"%d/{n}", fontsize=SMALL, rotation=90, padding=3)
        right.set(xlabel="reference output", ylabel="targets with all five found", ylim=(0, n * 1.22))
        right.set_yticks(range(0, n + 1, max(1, n // 5)))
        right.get_legend().remove()
    return figure


def plot_sizes(sizes: dict[str, Study]) -> Figure:
    """Returns reconstruction error and recovery against the size of the model.

    Args:
        sizes: The chapter's studies by '<features>-<hidden>'.
    """
    rows = []
    for size, study in sizes.items():
        for name in study.names:
            errors = last_epochs(study.of("recon_sq", name)).tolist()
            covered = (100 * study.of("covered", name).flatten() / int(size.split("-")[0])).tolist()
            both = zip(errors, covered, strict=True)
            rows += [{"size": size, "variant": name, "error": e, "covered": c} for e, c in both]
    ticks = [f"{size}\nn = {len(study.seeds)}" for size, study in sizes.items()]
    labels = {"error": "recon_sq, last 100 epochs", "covered": "features covered (%)"}
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(WIDE, 4))
        for ax, (key, label) in zip(axes, labels.items(), strict=True):
            sns.pointplot(pd.DataFrame(rows), x="size", y=key, hue="variant", palette=VARIANT_COLOURS, ax=ax,
                          dodge=0.3, estimator="median", errorbar=("pi", 100), capsize=0.08, linewidth=1.5)  # fmt: skip
            ax.set_xticks(range(len(ticks)), ticks)
            ax.set(xlabel="features - hidden dimensions", ylabel=label, ylim=(0, None))
            ax.get_legend().remove()
        axes[1].set_ylim(0, 105)
        entries = axes[0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside upper center", ncols=4, title="median and range over targets")
    return figure
