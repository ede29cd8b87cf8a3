"""Low-rank directions in parameter space: Tucker or polyadic form, tensors of any order (paper App. B.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor

from .gradients import split_parameters

Rank = int | float | Mapping[str, int | float | tuple[int, ...]]


def _axis_ranks(name: str, shape: tuple[int, ...], rank: int | float | tuple[int, ...]) -> tuple[int, ...]:
    """Returns one rank per axis of a tensor; an int is used for each axis, a float is a fraction of each."""
    if isinstance(rank, float):
        if not 0 < rank <= 1:
            raise ValueError(f"rank {rank} for {name!r} is not in (0, 1]; expected a fraction of each axis, or an int.")
        ranks = tuple(max(1, math.floor(rank * n + 1e-9)) for n in shape)
    else:
        ranks = (rank,) * len(shape) if isinstance(rank, int) else tuple(rank)
    if len(ranks) != len(shape):
        raise ValueError(f"rank {ranks} for {name!r} has {len(ranks)} entries; expected one per axis of {shape}.")
    if any(r < 1 or r > n for r, n in zip(ranks, shape, strict=True)):
        raise ValueError(
            f"rank {ranks} for {name!r} does not fit its shape {shape}; expected 1 <= rank <= length on every axis. "
            "Lower it, or give ranks per tensor, {'pattern': (r_1, ..., r_m)}, or a fraction such as 0.1."
        )
    return ranks


def resolve_ranks(shapes: Mapping[str, tuple[int, ...]], rank: Rank) -> dict[str, tuple[int, ...]]:
    """Returns the rank of each axis of each tensor (paper App. B.1; the R_n of Eq. 11).

    Args:
        shapes: The parameters' shapes.
        rank: An int for every axis; a float for that fraction of every axis (rounded down, at least 1);
            or a mapping from name patterns to an int, a float or one int per axis, the first match counting.

    Returns:
        A dict of tuples as long as each shape.

    Raises:
        ValueError: A rank below 1 or above its axis, of the wrong length, or no pattern for a parameter.
    """
    if not isinstance(rank, Mapping):
        return {name: _axis_ranks(name, shape, rank) for name, shape in shapes.items()}
    ranks = {}
    for name, shape in shapes.items():
        match = next((r for pattern, r in rank.items() if fnmatchcase(name, pattern)), None)
        if match is None:
            raise ValueError(f"no rank for {name!r} in {dict(rank)}; expected a pattern that matches it, such as '*'.")
        ranks[name] = _axis_ranks(name, shape, tuple(match) if isinstance(match, list) else match)
    return ranks


@dataclass(frozen=True)
class Layout:
    """Where the core and the factors of each tensor lie in one flat vector per direction.

    For each tensor in turn: the core `[r_1, ..., r_m]`, then for each axis d a factor `[r_d, n_d]`. The polyadic
    form ('cp', the paper's draft) has no core and one common rank: the factors alone, `[r, n_d]`.
    """

    shapes: dict[str, tuple[int, ...]]
    ranks: dict[str, tuple[int, ...]]
    form: str = "tucker"

    def __post_init__(self) -> None:
        if self.form not in ("tucker", "cp"):
            raise ValueError(f"form {self.form!r} is unknown; expected 'tucker' or 'cp'.")
        uneven = [name for name, r in self.ranks.items() if self.form == "cp" and len(set(r)) > 1]
        if uneven:
            raise ValueError(
                f"form 'cp' got ranks {self.ranks[uneven[0]]} for {uneven[0]!r}; expected the same rank on every axis."
            )

    @cached_property
    def pieces(self) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of each tensor's pieces in flat order: core first (Tucker), then one factor per axis."""
        pieces = {}
        for name, shape in self.shapes.items():
            factors = [(r, n) for r, n in zip(self.ranks[name], shape, strict=True)]
            pieces[name] = factors if self.form == "cp" and shape else [self.ranks[name], *factors]
        return pieces

    @cached_property
    def n_numbers(self) -> int:
        """Numbers stored for one direction."""
        return sum(math.prod(piece) for pieces in self.pieces.values() for piece in pieces)

    @cached_property
    def n_w(self) -> int:
        """Number of parameter values, the paper's n_w."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def shares(self) -> Tensor:
        """Returns, for each number, the power of a scale its piece carries: 1 / number of pieces, `[n_numbers]`."""
        sizes = [(math.prod(p), 1 / len(ps)) for ps in self.pieces.values() for p in ps]
        return torch.cat([torch.full((size,), share, dtype=torch.float64) for size, share in sizes])

    def positions_of(self, smaller: Layout) -> Tensor:
        """Returns where each number of a layout of lower ranks lies in this one, `[smaller.n_numbers]`."""
        start, found = 0, []
        for name, pieces in self.pieces.items():
            for piece, inner in zip(pieces, smaller.pieces[name], strict=True):
                grid = start + torch.arange(math.prod(piece)).reshape(piece)
                found.append(grid[tuple(slice(n) for n in inner)].flatten())
                start += math.prod(piece)
        return torch.cat(found)

    def draw(self, n_v: int, generator: torch.Generator) -> Tensor:
        """Returns random starting numbers, normal with standard deviation 1 / n_v, `[n_v, n_numbers]`, float64."""
        return torch.randn(n_v, self.n_numbers, generator=generator, dtype=torch.float64) / n_v


def dense_tensors(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """Returns the full tensors of each direction (paper Eq. 11).

    Args:
        layout: How the numbers are arranged.
        flat: `[..., n_v, n_numbers]`.

    Returns:
        A dict of `[..., n_v, *shape]`.
    """
    sizes = [sum(map(math.prod, pieces)) for pieces in layout.pieces.values()]
    tensors = {}
    for (name, shape), numbers in zip(layout.shapes.items(), flat.split(sizes, -1), strict=True):
        p, q = two_factors(layout, name, numbers)
        tensors[name] = (p.mT @ q).reshape(*flat.shape[:-1], *shape)
    return tensors


def two_factors(layout: Layout, name: str, numbers: Tensor, left_axis: int = 0) -> tuple[Tensor, Tensor]:
    """Returns one tensor of each direction as a product of two matrices, one axis against the others.

    Args:
        layout: Shapes, ranks and form.
        name: The tensor.
        numbers: Its own part of the numbers, `[..., sum of its pieces]`.
        left_axis: The one axis; 1 for polyadic matrices only.

    Returns:
        P `[..., r, n_1]` and Q `[..., r, n_2 * ... * n_m]` with `D = P^T Q`; r is the rank of the one axis.
    """
    pieces, lead = layout.pieces[name], numbers.shape[:-1]
    split = numbers.split([math.prod(piece) for piece in pieces], -1)
    parts = [part.reshape(*lead, *piece) for part, piece in zip(split, pieces, strict=True)]
    if not layout.shapes[name]:
        return torch.ones_like(parts[0])[..., None, None], parts[0][..., None, None]
    if layout.form == "cp":
        parts = parts[left_axis:] + parts[:left_axis]
        right = torch.ones_like(parts[0][..., :1]) if len(parts) == 1 else parts[1]
        for factor in parts[2:]:
            right = (right.unsqueeze(-1) * factor.unsqueeze(-2)).flatten(-2)
        return parts[0], right
    core, first, *rest = parts
    # The first axis of the core is kept; each of the others is contracted in turn and appended at the end.
    right = core.reshape(*lead, core.shape[len(lead)], -1)
    for factor in rest:
        right = right.unflatten(-1, (factor.shape[-2], -1)).transpose(-1, -2) @ factor.unsqueeze(-3)
        right = right.flatten(-2)
    return first, right


def dense_matrix(layout: Layout, flat: Tensor) -> Tensor:
    """Returns the directions as rows of a matrix, `[..., n_v, n_w]`, from `[..., n_v, n_numbers]`."""
    return torch.cat([t.reshape(*flat.shape[:-1], -1) for t in dense_tensors(layout, flat).values()], -1)


def direction_norms(layout: Layout, flat: Tensor, kind: str) -> Tensor:
    """Returns the length of each direction, from its factors alone: `|P^T Q|^2 = sum of (P P^T) * (Q Q^T)`.

    Args:
        layout: How the numbers are arranged.
        flat: `[..., n_v, n_numbers]`.
        kind: 'l2', the Euclidean length over all parameters (Alg. 1 line 13); 'tensor_sum', the sum over
            tensors of their Frobenius norms, as the authors' code measured it.

    Returns:
        `[..., n_v]`.

    Raises:
        ValueError: An unknown kind.
    """
    if kind not in ("l2", "tensor_sum"):
        raise ValueError(f"norm {kind!r} is unknown; expected 'l2' or 'tensor_sum'.")
    sizes = [sum(map(math.prod, pieces)) for pieces in layout.pieces.values()]
    squares = []
    for name, numbers in zip(layout.shapes, flat.split(sizes, -1), strict=True):
        p, q = two_factors(layout, name, numbers)
        squares.append(((p @ p.mT) * (q @ q.mT)).sum((-2, -1)).clamp_min(0))
    return sum(squares).sqrt() if kind == "l2" else sum(square.sqrt() for square in squares)


@dataclass(frozen=True)
class TuckerDirections:
    """n_v low-rank directions in the space of the decomposed parameters: V_in or V_out (paper section 2.3.1).

    Attributes:
        layout: Shapes, ranks and form of the tensors.
        flat: The cores and factors, `[..., n_v, n_numbers]`; leading axes, if any, are runs.
    """

    layout: Layout
    flat: Tensor

    @property
    def n_v(self) -> int:
        """Number of directions."""
        return self.flat.shape[-2]

    def dense(self) -> dict[str, Tensor]:
        """Returns the full tensors, a dict of `[..., n_v, *shape]` (paper Eq. 11)."""
        return dense_tensors(self.layout, self.flat)

    def matrix(self) -> Tensor:
        """Returns the directions as rows, `[..., n_v, n_w]`."""
        return dense_matrix(self.layout, self.flat)

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Returns the inner product of each gradient with each direction: V_in grad_W D (paper Eq. 3).

        Args:
            gradients: A dict of `[..., n_s, *shape]` with the layout's names.

        Returns:
            `[..., n_s, n_v]`.

        Raises:
            ValueError: Other names or shapes than the layout's.
        """
        for name, shape in self.layout.shapes.items():
            if name not in gradients or tuple(gradients[name].shape[gradients[name].ndim - len(shape) :]) != shape:
                got = tuple(gradients[name].shape) if name in gradients else "nothing"
                raise ValueError(f"gradients of {name!r}: got {got}; expected [..., n_s, {shape}].")
        parts = [gradients[name] for name in self.layout.shapes]
        rows = torch.cat([part.reshape(*part.shape[: self.flat.ndim - 1], -1) for part in parts], -1)
        return rows @ self.matrix().mT

    def combine(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Returns weighted sums of the directions: V_out z (paper Eq. 4).

        Args:
            coefficients: `[..., n_s, n_v]`.

        Returns:
            A dict of `[..., n_s, *shape]`.
        """
        return split_parameters(coefficients @ self.matrix(), self.layout.shapes)

    def gram(self) -> Tensor:
        """Returns the inner products of the directions with one another, `[..., n_v, n_v]`."""
        matrix = self.matrix()
        return matrix @ matrix.mT

    def norms(self, kind: str = "l2") -> Tensor:
        """Returns the directions' lengths, `[..., n_v]`; see `direction_norms`."""
        return direction_norms(self.layout, self.flat, kind)

    def scaled(self, scale: Tensor) -> TuckerDirections:
        """Returns the directions times `scale [..., n_v]` (>= 0), shared evenly between core and factors."""
        shares = self.layout.shares().to(self.flat)
        return replace(self, flat=self.flat * scale.unsqueeze(-1) ** shares)

    def normalised(self, kind: str = "l2") -> TuckerDirections:
        """Returns the directions after one step of the chosen normalisation (Alg. 1 line 13).

        Differs from the paper: 'tensor_sum' divides by the square root of the sum S of tensor norms, as the
        authors' code does, so that S becomes sqrt(S) and only repeated steps converge to S = 1.

        Args:
            kind: 'l2' or 'tensor_sum'. A direction of length zero is left as it is.
        """
        return self.scaled(normalising_scale(self.norms(kind), kind == "tensor_sum"))


def normalising_scale(norms: Tensor, halved: bool | Tensor) -> Tensor:
    """Returns 1 / norm, or 1 / sqrt(norm) where halved; 1 for a direction of length zero."""
    norms = torch.where(norms > 0, norms, 1)
    return torch.where(torch.as_tensor(halved, device=norms.device), norms.rsqrt(), 1 / norms)
