"""Whether a block of data can be shown as a page: what is wrong with it is said before anything is written."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .record import FORMAT, KINDS
from .store import read_layout

_PICTURE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*")
_BLOCK = ("title", "facts", "kind", "outputs", "distribution", "tensors", "items", "decompositions", "matches")
_DECOMPOSITION = ("name", "method", "facts", "baselines", "terms", "along", "signs", "deltas", "subnetworks", "prompts")
_SUBNETWORK = ("id", "live", "p_active", "norm", "impact", "coherence", "note", "share", "nearest", "history",
               "histogram", "top", "random", "linear")  # fmt: skip
_SAMPLE = ("item", "position", "impact", "signed", "moved", "before", "real")

Block = Mapping[str, Any]


def _fail(got: str, expected: str, advice: str) -> None:
    raise ValueError(f"{got}; expected {expected}. {advice}")


def _check_keys(what: str, value: Any, keys: Sequence[str]) -> None:
    """Raises ValueError unless a value is a record with these keys."""
    if not isinstance(value, Mapping):
        _fail(f"{what} is of type {type(value).__name__}", "a record with keys", "Write it again with explore().")
    missing = [key for key in keys if key not in value]
    if missing:
        _fail(f"{what} lacks {', '.join(missing)}", f"the keys {', '.join(keys)}", "Write it again with explore().")


def _check_length(what: str, got: Any, expected: int, of: str) -> None:
    if not isinstance(got, Sequence) or isinstance(got, str) or len(got) != expected:
        size = len(got) if isinstance(got, Sequence) and not isinstance(got, str) else type(got).__name__
        _fail(f"{what} has length {size}", f"{expected}, one per {of}", "Compute the block again; it does not agree.")


def _check_index(what: str, got: Any, size: int, of: str) -> None:
    if not isinstance(got, int) or isinstance(got, bool) or not 0 <= got < size:
        _fail(f"{what} is {got!r}", f"one of the {size} {of}, counted from 0", "Compute the block again.")


def check_block(block: Block) -> None:
    """Returns nothing when a block of data can be shown; says what is wrong with it otherwise.

    Args:
        block: What `record.to_json` wrote, as a dictionary: names, items and one or two decompositions.

    Raises:
        ValueError: Another format, keys that are missing, subnetworks without impacts, lengths that disagree, numbers
            that point at nothing, NaN instead of null.
    """
    if not isinstance(block, Mapping) or block.get("format") != FORMAT:
        got = block.get("format") if isinstance(block, Mapping) else type(block).__name__
        _fail(f"the block has format {got!r}", f"{FORMAT}", "Write it again with this version's explore().")
    _check_keys("the block", block, _BLOCK)
    if block["kind"] not in KINDS:
        _fail(f"kind is {block['kind']!r}", f"one of {', '.join(KINDS)}", "Name what the inputs are.")
    for i, item in enumerate(block["items"]):
        _check_item(f"item {i}", item, block)
    n = len(block["decompositions"])
    if n not in (1, 2):
        _fail(f"the block has {n} decompositions", "1, or 2 to compare", "Pass one result, or two.")
    for decomposition in block["decompositions"]:
        _check_decomposition(decomposition, block)
    _check_matches(block)


def _check_item(what: str, item: Any, block: Block) -> None:
    key = {"tokens": "tokens", "images": "image", "vectors": "values"}[block["kind"]]
    _check_keys(what, item, (key,))
    if key == "tokens":
        for token in item["tokens"]:
            _check_index(f"a token of {what}", token, len(block["outputs"]), "outputs")
    elif key == "image" and not _PICTURE.fullmatch(str(item["image"])):
        got = f"the image of {what} starts {str(item['image'])[:30]!r}"
        _fail(got, "a data: URL of a png, jpeg, webp or gif in base64",
              "Encode the picture into the block; the page loads nothing.")  # fmt: skip
    elif key == "values" and block.get("inputs") is not None:
        _check_length(f"values of {what}", item["values"], len(block["inputs"]), "input")
    if "label" in item:
        _check_length(f"label of {what}", item["label"], _n_positions(item), "position")


def _n_positions(item: Block) -> int:
    return len(item["tokens"]) if "tokens" in item else 1


def _check_decomposition(decomposition: Any, block: Block) -> None:
    what = f"decomposition {decomposition.get('name')!r}" if isinstance(decomposition, Mapping) else "a decomposition"
    _check_keys(what, decomposition, _DECOMPOSITION)
    for term in decomposition["terms"]:
        _check_length(f"a term of {what}", term, 2, "part, its name and its meaning")
    if not isinstance(decomposition["along"], str):
        got = f"along of {what} is {decomposition['along']!r}"
        _fail(got, "a text such as 'v_out'", "Name what the model is pushed along.")
    subnetworks = decomposition["subnetworks"]
    for subnetwork in subnetworks:
        _check_keys(f"a subnetwork of {what}", subnetwork, _SUBNETWORK)
    ids = [subnetwork["id"] for subnetwork in subnetworks]
    if not ids or len(set(ids)) < len(ids):
        got = "no subnetworks" if not ids else "two subnetworks of one id"
        _fail(f"{what} has {got}", "at least one, each with an id of its own", "Decompose the model first.")
    for subnetwork in subnetworks:
        _check_subnetwork(f"subnetwork {subnetwork['id']} of {what}", subnetwork, decomposition, block, set(ids))
    for k, prompt in enumerate(decomposition["prompts"]):
        _check_prompt(f"prompt {k} of {what}", prompt, block, set(ids))
    if decomposition.get("weights") is not None:
        _check_weights(what, decomposition["weights"], max(ids))


def _check_subnetwork(what: str, s: Block, decomposition: Block, block: Block, ids: set[int]) -> None:
    # Not one measured sample and no mean: the impacts were never computed. A mean of NaN comes as null with samples.
    if s["impact"] is None and not s["top"]:
        _fail(f"{what} has no impacts", "the impact of each sample", "Compute them first, with impact().")
    _check_length(f"share of {what}", s["share"], len(block["tensors"]), "tensor")
    if s["coherence"]:
        _check_length(f"coherence of {what}", s["coherence"], len(decomposition["baselines"]), "baseline")
    histogram = s["histogram"]
    _check_keys(f"histogram of {what}", histogram, ("edges", "counts"))
    if histogram["counts"]:
        _check_length(f"edges of the histogram of {what}", histogram["edges"], len(histogram["counts"]) + 1, "edge")
    linear = s["linear"]
    if linear is not None:
        _check_length(f"linear of {what}", linear, 2, "side of 0")
        if not (all(isinstance(x, int | float) for x in linear) and linear[0] <= 0 <= linear[1]):
            _fail(f"linear of {what} is {linear!r}", "a delta of at most 0 and one of at least 0",
                  "Compute the block again.")  # fmt: skip
    unknown = [other for other, _ in s["nearest"] if other not in ids]
    if unknown:
        _fail(f"{what} has {unknown[0]!r} among its nearest", "ids of this decomposition", "Compute the block again.")
    deltas = s.get("deltas") if s.get("deltas") is not None else decomposition["deltas"]
    for group in ("top", "random"):
        for k, sample in enumerate(s[group]):
            _check_sample(f"{group} sample {k} of {what}", sample, deltas or [], block)


def _check_sample(what: str, sample: Any, deltas: Sequence[float], block: Block) -> None:
    _check_keys(what, sample, _SAMPLE)
    _check_index(f"item of {what}", sample["item"], len(block["items"]), "items")
    n = _n_positions(block["items"][sample["item"]])
    _check_index(f"position of {what}", sample["position"], n, "positions")
    _check_length(f"signed of {what}", sample["signed"], n, "position")
    for output, _ in sample["moved"]:
        _check_index(f"a moved output of {what}", output, len(block["outputs"]), "outputs")
    _check_length(f"before of {what}", sample["before"], len(sample["moved"]), "moved output")
    if sample["real"]:
        _check_length(f"real of {what}", sample["real"], len(deltas), "delta")
        for row in sample["real"]:
            _check_length(f"a row of real of {what}", row, len(sample["moved"]), "moved output")
    if sample.get("normaliser") is not None:
        _check_length(f"normaliser of {what}", sample["normaliser"], len(deltas), "delta")


def _check_prompt(what: str, prompt: Any, block: Block, ids: set[int]) -> None:
    _check_keys(what, prompt, ("item", "positions", "signed"))
    _check_index(f"item of {what}", prompt["item"], len(block["items"]), "items")
    n = _n_positions(block["items"][prompt["item"]])
    _check_length(f"positions of {what}", prompt["positions"], n, "position")
    used = {other for uses in prompt["positions"] for other, _ in uses}
    for other in used - ids:
        _fail(f"{what} names subnetwork {other!r}", "ids of this decomposition", "Compute the block again.")
    _check_keys(f"signed of {what}", prompt["signed"], [str(other) for other in sorted(used)])
    for other, values in prompt["signed"].items():
        _check_length(f"signed of subnetwork {other} of {what}", values, n, "position")


def _check_weights(what: str, weights: Any, last: int) -> None:
    _check_keys(f"weights of {what}", weights, ("layout", "v_in", "v_out"))
    _check_keys(f"layout of the weights of {what}", weights["layout"], ("form", "tensors"))
    row = 4 * read_layout(weights["layout"]).n_numbers
    for key in ("v_in", "v_out"):
        size = len(base64.b64decode(weights[key], validate=True))
        if size % row or size < row * (last + 1):
            _fail(f"{key} of {what} has {size} bytes", f"{row} for each of at least {last + 1} rows",
                  "Store float32 in the layout beside it.")  # fmt: skip


def _check_matches(block: Block) -> None:
    if len(block["decompositions"]) == 1 and block["matches"]:
        _fail("the block has matches and one decomposition", "two, or no matches", "Pass the other one too.")
    for match in block["matches"]:
        for side, name in enumerate(match[:2]):
            ids = {subnetwork["id"] for subnetwork in block["decompositions"][side]["subnetworks"]}
            if name not in ids:
                _fail(f"a match names subnetwork {name!r}", f"an id of decomposition {side}", "Match them again.")
