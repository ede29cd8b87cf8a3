"""The toy model of superposition: model, inputs, training, files and shipped targets."""

import json

import pytest
import torch
from safetensors import safe_open

from l3d_core import toys
from l3d_core.toys import Superposition, Task, ToyTraining, active_share, load_toys, save_toys, sparse_inputs, train

SMALL = ToyTraining(n_features=4, n_hidden=2, n_points=70, epochs=3, batch_size=16)


# --- model and inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_superposition_hand(tied):
    w_in, b = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]), torch.tensor([0.5, -1.0, 0.0])
    model = Superposition(w_in, b, tied=tied)
    # x W_in = 2 (1, 0) + 1 (-1, 1) = (1, 1); times W_in^T: 1, 2, 0; plus b: 1.5, 1, 0.
    assert model(torch.tensor([[2.0, 0.0, 1.0]])).tolist() == [[1.5, 1.0, 0.0]]
    # (0, 2) gives 0, 4, 2 before the bias; with minus signs the relu stops the last two.
    assert model(torch.tensor([[0.0, -1.0, 0.0]])).tolist() == [[0.5, 0.0, 0.0]]
    assert [name for name, _ in model.named_parameters()] == (["W_in", "b"] if tied else ["W_in", "W_out", "b"])


def test_untied_weights_are_parameters_of_their_own():
    w_in = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    model = Superposition(w_in, torch.zeros(2))
    with torch.no_grad():
        model.W_out[0, 1] = 5.0
        w_in[0, 0] = 100.0  # The model has copies.
    # (1, 0) W_in = (1, 0); times W_out = [[1, 5], [0, 2]].
    assert model(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 5.0]]


def test_active_share_hand():
    # .05 / (1 - .95^5) = .05 / .2262190625 = .2210, and 1 where a feature is always active.
    assert active_share(5, 0.05) == pytest.approx(0.05 / 0.2262190625, rel=1e-12)
    assert active_share(3, 1.0) == 1.0


@pytest.mark.parametrize(("n_features", "p_active"), [(5, 0.05), (10, 0.05), (3, 0.4)])
def test_sparse_inputs_statistics(n_features, p_active):
    x = sparse_inputs(40_000, n_features, p_active, seed=3)
    assert x.shape == (40_000, n_features)
    assert x.dtype == torch.float32
    assert (x > 0).any(1).all()  # No row is empty.
    assert 0 <= float(x.min()) <= float(x.max()) < 1
    share = (x > 0).double().mean(0)
    expected = active_share(n_features, p_active)
    # Five standard errors of a share over 40,000 rows, and of the mean 1/2 and variance 1/12 of uniform numbers.
    error = 5 * (expected * (1 - expected) / 40_000) ** 0.5
    assert share.sub(expected).abs().max() < error
    values = x[x > 0].double()
    assert abs(float(values.mean()) - 0.5) < 5 * (1 / 12 / len(values)) ** 0.5
    assert abs(float(values.var()) - 1 / 12) < 5 * (1 / 180 / len(values)) ** 0.5


def test_sparse_inputs_follow_the_seed():
    assert sparse_inputs(50, 4, seed=1).equal(sparse_inputs(50, 4, seed=1))
    assert not sparse_inputs(50, 4, seed=1).equal(sparse_inputs(50, 4, seed=2))
    assert (sparse_inputs(50, 4, 1.0) > 0).all()


@pytest.mark.parametrize(("n", "n_features", "p_active"), [(0, 5, 0.1), (5, 0, 0.1), (5, 5, 0.0), (5, 5, 1.1)])
def test_sparse_inputs_refuse(n, n_features, p_active):
    message = rf"n {n}, n_features {n_features}, p_active {p_active}; expected n >= 1, p_active in \(0, 1\]"
    with pytest.raises(ValueError, match=message):
        sparse_inputs(n, n_features, p_active)


# --- training ---------------------------------------------------------------------------------------------------


def test_training_oracle():
    # One seed by the plain loop over a tied model: 70 rows in batches of 16, the last of 6.
    found = train(SMALL, [5])
    generator = torch.Generator().manual_seed(5)
    w_in = torch.randn(4, 2, generator=generator) * (2 / 6) ** 0.5  # Xavier: variance 2 / (n_features + n_hidden)
    model = Superposition(w_in, torch.zeros(4), tied=True)
    x_all = sparse_inputs(70, 4, 0.05, seed=2**20 + 5)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.001)
    for _ in range(3):
        order, total = torch.randperm(70, generator=generator), 0.0
        for start in range(0, 70, 16):
            x = x_all[order[start : start + 16]]
            loss = torch.nn.functional.mse_loss(model(x), x)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(x)
    torch.testing.assert_close(found.weights["W_in"][0], model.W_in.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.weights["b"][0], model.b.detach(), rtol=0, atol=1e-6)
    assert float(found.losses[0]) == pytest.approx(total / 70, rel=1e-5)
    assert (found.weights["W_in"][0] - w_in).abs().max() > 1e-3  # It moved.


def test_targets_trained_side_by_side_equal_each_alone():
    together = train(SMALL, [3, 11, 0])
    for i, seed in enumerate(together.seeds):
        alone = train(SMALL, [seed])
        torch.testing.assert_close(together.weights["W_in"][i], alone.weights["W_in"][0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.weights["b"][i], alone.weights["b"][0], rtol=0, atol=1e-6)
        assert float(together.losses[i]) == pytest.approx(float(alone.losses[0]), rel=1e-5)
    assert (together.weights["W_in"][0] - together.weights["W_in"][1]).abs().max() > 0.01


def test_training_lowers_the_loss():
    short, long = (train(ToyTraining(n_points=320, epochs=n, lr=0.01), [0]) for n in (1, 30))
    assert float(long.losses[0]) < 0.8 * float(short.losses[0])


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_training_refuses_seeds(seeds):
    with pytest.raises(ValueError, match=r"seeds are \[.*\]; expected at least one, each once"):
        train(SMALL, seeds)


@pytest.mark.parametrize("name", ["n_features", "n_hidden", "n_points", "epochs", "batch_size", "lr"])
def test_training_settings_are_positive(name):
    with pytest.raises(ValueError, match=rf"{name} is 0; expected a positive number"):
        ToyTraining(**{name: 0})


# --- tasks ------------------------------------------------------------------------------------------------------


def test_task_holds_one_target_and_its_inputs():
    trained = train(SMALL, [3, 11])
    task = trained.task(11)
    assert (task.name, task.seed) == ("superposition_4-2", 11)
    assert task.model.W_in.equal(trained.weights["W_in"][1])
    assert task.model.W_out.equal(trained.weights["W_in"][1].T)
    assert task.model.b.equal(trained.weights["b"][1])
    assert not task.model.training
    assert task.loss == float(trained.losses[1])
    assert task.inputs.equal(sparse_inputs(1000, 4, 0.05, seed=11))
    assert task.sample(30, seed=4).equal(sparse_inputs(30, 4, 0.05, seed=4))
    with pytest.raises(ValueError, match=r"no target superposition_4-2 of seed 4; expected one of \[3, 11\]"):
        trained.task(4)


@pytest.mark.parametrize(("shortest", "kept"), [(0.6, True), (0.5, False), (0.3, False)])
def test_a_target_is_kept_if_every_feature_is_longer_than_a_half(shortest, kept):
    w_in = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.0, shortest]])
    model = Superposition(w_in, torch.zeros(3)).eval()
    assert Task(ToyTraining(n_features=3), 0, model, torch.zeros(1, 3), 0.0).kept is kept


def test_save_and_load_round_trip(tmp_path):
    trained, path = train(SMALL, [3, 11]), tmp_path / "toys.safetensors"
    save_toys(trained, path, {"version": "1", "device": "none"})
    found = load_toys(path)
    assert (found.config, found.seeds, found.wall_seconds) == (SMALL, [3, 11], trained.wall_seconds)
    assert found.losses.equal(trained.losses)
    assert list(found.weights) == ["W_in", "b"]
    assert all(found.weights[name].equal(t) for name, t in trained.weights.items())
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert (facts["version"], facts["device"], facts["config"]["n_points"]) == ("1", "none", 70)
    with pytest.raises(FileNotFoundError, match=r"no shipped targets at .*none.safetensors; expected one of"):
        load_toys(tmp_path / "none.safetensors")


# --- shipped targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_features", "n_hidden"), toys.SIZES)
def test_shipped_targets_do_their_task(n_features, n_hidden):
    for seed in (0, 15):
        task = toys.superposition(seed, n_features, n_hidden)
        assert task.name == f"superposition_{n_features}-{n_hidden}"
        assert task.model.W_in.shape == (n_features, n_hidden)
        assert task.inputs.shape == (1000, n_features)
        # Trained by the published settings: the loss recorded is that of the weights on the training rows, up to
        # what the weights moved in the last epoch, and far below that of answering zero.
        x = sparse_inputs(10_000, n_features, seed=2**20 + seed)
        loss = float((task.model(x).detach() - x).square().mean())
        assert loss == pytest.approx(task.loss, rel=0.02)
        assert loss < 0.35 * float(x.square().mean())


def test_shipped_targets_to_choose_settings_on():
    assert toys.superposition(1000).seed == 1000
    assert len(load_toys(toys.WEIGHTS / "superposition_5-2.safetensors").seeds) == 32


def test_targets_that_are_not_shipped():
    with pytest.raises(ValueError, match=r"no target superposition_10-4 of seed 1000; expected one of \[0, 1, 2"):
        toys.superposition(1000, 10, 4)
    with pytest.raises(
        FileNotFoundError, match="no shipped targets at .*superposition_6-2.safetensors; expected one of"
    ):
        toys.superposition(0, 6, 2)
