"""What the summaries of chapters 2 to 4 share, on studies made by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from l3d_core import toys
from l3d_core.chapters import circuit_superposition_summary, toy_chapter, toy_measures, toy_summary
from l3d_core.chapters.recovery import covered_with, error, found_all, live, live_share, of_n
from l3d_core.chapters.statistics import settings_digest
from l3d_core.chapters.studies import Study, Variant
from l3d_core.chapters.toy_chapter import Extra, ToyResult, ToySettings
from l3d_core.chapters.toy_summary import (
    agreement_table,
    agreements,
    chosen_candidate,
    common_numbers,
    kept_per_active,
    make_record,
    most_moving,
    settings_table,
    switch_changes,
    switch_table,
    tidy,
)
from l3d_core.l3d import L3DConfig

FACTS = {"version": "1", "core_seconds": 90.0}


def study_of(seeds=(0, 3), n_trained=4, **measures):
    """Returns a study of one variant, `v`, or of several given as dicts of measures by name."""
    named = measures if all(isinstance(m, dict) for m in measures.values()) else {"v": measures}
    tensors = {f"{name}/{key}": torch.as_tensor(t) for name, own in named.items() for key, t in own.items()}
    return Study(tensors, list(named), list(seeds), n_trained, FACTS)


def losses(*values):
    """Returns recon_sq of 101 epochs, the first far off, for each target."""
    return torch.tensor([[9.0] + [value] * 100 for value in values]).double()


# --- recovery ---------------------------------------------------------------------------------------------------


def test_live_and_found():
    study = study_of(p_active=[[0.0, 1e-9], [0.5, 0.0]], covered=[[2], [3]])
    assert live(study, "v").tolist() == [[False, True], [True, False]]
    assert found_all(study, "v", 3).tolist() == [False, True]
    assert found_all(study, "v", 2).tolist() == [True, False]


def test_the_share_of_live_subnetworks():
    # (.9 + .5) / 2 without the dead one; .4 alone; none live: 0.
    study = study_of(
        (0, 1, 2), p_active=[[0.1, 0.0, 0.2], [0.0, 0.0, 0.3], [0.0] * 3],
        share_in=[[0.9, 1.0, 0.5], [1, 1, 0.4], [1.0] * 3], share_out=[[0.1, 1.0, 0.3], [0.2] * 3, [1.0] * 3],
    )  # fmt: skip
    assert live_share(study, "v").tolist() == pytest.approx([0.7, 0.4, 0], rel=1e-6)
    assert live_share(study, "v", "share_out").tolist() == pytest.approx([0.2, 0.2, 0], rel=1e-6)


def test_features_covered_with_a_share():
    top = [[0, 1, 1]] * 4
    share = [[0.9, 0.2, 0.8], [0.9, 0.8, 0.2], [0.7, 0.9, 0.9], [0.9, 0.8, 0.8]]
    p_active = [[1.0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]]
    study = study_of((0, 1, 2, 3), top_input=top, share_in=share, p_active=p_active)
    # At .8: one of two subnetworks of input 1 is enough; input 0 falls short; its subnetwork is dead.
    assert covered_with(study, "v", 2, 0.8).tolist() == [True, True, False, False]
    assert covered_with(study, "v", 2, 0.7).tolist() == [True, True, True, False]
    assert covered_with(study, "v", 1, 0.8).tolist() == [False, False, True, True]


def test_the_error_is_that_of_the_last_hundred_epochs():
    assert error(study_of(recon_sq=losses(0.25, 0.5)), "v").tolist() == [0.25, 0.5]
    assert error(study_of(recon_sq=[[1.0, 3.0], [2.0, 2.0]]), "v").tolist() == [2, 2]


def test_of_n():
    assert of_n(torch.tensor([True, False, True])) == "2 of 3"
    assert of_n(torch.zeros(0, dtype=torch.bool)) == "0 of 0"


# --- tuning -----------------------------------------------------------------------------------------------------


def candidates(**rows):
    """Returns a tuning study from (found, shares, errors) of two targets by name."""
    return study_of(**{
        name: {
            "covered": [[5 if f else 4] for f in found], "p_active": [[0.5, 0.5]] * len(found),
            "share_in": [[share, share] for share in shares], "recon_sq": losses(*errors),
            "first_losses": [[1.0]] * len(found),
        }
        for name, (found, shares, errors) in rows.items()
    })  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # Most targets first, whatever the rest.
        ({"a": ((1, 0), (1, 1), (0, 0)), "b": ((1, 1), (0.1, 0.1), (0.9, 0.9))}, "b"),
        # Then the median share, to two decimals.
        ({"a": ((1, 1), (0.93, 0.93), (0, 0)), "b": ((1, 1), (0.95, 0.95), (0.9, 0.9))}, "b"),
        ({"a": ((1, 1), (0.951, 0.951), (0.3, 0.3)), "b": ((1, 1), (0.953, 0.953), (0.9, 0.9))}, "a"),
        # The median of two is their mean: .90 and 1 are more than .94 twice.
        ({"a": ((1, 1), (0.94, 0.94), (0, 0)), "b": ((1, 1), (0.90, 1.0), (0.9, 0.9))}, "b"),
        # Then the lowest median error: .3 is less than the mean of .1 and .6.
        ({"a": ((1, 1), (0.9, 0.9), (0.1, 0.6)), "b": ((1, 1), (0.9, 0.9), (0.3, 0.3))}, "b"),
        # Then the first.
        ({"a": ((1, 1), (0.9, 0.9), (0.3, 0.3)), "b": ((1, 1), (0.9, 0.9), (0.3, 0.3))}, "a"),
        ({"b": ((1, 1), (0.9, 0.9), (0.3, 0.3)), "a": ((1, 1), (0.9, 0.9), (0.3, 0.3))}, "b"),
    ],
)
def test_the_candidate_that_becomes_tuned(rows, chosen):
    assert chosen_candidate(candidates(**rows), 5) == chosen


def test_dead_subnetworks_have_no_say_in_the_choice():
    both = candidates(a=((1, 1), (0.5, 0.5), (0.1, 0.1)), b=((1, 1), (0.6, 0.6), (0.1, 0.1)))
    both.tensors["a/share_in"] = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    both.tensors["a/p_active"] = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    assert chosen_candidate(both, 5) == "a"


# --- a chapter by hand ------------------------------------------------------------------------------------------


def measures(errors, r=None, v_out=None, covered=5):
    """Returns the measures of one variant on so many targets: two subnetworks, of which the first is live twice."""
    n = len(errors)
    found = {
        "recon_sq": losses(*errors), "recon_norm": losses(*errors).sqrt(), "recon_fresh": [[2 * e] for e in errors],
        "p_active": [[0.5, 0.25]] * n, "covered": [[covered]] * n, "share_in": [[0.9, 0.7]] * n,
        "share_out": [[0.6, 0.8]] * n, "first_losses": [[1.0, 0.5]] * n, "recon_dense": [[0.1, 0.2, 0.3]] * n,
        "v_out": [[[1.0, 0.0], [0.0, 1.0]]] * n if v_out is None else v_out,
    }  # fmt: skip
    return found if r is None else {**found, "r": [[value] for value in r]}


def chapter(**changes):
    """Returns a chapter of targets 0, 3 and 7, with departures and repetitions on 0 and 3."""
    config = L3DConfig(n_v=2, k_fraction=0.1)
    settings = ToySettings(
        toy="circuit_superposition", size=(10, 5), seeds=(0, 3, 7),
        variants={name: Variant(config, "mse") for name in ("text", "code", "tuned")},
        extras={"tuning": Extra({"a": Variant(replace(config, n_v=4), "kl"), "b": Variant(config, "mse")}, (0, 3))},
    )  # fmt: skip
    main = study_of((0, 3, 7), 5, **{
        "text": measures([0.2, 0.4, 0.9], [0.9, 0.7, 0.1]), "code": measures([0.1, 0.1, 0.9], [0.6, 0.8, 0.1]),
        "tuned": measures([0.05, 0.05, 0.05], [1.0, 1.0, 1.0], covered=10),
    })  # fmt: skip
    switches = study_of(**{
        "text: Adam": measures([0.3, 0.9], [0.5, float("nan")]), "text: points": measures([0.2, 0.3], [0.2, 0.4]),
        "code: Adam": measures([0.1, 0.2], [0.2, 0.4]),
    })  # fmt: skip
    turned = torch.tensor([[[0.6, 0.8], [-0.8, 0.6]], [[0.0, -2.0], [1.0, 0.0]]])
    again = study_of(**{name: measures([0.1, 0.1], v_out=turned) for name in ("text 1", "text 2", "tuned 1")})
    nearby = study_of(**{"n_v 3": measures([0.1, 0.1], v_out=torch.ones(2, 3, 2)), "rank 2": measures([0.1, 0.1])})
    nearby.tensors["n_v 3/p_active"] = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])
    tuning = candidates(a=((1, 0), (1, 1), (0, 0)), b=((1, 1), (0.9, 0.9), (0.1, 0.1)))
    studies = {"main": main, "switches": switches, "again": again, "nearby": nearby, "tuning": tuning}
    return ToyResult(settings, main, {**studies, **changes})


def test_the_table_of_settings():
    table = settings_table(chapter().main, 5, ["tuned", "text"])
    assert list(table.index) == ["tuned", "text"] and list(settings_table(chapter().main, 5).index) == [
        "text", "code", "tuned",
    ]  # fmt: skip
    assert table.loc["text"].to_dict() == {
        "recon_sq": "0.400 [0.200, 0.900], n = 3", "fresh samples": "0.800 [0.400, 1.800], n = 3",
        "all found": "3 of 3", "top-input share": "0.800 [0.800, 0.800], n = 3", "live": "2 [2, 2], n = 3",
    }  # fmt: skip
    assert table.loc["tuned", "all found"] == "0 of 3"  # It found ten of five.


def test_departures_are_compared_with_their_own_variant_on_the_same_targets():
    result = chapter()
    # text is .2 and .4 on targets 0 and 3: .1 and .5 more; 0 and -.1; code is .1 twice: 0 and .1 more.
    expected = {"text: Adam": 0.3, "text: points": -0.05, "code: Adam": 0.05}
    assert switch_changes(result) == pytest.approx(expected, rel=1e-6)
    table = switch_table(result, 5)
    assert list(table.index) == ["text", "code", "text: Adam", "text: 1000 points", "code: AdamW"]
    assert list(table["change"]) == ["", "", "+0.300", "-0.050", "+0.050"]
    assert table.loc["text", "recon_sq"] == "0.300 [0.200, 0.400], n = 2"
    # Medians of two are their means; of .5 and no number, .5.
    assert list(table["r"]) == ["0.800", "0.700", "0.500", "0.300", "0.300"]
    assert list(table["all found"]) == ["2 of 2"] * 5
    assert most_moving(result, "text") == "Adam (+0.300) and 1000 points (-0.050)"
    assert most_moving(result, "code") == "AdamW (+0.050)"
    assert most_moving(result, "text", 1) == "Adam (+0.300)"


def test_departures_without_coefficients_have_no_such_column():
    result = chapter()
    for study in (result.main, result.studies["switches"]):
        for key in [key for key in study.tensors if key.endswith("/r")]:
            study.tensors.pop(key)
    assert "r" not in switch_table(result, 5).columns


def test_departures_are_compared_on_the_network_of_text():
    result = chapter(gelu=study_of(code=measures([0.4, 0.5], [0.1, 0.1])))
    assert switch_changes(result)["code: Adam"] == pytest.approx(-0.3, rel=1e-6)
    assert switch_table(result, 5).loc["code", "recon_sq"] == "0.450 [0.400, 0.500], n = 2"


def test_agreement_by_hand():
    found = agreements(chapter())
    # Target 0: matched with .8 each, or .6; target 3: the same two directions.
    assert found["text"] == pytest.approx([0.8, 1, 0.8, 1], rel=1e-6)
    assert found["tuned"] == pytest.approx([0.8, 1], rel=1e-6)
    # (1, 1), the one live subnetwork of three, against (1, 0) or (0, 1); on target 3 none is live.
    assert found["n_v 3"] == pytest.approx([0.5**0.5, 0], rel=1e-6)
    assert found["rank 2"] == pytest.approx([1, 1], rel=1e-6)
    assert list(found) == ["text", "tuned", "n_v 3", "rank 2"]
    table = agreement_table(chapter())
    assert list(table.index) == ["seeds, text", "seeds, tuned", "tuned and n_v 3", "tuned and rank 2"]
    assert table.iloc[0, 0] == "0.900 [0.800, 1.000], n = 4"


def test_dead_subnetworks_do_not_agree():
    result = chapter()
    result.main.tensors["tuned/p_active"] = torch.tensor([[0.1, 0.0], [0.1, 0.1], [0.1, 0.1]])
    # (1, 0) alone, against (.6, .8) and (-.8, .6).
    assert agreements(result)["tuned"] == pytest.approx([0.8, 1], rel=1e-6)
    result.studies["again"].tensors["tuned 1/p_active"] = torch.tensor([[0.1, 0.0], [0.1, 0.1]])
    assert agreements(result)["tuned"] == pytest.approx([0.6, 1], rel=1e-6)


@pytest.mark.parametrize(("seeds", "shared"), [((3,), [3]), ((3, 7), [3]), ((7,), []), ((0, 3), [0, 3])])
def test_a_chapter_on_some_of_the_targets(seeds, shared):
    """Other targets than the departures' and repetitions': those of both count, and tables can be made of none."""
    whole, result = chapter(), chapter()
    names = {name: name for name in ("text", "code", "tuned")}
    result = result._replace(main=result.main.part(names, seeds))
    found, n = agreements(result), len(shared)
    assert {key: len(values) for key, values in found.items()} == (
        {"text": 2 * n, "tuned": n, "n_v 3": n, "rank 2": n} if shared else {}
    )
    assert len(agreement_table(result)) == len(found)
    table = switch_table(result, 5)
    assert list(table.index) == (list(switch_table(whole, 5).index) if shared else ["text"])
    if shared == [3]:
        assert list(table["change"]) == ["", "", "+0.500", "-0.100", "+0.100"]
    if not shared:
        assert table.loc["text", "recon_sq"] == "0.900 [0.900, 0.900], n = 1" and most_moving(result, "text") == ""


def test_tidy_rows():
    rows = tidy(chapter().main)
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("text", "code", "tuned") for seed in (0, 3, 7)
    ]
    assert rows[1] == {
        "variant": "text", "seed": 3, "recon_sq": 0.4, "recon_fresh": 0.8, "covered": 5, "live": 2, "share_in": 0.8,
    }  # fmt: skip


def test_what_is_kept_for_an_active_circuit():
    result = chapter()
    # .1 of two subnetworks for so many active inputs on the average over targets, of which three are kept.
    active = [float((toys.circuit_superposition(seed).inputs > 0).float().sum(1).mean()) for seed in (0, 3, 7)]
    assert kept_per_active(toy_chapter.jobs(result.settings)["main"], "text") == pytest.approx(
        0.2 / (sum(active) / 3), rel=1e-6
    )
    result = result._replace(settings=replace(result.settings, toy="high_rank", size=(30, 10), seeds=(0,)))
    groups = (toys.high_rank(0).inputs.unflatten(1, (6, 5)) > 0).any(2).float().sum(1)
    assert kept_per_active(toy_chapter.jobs(result.settings)["main"], "text") == pytest.approx(
        0.2 / float(groups.mean()), rel=1e-6
    )


def test_the_numbers_of_a_chapter():
    found = common_numbers(chapter(), 5)
    assert found["recon_text"] == "0.400 [0.200, 0.900], n = 3"
    assert found["recon_norm_code"] == "0.316 [0.316, 0.949], n = 3"
    assert found["recon_fresh_tuned"] == "0.100 [0.100, 0.100], n = 3"
    assert (found["found_text"], found["found_tuned"]) == ("3 of 3", "0 of 3")
    assert found["share_text"].startswith("0.800") and found["share_out_text"].startswith("0.700")
    assert (found["live_text"], found["n_v_text"]) == ("2 [2, 2], n = 3", 2)
    parts = [found[f"recon_{part}_text"][:5] for part in ("dense", "single", "several")]
    assert parts == ["0.100", "0.200", "0.300"]
    assert found["agreement_text"] == "0.900 [0.800, 1.000], n = 4" and "agreement_n_v_3" in found
    assert (found["tuning_chosen"], found["tuning_found"]) == ("b", "2 of 2")
    assert (found["n_trained"], found["n_kept"], found["kept_seeds"], found["shown_seed"]) == (5, 3, "0, 3, 7", 0)
    assert (found["epochs"], found["core_minutes"]) == (1000, 7.5)  # Five studies of 90 s.
    assert found["moves_text"] == "Adam (+0.300) and 1000 points (-0.050)"


def test_the_table_of_revival():
    result = chapter()
    assert list(toy_summary.revival_table(result, 5).index) == ["text", "tuned"]
    result.studies["revival"] = study_of((3, 7, 9), **{"text, revival 1": measures([0.1, 0.3, 0.8])})
    table = toy_summary.revival_table(result, 5)
    assert list(table.index) == ["text", "text, revival 1", "tuned"]
    # Targets 3 and 7 alone are in both.
    assert table.loc["text", "recon_sq"] == "0.650 [0.400, 0.900], n = 2"
    assert table.loc["text, revival 1", "recon_sq"] == "0.200 [0.100, 0.300], n = 2"


def test_the_record_of_a_chapter():
    result = chapter()
    numbers, claims = {"a": 1}, {"c": {"text": [True]}}
    found = make_record(result, "quick", numbers, claims)
    assert list(found) == ["preset", "settings", "numbers", "claims", "table", "tuning", "first_losses", "provenance"]
    assert (found["preset"], found["numbers"], found["claims"]) == ("quick", numbers, claims)
    assert found["settings"] == settings_digest(result.settings)
    assert found["settings"] != settings_digest(replace(result.settings, epochs=999))
    assert found["table"] == tidy(result.main)
    active = float((torch.cat([toys.circuit_superposition(seed).inputs for seed in (0, 3)]) > 0).sum(1).double().mean())
    assert [row["per_active"] for row in found["tuning"]] == [round(0.4 / active, 4), round(0.2 / active, 4)]
    assert found["tuning"][0] == {
        "candidate": "a", "divergence": "kl", "n_v": 4, "k": 0.1, "per_active": round(0.4 / active, 4), "circuits": 10,
        "found": 0, "targets": 2, "share": 1.0, "recon_sq": 0.0,
    }  # fmt: skip
    assert set(found["first_losses"]) == set(result.studies) and found["first_losses"]["main"][0] == [[1, 0.5]] * 3
    assert found["provenance"] == {
        "version": "1", "core_seconds": 450.0, "seconds": dict.fromkeys(result.studies, 90.0),
    }  # fmt: skip


# --- chapter 2 --------------------------------------------------------------------------------------------------


def test_overlaps_of_live_subnetworks_by_hand():
    v = [[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]] * 2
    study = study_of(v_out=v, p_active=[[1.0, 1, 1], [1, 1, 0]])
    assert circuit_superposition_summary.overlaps(study, "v").tolist() == pytest.approx([1.4 / 3, 0.6], rel=1e-6)


def test_one_subnetwork_for_each_input(monkeypatch):
    monkeypatch.setattr(circuit_superposition_summary, "N", 2)
    p_active = [[1.0, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0]]  # The second has one live too many.
    share = [[0.99, 1, 0.1], [1, 1, 1], [0.98, 1, 1], [1, 1, 1]]  # The third is not pure.
    covered = [[2], [2], [2], [1]]  # The fourth misses an input.
    study = study_of(range(4), p_active=p_active, share_in=torch.tensor(share).double(), covered=covered)
    assert circuit_superposition_summary.one_input_each(study, "v").tolist() == [True, False, False, False]


def test_chapter_2_is_compared_with_the_median_of_chapter_1():
    """Of an even number of targets, the middle between two: .3 of .2 and .4, and .4 of overlaps 0 and .8."""
    result = chapter()
    same, apart = [[1.0, 0.0], [0.8, 0.6]], [[1.0, 0.0], [0.0, 1.0]]
    tms = study_of(**{name: measures([0.2, 0.4], v_out=[apart, same]) for name in ("text", "code", "tuned")})
    for name, tilt in (("text", 0.3), ("code", 0.5), ("tuned", 0.3)):
        v = torch.tensor([[[1.0, 0.0], [tilt, (1 - tilt**2) ** 0.5]]] * 3)
        result.main.tensors[f"{name}/v_out"] = v
        result.main.tensors[f"{name}/ceiling"] = torch.ones(3, 1)
        result.main.tensors[f"{name}/r_scaled"] = torch.ones(3, 1)
    result.main.tensors["text/recon_sq"] = losses(0.25, 0.35, 0.2)
    result.studies["tms"] = tms
    papers = {"tmcs_recon": {"value": 0.064}, "tmcs_r": {"value": 0.916}}
    found = circuit_superposition_summary.summarise(result, "quick", papers)
    claims = found["claims"]
    assert claims["tmcs-lower"]["text"] == [True, False, True]
    assert claims["tmcs-overlap"] == {"text": [False] * 3, "code": [True] * 3, "tuned": [False] * 3}
    assert claims["tmcs-recon"]["text"] == pytest.approx([0.25, 0.35, 0.2])
    assert claims["tmcs-coefficients"]["code"] == pytest.approx([0.6, 0.8, 0.1], rel=1e-6)
    assert claims["tmcs-all-inputs"]["tuned"] == [True] * 3 and claims["tmcs-all-inputs"]["text"] == [False] * 3
    assert all(list(values) == ["text", "code", "tuned"] for values in claims.values())
    numbers = found["numbers"]
    assert (numbers["paper_recon"], numbers["paper_r"], numbers["paper_r_squared"]) == ("6.4 %", "0.916", "0.839")
    assert numbers["tms_text"] == "0.300 [0.200, 0.400], n = 2"
    assert json.loads(json.dumps(found)) == found
    table = circuit_superposition_summary.overlap_table(result)
    assert table.loc["text", "toy model of superposition"] == "0.400 [0.000, 0.800], n = 2"
    assert table.loc["code", "circuit superposition"] == "0.500 [0.500, 0.500], n = 3"


# --- a chapter computed -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Returns a whole chapter 2 of one epoch on few inputs, and what makes it."""
    config = L3DConfig(n_v=3, k_fraction=0.4, batch_size=16)
    text, tuned = Variant(config, "mse", 32), Variant(config, "half_reference_mse", 32)
    other = replace(config, k_fraction=0.3)
    extras = {
        "tuning": Extra({"a": text, "b": tuned}, (1000,)),
        "switches": Extra({"text: divergence": tuned, "code: k": text._replace(config=other)}, (0, 1)),
        "again": Extra({"text 1": text._replace(seed_offset=100)}, (0, 1), directions=True),
        "nearby": Extra({"k 0.3": tuned._replace(config=other)}, (1,), directions=True),
        "tms": Extra(dict.fromkeys(("text", "code", "tuned"), text), (1,), True, "superposition", (5, 2)),
    }
    settings = ToySettings(
        toy="circuit_superposition", size=(10, 5), variants={"text": text, "code": text, "tuned": tuned}, seeds=(0, 1),
        extras=extras, epochs=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy_measures, "N_FRESH", 100)
        result = toy_chapter.run(settings, folder=folder, workers=1)
    return SimpleNamespace(settings=settings, folder=folder, result=result)


def test_a_chapter_from_end_to_end(computed):
    result = computed.result
    papers = {"tmcs_recon": {"value": 0.064}, "tmcs_r": {"value": 0.916}}
    found = circuit_superposition_summary.summarise(result, "quick", papers)
    assert json.loads(json.dumps(found)) == found
    assert (result.main.seeds, result.studies["tms"].seeds) == ([0, 1], [1])
    assert len(found["table"]) == 6 and {len(v) for v in found["claims"]["tmcs-recon"].values()} == {2}
    assert list(switch_table(result, 10).index) == ["text", "code", "text: half reference", "code: k"]
    assert toy_summary.switch_changes(result)["text: divergence"] != 0
    # `code` is set up as `text`, and the tuned one as the departure in the divergence.
    main, switches = result.main, result.studies["switches"]
    assert main.of("recon_sq", "text").equal(main.of("recon_sq", "code"))
    torch.testing.assert_close(main.of("recon_sq", "tuned"), switches.of("recon_sq", "text: divergence"))


def test_a_chapter_on_one_of_its_targets(computed, monkeypatch):
    monkeypatch.setattr(toy_measures, "N_FRESH", 100)
    settings = toy_chapter.changed(computed.settings, seeds=[1])
    result = toy_chapter.run(settings, folder=computed.folder, workers=1)
    assert result.main.seeds == [1]
    assert agreements(result) == {} and agreements(computed.result)
    assert list(switch_table(result, 10).index) == ["text", "code"]
    assert common_numbers(result, 10)["n_kept"] == 1
