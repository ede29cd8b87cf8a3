"""Numbers and claims of chapter 3, circuits of higher rank (paper section 3.3)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import toys
from ..measures import effective_rank
from .moves import shaped
from .statistics import spread_text
from .studies import Study
from .toy_chapter import ToyResult
from .toy_summary import MAIN, common_numbers, covered_with, error, found_all, live, make_record, of_n

N = 6
RANKS = (1, 2, 3, 4, 5, 6)
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
        papers: The paper's own numbers, see `record.paper_values`.
    """
    main, numbers = result.main, common_numbers(result, N)
    for name in MAIN:
        medians, ratios = by_rank(result, name).median(1).values, singular_ratios(main, name)
        numbers |= {
            f"groups_{name}": of_n(covered_with(main, name, N, SHARE)),
            f"rank_spread_{name}": f"{float(medians.max() - medians.min()):.3f}",
            f"rank_1_{name}": spread_text(by_rank(result, name)[0]),
            f"rank_5_{name}": spread_text(by_rank(result, name)[4]),
            f"caught_{name}": of_n(caught(result, name)),
            f"singular_{name}": spread_text(ratios[~ratios.isnan()]),
            f"draft_{name}": spread_text(error(result.studies["draft"], name)),
            f"draft_found_{name}": of_n(found_all(result.studies["draft"], name, 5)),
            **{
                f"found_{n_v}_{name}": of_n(found_all(result.studies["n_v"], f"{name}, n_v {n_v}", N))
                for n_v in (6, 8, 10)
            },
        }
    numbers["paper_recon"] = f"{papers['high_rank_recon']['value']:.3f}"
    return make_record(result, preset, numbers, _claims(result))
