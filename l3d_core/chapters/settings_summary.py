"""Tables of the page on settings, from the records of the chapters and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

# Bounds of the coefficients kept per active circuit that the candidates are sorted by.
BOUNDS = (0.0, 0.5, 0.75, 1.0, 1.5, float("inf"))


def kept_table(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """Returns how often all circuits are found by the coefficients kept per active circuit: header and cells.

    Args:
        rows: By toy, the candidates of its tuning, see `toy_summary.tuning_rows`.

    Returns:
        A row for each range, a column for each toy: decompositions with all circuits found, of those done, and the mean
        over the candidates of their median top-input shares.
    """
    cells = []
    for low, high in zip(BOUNDS[:-1], BOUNDS[1:], strict=True):
        label = f"{low:g} or more" if high == BOUNDS[-1] else f"{low:g} to {high:g}" if low else f"below {high:g}"
        cells.append(
            [label, *(_cell([row for row in own if low <= row["per_active"] < high]) for own in rows.values())]
        )
    return ["coefficients kept per active circuit", *rows], cells


def _cell(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    found, targets = (sum(row[key] for row in rows) for key in ("found", "targets"))
    return f"{found} of {targets}; share {sum(row['share'] for row in rows) / len(rows):.3f}"


def chosen_table(
    numbers: Mapping[str, Mapping[str, Any]], tuned: Mapping[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """Returns what is recommended for each toy: header and cells.

    Args:
        numbers: By toy, the numbers its chapter quotes.
        tuned: By toy, the variant `tuned`.
    """
    header = ["toy", "n_v", "rank", "k_fraction", "divergence", "kept per active circuit", "the same for `text`"]
    cells = [
        [toy, str(variant.config.n_v), str(variant.config.rank), f"{variant.config.k_fraction:g}",
         f"`{variant.divergence}`", numbers[toy]["per_active_tuned"], numbers[toy]["per_active_text"]]
        for toy, variant in tuned.items()
    ]  # fmt: skip
    return header, cells
