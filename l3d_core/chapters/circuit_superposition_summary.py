"""Numbers and claims of chapter 2, the toy model of circuit superposition (paper section 3.2)."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..measures import overlap
from .recovery import error, found_all, live, of_n
from .statistics import spread_text
from .studies import Study
from .toy_chapter import ToyResult
from .toy_summary import MAIN, common_numbers, make_record

N = 10


def overlaps(study: Study, name: str) -> Tensor:
    """Returns the mean abs(cos) between the live subnetworks of each target."""
    v, alive = study.of("v_out", name), live(study, name)
    return torch.stack([overlap(own, a).mean for own, a in zip(v, alive, strict=True)])


def one_input_each(study: Study, name: str, share: float = 0.99) -> Tensor:
    """Returns on which targets one subnetwork is live for each input, with nearly all of its W_in on that input."""
    alive = live(study, name)
    pure = torch.where(alive, study.of("share_in", name), 1).amin(1) >= share
    return found_all(study, name, N) & (alive.sum(1) == N) & pure


def _claims(result: ToyResult) -> dict[str, dict[str, list]]:
    main, tms = result.main, result.studies["tms"]
    found = {
        "tmcs-recon": lambda name: error(main, name),
        "tmcs-lower": lambda name: error(main, name) < error(tms, name).quantile(0.5),
        "tmcs-all-inputs": lambda name: found_all(main, name, N),
        "tmcs-one-input-each": lambda name: one_input_each(main, name),
        "tmcs-coefficients": lambda name: main.of("r", name).flatten(),
        "tmcs-overlap": lambda name: overlaps(main, name) > overlaps(tms, name).quantile(0.5),
    }
    return {claim: {name: values(name).tolist() for name in MAIN} for claim, values in found.items()}


def overlap_table(result: ToyResult) -> pd.DataFrame:
    """Returns the mean abs(cos) between live subnetworks here and in the toy model of superposition."""
    rows = [
        {
            "variant": name,
            "circuit superposition": spread_text(overlaps(result.main, name)),
            "toy model of superposition": spread_text(overlaps(result.studies["tms"], name)),
        }
        for name in MAIN
    ]
    return pd.DataFrame(rows).set_index("variant")


def summarise(result: ToyResult, preset: str, papers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `toy_chapter.run` returned.
        preset: The preset it ran.
        papers: The paper's own numbers, see `record.paper_values`.
    """
    main, numbers = result.main, common_numbers(result, N)
    for name in MAIN:
        numbers |= {
            f"r_{name}": spread_text(main.of("r", name).flatten()),
            f"r_squared_{name}": spread_text(main.of("r", name).flatten().square()),
            f"r_scaled_{name}": spread_text(main.of("r_scaled", name).flatten()),
            f"one_each_{name}": of_n(one_input_each(main, name)),
            f"tms_{name}": spread_text(error(result.studies["tms"], name)),
        }
    numbers |= {
        "ceiling": spread_text(main.of("ceiling", "text").flatten()),
        "paper_recon": f"{100 * papers['tmcs_recon']['value']:.1f} %",
        "paper_r": f"{papers['tmcs_r']['value']:.3f}",
        "paper_r_squared": f"{papers['tmcs_r']['value'] ** 2:.3f}",
    }
    return make_record(result, preset, numbers, _claims(result))
