"""The claims ledger: what the paper claims, what was found, and a verdict computed by one rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from . import apd_claims, claim_list, record
from .chapters.statistics import spread_text
from .claim_list import SUBJECTS, VARIANTS
from .claim_list import Claim as Claim
from .experiments import notebooks

CLAIMS = claim_list.CLAIMS + apd_claims.CLAIMS
REPRODUCES, IN_PART, DOES_NOT, NOT_TESTABLE = "reproduces", "in part", "does not", "not testable"


@dataclass(frozen=True)
class Row:
    """A claim with what was found: values per target for each variant, and the verdict."""

    claim: Claim
    paper: float | None
    values: dict[str, list[float]]
    verdict: str

    def found(self, variant: str) -> str:
        """Returns what a variant gave: median and range, or on how many targets the claim held."""
        if variant not in self.claim.variants:
            return ""
        values = self.values[variant]
        if not values:
            return "none"
        if self.claim.paper is None:
            return f"{sum(map(bool, values))} of {len(values)}"
        return spread_text(values)

    def holding(self) -> str:
        """Returns for which variants the claim holds and why, and for a number which median is nearest to it.

        Of a claim that is not testable it says nothing but how many values there are.
        """
        fewest = n_values(self.values)
        if not fewest:
            return "what it is measured by decides nothing here; the chapter says why"
        if self.verdict == NOT_TESTABLE:
            return f"{fewest} of the {self.claim.fewest} values it takes"
        reasons = {name: reason(self.claim, self.paper, self.values[name]) for name in self.claim.variants}
        if self.paper is None:
            return "holds for " + (", ".join(name for name, why in reasons.items() if why) or "none")
        nearest = min(self.claim.variants, key=lambda name: abs(median(self.values[name]) - self.paper))
        held = "; ".join(f"{name} ({why})" for name, why in reasons.items() if why) or "none"
        return f"holds for {held}. The nearest median is that of *{nearest}*."


def reason(claim: Claim, paper: float | None, values: list[float]) -> str:
    """Returns why a claim holds by the values of one variant, an empty text if it does not.

    A number holds if the median is within the tolerance of it, or if it lies within the range of the values; a claim
    that is true or false holds if it is true of the share of targets that it names, 90 % if none.
    """
    if claim.paper is None:
        true = sum(map(bool, values))
        return f"{100 * claim.share:.0f} % of them" if values and true >= claim.share * len(values) else ""
    if abs(median(values) - paper) <= claim.tolerance:
        return "median within tolerance"
    return "by its range only" if min(values) <= paper <= max(values) else ""


def holds(claim: Claim, paper: float | None, values: list[float]) -> bool:
    """Returns whether a claim holds by the values of one variant, see `reason`."""
    return bool(reason(claim, paper, values))


def n_values(values: Mapping[str, list[float]]) -> int:
    """Returns how many values every variant has at least."""
    return min(map(len, values.values()))


def verdict(claim: Claim, paper: float | None, values: Mapping[str, list[float]]) -> str:
    """Returns 'reproduces', 'in part', 'does not' or 'not testable'.

    It reproduces if it holds for the method as the text states it; in part if only another variant does, or if a
    claim that is true or false is true of at least half of the targets; it is not testable on fewer targets than the
    claim asks for.
    """
    if n_values(values) < claim.fewest:
        return NOT_TESTABLE
    first = values[claim.variants[0]]
    if claim.variants[0] == VARIANTS[0] and holds(claim, paper, first):
        return REPRODUCES
    half = claim.paper is None and 2 * sum(map(bool, first)) >= len(first)
    if half or any(holds(claim, paper, values[name]) for name in claim.variants):
        return IN_PART
    return DOES_NOT


def ledger(root: Path) -> list[Row]:
    """Returns every claim with the values of the committed full runs.

    Args:
        root: Top folder of the project.

    Raises:
        ValueError: A result lacks a claim's values.
        FileNotFoundError: A notebook has no full run.
    """
    papers = record.paper_values(root)
    records = {name: record.read(root / "book" / "results" / f"{name}.ipynb") for name in notebooks()}
    return [_row(claim, papers, records[claim.notebook]) for claim in CLAIMS if claim.notebook in records]


def _row(claim: Claim, papers: Mapping[str, Any], found: Mapping[str, Any]) -> Row:
    if claim.id not in found["claims"]:
        raise ValueError(f"the result of {claim.notebook} has no values of {claim.id!r}; run l3d run for it again.")
    paper = None if claim.paper is None else papers[claim.paper]["value"]
    values = found["claims"][claim.id]
    return Row(claim, paper, values, verdict(claim, paper, values))


def markdown_table(rows: list[Row]) -> str:
    """Returns the ledger as a Markdown table with an anchor for each claim, a line before those of each subject."""
    lines = ["| claim | verdict | paper | text | code | tuned |", "|---|---|---|---|---|---|"]
    for subject, own in _by_subject(rows).items():
        lines.append(f"| **{subject}** |  |  |  |  |  |")
        for row in own:
            claim = row.claim
            paper = "" if row.paper is None else f"{row.paper:g}"
            where = f"{claim.place}, [figure](#{claim.figure})"
            found = " | ".join(row.found(name).replace("n = ", "n\u00a0=\u00a0") for name in VARIANTS)
            text = f'<span id="claim-{claim.id}"></span>{claim.statement} ({where})'
            lines.append(f"| {text} | {badge(row.verdict)}<br>{row.holding()} | {paper} | {found} |")
    return "\n".join(lines) + "\n"


def glance_table(rows: list[Row]) -> str:
    """Returns one line per claim: place, statement and verdict, a line before those of each subject."""
    lines = ["| paper | claim | verdict |", "|---|---|---|"]
    for subject, own in _by_subject(rows).items():
        lines.append(f"|  | **{subject}** |  |")
        lines += [f"| {row.claim.place} | {row.claim.statement} | {badge(row.verdict)} |" for row in own]
    return "\n".join(lines) + "\n"


def _by_subject(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(SUBJECTS[row.claim.notebook], []).append(row)
    return found


def badge(text: str) -> str:
    """Returns a verdict as a coloured badge; the word itself carries the meaning."""
    return f'<span class="verdict verdict-{text.replace(" ", "-")}">{text}</span>'
