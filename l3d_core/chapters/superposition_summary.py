"""Numbers, claims and provenance of chapter 1 as one record, computed from its results and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..artifacts import config_hash
from .superposition import Study, SuperpositionResult, SuperpositionSettings


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns median, smallest, largest and number of some values."""
    v = torch.tensor([float(x) for x in values], dtype=torch.float64)
    return {"median": float(v.quantile(0.5)), "min": float(v.min()), "max": float(v.max()), "n": len(v)}


def spread_text(values: Iterable[float], digits: int = 3) -> str:
    """Returns 'median [min, max], n' as the pages print it."""
    s = spread(values)
    return f"{s['median']:.{digits}f} [{s['min']:.{digits}f}, {s['max']:.{digits}f}], n = {s['n']}"


def last_epochs(recon: Tensor) -> Tensor:
    """Returns the mean error over the last 100 epochs (all, if fewer), the last axis averaged away."""
    return recon[..., -100:].mean(-1)


def chosen_candidate(tuning: Study) -> str:
    """Returns the candidate that becomes `tuned`.

    The one that recovers all five features most often; among equals, the one whose worst top-input share is
    largest (to three decimals); among equals still, the first in the list.
    """

    def merit(name: str) -> tuple[int, float]:
        return int(tuning.of("recovered", name).sum()), round(float(tuning.of("share_in", name).min()), 3)

    return max(tuning.names, key=merit)


def _claims(result: SuperpositionResult) -> dict[str, dict[str, list]]:
    """Returns the value of each claim for each variant on each target."""
    main, found = result.main, {}
    for name in main.names:
        m = {key: main.of(key, name) for key in main.tensors}
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
        m = {key: main.of(key, name) for key in main.tensors}
        numbers |= {
            f"recon_{name}": spread_text(last_epochs(m["recon_sq"])),
            f"recon_{name}_median": spread(last_epochs(m["recon_sq"]))["median"],
            f"recon_norm_{name}": spread_text(last_epochs(m["recon_norm"])),
            f"recon_fresh_{name}": spread_text(m["recon_fresh"].flatten()),
            f"recon_single_{name}": spread_text(m["recon_single"].flatten()),
            f"recon_several_{name}": spread_text(m["recon_several"].flatten()),
            f"recovered_{name}": f"{int(m['recovered'].sum())} of {len(main.seeds)}",
            f"share_in_{name}": f"mean {float(m['share_in'].mean()):.3f}, worst {float(m['share_in'].min()):.3f}",
            f"share_out_{name}": f"mean {float(m['share_out'].mean()):.3f}, worst {float(m['share_out'].min()):.3f}",
            f"cos_{name}": f"mean {float(m['cos_out'].mean()):.4f}, worst {float(m['cos_out'].min()):.4f}",
            f"selectivity_{name}": _mean_worst(m["selectivity_mean"]),
            f"swing_{name}": _mean_worst(m["selectivity_swing"]),
            f"switched_off_{name}": f"mean {float(m['switched_off'].mean()):.4f}, "
            f"worst {float(m['switched_off'].max()):.4f}",
            f"off_ratio_{name}": float(m["inactive_ratio"].median()),
        }
    for size, study in result.sizes.items():
        for name in study.names:
            key = f"{name}_{size.replace('-', '_')}"
            numbers[f"recon_{key}"] = spread_text(last_epochs(study.of("recon_sq", name)))
            covered = study.of("covered", name).double().mean() / int(size.split("-")[0])
            numbers[f"covered_{key}"] = f"{float(covered):.1%}"
    for name in result.references.names:
        found = int(result.references.of("recovered", name).sum())
        numbers[f"references_{name.replace(' ', '_')}"] = f"{found} of {len(result.references.seeds)}"
    for name in result.switches.names:
        key, found = name.replace(",", "").replace(" ", "_"), result.switches.of("recovered", name)
        numbers[f"switch_{key}"] = spread_text(last_epochs(result.switches.of("recon_sq", name)))
        numbers[f"switch_{key}_recovered"] = f"{int(found.sum())} of {len(found)}"
    return numbers | _counts(result)


def _mean_worst(ratios: Tensor) -> str:
    return f"mean {float(ratios.mean()):.1f}, worst {float(ratios.min()):.1f}"


def _counts(result: SuperpositionResult) -> dict[str, Any]:
    """Returns how many targets there were, which were kept, and what the tuning chose."""
    main, tuning = result.main, result.tuning
    best = chosen_candidate(tuning)
    total = len(tuning.seeds)
    return {
        "n_trained": main.n_trained,
        "n_kept": len(main.seeds),
        "kept_seeds": ", ".join(map(str, main.seeds)),
        "shown_seed": main.seeds[0],
        "tuning_kept": total,
        "tuning_chosen": best,
        "tuning_chosen_recovered": f"{int(tuning.of('recovered', best).sum())} of {total}",
        "positive_signs": f"{int((main.of('sign', 'tuned') > 0).sum())} of {main.of('sign', 'tuned').numel()}",
        "epochs": result.settings.epochs,
        "minutes": round(sum(s.facts["wall_seconds"] for s in result.stacks.values()) / 60, 1),
    }


def settings_digest(settings: SuperpositionSettings) -> str:
    """Returns a hash of a preset's settings, to tell whether a result was made with today's."""
    return config_hash(asdict(settings))


def summarise(result: SuperpositionResult, preset: str) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `superposition.run` returned.
        preset: The preset it ran.
    """
    seconds = {name: study.facts["wall_seconds"] for name, study in result.stacks.items()}
    losses = {
        name: [[[float(f"{x:.7g}") for x in row] for row in per] for per in study.tensors["first_losses"].tolist()]
        for name, study in result.stacks.items()
    }
    return {
        "preset": preset,
        "settings": settings_digest(result.settings),
        "numbers": _numbers(result),
        "claims": _claims(result),
        "first_losses": losses,
        "provenance": {**result.main.facts, "wall_seconds": round(sum(seconds.values()), 1), "seconds": seconds},
    }
