"""How a model uses the tensors that are decomposed: watched as it runs, and checked before it is relied on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .bundles import Fact
from .factors import Linearised, Use, watch_uses
from .gradients import Target, by_position, model_outputs

# Tensors alive at a time in a forward pass, and gradients in a backward pass, beyond those that are kept.
ALIVE = 3


def find_uses(target: Target, x: Tensor) -> tuple[list[Use], dict[str, Fact | None]]:
    """Returns how the model uses its decomposed tensors, and which of their gradients come as factors.

    Args:
        target: The model or models.
        x: A few inputs of one model `[n, ...]`.

    Returns:
        The uses in order, and for each tensor a Fact, or None if its gradient only comes whole.
    """
    x = torch.cat([x, x]) if len(x) == 1 else x
    with torch.no_grad(), watch_uses(target, len(x)) as watch:
        model_outputs(target.module, watch.weights, x)
    facts: dict[str, Fact | None] = {}
    for use in watch.uses:
        positions = torch.Size(use.shape).numel() // (use.shape[0] if use.channels_second else use.shape[-1])
        for name, left_axis in use.parts:
            one = Fact(left_axis or 0, 1 if left_axis is None else positions)
            before = facts.get(name)
            if before is not None and left_axis is not None:
                one = Fact(one.left_axis, one.n_rows + before.n_rows) if one.left_axis == before.left_axis else None
            facts[name] = one if before is not None or name not in facts else None
    facts = {name: None if name in watch.whole else facts.get(name) for name in target.w0}
    # What is an axis of the inputs goes with their number.
    with torch.no_grad(), watch_uses(target, len(x) + 1) as more:
        model_outputs(target.module, more.weights, torch.cat([x, x[:1]]))
    if more.uses != watch.uses or more.whole != watch.whole or not _agree(target, watch.uses, facts, x):
        facts = dict.fromkeys(facts)
    return watch.uses if any(facts.values()) else [], facts


def _agree(target: Target, uses: list[Use], facts: dict[str, Fact | None], x: Tensor) -> bool:
    """Returns whether gradients made of factors are those of one backward pass, for two samples.

    Operations may lay out samples in other ways than the factors assume; then their gradients come whole.
    """
    names = [name for name, fact in facts.items() if fact is not None]
    if not names:
        return True
    one = target._replace(w0={k: w[:1] for k, w in target.w0.items()}, rest={k: w[:1] for k, w in target.rest.items()})
    w = {name: one.w0[name][0].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        y = model_outputs(target.module, {k: t[0] for k, t in (one.w0 | one.rest).items()} | w, x)
        y = by_position(y)
    linear = Linearised(one, uses, x[None])
    for n, position in {(0, y.shape[1] - 1), (len(x) - 1, y.shape[1] // 2)}:
        cotangents = torch.zeros_like(y[None])
        cotangents[0, n, position] = torch.linspace(-1, 2, y.shape[-1], dtype=y.dtype, device=y.device)
        pulled = linear.pull(cotangents)
        whole = torch.autograd.grad(y, list(w.values()), cotangents[0], retain_graph=True, allow_unused=True)
        whole = [torch.zeros_like(w[name]) if g is None else g for name, g in zip(names, whole, strict=True)]
        total = sum(float(g.square().sum()) for g in whole) ** 0.5
        for name, g in zip(names, whole, strict=True):
            left, right = linear.factors(pulled, name)
            made = left[0, n, position].mT @ right[0, n]
            made = made.mT if facts[name].left_axis == 1 else made
            eps = torch.finfo(g.dtype).eps
            if made.numel() != g.numel():
                return False
            if not float((made.reshape(g.shape) - g).norm()) <= eps**0.5 * float(g.norm()) + 64 * eps * total:
                return False
    return True


class _Largest(TorchFunctionMode):
    """Notes the largest tensor that any operation returns, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:  # noqa: ANN401
        """Runs an operation."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.n_bytes = max(self.n_bytes, out.numel() * out.element_size())
        return out


def pass_numbers(target: Target, x: Tensor) -> int:
    """Returns how many numbers a forward and a backward pass of a model hold for each input.

    What is kept for the backward pass is counted as the model runs. Besides, a few tensors as large as the largest on
    the way are alive at a time; the backward pass goes through all positions of an input at once.

    Args:
        target: The model or models; the first is run.
        x: A few inputs `[n, ...]`.
    """
    weights = {name: t[0].detach() for name, t in (target.w0 | target.rest).items()}
    known, kept = {t.untyped_storage().data_ptr() for t in weights.values()}, {}
    chosen = {name: weights[name].requires_grad_() for name in target.w0}

    def note(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:  # Tensors that stay alive: no two have one address.
            size = min(storage.nbytes(), t.numel() * t.element_size())  # A part of another, or one that is repeated.
            kept[storage.data_ptr()] = max(size, kept.get(storage.data_ptr(), 0))
        return t

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda t: t)
    with torch.enable_grad(), hooks, _Largest() as forward:
        y = by_position(model_outputs(target.module, weights | chosen, x))
    itemsize = y.element_size()
    backward = y.shape[1] * max(y.numel() * itemsize, *kept.values(), 0)
    return math.ceil((sum(kept.values()) + ALIVE * (forward.n_bytes + backward)) / (itemsize * len(x)))
