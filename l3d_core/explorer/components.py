"""Components of APD as an explorer takes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..baselines.apd import APD
from ..chapters.comparison_parts import attributed
from ..chapters.comparison_subjects import Subject
from ..tucker import Layout, TuckerDirections
from .explored import Explored, Scores

# Steps by a quarter of a component: at -1 it is taken away, at 1 there twice.
GRID = tuple(i / 4 for i in range(-6, 7))
TERMS = (
    ("subnetwork", "A component; all components add up to the weights."),
    ("impact", "Attribution: how strongly the component moves a sample's outputs to first order (APD Eq. 8, "
               "derivatives at the trained weights). It has no sign."),
    ("delta", "How much of the component is added to the weights; -1 takes it away."),
    ("P_act", "Share of samples on which the component's attribution is among the largest of all components and "
              "samples; one of which there are none is dead."),
)  # fmt: skip


def whole_tensors(named: dict[str, Tensor]) -> TuckerDirections:
    """Returns any tensors as directions of full rank: each is its own core, its factors are identities.

    Args:
        named: `[n_v, *shape]` by name.
    """
    layout = Layout({name: tuple(t.shape[1:]) for name, t in named.items()},
                    {name: tuple(t.shape[1:]) for name, t in named.items()})  # fmt: skip
    parts = []
    for t in named.values():
        parts.append(t.flatten(1))
        parts += [torch.eye(n).to(t).flatten().expand(len(t), -1) for n in t.shape[1:]]
    return TuckerDirections(layout, torch.cat(parts, 1))


def of_apd(apd: APD, subject: Subject, x: Tensor, run: int = 0) -> Explored:
    """Returns what an explorer needs to know of a decomposition by APD.

    Args:
        apd: Decompositions.
        subject: The target of one of them.
        x: Inputs as APD was trained on, those without an active feature too, that tell which components are live.
        run: Which.
    """
    each = {m: own.each()[run] for m, own in apd.components.items()}
    rows = torch.cat([each[m].flatten(1) for m in subject.network.weights], 1)
    scores = attributed(subject, rows, x)
    k_count = max(int(apd.config.top_k * len(x)), 1)
    active = (scores >= scores.flatten().topk(k_count).values[-1]) & (scores > 0)
    named = {p: (each[m].mT if turned else each[m]).contiguous() for p, (m, turned) in subject.places.items()}
    config = apd.config
    facts = [("components", str(config.n_components)), ("top k", f"{config.top_k:g}"), ("steps", str(config.steps)),
             ("p", f"{config.p:g}"), ("seed", str(apd.seeds[run]))]  # fmt: skip
    directions = whole_tensors(named)
    return Explored(
        subject.module, directions, directions, partial(_scores, subject, rows), active.double().mean(0),
        torch.zeros(0, len(rows)), "APD", TERMS, along="the component", signs=False, facts=facts, grid=GRID,
    )  # fmt: skip


def _scores(
    subject: Subject, rows: Tensor, inputs: Tensor, others: Tensor | None, n_references: int, seed: int,
    chunk_size: int, scratch: Path | None, progress: bool,
) -> Scores:  # fmt: skip
    """Returns attributions, which need no references; see `explored.Scoring`."""
    found = attributed(subject, rows, inputs, chunk_size)
    return Scores(found, found)
