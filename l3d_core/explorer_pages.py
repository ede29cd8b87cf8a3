"""Explorers as pages: those that a command writes, and those of the book with their places in its chapters."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .chapter_explorers import CHAPTERS
from .checkpoints import write_whole
from .explorer.checked import check_block
from .explorer.compare import beside
from .explorer.page import write_page
from .explorer.record import dump, from_json, to_block
from .explorer.store import load_result
from .markdown import table

# Where the book keeps the data of its explorers, and where their pages go for the build.
DATA, PAGES = Path("book") / "explorer", Path("book") / "_static" / "explorer"
HEADING = "Explore the subnetworks"


def write_explorer(result: Path, against: Path | None, *, outputs: Sequence[Path]) -> list[Path]:
    """Returns the files that an explorer was written to, each whole or as it was.

    Args:
        result: A folder that `explorer.explore` left.
        against: Another one to be shown beside it, or None.
        outputs: Pages, or names that end in .json for the data alone.

    Raises:
        ValueError: A folder that is not whole, without impacts or of another version; two of different models.
        OSError: A file cannot be written.
    """
    one = load_result(result)
    block = to_block(one.block if against is None else beside(one, load_result(against)))
    check_block(block)
    for path in outputs:
        if path.suffix == ".json":
            write_whole(path, lambda part: Path(part).write_text(dump(block) + "\n", encoding="ascii"))
            path.chmod(0o644)
        else:
            write_page(block, path)
    return list(outputs)


def book_explorers(root: Path) -> dict[str, dict[str, Any]]:
    """Returns the data of the book's explorers by chapter, in reading order.

    Args:
        root: Top folder of the project.

    Raises:
        RuntimeError: A file is damaged, of another version, or of no chapter.
    """
    found = {path.stem: path for path in sorted((root / DATA).glob("*.json"))}
    unknown = sorted(found.keys() - set(CHAPTERS))
    if unknown:
        raise RuntimeError(f"{DATA / unknown[0]}.json is of no chapter; expected names among {list(CHAPTERS)}.")
    blocks = {}
    for name in (name for name in CHAPTERS if name in found):
        try:
            blocks[name] = to_block(from_json(found[name].read_text(encoding="utf-8")))
            check_block(blocks[name])
        except ValueError as error:
            advice = f"Make it with l3d explore {name} --preset paper."
            raise RuntimeError(f"{DATA / name}.json: {error} {advice}") from error
    return blocks


def write_book_pages(root: Path) -> list[Path]:
    """Returns the pages of the book's explorers, written where the build finds them.

    Args:
        root: Top folder of the project.

    Raises:
        RuntimeError: See `book_explorers`.
    """
    shutil.rmtree(root / PAGES, ignore_errors=True)
    return [write_page(block, root / PAGES / f"{name}.html") for name, block in book_explorers(root).items()]


def listed(root: Path) -> str:
    """Returns a table of the book's explorers, as Markdown."""
    rows = []
    for name, block in book_explorers(root).items():
        facts = dict(block["facts"])
        sizes = " and ".join(f"{len(d['subnetworks'])} of `{d['name']}`" for d in block["decompositions"])
        title = html.escape(block["title"]).replace("|", "&#124;")
        page = f'<a href="../_static/explorer/{name}.html">{title}</a>'
        rows.append([page, f"[{name}](results/{name}.ipynb)", sizes, facts["samples"], facts["date"]])
    if not rows:
        return "The book has no explorers yet: `l3d explore 01_superposition --preset paper` makes one."
    return table(["explorer", "chapter", "subnetworks", "samples", "run on"], rows)


def embed(name: str, depth: int = 2) -> str:
    """Returns the part of a chapter's page that shows its explorer, as Markdown.

    Args:
        name: The chapter.
        depth: Folders between the page and the top of the book.
    """
    address = f"{'../' * depth}_static/explorer/{name}.html"
    return (
        f"## {HEADING}\n\n"
        "Search the subnetworks, open one, and push the model along it. "
        f'<a href="{address}">Open it by itself</a>, on a page of its own that works without a network.\n\n'
        "```{raw} html\n"
        f'<iframe class="l3d-explorer" title="Explorer of the subnetworks of {name}" src="{address}" loading="lazy">'
        "</iframe>\n```\n"
    )


def with_explorer(notebook: str, name: str) -> str:
    """Returns a notebook's JSON with its explorer as the last cell, for the build alone; the file stays as it is.

    Args:
        notebook: JSON of an executed notebook.
        name: The chapter.
    """
    found = json.loads(notebook)
    cell = {"cell_type": "markdown", "metadata": {}, "source": embed(name)}
    if found.get("nbformat_minor", 0) >= 5:
        cell["id"] = "explorer"
    return json.dumps({**found, "cells": [*found["cells"], cell]})


def add_explorer_(app: Any, page: str, source: list[str]) -> None:
    """Puts a chapter's explorer at the end of its page, if it has one; the notebook for download stays as it is."""
    name = Path(page).name
    if page == f"book/results/{name}" and (Path(app.srcdir) / PAGES / f"{name}.html").exists():
        source[0] = with_explorer(source[0], name)
