"""The shipped toy targets by name and seed, and their files; `toys.train` makes new ones."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .toy_models import Perceptron, Superposition, active_share, grouped_inputs, signed_inputs, sparse_inputs
from .toy_training import Task, ToyTraining, TrainedToys, train

__all__ = [
    "Perceptron", "SHIPPED", "SIZES", "Superposition", "Task", "ToyTraining", "TrainedToys", "WEIGHTS", "active_share",
    "circuit_superposition", "grouped_inputs", "high_rank", "load_toys", "save_toys", "shipped", "signed_inputs",
    "sparse_inputs", "squared", "superposition", "train",
]  # fmt: skip

WEIGHTS = Path(__file__).parent / "weights"
SIZES = ((5, 2), (10, 4), (20, 6), (40, 10))
# Three models of superposition in one, as in the paper's draft.
COPIES, COPIED = 3, (15, 6)
REPORTED, TUNING = range(16), range(1000, 1016)
# What is shipped: settings, and the seeds of the targets. No choice of ours has seen those of the first range.
SHIPPED = (
    (ToyTraining(), (*REPORTED, *TUNING)),
    *((ToyTraining(n_features=n, n_hidden=n_hidden), tuple(REPORTED)) for n, n_hidden in SIZES[1:]),
    (ToyTraining(toy="circuit_superposition", n_features=10, n_hidden=5), (*REPORTED, *TUNING)),
    (ToyTraining(toy="high_rank", n_features=30, n_hidden=10), (*REPORTED, *TUNING)),
    (ToyTraining(toy="high_rank", n_features=25, n_hidden=10), tuple(REPORTED)),
    (ToyTraining(toy="squared", n_hidden=10), (*REPORTED, *TUNING)),
    (ToyTraining(toy="squared_elu", n_hidden=10), tuple(REPORTED)),
)


def save_toys(toys: TrainedToys, path: Path, provenance: dict[str, object]) -> None:
    """Writes trained targets as safetensors with their settings and provenance.

    Args:
        toys: What `train` returned.
        path: The file; replaced whole or not at all.
        provenance: Version, device and the like, see `artifacts.provenance`.
    """
    tensors = {**toys.weights, "losses": toys.losses, "seeds": torch.tensor(toys.seeds)}
    facts = {"config": asdict(toys.config), "wall_seconds": toys.wall_seconds, **provenance}
    new = path.with_name(path.name + ".part")
    save_file(tensors, new, metadata={"facts": json.dumps(facts, sort_keys=True)})
    new.replace(path)


def load_toys(path: Path) -> TrainedToys:
    """Returns the targets written by `save_toys`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        shipped = sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))
        raise FileNotFoundError(f"no shipped targets at {path}; expected one of {shipped}. Use toys.train.")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    losses, seeds = tensors.pop("losses"), tensors.pop("seeds").tolist()
    return TrainedToys(ToyTraining(**facts["config"]), seeds, tensors, losses, facts["wall_seconds"])


def copies(single: TrainedToys, times: int) -> TrainedToys:
    """Returns targets that are several copies of a model of superposition side by side, which share no weights.

    W_in is block diagonal; losses are those of the single models.

    Args:
        single: Trained models of superposition.
        times: Copies of each.
    """
    config = single.config
    w_in = torch.stack([torch.block_diag(*[w] * times) for w in single.weights["W_in"]])
    weights = {"W_in": w_in, "b": single.weights["b"].repeat(1, times)}
    wide = replace(config, n_features=times * config.n_features, n_hidden=times * config.n_hidden)
    return replace(single, config=wide, weights=weights)


def shipped(toy: str, n_features: int, n_hidden: int) -> TrainedToys:
    """Returns all shipped targets of a toy and size; superposition of 15-6 is three copies of 5-2.

    Raises:
        FileNotFoundError: None is shipped.
    """
    if (toy, n_features, n_hidden) == ("superposition", *COPIED):
        return copies(shipped("superposition", 5, 2), COPIES)
    return load_toys(WEIGHTS / f"{toy}_{n_features}-{n_hidden}.safetensors")


def superposition(seed: int = 0, n_features: int = 5, n_hidden: int = 2) -> Task:
    """Returns a shipped toy model of superposition with its inputs (paper section 3.1).

    Args:
        seed: 0 to 15, or for 5-2 also 1000 to 1015, on which the recommended settings were chosen.
        n_features: 5, 10, 20 or 40; or 15, three copies of 5 features in 2 dimensions (the paper's draft).
        n_hidden: 2, 4, 6 or 10 for these; 6 for the copies.

    Returns:
        The task.

    Raises:
        FileNotFoundError: No such size is shipped.
        ValueError: The seed is not shipped.
    """
    return shipped("superposition", n_features, n_hidden).task(seed)


def circuit_superposition(seed: int = 0) -> Task:
    """Returns a shipped toy model of circuit superposition, x to x A (paper section 3.2); seeds 0-15 and 1000-1015."""
    return shipped("circuit_superposition", 10, 5).task(seed)


def high_rank(seed: int = 0, n_features: int = 30) -> Task:
    """Returns a shipped toy model of circuits of higher rank (paper section 3.3); seeds as for the others.

    Args:
        seed: 0 to 15 or 1000 to 1015; for 25 features 0 to 15.
        n_features: 30, or 25 as in the draft.
    """
    return shipped("high_rank", n_features, 10).task(seed)


def squared(seed: int = 0, *, elu: bool = False) -> Task:
    """Returns a shipped squaring network (paper section 3.4); seeds 0-15 and 1000-1015.

    Args:
        seed: Of the target.
        elu: The network of the authors' code instead of the paper's.
    """
    return shipped("squared_elu" if elu else "squared", 5, 10).task(seed)
