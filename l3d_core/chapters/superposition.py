"""Chapter 1: the toy model of superposition, decomposed and intervened on (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .. import toys
from . import toy_chapter
from .studies import Job, Study, Variant, run_studies
from .superposition_measures import measure_all, measure_numbers
from .toy_chapter import ToyResult, ToySettings


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
    more: ToySettings
    """Studies that all toys have: single departures, other seeds, nearby settings."""


def _scaled(settings: SuperpositionSettings, n_features: int) -> dict[str, Variant]:
    """Returns the variants with one subnetwork per feature, and one that keeps as much per active feature as at 5-2.

    At a fixed k more coefficients are kept for each active feature the more features there are, which lowers the
    error by itself; `matched` scales k with the share of active features to leave that out. It is run at the second
    size only, which in the paper preset has as many features per dimension as the first.
    """
    variants = {
        name: variant._replace(config=replace(variant.config, n_v=n_features))
        for name, variant in settings.variants.items()
    }
    if n_features != settings.sizes[1][0]:
        return variants
    text = variants["text"]
    k = text.config.k_fraction * toys.active_share(n_features) / toys.active_share(5)
    return {**variants, "matched": text._replace(config=replace(text.config, k_fraction=k))}


class SuperpositionResult(NamedTuple):
    """Everything the chapter shows; `stacks` holds every study under the name it has on disk."""

    settings: SuperpositionSettings
    stacks: dict[str, Study]
    main: Study
    tuning: Study
    switches: Study
    references: Study
    sizes: dict[str, Study]
    more: ToyResult


def jobs(settings: SuperpositionSettings) -> dict[str, Job]:
    """Returns the stacks to run by name, longest first, each combination of settings and target once.

    What `main` has is not run again.
    """

    def job(variants: dict[str, Variant], seeds: Sequence[int], size: tuple[int, int] = (5, 2)) -> Job:
        return Job(
            toy="superposition", size=size, seeds=tuple(seeds), variants=variants, epochs=settings.epochs,
            measure=measure_numbers,
        )  # fmt: skip

    found: dict[str, Job] = {}
    for size in sorted(settings.sizes[1:], reverse=True):
        found[f"size-{size[0]}-{size[1]}"] = job(_scaled(settings, size[0]), settings.size_seeds, size)
    kinds = {
        f"{name} {kind}": variant._replace(config=replace(variant.config, reference=kind))
        for name, variant in settings.variants.items()
        for kind in ("mean", "uniform")
    }
    found["tuning"] = job(settings.candidates, settings.tuning_seeds)
    found["references"] = job(kinds, settings.seeds)
    found["switches"] = job(settings.switches, settings.seeds)
    everything = partial(measure_all, n_samples=settings.n_samples, length=settings.matched_length)
    found["main"] = replace(job(settings.variants, settings.seeds), measure=everything)
    return found | {f"more-{name}": one for name, one in toy_chapter.jobs(settings.more).items()}


def _sizes(settings: SuperpositionSettings, done: dict[str, Study]) -> dict[str, Study]:
    """Returns the variants at every size; at the first, `matched` is `text` itself."""
    first, *larger = settings.sizes
    own, main = {name: name for name in settings.variants}, done["main"]
    same = main.part(own, settings.size_seeds).beside(main.part({"text": "matched"}, settings.size_seeds))
    sizes = {f"{first[0]}-{first[1]}": same}
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
        ValueError: See `studies.study`.
    """
    options = {"folder": folder, "device": device, "workers": workers, "progress": progress}
    done = run_studies("superposition", jobs(settings), **options)
    main = done["main"]
    more = {name.removeprefix("more-"): study for name, study in done.items() if name.startswith("more-")}
    sampled = main.part({name: f"{name} sample" for name in settings.variants})
    return SuperpositionResult(
        settings=settings,
        stacks=done,
        main=main,
        tuning=done["tuning"],
        switches=main.part({"text": "text", "code": "code"}).beside(done["switches"]),
        references=sampled.beside(done["references"]),
        sizes=_sizes(settings, done),
        more=ToyResult(settings.more, more["main"], more),
    )
