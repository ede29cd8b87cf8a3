"""What the settings of chapter 9 were chosen from, on targets that it does not report on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .. import artifacts
from ..parallel import run_jobs
from ..training import Run, fit
from .apd_runs import CODE as APD_CODE
from .apd_runs import APDRun, decomposed
from .comparison_measures import found_circuits, one_a_circuit, output_left
from .comparison_parts import N_LIVE, Parts, of_apd, of_l3d
from .comparison_subjects import Subject, subject, targets_digest
from .studies import Variant, config_facts

# Seed of the samples that tell which components of APD are live, and of those that the outputs' error is of, with how
# many there are.
JUDGED, N_JUDGED = 2**29, 1000
# Modules whose code results depend on, beside those that all results do.
CODE = (
    *APD_CODE, "apd_shipped", "apd_toys", "comparison_measures", "comparison_parts", "comparison_subjects",
    "comparison_tuning",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One setting of one method for the targets of one kind."""

    target: str
    """Which, see `comparison_subjects.NAMES`."""
    method: str
    """'L3D' or 'APD'."""
    label: str
    """What the tables call it."""
    seeds: tuple[int, ...]
    """Of the targets it is tried on."""
    l3d: Variant | None = None
    """Settings of L3D."""
    n_inputs: int = 1000
    """What L3D decomposes on."""
    apd: APDRun | None = None
    """Settings of APD, whose seeds are these."""


class Tried(NamedTuple):
    """How a candidate did, over targets.

    Attributes:
        covered: Shares of circuits covered.
        cosine: Matched cosines.
        output: Outputs' errors with one part for each active circuit, see `output_left`; they choose nothing.
    """

    covered: Tensor
    cosine: Tensor
    output: Tensor

    @property
    def rank(self) -> tuple[float, float]:
        """What candidates are ordered by: most circuits covered first, then the cosine, both in the mean."""
        return float(self.covered.mean()), float(self.cosine.mean())


def tried(
    candidates: Mapping[str, Candidate], folder: Path, workers: int | None = None, progress: bool = False
) -> dict[str, Tried]:
    """Returns how candidates did, by their names.

    Args:
        candidates: By name.
        folder: Where results lie.
        workers: Processes; None for one per core.
        progress: Show bars on standard error.
    """
    calls = [{"name": name, "one": one, "folder": folder} for name, one in candidates.items()]
    run_jobs(_try, [{**call, "progress": progress} for call in calls], workers)
    return {name: _tried(**call) for name, call in zip(candidates, calls, strict=True)}


def _try(**call: Any) -> None:  # noqa: ANN401
    _tried(**call)


def _tried(name: str, one: Candidate, *, folder: Path, progress: bool = False) -> Tried:
    key = {
        "target": one.target, "seeds": list(one.seeds), "n_inputs": one.n_inputs, "torch": torch.__version__,
        "l3d": None if one.l3d is None else [config_facts(one.l3d.config), *one.l3d[1:]],
        "apd": None if one.apd is None else repr(one.apd), "code": artifacts.code_digest(CODE),
        "weights": targets_digest(one.target, one.seeds, folder),
    }  # fmt: skip

    def compute(_: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return _judged(name, one, folder, progress), {}

    tensors, _, _ = artifacts.cached(folder, f"tried-{name}", key, compute)
    return Tried(**tensors)


def _judged(name: str, one: Candidate, folder: Path, progress: bool) -> dict[str, Tensor]:
    """Returns the measures over targets, by the names of `Tried`."""
    subjects = [subject(one.target, seed, folder) for seed in one.seeds]
    generators = [torch.Generator().manual_seed(JUDGED + each.seed) for each in subjects]
    samples = [each.sample(generator, N_LIVE) for each, generator in zip(subjects, generators, strict=True)]
    if one.apd is not None:
        apd = decomposed(f"tried-{one.target}", one.apd, folder=folder, progress=progress).apd
        parts = [of_apd(apd, each, x, i) for i, (each, x) in enumerate(zip(subjects, samples, strict=True))]
    else:
        config, divergence = one.l3d.config, one.l3d.divergence
        runs = [
            Run(each.module, each.draw(one.n_inputs, seed=each.seed), config, divergence, seed=each.seed,
                parameters=each.parameters) for each in subjects
        ]  # fmt: skip
        found = fit(runs, progress=name if progress else False)
        parts = [of_l3d(l3d, each) for l3d, each in zip(found, subjects, strict=True)]
    found = [_judge(each, part) for each, part in zip(subjects, parts, strict=True)]
    return dict(zip(Tried._fields, torch.tensor(found, dtype=torch.float64).unbind(1), strict=True))


def _judge(one: Subject, parts: Parts) -> tuple[float, float, float]:
    """Returns the measures of one target."""
    found, x = found_circuits(one, parts), one.draw(N_JUDGED, seed=JUDGED + one.seed)
    return found.covered, found.cosine, output_left(one, parts, x)(one_a_circuit(one, parts, x))


def chosen(candidates: Mapping[str, Candidate], done: Mapping[str, Tried]) -> dict[tuple[str, str], str]:
    """Returns the names of the best candidates by target and method, the first of equals."""
    found: dict[tuple[str, str], str] = {}
    for name, one in candidates.items():
        at = (one.target, one.method)
        if at not in found or done[name].rank > done[found[at]].rank:
            found[at] = name
    return found


def tuning_table(
    candidates: Mapping[str, Candidate], done: Mapping[str, Tried], titles: Mapping[str, str]
) -> pd.DataFrame:
    """Returns all candidates with how they did, the chosen ones marked.

    Args:
        candidates: By name.
        done: How they did.
        titles: Of targets.
    """
    best = set(chosen(candidates, done).values())
    rows = {
        (titles[one.target], one.method, one.label): {
            "covered": f"{done[name].rank[0]:.2f}", "matched |cos|": f"{done[name].rank[1]:.3f}",
            "output error": f"{float(done[name].output.mean()):.2f}", "targets": len(one.seeds),
            "chosen": "yes" if name in best else "",
        }
        for name, one in candidates.items()
    }  # fmt: skip
    return pd.DataFrame(rows).T.rename_axis(["target", "method", "settings"])
