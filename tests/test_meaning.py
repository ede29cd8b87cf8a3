"""Steps of equal effect, their selectivity, and how far decompositions are the same."""

import copy
import math

import pytest
import torch
from torch import nn

from l3d_core.chapters.meaning import matched_steps, sameness, step_selectivity


class Logits(nn.Module):
    """Two logits, of which the first is `x . w`."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        first = x @ self.w
        return torch.stack([first, torch.zeros_like(first)], -1)


# --- matched steps ----------------------------------------------------------------------------------------------


def diverged(shift):
    """KL of (1/2, 1/2) from the probabilities of the logits (shift, 0): -log(p (1 - p)) / 2 - log 2."""
    p = 1 / (1 + math.exp(-shift))
    return -math.log(p * (1 - p)) / 2 - math.log(2)


def test_a_matched_step_by_hand():
    """Samples (1, 0) and (0, 2): a step of length a along (1, 0) shifts the first logit of the first sample by a."""
    model, x = Logits().eval(), torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    directions = torch.tensor([[3.0, 0.0], [0.0, -0.1]], dtype=torch.float64)
    # The first weights are zero, so that a step's first length has to come from somewhere else than their size.
    model.w.data[:] = torch.tensor([0.0, 0.0])
    with pytest.raises(ValueError, match="the decomposed weights are all zero"):
        matched_steps(model, x, directions, "w", 0.01)
    model.w.data[:] = torch.tensor([2.0**-30, 0.0])
    found = matched_steps(model, x, directions, "w", 0.01)
    for row, (sample, scale) in enumerate([(0, 1), (1, 2)]):
        each = found.divergence[row]
        assert float(each.mean()) == pytest.approx(0.01, rel=0.02)
        assert float(each[sample]) == pytest.approx(diverged(scale * float(found.lengths[row])), rel=1e-4)
        assert float(each[1 - sample]) == pytest.approx(0, abs=1e-12)
    assert model.w.tolist() == [2**-30, 0]


def test_what_comes_before_the_parameters_runs_once():
    generator = torch.Generator().manual_seed(0)
    model, calls = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).eval(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    x, directions = torch.randn(40, 3, generator=generator), torch.randn(2, 15, generator=generator)
    found = matched_steps(model, x, directions, "2.*", 0.01)
    n_before = len(calls)
    assert n_before <= 5  # To find out what comes before, to keep it and to see that it holds; no step needs it.
    base = model(x).log_softmax(-1)
    for v, length, each in zip(directions, found.lengths, found.divergence, strict=True):
        moved, step = copy.deepcopy(model), v / v.norm() * length
        with torch.no_grad():
            moved[2].weight += step[:12].view(3, 4)
            moved[2].bias += step[12:]
        after = moved(x).log_softmax(-1)
        torch.testing.assert_close(each, (base.exp() * (base - after)).sum(-1), rtol=1e-3, atol=1e-6)


def test_a_direction_that_changes_nothing_reaches_no_length():
    model, x = Logits().eval(), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    model.w.data[:] = torch.tensor([1.0, 1.0])
    found = matched_steps(model, x, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64), "w", 0.01)
    assert found.lengths.isnan().tolist() == [True, False]
    assert found.divergence.isnan().tolist() == [[True], [False]]


def test_step_selectivity_by_hand():
    divergence = torch.tensor([[8.0, 1.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    impacts = torch.tensor([[9.0, 0.0], [1.0, 5.0], [5.0, 4.0], [0.0, 3.0]])
    # The half with the largest impact: samples 0 and 2, whose mean is 5.5, over 0.5; samples 1 and 2 over the rest.
    assert step_selectivity(divergence, impacts, 0.5).tolist() == [11, 1]
    with pytest.raises(ValueError, match="share is 0.01; expected one that parts the 4 samples"):
        step_selectivity(divergence, impacts, 0.01)


# --- sameness ---------------------------------------------------------------------------------------------------


def test_a_decomposition_agrees_with_itself_whatever_order_sign_and_length():
    generator = torch.Generator().manual_seed(0)
    v, impacts = torch.randn(4, 9, generator=generator), torch.rand(30, 4, generator=generator)
    order = torch.tensor([2, 0, 3, 1])
    found = sameness(v, -5 * v[order], impacts, 7 * impacts[:, order])
    assert float(found.direction) == pytest.approx(1) and float(found.response) == pytest.approx(1)


def test_long_gradients_alone_are_no_agreement():
    """Impacts that differ only by a size of each sample, and noise that the two sets do not share."""
    generator = torch.Generator().manual_seed(1)
    size = torch.rand(4000, 1, generator=generator).mul(6).exp()
    a, b = (size * torch.rand(4000, 3, generator=generator).exp() for _ in range(2))
    plain = torch.corrcoef(torch.stack([a[:, 0].log(), b[:, 0].log()]))[0, 1]
    v = torch.eye(3)
    assert plain > 0.9 and abs(float(sameness(v, v, a, b).response)) < 0.1
