"""Training of the shipped toy targets anew, each kind in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import artifacts, toys
from .parallel import run_jobs


def names() -> list[str]:
    """Returns the names of the shipped targets."""
    return [config.name for config, _ in toys.SHIPPED]


def retrain(chosen: Sequence[str] = (), folder: Path = toys.WEIGHTS, *, progress: bool = True) -> dict[str, float]:
    """Trains shipped targets and writes them; a target whose training does not end keeps its file.

    Args:
        chosen: Names, see `names`; none for all.
        folder: Where the files go; made if it is not there.
        progress: Show bars on standard error.

    Returns:
        Seconds that each took, by name.

    Raises:
        ValueError: An unknown name.
        OSError: The folder cannot be made; nothing was trained.
    """
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        raise ValueError(f"target {unknown[0]!r} is unknown; expected some of {names()}.")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {"config": config, "seeds": seeds, "path": str(folder / f"{config.name}.safetensors"), "progress": progress}
        for config, seeds in reversed(toys.SHIPPED)  # The slowest are the last.
        if not chosen or config.name in chosen
    ]
    return dict(zip([job["config"].name for job in jobs], run_jobs(_train, jobs), strict=True))


def _train(config: toys.ToyTraining, seeds: Sequence[int], path: str, progress: bool) -> float:
    found = toys.train(config, seeds, progress=progress)
    toys.save_toys(found, Path(path), artifacts.provenance())
    return found.wall_seconds
