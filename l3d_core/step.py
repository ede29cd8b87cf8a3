"""The training step of every run at once, from inner products alone (paper Alg. 1 lines 7-13).

The reconstruction is never formed. With z = V_in g, y = V_out g, the kept coefficients z~ and the Gram matrix
K = V_out V_out^T, the squared error of a batch is `1 + sum(z~^T K z~ - 2 z~^T y) / sum |g|^2`; both gradients are
products of coefficients with g and of `sum z~ z~^T` with V_out. All derivatives are written out.

Differs from the paper: runs with `revival` above 0 add the auxiliary loss of top-k sparse autoencoders (Gao et al.
2024, section 2.4 and App. A.2), in which dead subnetworks rebuild what the others leave. A subnetwork is dead in an
epoch if it was kept for no sample of the epoch before; in epoch 0 none is. With e = g - V_out^T z~ held constant and D
the coefficients of dead subnetworks that top-k does not keep, it is `revival * sum |e - V_out^T D|^2 / sum |g|^2`. All
dead subnetworks take part, not the largest of them as there, since n_v is small. What is recorded is the main loss.
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .bundles import Bundle, cut, piece_shapes
from .directions import Rows, Tensors
from .l3d import L3DConfig, keep_largest
from .runs import Program, optimiser

BETAS, EPS = (0.9, 0.999), 1e-8


class Batch(NamedTuple):
    """Gradients of one batch of every source.

    Attributes:
        rows: Of each bundle.
        n_inputs: Inputs in the batch.
        inverse: `1 / sum |g|^2` of each run, `[n_runs]`; 1 where that sum is zero.
        present: 1, or 0 where that sum is zero.
        slope: Twice `inverse`, `[n_runs, 1, 1]`.
    """

    rows: list[Rows]
    n_inputs: int
    inverse: Tensor
    present: Tensor
    slope: Tensor


class Work(NamedTuple):
    """Buffers of a step on batches of one size, and views on them.

    Attributes:
        zy: z and y, `[n_sources, n_shared * 2 * n_v, n_s]`.
        z: The encoder's part, `[n_runs, n_v, n_s]`; so are the following.
        y: The decoder's.
        z_kept: z after top-k.
        z_turned: Its transpose.
        short: What y lacks, `K z_kept - y`.
        c: The gradients of z and y, arranged as zy.
        to_z: That of z.
        to_y: That of y.
    """

    zy: Tensor
    z: Tensor
    y: Tensor
    z_kept: Tensor
    z_turned: Tensor
    short: Tensor
    c: Tensor
    to_z: Tensor
    to_y: Tensor


class Stepper:
    """All runs' numbers in the order the products need, and the step that trains them."""

    def __init__(self, program: Program, state: dict[str, Tensor]) -> None:
        self.program, plan = program, program.plan
        self.sizes, bundles, layout = plan.sizes, plan.bundles, program.layout
        lead = (self.sizes.n_sources, self.sizes.n_shared, 2, self.sizes.n_v)
        self.lengths = lengths = [
            math.prod(lead) * b.n_tensors * sum(map(math.prod, piece_shapes(b, layout))) for b in bundles
        ]
        operand = plan.operand_dtype or program.dtype
        self.numbers, self.grad, *self.moments = (
            torch.zeros(sum(lengths), dtype=program.dtype, device=program.device) for _ in range(4)
        )
        parts = zip(bundles, self.numbers.split(lengths), self.grad.split(lengths), strict=True)
        halved = program.tensor_sum
        self.tensors = [Tensors(b, layout, self.sizes, n, g, operand, halved) for b, n, g in parts]
        for tensors in self.tensors:
            name = tensors.bundle.names[0]
            if layout.form == "cp" and len(layout.shapes[name]) == 1:
                tensors.limit_ranks([own.ranks[name][0] for own in program.layouts])
        self.copy_(state, load=True)
        self.works: dict[int, Work] = {}
        self.dead: Tensor | None = None  # See `note_dead_`.
        self.taken = torch.zeros((), device=program.device)
        self.groups = self._optimisers()

    def copy_(self, state: dict[str, Tensor], *, load: bool) -> None:
        """Copies numbers and moments from a state in the layout's order, or to it."""
        pairs = [(self.numbers, state["numbers"])]
        pairs += list(zip(self.moments, state["moments"], strict=True))
        for packed, plain in pairs:
            at = 0
            for tensors in self.tensors:
                size = sum(piece.numel() for piece in tensors.pieces)
                pieces = cut(tensors.bundle, self.program.layout, self.sizes, packed[at : at + size])
                at += size
                for mine, theirs in self._places(tensors.bundle, pieces, plain):
                    (mine if load else theirs).copy_(theirs if load else mine)

    def _places(self, bundle: Bundle, pieces: list[Tensor], plain: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns which part of a piece holds which part of a state's tensor, both as views of one shape."""
        layout, starts, at = self.program.layout, {}, 0
        for name, shapes in layout.pieces.items():
            starts[name] = at
            at += sum(map(math.prod, shapes))
        lead = (2, self.sizes.n_sources, self.sizes.n_shared, self.sizes.n_v)
        found = []
        for t, name in enumerate(bundle.names):
            at, shapes = starts[name], layout.pieces[name]
            order = [1, 2 if bundle.swapped[t] else 0, 0 if bundle.swapped[t] else 2] if bundle.matrix else [0]
            if not bundle.matrix:
                shapes = [(sum(map(math.prod, shapes)),)]
            for place, shape in zip(order, shapes, strict=False):
                theirs = (
                    plain[..., at : at + math.prod(shape)]
                    .view(*lead, *shape)
                    .permute(1, 2, 0, 3, *range(4, 4 + len(shape)))
                )
                at += math.prod(shape)
                if place == 1 and len(shape) == 2 and bundle.swapped[t]:
                    theirs = theirs.mT
                if bundle.matrix and len(shape) == 1:  # The core of a vector.
                    theirs = theirs.unsqueeze(-1)
                dense = bundle.path == "dense"
                mine = pieces[place][:, 0 if dense else t].select(4, t if dense else 0)
                for axis, length in enumerate(theirs.shape[4:], 4):
                    mine = mine.narrow(axis, 0, length)
                found.append((mine, theirs))
        return found

    def normalise_(self) -> None:
        """Sets the length of every decoder direction as each run's settings say (Alg. 1 line 13)."""
        total = summed = None
        for tensors in self.tensors:
            tensors.form_()
            norms = tensors.decoder_norms()
            axis = 4 if tensors.bundle.path == "dense" else 1  # That of the tensors.
            if not self.program.all_tensor_sum:
                part = norms.square().sum(axis, keepdim=True)
                total = part if total is None else total.add_(part)
            if self.program.any_tensor_sum:
                part = norms.sum(axis, keepdim=True)
                summed = part if summed is None else summed.add_(part)
        if total is not None:
            total.sqrt_()
        if total is None:
            total = summed
        elif summed is not None:
            total = torch.where(self.program.tensor_sum, summed, total)
        total.masked_fill_(total == 0, 1)  # A direction of length zero is left as it is.
        for tensors in self.tensors:
            tensors.rescale_(total)

    def _weight(self, batch: Batch, recon_sq: Tensor) -> Tensor:
        """Returns twice the derivative of each run's loss in the squared error: of recon_sq or of its root."""
        # A batch that is rebuilt exactly has no slope to follow.
        root = torch.where(recon_sq > torch.finfo(recon_sq.dtype).tiny, recon_sq.rsqrt(), 0).mul_(batch.inverse)
        if not self.program.all_root:
            root = torch.where(self.program.root_loss, root, 2 * batch.inverse)
        return root.view(batch.slope.shape)

    def _work(self, n_inputs: int) -> Work:
        """Returns the buffers and views for batches of so many inputs, made once."""
        if n_inputs not in self.works:
            s, n_s = self.sizes, n_inputs * self.sizes.n_positions
            n_runs = s.n_sources * s.n_shared
            zy, c = (self.numbers.new_empty(s.n_sources, s.n_shared * 2 * s.n_v, n_s) for _ in range(2))
            (z, y), (to_z, to_y) = (t.view(n_runs, 2, s.n_v, n_s).unbind(1) for t in (zy, c))
            z_kept, short = (self.numbers.new_empty(n_runs, s.n_v, n_s) for _ in range(2))
            self.works[n_inputs] = Work(zy, z, y, z_kept, z_kept.mT, short, c, to_z, to_y)
        return self.works[n_inputs]

    def note_dead_(self, state: dict[str, Tensor]) -> None:
        """Notes at an epoch's start, or where it is resumed, each dead subnetwork's weight in the auxiliary loss.

        They are `[n_runs, n_v, 1]`, 0 where a subnetwork is not dead; None where no run has any to revive.
        """
        epoch, weight = int(state["epoch"]), self.program.revival
        self.dead = None
        if weight is not None and epoch:
            dead = weight * (state["p_active"][:, epoch - 1, :, None] == 0)
            self.dead = dead if dead.any() else None

    def _revive_(self, dead: Tensor, batch: Batch, kept: Tensor, k: Tensor, h: Tensor) -> None:
        """Adds the auxiliary loss's part to the derivatives that `pull_` takes, that of y before its sign is turned.

        With z_a = z~ + D its error is `|g - V_out^T z_a|^2`, which pulls on D by `K z_a - y`, and on V_out by
        `D z_a^T V_out - D g^T`: D stands on the left alone, since z~ and its directions are held constant.
        """
        work = self._work(batch.n_inputs)
        weight = (1 - kept).mul_(dead)
        z_a = torch.where(weight > 0, work.z, work.z_kept)
        weight.mul_(batch.slope)
        work.to_z.addcmul_(torch.baddbmm(work.y, k, z_a, beta=-1), weight)
        pull = weight.mul_(work.z)
        work.to_y.add_(pull)
        h.baddbmm_(pull, z_a.mT)

    def step_(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Takes one step of every run.

        Args:
            batch: The gradients of one batch of each source.
            epoch: Epochs finished before.
            step: Steps taken before.

        Returns:
            The squared error ratio `[n_runs]`, and 1 for each coefficient kept, else 0, `[n_runs, n_v, n_s]`.
        """
        program, work = self.program, self._work(batch.n_inputs)
        k = None
        for i, (tensors, rows) in enumerate(zip(self.tensors, batch.rows, strict=True)):
            tensors.form_()
            tensors.expand_()
            if i == 0:
                tensors.project(rows, batch.n_inputs, work.zy)
                k = tensors.gram()
            else:
                work.zy.add_(tensors.project(rows, batch.n_inputs, None))
                k.add_(tensors.gram())
        k_count, most = program.k_count(work.z.shape[2])
        kept = keep_largest(work.z, k_count, program.dense_runs(epoch), most)
        torch.mul(work.z, kept, out=work.z_kept)
        torch.baddbmm(work.y, k, work.z_kept, beta=-1, out=work.short)
        error = (work.short - work.y).mul_(work.z_kept).sum((1, 2))
        recon_sq = torch.addcmul(batch.present, error, batch.inverse)
        weight = batch.slope if not program.any_root else self._weight(batch, recon_sq)
        torch.mul(work.short.mul_(kept), weight, out=work.to_z)
        torch.mul(work.z_kept, weight, out=work.to_y)
        h = torch.bmm(work.to_y, work.z_turned)
        if self.dead is not None:
            self._revive_(self.dead, batch, kept, k, h)
        work.to_y.neg_()
        for tensors, rows in zip(self.tensors, batch.rows, strict=True):
            tensors.pull_(rows, batch.n_inputs, work.c, h)
        self.optimise_(epoch, step)
        self.normalise_()
        return recon_sq, kept

    def _optimisers(self) -> list[tuple[L3DConfig, list[list[Tensor]]]]:
        """Returns the runs in groups of equal optimiser settings: one run's settings, and the group's buffers."""
        buffers = (self.numbers, self.grad, *self.moments)
        sources = [run.config for run in self.program.runs[:: self.sizes.n_shared]]
        groups = [list(members) for _, members in groupby(range(len(sources)), lambda u: optimiser(sources[u]))]
        if len(groups) == 1:
            return [(sources[0], [[buffer] for buffer in buffers])]
        found = []
        for members in groups:
            lists: list[list[Tensor]] = [[] for _ in buffers]
            for k, buffer in enumerate(buffers):
                for tensors, part in zip(self.tensors, buffer.split(self.lengths), strict=True):
                    pieces = cut(tensors.bundle, self.program.layout, self.sizes, part)
                    lists[k] += [piece[members[0] : members[-1] + 1] for piece in pieces]
            found.append((sources[members[0]], lists))
        return found

    def optimise_(self, epoch: int, step: int) -> None:
        """Takes one AdamW step (Adam where the weight decay is 0), each group of runs with its own settings."""
        self.taken.fill_(step + 1)
        for config, lists in self.groups:
            torch._fused_adamw_(
                *lists, [], [self.taken] * len(lists[0]), lr=config.lr_at(epoch, step), beta1=BETAS[0], beta2=BETAS[1],
                weight_decay=config.weight_decay, eps=EPS, amsgrad=False, maximize=False,
            )  # fmt: skip
