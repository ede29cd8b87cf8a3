"""The targets of the APD paper that the package carries: what they are, their files, and how to train them anew."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .apd_targets import TargetTraining, started, train_targets
from .artifacts import provenance
from .baselines.apd_networks import ResidualMLP, TiedSuperposition
from .parallel import small_work
from .toys import WEIGHTS

# App. D.1: superposition. The paper says "constant learning rate", its code let it fall in a line to 0. The numbers of
# targets side by side (12, 3) set how large starting values are, here and in the decompositions.
TMS = TargetTraining(kind="superposition", n_features=5, n_hidden=2, init_runs=12)
TMS_LARGE = replace(TMS, n_features=40, n_hidden=10, steps=2000, batch_size=2048, init_runs=3)
# App. D.2: residual MLPs, 100 features and 50 neurons in all.
MLP = TargetTraining(
    kind="residual", n_features=100, n_hidden=50, p_active=0.01, steps=10_000, batch_size=2048, lr=0.003,
    schedule="cosine",
)  # fmt: skip
MLP_2 = replace(MLP, n_layers=2)
# Seeds that are trained side by side, which changes the last digits.
SHIPPED: dict[str, tuple[TargetTraining, tuple[tuple[int, ...], ...]]] = {
    "apd_tms_5-2": (TMS, (tuple(range(12)),)),
    "apd_tms_40-10": (TMS_LARGE, tuple((seed,) for seed in range(5))),
    "apd_mlp_1": (MLP, tuple((seed,) for seed in range(3))),
    "apd_mlp_2": (MLP_2, tuple((seed,) for seed in range(3))),
}


def train_shipped(name: str, folder: Path = WEIGHTS, *, progress: bool = False) -> float:
    """Trains targets and writes them; the embeddings of a residual MLP are drawn again when it is loaded.

    Args:
        name: A key of `SHIPPED`.
        folder: Where the file goes.
        progress: Show a bar on standard error.

    Returns:
        Seconds it took.
    """
    config, parts = SHIPPED[name]
    begun = time.monotonic()
    with small_work(True):
        found = [train_targets(config, seeds, progress=progress) for seeds in parts]
    tensors = {"losses": torch.cat([one.losses for one in found]), "seeds": torch.tensor(sum(parts, ()))}
    names = ("w", "b") if config.kind == "superposition" else ("w_in", "w_out")
    for part in names:
        layers = [getattr(one.network, part) for one in found]
        if config.kind == "superposition":
            tensors[part] = torch.cat(layers)
        else:
            tensors |= {f"{part}.{i}": torch.cat(each) for i, each in enumerate(zip(*layers, strict=True))}
    seconds = time.monotonic() - begun
    facts = {"config": asdict(config), "wall_seconds": seconds, **provenance()}
    path = folder / f"{name}.safetensors"
    new = path.with_name(path.name + ".part")
    save_file(tensors, new, metadata={"facts": json.dumps(facts, sort_keys=True)})
    new.replace(path)
    return seconds


def load_shipped(
    config: TargetTraining, seeds: Sequence[int], folder: Path = WEIGHTS
) -> tuple[TiedSuperposition | ResidualMLP, Tensor] | None:
    """Returns shipped targets and their losses `[n_runs]`, None where not all of them are shipped.

    Args:
        config: What they were trained with.
        seeds: Which of them.
        folder: Where the files lie.
    """
    names = [name for name, (own, parts) in SHIPPED.items() if own == config and set(seeds) <= set(sum(parts, ()))]
    path = folder / f"{names[0]}.safetensors" if names else None
    if path is None or not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        written = json.loads(file.metadata()["facts"])["config"]
    if written != asdict(config):
        return None
    known = tensors.pop("seeds").tolist()
    rows = torch.tensor([known.index(seed) for seed in seeds])
    tensors = {name: t[rows] for name, t in tensors.items()}
    if config.kind == "superposition":
        return TiedSuperposition(tensors["w"], tensors["b"]), tensors["losses"]
    layers = range(config.n_layers)
    w_in, w_out = (tuple(tensors[f"{part}.{i}"] for i in layers) for part in ("w_in", "w_out"))
    return started(config, seeds)._replace(w_in=w_in, w_out=w_out), tensors["losses"]
