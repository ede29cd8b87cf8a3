"""The manifest, the notebooks, the table of contents and the committed results agree, and the checks can fail."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch

from l3d_core import check, experiments, record
from l3d_core.artifacts import provenance
from l3d_core.chapters import superposition
from l3d_core.chapters.statistics import settings_digest, spread, spread_text
from l3d_core.chapters.studies import Study, fit_job, study
from l3d_core.chapters.superposition_summary import chosen_candidate


def test_built_entries_notebooks_and_contents_agree(root):
    assert check.check_lists(root) == []
    assert {e.notebook for e in experiments.EXHIBITS if experiments.built(e)} == set(experiments.notebooks())
    assert len({e.id for e in experiments.EXHIBITS}) == len(experiments.EXHIBITS)


def test_a_notebook_nobody_listed_is_found(root, tmp_path):
    for name in ("notebooks", "book"):
        (tmp_path / name).mkdir()
    shutil.copy(root / "book" / "_toc.yml", tmp_path / "book")
    for name in [*experiments.notebooks(), "99_stray"]:
        (tmp_path / "notebooks" / f"{name}.ipynb").touch()
    problems = check.check_lists(tmp_path)
    assert len(problems) == 1 and "99_stray" in problems[0]


@pytest.fixture
def results(root, tmp_path):
    """Copies of a source notebook and its committed full run."""
    name = experiments.notebooks()[0]
    source, result = tmp_path / "source.ipynb", tmp_path / "result.ipynb"
    shutil.copy(root / "notebooks" / f"{name}.ipynb", source)
    shutil.copy(root / "book" / "results" / f"{name}.ipynb", result)
    return name, source, result


def change(path, edit):
    notebook = nbformat.read(path, as_version=4)
    edit(notebook)
    nbformat.write(notebook, path)


def test_the_committed_result_is_whole_and_of_todays_notebook(results):
    name, source, result = results
    assert check.check_result(source, result, name) == []


def test_a_changed_cell_makes_a_result_stale(results):
    name, source, result = results
    change(source, lambda nb: nb.cells[-1].update(source="record.publish({})"))
    assert "the notebook has changed" in check.check_result(source, result, name)[0]


def test_an_unrun_cell_makes_a_result_incomplete(results):
    name, source, result = results
    change(result, lambda nb: nb.cells[-1].update(execution_count=None, outputs=[]))
    assert "was not run" in check.check_result(source, result, name)[0]


def test_a_changed_preset_makes_a_result_stale(results, monkeypatch):
    name, source, result = results
    paper = experiments.SETTINGS[name]["paper"]
    monkeypatch.setitem(experiments.SETTINGS[name], "paper", replace(paper, epochs=paper.epochs + 1))
    assert "the paper preset has changed" in check.check_result(source, result, name)[0]


def test_a_changed_loss_is_found(monkeypatch):
    """A tiny preset checked against its own losses, and against losses off by one part in a thousand."""
    tiny = replace(experiments.SETTINGS["01_superposition"]["quick"], seeds=(1,), tuning_seeds=(1000,), size_seeds=(1,))
    monkeypatch.setitem(experiments.SETTINGS["01_superposition"], "paper", replace(tiny, sizes=((5, 2),), epochs=3))
    settings = experiments.settings("01_superposition", "paper")
    losses = {
        name: [[l3d.history.first_losses.tolist()] for l3d in fit_job(job, max_steps=50)]
        for name, job in superposition.jobs(settings).items()
    }
    here, elsewhere = ({"first_losses": losses, "provenance": {"device": d}} for d in (provenance()["device"], "other"))
    for found in (here, elsewhere):
        assert check.check_losses("01_superposition", found) == []
    losses["tuning"][2][0][49] *= 1.001
    problems = check.check_losses("01_superposition", here)
    assert len(problems) == 1 and "tuning: first losses differ" in problems[0]
    # Another processor may part some runs, but not in their first loss, and not most of them.
    assert check.check_losses("01_superposition", elsewhere) == []
    losses["tuning"][2][0][0] *= 1.001
    problems = check.check_losses("01_superposition", elsewhere)
    assert len(problems) == 1 and "tuning: first losses differ" in problems[0]
    losses["tuning"][2][0][0] /= 1.001
    for stack in losses.values():
        for run in stack:
            run[0][3] *= 1.001
    [problem] = check.check_losses("01_superposition", elsewhere)
    n = sum(map(len, losses.values()))
    assert f"first losses of {n} of {n} runs differ" in problem


def test_unknown_notebook_and_preset_are_refused():
    with pytest.raises(ValueError, match=r"notebook '77' is unknown; expected one of \['01_superposition'"):
        experiments.settings("77", "paper")
    with pytest.raises(ValueError, match="preset 'fast' of 01_superposition is unknown; expected one of"):
        experiments.settings("01_superposition", "fast")


def test_tuning_targets_are_not_reported_on():
    for preset in experiments.PRESETS:
        settings = experiments.settings("01_superposition", preset)
        assert not set(settings.seeds + settings.size_seeds) & set(settings.tuning_seeds)
    paper = experiments.settings("01_superposition", "paper")
    assert paper.seeds == tuple(range(16)) and paper.tuning_seeds == tuple(range(1000, 1016))


def test_the_settings_digest_is_the_same_wherever_the_package_lies(monkeypatch):
    from l3d_core.chapters import statistics

    vision = experiments.settings("06_vision", "paper")
    here, weights = settings_digest(vision), vision.source.weights
    assert str(statistics.PACKAGE) in repr(vision)
    moved = Path("/elsewhere") / weights.relative_to(statistics.PACKAGE)
    monkeypatch.setattr(statistics, "PACKAGE", Path("/elsewhere"))
    assert settings_digest(replace(vision, source=replace(vision.source, weights=moved))) == here
    assert settings_digest(replace(vision, source=replace(vision.source, weights=Path("/elsewhere/other")))) != here


def test_the_settings_digest_follows_every_setting():
    quick = experiments.settings("01_superposition", "quick")
    assert settings_digest(quick) == settings_digest(replace(quick))
    assert settings_digest(quick) != settings_digest(replace(quick, epochs=21))


def test_the_rule_that_picks_tuned():
    """Most targets recovered first, then the worst share to three decimals, then the order of the list."""
    recovered = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])[..., None]
    worst = [0.999, 0.9701, 0.9804, 0.98036]
    shares = torch.stack([torch.tensor([[0.99, s]] * 3) for s in worst])
    tensors = {f"{name}/recovered": r for name, r in zip("abcd", recovered, strict=True)}
    tensors |= {f"{name}/share_in": share for name, share in zip("abcd", shares, strict=True)}
    study = Study(tensors, list("abcd"), [1, 2, 3], 3)
    assert chosen_candidate(study) == "c"  # c and d are both 0.980; a misses a target; b has 0.970


def test_spread_by_hand():
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "min": 1.0, "max": 10.0, "n": 4}
    assert spread_text([0.1234, 0.2]) == "0.162 [0.123, 0.200], n = 2"


def test_the_papers_numbers_name_their_place_and_source(root):
    for value in record.paper_values(root).values():
        assert {"place", "source"} <= set(value) and ("value" in value) != ("range" in value)
    assert json.loads((root / "book" / "paper_values.json").read_text())


def test_a_stack_that_is_missing_or_of_another_size_is_a_problem_and_no_crash(monkeypatch):
    tiny = replace(experiments.SETTINGS["01_superposition"]["quick"], seeds=(1,), tuning_seeds=(1000,), size_seeds=(1,))
    monkeypatch.setitem(experiments.SETTINGS["01_superposition"], "paper", replace(tiny, sizes=((5, 2),), epochs=2))
    jobs = superposition.jobs(experiments.settings("01_superposition", "paper"))
    losses = {name: [[[0.5] * 50] * (len(job.runs()) + 1)] for name, job in jobs.items()}
    here = {"first_losses": losses, "provenance": provenance()}
    found = check.check_losses("01_superposition", here)
    assert len(found) == len(jobs) and "runs stored" in found[0]
    del losses["main"]
    assert check.check_losses("01_superposition", here) == [
        "01_superposition: its record and the preset differ in ['main']; run it again."
    ]


def test_the_order_of_variants_is_part_of_a_study(tmp_path, monkeypatch):
    """Two orders of the same variants are two results, each with its own names."""
    settings = replace(experiments.SETTINGS["01_superposition"]["quick"], epochs=2, n_samples=50)
    main = replace(superposition.jobs(settings)["tuning"], seeds=(1,))
    orders = list(settings.variants.items())[:2], list(settings.variants.items())[1::-1]
    found = [study("order", replace(main, variants=dict(variants)), tmp_path) for variants in orders]
    assert [study.names for study in found] == [["text", "code"], ["code", "text"]]
    for name in ("text", "code"):
        assert torch.equal(found[0].of("recon_sq", name), found[1].of("recon_sq", name))
    assert not torch.equal(found[0].of("recon_sq", "text"), found[0].of("recon_sq", "code"))


def test_a_claim_whose_figure_is_unknown_is_a_problem(root, monkeypatch):
    monkeypatch.setattr(check, "CLAIMS", [replace(check.CLAIMS[0], figure="nowhere")])
    assert "figure 'nowhere' is not in the manifest" in check.check_claims(root)[0]
