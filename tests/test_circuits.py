"""Impacts of any directions, and how alike the samples of each are."""

import pytest
import torch
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM

from l3d_core import L3DConfig, decompose, impact
from l3d_core.chapters.circuits import coherence, impacts, random_sets, z_score
from l3d_core.divergences import resolve_divergence
from l3d_core.intervention import top_samples
from l3d_core.toy_models import Perceptron


@pytest.fixture(scope="module")
def language():
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=11)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).double().eval()
    tokens = torch.randint(11, (6, 4), generator=torch.Generator().manual_seed(1))
    config = L3DConfig(n_v=3, epochs=1, batch_size=3)
    return decompose(model, tokens, "kl", config, parameters="*.self_attn.*"), tokens


# --- impacts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [2, 5, 256])
def test_impacts_are_those_of_one_decomposition(language, chunk_size):
    l3d, tokens = language
    v_in = l3d.v_in.matrix()
    more = torch.cat([v_in, normalize(torch.randn(2, v_in.shape[1], dtype=v_in.dtype), dim=1)])
    options = {"n_references": 3, "seed": 4}
    found = impacts(l3d.model, tokens, more, l3d.divergence, "*.self_attn.*", chunk_size=chunk_size, **options)
    assert found.absolute.shape == (24, 5)
    torch.testing.assert_close(found.absolute[:, :3], impact(l3d, tokens, **options))
    torch.testing.assert_close(found.signed[:, :3], impact(l3d, tokens, signed_mean=True, **options))
    assert (found.signed <= found.absolute + 1e-12).all() and (found.absolute[:, 3:] > 0).any()


def test_impacts_by_hand():
    """f(x) = relu(x w u) with w = u = 1: gradients of (y - r)^2 in w, 2 (y - r) x, are 2 (1 - 3) and 2 (3 - 1) 3."""
    model = Perceptron(torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1)).eval()
    x = torch.tensor([[1.0], [3.0]])
    found = impacts(model, x, torch.tensor([[0.5]]), resolve_divergence("mse"), "W_in", n_references=40)
    share = [float(found.absolute[0, 0]) / 2, float(found.absolute[1, 0]) / 6]
    # A sample paired with itself has no gradient: the share of the other pairs, out of 40.
    assert all(abs(40 * one - round(40 * one)) < 1e-3 and 0 < one < 1 for one in share)
    assert found.signed.equal(found.absolute)  # All signs of a sample are alike.


# --- coherence --------------------------------------------------------------------------------------------------


def chance(labels: torch.Tensor) -> float:
    """Returns the share of all pairs of samples that have one label: the coherence of samples drawn at random."""
    counts = labels.unique(return_counts=True)[1].double()
    n = len(labels)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


def test_coherence_by_hand():
    labels = torch.tensor([7, 7, 7, 8, 9])
    top = torch.tensor([[0, 1, 2], [0, 1, 3], [2, 3, 4]])  # Three, one and none of three pairs.
    assert coherence(top, labels).tolist() == pytest.approx([1, 1 / 3, 0])
    assert chance(labels) == pytest.approx(3 / 10)  # Of ten pairs the three of 7.
    with pytest.raises(ValueError, match="got 1 top samples of each direction; expected at least 2"):
        coherence(top[:, :1], labels)


def test_random_samples_are_as_coherent_as_chance():
    labels = torch.randint(3, (600,), generator=torch.Generator().manual_seed(0))
    found = random_sets(torch.zeros(600, 8), labels, 5, draws=400)
    assert found.shape == (400,) and float(found.mean()) == pytest.approx(chance(labels), abs=0.01)
    assert not found.equal(random_sets(torch.zeros(600, 8), labels, 5, draws=400, seed=1))


def test_directions_that_read_the_label_are_coherent():
    labels = torch.arange(60) % 4
    scores = torch.nn.functional.one_hot(labels, 4) + 0.1 * torch.rand(
        60, 4, generator=torch.Generator().manual_seed(0)
    )
    found = coherence(top_samples(scores, 5), labels)
    assert found.tolist() == [1, 1, 1, 1]
    assert z_score(float(found.mean()), random_sets(scores, labels, 5)) > 5


def test_z_scores_by_hand():
    assert z_score(5.0, torch.tensor([1.0, 3.0])) == pytest.approx(3 / 2**0.5)  # Mean 2, deviation sqrt 2.
    for against in (torch.ones(3), torch.tensor([2.0])):
        with pytest.raises(ValueError, match=f"got {len(against)} values without spread"):
            z_score(1.0, against)
