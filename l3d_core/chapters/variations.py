"""The studies beside a chapter's own: candidates, single departures, other seeds, nearby settings, sweeps, limits."""

from __future__ import annotations

from dataclasses import replace

from ..l3d import L3DConfig
from .studies import Variant
from .toy_chapter import Extra, ToySettings


def candidates(base: L3DConfig, n_v: tuple[int, ...], k: tuple[float, ...]) -> dict[str, Variant]:
    """Returns what the `tuned` variant of a toy is chosen from."""
    return {
        f"{divergence}, n_v {n}, k {fraction:g}": Variant(replace(base, n_v=n, k_fraction=fraction), divergence)
        for divergence in ("mse", "half_reference_mse")
        for n in n_v
        for fraction in k
    }


def switches(text: Variant, code: Variant) -> dict[str, Variant]:
    """Returns single departures: from `text`, each switched to what `code` has, and the other way round.

    The encoder's start is a copy of the decoder in both; the literal "every 100 steps" is in neither.
    """
    settings = {
        "squared loss": ("loss",), "sum of norms": ("v_out_norm",), "one more kept": ("k_extra",),
        "Adam": ("weight_decay",), "dense start": ("dense_epochs",),
    }  # fmt: skip
    found = {}
    for name, own, other in (("text", text, code), ("code", code, text)):
        found[f"{name}: divergence"] = own._replace(divergence=other.divergence)
        for switch, fields in settings.items():
            changes = {field: getattr(other.config, field) for field in fields}
            found[f"{name}: {switch}"] = own._replace(config=replace(own.config, **changes))
        found[f"{name}: random encoder"] = own._replace(config=replace(own.config, encoder_init="random"))
        steps = replace(own.config, lr_decay_every_epochs=None, lr_decay_every_steps=100)
        found[f"{name}: decay per 100 steps"] = own._replace(config=steps)
        found[f"{name}: points"] = own._replace(n_inputs=None if own.n_inputs else 250)
    return found


def again(variants: dict[str, Variant], times: int = 3) -> dict[str, Variant]:
    """Returns variants decomposed again with other seeds: '<variant> 1' and so on."""
    return {
        f"{name} {i}": variant._replace(seed_offset=100 * i)
        for name, variant in variants.items()
        for i in range(1, times + 1)
    }


def nearby(variant: Variant, ranks: tuple[int, ...]) -> dict[str, Variant]:
    """Returns a variant with n_v, k and rank a little off."""
    config, found = variant.config, {}
    for n_v in (config.n_v - 2, config.n_v + 2):
        found[f"n_v {n_v}"] = variant._replace(config=replace(config, n_v=n_v))
    for k in (config.k_fraction * 0.75, config.k_fraction * 1.25):
        found[f"k {k:.3g}"] = variant._replace(config=replace(config, k_fraction=k))
    for rank in ranks:
        found[f"rank {rank}"] = variant._replace(config=replace(config, rank=rank))
    return found


def revived(variants: dict[str, Variant]) -> dict[str, Variant]:
    """Returns variants with an auxiliary loss for dead subnetworks, of the weight of Gao et al. (2024) and of 1."""
    return {
        f"{name}, revival {label}": variant._replace(config=replace(variant.config, revival=weight))
        for name, variant in variants.items()
        for label, weight in (("1/32", 1 / 32), ("1", 1.0))
    }


def limits(variants: dict[str, Variant], seeds: tuple[int, ...]) -> dict[str, Extra]:
    """Returns studies of what may hold variants back: too few epochs, too low a rank."""
    full = {name: v._replace(config=replace(v.config, rank=1.0)) for name, v in variants.items()}
    return {"longer": Extra(variants, seeds, times=4), "full_rank": Extra(full, seeds)}


def swept(variants: dict[str, Variant], **values: tuple) -> dict[str, Variant]:
    """Returns variants with one setting swept: '<variant>, <setting> <value>'."""
    ((setting, over),) = values.items()
    return {
        f"{name}, {setting} {value}": variant._replace(config=replace(variant.config, **{setting: value}))
        for name, variant in variants.items()
        for value in over
    }


def quick(settings: ToySettings, seeds: tuple[int, ...]) -> ToySettings:
    """Returns the quick preset of a toy chapter: ten epochs, a few targets, one for what stands beside the main study.

    Args:
        settings: Those of the paper preset.
        seeds: Targets of the main study; the others take the first of them, or else as many of their own.
    """

    def fewer(extra: Extra) -> tuple[int, ...]:
        if not set(seeds) <= set(extra.seeds):
            return extra.seeds[: len(seeds)]
        # Where the toy is another one, its first target may not be kept.
        return seeds if extra.everything or extra.toy else seeds[:1]

    extras = {name: extra._replace(seeds=fewer(extra)) for name, extra in settings.extras.items()}
    return replace(settings, seeds=seeds, extras=extras, epochs=10)
