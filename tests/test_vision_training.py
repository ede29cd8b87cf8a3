"""Training of the shipped vision network: augmentation by hand, exact resumption, and what is written."""

import json

import pytest
import torch
from safetensors import safe_open

from l3d_core import pretrained, targets, vision_training
from l3d_core.hub import Images
from l3d_core.vision_training import VisionTraining, accuracy, augmented, save_classifier, train_classifier

TINY = VisionTraining(size=32, epochs=2, batch_size=8)


def images(n: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 2, ["cat", "dog"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("vision") / "checkpoint.safetensors"
    return train_classifier(TINY, images(20, 0), images(6, 1), path)


# --- settings ---------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand():
    config = VisionTraining(lr=0.4)
    # Ten steps: two up to 0.4, then a cosine: at 2, 4 and 6 of eight steps .4, .4 (1 + cos 45 degrees) / 2, .2.
    rates = [config.lr_at(step, 10) for step in (0, 1, 2, 4, 6)]
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.341421, 0.2], rel=1e-5)


@pytest.mark.parametrize("name", ["size", "epochs", "batch_size", "lr"])
def test_settings_that_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected a positive number"):
        VisionTraining(**{name: 0})


# --- augmentation -----------------------------------------------------------------------------------------------


def test_augmented_images_are_shifted_and_mirrored():
    pixels = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(60, 3, 8, 8)
    found = augmented(pixels, torch.Generator().manual_seed(0))
    assert found.shape == pixels.shape and found.dtype == torch.uint8
    padded = torch.nn.functional.pad(pixels[0], (4, 4, 4, 4))
    shifted = {
        tuple(part.flatten().tolist()): (down, right, side)
        for down in range(9) for right in range(9)
        for side, part in enumerate([padded[:, down : down + 8, right : right + 8]] * 2)
        for part in [part.flip(2) if side else part]
    }  # fmt: skip
    ways = [shifted[tuple(one.flatten().tolist())] for one in found]
    assert {side for *_, side in ways} == {0, 1} and len(set(ways)) > 40
    assert {down for down, *_ in ways} == set(range(9)) == {right for _, right, _ in ways}


# --- training ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_goes_on_exactly(trained, tmp_path, monkeypatch):
    network, accuracies = trained
    calls, path = [], tmp_path / "deep" / "checkpoint.safetensors"

    def once(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return accuracy(*arguments)

    monkeypatch.setattr(vision_training, "accuracy", once)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(TINY, images(20, 0), images(6, 1), path)
    state = torch.get_rng_state()
    again, found = train_classifier(TINY, images(20, 0), images(6, 1), path)
    assert torch.get_rng_state().equal(state)  # Nothing is drawn from the caller's stream.
    assert found == accuracies and len(calls) == 3  # One epoch was done before.
    assert all(a.equal(b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train_classifier(VisionTraining(size=32, epochs=1, batch_size=8), images(8, 0), images(2, 1), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is of the settings .*'epochs': 1.*; expected .*'epochs': 2"):
        train_classifier(TINY, images(8, 0), images(2, 1), path)
    assert path.read_bytes() == before


def test_accuracy_by_hand():
    class Second(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([0.0, 1.0]).expand(len(x), 2)

    assert accuracy(Second(), images(5, 0), 8) == pytest.approx(0.4)  # Labels 0, 1, 0, 1, 0.


# --- what is written --------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_in_half_precision(trained, tmp_path):
    network, accuracies = trained
    path = tmp_path / "net.safetensors"
    found = save_classifier(path, TINY, network, images(6, 1), accuracies, {"version": "1"})
    back, names = pretrained.load_vision_model("mobilenet_v3_small", path)
    assert names == ["cat", "dog"] and not back.training
    for (name, p), q in zip(network.named_parameters(), back.parameters(), strict=True):
        assert q.dtype == torch.float32 and q.equal(p.half().float()), name
    assert all(a.equal(b) for a, b in zip(network.buffers(), back.buffers(), strict=True))
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["accuracy"] == found == accuracy(back, images(6, 1), 32)
    assert (facts["accuracies"], facts["version"], facts["config"]["epochs"]) == (accuracies, "1", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    with pytest.raises(ValueError, match="holds a 'mobilenet_v3_small'; expected a 'resnet18'"):
        pretrained.load_vision_model("resnet18", path)


def test_networks_and_weights_that_are_unknown():
    with pytest.raises(ValueError, match=r"no network 'mobilenet_v9'; expected one of \['mobilenet_v2'"):
        pretrained.load_vision_model("mobilenet_v9", "DEFAULT")
    with pytest.raises(ValueError, match=r"no weights 'MINE'; expected one of \['IMAGENET1K_V1'\]"):
        pretrained.load_vision_model("mobilenet_v3_small", "MINE")


def test_the_command_trains_the_vision_network_when_named(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "VISION", {"tiny": TINY})
    splits = {"train": images(20, 0), "test": images(6, 1)}
    monkeypatch.setattr(targets, "load_images", lambda data_id, split: splits[split])
    monkeypatch.setattr(targets.artifacts, "project_root", lambda: tmp_path)
    assert list(targets.retrain(["tiny"], tmp_path / "out", progress=False)) == ["tiny"]
    back, _ = pretrained.load_vision_model("mobilenet_v3_small", tmp_path / "out" / "tiny.safetensors")
    assert all(q.equal(p.half().float()) for p, q in zip(trained[0].parameters(), back.parameters(), strict=True))
