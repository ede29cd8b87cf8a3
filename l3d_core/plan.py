"""How a stack of runs is computed: dense or factored by counted operations, under a memory budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from .bundles import Bundle, Fact, Sizes, bundle_tensors, choose_path, pinned
from .tucker import Layout

GIB = 2**30
# Most numbers of gradients laid out at once and of the passes that give them, of a forward pass kept for good, and of a
# frozen prefix's outputs.
BLOCK_NUMBERS, PASS_NUMBERS, ONCE_NUMBERS, PREFIX_NUMBERS = 2**22, 2**25, 2**25, 2**28
# Copies of what is trained (state, optimiser, gradient, starting values), and of a batch's gradients while they form.
COPIES, ROWS = 9, 3


@dataclass(frozen=True)
class Plan:
    """How a stack of runs is computed; printed, it is a table to read.

    Attributes:
        sizes: What the costs depend on.
        bundles: The tensors and their paths.
        batches_per_block: Batches whose gradients are laid out at once.
        chunk_size: Inputs of each source whose gradients are formed at once where they come whole.
        once: Whether the model runs forward over all inputs once for the whole training.
        prefix_numbers: Most numbers to store of the outputs of modules that run first.
        operand_dtype: Precision of operands of large products, None for that of the model.
        fixed_bytes: Directions, optimiser and working memory.
        block_bytes: Gradients of one block.
    """

    sizes: Sizes
    bundles: list[Bundle]
    batches_per_block: int
    chunk_size: int
    once: bool
    prefix_numbers: int
    operand_dtype: torch.dtype | None
    fixed_bytes: int
    block_bytes: int

    @property
    def held(self) -> int:
        """Numbers that the model's passes hold for one batch."""
        return self.sizes.n_sources * self.sizes.n_inputs * self.sizes.held

    @property
    def flops(self) -> float:
        """What one step costs without the model's gradients, see `Bundle.flops`."""
        return sum(bundle.flops(self.sizes) for bundle in self.bundles)

    def __str__(self) -> str:
        rows = [("tensors", "path", "gram", "rows", "rank", "Mflop a step")]
        for b in self.bundles:
            name = b.names[0] + (f" and {b.n_tensors - 1} more" if b.n_tensors > 1 else "")
            gram = "low-rank" if b.low_rank_gram else "dense"
            rows.append((name, b.path, gram, str(b.n_rows), str(b.ranks[0]), f"{b.flops(self.sizes) / 1e6:.3g}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        s = self.sizes
        lines.append(
            f"{s.n_sources * s.n_shared} runs, {s.n_sources} sources of gradients, n_v {s.n_v}, {s.n_s} samples each; "
            f"{(self.fixed_bytes + self.block_bytes) / GIB:.2g} GiB; forward pass "
            f"{'once' if self.once else 'in every block'}; {self.batches_per_block} batches in a block"
        )
        return "\n".join(lines)


def _bytes(bundles: list[Bundle], layout: Layout, sizes: Sizes, itemsize: int) -> tuple[int, int]:
    """Returns the memory of directions and work, and of the gradients of one batch and the passes that give them."""
    numbers = [bundle.numbers(sizes) for bundle in bundles]
    trained = 2 * sizes.n_sources * sizes.n_shared * sizes.n_v * layout.n_numbers
    fixed = COPIES * trained + sum(work for _, work in numbers)
    batch = ROWS * sum(rows for rows, _ in numbers) + sizes.n_sources * sizes.n_inputs * sizes.held
    return itemsize * fixed, itemsize * batch


def _choose(bundles: list[Bundle], layout: Layout, sizes: Sizes, pins: Mapping[str, str] | None, itemsize: int,
            budget: float) -> tuple[list[Bundle], int, int]:  # fmt: skip
    """Returns the bundles on their paths, the cheapest ones that fit, with the memory they take."""
    ways = [choose_path(bundle, sizes, pinned(bundle.names[0], pins)) for bundle in bundles]
    chosen = [way[0] for way in ways]
    while True:
        fixed, batch = _bytes(chosen, layout, sizes, itemsize)
        # What another path would save, per tensor; the largest saving goes first.
        savings = [
            (sum(mine.numbers(sizes)) - sum(way[-1].numbers(sizes)), i)
            for i, (mine, way) in enumerate(zip(chosen, ways, strict=True))
        ]
        saving, i = max(savings)
        if fixed + batch <= budget or saving <= 0:
            return chosen, fixed, batch
        chosen[i] = ways[i][-1]


def _refuse(needed: int, budget: float, largest: Mapping[str, int]) -> None:
    fits = " or ".join(f"{name} {value}" for name, value in largest.items() if value > 0)
    raise ValueError(
        f"the decomposition needs about {needed / GIB:.3g} GiB; expected at most memory_gib {budget / GIB:.3g}. "
        + (f"With {fits} it fits" if fits else "No smaller n_v or batch_size fits either")
        + "; or raise memory_gib, lower the rank, or decompose fewer parameters."
    )


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest number in [low, high) that fits, 0 if none."""
    found = 0
    while low < high:
        middle = (low + high) // 2
        found, low, high = (middle, middle + 1, high) if fits(middle) else (found, low, middle)
    return found


def _check(
    layout: Layout, like: Tensor, memory_gib: float | None, paths: Mapping[str, str] | None,
    operand_dtype: torch.dtype | None,
) -> None:  # fmt: skip
    """Raises TypeError or ValueError for a precision, budget or pin that is none; see `make_plan`."""
    if like.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model computes in {like.dtype}; expected float32 or float64, since directions trained in less do not "
            "converge. Call model.float() first; operand_dtype=torch.bfloat16 makes large products fast."
        )
    if isinstance(memory_gib, bool) or not isinstance(memory_gib, int | float | None):
        raise TypeError(f"memory_gib is a {type(memory_gib).__name__}; expected a number of GiB, or None.")
    if memory_gib is not None and not memory_gib > 0:
        raise ValueError(f"memory_gib is {memory_gib}; expected a budget above 0, or None for the machine's.")
    if operand_dtype is not None and not (isinstance(operand_dtype, torch.dtype) and operand_dtype.is_floating_point):
        raise ValueError(f"operand_dtype is {operand_dtype}; expected a floating-point type such as torch.bfloat16.")
    for pattern in paths or {}:
        if not any(fnmatchcase(name, pattern) for name in layout.shapes):
            raise ValueError(
                f"no parameter matches the path pattern {pattern!r}; expected one of {list(layout.shapes)}."
            )


def make_plan(
    layout: Layout,
    facts: Mapping[str, Fact | None],
    sizes: Sizes,
    n: int,
    n_forward: int,
    like: Tensor,
    *,
    memory_gib: float | None = None,
    paths: Mapping[str, str] | None = None,
    operand_dtype: torch.dtype | None = None,
) -> Plan:
    """Returns how to compute a stack of runs.

    Args:
        layout: Shapes, ranks and form.
        facts: How each tensor's gradient comes, None where only whole.
        sizes: What the costs depend on.
        n: Inputs of an epoch.
        n_forward: Inputs that a forward pass of all models over all inputs has.
        like: A tensor of the models' device and precision.
        memory_gib: The budget; None for half of the machine's memory, or most of the free memory of a GPU.
        paths: Paths by name pattern, instead of the cheapest.
        operand_dtype: Precision of the operands of products with gradients.

    Raises:
        TypeError: A budget that is no number.
        ValueError: No path fits the budget, a budget or precision that is none, a model of less than single precision,
            a pin that is no path, or one that a tensor cannot take.
    """
    _check(layout, like, memory_gib, paths, operand_dtype)
    budget = (available_gib(like.device) if memory_gib is None else memory_gib) * GIB
    ways = [bundle_tensors(layout, facts, sizes.n_positions, paths, padded=padded) for padded in (False, True)]
    itemsize = like.element_size()

    def choose(sizes: Sizes) -> tuple[list[Bundle], int, int]:
        found = [_choose(bundles, layout, sizes, paths, itemsize, budget) for bundles in ways]
        return min(found, key=lambda way: (sum(way[1:]) > budget, sum(b.flops(sizes) for b in way[0])))

    def needed(sizes: Sizes) -> int:
        return sum(choose(sizes)[1:])

    chosen, fixed, batch = choose(sizes)
    if fixed + batch > budget:
        _refuse(fixed + batch, budget, {
            name: _largest(1, getattr(sizes, field), lambda m, f=field: needed(replace(sizes, **{f: m})) <= budget)
            for name, field in (("n_v", "n_v"), ("batch_size", "n_inputs"))
        })  # fmt: skip
    n_batches, room = max(1, n // sizes.n_inputs), (budget - fixed) / itemsize
    rows, held = sum(bundle.numbers(sizes)[0] for bundle in chosen), sizes.n_sources * sizes.n_inputs * sizes.held
    whole, all_rows = sizes.held * n_forward, rows * n_batches
    once = all(facts.values()) and sizes.n_positions == 1
    once &= max(whole, all_rows) <= ONCE_NUMBERS and whole + ROWS * all_rows <= room
    per_block = min(BLOCK_NUMBERS // max(1, rows), PASS_NUMBERS // max(1, held), int(room * itemsize) // batch)
    per_block = n_batches if once else max(1, min(n_batches, per_block))
    block = itemsize * (whole + ROWS * all_rows) if once else batch * per_block
    chunk = BLOCK_NUMBERS // max(layout.n_w * sizes.n_positions * sizes.n_sources, sizes.held)
    return Plan(
        sizes, chosen, per_block, max(1, chunk), once, int(min(PREFIX_NUMBERS, room / 4)), operand_dtype, fixed, block
    )


def available_gib(device: torch.device) -> float:
    """Returns the default budget of a device: half of the machine's memory, or nine tenths of a GPU's free memory."""
    if device.type == "cuda":
        return 0.9 * torch.cuda.mem_get_info(device)[0] / GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 / GIB
