"""Parts of a frozen model that need not run again: what comes before the decomposed tensors, and a last linear layer.

Before: a module that is done before the first decomposed tensor is used gives the same output at every epoch. After: a
reference enters a cotangent as a subtraction, so behind a last layer U it is `U^T own(y) - U^T other(y_ref)`; both
terms are computed once for each input, and fresh references cost no work of the size of the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .divergences import Divergence
from .factors import watch_uses
from .gradients import CHUNK, Target, by_position, model_outputs


class Head(NamedTuple):
    """What a last linear layer passes back from every output.

    Attributes:
        own: `U^T own(y)`, `[1, n, n_positions, d]`.
        other: `U^T other(y)`, likewise, for outputs that serve as references.
    """

    own: Tensor
    other: Tensor


class Replay(nn.Module):
    """Stands for a module that has run: returns what it is told, and has all other attributes of the original."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "original", original)
        self.value: Any = None

    def __getattr__(self, name: str) -> Any:
        """Returns the original's attribute."""
        return getattr(object.__getattribute__(self, "original"), name)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Returns the stored output."""
        return self.value


def replace_modules(module: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    """Returns a module with some of its parts replaced; the original is not changed, the rest is shared.

    Args:
        module: Any module.
        replacements: New parts by dotted path.
    """
    if "" in replacements:
        return replacements[""]
    changed = copy.copy(module)
    changed._modules = dict(module._modules)
    for name, child in module._modules.items():
        inner = {
            path[len(name) :].lstrip("."): part for path, part in replacements.items() if path.split(".")[0] == name
        }
        if inner:
            changed._modules[name] = replace_modules(child, inner)
    return changed


def _changed(target: Target, replacements: dict[str, nn.Module]) -> Target:
    """Returns a target with parts of its module replaced, and without the weights that went with them."""
    module = replace_modules(target.module, replacements)
    names = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    return target._replace(module=module, rest={name: t for name, t in target.rest.items() if name in names})


def _weights(target: Target) -> dict[str, Tensor]:
    return {name: t[0] for name, t in (target.w0 | target.rest).items()}


@contextmanager
def _noting(modules: dict[str, nn.Module], note: Callable[[str, Any], Any]) -> Iterator[None]:
    """Calls `note(path, output)` whenever one of the modules has run."""
    hooks = [m.register_forward_hook(lambda _m, _i, out, path=path: note(path, out)) for path, m in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def cut_head(target: Target, inputs: Tensor, divergence: Divergence) -> tuple[Target, Head] | None:
    """Returns the model without its last linear layer, and what that layer passes back; None where there is none.

    Args:
        target: One model.
        inputs: `[n, ...]`.
        divergence: One whose cotangent is a difference, see `Divergence.parts`.
    """
    calls: list[tuple[str, Tensor]] = []
    linear = {name: m for name, m in target.module.named_modules() if type(m) is nn.Linear}
    with _noting(linear, lambda name, out: calls.append((name, out))):
        y = model_outputs(target.module, _weights(target), inputs[:2])
    last = [name for name, out in calls if out is y]
    if len(last) != 1 or [name for name, _ in calls].count(last[0]) != 1 or divergence.parts is None:
        return None
    layer, decomposed = linear[last[0]], {id(p) for n, p in target.module.named_parameters() if n in target.w0}
    if layer.out_features <= layer.in_features or any(id(p) in decomposed for p in layer.parameters()):
        return None
    weight, found = layer.weight.detach(), []
    for x in inputs.split(CHUNK):
        y = by_position(model_outputs(target.module, _weights(target), x))
        found.append([part @ weight for part in divergence.parts(y)])
    own, other = (torch.cat(parts)[None] for parts in zip(*found, strict=True))
    cut = _changed(target, {last[0]: nn.Identity()})
    try:  # The layer may be used under another name, or looked into.
        h, y = (model_outputs(t.module, _weights(t), inputs[:2]) for t in (cut, target))
        if not torch.allclose(layer(h), y):
            return None
    except (RuntimeError, AttributeError, ValueError, TypeError, IndexError):
        return None
    return cut, Head(own, other)


def _batched(out: Any, n: int) -> bool:
    """Returns whether an output is a tensor, or a tuple of them, one row for each of n inputs."""
    if isinstance(out, tuple):
        return any(isinstance(part, Tensor) for part in out) and all(part is None or _batched(part, n) for part in out)
    return isinstance(out, Tensor) and out.ndim > 0 and len(out) == n


def _discrete(out: Any) -> bool:
    """Returns whether an output holds numbers that cannot be NaN, such as masks."""
    if isinstance(out, tuple):
        return any(_discrete(part) for part in out)
    return out is not None and not out.is_floating_point()


def _map(function: Any, *outs: Any) -> Any:
    """Returns a function of tensors applied inside tuples."""
    if isinstance(outs[0], tuple):
        return tuple(_map(function, *parts) for parts in zip(*outs, strict=True))
    return None if outs[0] is None else function(*outs)


def _hollow(t: Tensor) -> Tensor:
    return torch.zeros_like(t[:1])


class Prefix:
    """The model with the modules that come first replaced by their outputs on all inputs.

    Attributes:
        target: The shortened model; call `at` before each use.
        stored: The outputs that later modules read, by path.
    """

    def __init__(self, target: Target, inputs: Tensor, paths: list[str], needed: list[str] | None = None) -> None:
        self.parts = {path: Replay(target.module.get_submodule(path)) for path in paths}
        self.whole, self.target = target, _changed(target, self.parts)
        self.needed = set(paths if needed is None else needed)
        found = [self._outputs(x) for x in inputs.split(CHUNK)]
        self.stored = {path: _map(lambda *t: torch.cat(t), *(f[path] for f in found)) for path in paths}

    def _outputs(self, x: Tensor) -> dict[str, Any]:
        """Returns the replaced modules' outputs on some inputs; of those not needed, nothing but their shape."""
        out: dict[str, Any] = {}
        modules = {path: self.whole.module.get_submodule(path) for path in self.parts}
        with torch.no_grad(), _noting(modules, out.__setitem__):
            model_outputs(self.whole.module, _weights(self.whole), x)
        return {path: o if path in self.needed else _map(_hollow, o) for path, o in out.items()}

    @torch.no_grad()
    def holds(self, inputs: Tensor) -> bool:
        """Returns whether all outputs are the whole model's, asked for in another order than they were stored in."""
        for chosen in torch.arange(len(inputs), device=inputs.device).flip(0).split(CHUNK):
            self.at(chosen)
            short, whole = (model_outputs(t.module, _weights(t), inputs[chosen]) for t in (self.target, self.whole))
            if not torch.allclose(short, whole, rtol=1e-4, atol=1e-6):
                return False
        return True

    def at(self, chosen: Tensor) -> None:
        """Sets the stored outputs to those of the chosen inputs `[n]`."""
        for path, part in self.parts.items():
            if path in self.needed:
                part.value = _map(lambda t: t[chosen], self.stored[path])
            else:
                part.value = _map(lambda t: t[:1].expand(len(chosen), *t.shape[1:]), self.stored[path])


@torch.no_grad()
def cut_prefix(target: Target, inputs: Tensor, limit: int) -> Prefix | None:
    """Returns the model without the modules that run before the decomposed tensors; None where nothing is gained.

    Args:
        target: One model.
        inputs: `[n, ...]`.
        limit: Most numbers to store.
    """
    x = inputs[:3]
    paths = _done_before(target, x)
    if not paths or len(x) < 2:
        return None
    few, at = Prefix(target, x, paths), torch.arange(len(x), device=x.device)
    weights, needed = _weights(few.target), []
    try:
        for path in paths:  # An output that later parts do not read may as well be nothing.
            few.at(at)
            few.parts[path].value = _map(lambda t: torch.full_like(t, torch.nan), few.stored[path])
            if _discrete(few.stored[path]) or not torch.isfinite(model_outputs(few.target.module, weights, x)).all():
                needed.append(path)
        few.at(at)
        for path in set(paths) - set(needed):
            few.parts[path].value = _map(torch.zeros_like, few.stored[path])
        same = model_outputs(few.target.module, weights, x).equal(model_outputs(target.module, _weights(target), x))
    except (RuntimeError, TypeError, AttributeError, IndexError):  # The model looks into its parts: leave it whole.
        return None
    each: list[int] = []
    for path in needed:
        _map(lambda t: each.append(t[0].numel()), few.stored[path])
    if not same or not needed or sum(each) * len(inputs) > limit:
        return None
    prefix = Prefix(target, inputs, paths, needed)
    return prefix if prefix.holds(inputs) else None


def _done_before(target: Target, x: Tensor) -> list[str]:
    """Returns the largest modules that are called once and are done before a decomposed tensor is used."""
    calls: list[str] = []
    done: dict[str, bool] = {}
    with watch_uses(target, len(x)) as watch:

        def note(path: str, out: Any) -> None:
            calls.append(path)
            done[path] = not watch.uses and not watch.whole and _batched(out, len(x))

        modules = {path: m for path, m in target.module.named_modules() if path}
        with _noting(modules, note):
            model_outputs(target.module, watch.weights, x)
    found = [path for path in calls if done[path] and calls.count(path) == 1]
    return [path for path in found if not any(path.startswith(other + ".") for other in found)]
