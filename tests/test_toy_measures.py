"""What chapters 2 to 4 measure of one decomposition: by hand on planted ones, and against loops."""

import itertools
import math

import pytest
import torch
from reference_training import batch_gradients, made, normal, slow_k_count, slow_reconstruction
from torch import nn

from l3d_core.chapters import toy_measures
from l3d_core.chapters.toy_measures import (
    coefficients,
    error_parts,
    fresh,
    interventions,
    layers,
    measure_all,
    measure_directions,
    measure_numbers,
)
from l3d_core.toy_models import DeepPerceptron
from l3d_core.toys import Perceptron, Task, ToyTraining
from l3d_core.tucker import Layout

SAMPLES = 20


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Measures take 20 fresh samples instead of 1000."""
    monkeypatch.setattr(toy_measures, "N_FRESH", SAMPLES)


def task_of(toy, model, a=None, n=None, seed=3):
    """Returns a target of any weights as a task."""
    n_features = n or model.W_in.shape[0]
    config = ToyTraining(toy=toy, n_features=n_features, n_hidden=2)
    return Task(config, seed, model.double().eval(), torch.zeros(1, n_features), 0.0, a)


def perceptron(w_in, w_out, b=None):
    w_in, w_out = (torch.tensor(w, dtype=torch.float64) for w in (w_in, w_out))
    return Perceptron(w_in, w_out, torch.zeros(w_out.shape[1]).double() if b is None else torch.tensor(b).double())


def planted(model, directions, p_active, **settings):
    """Returns a decomposition of rank 1 with directions given by factors: two vectors a matrix, one a bias."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    layout = Layout(shapes, {name: (1,) * len(shape) for name, shape in shapes.items()})
    rows = [[x for tensor in direction for x in (1.0, *itertools.chain(*tensor))] for direction in directions]
    numbers = torch.tensor(rows, dtype=torch.float64)
    return made(model, numbers, numbers, layout, p_active=p_active, **settings)


def at_random(model, n_v, seed=0, **settings):
    """Returns a decomposition of random directions of rank 1, encoder and decoder apart."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    layout = Layout(shapes, {name: (1,) * len(shape) for name, shape in shapes.items()})
    return made(model, *normal(seed + 40, 2, n_v, layout.n_numbers), layout, **settings)


def random_perceptron(seed=0, n=5, n_hidden=3, bias=0.0):
    return Perceptron(normal(seed, n, n_hidden), normal(seed + 1, n_hidden, n), bias + normal(seed + 2, n) / 10)


def random_deep(activation="gelu", seed=0):
    sides = [5, 4, 3, 5]
    shapes = list(zip(sides[1:], sides, strict=False))
    weights = [normal(seed + i, *shape) for i, shape in enumerate(shapes)]
    return DeepPerceptron(weights, [normal(seed + 9 + i, n_o) for i, (n_o, _) in enumerate(shapes)], activation)


def loop_gradients(l3d, x, divergence, seed):
    """Returns each sample's gradient by a backward pass of its own, its reference another of these samples."""
    partners = torch.randint(len(x), (1, len(x)), generator=torch.Generator().manual_seed(seed))[0]
    return batch_gradients(l3d.model, l3d.parameters, x, divergence, "sample", partners, None)


def own_shares(matrix, group=1):
    """Returns the squared length of each row (or group of rows) over that of all, by loops."""
    squares = [sum(float(x) ** 2 for x in row) for row in matrix]
    groups = [sum(squares[i : i + group]) for i in range(0, len(squares), group)]
    return [square / sum(groups) for square in groups]


# --- layers -----------------------------------------------------------------------------------------------------


def test_layers_of_a_perceptron():
    w_in, w_out, b = normal(0, 7, 3, 2), normal(1, 7, 2, 4), normal(2, 7, 4)
    weights, biases = layers({"W_in": w_in, "W_out": w_out, "b": b})
    assert weights[0] is w_in and weights[1] is w_out and biases[1] is b
    assert biases[0].shape == (7, 2) and not biases[0].any()


def test_layers_of_a_deep_network_multiply_as_its_own():
    model, x = random_deep(), normal(5, 6, 5)
    weights, biases = layers({name: p.detach() for name, p in model.named_parameters()})
    assert [tuple(w.shape) for w in weights] == [(5, 4), (4, 3), (3, 5)]
    y = x
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        y = y @ w + b if i == 2 else nn.functional.gelu(y @ w + b)
    torch.testing.assert_close(y, model.double()(x).detach(), rtol=1e-12, atol=1e-12)
    stacked = {name: torch.stack([p.detach(), -p.detach()]) for name, p in model.named_parameters()}
    assert [tuple(w.shape) for w in layers(stacked)[0]] == [(2, 5, 4), (2, 4, 3), (2, 3, 5)]
    assert layers(stacked)[0][1][1].equal(-weights[1])


def test_fresh_samples_are_neither_training_nor_decomposed_ones():
    task = task_of("circuit_superposition", random_perceptron(), torch.ones(5, 5))
    l3d = at_random(task.model, 2)
    x = fresh(task).to(l3d.v_out.matrix())
    assert x.dtype == torch.float64 and x.equal(task.config.draw(SAMPLES, seed=2**21 + 3).double())
    for seed in (3, 2**20 + 3):
        assert not x.equal(task.config.draw(SAMPLES, seed=seed).double())


# --- numbers ----------------------------------------------------------------------------------------------------


def test_numbers_hand():
    model = perceptron([[1, 0], [0, 1], [1, 1]], [[1, 0, 1], [0, 1, 1]], [5.0, 5.0, 5.0])
    directions = [
        # W_in has rows 3, 4, 0: input 1 with 16/25. W_out has columns 0, 1, 3: output 2 with 9/10.
        [([3, 4, 0], [1, 0]), ([1, 1], [0, 1, 3]), ([0, 0, 0],)],
        # One row, on input 2; columns 1, 2, 0: output 1 with 4/5.
        [([0, 0, 2], [1, 1]), ([1, 0], [1, 2, 0]), ([1, 0, 0],)],
        # Input 0 and output 0 alone, but dead.
        [([1, 0, 0], [1, 0]), ([1, 0], [1, 0, 0]), ([0, 0, 1],)],
    ]
    task = task_of("circuit_superposition", model, torch.eye(3))
    facts = measure_numbers(planted(model, directions, [0.5, 0.25, 0.0]), task)
    assert facts["top_input"].tolist() == [1, 2, 0] and facts["top_output"].tolist() == [2, 1, 0]
    assert facts["share_in"].tolist() == pytest.approx([0.64, 1, 1], rel=1e-14)
    assert facts["share_out"].tolist() == pytest.approx([0.9, 0.8, 1], rel=1e-14)
    assert facts["p_active"].tolist() == [0.5, 0.25, 0]
    assert (facts["covered"].tolist(), facts["once"].tolist()) == ([2], [False])
    # All three live: every input once.
    facts = measure_numbers(planted(model, directions, [0.5, 0.25, 0.1]), task)
    assert (facts["covered"].tolist(), facts["once"].tolist()) == ([3], [True])
    # The third on input 2 as the second is: two of three, neither once.
    twice = [*directions[:2], directions[1]]
    facts = measure_numbers(planted(model, twice, [0.5, 0.25, 0.1]), task)
    assert (facts["covered"].tolist(), facts["once"].tolist()) == ([2], [False])
    # Every input, but one of them twice.
    facts = measure_numbers(planted(model, [*directions, directions[1]], [0.5, 0.2, 0.1, 0.1]), task)
    assert (facts["covered"].tolist(), facts["once"].tolist()) == ([3], [False])


def test_inputs_of_higher_rank_count_by_groups():
    # Rows 0 to 4 and 5 to 9: squares 1 + 4 and 9 + 1 + 1, though row 5 alone is the largest of all; 11 of 16.
    w_in = [1.0, 2, 0, 0, 0, 3, 1, 1, 0, 0]
    model = Perceptron(normal(0, 10, 2), normal(1, 2, 10), torch.full((10,), 9.0).double())
    out = [0.0] * 9 + [1.0]
    directions = [[(w_in, [1, 0]), ([1, 0], out), ([0] * 10,)], [(w_in[::-1], [1, 0]), ([1, 0], out), ([0] * 10,)]]
    task = task_of("high_rank", model, torch.eye(10))
    facts = measure_numbers(planted(model, directions, [0.1, 0.1]), task)
    assert facts["top_input"].tolist() == [1, 0] and facts["top_output"].tolist() == [9, 9]
    assert facts["share_in"].tolist() == pytest.approx([11 / 16] * 2, rel=1e-14)
    assert (facts["covered"].tolist(), facts["once"].tolist()) == ([2], [True])


@pytest.mark.parametrize("activation", ["gelu", "elu"])
def test_numbers_of_a_deep_network_oracle(activation):
    task = task_of("squared_elu" if activation == "elu" else "squared", random_deep(activation), n=5)
    l3d = at_random(task.model, 4, p_active=[0.1, 0.0, 0.3, 0.2])
    facts, v = measure_numbers(l3d, task), l3d.v_out.dense()
    assert "r" not in facts
    for i in range(4):
        by_input = own_shares(v["layers.0.weight"][i].T)  # nn.Linear has outputs first.
        by_output = own_shares(v["layers.2.weight"][i])
        assert int(facts["top_input"][i]) == by_input.index(max(by_input))
        assert float(facts["share_in"][i]) == pytest.approx(max(by_input), rel=1e-12)
        assert int(facts["top_output"][i]) == by_output.index(max(by_output))
        assert float(facts["share_out"][i]) == pytest.approx(max(by_output), rel=1e-12)
    tops = {int(facts["top_input"][i]) for i in (0, 2, 3)}
    assert facts["covered"].tolist() == [len(tops)]


@pytest.mark.parametrize("divergence", ["mse", "half_reference_mse"])
def test_the_error_on_fresh_samples_oracle(divergence):
    task = task_of("circuit_superposition", random_perceptron(bias=3.0), torch.rand(5, 5))
    l3d = at_random(task.model, 3, divergence=divergence, batch_size=8, k_fraction=0.3, k_extra=1)
    v_in, v_out = list(l3d.v_in.matrix()), list(l3d.v_out.matrix())
    errors = []
    # 8, 8 and 4 samples, each batch with references of its own.
    for batch in fresh(task).to(l3d.v_out.matrix()).split(8):
        g = loop_gradients(l3d, batch, divergence, 3)
        error, _ = slow_reconstruction(g, v_in, v_out, slow_k_count(l3d.config, len(batch)), dense=False)
        errors.append(float(error))
    found = measure_numbers(l3d, task)["recon_fresh"]
    assert found.tolist() == pytest.approx([sum(errors) / 3], rel=1e-10)


def test_everything_holds_the_parts():
    task = task_of("circuit_superposition", random_perceptron(bias=3.0), torch.rand(5, 5))
    l3d = at_random(task.model, 3)
    numbers, every = measure_numbers(l3d, task), measure_all(l3d, task, length=0.5)
    directions = measure_directions(l3d, task)
    assert set(directions) == {*numbers, "v_out"}
    parts = {**numbers, **error_parts(l3d, task), **interventions(l3d, task, 0.5)}
    assert set(every) == {*parts, "v_out", "v_in"}
    for name, t in parts.items():
        assert every[name].equal(t), name
    assert every["v_out"].equal(l3d.v_out.matrix()) and every["v_in"].equal(l3d.v_in.matrix())
    assert directions["v_out"].equal(every["v_out"])
    assert all(t.ndim >= 1 and not t.requires_grad for t in every.values())


# --- coefficients -----------------------------------------------------------------------------------------------


def test_coefficients_hand():
    model = perceptron([[2], [1]], [[0.5, 1]])
    a = torch.tensor([[1.0, 2.0], [2.0, 0.0]])
    directions = [
        # W_in W_out = (1, 0)^T (2, 4): row 0, (2, 4) for the (1, 2) of A, a slope of 10/5.
        [([1, 0], [1]), ([1], [2, 4]), ([0, 0],)],
        # (0, -1)^T (-3, 1): row 1, (3, -1) for (2, 0), 6/4; a minus on both sides takes itself away.
        [([0, -1], [1]), ([1], [-3, 1]), ([0, 0],)],
        # Dead, so left out: row 1 has the larger sum.
        [([3, -4], [1]), ([1], [1, 1]), ([0, 0],)],
    ]
    facts = coefficients(planted(model, directions, [0.5, 0.5, 0.0]), task_of("circuit_superposition", model, a))
    assert facts["a_row"].tolist() == [0, 1, 1]
    assert facts["a_hat"].tolist() == [[2, 4], [3, -1], [-4, -4]]
    assert facts["a"].tolist() == [[1, 2], [2, 0], [2, 0]]
    # (2, 4, 3, -1) and (1, 2, 2, 0): deviations (0, 2, 1, -3) and (-.25, .75, .75, -1.25), 6 / sqrt(14 * 2.75).
    assert facts["r"].tolist() == pytest.approx([6 / math.sqrt(14 * 2.75)], rel=1e-12)
    # Scaled to (1, 2, 2, -2/3): twelve times its deviations (-1, 11, 11, -21), 4 times (-1, 3, 3, -5).
    assert facts["r_scaled"].tolist() == pytest.approx([172 / math.sqrt(684 * 44)], rel=1e-12)
    # The model's own product (1, 2; .5, 1): deviations (-.125, .875, -.625, -.125) with (-.25, .75, .75, -1.25).
    assert facts["ceiling"].tolist() == pytest.approx([0.375 / math.sqrt(1.1875 * 2.75)], rel=1e-6)


def test_the_row_is_that_of_the_largest_sum_of_sizes():
    # Rows (3, -3) and (5, 0): the second is longer and has the largest entry, the first the sum, 6 to 5; signs cancel
    # in neither.
    model = perceptron([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    layout = Layout({"W_in": (2, 2), "W_out": (2, 2), "b": (2,)}, {"W_in": (2, 2), "W_out": (2, 2), "b": (1,)})
    eye = [1.0, 0, 0, 1]  # Cores first, then a factor for each axis.
    flat = torch.tensor([[*eye, *eye, *eye, 3, -3, 5, 0, *eye, *eye, 1, 0, 0]], dtype=torch.float64)
    l3d = made(model, flat, flat, layout)
    assert l3d.v_out.dense()["W_out"][0].tolist() == [[3, -3], [5, 0]]
    facts = coefficients(l3d, task_of("circuit_superposition", model, torch.tensor([[1.0, 0.0], [5.0, 7.0]])))
    assert (facts["a_row"].tolist(), facts["a_hat"].tolist(), facts["a"].tolist()) == ([0], [[3, -3]], [[1, 0]])


def correlation(x, y):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def test_coefficients_oracle():
    model, a = random_perceptron(), 3 * torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).double()
    l3d = at_random(model, 6, p_active=[0.1, 0.0, 0.2, 0.1, 0.0, 0.3])
    facts, v = coefficients(l3d, task_of("high_rank", model, a)), l3d.v_out.dense()
    pooled, scaled, true = [], [], []
    for i in range(6):
        rows = [
            [sum(float(v["W_in"][i, n, h] * v["W_out"][i, h, o]) for h in range(3)) for o in range(5)] for n in range(5)
        ]
        sums = [sum(map(abs, row)) for row in rows]
        best = sums.index(max(sums))
        assert int(facts["a_row"][i]) == best
        assert facts["a_hat"][i].tolist() == pytest.approx(rows[best], rel=1e-12)
        if i in (1, 4):
            continue
        own = a[best].tolist()
        slope = sum(p * q for p, q in zip(rows[best], own, strict=True)) / sum(q * q for q in own)
        pooled += rows[best]
        scaled += [p / slope for p in rows[best]]
        true += own
    assert facts["r"].tolist() == pytest.approx([correlation(pooled, true)], rel=1e-10)
    assert facts["r_scaled"].tolist() == pytest.approx([correlation(scaled, true)], rel=1e-10)


def test_coefficients_of_a_model_taken_apart_exactly():
    """A hidden dimension for each input: subnetworks that are its rows and columns read A back exactly."""
    a = 3 * torch.rand(4, 4, generator=torch.Generator().manual_seed(1)).double()
    model = Perceptron(torch.eye(4).double(), a.clone(), torch.zeros(4).double())
    eye = torch.eye(4).tolist()
    directions = [[(eye[i], eye[i]), (eye[i], a[i].tolist()), ([0] * 4,)] for i in (2, 0, 3, 1)]
    facts = coefficients(planted(model, directions, [0.1] * 4), task_of("circuit_superposition", model, a))
    assert facts["a_row"].tolist() == [2, 0, 3, 1]
    torch.testing.assert_close(facts["a_hat"], facts["a"], rtol=1e-12, atol=0)
    for name in ("r", "r_scaled", "ceiling"):
        assert facts[name].tolist() == pytest.approx([1], rel=1e-6)


# --- where the error is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toy", "model", "n"),
    [
        ("circuit_superposition", random_perceptron(bias=3.0), 5),
        ("high_rank", random_perceptron(n=30, bias=3.0), 30),
        ("squared", random_deep(), 5),
    ],
    ids=["circuit_superposition", "high_rank", "squared"],
)
def test_error_parts_oracle(toy, model, n):
    task = task_of(toy, model, torch.rand(n, n), n=n, seed=4)
    l3d = at_random(task.model, 3, divergence="half_reference_mse")
    x = fresh(task).to(l3d.v_out.matrix())
    v_in, v_out = l3d.v_in.matrix(), l3d.v_out.matrix()
    g = loop_gradients(l3d, x, "half_reference_mse", 4)
    group, n_active = (5, []) if toy == "high_rank" else (1, [])
    for row in x:
        n_active.append(sum(any(float(value) != 0 for value in row[i : i + group]) for i in range(0, n, group)))
    assert 1 in n_active and max(n_active) > 1  # Both parts have samples.
    names = l3d.parameters
    sizes = [dict(model.named_parameters())[name].numel() for name in names]
    left, of, by_tensor = {}, {}, [0.0] * len(names)
    for row, count in zip(g, n_active, strict=True):
        residual = row - sum(float((row * v_in[v]).sum()) * v_out[v] for v in range(3))
        for part in ("all", "one" if count == 1 else "several"):
            left[part] = left.get(part, 0) + float((residual**2).sum())
            of[part] = of.get(part, 0) + float((row**2).sum())
        for i, piece in enumerate(residual.split(sizes)):
            by_tensor[i] += float((piece**2).sum())
    found = error_parts(l3d, task)
    expected = [left[part] / of[part] for part in ("all", "one", "several")]
    assert found["recon_dense"].tolist() == pytest.approx(expected, rel=1e-10)
    assert found["residual_by_tensor"].tolist() == pytest.approx([t / sum(by_tensor) for t in by_tensor], rel=1e-10)


# --- interventions ----------------------------------------------------------------------------------------------


def test_interventions_hand():
    # f = x W_in W_out + b is far above zero, so the relu plays no part. A step of length delta along the direction
    # moves W_out's first row by delta (3, 0, 4) / 5, so outputs change by delta x_0 (.6, 0, .8): the relevant output
    # is 2, with .8 over the others' mean .3 and over their largest .6.
    model = perceptron([[1, 0], [0, 1], [0, 0]], [[1, 0, 0], [0, 1, 0]], [9.0, 9.0, 9.0])
    directions = [[([0, 0, 0], [1, 0]), ([1, 0], [-3, 0, -4]), ([0, 0, 0],)]]
    found = interventions(planted(model, directions, [1.0]), task_of("circuit_superposition", model), 0.5)
    assert found["selectivity_mean"].tolist() == pytest.approx([8 / 3], rel=1e-12)
    assert found["selectivity_max"].tolist() == pytest.approx([4 / 3], rel=1e-12)
    assert found["swing_mean"].tolist() == pytest.approx([8 / 3], rel=1e-12)
    assert found["swing_max"].tolist() == pytest.approx([4 / 3], rel=1e-12)


def test_up_is_the_direction_that_raises_the_relevant_output():
    # Outputs are the bias (0, .1, 0). Nearly the whole step is along (1, -2, 0) on it; by its W_out the relevant output
    # is 0. Up: output 0 rises by 1 and output 1 falls by all it has, .1; 1 over the others' mean .05. Down: output 0
    # has nowhere to fall and output 1 rises by 2.
    model = perceptron([[0], [0], [0]], [[0, 0, 0]], [0.0, 0.1, 0.0])
    for sign in (1, -1):
        directions = [[([0, 0, 0], [1]), ([1], [1e-9, 0, 0]), ([sign * 1.0, sign * -2.0, 0],)]]
        found = interventions(planted(model, directions, [1.0]), task_of("circuit_superposition", model), math.sqrt(5))
        assert found["selectivity_mean"].tolist() == pytest.approx([20], rel=1e-6)
        assert found["selectivity_max"].tolist() == pytest.approx([10], rel=1e-6)
        # y(+) - y(-): 1 and -.1 - 2 on output 1; 1 over the mean 1.05.
        assert found["swing_mean"].tolist() == pytest.approx([1 / 1.05], rel=1e-6)
        assert found["swing_max"].tolist() == pytest.approx([1 / 2.1], rel=1e-6)


@pytest.mark.parametrize(
    ("toy", "model"),
    [
        ("circuit_superposition", random_perceptron(bias=1.0)),
        ("squared", random_deep()),
        ("squared_elu", random_deep("elu")),
    ],
    ids=["perceptron", "gelu", "elu"],
)
def test_interventions_oracle(toy, model):
    task, length = task_of(toy, model, torch.rand(5, 5), n=5), 0.7
    l3d = at_random(task.model, 4)
    found, x = interventions(l3d, task, length), fresh(task).to(l3d.v_out.matrix())
    w0 = {name: p.detach() for name, p in model.named_parameters()}
    last = "W_out" if toy == "circuit_superposition" else "layers.2.weight"
    for v in range(4):
        own = {name: t[v] for name, t in l3d.v_out.dense().items()}
        size = math.sqrt(sum(float((t**2).sum()) for t in own.values()))
        shares = own_shares(own[last].T if toy == "circuit_superposition" else own[last])
        relevant = shares.index(max(shares))
        changes = []
        for sign in (1, -1):
            moved = {name: w0[name] + sign * length / size * own[name] for name in w0}
            rows = []
            for sample in x:
                after = torch.func.functional_call(model, moved, (sample[None],))[0].detach()
                rows.append((after - model(sample[None])[0].detach()).tolist())
            changes.append(rows)
        rise = [sum(row[relevant] for row in rows) for rows in changes]
        up, down = changes if rise[0] >= rise[1] else changes[::-1]
        both = [[a - b for a, b in zip(p, q, strict=True)] for p, q in zip(up, down, strict=True)]
        for name, rows in (("selectivity", up), ("swing", both)):
            moved = [sum(abs(row[o]) for row in rows) / len(rows) for o in range(5)]
            others = [m for o, m in enumerate(moved) if o != relevant]
            assert float(found[f"{name}_mean"][v]) == pytest.approx(moved[relevant] / (sum(others) / 4), rel=1e-9)
            assert float(found[f"{name}_max"][v]) == pytest.approx(moved[relevant] / max(others), rel=1e-9)
    assert all(t.shape == (4,) and not t.requires_grad for t in found.values())
