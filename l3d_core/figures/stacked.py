"""Tables whose numbers have their ranges under them, so that many columns fit a page."""

from __future__ import annotations

import re
from html import escape

import pandas as pd

from .cards import Html

# A number as `statistics.spread_text` and its like print it: median, range and, in some tables, how many there are.
SPREAD = re.compile(r"(\S+) (\[[^\]]*\])(?:, (n = \d+))?")


def stacked(table: pd.DataFrame) -> Html:
    """Returns a table as HTML in which 'median [min, max], n = 3' is a median with the rest under it, in small type.

    Args:
        table: Cells that are no such numbers stay as they are.
    """
    shown = table.map(_cell).rename(index=_text, columns=_text)
    with pd.option_context("display.max_colwidth", None):
        return Html(shown.to_html(escape=False, classes="stacked"))


def _text(value: object) -> str:
    return escape(str(value))


def _cell(value: object) -> str:
    """Returns the HTML of a cell."""
    found = SPREAD.fullmatch(str(value))
    if found is None:
        return _text(value)
    middle, *below = filter(None, found.groups())
    return f"{middle}<br><small>{'<br>'.join(below)}</small>"
