"""Rank, overlap, linearity, sources of error, agreement and signs of inputs."""

import itertools
import math

import pytest
import torch
from reference_training import (
    kept_by_sorting,
    made,
    made_at_random,
    made_of_vectors,
    mixer,
    mlp,
    normal,
    slow_k_count,
    slow_matching,
)
from torch import nn

from l3d_core.gradients import divergence_gradients
from l3d_core.intervention import matched_deltas
from l3d_core.l3d import L3DConfig
from l3d_core.measures import agreement, effective_rank, error_split, linearity, overlap, sign_split
from l3d_core.metrics import gradient_reconstruction, seed_agreement
from l3d_core.tucker import Layout


def float64(values):
    """Returns a tensor in float64."""
    return torch.tensor(values, dtype=torch.float64)


# --- rank -------------------------------------------------------------------------------------------------------


def test_effective_rank_hand():
    # Singular values 4 and 3, squares 16 / 25 and 9 / 25: exp(-(.64 log .64 + .36 log .36)) = 1.9221. Then equal
    # ones: 2. Then one alone, and none.
    found = effective_rank(float64([[[0, 4], [3, 0]], [[1, 1], [1, -1]], [[2, 2], [1, 1]], [[0, 0], [0, 0]]]))
    assert found.singular_ratio.tolist() == pytest.approx([0.75, 1, 0, 0], abs=1e-14)
    assert found.rank.tolist() == pytest.approx([1.9221, 2, 1, 0], abs=1e-4)
    assert float(found.rank[0]) == pytest.approx(0.64**-0.64 * 0.36**-0.36, rel=1e-13)
    # A matrix of one row has one singular value.
    one = effective_rank(float64([[3.0, 4.0]]))
    assert (float(one.singular_ratio), float(one.rank)) == (0, 1)


def test_effective_rank_oracle():
    matrices = normal(0, 2, 3, 4, 5)
    found = effective_rank(matrices)
    assert found.rank.shape == found.singular_ratio.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        squares = sorted(torch.linalg.eigvalsh(matrices[i, j] @ matrices[i, j].mT).tolist(), reverse=True)
        p = [square / sum(squares) for square in squares]
        assert float(found.singular_ratio[i, j]) == pytest.approx(math.sqrt(squares[1] / squares[0]), rel=1e-12)
        assert float(found.rank[i, j]) == pytest.approx(math.prod(q**-q for q in p), rel=1e-12)
    torch.testing.assert_close(effective_rank(-7 * matrices.mT).rank, found.rank, rtol=1e-12, atol=0)


# --- overlap ----------------------------------------------------------------------------------------------------


def test_overlap_hand():
    # abs(cos): (3, 4) with (-1, 0) .6 and with (0, 2) .8, and 0 between those. The last, dead, is left out.
    v, live = float64([[3, 4], [-1, 0], [0, 2], [3, 4]]), torch.tensor([True, True, True, False])
    found = overlap(v, live)
    assert float(found.mean) == pytest.approx(1.4 / 3, rel=1e-14)
    assert float(found.largest) == pytest.approx(0.8, rel=1e-14)
    assert float(overlap(v).largest) == pytest.approx(1, rel=1e-14)
    # No pair: no number.
    assert all(math.isnan(value) for value in overlap(v[:1]))
    assert all(math.isnan(value) for value in overlap(v, torch.zeros(4, dtype=torch.bool)))


def test_overlap_oracle():
    v = normal(0, 5, 3, 4)
    pairs = [abs(float((a * b).sum() / (a.norm() * b.norm()))) for a, b in itertools.combinations(v, 2)]
    found = overlap(v)
    assert float(found.mean) == pytest.approx(sum(pairs) / 10, rel=1e-13)
    assert float(found.largest) == pytest.approx(max(pairs), rel=1e-13)
    assert float(overlap(-3 * v.flip(0)).mean) == pytest.approx(sum(pairs) / 10, rel=1e-13)


# --- linearity --------------------------------------------------------------------------------------------------


class Square(nn.Module):
    """f(x) = (x w)^2 entry by entry, from w = 1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x):
        return (x * self.w) ** 2


def squaring(v_out):
    rows = torch.cat([torch.ones(len(v_out), 1, dtype=torch.float64), float64(v_out)], 1)
    return made(Square().eval(), rows, rows, Layout({"w": (2,)}, {"w": (1,)}))


def test_linearity_hand():
    # Along (1, 0): (1 + d)^2 - 1 = 2d + d^2 against 2d, an error of |d| / |2 + d|: 1/21, 1/5, and 1/3 for -.5.
    # The reach at a limit of .25 is .5 from d = .5 but -.5 fails, so .1. A dead direction changes nothing.
    x = float64([[1, 5], [3, -2]])
    l3d = squaring([[1, 0], [0, 0]])
    found = linearity(l3d, x, [0.1, 0.5, -0.5, 0.0], limit=0.25)
    assert found.error[0].tolist() == pytest.approx([1 / 21, 1 / 5, 1 / 3, 0], rel=1e-12)
    assert found.error[1].tolist() == [0, 0, 0, 0]
    assert found.reach.tolist() == [0.1, 0.5]
    # The same without -.5; and by default errors below .2 alone are small, which 1/5 + a little is not.
    assert linearity(l3d, x, [0.1, 0.5], limit=0.25).reach.tolist() == [0.5, 0.5]
    assert linearity(l3d, x, [0.1, 0.6]).reach.tolist() == [0.1, 0.6]
    assert linearity(l3d, x, [1.0]).reach.tolist() == [0, 1]
    # An error that is small again farther out does not count: (1 + d)^2 at d = -5 has 5/3, at 100 has 100/102.
    assert linearity(l3d, x, [0.1, -5.0, 100.0], limit=1.0).reach.tolist() == [0.1, 100]
    # At d = -2 nothing has changed, and -4 was predicted.
    assert linearity(l3d, x, [-2.0]).error[0].tolist() == [math.inf]


def test_a_linear_model_is_linear_all_along():
    found = linearity(made_of_vectors([[1.0, 0.0], [2.0, -1.0]]), normal(0, 3, 2), [-1000.0, 0.1, 7.0])
    assert float(found.error.max()) < 1e-10
    assert found.reach.tolist() == [1000, 1000]


@pytest.mark.parametrize(("model", "x"), [(mlp(0), normal(1, 6, 4)), (mixer(0), normal(2, 3, 3, 3))])
def test_linearity_oracle(model, x):
    l3d, deltas = made_at_random(model, 3), [0.01, -0.3, 1.5]
    found = linearity(l3d, x, deltas)
    w0 = {name: w.detach() for name, w in model.named_parameters()}

    def outputs(v, delta):
        moved = {name: w + delta * l3d.v_out.dense()[name][v] for name, w in w0.items()}
        return torch.func.functional_call(model, moved, (x,)).detach()

    for v in range(3):
        slope, errors = (outputs(v, 1e-5) - outputs(v, -1e-5)) / 2e-5, []
        for delta in deltas:
            dy = outputs(v, delta) - outputs(v, 0.0)
            errors.append(math.sqrt(float(((dy - delta * slope) ** 2).sum() / (dy**2).sum())))
        assert found.error[v].tolist() == pytest.approx(errors, rel=1e-5)
        reach = 0.0
        for delta, error in zip(deltas, errors, strict=True):
            if error >= 0.2:
                break
            reach = abs(delta)
        assert float(found.reach[v]) == reach


def test_linearity_takes_each_subnetwork_its_own_deltas():
    l3d, x = made_at_random(mlp(0), 2), normal(1, 6, 4)
    own = matched_deltas(l3d, 1.0)[:, None] * float64([0.1, 0.4])
    found = linearity(l3d, x, own)
    for v in range(2):
        alone = linearity(l3d, x, own[v].tolist())
        torch.testing.assert_close(found.error[v], alone.error[v], rtol=1e-12, atol=0)
        assert float(found.reach[v]) == float(alone.reach[v])


# --- error split ------------------------------------------------------------------------------------------------


def test_error_split_hand():
    # Coefficients are the entries along the first two axes; the third is never rebuilt. Batches of two keep 1 of 4:
    # the 4 of (3, 4, 1), (0, 2, 0), and the 2 of (2, 0, 0), (1, 1, 0). Residuals: 9 + 1, 4, 0, 2 of 26, 4, 4, 2;
    # 16 / 36 in all. Groups: (first, second) 14 of 30, (third, fourth) 2 of 6. Tensors: a has 9 + 1, b 4 + 1 + 1.
    g = {"a": float64([3, 0, 2, 1])[:, None], "b": float64([[4, 1], [2, 0], [0, 0], [1, 0]])}
    v = float64([[1, 0, 0], [0, 1, 0]])
    found = error_split(g, v, v, L3DConfig(n_v=2, k_fraction=0.25, batch_size=2), torch.tensor([5, 5, 2, 2]))
    assert found.labels.tolist() == [2, 5]
    assert float(found.top_k.recon_sq) == pytest.approx(16 / 36, rel=1e-14)
    assert found.top_k.group_recon_sq.tolist() == pytest.approx([2 / 6, 14 / 30], rel=1e-14)
    assert found.top_k.group_share.tolist() == pytest.approx([2 / 16, 14 / 16], rel=1e-14)
    assert {k: float(s) for k, s in found.top_k.tensor_share.items()} == pytest.approx({"a": 10 / 16, "b": 6 / 16})
    # All kept, the 1 of b is left.
    assert float(found.dense.recon_sq) == pytest.approx(1 / 36, rel=1e-14)
    assert found.dense.group_recon_sq.tolist() == pytest.approx([0, 1 / 30], abs=1e-14)
    assert {k: float(s) for k, s in found.dense.tensor_share.items()} == {"a": 0, "b": 1}
    assert float(found.shortage) == pytest.approx(15 / 36, rel=1e-14)
    assert found.group_shortage.tolist() == pytest.approx([2 / 6, 13 / 30], rel=1e-14)


def test_error_split_oracle():
    g = {"a": normal(0, 10, 2, 3), "b": normal(1, 10, 4)}
    flat = torch.cat([part.flatten(1) for part in g.values()], 1)
    v_in, v_out, config = normal(2, 3, 10), normal(3, 3, 10) / 3, L3DConfig(n_v=3, k_fraction=0.4, batch_size=4)
    groups = torch.tensor([1, 2, 1, 3, 3, 2, 1, 1, 2, 3])
    found = error_split(g, v_in, v_out, config, groups)
    for dense, part in ((False, found.top_k), (True, found.dense)):
        left, size, by_tensor = [], [], [0.0, 0.0]
        for first in range(0, 10, 4):
            batch = flat[first : first + 4]
            z = [[float((row * v).sum()) for v in v_in] for row in batch]
            kept = kept_by_sorting(z, slow_k_count(config, len(batch)))
            for s, row in enumerate(batch):
                estimate = sum(z[s][v] * v_out[v] for v in range(3) if dense or kept[s][v])
                squares = ((row - estimate) ** 2).tolist()
                by_tensor[0] += sum(squares[:6])
                by_tensor[1] += sum(squares[6:])
                left.append(sum(squares))
                size.append(float((row**2).sum()))
        assert float(part.recon_sq) == pytest.approx(sum(left) / sum(size), rel=1e-12)
        assert [float(s) for s in part.tensor_share.values()] == pytest.approx(
            [t / sum(left) for t in by_tensor], rel=1e-12
        )
        for label in (1, 2, 3):
            own = [i for i in range(10) if int(groups[i]) == label]
            lost, of = sum(left[i] for i in own), sum(size[i] for i in own)
            assert float(part.group_recon_sq[label - 1]) == pytest.approx(lost / of, rel=1e-12)
            assert float(part.group_share[label - 1]) == pytest.approx(lost / sum(left), rel=1e-12)


def test_error_split_of_one_batch_is_the_reconstruction_error():
    l3d, x = made_at_random(mlp(0), 4, k_fraction=0.2), normal(1, 12, 4)
    g = divergence_gradients(l3d.model, x, l3d.divergence, seed=3)
    found = error_split(g, l3d.v_in.matrix(), l3d.v_out.matrix(), l3d.config, (x > 0).sum(1))
    few, every = (float(gradient_reconstruction(l3d, x, k_fraction=k, seed=3).recon_sq) for k in (0.2, 1.0))
    assert float(found.top_k.recon_sq) == pytest.approx(few, rel=1e-12)
    assert float(found.shortage) == pytest.approx(few - every, rel=1e-10)
    for part in (found.top_k, found.dense):
        assert float(part.group_share.sum()) == pytest.approx(1, rel=1e-12)
        assert sum(float(share) for share in part.tensor_share.values()) == pytest.approx(1, rel=1e-12)


def test_error_split_without_residual_or_gradient():
    g, eye = {"a": float64([[1, 2], [0, 0]])}, torch.eye(2, dtype=torch.float64)
    found = error_split(g, eye, eye, L3DConfig(n_v=2, k_fraction=1.0), torch.tensor([0, 1]))
    for part in (found.top_k, found.dense):
        assert (float(part.recon_sq), part.group_recon_sq.tolist(), part.group_share.tolist()) == (0, [0, 0], [0, 0])


def test_error_split_refuses_other_groups():
    with pytest.raises(ValueError, match=r"groups have shape \(3,\); expected one number per sample, \(4,\)"):
        error_split({"a": normal(0, 4, 2)}, normal(1, 1, 2), normal(2, 1, 2), L3DConfig(n_v=1), torch.zeros(3))


# --- agreement --------------------------------------------------------------------------------------------------


def test_agreement_hand():
    # Live: (1, 0) and (0, 1) against (0, -5) and (3, 4), matched with .6 and 1: mean .8, one of two above .9.
    a, live = float64([[1, 0], [0, 1], [1, 1]]), torch.tensor([True, True, False])
    b = float64([[0, -5], [3, 4]])
    found = agreement(a, b, live)
    assert float(found.mean) == pytest.approx(0.8, rel=1e-14)
    assert float(found.share) == 0.5
    assert float(agreement(a, b, live, limit=0.5).share) == 1
    none = agreement(a, b, live, torch.zeros(2, dtype=torch.bool))
    assert (float(none.mean), float(none.share)) == (0, 0)
    # All three count without a mask: (1, 1) with (3, 4) has 7 / (5 sqrt 2), (0, 1) with (0, -5) has 1.
    assert float(agreement(a, b).mean) == pytest.approx((1 + 7 / 50**0.5) / 2, rel=1e-13)


def test_agreement_oracle():
    a, b = normal(0, 4, 2, 3), normal(1, 3, 2, 3)
    assert float(agreement(a, b).mean) == pytest.approx(slow_matching(a.flatten(1), b.flatten(1)) / 3, rel=1e-12)
    x, y = (made_at_random(mlp(0), 3, seed=seed, p_active=[0.1, 0.2, 0.0]) for seed in (0, 1))
    stored = agreement(x.v_out.matrix(), y.v_out.matrix(), x.live, y.live)
    assert float(stored.mean) == pytest.approx(seed_agreement(x, y), rel=1e-13)
    same = agreement(a, -2 * a.flip(0))
    assert (float(same.mean), float(same.share)) == (pytest.approx(1, rel=1e-13), 1)


# --- signs ------------------------------------------------------------------------------------------------------


def test_sign_split_hand():
    # The first subnetwork's feature is 0: impacts 3 and 1 where it is positive and 4 where negative, 4 / 8; where it
    # is zero, 100 does not count. The second's is 1: 2 of 2. The third has no impact where its feature is active.
    x = float64([[0.5, 0], [0.1, 0.7], [-1, 0], [0, 0]])
    impacts = float64([[3, 9, 1], [1, 2, 0], [4, 9, 1], [100, 9, 1]])
    first, second, third = sign_split(impacts, x, torch.tensor([0, 1, 1])).tolist()
    assert (first, second) == (0.5, 1)
    assert math.isnan(third)


def test_sign_split_oracle():
    impacts, x, relevant = normal(0, 20, 4).abs(), normal(1, 20, 3) * (normal(2, 20, 3) > 0), torch.tensor([2, 0, 2, 1])
    found = sign_split(impacts, x, relevant)
    for v, i in enumerate(relevant.tolist()):
        up = sum(float(impacts[s, v]) for s in range(20) if x[s, i] > 0)
        down = sum(float(impacts[s, v]) for s in range(20) if x[s, i] < 0)
        assert float(found[v]) == pytest.approx(up / (up + down), rel=1e-13)
    torch.testing.assert_close(sign_split(impacts, -x, relevant), 1 - found, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n_s", "n_v"), [(5, 2), (4, 3)])
def test_sign_split_refuses_other_shapes(n_s, n_v):
    with pytest.raises(ValueError, match=r"impacts .*; expected \[n_s, n_v\], \[n_s, n_features\] and \[n_v\]"):
        sign_split(torch.ones(n_s, n_v), torch.ones(4, 3), torch.tensor([0, 1]))
