"""Explorers of the book's chapters, the command that makes them, and their places in the book."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pyarrow
import pytest
import torch
from hub_cases import make_hub
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image
from pyarrow import parquet

from l3d_core import L3DConfig, chapter_explorers, check, cli, experiments, explorer_pages, publish, real_experiments
from l3d_core.artifacts import project_root
from l3d_core.chapter_explorers import CHAPTERS, REAL, SHOWN, chapter, explore_chapter
from l3d_core.chapters import language, real_models
from l3d_core.chapters.real_measures import Measuring
from l3d_core.chapters.real_models import Language, Planned, Vision
from l3d_core.chapters.statistics import settings_digest
from l3d_core.chapters.studies import fit_job
from l3d_core.explorer.page import page_text
from l3d_core.explorer.store import load_result

CONFIG = L3DConfig(n_v=3, rank=1, epochs=2, batch_size=2, k_fraction=0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the explorer of the smallest toy, in which two decompositions lie side by side."""
    root = tmp_path_factory.mktemp("chapters")
    folders = explore_chapter("01_superposition", run="tuned", against="text", folder=root)
    return root, folders


# --- chapters ---------------------------------------------------------------------------------------------------


def test_every_chapter_has_what_it_shows():
    assert list(CHAPTERS) == [name for name in experiments.notebooks() if name in CHAPTERS] and len(CHAPTERS) == 7
    assert set(SHOWN) == set(CHAPTERS)


def test_a_toys_explorer_is_of_the_chapters_own_decompositions(made):
    root, (folder, against) = made
    assert folder == root / "explorer" / "01_superposition-quick-tuned" and against.name.endswith("-text")
    settings = experiments.settings("01_superposition", "quick")
    job = chapter_explorers.Job(
        toy="superposition", size=(5, 2), seeds=settings.seeds, variants=settings.variants, epochs=settings.epochs,
        measure=print,
    )  # fmt: skip
    n = len(job.tasks())
    # Of the whole stack, the first target's: a run is the same alone or beside others.
    stack = dict(zip(settings.variants, fit_job(job)[::n], strict=True))
    for name, result in (("tuned", load_result(folder)), ("text", load_result(against))):
        assert torch.allclose(result.v_out.matrix(), stack[name].v_out.matrix(), atol=1e-5)
        [found] = result.block.decompositions
        assert found.name == name and dict(result.block.facts)["preset"] == "quick"
        assert [key for key, _ in found.baselines] == ["coherence: largest input"]
    assert result.block.inputs == [f"x {i}" for i in range(5)] and result.block.kind == "vectors"


def test_done_decompositions_are_not_made_again(made, monkeypatch):
    root, (folder, _) = made
    before = (folder / "explorer.json").read_bytes()
    monkeypatch.setattr(chapter_explorers, "fit_job", lambda *args: pytest.fail("trained again"))
    explore_chapter("01_superposition", run="tuned", folder=root)
    assert (folder / "explorer.json").read_bytes() == before
    shutil.copytree(folder, root / "copy")
    shutil.rmtree(folder)  # The page is computed again, of what was decomposed before.
    explore_chapter("01_superposition", run="tuned", folder=root)
    assert (folder / "explorer.json").read_bytes() == before


def test_groups_are_named_and_another_target_can_be_asked_for(tmp_path):
    found = chapter("03_high_rank", "quick", {"seed": 2}, folder=tmp_path, device="cpu", progress=False)
    assert found.options["input_names"][7] == "x 7, group 1" and found.inputs.shape == (200, 30)
    x, labels = found.inputs, found.options["labels"]["largest group"]
    for row, label in zip(x[:20], labels, strict=False):
        lengths = [float(row[5 * g : 5 * g + 5].norm()) for g in range(6)]
        assert lengths[int(label)] == max(lengths)
    assert dict(found.options["facts"])["model"] == "high_rank_30-10, seed 2"


def save_noise(folder):
    """Three images of noise, with labels 0, 1, 1, as both splits of a dataset."""
    folder.mkdir(parents=True)
    generator, rows = torch.Generator().manual_seed(0), []
    for _ in range(3):
        file = io.BytesIO()
        pixels = torch.randint(256, (40, 40, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    facts = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    table = pyarrow.table({"img": rows, "label": [0, 1, 1]})
    for split in ("train", "test"):
        path = folder / f"{split}-00000-of-00001.parquet"
        parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(facts)}), path)


@pytest.fixture
def real(tmp_path, monkeypatch):
    """The chapters on real models, on a language model of six words and on images of two classes."""
    make_hub(tmp_path / "hub")
    save_noise(tmp_path / "hub" / "me" / "noise")
    monkeypatch.setenv("L3D_HUB", str(tmp_path / "hub"))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, 4), torch.nn.ReLU(), torch.nn.Flatten(),
                                  torch.nn.Linear(4 * 7 * 7, 2)).eval()  # fmt: skip
    monkeypatch.setattr(real_models, "load_vision_model", lambda name, weights, device: (network, ["cat", "dog"]))
    words = Language(model_id="me/words", data_id="me/texts", parameters="*.self_attn.*", n=8, n_held_out=3,
                     n_positions=3)  # fmt: skip
    images = Vision(weights="SOME", data_id="me/noise", size=32, parameters="0.*", n=3, n_held_out=3)
    for name, source in (("05_language_model", words), ("06_vision", images)):
        quick = replace(
            real_experiments.SETTINGS[name]["quick"], chapter="small", source=source, candidates={},
            runs={"text": Planned(CONFIG), "tuned": Planned(replace(CONFIG, lr=0.1))},
            measuring=Measuring(n_references=2),
        )  # fmt: skip
        monkeypatch.setitem(real_experiments.SETTINGS, name, {"quick": quick, "paper": quick})
    return tmp_path


def test_a_language_models_explorer(real):
    folder, against = explore_chapter("05_language_model", folder=real)
    assert against is None
    result = load_result(folder)
    block = result.block
    assert (block.kind, block.distribution, block.title) == ("tokens", True, "Subnetworks of me/words")
    assert len(result.tensors["impact"]) == 9 and {len(item.tokens) for item in block.items} == {3}
    kinds = [kind for kind, _ in block.decompositions[0].baselines]
    assert kinds == ["coherence: next token", "coherence: last token", "coherence: part of the sentence"]
    # A position's label names the token after it, which is that of the next position of the window.
    for item in block.items:
        for token, label in zip(item.tokens[1:], item.label, strict=False):
            assert label.startswith(f"next token: {block.outputs[token]}; part of the sentence: ")
    assert dict(block.facts)["parameters"] == "*.self_attn.*"


def test_a_token_that_is_no_character_has_the_tokenizers_name(real, monkeypatch):
    source = real_experiments.SETTINGS["05_language_model"]["quick"].source
    plain = language.read(source)
    texts = [*plain.texts[:-1], "\ufffd"]
    monkeypatch.setattr(language, "read", lambda *_: plain._replace(texts=texts))
    names = chapter_explorers._language(source, "cpu")["names"]
    _, tokenizer = chapter_explorers.load_language_model(source.model_id)
    assert names == [*plain.texts[:-1], tokenizer.convert_ids_to_tokens(len(texts) - 1)] != texts


def test_a_vision_networks_explorer_and_other_settings(real):
    folder, _ = explore_chapter("06_vision", run="tuned", changes={"n_v": 2}, folder=real)
    assert folder.name == "06_vision-quick-n_v-2-tuned"
    block = load_result(folder).block
    assert block.kind == "images" and block.outputs == ["cat", "dog"] and len(block.decompositions[0].subnetworks) == 2
    assert sorted(item.name for item in block.items) == ["cat", "dog", "dog"]
    picture = Image.open(io.BytesIO(base64.b64decode(block.items[0].image.split(",")[1])))
    assert picture.size == (32, 32)  # Made smaller from 40.


def test_components_of_apd(tmp_path):
    folder, against = explore_chapter("07_apd", folder=tmp_path)
    one, other = load_result(folder).block, load_result(against).block
    assert (one.decompositions[0].method, other.decompositions[0].method) == ("APD", "L3D")
    assert one.decompositions[0].name == "tms-5-2" and one.tensors == other.tensors == ["W_in"]


def test_chapters_refuse(tmp_path):
    for arguments, message in (
        (("08_your_own_model",), "'08_your_own_model' has no explorer; expected a folder that explore left, or one of"),
        (("01_superposition", "huge"), "preset 'huge' is unknown"),
        (("01_superposition", "quick", "none"), "01_superposition has no decomposition 'none'; expected one of"),
        (("01_superposition", "quick", "text", "none"), "has no decomposition 'none'"),
        (("01_superposition", "quick", None, None, {"n_v": 3}), "'n_v' cannot be changed of 01_superposition"),
        (("07_apd", "quick", None, None, {"seed": 1.5}), "seed is 1.5; expected a whole number"),
        (("07_apd", "quick", "tms-5-2", None, {"seed": 11}), "tms-5-2 has no target of seed 11"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            explore_chapter(*arguments, folder=tmp_path)


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_writes_pages_and_data(made, tmp_path, capsys, monkeypatch):
    _, (folder, against) = made
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "own")
    assert cli.main(["explore", "own"]) == 0
    assert capsys.readouterr().out == "own.html\n"
    (tmp_path / "own.html").unlink()
    monkeypatch.chdir(tmp_path / "own")
    assert cli.main(["explore", "."]) == 0 and (tmp_path / "own.html").exists()
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli.main(["explore", "own", "--against", str(against), "--output", "two/page.html"]) == 0
    assert (tmp_path / "two" / "page.html").stat().st_size > (tmp_path / "own.html").stat().st_size
    assert cli.main(["explore", "own", "--output", "data.json"]) == 0
    assert (tmp_path / "data.json").read_bytes() == (folder / "explorer.json").read_bytes()


def test_the_command_takes_chapters(made, capsys, monkeypatch):
    root, (folder, _) = made
    monkeypatch.chdir(root)
    command = ["explore", "01_superposition", "--run", "tuned", "--artifacts", str(root), "--device", "cpu"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == "explorer/01_superposition-quick-tuned.html\n"
    asked = []
    monkeypatch.setattr(
        chapter_explorers, "explore_chapter", lambda *args, **options: asked.append(args) or (folder, None)
    )
    monkeypatch.setattr(cli, "project_root", lambda: root / "checkout")
    assert cli.main(["explore", "02_circuit_superposition", "--preset", "paper", "--device", "cpu"]) == 0
    assert asked[-1] == ("02_circuit_superposition", "paper", None, None, {})
    assert (root / "checkout" / "book" / "explorer" / "02_circuit_superposition.json").is_file()
    shutil.rmtree(root / "checkout")
    # With anything else than the chapter's own choice the book is left alone.
    for more in (["--run", "text"], ["-p", "seed=3"], ["--against", "text"]):
        assert cli.main(["explore", "02_circuit_superposition", "--preset", "paper", "--device", "cpu", *more]) == 0
        assert not (root / "checkout").exists()
    assert asked[-2][4] == {"seed": 3}


def test_the_command_refuses(made, tmp_path, capsys, monkeypatch):
    _, (folder, _) = made
    monkeypatch.chdir(tmp_path)
    half = shutil.copytree(folder, tmp_path / "half")
    (half / "explorer.json").write_text('{"format":2,')
    for arguments, message in (
        (["06_visoin"], "'06_visoin' has no explorer; expected a folder that explore left, or one of ['01_super"),
        (["half"], "the block is no whole JSON"),
        ([str(folder), "--output", "page.txt"], "--output page.txt is refused; expected an .html file"),
        ([str(folder), "--run", "text"], "--run is for chapters"),
        ([str(folder), "-p", "n_v=3"], "-p is for chapters"),
        ([str(folder), "--preset", "paper"], "--preset is for chapters"),
        ([str(folder), "--device", "cpu"], "--device is for chapters"),
        ([str(folder), "--artifacts", "."], "--artifacts is for chapters"),
        ([str(folder), "--against", "nowhere"], "nowhere is no folder"),
        ([str(folder), "--against", "half"], "the block is no whole JSON"),
        (["01_superposition", "--run", "none", "--artifacts", "."], "has no decomposition 'none'"),
    ):
        assert cli.main(["explore", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


# --- the book ---------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(made, tmp_path):
    """A checkout whose book has one explorer."""
    data = tmp_path / "book" / "explorer" / "01_superposition.json"
    explorer_pages.write_explorer(made[1][0], None, outputs=[data])
    return tmp_path


def test_the_book_lists_and_writes_its_explorers(checkout):
    stale = checkout / "book" / "_static" / "explorer" / "04_squared.html"
    stale.parent.mkdir(parents=True)
    stale.touch()
    [page] = explorer_pages.write_book_pages(checkout)
    assert page == stale.with_name("01_superposition.html") and page.stat().st_size > 50_000 and not stale.exists()
    listed = explorer_pages.listed(checkout)
    assert "5 of `tuned`" in listed and '<a href="../_static/explorer/01_superposition.html">' in listed
    assert "[01_superposition](results/01_superposition.ipynb)" in listed
    shutil.rmtree(checkout / "book" / "explorer")
    assert explorer_pages.listed(checkout).startswith("The book has no explorers yet")
    assert explorer_pages.write_book_pages(checkout) == []


def test_a_title_cannot_break_the_list(checkout):
    path = checkout / "book" / "explorer" / "01_superposition.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "title": "<b>a|b</b>"}))
    assert "&lt;b&gt;a&#124;b&lt;/b&gt;" in explorer_pages.listed(checkout)


def test_damaged_data_are_refused(checkout):
    path = checkout / "book" / "explorer" / "01_superposition.json"
    whole = json.loads(path.read_text())
    for text, message in (
        ("{", r"01_superposition.json: the block is no whole JSON.*l3d explore 01_superposition --preset paper"),
        (json.dumps({**whole, "format": 9}), "format 9; expected 2"),
        (json.dumps({**whole, "tensors": ["W_in"]}), "share of subnetwork 0"),
    ):
        path.write_text(text)
        with pytest.raises(RuntimeError, match=message):
            explorer_pages.book_explorers(checkout)
        assert len(check.check_explorers(checkout)) == 1
    path.rename(path.with_name("99_other.json"))
    with pytest.raises(RuntimeError, match="99_other.json is of no chapter"):
        explorer_pages.book_explorers(checkout)


def test_explorers_of_other_settings_are_out_of_date(checkout):
    path = checkout / "book" / "explorer" / "01_superposition.json"
    [problem] = check.check_explorers(checkout)  # It is of the quick preset.
    assert problem.startswith("01_superposition: the paper preset has changed since its explorer was made")
    own, paper = (settings_digest(experiments.settings("01_superposition", preset)) for preset in ("quick", "paper"))
    assert own in path.read_text()
    path.write_text(path.read_text().replace(own, paper))
    assert check.check_explorers(checkout) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_books_pages_are_small(name):
    """100 subnetworks of the language model within 5 MB, and no other page is larger."""
    blocks = explorer_pages.book_explorers(project_root())
    assert len(page_text(blocks[name])) < 5e6


def test_a_chapters_page_ends_with_its_explorer(checkout):
    notebook = nbformat.writes(new_notebook(cells=[new_markdown_cell("# One")]))
    explorer_pages.write_book_pages(checkout)
    app, source = SimpleNamespace(srcdir=str(checkout)), [notebook]
    for page in ("book/results/04_squared", "book/01_superposition", "index"):
        explorer_pages.add_explorer_(app, page, source)
        assert source == [notebook]
    explorer_pages.add_explorer_(app, "book/results/01_superposition", source)
    found = nbformat.reads(source[0], as_version=4)
    nbformat.validate(found)
    assert found.cells[0].source == "# One" and len(found.cells) == 2
    text = found.cells[1].source
    assert text.startswith("## Explore the subnetworks")
    assert text.count('"../../_static/explorer/01_superposition.html"') == 2
    assert 'title="' in text and 'loading="lazy"' in text


def test_the_build_puts_explorers_into_pages():
    connected = {}
    app = SimpleNamespace(connect=lambda event, function, priority=500: connected.setdefault(event, function))
    publish.setup(app)
    assert connected["source-read"] is explorer_pages.add_explorer_
    assert set(REAL) < set(CHAPTERS)
