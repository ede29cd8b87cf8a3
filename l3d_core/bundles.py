"""Tensors that are worked on together, and what their two paths cost: gradients whole, or as factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import Tensor

from .tucker import Layout

PATHS = ("dense", "factored")
# A multiplication outside a matrix product moves its operands through memory; it costs about this many of those within.
ELEMENTWISE = 24
# What a call costs by itself, and how many a bundle takes on either path, with either Gram matrix.
CALL, CALLS = 1.2e5, {("dense", False): 24, ("factored", True): 34, ("factored", False): 60}


class Fact(NamedTuple):
    """How a tensor's gradient comes as factors: `G = sum over rows of (output gradient) x (activation)`.

    Attributes:
        left_axis: The tensor's axis along which the output gradients lie; the others are the activations'.
        n_rows: Rows per sample, the positions at which the tensor acts.
    """

    left_axis: int
    n_rows: int


@dataclass(frozen=True)
class Sizes:
    """What a step's cost depends on.

    Attributes:
        n_sources: Sources of gradients.
        n_shared: Runs of each.
        n_v: Directions of a run.
        n_inputs: Inputs of a batch.
        n_positions: Samples per input.
        held: Numbers that the model's forward and backward pass hold for each input.
    """

    n_sources: int
    n_shared: int
    n_v: int
    n_inputs: int
    n_positions: int
    held: int = 0

    @property
    def n_s(self) -> int:
        """Samples of a batch."""
        return self.n_inputs * self.n_positions


@dataclass(frozen=True)
class Bundle:
    """Tensors of one shape, padded to it if need be, each seen as a matrix `[left, right]`.

    Attributes:
        names: The tensors.
        left: Length of the output gradients' side.
        right: Length of the activations' side.
        ranks: Rank of each side; for tensors that are no Tucker matrices or vectors, the left one alone counts.
        matrix: Whether all are Tucker matrices or vectors; other tensors stand alone, in the layout's own form.
        swapped: For each, whether the left side is its second axis.
        n_pieces: For each, core and factors counted: a direction's scale is shared between so many.
        n_rows: Rows of factors per sample.
        factored: Whether gradients come as factors at all.
        path: 'dense' or 'factored'.
        low_rank_gram: Whether the Gram matrix is made from the factors' own.
    """

    names: tuple[str, ...]
    left: int
    right: int
    ranks: tuple[int, int]
    matrix: bool
    swapped: tuple[bool, ...]
    n_pieces: tuple[int, ...]
    n_rows: int = 1
    factored: bool = False
    path: str = "dense"
    low_rank_gram: bool = False

    @property
    def n_tensors(self) -> int:
        """Number of tensors."""
        return len(self.names)

    def products(self, sizes: Sizes) -> float:
        """Returns the operations of a step's matrix products on these tensors, a multiplication and an addition two."""
        n, n_v, x, rank = sizes.n_s, sizes.n_v, sizes.n_shared * sizes.n_v, self.ranks[0]
        area, both = self.left * self.right, self.left + self.right
        rows, inputs = n * self.n_rows, sizes.n_inputs * self.n_rows
        if self.path == "dense":
            found = 8 * n * x * area + 8 * x * rank * area + (4 * x * rank * area if rank > 1 else 0)
        else:
            found = 8 * x * rank * (rows * self.left + inputs * self.right)
        if self.low_rank_gram:
            found += 4 * n_v * x * rank**2 * both
        else:
            found += 4 * n_v * x * area + (6 * x * rank * area if self.path == "factored" else 0)
        if self.matrix and self.ranks != (1, 1):  # Cores, twice forwards and once backwards.
            found += 16 * x * rank * self.ranks[1] * self.right
        if rank > 1:  # Lengths.
            found += 4 * x * rank**2 * both
        return sizes.n_sources * self.n_tensors * found

    def flops(self, sizes: Sizes) -> float:
        """Returns what a step costs in operations of matrix products: these, others weighted, calls, and forming G."""
        n, x, rank, area = sizes.n_s, sizes.n_shared * sizes.n_v, self.ranks[0], self.left * self.right
        rows = n * self.n_rows
        if self.path == "dense":
            form = 2 * rows * area if self.n_rows > 1 else ELEMENTWISE * n * area
            others = 4 * x * area * ELEMENTWISE + (form if self.factored else 0)
        else:
            others = 8 * rows * x * rank * ELEMENTWISE
        if self.low_rank_gram:
            others += 3 * sizes.n_v * x * rank**2 * ELEMENTWISE
        others *= sizes.n_sources * self.n_tensors
        return self.products(sizes) + others + CALL * CALLS[self.path, self.low_rank_gram]

    def numbers(self, sizes: Sizes) -> tuple[int, int]:
        """Returns how many numbers a step works on: those of one batch's gradients, and those besides."""
        n, x, rank, area = sizes.n_s, sizes.n_shared * sizes.n_v, self.ranks[0], self.left * self.right
        rows, inputs = n * self.n_rows, sizes.n_inputs * self.n_rows
        batch = rows * self.left + inputs * self.right if self.factored else 0
        work = 4 * x * rank * (self.left + self.right)
        if self.path == "dense":
            batch += n * area
            work += 5 * x * area
        else:
            work += 2 * x * rank * (2 * rows + inputs) + (0 if self.low_rank_gram else 3 * x * area)
        if self.low_rank_gram:
            work += 3 * sizes.n_v * x * rank**2
        count = sizes.n_sources * self.n_tensors
        return count * batch, count * work


def _alone(layout: Layout, name: str, fact: Fact | None) -> Bundle:
    """Returns the bundle of one tensor, its path still to be chosen."""
    shape, ranks, pieces = layout.shapes[name], layout.ranks[name], layout.pieces[name]
    matrix = layout.form == "tucker" and len(shape) in (1, 2)
    left_axis = fact.left_axis if fact else 0
    if matrix and len(shape) == 1:
        left, right, both = shape[0], 1, (ranks[0], 1)
    elif matrix:
        left, right, both = shape[left_axis], shape[1 - left_axis], (ranks[left_axis], ranks[1 - left_axis])
    else:
        left = shape[left_axis] if shape else 1
        right, both = math.prod(shape) // left, (ranks[left_axis] if shape else 1, 1)
    return Bundle(
        names=(name,),
        left=left,
        right=right,
        ranks=both,
        matrix=matrix,
        swapped=(left_axis == 1,),
        n_pieces=(len(pieces),),
        n_rows=fact.n_rows if fact else 1,
        factored=fact is not None,
    )


def _joined(bundles: list[Bundle]) -> Bundle:
    """Returns several bundles as one, padded to the longest sides and highest ranks."""
    first = bundles[0]
    return replace(
        first,
        names=sum((b.names for b in bundles), ()),
        left=max(b.left for b in bundles),
        right=max(b.right for b in bundles),
        ranks=(max(b.ranks[0] for b in bundles), max(b.ranks[1] for b in bundles)),
        swapped=sum((b.swapped for b in bundles), ()),
        n_pieces=sum((b.n_pieces for b in bundles), ()),
        n_rows=max(b.n_rows for b in bundles),
    )


def _longest_left(bundle: Bundle) -> Bundle:
    """Returns a bundle whose left side is the longer one."""
    if bundle.left >= bundle.right:
        return bundle
    return replace(
        bundle,
        left=bundle.right,
        right=bundle.left,
        ranks=bundle.ranks[::-1],
        swapped=tuple(not swapped for swapped in bundle.swapped),
    )


def bundle_tensors(
    layout: Layout,
    facts: Mapping[str, Fact | None],
    n_positions: int,
    pins: Mapping[str, str] | None = None,
    *,
    padded: bool = False,
) -> list[Bundle]:
    """Returns the tensors in bundles of equal ones.

    Args:
        layout: Shapes, ranks and form.
        facts: How each tensor's gradient comes, None where only whole.
        n_positions: Samples per input.
        pins: Paths by name pattern; tensors of different pins stay apart.
        padded: Pad matrices and vectors that act once for each sample to one shape, so that a small model is one
            bundle: it costs calls, not arithmetic.
    """
    groups: dict[tuple, list[Bundle]] = {}
    for place, name in enumerate(layout.shapes):
        one, alike = _alone(layout, name, facts.get(name)), (place,)
        if one.matrix:
            small = n_positions == one.n_rows == 1
            one = _longest_left(one) if small else one  # One row per sample: either side may be the left one.
            alike = (small,) if small and padded else (small, one.left, one.right, one.ranks, one.n_rows)
        groups.setdefault((pinned(name, pins), one.matrix, one.factored, alike), []).append(one)
    return [_joined(members) for members in groups.values()]


def pinned(name: str, pins: Mapping[str, str] | None) -> str | None:
    """Returns the path pinned for a tensor, or None.

    Raises:
        ValueError: A pin that is no path.
    """
    found = next((path for pattern, path in (pins or {}).items() if fnmatchcase(name, pattern)), None)
    if found is not None and found not in PATHS:
        raise ValueError(f"path {found!r} is unknown; expected one of {list(PATHS)} for each name pattern.")
    return found


def choose_path(bundle: Bundle, sizes: Sizes, pin: str | None = None) -> list[Bundle]:
    """Returns a bundle on its possible paths, the cheapest first; each with the cheaper Gram matrix.

    Raises:
        ValueError: 'factored' is pinned for a tensor whose gradients do not come as factors.
    """
    if pin == "factored" and not bundle.factored:
        raise ValueError(
            f"{bundle.names[0]!r} is pinned to 'factored', but the model uses it in an operation whose gradients do "
            "not come as factors; expected a Linear, Conv1D, convolution, embedding, norm or bias. Pin 'dense'."
        )
    paths = [pin] if pin else [p for p in PATHS if p == "dense" or bundle.factored]
    ways = [
        replace(bundle, path=path, low_rank_gram=low)
        for path, low in (("dense", False), ("factored", False), ("factored", True))
    ]
    best = [min((w for w in ways if w.path == path), key=lambda w: w.flops(sizes)) for path in paths]
    return sorted(best, key=lambda w: w.flops(sizes))


def piece_shapes(bundle: Bundle, layout: Layout) -> list[tuple[int, ...]]:
    """Returns the shapes of a direction's pieces of one tensor: left factor, core, right factor; or all in one."""
    (r_left, r_right), left, right = bundle.ranks, bundle.left, bundle.right
    if bundle.matrix:
        return [(r_left, left), (r_left, r_right), (r_right, right)]
    return [(sum(map(math.prod, layout.pieces[bundle.names[0]])),)]


def leading(bundle: Bundle, sizes: Sizes) -> tuple[int, ...]:
    """Returns the axes before a piece's own: source, tensor, run of the source, encoder or decoder, direction.

    On the dense path, where the tensors of a bundle are parts of one long row, the tensor comes last.
    """
    first, last = (1, bundle.n_tensors) if bundle.path == "dense" else (bundle.n_tensors, 1)
    return (sizes.n_sources, first, sizes.n_shared, 2, sizes.n_v, last)


def cut(bundle: Bundle, layout: Layout, sizes: Sizes, flat: Tensor) -> list[Tensor]:
    """Returns a bundle's part of a flat buffer as its pieces, axes as in `leading` and then the piece's own."""
    lead, shapes = leading(bundle, sizes), piece_shapes(bundle, layout)
    parts = flat.split([math.prod(lead) * math.prod(shape) for shape in shapes])
    return [part.view(*lead, *shape) for part, shape in zip(parts, shapes, strict=True)]
