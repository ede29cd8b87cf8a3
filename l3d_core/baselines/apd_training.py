"""Trains APD: components of several networks side by side, with checkpoints and exact resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..artifacts import tensor_digest
from ..checkpoints import load_checkpoint, save_checkpoint
from .apd import APD, APDConfig, losses, start, weighted
from .apd_losses import Losses
from .apd_networks import Factors, Network

# Steps between two records of the losses; checkpoints are written every so many records. First losses that are kept.
RECORD, SAVE, FIRST = 100, 5, 10

# Returns inputs `[n, n_i]`, drawn with a generator: `sample(generator, n)`.
Sampler = Callable[[torch.Generator, int], Tensor]


def decompose_apd(
    network: Network, sample: Sampler, config: APDConfig, seeds: Sequence[int],
    *, checkpoint: Path | None = None, max_steps: int | None = None, progress: bool = False,
) -> APD:  # fmt: skip
    """Returns the components that APD finds in each of several networks, trained side by side.

    A run's result depends on its network and seed alone, not on the runs beside it.

    Args:
        network: The targets, one for each seed.
        sample: Draws inputs.
        config: The settings.
        seeds: Of each run: its starting values and data.
        checkpoint: File to save the state to from time to time, and to go on from if it is there.
        max_steps: Stop after so many steps of those of the settings; None for none.
        progress: Show a bar on standard error.

    Raises:
        ValueError: Networks and seeds differ in number; the checkpoint is damaged or of other runs.
        FloatingPointError: A loss became NaN or infinite.
        OSError: The checkpoint cannot be written.
    """
    n_runs = len(next(iter(network.weights.values())))
    if n_runs != len(seeds):
        raise ValueError(f"got {len(seeds)} seeds for {n_runs} networks; expected one each.")
    state = _State(network, sample, config, seeds)
    key = _key(network, config, seeds)
    if checkpoint is not None and checkpoint.exists():
        state.load(load_checkpoint(checkpoint, key))
    last = config.steps if max_steps is None else min(max_steps, config.steps)
    with tqdm(initial=state.step, total=last, disable=not progress, unit="step", mininterval=5.0) as bar:
        while state.step < last:
            steps = min(RECORD, last - state.step)
            found = state.advance(steps)
            bar.update(steps)
            if not torch.isfinite(found).all():
                raise FloatingPointError(f"a loss became NaN or infinite by step {state.step}; lower lr ({config.lr}).")
            if checkpoint is not None and (len(state.records) % SAVE == 0 or state.step == last):
                save_checkpoint(checkpoint, key, state.tensors())
    history = Losses(*torch.stack(state.records, -1))
    components = {name: Factors(*(part.detach() for part in own)) for name, own in state.components.items()}
    return APD(components, history, torch.stack(state.first, 1), config, tuple(seeds))


def _key(network: Network, config: APDConfig, seeds: Sequence[int]) -> str:
    """Returns a hash of all that determines the runs but how inputs are drawn."""
    parts = [one for part in network for one in (part if isinstance(part, tuple) else (part,))]
    fixed, words = ([one for one in parts if isinstance(one, Tensor) == wanted] for wanted in (True, False))
    facts = {"config": asdict(config), "seeds": list(seeds), "torch": torch.__version__}
    facts |= {"activations": words} if words else {}
    return hashlib.sha256(tensor_digest(fixed, json.dumps(facts, sort_keys=True)).encode()).hexdigest()[:16]


def unit_columns_(u: Tensor) -> None:
    """Gives every column of U, `[n_runs, n_in, n_components, n_terms]`, length 1 in place (APD App. D.2)."""
    u /= u.norm(dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)


def along_sphere_(slope: Tensor, u: Tensor) -> None:
    """Takes the part along columns of length 1 out of their gradient, in place: a step along it would be undone."""
    slope -= (slope * u).sum(1, keepdim=True) * u


class _State:
    """Components under training, with all that the next step depends on."""

    def __init__(self, network: Network, sample: Sampler, config: APDConfig, seeds: Sequence[int]) -> None:
        self.network, self.sample, self.config = network, sample, config
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.components = start(network, config, self.generators)
        parts = [part.requires_grad_() for own in self.components.values() for part in own]
        self.optimiser = torch.optim.Adam(parts, lr=config.lr, fused=True)
        self.step, self.records, self.first = 0, [], []

    def advance(self, steps: int) -> Tensor:
        """Takes steps and records the mean of their losses, `[4, n_runs]`, which is returned too."""
        self.records.append(sum(self._advance_once() for _ in range(steps)) / steps)
        return self.records[-1]

    def _advance_once(self) -> Tensor:
        us = [own.u for own in self.components.values()] if self.config.unit_norm else []
        for u in us:
            unit_columns_(u.data)
        batch = [self.sample(generator, self.config.batch_size) for generator in self.generators]
        like = next(iter(self.network.weights.values()))
        found = losses(self.network, torch.stack(batch).to(like), self.components, self.config)
        self.optimiser.zero_grad()
        loss = weighted(found, self.config)
        loss.sum().backward()
        if self.step < FIRST:
            self.first.append(loss.detach())
        for u in us:
            along_sphere_(u.grad, u.data)
        self.optimiser.param_groups[0]["lr"] = self.config.lr_at(self.step)
        self.optimiser.step()
        self.step += 1
        return torch.stack(found).detach()

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state by name, to be written to disk."""
        found = {
            "records": torch.stack(self.records),
            "first": torch.stack(self.first),
            "step": torch.tensor(self.step),
        }
        for name, own in self.components.items():
            for part, tensor in own._asdict().items():
                kept = self.optimiser.state[tensor]
                found |= {f"{name}.{part}": tensor.detach()} | {f"{name}.{part}.{k}": v for k, v in kept.items()}
        return found | {f"generator.{i}": g.get_state() for i, g in enumerate(self.generators)}

    def load(self, found: dict[str, Tensor]) -> None:
        """Takes over a state from disk."""
        self.step, self.records, self.first = int(found["step"]), list(found["records"]), list(found["first"])
        for name, own in self.components.items():
            for part, tensor in own._asdict().items():
                tensor.data.copy_(found[f"{name}.{part}"])
                names = ("step", "exp_avg", "exp_avg_sq")
                self.optimiser.state[tensor] = {k: found[f"{name}.{part}.{k}"].clone() for k in names}
        for i, generator in enumerate(self.generators):
            generator.set_state(found[f"generator.{i}"])
