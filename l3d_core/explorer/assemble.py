"""Putting together what was measured of a decomposition: the block that a page is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .explored import Explored, cosines, shares
from .labels import coherences
from .record import Block, Decomposition, Example, Prompt, Subnetwork, short, shortened
from .samples import Shown, histogram, numbered, pool
from .settings import TOLERANCE, ExplorerSettings
from .store import weights_facts

# Neighbours of a subnetwork, and most points of a history.
N_NEAREST, N_HISTORY = 5, 100


class Measured(NamedTuple):
    """What is known of all subnetworks before any is pushed.

    Attributes:
        absolute: Impacts `[n_s, n_v]` (paper Eq. 8).
        signed: With their sign `[n_s, n_v]`.
        top: Samples of largest impact `[n_v, n_top]`.
        random: Random ones by subnetwork.
        others: Impacts of other directions by name `[n_s, n_v]`.
        middle: The mean output over all samples `[n_o]`.
    """

    absolute: Tensor
    signed: Tensor
    top: Tensor
    random: list[list[int]]
    others: dict[str, Tensor]
    middle: Tensor

    @property
    def n_v(self) -> int:
        """Number of subnetworks."""
        return self.absolute.shape[1]


def nearest(cosine: Tensor) -> list[list[list[float]]]:
    """Returns the subnetworks of largest abs(cos) to each with their cosines, at most five.

    Args:
        cosine: Of all with all `[n_v, n_v]`.
    """
    size = cosine.abs().fill_diagonal_(-1)
    order = size.argsort(dim=1, descending=True, stable=True)[:, : min(N_NEAREST, len(cosine) - 1)]
    return [[[w, short(float(cosine[v, w]))] for w in row] for v, row in enumerate(order.tolist())]


def thinned(history: Tensor) -> Tensor:
    """Returns at most a hundred rows of a history, equally far apart, the last one among them, `[n, n_v]`."""
    n = len(history)
    if n <= N_HISTORY:
        return history
    return history[torch.linspace(0, n - 1, N_HISTORY, dtype=torch.float64).round().long()]


def prompts(
    absolute: Tensor, signed: Tensor, live: Tensor, asked: Sequence[int], n: int, items: Mapping[int, int], n_used: int
) -> list[Prompt]:  # fmt: skip
    """Returns items with the live subnetworks of largest impact at every position, none of which is 0.

    Args:
        absolute: Impacts `[n_s, n_v]`.
        signed: With their sign `[n_s, n_v]`.
        live: Which subnetworks are `[n_v]`.
        asked: The items.
        n: Samples of an item.
        items: Where each item lies in the block.
        n_used: Subnetworks at each position.
    """
    found = []
    for number in asked:
        own = slice(number * n, (number + 1) * n)
        impact = torch.where(live & absolute[own].isfinite(), absolute[own], 0.0)
        order = impact.argsort(dim=1, descending=True, stable=True)[:, :n_used].tolist()
        positions = [
            [[v, short(float(row[v]))] for v in used if row[v] > 0] for row, used in zip(impact, order, strict=True)
        ]
        used = sorted({v for row in positions for v, _ in row})
        along = {str(v): shortened(signed[own, v].tolist()) for v in used}
        found.append(Prompt(item=items[number], positions=positions, signed=along))
    return found


def subnetworks(
    explored: Explored, notes: Mapping[int, str], measured: Measured, coherence: Tensor,
    pushed: Sequence[Mapping[str, Any]], items: Mapping[int, int],
) -> list[Subnetwork]:  # fmt: skip
    """Returns everything shown of each subnetwork.

    Args:
        explored: The decomposition.
        notes: By subnetwork.
        measured: Impacts and samples.
        coherence: Of each in every kind of label `[n_v, n_labels]`.
        pushed: Grid, reach of lines and examples of each, whose items are those of all samples.
        items: Where each of these lies in the block.
    """
    norms, share = explored.v_out.norms().detach().cpu().tolist(), shares(explored.v_out)
    near, history = nearest(cosines(explored.v_out, explored.v_out)), thinned(explored.history)
    p_active = explored.p_active.cpu()
    means = torch.where(measured.absolute.isfinite(), measured.absolute.double(), math.nan).nanmean(0)
    found = []
    for v, own in enumerate(pushed):
        examples = [Example(**{**example, "item": items[example["item"]]}) for example in own["examples"]]
        n_top = len(measured.top[v])
        found.append(Subnetwork(
            id=v, live=bool(p_active[v] > 0), p_active=short(float(p_active[v])), norm=short(norms[v]),
            impact=short(float(means[v])), coherence=shortened(coherence[v].tolist()), note=notes.get(v, ""),
            share=shortened(share[v].tolist()), nearest=near[v], history=shortened(history[:, v].double().tolist()),
            histogram=histogram(measured.absolute[:, v]), top=examples[:n_top], random=examples[n_top:],
            linear=own["linear"], deltas=own["deltas"] if explored.grid is None else None,
        ))  # fmt: skip
    return found


def block_of(
    explored: Explored, shown: Shown, settings: ExplorerSettings, told: Mapping[str, Any], notes: Mapping[int, str],
    measured: Measured, pushed: Sequence[Mapping[str, Any]], facts: Mapping[str, Any],
) -> Block:  # fmt: skip
    """Returns the whole block of one decomposition.

    Args:
        explored: The decomposition.
        shown: What a reader sees of its inputs.
        settings: How much was computed.
        told: Title of the page, name of the decomposition, and facts.
        notes: By subnetwork.
        measured: Impacts and samples.
        pushed: See `subnetworks`.
        facts: Provenance.
    """
    n = len(measured.absolute) // shown.n_positions
    per_input = shown.n_positions // shown.per_item
    asked = [text * per_input + i for text in pool(n, settings) for i in range(per_input)][: settings.n_prompts]
    used = {example["item"] for own in pushed for example in own["examples"]} | set(asked)
    items = {number: i for i, number in enumerate(sorted(used))}
    labels = {kind: numbered(of) for kind, of in shown.labels.items()}
    coherence, baselines = coherences(measured.absolute, measured.others, measured.top, labels, shown.n_positions)
    decomposition = Decomposition(
        name=told["name"], method=explored.method, facts=[list(pair) for pair in explored.facts],
        baselines=[[kind, {name: short(mean) for name, mean in means.items()}] for kind, means in baselines],
        along=explored.along, signs=explored.signs,
        terms=[*map(list, explored.terms), *_terms(settings, explored, list(labels))],
        deltas=None if explored.grid is None else list(explored.grid),
        subnetworks=subnetworks(explored, notes, measured, coherence, pushed, items),
        prompts=prompts(
            measured.absolute, measured.signed, explored.p_active.cpu() > 0, asked, shown.per_item, items,
            settings.n_used,
        ),
        weights=_carried(explored, settings),
    )  # fmt: skip
    return Block(
        title=told["title"], facts=_stated(told, str(len(measured.absolute)), facts), kind=shown.kind,
        outputs=list(shown.names), distribution=explored.distribution, tensors=explored.parameters,
        items=[shown.item(number) for number in sorted(used)],
        decompositions=[decomposition], matches=[], inputs=shown.input_names and list(shown.input_names),
    )  # fmt: skip


def _stated(told: Mapping[str, Any], n: str, facts: Mapping[str, Any]) -> list[list[str]]:
    """Returns the facts of a page: what is told, samples, and version and date of the run."""
    made = [["samples", n], ["version", facts["version"]], ["date", facts["date"]]]
    return [*map(list, told["facts"]), *made]


def retold(block: Block, told: Mapping[str, Any], notes: Mapping[int, str], facts: Mapping[str, Any]) -> Block:
    """Returns a block with another title, name, facts and notes, all else being as it was.

    Args:
        block: The block, of one decomposition.
        told: See `block_of`.
        notes: By subnetwork.
        facts: Provenance.
    """
    [own] = block.decompositions
    noted = [replace(subnetwork, note=notes.get(subnetwork.id, "")) for subnetwork in own.subnetworks]
    stated = _stated(told, dict(map(tuple, block.facts))["samples"], facts)
    named = replace(own, name=told["name"], subnetworks=noted)
    return replace(block, title=told["title"], facts=stated, decompositions=[named])


def _carried(explored: Explored, settings: ExplorerSettings) -> dict[str, Any] | None:
    """Returns the directions that a page carries, None if they are too many."""
    mib = (explored.v_in.flat.numel() + explored.v_out.flat.numel()) * 4 / 2**20
    return weights_facts(explored.v_in, explored.v_out) if mib <= settings.weights_mib else None


def _terms(settings: ExplorerSettings, explored: Explored, labels: Sequence[str]) -> list[list[str]]:
    """Returns what terms mean that all methods share, and where a grid ends."""
    far = f"by {settings.divergence:g} nat of KL divergence" if explored.distribution else (
        f"by {settings.change:g} times their own distance from the mean output (root mean square)"
    )  # fmt: skip
    told = [["outputs moved most", (
        "Those of the sample whose derivatives by delta at the trained weights are largest (Eq. 10 of the L3D paper); "
        "further out others may move more."
    )], ["linear prediction", (
        "Delta times the derivative of an output by delta at the trained weights. It holds as long as it misses the "
        f"change of the most moved output by at most {100 * TOLERANCE:g} % of that change, in the median over a "
        "subnetwork's top samples, at this and all smaller deltas of the same sign that were tried."
    )]]  # fmt: skip
    if explored.grid is None:
        ends = f"Where the outputs on a subnetwork's own top samples have moved {far}, in the mean of both ends."
        told.append(["end of the slider", ends])
    told.append(["nearest", f"Subnetworks with the largest |cosine| of {explored.along}."])
    if labels and settings.n_samples > 1:
        told.append(["coherence", (
            "Share of the pairs of a subnetwork's top samples that have the same label; the list shows that of "
            f"{labels[0]!r}. For comparison: means of other directions, where there are any (random ones, principal "
            "directions of the gradients, those that training began with), and of random samples."
        )])  # fmt: skip
    return told
