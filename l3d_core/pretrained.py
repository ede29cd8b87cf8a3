"""Language and vision models, by their ids on the Hugging Face hub, by torchvision's names, or from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from .hub import local_folder, unreachable


def load_language_model(model_id: str, *, device: str = "cpu") -> tuple[nn.Module, Any]:
    """Returns a causal language model in evaluation mode, in float32, and its tokenizer.

    Args:
        model_id: Hub id such as 'roneneldan/TinyStories-8M'.
        device: Where the model goes.

    Raises:
        ImportError: transformers is not installed.
        OSError: Neither `L3D_HUB` nor the hub gives the model.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ImportError("language models need transformers; install it with: pip install transformers") from error
    source = local_folder(model_id) or model_id
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise OSError(unreachable(f"the language model {model_id!r}", error)) from error
    return model.eval().to(device), tokenizer


def make_network(name: str, n_classes: int) -> nn.Module:
    """Returns a torchvision network with random weights.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: torchvision has no such network.
    """
    try:
        from torchvision.models import get_model, list_models
    except ImportError as error:
        raise ImportError("vision networks need torchvision; install it with: pip install torchvision") from error
    try:
        return get_model(name, weights=None, num_classes=n_classes)
    except ValueError as error:
        close = [other for other in list_models() if other.startswith(name[:5])]
        raise ValueError(f"torchvision has no network {name!r}; expected one of {close or list_models()}.") from error


def load_vision_model(name: str, weights: str | Path, *, device: str = "cpu") -> tuple[nn.Module, list[str]]:
    """Returns a torchvision network in evaluation mode, and the names of the classes it tells apart.

    Args:
        name: Such as 'mobilenet_v3_small'.
        weights: The name of weights of torchvision's, such as 'IMAGENET1K_V1', or a file that
            `vision_training.save_classifier` wrote.
        device: Where the network goes.

    Raises:
        ImportError: torchvision is not installed.
        OSError: The weights are neither at hand nor to be had from the network.
        ValueError: torchvision has no such network or weights, or the file is of another network.
    """
    if isinstance(weights, Path):
        return _from_file(name, weights, device)
    network = make_network(name, 1000)
    from torchvision.models import get_model_weights

    try:
        chosen = get_model_weights(name)[weights]
    except KeyError as error:
        known = [one.name for one in get_model_weights(name)]
        raise ValueError(f"{name} has no weights {weights!r}; expected one of {known}, or a file's path.") from error
    try:
        network.load_state_dict(chosen.get_state_dict(progress=False))
    except OSError as error:
        raise OSError(
            f"weights {weights!r} of {name} cannot be fetched: {error} Expected a network, or weights that torchvision "
            "has fetched before. Or give the path of a file of vision_training.save_classifier."
        ) from error
    return network.eval().to(device), list(chosen.meta["categories"])


def _from_file(name: str, path: Path, device: str) -> tuple[nn.Module, list[str]]:
    """Returns the network of a file, its weights in float32, and its classes."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if facts["config"]["network"] != name:
        raise ValueError(f"{path} holds a {facts['config']['network']!r}; expected a {name!r}. Name that network.")
    network = make_network(name, len(facts["names"]))
    network.load_state_dict({key: t.float() if t.is_floating_point() else t for key, t in tensors.items()})
    return network.eval().to(device), facts["names"]
