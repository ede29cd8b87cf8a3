"""One thread, so that tests are fast on small machines and sums have one order."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def root() -> Path:
    """Returns the top folder of the project."""
    return Path(__file__).parents[1]
