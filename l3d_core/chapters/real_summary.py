"""Numbers, claims and provenance of chapters 5 and 6 as one record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .real_chapter import RealResult
from .real_tables import (
    all_alike,
    chosen_candidate,
    coherences,
    crossed,
    identity_error,
    in_common,
    kept_per_sample,
    limit,
    live,
    repeated,
    saturated,
    spread_circuits,
    z_scores,
)
from .statistics import made_in, settings_digest, seven_digits, spread, spread_text

VARIANTS = ("text", "code", "tuned")
# The epoch at which decompositions of all lengths are compared, and what the paper prints as 0.00.
AT, PRINTED_ZERO = 20, 0.005


def seeds_of_text(result: RealResult) -> list[str]:
    """Returns the names of the decompositions that differ from `text` in their seed or their epochs alone."""
    return [name for name in result.runs if name.split("-")[0] == "text"]


def claims(
    result: RealResult, recon: str, meaning: str, labels: Sequence[str], dead: str | None = None
) -> dict[str, dict[str, list]]:
    """Returns values of claims by variant: its error, and of each live subnetwork whether its samples have a label.

    Of the latter there are none if random directions leave nothing to exceed: then the measure decides nothing.

    Args:
        result: The chapter's.
        recon: Name of the claim on the error.
        meaning: Name of the claim that top samples have something in common.
        labels: Kinds of label of which one must be common.
        dead: Name of the claim on the share of dead subnetworks.
    """
    found: dict[str, dict[str, list]] = {name: {} for name in (recon, meaning, dead) if name}
    for name in VARIANTS:
        found[recon][name] = [round(float(result.runs[name].l3d.history.recon_sq[-1]), 6)]
        found[meaning][name] = [] if saturated(result, labels) else in_common(result, labels, name).tolist()
        if dead:
            found[dead][name] = [round(float((~live(result, name)).double().mean()), 6)]
    return found


def numbers(result: RealResult, labels: Sequence[str], common: Sequence[str]) -> dict[str, Any]:
    """Returns the numbers of the chapter's prose; for `labels` and `common` see `summarise`."""
    text, measuring, subject = result.runs["text"], result.settings.measuring, result.subject
    n_positions, seeds = len(subject.labels) // len(subject.held_out), seeds_of_text(result)
    histories = [result.runs[name].l3d.history for name in seeds]
    errors = [identity_error(one, len(subject.inputs), n_positions) for one in result.runs.values()]
    found: dict[str, Any] = {
        "n_v": text.l3d.config.n_v, "epochs": text.l3d.config.epochs, "n_weights": text.l3d.v_out.matrix().shape[1],
        "n_inputs": len(subject.inputs), "n_held_out": len(subject.held_out), "n_moved": measuring.n_moved,
        "change": f"{measuring.change:g}", "share": f"{100 * measuring.share:g} %", "n_top": measuring.n_top,
        "n_principal": measuring.n_principal, "n_random": measuring.n_random, "n_references": measuring.n_references,
        "n_chosen": len(spread_circuits(result, "text")), "n_candidate": result.settings.n_candidate,
        "kept": f"{kept_per_sample(text):.2f}", "identity": f"{max(errors):.0e}",
        "recon": f"{float(text.l3d.history.recon_sq[-1]):.3f}", "held_out": spread_text(text.held_out),
        "recon_seeds": spread_text([float(history.recon_sq[:AT][-1]) for history in histories]),
        "dead_seeds": spread_text([float((history.p_active[:AT][-1] == 0).sum()) for history in histories], 0),
        "chosen": chosen_candidate(result) if result.candidates else "",
        "limit": f"{limit(result, common):.2f}",
    }  # fmt: skip
    for name in ("seeds", *result.runs, "untrained", "random 0"):
        for i, part in enumerate(("direction", "response")):
            if f"{name}/agreement" in result.measures:
                found[f"{part}_{name.split(' ')[0]}"] = f"{float(result.of('agreement', name)[i]):.3f}"
    for name in VARIANTS:
        p_active, kept = result.runs[name].l3d.p_active, live(result, name)
        found |= {
            f"dead_{name}": int((~kept).sum()), f"rare_{name}": int((p_active < PRINTED_ZERO).sum()),
            f"in_common_{name}": f"{100 * float(in_common(result, common, name).double().mean()):.0f} %",
        }  # fmt: skip
    found |= _of_sets(result, common) | _of_candidates(result)
    for i, label in enumerate(labels):
        z = [z_scores(result, label, name) for name in seeds]
        found[f"coherence_{i}"] = f"{float(coherences(result, label, 'text').mean()):.3f}"
        for kind in z[0]:
            found[f"z_{kind}_{i}"] = spread_text([one[kind] for one in z], 1)
    return found


def _of_sets(result: RealResult, common: Sequence[str]) -> dict[str, str]:
    """Returns errors, selectivity and the like of every set of directions, baselines too."""
    found = {}
    for name in (*VARIANTS, "untrained", "principal", "rotated 0", "random 0"):
        key = name.split(" ")[0]
        found |= {f"{kind}_{key}": f"{float(result.of(kind, name)):.3f}" for kind in ("top_k", "dense", "span")}
        kept = live(result, name)
        found[f"selectivity_{key}"] = f"{_median(result.of('selectivity', name)[kept]):.1f}"
        found[f"crossed_{key}"] = f"{_median(crossed(result, name)):.1f}"
        tops = result.of("top", name)[kept]
        found[f"distinct_{key}"] = f"{100 * len(tops.unique()) / max(tops.numel(), 1):.0f} %"
    for kind in ("random", "rotated"):
        shares = [float(in_common(result, common, name).double().mean()) for name in repeated(result, kind)]
        found[f"in_common_{kind}"] = f"{100 * sum(shares) / len(shares):.0f} %"
    alike = {name: [name] for name in (*VARIANTS, "untrained", "principal")}
    for key, names in (alike | {kind: repeated(result, kind) for kind in ("random", "rotated")}).items():
        each = torch.cat([all_alike(result, common, name) for name in names])
        found[f"alike_{key}"] = f"{100 * float(each.double().mean()):.0f} %"
    return found


def _median(values: Tensor) -> float:
    """Returns the median of those that are finite, as the tables tell it; NaN of none."""
    finite = values[values.isfinite()]
    return spread(finite)["median"] if len(finite) else float("nan")


def _of_candidates(result: RealResult) -> dict[str, str]:
    """Returns held-out errors and dead subnetworks of the candidates with and without revival."""
    found = {}
    for key, revived in (("plain", False), ("revived", True)):
        of = [one for one in result.candidates.values() if (one.l3d.config.revival > 0) == revived]
        if of:
            found[f"tried_{key}"] = spread_text([float(one.held_out.mean()) for one in of])
            found[f"tried_dead_{key}"] = spread_text([float((~one.l3d.live).sum()) for one in of], 0)
    return found


def table(result: RealResult) -> list[dict[str, Any]]:
    """Returns one row per decomposition, for tables of sweeps."""
    return [
        {
            "variant": name, "seed": one.l3d.seed, "epochs": one.l3d.config.epochs,
            "recon_sq": round(float(one.l3d.history.recon_sq[-1]), 6), "held_out": round(float(one.held_out.mean()), 6),
            "live": int(live(result, name).sum()),
            "selectivity": round(_median(result.of("selectivity", name)[live(result, name)]), 6),
        }
        for name, one in result.runs.items()
    ]  # fmt: skip


def summarise(
    result: RealResult, preset: str, labels: Sequence[str], common: Sequence[str], values: dict[str, Any],
    found: dict[str, dict[str, list]],
) -> dict[str, Any]:  # fmt: skip
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: The chapter's.
        preset: The preset it ran.
        labels: The kinds of label, in the order that numbers are named in.
        common: Those of which samples may have one in common, see `real_tables.in_common`.
        values: Further numbers.
        found: Values of claims, see `claims`.
    """
    done = {**result.runs, **{f"tried {name}": one for name, one in result.candidates.items()}}
    seconds = {name: one.facts["core_seconds"] for name, one in done.items()}
    seconds["measures"] = result.facts["core_seconds"]
    return {
        "preset": preset, "settings": settings_digest(result.settings),
        "numbers": numbers(result, labels, common) | {"core_minutes": f"{sum(seconds.values()) / 60:.0f}"} | values,
        "claims": found, "table": table(result),
        "first_losses": {
            name: seven_digits(one.l3d.history.first_losses[None, None])
            for name, one in result.runs.items()
        },
        "provenance": made_in(result.facts, seconds),
    }  # fmt: skip
