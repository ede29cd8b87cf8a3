import pytest
import reference
import torch
from cases import normal, stream

from l3d_core.references import KINDS, draw_partners, reference_outputs

Y = torch.tensor([[1.0, 2.0], [3.0, 6.0], [8.0, 10.0]]).double()
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def close(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), **CLOSE)


def test_sample_by_hand():
    # Sample 0 is compared with 2, sample 1 with itself, sample 2 with 0.
    close(reference_outputs(Y, "sample", partners=torch.tensor([2, 1, 0])), [[8.0, 10.0], [3.0, 6.0], [1.0, 2.0]])


def test_mean_by_hand():
    # Columns: (1 + 3 + 8) / 3 and (2 + 6 + 10) / 3.
    close(reference_outputs(Y, "mean"), [[4.0, 6.0]] * 3)


def test_mean_of_probabilities_by_hand():
    # Probabilities (3/4, 1/4) and (1/4, 3/4) average to (1/2, 1/2), as would the logits.
    y = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double().log()
    close(reference_outputs(y, "mean", probabilities=True).softmax(-1), [[0.5, 0.5]] * 2)
    # (9/10, 1/10) and (1/2, 1/2) average to (0.7, 0.3); their mean logits, (log 3, 0), would give (3/4, 1/4).
    y = torch.tensor([[9.0, 1.0], [1.0, 1.0]]).double().log()
    close(reference_outputs(y, "mean", probabilities=True).softmax(-1), [[0.7, 0.3]] * 2)


def test_uniform_by_hand():
    # (1 + 2 + 3 + 6 + 8 + 10) / 6 = 5 in every entry; equal logits, 1 / n_o each, for probabilities.
    close(reference_outputs(Y, "uniform"), [[5.0, 5.0]] * 3)
    close(reference_outputs(Y, "uniform", probabilities=True).softmax(-1), [[0.5, 0.5]] * 3)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_loop_for_each_batch(kind, probabilities):
    y, partners = normal(2, 3, 7, 4), torch.randint(7, (2, 3, 7), generator=stream(1))
    got = reference_outputs(y, kind, partners=partners, probabilities=probabilities)
    assert got.shape == y.shape
    for a in range(2):
        for b in range(3):
            expected = reference.reference_outputs(y[a, b], kind, partners[a, b], probabilities)
            if probabilities and kind != "sample":
                close(got[a, b].softmax(-1), expected.softmax(-1))
            else:
                close(got[a, b], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_flows_through_references(kind):
    y = normal(3, 4).requires_grad_()
    y_ref = reference_outputs(y, kind, partners=torch.tensor([1, 2, 0]))
    assert not y_ref.requires_grad
    # d/dy of sum y y_ref is y_ref alone when the reference is a constant.
    (y * y_ref).sum().backward()
    close(y.grad, y_ref)


def test_partners_are_drawn_with_replacement_over_the_whole_batch():
    n_batches, n_s = 2000, 4
    partners = draw_partners(n_batches, n_s, stream(0))
    assert partners.shape == (n_batches, n_s)
    # Each of the 16 (sample, partner) pairs, the sample itself included, has chance 1/4; its count has a standard
    # deviation of sqrt(2000 * 3 / 16) = 19.4, so that 500 +- 97 is five of them.
    counts = torch.stack([partners.eq(partner).sum(0) for partner in range(n_s)])
    assert counts.sum() == n_batches * n_s
    assert (counts - 500).abs().max() < 97
    # With replacement only 4! / 4^4 = 9.4 % of batches hold each partner once; without it all would.
    once = (partners.sort(1).values == torch.arange(n_s)).all(1).double().mean()
    assert 0.06 < once < 0.13


def test_partners_depend_on_the_stream_alone():
    assert torch.equal(draw_partners(3, 5, stream(7)), draw_partners(3, 5, stream(7)))
    assert not torch.equal(draw_partners(3, 5, stream(7)), draw_partners(3, 5, stream(8)))


def test_unknown_kind():
    with pytest.raises(
        ValueError, match="reference 'median' is unknown; expected one of .*'sample', 'mean', 'uniform'"
    ):
        reference_outputs(Y, "median")


def test_sample_without_partners():
    with pytest.raises(ValueError, match=r"partners have shape None; expected one index per sample, \(3,\)"):
        reference_outputs(Y, "sample")


def test_sample_with_partners_of_another_shape():
    with pytest.raises(ValueError, match=r"partners have shape \(2,\); expected one index per sample, \(3,\)"):
        reference_outputs(Y, "sample", partners=torch.tensor([0, 1]))
