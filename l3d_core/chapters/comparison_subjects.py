"""Targets that L3D and APD both take apart: one set of weights as a module and as the network that APD runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import artifacts, toys
from ..apd_shipped import MLP, MLP_2, TMS, TMS_LARGE
from ..baselines.apd_networks import Network, ResidualMLP, TiedSuperposition
from ..baselines.apd_training import Sampler
from .apd_measures import whole
from .apd_runs import to_tensors, trained
from .apd_toys import ToyInputs, chain

# Targets of the APD paper by name; the others are toys of L3D.
OF_APD = {"tms_5-2": TMS, "tms_40-10": TMS_LARGE, "mlp_1": MLP, "mlp_2": MLP_2}
OF_L3D = {"tmcs": ("circuit_superposition", 10, 5), "high_rank": ("high_rank", 30, 10), "squared": ("squared", 5, 10)}
NAMES = ("tms_5-2", "tms_40-10", "tmcs", "high_rank", "squared", "mlp_1", "mlp_2")


class ResidualModule(nn.Module):
    """A residual MLP (see `ResidualMLP`) with the matrices of its layers as parameters W_in_0, W_out_0 and so on.

    Args:
        network: Several; one is taken.
        run: Which.
    """

    def __init__(self, network: ResidualMLP, run: int = 0) -> None:
        super().__init__()
        self.register_buffer("embed", network.embed[run])
        self.register_buffer("unembed", network.unembed[run])
        for name, w in network.weights.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(w[run].clone()))

    def forward(self, x: Tensor) -> Tensor:
        """Returns outputs `[n, n_o]` for inputs `[n, n_i]`."""
        z, w = x @ self.embed, dict(self.named_parameters())
        for i in range(len(w) // 2):
            z = z + torch.relu(z @ w[f"W_in_{i}"]) @ w[f"W_out_{i}"]
        return z @ self.unembed


@dataclass(frozen=True)
class Subject:
    """A target, with the weight matrices that both methods decompose; biases and embeddings stay as they are."""

    name: str
    """See `NAMES`."""
    seed: int
    """Of the target."""
    network: Network
    """Of one run."""
    module: nn.Module
    """The same function."""
    places: Mapping[str, tuple[str, bool]]
    """For each parameter of the module that is decomposed its matrix of the network, and whether it is transposed."""
    sample: Sampler
    """Draws inputs as the target's paper did."""
    group_size: int = 1
    """Inputs that belong to one circuit."""

    @property
    def own_outputs(self) -> bool:
        """Whether each circuit has an output of its own, that of the same number."""
        return self.name not in ("tmcs", "high_rank")

    @property
    def purest(self) -> float:
        """The purity of a part that reads along the embedding of one input: below 1 where embeddings overlap."""
        if not isinstance(self.network, ResidualMLP):
            return 1.0
        overlap = (self.network.embed @ self.network.embed.mT)[0]
        return float((overlap.diagonal().square() / overlap.square().sum(0)).mean())

    @property
    def parameters(self) -> list[str]:
        """Names of the decomposed parameters of the module."""
        return list(self.places)

    @property
    def n_circuits(self) -> int:
        """Known circuits: one for each input, or group of inputs."""
        return self.draw(1, seed=0).shape[1] // self.group_size

    def draw(self, n: int, *, seed: int) -> Tensor:
        """Returns inputs with an active feature each `[n, n_i]`."""
        generator, found = torch.Generator().manual_seed(seed), []
        while sum(map(len, found)) < n:
            x = self.sample(generator, n)
            found.append(x[(x != 0).any(1)])
        return torch.cat(found)[:n]

    def active(self, x: Tensor) -> Tensor:
        """Returns which circuits have an active input, booleans `[n, n_circuits]`."""
        return (x.unflatten(1, (-1, self.group_size)) != 0).any(-1)

    def rows(self, named: Mapping[str, Tensor]) -> Tensor:
        """Returns tensors of the module's parameters as rows in the order of the network's matrices, `[n, n_w]`.

        Args:
            named: `[n, *shape]` by name of the parameter.
        """
        by_matrix = {m: named[p].mT if turned else named[p] for p, (m, turned) in self.places.items()}
        return torch.cat([by_matrix[m].flatten(1) for m in self.network.weights], 1)

    def matrices(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns rows `[n, n_w]` as the network's matrices `[n, n_in, n_out]` by name."""
        shapes = {m: w.shape[1:] for m, w in self.network.weights.items()}
        parts = rows.split([s.numel() for s in shapes.values()], 1)
        return {m: part.unflatten(1, s) for (m, s), part in zip(shapes.items(), parts, strict=True)}

    @property
    def w0(self) -> Tensor:
        """The weights as one row `[1, n_w]`."""
        return torch.cat([w.flatten(1) for w in self.network.weights.values()], 1)

    def readers(self, rows: Tensor) -> Tensor:
        """Returns how weights read the inputs, `[n, n_i, n_read]`: first layers, behind the embedding if there is one.

        Args:
            rows: `[n, n_w]`.
        """
        m = self.matrices(rows)
        if isinstance(self.network, ResidualMLP):
            return torch.cat([self.network.embed @ w for name, w in m.items() if name.startswith("W_in")], -1)
        return next(iter(m.values()))


def subject(name: str, seed: int, folder: Path | None = None) -> Subject:
    """Returns a target by name: shipped, or trained where a target of APD is not.

    Args:
        name: See `NAMES`.
        seed: Of the target; toys of L3D have 0 to 15 and 1000 to 1015.
        folder: Where results lie, for targets that are not shipped; None for `artifacts/` of the project.

    Raises:
        ValueError: An unknown name, or a toy's seed that is not shipped.
    """
    if name in OF_APD:
        config = OF_APD[name]
        network, _ = trained(config, [seed], artifacts.results_folder(folder))
        if isinstance(network, TiedSuperposition):
            module, places = toys.Superposition(network.w[0], network.b[0], tied=True), {"W_in": ("W", False)}
        else:
            module = ResidualModule(network)
            places = {m.replace(".", "_"): (m, False) for m in network.weights}
        return Subject(name, seed, network, module.eval(), places, config.inputs)
    if name not in OF_L3D:
        raise ValueError(f"target {name!r} is unknown; expected one of {list(NAMES)}.")
    task = toys.shipped(*OF_L3D[name]).task(seed)
    network, places = chain(task.model)
    return Subject(name, seed, network, task.model, places, ToyInputs(task.config), task.config.group_size)


def kept(one: Subject) -> bool:
    """Returns whether a target does what it is for, judged on the target alone: the house's rule for each toy."""
    if one.name in OF_L3D:
        return toys.shipped(*OF_L3D[one.name]).task(one.seed).kept
    return not isinstance(one.network, TiedSuperposition) or bool(whole(one.network.w))


def targets_digest(name: str, seeds: Sequence[int], folder: Path) -> str:
    """Returns a hash of the weights and biases of targets."""
    each = [to_tensors(subject(name, seed, folder).network) for seed in seeds]
    return artifacts.tensor_digest([t for one in each for t in one.values()])
