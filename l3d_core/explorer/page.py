"""One self-contained page of a block of data: checked, put together, written whole."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import zlib
from pathlib import Path

from ..checkpoints import write_whole
from .checked import Block, check_block
from .record import dump

_HERE = Path(__file__).parent
_SCRIPTS = ("data", "draw", "find", "card", "push", "prompts", "export", "app")


def packed(block: Block) -> str:
    """Returns a block as the page holds it: sorted compact JSON, deflated, in base64; the same for the same block.

    Raises:
        ValueError: It holds NaN or infinity, which JSON has not, or what is no text, number, list or record.
    """
    try:
        text = dump(block)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the block is no JSON ({error}); expected plain values. Write None for NaN.") from error
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


def _held(block: Block) -> str:
    """Returns a block as it stands in the page: packed, then the numbers of directions as they are, one text a line.

    These are long, cannot be packed and are asked for seldom, so that a page need not unpack them before it is shown.
    """
    decompositions, numbers = [], []
    for one in block["decompositions"]:
        weights = one.get("weights")
        if weights is not None:
            numbers += [weights["v_in"], weights["v_out"]]
        decompositions.append(one if weights is None else {**one, "weights": {"layout": weights["layout"]}})
    return "\n".join([packed({**block, "decompositions": decompositions}), *numbers])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(text: str) -> str:
    """Returns a title that stands in a page: escaped, without signs that a page cannot hold or that cannot be seen."""
    # A zero-width joiner is no letter, but what it joins, such as a family of emoji, falls apart without it.
    kept = (c if c.isprintable() or c == "\u200d" else "\ufffd" for c in text.replace("\n", " "))
    return html.escape("".join(kept))


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def page_text(block: Block) -> str:
    """Returns the whole page of a block: styles, scripts and data in one text that loads nothing from elsewhere.

    A policy in its head lets the browser run this script and no other, and connect to nobody.

    Args:
        block: The data; strings in it are shown as they are and never read as markup.

    Raises:
        ValueError: The block cannot be shown; see `check_block`.
    """
    check_block(block)
    scripts = "\n".join(_part(f"js/{name}.js") for name in _SCRIPTS)
    script, style = f'"use strict";\n{{\n{scripts}}}\n', _part("page.css")
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy, "title": _title(str(block["title"])), "style": style, "script": script,
        "block": _held(block),
    }  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def write_page(block: Block, path: str | Path) -> Path:
    """Returns the file that a page was written to, which is whole or as it was before.

    Args:
        block: The data of the page, see `check_block`.
        path: Where it goes; a page that is there is replaced, folders are made.

    Raises:
        ValueError: The block cannot be shown.
        OSError: The file cannot be written.
    """
    text, goal = page_text(block), Path(path)

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8", newline="\n")
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # As an ordinary file; a temporary one is for its owner alone.

    write_whole(goal, write)
    return goal
