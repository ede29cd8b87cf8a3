"""Settings of chapter 9: how L3D and APD take apart the same targets, and what those settings were chosen from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from .apd_experiments import APD_MLP, APD_MLP_2, APD_TMS, APD_TMS_LARGE, APD_TMS_LARGE_TUNED
from .apd_shipped import MLP, MLP_2, TMS, TMS_LARGE
from .apd_targets import TargetTraining
from .baselines.apd import APDConfig
from .chapters.apd_runs import APDRun
from .chapters.comparison import AGAIN
from .chapters.comparison_settings import Compared, ComparisonSettings, shortened
from .chapters.comparison_tuning import Candidate
from .chapters.studies import Variant
from .l3d import L3DConfig
from .toy_experiments import HIGH_RANK_VARIANTS, SQUARED_VARIANTS, SUPERPOSITION_VARIANTS, TMCS_VARIANTS
from .toy_training import ToyTraining

# Targets that settings were chosen on, and those that are reported. What takes long was tried on the first alone.
TUNING, EIGHT, FIVE, THREE = (1000, 1001), tuple(range(8)), tuple(range(5)), tuple(range(3))
TOYS = {
    "tmcs": ToyTraining(toy="circuit_superposition", n_features=10, n_hidden=5),
    "high_rank": ToyTraining(toy="high_rank", n_features=30, n_hidden=10),
    "squared": ToyTraining(toy="squared", n_hidden=10),
}
# The first eight of seeds 0 to 15 whose targets do what they are for.
KEPT = {"tmcs": (0, 1, 3, 4, 6, 7, 8, 9), "high_rank": EIGHT, "squared": EIGHT}


def _large(n_inputs: int, k: float) -> tuple[Variant, int]:
    """Returns settings of L3D for 40 features, k coefficients kept per sample of 2.3 active features, as many steps."""
    config = L3DConfig(
        n_v=50, k_fraction=k / 50, epochs=600_000 // n_inputs, lr_decay_every_epochs=max(60_000 // n_inputs, 1),
        loss="recon_sq", weight_decay=0.0,
    )  # fmt: skip
    return Variant(config, "half_reference_mse"), n_inputs


def _mlp(k: float, revival: float) -> tuple[Variant, int]:
    """Returns settings of L3D for residual MLPs, k coefficients kept per sample of 1.6 active features."""
    config = L3DConfig(
        n_v=130, k_fraction=k / 130, epochs=20, lr_decay_every_epochs=2, loss="recon_sq", weight_decay=0.0,
        revival=revival,
    )  # fmt: skip
    return Variant(config, "mse"), 10_000


def _five(k: float, divergence: str) -> tuple[Variant, int]:
    """Returns `tuned` of chapter 1, whose networks are untied, with a share of coefficients kept and a divergence."""
    tuned = SUPERPOSITION_VARIANTS["tuned"]
    return tuned._replace(config=replace(tuned.config, k_fraction=k), divergence=divergence), 1000


_MLPS = {
    f"{k} kept" + (", revival" if revival else ""): _mlp(k, revival)
    for k in (1.6, 3.2, 4.8, 6.4)
    for revival in (0.0, 1 / 32)
}
# L3D on targets of the APD paper, which no other chapter decomposes.
L3D_TRIED: dict[str, dict[str, tuple[Variant, int]]] = {
    "tms_5-2": {f"{d}, k {k}": _five(k, d) for d in ("mse", "half_reference_mse") for k in (0.1, 0.15, 0.2, 0.25)},
    "tms_40-10": {f"{n} inputs, {k} kept": _large(n, k) for n in (1000, 4000, 16_000, 64_000) for k in (2.3, 3.5, 5.0)},
    "mlp_1": _MLPS, "mlp_2": _MLPS,
}  # fmt: skip
L3D_CHOSEN = {
    "tms_5-2": "mse, k 0.15", "tms_40-10": "16000 inputs, 2.3 kept", "mlp_1": "6.4 kept",
    "mlp_2": "6.4 kept, revival",
}  # fmt: skip
# The other toys as their chapters have them, `tuned`, with the chapters' 1000 inputs.
L3D_TUNED = {
    "tmcs": TMCS_VARIANTS["tuned"], "high_rank": HIGH_RANK_VARIANTS["tuned"], "squared": SQUARED_VARIANTS["tuned"]
}  # fmt: skip

# Whose candidates of each method are tried on one target.
ON_ONE = (("mlp_1", "L3D"), ("mlp_2", "L3D"), ("tms_40-10", "APD"))


class Knobs(NamedTuple):
    """What of APD was tried: what moves the result."""

    simplicity: float
    top_k: float
    lr: float = 1e-3
    p: float = 0.9

    def __str__(self) -> str:
        return f"simplicity {self.simplicity:g}, top-k {self.top_k:g}, lr {self.lr:g}, p {self.p:g}"


# APD on the toys of L3D, with as many components as L3D has subnetworks, and on 40 features with its paper's others.
_APD = {
    "tms_40-10": replace(APD_TMS_LARGE, steps=5000),
    "tmcs": APDConfig(n_components=12, n_terms=5, steps=5000, batch_size=1024, warmup=0.05),
    "high_rank": APDConfig(n_components=10, n_terms=10, steps=5000, batch_size=1024, warmup=0.05),
    "squared": APDConfig(n_components=10, n_terms=5, steps=5000, batch_size=1024, warmup=0.05),
}


def _around(one: Knobs, low: float, high: float) -> tuple[Knobs, ...]:
    """Returns a candidate with others that differ in one thing or two, two simplicities among them."""
    others = {"lr": (3e-3, 1e-2, 3e-2, 1e-1), "simplicity": (low, high), "top_k": (2.0, 3.0), "p": (1.0,)}
    changes = [{name: value} for name, values in others.items() for value in values] + [{"lr": 3e-3, "p": 1.0}]
    return one, *(one._replace(**change) for change in changes)


APD_TRIED = {
    "tms_40-10": (
        Knobs(20.0, 1.0), Knobs(20.0, 1.0, lr=3e-3), Knobs(20.0, 1.0, lr=1e-2), Knobs(25.0, 1.0, p=1.0),
        Knobs(25.0, 1.0, lr=3e-3, p=1.0), Knobs(25.0, 1.0, lr=1e-2, p=1.0), Knobs(40.0, 1.0, lr=1e-2, p=1.0),
        Knobs(20.0, 1.4, lr=1e-2),
    ),
    "tmcs": _around(Knobs(30.0, 1.3), 10.0, 50.0), "high_rank": _around(Knobs(30.0, 1.4), 10.0, 60.0),
    "squared": _around(Knobs(1.0, 1.4), 0.3, 3.0),
}  # fmt: skip
APD_CHOSEN = {
    "tms_40-10": Knobs(25.0, 1.0, lr=1e-2, p=1.0), "tmcs": Knobs(30.0, 1.3, lr=3e-2), "high_rank": Knobs(30.0, 2.0),
    "squared": Knobs(1.0, 1.4, lr=3e-3, p=1.0),
}  # fmt: skip


def _apd(target: str, knobs: Knobs) -> APDConfig:
    """Returns settings of APD with those tried."""
    return replace(_APD[target], **knobs._asdict())


def _candidates() -> dict[str, Candidate]:
    """Returns all candidates by a name for the disk."""
    found = {}
    for target, tried in L3D_TRIED.items():
        seeds = TUNING[:1] if (target, "L3D") in ON_ONE else TUNING
        for i, (label, (variant, n_inputs)) in enumerate(tried.items()):
            one = Candidate(target=target, method="L3D", label=label, seeds=seeds, l3d=variant, n_inputs=n_inputs)
            found[f"{target}-l3d-{i}"] = one
    for target, values in APD_TRIED.items():
        seeds = TUNING[:1] if (target, "APD") in ON_ONE else TUNING
        for knobs in values:
            run = APDRun(target=TOYS.get(target, TMS_LARGE), config=_apd(target, knobs), seeds=seeds)
            one = Candidate(target=target, method="APD", label=str(knobs), seeds=seeds, apd=run)
            found["-".join([target, "apd", *(f"{number:g}" for number in knobs)])] = one
    return found


def chosen_labels() -> dict[tuple[str, str], str]:
    """Returns the labels of the candidates that the paper preset has, by target and method."""
    apd = {(target, "APD"): str(knobs) for target, knobs in APD_CHOSEN.items()}
    return {(target, "L3D"): label for target, label in L3D_CHOSEN.items()} | apd


def _on_apd(
    name: str, stored: str, target: TargetTraining, config: APDConfig, seeds: tuple[int, ...],
    stacks: Iterable[tuple[int, ...]], again: Iterable[tuple[int, ...]],
) -> Compared:  # fmt: skip
    """Returns how targets of the APD paper are taken apart; what is not decomposed anew has no `again`."""
    variant, n = L3D_TRIED[name][L3D_CHOSEN[name]]
    return Compared(
        seeds=seeds, l3d=variant, n_inputs=n, stored=stored,
        apd=tuple(APDRun(target=target, config=config, seeds=own) for own in stacks),
        apd_again=tuple(APDRun(target=target, config=config, seeds=own, again=AGAIN) for own in again),
    )  # fmt: skip


def _on_toy(name: str) -> Compared:
    """Returns how a toy of L3D is taken apart."""
    config = _apd(name, APD_CHOSEN[name])
    runs = [APDRun(target=TOYS[name], config=config, seeds=KEPT[name], again=again) for again in (0, AGAIN)]
    return Compared(
        seeds=KEPT[name], l3d=L3D_TUNED[name], n_inputs=1000, stored=name, apd=(runs[0],), apd_again=(runs[1],)
    )


_TWELVE, _FIVE, _THREE = (tuple(range(12)),), [(seed,) for seed in FIVE], [(seed,) for seed in THREE]
_PAPER = ComparisonSettings(
    targets={
        "tms_5-2": _on_apd("tms_5-2", "tms-5-2", TMS, APD_TMS, EIGHT, _TWELVE, _TWELVE),
        "tms_40-10": _on_apd("tms_40-10", "tms-40-10-tuned", TMS_LARGE, APD_TMS_LARGE_TUNED, FIVE, _FIVE, _FIVE[:2]),
        "tmcs": _on_toy("tmcs"),
        "high_rank": _on_toy("high_rank"),
        "squared": _on_toy("squared"),
        "mlp_1": _on_apd("mlp_1", "mlp-1", MLP, APD_MLP, THREE, _THREE, []),
        "mlp_2": _on_apd("mlp_2", "mlp-2", MLP_2, APD_MLP_2, THREE, _THREE, []),
    },
    candidates=_candidates(),
)


def _quick(name: str, own: Compared) -> Compared:
    """Returns a target's quick preset, a residual MLP with few components."""
    found = shortened(own, steps=10, epochs=2, n_seeds=2, n_inputs=64)
    if not name.startswith("mlp"):
        return found

    def narrow(runs: tuple[APDRun, ...]) -> tuple[APDRun, ...]:
        return tuple(replace(run, config=replace(run.config, n_components=20, n_terms=2)) for run in runs)

    l3d = found.l3d._replace(config=replace(found.l3d.config, n_v=20))
    return replace(found, l3d=l3d, apd=narrow(found.apd), apd_again=narrow(found.apd_again))


def _tried_shortly() -> dict[str, Candidate]:
    """Returns candidates of the quick preset: the first two of APD on shipped targets, with few steps."""
    found = {}
    for target in TOYS:
        for name, one in [(n, c) for n, c in _PAPER.candidates.items() if c.target == target][:2]:
            run = replace(one.apd, config=replace(one.apd.config, steps=10, batch_size=256), seeds=TUNING[:1])
            found[name] = replace(one, apd=run, seeds=TUNING[:1])
    return found


SETTINGS = {
    "09_comparison": {
        "paper": _PAPER,
        "quick": ComparisonSettings(
            targets={name: _quick(name, own) for name, own in _PAPER.targets.items()}, candidates=_tried_shortly(),
            n_held_out=100, cost_steps=5, apart=False,
        ),
    }
}  # fmt: skip
