"""Tables, claims and numbers of chapters 5 and 6, computed from their results and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .circuits import chance, z_score
from .real_chapter import RealResult
from .real_models import Decomposed
from .statistics import settings_digest, spread, spread_text

# A subnetwork's top samples have something in common if fewer random directions than this share do as well.
RARE = 0.05


def seeds_of_text(result: RealResult) -> list[str]:
    """Returns the names of the decompositions that differ from `text` in their seed or their epochs alone."""
    return [name for name in result.runs if name.split("-")[0] == "text"]


def random_sets(result: RealResult) -> list[str]:
    """Returns the names of the sets of random directions."""
    return [f"random {i}" for i in range(result.settings.n_random)]


def live(result: RealResult, name: str) -> Tensor:
    """Returns which directions of a set are live `[n_v]`; all of them in sets that were not trained."""
    if name in result.runs:
        return result.runs[name].l3d.live.cpu()
    return torch.ones(len(result.of("top", name)), dtype=torch.bool)


def kept_per_sample(one: Decomposed) -> float:
    """Returns how many coefficients a sample keeps in the mean of the last epoch, the sum of P_act."""
    return float(one.l3d.history.p_active[-1].double().sum())


def identity_error(one: Decomposed, n_inputs: int, n_positions: int = 1) -> float:
    """Returns how far the sum of P_act is from what batch top-k fixes: coefficients kept of all batches, over samples.

    Args:
        one: A decomposition.
        n_inputs: Inputs it was trained on.
        n_positions: Samples of each.
    """
    config = one.l3d.config
    sizes = [len(batch) * n_positions for batch in torch.arange(n_inputs).split(config.batch_size)]
    dense = config.dense_epochs >= config.epochs
    kept = sum(n_s * config.n_v if dense else config.k_count(n_s) for n_s in sizes)
    return abs(kept_per_sample(one) - kept / (n_inputs * n_positions))


def by_label(result: RealResult, take: Callable[[Decomposed], Any]) -> dict[str, Any]:
    """Returns something of every decomposition by the name that readers see."""
    return {_named(name): take(one) for name, one in result.runs.items()}


def coherence_by_label(result: RealResult, labels: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Returns, by kind of label and set of directions, how alike the top samples of each direction are."""
    found = {}
    for label in labels:
        own = {_named(name): coherences(result, label, name) for name in [*result.runs, "principal"]}
        own["random"] = torch.cat([coherences(result, label, name) for name in random_sets(result)])
        found[label] = own
    return found


def _named(name: str) -> str:
    variant, _, seed = name.partition("-")
    return f"{variant}, seed {seed}" if seed else variant


def error_table(result: RealResult, at: int = 20) -> pd.DataFrame:
    """Returns what every decomposition leaves of the gradients, and what other directions do.

    Args:
        result: The chapter's.
        at: The epoch after which the error in training is told too, so that decompositions of both lengths compare.
    """
    rows = []
    for name, one in result.runs.items():
        history = one.l3d.history.recon_sq
        rows.append({
            "directions": _named(name), "epochs": str(len(history)),
            f"training, epoch {min(at, len(history))}": f"{float(history[: at][-1]):.3f}",
            "training, last": f"{float(history[-1]):.3f}", "held out": spread_text(one.held_out),
            "held out, all kept": f"{float(result.of('dense', name)):.3f}",
            "dead": f"{int((~live(result, name)).sum())} of {len(live(result, name))}",
        })  # fmt: skip
    for name, label in (("principal", "principal"), ("random 0", "random")):
        rows.append({
            "directions": label, "held out": f"{float(result.of('top_k', name)):.3f}",
            "held out, all kept": f"{float(result.of('dense', name)):.3f}",
        })  # fmt: skip
    return pd.DataFrame(rows).fillna("").set_index("directions")


def coherences(result: RealResult, label: str, name: str) -> Tensor:
    """Returns how alike the top samples of each live direction of a set are `[n_live]`."""
    return result.of(label, name)[live(result, name)]


def z_scores(result: RealResult, label: str, name: str) -> dict[str, float]:
    """Returns how far the mean coherence of a set lies above those of random directions and of random samples.

    In standard deviations: over sets of random directions, and over draws of as many sets of random samples. NaN where
    these are all equal.
    """
    mean = float(coherences(result, label, name).mean())
    directions = torch.stack([coherences(result, label, other).mean() for other in random_sets(result)])
    against = {"directions": directions, "samples": result.measures[f"samples/{label}"]}
    return {key: z_score(mean, of) if len(of.unique()) > 1 else float("nan") for key, of in against.items()}


def coherence_table(result: RealResult, label: str) -> pd.DataFrame:
    """Returns, for one kind of label, the mean coherence of every set with its z-scores."""
    rows = []
    for name in [*result.runs, "principal"]:
        found, z = coherences(result, label, name), z_scores(result, label, name)
        rows.append({
            "directions": _named(name), "coherence": f"{float(found.mean()):.3f}",
            "above all but 5 % of random directions": f"{float(uncommon(result, label, name).double().mean()):.2f}",
            "z, random directions": f"{z['directions']:+.1f}", "z, random samples": f"{z['samples']:+.1f}",
        })  # fmt: skip
    means = [float(coherences(result, label, other).mean()) for other in random_sets(result)]
    rows.append({"directions": "random directions", "coherence": spread_text(means)})
    drawn = float(result.measures[f"samples/{label}"].mean())
    rows.append({"directions": "random samples", "coherence": f"{drawn:.3f}"})
    return pd.DataFrame(rows).fillna("").set_index("directions")


def uncommon(result: RealResult, label: str, name: str) -> Tensor:
    """Returns which live directions of a set have top samples more alike than all but 5 % of random directions' are."""
    pooled = torch.cat([coherences(result, label, other) for other in random_sets(result)])
    return coherences(result, label, name) > pooled.double().quantile(1 - RARE).to(pooled)


def selectivity_table(result: RealResult) -> pd.DataFrame:
    """Returns how much more a step changes the samples its direction affects most than others: median, range, n."""
    rows = []
    for name in [*result.runs, "principal", "random 0"]:
        kept = live(result, name)
        ratio, length = (result.of(key, name)[kept] for key in ("selectivity", "length"))
        reached = ratio.isfinite()
        both = ((ratio, 1), (length, 2))
        told = [spread_text(values[reached], digits) if reached.any() else "" for values, digits in both]
        label = "random" if name == "random 0" else _named(name)
        rows.append({"directions": label, "own samples over others": told[0], "length of the step": told[1]})
    return pd.DataFrame(rows).set_index("directions")


def agreement_table(result: RealResult) -> pd.DataFrame:
    """Returns how far other decompositions, and other directions, agree with `text` of the first seed."""
    first, *others = result.runs
    rows = []
    for name in [*others, "principal", *random_sets(result)[:1]]:
        direction, response = result.of("agreement", name).tolist()
        label = "random" if name.startswith("random") else _named(name)
        rows.append({"and": label, "matched abs(cos)": f"{direction:.3f}", "response": f"{response:.3f}"})
    return pd.DataFrame(rows).set_index("and")


def candidate_table(result: RealResult) -> pd.DataFrame:
    """Returns the candidates for `tuned`: errors in training and on samples nothing else is judged by, dead ones."""
    rows = [
        {
            "candidate": name, "training": f"{float(one.l3d.history.recon_sq[-1]):.3f}",
            "held out": f"{float(one.held_out.mean()):.3f}", "dead": str(int((~one.l3d.live).sum())),
        }
        for name, one in result.candidates.items()
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("candidate")


def chosen_candidate(result: RealResult) -> str:
    """Returns the candidate of the lowest held-out error, which becomes `tuned`."""
    return min(result.candidates, key=lambda name: float(result.candidates[name].held_out.mean()))


def spread_circuits(result: RealResult, name: str, n: int = 10) -> list[int]:
    """Returns n live subnetworks spread evenly over the order of P_act, the most often active first.

    A rule in the place of a choice by taste: the most and the least active one, and what lies between at even steps.
    """
    p_active = result.runs[name].l3d.p_active.cpu()
    order = [v for v in p_active.argsort(descending=True, stable=True).tolist() if live(result, name)[v]]
    n = min(n, len(order))
    return [order[round(i * (len(order) - 1) / max(n - 1, 1))] for i in range(n)]


def claims(result: RealResult, recon: str, meaning: str, labels: Sequence[str], dead: str | None = None) -> dict:
    """Returns values of claims by variant: errors over seeds, and of each live subnetwork whether it means something.

    Args:
        result: The chapter's.
        recon: Name of the claim on the error.
        meaning: Name of the claim that top samples have something in common.
        labels: Kinds of label of which at least one must be common.
        dead: Name of the claim on the share of dead subnetworks.
    """
    found: dict[str, dict[str, list]] = {name: {} for name in (recon, meaning, dead) if name}
    for variant in ("text", "code", "tuned"):
        own = seeds_of_text(result) if variant == "text" else [variant]
        found[recon][variant] = [round(float(result.runs[name].l3d.history.recon_sq[-1]), 6) for name in own]
        common = torch.stack([uncommon(result, label, variant) for label in labels]).any(0)
        found[meaning][variant] = common.tolist()
        if dead:
            found[dead][variant] = [round(float((~live(result, name)).double().mean()), 6) for name in own]
    return found


def numbers(result: RealResult, labels: Sequence[str]) -> dict[str, Any]:
    """Returns the numbers of the chapter's prose."""
    text, settings, subject = result.runs["text"], result.settings, result.subject
    n_positions = len(subject.labels) // len(subject.held_out)
    errors = [identity_error(one, len(subject.inputs), n_positions) for one in result.runs.values()]
    found: dict[str, Any] = {
        "n_v": text.l3d.config.n_v, "epochs": text.l3d.config.epochs, "n_weights": text.l3d.v_out.matrix().shape[1],
        "n_inputs": len(subject.inputs), "n_held_out": len(subject.held_out),
        "n_moved": settings.n_moved, "change": f"{settings.change:g}", "share": f"{100 * settings.share:g} %",
        "kept": f"{kept_per_sample(text):.2f}", "identity": f"{max(errors):.0e}",
        "recon": f"{float(text.l3d.history.recon_sq[-1]):.3f}", "held_out": spread_text(text.held_out),
        "recon_seeds": spread_text([float(result.runs[n].l3d.history.recon_sq[-1]) for n in seeds_of_text(result)]),
        "principal_dense": f"{float(result.of('dense', 'principal')):.3f}",
        "principal_top_k": f"{float(result.of('top_k', 'principal')):.3f}",
        "text_dense": f"{float(result.of('dense', 'text')):.3f}",
        "chosen": chosen_candidate(result) if result.candidates else "",
        "n_chosen": len(spread_circuits(result, "text")), "n_random": settings.n_random, "n_top": settings.n_top,
        "n_references": settings.n_references,
    }  # fmt: skip
    for name in ("text", "code", "tuned"):
        found[f"dead_{name}"] = int((~live(result, name)).sum())
        found[f"selectivity_{name}"] = f"{float(result.of('selectivity', name)[live(result, name)].nanmedian()):.1f}"
    found["selectivity_random"] = f"{float(result.of('selectivity', 'random 0').nanmedian()):.1f}"
    found["selectivity_principal"] = f"{float(result.of('selectivity', 'principal').nanmedian()):.1f}"
    for i, label in enumerate(labels):
        z = [z_scores(result, label, name) for name in seeds_of_text(result)]
        found |= {
            f"coherence_{i}": f"{float(coherences(result, label, 'text').mean()):.3f}",
            f"z_directions_{i}": spread_text([one["directions"] for one in z], 1),
            f"z_samples_{i}": spread_text([one["samples"] for one in z], 1),
            f"uncommon_{i}": f"{float(uncommon(result, label, 'text').double().mean()):.2f}",
        }
    return found


def chance_of(labels: Tensor) -> str:
    """Returns the coherence of samples drawn at random, to two digits."""
    return f"{chance(labels):.2f}"


def table(result: RealResult) -> list[dict[str, Any]]:
    """Returns one row per decomposition, for tables of sweeps."""
    return [
        {
            "variant": name, "seed": one.l3d.seed, "epochs": one.l3d.config.epochs,
            "recon_sq": round(float(one.l3d.history.recon_sq[-1]), 6), "held_out": round(float(one.held_out.mean()), 6),
            "live": int(live(result, name).sum()),
            "selectivity": round(float(result.of("selectivity", name)[live(result, name)].nanmedian()), 6),
        }
        for name, one in result.runs.items()
    ]  # fmt: skip


def summarise(
    result: RealResult, preset: str, labels: Sequence[str], values: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: The chapter's.
        preset: The preset it ran.
        labels: The kinds of label, in the order that numbers are named in.
        values: Further numbers.
        found: Values of claims, see `claims`.
    """
    done = {**result.runs, **{f"tried {name}": one for name, one in result.candidates.items()}}
    seconds = {name: one.facts["core_seconds"] for name, one in done.items()}
    seconds["measures"] = result.facts["core_seconds"]
    facts = {name: value for name, value in result.facts.items() if name not in ("wall_seconds", "core_seconds")}
    total = sum(seconds.values())
    glued = numbers(result, labels) | {"core_minutes": f"{total / 60:.0f}"} | values
    return {
        "preset": preset, "settings": settings_digest(result.settings), "numbers": glued, "claims": found,
        "table": table(result),
        "first_losses": {
            name: [[[float(f"{x:.7g}") for x in one.l3d.history.first_losses.tolist()]]]
            for name, one in result.runs.items()
        },
        "provenance": {**facts, "core_seconds": round(total, 1), "seconds": seconds},
        "spreads": {"held_out": spread(result.runs["text"].held_out)},
    }  # fmt: skip
