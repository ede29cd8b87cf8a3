"""Chapter 9: L3D, APD and two baselines on the same targets, each part from disk where it is done."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts
from ..baselines.apd import APD
from ..metrics import match_directions
from ..parallel import run_jobs
from ..training import fit
from .apd_chapter import decompose_all
from .apd_runs import CODE as APD_CODE
from .apd_runs import decomposed, joined
from .comparison_changes import ablation_selectivity, step_selectivity
from .comparison_costs import costs
from .comparison_measures import (
    found_circuits,
    gradient_left,
    gradient_sparsity,
    gradients,
    median,
    output_sparsity,
    reachable_cosine,
)
from .comparison_parts import N_LIVE, Parts, of_apd, of_l3d, principal, random
from .comparison_settings import Compared, ComparisonSettings, l3d_runs, subjects
from .comparison_settings import jobs as jobs
from .comparison_subjects import Subject, targets_digest
from .comparison_tuning import Tried, tried
from .studies import config_facts

METHODS = ("L3D", "APD", "principal", "random")
# Seeds of what everything is measured on, of the gradients' references there, and what is added to a target's seed
# to decompose it anew.
HELD_OUT, REFERENCES, AGAIN = 2**30, 0, 500
# Modules whose code results depend on, beside those that all results do.
CODE = (
    *APD_CODE, "apd_runs", "apd_shipped", "apd_toys", "comparison", "comparison_changes", "comparison_measures",
    "comparison_parts", "comparison_settings", "comparison_subjects", "evaluation", "principal", "random_directions",
)  # fmt: skip


class Comparison(NamedTuple):
    """What was measured.

    Attributes:
        settings: The chapter's.
        measures: By target, '<method>/<measure>', targets' seeds first; 'seeds' are those kept, and
            'cosine_reachable' is of `comparison_measures.reachable_cosine`.
        costs: By target and method: 'seconds' of one decomposition alone, 'mib' of its peak memory.
        tried: How the candidates did, by name.
        facts: Provenance and seconds by target.
    """

    settings: ComparisonSettings
    measures: dict[str, dict[str, Tensor]]
    costs: dict[str, dict[str, Tensor]]
    tried: dict[str, Tried]
    facts: dict[str, dict[str, Any]]

    def of(self, target: str, method: str, measure: str) -> Tensor:
        """Returns one measure over targets."""
        return self.measures[target][f"{method}/{measure}"]


def compute(
    settings: ComparisonSettings, *, folder: str | Path | None = None, device: str = "cpu",
    workers: int | None = None, progress: bool = False,
) -> Comparison:  # fmt: skip
    """Returns the comparison, targets side by side and costs one after the other.

    Args:
        settings: The chapter's.
        folder: Where results lie; None for `artifacts/` of the project.
        device: Where APD runs, 'cpu' or 'cuda'; all else is small and runs on the CPU.
        workers: Processes; None for one per core.
        progress: Show bars on standard error.

    Raises:
        OSError: A result cannot be written.
    """
    folder = artifacts.results_folder(folder)
    done = tried(settings.candidates, folder, workers, progress)
    apd = [
        {"name": own.stored, "run": run, "folder": folder, "device": device}
        for own in settings.targets.values()
        for run in (*own.apd, *own.apd_again)
    ]
    decompose_all(apd, workers, progress)
    calls = [
        {"name": name, "own": own, "n_held_out": settings.n_held_out, "folder": folder}
        for name, own in settings.targets.items()
    ]
    run_jobs(_compare, [{**call, "progress": progress} for call in calls[::-1]], workers)
    measures, facts = {}, {}
    for call in calls:
        measures[call["name"]], facts[call["name"]] = compared(**call)
    spent = {
        name: costs(name, own, settings.cost_steps, folder, settings.apart) for name, own in settings.targets.items()
    }
    return Comparison(settings, measures, spent, done, facts)


def _compare(**call: Any) -> None:  # noqa: ANN401
    compared(**call)


def compared(
    name: str, own: Compared, n_held_out: int, *, folder: Path, progress: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns all measures of the targets of one kind, with provenance.

    Args:
        name: Of the targets.
        own: How they are taken apart.
        n_held_out: Samples to measure on.
        folder: Where results lie.
        progress: Show a bar on standard error while L3D trains.
    """
    key = {
        "own": {
            "seeds": list(own.seeds), "l3d": [config_facts(own.l3d.config), *own.l3d[1:]], "n_inputs": own.n_inputs,
            "apd": [[asdict(run), repr(run.target)] for run in (*own.apd, *own.apd_again)],
        },
        "name": name, "n_held_out": n_held_out, "torch": torch.__version__, "code": artifacts.code_digest(CODE),
        "target": targets_digest(name, own.seeds, folder),
    }  # fmt: skip
    tensors, _, facts = artifacts.cached(
        folder, f"compared-{name}", key, lambda _: (_measure(name, own, n_held_out, folder, progress), {})
    )
    return tensors, facts


def _measure(name: str, own: Compared, n_held_out: int, folder: Path, progress: bool) -> dict[str, Tensor]:
    targets = subjects(name, own.seeds, folder)
    first, anew = (l3d_runs(targets, own, offset) for offset in (0, AGAIN))
    l3d = fit([*first, *anew], progress=f"L3D on {name}" if progress else False)
    apd, apd_anew = (
        joined([decomposed(own.stored, run, folder=folder) for run in runs]).apd if runs else None
        for runs in (own.apd, own.apd_again)
    )
    rows = []
    for i, one in enumerate(targets):
        generator = torch.Generator().manual_seed(HELD_OUT + one.seed)
        x, drawn = one.draw(n_held_out, seed=HELD_OUT + one.seed), one.sample(generator, N_LIVE)
        two_l3d = [of_l3d(each, one) for each in (l3d[i], l3d[len(targets) + i])]
        two_apd = [_of_seed(apd, one, drawn, 0), _of_seed(apd_anew, one, drawn, AGAIN)]
        rows.append(_of_target(one, own, x, two_l3d, two_apd))
    losses = torch.stack([one.history.first_losses for one in l3d[: len(targets)]])
    seeds = torch.tensor([one.seed for one in targets])
    return {"seeds": seeds, "L3D/first_losses": losses, "APD/first_losses": apd.first_losses} | _padded(rows)


def _of_seed(apd: APD | None, one: Subject, x: Tensor, offset: int) -> Parts | None:
    """Returns APD's decomposition of a target, None if there is none."""
    if apd is None or one.seed + offset not in apd.seeds:
        return None
    return of_apd(apd, one, x, apd.seeds.index(one.seed + offset))


def _of_target(one: Subject, own: Compared, x: Tensor, l3d: list[Parts], apd: list[Parts | None]) -> dict[str, Tensor]:
    """Returns all measures of one target by '<method>/<measure>'."""
    n_v, divergence = own.l3d.config.n_v, own.l3d.divergence
    seen = [_of_gradients(one, own, offset) for offset in (0, AGAIN)]
    pairs = {
        "L3D": l3d, "APD": apd, "principal": [parts for parts, _ in seen],
        "random": [random(one.w0, n_v, one, one.seed + offset) for offset in (0, AGAIN)],
    }  # fmt: skip
    found = {"cosine_reachable": torch.tensor(seen[0][1], dtype=torch.float64)}
    g = {name: gradients(one, x, name, REFERENCES) for name in {"mse", divergence}}
    for method, (first, second) in pairs.items():
        if first is None:
            raise ValueError(f"APD has no decomposition of {one.name} of seed {one.seed}; expected one for each seed.")
        found |= {f"{method}/{key}": value for key, value in measure(one, first, x, g["mse"], g[divergence]).items()}
        found[f"{method}/agreement"] = agreement(first, second)
    return found


def _of_gradients(one: Subject, own: Compared, offset: int) -> tuple[Parts, float]:
    """Returns principal directions of as many gradients as L3D has inputs, with the cosine that these can reach."""
    inputs = one.draw(own.n_inputs, seed=one.seed + offset)
    g = gradients(one, inputs, own.l3d.divergence, int(offset > 0))
    return principal(g, own.l3d.config.n_v, one), reachable_cosine(one, g, inputs)


def measure(one: Subject, parts: Parts, x: Tensor, g: Tensor, g_l3d: Tensor) -> dict[str, Tensor]:
    """Returns the measures of what one method found in one target.

    Args:
        one: The target.
        parts: What was found.
        x: Samples to measure on `[n, n_i]`.
        g: Their gradients of the mean squared error `[n, n_w]`.
        g_l3d: Those of the divergence that L3D decomposed.
    """
    circuits, n_active = found_circuits(one, parts), float(one.active(x).sum(1).double().mean())
    rebuilt, ran = gradient_sparsity(parts, g, n_active), output_sparsity(one, parts, x)
    left = one.w0 - parts.components.sum(0)
    numbers = {
        "covered": circuits.covered, "cosine": circuits.cosine, "purity": circuits.purity,
        "live": int(parts.live.sum()), "parts": len(parts.live), "gradient_active": rebuilt.needed,
        "gradient_circuits": rebuilt.at_circuits, "gradient_all": float(rebuilt.error[-1]),
        "gradient_own": gradient_left(parts, g_l3d)(len(parts.v_out)), "output_active": ran.needed,
        "output_rest": float(ran.added.error[0]),
        "added_active": ran.added.needed, "output_circuits": ran.added.at_circuits,
        "held": 1 - float(left.norm() / one.w0.norm()) ** 2,
    }  # fmt: skip
    for name, of in (("step", step_selectivity), ("ablation", ablation_selectivity)):
        moved = of(one, parts, circuits.circuit, x)
        numbers |= {name: median(moved.samples), f"{name}_outputs": median(moved.outputs)}
    found = {key: torch.tensor(float(value), dtype=torch.float64) for key, value in numbers.items()}
    for key, curve in {"gradient": rebuilt, "output": ran.added}.items():
        found |= {f"{key}_curve_active": curve.active.double(), f"{key}_curve_error": curve.error}
    return found


def agreement(first: Parts, second: Parts | None) -> Tensor:
    """Returns the mean abs(cos) of two decompositions' live directions, matched one to one; NaN without a second.

    A part without a partner counts 0: the sum over matches is divided by the larger of both numbers of live parts.
    """
    if second is None:
        return torch.tensor(float("nan"), dtype=torch.float64)
    both = [parts.v_out[parts.live] for parts in (first, second)]
    return match_directions(*both).cosines.double().sum() / max(*map(len, both), 1)


def _padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Returns measures of several targets side by side, curves filled up with NaN."""
    found = {}
    for key in rows[0]:
        parts = [row[key] for row in rows]
        if parts[0].ndim:
            most = max(map(len, parts))
            parts = [torch.cat([part, part.new_full((most - len(part),), torch.nan)]) for part in parts]
        found[key] = torch.stack(parts)
    return found
