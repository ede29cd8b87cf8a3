"""Learning V_in and V_out for one or many decompositions at once (paper Alg. 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoints import load_checkpoint, save_checkpoint
from .divergences import Divergence
from .l3d import L3DConfig, reconstruct
from .runs import Program, Run, build_program
from .streams import draw_epoch, initial_state, preflight, unpack
from .tucker import TuckerDirections, dense_matrix, direction_norms, normalising_scale

BETAS, EPS = (0.9, 0.999), 1e-8


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


@torch.no_grad()
def adamw_(numbers: Tensor, grad: Tensor, moments: Tensor, step: int, lr: Tensor, weight_decay: Tensor) -> None:
    """Takes one AdamW step in place (Adam where the weight decay is 0).

    Args:
        numbers: What is trained `[2, n_runs, n_v, n_numbers]`.
        grad: Its gradient.
        moments: First and second moments `[2, *numbers.shape]`, updated too.
        step: Steps taken before this one.
        lr: Learning rates, broadcastable to numbers.
        weight_decay: Decoupled weight decay, likewise.
    """
    numbers.mul_(1 - lr * weight_decay)
    moments[0].lerp_(grad, 1 - BETAS[0])
    moments[1].mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    denominator = (moments[1] / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
    numbers.addcdiv_(moments[0] * (lr / (1 - BETAS[0] ** (step + 1))), denominator, value=-1)


@torch.no_grad()
def normalise_v_out_(program: Program, numbers: Tensor) -> None:
    """Sets the length of every decoder direction as each run's settings say, in place (Alg. 1 line 13)."""
    matrix = dense_matrix(program.layout, numbers[1])
    norms = direction_norms(program.layout, matrix, "l2")
    if program.any_tensor_sum:
        summed = direction_norms(program.layout, matrix, "tensor_sum")
        norms = torch.where(program.tensor_sum, summed, norms)
    scale = normalising_scale(norms, program.tensor_sum)
    numbers[1].mul_((scale.unsqueeze(-1) ** program.powers)[..., program.which_power])


def train_step_(program: Program, state: dict[str, Tensor], g: Tensor, epoch: int) -> None:
    """Takes one step of Alg. 1 (lines 7-13) for every run, in place.

    Args:
        program: The runs' settings.
        state: What is trained and recorded, see `initial_state`.
        g: Gradients of one batch `[n_runs, n_s, n_w]`.
        epoch: Epochs finished before.
    """
    step = int(state["step"])
    leaf = state["numbers"].detach().requires_grad_()
    with torch.enable_grad():
        v_in, v_out = dense_matrix(program.layout, leaf)
        batch = reconstruct(g, v_in, v_out, program.k_count(g.shape[1]), program.is_dense(epoch))
        loss = torch.where(program.root_loss, batch.recon_norm, batch.recon_sq)
        grad = torch.autograd.grad(loss.sum(), leaf)[0]
    if program.mask is not None:
        grad = grad * program.mask
    adamw_(state["numbers"], grad, state["moments"], step, program.lr_at(epoch, step), program.weight_decay)
    normalise_v_out_(program, state["numbers"])
    state["recon_sq"][:, epoch] += batch.recon_sq.detach()
    state["recon_norm"][:, epoch] += batch.recon_norm.detach()
    state["p_active"][:, epoch] += batch.kept.sum(1)
    if step < state["first_losses"].shape[1]:
        state["first_losses"][:, step] = batch.recon_sq.detach()
    state["step"] += 1


def _check_finite(program: Program, state: dict[str, Tensor], epoch: int) -> None:
    """Raises FloatingPointError if losses or directions are no longer numbers; called before anything is saved."""
    finite = torch.isfinite(state["recon_sq"][:, epoch]) & torch.isfinite(state["numbers"]).all(-1).all(-1).all(0)
    bad = (~finite).nonzero().flatten().tolist()
    if bad:
        run = program.runs[bad[0]]
        raise FloatingPointError(
            f"the loss of run {bad[0]} (seed {run.seed}) became NaN or infinite in epoch {epoch} "
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
    program: Program, state: dict[str, Tensor], save: Callable[[], None], every: float, max_steps: int | None, bar: tqdm
) -> None:
    """Runs epochs until the end or max_steps, calling `save` at block ends at most every so many seconds."""
    last = saved = time.monotonic()
    limit = float("inf") if max_steps is None else max_steps
    while int(state["epoch"]) < program.epochs and int(state["step"]) < limit:
        epoch, first = int(state["epoch"]), 0
        draws = draw_epoch(program, state)
        for block in program.blocks:
            done = int(state["batch"]) - first  # Of this block's batches; not 0 where a resumed epoch broke off in it.
            first += block.n_batches
            if done >= block.n_batches:
                continue
            gradients = program.block_gradients(draws, block)
            for b in range(done, block.n_batches):
                train_step_(program, state, gradients[:, b], epoch)
            _check_finite(program, state, epoch)
            state["batch"] += block.n_batches - done
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


def fit(
    runs: Sequence[Run],
    *,
    chunk_size: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    max_steps: int | None = None,
    progress: bool | str = False,
) -> list[L3D]:
    """Returns the decompositions of several runs, trained side by side in one program (paper Alg. 1).

    Runs may differ in model (of one architecture), inputs, seed, divergence, rank, k, learning rate and the
    other settings, but not in n_v, batch size, epochs, form or parameters. A run's random stream depends on
    its seed alone, so a run gives the same result alone or beside others.

    Args:
        runs: What to decompose, see `Run`.
        chunk_size: Inputs per run whose gradients are formed at once; None chooses about 16 MiB of them.
        checkpoint: A file to continue from if it exists and to save to; removed by nobody.
        checkpoint_seconds: Least seconds between saves; 0 saves after every block of batches.
        max_steps: Stop, and save, at the first block end with this many steps done; None for all epochs.
        progress: Show a bar on standard error; a text names it.

    Returns:
        One L3D per run, in order.

    Raises:
        TypeError: A model, an input or a divergence of the wrong kind.
        ValueError: Runs that cannot be trained or stacked, gradients that are all zero, or a checkpoint that is
            damaged or of other runs.
        FloatingPointError: A loss became NaN or infinite.
        OSError: The checkpoint cannot be written; the last good one is kept.
    """
    program = build_program(runs, chunk_size)
    path = None if checkpoint is None else Path(checkpoint)
    state = initial_state(program)
    if path is not None and path.exists():
        saved = load_checkpoint(path, program.key)
        state = {name: t.to(state[name].device) if name in state else t for name, t in saved.items()}
    if int(state["step"]) == 0:
        preflight(program, state)

    def save() -> None:
        if path is not None:
            save_checkpoint(path, program.key, state)

    save()
    with tqdm(
        total=program.epochs, initial=int(state["epoch"]), disable=not progress, mininterval=2.0,
        desc=progress if isinstance(progress, str) else f"{len(runs)} runs", unit="epoch",
    ) as bar:  # fmt: skip
        _train(program, state, save, checkpoint_seconds, max_steps, bar)
    save()
    return [_result(program, state, r) for r in range(len(program.runs))]


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
    chunk_size: int | None = None,
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
        chunk_size: See `fit`.
        checkpoint: See `fit`.
        progress: See `fit`.

    Returns:
        The directions, with the history of the training.

    Raises:
        ValueError: And the other errors of `fit`.
    """
    run = Run(model, inputs, config, divergence, seed, parameters, references)
    return fit([run], chunk_size=chunk_size, checkpoint=checkpoint, progress=progress)[0]
