"""Other directions from the same gradients, measured as those of L3D: is the low-rank, top-k machinery needed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import artifacts, toys
from ..baselines.dictionary import gradient_draws, learn_dictionary
from ..baselines.evaluation import Directions
from ..baselines.principal import principal_directions
from ..baselines.random_directions import random_directions
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients, side_by_side
from ..l3d import L3DConfig, reconstruct
from ..metrics import coverage, top_share
from ..training import fit
from .moves import shaped
from .statistics import spread_text
from .studies import Job, Variant, config_facts
from .toy_measures import fresh, layers, measure_numbers

METHODS = ("L3D", "dictionary", "principal", "random")


def compare(
    toy: str, size: tuple[int, int], variant: Variant, seeds: Sequence[int], epochs: int,
    *, folder: str | Path | None = None, device: str = "cpu", progress: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Returns errors and recovery of four ways to find directions, on the kept targets of a toy.

    L3D by the variant; a dictionary learnt by the same optimiser with the same top-k, its rows of full rank; the
    principal directions of one epoch's gradients; and random directions. All have as many directions and are measured
    on gradients of fresh samples.

    Args:
        toy: See `toys.ToyTraining`.
        size: Features and hidden dimensions.
        variant: Settings and divergence.
        seeds: Targets to consider.
        epochs: Of L3D and of the dictionary.
        folder: Where the result lies; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        progress: Show a bar on standard error while L3D trains.

    Returns:
        By '<method>/<measure>', targets first: 'top_k' and 'dense' (errors with the kept and with all coefficients),
        'covered' (features or groups that are the top input of a live direction), 'share' (mean top-input share of
        live directions).
    """
    folder = artifacts.project_root() / "artifacts" if folder is None else folder
    job = Job(
        toy=toy, size=size, seeds=tuple(seeds), variants={"tuned": variant}, epochs=epochs, measure=measure_numbers
    )
    parts = ("toy_baselines", "dictionary", "principal", "random_directions", "evaluation", "moves", "toy_measures")
    config = {
        "toy": toy, "size": list(size), "seeds": list(seeds), "epochs": epochs, "torch": torch.__version__,
        "variant": [config_facts(variant.config), *variant[1:]], "code": artifacts.code_digest(parts),
    }  # fmt: skip
    name = f"{toy}-{size[0]}-{size[1]}-baselines"
    return artifacts.cached(folder, name, config, lambda _: (_measure(job, device, progress), {}), device)[0]


def _measure(job: Job, device: str, progress: bool) -> dict[str, Tensor]:
    runs, tasks = job.runs(device), job.tasks()
    variant = job.variants["tuned"]
    config = replace(variant.config, epochs=job.epochs)
    draw = gradient_draws(runs)
    l3d = fit(runs, progress="L3D beside the baselines" if progress else False)
    g = draw(0)
    chance = [random_directions(g[i], config.n_v, seed=run.seed) for i, run in enumerate(runs)]
    found = {
        "L3D": Directions(*(torch.stack([getattr(one, side).matrix() for one in l3d]) for side in ("v_in", "v_out"))),
        "dictionary": learn_dictionary(draw, config, [run.seed for run in runs]).directions,
        "principal": principal_directions(g, config.n_v),
        "random": Directions(*(torch.stack(sides) for sides in zip(*chance, strict=True))),
    }
    tensors: dict[str, Tensor] = {}
    for method, directions in found.items():
        pairs = zip(tasks, directions.v_in.cpu(), directions.v_out.cpu(), strict=True)
        rows = [_facts(task, Directions(v_in, v_out), config, variant.divergence) for task, v_in, v_out in pairs]
        tensors |= {f"{method}/{key}": torch.stack([row[key] for row in rows]) for key in rows[0]}
    return {name: t.detach() for name, t in tensors.items()}


def _facts(task: toys.Task, directions: Directions, config: L3DConfig, divergence: str) -> dict[str, Tensor]:
    """Returns errors and recovery of one target's directions on fresh samples."""
    x = fresh(task)
    gradients = divergence_gradients(
        task.model, x, resolve_divergence(divergence), references=config.reference, seed=task.seed
    )
    g = side_by_side(gradients)
    batches = [
        reconstruct(part, *directions, config.k_count(len(part)), dense=False) for part in g.split(config.batch_size)
    ]
    live = torch.cat([batch.kept for batch in batches]).any(0)
    top = top_share(layers(shaped(directions.v_out, task.model))[0][0], task.config.group_size)
    return {
        "top_k": torch.stack([batch.recon_sq for batch in batches]).mean(),
        "dense": reconstruct(g, *directions, 1, dense=True).recon_sq,
        "covered": (coverage(top.index, live, task.config.n_groups) > 0).sum(),
        "share": top.share[live].mean(),
    }


def comparison_table(found: dict[str, Tensor], n: int) -> pd.DataFrame:
    """Returns the comparison as a table: errors, on how many targets all n features are found, top-input shares."""
    rows: list[dict[str, Any]] = [
        {
            "directions": method,
            "recon_sq": spread_text(found[f"{method}/top_k"]),
            "all coefficients kept": spread_text(found[f"{method}/dense"]),
            "all found": f"{int((found[f'{method}/covered'] == n).sum())} of {len(found[f'{method}/covered'])}",
            "found": spread_text(found[f"{method}/covered"], 0),
            "top-input share": spread_text(found[f"{method}/share"]),
        }
        for method in METHODS
    ]
    return pd.DataFrame(rows).set_index("directions")
