"""Chapters 5 and 6: a language and a vision model to decompose, and decompositions that are kept on disk one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import artifacts
from ..divergences import resolve_divergence
from ..gradients import select_parameters
from ..hub import load_images, load_texts, normalised
from ..l3d import L3DConfig
from ..metrics import gradient_reconstruction
from ..parallel import run_jobs
from ..pretrained import load_language_model, load_vision_model
from ..runs import Run
from ..sharing import HISTORY
from ..training import L3D, History, fit
from ..tucker import Layout, TuckerDirections, resolve_ranks
from .studies import config_facts

DIVERGENCE = "kl"


class Subject(NamedTuple):
    """A model with what it is decomposed on.

    Attributes:
        model: In evaluation mode.
        inputs: What is decomposed on `[n, ...]`.
        held_out: Samples of another split `[n_held_out, ...]`.
        labels: What each held-out sample is: the next token of each position, flat, or the class of an image.
        names: Of outputs, by index: tokens or classes.
    """

    model: nn.Module
    inputs: Tensor
    held_out: Tensor
    labels: Tensor
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class Language:
    """A causal language model, and windows of texts (paper section 3.5.1, App. B.4)."""

    model_id: str
    """Hub id of the model."""
    data_id: str = "roneneldan/TinyStories"
    """Hub id of the texts."""
    parameters: str
    """Pattern of the parameters to decompose."""
    n: int = 10_000
    """Windows to decompose on, drawn with replacement (App. B.4: 10000)."""
    n_held_out: int = 1000
    """Windows of the validation split to judge by, which do not overlap."""
    n_positions: int = 16
    """Tokens of a window (App. B.4: 16)."""
    rows: int | None = None
    """Texts to draw from; None for all."""
    seed: int = 0
    """Seeds both draws."""

    def load(self, device: str = "cpu") -> Subject:
        """Returns the model and its windows; errors are those of `hub.load_texts` and `load_language_model`."""
        model, tokenizer = load_language_model(self.model_id, device=device)
        options: dict[str, Any] = {"rows": self.rows, "seed": self.seed}
        inputs = load_texts(
            self.data_id, "train", tokenizer, n=self.n, n_positions=self.n_positions, **options
        ).inputs  # fmt: skip
        # One token more, since the last position has a next one too.
        longer = load_texts(
            self.data_id, "validation", tokenizer, n=self.n_held_out, n_positions=self.n_positions + 1, apart=True,
            **options,
        ).inputs  # fmt: skip
        names = [tokenizer.decode([i]) for i in range(model.config.vocab_size)]
        return Subject(model, inputs.to(device), longer[:, :-1].to(device), longer[:, 1:].flatten(), names)


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A torchvision network, and images (paper section 3.5.2, App. B.4)."""

    network: str = "mobilenet_v3_small"
    """torchvision's name."""
    weights: str | Path
    """Name of torchvision's weights, or a file of `vision_training.save_classifier`."""
    data_id: str
    """Hub id of the images."""
    size: int
    """Pixels along a side of what the network sees."""
    parameters: str = "features.7.*"
    """Pattern of the parameters to decompose."""
    n: int = 10_000
    """Images to decompose on (App. B.4: 10000)."""
    n_held_out: int = 2000
    """Images of the test split to judge by."""

    def load(self, device: str = "cpu") -> Subject:
        """Returns the network and its images; errors are those of `hub.load_images` and `load_vision_model`."""
        network, names = load_vision_model(self.network, self.weights, device=device)
        train, test = (
            load_images(self.data_id, split, n) for split, n in (("train", self.n), ("test", self.n_held_out))
        )
        inputs, held_out = (normalised(images.pixels.to(device), self.size) for images in (train, test))
        return Subject(network, inputs, held_out, test.labels, names)


class Planned(NamedTuple):
    """A decomposition to be made.

    Attributes:
        config: Its settings.
        seed: Its seed.
    """

    config: L3DConfig
    seed: int = 0


class Decomposed(NamedTuple):
    """A decomposition with what it leaves on held-out samples.

    Attributes:
        l3d: The decomposition.
        held_out: Its error on held-out samples, one for each batch of the size trained with.
        facts: Provenance and seconds.
    """

    l3d: L3D
    held_out: Tensor
    facts: dict[str, Any]


def decomposed(
    name: str, source: Language | Vision, planned: Planned,
    *, folder: str | Path, device: str = "cpu", progress: bool = False, subject: Subject | None = None,
) -> Decomposed:  # fmt: skip
    """Returns a decomposition from disk, or makes it, going on where it was stopped.

    Args:
        name: What to call it on disk.
        source: What to decompose.
        planned: Settings and seed.
        folder: Where results lie.
        device: 'cpu' or 'cuda'.
        progress: Show a bar on standard error.
        subject: What the source loads, if it is loaded already.

    Raises:
        OSError: The model or the data cannot be had; see `Language.load`.
        ValueError: Fewer held-out samples than a batch; settings that cannot be trained, see `training.fit`.
    """
    subject = source.load(device) if subject is None else subject
    if len(subject.held_out) < planned.config.batch_size:
        raise ValueError(
            f"got {len(subject.held_out)} held-out samples; expected at least one batch of "
            f"{planned.config.batch_size}. Raise n_held_out, or lower batch_size."
        )
    data = artifacts.tensor_digest([*subject.model.state_dict().values(), subject.inputs, subject.held_out])
    told = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(source).items()}
    key = {
        "source": told, "settings": config_facts(planned.config), "seed": planned.seed, "data": data,
        "torch": torch.__version__, "code": artifacts.code_digest(["real_models"]),
    }  # fmt: skip

    def compute(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        run = Run(subject.model, subject.inputs, planned.config, DIVERGENCE, planned.seed, source.parameters)
        options = {"checkpoint": scratch / "checkpoint.safetensors", "checkpoint_seconds": 60}
        [l3d] = fit([run], progress=name if progress else False, **options)
        tensors = {"v_in": l3d.v_in.flat, "v_out": l3d.v_out.flat, "held_out": held_out_errors(l3d, subject.held_out)}
        tensors |= {part: getattr(l3d.history, part) for part in HISTORY}
        return {part: t.detach().cpu() for part, t in tensors.items()}, {"wall_seconds": l3d.history.wall_seconds}

    tensors, metrics, facts = artifacts.cached(folder, name, key, compute, device)
    return Decomposed(_rebuilt(subject, source.parameters, planned, tensors, metrics), tensors["held_out"], facts)


def _rebuilt(
    subject: Subject, parameters: str, planned: Planned, tensors: Mapping[str, Tensor], metrics: Mapping[str, float]
) -> L3D:
    """Returns the decomposition that tensors from disk describe."""
    shapes = {name: tuple(p.shape) for name, p in select_parameters(subject.model, parameters).items()}
    layout = Layout(shapes, resolve_ranks(shapes, planned.config.rank), planned.config.form)
    device = subject.inputs.device
    sides = (TuckerDirections(layout, tensors[side].to(device)) for side in ("v_in", "v_out"))
    history = History(**{part: tensors[part] for part in HISTORY}, wall_seconds=metrics["wall_seconds"])
    return L3D(subject.model, *sides, resolve_divergence(DIVERGENCE), planned.config, planned.seed, history)


def held_out_errors(l3d: L3D, x: Tensor, seed: int = 0) -> Tensor:
    """Returns the squared error ratio of every batch of held-out samples, of the size trained with, `[n_batches]`."""
    batches = [batch for batch in x.split(l3d.config.batch_size) if len(batch) == l3d.config.batch_size]
    return torch.stack([gradient_reconstruction(l3d, batch, seed=seed + i).recon_sq for i, batch in enumerate(batches)])


def run(
    chapter: str, source: Language | Vision, runs: Mapping[str, Planned],
    *, folder: str | Path | None = None, device: str = "cpu", workers: int | None = None, progress: bool = False,
) -> dict[str, Decomposed]:  # fmt: skip
    """Returns a chapter's decompositions by name, each from disk where it is done, several side by side.

    Args:
        chapter: First part of their names on disk.
        source: What to decompose.
        runs: By name, the longest first.
        folder: Where results lie; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Decompositions side by side; None for one per core on the CPU, and one on a GPU.
        progress: Show bars on standard error.

    Raises:
        OSError: See `decomposed`.
    """
    folder = artifacts.project_root() / "artifacts" if folder is None else folder
    common = {"source": source, "folder": folder, "device": device}
    calls = [{"name": f"{chapter}-{name}", "planned": one, **common} for name, one in runs.items()]
    run_jobs(_make, [{**call, "progress": progress} for call in calls], workers if device == "cpu" else 1)
    subject = source.load(device)
    return {name: decomposed(**call, subject=subject) for name, call in zip(runs, calls, strict=True)}


def _make(**call: Any) -> None:  # noqa: ANN401
    """Makes a decomposition and leaves it on disk, so that no model has to pass between processes."""
    decomposed(**call)


def with_settings(planned: Mapping[str, Planned], **changes: Any) -> dict[str, Planned]:  # noqa: ANN401
    """Returns the same decompositions with other values of some fields of `L3DConfig`, as quick presets have them."""
    return {name: one._replace(config=replace(one.config, **changes)) for name, one in planned.items()}
