"""Medians, ranges and late errors, as every chapter states them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artifacts import config_hash

PACKAGE = Path(__file__).resolve().parents[1]


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


def seven_digits(losses: Tensor) -> list:
    """Returns first losses as a record has them: lists of numbers of seven digits, in the shape of the tensor."""
    return [float(f"{x:.7g}") for x in losses.tolist()] if losses.ndim == 1 else [seven_digits(part) for part in losses]


def made_in(facts: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Returns the provenance of a chapter's record.

    Args:
        facts: Provenance of one of its results.
        seconds: Core-seconds of all of them, by name.
    """
    shared = {name: value for name, value in facts.items() if name not in ("wall_seconds", "core_seconds")}
    return {**shared, "core_seconds": round(sum(seconds.values()), 1), "seconds": dict(seconds)}


def settings_digest(settings: object) -> str:
    """Returns a hash of a preset's settings, order included, to tell whether a result was made with today's.

    Where the package lies, which the paths of shipped weights tell, takes no part.
    """
    return config_hash({"settings": repr(settings).replace(str(PACKAGE), "")})
