"""Chapter 8: a model of one's own, trained and decomposed as a reader would; here what is computed over models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..l3d import L3DConfig
from ..runs import Run
from ..training import L3D
from .own_model_measures import measure_all
from .own_model_task import LENGTH, LETTERS, PARAMETERS, RuleTraining, Task, make_task
from .studies import Study, Variant, run_studies


@dataclass(frozen=True, kw_only=True)
class OwnModelSettings:
    """What the chapter computes."""

    variants: dict[str, Variant]
    """By name: 'plain', 'revived', 'larger', and 'again', which is `revived` with another seed."""
    seeds: tuple[int, ...]
    """Models; also the seeds of their decompositions."""
    epochs: int
    """Of every decomposition."""
    length: float = 0.5
    """Euclidean length of an intervention's step."""
    n_inputs: int = 1024
    """Sequences to decompose on."""
    n_held_out: int = 2048
    """Sequences to judge by."""
    training: RuleTraining = RuleTraining()
    """Of the models."""


@dataclass(frozen=True, kw_only=True)
class OwnJob:
    """Every variant on every model: a job for `studies.study`, whose targets are trained here and not shipped."""

    settings: OwnModelSettings
    variants: dict[str, Variant]
    """Those of the settings, or some."""
    epochs: int
    """Of every decomposition."""
    measure: Callable[[L3D, Task], dict[str, Tensor]]
    """What is kept of each."""

    @property
    def toy(self) -> str:
        """What tells its results on disk from others': the model, and what of it is decomposed."""
        return f"own_model {', '.join(PARAMETERS)}"

    @property
    def size(self) -> tuple[int, int]:
        """Letters to choose from, and letters in a sequence."""
        return len(LETTERS), LENGTH

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the models."""
        return self.settings.seeds

    def tasks(self) -> list[Task]:
        """Returns the trained models."""
        own = self.settings
        return [make_task(seed, own.n_inputs, own.n_held_out, own.training) for seed in own.seeds]

    def runs(self, device: str = "cpu") -> list[Run]:
        """Returns the runs, variant by variant and model by model."""
        tasks = [task._replace(model=task.model.to(device), inputs=task.inputs.to(device)) for task in self.tasks()]
        return [
            Run(task.model, task.inputs, replace(variant.config, epochs=self.epochs), variant.divergence,
                task.seed + variant.seed_offset, PARAMETERS)
            for variant in self.variants.values() for task in tasks
        ]  # fmt: skip


class OwnModelResult(NamedTuple):
    """What the chapter shows over models.

    Attributes:
        settings: The chapter's.
        main: All variants.
        start: The directions that `revived` starts from, before any step.
    """

    settings: OwnModelSettings
    main: Study
    start: Study

    @property
    def studies(self) -> dict[str, Study]:
        """Both studies by the names of their jobs."""
        return {"main": self.main, "start": self.start}


def changed(settings: OwnModelSettings, seeds: Sequence[int] | None, epochs: int | None) -> OwnModelSettings:
    """Returns settings with other models or epochs; what is None stays as it is."""
    given = {"seeds": None if seeds is None else tuple(sorted(seeds)), "epochs": epochs}
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def jobs(settings: OwnModelSettings) -> dict[str, OwnJob]:
    """Returns the stacks to run by name, the longest first."""
    measure = partial(measure_all, length=settings.length)
    main = OwnJob(settings=settings, variants=settings.variants, epochs=settings.epochs, measure=measure)
    untrained = partial(measure_all, length=settings.length, untrained=True)
    start = replace(main, variants={"start": settings.variants["revived"]}, epochs=1, measure=untrained)
    return {"main": main, "start": start}


def run(
    settings: OwnModelSettings, *, folder: str | Path | None = None, device: str = "cpu", progress: bool = False
) -> OwnModelResult:
    """Returns the chapter's results over models, each study from disk where it is done.

    Args:
        settings: See `experiments.settings`.
        folder: Where results live; None for `artifacts/` of the project.
        device: 'cpu' or 'cuda'.
        progress: Show bars on standard error.

    Raises:
        ValueError: See `studies.study`.
    """
    # One process, in which each model is trained once; a second one would train all of them again.
    done = run_studies("own_model", jobs(settings), folder=folder, device=device, workers=1, progress=progress)
    return OwnModelResult(settings, done["main"], done["start"])


# More subnetworks than there are pairs of a rule and an answer, and about three coefficients for each sample; the rest
# is what `tuned` has on the toys, over fewer epochs, since the error is level after some tens of them.
PLAIN = L3DConfig(
    n_v=32, rank=1, k_fraction=0.1, epochs=100, batch_size=64, loss="recon_sq", weight_decay=0.0,
    lr_decay_every_epochs=25,
)  # fmt: skip
_REVIVED = replace(PLAIN, revival=1 / 32)
VARIANTS = {
    "plain": Variant(PLAIN, "kl"),
    "revived": Variant(_REVIVED, "kl"),
    "larger": Variant(replace(_REVIVED, n_v=64, k_fraction=0.05), "kl"),
    "again": Variant(_REVIVED, "kl", seed_offset=1000),
}
PAPER = OwnModelSettings(variants=VARIANTS, seeds=tuple(range(8)), epochs=100)
SETTINGS = {"paper": PAPER, "quick": replace(PAPER, seeds=(0, 1), epochs=10, n_held_out=1024)}
