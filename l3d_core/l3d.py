"""The L3D objective: its configuration, batch top-k and the reconstruction loss (paper sections 2.3 and 2.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from .references import KINDS
from .tucker import Rank

# The smallest number above zero of each precision: a bound that zeros do not reach.
SMALLEST = {torch.float64: 2.0**-1074, torch.float32: 2.0**-149, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}
# The whole numbers that their bits spell.
BITS = {torch.float64: numpy.int64, torch.float32: numpy.int32}

# Among so few coefficients they are found in the fewest calls.
FEW = 2048


@dataclass(frozen=True, kw_only=True)
class L3DConfig:
    """Settings of one decomposition. The defaults are the method as the paper's text states it for toy models."""

    n_v: int
    """Number of subnetworks, at least 1 (paper section 2.3)."""
    rank: Rank = 1
    """Rank of each axis of each tensor: an int, a fraction of the axis, or a mapping from name patterns (App. B.1)."""
    form: str = "tucker"
    """'tucker' (App. B.1), or 'cp', the canonical polyadic form of the paper's draft."""
    k_fraction: float = 0.1
    """Fraction of the batch's n_s * n_v coefficients that is kept, in (0, 1] (section 2.3; App. B.3: 0.1)."""
    k_extra: int = 0
    """Entries kept beyond floor(k n_s n_v): 0 in the text, 1 in the authors' code."""
    loss: str = "recon_norm"
    """What is minimised: 'recon_norm', the ratio of norms of Eq. 5, or 'recon_sq', its square, as the code did."""
    v_out_norm: str = "l2"
    """Length of v_out that each step sets to 1: 'l2' (Alg. 1 line 13), or 'tensor_sum', the authors' code."""
    encoder_init: str = "copy"
    """'copy' starts v_in as a copy of v_out (the authors' code; the text is silent), 'random' draws it anew."""
    dense_epochs: int = 0
    """First epochs in which every coefficient is kept: 0 in the text, at least 1 in the authors' code."""
    reference: str = "sample"
    """Reference output: 'sample', 'mean' or 'uniform' (section 2.2)."""
    epochs: int = 1000
    """Passes over the inputs (App. B.3: 1000 for toys)."""
    batch_size: int = 32
    """Inputs in a batch (App. B.3: 32)."""
    lr: float = 0.01
    """Learning rate at the start (App. B.3: 0.01)."""
    lr_decay: float = 0.8
    """Factor on the learning rate at each decay, in (0, 1] (App. B.3: 0.8)."""
    lr_decay_every_epochs: int | None = 100
    """Epochs between decays, as the code ran it; None to decay by steps instead."""
    lr_decay_every_steps: int | None = None
    """Steps between decays, the literal reading of App. B.3; None to decay by epochs."""
    weight_decay: float = 0.01
    """Decoupled weight decay: 0.01 is AdamW's default (App. B.3 names AdamW); 0 is Adam, as the code ran."""
    revival: float = 0.0
    """Weight of the loss that lets dead subnetworks rebuild the residual: 0 in the paper; 1/32 in Gao et al. 2024."""

    def __post_init__(self) -> None:
        positive = {"n_v": self.n_v, "epochs": self.epochs, "batch_size": self.batch_size}
        for name, value in positive.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")
        if not 0 < self.k_fraction <= 1:
            raise ValueError(f"k_fraction is {self.k_fraction}; expected a fraction in (0, 1], such as 0.1.")
        if not (self.lr > 0 and 0 < self.lr_decay <= 1 and self.weight_decay >= 0):
            raise ValueError(
                f"lr {self.lr}, lr_decay {self.lr_decay}, weight_decay {self.weight_decay}; "
                "expected lr > 0, lr_decay in (0, 1], weight_decay >= 0."
            )
        if not (isinstance(self.revival, int | float) and 0 <= self.revival < math.inf):
            raise ValueError(f"revival is {self.revival!r}; expected a finite number of at least 0, such as 1 / 32.")
        if self.dense_epochs < 0 or self.k_extra < 0:
            raise ValueError(f"dense_epochs {self.dense_epochs}, k_extra {self.k_extra}; expected at least 0.")
        if self.lr_decay_every_epochs is not None and self.lr_decay_every_steps is not None:
            raise ValueError(
                "lr_decay_every_epochs and lr_decay_every_steps are both set; expected one, the other None."
            )
        for every in (self.lr_decay_every_epochs, self.lr_decay_every_steps):
            if every is not None and every < 1:
                raise ValueError(f"the learning rate decays every {every}; expected at least 1, or None.")
        for name, choices in {
            "form": ("tucker", "cp"),
            "loss": ("recon_norm", "recon_sq"),
            "v_out_norm": ("l2", "tensor_sum"),
            "encoder_init": ("copy", "random"),
            "reference": KINDS,
        }.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {list(choices)}.")

    def k_count(self, n_s: int) -> int:
        """Returns how many coefficients of a batch of n_s samples are kept: floor(k n_s n_v) + k_extra, at least 1."""
        kept = math.floor(self.k_fraction * n_s * self.n_v + 1e-9) + self.k_extra
        return min(max(kept, 1), n_s * self.n_v)

    def lr_at(self, epoch: int, step: int) -> float:
        """Returns the learning rate at an epoch and a step, both counted from 0."""
        if self.lr_decay_every_steps is not None:
            return self.lr * self.lr_decay ** (step // self.lr_decay_every_steps)
        if self.lr_decay_every_epochs is not None:
            return self.lr * self.lr_decay ** (epoch // self.lr_decay_every_epochs)
        return self.lr


def batch_top_k(z: Tensor, k_count: Tensor | int) -> Tensor:
    """Returns which coefficients of a batch are kept: the largest in magnitude over samples and subnetworks.

    This is Lambda of paper Eq. 4 with the batch top-k of section 2.3 (Alg. 1 lines 8-9). All entries that tie at
    the threshold are kept; a threshold of zero keeps the nonzero entries only.

    Args:
        z: Coefficients grad_V D, `[..., n_s, n_v]`.
        k_count: Entries to keep, at least 1; one number, or one per leading axis `[...]`.

    Returns:
        Booleans, shape of z.
    """
    flat = z.flatten(0, -3) if z.ndim > 2 else z[None]
    if not isinstance(k_count, int):
        k_count = torch.as_tensor(k_count, device=z.device).expand(z.shape[:-2]).flatten()
    return keep_largest(flat, k_count).view(z.shape).bool()


def keep_largest(z: Tensor, k_count: int | Tensor, dense: Tensor | None = None, most: int | None = None) -> Tensor:
    """Returns `batch_top_k` of several batches.

    Args:
        z: `[n_runs, n_v, n_s]`, or with samples first.
        k_count: One number for all, or `[n_runs]`.
        dense: Which runs keep everything, `[n_runs]`; None for none.
        most: The largest k_count, if known: to look for it takes time, on a GPU most of all.

    Returns:
        1 where kept and 0 elsewhere, shape and type of z: a mask to multiply with.
    """
    size = z.abs().flatten(1)
    one = isinstance(k_count, int)
    most = k_count if one else most or int(k_count.max())
    if size.numel() < FEW and one:
        bound = size.topk(most).values[:, -1:]
    elif size.device.type == "cpu" and size.dtype in BITS:
        # Positive numbers are ordered as their bits are, and NumPy selects whole numbers with vector instructions.
        plain = size.numpy()
        largest = numpy.partition(plain.view(BITS[size.dtype]), -most, axis=1)[:, -most:]
        if one:
            bound = torch.from_numpy(largest[:, :1].view(plain.dtype))
        else:
            largest.sort(axis=1)
            bound = torch.from_numpy(largest.view(plain.dtype)).gather(1, most - k_count[:, None])
    elif one:
        bound = size.kthvalue(size.shape[1] - most + 1, keepdim=True).values
    else:
        bound = size.topk(most).values.gather(1, k_count[:, None] - 1)
    bound = bound.clamp_min(SMALLEST[z.dtype])
    if dense is not None:
        bound = torch.where(dense[:, None], -1, bound)
    return torch.ge(size, bound, out=torch.empty_like(size)).view(z.shape)


class Reconstruction(NamedTuple):
    """The reconstruction of one batch of gradients.

    Attributes:
        recon_sq: Squared error over squared size, `[...]`.
        recon_norm: Its root, paper Eq. 5, `[...]`.
        kept: Which coefficients were used, `[..., n_s, n_v]`.
    """

    recon_sq: Tensor
    recon_norm: Tensor
    kept: Tensor


def reconstruct(g: Tensor, v_in: Tensor, v_out: Tensor, k_count: Tensor | int, dense: Tensor | bool) -> Reconstruction:
    """Returns the top-k reconstruction error of a batch of gradients (paper Eqs. 3-5, Alg. 1 lines 7-10).

    `recon_sq = sum_s |g_s - g_hat_s|^2 / sum_s |g_s|^2`, sums over the samples of the batch. A batch whose
    gradients are all zero has error 0 and pulls on nothing.

    Args:
        g: Gradients `[..., n_s, n_w]`.
        v_in: Encoder directions as rows `[..., n_v, n_w]`.
        v_out: Decoder directions as rows `[..., n_v, n_w]`.
        k_count: Coefficients to keep, see `batch_top_k`.
        dense: Keep all of them, one flag or one per leading axis.

    Returns:
        Errors, differentiable in v_in and v_out, and the mask.
    """
    z = g @ v_in.mT
    kept = batch_top_k(z.detach(), k_count) | torch.as_tensor(dense, device=z.device)[..., None, None]
    residual = g - (z * kept) @ v_out
    total = g.square().sum((-2, -1))
    recon_sq = residual.square().sum((-2, -1)) / torch.where(total > 0, total, 1)
    tiny = torch.finfo(g.dtype).tiny
    return Reconstruction(recon_sq, recon_sq.clamp_min(tiny).sqrt(), kept)
