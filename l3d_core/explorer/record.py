"""What a page shows, as frozen records, and their JSON: the same records always give the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

FORMAT = 2
# Significant digits of a number.
DIGITS = 4
KINDS = ("tokens", "images", "vectors")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text, an image or a vector; what it is not is absent."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("tokens", "image", "name", "values", "label")

    tokens: list[int] | None = None
    """Indices into the block's outputs."""
    image: str | None = None
    """A data address."""
    name: str | None = None
    """Of an image, or of another item."""
    values: list[float] | None = None
    """Of a vector."""
    label: list[str] | None = None
    """What each position is."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sample that a subnetwork is shown on, one position of an item, and its outputs along the subnetwork."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("normaliser",)

    item: int
    """Index into the block's items."""
    position: int
    """Of the sample in it."""
    impact: float
    """Of the subnetwork on it (Eq. 8)."""
    signed: list[float]
    """Impact with its sign at every position of the item: the mean over references of Eq. 7; of impacts that have no
    sign they themselves."""
    moved: list[list[float]]
    """Outputs moved most with their derivatives by delta (Eq. 10)."""
    before: list[float]
    """These outputs at delta = 0."""
    real: list[list[float]]
    """These outputs at each delta."""
    normaliser: list[float] | None = None
    """Logarithm of the sum of the exponentials of all outputs at each delta, where outputs are logits."""


@dataclass(frozen=True, kw_only=True)
class Subnetwork:
    """Everything shown of one subnetwork."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("deltas",)

    id: int
    """Its index."""
    live: bool
    """Whether it was used in the last epoch."""
    p_active: float
    """P_act."""
    norm: float
    """Length of v_out."""
    impact: float
    """Mean over all samples."""
    coherence: list[float]
    """Of its top samples, one for each of the decomposition's baselines."""
    note: str
    """Free text."""
    share: list[float]
    """Of the squared length of v_out, by tensor."""
    nearest: list[list[float]]
    """Subnetworks of largest abs(cos) with their cosines."""
    history: list[float]
    """P_act over the epochs."""
    histogram: dict[str, list[float]]
    """Of impacts: `edges` and `counts`."""
    top: list[Example]
    """Samples of largest impact."""
    random: list[Example]
    """Random other ones."""
    linear: list[float] | None
    """Deltas of the grid between which the linear prediction holds, 0 among them; None if nothing is predicted."""
    deltas: list[float] | None = None
    """Its grid, unless all have one."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """An item with the subnetworks that each of its positions uses."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    item: int
    """Index into the block's items."""
    positions: list[list[list[float]]]
    """For each position live subnetworks with their impacts (Eq. 8), largest first."""
    signed: dict[str, list[float]]
    """Of each of these the impact with its sign at every position, as in `Example`."""


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """A decomposition and its subnetworks."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("weights",)

    name: str
    """Such as 'tuned'."""
    method: str
    """'L3D' or 'APD'."""
    facts: list[list[str]]
    """Name and value."""
    baselines: list[list[Any]]
    """What each coherence is of, and the mean coherence of other directions by name."""
    along: str
    """What the model is pushed along: 'v_out' or 'the component'."""
    signs: bool
    """Whether impacts have a sign."""
    terms: list[list[str]]
    """Terms, such as 'impact', with what they mean here."""
    deltas: list[float] | None
    """The grid, None if each subnetwork has its own."""
    subnetworks: list[Subnetwork]
    """By index."""
    prompts: list[Prompt]
    """Items position by position."""
    weights: dict[str, Any] | None = None
    """`layout`, and `v_in` and `v_out` as base64 of little-endian float32, row by row."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Everything that a page shows."""

    OPTIONAL: ClassVar[tuple[str, ...]] = ("inputs",)

    title: str
    """Of the page."""
    facts: list[list[str]]
    """Name and value: model, data, preset, version, date."""
    kind: str
    """One of `KINDS`."""
    outputs: list[str]
    """Names of the outputs."""
    distribution: bool
    """Whether outputs are logits."""
    tensors: list[str]
    """Names of the decomposed tensors."""
    items: list[Item]
    """Everything that can be shown, once each."""
    decompositions: list[Decomposition]
    """One, or two side by side."""
    matches: list[list[float]]
    """Pairs of subnetworks of two decompositions, with their cosines."""
    inputs: list[str] | None = None
    """Names of the values of vectors."""
    format: int = FORMAT
    """Of the block."""


# Where records lie within records.
_INSIDE = {
    (Block, "items"): Item, (Block, "decompositions"): Decomposition, (Decomposition, "subnetworks"): Subnetwork,
    (Decomposition, "prompts"): Prompt, (Subnetwork, "top"): Example, (Subnetwork, "random"): Example,
}  # fmt: skip


def short(value: float) -> float:
    """Returns a number to four significant digits; NaN and infinities as they are."""
    return float(f"{value:.{DIGITS}g}")


def shortened(values: Sequence[float]) -> list[float]:
    """Returns numbers to four significant digits each."""
    return [short(value) for value in values]


def curve(values: Sequence[float], least: int | None = None) -> list[float]:
    """Returns numbers to as many decimals as tell a thousandth of their range apart.

    For a range in (10^(d-1), 10^d] these are 4 - d. A small change of a large number would be lost in four significant
    digits. Numbers that are all alike are given to four significant digits.

    Args:
        values: The numbers.
        least: Decimals that are kept whatever the range, as logits need whose exponentials are shown; None for none.
    """
    known = [value for value in values if math.isfinite(value)]
    size = max(known) - min(known) if known else 0.0
    if not size > 0 and least is None:
        return shortened(values)
    decimals = DIGITS - math.ceil(math.log10(size)) if size > 0 else least
    decimals = decimals if least is None else max(decimals, least)
    return [round(value, decimals) if math.isfinite(value) else value for value in values]


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Returns a record as dicts, lists, numbers and texts: NaN and infinities as None, whole numbers as such."""
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: _plain(own) for name, own in given.items() if own is not None or name not in value.OPTIONAL}
    if isinstance(value, dict):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, float):
        return None if not math.isfinite(value) else int(value) if value.is_integer() else value
    return value


def to_block(record: Block) -> dict[str, Any]:
    """Returns a record as the plain object that a page is made of."""
    return _plain(record)


def to_json(record: Block) -> str:
    """Returns a record as JSON: names sorted, no spaces, ASCII alone, so that equal records give equal bytes."""
    return dump(to_block(record))


def dump(block: dict[str, Any]) -> str:
    """Returns a plain block as JSON, see `to_json`."""
    return json.dumps(block, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Block:
    """Returns the record that `to_json` wrote; numbers that were NaN or infinite are None.

    Raises:
        ValueError: No JSON, another format, or fields that are missing or unknown.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the block is no whole JSON ({error}); expected one that was written whole.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        got = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"the block has format {got!r}; expected {FORMAT}. Make the result again with this version.")
    return _read(Block, found, "the block")


def _read(kind: type, found: Any, place: str) -> Any:  # noqa: ANN401
    """Returns one record from its plain form."""
    if not isinstance(found, dict):
        raise ValueError(f"{place} is a {type(found).__name__}; expected an object.")
    known = {field.name for field in fields(kind)}
    missing, unknown = known - set(kind.OPTIONAL) - found.keys(), found.keys() - known
    if missing or unknown:
        what = f"lacks {sorted(missing)}" if missing else f"has {sorted(unknown)}"
        raise ValueError(f"{place} {what}; expected the fields of format {FORMAT}. Make the result again.")
    given = dict(found)
    for name in known:
        inner = _INSIDE.get((kind, name))
        if inner:
            given[name] = [_read(inner, one, f"{place}, {name}[{i}]") for i, one in enumerate(found[name])]
    return kind(**given)
