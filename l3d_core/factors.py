"""Per-sample gradients as factors: what went into an operation times what came back to its output.

A tensor W that acts as `out = a W^T` has the gradient `sum over rows of (d loss / d out) a^T`. One batched backward
pass to the outputs gives these factors for all samples; no weight's gradient is ever formed. Operations are
recognised as the model runs, by the tensors they are given, whatever the modules are called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from .gradients import Target, by_position, model_outputs


class Part(NamedTuple):
    """One tensor's share in an operation.

    Attributes:
        tensor: The tensor as the operation got it.
        left_axis: Which of its axes the output gradients lie along; None for a vector.
        rows: Activations `[..., S]` of a matrix, indices of an embedding, or what a vector is multiplied with
            `[..., n]` (None: 1).
    """

    tensor: Tensor
    left_axis: int | None
    rows: Tensor | None = None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Part]:
    return [Part(weight, 0, x), Part(bias, None)]


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> list[Part]:
    return [Part(weight, 1, x), Part(bias, None)]


def _matmul(x: Tensor, weight: Tensor) -> list[Part]:
    return [Part(weight, 1, x)] if weight.ndim == 2 else []


def _add(a: Tensor, b: Tensor) -> list[Part]:
    return [Part(one, None) for one in (a, b) if isinstance(one, Tensor)]


def _mul(a: Tensor, b: Tensor) -> list[Part]:
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return [Part(a, None, b), Part(b, None, a)] if both else []


def _layer_norm(x: Tensor, shape: Any, weight=None, bias=None, eps: float = 1e-5) -> list[Part]:  # noqa: ANN001
    return [Part(weight, None, F.layer_norm(x, shape, None, None, eps)), Part(bias, None)]


def _rms_norm(x: Tensor, shape: Any, weight=None, eps=None) -> list[Part]:  # noqa: ANN001
    return [Part(weight, None, F.rms_norm(x, shape, None, eps))]


def _batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> list[Part]:  # noqa: ANN001
    normal = F.batch_norm(x, mean, var, None, None, False, momentum, eps)
    return [Part(weight, None, normal.movedim(1, -1)), Part(bias, None)]


def _conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> list[Part]:  # noqa: ANN001
    if groups != 1 or isinstance(padding, str):
        return [Part(bias, None)]
    columns = F.unfold(x, weight.shape[-2:], dilation=dilation, padding=padding, stride=stride)
    return [Part(weight, 0, columns.mT), Part(bias, None)]


def _embedding(index: Tensor, weight: Tensor, padding_idx: int | None = None, **options: Any) -> list[Part]:
    # A padded row, rows cut to a length and gradients divided by frequency are other gradients than the factors'.
    plain = padding_idx is None and not any(options.get(k) for k in ("max_norm", "scale_grad_by_freq", "sparse"))
    return [Part(weight, 1, index)] if plain else []


_PRODUCTS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm)
_SUMS, _SCALINGS = (
    (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__),
    (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__),
)
RULES: dict[Callable, Callable[..., list[Part]]] = {
    F.linear: _linear, torch.addmm: _addmm, F.layer_norm: _layer_norm, F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm, F.conv2d: _conv2d, F.embedding: _embedding,
    **dict.fromkeys(_PRODUCTS, _matmul), **dict.fromkeys(_SUMS, _add), **dict.fromkeys(_SCALINGS, _mul),
}  # fmt: skip
# Outputs of these carry channels on their second axis.
CHANNELS_SECOND = (F.batch_norm, F.conv2d)


class Use(NamedTuple):
    """An operation in which decomposed tensors took part.

    Attributes:
        parts: Name and left axis (None for a vector) of each tensor.
        shape: Shape of the output without the axis of inputs.
        shared: Whether the output was the same for all inputs, so that it had no such axis.
        channels_second: Whether channels are its second axis instead of its last.
    """

    parts: tuple[tuple[str, int | None], ...]
    shape: tuple[int, ...]
    shared: bool
    channels_second: bool


class _Watch(TorchFunctionMode):
    """Notes every use of the decomposed tensors, and adds a zero to each output to take derivatives at.

    Attributes:
        uses: What was seen.
        rows: For each use, the parts' rows.
        whole: Names of tensors used in an operation that no rule covers.
    """

    def __init__(
        self, w: dict[str, Tensor], n: int, zeros: list[Tensor] | None = None, expected: list[Use] | None = None
    ) -> None:
        super().__init__()
        self.names, self.n, self.zeros, self.expected = {id(t): name for name, t in w.items()}, n, zeros, expected
        self.uses: list[Use] = []
        self.rows: list[list[Tensor | None]] = []
        self.whole: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [self.names[id(t)] for t in (*args, *kwargs.values()) if id(t) in self.names]
        if not given or not isinstance(out, Tensor):
            return out
        rule = RULES.get(func)
        try:
            found = rule(*args, **kwargs) if rule else []
        except TypeError:  # Called with options the rule does not know.
            found = []
        parts = [part for part in found if id(part.tensor) in self.names and self._fits(part, out, func)]
        self.whole |= set(given) - {self.names[id(part.tensor)] for part in parts}
        if not parts:
            return out
        return self._note(parts, out, func in CHANNELS_SECOND)

    def _fits(self, part: Part, out: Tensor, func: Callable) -> bool:
        """Returns whether a part is of the form the factors are made for."""
        if part.tensor.ndim == 0 or out.ndim == 0:
            return False
        channels = out.shape[1] if func in CHANNELS_SECOND and out.ndim > 1 else out.shape[-1]
        length = part.tensor.shape[part.left_axis or 0]
        plain = part.left_axis is not None or part.tensor.ndim == 1
        scaled = part.left_axis is not None or part.rows is None or part.rows.ndim == out.ndim
        return plain and scaled and length == channels and (out.shape[0] % self.n == 0 or out.shape[0] == 1)

    def _note(self, parts: list[Part], out: Tensor, channels_second: bool) -> Tensor:
        shared = out.shape[0] == 1 and self.n > 1
        shape = tuple(out.shape[1:]) if shared or out.shape[0] == self.n else (out.shape[0] // self.n, *out.shape[1:])
        names = tuple((self.names[id(part.tensor)], part.left_axis) for part in parts)
        if self.expected is not None:
            # Whether an axis is that of the inputs can depend on how many there are: what was seen first counts.
            due = self.expected[len(self.uses)] if len(self.uses) < len(self.expected) else None
            if due is None or (due.parts, due.shape) != (names, shape):
                return out
        self.uses.append(Use(names, shape, shared, channels_second))
        self.rows.append([part.rows for part in parts])
        if self.zeros is None:
            return out
        zero = self.zeros[len(self.uses) - 1]
        return out + (zero if shared else zero.reshape(out.shape))


Rows = dict[tuple[int, int], Tensor]


def _run(
    module: nn.Module, uses: list[Use], zeros: list[Tensor], w: dict, rest: dict, x: Tensor
) -> tuple[Tensor, Rows]:
    """Returns outputs `[n, n_positions, n_o]` and the parts' rows by use and part, of one model."""
    with _Watch(w, len(x), zeros, uses) if uses else nullcontext() as watch:
        y = model_outputs(module, w | rest, x)
    rows = {}
    if watch is not None:
        if len(watch.uses) != len(uses):
            missing = uses[len(watch.uses)].parts[0][0]
            raise RuntimeError(
                f"the model did not use {missing!r} as on its first inputs; expected the same operations for all "
                "inputs. Decompose fewer parameters."
            )
        rows = {(u, p): r for u, parts in enumerate(watch.rows) for p, r in enumerate(parts) if r is not None}
    return by_position(y), rows


def watch_uses(target: Target, n: int) -> _Watch:
    """Returns a context in which a run of the first model, with the context's `weights`, on n inputs is watched."""
    w, rest = ({name: t[0] for name, t in part.items()} for part in (target.w0, target.rest))
    watch = _Watch(w, n)
    watch.weights = w | rest
    return watch


class Linearised:
    """A model, or several side by side, at fixed inputs: outputs once, gradients for any cotangents.

    Attributes:
        outputs: `[n_models, n, n_positions, n_o]`; one model where all share it.
    """

    def __init__(self, target: Target, uses: list[Use], x: Tensor) -> None:
        self.target, self.uses = target, uses
        like, many = next(iter(target.w0.values())), target.n_models > 1
        self.lead = x.shape[:2]
        run = partial(_run, target.module, uses)
        if many:
            lead, tensors = x.shape[:2], (target.w0, target.rest, x)
            run = vmap(run)
        else:
            lead, x = (x.shape[0] * x.shape[1],), x.flatten(0, 1)
            tensors = ({k: t[0] for k, t in target.w0.items()}, {k: t[0] for k, t in target.rest.items()}, x)
        self._zeros = [like.new_zeros(*lead, *use.shape, requires_grad=True) for use in uses]
        with torch.enable_grad():
            outputs, rows = run(self._zeros, *tensors)
        self._outputs = outputs
        self.outputs = outputs.detach().reshape(*self.lead, *outputs.shape[-2:])
        self.rows = {key: self._rows(key, r.detach()) for key, r in rows.items()}

    def _rows(self, key: tuple[int, int], rows: Tensor) -> Tensor:
        """Returns a part's rows as `[n_models, n, n_rows, length]`."""
        use, (name, left_axis) = self.uses[key[0]], self.uses[key[0]].parts[key[1]]
        if left_axis is not None and not rows.is_floating_point():
            rows = F.one_hot(rows, self.target.shapes[name][1 - left_axis]).to(self.outputs)
        length = rows.shape[-1]
        if use.shared:
            rows = rows.reshape(len(rows) if self.target.n_models > 1 else 1, 1, -1, length)
            return rows.expand(*self.lead, *rows.shape[2:])
        return rows.reshape(*self.lead, -1, length)

    def pull(self, cotangents: Tensor) -> list[Tensor]:
        """Returns each use's output gradients for every sample, `[n_sources, n, n_positions, n_rows, length]`.

        Args:
            cotangents: `[n_sources, n, n_positions, n_o]`; several sources may share one model's inputs.
        """
        n_positions, batched = cotangents.shape[2], cotangents[None]
        if n_positions > 1:  # One position of every input at a time: samples of different inputs do not interact.
            each = torch.eye(n_positions, dtype=cotangents.dtype, device=cotangents.device)
            batched = each[:, None, None, :, None] * batched
        if self.lead[0] < len(cotangents):  # Several sources pull at the outputs of one model's inputs.
            batched = batched.flatten(0, 1).unsqueeze(1)
        several = len(batched) > 1
        batched = batched.flatten(1, -3).unflatten(1, self._outputs.shape[:-2])
        found = torch.autograd.grad(
            self._outputs, self._zeros, batched if several else batched[0], retain_graph=True, is_grads_batched=several,
            allow_unused=True,
        )  # fmt: skip
        empty = cotangents.new_zeros(len(batched), 1)  # Of a use that does not reach the output.
        found = [empty.expand(-1, z.numel()) if g is None else g for g, z in zip(found, self._zeros, strict=True)]
        return [self._shaped(use, g, cotangents.shape) for use, g in zip(self.uses, found, strict=True)]

    def _shaped(self, use: Use, g: Tensor, shape: torch.Size) -> Tensor:
        """Returns the gradients of a use's output as `[n_sources, n, n_positions, n_rows, length]`."""
        g = g.reshape(shape[2], *shape[:2], *use.shape)
        g = g.movedim(3, -1) if use.channels_second else g
        g = g.flatten(3, -2) if g.ndim > 4 else g.unsqueeze(3)
        return g.permute(1, 2, 0, 3, 4)

    def factors(self, pulled: list[Tensor], name: str) -> tuple[Tensor, Tensor]:
        """Returns one tensor's gradients as factors.

        Args:
            pulled: What `pull` returned.
            name: The tensor.

        Returns:
            Output gradients `[n_sources, n, n_positions, n_rows, L]` and activations `[n_models, n, n_rows, S]`.
        """
        left, right = [], []
        for u, use in enumerate(self.uses):
            for p, (other, left_axis) in enumerate(use.parts):
                if other != name:
                    continue
                rows = self.rows.get((u, p))
                if left_axis is not None:
                    left.append(pulled[u])
                    right.append(rows)
                else:  # The gradient of a vector is one row, the sum of all.
                    scaled = pulled[u] if rows is None else pulled[u] * rows.unsqueeze(2)
                    left.append(scaled if scaled.shape[3] == 1 else scaled.sum(3, keepdim=True))
                    right.append(scaled.new_ones(*self.lead, 1, 1))
        if len(left) == 1:
            return left[0], right[0]
        if len(self.target.shapes[name]) == 1:
            return sum(left), right[0]
        return torch.cat(left, 3), torch.cat(right, 2)
