"""Settings of the chapters on real models: what the paper decomposed, and what stands in for it without a network."""

from __future__ import annotations

import os
from dataclasses import replace

from . import toys
from .chapters.real_chapter import RealSettings
from .chapters.real_measures import Measuring
from .chapters.real_models import Language, Planned, Vision, with_settings
from .hub import local_folder
from .l3d import L3DConfig

# App. B.4, by name: a tenth of each axis, rounded in the paper's way.
LANGUAGE_RANKS = {"*.weight": (25, 25), "*.bias": 25}
VISION_RANKS = {
    "*.block.0.0.weight": (12, 4, 1, 1), "*.block.1.0.weight": (12, 1, 5, 5), "*.fc1.weight": (3, 12, 1, 1),
    "*.fc2.weight": (12, 3, 1, 1), "*.block.3.0.weight": (4, 12, 1, 1), "*.fc1.bias": 3, "*.block.3.1.*": 4, "*": 12,
}  # fmt: skip
# What the paper decomposed, and what stands in for it where there is no network.
# Of the stories about a hundredth of the stories, as the authors' code took.
LANGUAGE = Language(model_id="roneneldan/TinyStories-8M", parameters="transformer.h.4.attn.attention.*", rows=21_000)
LANGUAGE_OFFLINE = Language(model_id="karpathy/stories260K", parameters="model.layers.2.self_attn.*")
VISION = Vision(weights="IMAGENET1K_V1", data_id="uoft-cs/cifar100", size=224)
VISION_OFFLINE = Vision(
    weights=toys.WEIGHTS / "mobilenet_v3_small_cifar10.safetensors", data_id="uoft-cs/cifar10", size=64
)
# App. B.4 and section 3.5.1; the batches are those of the authors' code, of which the paper says nothing.
_REAL_TEXT = L3DConfig(
    n_v=100, rank=LANGUAGE_RANKS, k_fraction=0.1, epochs=100, batch_size=16, lr=0.005, lr_decay=0.8,
    lr_decay_every_epochs=10,
)  # fmt: skip
# The code's learning rates stay as they are for all 100 epochs.
_REAL_CODE = replace(
    _REAL_TEXT, loss="recon_sq", k_extra=1, v_out_norm="tensor_sum", dense_epochs=11, weight_decay=0.0, lr_decay=1.0
)
LANGUAGE_VARIANTS = {"text": _REAL_TEXT, "code": replace(_REAL_CODE, lr=0.001)}
VISION_VARIANTS = {
    name: replace(config, rank=VISION_RANKS, batch_size=32)
    for name, config in (("text", _REAL_TEXT), ("code", _REAL_CODE))
}


def _candidates(text: L3DConfig) -> dict[str, Planned]:
    """Returns what the `tuned` of a real model is chosen from: schedules of 20 epochs, with and without revival."""
    found = {}
    for revival in (0.0, 1 / 32):
        for lr, every in ((0.005, 10), (0.005, 1), (0.01, 1)):
            name = f"lr {lr}, decay every {every}" + (", revival" if revival else "")
            own = {"loss": "recon_sq", "weight_decay": 0.0, "lr": lr, "lr_decay_every_epochs": every}
            found[name] = Planned(replace(text, epochs=20, revival=revival, **own))
    return found


def _real(
    chapter: str, source: Language | Vision, variants: dict[str, L3DConfig], tuned: str, measuring: Measuring
) -> dict[str, RealSettings]:
    """Returns both presets of a chapter on a real model."""
    text, candidates = variants["text"], _candidates(variants["text"])
    short = replace(text, epochs=20)
    runs = {
        "text": Planned(text), "text-1": Planned(short, 1), "text-2": Planned(short, 2),
        "code": Planned(replace(variants["code"], epochs=20)), "tuned": candidates[tuned],
    }  # fmt: skip
    paper = RealSettings(chapter=chapter, source=source, runs=runs, candidates=candidates, measuring=measuring)
    quick = replace(
        paper, source=replace(source, n=128, n_held_out=64), runs=with_settings(runs, n_v=20, epochs=2),
        candidates=with_settings(candidates, n_v=20, epochs=1), n_candidate=32,
        measuring=replace(measuring, n_references=2, n_random=3, n_principal=128, n_moved=32, share=0.05),
    )  # fmt: skip
    return {"paper": paper, "quick": quick}


# Of the stand-in a tenth of each axis too, rounded down.
_OFFLINE = {name: replace(config, rank=0.1) for name, config in LANGUAGE_VARIANTS.items()}
SETTINGS = {
    "05_language_model": _real(
        "language_model", LANGUAGE_OFFLINE, _OFFLINE, "lr 0.01, decay every 1, revival", Measuring()
    ),
    "06_vision": _real(
        "vision",
        VISION_OFFLINE,
        VISION_VARIANTS,
        "lr 0.005, decay every 10, revival",
        Measuring(n_top=10, n_moved=2000),
    ),
}
# What the paper decomposed, in the place of the stand-ins.
ORIGINALS = {"05_language_model": (LANGUAGE, LANGUAGE_VARIANTS), "06_vision": (VISION, VISION_VARIANTS)}
# Ids that a chapter loads, which have to lie under L3D_HUB for it to run without a network.
NEEDS = {
    "05_language_model": (LANGUAGE_OFFLINE.model_id, LANGUAGE_OFFLINE.data_id), "06_vision": (VISION_OFFLINE.data_id,)
}  # fmt: skip


def of_subject(notebook: str, preset: str, subject: str | None = None) -> RealSettings:
    """Returns the settings of a chapter on a real model, with the model asked for.

    Args:
        notebook: '05_language_model' or '06_vision'.
        preset: 'quick' or 'paper'.
        subject: 'stand_in', 'paper' for what the paper decomposed, or None: the former where L3D_HUB is set.

    Raises:
        ValueError: An unknown subject.
    """
    if subject not in (None, "stand_in", "paper"):
        raise ValueError(f"subject {subject!r} is unknown; expected 'stand_in' or 'paper', or None to let L3D_HUB say.")
    found = SETTINGS[notebook][preset]
    if subject == "stand_in" or (subject is None and os.environ.get("L3D_HUB")):
        return found
    source, variants = ORIGINALS[notebook]

    sizes, rank = {"n": found.source.n, "n_held_out": found.source.n_held_out}, variants["text"].rank
    return replace(
        found, chapter=f"{found.chapter}-paper", source=replace(source, **sizes),
        runs=with_settings(found.runs, rank=rank), candidates=with_settings(found.candidates, rank=rank),
    )  # fmt: skip


def missing_data(notebook: str) -> list[str]:
    """Returns the hub ids that a notebook needs and L3D_HUB does not hold; none for one that needs no data."""
    return [hub_id for hub_id in NEEDS.get(notebook, ()) if local_folder(hub_id) is None]
