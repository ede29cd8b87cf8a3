"""The training step in its plain form: gradients and directions written out whole, derivatives by autograd, one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l3d_core.divergences import Divergence, resolve_divergence
from l3d_core.gradients import Target, build_target, sample_gradients, target_outputs
from l3d_core.l3d import L3DConfig, Reconstruction, reconstruct
from l3d_core.references import draw_partners, reference_outputs
from l3d_core.runs import Run
from l3d_core.tucker import Layout, resolve_ranks

BETAS, EPS = (0.9, 0.999), 1e-8


class Plain(NamedTuple):
    """What a plain training leaves.

    Attributes:
        layout: Where the numbers lie.
        numbers: Of encoder and decoder, `[2, n_v, n_numbers]`.
        losses: recon_sq of each step, `[n_steps]`.
        p_active: Share of samples for which each subnetwork was kept, `[epochs, n_v]`.
    """

    layout: Layout
    numbers: Tensor
    losses: Tensor
    p_active: Tensor


class Batch(NamedTuple):
    """The gradients of a batch `[n_s, n_w]`, its epoch, and who was kept nowhere in the epoch before, `[n_v]`."""

    g: Tensor
    epoch: int
    dead: Tensor


def plain_layout(target: Target, config: L3DConfig) -> Layout:
    """Returns where a run's own numbers lie."""
    return Layout(target.shapes, resolve_ranks(target.shapes, config.rank), config.form)


def plain_matrix(layout: Layout, numbers: Tensor) -> Tensor:
    """Returns the directions as rows `[..., n_w]`, each tensor's pieces contracted axis by axis (paper Eq. 11)."""
    lead, rows = numbers.shape[:-1], []
    pieces = iter(numbers.split([math.prod(piece) for pieces in layout.pieces.values() for piece in pieces], -1))
    for name, shapes in layout.pieces.items():
        tensor, *factors = (next(pieces).reshape(*lead, *shape) for shape in shapes)
        if layout.form == "cp" and layout.shapes[name]:
            for factor in factors:
                tensor = (tensor.unsqueeze(-1) * factor.unsqueeze(-2)).flatten(-2)
            tensor = tensor.sum(-2)
        else:
            for factor in factors:  # Each product removes the first axis and appends the full one at the end.
                rest = tensor.shape[len(lead) + 1 :]
                tensor = tensor.reshape(*lead, factor.shape[-2], -1).mT @ factor
                tensor = tensor.reshape(*lead, *rest, factor.shape[-1])
        rows.append(tensor.reshape(*lead, -1))
    return torch.cat(rows, -1)


def plain_start(layout: Layout, config: L3DConfig, generator: torch.Generator) -> Tensor:
    """Returns starting values `[2, n_v, n_numbers]`: the decoder is drawn first."""
    sides = [normalised(layout, layout.draw(config.n_v, generator), config.v_out_norm) for _ in range(2)]
    v_out, v_in = sides
    return torch.stack([v_out if config.encoder_init == "copy" else v_in, v_out])


def normalised(layout: Layout, numbers: Tensor, kind: str) -> Tensor:
    """Returns directions `[n_v, n_numbers]` of the length that a run asks for (Alg. 1 line 13)."""
    matrix, sizes = plain_matrix(layout, numbers), [math.prod(shape) for shape in layout.shapes.values()]
    lengths = torch.stack([part.norm(dim=-1) for part in matrix.split(sizes, -1)])
    divisor = lengths.norm(dim=0) if kind == "l2" else lengths.sum(0).sqrt()
    divisor = torch.where(divisor > 0, divisor, 1)
    return numbers * divisor[:, None] ** -layout.shares().to(numbers)


def adamw_(numbers: Tensor, grad: Tensor, moments: Tensor, step: int, lr: float, weight_decay: float) -> None:
    """Takes one AdamW step in place.

    Args:
        numbers: What is trained.
        grad: Its gradient.
        moments: First and second moments `[2, *numbers.shape]`, updated too.
        step: Steps taken before this one.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """
    numbers.mul_(1 - lr * weight_decay)
    moments[0].lerp_(grad, 1 - BETAS[0])
    moments[1].mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    denominator = (moments[1] / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(EPS)
    numbers.addcdiv_(moments[0] * (lr / (1 - BETAS[0] ** (step + 1))), denominator, value=-1)


def auxiliary_error(batch: Batch, v_in: Tensor, v_out: Tensor, kept: Tensor) -> Tensor:
    """Returns the share of the gradients that is left after dead subnetworks rebuilt what the kept ones leave."""
    z = batch.g @ v_in.mT
    residual = (batch.g - (z * kept) @ v_out).detach()
    left = residual - (z * (batch.dead & ~kept)) @ v_out
    total = batch.g.square().sum()
    return left.square().sum() / torch.where(total > 0, total, 1)


def plain_gradient(layout: Layout, numbers: Tensor, batch: Batch, config: L3DConfig) -> tuple[Reconstruction, Tensor]:
    """Returns a batch's reconstruction, and the loss's gradient by autograd in the shape of the numbers."""
    leaf = numbers.detach().requires_grad_()
    v_in, v_out = plain_matrix(layout, leaf)
    dense = batch.epoch < config.dense_epochs
    found = reconstruct(batch.g, v_in, v_out, config.k_count(len(batch.g)), dense)
    loss = found.recon_norm if config.loss == "recon_norm" else found.recon_sq
    if config.revival:
        loss = loss + config.revival * auxiliary_error(batch, v_in, v_out, found.kept)
    return found, torch.autograd.grad(loss, leaf)[0]


def plain_step_(
    layout: Layout, numbers: Tensor, moments: Tensor, batch: Batch, config: L3DConfig, step: int
) -> Reconstruction:
    """Takes one step of Alg. 1 (lines 7-13) in place; returns the batch's reconstruction before it."""
    found, grad = plain_gradient(layout, numbers, batch, config)
    adamw_(numbers, grad, moments, step, config.lr_at(batch.epoch, step), config.weight_decay)
    numbers[1] = normalised(layout, numbers[1], config.v_out_norm)
    return found


def plain_divergence(run: Run, target: Target) -> Divergence:
    """Returns a run's divergence; outputs are computed only for 'normalised_mse'."""
    y = target_outputs(target, run.inputs[None]) if run.divergence == "normalised_mse" else None
    return resolve_divergence(run.divergence, y)


def plain_gradients(run: Run, target: Target, chosen: Tensor, partners: Tensor) -> Tensor:
    """Returns the gradients `[n_batches, n_s, n_w]` of batches of equal size (Alg. 1 lines 3-6).

    Args:
        run: The run.
        target: Its model.
        chosen: Inputs of each batch, `[n_batches, size]`.
        partners: References of each batch's samples, `[n_batches, n_s]`.
    """
    x = run.inputs[chosen.flatten()][None]
    y = target_outputs(target, x)
    samples, divergence = y.reshape(*partners.shape, -1), plain_divergence(run, target)
    if run.references is not None:
        y_ref = run.references[chosen.flatten()].reshape(samples.shape)
    else:
        probabilities = divergence.name == "kl"
        y_ref = reference_outputs(samples, run.config.reference, partners=partners, probabilities=probabilities)
    cotangents = divergence.cotangent(samples, y_ref)
    return sample_gradients(target, x, cotangents.reshape(y.shape))[0].unflatten(0, partners.shape)


def plain_batches(run: Run, target: Target, generator: torch.Generator, epoch: int, dead: Tensor) -> list[Batch]:
    """Returns the batches of an epoch, drawn from the run's stream; `dead` is theirs."""
    n, size = len(run.inputs), run.config.batch_size
    n_positions = target_outputs(target, run.inputs[None, :1]).shape[2]
    order, full = torch.randperm(n, generator=generator), n // size
    found = list(
        plain_gradients(
            run, target, order[: full * size].view(full, size), draw_partners(full, size * n_positions, generator)
        )
    )
    if n % size:
        partners = draw_partners(1, n % size * n_positions, generator)
        found += plain_gradients(run, target, order[None, full * size :], partners)
    return [Batch(g, epoch, dead) for g in found]


def plain_fit(runs: Sequence[Run], max_steps: int | None = None) -> list[Plain]:
    """Returns the decompositions of several runs, one after the other (paper Alg. 1).

    Args:
        runs: What to decompose.
        max_steps: Steps after which to stop; None for all epochs.
    """
    return [_plain_fit(run, float("inf") if max_steps is None else max_steps) for run in runs]


def _plain_fit(run: Run, limit: float) -> Plain:
    config, target = run.config, build_target([run.model], run.parameters)
    layout, generator = plain_layout(target, config), torch.Generator().manual_seed(run.seed)
    numbers = plain_start(layout, config, generator).to(run.inputs.device, next(iter(target.w0.values())).dtype)
    if run.batch_seed is not None:
        generator.manual_seed(run.batch_seed)
    moments, losses, p_active = numbers.new_zeros(2, *numbers.shape), [], []
    for epoch in range(config.epochs):
        kept, n_samples = numbers.new_zeros(config.n_v), 0
        dead = p_active[-1] == 0 if p_active else kept > 0
        for batch in plain_batches(run, target, generator, epoch, dead):
            if len(losses) >= limit:
                break
            found = plain_step_(layout, numbers, moments, batch, config, len(losses))
            losses.append(found.recon_sq.detach())
            kept, n_samples = kept + found.kept.sum(0), n_samples + len(batch.g)
        else:
            p_active.append(kept / n_samples)
    return Plain(layout, numbers, torch.stack(losses), torch.stack(p_active) if p_active else numbers[0, :, :0].T)
