"""Figures of chapter 3, circuits of higher rank (paper Figs. 8, S1, S2 and S3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from .. import toys
from ..chapters.high_rank_summary import RANKS, SIZES, N, singular_ratios
from ..chapters.recovery import error, found_all
from ..chapters.studies import Study
from ..chapters.toy_chapter import ToyResult
from ..chapters.toy_summary import MAIN
from ..metrics import top_share
from ..toy_training import GROUP
from .curves import plot_counts, plot_loss_curves, plot_success
from .networks import Panel, plot_maps, plot_networks
from .subnetworks import model_panel, subnetwork_panels

EVERY = 5
"""Epochs between points of a curve."""
FAINTEST, DPI = 0.08, 110
"""Edges below this share of a panel's largest weight are left out of networks; dots per inch of these."""
LEAST_RATIO = 1e-3
"""Where smaller ratios of singular values are drawn."""


def plot_target(seed: int, group: int = 0) -> Figure:
    """Returns a target, and beside it the part of it that samples of one group alone use (paper Fig. S1).

    Args:
        seed: Of the target.
        group: Which group of inputs.
    """
    whole = model_panel(toys.high_rank(seed).model, "the target", GROUP)
    w_in, w_out = whole.weights
    own = torch.arange(len(w_in)) // GROUP == group
    part = replace(whole, weights=[w_in * own[:, None], w_out], title=f"what group {group} goes through")
    return _networks([whole, part], columns=2, height=3.6)


def group_panels(study: Study, name: str, target: int = 0) -> list[Panel]:
    """Returns the subnetworks of a decomposition as panels, by group, with the share of W_in on that group.

    Args:
        study: One that keeps directions.
        name: The variant.
        target: Which of the study's targets.
    """
    model = toys.high_rank(study.seeds[target]).model
    panels = subnetwork_panels(study, name, model, target, group_size=GROUP)
    shares = [float(top_share(panel.weights[0], GROUP).share) for panel in panels]
    return [
        panel if panel.dead else replace(panel, title=panel.title.replace("\n", f"\n{share:.1%} of $W_{{in}}$\n"))
        for panel, share in zip(panels, shares, strict=True)
    ]


def plot_group_networks(study: Study, name: str, target: int = 0) -> Figure:
    """Returns the subnetworks of a decomposition as networks, see `group_panels` (paper Figs. 8 and S3)."""
    return _networks(group_panels(study, name, target))


def _networks(panels: Sequence[Panel], **options: Any) -> Figure:  # noqa: ANN401
    """Returns networks without their faint edges, at a resolution that keeps pictures of thousands of lines small."""
    shown = [replace(p, weights=[w * (w.abs() >= FAINTEST * p.largest) for w in p.weights]) for p in panels]
    figure = plot_networks(shown, **options)
    figure.set_dpi(DPI)
    return figure


def plot_group_maps(study: Study, name: str, target: int = 0) -> Figure:
    """Returns the subnetworks of a decomposition as maps from input to output, see `group_panels`."""
    return plot_maps(group_panels(study, name, target))


def plot_variants(result: ToyResult) -> Figure:
    """Returns the error of the variants in training, on fresh samples, and there with every coefficient kept."""
    main, rows = result.main, []
    for name in MAIN:
        kinds = {
            "training": error(main, name),
            "fresh samples": main.of("recon_fresh", name).flatten(),
            "fresh, all kept": main.of("recon_dense", name)[:, 0],
        }
        rows += [{"variant": name, "error": kind, "recon_sq": float(e)} for kind, es in kinds.items() for e in es]
    return plot_counts(pd.DataFrame(rows), "variant", "recon_sq", "error")


def _of_ranks(names: Iterable[str]) -> list[tuple[str, int, str]]:
    """Returns variant, rank and the name of the two in the study of ranks."""
    return [(name, rank, f"{name}, rank {rank}") for name in names for rank in RANKS]


def plot_rank_curves(result: ToyResult, paper_curves: Mapping[str, Any], name: str = "code") -> Figure:
    """Returns the error over epochs for each rank, every fifth epoch (paper Fig. S2).

    Args:
        result: The chapter's.
        paper_curves: 'loss_vs_rank' of `record.paper_curves`.
        name: The variant.
    """
    study, rows = result.studies["ranks"], []
    for _, rank, key in _of_ranks([name]):
        curves = study.of("recon_sq", key)[:, ::EVERY].tolist()
        for seed, curve in zip(study.seeds, curves, strict=True):
            rows += [{"epoch": EVERY * i + 1, "recon_sq": y, "rank": rank, "target": seed} for i, y in enumerate(curve)]
    papers = [
        {"epoch": epoch + 1, "recon_sq": loss, "rank": int(rank)}
        for rank, curve in paper_curves["curves"].items()
        for epoch, loss in zip(curve["epoch"], curve["loss"], strict=True)
        if epoch > 0  # A line from the first point to the second, 50 epochs later, would say nothing of the start.
    ]
    return plot_loss_curves(pd.DataFrame(rows), paper_curves=pd.DataFrame(papers), log_y=True)


def plot_rank_errors(result: ToyResult, paper: float) -> Figure:
    """Returns the error of every target against the rank allowed, by variant.

    Args:
        result: The chapter's.
        paper: The paper's error, the same for all ranks.
    """
    study = result.studies["ranks"]
    rows = [
        {"variant": name, "rank": rank, "recon_sq": float(e)}
        for name, rank, key in _of_ranks(MAIN)
        for e in error(study, key)
    ]
    return plot_counts(pd.DataFrame(rows), "rank", "recon_sq", paper=dict.fromkeys(RANKS, paper))


def plot_singular(result: ToyResult, paper_range: tuple[float, float]) -> Figure:
    """Returns second over first singular value of W_in of every live subnetwork against the rank allowed.

    Args:
        result: The chapter's.
        paper_range: Of the paper's subnetworks, drawn behind.
    """
    study, rows = result.studies["ranks"], []
    for name, rank, key in _of_ranks(MAIN):
        ratios = singular_ratios(study, key)
        if rank > 1:
            kept = ratios[~ratios.isnan()].clamp_min(LEAST_RATIO)
            rows += [{"variant": name, "rank": rank, "ratio": float(r)} for r in kept]
    labels = {"rank": "rank allowed", "ratio": "second / first singular value of $W_{in}$"}
    return plot_counts(pd.DataFrame(rows), "rank", "ratio", labels=labels, log_y=True, paper_range=paper_range)


def plot_excess(result: ToyResult) -> Figure:
    """Returns on how many targets all groups are found with 6, 8 and 10 subnetworks, by variant."""
    study = result.studies["n_v"]
    rows = [
        {"variant": name, "n_v": n_v, "success": bool(found)}
        for name in MAIN
        for n_v in SIZES
        for found in found_all(study, f"{name}, n_v {n_v}", N)
    ]
    return plot_success(pd.DataFrame(rows), "n_v", labels={"success": "all six groups found (% of targets)"})
