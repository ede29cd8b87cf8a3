"""Several decompositions laid side by side as one program: settings, batches and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .artifacts import tensor_digest
from .divergences import Divergence, resolve_divergence
from .gradients import Target, build_target, check_inputs, check_references, sample_gradients, target_outputs
from .l3d import L3DConfig
from .references import reference_outputs
from .tucker import Layout, resolve_ranks

BLOCK_NUMBERS = 2**22


@dataclass(frozen=True)
class Run:
    """One decomposition to be done.

    Attributes:
        model: The target, in evaluation mode.
        inputs: `[n, ...]` on the model's device.
        config: The settings.
        divergence: A name, a Divergence or a function `(y, y_ref) -> [n_s]`.
        seed: Seeds starting values, order and references.
        parameters: Name patterns of the parameters to decompose.
        references: Reference outputs, in the shape of the outputs, instead of config.reference.
    """

    model: nn.Module
    inputs: Tensor
    config: L3DConfig
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor] = "mse"
    seed: int = 0
    parameters: str | Sequence[str] = "*"
    references: Tensor | None = None


class Block(NamedTuple):
    """Consecutive batches of one size whose gradients are formed together."""

    start: int
    n_batches: int
    size: int


class EpochDraws(NamedTuple):
    """One epoch's order of inputs `[n_runs, n]` and reference partners, one tensor per block."""

    order: Tensor
    partners: list[Tensor]


class Group(NamedTuple):
    """Runs that share divergence and kind of reference."""

    index: Tensor
    divergence: Divergence
    kind: str


@dataclass
class Program:
    """Everything about a stack of runs that training does not change."""

    runs: list[Run]
    target: Target
    inputs: Tensor
    references: Tensor | None
    divergences: list[Divergence]
    groups: list[Group]
    layout: Layout
    layouts: list[Layout]
    blocks: list[Block]
    chunk_size: int
    n_positions: int
    n_o: int
    _lr: tuple[list[float], Tensor] | None = None
    mask: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        like = next(iter(self.target.w0.values()))
        self.device, self.dtype = like.device, like.dtype
        configs = [run.config for run in self.runs]
        self.epochs = configs[0].epochs
        self.n_batches = sum(block.n_batches for block in self.blocks)
        self.n_samples = self.inputs.shape[1] * self.n_positions
        self.root_loss = self._tensor([c.loss == "recon_norm" for c in configs], torch.bool)
        self.tensor_sum = self._tensor([c.v_out_norm == "tensor_sum" for c in configs], torch.bool)[:, None]
        self.any_tensor_sum = bool(self.tensor_sum.any())
        self.weight_decay = self._tensor([c.weight_decay for c in configs])[:, None, None]
        powers, which = self.layout.shares().unique(return_inverse=True)
        self.powers, self.which_power = powers.to(self.device, self.dtype), which.to(self.device)
        self._k: dict[int, Tensor] = {}
        self.key = _key(self)
        self.mask = None
        if any(layout.n_numbers != self.layout.n_numbers for layout in self.layouts):
            self.mask = torch.zeros(len(self.runs), 1, self.layout.n_numbers, device=self.device, dtype=self.dtype)
            for r, layout in enumerate(self.layouts):
                self.mask[r, 0, self.layout.positions_of(layout)] = 1

    def _tensor(self, values: list, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=dtype or self.dtype)

    def k_count(self, n_s: int) -> Tensor:
        """Returns how many coefficients each run keeps of a batch of n_s samples, `[n_runs]`."""
        if n_s not in self._k:
            self._k[n_s] = self._tensor([run.config.k_count(n_s) for run in self.runs], torch.long)
        return self._k[n_s]

    def is_dense(self, epoch: int) -> Tensor:
        """Returns which runs keep every coefficient in this epoch, `[n_runs]`."""
        return self._tensor([epoch < run.config.dense_epochs for run in self.runs], torch.bool)

    def lr_at(self, epoch: int, step: int) -> Tensor:
        """Returns each run's learning rate, `[n_runs, 1, 1]`, made anew only when it changes."""
        rates = [run.config.lr_at(epoch, step) for run in self.runs]
        if self._lr is None or self._lr[0] != rates:
            self._lr = (rates, self._tensor(rates)[:, None, None])
        return self._lr[1]

    def block_gradients(self, draws: EpochDraws, block: Block) -> Tensor:
        """Returns the gradients of a block's batches (Alg. 1 lines 3-6), `[n_runs, n_batches, n_s, n_w]`."""
        n = block.n_batches * block.size
        chosen = draws.order[:, block.start : block.start + n]
        x = _take(self.inputs, chosen)
        y = target_outputs(self.target, x)
        samples = y.reshape(len(self.runs), block.n_batches, block.size * self.n_positions, y.shape[-1])
        partners = draws.partners[self.blocks.index(block)]
        cotangents = torch.empty_like(samples)
        for group in self.groups:
            part = samples[group.index]
            if group.kind == "given":
                y_ref = _take(self.references[group.index], chosen[group.index]).reshape(part.shape)
            else:
                probabilities = group.divergence.name == "kl"
                y_ref = reference_outputs(part, group.kind, partners=partners[group.index], probabilities=probabilities)
            cotangents[group.index] = group.divergence.cotangent(part, y_ref)
        g = sample_gradients(self.target, x, cotangents.reshape(y.shape), self.chunk_size)
        return g.unflatten(1, samples.shape[1:3])


def _take(values: Tensor, chosen: Tensor) -> Tensor:
    """Returns rows of `[n_runs or 1, n, ...]` chosen for each run by `[n_runs, m]`."""
    if values.shape[0] == 1:
        return values[0][chosen]
    return values[torch.arange(len(values), device=values.device)[:, None], chosen]


def _stack_or_share(tensors: Sequence[Tensor]) -> Tensor:
    """Returns `[1, ...]` if all are the same tensor, else `[n_runs, ...]`."""
    return tensors[0][None] if all(t is tensors[0] for t in tensors) else torch.stack(list(tensors))


def _check_together(runs: Sequence[Run], chunk_size: int | None) -> None:
    """Raises ValueError unless the runs can stand side by side."""
    if not runs:
        raise ValueError("got no runs; expected at least one Run.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1, or None.")
    for run in runs:
        check_inputs(run.inputs)
    for name in ("n_v", "batch_size", "epochs", "form"):
        values = {getattr(run.config, name) for run in runs}
        if len(values) > 1:
            raise ValueError(f"runs differ in {name}: {sorted(values)}; expected one value. Call fit once for each.")
    if len({str(run.parameters) for run in runs}) > 1:
        raise ValueError("runs differ in parameters; expected one selection. Call fit once for each.")
    shapes = {(tuple(run.inputs.shape), run.inputs.dtype) for run in runs}
    if len(shapes) > 1:
        raise ValueError(f"runs differ in the shape or type of inputs: {sorted(map(str, shapes))}; expected one.")
    if len({run.references is None for run in runs}) > 1:
        raise ValueError("some runs give references and some do not; expected all or none. Call fit once for each.")
    n, batch_size = len(runs[0].inputs), runs[0].config.batch_size
    if n < batch_size:
        raise ValueError(
            f"got {n} inputs for a batch_size of {batch_size}; expected at least one full batch. "
            "Give more inputs or lower batch_size."
        )


def _blocks(n: int, size: int, per_block: int) -> list[Block]:
    """Returns the batches of an epoch in blocks; what is left of the inputs is a last, smaller batch."""
    full = n // size
    blocks = [Block(i * size, min(per_block, full - i), size) for i in range(0, full, per_block)]
    return blocks + ([Block(full * size, 1, n % size)] if n % size else [])


def _groups(runs: Sequence[Run], divergences: list[Divergence], device: torch.device) -> list[Group]:
    """Returns the runs grouped by divergence and kind of reference."""
    found: dict[tuple, list[int]] = {}
    for r, (run, divergence) in enumerate(zip(runs, divergences, strict=True)):
        kind = run.config.reference if run.references is None else "given"
        found.setdefault((id(divergence.value), divergence, kind), []).append(r)
    return [Group(torch.tensor(index, device=device), d, kind) for (_, d, kind), index in found.items()]


def _key(program: Program) -> str:
    """Returns a hash of all that determines the result: settings, seeds, weights, inputs and references."""
    inputs = {id(run.inputs): run.inputs for run in program.runs}
    facts = [
        [asdict(run.config), divergence.name, run.seed, layout.ranks, list(inputs).index(id(run.inputs))]
        for run, layout, divergence in zip(program.runs, program.layouts, program.divergences, strict=True)
    ]
    tensors = [*program.target.w0.values(), *program.target.rest.values(), *inputs.values()]
    tensors += [run.references for run in program.runs if run.references is not None]
    # Two functions of a reader's may share a name: their values on fixed outputs tell them apart.
    probe = torch.randn(2, 3, program.n_o, generator=torch.Generator().manual_seed(0)).to(tensors[0])
    tensors += [divergence.value(*probe) for divergence in {id(d): d for d in program.divergences}.values()]
    return tensor_digest(tensors, json.dumps([facts, program.layout.shapes], sort_keys=True, default=str))


def build_program(runs: Sequence[Run], chunk_size: int | None = None) -> Program:
    """Returns the runs as one program, everything checked.

    Args:
        runs: The runs, see `training.fit` for what may differ.
        chunk_size: Inputs per run whose gradients are formed at once; None chooses by memory.

    Returns:
        The program.

    Raises:
        TypeError: A model, an input or a divergence of the wrong kind.
        ValueError: Anything that cannot be decomposed; the message says what was got, expected and to be done.
    """
    runs = list(runs)
    _check_together(runs, chunk_size)
    config, n = runs[0].config, len(runs[0].inputs)
    models = [run.model for run in runs]
    target = build_target(models[:1] if all(m is models[0] for m in models) else models, runs[0].parameters)
    device = next(iter(target.w0.values())).device
    for run in runs:
        if run.inputs.device != device:
            raise ValueError(f"inputs are on {run.inputs.device}, the model on {device}; expected one device.")
    inputs = _stack_or_share([run.inputs for run in runs])
    probe = target_outputs(
        target, (inputs if target.n_models == 1 else inputs.expand(len(runs), *inputs.shape[1:]))[:, :1]
    )
    n_positions = probe.shape[2]
    divergences = _resolve(runs, target, inputs)
    for run in runs:
        if run.references is not None:
            check_references(run.references, probe[:1].expand(1, n, *probe.shape[2:]))
    layouts = [Layout(target.shapes, resolve_ranks(target.shapes, run.config.rank), config.form) for run in runs]
    ranks = {name: tuple(map(max, zip(*(lay.ranks[name] for lay in layouts), strict=True))) for name in target.shapes}
    layout = Layout(target.shapes, ranks, config.form)
    if chunk_size is None:
        chunk_size = max(1, BLOCK_NUMBERS // (layout.n_w * n_positions * len(runs)))
    return Program(
        runs=runs,
        target=target,
        inputs=inputs,
        references=None if runs[0].references is None else torch.stack([run.references for run in runs]),
        divergences=divergences,
        groups=_groups(runs, divergences, device),
        layout=layout,
        layouts=layouts,
        blocks=_blocks(n, config.batch_size, max(1, chunk_size // config.batch_size)),
        chunk_size=chunk_size,
        n_positions=n_positions,
        n_o=probe.shape[3],
    )


def _resolve(runs: list[Run], target: Target, inputs: Tensor) -> list[Divergence]:
    """Returns each run's divergence; outputs are computed only for 'normalised_mse'."""
    outputs = None
    if any(run.divergence == "normalised_mse" for run in runs):
        outputs = target_outputs(target, inputs.expand(max(target.n_models, len(inputs)), *inputs.shape[1:]))
    once: dict[int, Divergence] = {}
    resolved = []
    for r, run in enumerate(runs):
        if run.divergence == "normalised_mse":
            resolved.append(resolve_divergence(run.divergence, outputs[r if len(outputs) > 1 else 0]))
        else:
            resolved.append(once.setdefault(id(run.divergence), resolve_divergence(run.divergence)))
    return resolved
