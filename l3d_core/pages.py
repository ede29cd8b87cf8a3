"""Parts of the book's pages that are made from the package, the manifest and the stored results."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import claims, experiments, record
from .chapters import settings_summary, speed_summary
from .chapters.toy_chapter import BESIDE_MAIN
from .l3d import L3DConfig
from .toys import ToyTraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACTS = {
    "core_seconds": "core-seconds",
    "device": "device",
    "threads": "threads",
    "date": "date",
    "version": "l3d_core",
    "commit": "commit",
    "torch": "torch",
    "python": "Python",
}
# Studies that show no figure or table of the paper's: they tell what its settings do, and ours.
SETTLING = ("tuning", *BESIDE_MAIN)
# What pages call the toys of the chapters.
TOYS = {
    "01_superposition": "superposition",
    "02_circuit_superposition": "circuit superposition",
    "03_high_rank": "higher rank",
    "04_squared": "squares",
}
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


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def field_notes(cls: type) -> dict[str, str]:
    """Returns the docstring under each field of a dataclass, on one line."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    pairs = zip(body, body[1:], strict=False)
    return {
        first.target.id: " ".join(ast.literal_eval(second.value).split())
        for first, second in pairs
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr)
    }


def _shown(value: Any) -> str:
    return "none" if value is None else f"`{value}`"


def hyperparameters() -> str:
    """Returns the settings of every decomposition of a toy and of the targets, a column per variant (paper App. B)."""
    tables = []
    for name in filter(TOYS.__contains__, experiments.notebooks()):
        variants = experiments.settings(name, "paper").variants
        text = variants["text"]
        rows = [_row("`divergence`", "An argument of `decompose`.", [v.divergence for v in variants.values()])]
        notes = field_notes(L3DConfig)
        rows += [
            _row(f"`{field.name}`", notes[field.name], [getattr(v.config, field.name) for v in variants.values()])
            for field in fields(text.config)
        ]
        notes, training = field_notes(ToyTraining), ToyTraining()
        rows += [
            _row(f"target: `{field.name}`", notes[field.name], [getattr(training, field.name)] * len(variants))
            for field in fields(training)
        ]
        rows = table(["setting", *variants], rows)
        tables.append(f":::{{table}} {name}\n:class: settings\n\n{rows}\n:::")
    return "\n\n".join(tables)


def _row(name: str, note: str, values: list[Any]) -> list[str]:
    """Returns a row of the table of settings; what differs from the first column is bold."""
    cells = [_shown(value) if value == values[0] else f"**{_shown(value)}**" for value in values]
    return [f"{name}<br>{note}", *cells]


def usage() -> str:
    """Returns the five lines of the package's docstring as one block of code."""
    examples = doctest.DocTestParser().get_examples(importlib.import_module("l3d_core").__doc__)
    lines = [re.sub(r" {2,}#", "  #", example.source) for example in examples if not example.want]
    return "```python\n" + "".join(lines) + "```"


def names() -> str:
    """Returns the public names with the first sentence of each, linked to its entry."""
    package, rows = importlib.import_module("l3d_core"), []
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            role = "class" if inspect.isclass(value) else "func"
            rows.append([f"{{py:{role}}}`~{value.__module__}.{name}`", inspect.getdoc(value).split("\n")[0]])
        elif inspect.ismodule(value):
            rows.append([f"{{py:mod}}`~{value.__name__}`", inspect.getdoc(value).split("\n")[0]])
    return table(["name", "what it is or returns"], rows)


def reproduce() -> str:
    """Returns every figure and table of the paper with the command that makes it, or that it is still to come."""
    rows = []
    for exhibit in experiments.EXHIBITS:
        if experiments.built(exhibit):
            title = f"[{exhibit.title}](#{exhibit.id})"
            command = f"`l3d run {exhibit.notebook} --preset paper`"
        else:
            title, command = exhibit.title, "not made yet"
        rows.append([exhibit.place, title, command])
    return table(["where", "what it shows", "command"], rows)


def hardware(root: Path) -> str:
    """Returns time and hardware of every chapter, from the record its executed notebook holds."""
    found = {
        name: record.read(root / "book" / "results" / f"{name}.ipynb")["provenance"] for name in experiments.notebooks()
    }
    rows = [[label, *(str(facts.get(key, "not recorded")) for facts in found.values())] for key, label in FACTS.items()]
    beside = [
        sum(seconds for study, seconds in facts.get("seconds", {}).items() if study.removeprefix("more-") in SETTLING)
        for facts in found.values()
    ]
    rows.insert(1, ["of these for ablation, stability and settings", *(f"{seconds:.1f}" for seconds in beside)])
    return table(["", *found], rows)


def launch(repository: dict[str, str]) -> str:
    """Returns how to get the code and run it in Colab; nothing while there is no repository address."""
    if not repository.get("url"):
        return "% No repository address is configured."
    url = repository["url"]
    return (
        f"The code is at <{url}>. On Colab, opened from the rocket button of a chapter, first run this in a cell of "
        "its own:\n\n"
        f"```python\n%pip install git+{url}\n```"
    )


def cite(repository: dict[str, str], title: str = "Local Loss Landscape Decomposition, executed") -> str:
    """Returns the entry to cite the book by; nothing while there is no repository address."""
    if not repository.get("url"):
        return "% No repository address is configured."
    entry = f"@misc{{l3d_executed,\n  title = {{{title}}},\n  url = {{{repository['url']}}},\n}}"
    return f"## Cite this book\n\n```bibtex\n{entry}\n```"


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


def tuning_records(root: Path) -> dict[str, dict[str, Any]]:
    """Returns the records of the chapters on toys, by what the pages call the toy."""
    found = {name: record.read(root / "book" / "results" / f"{name}.ipynb") for name in experiments.notebooks()}
    return {TOYS[name]: one for name, one in found.items() if "tuning" in one}


def settings_figure(root: Path) -> Figure:
    """Returns the figure of the page on settings."""
    from .figures.settings import plot_kept

    return plot_kept({toy: one["tuning"] for toy, one in tuning_records(root).items()})


def settings(root: Path) -> dict[str, str]:
    """Returns the tables of the page on settings by file name."""
    records = tuning_records(root)
    tuned = {toy: experiments.settings(name, "paper").variants["tuned"] for name, toy in TOYS.items() if toy in records}
    numbers = {toy: one["numbers"] for toy, one in records.items()}
    return {
        "settings_chosen": table(*settings_summary.chosen_table(numbers, tuned)),
        "settings_kept": table(*settings_summary.kept_table({toy: one["tuning"] for toy, one in records.items()})),
    }


def generate(root: Path, repository: dict[str, str]) -> dict[str, str]:
    """Returns all generated parts by file name, without extension.

    Args:
        root: The checkout, for the stored results.
        repository: `url` and `branch`, or nothing.
    """
    rows = claims.ledger(root)
    return {
        **speed(speed_results(root)),
        **settings(root),
        "hyperparameters": hyperparameters(),
        "usage": usage(),
        "names": names(),
        "reproduce": reproduce(),
        "hardware": hardware(root),
        "claims": claims.markdown_table(rows),
        "glance": claims.glance_table(rows),
        "launch": launch(repository),
        "cite": cite(repository),
    }
