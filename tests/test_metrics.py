"""Measures of a decomposition."""

import itertools

import pytest
import torch
from cases import transformer
from reference_training import (
    batch_gradients,
    made_at_random,
    made_of_vectors,
    mixer,
    mlp,
    normal,
    slow_k_count,
    slow_matching,
    slow_reconstruction,
)

from l3d_core.l3d import L3DConfig
from l3d_core.metrics import coverage, gradient_reconstruction, match_directions, seed_agreement, selectivity, top_share
from l3d_core.training import decompose


def test_top_share_hand():
    rows = torch.tensor([[0.0, 2.0], [3.0, 4.0], [1.0, 0.0]])
    # Squared lengths 4, 25, 1: the second row has 25 / 30.
    assert int(top_share(rows).index) == 1
    assert float(top_share(rows).share) == pytest.approx(25 / 30, rel=1e-6)
    # Squared lengths 1, 4, 4, 1, 0, 3 in groups of two: 5, 5 and 3 of 13; in groups of three: 9 and 4.
    grouped = torch.tensor([[1.0], [2.0], [2.0], [1.0], [0.0], [3.0**0.5]])
    assert float(top_share(grouped, 2).share) == pytest.approx(5 / 13, rel=1e-6)
    assert int(top_share(grouped, 3).index) == 0
    assert float(top_share(grouped, 3).share) == pytest.approx(9 / 13, rel=1e-6)
    assert float(top_share(torch.zeros(3, 2)).share) == 0


@pytest.mark.parametrize("group_size", [1, 2, 3, 6])
def test_top_share_oracle(group_size):
    rows = normal(0, 4, 6, 3)
    found = top_share(rows, group_size)
    assert found.index.shape == found.share.shape == (4,)
    for v, matrix in enumerate(rows.tolist()):
        energies = [sum(value**2 for value in row) for row in matrix]
        groups = [sum(energies[i : i + group_size]) for i in range(0, 6, group_size)]
        assert int(found.index[v]) == groups.index(max(groups))
        assert float(found.share[v]) == pytest.approx(max(groups) / sum(groups), rel=1e-13)


@pytest.mark.parametrize("group_size", [0, 4, -1])
def test_top_share_refuses_groups_that_do_not_fit(group_size):
    with pytest.raises(ValueError, match=rf"group_size {group_size} does not divide the 6 rows; expected a divisor"):
        top_share(torch.ones(6, 2), group_size)


def test_coverage_hand():
    top, live = torch.tensor([2, 0, 2, 1, 1]), torch.tensor([True, True, True, False, True])
    # Feature 0 once, 1 once (its other subnetwork is dead), 2 twice, 3 never.
    assert coverage(top, live, 4).tolist() == [1, 1, 2, 0]
    assert coverage(top, torch.zeros(5, dtype=torch.bool), 4).tolist() == [0, 0, 0, 0]


def test_matching_hand():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, -2.0], [3.0, 3.0]])
    # abs(cos): 0 and .7071 for the first, .7071 and 1 for the second. The best single pair (1, 1) would leave 0,
    # 1 in all; crossing gives 1.4142.
    found = match_directions(a, b)
    assert (found.rows.tolist(), found.columns.tolist()) == ([0, 1], [1, 0])
    assert found.cosines.tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-6)
    # A zero vector has cosine 0.
    assert match_directions(torch.zeros(1, 2), b).cosines.tolist() == [0]


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 3), (2, 5), (5, 3)])
def test_matching_oracle(n_a, n_b):
    for seed in range(4):
        a, b = normal(seed, n_a, 4), normal(seed + 50, n_b, 4)
        found = match_directions(a, b)
        assert len(found.rows) == len(set(found.rows.tolist())) == len(set(found.columns.tolist())) == min(n_a, n_b)
        assert float(found.cosines.sum()) == pytest.approx(slow_matching(a, b), rel=1e-12)
        for i, j, cosine in zip(*(part.tolist() for part in found), strict=True):
            assert cosine == pytest.approx(abs(float(torch.cosine_similarity(a[i], b[j], dim=0))), rel=1e-12)


def test_matching_ignores_order_sign_and_length():
    a = normal(0, 4, 6)
    order, scale = torch.tensor([2, 0, 3, 1]), torch.tensor([[-2.0], [0.5], [-1.0], [3.0]], dtype=torch.float64)
    found = match_directions(a, (a * scale)[order])
    assert order[found.columns].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(found.cosines, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-14)


def test_seed_agreement_hand():
    a = made_of_vectors([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], p_active=[0.3, 0.1, 0.0])
    b = made_of_vectors([[0.0, -5.0], [3.0, 4.0]], p_active=[0.2, 0.2])
    # The third of a is dead. (1, 0) with (3, 4) / 5 has .6, (0, 1) with (0, -1) has 1: mean .8.
    assert seed_agreement(a, b) == pytest.approx(0.8, rel=1e-12)
    assert seed_agreement(a, a) == pytest.approx(1.0, rel=1e-12)
    assert seed_agreement(a, made_of_vectors([[1.0, 0.0]], p_active=[0.0])) == 0.0


def test_seed_agreement_looks_at_decoders():
    a = made_of_vectors([[1.0, 0.0]], [[0.0, 1.0]])
    b = made_of_vectors([[1.0, 0.0]], [[1.0, 0.0]])
    assert seed_agreement(a, b) == 0.0


def test_selectivity_hand():
    # abs changes of the two samples: 1, 3, 0 and 1, 5, 4, mean 1, 4, 2. The second output is the relevant one:
    # 4 / 1.5 against the mean of the others, 4 / 2 against the largest. Signs do not cancel.
    change = torch.tensor([[[1.0, -3.0, 0.0], [-1.0, 5.0, 4.0]]])
    found = selectivity(change, torch.tensor([1]))
    assert found.over_mean.tolist() == pytest.approx([4 / 1.5], rel=1e-6)
    assert found.over_max.tolist() == pytest.approx([2.0], rel=1e-6)


def test_selectivity_oracle():
    change, relevant = normal(0, 3, 7, 4), torch.tensor([2, 0, 2])
    found = selectivity(change, relevant)
    for v in range(3):
        moved = [sum(abs(float(change[v, s, o])) for s in range(7)) / 7 for o in range(4)]
        own = moved.pop(int(relevant[v]))
        assert float(found.over_mean[v]) == pytest.approx(own / (sum(moved) / 3), rel=1e-13)
        assert float(found.over_max[v]) == pytest.approx(own / max(moved), rel=1e-13)


def test_gradient_reconstruction_hand():
    # Outputs are the inputs, their mean is (1, 1), and the gradients 2 (y - r) / 2 are (1, -1), (-1, -1), (0, 2):
    # 8 in squares. Of the 3 * 2 coefficients floor(.2 * 6) = 1 is kept, the 2: it leaves 2 + 2 + 0.
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    l3d = made_of_vectors([[1.0, 0.0], [0.0, 1.0]], k_fraction=0.2, reference="mean")
    found = gradient_reconstruction(l3d, x)
    assert float(found.recon_sq) == pytest.approx(0.5, rel=1e-13)
    assert float(found.recon_norm) == pytest.approx(0.5**0.5, rel=1e-13)
    assert found.kept.tolist() == [[False, False], [False, False], [False, True]]
    # All kept, the two directions span everything.
    assert float(gradient_reconstruction(l3d, x, k_fraction=1.0).recon_sq) == 0
    # Of one direction (1, 0) nothing can help the second entries: 1 + 1 + 4 of 8 are left.
    one = made_of_vectors([[1.0, 0.0]], k_fraction=1.0, reference="mean")
    assert float(gradient_reconstruction(one, x).recon_sq) == pytest.approx(0.75, rel=1e-13)


@pytest.mark.parametrize(
    ("model", "inputs", "patterns", "divergence"),
    [
        (mlp(0), normal(1, 7, 4), "*", "mse"),
        (mlp(1), normal(2, 7, 4), "0.*", "kl"),
        (mixer(0), normal(3, 4, 3, 3), "up*", "kl"),
        (transformer().model, transformer(n=3).inputs, "value.*", "half_reference_mse"),
    ],
)
def test_gradient_reconstruction_oracle(model, inputs, patterns, divergence):
    l3d = made_at_random(model, 4, rank=2, patterns=patterns, divergence=divergence, k_fraction=0.3, k_extra=1)
    n_s = model(inputs).shape[:-1].numel()
    partners = torch.randint(n_s, (n_s,), generator=torch.Generator().manual_seed(8))
    g = batch_gradients(model, l3d.parameters, inputs, divergence, "sample", partners, None)
    slow, kept = slow_reconstruction(
        g, list(l3d.v_in.matrix()), list(l3d.v_out.matrix()), slow_k_count(l3d.config, n_s), dense=False
    )
    for chunk_size in (None, 1, 3):
        fast = gradient_reconstruction(l3d, inputs, seed=8, chunk_size=chunk_size)
        torch.testing.assert_close(fast.recon_sq, slow, rtol=1e-11, atol=0)
        assert fast.kept.tolist() == kept


def test_naming_the_trained_k_changes_nothing():
    # .29 of 25 * 4 entries is 28.999999999999996 in floating point; 29 + 1 are kept either way.
    l3d = made_at_random(mlp(0), 4, k_fraction=0.29, k_extra=1, reference="mean")
    x = normal(1, 25, 4)
    trained, named = gradient_reconstruction(l3d, x), gradient_reconstruction(l3d, x, k_fraction=0.29)
    assert int(trained.kept.sum()) == 30
    assert trained.kept.equal(named.kept)
    assert int(gradient_reconstruction(l3d, x, k_fraction=1.0).kept.sum()) == 100


def test_more_coefficients_reconstruct_a_trained_decomposition_better():
    x = normal(1, 32, 4)
    config = L3DConfig(n_v=6, epochs=60, batch_size=32, k_fraction=0.5)
    l3d = decompose(mlp(0), x, "mse", config)
    few, trained = (float(gradient_reconstruction(l3d, x, k_fraction=k).recon_sq) for k in (0.05, 0.5))
    assert trained < few
    assert trained < 0.9 * float(l3d.history.recon_sq[0])


@pytest.mark.parametrize("k_fraction", [0.0, 1.5])
def test_gradient_reconstruction_refuses_other_fractions(k_fraction):
    l3d = made_at_random(mlp(0), 2)
    with pytest.raises(ValueError, match=r"k_fraction is .*; expected a fraction in \(0, 1\]"):
        gradient_reconstruction(l3d, normal(1, 4, 4), k_fraction=k_fraction)


def test_gradient_reconstruction_refuses_no_inputs():
    with pytest.raises(ValueError, match="got 0 inputs; expected at least 1"):
        gradient_reconstruction(made_at_random(mlp(0), 2), normal(1, 0, 4))


def test_matching_pairs_are_the_best_of_all_pairings_by_hand_count():
    # Three unit vectors against their own reversed list: of the 6 pairings only the reversing one has sum 3.
    a = torch.linalg.qr(normal(4, 3, 3)).Q
    sums = [sum(float((a[i] @ a.flip(0)[j]).abs()) for i, j in enumerate(p)) for p in itertools.permutations(range(3))]
    assert sum(total > 3 - 1e-9 for total in sums) == 1
    assert match_directions(a, a.flip(0)).columns.tolist() == [2, 1, 0]
