"""The toys: models, inputs, training, files and shipped targets."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from torch import nn

from l3d_core import toys
from l3d_core.toy_models import DeepPerceptron
from l3d_core.toys import (
    Perceptron,
    Superposition,
    Task,
    ToyTraining,
    active_share,
    grouped_inputs,
    load_toys,
    save_toys,
    signed_inputs,
    sparse_inputs,
    train,
)

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


def test_perceptron_hand():
    w_in, w_out = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, -1.0, 1.0]])
    model = Perceptron(w_in, w_out, torch.tensor([0.0, 0.5, -3.0]))
    # x W_in = 1 + 2 = 3 has no relu of its own; times W_out: 9, -3, 3; plus b: 9, -2.5, 0, of which relu takes one.
    assert model(torch.tensor([[1.0, 1.0]])).tolist() == [[9, 0, 0]]
    # -1: -3, 1, -1; plus b: -3, 1.5, -4.
    assert model(torch.tensor([[1.0, -1.0]])).tolist() == [[0, 1.5, 0]]
    assert [name for name, _ in model.named_parameters()] == ["W_in", "W_out", "b"]
    w_in[0, 0] = 100.0  # The model has copies.
    assert float(model.W_in[0, 0].detach()) == 1


def gelu(x):
    return x * (1 + math.erf(x / 2**0.5)) / 2


def elu(x):
    return x if x > 0 else math.exp(x) - 1


@pytest.mark.parametrize("activation", ["gelu", "elu"])
def test_deep_perceptron_hand(activation):
    weights = [torch.tensor([[1.0], [-2.0]]), torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0]])]
    biases = [torch.tensor([0.5, 1.0]), torch.tensor([0.25]), torch.tensor([0.125])]
    model = DeepPerceptron([w.double() for w in weights], [b.double() for b in biases], activation)
    # x = 1: 1.5 and -1; then h = f(1.5) + 3 f(-1) + .25; then .125 - f(h), which ELU bends once more and GELU does not.
    f = gelu if activation == "gelu" else elu
    y = 0.125 - f(f(1.5) + 3 * f(-1.0) + 0.25)
    y = elu(y) if activation == "elu" else y
    assert float(model(torch.ones(1, 1).double()).detach()) == pytest.approx(y, rel=1e-14)
    names = [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]
    assert [name for name, _ in model.named_parameters()] == names
    assert f"activation='{activation}'" in str(model)


def test_deep_perceptrons_have_copies_and_as_many_biases_as_weights():
    w = torch.ones(1, 1)
    model = DeepPerceptron([w, w], [torch.zeros(1), torch.zeros(1)])
    w[0, 0] = 5.0
    assert [float(layer.weight.detach()) for layer in model.layers] == [1, 1]
    with pytest.raises(ValueError, match="shorter"):
        DeepPerceptron([w, w], [torch.zeros(1)])


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


def within(share, expected, n):
    """Whether shares of n draws lie within five standard errors of their expectation."""
    return (share - expected).abs().max() < 5 * (expected * (1 - expected) / n) ** 0.5


@pytest.mark.parametrize(("n_groups", "group_size", "p_active"), [(6, 5, 0.05), (3, 2, 0.4)])
def test_grouped_inputs_statistics(n_groups, group_size, p_active):
    n = 40_000
    x = grouped_inputs(n, n_groups, group_size, p_active, seed=3)
    assert (x.shape, x.dtype) == ((n, n_groups * group_size), torch.float32)
    groups = x.unflatten(1, (n_groups, group_size))
    on = (groups > 0).any(2)
    # A group is active as one (uniform numbers are zero once in 2^24 draws), consecutive features together.
    assert ((groups > 0).all(2) == on).float().mean() > 0.9999
    assert on.any(1).all()
    expected = active_share(n_groups, p_active)
    assert within(on.double().mean(0), expected, n)
    # Two groups are active together as if independent before empty rows go: p^2 / (1 - (1 - p)^n_groups).
    assert within((on[:, 0] & on[:, 1]).double().mean(), expected * p_active, n)
    values = groups[on].double()
    assert 0 <= float(values.min()) <= float(values.max()) < 1
    assert within(values.mean(0), 0.5, len(values) * 3)  # Variance 1/12 = (1/4) / 3.
    # Uniform independently of each other: of no two features of a group do the values correlate.
    correlations = torch.corrcoef(values.T) - torch.eye(group_size)
    assert correlations.abs().max() < 5 / len(values) ** 0.5


@pytest.mark.parametrize(("n_features", "p_active"), [(5, 0.05), (3, 0.4)])
def test_signed_inputs_statistics(n_features, p_active):
    n = 40_000
    x = signed_inputs(n, n_features, p_active, seed=3)
    assert (x.shape, x.dtype) == ((n, n_features), torch.float32)
    assert x.abs().equal(sparse_inputs(n, n_features, p_active, seed=3))
    assert within((x != 0).double().mean(0), active_share(n_features, p_active), n)
    negative = [float((column[column != 0] < 0).double().mean()) for column in x.T]
    assert within(torch.tensor(negative), 0.5, n * active_share(n_features, p_active))
    values = x[x != 0].double()  # Uniform in [-1, 1]: mean 0, variance 1/3, fourth moment 1/5.
    assert abs(float(values.mean())) < 5 * (1 / 3 / len(values)) ** 0.5
    assert abs(float(values.square().mean()) - 1 / 3) < 5 * ((1 / 5 - 1 / 9) / len(values)) ** 0.5
    # Sign and size are independent.
    assert abs(float((values.sign() * (values.abs() - 0.5)).mean())) < 5 * (1 / 12 / len(values)) ** 0.5


@pytest.mark.parametrize(
    "draw", [lambda **seed: grouped_inputs(50, 3, 2, 0.5, **seed), lambda **seed: signed_inputs(50, 4, 0.5, **seed)]
)
def test_grouped_and_signed_inputs_follow_the_seed(draw):
    assert draw(seed=1).equal(draw(seed=1))
    one, two = draw(seed=1), draw(seed=2)
    assert not (one != 0).equal(two != 0)
    both = (one != 0) & (two != 0)
    assert (one[both] != two[both]).any() and (one[both].abs() != two[both].abs()).any()


@pytest.mark.parametrize("draw", [lambda *sizes: grouped_inputs(*sizes[:2], 2, *sizes[2:]), signed_inputs])
def test_grouped_and_signed_inputs_refuse(draw):
    for sizes in ((0, 5, 0.1), (5, 0, 0.1), (5, 5, 0.0), (5, 5, 1.1)):
        with pytest.raises(ValueError, match=r"expected n >= 1, p_active in \(0, 1\]"):
            draw(*sizes)


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


def plain_start(config, generator):
    """Returns the model that training starts from, made of nn modules, from draws in the published order."""
    n, n_hidden = config.n_features, config.n_hidden
    if config.toy in ("circuit_superposition", "high_rank"):  # Standard normal weights, no bias in the hidden layer.
        model = nn.Sequential(nn.Linear(n, n_hidden, bias=False), nn.Linear(n_hidden, n), nn.ReLU())
        with torch.no_grad():
            model[0].weight.copy_(torch.randn(n, n_hidden, generator=generator).T)
            model[1].weight.copy_(torch.randn(n_hidden, n, generator=generator).T)
            model[1].bias.zero_()
        return model
    nonlinear, sides, layers = nn.ELU if config.toy == "squared_elu" else nn.GELU, [n, *[n_hidden] * 4, n], []
    for n_i, n_o in zip(sides, sides[1:], strict=False):
        layer = nn.Linear(n_i, n_o)
        with torch.no_grad():  # Kaiming weights; biases in [.01, 1], or the default of nn.Linear, +-1 / sqrt(n_i).
            layer.weight.copy_(torch.randn(n_o, n_i, generator=generator) * (2 / n_i) ** 0.5)
            low, high = (0.01, 1.0) if config.toy == "squared_elu" else (-(n_i**-0.5), n_i**-0.5)
            layer.bias.copy_(low + (high - low) * torch.rand(n_o, generator=generator))
        layers += [layer, nonlinear()]
    return nn.Sequential(*(layers if config.toy == "squared_elu" else layers[:-1]))


PLAIN_INPUTS = {
    "circuit_superposition": lambda n, n_features, seed: sparse_inputs(n, n_features, 0.05, seed=seed),
    "high_rank": lambda n, n_features, seed: grouped_inputs(n, n_features // 5, 5, 0.05, seed=seed),
    "squared": lambda n, n_features, seed: signed_inputs(n, n_features, 0.05, seed=seed),
    "squared_elu": lambda n, n_features, seed: signed_inputs(n, n_features, 0.05, seed=seed),
}


@pytest.mark.parametrize("toy", PLAIN_INPUTS)
def test_training_oracle_of_every_other_toy(toy):
    config = ToyTraining(toy=toy, n_features=10, n_hidden=4, n_points=70, epochs=3, batch_size=16)
    found, generator = train(config, [5]), torch.Generator().manual_seed(5)
    model, x_all = plain_start(config, generator), PLAIN_INPUTS[toy](70, 10, 2**20 + 5)
    start = [p.detach().clone() for p in model.parameters()]
    a = 3 * torch.rand(10, 10, generator=torch.Generator().manual_seed(2**22 + 5))
    y_all = x_all**2 if toy.startswith("squared") else x_all @ a
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.001)
    for _ in range(3):
        order, total = torch.randperm(70, generator=generator), 0.0
        for first in range(0, 70, 16):
            chosen = order[first : first + 16]
            loss = nn.functional.mse_loss(model(x_all[chosen]), y_all[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(chosen)
    assert float(found.losses[0]) == pytest.approx(total / 70, rel=1e-5)
    task, x = found.task(5), PLAIN_INPUTS[toy](1000, 10, 5)
    assert task.inputs.equal(x)
    torch.testing.assert_close(task.model(x), model(x), rtol=1e-5, atol=1e-5)
    trained = [w.detach() for w in model.parameters()]
    own = list(found.weights.values())
    if not toy.startswith("squared"):
        trained[:2], start[:2] = [w.T for w in trained[:2]], [w.T for w in start[:2]]
    for mine, theirs, before in zip(own, trained, start, strict=True):
        torch.testing.assert_close(mine[0], theirs, rtol=0, atol=2e-6)
        assert (mine[0] - before).abs().max() > 1e-3  # It moved.


@pytest.mark.parametrize("toy", ["circuit_superposition", "high_rank", "squared", "squared_elu"])
def test_every_other_toy_trains_side_by_side_as_alone(toy):
    config = ToyTraining(toy=toy, n_points=48, epochs=2, batch_size=16, n_hidden=3)
    together = train(config, [3, 11])
    alone = train(config, [11])
    for name, t in together.weights.items():
        torch.testing.assert_close(t[1], alone.weights[name][0], rtol=0, atol=2e-6)
    assert float(together.losses[1]) == pytest.approx(float(alone.losses[0]), rel=1e-5)


def test_coefficients():
    config = ToyTraining(toy="circuit_superposition", n_features=50)
    a = config.coefficients(4)
    assert a.shape == (50, 50) and a.equal(config.coefficients(4)) and not a.equal(config.coefficients(5))
    # Uniform in [0, 3]: mean 1.5, variance 9/12, within five standard errors of 2500 entries.
    assert 0 <= float(a.min()) < 0.01 and 2.99 < float(a.max()) < 3
    assert abs(float(a.mean()) - 1.5) < 5 * (0.75 / 2500) ** 0.5
    assert abs(float(a.var()) - 0.75) < 5 * (81 / 180 / 2500) ** 0.5
    for toy in ("superposition", "squared", "squared_elu"):
        assert ToyTraining(toy=toy).coefficients(4) is None
    assert ToyTraining(toy="high_rank", n_features=10).coefficients(4).shape == (10, 10)


def test_what_targets_are_trained_to_give_by_hand():
    x, a = torch.tensor([[1.0, -2.0]]), torch.tensor([[1.0, 0.5], [0.0, 3.0]])
    assert ToyTraining(n_features=2).wanted(x, None).tolist() == [[1, -2]]
    # (1, -2) A = (1, .5 - 6); the row of A belongs to the input, its column to the output.
    assert ToyTraining(toy="circuit_superposition", n_features=2).wanted(x, a).tolist() == [[1, -5.5]]
    assert ToyTraining(toy="high_rank").wanted(x, a).tolist() == [[1, -5.5]]
    for toy in ("squared", "squared_elu"):
        assert ToyTraining(toy=toy).wanted(x, None).tolist() == [[1, 4]]


def test_training_gives_the_same_numbers_again():
    assert all(t.equal(train(SMALL, [3]).weights[name]) for name, t in train(SMALL, [3]).weights.items())


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


def test_training_settings_name_a_toy_and_whole_groups():
    with pytest.raises(ValueError, match=r"toy 'cubed' is unknown; expected one of \['superposition', 'circuit_super"):
        ToyTraining(toy="cubed")
    with pytest.raises(ValueError, match="n_features is 12; expected a multiple of 5, the size of a group"):
        ToyTraining(toy="high_rank", n_features=12)
    assert ToyTraining(weight_decay=0.0).weight_decay == 0


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


def perceptron_task(toy, w_in, w_out, coefficients, loss=0.0):
    w_in, w_out = torch.tensor(w_in), torch.tensor(w_out)
    model, n = Perceptron(w_in, w_out, torch.zeros(w_out.shape[1])).eval(), len(w_in)
    a = None if coefficients is None else torch.tensor(coefficients)
    return Task(ToyTraining(toy=toy, n_features=n, n_hidden=w_in.shape[1]), 0, model, torch.zeros(1, n), loss, a)


def test_the_ceiling_by_hand():
    # W_in W_out = [[1, 2], [3, 0]] against A = [[2, 1], [3, 2]]: deviations (-.5, .5, 1.5, -1.5) and (0, -1, 1, 0),
    # 1 over sqrt(5 * 2).
    eye = [[1.0, 0.0], [0.0, 1.0]]
    task = perceptron_task("circuit_superposition", eye, [[1.0, 2.0], [3.0, 0.0]], [[2.0, 1.0], [3.0, 2.0]])
    assert task.ceiling == pytest.approx(1 / 10**0.5, rel=1e-6)
    scaled = perceptron_task("circuit_superposition", eye, [[5.0, 3.0], [7.0, 5.0]], [[2.0, 1.0], [3.0, 2.0]])
    assert scaled.ceiling == pytest.approx(1, rel=1e-6)  # 2 A + 1.


@pytest.mark.parametrize(
    ("second", "product", "a", "kept"),
    [
        # W_in is diagonal with 1 and `second`. With A as the product, r is 1 and the rows alone decide.
        (0.25, [[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]], True),
        (0.24, [[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]], False),
        # Deviations (.65, .05, -1.35, .65) and (.75, -.25, -1.25, .75): 2.65 / sqrt(2.67 * 2.75) = .978.
        (1.0, [[2.0, 1.4], [0.0, 2.0]], [[2.0, 1.0], [0.0, 2.0]], True),
        # (.65, .05, -1.35, .65) and (1, -1, -1, 1): 2.6 / sqrt(2.67 * 4) = .796, below .85.
        (1.0, [[2.0, 1.4], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]], False),
    ],
)
def test_circuit_superposition_is_kept_by_its_ceiling_and_its_rows(second, product, a, kept):
    w_out = [product[0], [value / second for value in product[1]]]
    assert perceptron_task("circuit_superposition", [[1.0, 0.0], [0.0, second]], w_out, a).kept is kept


@pytest.mark.parametrize(("loss", "kept"), [(2e-4, True), (2.1e-4, False)])
def test_a_squaring_network_is_kept_by_its_loss(loss, kept):
    for toy in ("squared", "squared_elu"):
        assert Task(ToyTraining(toy=toy), 0, DeepPerceptron([], []), torch.zeros(1, 5), loss).kept is kept


def test_high_rank_is_always_kept():
    zeros = [[0.0]] * 5
    assert perceptron_task("high_rank", zeros, [[0.0] * 5], [[0.0] * 5] * 5, loss=9.0).kept


def test_tasks_of_every_other_toy():
    for toy in ("circuit_superposition", "high_rank", "squared", "squared_elu"):
        config = ToyTraining(toy=toy, n_hidden=3, n_points=32, epochs=1)
        trained = train(config, [2, 7])
        task = trained.task(7)
        assert (task.name, task.seed, task.loss) == (f"{toy}_5-3", 7, float(trained.losses[1]))
        assert not task.model.training
        parameters = list(task.model.parameters())
        assert all(p.equal(t[1]) for p, t in zip(parameters, trained.weights.values(), strict=True))
        assert task.sample(30, seed=4).equal(config.draw(30, seed=4))
        if toy.startswith("squared"):
            assert task.coefficients is None
            assert task.model.activation == ("elu" if toy == "squared_elu" else "gelu")
        else:
            assert task.coefficients.equal(config.coefficients(7))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    trained, path = train(SMALL, [3]), tmp_path / "toys.safetensors"
    save_toys(trained, path, {"version": "old"})
    before = path.read_bytes()

    def fail(tensors, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(toys, "save_file", fail)
        with pytest.raises(OSError, match="no space left"):
            save_toys(train(SMALL, [4]), path, {"version": "new"})
    assert path.read_bytes() == before
    save_toys(train(SMALL, [4]), path, {"version": "new"})  # What the failure left is in nobody's way.
    assert load_toys(path).seeds == [4]
    assert [p.name for p in tmp_path.iterdir()] == ["toys.safetensors"]


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


@pytest.mark.parametrize(("config", "seeds"), toys.SHIPPED, ids=lambda value: getattr(value, "name", None))
def test_the_files_hold_what_the_settings_say(config, seeds):
    found = load_toys(toys.WEIGHTS / f"{config.name}.safetensors")
    assert found.config == config
    assert found.seeds == list(seeds)
    assert all(len(t) == len(seeds) and torch.isfinite(t).all() for t in (*found.weights.values(), found.losses))


@pytest.mark.parametrize(
    ("load", "tolerance", "best"),
    [
        (toys.circuit_superposition, 0.01, 0.04),
        (toys.high_rank, 0.01, 0.01),
        (lambda seed: toys.high_rank(seed, 25), 0.01, 0.01),
        (toys.squared, 1.0, 1e-3),  # So small a loss doubles and halves from batch to batch.
        (lambda seed: toys.squared(seed, elu=True), 1.0, 1e-3),
    ],
    ids=["circuit_superposition", "high_rank", "high_rank_25", "squared", "squared_elu"],
)
def test_other_shipped_targets_do_their_task(load, tolerance, best):
    for seed in (0, 15):
        task = load(seed)
        assert task.seed == seed and task.inputs.shape == (1000, task.config.n_features)
        x = task.config.draw(10_000, seed=2**20 + seed)
        y = task.config.wanted(x, task.coefficients)
        loss = float((task.model(x).detach() - y).square().mean())
        assert loss == pytest.approx(task.loss, rel=tolerance)
        assert loss < best * float(y.square().mean())
        # And on samples no training saw, where the loss does not rise much.
        x = task.sample(10_000, seed=2**21 + seed)
        y = task.config.wanted(x, task.coefficients)
        assert float((task.model(x).detach() - y).square().mean()) < 3 * task.loss


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


# --- groups and copies ------------------------------------------------------------------------------------------


def test_which_circuits_are_active():
    grouped = ToyTraining(toy="high_rank", n_features=10)
    x = torch.tensor([[0.0, 0.5, 0, 0, 0.1] + [0.0] * 5, [0.0] * 9 + [1.0], [0.0] * 10])
    assert grouped.active(x).tolist() == [[True, False], [False, True], [False, False]]
    assert (grouped.group_size, grouped.n_groups) == (5, 2)
    signed = ToyTraining(toy="squared", n_features=3)
    assert signed.active(torch.tensor([[-0.5, 0.0, 0.2]])).tolist() == [[True, False, True]]
    assert (signed.group_size, signed.n_groups) == (1, 3)


def test_copies_are_the_single_model_on_each_block():
    one, three = toys.superposition(1), toys.superposition(1, 15, 6)
    assert (three.name, three.kept, three.loss) == ("superposition_15-6", one.kept, one.loss)
    x = three.sample(50, seed=0)
    with torch.no_grad():
        blocks = torch.cat([one.model(part) for part in x.split(5, 1)], 1)
        torch.testing.assert_close(three.model(x), blocks)
    assert not toys.superposition(0, 15, 6).kept
