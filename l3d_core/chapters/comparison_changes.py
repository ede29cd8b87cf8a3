"""How selectively steps along what a method finds, and ablations of it, change the outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..metrics import selectivity as by_output
from .comparison_measures import run
from .comparison_parts import Parts
from .comparison_subjects import Subject

# Steps along directions, as a share of the weights' length.
STEP = 0.02


class Selectivity(NamedTuple):
    """How much more a change of the weights moves outputs where it should than elsewhere, of several changes `[n]`.

    Attributes:
        samples: Root mean squared change on samples with the circuit active over that on the others; NaN where it is
            never active, or nothing moves.
        outputs: Mean absolute change of the circuit's own output over that of the others, samples all; NaN for targets
            whose circuits have no output of their own.
    """

    samples: Tensor
    outputs: Tensor


def selectivity(subject: Subject, moves: Tensor, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns how selective changes of the weights are.

    Args:
        subject: The target.
        moves: Changes of the weights `[n, n_w]`, all of them tried.
        circuit: The circuit of each `[n]`.
        x: Inputs `[n_s, n_i]`.
    """
    y, active, samples, outputs = run(subject, x), subject.active(x), [], []
    for move, own in zip(moves, circuit, strict=True):
        change = run(subject, x, move[None]) - y
        squares, on = change.square().mean(1), active[:, own]
        samples.append((squares[on].mean() / squares[~on].mean()).sqrt())
        whole = by_output(change[None], own[None]).over_mean[0] if subject.own_outputs else change.new_tensor(torch.nan)
        outputs.append(whole)
    return Selectivity(torch.stack(samples), torch.stack(outputs))


def step_selectivity(subject: Subject, parts: Parts, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns `selectivity` of small steps of one length along live directions, both ways, `[2 n_live]`."""
    steps = STEP * subject.w0.norm() * parts.v_out[parts.live]
    return selectivity(subject, torch.cat([steps, -steps]), circuit[parts.live].repeat(2), x)


def ablation_selectivity(subject: Subject, parts: Parts, circuit: Tensor, x: Tensor) -> Selectivity:
    """Returns `selectivity` of taking live components away, `[n_live]`."""
    return selectivity(subject, -parts.components[parts.live], circuit[parts.live], x)
