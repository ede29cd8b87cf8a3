"""The generated parts of the page on speed, from the stored results of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import claims
from .chapters import speed_summary
from .markdown import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = {
    "toys": (
        "Dots for three programs on four toys, on a logarithmic axis of steps a second.",
        "Steps a second of one decomposition, one thread.",
    ),
    "stacked": (
        "For each toy, two lines of decompositions in a core-hour against the runs trained side by side, and a dotted "
        "level for one run of the program as published.",
        "Decompositions in an hour of one core, by how many are trained side by side; dotted, one run of "
        "the program as published.",
    ),
    "scaling": (
        "Lines of time and of memory of a step, on logarithmic axes, against n_w, n_v and T, for the package and the "
        "textbook's program.",
        "Time and memory of a step without gradients, with the exponents of the package.",
    ),
    "paths": (
        "Dots of the measured against the counted cost of the dense path over the factored one, by chosen path.",
        "Dense over factored, as measured against as counted, one dot a shape; right choices are in the lower left and "
        "the upper right.",
    ),
}


def speed_results(root: Path) -> dict[str, Any]:
    """Returns the sections of the speed benchmark that have been measured."""
    path = root / "book" / "results" / "speed.json"
    return json.loads(path.read_text()) if path.exists() else {}


def speed_figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """Returns the figures of the page on speed by file name, of the sections that have been measured."""
    from .figures import speed as draw

    plots = (draw.plot_toys, draw.plot_stacked, draw.plot_scaling, draw.plot_paths)
    made = {plot.__name__.removeprefix("plot_"): plot for plot in plots}
    return {f"speed_{name}": plot(results[name]) for name, plot in made.items() if name in results}


def speed(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns the parts of the page on speed by file name; a section without results says so and names the command."""
    machines = ["section", "machine", "threads", "date", "l3d_core", "commit", "torch", "Python", "seconds"]
    verdicts = [[*row[:-1], claims.badge(row[-1])] for row in speed_summary.targets(results)]
    parts = {
        "speed_summary": speed_summary.summary(results),
        "speed_machine": table(machines, speed_summary.machines(results)),
        "speed_targets": table(["quantity", "found", "target", ""], verdicts),
        "speed_trials": _trials(speed_summary.trials(results)),
    }
    if not results:
        parts |= dict.fromkeys(("speed_summary", "speed_machine", "speed_targets"), "Nothing is measured yet.")
    for name, tables in speed_summary.SECTIONS.items():
        part = results.get(name, {"reason": "not measured yet"})
        if "reason" in part:
            reason = part["reason"][0].upper() + part["reason"][1:]
            blocks = [f"{reason}. `make bench ONLY={name}` measures this part."]
        else:
            blocks = [_figure(name, *DRAWN[name])] if name in DRAWN else []
            for one in (speed_summary.TABLES[each] for each in tables):
                blocks += [one.title, table(*speed_summary.cells(one, part))]
        parts[f"speed_{name}"] = "\n\n".join(filter(None, blocks))
    return parts


def _figure(name: str, alt: str, caption: str) -> str:
    """Returns a figure of the page on speed, with the command that measures what it shows."""
    options = f":name: speed-{name}\n:alt: {alt}"
    return f"```{{figure}} generated/speed_{name}.png\n{options}\n\n{caption} `make bench ONLY={name}`\n```"


def _trials(names: list[str]) -> str:
    """Returns a warning if figures come from a trial of the benchmark."""
    if not names:
        return "% All sections were measured at full size."
    return f"```{{warning}}\nOnly tried on small stand-ins, so that the figures mean nothing: {', '.join(names)}.\n```"
