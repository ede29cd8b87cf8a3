"""What the chapters on real models measure, tell and show, on a language model of six words and by hand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hub_cases import make_hub

from l3d_core import L3DConfig, decompose, real_experiments
from l3d_core.artifacts import load_artifact
from l3d_core.baselines.evaluation import Directions
from l3d_core.chapters import language, real_chapter, real_measures, vision
from l3d_core.chapters import real_summary as summary
from l3d_core.chapters import real_tables as tables
from l3d_core.chapters.circuits import coherence
from l3d_core.chapters.language import TextCard
from l3d_core.chapters.meaning import matched_steps, step_selectivity
from l3d_core.chapters.real_chapter import RealSettings, compute, jobs
from l3d_core.chapters.real_measures import Measuring
from l3d_core.chapters.real_models import Language, Planned, Subject
from l3d_core.chapters.statistics import spread_text
from l3d_core.chapters.studies import fit_job
from l3d_core.chapters.vision import ImageCard
from l3d_core.figures.cards import show_images, show_texts
from l3d_core.intervention import impact, output_gradients
from l3d_core.metrics import gradient_reconstruction, seed_agreement

CONFIG = L3DConfig(n_v=3, rank=1, epochs=3, batch_size=4, k_fraction=0.25)
SOURCE = Language(model_id="me/words", data_id="me/texts", parameters="*.self_attn.*", n=8, n_held_out=4, n_positions=3)
PATTERN = SOURCE.parameters
SETTINGS = RealSettings(
    chapter="small", source=SOURCE,
    runs={
        "text": Planned(CONFIG), "text-1": Planned(CONFIG, 1), "code": Planned(replace(CONFIG, k_extra=1)),
        "tuned": Planned(replace(CONFIG, loss="recon_sq")),
    },
    candidates={"slow, never": Planned(CONFIG), "fast, 1/2": Planned(replace(CONFIG, lr=0.1, revival=1 / 32))},
    n_candidate=4,
    measuring=Measuring(n_top=3, n_references=3, n_random=2, n_principal=12, n_moved=4, change=1e-4, share=0.25),
)  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The small chapter, its words, and where its results lie."""
    root = tmp_path_factory.mktemp("real")
    make_hub(root / "hub")
    more = root / "hub" / "me" / "texts" / "data" / "validation-00001-of-00002.parquet"
    pd.DataFrame({"text": ["d a b c c a " * 4, "b a"]}).to_parquet(more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("L3D_HUB", str(root / "hub"))
        words = language.read(SOURCE)
        yield compute(SETTINGS, words.labels, words.groups, folder=root / "out", workers=1), words, root / "out"


# --- what is measured -------------------------------------------------------------------------------------------


def test_measures_are_those_of_each_decomposition_alone(result):
    found, words, _ = result
    for name, one in found.runs.items():
        scores, top = impact(one.l3d, found.subject.held_out, n_references=3), found.of("top", name)
        assert not top.equal(scores.topk(3, 0).indices.T)  # Some window has more than one of the first three.
        for v, row in enumerate(top.tolist()):
            windows = torch.stack([scores[words.groups == w, v].max() for w in range(4)])
            assert words.groups[row].tolist() == windows.argsort(descending=True)[:3].tolist()
            torch.testing.assert_close(scores[row, v], windows.topk(3).values)
        for label, of in words.labels.items():
            assert found.of(label, name).equal(coherence(top, of))
        for kind, k_fraction in (("top_k", None), ("dense", 1.0)):
            error = gradient_reconstruction(one.l3d, found.subject.held_out, k_fraction=k_fraction, seed=0).recon_sq
            torch.testing.assert_close(found.of(kind, name), error, rtol=1e-4, atol=1e-5)
        moved = matched_steps(found.subject.model, found.subject.held_out, one.l3d.v_out.matrix(), PATTERN, 1e-4)
        for key, order in (("selectivity", [0, 1, 2]), ("crossed", [2, 0, 1])):
            own = step_selectivity(moved.divergence, scores[:, order], 0.25)
            torch.testing.assert_close(found.of(key, name), own, rtol=1e-3, atol=1e-4)
    assert set(words.labels) == set(language.LABELS)


def test_baselines_are_what_their_names_say(result):
    found, _, _ = result
    sets = real_measures.direction_sets(SETTINGS.measuring, PATTERN, found.subject, found.runs)
    assert set(sets) == {*found.runs, "untrained", "principal", "random 0", "random 1", "rotated 0", "rotated 1"}
    config, first = replace(CONFIG, lr=1e-30), found.runs["text"].l3d
    still = decompose(first.model, found.subject.inputs, "kl", config, parameters=PATTERN)
    torch.testing.assert_close(sets["untrained"].v_out, still.v_out.matrix(), rtol=1e-4, atol=1e-5)
    principal, rotated = sets["principal"].v_out, sets["rotated 1"].v_out
    torch.testing.assert_close(rotated @ rotated.mT, torch.eye(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(rotated @ principal.mT @ principal, rotated, rtol=0, atol=1e-5)
    assert not torch.allclose(rotated, principal, atol=0.1)
    # No choice of coefficients does better than a span's projection, which the principal directions' own are.
    for name in ("text", "untrained", "principal", "random 0"):
        assert found.of("span", name) <= found.of("dense", name) + 1e-5
    torch.testing.assert_close(found.of("span", "principal"), found.of("dense", "principal"), rtol=1e-4, atol=1e-5)


def test_agreement_is_of_live_directions(result):
    found, _, _ = result
    a, b = (found.runs[name].l3d for name in ("text", "text-1"))
    assert found.of("agreement", "text-1")[2] == min(int(a.live.sum()), int(b.live.sum()))
    assert float(found.of("agreement", "text-1")[0]) == pytest.approx(seed_agreement(a, b), abs=1e-5)
    assert "text/agreement" not in found.measures and "seeds/agreement" not in found.measures


def test_dead_directions_do_not_take_part_in_agreement():
    v, noise = torch.eye(3, 5), torch.rand(20, 3)
    done = {name: type("One", (), {"l3d": type("L", (), {"live": torch.tensor(alive)})}) for name, alive in
            {"text": [True, True, False], "code": [False, True, True]}.items()}  # fmt: skip
    sets = {"text": Directions(v, v), "code": Directions(v, v), "principal": Directions(v, v)}
    found = real_measures._agreements(done, sets, dict.fromkeys(sets, noise))
    # Of two live directions each, one is the same; all three principal ones are there for both of `text`.
    assert found["code/agreement"].tolist()[::2] == [pytest.approx(0.5), 2]
    assert found["principal/agreement"].tolist()[::2] == [pytest.approx(1), 2]


def test_measuring_goes_on_where_it_was_stopped(result, tmp_path, monkeypatch):
    found, words, _ = result
    what = (SETTINGS.measuring, PATTERN, found.subject, found.runs, words.labels, words.groups, tmp_path)
    moved, asked = real_measures._moved, []

    def stop(*given):
        asked.append(given[3])
        return moved(*given) if len(asked) < 3 else pytest.fail("stopped")

    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception, match="stopped"):
        patch.setattr(real_measures, "_moved", stop)
        real_measures.measure(*what)
    done = asked[:2]
    monkeypatch.setattr(real_measures, "impacts", lambda *_, **__: pytest.fail("impacts again"))
    monkeypatch.setattr(real_measures, "_moved", lambda *given: asked.append(given[3]) or moved(*given))
    measures = real_measures.measure(*what)
    assert not set(asked[3:]) & set(done) and measures.keys() == found.measures.keys()
    torch.testing.assert_close(measures, found.measures, rtol=0, atol=0, equal_nan=True)


def test_figures_get_what_readers_are_told(result):
    found, _, _ = result
    shown = (tables.curves(found), tables.held_out(found), tables.p_active(found))
    assert all(list(one) == [tables.label_of(name) for name in found.runs] for one in shown)
    curve, error, active = (next(iter(one.values())) for one in shown)
    first = found.runs["text"]
    assert curve.equal(first.l3d.history.recon_sq) and active.equal(first.l3d.p_active)
    assert error == float(first.held_out.mean())


def test_a_second_time_nothing_is_computed(result, monkeypatch):
    found, words, folder = result
    monkeypatch.setattr(real_chapter, "measure", lambda *_, **__: pytest.fail("measured again"))
    again = compute(SETTINGS, words.labels, words.groups, folder=folder, workers=1)
    for key, t in found.measures.items():
        torch.testing.assert_close(again.measures[key], t, rtol=0, atol=0, equal_nan=True)
    changed = {**words.labels, "next token": words.labels["last token"]}
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        compute(SETTINGS, changed, words.groups, folder=folder, workers=1)


def test_candidates_are_judged_on_held_out_windows_that_nothing_else_is(result):
    found, _, folder = result
    twice = replace(SOURCE, n_held_out=8).load()
    assert twice.held_out[:4].equal(found.subject.held_out)
    assert list(found.candidates) == ["slow, never", "fast, 1/2"]
    one = found.candidates["fast, 1/2"]
    own = gradient_reconstruction(one.l3d, twice.held_out[4:], seed=0).recon_sq
    assert float(one.held_out) == pytest.approx(float(own)) and one.l3d.config.lr == 0.1
    paths = list(folder.glob("small-tried-*"))
    assert len(paths) == 2 and load_artifact(paths[0])[0]["source"]["n"] == 4


def test_first_losses_can_be_recomputed(result):
    found, _, _ = result
    record = summary.summarise(found, "quick", language.LABELS, language.LABELS[:2], {}, {})
    assert set(record["first_losses"]) == set(jobs(SETTINGS)) == set(SETTINGS.runs)
    for name, job in jobs(SETTINGS).items():
        now = torch.stack([one.history.first_losses for one in fit_job(job, max_steps=50)])
        then = torch.tensor(record["first_losses"][name]).flatten(0, 1)
        assert then.shape == now.shape == (1, 6)
        torch.testing.assert_close(now, then, rtol=1e-5, atol=0)


# --- what is told -----------------------------------------------------------------------------------------------


def test_kept_coefficients_add_up(result):
    found, _, _ = result
    for name, kept in {"text": 9, "code": 10}.items():  # A quarter of 4 * 3 samples and 3 subnetworks, or one more.
        one = found.runs[name]
        assert tables.kept_per_sample(one) == pytest.approx(kept / 12)
        assert tables.identity_error(one, 8, 3) < 1e-6
    assert tables.identity_error(found.runs["code"], 8, 2) == pytest.approx(7 / 8 - 10 / 12)
    dense = found.runs["text"]._replace(l3d=replace(found.runs["text"].l3d, config=replace(CONFIG, dense_epochs=3)))
    assert tables.identity_error(dense, 8, 3) == pytest.approx(3 - 9 / 12)


def made(coherent, live, random, samples, **more):
    """A result of two sets of directions, from coherences, which of the trained ones are live, and baselines."""
    from l3d_core.training import History

    p = torch.tensor(live, dtype=torch.float32)[None]
    history = History(*[torch.zeros(1)] * 2, p, torch.zeros(1), wall_seconds=0.0)
    l3d = type("Made", (), {"live": p[0] > 0, "p_active": p[0], "history": history, "config": CONFIG})()
    measures = {"text/c": torch.tensor(coherent), "samples/c": torch.tensor(samples)}
    for i, values in enumerate(random):
        for kind in ("random", "rotated"):
            measures |= {f"{kind} {i}/c": torch.tensor(values), f"{kind} {i}/top": torch.zeros(len(values), 4)}
    measures["text/top"] = torch.arange(4).expand(len(live), 4)
    settings = replace(SETTINGS, measuring=Measuring(n_random=len(random), n_top=4), runs={"text": Planned(CONFIG)})
    return real_chapter.RealResult(
        settings, None, {"text": real_chapter.Decomposed(l3d, torch.zeros(1), {})}, {}, measures | more, {}
    )


def test_z_scores_by_hand():
    found = made([0.5, 0.1, 0.9], [0.2, 0.0, 0.1], [[0.1, 0.3], [0.3, 0.5]], [0.1, 0.2, 0.3])
    # Live ones have the mean .7; random sets .2 and .4 (mean .3, deviation .1414).
    z = tables.z_scores(found, "c", "text")
    assert z["random"] == z["rotated"] == pytest.approx(0.4 / 0.1414, rel=1e-3)
    # Random samples, three sets at a time: .2, deviation .1; of two at a time 1.5 times the variance.
    assert z["samples"] == pytest.approx(0.5 / (0.1 * 1.5**0.5))
    flat = made([0.5], [1], [[0.1], [0.1]], [0.1, 0.1])
    assert all(value != value for value in tables.z_scores(flat, "c", "text").values())


def test_something_in_common_is_more_than_most_random_directions_have_and_a_majority():
    assert tables.majority(5) == pytest.approx(0.3) and tables.majority(10) == pytest.approx(1 / 3)
    # 95 % of the four random directions lie below .47, less than three of four samples alike, 6 of 12 pairs.
    found = made([0.5, 0.1, 0.49], [1, 1, 1], [[0.1, 0.3], [0.3, 0.5]], [0, 1])
    assert tables.limit(found, ["c"]) == pytest.approx(0.5, abs=1e-5)
    assert tables.in_common(found, ["c"], "text").tolist() == [True, False, False]
    # 95 % of these lie below .885: the direction at .8 has no more than they do.
    high = made([0.8, 0.89], [1, 0], [[0.1, 0.8], [0.3, 0.9]], [0, 1])
    assert tables.in_common(high, ["c"], "text").tolist() == [False]  # The other one is dead.
    # Of two kinds of label the higher one counts, for both sides alike.
    both = made([0.6, 0.1], [1, 1], [[0.1, 0.1], [0.1, 0.1]], [0, 1])
    more = {"text": [0.1, 0.7], "random 0": [0.65, 0.65], "random 1": [0.65, 0.65]}
    both.measures.update({f"{name}/d": torch.tensor(values) for name, values in more.items()})
    assert tables.in_common(both, ["c", "d"], "text").tolist() == [False, True]


def test_where_nothing_can_have_more_in_common_the_claim_has_no_values(monkeypatch):
    monkeypatch.setattr(summary, "VARIANTS", ("text",))
    full = made([1.0, 0.5, 1.0], [1, 1, 0], [[1.0, 0.1], [1.0, 0.2]], [0, 1])  # Half of the random ones are all alike.
    assert tables.saturated(full, ["c"]) and tables.all_alike(full, ["c"], "text").tolist() == [True, False]
    assert summary.claims(full, "recon", "meaning", ["c"])["meaning"] == {"text": []}
    some = made([1.0, 0.5, 1.0], [1, 1, 0], [[0.9, 0.1], [0.9, 0.2]], [0, 1])
    assert not tables.saturated(some, ["c"])
    assert summary.claims(some, "recon", "meaning", ["c"])["meaning"] == {"text": [True, False]}


def test_a_step_is_held_against_the_direction_before_where_both_are_live():
    found = made([0.0] * 4, [1, 0, 1, 1], [[0.0], [1.0]], [0.0], **{"text/crossed": torch.tensor([1.0, 2, 3, 4])})
    assert tables.crossed(found, "text").tolist() == [1, 4]  # Before 0 stands 3; before 2 the dead one.


def test_labels_that_are_the_commonest_of_some_direction():
    found = made([0.0] * 4, [1, 1, 1, 0], [[0.0], [1.0]], [0.0, 1.0])
    found.measures["text/top"] = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [0, 3, 4, 5], [6, 6, 6, 6]])
    of = torch.tensor([1, 1, 1, 2, 3, 4, 9])  # Three of 1, three of 1, all apart; a dead one.
    assert tables.distinct(found, of, "text") == 1


def test_subnetworks_are_chosen_by_rule_and_not_by_taste():
    found = made([0.0] * 6, [0.3, 0.0, 0.5, 0.2, 0.1, 0.4], [[0.0], [1.0]], [0.0])
    assert tables.spread_circuits(found, "text", 3) == [2, 0, 4]  # Of 2, 5, 0, 3, 4: the first, middle and last.
    assert tables.spread_circuits(found, "text", 9) == [2, 5, 0, 3, 4]
    assert tables.spread_circuits(found, "text", 1) == [2]


def test_tables_name_every_set(result):
    found, words, _ = result
    errors = tables.error_table(found, at=2)
    assert list(errors.index) == ["text", "text, seed 1", "code", "tuned", *tables.BASELINES.values()]
    assert errors.loc["text", "training, epoch 2"] == f"{float(found.runs['text'].l3d.history.recon_sq[1]):.3f}"
    assert list(tables.selectivity_table(found).index) == list(errors.index)
    assert list(tables.agreement_table(found).index) == [f"text and {name}" for name in errors.index[1:]]
    coherent = tables.coherence_table(found, "last token", words.labels["last token"])
    assert list(coherent.index)[-3:] == ["rotated directions", "random directions", "random samples"]
    assert tables.chosen_candidate(found) == tables.candidate_table(found)["held out"].astype(float).idxmin()


def test_the_record_has_numbers_claims_and_costs(result):
    found, _, _ = result
    claims = summary.claims(found, "recon", "meaning", language.LABELS[:2], "dead")
    record = summary.summarise(found, "quick", language.LABELS, language.LABELS[:2], {"more": 1}, claims)
    assert record["numbers"]["n_held_out"] == 4 and record["numbers"]["more"] == 1
    assert claims["recon"]["code"] == [pytest.approx(float(found.runs["code"].l3d.history.recon_sq[-1]), abs=1e-6)]
    told = tables.selectivity_table(found)["own samples"]
    for name, key in (("text", "text"), ("tuned", "tuned"), ("principal", "principal")):
        assert told[name].startswith(f"{record['numbers'][f'selectivity_{key}']} [")
    assert len(claims["meaning"]["code"]) == int(tables.live(found, "code").sum())
    for key, name in (("plain", "slow, never"), ("revived", "fast, 1/2")):
        one = found.candidates[name]
        assert record["numbers"][f"tried_{key}"].startswith(f"{float(one.held_out.mean()):.3f} [")
        assert record["numbers"][f"tried_dead_{key}"] == spread_text([float((~one.l3d.live).sum())], 0)
    assert set(record["provenance"]["seconds"]) == {*SETTINGS.runs, "tried slow, never", "tried fast, 1/2", "measures"}
    assert [row["variant"] for row in record["table"]] == list(SETTINGS.runs)


# --- what is shown ----------------------------------------------------------------------------------------------


def test_a_card_shows_the_text_up_to_its_last_token_and_what_moves(result):
    found, words, _ = result
    [card] = language.text_cards(found, words, [1], n_outputs=2)
    for sample, (before, last, outputs) in zip(found.of("top", "text")[1].tolist(), card.lines, strict=True):
        window, position = divmod(sample, 3)
        ids = found.subject.held_out[window, : position + 1].tolist()
        assert (before, last) == ("".join(words.texts[i] for i in ids[:-1]), words.texts[ids[-1]])
        moved = output_gradients(found.runs["text"].l3d, 1, found.subject.held_out[window : window + 1])[0, position]
        assert outputs == [words.texts[i] for i in moved.abs().topk(2).indices.tolist()]
    assert card.number == 1 and card.p_active == pytest.approx(float(found.runs["text"].l3d.p_active[1]))


def test_hostile_texts_are_shown_as_text():
    html = show_texts([TextCard(7, 0.25, [("<script>alert(1)</script>", "&", ['"><img src=x>', " "])])])
    assert "<script>alert" not in html and "<img" not in html
    assert "&lt;script&gt;" in html and "<mark>&amp;</mark>" in html and "␣" in html and "0.250" in html
    assert html._repr_html_() == html


def test_image_cards_show_each_image_or_one_picture():
    pixels = torch.randint(256, (3, 3, 4, 4), dtype=torch.uint8)
    each = show_images([ImageCard(0, 0.5, pixels, [["cat", "<dog>"]] * 3)])
    assert [f'alt="top image {i}"' in each for i in (1, 2, 3, 4)] == [True] * 3 + [False]
    assert each.count("<figure>") == 3 and "&lt;dog&gt;" in each and each.count("data:image/jpeg;base64,") == 3
    one = show_images([ImageCard(0, 0.5, pixels, [["cat", "a"], ["b", "cat"], ["b", "cat"]])], compact=True)
    assert one.count("<img") == 1 and 'alt="its 3 top images"' in one and "→ cat · b · a" in one


def test_images_are_animals_or_vehicles_where_their_classes_say_so():
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    subject = Subject(None, None, None, torch.tensor([0, 2, 9, 2]), [])
    labels = vision.label_images(subject, names)
    assert labels["class"].tolist() == [0, 2, 9, 2] and labels["animal or vehicle"].tolist() == [1, 0, 1, 0]
    assert list(vision.label_images(subject, [*names, "apple"])) == ["class"]


# --- settings ---------------------------------------------------------------------------------------------------


def test_presets_are_as_stated():
    for notebook, batch in (("05_language_model", 16), ("06_vision", 32)):
        paper = real_experiments.SETTINGS[notebook]["paper"]
        assert {name: one.config.epochs for name, one in paper.runs.items()} == {
            "text": 100, "text-1": 20, "text-2": 20, "code": 20, "tuned": 20
        }  # fmt: skip
        assert [one.seed for one in paper.runs.values()] == [0, 1, 2, 0, 0]
        for one in paper.runs.values():
            assert (one.config.n_v, one.config.k_fraction, one.config.batch_size) == (100, 0.1, batch)
        assert paper.source.n == 10_000 and paper.n_candidate == 2000


def test_of_runs_that_take_the_same_steps_the_first_stands_for_all():
    for notebook in ("05_language_model", "06_vision"):
        jobs = real_chapter.jobs(real_experiments.SETTINGS[notebook]["paper"])
        assert list(jobs) == ["text", "text-1", "text-2", "code", "tuned"]
        assert real_chapter.kinds(jobs) == ["text", "code", "tuned"]
    assert real_chapter.kinds({"a": "job", "b": "job"}) == ["a", "b"]


def test_the_subject_is_the_one_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("L3D_HUB", raising=False)
    ours = real_experiments.of_subject("05_language_model", "quick", "stand_in")
    papers = real_experiments.of_subject("05_language_model", "quick")
    assert ours.source.model_id == "karpathy/stories260K" and papers.source.model_id == "roneneldan/TinyStories-8M"
    assert papers.source.n == ours.source.n and papers.chapter != ours.chapter
    assert all(one.config.rank == real_experiments.LANGUAGE_RANKS for one in papers.runs.values())
    monkeypatch.setenv("L3D_HUB", str(tmp_path))
    assert real_experiments.of_subject("05_language_model", "quick") == ours
    with pytest.raises(ValueError, match="subject 'mine' is unknown; expected 'stand_in' or 'paper'"):
        real_experiments.of_subject("06_vision", "quick", "mine")


def test_another_model_has_its_own_parameters_and_ranks():
    paper = real_experiments.SETTINGS["06_vision"]["paper"]
    other = real_chapter.changed(paper, network="resnet18", parameters="layer2.*", n=1000, n_v=7, weights="a.pt")
    assert (other.source.network, other.source.weights, other.source.n) == ("resnet18", Path("a.pt"), 1000)
    assert other.n_candidate == 1000 and set(other.runs) == set(paper.runs)
    for one in (*other.runs.values(), *other.candidates.values()):
        assert (one.config.n_v, one.config.rank) == (7, 0.1)
    assert real_chapter.changed(paper, network="resnet18", rank=2).runs["code"].config.rank == 2
    assert real_chapter.changed(paper, n_v=7).runs["text"].config.rank == real_experiments.VISION_RANKS
    assert real_chapter.changed(paper, n_v=None) == paper
    with pytest.raises(ValueError, match="'model' cannot be changed; expected one of .*'network'"):
        real_chapter.changed(paper, model="x")


def test_missing_data_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("L3D_HUB", raising=False)
    assert real_experiments.missing_data("06_vision") == ["uoft-cs/cifar10"]
    assert real_experiments.missing_data("01_superposition") == []
    monkeypatch.setenv("L3D_HUB", str(tmp_path))
    (tmp_path / "roneneldan" / "TinyStories").mkdir(parents=True)
    assert real_experiments.missing_data("05_language_model") == ["karpathy/stories260K"]
