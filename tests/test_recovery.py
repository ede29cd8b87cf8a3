"""Planted subnetworks are found: known circuits, several seeds."""

import functools

import pytest
import torch

from l3d_core.intervention import delta_sweep, impact
from l3d_core.l3d import L3DConfig
from l3d_core.metrics import coverage, match_directions, seed_agreement, selectivity, top_share
from l3d_core.runs import Run, build_program
from l3d_core.streams import initial_state
from l3d_core.toys import Superposition, sparse_inputs
from l3d_core.training import fit
from l3d_core.tucker import TuckerDirections

N, SEEDS = 4, range(8)
VARIANTS = {
    "text": ("mse", {}),
    "code": (
        "half_reference_mse",
        {"loss": "recon_sq", "k_extra": 1, "v_out_norm": "tensor_sum", "dense_epochs": 1, "weight_decay": 0.0},
    ),
    "polyadic": ("mse", {"form": "cp"}),
}


def planted(seed, variant="text", n_v=N):
    """Returns a run over a target whose features have a dimension each, in a random basis, so circuits are separate.

    An input feature passes through its own row of W_in, its own column of W_out and its own bias, and the negative
    bias shuts every output whose feature is not active: a sample's gradient is zero outside its features' circuits.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64)).Q
    model = Superposition(basis, torch.full((N,), -0.05, dtype=torch.float64)).eval()
    divergence, settings = VARIANTS[variant]
    config = L3DConfig(
        n_v=n_v, epochs=80, batch_size=32, k_fraction=1 / n_v, lr=0.02, lr_decay_every_epochs=20, **settings
    )
    return Run(model, sparse_inputs(160, N, 0.1, seed=seed).double(), config, divergence, seed)


@functools.cache
def decomposed(variant, n_v=N):
    """Returns the decompositions of the planted targets of all seeds."""
    return fit([planted(seed, variant, n_v) for seed in SEEDS])


def tops(v_out):
    """Returns the top input and the top output of each direction."""
    dense = v_out.dense()
    return top_share(dense["W_in"]), top_share(dense["W_out"].mT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_circuit_is_found_once(variant):
    for l3d in decomposed(variant):
        assert l3d.live.all()
        inputs, outputs = tops(l3d.v_out)
        assert coverage(inputs.index, l3d.live, N).tolist() == [1] * N
        assert outputs.index.equal(inputs.index)
        assert inputs.share.min() > 0.9
        assert outputs.share.min() > 0.9
        assert float(inputs.share.mean()) > 0.95


def test_before_training_nothing_is_found():
    shares = []
    for seed in SEEDS:
        program = build_program([planted(seed)])
        inputs, _ = tops(TuckerDirections(program.layout, initial_state(program)["numbers"][1, 0]))
        shares.append(float(inputs.share.min()))
    assert max(shares) < 0.7


def test_found_directions_are_the_planted_ones():
    for l3d in decomposed("text"):
        w_in, n_w = l3d.model.W_in.detach(), 2 * N * N + N
        circuits = torch.zeros(N, n_w, dtype=torch.float64)  # The row of W_in and the column of W_out, equally long.
        for i in range(N):
            circuits[i].view(-1)[i * N : (i + 1) * N] = w_in[i]
            circuits[i][N * N : 2 * N * N].view(N, N)[:, i] = w_in[i]
        weights_only = l3d.v_out.matrix().clone()
        weights_only[:, -N:] = 0
        assert match_directions(circuits, weights_only).cosines.min() > 0.9


def test_little_of_the_gradients_is_left():
    for l3d in decomposed("text"):
        # A feature's gradients fill two dimensions, weights and bias, of which a direction can hold one.
        assert float(l3d.history.recon_sq[-1]) < 0.15
        assert float(l3d.history.recon_sq[-1]) < 0.2 * float(l3d.history.recon_sq[0])


def test_too_many_subnetworks_still_cover_every_circuit():
    for l3d in decomposed("text", 6):
        assert coverage(tops(l3d.v_out)[0].index, l3d.live, N).min() >= 1


def test_pushing_a_subnetwork_moves_its_own_output():
    for l3d in decomposed("text"):
        x = sparse_inputs(200, N, 0.1, seed=99).double()
        own = tops(l3d.v_out)[0].index
        plain = l3d.model(x).detach()
        change = torch.stack([delta_sweep(l3d, v, [-0.3, 0.3], x) for v in range(N)]) - plain
        raising = change.gather(3, own[:, None, None, None].expand(N, 2, 200, 1)).mean((2, 3)).argmax(1)
        found = selectivity(change[torch.arange(N), raising], own)
        assert found.over_max.min() > 10


def test_impacts_single_out_the_samples_of_a_circuit():
    for l3d in decomposed("text"):
        x = 0.5 * torch.eye(N, dtype=torch.float64)  # One sample for each feature.
        scores = impact(l3d, x, n_references=20)
        assert scores.argmax(0).equal(tops(l3d.v_out)[0].index)


def test_two_seeds_find_the_same_subnetworks():
    target = planted(0)
    runs = [Run(target.model, target.inputs, target.config, "mse", seed) for seed in (0, 1)]
    a, b = fit(runs)
    assert seed_agreement(a, b) > 0.9
    assert seed_agreement(a, decomposed("text")[1]) < 0.7  # Another target, another basis.
