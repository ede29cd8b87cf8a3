"""Numbers and claims of chapter 3, circuits of higher rank (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .. import toys
from ..gradients import divergence_gradients, side_by_side
from ..l3d import L3DConfig
from ..measures import agreement, effective_rank
from .moves import shaped
from .recovery import covered_with, error, found_all, live, of_n
from .statistics import spread_text
from .studies import Study
from .toy_chapter import ToyResult
from .toy_measures import fresh
from .toy_summary import MAIN, common_numbers, make_record

N = 6
RANKS = (1, 2, 3, 4, 5, 6)
SIZES = (6, 8, 10)
SHARE = 0.97


def by_rank(result: ToyResult, name: str) -> Tensor:
    """Returns the errors of the decompositions of ranks 1 to 6, `[n_ranks, n_targets]`."""
    return torch.stack([error(result.studies["ranks"], f"{name}, rank {rank}") for rank in RANKS])


def found_by_rank(result: ToyResult, name: str) -> Tensor:
    """Returns whether all groups are found, `[n_ranks, n_targets]`."""
    return torch.stack([found_all(result.studies["ranks"], f"{name}, rank {rank}", N) for rank in RANKS])


def caught(result: ToyResult, name: str) -> Tensor:
    """Returns on which targets six subnetworks miss a group or leave 0.02 more error than eight."""
    study = result.studies["n_v"]
    six, eight = f"{name}, n_v 6", f"{name}, n_v 8"
    return ~found_all(study, six, N) | (error(study, six) >= error(study, eight) + 0.02)


def singular_ratios(study: Study, name: str) -> Tensor:
    """Returns second over first singular value of W_in of every subnetwork, nan for dead ones, `[n_targets, n_v]`."""
    found = []
    for seed, v, alive in zip(study.seeds, study.of("v_out", name), live(study, name), strict=True):
        w_in = shaped(v, toys.high_rank(seed).model)["W_in"]
        found.append(torch.where(alive, effective_rank(w_in).singular_ratio, torch.nan))
    return torch.stack(found)


def rank_table(result: ToyResult) -> pd.DataFrame:
    """Returns error, recovery and effective rank against the rank allowed, for each variant."""
    study, rows = result.studies["ranks"], []
    for name in MAIN:
        for rank, errors, found in zip(RANKS, by_rank(result, name), found_by_rank(result, name), strict=True):
            ratios = singular_ratios(study, f"{name}, rank {rank}")
            rows.append(
                {
                    "variant": name, "rank": rank, "recon_sq": spread_text(errors), "all groups": of_n(found),
                    "second / first singular value of W_in": spread_text(ratios[~ratios.isnan()]),
                }
            )  # fmt: skip
    return pd.DataFrame(rows).set_index(["variant", "rank"])


def pure_agreements(result: ToyResult, name: str) -> list[float]:
    """Returns the mean matched abs(cos) between seeds of subnetworks of one group alone, for each pair of runs.

    Args:
        result: The chapter's.
        name: 'text' or 'tuned', which are decomposed again with other seeds.
    """
    again, found = result.studies.get("again"), []
    if again is None:  # A point of a sweep.
        return found
    for key in (key for key in again.names if key.split()[0] == name):
        for i, seed in enumerate(again.seeds):
            if seed in result.main.seeds:
                sides = ((result.main, name, result.main.seeds.index(seed)), (again, key, i))
                v = [s.of("v_out", k)[j] for s, k, j in sides]
                pure = [live(s, k)[j] & (s.of("share_in", k)[j] >= SHARE) for s, k, j in sides]
                found.append(float(agreement(*v, *pure).mean))
    return found


def excess_table(result: ToyResult) -> pd.DataFrame:
    """Returns error, recovery and live subnetworks by their number, for each variant."""
    study, rows = result.studies["n_v"], []
    for name in MAIN:
        for n_v in SIZES:
            key = f"{name}, n_v {n_v}"
            rows.append(
                {
                    "variant": name, "n_v": n_v, "recon_sq": spread_text(error(study, key)),
                    "all groups": of_n(found_all(study, key, N)), "live": spread_text(live(study, key).sum(1), 0),
                }
            )  # fmt: skip
    return pd.DataFrame(rows).set_index(["variant", "n_v"])


def kept_per_sample(config: L3DConfig, n_s: int) -> float:
    """Returns how many coefficients a sample keeps in the mean of an epoch: what P_act of all subnetworks adds up to.

    Args:
        config: Of the decomposition.
        n_s: Samples of an epoch.
    """
    whole, rest = divmod(n_s, config.batch_size)
    return (whole * config.k_count(config.batch_size) + (config.k_count(rest) if rest else 0)) / n_s


class GroupDirections(NamedTuple):
    """What one direction for each group can do at best, measured on gradients of samples with one active group.

    Attributes:
        error: Share of the gradients' squared length that is left, `[n_targets]`.
        singular_ratio: Second over first singular value of each direction's part in W_in, `[n_targets, n_groups]`.
    """

    error: Tensor
    singular_ratio: Tensor


def group_directions(result: ToyResult, name: str) -> GroupDirections:
    """Returns the first principal direction, about zero, of each group's gradients: no single direction leaves less.

    Args:
        result: Gives the targets and the variant's divergence.
        name: The variant.
    """
    divergence, errors, ratios = result.settings.variants[name].divergence, [], []
    for seed in result.main.seeds:
        task = toys.high_rank(seed)
        x = fresh(task)
        active = task.config.active(x)
        gradients = divergence_gradients(task.model, x, divergence, seed=seed)
        g = side_by_side(gradients).detach()
        parts = [g[active[:, i] & (active.sum(1) == 1)].double() for i in range(active.shape[1])]
        found = [torch.linalg.eigh(part @ part.mT) for part in parts]  # Fewer samples than weights.
        errors.append(1 - sum(squares[-1] for squares, _ in found) / sum(squares.sum() for squares, _ in found))
        directions = [u[:, -1] @ part / squares[-1].sqrt() for (squares, u), part in zip(found, parts, strict=True)]
        first = shaped(torch.stack(directions), task.model)["W_in"]
        ratios.append(effective_rank(first).singular_ratio)
    return GroupDirections(torch.stack(errors), torch.stack(ratios))


def _claims(result: ToyResult) -> dict[str, dict[str, list]]:
    main = result.main
    found = {
        "high-rank-groups": lambda name: covered_with(main, name, N, SHARE),
        "high-rank-dead": lambda name: ~live(main, name).all(1),
        "high-rank-recon": lambda name: by_rank(result, name).mean(0),
        "high-rank-rank-1": lambda name: by_rank(result, name)[0] <= by_rank(result, name)[4] + 0.03,
        "high-rank-similar": lambda name: found_by_rank(result, name).all(0),
        "high-rank-excess": lambda name: caught(result, name),
        "high-rank-rank": lambda name: (singular_ratios(main, name).nan_to_num() >= 0.1).any(1),
    }
    return {claim: {name: values(name).tolist() for name in MAIN} for claim, values in found.items()}


def summarise(result: ToyResult, preset: str, papers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `toy_chapter.run` returned.
        preset: The preset it ran.
        papers: The paper's own numbers, those of `record.paper_values` and of `record.paper_curves`.
    """
    numbers = common_numbers(result, N)
    for name in MAIN:
        numbers |= _main_numbers(result, name) | _study_numbers(result, name)
    for name in ("text", "tuned"):
        numbers[f"agreement_pure_{name}"] = _spread_or_none(pure_agreements(result, name))
    shown = toys.high_rank(result.main.seeds[0])
    active = shown.config.active(shown.inputs).sum(1).float().mean()
    p_act = papers["high_rank_p_act"]
    alive = [sum(p > 0 for p in values) for values in p_act["fig_s3"].values()]
    numbers |= {
        "active_groups": f"{float(active):.2f}", "paper_recon": f"{papers['high_rank_recon']['value']:.3f}",
        "paper_share": _range_text(papers["high_rank_share"]),
        "paper_singular": _range_text(papers["high_rank_singular"]),
        "paper_live": f"{sum(p > 0 for p in p_act['fig_8'])} of {len(p_act['fig_8'])}",
        "paper_live_ranks": f"{min(alive)} to {max(alive)}" if min(alive) < max(alive) else str(alive[0]),
        "share_limit": f"{100 * SHARE:.0f} %", "tuning_candidates": len(result.studies["tuning"].names),
        "tuning_targets": len(result.studies["tuning"].seeds),
    }  # fmt: skip
    return make_record(result, preset, numbers, _claims(result))


def _range_text(entry: dict[str, Any]) -> str:
    """Returns a range of the paper's as 'least to most'."""
    low, high = entry["range"]
    return f"{low:.3f} to {high:.3f}"


def _spread_or_none(values: Sequence[float] | Tensor) -> str:
    """Returns median and range, or 'none' of no values."""
    return spread_text(values) if len(values) else "none"


def _main_numbers(result: ToyResult, name: str) -> dict[str, Any]:
    """Returns what the prose quotes of a variant's main decompositions."""
    main, variant = result.main, result.settings.variants[name]
    ratios, best = singular_ratios(main, name), group_directions(result, name)
    w_in, w_out, b = main.of("residual_by_tensor", name).unbind(1)
    pure = main.of("share_in", name) >= SHARE
    return {
        f"groups_{name}": of_n(covered_with(main, name, N, SHARE)),
        f"once_{name}": of_n(main.of("once", name)),
        f"dead_{name}": of_n(~live(main, name).all(1)),
        f"kept_{name}": f"{kept_per_sample(variant.config, variant.n_inputs or len(toys.high_rank(0).inputs)):.3f}",
        f"rank_{name}": variant.config.rank,
        f"singular_{name}": spread_text(ratios[~ratios.isnan()]),
        f"singular_pure_{name}": _spread_or_none(ratios[pure & ~ratios.isnan()]),
        f"singular_mixed_{name}": _spread_or_none(ratios[~pure & ~ratios.isnan()]),
        f"above_rank_1_{name}": of_n((ratios.nan_to_num() >= 0.1).any(1)),
        f"best_recon_{name}": spread_text(best.error),
        f"best_singular_{name}": spread_text(best.singular_ratio.flatten()),
        f"residual_w_in_{name}": spread_text(w_in), f"residual_w_out_{name}": spread_text(w_out),
        f"residual_b_{name}": spread_text(b),
    }  # fmt: skip


def _study_numbers(result: ToyResult, name: str) -> dict[str, Any]:
    """Returns what the prose quotes of a variant's decompositions of other ranks, sizes and inputs."""
    errors, draft = by_rank(result, name), result.studies["draft"]
    medians = errors.quantile(0.5, 1)
    return {
        f"rank_mean_{name}": spread_text(errors.mean(0)),
        f"rank_spread_{name}": f"{float(medians.max() - medians.min()):.3f}",
        f"rank_1_{name}": spread_text(errors[0]),
        f"rank_5_{name}": spread_text(errors[4]),
        f"rank_found_{name}": of_n(found_by_rank(result, name).all(0)),
        f"caught_{name}": of_n(caught(result, name)),
        f"draft_{name}": spread_text(error(draft, name)),
        f"draft_found_{name}": of_n(found_all(draft, name, 5)),
        f"draft_live_{name}": spread_text(live(draft, name).sum(1), 0),
        **{f"found_{n_v}_{name}": of_n(found_all(result.studies["n_v"], f"{name}, n_v {n_v}", N)) for n_v in SIZES},
    }
