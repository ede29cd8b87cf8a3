"""Settings of the chapter on APD: its paper's own targets, with the numbers of App. D and those its code ran with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .apd_shipped import MLP, MLP_2, TMS, TMS_LARGE
from .apd_targets import TargetTraining
from .baselines.apd import APDConfig
from .chapters.apd_chapter import APDSettings
from .chapters.apd_runs import APDRun

APD_TMS = APDConfig(
    n_components=5, n_terms=3, steps=20_000, top_k=0.211, simplicity=0.7, p=1.0, lr=0.03, schedule="constant",
    warmup=0.05, init_runs=12, attributions="components",
)  # fmt: skip
APD_TMS_LARGE = APDConfig(
    n_components=50, n_terms=11, steps=20_000, top_k=1.0, minimality=10.0, simplicity=20.0, warmup=0.05, init_runs=3
)
# The best of the candidates of chapter 9, on another target.
APD_TMS_LARGE_TUNED = replace(APD_TMS_LARGE, simplicity=25.0, p=1.0, lr=0.01)
# What the files of the authors' code had instead.
APD_TMS_LARGE_CODE = replace(APD_TMS_LARGE, n_components=40, top_k=2.0, simplicity=15.0)
# The paper's text has batches of 2048 and 40,000 steps for one layer; the files of its code 256 and 10,000, as here.
# These allow 50 rank-one terms a component for one layer and 25 for two; here a fifth, which take a third of the time.
APD_MLP = APDConfig(
    n_components=130, n_terms=10, steps=10_000, batch_size=256, top_k=1.28, simplicity=10.0, hidden=1.0,
    unit_norm=True, init_scale=2.0,
)  # fmt: skip
APD_MLP_2 = replace(APD_MLP, n_components=200, n_terms=5, minimality=2.0, simplicity=7.0, unit_norm=False)
# App. D.3 has 200,000 steps and batches of 10,000; a tenth and a fifth of that here.
APD_GATED = APDConfig(
    n_components=4, n_terms=6, steps=20_000, batch_size=2000, top_k=0.2217, faithfulness=0.1, minimality=5.0,
    simplicity=5.0, p=1.0, lr=3e-3, warmup=0.004, init="kaiming",
)  # fmt: skip


def _apart(target: TargetTraining, config: APDConfig, seeds: Iterable[int]) -> tuple[APDRun, ...]:
    """Returns a run for each seed, which can be made at the same time."""
    return tuple(APDRun(target=target, config=config, seeds=(seed,)) for seed in seeds)


_TWELVE = tuple(range(12))
_PAPER = APDSettings(
    runs={
        "tms-5-2": (APDRun(target=TMS, config=APD_TMS, seeds=_TWELVE),),
        "tms-5-2-target": (APDRun(target=TMS, config=replace(APD_TMS, attributions="target"), seeds=_TWELVE),),
        "tms-40-10": _apart(TMS_LARGE, APD_TMS_LARGE, range(5)),
        "tms-40-10-tuned": _apart(TMS_LARGE, APD_TMS_LARGE_TUNED, range(5)),
        "tms-40-10-code": _apart(TMS_LARGE, APD_TMS_LARGE_CODE, range(1)),
        "mlp-1": _apart(MLP, APD_MLP, range(3)),
        "mlp-2": _apart(MLP_2, APD_MLP_2, range(3)),
        "mlp-1-top-1": _apart(MLP, replace(APD_MLP, top_k=1.0), range(1)),
        "mlp-2-top-1": _apart(MLP_2, replace(APD_MLP_2, top_k=1.0), range(1)),
        "gated": (APDRun(target=None, config=APD_GATED, seeds=tuple(range(8))),),
    }
)


def _short(run: APDRun) -> APDRun:
    """Returns a run of the quick preset: the shipped targets where they are small, few steps and seeds."""
    config, target = replace(run.config, steps=20), run.target
    if target is not None and target.kind == "residual":
        target = replace(target, steps=100, n_features=20, n_hidden=10, n_resid=100)
        config = replace(config, n_components=26)
    return APDRun(target=target, config=config, seeds=run.seeds[:2])


SETTINGS = {
    "07_apd": {
        "paper": _PAPER,
        "quick": APDSettings(runs={name: tuple(map(_short, parts[:2])) for name, parts in _PAPER.runs.items()}),
    }
}
