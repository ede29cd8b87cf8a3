"""Decompositions on disk, to be kept and shared: a folder of numbers and readable facts, without the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import artifacts
from .divergences import NAMED, Divergence, resolve_divergence
from .l3d import L3DConfig
from .training import L3D, History
from .tucker import Layout, TuckerDirections

HISTORY = ("recon_sq", "recon_norm", "p_active", "first_losses")


def _weights(model: nn.Module, names: list[str]) -> str:
    """Returns what tells the decomposed weights of one model from those of another."""
    parameters = dict(model.named_parameters())
    return artifacts.tensor_digest([parameters[name] for name in names])


def save_l3d(l3d: L3D, folder: str | Path) -> Path:
    """Returns the folder that a decomposition was written to, which is whole or not there.

    It holds `tensors.safetensors` (V_in and V_out as cores and factors, the history), `config.json` (all settings,
    shapes and ranks, and a digest of the decomposed weights), `metrics.json` and `provenance.json`. The model itself is
    not in it: whoever loads it brings the same one.

    Args:
        l3d: The decomposition.
        folder: Where it goes; one that is there is replaced.

    Raises:
        OSError: The folder cannot be written; what was there is untouched.
    """
    layout, settings = l3d.v_out.layout, asdict(l3d.config)
    if isinstance(l3d.config.rank, Mapping):  # The first pattern that matches counts; a JSON object has no order.
        settings["rank"] = [list(pair) for pair in l3d.config.rank.items()]
    config = {
        "settings": settings, "divergence": l3d.divergence.name, "seed": l3d.seed, "form": layout.form,
        "tensors": [[name, list(layout.shapes[name]), list(layout.ranks[name])] for name in layout.shapes],
        "weights": _weights(l3d.model, l3d.parameters),
    }  # fmt: skip
    tensors = {"v_in": l3d.v_in.flat, "v_out": l3d.v_out.flat}
    tensors |= {name: getattr(l3d.history, name) for name in HISTORY}
    metrics = {"wall_seconds": l3d.history.wall_seconds, "epochs": len(l3d.history.recon_sq)}
    facts = artifacts.provenance(l3d.v_out.flat.device.type)
    path = Path(folder)
    artifacts.save_artifact(path, config, {key: t.detach().cpu() for key, t in tensors.items()}, metrics, facts)
    return path


def load_l3d(
    folder: str | Path, model: nn.Module,
    divergence: str | Divergence | Callable[[Tensor, Tensor], Tensor] | None = None,
) -> L3D:  # fmt: skip
    """Returns a decomposition that `save_l3d` wrote, on the device of the model that it is of.

    Args:
        folder: What `save_l3d` returned.
        model: The model that was decomposed, in evaluation mode.
        divergence: The divergence, if it was none of 'mse', 'half_reference_mse' and 'kl'.

    Raises:
        ValueError: The folder is not whole, the model is another one, or the divergence is not known by its name.
    """
    config, tensors, metrics, _ = artifacts.load_artifact(Path(folder))
    shapes = {name: tuple(shape) for name, shape, _ in config["tensors"]}
    _check_model(model, shapes, config["weights"], folder)
    name = config["divergence"]
    if divergence is None and name not in NAMED:
        raise ValueError(f"{folder} was made with the divergence {name!r}, no known name; expected it as divergence=.")
    layout = Layout(shapes, {key: tuple(ranks) for key, _, ranks in config["tensors"]}, config["form"])
    device = next(model.parameters()).device
    v_in, v_out = (TuckerDirections(layout, tensors[key].to(device)) for key in ("v_in", "v_out"))
    history = History(**{key: tensors[key].to(device) for key in HISTORY}, wall_seconds=metrics["wall_seconds"])
    resolved = resolve_divergence(name if divergence is None else divergence)
    return L3D(model, v_in, v_out, resolved, _settings(config["settings"]), config["seed"], history)


def _settings(stored: dict[str, Any]) -> L3DConfig:
    rank = stored["rank"]
    if isinstance(rank, list):
        rank = {pattern: tuple(r) if isinstance(r, list) else r for pattern, r in rank}
    return L3DConfig(**{**stored, "rank": rank})


def _check_model(model: nn.Module, shapes: dict[str, tuple[int, ...]], weights: str, folder: str | Path) -> None:
    """Raises ValueError unless a model has the decomposed parameters, with the values they had."""
    own = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wrong = {name: own.get(name) for name, shape in shapes.items() if own.get(name) != shape}
    if wrong:
        name, got = next(iter(wrong.items()))
        raise ValueError(
            f"{folder} is of a model whose {name!r} has shape {shapes[name]}; got "
            f"{'a model without it' if got is None else got}. Pass the model that was decomposed."
        )
    if model.training:
        raise ValueError("the model is in training mode; expected evaluation mode. Call model.eval().")
    if _weights(model, list(shapes)) != weights:
        raise ValueError(f"the weights are not those that {folder} is of; expected the same. Load these weights first.")
