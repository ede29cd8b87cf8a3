"""Divergences D(y, y_ref) between outputs, and their cotangents dD/dy (paper section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax


class Divergence(NamedTuple):
    """A divergence between an output and a reference, with its derivative.

    Attributes:
        name: How results and error messages call it.
        value: `(y, y_ref) -> D`, from two `[..., n_o]` tensors to `[...]`.
        cotangent: `(y, y_ref) -> dD/dy`, `[..., n_o]`; the reference is a constant.
        parts: `y -> (a(y), b(y))`, each `[..., n_o]`, where the cotangent is `a(y) - b(y_ref)` and b of a mean
            reference is the mean of b; None where it is no such difference.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    cotangent: Callable[[Tensor, Tensor], Tensor]
    parts: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


def mse(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns the mean squared error over outputs (the divergence of paper section 2.2 before normalising).

    Args:
        y: Outputs `[..., n_o]`.
        y_ref: Reference outputs, same shape.

    Returns:
        `[...]`, `(1 / n_o) sum_o (y_o - y_ref_o)^2`.
    """
    return (y - y_ref).square().mean(-1)


def mse_cotangent(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns d mse / dy, `2 (y - y_ref) / n_o`, of shape `[..., n_o]`."""
    return 2 * (y - y_ref) / y.shape[-1]


def half_reference_mse(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns the mean squared error to half the reference, as the authors' code ran it.

    Differs from the paper: the authors' `mean(y (y - y_ref))`, with only the reference detached,
    has the gradient `(2y - y_ref) / n_o`; up to a constant of the reference it is
    `mean((y - y_ref / 2)^2)`, which is what this returns.

    Args:
        y: Outputs `[..., n_o]`.
        y_ref: Reference outputs, same shape.

    Returns:
        `[...]`.
    """
    return (y - y_ref / 2).square().mean(-1)


def half_reference_mse_cotangent(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns d half_reference_mse / dy, `(2y - y_ref) / n_o`, of shape `[..., n_o]`."""
    return (2 * y - y_ref) / y.shape[-1]


def normalised_mse(y: Tensor, y_ref: Tensor, *, variance: float) -> Tensor:
    """Returns the mean squared error divided by one constant, the variance of the target's outputs.

    The paper names a "normalized MSE" (section 2.2) without defining it. Here the normaliser is one
    number for the whole data set, the mean over outputs of their variance over samples. A constant
    factor multiplies gradient and reconstruction alike, so the reconstruction loss (Eq. 5) and every
    training step are the same as for `mse`.

    Args:
        y: Outputs `[..., n_o]`.
        y_ref: Reference outputs, same shape.
        variance: The normaliser, above 0.

    Returns:
        `[...]`.
    """
    return mse(y, y_ref) / variance


def normalised_mse_cotangent(y: Tensor, y_ref: Tensor, *, variance: float) -> Tensor:
    """Returns d normalised_mse / dy, `2 (y - y_ref) / (n_o variance)`, of shape `[..., n_o]`."""
    return mse_cotangent(y, y_ref) / variance


def kl(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns KL(reference || model) of two sets of logits (paper section 2.2, probability outputs).

    Args:
        y: Logits of the model `[..., n_o]`.
        y_ref: Logits of the reference, same shape.

    Returns:
        `[...]`, `sum_o q_o (log q_o - log p_o)` with `p = softmax(y)`, `q = softmax(y_ref)`, in nats.
    """
    log_p, log_q = log_softmax(y, -1), log_softmax(y_ref, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def kl_cotangent(y: Tensor, y_ref: Tensor) -> Tensor:
    """Returns d kl / dy, `softmax(y) - softmax(y_ref)`, of shape `[..., n_o]`."""
    return softmax(y, -1) - softmax(y_ref, -1)


def mse_parts(y: Tensor, *, variance: float = 1.0) -> tuple[Tensor, Tensor]:
    """Returns `2 y / (n_o variance)` twice: the parts of the cotangents of `mse` and `normalised_mse`."""
    part = 2 * y / (y.shape[-1] * variance)
    return part, part


def half_reference_mse_parts(y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `2 y / n_o` and `y / n_o`: the parts of the cotangent of `half_reference_mse`."""
    return 2 * y / y.shape[-1], y / y.shape[-1]


def kl_parts(y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns `softmax(y)` twice: the parts of the cotangent of `kl`."""
    p = softmax(y, -1)
    return p, p


def output_variance(outputs: Tensor) -> float:
    """Returns the normaliser of `normalised_mse`: the variance over samples, averaged over outputs.

    Args:
        outputs: `[..., n_o]`, at least two samples.

    Returns:
        A positive number.

    Raises:
        ValueError: The outputs do not vary, so that nothing can be normalised by their variance.
    """
    variance = float(outputs.flatten(0, -2).var(0, correction=0).mean())
    if not variance > 0:
        raise ValueError(
            f"normalised_mse divides by the variance of the outputs, which is {variance} on these inputs; "
            "expected outputs that differ between samples. Use 'mse', or inputs the model tells apart."
        )
    return variance


NAMED = {
    "mse": Divergence("mse", mse, mse_cotangent, mse_parts),
    "half_reference_mse": Divergence(
        "half_reference_mse", half_reference_mse, half_reference_mse_cotangent, half_reference_mse_parts
    ),
    "kl": Divergence("kl", kl, kl_cotangent, kl_parts),
}


def _from_callable(function: Callable[[Tensor, Tensor], Tensor]) -> Divergence:
    """Returns a Divergence whose cotangent is automatic differentiation of a reader's own function."""

    def value(y: Tensor, y_ref: Tensor) -> Tensor:
        d = function(y.flatten(0, -2), y_ref.flatten(0, -2))
        n_s = y.shape[:-1].numel()
        if not isinstance(d, Tensor) or d.shape != (n_s,):
            got = tuple(d.shape) if isinstance(d, Tensor) else type(d).__name__
            raise ValueError(
                f"the divergence returned {got}; expected one value per sample, shape ({n_s},). "
                "Reduce over outputs only: (y [n_s, n_o], y_ref [n_s, n_o]) -> [n_s]."
            )
        return d.unflatten(0, y.shape[:-1])

    def cotangent(y: Tensor, y_ref: Tensor) -> Tensor:
        leaf = y.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(value(leaf, y_ref.detach()).sum(), leaf)[0]

    return Divergence(getattr(function, "__name__", "custom"), value, cotangent)


def resolve_divergence(
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor], outputs: Tensor | None = None
) -> Divergence:
    """Returns the Divergence for a name, a Divergence, or a reader's function `(y, y_ref) -> [n_s]`.

    Args:
        divergence: 'mse', 'normalised_mse', 'half_reference_mse', 'kl', a Divergence, or a callable
            that treats every sample on its own.
        outputs: The target's outputs `[..., n_o]`; only 'normalised_mse' needs them.

    Returns:
        The divergence and its cotangent.

    Raises:
        ValueError: An unknown name, or 'normalised_mse' without outputs that vary.
        TypeError: Neither a name nor a callable.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if divergence == "normalised_mse":
        if outputs is None:
            raise ValueError("normalised_mse got no outputs to take its variance from; expected outputs=[..., n_o].")
        constant = {"variance": output_variance(outputs)}
        return Divergence(
            "normalised_mse",
            partial(normalised_mse, **constant),
            partial(normalised_mse_cotangent, **constant),
            partial(mse_parts, **constant),
        )
    if isinstance(divergence, str):
        if divergence not in NAMED:
            raise ValueError(
                f"divergence {divergence!r} is unknown; expected one of {[*sorted(NAMED), 'normalised_mse']} "
                "or a function (y, y_ref) -> [n_s]."
            )
        return NAMED[divergence]
    if callable(divergence):
        return _from_callable(divergence)
    raise TypeError(
        f"divergence is a {type(divergence).__name__}; expected a name such as 'mse' or a function (y, y_ref) -> [n_s]."
    )
