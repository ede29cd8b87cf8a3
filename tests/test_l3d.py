"""The configuration, batch top-k and the reconstruction loss."""

from dataclasses import replace

import pytest
import torch
from reference_training import kept_by_sorting, normal, slow_k_count, slow_lr, slow_reconstruction

from l3d_core.l3d import L3DConfig, batch_top_k, reconstruct


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_v": 0}, r"n_v is 0; expected a whole number of at least 1"),
        ({"n_v": 2.0}, r"n_v is 2\.0; expected a whole number"),
        ({"epochs": 0}, r"epochs is 0; expected a whole number"),
        ({"batch_size": -1}, r"batch_size is -1; expected a whole number"),
        ({"k_fraction": 0.0}, r"k_fraction is 0\.0; expected a fraction in \(0, 1\]"),
        ({"k_fraction": 1.5}, r"k_fraction is 1\.5; expected a fraction in \(0, 1\]"),
        ({"k_fraction": float("nan")}, r"k_fraction is nan; expected a fraction"),
        ({"k_extra": -1}, r"k_extra -1; expected at least 0"),
        ({"dense_epochs": -2}, r"dense_epochs -2, .* expected at least 0"),
        ({"lr": 0.0}, r"lr 0\.0, .* expected lr > 0"),
        ({"lr_decay": 0.0}, r"lr_decay 0\.0, .* lr_decay in \(0, 1\]"),
        ({"lr_decay": 1.1}, r"lr_decay 1\.1, .* lr_decay in \(0, 1\]"),
        ({"weight_decay": -0.1}, r"weight_decay -0\.1; .* weight_decay >= 0"),
        ({"revival": -0.1}, r"revival is -0\.1; expected a finite number of at least 0, such as 1 / 32"),
        ({"revival": float("inf")}, r"revival is inf; expected a finite number"),
        ({"revival": float("nan")}, r"revival is nan; expected a finite number"),
        ({"revival": "1/32"}, r"revival is '1/32'; expected a finite number"),
        ({"lr_decay_every_steps": 5}, r"lr_decay_every_epochs and lr_decay_every_steps are both set; expected one"),
        ({"lr_decay_every_epochs": 0}, r"decays every 0; expected at least 1, or None"),
        ({"form": "svd"}, r"form is 'svd'; expected one of \['tucker', 'cp'\]"),
        ({"loss": "mse"}, r"loss is 'mse'; expected one of \['recon_norm', 'recon_sq'\]"),
        ({"v_out_norm": "max"}, r"v_out_norm is 'max'; expected one of \['l2', 'tensor_sum'\]"),
        ({"encoder_init": "zero"}, r"encoder_init is 'zero'; expected one of \['copy', 'random'\]"),
        ({"reference": "zero"}, r"reference is 'zero'; expected one of"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        L3DConfig(**{"n_v": 3, **settings})


def test_defaults_are_the_method_as_the_paper_states_it():
    config = L3DConfig(n_v=5)
    # App. B.3: rank 1, top 10 %, 1000 epochs, batches of 32, learning rate 0.01 times 0.8 per 100, AdamW (0.01).
    assert (config.rank, config.k_fraction, config.epochs, config.batch_size) == (1, 0.1, 1000, 32)
    assert (config.lr, config.lr_decay, config.lr_decay_every_epochs, config.weight_decay) == (0.01, 0.8, 100, 0.01)
    assert (config.loss, config.v_out_norm, config.k_extra, config.dense_epochs) == ("recon_norm", "l2", 0, 0)
    assert (config.reference, config.encoder_init, config.form) == ("sample", "copy", "tucker")
    assert config.revival == 0


def test_k_count_hand():
    # .1 * 32 * 8 = 25.6 -> 25, and 26 with the authors' extra entry; a last batch of 8: 6.4 -> 6, and 7.
    assert L3DConfig(n_v=8).k_count(32) == 25
    assert L3DConfig(n_v=8, k_extra=1).k_count(32) == 26
    assert L3DConfig(n_v=8).k_count(8) == 6
    assert L3DConfig(n_v=8, k_extra=1).k_count(8) == 7
    # .29 * 100 is 28.999999999999996 in floating point; a floor of it would lose an entry.
    assert L3DConfig(n_v=1, k_fraction=0.29).k_count(100) == 29
    # .1 * 2 * 3 = .6 -> 0, but at least one entry is kept; and never more than there are, 2 * 3 = 6.
    assert L3DConfig(n_v=3).k_count(2) == 1
    assert L3DConfig(n_v=3, k_fraction=1.0, k_extra=1).k_count(2) == 6


@pytest.mark.parametrize("k_fraction", [0.01, 0.07, 0.1, 0.3, 0.57, 0.7, 0.9, 1.0])
def test_k_count_oracle(k_fraction):
    for n_v in (1, 3, 8, 10):
        config = L3DConfig(n_v=n_v, k_fraction=k_fraction)
        for n_s in (1, 2, 8, 30, 32, 100):
            assert config.k_count(n_s) == slow_k_count(config, n_s)


def test_lr_hand():
    by_epoch = L3DConfig(n_v=1)
    # .01 until epoch 99, then .008; the last of 1000 epochs has .01 * .8^9 = .00134217728.
    assert by_epoch.lr_at(99, 10**6) == 0.01
    assert by_epoch.lr_at(100, 0) == pytest.approx(0.008, rel=1e-14)
    assert by_epoch.lr_at(999, 0) == pytest.approx(0.00134217728, rel=1e-14)
    by_step = L3DConfig(n_v=1, lr_decay_every_epochs=None, lr_decay_every_steps=100)
    # 250 steps passed two decays, whatever the epoch: .01 * .64.
    assert by_step.lr_at(700, 250) == pytest.approx(0.0064, rel=1e-14)
    assert replace(by_step, lr_decay_every_steps=None).lr_at(700, 250) == 0.01


@pytest.mark.parametrize("every", [{"lr_decay_every_epochs": 3}, {"lr_decay_every_steps": 4}])
def test_lr_oracle(every):
    config = L3DConfig(n_v=1, lr_decay=0.7, **{"lr_decay_every_epochs": None, **every})
    for epoch in range(8):
        for step in range(12):
            assert config.lr_at(epoch, step) == pytest.approx(slow_lr(config, epoch, step), rel=1e-14)


def test_top_k_hand():
    z = torch.tensor([[3.0, -1.0], [0.5, -4.0]])
    # Sizes sorted: 4, 3, 1, .5. The two largest are -4 and 3, over the whole batch and not per sample.
    assert batch_top_k(z, 2).tolist() == [[True, False], [False, True]]
    assert batch_top_k(z, 3).tolist() == [[True, True], [False, True]]
    assert batch_top_k(z, 4).all()


def test_top_k_keeps_ties_and_drops_zeros():
    # Both entries of size 2 tie at the threshold of k = 2 and stay: three kept.
    assert batch_top_k(torch.tensor([[2.0, -2.0, 3.0, 1.0]]), 2).tolist() == [[True, True, True, False]]
    # The third largest size is 0: only the two nonzero entries are kept.
    assert batch_top_k(torch.tensor([[0.0, 5.0], [0.0, -1.0]]), 3).tolist() == [[False, True], [False, True]]
    assert not batch_top_k(torch.zeros(2, 3), 2).any()


def test_top_k_of_many_entries_with_a_count_for_each_run():
    """So many that what selects them leaves them unordered."""
    z = torch.randn(5, 50, 60, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        counts = torch.tensor([1, 300, 1700, 2999, 3000])
        kept = batch_top_k(z.to(dtype), counts)
        assert kept.sum((1, 2)).equal(counts)
        for run, size in zip(kept, z.to(dtype).abs(), strict=True):
            assert run.all() or float(size[run].min()) > float(size[~run].max())


def test_top_k_takes_one_count_per_run():
    z = torch.tensor([[[3.0, 1.0, 2.0]], [[3.0, 1.0, 2.0]]])
    kept = batch_top_k(z, torch.tensor([1, 2]))
    assert kept.tolist() == [[[True, False, False]], [[True, False, True]]]


@pytest.mark.parametrize("k_count", [1, 7, 20])
def test_top_k_oracle(k_count):
    for seed in range(5):
        z = normal(seed, 5, 4)
        assert batch_top_k(z, k_count).tolist() == kept_by_sorting(z.tolist(), k_count)
        assert batch_top_k(z, k_count).sum() == k_count
        rounded = (2 * z).round() / 2  # many ties and zeros
        assert batch_top_k(rounded, k_count).tolist() == kept_by_sorting(rounded.tolist(), k_count)


def test_reconstruction_hand():
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    v_in = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    v_out = torch.tensor([[1.0, 0.0], [0.0, 0.25]], dtype=torch.float64)
    # z = [[3, 8], [0, 2]] and sum |g|^2 = 9 + 16 + 1 = 26.
    # k = 2 keeps 8 and 3: g_hat = (3, 2), (0, 0); what is left is (0, 2), (0, 1): 5 / 26.
    two = reconstruct(g, v_in, v_out, 2, dense=False)
    assert two.kept.tolist() == [[True, True], [False, False]]
    assert float(two.recon_sq) == pytest.approx(5 / 26, rel=1e-14)
    assert float(two.recon_norm) == pytest.approx((5 / 26) ** 0.5, rel=1e-14)
    # k = 1 keeps 8 alone: left is (3, 2), (0, 1): 14 / 26.
    assert float(reconstruct(g, v_in, v_out, 1, dense=False).recon_sq) == pytest.approx(14 / 26, rel=1e-14)
    # All kept, whatever k says: left is (0, 2), (0, .5): 4.25 / 26.
    dense = reconstruct(g, v_in, v_out, 1, dense=True)
    assert dense.kept.all()
    assert float(dense.recon_sq) == pytest.approx(4.25 / 26, rel=1e-14)


@pytest.mark.parametrize("dense", [False, True])
def test_reconstruction_and_its_gradient_oracle(dense):
    for seed in range(3):
        g, v_in, v_out = normal(seed, 6, 5), normal(seed + 10, 4, 5), normal(seed + 20, 4, 5)
        fast = [v_in.clone().requires_grad_(), v_out.clone().requires_grad_()]
        slow = [v_in.clone().requires_grad_(), v_out.clone().requires_grad_()]
        mine = reconstruct(g, *fast, 7, dense)
        theirs, kept = slow_reconstruction(list(g), list(slow[0]), list(slow[1]), 7, dense=dense)
        torch.testing.assert_close(mine.recon_sq, theirs, rtol=1e-12, atol=0)
        torch.testing.assert_close(mine.recon_norm, theirs.sqrt(), rtol=1e-12, atol=0)
        assert mine.kept.tolist() == kept
        pairs = zip(torch.autograd.grad(mine.recon_norm, fast), torch.autograd.grad(theirs.sqrt(), slow), strict=True)
        for a, b in pairs:
            assert b.abs().max() > 1e-3
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_reconstruction_of_several_runs_is_that_of_each():
    g, v_in, v_out = normal(0, 3, 6, 5), normal(1, 3, 4, 5), normal(2, 3, 4, 5)
    k_count, dense = torch.tensor([2, 9, 5]), torch.tensor([False, False, True])
    together = reconstruct(g, v_in, v_out, k_count, dense)
    for r in range(3):
        alone = reconstruct(g[r], v_in[r], v_out[r], int(k_count[r]), bool(dense[r]))
        torch.testing.assert_close(together.recon_sq[r], alone.recon_sq, rtol=1e-13, atol=0)
        assert together.kept[r].equal(alone.kept)
    assert len({int(kept.sum()) for kept in together.kept}) == 3


def test_perfect_directions_reconstruct_everything():
    g = normal(0, 6, 5)
    basis = torch.linalg.qr(normal(1, 5, 5)).Q
    batch = reconstruct(g, basis, basis, 30, dense=False)
    assert float(batch.recon_sq) < 1e-28


def test_order_of_samples_and_subnetworks_does_not_matter():
    g, v_in, v_out = normal(3, 6, 5), normal(4, 4, 5), normal(5, 4, 5)
    samples, subnetworks = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 0, 3, 1])
    plain = reconstruct(g, v_in, v_out, 7, dense=False)
    moved = reconstruct(g[samples], v_in[subnetworks], v_out[subnetworks], 7, dense=False)
    torch.testing.assert_close(moved.recon_sq, plain.recon_sq, rtol=1e-13, atol=0)
    assert moved.kept.equal(plain.kept[samples][:, subnetworks])


def test_zero_gradients_have_no_error_and_no_pull():
    v_in, v_out = normal(0, 4, 5).requires_grad_(), normal(1, 4, 5).requires_grad_()
    g = torch.stack([torch.zeros(6, 5, dtype=torch.float64), normal(2, 6, 5)])
    batch = reconstruct(g, v_in, v_out, 7, dense=False)
    assert float(batch.recon_sq[0].detach()) == 0
    assert float(batch.recon_norm[0].detach()) < 1e-100
    assert not batch.kept[0].any()
    alone = reconstruct(g[1], v_in, v_out, 7, dense=False)
    both = torch.autograd.grad(batch.recon_norm.sum(), (v_in, v_out))
    for a, b in zip(both, torch.autograd.grad(alone.recon_norm, (v_in, v_out)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
