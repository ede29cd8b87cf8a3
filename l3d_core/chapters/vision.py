"""Chapter 6: what the held-out images of a vision network show, and what its subnetworks do to them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ..hub import load_images
from ..intervention import output_gradients, top_outputs
from .real_chapter import RealResult
from .real_models import Subject, Vision

LABELS = ("class", "animal or vehicle")
ANIMALS, VEHICLES = ("bird", "cat", "deer", "dog", "frog", "horse"), ("airplane", "automobile", "ship", "truck")


class ImageCard(NamedTuple):
    """A subnetwork of a vision network.

    Attributes:
        number: Its index.
        p_active: Its P_act.
        pixels: Its top images `[n, 3, height, width]`, whole numbers from 0 to 255.
        outputs: For each the classes moved most.
    """

    number: int
    p_active: float
    pixels: Tensor
    outputs: list[list[str]]


def label_images(subject: Subject, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns what each held-out image is, by kind: its class and, where that is known, animal or vehicle.

    Args:
        subject: A vision network and its images.
        names: Of the images' classes, by label.
    """
    labels = {LABELS[0]: subject.labels}
    if set(names) == {*ANIMALS, *VEHICLES}:
        labels[LABELS[1]] = torch.tensor([name in VEHICLES for name in names]).long()[subject.labels]
    return labels


def held_out_images(source: Vision) -> tuple[Tensor, list[str]]:
    """Returns the held-out images as they are stored, `[n, 3, height, width]`, and the names of their classes."""
    images = load_images(source.data_id, "test", source.n_held_out)
    return images.pixels, images.names


def accuracy(source: Vision) -> str:
    """Returns the test accuracy of a network of ours, from its file; what is at hand of torchvision's is its name."""
    if not isinstance(source.weights, Path):
        return f"that of {source.weights}"
    with safe_open(source.weights, framework="pt") as file:
        return f"{100 * json.loads(file.metadata()['facts'])['accuracy']:.1f} %"


def image_cards(
    result: RealResult, pixels: Tensor, circuits: Sequence[int], name: str = "text", *, n_outputs: int = 3
) -> list[ImageCard]:
    """Returns what some subnetworks act on: their top images and, for each, the classes they move most (Fig. 11).

    Args:
        result: The chapter's.
        pixels: The held-out images, see `held_out_images`.
        circuits: Subnetworks.
        name: The decomposition.
        n_outputs: Classes for each image.
    """
    l3d, subject, cards = result.runs[name].l3d, result.subject, []
    p_active = l3d.p_active.cpu()
    for v in circuits:
        top = result.of("top", name)[v]
        moved = output_gradients(l3d, v, subject.held_out[top.to(subject.held_out.device)]).cpu()
        outputs = [[subject.names[i] for i in row] for row in top_outputs(moved, n_outputs).tolist()]
        cards.append(ImageCard(v, float(p_active[v]), pixels[top], outputs))
    return cards
