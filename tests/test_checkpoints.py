"""Training state on disk: exact resume, and what a failure leaves behind."""

import errno

import pytest
import torch
from reference_training import mlp, normal
from safetensors.torch import save_file

from l3d_core import checkpoints, training
from l3d_core.checkpoints import FORMAT, load_checkpoint, save_checkpoint, write_whole
from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run, build_program
from l3d_core.step import Stepper
from l3d_core.training import fit

RECORDS = ("recon_sq", "recon_norm", "p_active", "first_losses")


def pair(epochs=5, **settings):
    """Returns two runs of 6 batches an epoch, the last of them smaller."""
    base = {"n_v": 3, "epochs": epochs, "batch_size": 4, "lr_decay_every_epochs": 2}
    configs = [L3DConfig(**base, **settings), L3DConfig(**base, rank=2, loss="recon_sq", encoder_init="random")]
    return [Run(mlp(s), normal(s + 5, 22, 4), config, "kl", s) for s, config in enumerate(configs)]


def assert_identical(found, expected):
    """Asserts that all numbers are the same, bit for bit."""
    for a, b in zip(found, expected, strict=True):
        assert a.v_in.flat.equal(b.v_in.flat)
        assert a.v_out.flat.equal(b.v_out.flat)
        for name in RECORDS:
            assert getattr(a.history, name).equal(getattr(b.history, name))


class Killed(Exception):
    """Stands for whatever ends a process."""


def kill_at(monkeypatch, step):
    """Makes training stop with an exception in the middle of the step of this number."""
    plain = Stepper.step_

    def step_or_die(stepper, batch, epoch, now):
        if now == step:
            stepper.numbers += 1.0
            raise Killed
        return plain(stepper, batch, epoch, now)

    monkeypatch.setattr(Stepper, "step_", step_or_die)


# --- resume -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 6, 8, 12, 29, 30])
def test_stopping_and_going_on_is_exact(steps, tmp_path, batch_blocks):
    # Each batch is a block of its own, so that most of these lie in the middle of an epoch.
    path = tmp_path / "state"
    stopped = fit(pair(), checkpoint=path, max_steps=steps)
    assert len(stopped[0].history.first_losses) == steps
    assert len(stopped[0].history.recon_sq) == steps // 6
    assert_identical(fit(pair(), checkpoint=path), fit(pair()))


def test_stopping_several_times_is_exact(tmp_path, batch_blocks):
    path = tmp_path / "state"
    for steps in (2, 3, 9, 10, 11, 24):
        fit(pair(dense_epochs=1), checkpoint=path, max_steps=steps)
    assert_identical(fit(pair(dense_epochs=1), checkpoint=path), fit(pair(dense_epochs=1)))


@pytest.mark.parametrize("steps", [7, 12, 15, 20])
def test_going_on_among_dead_subnetworks_is_exact(steps, tmp_path, batch_blocks):
    path, settings = tmp_path / "state", {"k_fraction": 0.01, "encoder_init": "random", "revival": 0.5}
    whole = fit(pair(**settings))
    assert (whole[0].history.p_active[:3] == 0).any(1).all()  # One is dead in epochs 1 to 3, steps 6 to 23.
    fit(pair(**settings), checkpoint=path, max_steps=steps)
    assert_identical(fit(pair(**settings), checkpoint=path), whole)


@pytest.mark.parametrize("step", [0, 2, 5, 6, 17])
def test_going_on_after_a_crash_is_exact(step, tmp_path, monkeypatch, batch_blocks):
    path = tmp_path / "state"
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            fit(pair(), checkpoint=path, checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        taken = []
        plain = Stepper.step_
        patch.setattr(Stepper, "step_", lambda s, b, e, now: (taken.append(now), plain(s, b, e, now))[1])
        resumed = fit(pair(), checkpoint=path)
    assert taken == list(range(step, 30))  # What was done before the crash is not done again.
    assert_identical(resumed, fit(pair()))


@pytest.mark.parametrize(("before", "after"), [(1, 3), (1, None), (3, 1), (2, 3), (1, 2), (2, None)])
def test_going_on_with_another_block_size(before, after, tmp_path, blocks_of):
    # 3 batches of 6 are done, or 4: they are one and a half blocks of 2 batches, and one and a third of 3.
    path = tmp_path / "state"
    plain = fit(pair())
    blocks_of(pair(), before)
    assert build_program(pair()).plan.batches_per_block == before
    stopped = fit(pair(), checkpoint=path, max_steps=3)[0]
    assert len(stopped.history.first_losses) == -(-3 // before) * before < 6
    blocks_of(pair(), after)
    assert len(build_program(pair()).blocks) == {1: 6, 2: 4, 3: 3, None: 2}[after]
    for a, b in zip(fit(pair(), checkpoint=path), plain, strict=True):
        torch.testing.assert_close(a.v_in.flat, b.v_in.flat, rtol=0, atol=1e-10)
        torch.testing.assert_close(a.v_out.flat, b.v_out.flat, rtol=0, atol=1e-10)
        for name in RECORDS:
            torch.testing.assert_close(getattr(a.history, name), getattr(b.history, name), rtol=0, atol=1e-10)


def test_a_finished_training_is_read_and_not_repeated(tmp_path, monkeypatch):
    path = tmp_path / "state"
    first = fit(pair(), checkpoint=path)
    kill_at(monkeypatch, 30)
    again = fit(pair(), checkpoint=path)
    assert_identical(again, first)
    assert again[0].history.wall_seconds == first[0].history.wall_seconds


def test_steps_that_are_done_are_not_exceeded(tmp_path, batch_blocks):
    path = tmp_path / "state"
    first = fit(pair(), checkpoint=path, max_steps=7)
    for steps in (7, 3):
        assert_identical(fit(pair(), checkpoint=path, max_steps=steps), first)


def test_seconds_between_saves(tmp_path, monkeypatch, batch_blocks):
    saved = []
    monkeypatch.setattr(training, "save_checkpoint", lambda path, key, state: saved.append(int(state["step"])))
    fit(pair(epochs=2), checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert saved == [0, *range(1, 13), 12]  # Before the first step, after every block, and at the end.
    saved.clear()
    fit(pair(epochs=2), checkpoint=tmp_path / "state", checkpoint_seconds=1000)
    assert saved == [0, 12]
    saved.clear()
    fit(pair(epochs=2))
    assert saved == []


# --- failures ---------------------------------------------------------------------------------------------------


def changed(kind):
    """Returns runs that differ from `pair` in one thing."""
    runs = pair()
    first = runs[0]
    config, model, inputs, divergence, seed = first.config, first.model, first.inputs, first.divergence, first.seed
    if kind == "settings":
        config = L3DConfig(n_v=3, epochs=5, batch_size=4, lr_decay_every_epochs=2, lr=0.02)
    elif kind == "weights":
        model = mlp(9)
    elif kind == "one weight":
        model[0].weight.data[0, 0] += 1e-12
    elif kind == "data":
        inputs = inputs.clone()
        inputs[21, 3] += 1e-12
    elif kind == "divergence":
        divergence = "mse"
    elif kind == "seed":
        seed = 7
    batch_seed = 0 if kind == "batches" else None
    return [Run(model, inputs, config, divergence, seed, batch_seed=batch_seed), runs[1]]


@pytest.mark.parametrize(
    "kind", ["settings", "weights", "one weight", "data", "divergence", "seed", "batches", "order"]
)
def test_a_checkpoint_of_other_runs_is_refused(kind, tmp_path, batch_blocks):
    path = tmp_path / "state"
    fit(pair(), checkpoint=path, max_steps=2)
    before = path.read_bytes()
    other = pair()[::-1] if kind == "order" else changed(kind)
    with pytest.raises(ValueError, match=r"belongs to other runs \(settings, seeds, weights or data differ\)"):
        fit(other, checkpoint=path)
    assert path.read_bytes() == before


def test_another_precision_is_refused_and_another_path_is_not(tmp_path, batch_blocks):
    path, plain = tmp_path / "state", fit(pair())
    fit(pair(), checkpoint=path, max_steps=2)
    with pytest.raises(ValueError, match="belongs to other runs"):
        fit(pair(), checkpoint=path, operand_dtype=torch.float32)
    resumed = fit(pair(), checkpoint=path, paths={"*": "factored"})
    for a, b in zip(resumed, plain, strict=True):
        torch.testing.assert_close(a.v_out.flat, b.v_out.flat, rtol=0, atol=1e-10)


def test_which_run_has_which_inputs_matters(tmp_path):
    path, config, model = tmp_path / "state", L3DConfig(n_v=2, epochs=2, batch_size=4), mlp(0)
    a, b = normal(1, 8, 4), normal(2, 8, 4)
    fit([Run(model, x, config) for x in (a, a, b)], checkpoint=path)
    with pytest.raises(ValueError, match="belongs to other runs"):
        fit([Run(model, x, config) for x in (a, b, b)], checkpoint=path)


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten", "header"])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    path = tmp_path / "state"
    fit(pair(), checkpoint=path, max_steps=1)
    whole = path.read_bytes()
    broken = {
        "cut": whole[:-100],
        "emptied": b"",
        "overwritten": b"not a checkpoint" * 100,
        "header": b"\xff" * 8 + whole[8:],
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"checkpoint .*state is damaged .*; expected a whole file. Delete it"):
        fit(pair(), checkpoint=path)
    assert path.read_bytes() == broken


@pytest.mark.parametrize("metadata", [None, {"format": "another-1", "key": "x"}])
def test_another_file_is_no_checkpoint(metadata, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata=metadata)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"is no checkpoint of this library; expected format {FORMAT}"):
        fit(pair(), checkpoint=path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_reported_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    kill_at(monkeypatch, 0)
    with pytest.raises(OSError, match=r"cannot write .*file/below/state: .*; expected a writable folder"):
        fit(pair(), checkpoint=tmp_path / "file" / "below" / "state")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("partly", [False, True])
def test_a_full_disk_leaves_the_last_checkpoint(partly, tmp_path, monkeypatch, batch_blocks):
    path = tmp_path / "state"
    fit(pair(), checkpoint=path, max_steps=8)
    before = path.read_bytes()

    def full(tensors, name, metadata):
        if partly:
            name.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(OSError, match=r"writing .*state failed .*No space left.*; expected room on the disk"):
            fit(pair(), checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # No .part file is left.
    assert_identical(fit(pair(), checkpoint=path), fit(pair()))


def test_an_interrupted_save_leaves_the_last_checkpoint(tmp_path, monkeypatch, batch_blocks):
    path = tmp_path / "state"
    fit(pair(), checkpoint=path, max_steps=2)
    before = path.read_bytes()

    def interrupted(tensors, name, metadata):
        name.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(pair(), checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n_batches", [1, None])
def test_a_diverged_state_is_not_saved(n_batches, tmp_path, blocks_of):
    path = tmp_path / "state"
    run = Run(mlp(0), normal(5, 22, 4), L3DConfig(n_v=3, epochs=2, batch_size=4, lr=1e200))
    blocks_of([run], n_batches)
    with pytest.raises(FloatingPointError, match="became NaN or infinite"):
        fit([run], checkpoint=path, checkpoint_seconds=0)
    with checkpoints.safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("numbers", "moments", "recon_sq", "first_losses"):
        assert torch.isfinite(state[name]).all()
    with pytest.raises(FloatingPointError, match="became NaN or infinite"):  # Not silently taken up where it broke.
        fit([run], checkpoint=path)


# --- files ------------------------------------------------------------------------------------------------------


def test_save_and_load_round_trip(tmp_path):
    state = {"a": normal(0, 3, 4), "n": torch.tensor(5), "stream": torch.arange(9, dtype=torch.uint8)}
    state["view"] = state["a"].T
    save_checkpoint(tmp_path / "deep" / "folder" / "state", "abc", state)
    found = load_checkpoint(tmp_path / "deep" / "folder" / "state", "abc")
    assert set(found) == set(state)
    assert all(found[name].equal(value) and found[name].dtype == value.dtype for name, value in state.items())
    with pytest.raises(ValueError, match="belongs to other runs"):
        load_checkpoint(tmp_path / "deep" / "folder" / "state", "abd")


def test_write_whole_replaces_or_keeps(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda part: part.write_text("first"))
    write_whole(path, lambda part: part.write_text("second"))
    assert path.read_text() == "second"

    def fail(part):
        part.write_text("third")
        assert path.read_text() == "second"
        raise RuntimeError("unforeseen")

    with pytest.raises(RuntimeError, match="unforeseen"):
        write_whole(path, fail)
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_two_functions_of_one_name_are_told_apart(tmp_path):
    """Both are called <lambda>; only their values differ."""
    squared, absolute = (lambda y, r: (y - r).square().mean(-1)), (lambda y, r: (y - r).abs().mean(-1))
    runs = [[Run(r.model, r.inputs, r.config, d, r.seed) for r in pair()] for d in (squared, absolute)]
    path = tmp_path / "state"
    fit(runs[0], checkpoint=path, max_steps=2)
    with pytest.raises(ValueError, match="belongs to other runs"):
        fit(runs[1], checkpoint=path)
    assert len(fit(runs[0], checkpoint=path)) == 2


def test_p_active_before_the_first_epoch_says_so(batch_blocks):
    unfinished = fit(pair(), max_steps=1)[0]
    with pytest.raises(ValueError, match="training stopped before its first epoch was done; expected one"):
        _ = unfinished.live
