"""What an explorer needs to know of a decomposition, whatever method made it, and impacts of L3D's directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoints import write_whole
from ..divergences import Divergence
from ..gradients import build_target, sample_gradients, target_outputs
from ..references import draw_partners, reference_outputs
from ..training import L3D
from ..tucker import TuckerDirections, two_factors

# Directions times numbers of one tensor that are formed at once.
NUMBERS = 2**26


TERMS = (
    ("impact", "Of a sample: its outputs diverge from those of other samples, and the gradient of that divergence by "
               "the weights is measured along v_in of the subnetwork. Impact is the mean over other samples of the "
               "absolute value (Eqs. 7 and 8 of the L3D paper); beside it stands the mean with its sign. Of a "
               "subnetwork: the mean over samples."),
    ("sign of impact", "Positive where a step along v_in raises the divergence from the other samples, to first order "
                       "and in the mean; negative where it lowers it. Which outputs rise it does not tell; the push "
                       "does. Turning v_in and v_out round together gives the same decomposition, all signs turned."),
    ("delta", "How much of v_out is added to the trained weights."),
    ("P_act", "Share of samples for which the subnetwork was used, its coefficient being among the largest share k of "
              "all, in the last epoch of training. One that was used for none is dead, the others are live."),
)  # fmt: skip


class Scores(NamedTuple):
    """Impacts of directions on samples, positions of a text being samples of their own, `[n_s, n_v]` each.

    Attributes:
        absolute: Mean over references of the absolute value (paper Eq. 8).
        signed: Mean over references of Eq. 7 itself.
    """

    absolute: Tensor
    signed: Tensor


# Takes inputs, rows of other directions to score as well, references, a seed, inputs at once, a scratch folder (or
# None) and whether to show a bar.
Scoring = Callable[[Tensor, Tensor | None, int, int, int, Path | None, bool], Scores]


@dataclass(frozen=True)
class Explored:
    """A decomposition to be explored.

    Attributes:
        model: The target, in evaluation mode.
        v_in: What impacts are measured with.
        v_out: What the model is pushed along; rows are subnetworks.
        score: Gives impacts, see `Scoring`.
        p_active: Share of samples that each subnetwork is used for `[n_v]`.
        history: The same over epochs `[epochs, n_v]`.
        method: 'L3D' or 'APD'.
        terms: Terms with what they mean of this method: impact, delta, P_act.
        along: What the model is pushed along, in words.
        signs: Whether impacts have a sign; signed ones are else the same.
        facts: Name and value of its settings.
        distribution: Whether the model's outputs are logits.
        grid: Deltas to push by, 0 among them; None for a grid of each subnetwork's own.
    """

    model: nn.Module
    v_in: TuckerDirections
    v_out: TuckerDirections
    score: Scoring
    p_active: Tensor
    history: Tensor
    method: str
    terms: Sequence[tuple[str, str]]
    along: str = "v_out"
    signs: bool = True
    facts: Sequence[tuple[str, str]] = field(default=())
    distribution: bool = False
    grid: tuple[float, ...] | None = None

    @property
    def parameters(self) -> list[str]:
        """Names of the decomposed parameters."""
        return list(self.v_out.layout.shapes)

    def alone(self, v: int) -> Explored:
        """Returns the decomposition with one subnetwork, so that no other is formed."""
        return replace(self, v_out=TuckerDirections(self.v_out.layout, self.v_out.flat[v : v + 1]))


def of_l3d(l3d: L3D) -> Explored:
    """Returns what an explorer needs to know of a decomposition by L3D."""
    config, kl = l3d.config, l3d.divergence.name == "kl"
    rank = f"{config.rank:g} of each axis" if isinstance(config.rank, float) else str(config.rank)
    facts = [
        ("divergence", l3d.divergence.name), ("subnetworks, n_v", str(config.n_v)),
        ("used share, k", f"{config.k_fraction:g}"), ("rank", rank),
        ("epochs", str(len(l3d.history.p_active))), ("seed", str(l3d.seed)),
    ]  # fmt: skip
    score = partial(_l3d_scores, l3d.model, l3d.v_in.matrix, l3d.divergence, l3d.parameters)
    p_active, history = (t.detach().cpu() for t in (l3d.p_active, l3d.history.p_active))
    return Explored(
        l3d.model, l3d.v_in, l3d.v_out, score, p_active, history, "L3D", TERMS, facts=facts, distribution=kl
    )


def _l3d_scores(
    model: nn.Module, rows: Callable[[], Tensor], divergence: Divergence, parameters: Sequence[str],
    inputs: Tensor, others: Tensor | None, n_references: int, seed: int, chunk_size: int, scratch: Path | None,
    progress: bool,
) -> Scores:  # fmt: skip
    """Returns impacts of L3D's directions and of others behind them; see `Scoring`."""
    v_in = rows() if others is None else torch.cat([rows(), others])
    return impacts(
        model, inputs, v_in, divergence, parameters, n_references=n_references, seed=seed, chunk_size=chunk_size,
        scratch=scratch, progress=progress,
    )  # fmt: skip


def impacts(
    model: nn.Module, inputs: Tensor, v_in: Tensor, divergence: Divergence, parameters: Sequence[str],
    *, n_references: int = 10, seed: int = 0, chunk_size: int = 32, scratch: Path | None = None,
    progress: bool = False,
) -> Scores:  # fmt: skip
    """Returns impacts with and without their sign (paper Eqs. 7-8), going on where an earlier call was stopped.

    `intervention.impact` gives the same absolute ones.

    Args:
        model: The target.
        inputs: `[n, ...]`; references are outputs of other samples among them, drawn with replacement.
        v_in: Encoder directions as rows `[n_v, n_w]`.
        divergence: Whose gradients are taken.
        parameters: Names of the decomposed parameters.
        n_references: References to average over.
        seed: Seeds the references.
        chunk_size: Inputs whose gradients are formed at once.
        scratch: Folder for what is done, one reference at a time; None to keep nothing.
        progress: Show a bar on standard error.

    Returns:
        Impacts on the CPU.
    """
    target = build_target([model], parameters)
    y = torch.cat([target_outputs(target, x[None]) for x in inputs.split(chunk_size)], 1)
    flat, generator = y.flatten(1, 2), torch.Generator().manual_seed(seed)
    kept = None if scratch is None else scratch / "impacts"
    state = {name: torch.zeros(flat.shape[1], len(v_in), dtype=v_in.dtype) for name in Scores._fields}
    state["done"] = torch.zeros(1, dtype=torch.long)
    if kept is not None and kept.exists():
        state = load_file(kept)
    for i in tqdm(range(n_references), disable=not progress, desc="impacts", unit="reference"):
        partners = draw_partners(1, flat.shape[1], generator)
        if i < int(state["done"]):
            continue
        cotangents = divergence.cotangent(flat, reference_outputs(flat, "sample", partners=partners)).reshape(y.shape)
        at = 0
        for x, c in zip(inputs.split(chunk_size), cotangents[0].split(chunk_size), strict=True):
            z = (sample_gradients(target, x[None], c[None])[0] @ v_in.mT).cpu()
            state["absolute"][at : at + len(z)] += z.abs()
            state["signed"][at : at + len(z)] += z
            at += len(z)
        state["done"] += 1
        if kept is not None:
            write_whole(kept, partial(save_file, state))
    return Scores(state["absolute"] / n_references, state["signed"] / n_references)


def _tensors(directions: TuckerDirections) -> Mapping[str, Tensor]:
    """Returns each tensor's own part of the numbers, by name."""
    layout = directions.layout
    sizes = [sum(torch.Size(piece).numel() for piece in pieces) for pieces in layout.pieces.values()]
    return dict(zip(layout.shapes, directions.flat.split(sizes, -1), strict=True))


def shares(directions: TuckerDirections) -> Tensor:
    """Returns the share of each tensor in the squared length of each direction, `[n_v, n_tensors]`.

    That of tensor t is `|v_t|^2 / sum_u |v_u|^2`, from factors alone; 0 for a direction of length 0.
    """
    squares = []
    for name, numbers in _tensors(directions).items():
        p, q = two_factors(directions.layout, name, numbers)
        squares.append(((p @ p.mT) * (q @ q.mT)).sum((-2, -1)).clamp_min(0))
    each = torch.stack(squares, -1).detach().cpu().double()
    total = each.sum(-1, keepdim=True)
    return each / torch.where(total > 0, total, 1)


def cosines(a: TuckerDirections, b: TuckerDirections) -> Tensor:
    """Returns the cosines of two sets of directions in the same tensors, `[n_a, n_b]`; 0 for a direction of length 0.

    Directions are formed one tensor and some rows at a time.
    """
    total = torch.zeros(a.n_v, b.n_v, dtype=torch.float64)
    for (name, own), other in zip(_tensors(a).items(), _tensors(b).values(), strict=True):
        rows = max(1, NUMBERS // max(1, torch.Size(a.layout.shapes[name]).numel()))
        for i, left in enumerate(own.split(rows)):
            p, q = two_factors(a.layout, name, left)
            dense = (p.mT @ q).flatten(1).double()
            for j, right in enumerate(other.split(rows)):
                p, q = two_factors(b.layout, name, right)
                part = dense @ (p.mT @ q).flatten(1).double().mT
                total[i * rows : i * rows + len(left), j * rows : j * rows + len(right)] += part.detach().cpu()
    lengths = [side.norms().detach().cpu().double() for side in (a, b)]
    left, right = (torch.where(length > 0, 1 / length, 0) for length in lengths)
    return (total * left[:, None] * right).clamp(-1, 1)
