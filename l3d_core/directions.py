"""The directions of tensors of one shape, `D = P^T Q`: projections, Gram matrix, gradients and lengths.

P is the left factor, Q the core times the others. Buffers and views are made once: small models cost calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bundles import Bundle, Sizes, cut, leading
from .tucker import Layout, two_factors

# The gradients of one batch of one bundle: whole `[n_sources, n_tensors * left * right, n_s]`, or output gradients
# `[n_sources * n_tensors, left, n_s * n_rows]` and activations `[n_sources * n_tensors, right, n_inputs * n_rows]`.
Rows = Tensor | tuple[Tensor, Tensor]
# CPUs write rows of fewer numbers than a vector register holds several times slower than long ones. With more matrices
# than a few, it pays to compute the transposed product and copy it.
NARROW, FEW = 16, 8


def product(a: Tensor, b: Tensor) -> Tensor:
    """Returns a batched matrix product, perhaps as a transposed view."""
    narrow = a.is_cpu and len(a) > FEW and b.shape[-1] < NARROW
    return torch.bmm(b.mT, a.mT).mT if narrow else torch.bmm(a, b)


def product_(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Returns `out`, now a batched matrix product; its precision may be higher than the operands'."""
    direct = a.dtype == out.dtype and not (out.is_cpu and len(out) > FEW and out.shape[-1] < NARROW)
    return torch.bmm(a, b, out=out) if direct else out.copy_(product(a, b))


class Tensors:
    """The directions of one bundle, axes as in `leading`.

    Args:
        bundle: Which tensors, and how.
        layout: Shapes, ranks and form.
        sizes: Numbers of sources, runs and so on.
        numbers: The bundle's part of what is trained, flat.
        grad: Where its gradient goes, flat.
        operand: Precision of the operands of the products with gradients.
        halved: Which runs are divided by the root of a length, not by the length, `[n_sources, 1, n_shared, 1, 1]`.
    """

    def __init__(
        self, bundle: Bundle, layout: Layout, sizes: Sizes, numbers: Tensor, grad: Tensor, operand: torch.dtype,
        halved: Tensor,
    ) -> None:  # fmt: skip
        self.bundle, self.layout, self.sizes, self.operand = bundle, layout, sizes, operand
        self.pieces, self.grads = cut(bundle, layout, sizes, numbers), cut(bundle, layout, sizes, grad)
        self.lead, self.rank = leading(bundle, sizes), bundle.ranks[0]
        self.count = self.lead[0] * self.lead[1]  # Matrices that differ in gradients,
        self.each = self.count * sizes.n_shared  # and in directions.
        self.width = sizes.n_shared * 2 * sizes.n_v
        self.rooms: dict[int, tuple[Tensor, ...]] = {}
        new, rank = numbers.new_zeros, self.rank
        self.q, self.grad_q = (new(*self.lead, rank, bundle.right) for _ in range(2))
        self.p, self.grad_p = self.pieces[0], self.grads[0]
        if not bundle.matrix:
            self.p, self.grad_p = (new(*self.lead, rank, bundle.left) for _ in range(2))
        # A length is shared by the pieces of a direction; `[n_sources, n_tensors, n_shared, n_v]`, or tensors last.
        by_tensor = (1, self.lead[1], 1, 1, self.lead[5])
        shares = numbers.new_tensor([1 / n for n in bundle.n_pieces]).view(by_tensor)
        self.exponent = -shares * (1 - 0.5 * halved.to(numbers))
        self.scale = new(*self.lead[:3], *self.lead[4:])
        self.scaled = [(p[:, :, :, 1], self.scale[(..., *(None,) * (p.ndim - 6))]) for p in self.pieces]
        self.one, vectors = None, torch.tensor([n == 2 for n in bundle.n_pieces]).view(by_tensor)
        self.right = self.pieces[2] if bundle.matrix else None
        if bundle.matrix and vectors.any():  # A vector is a matrix of one column, whose second factor is the number 1.
            self.one = new(*by_tensor[:3], 1, *by_tensor[3:], bundle.ranks[1], bundle.right)
            self.one[..., 0, 0] = vectors.to(self.one).unsqueeze(3)
            self.trained = 1 - self.one.amax((-1, -2), keepdim=True)
            self.right = torch.zeros_like(self.pieces[2])
        self.own_rank: Tensor | None = None
        self._lay_out()

    def limit_ranks(self, ranks: list[int]) -> None:
        """Keeps polyadic vectors from growing into ranks that are padded, where their second factor is all ones.

        Args:
            ranks: The rank of each run.
        """
        own = torch.arange(self.rank) < torch.tensor(ranks)[:, None]
        own = own.view(self.lead[0], 1, self.lead[2], 1, 1, 1, self.rank, 1)
        self.own_rank = own.to(self.q)

    def _lay_out(self) -> None:
        """Makes the views, and the buffers that do not depend on the batch."""
        n_v, rank, bundle, new = self.sizes.n_v, self.rank, self.bundle, self.q.new_zeros
        area = self.lead[5] * bundle.left * bundle.right
        named = {"p": self.p, "q": self.q, "grad_p": self.grad_p, "grad_q": self.grad_q}
        # Each direction of each tensor on its own; the decoder's.
        self.own = {name: t.view(-1, rank, t.shape[-1]) for name, t in named.items()}
        self.decoder = [t[:, :, :, 1].squeeze(-2) if rank == 1 else t[:, :, :, 1] for t in (self.p, self.q)]
        if bundle.matrix:
            self.flat = [t.flatten(0, 5) for t in (self.pieces[1], self.grads[1], self.grads[2], self.right)]
        if bundle.path == "dense":
            self.d, self.grad_d = (new(len(self.own["p"]), bundle.left, bundle.right) for _ in range(2))
            self.own_turned, self.grad_d_turned = self.own["p"].mT, self.grad_d.mT
            self.d_all, self.grad_d_all = (t.view(self.count, self.width, area) for t in (self.d, self.grad_d))
            self.d_out, self.grad_d_out = (t.view(self.each, 2, n_v, area)[:, 1] for t in (self.d, self.grad_d))
            self.d_out_turned = self.d_out.mT
            return
        # All directions of a tensor side by side; each run's decoder.
        self.all = {name: t.view(self.count, self.width * rank, t.shape[-1]) for name, t in named.items()}
        self.out = {name: t.view(self.each, 2, n_v * rank, t.shape[-1])[:, 1] for name, t in named.items()}
        if bundle.low_rank_gram:
            self.gram_p, self.gram_q = (new(self.each, n_v * rank, n_v * rank) for _ in range(2))
            blocks = (*self.lead[:3], n_v, rank, n_v, rank)
            self.blocks_p, self.blocks_q = self.gram_p.view(blocks), self.gram_q.view(blocks)
            self.out_turned = {name: self.out[name].mT for name in ("p", "q")}
        else:
            self.d_out, self.grad_d_out = (new(self.each, n_v, area) for _ in range(2))
            self.d_out_turned = self.d_out.mT

    def form_(self) -> None:
        """Contracts the numbers to P and Q."""
        if not self.bundle.matrix:
            with torch.enable_grad():
                self.leaf = self.pieces[0].detach().requires_grad_()
                self.pair = two_factors(self.layout, self.bundle.names[0], self.leaf, int(self.bundle.swapped[0]))
            self.p.copy_(self.pair[0].detach())
            self.q.copy_(self.pair[1].detach())
            if self.own_rank is not None:
                self.q.mul_(self.own_rank)
            return
        if self.one is not None:
            torch.add(self.pieces[2], self.one, out=self.right)
        if self.bundle.ranks == (1, 1):
            torch.mul(self.pieces[1], self.right, out=self.q)
        else:
            torch.bmm(self.flat[0], self.flat[3], out=self.own["q"])

    def _unform_(self) -> None:
        """Turns the gradients of P and Q into those of the numbers."""
        if not self.bundle.matrix:
            pairs = zip(self.pair, (self.grad_p, self.grad_q), strict=True)
            made, grads = zip(*((t, grad) for t, grad in pairs if t.requires_grad), strict=True)
            self.grads[0].copy_(torch.autograd.grad(made, self.leaf, grads)[0])
            return
        core, grad_core, grad_right, right = self.flat
        if self.bundle.ranks == (1, 1):
            torch.sum(self.grad_q * self.right, -1, keepdim=True, out=self.grads[1])
            torch.mul(self.pieces[1], self.grad_q, out=self.grads[2])
        else:
            torch.bmm(self.own["grad_q"], right.mT, out=grad_core)
            torch.bmm(core.mT, self.own["grad_q"], out=grad_right)
        if self.one is not None:
            self.grads[2].mul_(self.trained)

    def expand_(self) -> None:
        """Forms the directions themselves where the path or the Gram matrix needs them."""
        if self.bundle.path == "dense":
            form = torch.mul if self.rank == 1 else torch.bmm
            form(self.own_turned, self.own["q"], out=self.d)
        elif not self.bundle.low_rank_gram:
            p, q = (self._decoder_factors(name) for name in ("p", "q"))
            torch.matmul(p.mT, q, out=self.d_out.view(*p.shape[:2], p.shape[-1], q.shape[-1]))

    def _decoder_factors(self, name: str) -> Tensor:
        """Returns P or Q of the decoder, or their gradients, `[.., n_v, rank, length]`."""
        return self.own[name].view(self.each, 2, self.sizes.n_v, self.rank, -1)[:, 1]

    def gram(self) -> Tensor:
        """Returns the decoder's inner products, `[n_runs, n_v, n_v]`, summed over tensors."""
        if self.bundle.path == "dense":
            return torch.bmm(self.d_out, self.d_out_turned)
        if self.bundle.low_rank_gram:
            torch.bmm(self.out["p"], self.out_turned["p"], out=self.gram_p)
            torch.bmm(self.out["q"], self.out_turned["q"], out=self.gram_q)
            found = (self.blocks_p * self.blocks_q).sum(1)  # One axis at a time, the outermost first, is fastest.
            return (found if self.rank == 1 else found.sum(5).sum(3)).view(-1, *[self.sizes.n_v] * 2)
        k = torch.bmm(self.d_out, self.d_out_turned)
        return k.view(*self.lead[:3], *k.shape[1:]).sum(1).flatten(0, 1)

    def _room(self, n_inputs: int) -> tuple[Tensor, ...]:
        """Returns buffers for both sides' projections and their product, then views of them with all axes split."""
        if n_inputs not in self.rooms:
            rows, n = n_inputs * self.bundle.n_rows, self.sizes.n_positions
            flat = [
                self.q.new_empty(self.count, self.width * self.rank, size, dtype=self.operand)
                for size in (rows * n, rows, rows * n)
            ]
            split = [
                t.view(*self.lead[:2], self.width, self.rank, n_inputs, per, self.bundle.n_rows)
                for t, per in zip(flat, (n, 1, n), strict=True)
            ]
            self.rooms[n_inputs] = (*flat, *split)
        return self.rooms[n_inputs]

    def _operand(self, t: Tensor) -> Tensor:
        return t.to(self.operand)

    def project(self, rows: Rows, n_inputs: int, out: Tensor | None) -> Tensor:
        """Returns inner products of directions and gradients, `[n_sources, n_shared * 2 * n_v, n_s]` (paper Eq. 3).

        Args:
            rows: The batch's gradients.
            n_inputs: Inputs in the batch.
            out: Where to write them, or None.
        """
        if self.bundle.path == "dense":
            if self.operand == self.d.dtype:
                return torch.bmm(self.d_all, rows, out=out)
            found = torch.bmm(self._operand(self.d_all), rows).to(self.d)
            return found if out is None else out.copy_(found)
        left, right = rows
        by_left, by_right, _, split_left, split_right, split_both = self._room(n_inputs)
        torch.bmm(self._operand(self.all["p"]), left, out=by_left)
        torch.bmm(self._operand(self.all["q"]), right, out=by_right)
        torch.mul(split_left, split_right, out=split_both)
        # One axis at a time, the outermost first, is fastest.
        found = split_both.squeeze(1) if self.lead[1] == 1 else split_both.sum(1, dtype=self.q.dtype)
        found = found.squeeze(2) if self.rank == 1 else found.sum(2, dtype=self.q.dtype)
        found = found.squeeze(4) if self.bundle.n_rows == 1 else found.sum(4, dtype=self.q.dtype)
        return found.flatten(2).to(self.q) if out is None else out.copy_(found.flatten(2))

    def pull_(self, rows: Rows, n_inputs: int, c: Tensor, h: Tensor) -> None:
        """Writes the gradients of the numbers.

        Args:
            rows: The batch's gradients.
            n_inputs: Inputs in the batch.
            c: d loss / d z and d loss / d y, `[n_sources, n_shared * 2 * n_v, n_s]`.
            h: What d loss / d V_out holds of V_out itself, `h V_out`, `[n_runs, n_v, n_v]`.
        """
        c = self._operand(c)
        if self.bundle.path == "dense":
            product_(c, rows.mT, self.grad_d_all)
            self.grad_d_out.add_(torch.bmm(h, self.d_out))
            outer = torch.mul if self.bundle.right == self.rank == 1 else torch.bmm
            outer(self.own["q"], self.grad_d_turned, out=self.own["grad_p"])
            torch.bmm(self.own["p"], self.grad_d, out=self.own["grad_q"])
        else:
            self._pull_factors_(rows, n_inputs, c)
            self._pull_gram_(h.view(self.lead[0], 1, self.lead[2], *h.shape[1:]))
        self._unform_()

    def _pull_factors_(self, rows: tuple[Tensor, Tensor], n_inputs: int, c: Tensor) -> None:
        """Writes what the gradients' factors contribute to the gradients of P and Q."""
        left, right = rows
        by_left, by_right, both, split_left, split_right, split_both = self._room(n_inputs)
        c = c.view(self.lead[0], 1, self.width, 1, n_inputs, -1, 1)
        torch.mul(c, split_right, out=split_both)
        product_(both, left.mT, self.all["grad_p"])
        split_left.mul_(c)
        weighted = by_left if self.sizes.n_positions == 1 else split_left.sum(5).view(by_right.shape)
        product_(weighted, right.mT, self.all["grad_q"])

    def _pull_gram_(self, h: Tensor) -> None:
        """Adds what the Gram matrix contributes to the gradients of the decoder's P and Q."""
        if self.bundle.low_rank_gram:
            whole = h[:, :, :, :, None, :, None].expand(-1, -1, -1, -1, self.rank, -1, self.rank)
            whole = whole.reshape(*h.shape[:3], *self.gram_p.shape[1:])
            for gram in (self.gram_p, self.gram_q):
                gram.view(*self.lead[:3], *gram.shape[1:]).mul_(whole)
            self.out["grad_p"].add_(product(self.gram_q, self.out["p"]))
            self.out["grad_q"].add_(product(self.gram_p, self.out["q"]))
            return
        torch.bmm(h.expand(*self.lead[:3], -1, -1).flatten(0, 2), self.d_out, out=self.grad_d_out)
        p, q, grad_p, grad_q = (self._decoder_factors(name) for name in ("p", "q", "grad_p", "grad_q"))
        grad = self.grad_d_out.view(*p.shape[:2], p.shape[-1], q.shape[-1])
        grad_p.add_(q @ grad.mT)
        grad_q.add_(p @ grad)

    def decoder_norms(self) -> Tensor:
        """Returns each tensor's Frobenius norm of each decoder direction, `[n_sources, n_tensors, n_shared, n_v, 1]`.

        On the dense path the tensors' axis is the last one.
        """
        p, q = self.decoder
        if self.rank == 1:
            return torch.linalg.vector_norm(p, dim=-1).mul_(torch.linalg.vector_norm(q, dim=-1))
        squares = [torch.bmm(t, t.mT) for t in (p.flatten(0, 4), q.flatten(0, 4))]
        return squares[0].mul_(squares[1]).sum((1, 2)).clamp_min_(0).sqrt_().view(p.shape[:5])

    def rescale_(self, norms: Tensor) -> None:
        """Divides decoder directions by norms `[n_sources, 1, n_shared, n_v, 1]` or their roots, all pieces alike."""
        torch.pow(norms, self.exponent, out=self.scale)
        for piece, share in self.scaled:
            piece.mul_(share)
