"""The gradients of an epoch's batches, arranged for the step: made from factors where they come so, whole where not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bundles import Bundle
from .directions import Rows
from .factors import Linearised
from .gradients import Target, sample_gradients, split_parameters
from .references import reference_outputs
from .runs import Block, EpochDraws, Program
from .step import Batch
from .streams import draw_epoch


def _take(values: Tensor, chosen: Tensor, rooms: dict | None = None, name: str = "") -> Tensor:
    """Returns rows of `[n_sources or 1, n, ...]` chosen for each source by `[n_sources, m]`, in a buffer if named."""
    if values.shape[0] > 1:
        chosen = chosen + torch.arange(len(values), device=values.device)[:, None] * values.shape[1]
    shape = (*chosen.shape, *values.shape[2:])
    out = None if rooms is None else _room(rooms, (name, *shape), values).flatten(0, 1)
    return torch.index_select(values.flatten(0, 1), 0, chosen.flatten(), out=out).view(shape)


def _cotangents(program: Program, draws: EpochDraws, i: int, y: Tensor) -> Tensor:
    """Returns dD/dy of the samples of block i (Alg. 1 lines 4-5), from their outputs, in the same shape.

    Where the model's last layer is cut off, y is what that layer gets, and so is what is returned.
    """
    block, head = program.blocks[i], program.head
    chosen = draws.order[:, block.inputs]
    shape = (len(y), block.n_batches, block.size * program.n_positions, y.shape[-1])
    if head is not None:
        own, other = (_take(part, chosen).reshape(shape) for part in head)
        kind = program.groups[0].kind
        return (own - reference_outputs(other, kind, partners=draws.partners[i])).reshape(y.shape)
    samples = y.reshape(shape)
    cotangents, one = torch.empty_like(samples), len(program.groups) == 1
    for group in program.groups:
        part = samples if one else samples[group.index]
        if group.kind == "given":
            y_ref = _take(program.references[group.index], chosen[group.index]).reshape(part.shape)
        else:
            probabilities = group.divergence.name == "kl"
            partners = draws.partners[i] if one else draws.partners[i][group.index]
            y_ref = reference_outputs(part, group.kind, partners=partners, probabilities=probabilities)
        found = group.divergence.cotangent(part, y_ref)
        if one:
            return found.reshape(y.shape)
        cotangents[group.index] = found
    return cotangents.reshape(y.shape)


class Gradients:
    """The gradients of an epoch, block by block (Alg. 1 lines 3-6).

    Where the model runs forward once for the whole training, the epoch's backward pass is one too.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.bundles, self.made = program, program.plan.bundles, None
        self.rooms: dict[tuple, Tensor] = {}

    def draw_(self, draws: EpochDraws) -> None:
        """Starts an epoch."""
        self.draws, program = draws, self.program
        if program.linear is None:
            return
        y = program.linear.outputs
        ordered = _take(y, draws.order, self.rooms, "outputs")
        parts = [_cotangents(program, draws, i, ordered[:, b.inputs]) for i, b in enumerate(program.blocks)]
        places = torch.arange(ordered.shape[1], device=y.device).expand_as(draws.order)
        places = torch.empty_like(draws.order).scatter_(1, draws.order, places)  # Of each input in the order.
        cotangents = _take(torch.cat(parts, 1), places, self.rooms, "cotangents")
        made = self._factors(program.linear, cotangents)
        self.made = [
            (_take(left, draws.order, self.rooms, f"left {i}"), _take(right, draws.order, self.rooms, f"right {i}"))
            for i, (left, right) in enumerate(made)
        ]

    def _chosen(self, i: int) -> Tensor:
        """Returns the inputs of block i, `[n_sources, n]`."""
        return self.draws.order[:, self.program.blocks[i].inputs]

    def _factors(self, linear: Linearised, cotangents: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Returns each bundle's factors, left and right; None for one whose gradients come whole."""
        pulled = linear.pull(cotangents) if any(b.factored for b in self.bundles) else []
        return [_sides(b, linear, pulled, self.program, self.rooms) if b.factored else None for b in self.bundles]

    def batches(self, i: int) -> list[Batch]:
        """Returns the gradients of the batches of block i."""
        program, chosen, made = self.program, self._chosen(i), self.made
        if made is None:
            x = _take(program.inputs, chosen)
            if program.prefix is not None:
                program.prefix.at(chosen.flatten())
            linear = Linearised(program.target if program.prefix is None else program.prefix.target, program.uses, x)
            cotangents = _cotangents(program, self.draws, i, linear.outputs)
            made = self._factors(linear, cotangents)
            whole = _whole_gradients(program, x, cotangents)
        else:
            made = [tuple(side[:, program.blocks[i].inputs] for side in sides) for sides in made]
        block, rows, total = program.blocks[i], [], 0
        for bundle, parts in zip(self.bundles, made, strict=True):
            if parts is None:
                of_bundle, squares = _whole_rows(bundle, whole, block, program)
            else:
                of_bundle, squares = _factor_rows(bundle, *parts, block, program, self.rooms)
            rows.append(of_bundle)
            total = total + squares
        sizes = program.plan.sizes
        if sizes.n_shared > 1:
            total = total.repeat_interleave(sizes.n_shared, 1)
        nothing = total < torch.finfo(total.dtype).tiny  # Too little to divide by.
        present = (~nothing).to(total)
        inverse = 1 / total.masked_fill(nothing, 1)
        slope = (2 * inverse)[..., None, None]
        return [
            Batch(list(of_batch), block.size, *facts)
            for of_batch, *facts in zip(zip(*rows, strict=True), inverse, present, slope, strict=True)
        ]


def _sides(
    bundle: Bundle, linear: Linearised, pulled: list[Tensor], program: Program, rooms: dict
) -> tuple[Tensor, Tensor]:
    """Returns the factors of a bundle's tensors side by side, padded.

    Returns:
        Left `[n_sources, n, n_tensors, n_positions * n_rows, left]`: output gradients; and right
        `[n_sources, n, n_tensors, n_rows, right]`: activations; or the other way round where a tensor of one
        row is turned.
    """
    n_sources, n = program.plan.sizes.n_sources, linear.lead[1]
    lengths = {"left": bundle.left, "right": bundle.right}
    sides = {}
    for k, name in enumerate(bundle.names):
        gradients, activations = linear.factors(pulled, name)
        parts = [("left", gradients.flatten(2, 3), False), ("right", activations, program.linear is not None)]
        if bundle.swapped[k] != (program.facts[name].left_axis == 1):
            parts = [("right", *parts[0][1:]), ("left", *parts[1][1:])]
        for side, part, fixed in parts:
            key = (bundle.names[0], side, n_sources, n, bundle.n_tensors, part.shape[2], lengths[side])
            sides[side] = _room(rooms, key, part)
            if fixed and (key, k) in rooms:  # Activations of a forward pass that is kept for good.
                continue
            sides[side][:, :, k, :, : part.shape[-1]] = part
            rooms[key, k] = sides[side]
    return sides["left"], sides["right"]


def _factor_rows(
    bundle: Bundle, left: Tensor, right: Tensor, block: Block, program: Program, rooms: dict
) -> tuple[list[Rows], Tensor]:
    """Returns a bundle's rows for each batch of a block, and the batches' sums of squares `[n_batches, n_sources]`."""
    split, s = (block.n_batches, block.size), bundle.n_rows
    operand = program.plan.operand_dtype or program.dtype
    if bundle.path == "dense":
        return _dense_rows(bundle, left, right, split, operand, rooms)
    if s == 1:
        squares = (torch.linalg.vector_norm(left, dim=-1) * torch.linalg.vector_norm(right, dim=-1)).square_()
    else:
        each = left.unflatten(3, (-1, s))
        squares = (each @ each.mT).mul_((right @ right.mT).unsqueeze(3)).flatten(3)
    rows = []
    for side in (left, right):
        # [n_batches, n_sources, n_tensors, n_inputs, positions and rows, length]
        shape = (block.n_batches, len(side), side.shape[2], block.size, *side.shape[3:])
        room = _room(rooms, (bundle.names[0] + "lr"[len(rows)], *shape), side)
        room.permute(1, 0, 3, 2, 4, 5).copy_(side.unflatten(1, split))
        rows.append(room.flatten(3, 4).flatten(1, 2).to(operand).mT)
    return list(zip(*rows, strict=True)), squares.unflatten(1, split).flatten(2).sum(-1).T


def _dense_rows(
    bundle: Bundle, left: Tensor, right: Tensor, split: tuple[int, int], operand: torch.dtype, rooms: dict
) -> tuple[list[Rows], Tensor]:
    """Returns what `_factor_rows` does, the products of the factors written out."""
    n_sources, n_tensors, s = len(left), bundle.n_tensors, bundle.n_rows
    left = left.unflatten(3, (-1, s)).unflatten(1, split)  # [n_sources, *split, n_tensors, n_positions, n_rows, L]
    right = right.unflatten(1, split)
    n_positions, area = left.shape[4], n_tensors * bundle.left * bundle.right
    if s > 1:
        shape = (split[0], n_sources, split[1], n_positions, n_tensors, bundle.left, bundle.right)
        g = _room(rooms, (bundle.names[0], *shape), left)
        torch.matmul(left.mT, right.unsqueeze(4), out=g.permute(1, 0, 2, 4, 3, 5, 6))
        g = g.view(split[0], n_sources, -1, area).mT
    else:  # With the samples last, products of single rows are long loops.
        shape = (split[0], n_sources, n_tensors, bundle.left, bundle.right, split[1], n_positions)
        g = _room(rooms, (bundle.names[0], *shape), left)
        left = left.squeeze(5).permute(1, 0, 3, 5, 2, 4).contiguous().unsqueeze(4)
        right = right.permute(1, 0, 3, 5, 2, 4).contiguous().unsqueeze(3)
        torch.mul(left, right, out=g)
        g = g.view(split[0], n_sources, area, -1)
    return list(g.to(operand)), torch.linalg.vector_norm(g, dim=(2, 3)).square_()


def _room(rooms: dict, key: tuple, like: Tensor) -> Tensor:
    """Returns a buffer that is made once; fresh memory costs more than what is written to it."""
    if key not in rooms:
        rooms[key] = like.new_zeros([n for n in key if isinstance(n, int)])
    return rooms[key]


def _whole_gradients(program: Program, x: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of tensors that only come whole, `[n_sources, n_s, *shape]`."""
    target = program.target
    names = [name for bundle in program.plan.bundles if not bundle.factored for name in bundle.names]
    if not names:
        return {}
    others = {name: w for name, w in target.w0.items() if name not in names}
    part = Target(target.module, {name: target.w0[name] for name in names}, target.rest | others)
    return split_parameters(sample_gradients(part, x, cotangents, program.plan.chunk_size), part.shapes)


def _whole_rows(bundle: Bundle, whole: dict[str, Tensor], block: Block, program: Program) -> tuple[list[Rows], Tensor]:
    """Returns what `_factor_rows` does, for gradients that come whole."""
    n_sources, n_s = program.plan.sizes.n_sources, block.size * program.n_positions
    like = whole[bundle.names[0]]
    g = like.new_zeros(block.n_batches, n_sources, n_s, bundle.n_tensors, bundle.left, bundle.right)
    for k, name in enumerate(bundle.names):
        sides = _sides_of(program.layout.shapes[name])
        part = whole[name].reshape(n_sources, block.n_batches, n_s, *sides).transpose(0, 1)
        part = part.mT if bundle.swapped[k] else part
        g[:, :, :, k, : part.shape[-2], : part.shape[-1]] = part
    squares = g.square().flatten(2).sum(-1)
    return list(g.flatten(3).mT.to(program.plan.operand_dtype or program.dtype)), squares


def _sides_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns a tensor's shape as a matrix: first axis against the others."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def preflight(program: Program, state: dict[str, Tensor]) -> None:
    """Raises ValueError if some run's gradients are zero for every sample of the first epoch."""
    gradients = Gradients(program)
    gradients.draw_(draw_epoch(program, dict(state)))
    silent = torch.ones(len(program.runs), dtype=torch.bool, device=program.device)
    for i in range(len(program.blocks)):
        for batch in gradients.batches(i):
            if not (torch.isfinite(batch.inverse) & (batch.inverse > 0)).all():
                raise ValueError(
                    "some per-sample gradients are NaN or infinite; expected finite. Check model and inputs."
                )
            silent &= batch.present == 0
        if not silent.any():
            return
    r = int(silent.nonzero()[0])
    raise ValueError(
        f"every per-sample gradient of run {program.places[r]} (seed {program.runs[r].seed}) is zero; expected outputs "
        "that depend on the selected parameters and differ from their references. Check the parameter pattern, the "
        "inputs and whether all outputs are alike."
    )
