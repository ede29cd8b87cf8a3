"""Decompositions of real models: their data, what is kept on disk, and going on after a stop."""

import json

import pytest
import torch
from hub_cases import make_hub

from l3d_core import L3DConfig, decompose, gradient_reconstruction
from l3d_core.chapters import real_models
from l3d_core.chapters.real_models import Language, Planned, Vision, decomposed, held_out_errors, run, with_settings
from l3d_core.hub import Images
from l3d_core.vision_training import VisionTraining, make_network, save_classifier

CONFIG = L3DConfig(n_v=4, rank={"*.o_proj*": 1, "*": 2}, epochs=2, batch_size=4)
WORDS = Language(model_id="me/words", data_id="me/texts", parameters="*.self_attn.*", n=9, n_held_out=4, n_positions=3)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("L3D_HUB", str(tmp_path / "hub"))
    make_hub(tmp_path / "hub")
    return tmp_path / "hub"


# --- subjects ---------------------------------------------------------------------------------------------------


def test_a_language_model_with_windows_and_next_tokens(hub):
    subject = WORDS.load()
    assert subject.inputs.shape == (9, 3) and not subject.model.training
    # The texts to judge by are `d d d <end>` and `a b c d`, three times over.
    windows = [[*x, int(y[-1])] for x, y in zip(subject.held_out.tolist(), subject.labels.view(4, 3), strict=True)]
    assert sorted(windows) == [[2, 3, 4, 5]] * 3 + [[5, 5, 5, 0]]
    assert subject.labels.view(4, 3)[:, :-1].equal(subject.held_out[:, 1:])
    assert [name.strip() for name in subject.names] == ["<end>", "<unk>", "a", "b", "c", "d"]


def test_a_vision_network_with_images(hub, tmp_path):
    network = make_network("mobilenet_v3_small", 2).eval()
    path, few = tmp_path / "net.safetensors", Images(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), ["cat", "dog"])
    save_classifier(path, VisionTraining(size=32), network, few, [], {})
    (hub / "me" / "images" / "test-00000-of-00001.parquet").write_bytes(
        (hub / "me" / "images" / "train-00000-of-00001.parquet").read_bytes()
    )
    subject = Vision(weights=path, data_id="me/images", size=32, n=2, n_held_out=3).load()
    assert (subject.inputs.shape, subject.held_out.shape) == ((2, 3, 32, 32), (3, 3, 32, 32))
    assert (subject.labels.tolist(), subject.names) == ([0, 1, 1], ["cat", "dog"])


# --- decompositions ---------------------------------------------------------------------------------------------


def test_a_decomposition_is_made_once_and_read_back(hub, tmp_path, monkeypatch):
    made = decomposed("small", WORDS, Planned(CONFIG, 3), folder=tmp_path / "out")
    subject = WORDS.load()
    alone = decompose(subject.model, subject.inputs, "kl", CONFIG, seed=3, parameters=WORDS.parameters)
    assert made.l3d.v_out.flat.equal(alone.v_out.flat) and made.l3d.history.recon_sq.equal(alone.history.recon_sq)
    assert (made.l3d.seed, made.l3d.config, made.l3d.divergence.name) == (3, CONFIG, "kl")
    monkeypatch.setattr(real_models, "fit", lambda *_, **__: pytest.fail("computed again"))
    again = decomposed("small", WORDS, Planned(CONFIG, 3), folder=tmp_path / "out", subject=subject)
    assert again.l3d.v_in.matrix().equal(made.l3d.v_in.matrix()) and again.facts["core_seconds"] >= 0
    assert again.held_out.equal(made.held_out)


@pytest.mark.parametrize(
    "other",
    [
        {"planned": Planned(CONFIG, 4)},
        {"planned": Planned(L3DConfig(**{**vars(CONFIG), "rank": dict(reversed(CONFIG.rank.items()))}), 3)},
        {"source": Language(**{**vars(WORDS), "seed": 1})},
        {"source": Language(**{**vars(WORDS), "parameters": "*.mlp.*"}), "planned": Planned(CONFIG, 3)},
    ],
)
def test_another_decomposition_has_another_place(hub, tmp_path, monkeypatch, other):
    call = {"source": WORDS, "planned": Planned(CONFIG, 3), "folder": tmp_path / "out"}
    decomposed("small", **call)
    decomposed("small", **{**call, **other})
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_held_out_errors_are_of_whole_batches(hub):
    subject = WORDS.load()
    l3d = decompose(subject.model, subject.inputs, "kl", CONFIG, parameters=WORDS.parameters)
    found = held_out_errors(l3d, subject.inputs, seed=5)
    assert len(found) == 2  # Of nine inputs one is left over.
    assert found[1].equal(gradient_reconstruction(l3d, subject.inputs[4:8], seed=6).recon_sq)


def test_too_few_samples_to_judge_by_are_refused_first(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(real_models, "fit", lambda *_, **__: pytest.fail("work was done"))
    few = Language(**{**vars(WORDS), "n_held_out": 3})
    with pytest.raises(ValueError, match="got 3 held-out samples; expected at least one batch of 4"):
        decomposed("small", few, Planned(CONFIG), folder=tmp_path / "out")


def test_a_stopped_run_goes_on(hub, tmp_path, monkeypatch):
    fit = real_models.fit
    monkeypatch.setattr(real_models, "fit", lambda runs, **options: fit(runs, max_steps=3, **options) and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        decomposed("small", WORDS, Planned(CONFIG, 3), folder=tmp_path / "out")
    [scratch] = (tmp_path / "out").iterdir()
    assert [p.name for p in scratch.iterdir()] == ["checkpoint.safetensors"]
    steps = []

    def going_on(runs, **options):
        steps.append(options["checkpoint"].exists())
        return fit(runs, **options)

    monkeypatch.setattr(real_models, "fit", going_on)
    found = decomposed("small", WORDS, Planned(CONFIG, 3), folder=tmp_path / "out")
    whole = decomposed("small", WORDS, Planned(CONFIG, 3), folder=tmp_path / "whole")
    assert steps == [True, False] and found.l3d.v_out.flat.equal(whole.l3d.v_out.flat)


def test_a_chapter_has_all_of_its_decompositions(hub, tmp_path):
    planned = with_settings({"text": Planned(CONFIG), "text 1": Planned(CONFIG, 1)}, epochs=1)
    found = run("words", WORDS, planned, folder=tmp_path / "out", workers=1)
    assert list(found) == ["text", "text 1"] and [d.l3d.seed for d in found.values()] == [0, 1]
    assert {len(d.l3d.history.recon_sq) for d in found.values()} == {1}
    assert len({id(d.l3d.model) for d in found.values()}) == 1
    names = sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "out").iterdir())
    assert names == ["words-text", "words-text 1"]
    stored = next((tmp_path / "out").glob("words-text 1-*"))
    assert json.loads((stored / "config.json").read_text())["source"]["model_id"] == "me/words"
