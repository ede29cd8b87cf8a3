"""Training of the shipped targets anew: toys and those of the APD paper, a process each, and the vision network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from . import apd_shipped, artifacts, toys
from .hub import Images, load_images
from .parallel import run_jobs
from .vision_training import VisionTraining, save_classifier, train_classifier

# Trained only when named, since they need data that the package does not carry.
VISION = {"mobilenet_v3_small_cifar10": VisionTraining()}


def names() -> list[str]:
    """Returns the names of the shipped toy targets."""
    return [config.name for config, _ in toys.SHIPPED]


def retrain(chosen: Sequence[str] = (), folder: Path = toys.WEIGHTS, *, progress: bool = True) -> dict[str, float]:
    """Trains shipped targets and writes them; a target whose training does not end keeps its file.

    Args:
        chosen: Names, see `names`, `apd_shipped.SHIPPED` and `VISION`; none for all toys.
        folder: Where the files go; made if it is not there.
        progress: Show bars on standard error.

    Returns:
        Seconds that each took, by name.

    Raises:
        ValueError: An unknown name.
        OSError: The folder cannot be made, or the images cannot be had; nothing was trained.
    """
    known = [*names(), *apd_shipped.SHIPPED, *VISION]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"target {unknown[0]!r} is unknown; expected some of {known}.")
    folder.mkdir(parents=True, exist_ok=True)
    images = {
        name: [load_images(VISION[name].data_id, split) for split in ("train", "test")]
        for name in chosen
        if name in VISION
    }
    jobs = [
        {"config": config, "seeds": seeds, "path": str(folder / f"{config.name}.safetensors"), "progress": progress}
        for config, seeds in reversed(toys.SHIPPED)  # The slowest are the last.
        if not chosen or config.name in chosen
    ]
    done = dict(zip([job["config"].name for job in jobs], run_jobs(_train, jobs), strict=True))
    apd = [name for name in chosen if name in apd_shipped.SHIPPED]
    apd_jobs = [{"name": name, "folder": folder, "progress": progress} for name in apd]
    done |= dict(zip(apd, run_jobs(apd_shipped.train_shipped, apd_jobs), strict=True))
    return done | {name: _train_vision(name, *both, folder, progress) for name, both in images.items()}


def _train(config: toys.ToyTraining, seeds: Sequence[int], path: str, progress: bool) -> float:
    found = toys.train(config, seeds, progress=progress)
    toys.save_toys(found, Path(path), artifacts.provenance())
    return found.wall_seconds


def _train_vision(name: str, train: Images, test: Images, folder: Path, progress: bool) -> float:
    config, start = VISION[name], time.monotonic()
    checkpoint = artifacts.project_root() / "artifacts" / "vision" / f"{name}.safetensors"
    network, accuracies = train_classifier(config, train, test, checkpoint, progress=progress)
    save_classifier(folder / f"{name}.safetensors", config, network, test, accuracies, artifacts.provenance())
    return time.monotonic() - start
