"""What chapters 5 and 6 compare and the tables that tell it, from their results and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from .circuits import z_score
from .real_chapter import RealResult
from .real_models import Decomposed
from .statistics import spread_text

# Top samples have something in common if fewer random directions than this share have as much.
RARE = 0.05
# Sets of directions that nothing was trained for, by what readers see.
BASELINES = {"untrained": "untrained", "principal": "principal", "rotated 0": "rotated", "random 0": "random"}


def label_of(name: str) -> str:
    """Returns what readers see of a set's name."""
    variant, _, seed = name.partition("-")
    return BASELINES.get(name) or (f"{variant}, seed {seed}" if seed else variant)


def curves(result: RealResult) -> dict[str, Tensor]:
    """Returns recon_sq of each epoch in training `[epochs]`, of every decomposition by the name that readers see."""
    return {label_of(name): one.l3d.history.recon_sq for name, one in result.runs.items()}


def held_out(result: RealResult) -> dict[str, float]:
    """Returns the error on held-out samples, of every decomposition by the name that readers see."""
    return {label_of(name): float(one.held_out.mean()) for name, one in result.runs.items()}


def p_active(result: RealResult) -> dict[str, Tensor]:
    """Returns P_act `[n_v]`, of every decomposition by the name that readers see."""
    return {label_of(name): one.l3d.p_active for name, one in result.runs.items()}


def repeated(result: RealResult, kind: str) -> list[str]:
    """Returns the names of all sets of one kind, 'random' or 'rotated'."""
    return [f"{kind} {i}" for i in range(result.settings.measuring.n_random)]


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


def coherences(result: RealResult, label: str, name: str) -> Tensor:
    """Returns how alike the top samples of each live direction of a set are `[n_live]`."""
    return result.of(label, name)[live(result, name)]


def best_coherences(result: RealResult, labels: Sequence[str], name: str) -> Tensor:
    """Returns `coherences` in the kind of label in which each direction's top samples are most alike."""
    return torch.stack([coherences(result, label, name) for label in labels]).amax(0)


def coherence_by_label(result: RealResult, labels: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Returns, by kind of label and set of directions, how alike the top samples of each direction are."""
    found = {}
    for label in labels:
        own = {label_of(name): coherences(result, label, name) for name in [*result.runs, "untrained", "principal"]}
        for kind in ("rotated", "random"):
            own[kind] = torch.cat([coherences(result, label, name) for name in repeated(result, kind)])
        found[label] = own
    return found


def z_scores(result: RealResult, label: str, name: str) -> dict[str, float]:
    """Returns how far the mean coherence of a set lies above that of others, in standard deviations.

    Of 'random' directions and of 'rotated' principal ones over their sets, of random 'samples' over draws of as many of
    them as there are live directions. NaN where these are all equal.
    """
    own = coherences(result, label, name)
    found = {}
    for kind in ("random", "rotated"):
        means = torch.stack([coherences(result, label, other).mean() for other in repeated(result, kind)])
        found[kind] = z_score(float(own.mean()), means) if len(means.unique()) > 1 else float("nan")
    drawn = result.measures[f"samples/{label}"].double()
    # Means of n_v sets; those of fewer scatter more.
    width = float(drawn.std()) * (len(live(result, name)) / max(len(own), 1)) ** 0.5
    return found | {"samples": (float(own.mean()) - float(drawn.mean())) / width if width else float("nan")}


def majority(n: int) -> float:
    """Returns the least coherence of n samples of which more than half have one label."""
    m = n // 2 + 1
    return m * (m - 1) / (n * (n - 1))


def limit(result: RealResult, labels: Sequence[str]) -> float:
    """Returns the coherence that 5 % of random directions exceed, of the kind of label they are most coherent in.

    At least that of a majority, so that two samples alike are not something in common.
    """
    best = torch.cat([best_coherences(result, labels, name) for name in repeated(result, "random")])
    return max(float(best.double().quantile(1 - RARE)), majority(result.settings.measuring.n_top) - 1e-6)


def saturated(result: RealResult, labels: Sequence[str]) -> bool:
    """Returns whether so many random directions have top samples of one label that none can have more in common."""
    return limit(result, labels) > 1 - 1e-6


def all_alike(result: RealResult, labels: Sequence[str], name: str) -> Tensor:
    """Returns which live directions of a set have top samples of one label, of any of several kinds."""
    return best_coherences(result, labels, name) > 1 - 1e-6


def in_common(result: RealResult, labels: Sequence[str], name: str) -> Tensor:
    """Returns which live directions of a set have top samples with more in common than 95 % of random directions'.

    Of several kinds of label the one counts in which a direction's samples are most alike, for random ones too.
    """
    return best_coherences(result, labels, name) > limit(result, labels)


def distinct(result: RealResult, of: Tensor, name: str) -> int:
    """Returns how many different labels are the commonest of some live direction's top samples, by majority.

    Args:
        result: The chapter's.
        of: What each held-out sample is `[n_s]`.
        name: The set of directions.
    """
    labels = of[result.of("top", name)[live(result, name)]]
    commonest = labels.mode(1).values
    return len(commonest[(labels == commonest[:, None]).sum(1) > labels.shape[1] / 2].unique())


def error_table(result: RealResult, at: int = 20) -> pd.DataFrame:
    """Returns what every decomposition leaves of the gradients, and what other directions do.

    Args:
        result: The chapter's.
        at: The epoch after which the error in training is told too, so that decompositions of both lengths compare.
    """
    rows = []
    for name in [*result.runs, *BASELINES]:
        row = {"directions": label_of(name)}
        if name in result.runs:
            history = result.runs[name].l3d.history.recon_sq
            dead = int((~live(result, name)).sum())
            row |= {"epochs": str(len(history)), f"training, epoch {at}": f"{float(history[:at][-1]):.3f}"}
            row |= {"training, last": f"{float(history[-1]):.3f}", "dead": f"{dead} of {len(live(result, name))}"}
        kinds = {"held out": "top_k", "all kept": "dense", "best coefficients": "span"}
        rows.append(row | {head: f"{float(result.of(kind, name)):.3f}" for head, kind in kinds.items()})
    return pd.DataFrame(rows).fillna("").set_index("directions")


def coherence_table(result: RealResult, label: str, of: Tensor) -> pd.DataFrame:
    """Returns, for one kind of label, the mean coherence of every set, how many labels it finds, and z-scores.

    Args:
        result: The chapter's.
        label: The kind.
        of: What each held-out sample is `[n_s]`.
    """
    rows = []
    for name in [*result.runs, "untrained", "principal"]:
        z = z_scores(result, label, name)
        rows.append({
            "directions": label_of(name), "coherence": f"{float(coherences(result, label, name).mean()):.3f}",
            "labels": str(distinct(result, of, name)), "z, random": f"{z['random']:+.1f}",
            "z, rotated": f"{z['rotated']:+.1f}", "z, samples": f"{z['samples']:+.1f}",
        })  # fmt: skip
    for kind in ("rotated", "random"):
        means = [float(coherences(result, label, other).mean()) for other in repeated(result, kind)]
        found = distinct(result, of, f"{kind} 0")
        rows.append({"directions": f"{kind} directions", "coherence": spread_text(means), "labels": str(found)})
    drawn = float(result.measures[f"samples/{label}"].mean())
    rows.append({"directions": "random samples", "coherence": f"{drawn:.3f}"})
    return pd.DataFrame(rows).fillna("").set_index("directions")


def crossed(result: RealResult, name: str) -> Tensor:
    """Returns the selectivity of steps for the top samples of the direction before, where both are live."""
    kept = live(result, name)
    return result.of("crossed", name)[kept & kept.roll(1)]


def selectivity_table(result: RealResult) -> pd.DataFrame:
    """Returns how many times as much a step changes some samples as the rest: median, range and number.

    Of the samples that its own direction affects most, and of those that another direction of the set does.
    """
    rows = []
    for name in [*result.runs, *BASELINES]:
        kept = live(result, name)
        row = {"directions": label_of(name)}
        for head, key, digits in (
            ("own samples", "selectivity", 1),
            ("another's", "crossed", 1),
            ("length", "length", 2),
        ):
            values = crossed(result, name) if key == "crossed" else result.of(key, name)[kept]
            values = values[values.isfinite()]
            row[head] = spread_text(values, digits) if len(values) else ""
        rows.append(row)
    return pd.DataFrame(rows).set_index("directions")


def agreement_table(result: RealResult) -> pd.DataFrame:
    """Returns how far other decompositions, and other directions, agree with `text` of the first seed."""
    first, *others = result.runs
    pairs = {f"{label_of(first)} and {label_of(name)}": name for name in [*others, *BASELINES]}
    if "seeds/agreement" in result.measures:
        pairs["text, seed 1 and seed 2"] = "seeds"
    rows = []
    for between, name in pairs.items():
        direction, response, n = result.of("agreement", name).tolist()
        told = {"matched abs(cos)": f"{direction:.3f}", "response": f"{response:.3f}", "pairs": f"{n:.0f}"}
        rows.append({"between": between, **told})
    return pd.DataFrame(rows).set_index("between")


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
