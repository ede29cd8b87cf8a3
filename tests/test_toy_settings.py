"""The settings of chapters 1 to 4: single departures are single, tuning is on targets of its own, quick is small."""

import itertools
from dataclasses import asdict, replace

import pytest

from l3d_core import experiments, toys
from l3d_core.chapters import toy_chapter, variations
from l3d_core.chapters.studies import Variant
from l3d_core.chapters.toy_chapter import Extra, ToySettings
from l3d_core.l3d import L3DConfig
from l3d_core.toy_experiments import TOY_TUNED, _toy

CHAPTERS = ("02_circuit_superposition", "03_high_rank", "04_squared")
# Two names of one setting.
DECAY = {"lr_decay_every_epochs", "lr_decay_every_steps"}
REPORTED, TUNING = set(range(16)), set(range(1000, 1016))


def differences(a, b):
    """Returns in what respects two variants differ."""
    fields = {name for name, value in asdict(a.config).items() if value != asdict(b.config)[name]}
    fields = (fields - DECAY) | ({"lr_decay"} if fields & DECAY else set())
    return fields | {name for name in ("divergence", "n_inputs", "seed_offset") if getattr(a, name) != getattr(b, name)}


def chapter(name, preset="paper"):
    """Returns settings of a toy chapter, `code` among the variants."""
    settings = experiments.settings(name, preset)
    settings = settings.more if name == "01_superposition" else settings
    code = settings.extras["code"].variants if "code" in settings.extras else {}
    return settings, {**settings.variants, **code}


@pytest.fixture(params=list(itertools.product(("01_superposition", *CHAPTERS), experiments.PRESETS)), ids="-".join)
def any_chapter(request):
    return chapter(*request.param)


# --- departures -------------------------------------------------------------------------------------------------

RESPECTS = {
    "divergence": "divergence", "squared loss": "loss", "sum of norms": "v_out_norm", "one more kept": "k_extra",
    "Adam": "weight_decay", "dense start": "dense_epochs", "random encoder": "encoder_init",
    "decay per 100 steps": "lr_decay", "points": "n_inputs",
}  # fmt: skip


def test_every_departure_differs_from_its_base_in_the_one_respect_it_names(any_chapter):
    settings, variants = any_chapter
    switches = settings.extras["switches"].variants
    assert list(switches) == [f"{base}: {respect}" for base in ("text", "code") for respect in RESPECTS]
    for name, variant in switches.items():
        base, respect = name.split(": ")
        assert differences(variant, variants[base]) == {RESPECTS[respect]}, name
    # No departure is there twice, and none is the other base.
    every = [*switches.values(), variants["text"], variants["code"]]
    assert all(differences(a, b) for a, b in itertools.combinations(every, 2))


def test_departures_take_the_setting_of_the_other_base(any_chapter):
    settings, variants = any_chapter
    for name, variant in settings.extras["switches"].variants.items():
        base, respect = name.split(": ")
        other = variants["code" if base == "text" else "text"]
        if respect == "points":  # As many as the other has, or 250 where both have all.
            assert {variant.n_inputs, variants[base].n_inputs} == {None, 250}
        elif respect == "divergence":
            assert variant.divergence == other.divergence
        elif respect == "random encoder":
            assert (variant.config.encoder_init, variants[base].config.encoder_init) == ("random", "copy")
        elif respect == "decay per 100 steps":
            assert (variant.config.lr_decay_every_steps, variant.config.lr_decay_every_epochs) == (100, None)
        else:
            assert getattr(variant.config, RESPECTS[respect]) == getattr(other.config, RESPECTS[respect])


def test_what_text_and_code_differ_in_beside_the_departures():
    """The rank, where the code's is another; departures say nothing of it."""
    found = {name: chapter(name)[1] for name in ("01_superposition", *CHAPTERS)}
    left = {name: differences(v["text"], v["code"]) - set(RESPECTS.values()) for name, v in found.items()}
    assert left == {
        "01_superposition": set(), "02_circuit_superposition": set(), "03_high_rank": {"rank"}, "04_squared": {"rank"},
    }  # fmt: skip


def test_departures_by_hand():
    text = Variant(L3DConfig(n_v=3), "mse")
    code = Variant(L3DConfig(n_v=3, k_extra=1, dense_epochs=4, lr_decay_every_epochs=7), "half_reference_mse", 250)
    found = variations.switches(text, code)
    assert found["text: dense start"] == text._replace(config=replace(text.config, dense_epochs=4))
    assert found["code: dense start"] == code._replace(config=replace(code.config, dense_epochs=0))
    assert found["text: divergence"] == text._replace(divergence="half_reference_mse")
    assert (found["text: points"].n_inputs, found["code: points"].n_inputs) == (250, None)
    assert found["code: one more kept"].config.k_extra == 0
    assert found["text: squared loss"] == text  # Where both have the same loss, this is no departure.


@pytest.mark.parametrize("preset", experiments.PRESETS)
@pytest.mark.parametrize("name", CHAPTERS)
def test_departures_and_repetitions_are_on_targets_of_the_main_study(name, preset):
    """So that they can be compared; and `code` is on the same ones where it has a network of its own."""
    settings, _ = chapter(name, preset)
    found = {key: {task.seed for task in job.tasks()} for key, job in toy_chapter.jobs(settings).items()}
    for key in ("switches", "again", "nearby", "gelu"):
        assert found.get(key, set()) <= found["main"]
    assert found.get("gelu", found["switches"]) == found["switches"]
    assert found.get("code", found["main"]) == found["main"]


@pytest.mark.parametrize("changes", [{"n_v": 9}, {"k_fraction": 0.3}, {"rank": 2}, {"epochs": 3}, {"seeds": [4, 3]}])
def test_a_point_of_a_sweep_leaves_out_what_departs_from_the_preset(changes):
    settings = chapter("02_circuit_superposition")[0]
    point = toy_chapter.changed(settings, **changes)
    assert set(settings.extras) - set(point.extras) == set(toy_chapter.BESIDE_MAIN)
    assert point.seeds == ((3, 4) if "seeds" in changes else settings.seeds)
    assert toy_chapter.changed(settings, n_v=None, seeds=None) is settings


# --- repetitions and neighbours ---------------------------------------------------------------------------------


def test_repetitions_differ_in_their_seed_alone(any_chapter):
    settings, variants = any_chapter
    again = settings.extras["again"].variants
    assert list(again) == [f"{name} {i}" for name in ("text", "tuned") for i in (1, 2, 3)]
    for name, variant in again.items():
        assert differences(variant, variants[name.split()[0]]) == {"seed_offset"}
    seeds = [seed + v.seed_offset for v in again.values() for seed in settings.extras["again"].seeds]
    assert not set(seeds) & (REPORTED | TUNING)
    assert len(set(seeds)) == len(seeds) // 2  # The same for both variants, otherwise all different.


def test_neighbours_differ_in_what_they_name(any_chapter):
    settings, variants = any_chapter
    respects = {"n_v": "n_v", "k": "k_fraction", "rank": "rank"}
    nearby = settings.extras["nearby"].variants
    assert len(nearby) >= 5
    for name, variant in nearby.items():
        setting, value = name.split()
        assert differences(variant, variants["tuned"]) == {respects[setting]}
        assert f"{getattr(variant.config, respects[setting]):.3g}" == value


def test_neighbours_and_repetitions_by_hand():
    variant = Variant(L3DConfig(n_v=10, k_fraction=0.1, rank=1), "mse", 250)
    found = variations.nearby(variant, (2, 3))
    assert list(found) == ["n_v 8", "n_v 12", "k 0.075", "k 0.125", "rank 2", "rank 3"]
    assert [v.config.k_fraction for v in found.values()] == pytest.approx([0.1, 0.1, 0.075, 0.125, 0.1, 0.1])
    assert all((v.n_inputs, v.divergence) == (250, "mse") for v in found.values())
    again = variations.again({"a": variant, "b": variant}, 2)
    assert {name: v.seed_offset for name, v in again.items()} == {"a 1": 100, "a 2": 200, "b 1": 100, "b 2": 200}
    swept = variations.swept({"a": variant, "b": variant}, n_v=(3, 5))
    assert {name: v.config.n_v for name, v in swept.items()} == {
        "a, n_v 3": 3,
        "a, n_v 5": 5,
        "b, n_v 3": 3,
        "b, n_v 5": 5,
    }
    with pytest.raises(ValueError, match="too many values"):
        variations.swept({"a": variant}, n_v=(3,), rank=(1,))


def test_sweeps_differ_in_what_they_name():
    for name, key, setting in (
        ("03_high_rank", "ranks", "rank"), ("03_high_rank", "n_v", "n_v"), ("04_squared", "n_v", "n_v"),
        ("04_squared", "n_v-code", "n_v"),
    ):  # fmt: skip
        swept = chapter(name)[0].extras[key].variants
        by_base = {}
        for label, variant in swept.items():
            base, value = label.rsplit(f", {setting} ", 1)
            assert getattr(variant.config, setting) == int(value)
            by_base.setdefault(base, []).append(variant)
        for same in by_base.values():
            assert all(differences(same[0], other) == {setting} for other in same[1:])


# --- tuning -----------------------------------------------------------------------------------------------------


def test_tuning_targets_are_reported_on_nowhere():
    for name, preset in itertools.product(CHAPTERS, experiments.PRESETS):
        settings, _ = chapter(name, preset)
        assert set(settings.extras["tuning"].seeds) <= TUNING
        others = [settings.seeds, *(extra.seeds for key, extra in settings.extras.items() if key != "tuning")]
        assert set().union(*others) <= REPORTED
        for made in toy_chapter.jobs(settings).values():
            tuned_on = set(made.seeds) <= TUNING
            assert tuned_on == (made.variants == settings.extras["tuning"].variants)
    for preset in experiments.PRESETS:
        more, _ = chapter("01_superposition", preset)
        assert "tuning" not in more.extras
        assert set(more.seeds).union(*(extra.seeds for extra in more.extras.values())) <= REPORTED


@pytest.mark.parametrize("name", CHAPTERS)
def test_tuned_is_one_of_the_candidates(name):
    settings, variants = chapter(name)
    candidates = settings.extras["tuning"].variants
    assert sum(variant == variants["tuned"] for variant in candidates.values()) == 1
    assert all(differences(a, b) for a, b in itertools.combinations(candidates.values(), 2))
    for label, variant in candidates.items():
        config = variant.config
        assert label == f"{variant.divergence}, n_v {config.n_v}, k {config.k_fraction:g}"


def test_candidates_by_hand():
    found = variations.candidates(replace(TOY_TUNED, rank=2), (3, 4), (0.1, 0.25))
    assert list(found) == [
        f"{divergence}, n_v {n}, k {k}"
        for divergence in ("mse", "half_reference_mse") for n in (3, 4) for k in ("0.1", "0.25")
    ]  # fmt: skip
    config = found["half_reference_mse, n_v 4, k 0.25"].config
    assert (config.n_v, config.k_fraction, config.rank) == (4, 0.25, 2)
    assert (config.loss, config.weight_decay) == ("recon_sq", 0)


# --- presets ----------------------------------------------------------------------------------------------------


def test_the_presets_of_a_toy():
    config = L3DConfig(n_v=4)
    variants = {"text": Variant(config, "mse"), "code": Variant(config, "kl"), "tuned": Variant(config, "mse", 250)}
    extra = Extra(variants, (3, 4, 5), size=(1, 2))
    found = _toy("circuit_superposition", (10, 5), variants, {"c": variants["text"]}, {"mine": extra}, (2,), 0.5)
    paper, quick = found["paper"], found["quick"]
    assert (paper.variants, paper.seeds, paper.length, paper.epochs) == (variants, tuple(range(16)), 0.5, 1000)
    assert {key: extra.seeds for key, extra in paper.extras.items()} == {
        "tuning": tuple(range(1000, 1008)), "switches": tuple(range(8)), "again": tuple(range(8)),
        "nearby": tuple(range(8)), "revival": tuple(range(16)), "longer": tuple(range(8)),
        "full_rank": tuple(range(8)), "mine": (3, 4, 5),
    }  # fmt: skip
    assert paper.extras["mine"] == extra
    assert [key for key, extra in paper.extras.items() if extra.directions] == ["again", "nearby"]
    assert quick.variants == variants and quick.extras["mine"] == extra._replace(seeds=(3, 4))
    squared = _toy("squared", (5, 10), variants, {}, {}, ())["paper"]
    assert list(squared.variants) == ["text", "tuned"]
    code = squared.extras["code"]
    assert (code.variants, code.toy, code.everything) == ({"code": variants["code"]}, "squared_elu", True)
    assert code.seeds == squared.seeds


def test_the_quick_preset_takes_the_targets_of_the_main_study_where_it_can():
    settings = ToySettings(
        toy="superposition", size=(5, 2), variants={}, seeds=tuple(range(9)),
        extras={
            "all": Extra({}, tuple(range(9))), "odd": Extra({}, (1, 3, 5)), "tuning": Extra({}, (1000, 1001, 1002)),
            "part": Extra({}, tuple(range(9)), everything=True),
        },
    )  # fmt: skip
    quick = variations.quick(settings, (2, 4))
    assert (quick.seeds, quick.epochs) == ((2, 4), 10)
    assert {key: extra.seeds for key, extra in quick.extras.items()} == {
        "all": (2,), "odd": (1, 3), "tuning": (1000, 1001), "part": (2, 4),
    }  # fmt: skip


@pytest.mark.parametrize("name", CHAPTERS)
def test_quick_presets_are_small(name):
    def work(preset):
        """Steps of all runs together."""
        total = 0
        for job in toy_chapter.jobs(chapter(name, preset)[0]).values():
            batches = [-(-(v.n_inputs or 1000) // v.config.batch_size) for v in job.variants.values()]
            total += sum(batches) * len(job.seeds) * job.epochs
        return total

    settings, _ = chapter(name, "quick")
    assert settings.epochs <= 10 and len(settings.seeds) == 2
    assert all(len(extra.seeds) <= 2 for extra in settings.extras.values())
    assert work("quick") < 60_000 and work("quick") < work("paper") / 300
    # Still, every study has a target.
    assert all(job.tasks() for job in toy_chapter.jobs(settings).values())


def test_every_target_of_a_preset_is_shipped():
    for name, preset in itertools.product(CHAPTERS, experiments.PRESETS):
        for job in toy_chapter.jobs(chapter(name, preset)[0]).values():
            assert set(job.seeds) <= set(toys.shipped(job.toy, *job.size).seeds)
