"""What the speed benchmark times: the package and both baselines on the same case, and the quality they reach."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from baselines import Baseline, Problem, Published, Textbook, build_problem, draw_batches, start_values
from bench_models import BenchCase, recovered
from bench_timing import Variant, spread, stopwatch
from torch import Tensor, nn

from l3d_core import L3DConfig, Run, fit
from l3d_core.batches import Gradients
from l3d_core.runs import build_program
from l3d_core.step import Stepper
from l3d_core.streams import draw_epoch, initial_state
from l3d_core.tucker import dense_tensors

BASELINES = {"published": Published, "textbook": Textbook}
BATCHES = 32
"""Batches of an epoch of a toy."""


# --- the package ------------------------------------------------------------------------------------------------


def settings(n_v: int, rank: int, **other: Any) -> L3DConfig:
    """Returns settings of the kind that the baselines have, those of the authors' code."""
    return L3DConfig(
        n_v=n_v, rank=rank, loss="recon_sq", k_extra=1, v_out_norm="tensor_sum", weight_decay=0.0,
        **{"dense_epochs": 1, **other},
    )  # fmt: skip


def runs_of(case: BenchCase, seeds: Sequence[int], *, shared: bool = False, **other: Any) -> list[Run]:
    """Returns runs on one case, with batches of their own or the same for all."""
    config = settings(case.n_v, case.rank, **other)
    batch_seed = 0 if shared else None
    return [
        Run(case.model, case.inputs, config, case.divergence, seed, case.parameters, batch_seed=batch_seed)
        for seed in seeds
    ]


def with_epochs(runs: list[Run], epochs: int) -> list[Run]:
    """Returns the runs with another number of epochs."""
    return [replace(run, config=replace(run.config, epochs=epochs)) for run in runs]


def package(runs: list[Run], **options: Any) -> Variant:
    """Returns the package's training as something to be timed, gradients included; a unit is an epoch."""

    def take(epochs: int) -> float:
        return fit(with_epochs(runs, epochs), **options)[0].history.wall_seconds

    return Variant(take, math.ceil(len(runs[0].inputs) / runs[0].config.batch_size))


class Step:
    """The package's step on one batch whose gradients are there.

    Args:
        runs: What is trained.
        options: As of `fit`: memory_gib, paths, operand_dtype.
    """

    def __init__(self, runs: list[Run], **options: Any) -> None:
        self.program = build_program(runs, **options)
        self.state, self.taken = initial_state(self.program), 0
        gradients = Gradients(self.program)
        gradients.draw_(draw_epoch(self.program, self.state))
        self.batch = gradients.batches(0)[0]
        self.stepper = Stepper(self.program, self.state)

    @torch.no_grad()
    def __call__(self) -> float:
        """Takes a step; returns the loss of the first run before it."""
        recon_sq, _ = self.stepper.step_(self.batch, 1, self.taken)
        self.taken += 1
        return recon_sq[0]

    def path(self) -> str:
        """Returns the path of the first bundle of tensors."""
        return self.program.plan.bundles[0].path

    def numbers(self) -> Tensor:
        """Returns the first run's numbers of encoder and decoder as they are now, `[2, n_v, n_numbers]`."""
        self.stepper.copy_(self.state, load=False)
        return self.state["numbers"][:, 0].clone()

    def follow(self, other: Step) -> None:
        """Takes over the numbers of another step on the same runs."""
        other.stepper.copy_(other.state, load=False)
        self.stepper.copy_(other.state, load=True)


def altered(case: BenchCase, seed: int) -> nn.Module:
    """Returns a copy of the target with each weight changed by 2 %."""
    model, generator = copy.deepcopy(case.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(1 + 0.02 * torch.randn(w.shape, generator=generator).to(w))
    return model


def stack(case: BenchCase, mode: str, n: int) -> list[Run]:
    """Returns n runs: 'own' batches each, 'targets' and inputs of their own too, or 'shared' batches."""
    runs = runs_of(case, range(n), shared=mode == "shared")
    if mode != "targets":
        return runs
    return [replace(run, model=altered(case, run.seed), inputs=run.inputs.clone()) for run in runs]


# --- the baselines ----------------------------------------------------------------------------------------------


def problem_of(case: BenchCase, **other: Any) -> Problem:
    """Returns what the baselines decompose; they never run out of epochs."""
    config = settings(case.n_v, case.rank, **{"epochs": 10**6, **other})
    return build_problem(case.model, case.inputs, case.divergence, config, case.parameters)


def started(kind: str, problem: Problem, inputs: Tensor, seed: int = 0, **options: Any) -> tuple[Baseline, Iterator]:
    """Returns a baseline at its start and the batches it will see, those of a run of the same seed."""
    generator = torch.Generator().manual_seed(seed)
    baseline = BASELINES[kind](problem, start_values(problem, generator), **options)
    return baseline, draw_batches(problem, len(inputs), generator)


def plain(kind: str, case: BenchCase, problem: Problem, **options: Any) -> Variant:
    """Returns a baseline as something to be timed; a unit is a step."""
    baseline, batches = started(kind, problem, case.inputs, **options)

    def step() -> None:
        batch = next(batches)
        baseline.step(case.inputs[batch.chosen], batch.partners, batch.epoch)

    return Variant(stopwatch(step))


def plain_quality(kind: str, case: BenchCase, problem: Problem, n_steps: int, seed: int) -> dict[str, float]:
    """Returns the mean loss of a baseline's last epoch, and the features it then has."""
    baseline, batches = started(kind, problem, case.inputs, seed)
    keep, losses, active = baseline.keep, deque(maxlen=BATCHES), deque(maxlen=BATCHES)

    def noted(z: Tensor, dense: bool) -> Tensor:
        kept = keep(z, dense)
        active.append((kept.detach() != 0).any(0))
        return kept

    baseline.keep = noted
    for _ in range(n_steps):
        batch = next(batches)
        losses.append(float(baseline.step(case.inputs[batch.chosen], batch.partners, batch.epoch)))
    v_out = dense_tensors(problem.layout, baseline.numbers()[1])
    return {"loss": sum(losses) / len(losses), "recovered": recovered(case, v_out, torch.stack(list(active)).any(0))}


def package_quality(case: BenchCase, runs: list[Run], n_steps: int) -> dict[str, Any]:
    """Returns losses of the last epoch and recovered features over runs, after so many steps, to whole epochs."""
    epochs = max(1, round(n_steps / BATCHES))
    found = fit(with_epochs(runs, epochs))
    each = [
        {"loss": float(l3d.history.recon_sq[-1]), "recovered": recovered(case, l3d.v_out.dense(), l3d.live)}
        for l3d in found
    ]
    return quality_of(each, epochs * BATCHES)


def quality_of(each: list[dict[str, float]], n_steps: int) -> dict[str, Any]:
    """Returns the spread of what several seeds gave."""
    return {"steps": n_steps, **{key: spread([float(one[key]) for one in each]) for key in each[0]}}
