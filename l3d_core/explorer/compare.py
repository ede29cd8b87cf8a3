"""Two results of one model side by side: their items in one list, their subnetworks matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .explored import cosines
from .record import Block, Decomposition, Example, Item, short
from .store import Result

# What two results have to share, and what it is called.
SAME = {"weights": "model", "inputs": "inputs", "shown": "samples, names and labels", "kind": "kind of samples"}


def check_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises unless two results are of one model, the same parameters and the same samples.

    Args:
        one: Configuration of a result.
        other: That of another.

    Raises:
        ValueError: They are not.
    """
    for key, what in SAME.items():
        if one[key] != other[key]:
            raise ValueError(
                f"the two results differ in their {what}; expected decompositions of one model, explored on the same "
                "samples with the same names and labels. Call explore for both with the same arguments."
            )
    shapes = [{row[0]: row[1] for row in config["layout"]["tensors"]} for config in (one, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the two results decompose the tensors {list(shapes[0])} and {list(shapes[1])}; expected the same ones."
        )


def matched(cosine: Tensor) -> list[list[float]]:
    """Returns the pairs of two sets of subnetworks that have the largest total abs(cos) (Hungarian algorithm).

    Args:
        cosine: Of all pairs `[n_a, n_b]`.

    Returns:
        Index in either set and cosine of each of the min(n_a, n_b) pairs; those of cosine 0 are left out.
    """
    rows, columns = linear_sum_assignment(cosine.abs().numpy(), maximize=True)
    pairs = [[int(i), int(j), short(float(cosine[i, j]))] for i, j in zip(rows, columns, strict=True)]
    return [pair for pair in pairs if pair[2] != 0]


def beside(one: Result, other: Result) -> Block:
    """Returns what a page shows of two results, the first with the title and the facts.

    Args:
        one: A result.
        other: Another one, see `check_same`.

    Raises:
        ValueError: They are not of one model, the same parameters and the same samples.
    """
    check_same(one.config, other.config)
    items: list[Item] = list(one.block.items)
    places = {_key(item): i for i, item in enumerate(items)}
    moved = []
    for item in other.block.items:
        if _key(item) not in places:
            places[_key(item)] = len(items)
            items.append(item)
        moved.append(places[_key(item)])
    [first], [second] = one.block.decompositions, other.block.decompositions
    if first.name == second.name:
        second = replace(second, name=f"{second.name} (2)")
    pairs = matched(cosines(one.v_out, other.v_out))
    return replace(one.block, items=items, decompositions=[first, _renumbered(second, moved)], matches=pairs)


def _key(item: Item) -> str:
    """Returns what tells items apart: everything there is to see of them."""
    return repr(item)


def _renumbered(decomposition: Decomposition, places: Sequence[int]) -> Decomposition:
    """Returns a decomposition whose items lie elsewhere."""

    def examples(own: list[Example]) -> list[Example]:
        return [replace(example, item=places[example.item]) for example in own]

    found = [replace(s, top=examples(s.top), random=examples(s.random)) for s in decomposition.subnetworks]
    prompts = [replace(prompt, item=places[prompt.item]) for prompt in decomposition.prompts]
    return replace(decomposition, subnetworks=found, prompts=prompts)
