"""Per-sample divergence gradients of any module, over the parameters one chooses (paper Eq. 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checks import check_inputs, check_model, check_references
from .divergences import Divergence, resolve_divergence
from .references import draw_partners, reference_outputs

# Inputs whose outputs alone are computed at once.
CHUNK = 64


class Target(NamedTuple):
    """The frozen model under study, or several of one architecture side by side.

    Attributes:
        module: The architecture; its own weights are never used or changed.
        w0: The decomposed parameters W_0, `[n_models, *shape]` each.
        rest: All other parameters and buffers, `[n_models, *shape]` each.
    """

    module: nn.Module
    w0: dict[str, Tensor]
    rest: dict[str, Tensor]

    @property
    def n_models(self) -> int:
        """Number of models side by side."""
        return next(iter(self.w0.values())).shape[0]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each decomposed parameter, without the model axis."""
        return {name: tuple(w.shape[1:]) for name, w in self.w0.items()}


def select_parameters(model: nn.Module, patterns: str | Sequence[str] = "*") -> dict[str, nn.Parameter]:
    """Returns the parameters whose names match, keyed as `named_parameters()`.

    A tied parameter appears once, under its first name; a pattern may match any of its names.

    Args:
        model: Any module.
        patterns: Shell-style patterns (`*`, `?`, `[]`), one or several; a parameter that matches any is taken.

    Returns:
        The selected parameters in the model's own order.

    Raises:
        ValueError: No floating-point parameter matches.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
        and any(fnmatchcase(alias, pattern) for alias in aliases[id(parameter)] for pattern in patterns)
    }
    if not chosen:
        names = list(dict(model.named_parameters()))
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise ValueError(
            f"no parameter matches {patterns}; the model has {len(names)} parameters: {shown}. "
            "Give a pattern such as 'layers.0.*'."
        )
    return chosen


def build_target(models: Sequence[nn.Module], parameters: str | Sequence[str] = "*") -> Target:
    """Returns one Target for models of the same architecture, checked and detached.

    Args:
        models: One model, or several with equal parameter names and shapes.
        parameters: Which parameters to decompose, see `select_parameters`.

    Returns:
        The target, its tensors sharing storage with a single model's.

    Raises:
        TypeError: A model is not a torch module.
        ValueError: A model is in training mode, not finite, of another architecture, or nothing matches.
    """
    for model in models:
        check_model(model)
    tensors = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in models]
    shapes = [{name: tuple(w.shape) for name, w in named.items()} for named in tensors]
    for i, other in enumerate(shapes):
        if other != shapes[0]:
            odd = sorted(set(other.items()) ^ set(shapes[0].items()))[0][0]
            raise ValueError(f"model {i} differs from model 0 in {odd!r}; expected one architecture side by side.")
        if str(models[i]) != str(models[0]):
            raise ValueError(
                f"model {i} has other modules than model 0: {models[i]} and {models[0]}; expected one architecture "
                "side by side. Call fit once for each."
            )
    chosen = select_parameters(models[0], parameters)
    stacked = {
        name: w.detach()[None] if len(models) == 1 else torch.stack([named[name].detach() for named in tensors])
        for name, w in tensors[0].items()
    }
    return Target(models[0], {name: stacked.pop(name) for name in chosen}, stacked)


def model_outputs(module: nn.Module, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Returns f(x, W) as a tensor `[n, ..., n_o]`, also for models that return an object with logits.

    Raises:
        ValueError: The model returns neither, or a tensor without an axis of outputs.
    """
    with sdpa_kernel(SDPBackend.MATH):  # The fused kernels have neither batching rules nor forward derivatives.
        out = functional_call(module, w, (x,))
    out = out if isinstance(out, Tensor) else getattr(out, "logits", None)
    if not isinstance(out, Tensor) or out.ndim < 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else "no tensor and no .logits"
        raise ValueError(
            f"the model returned {got}; expected outputs [n_s, n_o], or [n_s, positions, n_o], or an object "
            "with such .logits. Wrap the model in a module that returns them."
        )
    return out


def by_position(y: Tensor) -> Tensor:
    """Returns one model's outputs `[n, ..., n_o]` as `[n, n_positions, n_o]`."""
    return y.flatten(1, -2) if y.ndim > 2 else y.unsqueeze(1)


def _first(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: w[0] for name, w in named.items()}


def target_outputs(target: Target, x: Tensor) -> Tensor:
    """Returns f(x, W_0) for inputs of several runs (paper Eq. 1), computed for some inputs at a time.

    Args:
        target: One model for all runs, or one for each.
        x: Inputs `[n_runs, n, ...]`.

    Returns:
        `[n_runs, n, n_positions, n_o]`; n_positions is 1 for outputs `[n, n_o]`.
    """
    run = partial(model_outputs, target.module)
    with torch.no_grad():
        if target.n_models == 1:
            w = _first(target.w0 | target.rest)
            parts = [run(w, part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in x.split(CHUNK, 1)]
        else:
            parts = [vmap(run)(target.w0 | target.rest, part) for part in x.split(CHUNK, 1)]
    y = torch.cat(parts, 1)
    return y.unsqueeze(2) if y.ndim == 3 else y.flatten(2, -2)


def _pull_back(module: nn.Module, w: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor, c: Tensor) -> Tensor:
    """Returns the gradients of one input's positions, `[n_positions, n_w]`, from cotangents `[n_positions, n_o]`."""
    _, pull = vjp(lambda w: model_outputs(module, w | rest, x[None]).flatten(0, -2), w)
    if len(c) == 1:
        return torch.cat([g.flatten() for g in pull(c)[0].values()])[None]
    each = torch.eye(len(c), dtype=c.dtype, device=c.device)[:, :, None] * c
    return torch.cat([g.reshape(len(c), -1) for g in vmap(pull)(each)[0].values()], 1)


def sample_gradients(target: Target, x: Tensor, cotangents: Tensor, chunk_size: int | None = None) -> Tensor:
    """Returns each sample's own gradient `J_n^T c_n` as one flat vector (paper Eq. 2, Alg. 1 line 5).

    Args:
        target: One model for all runs, or one for each.
        x: Inputs `[n_runs, n, ...]`.
        cotangents: dD/dy, `[n_runs, n, n_positions, n_o]`.
        chunk_size: Inputs whose gradients are formed at once (per run); None for all. Results do not depend on it.

    Returns:
        `[n_runs, n * n_positions, n_w]`, tensors in the order of `target.w0`.

    Raises:
        RuntimeError: The model has an operation that cannot be batched.
    """
    n = x.shape[1]

    def over_samples(w: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor, c: Tensor) -> Tensor:
        try:
            return vmap(lambda x, c: _pull_back(target.module, w, rest, x, c))(x, c)
        except RuntimeError as error:
            if not str(error).startswith(("vmap", "output with shape")):
                raise
            raise RuntimeError(
                f"the model has an operation that torch.func.vmap cannot batch ({str(error).split('. ')[0]}); expected "
                "none. Write it without changing a tensor in place and without reading a value by .item()."
            ) from error

    parts = []
    for xs, cs in zip(x.split(chunk_size or n, 1), cotangents.split(chunk_size or n, 1), strict=True):
        if target.n_models == 1:
            g = over_samples(_first(target.w0), _first(target.rest), xs.flatten(0, 1), cs.flatten(0, 1))
            parts.append(g.unflatten(0, xs.shape[:2]))
        else:
            parts.append(vmap(over_samples)(target.w0, target.rest, xs, cs))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).flatten(1, 2).detach()


def split_parameters(flat: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Returns flat vectors `[..., n_w]` as a dict of tensors `[..., *shape]`."""
    parts = flat.split([torch.Size(shape).numel() for shape in shapes.values()], -1)
    return {
        name: part.reshape(*flat.shape[:-1], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def side_by_side(parts: Mapping[str, Tensor]) -> Tensor:
    """Returns gradients or directions of several tensors `[n, *shape]` as the rows of one matrix `[n, n_w]`."""
    return torch.cat([part.flatten(1) for part in parts.values()], 1)


def divergence_gradients(
    model: nn.Module,
    inputs: Tensor,
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor] = "mse",
    *,
    references: str | Tensor = "sample",
    parameters: str | Sequence[str] = "*",
    chunk_size: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Returns the gradient of each sample's divergence from its reference, at W_0 (paper Eq. 2).

    Args:
        model: The target, in evaluation mode. Never changed.
        inputs: `[n, ...]`, floating point or integer, on the model's device.
        divergence: See `resolve_divergence`.
        references: 'sample', 'mean' or 'uniform' over these inputs, or outputs `[n, ..., n_o]` to compare with.
        parameters: Name patterns of the parameters W.
        chunk_size: Inputs whose gradients are formed at once; None for all.
        seed: Seeds the choice of reference samples.

    Returns:
        A dict of `[n_s, *shape]`. Where outputs have position axes, every position is a sample of its
        own and n_s = n * n_positions, positions running fastest.

    Raises:
        TypeError: The model is no module, the inputs no tensor, or the divergence no name or function.
        ValueError: Training mode, weights or inputs not finite, nothing selected, or references of another shape.
    """
    check_inputs(inputs)
    target = build_target([model], parameters)
    y = target_outputs(target, inputs[None])
    d = resolve_divergence(divergence, y)
    flat = y.flatten(1, 2)
    if isinstance(references, Tensor):
        y_ref = check_references(references, y).reshape(flat.shape)
    else:
        partners = draw_partners(1, flat.shape[1], torch.Generator().manual_seed(seed))
        y_ref = reference_outputs(flat, references, partners=partners, probabilities=d.name == "kl")
    cotangents = d.cotangent(flat, y_ref).reshape(y.shape)
    return split_parameters(sample_gradients(target, inputs[None], cotangents, chunk_size)[0], target.shapes)
