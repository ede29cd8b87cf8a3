"""Chapters 2 to 4: one toy each, its variants, and studies of other settings on the same targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .studies import Job, Study, Variant, run_studies
from .toy_measures import measure_all, measure_directions, measure_numbers

# Studies whose variants differ from those of the main one in one respect.
BESIDE_MAIN = ("switches", "again", "nearby", "revival", "longer", "full_rank")


class Extra(NamedTuple):
    """A study beside the main one.

    Attributes:
        variants: By name.
        seeds: Targets.
        directions: Whether the directions themselves are kept.
        toy: Another toy than the chapter's.
        size: Another size.
        everything: Whether all is measured that the main study measures.
        times: Epochs, in multiples of the chapter's.
    """

    variants: dict[str, Variant]
    seeds: tuple[int, ...]
    directions: bool = False
    toy: str | None = None
    size: tuple[int, int] | None = None
    everything: bool = False
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """What a toy chapter computes."""

    toy: str
    """See `toys.ToyTraining`."""
    size: tuple[int, int]
    """Features and hidden dimensions."""
    variants: dict[str, Variant]
    """The variants `text`, `code` and `tuned`."""
    seeds: tuple[int, ...]
    """Targets reported on; also the seeds of their decompositions."""
    extras: dict[str, Extra] = field(default_factory=dict)
    """Other studies by name."""
    epochs: int = 1000
    """Epochs of every decomposition (App. B.3: 1000)."""
    length: float = 1.0
    """Euclidean length of an intervention's step of size 1: that of the paper's."""


class ToyResult(NamedTuple):
    """Everything a toy chapter shows; `studies` holds what `main` is made of too."""

    settings: ToySettings
    main: Study
    studies: dict[str, Study]


def changed(settings: ToySettings, **changes: Any) -> ToySettings:  # noqa: ANN401
    """Returns settings with the main study changed, as a point of a sweep; studies that refer to it are left out.

    Args:
        settings: The chapter's.
        changes: 'seeds' for the targets, 'epochs' for all studies, and fields of `L3DConfig` such as 'rank', 'n_v' or
            'k_fraction' for every variant of the main study; those that are None stay as they are.

    Raises:
        ValueError: A value that L3DConfig refuses.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        return settings
    whole = {name: given.pop(name) for name in ("seeds", "epochs") if name in given}
    if "seeds" in whole:
        whole["seeds"] = tuple(sorted(whole["seeds"]))

    def with_changes(variants: dict[str, Variant]) -> dict[str, Variant]:
        return {name: v._replace(config=replace(v.config, **given)) for name, v in variants.items()}

    extras = {name: extra for name, extra in settings.extras.items() if name not in BESIDE_MAIN}
    if "code" in extras:  # A part of the main study that has a target of its own.
        code = extras["code"]
        seeds = whole.get("seeds", code.seeds)
        extras["code"] = code._replace(variants=with_changes(code.variants), seeds=seeds)
    return replace(settings, variants=with_changes(settings.variants), extras=extras, **whole)


def jobs(settings: ToySettings, measure: Callable = measure_all) -> dict[str, Job]:
    """Returns the stacks to run by name, those with most runs first.

    Args:
        settings: The chapter's.
        measure: What is kept of the main study; takes the step's length by name.
    """
    main = Job(
        toy=settings.toy, size=settings.size, seeds=settings.seeds, variants=settings.variants, epochs=settings.epochs,
        measure=partial(measure, length=settings.length),
    )  # fmt: skip
    found = {"main": main}
    for name, extra in settings.extras.items():
        found[name] = replace(
            main, variants=extra.variants, seeds=extra.seeds, toy=extra.toy or settings.toy,
            size=extra.size or settings.size, epochs=extra.times * settings.epochs,
            measure=main.measure if extra.everything else measure_directions if extra.directions else measure_numbers,
        )  # fmt: skip
    order = sorted(found, key=lambda name: -len(found[name].variants) * len(found[name].seeds))
    return {name: found[name] for name in order}


def run(
    settings: ToySettings,
    *,
    folder: str | Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: bool = False,
    measure: Callable = measure_all,
) -> ToyResult:
    """Returns a chapter's results, each study from disk where it is done.

    Args:
        settings: See `experiments.settings`.
        folder: Where results live; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        workers: Studies run side by side; None for one per core on the CPU, and one on a GPU.
        progress: Show bars on standard error.
        measure: See `jobs`.

    Raises:
        ValueError: See `studies.study`.
    """
    options = {"folder": folder, "device": device, "workers": workers, "progress": progress}
    done = run_studies(settings.toy, jobs(settings, measure), **options)
    main = done["main"].beside(done["code"]) if "code" in done else done["main"]
    return ToyResult(settings, main, done)
