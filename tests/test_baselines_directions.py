"""Other ways to choose directions: principal, random, and a dictionary learned on the same gradients."""

import math

import pytest
import torch
from reference_training import mixer, mlp, normal, slow_k_count, slow_lr, slow_reconstruction

from l3d_core.baselines.dictionary import gradient_draws, learn_dictionary
from l3d_core.baselines.evaluation import Directions, reconstruction_errors
from l3d_core.baselines.principal import principal_directions
from l3d_core.baselines.random_directions import random_directions
from l3d_core.gradients import divergence_gradients
from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run


def config(n_v, **settings):
    """Returns settings of small batches and few epochs."""
    return L3DConfig(**({"n_v": n_v, "k_fraction": 0.3, "batch_size": 4, "epochs": 3} | settings))


# --- errors -----------------------------------------------------------------------------------------------------


def test_reconstruction_errors_hand():
    # Coefficients are the gradients' own entries. The first batch (3, 4), (0, 1) keeps floor(.25 * 4) = 1, the 4:
    # (9 + 1) / 26 is left. The second (2, 0), (1, 0) keeps the 2: 1 / 5. All kept, nothing is left.
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    found = reconstruction_errors(Directions(eye, eye), g, config(2, k_fraction=0.25, batch_size=2))
    assert float(found.top_k) == pytest.approx((10 / 26 + 1 / 5) / 2, rel=1e-13)
    assert float(found.dense) == 0
    # The first direction alone keeps floor(.25 * 2), at least 1: of 26 the 16 + 1, and of 5 the 1, are left; all
    # kept 17 and 0. The config's own n_v does not matter.
    found = reconstruction_errors(Directions(eye[:1], eye[:1]), g, config(4, k_fraction=0.25, batch_size=2))
    assert float(found.top_k) == pytest.approx((17 / 26 + 1 / 5) / 2, rel=1e-13)
    assert float(found.dense) == pytest.approx(17 / 52, rel=1e-13)


def test_reconstruction_errors_oracle():
    g, v_in, v_out, settings = normal(0, 2, 10, 6), normal(1, 2, 3, 6), normal(2, 2, 3, 6), config(3, k_extra=1)
    found = reconstruction_errors(Directions(v_in, v_out), g, settings)
    for r in range(2):
        for dense, error in ((False, found.top_k[r]), (True, found.dense[r])):
            losses = [
                slow_reconstruction(
                    list(part), list(v_in[r]), list(v_out[r]), slow_k_count(settings, len(part)), dense=dense
                )[0]
                for part in (g[r, :4], g[r, 4:8], g[r, 8:])
            ]
            torch.testing.assert_close(error, sum(losses) / 3, rtol=1e-12, atol=0)


# --- principal and random directions ----------------------------------------------------------------------------


def test_principal_directions_hand():
    # g^T g = [[13, 12], [12, 13]] with values 25 and 1 along (1, 1) and (1, -1): the first leaves 1 / 26.
    g = torch.tensor([[3.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
    found = principal_directions(g, 1)
    assert found.v_in.equal(found.v_out)
    assert found.v_out.abs().flatten().tolist() == pytest.approx([0.5**0.5] * 2, rel=1e-13)
    assert float(found.v_out.prod()) > 0
    assert float(reconstruction_errors(found, g, config(1)).dense) == pytest.approx(1 / 26, rel=1e-12)
    # Not centred: the mean of equal gradients is their one direction.
    assert principal_directions(torch.ones(3, 4), 1).v_out.abs().flatten().tolist() == pytest.approx([0.5] * 4)


def test_principal_directions_leave_the_smallest_eigenvalues_and_no_others_leave_less():
    g = normal(0, 20, 7) * torch.arange(1, 8)
    found, whole = principal_directions(g, 3), config(3, batch_size=20)
    values = torch.linalg.eigvalsh(g.mT @ g)
    torch.testing.assert_close(found.v_out @ found.v_out.mT, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-13)
    best = float(reconstruction_errors(found, g, whole).dense)
    assert best == pytest.approx(float(values[:4].sum() / values.sum()), rel=1e-12)
    others = [random_directions(g, 3, seed=seed) for seed in range(8)]
    assert min(float(reconstruction_errors(other, g, whole).dense) for other in others) > best
    # Several sets of gradients at once.
    stacked = principal_directions(torch.stack([g, 2 * g]), 3).v_out
    torch.testing.assert_close(stacked.abs(), found.v_out.abs().expand(2, -1, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_v", [0, 4])
def test_principal_directions_refuse(n_v):
    with pytest.raises(ValueError, match=rf"n_v is {n_v}; expected 1 to 3, as \(3, 5\) gradients have no more"):
        principal_directions(normal(0, 3, 5), n_v)


def test_random_directions_hand():
    # One direction v of length 1 is its own pseudo-inverse; it rebuilds (g . v)^2 of |g|^2.
    g = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    found = random_directions(g, 1, seed=5)
    [[a, b]] = found.v_out.tolist()
    assert math.hypot(a, b) == pytest.approx(1, rel=1e-14)
    assert found.v_in.flatten().tolist() == pytest.approx([a, b], rel=1e-13)
    left = 1 - (3 * a + 4 * b) ** 2 / 25
    assert float(reconstruction_errors(found, g, config(1)).dense) == pytest.approx(left, rel=1e-12)


def test_random_directions_rebuild_their_span_and_no_encoder_does_better():
    g = normal(0, 9, 6)
    found = random_directions(g, 4, seed=1)
    torch.testing.assert_close(found.v_out.norm(dim=1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-14)
    rebuilt = g @ found.v_in.mT @ found.v_out
    best = torch.linalg.lstsq(found.v_out.mT, g.mT).solution
    torch.testing.assert_close(rebuilt, (found.v_out.mT @ best).mT, rtol=0, atol=1e-12)
    # As many as entries, or more, rebuild everything.
    assert float(reconstruction_errors(random_directions(g, 6), g, config(6)).dense) < 1e-20
    assert float(reconstruction_errors(random_directions(g, 9), g, config(9)).dense) < 1e-20


def test_random_directions_follow_the_seed_and_the_gradients():
    g = normal(0, 9, 6)
    assert random_directions(g, 2, seed=3).v_out.equal(random_directions(2 * g, 2, seed=3).v_out)
    assert not random_directions(g, 2, seed=3).v_out.equal(random_directions(g, 2, seed=4).v_out)
    assert random_directions(g.float(), 2).v_in.dtype == random_directions(g.float(), 2).v_out.dtype == torch.float32
    with pytest.raises(ValueError, match="n_v is 0; expected at least 1"):
        random_directions(g, 0)


# --- dictionary learning ----------------------------------------------------------------------------------------


def test_dictionary_hand():
    # One direction on gradients of one entry, so that V_out stays 1 or -1 and V_in = w starts there. The loss is
    # (1 - |w|)^2 = 0 and has gradient 0: one step of AdamW only shrinks w by 1 - .1 * .5 = .95, and the next loss is
    # .05^2. Its gradient is negative in |w|, so Adam's moments m = .1 G, v = .001 G^2, corrected by 1 - .9^2 and
    # 1 - .999^2, move it up by lr (.1 / .19) / sqrt(.001 / .001999) from .95 * .95.
    g = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    settings = config(1, k_fraction=1.0, batch_size=2, epochs=2, lr=0.1, weight_decay=0.5, loss="recon_sq")
    found = learn_dictionary(g, settings, [0])
    assert found.recon_sq.flatten().tolist() == pytest.approx([0, 0.0025], abs=1e-12)
    moved = 0.1 * (0.1 / 0.19) / math.sqrt(0.001 / 0.001999)
    assert abs(float(found.directions.v_in)) == pytest.approx(0.95**2 + moved, rel=1e-6)
    assert abs(float(found.directions.v_out)) == 1
    assert found.p_active.tolist() == [[1.0]]


def learn_slowly(g, settings, seed):
    """Returns directions, losses and shares of one run, one sample and one direction at a time; g by epoch."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, settings.n_v, g[0].shape[1], generator=generator, dtype=torch.float64)
    v_out = [(row / (row**2).sum().sqrt()).requires_grad_() for row in drawn[0]]
    start = v_out if settings.encoder_init == "copy" else [row / (row**2).sum().sqrt() for row in drawn[1]]
    v_in = [row.detach().clone().requires_grad_() for row in start]
    optimiser, step, means = torch.optim.AdamW([*v_in, *v_out], weight_decay=settings.weight_decay), 0, []
    for epoch in range(settings.epochs):
        order, losses, counts = torch.randperm(len(g[0]), generator=generator), [], torch.zeros(settings.n_v)
        for first in range(0, len(order), settings.batch_size):
            batch = [g[epoch][s] for s in order[first : first + settings.batch_size]]
            loss, kept = slow_reconstruction(
                batch, v_in, v_out, slow_k_count(settings, len(batch)), dense=epoch < settings.dense_epochs
            )
            optimiser.param_groups[0]["lr"] = slow_lr(settings, epoch, step)
            for row in [*v_in, *v_out]:
                row.grad = torch.zeros_like(row)
            (loss.sqrt() if settings.loss == "recon_norm" else loss).backward()
            optimiser.step()
            for row in v_out:
                row.data /= (row.data**2).sum().sqrt()
            losses.append(float(loss.detach()))
            counts += torch.tensor(kept).sum(0)
            step += 1
        means.append(sum(losses) / len(losses))
    return torch.stack(v_in).detach(), torch.stack(v_out).detach(), means, counts / len(g[0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "recon_sq", "k_extra": 1, "dense_epochs": 1, "weight_decay": 0.0},
        {"encoder_init": "random", "lr_decay_every_epochs": 2, "lr_decay": 0.5},
    ],
)
def test_dictionary_oracle(settings):
    epochs = normal(0, 4, 2, 10, 5)
    settings = config(3, epochs=4, **settings)
    found = learn_dictionary(lambda epoch: epochs[epoch], settings, [7, 3])
    assert found.recon_sq.shape == (2, 4)
    for r, seed in enumerate((7, 3)):
        v_in, v_out, losses, shares = learn_slowly(list(epochs[:, r]), settings, seed)
        torch.testing.assert_close(found.directions.v_in[r], v_in, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.directions.v_out[r], v_out, rtol=0, atol=1e-9)
        assert found.recon_sq[r].tolist() == pytest.approx(losses, rel=1e-10)
        assert found.p_active[r].tolist() == pytest.approx(shares.tolist(), rel=1e-6)


def test_a_run_learns_the_same_alone():
    g = normal(0, 10, 5)
    both, alone = (learn_dictionary(g, config(3), seeds) for seeds in ((4, 9), (9,)))
    for a, b in zip(both.directions, alone.directions, strict=True):
        torch.testing.assert_close(a[1], b[0], rtol=0, atol=1e-12)
    repeated = learn_dictionary(lambda epoch: g.expand(2, -1, -1), config(3), (4, 9))
    assert repeated.directions.v_out.equal(both.directions.v_out)


def test_dictionary_finds_planted_directions_that_principal_ones_miss():
    # Each gradient is one of four directions with cosines .64 / 1.64 = .39, so one coefficient each is enough. Of 8
    # directions that start at random, some runs take one for each and others share one between two.
    planted = torch.nn.functional.normalize(torch.eye(4, 6, dtype=torch.float64) + 0.2, dim=1)
    which = torch.randint(4, (256,), generator=torch.Generator().manual_seed(2))
    g = planted[which] * (1 + normal(3, 256, 1).sign() / 10)
    settings = L3DConfig(n_v=8, k_fraction=1 / 8, epochs=150, lr_decay_every_epochs=30)
    found = learn_dictionary(g, settings, range(4))
    learned = reconstruction_errors(found.directions, g.expand(4, -1, -1), settings).top_k
    assert float(learned.min()) < 1e-4
    cosines = (found.directions.v_out[learned.argmin()] @ planted.mT).abs().max(0).values
    assert float(cosines.min()) > 0.999
    # Four principal directions span everything, but one of them per sample is not enough.
    principal = reconstruction_errors(principal_directions(g, 4), g, config(4, k_fraction=0.25, batch_size=32))
    assert float(principal.dense) < 1e-20
    assert float(principal.top_k) > 0.3


def test_fresh_gradients_are_those_of_the_references_drawn():
    models, x = [mlp(0), mlp(1)], normal(5, 2, 6, 4)
    runs = [Run(m, own, config(2), "mse", seed=s) for m, own, s in zip(models, x, (3, 8), strict=True)]
    draw = gradient_draws(runs)
    assert draw(0).shape == (2, 6, 31)
    assert draw(2).equal(draw(2))
    assert not draw(2).equal(draw(1))
    for epoch in (0, 5):
        for r, run in enumerate(runs):
            generator = torch.Generator().manual_seed(65_536 * run.seed + epoch + 1)
            partners = torch.randint(6, (6,), generator=generator)
            with torch.no_grad():
                y_ref = run.model(run.inputs)[partners]
            named = divergence_gradients(run.model, run.inputs, "mse", references=y_ref)
            expected = torch.cat([part.flatten(1) for part in named.values()], 1)
            torch.testing.assert_close(draw(epoch)[r], expected, rtol=0, atol=1e-13)


def test_fresh_gradients_follow_each_run():
    model, x = mixer(0), normal(6, 3, 3, 3)
    given, settings = normal(7, 3, 3, 4), config(2, reference="mean")
    runs = [
        Run(model, x, settings, "kl", parameters="up*"),
        Run(model, x, config(2), "mse", references=given, parameters="up*"),
    ]
    found = gradient_draws(runs)(4)
    for own, (divergence, references) in zip(found, (("kl", "mean"), ("mse", given)), strict=True):
        named = divergence_gradients(model, x, divergence, references=references, parameters="up*")
        expected = torch.cat([part.flatten(1) for part in named.values()], 1)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-13)
    # What it gives can be learned from, with a sample for every position.
    learned = learn_dictionary(gradient_draws(runs), config(2), [0, 0])
    assert learned.directions.v_out.shape == (2, 2, 12)


@pytest.mark.parametrize(("shape", "seeds"), [((3, 8, 5), [0, 1]), ((8,), [0]), ((8, 5), [])])
def test_dictionary_refuses_other_shapes(shape, seeds):
    with pytest.raises(ValueError, match=rf"gradients have shape .*; expected \[n, n_w\] or \[{len(seeds)}, n, n_w\]"):
        learn_dictionary(normal(0, *shape), config(2), seeds)


def test_dictionary_tells_of_losses_that_are_not_finite():
    with pytest.raises(FloatingPointError, match=r"a loss became NaN or infinite in epoch 0; lower lr \(0.01\)"):
        learn_dictionary(torch.full((8, 5), torch.nan), config(2), [0])
