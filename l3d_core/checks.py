"""Refusals at the boundary: models, inputs and references that cannot be decomposed, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def check_model(model: nn.Module) -> None:
    """Raises if a model cannot be decomposed as it stands.

    Args:
        model: The target.

    Raises:
        TypeError: Not a torch module.
        ValueError: Some part is in training mode, or a parameter or buffer is not finite.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the target is a {type(model).__name__}; expected a torch.nn.Module.")
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"{training[0]!r} is in training mode (one of {len(training)} modules); expected evaluation mode, "
            "where each sample's output depends on that sample alone. Call model.eval() first."
        )
    for name, w in [*model.named_parameters(), *model.named_buffers()]:
        if w.is_floating_point() and not torch.isfinite(w).all():
            raise ValueError(f"{name!r} holds NaN or infinite values; expected finite weights. Reload or retrain.")


def check_inputs(inputs: Tensor, *, minimum: int = 1) -> None:
    """Raises if inputs cannot be decomposed on.

    Args:
        inputs: `[n, ...]`, floating point or integer.
        minimum: Fewest inputs that make sense.

    Raises:
        TypeError: Not a tensor.
        ValueError: Too few inputs, or values that are not finite.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs are a {type(inputs).__name__}; expected one tensor [n, ...], first axis the samples.")
    if inputs.ndim < 1 or len(inputs) < minimum:
        raise ValueError(f"got {len(inputs) if inputs.ndim else 0} inputs; expected at least {minimum}. Give more.")
    if inputs.is_floating_point() and not torch.isfinite(inputs).all():
        raise ValueError("inputs hold NaN or infinite values; expected finite numbers. Clean the data first.")


def check_references(references: Tensor, y: Tensor) -> Tensor:
    """Returns given reference outputs arranged as the target's outputs y `[n_runs, n, n_positions, n_o]`.

    Args:
        references: `[n, n_o]`, or `[n, n_positions, n_o]` where outputs have positions.
        y: What `target_outputs` returned for the same inputs.

    Returns:
        `[1, n, n_positions, n_o]`.

    Raises:
        ValueError: Another shape or device.
    """
    expected = y.shape[1:] if y.shape[2] > 1 else torch.Size([y.shape[1], y.shape[3]])
    if references.shape != expected:
        raise ValueError(
            f"reference outputs have shape {tuple(references.shape)}; expected the shape of the model's outputs, "
            f"{tuple(expected)}: one reference for each sample."
        )
    if references.device != y.device:
        raise ValueError(f"reference outputs are on {references.device}, the model on {y.device}; expected one device.")
    return references.detach().reshape(1, *y.shape[1:])


def check_together(runs: Sequence) -> None:
    """Raises unless runs can stand side by side.

    Args:
        runs: Runs, see `runs.Run`.

    Raises:
        TypeError: Inputs are no tensor.
        ValueError: No runs, or runs that differ in what they must have in common.
    """
    if not runs:
        raise ValueError("got no runs; expected at least one Run.")
    for run in runs:
        check_inputs(run.inputs)
    for name in ("n_v", "batch_size", "epochs", "form"):
        values = {getattr(run.config, name) for run in runs}
        if len(values) > 1:
            raise ValueError(f"runs differ in {name}: {sorted(values)}; expected one value. Call fit once for each.")
    if len({str(run.parameters) for run in runs}) > 1:
        raise ValueError("runs differ in parameters; expected one selection. Call fit once for each.")
    shapes = {(tuple(run.inputs.shape), run.inputs.dtype) for run in runs}
    if len(shapes) > 1:
        raise ValueError(f"runs differ in the shape or type of inputs: {sorted(map(str, shapes))}; expected one.")
    if len({run.references is None for run in runs}) > 1:
        raise ValueError("some runs give references and some do not; expected all or none. Call fit once for each.")
    n, batch_size = len(runs[0].inputs), runs[0].config.batch_size
    if n < batch_size:
        raise ValueError(
            f"got {n} inputs for a batch_size of {batch_size}; expected at least one full batch. "
            "Give more inputs or lower batch_size."
        )
