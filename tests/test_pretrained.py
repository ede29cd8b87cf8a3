"""Models and data by hub id: from a folder laid out as the hub is, and what is said when something is missing."""

import pytest
import torch
from hub_cases import TEXTS, make_hub, save_images

from l3d_core import hub as hub_data
from l3d_core import pretrained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder as the hub, see `make_hub`."""
    monkeypatch.setenv("L3D_HUB", str(tmp_path))
    make_hub(tmp_path)
    return tmp_path


# --- language ---------------------------------------------------------------------------------------------------


def test_a_language_model_comes_from_the_folder(hub):
    model, tokenizer = pretrained.load_language_model("me/words")
    assert not model.training and model.dtype == torch.float32
    assert tokenizer.decode([2, 3]).split() == ["a", "b"] and tokenizer.pad_token is None
    assert model(torch.tensor([[2, 3]])).logits.shape == (1, 2, 6)


def test_windows_start_anywhere_in_the_joined_texts(hub):
    _, tokenizer = pretrained.load_language_model("me/words")
    whole = [2, 3, 4, 0, 5, 2, 0, 3, 3, 3, 3, 0]  # Each text, then the end.
    found = hub_data.load_texts("me/texts", "train", tokenizer, n=200, n_positions=5)
    windows = {tuple(whole[i : i + 5]) for i in range(8)}
    assert found.inputs.shape == (200, 5) and {tuple(row) for row in found.inputs.tolist()} == windows
    again = hub_data.load_texts("me/texts", "train", tokenizer, n=200, n_positions=5)
    other = hub_data.load_texts("me/texts", "train", tokenizer, n=200, n_positions=5, seed=1)
    assert found.inputs.equal(again.inputs) and not found.inputs.equal(other.inputs)


def test_windows_apart_do_not_overlap(hub):
    _, tokenizer = pretrained.load_language_model("me/words")
    options = {"n_positions": 5, "apart": True}
    found = hub_data.load_texts("me/texts", "train", tokenizer, n=2, **options).inputs.tolist()
    assert sorted(found) == [[2, 0, 3, 3, 3], [2, 3, 4, 0, 5]]  # Of twelve tokens two are left over.
    ones = [hub_data.load_texts("me/texts", "train", tokenizer, n=1, seed=seed, **options) for seed in range(9)]
    assert {int(one.inputs[0, 4]) for one in ones} == {5, 3}
    with pytest.raises(ValueError, match="n is 3; expected at most the 2 windows .* that do not overlap"):
        hub_data.load_texts("me/texts", "train", tokenizer, n=3, **options)


def test_texts_of_one_split_and_no_more_than_asked_for(hub):
    _, tokenizer = pretrained.load_language_model("me/words")
    first = hub_data.load_texts("me/texts", "train", tokenizer, n=3, n_positions=4, rows=1)
    assert first.inputs.tolist() == [[2, 3, 4, 0]] * 3
    held_out = hub_data.load_texts("me/texts", "validation", tokenizer, n=1, n_positions=4, rows=1)
    assert held_out.inputs.tolist() == [[5, 5, 5, 0]]


def test_no_file_is_read_beyond_the_rows_wanted(hub):
    (hub / "me" / "texts" / "data" / "train-00002-of-00003.parquet").write_text("not parquet")
    assert list(hub_data.load_table("me/texts", "train", 2)["text"]) == TEXTS[:2]


def test_texts_that_cannot_be_cut(hub):
    _, tokenizer = pretrained.load_language_model("me/words")
    with pytest.raises(ValueError, match="have 4 tokens together; expected at least one window of 5"):
        hub_data.load_texts("me/texts", "train", tokenizer, n=1, n_positions=5, rows=1)
    with pytest.raises(ValueError, match=r"no column 'story'; expected one of \['text'\]"):
        hub_data.load_texts("me/texts", "train", tokenizer, n=1, column="story")


# --- images -----------------------------------------------------------------------------------------------------


def test_images_with_their_classes(hub):
    found = hub_data.load_images("me/images", "train")
    assert found.pixels.shape == (3, 3, 4, 4) and found.pixels.dtype == torch.uint8
    # The grey one has three equal channels.
    assert found.pixels.flatten(1).float().mean(1).tolist() == [5, 15, 25]
    assert (found.labels.tolist(), found.names) == ([0, 1, 1], ["cat", "dog"])
    assert len(hub_data.load_images("me/images", "train", 2).labels) == 2


def test_images_as_other_datasets_name_them(hub):
    save_images(hub / "me" / "other", column="image", names=None)
    assert hub_data.load_images("me/other", "train").names == ["0", "1"]


def test_images_that_cannot_be_stacked_or_found(hub):
    save_images(hub / "me" / "sizes", sizes=((4, 4), (4, 5), (4, 4)))
    with pytest.raises(ValueError, match="several sizes; expected one"):
        hub_data.load_images("me/sizes", "train")
    with pytest.raises(ValueError, match="expected 'img' or 'image'"):
        hub_data.load_images("me/texts", "train")


def test_images_are_normalised_by_hand():
    pixels = torch.tensor([0, 255, 51]).view(1, 3, 1, 1).expand(1, 3, 2, 2).to(torch.uint8)
    found = hub_data.normalised(pixels, 2)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert found[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)
    # A constant image stays one at another size.
    assert hub_data.normalised(pixels, 5).shape == (1, 3, 5, 5)
    assert hub_data.normalised(pixels, 5)[0, :, 4, 4].tolist() == pytest.approx(expected, rel=1e-5)


# --- what is missing --------------------------------------------------------------------------------------------


def test_the_folder_goes_before_the_hub(hub, monkeypatch):
    assert hub_data.local_folder("me/words") == hub / "me" / "words"
    assert hub_data.local_folder("me/nothing") is None
    monkeypatch.delenv("L3D_HUB")
    assert hub_data.local_folder("me/words") is None
    monkeypatch.setenv("L3D_HUB", str(hub / "absent"))
    with pytest.raises(ValueError, match="L3D_HUB is .*absent', which is no folder"):
        hub_data.load_table("me/texts", "train")


@pytest.mark.parametrize("named", [True, False])
def test_without_a_folder_or_a_network(hub, monkeypatch, named):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if not named:
        monkeypatch.delenv("L3D_HUB")
    looked = r"L3D_HUB \(.*\) does not hold it" if named else "L3D_HUB is not set"
    with pytest.raises(OSError, match=f"the dataset 'me/absent' cannot be loaded: {looked}"):
        hub_data.load_table("me/absent", "train")
    with pytest.raises(OSError, match=f"the language model 'me/absent' cannot be loaded: {looked}"):
        pretrained.load_language_model("me/absent")


def test_a_network_that_breaks_off(hub, monkeypatch):
    def refused(*_, **__):
        raise Exception("Name or service not known")  # As the library below the hub's client does.

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", refused)
    with pytest.raises(
        OSError, match="the dataset 'me/absent' cannot be loaded: .*: Name or service not known Expected"
    ):
        hub_data.load_images("me/absent", "train")


def test_weights_that_cannot_be_fetched(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route.")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/nonexistent")
    monkeypatch.setattr("os.makedirs", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"weights 'IMAGENET1K_V1' of mobilenet_v3_small cannot be fetched: .*path of"):
        pretrained.load_vision_model("mobilenet_v3_small", "IMAGENET1K_V1")


def test_a_split_that_is_not_there(hub):
    with pytest.raises(
        ValueError, match=r"no split 'test' in parquet files; expected one of \['train', 'validation'\]"
    ):
        hub_data.load_table("me/texts", "test")


@pytest.mark.parametrize(
    ("module", "call", "words"),
    [
        ("transformers", lambda: pretrained.load_language_model("me/words"), "pip install transformers"),
        ("pyarrow", lambda: hub_data.load_table("me/texts", "train"), "pip install pyarrow"),
    ],
)
def test_a_library_that_is_not_installed(hub, monkeypatch, module, call, words):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=words):
        call()
