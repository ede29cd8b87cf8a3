"""Several decompositions laid side by side as one program: settings, batches and gradients."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .artifacts import tensor_digest
from .bundles import Fact, Sizes
from .checks import check_together
from .cuts import Head, Prefix, cut_head, cut_prefix
from .divergences import Divergence, resolve_divergence
from .factors import Linearised, Use
from .gradients import Target, build_target, check_references, target_outputs
from .l3d import L3DConfig
from .plan import Plan, make_plan
from .probe import find_uses, pass_numbers
from .tucker import Layout, resolve_ranks


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
        batch_seed: Seeds order and references alone, so that runs of other seeds can share them; None for the seed's.
    """

    model: nn.Module
    inputs: Tensor
    config: L3DConfig
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor] = "mse"
    seed: int = 0
    parameters: str | Sequence[str] = "*"
    references: Tensor | None = None
    batch_seed: int | None = None


class Block(NamedTuple):
    """Consecutive batches of one size whose gradients are laid out together."""

    start: int
    n_batches: int
    size: int

    @property
    def inputs(self) -> slice:
        """Where its inputs lie in the epoch's order."""
        return slice(self.start, self.start + self.n_batches * self.size)


class EpochDraws(NamedTuple):
    """One epoch's order of inputs `[n_sources, n]` and reference partners, one tensor per block."""

    order: Tensor
    partners: list[Tensor]


class Group(NamedTuple):
    """Sources that share divergence and kind of reference."""

    index: Tensor | slice
    divergence: Divergence
    kind: str


@dataclass
class Program:
    """Everything about a stack of runs that training does not change.

    Runs with the same model, inputs, divergence and batches share one source of gradients, and stand together;
    `places` tells where the caller's runs went. `whole` is the target before a last layer was cut off.
    """

    runs: list[Run]
    places: list[int]
    target: Target
    whole: Target
    inputs: Tensor
    references: Tensor | None
    divergences: list[Divergence]
    groups: list[Group]
    layout: Layout
    layouts: list[Layout]
    blocks: list[Block]
    plan: Plan
    uses: list[Use]
    facts: dict[str, Fact | None]
    linear: Linearised | None
    head: Head | None
    prefix: Prefix | None
    n_o: int

    def __post_init__(self) -> None:
        like = next(iter(self.target.w0.values()))
        self.device, self.dtype = like.device, like.dtype
        configs, sizes = [run.config for run in self.runs], self.plan.sizes
        self.epochs, self.n_positions = configs[0].epochs, sizes.n_positions
        self.n_batches = sum(block.n_batches for block in self.blocks)
        self.n_samples = self.inputs.shape[1] * self.n_positions
        self.root_loss = self._tensor([c.loss == "recon_norm" for c in configs], torch.bool)
        self.any_root, self.all_root = bool(self.root_loss.any()), bool(self.root_loss.all())
        summed = self._tensor([c.v_out_norm == "tensor_sum" for c in configs], torch.bool)
        self.any_tensor_sum, self.all_tensor_sum = bool(summed.any()), bool(summed.all())
        self.tensor_sum = summed.view(sizes.n_sources, 1, sizes.n_shared, 1, 1)
        revival = [c.revival for c in configs]
        self.revival = self._tensor(revival).view(-1, 1, 1) if any(revival) else None
        self._k: dict[int, tuple[int | Tensor, int]] = {}
        self._dense: tuple[int, Tensor | None] = (-1, None)
        self.key = _key(self)

    def _tensor(self, values: list, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, device=self.device, dtype=dtype or self.dtype)

    def k_count(self, n_s: int) -> tuple[int | Tensor, int]:
        """Returns how many coefficients each run keeps of a batch of n_s samples, and the most that any run does.

        The first is one number if all keep as many, else `[n_runs]`.
        """
        if n_s not in self._k:
            counts = [run.config.k_count(n_s) for run in self.runs]
            most = max(counts)
            self._k[n_s] = (most if min(counts) == most else self._tensor(counts, torch.long), most)
        return self._k[n_s]

    def dense_runs(self, epoch: int) -> Tensor | None:
        """Returns which runs keep every coefficient in this epoch, `[n_runs]`; None for none."""
        if self._dense[0] != epoch:
            dense = [epoch < run.config.dense_epochs for run in self.runs]
            self._dense = (epoch, self._tensor(dense, torch.bool) if any(dense) else None)
        return self._dense[1]


def _stack_or_share(tensors: Sequence[Tensor]) -> Tensor:
    """Returns `[1, ...]` if all are the same tensor, else `[n_runs, ...]`."""
    return tensors[0][None] if all(t is tensors[0] for t in tensors) else torch.stack(list(tensors))


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
    groups = []
    for (_, divergence, kind), at in found.items():
        place = slice(at[0], at[-1] + 1) if at == list(range(at[0], at[-1] + 1)) else torch.tensor(at, device=device)
        groups.append(Group(place, divergence, kind))
    return groups


def _key(program: Program) -> str:
    """Returns a hash of all that determines the result."""
    inputs = {id(run.inputs): run.inputs for run in program.runs}
    at = list(inputs)
    facts = [
        [asdict(run.config), divergence.name, run.seed, run.batch_seed, layout.ranks, at.index(id(run.inputs))]
        for run, layout, divergence in zip(program.runs, program.layouts, program.divergences, strict=True)
    ]
    tensors = [*program.whole.w0.values(), *program.whole.rest.values(), *inputs.values()]
    tensors += [run.references for run in program.runs if run.references is not None]
    # Two functions of a reader's may share a name: their values on fixed outputs tell them apart.
    probe = torch.randn(2, 3, program.n_o, generator=torch.Generator().manual_seed(0)).to(tensors[0])
    tensors += [divergence.value(*probe) for divergence in {id(d): d for d in program.divergences}.values()]
    shared = [facts, program.layout.shapes, program.plan.operand_dtype]
    return tensor_digest(tensors, json.dumps(shared, sort_keys=True, default=str))


def _sources(runs: Sequence[Run], divergences: list[Divergence], layouts: list[Layout]) -> tuple[list[int], int]:
    """Returns the order in which runs that see the same gradients stand together, and how many share each source.

    Batches are the same by the same batch_seed, or the same seed after as many starting values. All sources have as
    many runs. Where optimisers differ none is shared, since each works on a block of memory of its own.
    """
    found: dict[tuple, list[int]] = {}
    optimisers = {optimiser(run.config) for run in runs}
    for r, (run, divergence, layout) in enumerate(zip(runs, divergences, layouts, strict=True)):
        stream = (run.batch_seed,) if run.batch_seed is not None else (run.seed, layout.n_numbers, run.config.n_v)
        kind = (id(divergence.value), divergence, run.config.reference)
        source = (id(run.model), id(run.inputs), id(run.references), stream)
        found.setdefault((optimiser(run.config), kind, source), []).append(r)
    n_shared = math.gcd(*map(len, found.values())) if len(optimisers) == 1 else 1
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))  # Sources of one divergence and reference stand together.
    order = sorted(found, key=lambda key: (key[0], kinds.index(key[1])))
    return [r for key in order for r in found[key]], n_shared


def optimiser(config: L3DConfig) -> tuple:
    """Returns what the optimiser of a run depends on; runs with equal ones are updated together."""
    every = (config.lr_decay_every_epochs or 0, config.lr_decay_every_steps or 0)
    return (config.lr, config.lr_decay, *every, config.weight_decay)


def build_program(
    runs: Sequence[Run],
    memory_gib: float | None = None,
    paths: Mapping[str, str] | None = None,
    operand_dtype: torch.dtype | None = None,
) -> Program:
    """Returns the runs as one program, everything checked.

    Args:
        runs: See `training.fit`, as for the others.
        memory_gib: The budget.
        paths: Paths by name pattern.
        operand_dtype: Precision of operands.

    Raises:
        TypeError: A model, an input or a divergence of the wrong kind.
        ValueError: Anything that cannot be decomposed; the message says what was got, expected and to be done.
    """
    runs = list(runs)
    check_together(runs)
    places, n_shared, layouts, divergences = _arranged(runs)
    runs = [runs[r] for r in places]
    sources, config, n = runs[::n_shared], runs[0].config, len(runs[0].inputs)
    target, inputs, probe = _targets(sources)
    highest = {name: tuple(map(max, zip(*(lay.ranks[name] for lay in layouts), strict=True))) for name in target.shapes}
    layout = Layout(target.shapes, highest, config.form)
    uses, facts = find_uses(target, inputs[0, :3])
    every = max(target.n_models, len(inputs))
    groups = _groups(sources, divergences[::n_shared], probe.device)
    alone = target.n_models == len(inputs) == 1
    behead = alone and len(groups) == 1 and groups[0].kind in ("sample", "mean")
    few = cut_head(target, inputs[0, :3], groups[0].divergence) if behead else None
    held = pass_numbers(few[0] if few else target, inputs[0, :3])
    sizes = Sizes(len(sources), n_shared, config.n_v, config.batch_size, probe.shape[2], held)
    plan = make_plan(
        layout, facts, sizes, n, n * every, probe, memory_gib=memory_gib, paths=paths, operand_dtype=operand_dtype
    )
    whole = target
    target, head = cut_head(target, inputs[0], groups[0].divergence) if few else (target, None)
    prefix = cut_prefix(target, inputs[0], plan.prefix_numbers) if alone and not plan.once else None
    return Program(
        runs=runs, places=places, target=target, whole=whole, inputs=inputs,
        references=None if sources[0].references is None else torch.stack([run.references for run in sources]),
        divergences=divergences, groups=groups, layout=layout, layouts=layouts,
        blocks=_blocks(n, config.batch_size, plan.batches_per_block), plan=plan, uses=uses, facts=facts,
        linear=Linearised(target, uses, inputs.expand(every, *inputs.shape[1:])) if plan.once else None,
        head=head, prefix=prefix, n_o=probe.shape[3],
    )  # fmt: skip


def _arranged(runs: list[Run]) -> tuple[list[int], int, list[Layout], list[Divergence]]:
    """Returns the order of the runs by source, how many share each, and their layouts and divergences in that order."""
    first = build_target(list({id(run.model): run.model for run in runs}.values()), runs[0].parameters)
    layouts = [Layout(first.shapes, resolve_ranks(first.shapes, run.config.rank), run.config.form) for run in runs]
    divergences = _resolve(runs)
    places, n_shared = _sources(runs, divergences, layouts)
    return places, n_shared, [layouts[r] for r in places], [divergences[r] for r in places]


def _targets(sources: list[Run]) -> tuple[Target, Tensor, Tensor]:
    """Returns the models, the inputs and, to tell shapes by, the outputs of the first ones; references are checked."""
    models = [run.model for run in sources]
    target = build_target(models[:1] if all(m is models[0] for m in models) else models, sources[0].parameters)
    inputs = _stack_or_share([run.inputs for run in sources])
    device = next(iter(target.w0.values())).device
    if inputs.device != device:
        raise ValueError(f"inputs are on {inputs.device}, the model on {device}; expected one device.")
    x = inputs[:, :1].expand(target.n_models, *inputs[:, :1].shape[1:]) if target.n_models > 1 else inputs[:1, :1]
    probe = target_outputs(target, x)
    for run in sources:
        if run.references is not None:
            check_references(run.references, probe[:1].expand(1, inputs.shape[1], *probe.shape[2:]))
    return target, inputs, probe


def _resolve(runs: list[Run]) -> list[Divergence]:
    """Returns each run's divergence; outputs are computed only for 'normalised_mse'."""
    once: dict[tuple, Divergence] = {}
    for run in runs:
        normalised = run.divergence == "normalised_mse"
        key = (id(run.model), id(run.inputs)) if normalised else (id(run.divergence),)
        if key not in once:
            y = target_outputs(build_target([run.model], run.parameters), run.inputs[None]) if normalised else None
            once[key] = resolve_divergence(run.divergence, y)
    return [
        once[(id(r.model), id(r.inputs)) if r.divergence == "normalised_mse" else (id(r.divergence),)] for r in runs
    ]
