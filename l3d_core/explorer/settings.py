"""How much of a decomposition an explorer shows."""

from __future__ import annotations

from dataclasses import dataclass

# Share of the real change within which a linear prediction counts as right; the page's scripts have the same.
TOLERANCE = 0.2


@dataclass(frozen=True, kw_only=True)
class ExplorerSettings:
    """What is computed of every subnetwork."""

    n_samples: int = 10
    """Samples of largest impact, and as many random ones, of each subnetwork; one of each text."""
    n_references: int = 10
    """References that impacts are averaged over (App. B.4: 10)."""
    n_moved: int = 5
    """Outputs for each sample, those moved most (Eq. 10)."""
    n_steps: int = 6
    """Steps of the grid of delta on either side of 0."""
    divergence: float = 1.0
    """Where outputs are logits, a grid of delta ends at this mean KL divergence from the outputs before, in nats, on
    the subnetwork's top samples."""
    change: float = 2.0
    """Elsewhere at this root mean square change, in units of the outputs' own deviation from the mean output."""
    n_pool: int = 100
    """Texts that random samples are drawn from, and that the first ones of are shown position by position."""
    n_prompts: int = 20
    """Texts of which every position is shown with the subnetworks it uses."""
    n_used: int = 8
    """Subnetworks shown at each of these positions."""
    weights_mib: float = 20.0
    """Most MiB of directions that the page itself holds, to be taken away from it; the folder always holds them."""
    seed: int = 0
    """Seeds the references and the random samples."""

    def __post_init__(self) -> None:
        for name in ("n_samples", "n_references", "n_moved", "n_steps", "n_pool", "n_prompts", "n_used"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")
        for name in ("divergence", "change"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a finite number above 0.")
