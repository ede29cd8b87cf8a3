"""Parts of the book's pages that are made from the package, the manifest and the stored results."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import claims, experiments, explorer_pages, record, speed_pages
from .chapters import settings_summary
from .chapters.real_chapter import RealSettings
from .chapters.real_models import DIVERGENCE
from .chapters.toy_chapter import BESIDE_MAIN
from .l3d import L3DConfig
from .markdown import table as table
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
    """Returns the settings of the paper's subjects' decompositions and of the toys, by variant (paper App. B)."""
    tables = []
    for name in experiments.notebooks():
        settings, toy = experiments.settings(name, "paper"), name in TOYS
        if not toy and not isinstance(settings, RealSettings):
            continue
        if toy:
            variants = {key: (v.config, v.divergence) for key, v in settings.variants.items()}
        else:
            variants = {key: (settings.runs[key].config, DIVERGENCE) for key in ("text", "code", "tuned")}
        rows = [
            _row("`divergence`", "An argument of `decompose`.", [divergence for _, divergence in variants.values()])
        ]
        notes = field_notes(L3DConfig)
        rows += [
            _row(f"`{key}`", notes[key], [getattr(config, key) for config, _ in variants.values()])
            for key in (field.name for field in fields(L3DConfig))
        ]
        source = ToyTraining() if toy else settings.source
        notes, part = field_notes(type(source)), "target" if toy else "subject"
        rows += [
            _row(f"{part}: `{field.name}`", notes[field.name], [_value(source, field.name)] * len(variants))
            for field in fields(source)
        ]
        rows = table(["setting", *variants], rows)
        tables.append(f":::{{table}} {name}\n:class: settings\n\n{rows}\n:::")
    return "\n\n".join(tables)


def _value(source: object, name: str) -> object:
    """Returns a field to be shown: of a file its name, since where it lies is a matter of the machine."""
    value = getattr(source, name)
    return value.name if isinstance(value, Path) else value


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
        sum(seconds for study, seconds in facts.get("seconds", {}).items() if _settling(study))
        for facts in found.values()
    ]
    rows.insert(1, ["of these for ablation, stability and settings", *(f"{seconds:.1f}" for seconds in beside)])
    return table(["", *found], rows)


def _settling(study: str) -> bool:
    """Returns whether a study tells what settings do, and shows nothing of the paper's."""
    return study.removeprefix("more-") in SETTLING or study.startswith("tried ")


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
        **speed_pages.speed(speed_pages.speed_results(root)),
        **settings(root),
        "hyperparameters": hyperparameters(),
        "usage": usage(),
        "names": names(),
        "explorers": explorer_pages.listed(root),
        "reproduce": reproduce(),
        "hardware": hardware(root),
        "claims": claims.markdown_table(rows),
        "glance": claims.glance_table(rows),
        "launch": launch(repository),
        "cite": cite(repository),
    }
