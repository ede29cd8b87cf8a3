"""Plain dictionary learning on gradients: L3D's objective with full-rank directions, several runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..divergences import resolve_divergence
from ..gradients import build_target, sample_gradients, target_outputs
from ..l3d import L3DConfig, batch_top_k
from ..parallel import small_work
from ..references import draw_partners, reference_outputs
from ..runs import Run
from .evaluation import Directions

# Steps with fewer gradient values than this run on one thread: sharing takes longer.
SMALL = 2**19


class Dictionary(NamedTuple):
    """What dictionary learning found and recorded.

    Attributes:
        directions: V_in and V_out, `[n_runs, n_v, n_w]`.
        recon_sq: Mean over an epoch's batches of the squared error ratio, `[n_runs, epochs]`.
        p_active: Share of samples for which each direction was kept in the last epoch, `[n_runs, n_v]`.
    """

    directions: Directions
    recon_sq: Tensor
    p_active: Tensor


def gradient_draws(runs: Sequence[Run]) -> Callable[[int], Tensor]:
    """Returns a function of the epoch that returns the runs' gradients with references drawn for that epoch.

    Outputs are computed once; an epoch takes one backward pass. Each run's references come from its seed and the
    epoch alone, so that epochs can be asked for in any order.

    Differs from L3D: references are drawn among all of a run's samples, not only those of a batch.

    Args:
        runs: Models of one architecture with as many inputs each, as for `fit`; given references are used as they are.

    Returns:
        `draw(epoch)`, which returns `[n_runs, n_s, n_w]`.
    """
    same = all(run.model is runs[0].model for run in runs)
    target = build_target([run.model for run in (runs[:1] if same else runs)], runs[0].parameters)
    x = torch.stack([run.inputs for run in runs])
    y = target_outputs(target, x)
    flat = y.flatten(1, 2)
    divergences = [resolve_divergence(run.divergence, own) for run, own in zip(runs, y, strict=True)]

    def cotangents(epoch: int) -> Iterator[Tensor]:
        for run, d, own in zip(runs, divergences, flat, strict=True):
            if run.references is None:
                # Only 32 bits of a seed count.
                generator = torch.Generator().manual_seed((run.seed * 65_536 + epoch + 1) % 2**32)
                partners = draw_partners(1, len(own), generator)[0]
                y_ref = reference_outputs(own, run.config.reference, partners=partners, probabilities=d.name == "kl")
            else:
                y_ref = run.references.reshape(own.shape)
            yield d.cotangent(own, y_ref)

    return lambda epoch: sample_gradients(target, x, torch.stack(list(cotangents(epoch))).reshape(y.shape))


def _start(config: L3DConfig, n_w: int, generators: list[torch.Generator], like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the encoders and decoders that runs start from, rows of unit length, `[n_runs, n_v, n_w]` each."""
    drawn = [torch.randn(2, config.n_v, n_w, generator=g, dtype=torch.float64) for g in generators]
    v_out, v_in = normalize(torch.stack(drawn, 1), dim=-1).to(like)
    v_in = v_out.clone() if config.encoder_init == "copy" else v_in.clone()
    return v_in, v_out.clone()


class Slopes(NamedTuple):
    """The error of one batch of every run, and its derivatives.

    Attributes:
        recon_sq: Squared error ratio `[n_runs]`.
        kept: Which coefficients were kept `[n_runs, n_s, n_v]`.
        v_in: Derivative of the loss in V_in `[n_runs, n_v, n_w]`.
        v_out: The same in V_out.
    """

    recon_sq: Tensor
    kept: Tensor
    v_in: Tensor
    v_out: Tensor


def slopes(g: Tensor, v_in: Tensor, v_out: Tensor, config: L3DConfig, dense: bool) -> Slopes:
    """Returns the top-k reconstruction error of a batch of gradients and its derivatives (paper Eqs. 3-5).

    With `r = g_hat - g` and c the derivative of the loss in `sum r^2`: `dV_out = 2 c z~^T r`, and
    `dV_in = 2 c (r V_out^T, where kept)^T g`.

    Args:
        g: Gradients `[n_runs, n_s, n_w]`.
        v_in: Encoder directions `[n_runs, n_v, n_w]`.
        v_out: Decoder directions, the same shape.
        config: Gives k and the loss.
        dense: Keep every coefficient.
    """
    z = g @ v_in.mT
    kept = torch.ones_like(z, dtype=torch.bool) if dense else batch_top_k(z, config.k_count(g.shape[-2]))
    z_kept = z * kept
    residual = torch.baddbmm(g, z_kept, v_out, beta=-1)
    total = g.square().sum((1, 2))
    inverse = torch.where(total > 0, total, 1).reciprocal()
    recon_sq = residual.square().sum((1, 2)) * inverse
    slope = 2 * inverse
    if config.loss == "recon_norm":  # A batch that is rebuilt exactly has no slope to follow.
        slope = torch.where(recon_sq > torch.finfo(g.dtype).tiny, 0.5 * recon_sq.rsqrt() * slope, 0)
    pull = residual.mul_(slope[:, None, None])
    return Slopes(recon_sq, kept, ((pull @ v_out.mT) * kept).mT @ g, z_kept.mT @ pull)


def learn_dictionary(draw: Callable[[int], Tensor] | Tensor, config: L3DConfig, seeds: Sequence[int]) -> Dictionary:
    """Returns directions learned as L3D learns them (paper Alg. 1), but of full rank.

    Batch top-k, loss, optimiser, decay of the learning rate, dense epochs and the start of the encoder are the
    config's; rows of V_out have Euclidean length 1 after every step. Its rank, form, v_out_norm, reference and revival
    say nothing here. A run's result depends on its seed and gradients alone, not on the runs beside it.

    Args:
        draw: A function of the epoch, counted from 0, that returns gradients `[n_runs, n, n_w]`, or `[n, n_w]` that
            all runs share, such as `gradient_draws(runs)`; or such a tensor for all epochs.
        config: The settings.
        seeds: One for each run: its start and the order of its samples.

    Returns:
        Directions of every run, and the record of their training.

    Raises:
        ValueError: Gradients of another shape, or no seeds.
        FloatingPointError: A loss became NaN or infinite.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    g = _gradients(draw, 0, len(generators))
    n = g.shape[1]
    v_in, v_out = _start(config, g.shape[2], generators, g)
    optimiser = torch.optim.AdamW([v_in, v_out], weight_decay=config.weight_decay, fused=True)
    records, run, step = [], torch.arange(len(seeds), device=g.device)[:, None], 0
    with small_work(g.device.type == "cpu" and len(seeds) * config.batch_size * g.shape[2] < SMALL):
        for epoch in range(config.epochs):
            g = _gradients(draw, epoch, len(seeds)) if epoch else g
            order = torch.stack([torch.randperm(n, generator=generator) for generator in generators])
            batches = order.to(g.device).split(config.batch_size, 1)
            recon_sq, kept = g.new_zeros(len(seeds)), g.new_zeros(len(seeds), config.n_v)
            for samples in batches:
                optimiser.param_groups[0]["lr"] = config.lr_at(epoch, step)
                found = slopes(g[run, samples], v_in, v_out, config, epoch < config.dense_epochs)
                v_in.grad, v_out.grad = found.v_in, found.v_out
                optimiser.step()
                v_out.copy_(normalize(v_out, dim=-1))
                recon_sq += found.recon_sq
                kept += found.kept.sum(1)
                step += 1
            if not torch.isfinite(recon_sq).all():
                raise FloatingPointError(f"a loss became NaN or infinite in epoch {epoch}; lower lr ({config.lr}).")
            records.append(recon_sq / len(batches))
    return Dictionary(Directions(v_in, v_out), torch.stack(records, 1), kept / n)


def _gradients(draw: Callable[[int], Tensor] | Tensor, epoch: int, n_runs: int) -> Tensor:
    """Returns the gradients of an epoch as `[n_runs, n, n_w]`."""
    g = draw if isinstance(draw, Tensor) else draw(epoch)
    if n_runs < 1 or g.ndim not in (2, 3) or (g.ndim == 3 and len(g) != n_runs):
        raise ValueError(f"gradients have shape {tuple(g.shape)}; expected [n, n_w] or [{n_runs}, n, n_w], n_runs > 0.")
    return g.detach().expand(n_runs, *g.shape[-2:])
