"""Numbers, claims and provenance of chapter 1 as one record, computed from its results and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import toys
from .recovery import error, found_all, of_n
from .statistics import last_epochs, settings_digest, spread, spread_text
from .studies import Study, first_losses, made_by
from .superposition import SuperpositionResult, jobs
from .toy_summary import kept_per_active, most_moving, tuning_rows


def chosen_candidate(tuning: Study) -> str:
    """Returns the candidate that becomes `tuned`.

    The one that recovers all five features most often; among equals, the one whose worst top-input share is
    largest (to three decimals); among equals still, the first in the list.
    """

    def merit(name: str) -> tuple[int, float]:
        return int(tuning.of("recovered", name).sum()), round(float(tuning.of("share_in", name).min()), 3)

    return max(tuning.names, key=merit)


def tuning_table(tuning: Study) -> pd.DataFrame:
    """Returns what each candidate gave: targets recovered, worst top-input share, error."""
    rows = [
        {
            "candidate": name,
            "all five recovered": _recovered(tuning, name),
            "worst top-input share": round(float(tuning.of("share_in", name).min()), 3),
            "recon_sq": spread_text(last_epochs(tuning.of("recon_sq", name))),
        }
        for name in tuning.names
    ]
    return pd.DataFrame(rows).set_index("candidate")


def _claims(result: SuperpositionResult) -> dict[str, dict[str, list]]:
    """Returns the value of each claim for each variant on each target."""
    main, found = result.main, {}
    for name in main.names:
        m = main.all(name)
        covered = m["recovered"].squeeze(-1).bool()
        shares = (m["share_in"].amin(1) >= 0.98) & (m["share_out"].amin(1) >= 0.95)
        found[name] = {
            "tms-recon": last_epochs(m["recon_sq"]),
            "tms-one-feature-each": covered & shares,
            "tms-all-features": covered,
            "tms-parallel": (m["cos_out"].mean(1) >= 0.995) & (m["cos_out"].amin(1) >= 0.98),
            "tms-selective": (m["selectivity_mean"].mean(1) >= 8) & (m["selectivity_max"].amin(1) >= 5),
            "tms-largest-change": _relevant_moves_most(m["sweep"], m["top_input"]),
            "tms-switch-off": m["switched_off"].amax(1) < 0.03,
            "tms-interference": (m["recon_several"] > m["recon_single"]).squeeze(-1),
            "tms-dimension": _falls_with_size(result.sizes, name),
            "tms-references": _all_references(result.references, name),
        }
    return {claim: {name: found[name][claim].tolist() for name in main.names} for claim in found[main.names[0]]}


def _relevant_moves_most(sweep: Tensor, top: Tensor) -> Tensor:
    """Returns, per target, whether along every subnetwork the relevant output has the largest range of medians."""
    moved = sweep.amax(2) - sweep.amin(2)
    return (moved.argmax(-1) == top).all(1)


def _falls_with_size(sizes: dict[str, Study], name: str) -> Tensor:
    """Returns, per seed kept at the smallest and the largest size, whether the error is lower at the largest."""
    small, large = (sizes[key] for key in (list(sizes)[0], list(sizes)[-1]))
    both = [seed for seed in small.seeds if seed in large.seeds]
    errors = [
        torch.stack([last_epochs(study.of("recon_sq", name))[study.seeds.index(seed)] for seed in both])
        for study in (small, large)
    ]
    return errors[1] < errors[0]


def _all_references(references: Study, name: str) -> Tensor:
    """Returns, per target, whether all features are found with each of the three kinds of reference."""
    kinds = [n for n in references.names if n.split()[0] == name]
    return torch.stack([references.of("recovered", n).squeeze(-1).bool() for n in kinds]).all(0)


def _numbers(result: SuperpositionResult) -> dict[str, Any]:
    """Returns the values that the chapter's prose quotes, by glue name."""
    main, numbers = result.main, {}
    for name in main.names:
        m = main.all(name)
        numbers |= {
            f"recon_{name}": spread_text(last_epochs(m["recon_sq"])),
            f"recon_norm_{name}": spread_text(last_epochs(m["recon_norm"])),
            f"recon_fresh_{name}": spread_text(m["recon_fresh"].flatten()),
            f"recon_single_{name}": spread_text(m["recon_single"].flatten()),
            f"recon_several_{name}": spread_text(m["recon_several"].flatten()),
            f"recovered_{name}": _recovered(main, name),
            f"share_in_{name}": _mean_worst(m["share_in"], 3),
            f"share_out_{name}": _mean_worst(m["share_out"], 3),
            f"cos_{name}": _mean_worst(m["cos_out"], 4),
            f"selectivity_{name}": _mean_worst(m["selectivity_mean"], 1),
            f"swing_{name}": _mean_worst(m["selectivity_swing"], 1),
            f"switched_off_{name}": _mean_worst(m["switched_off"], 4, worst=Tensor.max),
        }
    for size, study in result.sizes.items():
        for name in study.names:
            key = f"{name}_{size.replace('-', '_')}"
            numbers[f"recon_{key}"] = spread_text(last_epochs(study.of("recon_sq", name)))
    for name in result.references.names:
        numbers[f"references_{name.replace(' ', '_')}"] = _recovered(result.references, name)
    for name in result.switches.names:
        key = name.replace(",", "").replace(" ", "_")
        numbers[f"switch_{key}"] = spread_text(last_epochs(result.switches.of("recon_sq", name)))
        numbers[f"switch_{key}_recovered"] = _recovered(result.switches, name)
    for name in ("text", "code"):
        numbers[f"moves_{name}"] = most_moving(result.more, name)
    copies, stacks = result.more.studies["copies"], jobs(result.settings)
    for name in main.names:
        numbers |= {
            f"copies_{name}": spread_text(error(copies, name)),
            f"copies_found_{name}": of_n(found_all(copies, name, toys.COPIED[0])),
            f"per_active_{name}": f"{kept_per_active(stacks['main'], name):.2f}",
            f"copies_per_active_{name}": f"{kept_per_active(stacks['more-copies'], name):.2f}",
        }
    return numbers | _counts(result)


def _mean_worst(values: Tensor, digits: int, worst: Callable[[Tensor], Tensor] = Tensor.min) -> str:
    return f"mean {float(values.mean()):.{digits}f}, worst {float(worst(values)):.{digits}f}"


def _recovered(study: Study, name: str) -> str:
    """Returns on how many targets a variant found all features, each in one live subnetwork."""
    return f"{int(study.of('recovered', name).sum())} of {len(study.seeds)}"


def _counts(result: SuperpositionResult) -> dict[str, Any]:
    """Returns how many targets there were, which were kept, and what the tuning chose."""
    main, tuning = result.main, result.tuning
    best, length = chosen_candidate(tuning), result.settings.matched_length
    return {
        "n_trained": main.n_trained,
        "n_kept": len(main.seeds),
        "kept_seeds": ", ".join(map(str, main.seeds)),
        "shown_seed": main.seeds[0],
        "tuning_kept": len(tuning.seeds),
        "tuning_chosen": best,
        "tuning_chosen_recovered": _recovered(tuning, best),
        "positive_signs": f"{int((main.of('sign', 'tuned') > 0).sum())} of {main.of('sign', 'tuned').numel()}",
        "target_seconds": f"{toys.shipped('superposition', 5, 2).wall_seconds:.0f}",
        "off_ratio": f"{spread(main.of('inactive_ratio', 'tuned').flatten())['median']:.2f}",
        "matched_length": f"{length:g}",
        "active_share": f"{toys.active_share(5):.0%}",
        "epochs": result.settings.epochs,
        "core_minutes": round(sum(s.facts["core_seconds"] for s in result.stacks.values()) / 60, 1),
    }


def summarise(result: SuperpositionResult, preset: str, papers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `superposition.run` returned.
        preset: The preset it ran.
        papers: The paper's own numbers, see `record.paper_values`.
    """
    paper = {
        "paper_recon": f"{100 * papers['tms_recon']['value']:.0f} %",
        "paper_selectivity": " to ".join(map(str, papers["tms_selectivity"]["range"])),
        "paper_share_out": " to ".join(f"{x:.3f}" for x in papers["tms_share_out"]["range"]),
    }
    return {
        "preset": preset,
        "settings": settings_digest(result.settings),
        "numbers": _numbers(result) | paper,
        "claims": _claims(result),
        "tuning": tuning_rows(jobs(result.settings)["tuning"], result.tuning),
        "first_losses": first_losses(result.stacks),
        "provenance": made_by(result.stacks, result.main),
    }
