"""Learning V_in and V_out for one or many decompositions at once (paper Alg. 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .batches import Gradients, preflight
from .checkpoints import load_checkpoint, save_checkpoint
from .divergences import Divergence
from .l3d import L3DConfig
from .parallel import small_work
from .plan import Plan
from .runs import Program, Run, build_program
from .step import Batch, Stepper
from .streams import draw_epoch, initial_state, unpack
from .tucker import TuckerDirections

# Steps of fewer operations, on models whose passes hold fewer numbers, run on one thread: sharing takes longer.
SMALL_STEP, SMALL_PASS = 2e8, 2**20


@dataclass(frozen=True)
class History:
    """What one decomposition recorded while it trained.

    Attributes:
        recon_sq: Mean over an epoch's batches of the squared error ratio, `[epochs]`.
        recon_norm: Mean over an epoch's batches of its root (paper Eq. 5), `[epochs]`.
        p_active: Share of samples for which a subnetwork was kept (the paper's P_act), `[epochs, n_v]`.
        first_losses: recon_sq of the first steps, at most 50; `l3d check` recomputes them.
        wall_seconds: Time of the whole stack of runs this one was trained in.
    """

    recon_sq: Tensor
    recon_norm: Tensor
    p_active: Tensor
    first_losses: Tensor
    wall_seconds: float


@dataclass(frozen=True)
class L3D:
    """A finished decomposition of a model into n_v subnetworks.

    Attributes:
        model: The target, unchanged.
        v_in: Encoder directions V_in.
        v_out: Decoder directions V_out; the subnetworks are its rows (paper section 2.5).
        divergence: The divergence whose gradients were decomposed.
        config: The settings.
        seed: The run's random seed.
        history: What was recorded.
    """

    model: nn.Module
    v_in: TuckerDirections
    v_out: TuckerDirections
    divergence: Divergence
    config: L3DConfig
    seed: int
    history: History

    @property
    def p_active(self) -> Tensor:
        """P_act of each subnetwork in the last finished epoch, `[n_v]`; ValueError if there is none."""
        if not len(self.history.p_active):
            raise ValueError("training stopped before its first epoch was done; expected one. Raise max_steps.")
        return self.history.p_active[-1]

    @property
    def live(self) -> Tensor:
        """Which subnetworks were kept at least once in the last epoch, booleans `[n_v]`."""
        return self.p_active > 0

    @property
    def parameters(self) -> list[str]:
        """Names of the decomposed parameters."""
        return list(self.v_out.layout.shapes)


def train_block_(program: Program, state: dict[str, Tensor], stepper: Stepper, batches: list[Batch]) -> None:
    """Takes the steps of consecutive batches and records them; everything in place.

    Args:
        program: The runs' settings.
        state: Records and counters, see `initial_state`.
        stepper: The numbers being trained.
        batches: Gradients of each batch.
    """
    epoch, first = int(state["epoch"]), int(state["step"])
    with torch.no_grad():
        done = [stepper.step_(batch, epoch, first + b) for b, batch in enumerate(batches)]
        recon_sq = torch.stack([recon for recon, _ in done], 1).clamp_min_(0)  # Rounding may leave it below.
        recon_norm = recon_sq.clamp_min(torch.finfo(recon_sq.dtype).tiny).sqrt()
        kept = torch.stack([kept for _, kept in done], 1).sum((1, 3))
    if not (torch.isfinite(recon_sq).all() and torch.isfinite(stepper.numbers).all()):
        _raise_diverged(program, recon_sq, epoch)
    state["recon_sq"][:, epoch] += recon_sq.sum(1)
    state["recon_norm"][:, epoch] += recon_norm.sum(1)
    state["p_active"][:, epoch] += kept
    if first < state["first_losses"].shape[1]:
        early = recon_sq[:, : state["first_losses"].shape[1] - first]
        state["first_losses"][:, first : first + early.shape[1]] = early
    state["step"] += len(batches)
    state["batch"] += len(batches)


def _raise_diverged(program: Program, recon_sq: Tensor, epoch: int) -> None:
    """Raises FloatingPointError; called before anything is recorded."""
    bad = (~torch.isfinite(recon_sq).all(1)).nonzero().flatten().tolist() or [0]
    run = program.runs[bad[0]]
    raise FloatingPointError(
        f"the loss of run {program.places[bad[0]]} (seed {run.seed}) became NaN or infinite in epoch {epoch} "
        f"({len(bad)} of {len(program.runs)} runs); expected finite losses. Lower lr (now {run.config.lr})."
    )


def _finish_epoch_(program: Program, state: dict[str, Tensor], epoch: int) -> None:
    """Turns the epoch's sums into means, once."""
    state["recon_sq"][:, epoch] /= program.n_batches
    state["recon_norm"][:, epoch] /= program.n_batches
    state["p_active"][:, epoch] /= program.n_samples
    state["epoch"] += 1
    state["batch"].zero_()


def _train(
    program: Program, state: dict[str, Tensor], stepper: Stepper, save: Callable[[], None], every: float,
    max_steps: int | None, bar: tqdm,
) -> None:  # fmt: skip
    """Runs epochs until the end or max_steps, calling `save` at block ends at most every so many seconds."""
    last = saved = time.monotonic()
    limit = float("inf") if max_steps is None else max_steps
    gradients = Gradients(program)
    while int(state["epoch"]) < program.epochs and int(state["step"]) < limit:
        epoch, first = int(state["epoch"]), 0
        gradients.draw_(draw_epoch(program, state))
        stepper.note_dead_(state)
        for i, block in enumerate(program.blocks):
            done = int(state["batch"]) - first  # Of this block's batches; not 0 where a resumed epoch broke off in it.
            first += block.n_batches
            if done >= block.n_batches:
                continue
            train_block_(program, state, stepper, gradients.batches(i)[done:])
            now = time.monotonic()
            state["wall_seconds"] += now - last
            last = now
            if first == program.n_batches:
                _finish_epoch_(program, state, epoch)
                bar.update()
            if now - saved >= every:
                save()
                saved = now
            if int(state["step"]) >= limit:
                return


def plan(
    runs: Sequence[Run],
    *,
    memory_gib: float | None = None,
    paths: Mapping[str, str] | None = None,
    operand_dtype: torch.dtype | None = None,
) -> Plan:
    """Returns how `fit` would compute these runs: path, memory and cost of each tensor. Print it to read it.

    Args:
        runs: See `fit`; so are the others.
        memory_gib: The budget.
        paths: Paths by name pattern.
        operand_dtype: Precision of operands.

    Raises:
        ValueError: And the other errors of `fit` that come before training.
    """
    return build_program(runs, memory_gib, paths, operand_dtype).plan


def fit(
    runs: Sequence[Run],
    *,
    memory_gib: float | None = None,
    paths: Mapping[str, str] | None = None,
    operand_dtype: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    max_steps: int | None = None,
    progress: bool | str = False,
) -> list[L3D]:
    """Returns the decompositions of several runs, trained side by side in one program (paper Alg. 1).

    Runs may differ in model (of one architecture), inputs, seed, divergence, rank, k, learning rate and the
    other settings, but not in n_v, batch size, epochs, form or parameters. A run's random stream depends on
    its seed alone, so a run gives the same result alone or beside others. Runs of one model and divergence that
    see the same batches (by `batch_seed`) share their gradients. `plan` tells how it will be computed.

    Args:
        runs: What to decompose, see `Run`.
        memory_gib: Budget in GiB; None for half of the machine's memory, or nine tenths of a GPU's free memory.
            Results do not depend on it, beyond rounding.
        paths: Instead of the cheapest path of each tensor, 'dense' or 'factored' by name pattern.
        operand_dtype: Precision of the operands of products with gradients, such as torch.bfloat16; the loss and
            all that is trained keep the model's. None for the model's.
        checkpoint: A file to continue from if it exists and to save to; removed by nobody.
        checkpoint_seconds: Least seconds between saves; 0 saves after every block of batches.
        max_steps: Stop, and save, at the first block end with this many steps done or more; None for all epochs.
        progress: Show a bar on standard error; a text names it.

    Returns:
        One L3D per run, in order.

    Raises:
        TypeError: A model, an input or a divergence of the wrong kind.
        ValueError: Runs that cannot be trained or stacked, a decomposition that does not fit the budget, gradients
            that are all zero, or a checkpoint that is damaged or of other runs.
        FloatingPointError: A loss became NaN or infinite.
        OSError: The checkpoint cannot be written; the last good one is kept.
    """
    program = build_program(runs, memory_gib, paths, operand_dtype)
    path = None if checkpoint is None else Path(checkpoint)
    state = initial_state(program)
    if path is not None and path.exists():
        saved = load_checkpoint(path, program.key)
        state = {name: t.to(state[name].device) if name in state else t for name, t in saved.items()}
    if int(state["step"]) == 0:
        preflight(program, state)
    stepper, small = Stepper(program, state), program.plan.flops < SMALL_STEP and program.plan.held < SMALL_PASS

    def save() -> None:
        stepper.copy_(state, load=False)
        if path is not None:
            save_checkpoint(path, program.key, state)

    save()
    with tqdm(
        total=program.epochs, initial=int(state["epoch"]), disable=not progress, mininterval=2.0,
        desc=progress if isinstance(progress, str) else f"{len(runs)} runs", unit="epoch",
    ) as bar, small_work(small and program.device.type == "cpu"):  # fmt: skip
        _train(program, state, stepper, save, checkpoint_seconds, max_steps, bar)
    save()
    return [_result(program, state, program.places.index(r)) for r in range(len(program.runs))]


def _result(program: Program, state: dict[str, Tensor], r: int) -> L3D:
    """Returns run r's record, its directions cut back to its own ranks."""
    run, done = program.runs[r], int(state["epoch"])
    layout, numbers = unpack(program, state, r)
    history = History(
        recon_sq=state["recon_sq"][r, :done].clone(),
        recon_norm=state["recon_norm"][r, :done].clone(),
        p_active=state["p_active"][r, :done].clone(),
        first_losses=state["first_losses"][r, : int(state["step"])].clone(),
        wall_seconds=float(state["wall_seconds"]),
    )
    v_in, v_out = (TuckerDirections(layout, part) for part in numbers)
    return L3D(run.model, v_in, v_out, program.divergences[r], run.config, run.seed, history)


def decompose(
    model: nn.Module,
    inputs: Tensor,
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor],
    config: L3DConfig,
    *,
    seed: int = 0,
    parameters: str | Sequence[str] = "*",
    references: Tensor | None = None,
    memory_gib: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | str = False,
) -> L3D:
    """Returns the decomposition of one model into config.n_v subnetworks (paper Alg. 1).

    Args:
        model: Any module in evaluation mode; it is read, never changed.
        inputs: `[n, ...]` on the model's device, floating point or integer.
        divergence: 'mse', 'normalised_mse', 'half_reference_mse', 'kl', or a function `(y, y_ref) -> [n_s]`.
        config: The settings.
        seed: Seeds starting values, order and references.
        parameters: Name patterns of the parameters to decompose.
        references: Reference outputs to use instead of config.reference, in the shape of the outputs.
        memory_gib: See `fit`.
        checkpoint: See `fit`.
        progress: See `fit`.

    Returns:
        The directions, with the history of the training.

    Raises:
        ValueError: And the other errors of `fit`.
    """
    run = Run(model, inputs, config, divergence, seed, parameters, references)
    return fit([run], memory_gib=memory_gib, checkpoint=checkpoint, progress=progress)[0]
