"""What the error of a chapter's decompositions is made of: too few coefficients, too low a rank, too few epochs."""

from __future__ import annotations

import pandas as pd
from torch import Tensor

from .recovery import error
from .statistics import spread_text
from .toy_chapter import ToyResult

SPLIT = ("text", "tuned")


def error_parts(result: ToyResult, name: str) -> dict[str, Tensor]:
    """Returns how much less error is left without one of three limits, each for itself, by target.

    The top-k shortage is `recon(k) - recon(k = 1)` of the same directions on fresh samples; the other two are of the
    error in training, `recon(r) - recon(full rank)` and `recon(E epochs) - recon(4 E)`, of runs of their own.

    Args:
        result: The chapter's.
        name: 'text' or 'tuned'.

    Returns:
        'top-k', 'rank' and 'training', `[n_targets]` each, of the targets that all these runs have.
    """
    longer, full = (result.studies[key] for key in ("longer", "full_rank"))
    shared = [seed for seed in result.main.seeds if seed in longer.seeds and seed in full.seeds]
    main, longer, full = (study.part({name: name}, shared) for study in (result.main, longer, full))
    return {
        "top-k": main.of("recon_fresh", name).flatten() - main.of("recon_dense", name)[:, 0],
        "rank": error(main, name) - error(full, name),
        "training": error(main, name) - error(longer, name),
    }


def split_table(result: ToyResult) -> pd.DataFrame:
    """Returns the error's parts for `text` and `tuned`: medians and ranges over targets; none at a point of a sweep."""
    columns = {"top-k": "too few coefficients", "rank": "too low a rank", "training": "too few epochs"}
    rows = [
        {"variant": name, **{columns[key]: spread_text(part) for key, part in error_parts(result, name).items()}}
        for name in SPLIT
        if {"longer", "full_rank"} <= set(result.studies)
    ]
    return pd.DataFrame(rows, columns=["variant", *columns.values()]).set_index("variant")
