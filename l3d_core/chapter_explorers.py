"""The explorers of the book's chapters: which decomposition each shows, on what samples, with which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import artifacts, experiments, real_experiments
from .chapters import apd_runs, language, real_chapter, real_models, vision
from .chapters.comparison_parts import N_LIVE
from .chapters.comparison_settings import l3d_runs
from .chapters.comparison_subjects import subject as compared_subject
from .chapters.statistics import settings_digest
from .chapters.studies import Job, config_facts, fit_job
from .chapters.tokens import PARTS
from .chapters.toy_measures import FRESH, measure_directions
from .explorer import ExplorerSettings, explore
from .explorer.components import of_apd
from .explorer.explored import Explored
from .pretrained import load_language_model
from .runs import Run
from .sharing import load_l3d, save_l3d
from .training import L3D, fit

TOYS = {
    "01_superposition": "Subnetworks of a toy model of superposition",
    "02_circuit_superposition": "Subnetworks of a toy model of circuit superposition",
    "03_high_rank": "Subnetworks of a toy model of circuits of higher rank",
    "04_squared": "Subnetworks of a network that squares",
}
REAL = {"05_language_model": language, "06_vision": vision}
CHAPTERS = (*TOYS, *REAL, "07_apd")
# The decomposition shown unless another is asked for, and the one beside it. Of real models it is `tuned`, which leaves
# as little as `text` after a fifth of its epochs.
SHOWN = {
    **dict.fromkeys(TOYS, ("text", None)), **dict.fromkeys(REAL, ("tuned", None)), "07_apd": ("tms-5-2", "L3D"),
}  # fmt: skip
# The target of chapter 7 whose components are shown, and samples of a toy, by preset.
APD_TARGET, N_SAMPLES = "tms_5-2", {"quick": 200, "paper": 1000}
# Pixels along a side of a thumbnail.
THUMBNAIL = 32
# Most MiB of directions within a page of the book.
WEIGHTS_MIB = 4.0
TERMS = {
    "roneneldan/TinyStories": "windows of at most 16 tokens of TinyStories, CDLA-Sharing-1.0",
    "uoft-cs/cifar10": "thumbnails of CIFAR-10 (Krizhevsky, 2009), at 32 pixels",
}


class Chapter(NamedTuple):
    """What a chapter's explorer can show.

    Attributes:
        runs: Names of its decompositions.
        make: Gives one of them by its name, from disk where it is done.
        inputs: Samples that they are shown on.
        options: For `explorer.explore`.
    """

    runs: tuple[str, ...]
    make: Callable[[str], L3D | Explored]
    inputs: Tensor
    options: dict[str, Any]


def chapter(
    name: str, preset: str, changes: Mapping[str, Any], *, folder: Path, device: str, progress: bool
) -> Chapter:
    """Returns what a chapter's explorer can show.

    Args:
        name: One of `CHAPTERS`.
        preset: 'quick' or 'paper'.
        changes: For a real model see `real_chapter.changed`; for toys and APD 'seed', of the target.
        folder: Where results lie.
        device: 'cpu' or 'cuda'.
        progress: Show bars on standard error.

    Raises:
        ValueError: An unknown chapter, preset or change.
    """
    if name not in CHAPTERS:
        raise ValueError(f"{name!r} has no explorer; expected a folder that explore left, or one of {list(CHAPTERS)}.")
    if preset not in N_SAMPLES:
        raise ValueError(f"preset {preset!r} is unknown; expected one of {list(N_SAMPLES)}.")
    if name in REAL:
        return _real(name, preset, changes, folder, device, progress)
    unknown = sorted(set(changes) - {"seed"})
    if unknown:
        raise ValueError(f"{unknown[0]!r} cannot be changed of {name}; expected 'seed', of the target.")
    seed = changes.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number of at least 0.")
    if name in TOYS:
        return _toy(name, preset, changes.get("seed"), folder, device)
    return _apd(preset, changes.get("seed", 0), folder, progress)


def explore_chapter(
    name: str, preset: str = "quick", run: str | None = None, against: str | None = None,
    changes: Mapping[str, Any] | None = None, *, folder: str | Path | None = None, device: str = "cpu",
    progress: bool = False,
) -> tuple[Path, Path | None]:  # fmt: skip
    """Returns the folders of a chapter's explorer, see `explorer.explore`: its own, and that of what stands beside it.

    Args:
        name: One of `CHAPTERS`.
        preset: 'quick' or 'paper'.
        run: Name of the decomposition; None for the chapter's own choice.
        against: Name of another one to be shown beside it; None for the chapter's own choice, if run is None too.
        changes: See `chapter`.
        folder: Where results lie; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        progress: Show bars on standard error.

    Raises:
        ValueError: An unknown name; see `explorer.explore`.
        OSError: The model or the data cannot be had, or the page cannot be written.
    """
    folder = artifacts.results_folder(folder)
    found = chapter(name, preset, changes or {}, folder=folder, device=device, progress=progress)
    if run is None:
        run, against = SHOWN[name][0], against or SHOWN[name][1]
    for one in (run, against):
        if one is not None and one not in found.runs:
            raise ValueError(f"{name} has no decomposition {one!r}; expected one of {list(found.runs)}.")
    told = [preset, *(f"{key}-{value}" for key, value in sorted((changes or {}).items()))]
    made: list[Path | None] = [None]
    for one in (against, run):
        if one is not None:
            path = folder / "explorer" / "-".join([name, *told, one]).replace("/", "_").replace("*", "_")
            explore(found.make(one), found.inputs, path, name=one, against=made[-1], progress=progress, **found.options)
            made.append(path)
    return made[-1], made[-2]


def _real(
    name: str, preset: str, changes: Mapping[str, Any], folder: Path, device: str, progress: bool
) -> Chapter:  # fmt: skip
    """Returns a chapter on a real model, shown on held-out samples."""
    settings = real_chapter.changed(real_experiments.of_subject(name, preset), **changes)
    source = settings.source
    subject = source.load(device)
    words = name == "05_language_model"
    model = source.model_id if words else f"{source.network}, {Path(source.weights).stem}"
    facts = [
        ("model", model), ("data", source.data_id), ("parameters", source.parameters),
        *_settled(preset, settings),
    ]  # fmt: skip
    if source.data_id in TERMS:
        facts.append(("shown", TERMS[source.data_id]))
    options = {
        "title": f"Subnetworks of {model}", "facts": facts,
        "settings": ExplorerSettings(n_references=settings.measuring.n_references, weights_mib=WEIGHTS_MIB),
        **(_language(source, device) if words else _images(source, subject)),
    }  # fmt: skip

    def make(run: str) -> L3D:
        done = real_models.run(
            settings.chapter, source, {run: settings.runs[run]}, folder=folder, device=device, workers=1,
            progress=progress,
        )  # fmt: skip
        return done[run].l3d

    return Chapter(tuple(settings.runs), make, subject.held_out, options)


def _language(source: real_models.Language, device: str) -> dict[str, Any]:
    """Returns names and labels of a language model's held-out windows."""
    read, (_, tokenizer) = language.read(source, device), load_language_model(source.model_id)
    # A token that is no character by itself is called what the tokenizer calls it, such as <0xE2>.
    names = [tokenizer.convert_ids_to_tokens(i) if "\ufffd" in text else text for i, text in enumerate(read.texts)]
    following, last, part = (read.labels[kind] for kind in language.LABELS)
    labels = {
        language.LABELS[0]: [names[i] for i in following.tolist()], language.LABELS[1]: last,
        language.LABELS[2]: [PARTS[i] for i in part.tolist()],
    }  # fmt: skip
    return {"names": names, "labels": labels}


def _images(source: real_models.Vision, subject: real_models.Subject) -> dict[str, Any]:
    """Returns thumbnails, names and labels of a vision network's held-out images."""
    pixels, names = vision.held_out_images(source)
    if max(pixels.shape[2:]) > THUMBNAIL:
        pixels = interpolate(pixels.float(), (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True).round().byte()
    captions = [names[i] for i in subject.labels.tolist()]
    return {"samples": pixels, "names": subject.names, "captions": captions,
            "labels": vision.label_images(subject, names)}  # fmt: skip


def _toy(name: str, preset: str, seed: int | None, folder: Path, device: str) -> Chapter:
    """Returns a chapter on a toy, shown on fresh samples of one target."""
    settings = experiments.settings(name, preset)
    toy, size = getattr(settings, "toy", "superposition"), getattr(settings, "size", (5, 2))
    seeds = settings.seeds if seed is None else (seed,)
    job = Job(toy=toy, size=size, seeds=seeds, variants=settings.variants, epochs=settings.epochs,
              measure=measure_directions)  # fmt: skip
    task = job.tasks()[0]
    inputs = task.sample(N_SAMPLES[preset], seed=FRESH + task.seed).to(device)
    facts = [("model", f"{task.name}, seed {task.seed}"), ("data", "fresh samples of the toy"),
             *_settled(preset, settings)]  # fmt: skip
    options = {"title": TOYS[name], "facts": facts, **_numbered(inputs, task.config.group_size)}

    def make(run: str) -> L3D:
        alone = replace(job, seeds=(task.seed,), variants={run: settings.variants[run]})
        return _stored(f"explorer-{name}-{run}", alone.runs(device)[0], folder, lambda: fit_job(alone, device)[0])

    return Chapter(tuple(settings.variants), make, inputs, options)


def _apd(preset: str, seed: int, folder: Path, progress: bool) -> Chapter:
    """Returns the chapter on APD: components of the smallest target, and L3D on the same weights."""
    settings = experiments.settings("07_apd", preset)
    runs = {name: parts for name, parts in settings.runs.items() if name.startswith("tms-5-2")}
    own = experiments.settings("09_comparison", preset).targets[APD_TARGET]
    target = compared_subject(APD_TARGET, seed, folder)
    facts = [("model", f"toy model of superposition of APD, seed {seed}"), ("data", "fresh samples of the toy"),
             *_settled(preset, settings)]  # fmt: skip
    inputs = target.draw(N_SAMPLES[preset], seed=FRESH + seed)
    options = {"title": "Components of APD on a toy model of superposition", "facts": facts, **_numbered(inputs, 1)}

    def make(name: str) -> L3D | Explored:
        if name == "L3D":
            [run] = l3d_runs([target], own)
            return _stored("explorer-07_apd-L3D", run, folder, lambda: fit([run])[0])
        [run] = [run for run in runs[name] if seed in run.seeds] or [None]
        if run is None:
            raise ValueError(f"{name} has no target of seed {seed}; expected one of {runs[name][0].seeds}.")
        found = apd_runs.decomposed(name, run, folder=folder, progress=progress)
        x = run.sample(torch.Generator().manual_seed(FRESH + seed), N_LIVE)
        return of_apd(found.apd, target, x, run.seeds.index(seed))

    return Chapter((*runs, "L3D"), make, inputs, options)


def _settled(preset: str, settings: object) -> list[tuple[str, str]]:
    """Returns what tells whether an explorer is of today's settings."""
    return [("preset", preset), ("settings", settings_digest(settings))]


def _numbered(inputs: Tensor, group_size: int) -> dict[str, Any]:
    """Returns names of a toy's inputs and outputs, and which input, or group of them, is largest."""
    n, word = inputs.shape[1], "input" if group_size == 1 else "group"
    largest = inputs.unflatten(1, (-1, group_size)).square().sum(-1).argmax(1).tolist()
    names = [f"x {i}" if group_size == 1 else f"x {i}, group {i // group_size}" for i in range(n)]
    return {"names": [f"y {i}" for i in range(n)], "input_names": names,
            "labels": {f"largest {word}": [str(i) for i in largest]}}  # fmt: skip


def _stored(name: str, run: Run, folder: Path, compute: Callable[[], L3D]) -> L3D:
    """Returns a decomposition from disk, or makes it and leaves it there."""
    config = {
        "settings": config_facts(run.config), "divergence": run.divergence, "seed": run.seed,
        "data": artifacts.tensor_digest([*run.model.state_dict().values(), run.inputs]), "torch": torch.__version__,
        "code": artifacts.code_digest(["studies"]), "parameters": run.parameters,
    }  # fmt: skip
    path = artifacts.artifact_path(folder, name, config)
    if not path.exists():
        save_l3d(compute(), path)
    return load_l3d(path, run.model)
