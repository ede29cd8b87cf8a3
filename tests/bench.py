"""The speed benchmark (`make bench`): the package beside two plain programs of the same step, as JSON for the book.

Every section runs in a process of its own and replaces its own part of the results, so that a long benchmark can be
taken up again with `--only`. A speed stands beside its quality: the loss, and what was recovered, after equal steps
and after equal seconds, or how far the loss of the first step is from one computed another way.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import bench_programs as programs
import torch
from baselines import Problem, kl, ops_per_step
from bench_layers import Shape, direct_loss, kept_coefficients, off, series, shapes_to_plan, textbook_step
from bench_models import TOYS, BenchCase, Perceptron, gpt2, grouped_inputs, language_block
from bench_programs import BASELINES, BATCHES, Step, package, plain, problem_of, runs_of, stack, with_epochs
from bench_timing import (
    FULL,
    GIB,
    QUICK,
    Effort,
    Timing,
    Variant,
    check,
    geometric_mean,
    interleave,
    paired_ratio,
    rounded,
    run_apart,
    slope,
    spread,
    stopwatch,
    with_memory,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from l3d_core import Run, fit
from l3d_core.artifacts import provenance
from l3d_core.parallel import available_cores
from l3d_core.runs import build_program
from l3d_core.streams import initial_state
from l3d_core.tucker import two_factors

SCRIPT = Path(__file__).resolve()
RESULTS = SCRIPT.parents[1] / "book" / "results" / "speed.json"
TRIAL = SCRIPT.parents[1] / "artifacts" / "speed_quick.json"
STEPS = 32_000
"""Steps of one decomposition of a toy: 1000 epochs of 32 batches."""
PROGRAMS = {"package": "this package", "bfloat16": "this package, bfloat16", "textbook": "textbook (U2)",
            "published": "as published (U1)"}  # fmt: skip
MODES = {"own": "own batches", "targets": "own batches and targets", "shared": "shared batches"}
TITLES = {"tms": "TMS", "tmcs": "TMCS", "high_rank": "high rank", "squared": "X²"}
TEXTBOOK_NUMBERS, TEXTBOOK_N_V = 2**27, 250
"""Numbers of per-sample gradients, and subnetworks, up to which the textbook's step is tried: beyond, it takes long."""
COUNTED = {"tms": 962, "tmcs": 1242, "high_rank": 1265}
"""Operations a step of the authors' algorithm, counted on their code."""


# --- toys -------------------------------------------------------------------------------------------------------


@cache
def toy(name: str) -> BenchCase:
    """Returns a toy; its target is trained once."""
    return TOYS[name]()


def package_operations(runs: list[Run]) -> float:
    """Returns the aten operations of a step, gradients, draws and records included: those of one epoch more."""
    fewer, more = (ops_per_step(lambda n=n: fit(with_epochs(runs, n))) for n in (2, 3))
    return (more - fewer) / BATCHES


def plain_operations(kind: str, case: BenchCase, problem: Problem) -> int:
    """Returns the aten operations of a baseline's step."""
    baseline, batches = programs.started(kind, problem, case.inputs)
    batch = next(batches)
    arguments = case.inputs[batch.chosen], batch.partners, 1
    baseline.step(*arguments)
    return ops_per_step(lambda: baseline.step(*arguments))


def toys(effort: Effort, names: Sequence[str] = tuple(TOYS)) -> dict[str, Any]:
    """One decomposition of each toy, one thread: steps a second, operations a step, quality."""
    rows, checks = [], []
    least = {"tms": 15, "tmcs": 12, "high_rank": 10, "squared": 10}
    for name in names:
        case, problem, title = toy(name), problem_of(toy(name)), TITLES[name]
        runs = runs_of(case, [0])
        variants = {"package": package(runs), **{kind: plain(kind, case, problem) for kind in BASELINES}}
        timing = interleave(variants, effort)
        ratio = {kind: paired_ratio(found, timing.seconds["package"]) for kind, found in timing.seconds.items()}
        counts = {kind: plain_operations(kind, case, problem) for kind in BASELINES}
        counts["package"] = package_operations(runs)
        doubled = package_operations(runs_of(case._replace(n_v=2 * case.n_v), [0]))
        quality = toy_quality(case, problem, runs, timing, effort)
        rows += [
            {"toy": title, "program": PROGRAMS[kind], "n_w": problem.layout.n_w, "n_v": case.n_v, "rank": case.rank,
             "steps_per_second": spread([1 / s for s in found]), "package_faster_by": ratio[kind],
             "operations": round(counts[kind], 1), "disturbed": timing.disturbed, **quality[kind]}
            for kind, found in timing.seconds.items()
        ]  # fmt: skip
        checks += [
            check(f"{title}, one run: times U1", ratio["published"]["median"], least=least[name]),
            check(f"{title}, one run: times U2", ratio["textbook"]["median"], least=5),
            check(f"{title}: operations a step", counts["package"], most=250 if name == "squared" else 150),
            check(f"{title}: operations more at twice n_v", doubled - counts["package"], most=0),
        ]
        if name in COUNTED:
            apart = abs(counts["published"] / COUNTED[name] - 1)
            checks.append(check(f"{title}: operations of U1 off those counted for the authors' code", apart, most=0.15))
    return {"rows": rows, "checks": checks}


def toy_quality(case: BenchCase, problem: Problem, runs: list[Run], timing: Timing, effort: Effort) -> dict[str, Any]:
    """Returns each program's losses and recovered features after equal steps and after equal seconds, over seeds."""
    n_steps, seeds = (BATCHES, [0]) if effort.tiny else (20 * BATCHES, [0, 1, 2])
    runs = [replace(runs[0], seed=seed) for seed in seeds]
    seconds = n_steps * median(timing.seconds["published"])

    def of(kind: str, n: int) -> dict[str, Any]:
        if kind == "package":
            return programs.package_quality(case, runs, n)
        return programs.quality_of([programs.plain_quality(kind, case, problem, n, seed) for seed in seeds], n)

    found = {}
    for kind, taken in timing.seconds.items():
        first = of(kind, n_steps)
        later = first if kind == "published" else of(kind, max(1, round(seconds / median(taken))))
        found[kind] = {"features": case.n_features, "seeds": len(seeds), **first, "later_seconds": seconds,
                       **{f"later_{key}": value for key, value in later.items()}}  # fmt: skip
    return found


# --- stacked runs -----------------------------------------------------------------------------------------------


def per_core_hour(seconds: list[float], n: int) -> dict[str, float]:
    """Returns decompositions in an hour of one core, from seconds a step of n runs at once."""
    return spread([3600 * n / (STEPS * s) for s in seconds])


def stacked(effort: Effort, names: Sequence[str] = tuple(TOYS)) -> dict[str, Any]:
    """Many decompositions of each toy at once, one thread: decompositions in an hour of one core."""
    n, counts = (4, (1, 4)) if effort.tiny else (64, (1, 4, 16, 64, 256))
    own = {"tms": 200, "tmcs": 80, "high_rank": 25, "squared": 25}
    least = {"own": own, "targets": own, "shared": {"tms": 250, "tmcs": 100, "high_rank": 50, "squared": 40}}
    rows, series, checks = [], [], []
    for name in names:
        case, problem, title = toy(name), problem_of(toy(name)), TITLES[name]
        stacks = {mode: stack(case, mode, n) for mode in MODES}
        variants = {"published": plain("published", case, problem), **{m: package(runs) for m, runs in stacks.items()}}
        timing = interleave(variants, effort)
        n_steps = BATCHES if effort.tiny else 20 * BATCHES
        alone = programs.plain_quality("published", case, problem, n_steps, 0)
        for mode, runs in stacks.items():
            ratio = paired_ratio(timing.seconds["published"], [s / n for s in timing.seconds[mode]])
            later = programs.package_quality(case, runs, round(n_steps * ratio["median"] / n))
            rows.append({
                "toy": title, "how": f"{n} runs, {MODES[mode]}", "n_runs": n, "disturbed": timing.disturbed,
                "per_core_hour": per_core_hour(timing.seconds[mode], n), "times_published": ratio,
                "features": case.n_features, **programs.package_quality(case, runs, n_steps),
                **{f"later_{key}": value for key, value in later.items()}, "published_loss": alone["loss"],
            })  # fmt: skip
            what = f"{title}, {n} stacked runs, {MODES[mode]}: times U1"
            checks.append(check(what, ratio["median"], least=least[mode][name]))
        one = {"toy": title, "how": PROGRAMS["published"], "n_runs": 1}
        series.append({**one, "per_core_hour": per_core_hour(timing.seconds["published"], 1)})
        series += stack_series(case, counts, effort._replace(blocks=min(3, effort.blocks)))
    memory = [
        {"how": MODES[mode], "n_runs": k,
         "growth_mib": 1024 * run_apart(SCRIPT, "stack", {"mode": mode, "n": k}, 1)["growth_gib"]}
        for mode in ("own", "shared")
        for k in counts
    ]  # fmt: skip
    return {"rows": rows, "series": series, "memory": memory, "checks": checks}


def prepare_stack(mode: str, n: int) -> Callable[[], dict]:
    """Returns what trains so many runs on the shapes of the toy of higher rank for an epoch."""
    model = Perceptron(30, 10, torch.Generator().manual_seed(0)).eval()
    case = BenchCase("high_rank", model, grouped_inputs(1000, 6, 5, seed=0), n_v=8, rank=3)
    fit(stack(case, mode, 1)[:1], max_steps=1)  # Loads what every run needs.

    def work() -> dict[str, Any]:
        fit(with_epochs(stack(case, mode, n), 1))
        return {}

    return work


def stack_series(case: BenchCase, counts: Sequence[int], effort: Effort) -> list[dict[str, Any]]:
    """Returns decompositions in an hour of one core for several numbers of runs."""
    variants = {(mode, n): package(stack(case, mode, n)) for mode in ("own", "shared") for n in counts}
    timing = interleave(variants, effort)
    return [
        {"toy": TITLES[case.name], "how": MODES[mode], "n_runs": n, "per_core_hour": per_core_hour(seconds, n)}
        for (mode, n), seconds in timing.seconds.items()
    ]


# --- a block of a language model --------------------------------------------------------------------------------


def block_case(tiny: bool, n_vocabulary: int = 50257, rank: int = 25) -> BenchCase:
    """Returns the attention block, of 32 texts in batches of 16."""
    if tiny:
        return language_block(8, 4, width=16, n_layers=2, n_heads=2, n_vocabulary=min(n_vocabulary, 500), n_v=6,
                              rank=min(rank, 5))  # fmt: skip
    return language_block(32, 16, n_vocabulary=n_vocabulary, rank=rank)


def block_batch(tiny: bool) -> int:
    return 2 if tiny else 16


def prepare_block(kind: str, tiny: bool, n_steps: int, chunk_size: int | None = None) -> Callable[[], dict]:
    """Returns what trains the block for a few steps and tells their seconds and losses."""
    case = block_case(tiny)
    other = {"batch_size": block_batch(tiny), "dense_epochs": 0}

    def of_package() -> dict[str, Any]:
        options = {"operand_dtype": torch.bfloat16} if kind == "bfloat16" else {}
        [l3d] = fit(runs_of(case, [0], epochs=n_steps, **other), max_steps=n_steps, **options)
        losses = l3d.history.first_losses[:n_steps].tolist()
        return {"seconds": [l3d.history.wall_seconds / len(l3d.history.first_losses)], "losses": losses}

    def of_baseline() -> dict[str, Any]:
        baseline, batches = programs.started(kind, problem_of(case, **other), case.inputs, chunk_size=chunk_size)
        seconds, losses = [], []
        for _ in range(n_steps):
            batch, start = next(batches), time.perf_counter()
            losses.append(float(baseline.step(case.inputs[batch.chosen], batch.partners, batch.epoch)))
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "losses": losses}

    return of_baseline if kind in BASELINES else of_package


def free_gib() -> float:
    """Returns the memory that can still be had, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / GIB
    except (OSError, StopIteration):
        return math.inf


def language(effort: Effort) -> dict[str, Any]:
    """The attention block of TinyStories-8M's sizes, two threads, gradients included."""
    tiny, threads = effort.tiny, 1 if effort.tiny else min(2, available_cores())
    torch.set_num_threads(threads)
    n_steps, other = 3, {"batch_size": block_batch(tiny), "dense_epochs": 0}
    case = block_case(tiny)
    # The authors' chunks of 50 outputs need about 20 GiB.
    chunks = {"published": 50 if free_gib() > 20 else 10, "textbook": 1}
    shared = {"tiny": tiny, "n_steps": n_steps}
    apart = {
        kind: run_apart(SCRIPT, "block", {**shared, "kind": kind, "chunk_size": chunks.get(kind)}, threads)
        for kind in ("published", "textbook", "package", "bfloat16")
    }
    runs = runs_of(case, [0], **other)
    timing = interleave(
        {
            "package": package(runs),
            "bfloat16": package(runs, operand_dtype=torch.bfloat16),
            "textbook": plain("textbook", case, problem_of(case, **other), chunk_size=1),
        },
        effort,
    )
    seconds = {**timing.seconds, "published": apart["published"]["seconds"]}
    after, rows, ratio = median(seconds["published"]), [], {}
    for kind, taken in seconds.items():
        losses, n = apart[kind]["losses"], max(1, int(after / median(taken)))
        # U1 is too slow to interleave: each of its steps against each block.
        ratio[kind] = spread([p / s for p in seconds["published"] for s in taken])
        rows.append({
            "program": PROGRAMS[kind], "seconds_per_step": spread(taken), "times_published": ratio[kind],
            "growth_gib": apart[kind]["growth_gib"], "peak_gib": apart[kind]["peak_gib"],
            "chunk_size": chunks.get(kind), "steps": n_steps, "loss": sum(losses) / n_steps,
            "off_published": max(abs(a / b - 1) for a, b in zip(losses, apart["published"]["losses"], strict=True)),
            "later_seconds": after, "later_steps": n,
            "later_loss": losses[0] if kind == "published" else block_loss(case, kind, other, n),
        })  # fmt: skip
    stages, checks = block_stages(effort)
    checks = [
        check("Block: times U1 a step, float32", ratio["package"]["median"], least=20),
        check("Block: growth of resident memory (GiB)", apart["package"]["growth_gib"], most=2.5),
        *checks,
    ]
    return {"rows": rows, "stages": stages, "disturbed": timing.disturbed, "checks": checks}


def block_loss(case: BenchCase, kind: str, other: dict[str, Any], n_steps: int) -> float:
    """Returns the mean loss of the last epoch of so many steps."""
    per_epoch = len(case.inputs) // other["batch_size"]
    if kind == "textbook":
        baseline, batches = programs.started(kind, problem_of(case, **other), case.inputs, chunk_size=1)
        losses = deque(maxlen=per_epoch)
        for _ in range(n_steps):
            batch = next(batches)
            losses.append(float(baseline.step(case.inputs[batch.chosen], batch.partners, batch.epoch)))
        return sum(losses) / len(losses)
    options = {"operand_dtype": torch.bfloat16} if kind == "bfloat16" else {}
    [l3d] = fit(runs_of(case, [0], epochs=max(1, n_steps // per_epoch), **other), **options)
    return float(l3d.history.recon_sq[-1])


def block_stages(effort: Effort) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns how long a step of the block takes by rank and by vocabulary, and the targets for that."""
    tiny, other = effort.tiny, {"batch_size": block_batch(effort.tiny), "dense_epochs": 0}
    steps = {rank: Step(runs_of(block_case(tiny, 1000, rank), [0], **other)) for rank in (4, 25)}
    ranks = interleave({rank: Variant(stopwatch(step)) for rank, step in steps.items()}, effort).seconds
    cases = {n: runs_of(block_case(tiny, n), [0], **other) for n in (1000, 50257)}
    words = interleave({n: package(runs) for n, runs in cases.items()}, effort).seconds
    ends = {n: fit(with_epochs(runs, 1))[0].history.recon_sq[-1] for n, runs in cases.items()}
    stages = [
        {"step": f"without gradients, rank {rank}", "ms_per_step": spread([1000 * s for s in found]),
         "path": steps[rank].path(), "steps": steps[rank].taken, "loss": float(steps[rank]())}
        for rank, found in ranks.items()
    ] + [
        {"step": f"with gradients, vocabulary {n:,}", "ms_per_step": spread([1000 * s for s in found]),
         "steps": package(cases[n]).steps, "loss": float(ends[n])}
        for n, found in words.items()
    ]  # fmt: skip
    rank_ratio, word_ratio = paired_ratio(ranks[25], ranks[4]), paired_ratio(words[50257], words[1000])
    return stages, [
        check("Block: step without gradients, rank 25 against 4", rank_ratio["median"], least=3.5),
        check("Block: step at vocabulary 50,257 against 1,000", word_ratio["median"], most=1.1),
    ]


# --- scaling ----------------------------------------------------------------------------------------------------


def prepare_shape(shape: list, n_steps: int, textbook: bool = False) -> Callable[[], dict]:
    """Returns what takes a few steps of a shape and tells their seconds and losses."""
    run, small = Shape(*shape).run(), Shape(8, 2, 4, 8, 2).run()
    step = Step([small])
    for one in (step, textbook_step(small, step.numbers())):  # Loads what every step needs, whatever its size.
        one()

    def work() -> dict[str, Any]:
        program = build_program([run]) if textbook else None
        step = textbook_step(run, initial_state(program)["numbers"][:, 0]) if textbook else Step([run])
        seconds, losses = [], []
        for _ in range(n_steps):
            start = time.perf_counter()
            losses.append(float(step()))
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds, "losses": losses}

    return work


def shape_points(shapes: Sequence[Shape], effort: Effort) -> list[dict[str, Any]]:
    """Returns time, memory and quality of some shapes, and of the textbook where it is tried."""
    runs = [shape.run() for shape in shapes]
    steps = [Step([run]) for run in runs]
    timing = interleave({i: Variant(stopwatch(step)) for i, step in enumerate(steps)}, effort)
    points = []
    for i, (shape, run, step) in enumerate(zip(shapes, runs, steps, strict=True)):
        apart = run_apart(SCRIPT, "shape", {"shape": shape, "n_steps": 3}, 1)
        torch.set_num_threads(available_cores())
        direct, taken = direct_loss(run, step.program.layout, step.numbers()), step.taken
        torch.set_num_threads(1)
        points.append({
            **shape._asdict(), "path": step.path(), "ms_per_step": spread([1000 * s for s in timing.seconds[i]]),
            "growth_mib": 1024 * apart["growth_gib"], "disturbed": timing.disturbed, "steps": taken, "loss": direct,
            "off_float64": off(float(step()), direct),
        })  # fmt: skip
        if shape.n_s * shape.width**2 <= TEXTBOOK_NUMBERS and shape.n_v <= TEXTBOOK_N_V:
            other = run_apart(SCRIPT, "shape", {"shape": shape, "n_steps": 3, "textbook": True}, 1)
            points[-1] |= {
                "textbook_ms_per_step": spread([1000 * s for s in other["seconds"][1:]]),
                "textbook_growth_mib": 1024 * other["growth_gib"],
                "textbook_off": abs(other["losses"][-1] / apart["losses"][-1] - 1),
            }
    return points


def scaling(effort: Effort) -> dict[str, Any]:
    """Time and memory of a step without gradients against n_w, n_v and T, one thread."""
    points, exponents, checks = [], {}, []
    for against, (field, shapes, most) in series(effort.tiny).items():
        part = shape_points(shapes, effort)
        x = [shape.width**2 if against == "n_w" else getattr(shape, field) for shape in shapes]
        exponents[against] = {
            "time": slope(x, [point["ms_per_step"]["median"] for point in part]),
            "memory": slope(x, [max(point["growth_mib"], 1e-3) for point in part]),
        }
        points += [{"against": against, "x": value, **point} for value, point in zip(x, part, strict=True)]
        checks.append(check(f"Exponent of time against {against}", exponents[against]["time"], most=most))
    return {"points": points, "exponents": exponents, "checks": checks}


# --- reach ------------------------------------------------------------------------------------------------------


def whole_gpt2(tiny: bool) -> Run:
    """Returns a run on all weight matrices of GPT-2 small's shapes, 2 texts of 16 tokens a step, given references."""
    sizes = {"width": 24, "n_layers": 2, "n_heads": 2, "n_vocabulary": 50, "n_v": 6} if tiny else {"n_v": 100}
    case = gpt2(2, 4 if tiny else 16, rank=2, **sizes)
    with torch.no_grad():
        references = case.model(case.inputs.roll(1, 1)).logits
    config = programs.settings(case.n_v, case.rank, epochs=3, batch_size=2, dense_epochs=0)
    return Run(case.model, case.inputs, config, case.divergence, 0, case.parameters, references=references)


def prepare_reach(tiny: bool) -> Callable[[], dict]:
    """Returns what takes three steps on all of GPT-2 small."""
    run = whole_gpt2(tiny)

    def work() -> dict[str, Any]:
        [l3d] = fit([run])
        seconds = l3d.history.wall_seconds / len(l3d.history.first_losses)
        shapes = l3d.v_out.layout.shapes
        return {"seconds_per_step": seconds, "losses": l3d.history.first_losses.tolist(), "n_tensors": len(shapes),
                "n_w": l3d.v_out.layout.n_w, "n_v": run.config.n_v, "rank": run.config.rank,
                "n_samples": run.inputs.numel()}  # fmt: skip

    return work


def prepare_reach_check(tiny: bool, n_steps: int = 6) -> Callable[[], dict]:
    """Returns what takes some steps on GPT-2 small, then computes its loss in float64 from whole gradients."""
    run = whole_gpt2(tiny)
    model, n = copy.deepcopy(run.model).double(), run.inputs.numel()

    def work() -> dict[str, Any]:
        step = Step([run])
        for _ in range(n_steps):
            step()
        layout, numbers = step.program.layout, step.numbers()
        loss = float(step())
        del step
        with sdpa_kernel(SDPBackend.MATH):
            found = model(run.inputs, output_hidden_states=True)
        last, w = found.hidden_states[-1], dict(model.named_parameters())
        divergences = kl(found.logits.flatten(0, 1), run.references.double().flatten(0, 1))
        each = torch.eye(n, dtype=torch.float64)
        [behind] = torch.autograd.grad(divergences, last, each, retain_graph=True, is_grads_batched=True)
        z, y, gram, total, start, names = 0, 0, 0, 0, 0, list(layout.pieces)
        room = torch.empty(run.config.n_v * max(map(math.prod, layout.shapes.values())), dtype=torch.float64)
        for four in (names[i : i + 4] for i in range(0, len(names), 4)):  # A block's matrices.
            gs = torch.autograd.grad(last, [w[k] for k in four], behind, retain_graph=True, is_grads_batched=True)
            for name, g in zip(four, (g.flatten(1) for g in gs), strict=True):
                size = sum(map(math.prod, layout.pieces[name]))
                p, q = two_factors(layout, name, numbers[..., start : start + size].double())
                area = run.config.n_v, p.shape[-1], q.shape[-1]
                v = room[: math.prod(area)].view(area)  # Fresh memory for each would cost more than the products.
                z = z + g @ torch.bmm(p[0].mT, q[0], out=v).flatten(1).mT
                y = y + g @ torch.bmm(p[1].mT, q[1], out=v).flatten(1).mT
                gram, total, start = gram + v.flatten(1) @ v.flatten(1).mT, total + g.square().sum(), start + size
        kept = kept_coefficients(z, run.config)
        direct = float(1 + (kept @ gram * kept - 2 * kept * y).sum() / total)
        return {"steps": n_steps, "loss": direct, "off_float64": off(loss, direct)}

    return work


def reach(effort: Effort) -> dict[str, Any]:
    """All 48 weight matrices of GPT-2 small's shapes at once: three steps, gradients included."""
    threads = 1 if effort.tiny else min(2, available_cores())
    torch.set_num_threads(threads)
    row = run_apart(SCRIPT, "reach", {"tiny": effort.tiny}, threads)
    row |= {"whole_gradients_gib": row["n_samples"] * row["n_w"] * 4 / GIB}
    direct = run_apart(SCRIPT, "reach_check", {"tiny": effort.tiny}, threads)
    row |= {key: direct[key] for key in ("steps", "loss", "off_float64")}
    what = "GPT-2 small, all matrices, three steps: peak resident memory (GiB)"
    return {"rows": [row], "checks": [check(what, row["peak_gib"], most=12)]}


# --- paths ------------------------------------------------------------------------------------------------------


def paths(effort: Effort) -> dict[str, Any]:
    """The path that is chosen against both fixed ones, one thread, without gradients.

    A program on one tensor is one of the two fixed ones: its time is that one's.
    """
    effort = effort._replace(blocks=min(5, effort.blocks), seconds=min(0.15, effort.seconds))
    rows, disturbed = [], 0
    for shape in shapes_to_plan(effort.tiny):
        run = shape.run()
        chosen = build_program([run]).plan.bundles[0].path
        steps = {path: Step([run], paths={"*": path}) for path in ("dense", "factored")}
        counted = {path: step.program.plan.flops for path, step in steps.items()}
        timing = interleave({path: Variant(stopwatch(step)) for path, step in steps.items()}, effort)
        middle = {path: median(found) for path, found in timing.seconds.items()}
        disturbed += timing.disturbed
        steps["factored"].follow(steps["dense"])
        losses = {path: float(step()) for path, step in steps.items()}
        rows.append({
            **shape._asdict(), "chosen": chosen, "over_better": middle[chosen] / min(middle.values()),
            **{f"{path}_ms": spread([1000 * s for s in found]) for path, found in timing.seconds.items()},
            **{f"{path}_counted": count for path, count in counted.items()},
            "loss": losses[chosen], "off_other_path": off(losses["factored"], losses["dense"]),
        })  # fmt: skip
    rows.sort(key=lambda row: -row["over_better"])
    over = [row["over_better"] for row in rows]
    checks = [
        check(f"Chosen path over the better one, geometric mean of {len(rows)} shapes", geometric_mean(over), most=1.2),
        check(f"Chosen path over the better one, worst of {len(rows)} shapes", max(over), most=2),
        check("Shapes tried", len(rows), least=40),
    ]
    return {"rows": rows, "disturbed": disturbed, "checks": checks}


# --- a GPU ------------------------------------------------------------------------------------------------------


def moved(runs: list[Run], device: str) -> list[Run]:
    """Returns runs on a device; those of one model share its copy."""
    model, inputs = copy.deepcopy(runs[0].model).to(device), runs[0].inputs.to(device)
    return [replace(run, model=model, inputs=inputs) for run in runs]


def most_allocated(device: str) -> float | None:
    """Returns the GPU memory allocated at most since the last call, in GiB; None on a CPU."""
    if device == "cpu":
        return None
    found = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.reset_peak_memory_stats()
    return found


def host_syncs(step: Step, device: str) -> int | None:
    """Returns how many times one step waits for the device; None on a CPU."""
    step()
    if device == "cpu":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def gpu(effort: Effort, device: str = "cuda") -> dict[str, Any]:
    """The block, all of GPT-2 small and 1024 toys on one GPU, gradients included."""
    whats = {
        "block": "GPU, block: milliseconds a step",
        "epochs": "GPU, block: 100 epochs of 10,000 texts (s, from 2 epochs)",
        "whole": "GPU, GPT-2 small: milliseconds a step", "memory": "GPU, GPT-2 small: memory (GiB)",
        "toys": "GPU, 1,024 TMS runs of 32,000 steps (s)", "syncs": "GPU, host syncs in a step",
    }  # fmt: skip
    most = {"block": 1.3, "epochs": 100, "whole": 80, "memory": 40, "toys": 10, "syncs": 0}
    if device == "cuda" and not torch.cuda.is_available():
        return {
            "reason": "not measured: no GPU",
            "checks": [check(w, None, most=most[key]) for key, w in whats.items()],
        }
    tiny, found, other = effort.tiny, {}, {"batch_size": block_batch(effort.tiny), "dense_epochs": 0}
    case = block_case(tiny)
    if not tiny:
        generator = torch.Generator().manual_seed(1)
        case = case._replace(inputs=torch.randint(50257, (10_000, 16), generator=generator))
    runs = moved(runs_of(case, [0], **other), device)
    fit(with_epochs(runs, 1), max_steps=1)
    [l3d] = fit(with_epochs(runs, 2))
    found["epochs"] = 50 * l3d.history.wall_seconds
    found["block"] = 1000 * l3d.history.wall_seconds / (2 * math.ceil(len(case.inputs) / other["batch_size"]))
    block_final = float(l3d.history.recon_sq[-1])
    found["syncs"] = host_syncs(Step(with_epochs(runs, 1)), device)
    n, tokens, sizes = (4, 4, {"width": 24, "n_layers": 2, "n_heads": 2, "n_vocabulary": 50, "n_v": 6}) if tiny else (
        64, 16, {})  # fmt: skip
    runs = moved(runs_of(gpt2(n, tokens, **{"rank": 4, **sizes}), [0], **other), device)
    fit(with_epochs(runs, 1))
    most_allocated(device)
    [l3d] = fit(with_epochs(runs, 1 if tiny else 12))
    found["whole"] = 1000 * l3d.history.wall_seconds / len(l3d.history.first_losses)
    found["memory"] = most_allocated(device)
    whole_final = float(l3d.history.recon_sq[-1])
    runs = moved(runs_of(toy("tms"), range(4 if tiny else 1024)), device)
    toys_found = fit(with_epochs(runs, 2 if tiny else STEPS // BATCHES))
    found["toys"] = toys_found[0].history.wall_seconds
    final = spread([float(one.history.recon_sq[-1]) for one in toys_found])
    losses = {"block": block_final, "GPT-2 small": whole_final, f"TMS, {len(toys_found)} runs": final}
    return {"rows": [{"what": what, "loss": loss} for what, loss in losses.items()],
            "checks": [check(w, found[key], most=most[key]) for key, w in whats.items()]}  # fmt: skip


# --- all of it --------------------------------------------------------------------------------------------------


SECTIONS = {"toys": toys, "stacked": stacked, "language": language, "scaling": scaling, "reach": reach,
            "paths": paths, "gpu": gpu}  # fmt: skip
APART = {
    "block": prepare_block,
    "stack": prepare_stack,
    "shape": prepare_shape,
    "reach": prepare_reach,
    "reach_check": prepare_reach_check,
}


def write_section(path: Path, name: str, part: dict[str, Any]) -> None:
    """Puts a section into the results, whole or not at all; the other sections stay."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found[name] = rounded(part)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: found[key] for key in SECTIONS if key in found}, indent=1, ensure_ascii=False)
    new = path.with_name(path.name + ".part")
    new.write_text(text + "\n")
    new.replace(path)


def measured(name: str, effort: Effort) -> dict[str, Any]:
    """Returns a section with where and when it was measured."""
    start = time.perf_counter()
    part = SECTIONS[name](effort)
    facts = provenance("cuda" if name == "gpu" and torch.cuda.is_available() else "cpu")
    facts |= {"cores": available_cores(), "instructions": torch.backends.cpu.get_cpu_capability(),
              "seconds": round(time.perf_counter() - start, 1), "quick": effort.tiny}  # fmt: skip
    return {"provenance": facts, **part}


def one_section(name: str, effort: Effort, path: Path) -> None:
    """Measures a section in this process, and writes and prints what came out."""
    torch.set_num_threads(1)
    part = measured(name, effort)
    write_section(path, name, part)
    for one in part["checks"]:
        sign, value = ">=" if one["at_least"] else "<=", one["value"]
        shown = part.get("reason", "not measured") if value is None else f"{value:.4g}"
        print(f"{one['what']}: {shown} ({sign} {one['bound']:g})", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every section was measured, whatever its figures."""
    parser = argparse.ArgumentParser(description="Measures the package's speed beside two baselines.")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections to measure")
    parser.add_argument("--quick", action="store_true", help="small stand-ins and short blocks, to try the program")
    parser.add_argument("--output", type=Path, help="results; for --quick a file under artifacts/")
    parser.add_argument("--here", action="store_true", help="in this process instead of one for each section")
    parser.add_argument("--apart", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.apart:
        torch.set_num_threads(options.threads)
        print(json.dumps(with_memory(APART[options.apart[0]](**json.loads(options.apart[1])))))
        return 0
    path = options.output or (TRIAL if options.quick else RESULTS)
    effort, failed = QUICK if options.quick else FULL, []
    for name in options.only:
        if options.here:
            print(f"--- {name}", flush=True)
            one_section(name, effort, path)
            continue
        command = [sys.executable, str(SCRIPT), "--here", "--only", name, "--output", str(path)]
        done = subprocess.run(command + ["--quick"] * options.quick, env={**os.environ, "PYTHONUTF8": "1"}, check=False)
        failed += [name] * bool(done.returncode)
    if failed:
        print(f"not measured: {', '.join(failed)}; run again with --only {' '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
