"""Results on disk: whole or absent, found again by configuration, damage detected."""

import errno
import json
import time
from pathlib import Path

import pytest
import torch

from l3d_core import artifacts
from l3d_core.artifacts import (
    artifact_path,
    cached,
    code_digest,
    config_hash,
    load_artifact,
    project_root,
    provenance,
    save_artifact,
    tensor_digest,
)

CONFIG = {"experiment": "a", "seeds": [0, 1], "lr": 0.01}
TENSORS = {
    "v": torch.arange(6, dtype=torch.float64).reshape(2, 3).T,
    "kept": torch.tensor([True, False]),
    "seeds": torch.tensor([3, 4]),
}
METRICS = {"loss": 0.1 + 0.2, "names": ["x", "y"], "none": None}
FACTS = {"version": "0", "wall_seconds": 1.5}


def save(path, config=CONFIG, tensors=TENSORS, metrics=METRICS, facts=FACTS):
    save_artifact(path, config, tensors, metrics, facts)


def contents(folder):
    """Returns every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- names ------------------------------------------------------------------------------------------------------


def test_config_hash_hand():
    # The first digits of sha256('{"a": 1, "b": [2, 3]}'), computed outside Python.
    assert config_hash({"b": [2, 3], "a": 1}) == config_hash({"a": 1, "b": (2, 3)}) == "fd28b174"
    assert artifact_path("results", "sweep", {"a": 1, "b": [2, 3]}) == Path("results/sweep-fd28b174")


def test_config_hash_tells_configurations_apart():
    variants = [CONFIG, {**CONFIG, "lr": 0.010000001}, {**CONFIG, "seeds": [1, 0]}, {**CONFIG, "more": None}]
    assert len({config_hash(config) for config in variants}) == 4


def test_the_name_does_not_depend_on_place_time_or_device(tmp_path, monkeypatch):
    names = set()
    for place, device in (("one", "a chip"), ("two", "another chip")):
        monkeypatch.setattr(artifacts, "_cpu_name", lambda device=device: device)
        _, _, facts = cached(tmp_path / place, "sweep", CONFIG, lambda scratch: (TENSORS, METRICS))
        assert facts["device"] == device
        names.add(next((tmp_path / place).iterdir()).name)
    assert names == {f"sweep-{config_hash(CONFIG)}"}


def test_code_digest_follows_the_source_of_results_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_HERE", tmp_path)
    for name in ("l3d.py", "figures/toys.py", "chapters/toys.py", "chapters/toys_summary.py", "cli.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    first = code_digest(["toys"])
    for name in ("figures/toys.py", "cli.py", "chapters/toys_summary.py"):
        (tmp_path / name).write_text("x = 2\n")
        assert code_digest(["toys"]) == first, name
    (tmp_path / "chapters" / "toys.py").write_text("x = 2\n")
    second = code_digest(["toys"])
    (tmp_path / "l3d.py").rename(tmp_path / "renamed.py")
    assert len({first, second, code_digest(["toys"]), code_digest()}) == 4


def test_tensor_digest_follows_the_contents():
    x = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    first = tensor_digest([x])
    assert len(first) == 16
    assert tensor_digest([x.T.contiguous().T]) == tensor_digest([x.clone().requires_grad_()]) == first
    bumped = x.clone()
    bumped[1, 2] += 1e-15 * 5
    others = [[bumped], [x.reshape(3, 2)], [x.float()], [x, x], [x.T], []]
    assert len({first, *(tensor_digest(tensors) for tensors in others)}) == 7
    assert tensor_digest([x, x + 1]) != tensor_digest([x + 1, x])
    assert tensor_digest([torch.tensor(1.0)]) != tensor_digest([torch.tensor([1.0])])


def test_provenance_tells_where_and_with_what():
    facts = provenance()
    assert set(facts) == {"version", "commit", "torch", "python", "device", "threads", "date"}
    assert (facts["version"], facts["torch"]) == (artifacts.__version__, torch.__version__)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["device"].endswith(" cores")
    assert json.loads(json.dumps(facts)) == facts


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_HERE", tmp_path)
    assert provenance()["commit"] is None


def test_project_root_is_a_checkout_or_refused(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "paper_values.json").touch()
    (tmp_path / "deep" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "notebooks")
    assert project_root() == tmp_path
    (tmp_path / "book" / "paper_values.json").unlink()
    assert project_root() == artifacts._HERE.parent  # An editable install from elsewhere
    monkeypatch.setattr(artifacts, "_HERE", tmp_path / "site-packages" / "l3d_core")
    with pytest.raises(ValueError, match="checkout of the project; expected one. Go there, or pip install -e it"):
        project_root()


# --- saving and loading -----------------------------------------------------------------------------------------


def test_save_and_load_round_trip(tmp_path):
    path = tmp_path / "deep" / "sweep-1"
    save(path)
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "metrics.json",
        "provenance.json",
        "tensors.safetensors",
    ]
    config, tensors, metrics, facts = load_artifact(path)
    assert (config, metrics, facts) == (CONFIG, METRICS, FACTS)
    assert set(tensors) == set(TENSORS)
    assert all(tensors[name].equal(t) and tensors[name].dtype == t.dtype for name, t in TENSORS.items())


def test_saving_again_replaces_the_whole_result(tmp_path):
    path = tmp_path / "sweep-1"
    for loss in (1.0, 2.0, 3.0):
        save(path, tensors={"only": torch.ones(1)}, metrics={"loss": loss})
    assert load_artifact(path)[2] == {"loss": 3.0}
    assert set(load_artifact(path)[1]) == {"only"}
    assert list(tmp_path.iterdir()) == [path]


def _full(tensors, path):
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupted(tensors, path):
    path.write_bytes(b"half of it")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("writer", "error", "message"),
    [
        (_full, OSError, "writing .*sweep-1 failed .*No space left.*; expected room on the disk"),
        (_interrupted, KeyboardInterrupt, None),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupted_write_leaves_things_as_they_were(writer, error, message, earlier, tmp_path, monkeypatch):
    path = tmp_path / "sweep-1"
    if earlier:
        save(path)
    before = contents(tmp_path)
    monkeypatch.setattr(artifacts, "save_file", writer)
    with pytest.raises(error, match=message):
        save(path, metrics={"loss": 9.0})
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == ([path] if earlier else [])


def test_an_earlier_result_is_put_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "sweep-1"
    save(path)
    before, plain = contents(tmp_path), Path.rename

    def rename(self, target):
        if target == path and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="writing .*sweep-1 failed .*Input/output error"):
        save(path, metrics={"loss": 9.0})
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_that_are_not_json_leave_the_earlier_result(tmp_path):
    path = tmp_path / "sweep-1"
    save(path)
    before = contents(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(path, metrics={"loss": torch.ones(1)})
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match=r"cannot write .*file/sweep-1: .*; expected a writable folder"):
        save(tmp_path / "file" / "sweep-1")
    assert contents(tmp_path) == {"file": b"kept"}


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "provenance.json", "tensors.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "not text"])
def test_damage_is_detected(name, damage, tmp_path):
    path = tmp_path / "sweep-1"
    save(path)
    whole = (path / name).read_bytes()
    if damage == "missing":
        (path / name).unlink()
    else:
        (path / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"\xff\xfe\xfa" * 9)
    with pytest.raises(ValueError, match=r"sweep-1 is no whole result .*; delete the folder to compute it again"):
        load_artifact(path)
    with pytest.raises(ValueError, match="is no whole result"):
        load_artifact(tmp_path / "absent")


# --- cached -----------------------------------------------------------------------------------------------------


def test_cached_computes_once(tmp_path):
    calls = []

    def compute(scratch):
        calls.append(scratch)
        (scratch / "state").write_text("half way")
        return TENSORS, METRICS

    first, again = (cached(tmp_path, "sweep", CONFIG, compute) for _ in range(2))
    assert len(calls) == 1
    assert list(tmp_path.iterdir()) == [artifact_path(tmp_path, "sweep", CONFIG)]  # The scratch folder is gone.
    for tensors, metrics, facts in (first, again):
        assert all(tensors[name].equal(t) for name, t in TENSORS.items())
        assert metrics == METRICS
        assert facts["wall_seconds"] >= 0 and facts["core_seconds"] >= 0
    assert first[2] == again[2]
    cached(tmp_path, "sweep", {**CONFIG, "lr": 0.02}, compute)
    cached(tmp_path, "other", CONFIG, compute)
    assert len(calls) == 3


def test_cached_goes_on_after_an_interruption(tmp_path):
    def interrupted(scratch):
        (scratch / "state").write_text("half way")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "sweep", CONFIG, interrupted)
    assert not artifact_path(tmp_path, "sweep", CONFIG).exists()

    def resumed(scratch):
        assert (scratch / "state").read_text() == "half way"
        return TENSORS, METRICS

    cached(tmp_path, "sweep", CONFIG, resumed)
    assert list(tmp_path.iterdir()) == [artifact_path(tmp_path, "sweep", CONFIG)]


def test_seconds_before_an_interruption_count_as_far_as_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_EVERY", 0.01)

    def interrupted(scratch, saves=True):
        time.sleep(0.4)
        if saves:
            (scratch / "state").write_text("half way")
        time.sleep(1.0)  # The seconds are kept in here; these are lost, as what was done in them.
        raise KeyboardInterrupt

    def quick(scratch):
        return TENSORS, METRICS

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "resumed", CONFIG, interrupted)
    resumed = cached(tmp_path, "resumed", CONFIG, quick)[2]
    assert 0.4 <= resumed["wall_seconds"] <= 1.2 and resumed["core_seconds"] < 0.3
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "anew", CONFIG, lambda scratch: interrupted(scratch, saves=False))
    assert cached(tmp_path, "anew", CONFIG, quick)[2]["wall_seconds"] < 0.4


def test_cached_keeps_the_scratch_if_the_result_cannot_be_saved(tmp_path, monkeypatch):
    def compute(scratch):
        (scratch / "state").write_text("all done")
        return TENSORS, METRICS

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "save_file", _full)
        with pytest.raises(OSError, match="expected room on the disk"):
            cached(tmp_path, "sweep", CONFIG, compute)
    (left,) = tmp_path.iterdir()
    assert contents(left) == {"state": b"all done"}


def test_cached_does_not_compute_over_a_damaged_result(tmp_path):
    cached(tmp_path, "sweep", CONFIG, lambda scratch: (TENSORS, METRICS))
    path = artifact_path(tmp_path, "sweep", CONFIG)
    (path / "metrics.json").write_text("{")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is no whole result .*; delete the folder to compute it again"):
        cached(tmp_path, "sweep", CONFIG, lambda scratch: pytest.fail("computed again"))
    assert contents(tmp_path) == before
