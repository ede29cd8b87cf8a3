"""Parts of the book's pages that are made from the package, the manifest and the stored results."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import claims, experiments, record
from .l3d import L3DConfig
from .toys import ToyTraining

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
    """Returns the settings of every decomposition and of the targets, one column per variant (paper App. B)."""
    tables = []
    for name in experiments.notebooks():
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


def generate(root: Path, repository: dict[str, str]) -> dict[str, str]:
    """Returns all generated parts by file name, without extension.

    Args:
        root: The checkout, for the stored results.
        repository: `url` and `branch`, or nothing.
    """
    rows = claims.ledger(root)
    return {
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
