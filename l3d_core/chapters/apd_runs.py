"""Targets of the APD paper and their decompositions, from disk or computed, each seed by itself or side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts
from ..apd_shipped import load_shipped
from ..apd_targets import GatedInputs, TargetTraining, gated_functions, train_targets
from ..baselines.apd import APD, APDConfig
from ..baselines.apd_losses import Losses
from ..baselines.apd_networks import Factors, Network, ResidualMLP, TiedSuperposition
from ..baselines.apd_training import Sampler, decompose_apd
from ..toys import ToyTraining
from .apd_toys import ToyInputs, on_device, side_by_side, toy_networks

# Modules whose code results depend on, beside those that all results do.
CODE = ("apd", "apd_losses", "apd_networks", "apd_targets", "apd_training")
# Of the gated functions' coefficients and neurons; the first there is.
GATED_SEED = 0


@dataclass(frozen=True, kw_only=True)
class APDRun:
    """A decomposition with its targets."""

    target: TargetTraining | ToyTraining | None
    """How targets are trained, one for each seed; a toy of L3D that is shipped; or None for the gated functions, made
    by hand, the same for all seeds."""
    config: APDConfig
    """Settings of APD."""
    seeds: tuple[int, ...]
    """Of targets and decompositions, side by side."""
    again: int = 0
    """Added to the seeds of the decompositions, to decompose the same targets anew."""

    @property
    def sample(self) -> Sampler:
        """Draws inputs."""
        if isinstance(self.target, ToyTraining):
            return ToyInputs(self.target)
        return GatedInputs() if self.target is None else self.target.inputs

    @property
    def drawn(self) -> tuple[int, ...]:
        """Seeds of the decompositions."""
        return tuple(seed + self.again for seed in self.seeds)


class Decomposed(NamedTuple):
    """Targets and what APD made of them.

    Attributes:
        network: The targets.
        losses: Mean squared errors of the targets at the end of their training `[n_runs]`; zeros for those by hand.
        apd: Their decompositions.
        facts: Provenance and seconds of the decomposition.
    """

    network: Network
    losses: Tensor
    apd: APD
    facts: dict[str, Any]


def targets(run: APDRun, folder: Path) -> tuple[Network, Tensor]:
    """Returns a run's targets and their losses: those shipped, those on disk, or trained.

    Args:
        run: Which.
        folder: Where results lie.
    """
    n = len(run.seeds)
    if run.target is None:
        return side_by_side([gated_functions(GATED_SEED).network] * n), torch.zeros(n)
    if isinstance(run.target, ToyTraining):
        return toy_networks(run.target, run.seeds)
    return trained(run.target, run.seeds, folder)


def trained(target: TargetTraining, seeds: Sequence[int], folder: Path) -> tuple[Network, Tensor]:
    """Returns targets of the APD paper and their losses: those shipped, those on disk, or trained.

    Args:
        target: How they are trained.
        seeds: Of each.
        folder: Where results lie.
    """
    shipped = load_shipped(target, seeds)
    if shipped is not None:
        return shipped
    key = {
        "target": asdict(target), "seeds": list(seeds), "torch": torch.__version__,
        "code": artifacts.code_digest(("apd_networks", "apd_targets")),
    }  # fmt: skip

    def compute(_: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = train_targets(target, seeds)
        return to_tensors(found.network) | {"losses": found.losses}, {}

    tensors, _, _ = artifacts.cached(folder, "apd-target", key, compute)
    return from_tensors(tensors), tensors["losses"]


def to_tensors(network: Network) -> dict[str, Tensor]:
    """Returns a network's tensors by name, layers numbered."""
    found = {}
    for name, part in network._asdict().items():
        found |= {f"{name}.{i}": t for i, t in enumerate(part)} if isinstance(part, tuple) else {name: part}
    return {name: t for name, t in found.items() if isinstance(t, Tensor)}


def from_tensors(tensors: Mapping[str, Tensor]) -> TiedSuperposition | ResidualMLP:
    """Returns the network of `to_tensors`."""
    if "w" in tensors:
        return TiedSuperposition(tensors["w"], tensors["b"])
    n = sum(name.startswith("w_in.") for name in tensors)
    parts = {name: tuple(tensors[f"{name}.{i}"] for i in range(n)) for name in ("w_in", "b", "w_out")}
    return ResidualMLP(embed=tensors["embed"], unembed=tensors["unembed"], **parts)


def decomposed(name: str, run: APDRun, *, folder: Path, device: str = "cpu", progress: bool = False) -> Decomposed:
    """Returns a decomposition from disk, or makes it, going on where it was stopped; on the CPU in either case.

    Args:
        name: What to call it on disk.
        run: What to do.
        folder: Where results lie.
        device: Where to decompose, 'cpu' or 'cuda'.
        progress: Show a bar on standard error.

    Raises:
        OSError: The result cannot be written.
        FloatingPointError: A loss became NaN or infinite.
    """
    network, losses = targets(run, folder)
    key = {
        "config": asdict(run.config), "seeds": list(run.drawn), "torch": torch.__version__,
        "sample": repr(run.sample), "target": artifacts.tensor_digest(list(to_tensors(network).values())),
        "code": artifacts.code_digest(CODE),
    }  # fmt: skip

    def compute(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = scratch / "state.safetensors"
        on = on_device(network, device)
        found = decompose_apd(on, run.sample, run.config, run.drawn, checkpoint=state, progress=progress)
        parts = {f"{matrix}.{part}": t for matrix, own in found.components.items() for part, t in own._asdict().items()}
        history = {f"history.{term}": t for term, t in found.history._asdict().items()}
        found = parts | history | {"first_losses": found.first_losses}
        return {name: t.cpu() for name, t in found.items()}, {}

    tensors, _, facts = artifacts.cached(folder, f"apd-{name}", key, compute, device)
    components = {m: Factors(tensors[f"{m}.u"], tensors[f"{m}.v"]) for m in network.weights}
    history = Losses(*(tensors[f"history.{term}"] for term in Losses._fields))
    apd = APD(components, history, tensors["first_losses"], run.config, run.drawn)
    return Decomposed(network, losses, apd, facts)


def joined(parts: Sequence[Decomposed]) -> Decomposed:
    """Returns decompositions with one setting as if they had been made side by side.

    Args:
        parts: In order; seconds are added.
    """
    network = side_by_side([one.network for one in parts])
    components = {
        m: Factors(*(torch.cat(each) for each in zip(*(one.apd.components[m] for one in parts), strict=True)))
        for m in network.weights
    }
    history = Losses(*(torch.cat(each) for each in zip(*(one.apd.history for one in parts), strict=True)))
    seeds = tuple(seed for one in parts for seed in one.apd.seeds)
    facts = parts[0].facts | {
        name: sum(one.facts[name] for one in parts) for name in ("wall_seconds", "core_seconds")
    }  # fmt: skip
    first = torch.cat([one.apd.first_losses for one in parts])
    apd = APD(components, history, first, parts[0].apd.config, seeds)
    return Decomposed(network, torch.cat([one.losses for one in parts]), apd, facts)
