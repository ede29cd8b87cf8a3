"""Training of the vision network that the project ships, so that one can be decomposed without a network at hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm

from .hub import Images, normalised
from .pretrained import load_vision_model, make_network

# Pixels by which a training image is moved at most, along either side.
SHIFT = 4
# Images classified at once.
CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class VisionTraining:
    """Settings of the training of a classifier."""

    network: str = "mobilenet_v3_small"
    """Name of a torchvision network."""
    data_id: str = "uoft-cs/cifar10"
    """Hub id of the images."""
    size: int = 64
    """Pixels along a side of what the network sees; the images are resized to it."""
    epochs: int = 12
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a batch."""
    lr: float = 0.1
    """Highest learning rate of SGD: reached linearly in the first fifth of the steps, then falling as a cosine to 0."""
    momentum: float = 0.9
    """Of SGD, Nesterov's."""
    weight_decay: float = 5e-4
    """Of SGD."""
    seed: int = 0
    """Seeds starting values, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("size", "epochs", "batch_size", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number.")

    def lr_at(self, step: int, n_steps: int) -> float:
        """Returns the learning rate at a step, counted from 0, of so many."""
        warm = max(n_steps // 5, 1)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / (n_steps - warm)))


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images shifted by up to `SHIFT` pixels and, half of them, mirrored, each by a draw of its own."""
    n, _, height, width = pixels.shape
    padded = pad(pixels, (SHIFT,) * 4)
    down, right = torch.randint(2 * SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None], rows[:, None, :, None],
                  columns[:, None, None, :]]  # fmt: skip


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds the draws that torch makes itself, of starting values and dropout; what was drawn from before goes on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def accuracy(network: nn.Module, images: Images, size: int) -> float:
    """Returns the share of images that a network classifies as they are labelled."""
    network.eval()
    with torch.no_grad():
        right = [
            (network(normalised(pixels, size)).argmax(1) == labels).sum()
            for pixels, labels in zip(images.pixels.split(CHUNK), images.labels.split(CHUNK), strict=True)
        ]
    return float(sum(right)) / len(images.labels)


def train_classifier(
    config: VisionTraining, train: Images, test: Images, checkpoint: Path, *, progress: bool = False
) -> tuple[nn.Module, list[float]]:
    """Returns a trained network, and its accuracy on the test images after every epoch.

    Args:
        config: The settings.
        train: Images to train on.
        test: Images to judge by; they have no part in the training.
        checkpoint: A file to continue from if it is there; written after every epoch.
        progress: Show a bar on standard error.

    Raises:
        ValueError: The checkpoint is of other settings.
    """
    with _seeded(config.seed):
        network = make_network(config.network, len(train.names))
    optimiser = torch.optim.SGD(
        network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=True
    )
    accuracies = _resume(checkpoint, config, network, optimiser)
    network.to(memory_format=torch.channels_last)
    per_epoch = -(-len(train.labels) // config.batch_size)
    for epoch in range(len(accuracies), config.epochs):
        generator = torch.Generator().manual_seed(1_000_003 * config.seed + epoch)
        order = torch.randperm(len(train.labels), generator=generator)
        network.train()
        batches = order.split(config.batch_size)
        bar = tqdm(batches, disable=not progress, mininterval=5.0, desc=f"epoch {epoch + 1} of {config.epochs}")
        with _seeded(1_000_003 * config.seed + epoch):
            for i, batch in enumerate(bar):
                x = normalised(augmented(train.pixels[batch], generator), config.size)
                optimiser.param_groups[0]["lr"] = config.lr_at(epoch * per_epoch + i, config.epochs * per_epoch)
                optimiser.zero_grad()
                cross_entropy(network(x.to(memory_format=torch.channels_last)), train.labels[batch]).backward()
                optimiser.step()
        accuracies.append(accuracy(network, test, config.size))
        _save(checkpoint, config, network, optimiser, accuracies)
    return network.eval(), accuracies


def _save(
    path: Path, config: VisionTraining, network: nn.Module, optimiser: torch.optim.SGD, done: list[float]
) -> None:
    """Writes weights, momenta and what was reached; a file is whole or not there."""
    tensors = {f"network.{name}": t.contiguous() for name, t in network.state_dict().items()}
    for name, p in network.named_parameters():
        tensors[f"momentum.{name}"] = optimiser.state[p]["momentum_buffer"].contiguous()
    new = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, new, metadata={"facts": json.dumps({"config": asdict(config), "accuracies": done})})
    new.replace(path)


def _resume(path: Path, config: VisionTraining, network: nn.Module, optimiser: torch.optim.SGD) -> list[float]:
    """Loads weights and momenta if a checkpoint is there; returns the accuracies reached, none if it is not."""
    if not path.exists():
        return []
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if facts["config"] != asdict(config):
        raise ValueError(f"{path} is of the settings {facts['config']}; expected {asdict(config)}. Delete or move it.")
    network.load_state_dict({name[8:]: t for name, t in tensors.items() if name.startswith("network.")})
    for name, p in network.named_parameters():
        optimiser.state[p]["momentum_buffer"] = tensors[f"momentum.{name}"]
    return facts["accuracies"]


def save_classifier(
    path: Path, config: VisionTraining, network: nn.Module, test: Images, accuracies: list[float], facts: dict
) -> float:
    """Writes a trained network, its weights in half precision, and returns the accuracy of what was written.

    Statistics of batch normalisation stay in single precision.

    Args:
        path: The file; replaced whole or not at all.
        config: How it was trained.
        network: The network.
        test: Images to judge what is written by.
        accuracies: After every epoch of the training.
        facts: Provenance.
    """
    tensors = {name: t.contiguous() for name, t in network.state_dict().items()}
    tensors |= {name: p.detach().half().contiguous() for name, p in network.named_parameters()}
    new = path.with_name(path.name + ".part")
    told = {"config": asdict(config), "names": test.names, "accuracies": accuracies, **facts}
    save_file(tensors, new, metadata={"facts": json.dumps(told, sort_keys=True)})
    found = accuracy(load_vision_model(config.network, new)[0], test, config.size)
    save_file(tensors, new, metadata={"facts": json.dumps({**told, "accuracy": found}, sort_keys=True)})
    new.replace(path)
    return found
