"""Tables and numbers of chapter 8, a model of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..intervention import output_gradients, top_outputs, top_samples
from ..measures import agreement
from ..plan import Plan
from ..training import L3D
from .own_model import OwnModelResult
from .own_model_measures import N_TOP, held_out_error, shares
from .own_model_task import LENGTH, LETTERS, OUTPUTS, RULES, Task, accuracy, answers, every_sequence, written
from .recovery import live
from .statistics import last_epochs, settings_digest, spread_text
from .studies import Study, first_losses, made_by

MIB = 2**20
# Pairs of a rule and an answer: every letter under three rules, every count under the last.
N_PAIRS = (len(RULES) - 1) * len(LETTERS) + LENGTH + 1
# What a figure or table over models tells of each variant, in its order.
SERVED = {"pure_rule": "same rule", "pure_answer": "same answer", "pure_both": "both"}


def rule_table(task: Task) -> pd.DataFrame:
    """Returns each rule with an example and the share of right answers over all sequences."""
    rows, right = [], accuracy(task.model)
    for r, (name, what) in enumerate(RULES.items()):
        example = task.inputs[(task.inputs[:, -1] == len(LETTERS) + r).nonzero()[:1, 0]]
        [text], answer = written(example), OUTPUTS[answers(example)]
        rows.append(
            {"rule": name, "the answer is": what, "sequence": text, "answer": answer, "right": f"{right[r]:.2%}"}
        )
    return pd.DataFrame(rows).set_index("rule")


def plan_table(plan: Plan) -> pd.DataFrame:
    """Returns how each tensor's gradients will be treated, tensors of the same shape and path in one row."""
    rows = [
        {
            "tensors": bundle.names[0] + (f" and {bundle.n_tensors - 1} more" if bundle.n_tensors > 1 else ""),
            "path": bundle.path, "rank": bundle.ranks[0], "rows": bundle.n_rows,
            "Mflop a step": round(bundle.flops(plan.sizes) / 1e6, 1),
        }
        for bundle in plan.bundles
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("tensors")


def planned_mib(plan: Plan) -> float:
    """Returns the memory that a plan counts with, in MiB."""
    return (plan.fixed_bytes + plan.block_bytes) / MIB


def top_table(l3d: L3D, scores: Tensor, x: Tensor, n: int = 3) -> pd.DataFrame:
    """Returns what each live subnetwork affects most: samples with their right answers, and outputs.

    Args:
        l3d: The decomposition.
        scores: Impacts on x `[n_s, n_v]`.
        x: Sequences `[n_s, LENGTH + 1]`.
        n: Samples to show.
    """
    top, rows = top_samples(scores, n), []
    for v in sorted(l3d.live.nonzero().flatten().tolist(), key=lambda v: -float(l3d.p_active[v])):
        own = x[top[v]]
        gradients = output_gradients(l3d, v, own)
        samples = [f"{text} → {OUTPUTS[a]}" for text, a in zip(written(own), answers(own), strict=True)]
        row = {"subnetwork": v, "P_act": f"{float(l3d.p_active[v]):.3f}"}
        # A column each, since a long cell would be cut off.
        row |= {f"sample {i}": text for i, text in enumerate(samples, 1)}
        rows.append({**row, "moves": " ".join(OUTPUTS[o] for o in top_outputs(gradients.abs().mean(0), 2))})
    return pd.DataFrame(rows).set_index("subnetwork")


def size_table(folder: Path) -> pd.DataFrame:
    """Returns the files of a folder with their sizes."""
    told = {
        "config.json": "settings, shapes, ranks, a digest of the weights",
        "metrics.json": "epochs and seconds",
        "provenance.json": "versions, machine, date",
        "tensors.safetensors": "encoder, decoder, history",
    }
    rows = [
        {"file": file.name, "holds": told[file.name], "KiB": f"{file.stat().st_size / 1024:.1f}"}
        for file in sorted(folder.iterdir())
    ]
    return pd.DataFrame(rows).set_index("file")


def own_share(study: Study, name: str, key: str) -> Tensor:
    """Returns which part of what a subnetwork does under all rules it does under the rule it has most impact on.

    Args:
        study: Where the measures are.
        name: A variant.
        key: 'effect', 'changed' or 'impact', means under each rule.

    Returns:
        `[n_models, n_v]`; a quarter if all rules are alike.
    """
    rule = study.of("rule", name)[..., None]
    return shares(study.of(key, name)).gather(-1, rule).squeeze(-1)


def own_and_others(study: Study, name: str, key: str) -> tuple[Tensor, Tensor]:
    """Returns the same means under the rule of most impact, and the mean over the other rules, `[n_models, n_v]`."""
    values, rule = study.of(key, name), study.of("rule", name)[..., None]
    own = values.gather(-1, rule).squeeze(-1)
    return own, (values.sum(-1) - own) / (values.shape[-1] - 1)


def over_live(values: Tensor, alive: Tensor) -> Tensor:
    """Returns the median over the live subnetworks of each model, `[n_models]`; 0 for a model without any."""
    return torch.stack([v[a].median() if a.any() else v.new_zeros(()) for v, a in zip(values, alive, strict=True)])


def mean_live(values: Tensor, alive: Tensor) -> Tensor:
    """Returns the mean over the live subnetworks of each model, `[n_models]`; 0 for a model without any."""
    return (values * alive).sum(1) / alive.sum(1).clamp_min(1)


def served(study: Study, name: str, key: str) -> Tensor:
    """Returns the mean purity of the live subnetworks' top samples, by model; `key` is one of `SERVED`."""
    return mean_live(study.of(key, name), live(study, name))


def _columns(result: OwnModelResult) -> list[tuple[str, Study]]:
    """Returns what is compared over models: random directions first, then the variants."""
    return [("start", result.start), *((name, result.main) for name in result.main.names if name != "again")]


def model_table(result: OwnModelResult) -> pd.DataFrame:
    """Returns what the variants leave, keep alive and serve, median and range over models, beside random directions."""
    columns = {}
    for name, study in _columns(result):
        alive = live(study, name)
        columns["random" if name == "start" else name] = {
            "subnetworks": str(alive.shape[1]),
            "live": spread_text(alive.sum(1), 0) if study is result.main else "all",
            "error, held-out": spread_text(study.of("held_out", name)),
            "error, all coefficients kept": spread_text(study.of("dense", name)),
            f"top {N_TOP} samples of one rule": spread_text(served(study, name, "pure_rule"), 2),
            "of one answer": spread_text(served(study, name, "pure_answer"), 2),
            "of both": spread_text(served(study, name, "pure_both"), 2),
            "part of a step's effect on its own rule": spread_text(parts_of_effect(result)[name], 2),
        }
    return pd.DataFrame(columns).rename_axis("")


def parts_of_effect(result: OwnModelResult) -> dict[str, Tensor]:
    """Returns the own rule's part of a step's effect, the median over live subnetworks, `[n_models]` by variant."""
    return {name: over_live(own_share(study, name, "effect"), live(study, name)) for name, study in _columns(result)}


def purity_rows(result: OwnModelResult) -> pd.DataFrame:
    """Returns one row for each model, variant and label: how many of a subnetwork's top samples share the label."""
    rows = [
        {"variant": "random" if name == "start" else name, "label": label, "purity": value}
        for name, study in _columns(result)
        for key, label in SERVED.items()
        for value in served(study, name, key).tolist()
    ]
    return pd.DataFrame(rows)


def seed_agreement(result: OwnModelResult) -> Tensor:
    """Returns the mean matched abs(cos) of `revived` and the same with another seed, `[n_models]`."""
    a, b = (result.main.of("v_out", name).float() for name in ("revived", "again"))
    alive = [live(result.main, name) for name in ("revived", "again")]
    return torch.stack([agreement(*four).mean for four in zip(a, b, *alive, strict=True)])


def rules_found(result: OwnModelResult, name: str = "revived", least: float = 0.9) -> Tensor:
    """Returns how many rules have a live subnetwork with at least such a share of its top samples, `[n_models]`."""
    good = live(result.main, name) & (result.main.of("pure_rule", name) >= least)
    rules = result.main.of("rule", name)
    return torch.tensor([rule[g].unique().numel() for rule, g in zip(rules, good, strict=True)])


def rows(result: OwnModelResult) -> list[dict[str, Any]]:
    """Returns one row for each model and variant, for tables of sweeps."""
    found = []
    for name in result.main.names:
        columns = {
            "held_out": result.main.of("held_out", name), "live": live(result.main, name).sum(1),
            **{key: served(result.main, name, key) for key in SERVED},
        }  # fmt: skip
        for i, seed in enumerate(result.main.seeds):
            found.append({"variant": name, "seed": seed, **{key: round(float(t[i]), 6) for key, t in columns.items()}})
    return found


def one_numbers(l3d: L3D, task: Task, name: str) -> dict[str, Any]:
    """Returns what the page says of one decomposition, by key and name.

    Args:
        l3d: The decomposition.
        task: What it is of.
        name: Ends the keys.
    """
    x = task.held_out.to(l3d.v_out.flat.device)
    return {
        f"one_error_{name}": f"{float(last_epochs(l3d.history.recon_sq[-10:])):.3f}",
        f"one_held_out_{name}": f"{float(held_out_error(l3d, x)):.3f}",
        f"one_dense_{name}": f"{float(held_out_error(l3d, x, 1.0)):.3f}",
        f"one_live_{name}": int(l3d.live.sum()),
        f"one_dead_{name}": f"{100 * float((~l3d.live).float().mean()):.0f} %",
        f"one_p_active_{name}": f"{float(l3d.p_active.max()):.2f}",
    }  # fmt: skip


def _facts(task: Task, plan: Plan) -> dict[str, Any]:
    """Returns what the page says of the model and the plan."""
    block = {name: p.detach() for name, p in task.model.named_parameters() if name.startswith(("attention", "mlp"))}
    return {
        "n_weights": sum(p.numel() for p in task.model.parameters()), "n_w": sum(p.numel() for p in block.values()),
        "n_sequences": len(every_sequence()), "n_inputs": len(task.inputs), "n_held_out": len(task.held_out),
        "n_pairs": N_PAIRS, "n_top": N_TOP, "memory": f"{planned_mib(plan):.0f} MiB",
        "batches_per_block": plan.batches_per_block,
        "weights_length": f"{float(sum(p.square().sum() for p in block.values()).sqrt()):.1f}",
    }  # fmt: skip


def summarise(
    result: OwnModelResult, preset: str, task: Task, plan: Plan, ones: Mapping[str, L3D], step_seconds: float
) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, first losses and provenance (JSON-able).

    Args:
        result: Over models.
        preset: The preset it ran.
        task: The model shown.
        plan: Of its decomposition.
        ones: Its decompositions, 'plain' and 'revived'.
        step_seconds: Of a step of the former, in the trial.
    """
    main, plain = result.main, ones["plain"]
    n_steps = plain.config.epochs * -(-len(task.inputs) // plain.config.batch_size)
    numbers = _facts(task, plan) | {
        "n_models": len(main.seeds), "n_v": plain.config.n_v, "n_steps": n_steps,
        "per_sample": f"{plain.config.k_fraction * plain.config.n_v:.1f}", "epochs": plain.config.epochs,
        "length": f"{result.settings.length:g}", "step_ms": f"{1000 * step_seconds:.1f} ms",
        "estimate": f"{n_steps * step_seconds:.1f} s", "took": f"{plain.history.wall_seconds:.1f} s",
        "training_steps": result.settings.training.steps, "training_batch": result.settings.training.batch_size,
        "agreement": spread_text(seed_agreement(result), 2), "rules_found": spread_text(rules_found(result), 0),
        "core_minutes": f"{made_by(result.studies, main)['core_seconds'] / 60:.1f}",
    }  # fmt: skip
    for name, l3d in ones.items():
        numbers |= one_numbers(l3d, task, name)
    for name, study in _columns(result):
        alive = live(study, name)
        for key, digits in (("effect", 6 if name == "start" else 3), ("changed", 3)):
            own, others = own_and_others(study, name, key)
            numbers |= {
                f"{key}_own_{name}": spread_text(over_live(own, alive), digits),
                f"{key}_others_{name}": spread_text(over_live(others, alive), digits),
            }
        same = (study.of("effect", name).argmax(-1) == study.of("rule", name)).float()
        numbers[f"same_rule_{name}"] = spread_text(mean_live(same, alive), 2)
        numbers |= {f"{key}_{name}": spread_text(served(study, name, key), 2) for key in SERVED}
        numbers[f"held_out_{name}"] = spread_text(study.of("held_out", name))
        numbers[f"share_{name}"] = spread_text(parts_of_effect(result)[name], 2)
    return {
        "preset": preset, "settings": settings_digest(result.settings), "numbers": numbers,
        "table": rows(result), "first_losses": first_losses(result.studies),
        "provenance": made_by(result.studies, main),
    }  # fmt: skip
