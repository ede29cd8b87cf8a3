"""Training the shipped targets anew, and the command that does it."""

from functools import partial

import pytest
import torch

from l3d_core import cli, parallel, targets, toys
from l3d_core.toys import ToyTraining, load_toys, train

SMALL = {"n_points": 40, "epochs": 1, "batch_size": 20, "n_hidden": 2}
TINY = (
    (ToyTraining(**SMALL), (0, 3)),
    (ToyTraining(toy="squared", **SMALL), (1,)),
    (ToyTraining(toy="high_rank", **SMALL), (2,)),
)
NAMES = [config.name for config, _ in TINY]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Three tiny kinds of targets, trained in this process."""
    monkeypatch.setattr(toys, "SHIPPED", TINY)
    monkeypatch.setattr(targets, "run_jobs", partial(parallel.run_jobs, workers=1))


def test_all_targets_are_trained_and_written(tmp_path, capsys):
    found = targets.retrain(folder=tmp_path, progress=False)
    assert targets.names() == NAMES == ["superposition_5-2", "squared_5-2", "high_rank_5-2"]
    assert sorted(found) == sorted(NAMES) and all(seconds > 0 for seconds in found.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{name}.safetensors" for name in NAMES)
    for config, seeds in TINY:
        stored, again = load_toys(tmp_path / f"{config.name}.safetensors"), train(config, seeds)
        assert (stored.config, stored.seeds, stored.wall_seconds) == (config, list(seeds), found[config.name])
        assert all(stored.weights[name].equal(t) for name, t in again.weights.items())
        assert torch.equal(stored.losses, again.losses)
    assert capsys.readouterr().err == ""


def test_only_those_asked_for_are_trained(tmp_path):
    assert list(targets.retrain(["squared_5-2"], tmp_path, progress=False)) == ["squared_5-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["squared_5-2.safetensors"]


def test_the_slowest_begin_first(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(targets, "run_jobs", lambda function, jobs: asked.extend(jobs) or [0.0] * len(jobs))
    assert list(targets.retrain(folder=tmp_path)) == NAMES[::-1]
    assert [job["config"].name for job in asked] == NAMES[::-1] and all(job["progress"] for job in asked)


def test_a_failed_training_leaves_the_old_file(tmp_path, monkeypatch):
    targets.retrain(folder=tmp_path, progress=False)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fail(config, seeds, **options):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(toys, "train", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        targets.retrain(folder=tmp_path, progress=False)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_unknown_targets_are_refused_before_any_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "run_jobs", None)
    with pytest.raises(
        ValueError, match=r"target 'cubed_5-2' is unknown; expected some of \['superposition_5-2', 'squ"
    ):
        targets.retrain(["squared_5-2", "cubed_5-2"], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_new_folder_is_made_before_any_is_trained(tmp_path, monkeypatch):
    targets.retrain(["squared_5-2"], tmp_path / "a" / "b", progress=False)
    assert load_toys(tmp_path / "a" / "b" / "squared_5-2.safetensors").seeds == [1]
    (tmp_path / "file").touch()
    monkeypatch.setattr(targets, "run_jobs", None)
    with pytest.raises(OSError, match="file"):
        targets.retrain(["squared_5-2"], tmp_path / "file")


def test_the_command(tmp_path, capsys, monkeypatch):
    assert cli.main(["targets", "squared_5-2", "superposition_5-2", "--output", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["squared_5-2", "superposition_5-2"]
    assert all(line.endswith(" s") for line in lines)
    assert sorted(p.stem for p in (tmp_path / "new").iterdir()) == ["squared_5-2", "superposition_5-2"]
    asked = []
    monkeypatch.setattr(targets, "retrain", lambda *arguments: asked.append(arguments) or {"a": 61.7})
    assert cli.main(["targets"]) == 0
    assert asked == [([], toys.WEIGHTS)]
    assert capsys.readouterr().out == "a: 62 s\n"


@pytest.mark.parametrize(("error", "status"), [(ValueError, 2), (OSError, 1), (KeyboardInterrupt, 130)])
def test_the_command_tells_what_went_wrong(capsys, monkeypatch, error, status):
    def fail(*_):
        raise error("it failed")

    monkeypatch.setattr(targets, "retrain", fail)
    assert cli.main(["targets"]) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("l3d: ")


def test_the_command_refuses_unknown_targets(capsys):
    assert cli.main(["targets", "cubed"]) == 2
    assert "l3d: target 'cubed' is unknown; expected some of" in capsys.readouterr().err
