"""The targets of the APD paper: their inputs, starting values, training and functions made by hand; runs on disk."""

import math
from dataclasses import replace
from itertools import product

import pytest
import reference_apd as slow
import torch

from l3d_core.apd_experiments import APD_GATED, MLP, SETTINGS, TMS
from l3d_core.apd_targets import (
    GatedInputs,
    SparseInputs,
    TargetTraining,
    gated_functions,
    started,
    train_targets,
    trigonometric,
)
from l3d_core.baselines.apd_networks import applied
from l3d_core.chapters import apd_chapter, apd_runs
from l3d_core.chapters.apd_runs import APDRun, decomposed, from_tensors, joined, targets, to_tensors

SMALL = TargetTraining(kind="residual", n_features=4, n_hidden=4, n_layers=2, n_resid=8, steps=60, batch_size=32)
RUN = APDRun(
    target=SMALL, seeds=(0, 1),
    config=replace(APD_GATED, n_components=3, n_terms=2, steps=5, batch_size=16, top_k=1.0, init="xavier"),
)  # fmt: skip


def test_sparse_inputs_are_active_as_often_as_asked_and_rows_may_be_empty():
    x = SparseInputs(n_features=5, p_active=0.1)(torch.Generator().manual_seed(0), 20_000)
    assert float((x != 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(x.min()) == 0 and float(x[x != 0].mean()) == pytest.approx(0.5, abs=0.01)
    assert float((x == 0).all(1).float().mean()) == pytest.approx(0.9**5, abs=0.01)
    signed = SparseInputs(n_features=5, p_active=0.1, signed=True)(torch.Generator().manual_seed(0), 20_000)
    assert float(signed[signed != 0].mean()) == pytest.approx(0, abs=0.02) and float(signed.min()) < -0.99


def test_starting_values_are_as_small_as_the_authors():
    # W [12, 5, 2]: sqrt(2 / ((12 + 5) * 2)) = .2425; W_in [1, 1000, 50]: sqrt(2 / (1001 * 50)) = .00632.
    many = started(TMS, range(500))
    assert float(many.w.std()) == pytest.approx(0.2425, rel=0.03) and not many.b.any()
    one = started(MLP, [0])
    assert float(one.w_in[0].std()) == pytest.approx(0.00632, rel=0.02)
    torch.testing.assert_close(one.embed.norm(dim=-1), torch.ones(1, 100))
    assert one.unembed.equal(one.embed.mT) and one.w_out[0].shape == (1, 50, 1000)
    assert started(replace(MLP, n_layers=2), [0]).w_in[1].shape == (1, 1000, 25)


def test_learning_rates_of_targets():
    assert [replace(TMS, steps=10).lr_at(s) for s in (0, 5)] == pytest.approx([0.005, 0.0025])
    assert replace(MLP, steps=10).lr_at(5) == pytest.approx(0.003 * math.sqrt(0.5))
    assert replace(TMS, schedule="constant").lr_at(4999) == 0.005


def test_targets_side_by_side_are_those_trained_alone_and_learn():
    both = train_targets(SMALL, (3, 4))
    alone = train_targets(SMALL, (4,))
    for name, part in to_tensors(alone.network).items():
        torch.testing.assert_close(part[0], to_tensors(both.network)[name][1], rtol=1e-4, atol=1e-6)


def test_targets_learn_their_labels():
    config = replace(SMALL, n_resid=64, p_active=0.5, steps=500)
    x = config.inputs(torch.Generator().manual_seed(0), 2000)[None]

    def error(network):
        return float((network.outputs(x) - x - torch.relu(x)).square().mean())

    assert error(train_targets(config, (0,)).network) < 0.2 * error(started(config, (0,)))
    superposed = train_targets(replace(TMS, n_features=2, steps=500, p_active=0.5, init_runs=1), (0,)).network
    x = torch.rand(1, 500, 2, generator=torch.Generator().manual_seed(0))
    y, _ = superposed.forward(x, applied(superposed.weights))
    assert float((y - x).square().mean()) < 0.05 * float(x.square().mean()) and superposed.b.any()


def test_gated_functions_are_broken_lines_through_their_values():
    found = gated_functions(5)
    knots = torch.linspace(0, 5, 10)
    values = trigonometric(found.coefficients, knots)
    a, b, c, d, e, f, g = found.coefficients[2].tolist()
    by_hand = a * math.cos(b * 5 / 9 + c) + d * math.sin(e * 5 / 9 + f) + g
    assert float(values[2, 1]) == pytest.approx(by_hand, abs=1e-6)
    for bits in product((0.0, 1.0), repeat=4):
        x = torch.cat([knots[:, None], torch.tensor(bits).expand(10, 4)], 1)
        y = found.network.forward(x[None], applied(found.network.weights))[0][0, :, 0]
        torch.testing.assert_close(y, torch.tensor(bits) @ values, rtol=0, atol=2e-5)
    halfway = (knots[:-1] + knots[1:]) / 2
    x = torch.cat([halfway[:, None], torch.tensor([0.0, 1.0, 0, 0]).expand(9, 4)], 1)
    y = found.network.forward(x[None], applied(found.network.weights))[0][0, :, 0]
    torch.testing.assert_close(y, (values[1, :-1] + values[1, 1:]) / 2, rtol=0, atol=2e-5)
    assert sorted(found.owner.flatten().tolist()) == sorted([0, 1, 2, 3] * 10)
    with pytest.raises(ValueError, match="5 functions take 50 neurons; got 2 layers of 20"):
        gated_functions(0, n_functions=5)


def test_gated_inputs():
    x = GatedInputs()(torch.Generator().manual_seed(0), 5000)
    assert x.shape == (5000, 5) and float(x[:, 0].min()) >= 0 and 4.9 < float(x[:, 0].max()) <= 5
    assert set(x[:, 1:].flatten().tolist()) == {0, 1} and float(x[:, 1:].mean()) == pytest.approx(0.05, abs=0.01)


# --- runs on disk -----------------------------------------------------------------------------------------------


def test_networks_go_to_tensors_and_back():
    for config in (SMALL, replace(TMS, n_features=3)):
        network = started(config, (0, 1))
        back = to_tensors(from_tensors(to_tensors(network)))
        assert back.keys() == to_tensors(network).keys()
        assert all(t.equal(to_tensors(network)[name]) for name, t in back.items())


def test_a_run_is_made_once_and_its_parts_join(tmp_path, monkeypatch):
    both = decomposed("small", RUN, folder=tmp_path)
    assert len(both.apd.seeds) == 2 and both.losses.shape == (2,)
    parts = [decomposed("small", replace(RUN, seeds=(seed,)), folder=tmp_path) for seed in (0, 1)]
    whole = joined(parts)
    assert whole.apd.seeds == (0, 1) and whole.facts["core_seconds"] == sum(p.facts["core_seconds"] for p in parts)
    for name, own in both.apd.components.items():
        torch.testing.assert_close(own.u, whole.apd.components[name].u, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(both.network.weights[name], whole.network.weights[name], rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(apd_runs, "decompose_apd", lambda *_, **__: pytest.fail("made again"))
    again = decomposed("small", RUN, folder=tmp_path)
    assert again.apd.first_losses.equal(both.apd.first_losses) and again.apd.history.minimality.shape == (2, 1)
    with pytest.raises(pytest.fail.Exception, match="made again"):
        decomposed("small", replace(RUN, config=replace(RUN.config, p=0.5)), folder=tmp_path)


def test_gated_decompositions_share_one_target(tmp_path):
    network, losses = targets(APDRun(target=None, config=APD_GATED, seeds=(4, 7)), tmp_path)
    assert losses.tolist() == [0, 0] and network.w_in[0].shape == (2, 6, 20)
    assert all(t[0].equal(t[1]) for t in to_tensors(slow.one_run(network, 0)).values() if len(t) > 1)
    assert network.w_out[1][0].equal(network.w_out[1][1])
    assert network.w_out[1][0].equal(gated_functions(0).network.w_out[1][0])


def test_the_chapter_joins_its_runs_and_recomputes_their_first_losses(tmp_path):
    settings = apd_chapter.APDSettings(runs={"small": (replace(RUN, seeds=(0,)), replace(RUN, seeds=(1,)))})
    found = apd_chapter.compute(settings, folder=tmp_path, workers=1)["small"]
    assert found.apd.seeds == (0, 1)
    for (name, job), seed in zip(apd_chapter.jobs(settings).items(), (0, 1), strict=True):
        assert name == f"small, {seed}"
        torch.testing.assert_close(apd_chapter.first_losses(job, tmp_path)[0, :5], found.apd.first_losses[seed])


def test_presets_are_the_same_runs_long_and_short():
    paper, quick = SETTINGS["07_apd"]["paper"].runs, SETTINGS["07_apd"]["quick"].runs
    assert paper.keys() == quick.keys()
    assert all(run.config.steps == 20 for parts in quick.values() for run in parts)
    assert [len(one.seeds) for one in paper["tms-5-2"]] == [12] and len(paper["tms-40-10"]) == 5
