"""Pushing along a subnetwork: grids and lines by hand, outputs against perturb and finite differences."""

import math
from dataclasses import replace

import cases
import pytest
import torch
from torch import nn

from l3d_core import L3DConfig, decompose, perturb
from l3d_core.explorer.explored import cosines, of_l3d, shares
from l3d_core.explorer.push import change_of, grid_end, linear_between, moved_by, outputs_along, push, symmetric_grid
from l3d_core.explorer.settings import ExplorerSettings
from l3d_core.gradients import by_position, model_outputs
from l3d_core.tucker import Layout, TuckerDirections

KINDS = {"mlp": cases.mlp, "cnn": cases.cnn, "conv1d": cases.conv1d, "transformer": cases.transformer}


def small(case, n_v: int = 3, rank=1, divergence: str = "mse"):
    config = L3DConfig(n_v=n_v, rank=rank, k_fraction=0.5, epochs=1, batch_size=3)
    return decompose(case.model, case.inputs, divergence, config, parameters=case.parameters)


def test_symmetric_grid_by_hand():
    # A third of 1 is .33 to two digits.
    assert symmetric_grid(1.0, 3) == [-0.99, -0.66, -0.33, 0.0, 0.33, 0.66, 0.99]
    assert symmetric_grid(7.2e-3, 2) == [-0.0072, -0.0036, 0.0, 0.0036, 0.0072]


def test_grid_end_finds_where_a_growing_change_is_as_large_as_wanted():
    # delta^2 = 9 at 3, from below and from above; six halvings of a doubling leave half a per cent.
    for first in (1e-3, 50.0, 3.0):
        assert grid_end(lambda delta: delta * delta, first, 9.0) == pytest.approx(3.0, rel=0.006)
    assert grid_end(lambda delta: 1.0, 1.0, 2.0) is None
    assert grid_end(lambda delta: math.nan if delta > 5 else 0.0, 1.0, 2.0) == pytest.approx(5.0, rel=0.006)


def test_changes_by_hand():
    before, after = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    # Root of the mean of 0, 0, 0 and 16 is 2; in units of 4 a half.
    assert change_of(before, after, False, 4.0) == pytest.approx(0.5)
    # From 1/2, 1/2 to 1/4, 3/4: (log 2 + log 2/3) / 2; the other sample stays.
    logits = torch.tensor([[0.0, 0.0], [1.0, 5.0]]), torch.tensor([[0.0, math.log(3)], [1.0, 5.0]])
    assert change_of(*logits, True, 9.0) == pytest.approx((math.log(2) + math.log(2 / 3)) / 4)
    # An output that a model masks adds nothing, masked after too or not.
    masked = torch.cat([logits[0], torch.full((2, 1), -math.inf)], 1)
    after = torch.cat([logits[1], torch.full((2, 1), -math.inf)], 1)
    assert change_of(masked, after, True, 9.0) == pytest.approx((math.log(2) + math.log(2 / 3)) / 4)
    open_now = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -math.inf]])
    assert change_of(open_now[1], open_now[0], True, 1.0) == pytest.approx(math.log(2))
    assert change_of(*open_now, True, 1.0) == math.inf
    assert math.isnan(change_of(torch.full((1, 2), math.nan), torch.zeros(1, 2), True, 1.0))


def test_lines_hold_by_hand():
    deltas = [-2.0, -1.0, 0.0, 1.0, 2.0]
    # Slope 1. At -1 and 1 the change is 1.1: off by 9 %; at 2 it is 3, off by a third; at -2 the line is exact.
    change = torch.tensor([[-2.0, -1.1, 0.0, 1.1, 3.0]])
    slopes = torch.tensor([1.0])
    assert linear_between(deltas, change, slopes, 0.2) == [-2.0, 1.0]
    assert linear_between(deltas, change, slopes, 0.34) == [-2.0, 2.0]
    assert linear_between(deltas, change, slopes, 0.09) == [0.0, 0.0]
    # What holds again further out does not count; the other side is judged by itself.
    assert linear_between(deltas, torch.tensor([[-2.0, -5.0, 0.0, 1.0, 2.0]]), slopes, 0.2) == [0.0, 2.0]
    # The median of errors 0 and 1/3 is a sixth, of 0, 1/3 and 1/3 a third.
    straight, bent = [-2.0, -1.0, 0.0, 1.0, 2.0], [-3.0, -1.5, 0.0, 1.5, 3.0]
    assert linear_between(deltas, torch.tensor([straight, bent]), torch.ones(2), 0.2) == [-2.0, 2.0]
    assert linear_between(deltas, torch.tensor([straight, bent, bent]), torch.ones(3), 0.2) == [0.0, 0.0]
    # A change of nothing where one is predicted is infinitely wrong, and no slope at all predicts nothing.
    assert linear_between(deltas, torch.zeros(1, 5), slopes, 0.2) == [0.0, 0.0]
    assert linear_between(deltas, torch.zeros(1, 5), torch.zeros(1), 0.2) is None
    assert linear_between(deltas, torch.tensor([straight, [math.nan] * 5]), torch.ones(2), 0.2) == [0.0, 0.0]
    # Where nothing is known at all, nothing is said.
    assert linear_between(deltas, torch.full((2, 5), math.nan), torch.full((2,), math.nan), 0.2) is None
    assert linear_between(deltas, torch.full((1, 5), math.nan), slopes, 0.2) is None
    # Sides need not be alike.
    assert linear_between([0.0, 0.5], torch.tensor([[0.0, 0.5]]), slopes, 0.2) == [0.0, 0.5]


def test_shares_and_cosines_by_hand():
    layout = Layout({"a": (2,), "b": (1, 1)}, {"a": (1,), "b": (1, 1)})
    # Each direction: core of a, factor of a (2), core of b, factors of b (1, 1). Here a = (3, 0), b = 4; a = (0, 2),
    # b = 0; all zero.
    flat = torch.tensor([[3.0, 1, 0, 4, 1, 1], [2.0, 0, 1, 0, 1, 1], [0.0, 1, 1, 0, 1, 1]])
    v = TuckerDirections(layout, flat)
    assert torch.allclose(shares(v), torch.tensor([[9 / 25, 16 / 25], [1, 0], [0, 0]], dtype=torch.float64))
    other = TuckerDirections(layout, torch.tensor([[-1.0, 1, 0, 0, 1, 1]]))  # a = (-1, 0)
    assert torch.allclose(cosines(v, other), torch.tensor([[-3 / 5], [0], [0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_shares_and_cosines_are_those_of_full_tensors(kind, monkeypatch):
    l3d = small(KINDS[kind](), rank=1)
    monkeypatch.setattr("l3d_core.explorer.explored.NUMBERS", 20)  # Blocks of few rows.
    dense = {name: t.flatten(1) for name, t in l3d.v_out.dense().items()}
    squares = torch.stack([t.square().sum(1) for t in dense.values()], 1)
    assert torch.allclose(shares(l3d.v_out), squares / squares.sum(1, keepdim=True))
    rows = torch.nn.functional.normalize(l3d.v_out.matrix(), dim=1)
    assert torch.allclose(cosines(l3d.v_out, l3d.v_out), rows @ rows.mT, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_along_are_those_of_perturb_one_by_one(kind):
    case = KINDS[kind]()
    l3d = small(case)
    explored, n = of_l3d(l3d), len(case.inputs)
    positions = torch.arange(n) % case.n_positions
    for v in range(3):
        for delta in (-0.7, 0.0, 1.3):
            found = outputs_along(explored.alone(v), case.inputs, positions, delta, chunk_size=2)
            for i in range(n):
                out = perturb(l3d, {v: delta})(case.inputs[i : i + 1])
                out = by_position(out if isinstance(out, torch.Tensor) else out.logits)[0, positions[i]]
                assert torch.allclose(found[i], out, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_moved_outputs_are_finite_differences(kind):
    case = KINDS[kind]()
    explored, n = of_l3d(small(case)).alone(1), len(case.inputs)
    positions, h = torch.arange(n) % case.n_positions, 1e-5
    ahead, behind = (outputs_along(explored, case.inputs, positions, delta, 9) for delta in (h, -h))
    found = moved_by(explored, case.inputs, positions, chunk_size=2)
    assert torch.allclose(found, (ahead - behind) / (2 * h), atol=1e-7)
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("divergence", ["mse", "kl"])
def test_a_push_tells_what_it_says(divergence):
    case = cases.mlp(n=9)
    one = of_l3d(small(case, divergence=divergence)).alone(2)
    positions, settings = torch.zeros(9, dtype=torch.long), ExplorerSettings(n_moved=2, n_steps=4)
    with torch.no_grad():
        before = case.model(case.inputs)
    middle = before.mean(0)
    found = push(one, case.inputs, positions, 5, settings, middle, chunk_size=4)
    assert len(found.deltas) == 9 and found.deltas[4] == 0 and found.deltas == [-d for d in found.deltas[::-1]]
    # Moved most first, with the outputs named.
    slopes = moved_by(one, case.inputs, positions, 9)
    assert torch.equal(found.moved, slopes.abs().topk(2, -1).indices)
    assert torch.allclose(found.slopes, slopes.gather(1, found.moved))
    for d, delta in enumerate(found.deltas):
        y = outputs_along(one, case.inputs, positions, delta, 9)
        assert torch.allclose(found.real[:, d], y.gather(1, found.moved))
        assert torch.allclose(found.normaliser[:, d], y.exp().sum(1).log())
    # At the ends the outputs of the first five have moved as far as was asked for, but for two digits of the step.
    ends = [outputs_along(one, case.inputs[:5], positions[:5], d, 9) for d in (found.deltas[0], found.deltas[-1])]
    deviation = float((before[:5] - middle).square().mean().sqrt())
    change = sum(change_of(before[:5], y, divergence == "kl", deviation) for y in ends) / 2
    assert change == pytest.approx(1.0 if divergence == "kl" else 2.0, rel=0.1)
    # The reach of lines is that of the first five.
    change = found.real[:5, :, 0] - before.gather(1, found.moved)[:5, :1]
    assert found.linear == linear_between(found.deltas, change, found.slopes[:5, 0], 0.2)


def test_a_given_grid_is_kept_and_a_direction_of_nothing_moves_nothing():
    case = cases.mlp()
    explored, settings = of_l3d(small(case)), ExplorerSettings(n_steps=2)
    positions, middle = torch.zeros(6, dtype=torch.long), torch.zeros(3, dtype=torch.float64)
    given = push(replace(explored.alone(0), grid=(-1.0, 0.0, 0.5)), case.inputs, positions, 3, settings, middle)
    assert given.deltas == [-1.0, 0.0, 0.5]
    still = explored.alone(0)
    still = replace(still, v_out=TuckerDirections(still.v_out.layout, torch.zeros_like(still.v_out.flat)))
    found = push(still, case.inputs, positions, 3, settings, middle)
    assert found.deltas == [-2.0, -1.0, 0.0, 1.0, 2.0] and found.linear is None
    assert (found.real == found.real[:, :1]).all()


def test_a_model_without_second_derivatives_backwards_is_pushed_too():
    model = cases.seeded(nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3)))
    case = cases.Case(model, cases.normal(5, 4, seed=3), "*", 1, 3)
    one = of_l3d(small(case)).alone(0)
    positions, h = torch.zeros(5, dtype=torch.long), 1e-6
    ahead, behind = (outputs_along(one, case.inputs, positions, delta, 9) for delta in (h, -h))
    assert torch.allclose(moved_by(one, case.inputs, positions, 2), (ahead - behind) / (2 * h), atol=1e-6)


def test_the_model_is_left_alone():
    case = cases.mlp()
    before = {name: p.clone() for name, p in case.model.named_parameters()}
    one = of_l3d(small(case)).alone(0)
    push(one, case.inputs, torch.zeros(6, dtype=torch.long), 3, ExplorerSettings(), torch.zeros(3).double())
    assert all(torch.equal(p, before[name]) for name, p in case.model.named_parameters())
    assert model_outputs(case.model, {}, case.inputs).shape == (6, 3)
