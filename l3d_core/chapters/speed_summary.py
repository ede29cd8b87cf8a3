"""Tables of the page on speed, from the sections of the benchmark's results and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A list of the results as a table.

    Attributes:
        rows: The list's name in its section.
        columns: Names of values by what stands above them.
        title: What stands above the table.
        most: How many rows are shown.
    """

    rows: str
    columns: dict[str, str]
    title: str = ""
    most: int = 1000


TABLES = {
    "toys": Table("rows", {
        "toy": "toy", "program": "program", "steps a second": "steps_per_second",
        "package is faster by": "package_faster_by", "operations a step": "operations", "after steps": "steps",
        "loss": "loss", "recovered": "recovered", "of": "features", "steps in U1's seconds": "later_steps",
        "loss then": "later_loss", "recovered then": "later_recovered",
    }),
    "stacked": Table("rows", {
        "toy": "toy", "how": "how", "decompositions in a core-hour": "per_core_hour", "times U1": "times_published",
        "after steps": "steps", "loss": "loss", "loss of U1": "published_loss", "recovered": "recovered",
        "of": "features", "steps in U1's seconds": "later_steps", "loss then": "later_loss",
    }),
    "memory": Table("memory", {"how": "how", "runs": "n_runs", "growth of memory (MiB)": "growth_mib"},
                    "Memory of runs side by side, on the shapes of the toy of higher rank:"),
    "language": Table("rows", {
        "program": "program", "seconds a step": "seconds_per_step", "times U1": "times_published",
        "growth of memory (GiB)": "growth_gib", "steps": "steps", "mean loss": "loss",
        "largest difference to U1's": "off_published", "steps in the time of one of U1": "later_steps",
        "loss then": "later_loss",
    }),
    "stages": Table("stages", {"step": "step", "ms": "ms_per_step", "after steps": "steps", "loss": "loss"},
                    "What a step depends on:"),
    "scaling": Table("points", {
        "against": "against", "size": "x", "path": "path", "ms a step": "ms_per_step", "memory (MiB)": "growth_mib",
        "after steps": "steps", "loss": "loss", "rebuilt share off float64": "off_float64",
        "U2: ms a step": "textbook_ms_per_step", "U2: memory (MiB)": "textbook_growth_mib",
        "U2: third loss off the package's": "textbook_off",
    }),
    "reach": Table("rows", {
        "matrices": "n_tensors", "parameter values n_w": "n_w", "subnetworks n_v": "n_v", "rank": "rank",
        "samples a step": "n_samples", "seconds a step": "seconds_per_step", "peak of memory (GiB)": "peak_gib",
        "per-sample gradients, had they been formed (GiB)": "whole_gradients_gib",
        "steps until the check": "steps", "loss then": "loss", "rebuilt share off float64": "off_float64",
    }),
    "paths": Table("rows", {
        "width": "width", "rank": "rank", "n_v": "n_v", "samples": "n_s", "rows": "n_rows", "chosen": "chosen",
        "dense (ms)": "dense_ms", "factored (ms)": "factored_ms", "chosen / better": "over_better", "loss": "loss",
        "rebuilt share off the other path's": "off_other_path",
    }, "The shapes on which the choice was worst:", 10),
    "gpu": Table("rows", {"what": "what", "loss at the end": "loss"}),
}  # fmt: skip
SECTIONS = {"toys": ["toys"], "stacked": ["stacked", "memory"], "language": ["language", "stages"],
            "scaling": ["scaling"], "reach": ["reach"], "paths": ["paths"], "gpu": ["gpu"]}  # fmt: skip


def cell(value: Any) -> str:
    """Returns a value as text: numbers with three digits, or more before the point; a spread as 'median [min, max]'."""
    if isinstance(value, Mapping):
        middle, low, high = (cell(value[key]) for key in ("median", "min", "max"))
        return middle if low == high else f"{middle} [{low}, {high}]"
    if not isinstance(value, int | float):
        return "" if value is None else str(value)
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def cells(table: Table, part: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns header and rows of a table; one row alone is turned into a list of quantities."""
    rows = [[cell(row.get(key)) for key in table.columns.values()] for row in part[table.rows][: table.most]]
    if len(rows) == 1:
        return ["quantity", "found"], [list(pair) for pair in zip(table.columns, rows[0], strict=True)]
    return list(table.columns), rows


def verdict(target: Mapping[str, Any]) -> str:
    """Returns 'met', 'missed' or 'not measured' for a target."""
    value, bound = target["value"], target["bound"]
    if value is None:
        return "not measured"
    return "met" if (value >= bound if target["at_least"] else value <= bound) else "missed"


def targets(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns what was aimed at, what was found and the verdict, one row for each target of all sections."""
    return [
        [one["what"], cell(one["value"]), f"at {'least' if one['at_least'] else 'most'} {cell(one['bound'])}",
         verdict(one)]
        for part in results.values() for one in part["checks"]
    ]  # fmt: skip


def summary(results: Mapping[str, Any]) -> str:
    """Returns how many targets are met, which are missed, and where the figures come from, in two sentences."""
    found: dict[str, list[str]] = {"met": [], "missed": [], "not measured": []}
    for what, *_, word in targets(results):
        found[word].append(what)
    n = sum(map(len, found.values()))
    missed = f" Missed: {'; '.join(found['missed'])}." if found["missed"] else ""
    facts = [row[1:2] + row[4:7] for row in machines(results)]
    places = "; ".join(dict.fromkeys(f"{m}, l3d_core {v} at commit {c}, torch {t}" for m, v, c, t in facts))
    return (
        f"**{len(found['met'])} of {n} targets are met, {len(found['missed'])} missed and {len(found['not measured'])} "
        f"not measured.**{missed} Measured on {places or 'nothing yet'}."
    )


def machines(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns where, when and with what each section was measured."""
    keys = ("device", "threads", "date", "version", "commit", "torch", "python", "seconds")
    measured = {name: part["provenance"] for name, part in results.items() if "reason" not in part}
    return [[name, *(str(facts.get(key, "not recorded")) for key in keys)] for name, facts in measured.items()]


def trials(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections that were only tried, on small stand-ins."""
    return [name for name, part in results.items() if part["provenance"].get("quick")]
