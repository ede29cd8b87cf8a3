"""Chapter 1: the toy model of superposition, decomposed and intervened on (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts, toys
from ..l3d import L3DConfig
from ..parallel import run_jobs
from ..runs import Run
from ..training import fit
from .superposition_measures import measure, measure_behaviour

# What every study keeps; the main one has the directions and the interventions too.
NUMBERS = ("recon_sq", "recon_norm", "first_losses", "p_active", "recovered", "covered", "share_in", "cos_out")


class Variant(NamedTuple):
    """One way to decompose: settings and divergence."""

    config: L3DConfig
    divergence: str


@dataclass(frozen=True, kw_only=True)
class SuperpositionSettings:
    """What the chapter computes."""

    variants: dict[str, Variant]
    """The variants `text`, `code` and `tuned`."""
    candidates: dict[str, Variant]
    """What `tuned` was chosen from."""
    switches: dict[str, Variant]
    """Variants that differ from `text` or `code` in one respect."""
    seeds: tuple[int, ...]
    """Targets reported on; also the seeds of their decompositions."""
    tuning_seeds: tuple[int, ...]
    """Targets on which `tuned` was chosen; none of them is reported on."""
    size_seeds: tuple[int, ...]
    """Targets of each larger size."""
    sizes: tuple[tuple[int, int], ...] = toys.SIZES
    """Features and hidden dimensions of the targets compared."""
    epochs: int = 1000
    """Epochs of every decomposition (App. B.3: 1000)."""
    matched_length: float
    """Euclidean length of an intervention's step: that of the paper's delta = 1."""
    n_samples: int = 1000
    """Fresh samples for interventions (Figs. 4 and 5: 1000)."""


class Study(NamedTuple):
    """One stack of decompositions: tensors whose first axis is the variant and second the target."""

    tensors: dict[str, Tensor]
    names: list[str]
    seeds: list[int]
    n_trained: int
    facts: dict[str, Any]

    def of(self, key: str, name: str) -> Tensor:
        """Returns a tensor of one variant, targets first."""
        return self.tensors[key][self.names.index(name)]


def kept_tasks(seeds: Sequence[int], n_features: int = 5, n_hidden: int = 2) -> list[toys.Task]:
    """Returns the shipped targets that represent every feature: all rows of W_in longer than 0.5."""
    tasks = [toys.superposition(seed, n_features, n_hidden) for seed in seeds]
    return [task for task in tasks if task.kept]


def _runs(variants: dict[str, Variant], tasks: list[toys.Task], epochs: int, device: str) -> list[Run]:
    models = [task.model.to(device) for task in tasks]
    inputs = [task.inputs.to(device) for task in tasks]
    return [
        Run(model, x, replace(variant.config, epochs=epochs), variant.divergence, seed=task.seed)
        for variant in variants.values()
        for model, x, task in zip(models, inputs, tasks, strict=True)
    ]


def study(
    name: str,
    variants: dict[str, Variant],
    seeds: Sequence[int],
    settings: SuperpositionSettings,
    *,
    size: tuple[int, int] = (5, 2),
    full: bool = False,
    folder: str | Path = "artifacts",
    device: str = "cpu",
    progress: bool = False,
) -> Study:
    """Returns one stack of decompositions from disk, or runs it (resuming where it stopped).

    Args:
        name: What to call it on disk.
        variants: Settings to run on every kept target.
        seeds: Targets to consider; those that do not represent every feature are left out and counted.
        settings: Epochs and number of samples.
        size: Features and hidden dimensions.
        full: Keep directions and sweeps too, not numbers only.
        folder: Where results live.
        device: 'cpu' or 'cuda'.
        progress: Show a bar on standard error.

    Returns:
        The study.

    Raises:
        ValueError: No target is kept, or see `training.fit`.
    """
    tasks = kept_tasks(seeds, *size)
    if not tasks:
        raise ValueError(f"none of the targets {list(seeds)} of size {size} represents every feature; give more.")
    config = {
        "size": size, "seeds": list(seeds), "kept": [task.seed for task in tasks], "epochs": settings.epochs,
        "n_samples": settings.n_samples, "full": full, "code": artifacts.code_digest(), "torch": torch.__version__,
        "variants": [[key, asdict(variant.config), variant.divergence] for key, variant in variants.items()],
        "matched_length": settings.matched_length,
        "data": artifacts.tensor_digest([t for task in tasks for t in (task.inputs, *task.model.parameters())]),
    }  # fmt: skip

    def compute(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        runs = _runs(variants, tasks, settings.epochs, device)
        bar = f"{name}, {len(runs)} runs" if progress else False
        found = fit(runs, checkpoint=scratch / "checkpoint.safetensors", checkpoint_seconds=15, progress=bar)
        per_run = [measure(l3d) for l3d in found]
        for i, l3d in enumerate(found if full else []):
            per_run[i] |= measure_behaviour(l3d, tasks[i % len(tasks)], settings.n_samples, settings.matched_length)
        if not full:
            per_run = [{key: facts[key] for key in NUMBERS} for facts in per_run]
        shape = (len(variants), len(tasks))
        return {key: torch.stack([facts[key] for facts in per_run]).unflatten(0, shape) for key in per_run[0]}, {}

    tensors, _, facts = artifacts.cached(folder, f"superposition-{name}", config, compute, device)
    return Study(tensors, [key for key, *_ in config["variants"]], config["kept"], len(seeds), facts)


def _scaled(settings: SuperpositionSettings, n_features: int) -> dict[str, Variant]:
    """Returns the variants with one subnetwork per feature, and one that keeps as much per active feature as at 5-2.

    At a fixed k more coefficients are kept for each active feature the more features there are, which lowers the
    error by itself; `matched` scales k with the share of active features to leave that out. It is run at the second
    size only, which in the paper preset has as many features per dimension as the first.
    """
    variants = {
        name: Variant(replace(variant.config, n_v=n_features), variant.divergence)
        for name, variant in settings.variants.items()
    }
    if n_features != settings.sizes[1][0]:
        return variants
    config, divergence = variants["text"]
    k = config.k_fraction * toys.active_share(n_features) / toys.active_share(5)
    return {**variants, "matched": Variant(replace(config, k_fraction=k), divergence)}


class SuperpositionResult(NamedTuple):
    """Everything the chapter shows; `stacks` holds every study under the name it has on disk."""

    settings: SuperpositionSettings
    stacks: dict[str, Study]
    main: Study
    tuning: Study
    switches: Study
    references: Study
    sizes: dict[str, Study]


def _jobs(settings: SuperpositionSettings) -> dict[str, dict[str, Any]]:
    """Returns the stacks to run by name, longest first, each combination of settings and target once.

    What `main` has is not run again.
    """
    jobs: dict[str, dict[str, Any]] = {}
    for size in sorted(settings.sizes[1:], reverse=True):
        variants = _scaled(settings, size[0])
        jobs[f"size-{size[0]}-{size[1]}"] = {"variants": variants, "seeds": settings.size_seeds, "size": size}
    kinds = {
        f"{name} {kind}": Variant(replace(variant.config, reference=kind), variant.divergence)
        for name, variant in settings.variants.items()
        for kind in ("mean", "uniform")
    }
    jobs["tuning"] = {"variants": settings.candidates, "seeds": settings.tuning_seeds}
    jobs["references"] = {"variants": kinds, "seeds": settings.seeds}
    jobs["switches"] = {"variants": settings.switches, "seeds": settings.seeds}
    jobs["main"] = {"variants": settings.variants, "seeds": settings.seeds, "full": True}
    return jobs


def stacks(settings: SuperpositionSettings, device: str = "cpu") -> dict[str, list[Run]]:
    """Returns the runs of every stack of the chapter by name, to check their beginnings."""
    return {
        name: _runs(job["variants"], kept_tasks(job["seeds"], *job.get("size", (5, 2))), settings.epochs, device)
        for name, job in _jobs(settings).items()
    }


def _part(whole: Study, names: dict[str, str], seeds: Sequence[int] | None = None) -> Study:
    """Returns some variants of a study under new names, on all of its targets or some; numbers only."""
    rows = [whole.names.index(name) for name in names]
    columns = [i for i, seed in enumerate(whole.seeds) if seeds is None or seed in seeds]
    tensors = {key: t[rows][:, columns] for key, t in whole.tensors.items() if key in NUMBERS}
    return whole._replace(tensors=tensors, names=list(names.values()), seeds=[whole.seeds[i] for i in columns])


def _beside(*studies: Study) -> Study:
    """Returns studies of the same targets as one, their variants one after the other; numbers only."""
    tensors = {key: torch.cat([study.tensors[key] for study in studies]) for key in NUMBERS}
    return studies[0]._replace(tensors=tensors, names=[name for study in studies for name in study.names])


def _sizes(settings: SuperpositionSettings, done: dict[str, Study]) -> dict[str, Study]:
    """Returns the variants at every size; at the first, `matched` is `text` itself."""
    text = {"text": "matched"}
    same = {name: name for name in settings.variants}
    first, *larger = settings.sizes
    own = [_part(done["main"], names, settings.size_seeds) for names in (same, text)]
    sizes = {f"{first[0]}-{first[1]}": _beside(*own)}
    for size in larger:
        key = f"{size[0]}-{size[1]}"
        sizes[key] = done[f"size-{key}"]
    return sizes


def run(
    settings: SuperpositionSettings,
    *,
    folder: str | Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: bool = False,
) -> SuperpositionResult:
    """Returns the whole chapter's results, each study from disk where it is done.

    Args:
        settings: See `experiments.settings`.
        folder: Where results live; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Studies run side by side; None for one per core on the CPU, and one on a GPU.
        progress: Show bars on standard error.

    Raises:
        ValueError: See `study`.
    """
    folder = artifacts.project_root() / "artifacts" if folder is None else folder
    common = {"settings": settings, "folder": folder, "device": device, "progress": progress}
    jobs = _jobs(settings)
    calls = [{"name": name, **job, **common} for name, job in jobs.items()]
    done = dict(zip(jobs, run_jobs(study, calls, workers if device == "cpu" else 1), strict=True))
    main = done["main"]
    sampled = _part(main, {name: f"{name} sample" for name in settings.variants})
    return SuperpositionResult(
        settings=settings,
        stacks=done,
        main=main,
        tuning=done["tuning"],
        switches=_beside(_part(main, {"text": "text", "code": "code"}), done["switches"]),
        references=_beside(sampled, done["references"]),
        sizes=_sizes(settings, done),
    )
