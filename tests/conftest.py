"""One thread and one seed, so that tests are fast and repeatable; blocks and Gram matrices at will."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from l3d_core import bundles, plan
from l3d_core.runs import build_program

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Makes the weights of a network that a test builds its own, whichever tests ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture
def root() -> Path:
    """Returns the top folder of the project."""
    return Path(__file__).parents[1]


@pytest.fixture
def blocks_of() -> Iterator[Callable]:
    """Gives a function `(runs, n_batches)` that lays out gradients in blocks of so many batches, None for all.

    With a number the model runs forward in every block, with None once where it can.
    """

    def set_blocks(runs: list, n_batches: int | None) -> None:
        patch.undo()
        if n_batches is None:
            return
        made = build_program(runs).plan
        batch = sum(bundle.numbers(made.sizes)[0] for bundle in made.bundles)
        patch.setattr(plan, "BLOCK_NUMBERS", n_batches * batch)
        patch.setattr(plan, "ONCE_NUMBERS", 0)
        assert not build_program(runs).plan.once

    with pytest.MonkeyPatch.context() as patch:
        yield set_blocks


@pytest.fixture
def batch_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every batch a block of its own, for which the model runs forward anew."""
    monkeypatch.setattr(plan, "BLOCK_NUMBERS", 1)
    monkeypatch.setattr(plan, "ONCE_NUMBERS", 0)


@pytest.fixture
def gram_form(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Returns a function that makes the factored path's Gram matrices 'dense' or 'low_rank' whatever they cost."""

    counts = dict(bundles.CALLS)

    def set_form(form: str) -> None:
        taken = {("dense", False), ("factored", form == "low_rank")}
        calls = {way: n if way in taken else 1e30 for way, n in counts.items()}
        monkeypatch.setattr(bundles, "CALLS", calls)

    return set_form
