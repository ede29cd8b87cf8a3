"""Methods side by side: one form for what they find, every measure against loops, and the chapter end to end."""

import json
import math
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from l3d_core import toys
from l3d_core.apd_experiments import APD_TMS
from l3d_core.apd_experiments import SETTINGS as APD_SETTINGS
from l3d_core.apd_shipped import TMS
from l3d_core.baselines.apd import APD, APDConfig, start
from l3d_core.baselines.apd_losses import Losses
from l3d_core.baselines.apd_networks import Factors
from l3d_core.chapters import (
    comparison,
    comparison_changes,
    comparison_costs,
    comparison_measures,
    comparison_parts,
    comparison_summary,
    comparison_tables,
    comparison_tuning,
)
from l3d_core.chapters.apd_runs import APDRun, decomposed
from l3d_core.chapters.comparison_parts import Parts
from l3d_core.chapters.comparison_settings import (
    Compared,
    ComparisonSettings,
    l3d_runs,
    shortened,
    subjects,
)
from l3d_core.chapters.comparison_subjects import NAMES, kept, subject, targets_digest
from l3d_core.chapters.comparison_tuning import Candidate, Tried, chosen, tried, tuning_table
from l3d_core.comparison_experiments import APD_TRIED, L3D_TRIED, ON_ONE, SETTINGS, TUNING
from l3d_core.figures.comparison import plot_curves, plot_measures
from l3d_core.gradients import divergence_gradients
from l3d_core.l3d import reconstruct
from l3d_core.toy_experiments import SUPERPOSITION_VARIANTS, TMCS_VARIANTS

TMCS = toys.ToyTraining(toy="circuit_superposition", n_features=10, n_hidden=5)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def single_features(one):
    """The parts that everyone looks for in tied superposition: a row of W each."""
    w = one.network.w[0]
    rows = torch.stack([(w * (torch.arange(len(w)) == i)[:, None]).flatten() for i in range(len(w))])
    return comparison_parts.from_directions(rows, torch.nn.functional.normalize(rows, dim=1), one.w0)


@pytest.fixture(scope="module")
def tms():
    return subject("tms_5-2", 1)


# --- targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_one_function_in_both_forms(name):
    one = subject(name, 1)
    x = one.draw(60, seed=3)
    assert x.shape[0] == 60 and (x != 0).any(1).all() and one.draw(60, seed=3).equal(x)
    torch.testing.assert_close(comparison_measures.run(one, x), one.module(x).detach(), rtol=1e-4, atol=1e-5)
    named = {n: p.detach()[None] for n, p in one.module.named_parameters() if n in one.parameters}
    assert one.rows(named).equal(one.w0)
    assert all(w.equal(one.network.weights[m]) for m, w in one.matrices(one.w0).items())
    # A step along a row moves both forms alike.
    step = 0.01 * drawn(1, one.w0.shape[1])
    moved = comparison_measures.run(one, x, step)
    with torch.no_grad():
        for n, (m, turned) in one.places.items():
            part = one.matrices(step)[m][0]
            one.module.get_parameter(n).add_(part.T if turned else part)
    torch.testing.assert_close(moved, one.module(x).detach(), rtol=1e-4, atol=1e-5)


def test_circuits_are_inputs_or_groups_of_them():
    high_rank = subject("high_rank", 0)
    assert high_rank.n_circuits == 6 and subject("tmcs", 0).n_circuits == 10 and subject("mlp_2", 0).n_circuits == 100
    x = torch.zeros(1, 30)
    x[0, 7] = 1.0
    assert high_rank.active(x).tolist() == [[False, True, False, False, False, False]]


def test_targets_that_do_not_do_what_they_are_for_are_left_out():
    assert kept(subject("tms_5-2", 0)) and not kept(subject("tms_5-2", 9))  # Number 9 merged two features.
    assert kept(subject("mlp_1", 0)) and kept(subject("high_rank", 0))
    with pytest.raises(ValueError, match="target 'tms' is unknown; expected one of"):
        subject("tms", 0)


def test_readers_are_first_layers_behind_the_embedding():
    one = subject("mlp_2", 0)
    read, network = one.readers(one.w0), one.network
    expected = torch.cat([network.embed[0] @ w[0] for w in network.w_in], 1)
    torch.testing.assert_close(read[0], expected)
    tmcs = subject("tmcs", 0)
    assert tmcs.readers(tmcs.w0)[0].equal(tmcs.network.w[0][0])


# --- one form ---------------------------------------------------------------------------------------------------


def test_directions_add_up_to_the_weights_by_hand():
    # W = (3, 4, 5); v = (1, 0, 0) and (0, 1, 0): c = 3 and 4, and 5 is the rest.
    v, w0 = torch.eye(3)[:2], torch.tensor([[3.0, 4.0, 5.0]])
    parts = comparison_parts.from_directions(v, v, w0)
    torch.testing.assert_close(parts.components, torch.tensor([[3.0, 0, 0], [0, 4, 0]]))
    torch.testing.assert_close(parts.rest, torch.tensor([[0.0, 0, 5]]))
    dead = comparison_parts.from_directions(v, v, w0, torch.tensor([True, False]))
    assert dead.components[1].tolist() == [0, 0, 0] and dead.rest.tolist() == [[0, 4, 5]]
    # Of gradients (1, 0, 0) and (0, 1, 0) the live direction rebuilds the first; with the dead one none would be left.
    assert comparison_measures.gradient_left(dead, torch.eye(3)[:2])(2) == pytest.approx(0.5)
    assert comparison_measures.gradient_left(parts, torch.eye(3)[:2])(2) == pytest.approx(0)
    # The same direction twice: the shortest c shares it.
    twice = comparison_parts.from_directions(v[[0, 0]], v[[0, 0]], w0)
    torch.testing.assert_close(twice.components, torch.tensor([[1.5, 0, 0], [1.5, 0, 0]]))


def test_least_squares_leaves_a_rest_at_right_angles():
    v, w0 = torch.nn.functional.normalize(drawn(4, 9), dim=1), drawn(1, 9, seed=1)
    parts = comparison_parts.from_directions(v, v, w0)
    torch.testing.assert_close(parts.rest @ v.T, torch.zeros(1, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.components.sum(0) + parts.rest, w0)


def as_apd(one, components, n_components):
    config = APDConfig(n_components=n_components, n_terms=2, steps=1, top_k=1.0)
    nothing = torch.zeros(1, 1)
    return APD(components, Losses(*[nothing] * 4), nothing, config, (one.seed,))


def test_components_become_directions_of_length_one(tms):
    w = tms.network.w
    rows = torch.stack([w[0] * (torch.arange(5) == i)[:, None] for i in range(5)] + [torch.zeros(5, 2)])
    factors = Factors(torch.eye(5)[None, :, None].expand(1, 5, 6, 5).contiguous(), rows[None])
    parts = comparison_parts.of_apd(as_apd(tms, {"W": factors}, 6), tms, tms.draw(300, seed=0))
    assert parts.live.tolist() == [True] * 5 + [False]
    torch.testing.assert_close(parts.components[:5], rows[:5].flatten(1))
    torch.testing.assert_close(parts.v_out[:5].norm(dim=1), torch.ones(5))
    torch.testing.assert_close(parts.v_in[:5] @ parts.v_out[:5].T, torch.eye(5), atol=1e-5, rtol=0)
    assert parts.v_out[5].abs().max() == parts.v_in[5].abs().max() == parts.rest.abs().max() == 0


def test_directions_of_components_that_overlap_have_a_pseudo_inverse(tms):
    w = tms.network.w[0]
    rows = torch.stack([w * torch.tensor([1.0, 1, 0, 0, 0])[:, None], w * torch.tensor([0.0, 1, 1, 1, 1])[:, None]])
    factors = Factors(torch.eye(5)[None, :, None].expand(1, 5, 2, 5).contiguous(), rows[None])
    parts = comparison_parts.of_apd(as_apd(tms, {"W": factors}, 2), tms, tms.draw(300, seed=0))
    g = torch.tensor([[2.0, -3.0]]) @ parts.v_out  # What lies in their span is rebuilt.
    torch.testing.assert_close((g @ parts.v_in.T) @ parts.v_out, g, rtol=1e-4, atol=1e-5)
    assert float((parts.v_out[0] * parts.v_out[1]).sum()) > 0.1


@pytest.mark.parametrize("name", ["tms_5-2", "squared", "mlp_1"])
def test_factors_of_full_rank_are_the_rows(name):
    one = subject(name, 0)
    rows = drawn(3, one.w0.shape[1])
    factors = comparison_parts.as_factors(one, rows)
    for m, w in one.matrices(rows).items():
        torch.testing.assert_close(factors[m].each()[0], w)


def test_attributions_of_rows_are_derivatives(tms):
    rows, x = drawn(3, 10), tms.draw(7, seed=0)
    found = comparison_parts.attributed(tms, rows, x, chunk=3)
    for c, row in enumerate(rows):
        h = 1e-3
        up, down = (comparison_measures.run(tms, x, s * h * row[None]) for s in (1, -1))
        slope = ((up - down) / (2 * h)).square().mean(1).sqrt()
        torch.testing.assert_close(found[:, c], slope, rtol=2e-2, atol=2e-3)


# --- measures ---------------------------------------------------------------------------------------------------


def test_single_features_are_found_whole(tms):
    parts = single_features(tms)
    found = comparison_measures.found_circuits(tms, parts)
    assert (found.covered, found.purity, found.circuit.tolist()) == (1, 1, [0, 1, 2, 3, 4])
    assert found.cosine == pytest.approx(1)
    # Signs and lengths do not matter; a circuit without a part counts 0.
    turned = parts._replace(v_out=-3 * parts.v_out, live=torch.tensor([True, True, True, True, False]))
    again = comparison_measures.found_circuits(tms, turned)
    assert again.covered == pytest.approx(0.8) and again.cosine == pytest.approx(0.8)


def test_merged_features_by_hand(tms):
    # One part with two features, 3 to 1 in squared length: covers the first, purity .75.
    w = torch.nn.functional.normalize(tms.network.w[0], dim=1)
    row = torch.zeros(5, 2)
    row[0], row[1] = math.sqrt(3) * w[0], w[1]
    parts = Parts(row.view(1, -1), row.view(1, -1), row.view(1, -1), tms.w0, torch.tensor([True]))
    found = comparison_measures.found_circuits(tms, parts)
    assert found.covered == pytest.approx(0.2) and found.purity == pytest.approx(0.75)
    assert found.cosine == pytest.approx(math.sqrt(0.75) / 5, rel=1e-5)
    nobody = comparison_measures.found_circuits(tms, parts._replace(live=torch.tensor([False])))
    assert (nobody.covered, nobody.cosine, nobody.purity) == (0, 0, 0)


def test_a_part_of_several_circuits_covers_none(tms):
    # Squared lengths of .4, .3 and .3 on three features: none has more than half.
    w = torch.nn.functional.normalize(tms.network.w[0], dim=1)
    row = (torch.tensor([0.4, 0.3, 0.3, 0.0, 0.0]).sqrt()[:, None] * w).view(1, -1)
    found = comparison_measures.found_circuits(tms, Parts(row, row, row, tms.w0, torch.tensor([True])))
    assert found.covered == 0 and found.purity == pytest.approx(0.4) and found.circuit.tolist() == [0]


def test_gradients_are_rows_in_the_networks_order():
    one = subject("squared", 0)
    x = one.draw(6, seed=0)
    g, y = comparison_measures.gradients(one, x, "mse"), one.module(x).detach()
    assert g.shape == (6, one.w0.shape[1])
    # Each is a combination of the output's gradients; the last layer's part is (y - r) times what comes into it.
    one.module.zero_grad()
    one.module(x[:1])[0, 0].backward()
    last = one.matrices(g[:1])["W.4"][0]
    into = one.module.layers[4].weight.grad[0]
    assert torch.linalg.matrix_rank(torch.stack([into, last[:, 0]]), rtol=1e-4) == 1 and y.shape == (6, 5)


@pytest.mark.parametrize("name", ["squared", "mlp_1"])
def test_gradients_by_blocks_are_those_of_all_at_once(name, monkeypatch):
    one = subject(name, 0)
    x = one.draw(11, seed=0)
    whole = divergence_gradients(one.module, x, "half_reference_mse", parameters=one.parameters, seed=5)
    monkeypatch.setattr(comparison_measures, "BLOCK", 4)
    found = comparison_measures.gradients(one, x, "half_reference_mse", 5)
    torch.testing.assert_close(found, one.rows(whole), rtol=1e-5, atol=1e-7)


def test_the_cosine_that_gradients_reach_by_hand(tms):
    # Samples 0 and 1 have feature 0 alone, 2 and 3 feature 1 alone, 4 both, which does not count; the others none.
    x = torch.zeros(5, 5)
    x[[0, 1, 4], 0], x[[2, 3, 4], 1] = 1.0, 1.0
    w = torch.nn.functional.normalize(tms.network.w[0], dim=1)
    g = torch.zeros(5, 5, 2)
    # Of feature 0 the longer gradient reads feature 0 and, three times as long, feature 2: cosine 1 / sqrt(10).
    g[0, 0], g[0, 2], g[1, 3] = 2 * w[0], 6 * w[2], w[3]
    # Of feature 1 both read it, and one of them feature 4 as well: rows (1, 0) and (-1, 1) of w_1 and w_4.
    g[2, 1], g[3, 1], g[3, 4] = w[1], -w[1], w[4]
    g[4] = 100.0
    # Their Gram matrix [[2, -1], [-1, 1]] has the leading eigenvector (1, (1 - sqrt(5)) / 2).
    second = 1 / math.sqrt(1 + ((1 - math.sqrt(5)) / 2) ** 2)
    found = comparison_measures.reachable_cosine(tms, g.flatten(1), x)
    assert found == pytest.approx((1 / math.sqrt(10) + second) / 2, rel=1e-5)
    assert math.isnan(comparison_measures.reachable_cosine(tms, g[4:].flatten(1), x[4:]))


def test_the_cosine_that_gradients_reach_against_loops():
    one = subject("high_rank", 0)
    x = one.draw(40, seed=2)
    g, groups, cosines = comparison_measures.gradients(one, x), (x.view(40, 6, 5) != 0).any(2), []
    for i in range(6):
        rows = [g[s] for s in range(40) if groups[s].tolist() == [j == i for j in range(6)]]
        if rows:
            v = torch.linalg.svd(torch.stack(rows), full_matrices=False).Vh[0]
            read, own = one.matrices(v[None])["W.0"][0], torch.zeros(30, 10)
            own[5 * i : 5 * i + 5] = one.network.w[0][0][5 * i : 5 * i + 5]
            cosines.append(float((read * own).sum() / (read.norm() * own.norm())))
    assert len(cosines) > 3
    expected = sum(map(abs, cosines)) / len(cosines)
    assert comparison_measures.reachable_cosine(one, g, x) == pytest.approx(expected, rel=1e-4)


def test_medians_by_hand():
    nan, inf = float("nan"), math.inf
    assert comparison_measures.median(torch.tensor([3.0, nan, 1.0, 2.0])) == 2
    assert comparison_measures.median(torch.tensor([4.0, 1.0, 2.0, 9.0])) == 3  # Of 1, 2, 4, 9: (2 + 4) / 2.
    assert comparison_measures.median(torch.tensor([inf, inf, 1.0, inf])) == inf
    assert math.isnan(comparison_measures.median(torch.tensor([nan])))


def test_sparsity_of_gradients_against_the_reconstruction(tms):
    g = comparison_measures.gradients(tms, tms.draw(40, seed=0))
    parts = comparison_parts.random(g, 4, tms, 0)
    found = comparison_measures.gradient_sparsity(parts, g)
    assert found.active[-1] == 4 and found.active[:2].tolist() == pytest.approx([0, 0.1])
    assert found.error[0] == 1  # With none kept all is left.
    for k, error in list(zip(found.active.tolist(), found.error.tolist(), strict=True))[1:]:
        slow = reconstruct(g, parts.v_in, parts.v_out, round(k * 40), False)
        assert error == pytest.approx(float(slow.recon_sq), rel=1e-4)


def test_the_fewest_that_are_enough():
    active = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert comparison_measures._sparsity(active, [0.9, 0.3, 0.2, 0.1], 0.2, 0.3).needed == 2
    assert math.isnan(comparison_measures._sparsity(active, [0.9, 0.3, 0.3, 0.3], 0.2, 0.3).needed)
    short = comparison_measures._sparsity(active, [0.9, 0.1], 0.2, 0.1)
    assert short.needed == 1 and short.active.tolist() == [0, 1] and short.at_circuits == 0.1


def test_what_is_left_with_one_part_for_a_circuit(tms):
    parts, x = single_features(tms), tms.draw(200, seed=4)
    n_active = float(tms.active(x).sum(1).double().mean())
    g = comparison_measures.gradients(tms, x)
    slow = reconstruct(g, parts.v_in, parts.v_out, round(n_active * 200), False)
    found = comparison_measures.gradient_sparsity(parts, g, n_active)
    assert found.at_circuits == pytest.approx(float(slow.recon_sq), rel=1e-4)
    # A feature's own row on each sample that has it, the rest of W left out: the error is that of the interference.
    ran = comparison_measures.output_sparsity(tms, parts, x)
    scores, y = comparison_parts.attributed(tms, parts.components, x), comparison_measures.run(tms, x)
    kept = scores >= scores.flatten().sort(descending=True).values[round(n_active * 200) - 1]
    rows = [parts.rest + parts.components[own].sum(0) - tms.w0 for own in kept]
    some = torch.cat([comparison_measures.run(tms, x[i, None], row) for i, row in enumerate(rows)])
    expected = float((some - y).square().mean() / y.var(0, correction=0).mean())
    assert ran.added.at_circuits == pytest.approx(expected, rel=1e-3)


def test_the_whole_outputs_are_easier_than_what_the_layers_add(monkeypatch):
    one = subject("mlp_1", 0)
    x = one.draw(30, seed=1)
    parts = comparison_parts.from_directions(*[drawn(4, one.w0.shape[1])] * 2, one.w0)
    nothing = parts._replace(rest=torch.zeros_like(one.w0))  # Only the embedded input is left.
    found = comparison_measures.output_sparsity(one, nothing, x)
    y = comparison_measures.run(one, x)
    straight = x @ one.network.embed[0] @ one.network.unembed[0]
    share = float((y - straight).var(0, correction=0).mean() / y.var(0, correction=0).mean())
    assert 0.05 < share < 0.5 and math.isnan(found.added.needed)
    monkeypatch.setattr(comparison_measures, "OUTPUT_ERROR", 1.5 * share * float(found.added.error[0]))
    assert comparison_measures.output_sparsity(one, nothing, x).needed == 0


@pytest.mark.parametrize("name", ["tms_5-2", "tmcs", "mlp_1"])
def test_outputs_with_some_parts_against_loops(name, monkeypatch):
    one = subject(name, 0)
    x, n_v = one.draw(12, seed=1), 3
    parts = comparison_parts.from_directions(*[drawn(n_v, one.w0.shape[1])] * 2, one.w0)
    monkeypatch.setattr(comparison_measures, "OUTPUT_ERROR", 0.0)
    monkeypatch.setattr(comparison_measures, "CHUNK", 5)
    found = comparison_measures.output_sparsity(one, parts, x).added
    scores, y = comparison_parts.attributed(one, parts.components, x), comparison_measures.run(one, x)
    straight = x @ one.network.embed[0] @ one.network.unembed[0] if name == "mlp_1" else torch.zeros_like(y)
    for k, error in list(zip(found.active.tolist(), found.error.tolist(), strict=True))[::6]:
        bound = scores.flatten().sort(descending=True).values[max(round(k * 12), 1) - 1]
        kept = scores >= bound if round(k * 12) else torch.zeros_like(scores, dtype=torch.bool)
        rows = [parts.rest + parts.components[own].sum(0) - one.w0 for own in kept]
        slow = torch.cat([comparison_measures.run(one, x[i, None], row) for i, row in enumerate(rows)])
        variance = float((y - straight).var(0, correction=0).mean())
        assert error == pytest.approx(float((slow - y).square().mean()) / variance, rel=1e-3, abs=1e-7)


def test_the_rest_alone_may_be_enough(tms):
    empty = torch.zeros(2, 10)
    parts = Parts(empty, empty, empty, tms.w0, torch.tensor([True, True]))
    found = comparison_measures.output_sparsity(tms, parts, tms.draw(20, seed=0))
    assert found.needed == found.added.needed == 0 and found.added.active.tolist() == [0]


def test_selectivity_by_hand(tms):
    parts, x = single_features(tms), tms.draw(300, seed=0)
    found = comparison_changes.ablation_selectivity(tms, parts, torch.arange(5), x)
    y, w = comparison_measures.run(tms, x), tms.network.w[0]
    for i in range(5):
        without = w.clone()
        without[i] = 0
        change = (torch.relu(x @ without @ without.T + tms.network.b[0]) - y).square().mean(1)
        on = x[:, i] > 0
        expected = float((change[on].mean() / change[~on].mean()).sqrt())
        assert float(found.samples[i]) == pytest.approx(expected, rel=1e-3)
        moved = (torch.relu(x @ without @ without.T + tms.network.b[0]) - y).abs().mean(0)
        others = (moved.sum() - moved[i]) / 4
        assert float(found.outputs[i]) == pytest.approx(float(moved[i] / others), rel=1e-3)
    steps = comparison_changes.step_selectivity(tms, parts._replace(live=torch.arange(5) < 2), torch.arange(5), x)
    assert steps.samples.shape == steps.outputs.shape == (4,) and (steps.samples > 3).all()
    rows = comparison_changes.STEP * tms.w0.norm() * parts.v_out[:2]
    back = comparison_changes.selectivity(tms, -rows, torch.arange(2), x)
    assert steps.samples[2:].equal(back.samples) and not steps.samples[:2].allclose(back.samples)
    tmcs = subject("tmcs", 0)
    assert comparison_changes.selectivity(tmcs, -tmcs.w0, torch.tensor([0]), tmcs.draw(40, seed=0)).outputs.isnan()


def test_agreement_is_of_live_directions():
    a = Parts(*[torch.eye(3)] * 3, torch.zeros(1, 3), torch.tensor([True, True, False]))
    b = a._replace(v_out=torch.tensor([[0.0, -2, 0], [3, 0, 0], [0, 0, 1]]))
    assert float(comparison.agreement(a, b)) == pytest.approx(1)
    assert math.isnan(comparison.agreement(a, None))
    # Three live parts against two: matches of 1 and 1, the third has no partner and counts 0; either way round.
    more = b._replace(live=torch.tensor([True, True, True]))
    assert float(comparison.agreement(a, more)) == float(comparison.agreement(more, a)) == pytest.approx(2 / 3)
    nothing = a._replace(live=torch.tensor([False, False, False]))
    assert float(comparison.agreement(a, nothing)) == float(comparison.agreement(nothing, nothing)) == 0


# --- the chapter ------------------------------------------------------------------------------------------------


def tiny():
    config = APDConfig(n_components=12, n_terms=2, steps=3, batch_size=32, top_k=1.3)
    tuned, other = TMCS_VARIANTS["tuned"], SUPERPOSITION_VARIANTS["tuned"]
    return ComparisonSettings(
        targets={
            "tms_5-2": Compared(
                seeds=(1, 9), l3d=other._replace(config=replace(other.config, epochs=2)), n_inputs=64,
                stored="five", apd_again=(),
                apd=(APDRun(target=TMS, config=replace(APD_TMS, steps=3), seeds=tuple(range(12))),),
            ),
            "tmcs": Compared(
                seeds=(0, 4), l3d=tuned._replace(config=replace(tuned.config, epochs=2)), n_inputs=64,
                stored="ten", apd=(APDRun(target=TMCS, config=config, seeds=(0, 4)),),
                apd_again=(APDRun(target=TMCS, config=config, seeds=(4,), again=comparison.AGAIN),),
            ),
        },
        candidates={}, n_held_out=50, cost_steps=2, apart=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def result(folder):
    return comparison.compute(tiny(), folder=folder, workers=1)


def test_everything_is_measured_on_kept_targets(result):
    assert result.measures["tms_5-2"]["seeds"].tolist() == [1] and result.measures["tmcs"]["seeds"].tolist() == [0, 4]
    for method in comparison.METHODS:
        for name, own in result.measures.items():
            n = len(own["seeds"])
            assert result.of(name, method, "covered").shape == (n,)
            assert 0 <= float(result.of(name, method, "purity").min()) <= 1
            assert result.of(name, method, "gradient_curve_error").shape[0] == n
            assert result.of(name, method, "output_rest").equal(result.of(name, method, "output_curve_error")[:, 0])
            assert (result.of(name, method, "output_curve_active")[:, 0] == 0).all()
    assert all(own["cosine_reachable"].shape == own["seeds"].shape for own in result.measures.values())
    again = result.of("tmcs", "APD", "agreement")
    assert again[0].isnan() and 0 < again[1] <= 1 and result.of("tms_5-2", "APD", "agreement").isnan().all()
    # After three steps the components are far from adding up.
    assert (result.of("tmcs", "APD", "held") < 0.1).all() and (result.of("tmcs", "random", "held") < 0.9).all()
    # Random directions' encoder makes the most of them; no other number of directions rebuilds better than principal.
    assert (result.of("tmcs", "random", "gradient_all") > result.of("tmcs", "principal", "gradient_all")).all()


def test_principal_directions_are_of_as_many_gradients_as_l3d_has_inputs(result):
    own, [seed] = tiny().targets["tms_5-2"], result.measures["tms_5-2"]["seeds"].tolist()
    one = subject("tms_5-2", seed)
    x = one.draw(own.n_inputs, seed=seed)
    g = comparison_measures.gradients(one, x, own.l3d.divergence)
    parts, cosine = comparison._of_gradients(one, own, 0)
    assert parts.v_out.equal(comparison_parts.principal(g, own.l3d.config.n_v, one).v_out)
    assert cosine == pytest.approx(comparison_measures.reachable_cosine(one, g, x))
    assert float(result.measures["tms_5-2"]["cosine_reachable"]) == pytest.approx(cosine)
    # Anew other inputs and other references are drawn.
    x = one.draw(own.n_inputs, seed=seed + comparison.AGAIN)
    g = comparison_measures.gradients(one, x, own.l3d.divergence, 1)
    anew, _ = comparison._of_gradients(one, own, comparison.AGAIN)
    assert anew.v_out.equal(comparison_parts.principal(g, own.l3d.config.n_v, one).v_out)


def test_a_second_time_is_from_disk(result, folder, monkeypatch):
    monkeypatch.setattr(comparison, "fit", lambda *_, **__: pytest.fail("decomposed again"))
    again = comparison.compute(tiny(), folder=folder, workers=1)
    for key, t in result.measures["tmcs"].items():
        torch.testing.assert_close(again.measures["tmcs"][key], t, rtol=0, atol=0, equal_nan=True)


def test_decompositions_anew_have_other_inputs_and_seeds():
    own = tiny().targets["tmcs"]
    targets = subjects("tmcs", own.seeds)
    first, anew = (l3d_runs(targets, own, offset)[0] for offset in (0, comparison.AGAIN))
    assert first.seed == 0 and anew.seed == comparison.AGAIN and not first.inputs.equal(anew.inputs)
    assert first.inputs.equal(targets[0].draw(own.n_inputs, seed=0)) and first.parameters == ["W_in", "W_out"]


def test_results_are_of_these_weights(monkeypatch, tmp_path):
    before = targets_digest("tmcs", (0, 4), tmp_path)
    assert before == targets_digest("tmcs", (0, 4), tmp_path) != targets_digest("tmcs", (0,), tmp_path)
    shipped = toys.shipped("circuit_superposition", 10, 5)
    other = replace(shipped, weights={**shipped.weights, "b": shipped.weights["b"] + 1e-3})
    monkeypatch.setattr(toys, "shipped", lambda *_: other)
    assert targets_digest("tmcs", (0, 4), tmp_path) != before


def test_leading_directions_by_random_projections_are_those_of_the_svd(monkeypatch):
    g = drawn(200, 12) @ torch.diag(0.5 ** torch.arange(12.0)) @ drawn(12, 90, seed=1)
    exact = comparison_parts.leading(g, 4)
    monkeypatch.setattr(comparison_parts, "EXACT", 0)
    before = torch.get_rng_state()
    near = comparison_parts.leading(g, 4)
    assert torch.get_rng_state().equal(before) and near.shape == exact.shape
    torch.testing.assert_close((near @ exact.T).abs(), torch.eye(4), atol=1e-3, rtol=0)


def test_the_purest_part_of_overlapping_embeddings():
    one = subject("mlp_1", 0)
    assert subject("tmcs", 0).purest == 1 and 0.88 < one.purest < 0.94
    rows = one.matrices(torch.zeros(1, one.w0.shape[1]))
    rows["W_in.0"] = rows["W_in.0"].clone()
    rows["W_in.0"][0, :, 3] = one.network.embed[0, 7]
    flat = torch.cat([part.flatten(1) for part in rows.values()], 1)
    found = comparison_measures.found_circuits(one, Parts(flat, flat, flat, one.w0, torch.tensor([True])))
    assert found.circuit.tolist() == [7] and found.purity == pytest.approx(one.purest, abs=0.03)


def test_costs_are_of_one_decomposition_alone(result):
    spent = result.costs["tmcs"]
    assert spent["L3D/numbers"] == 2 * 12 * (10 + 5 + 1 + 5 + 10 + 1)  # Two factors and a core of each matrix.
    assert spent["APD/numbers"] == 12 * 2 * (10 + 5 + 5 + 10)
    assert all(float(spent[f"{method}/seconds"]) > 0 for method in ("L3D", "APD", "principal"))


def test_memory_is_that_of_the_work_alone():
    held = []

    def work():
        held.append(torch.ones(2**24))
        return 7

    seconds, mib, found = comparison_costs._measured(work, lambda: None)
    assert found == 7 and seconds > 0 and 60 < mib < 100
    assert comparison_costs._alone(os.getpid) != os.getpid()


def test_the_best_candidate_covers_most_then_points_best(tmp_path):
    tuned = TMCS_VARIANTS["tuned"]
    config = APDConfig(n_components=12, n_terms=2, steps=3, batch_size=32, top_k=1.3)
    run = APDRun(target=TMCS, config=config, seeds=(1000, 1001))
    both = {"target": "tmcs", "seeds": (1000, 1001)}
    candidates = {
        "a": Candidate(
            method="L3D", label="a", l3d=tuned._replace(config=replace(tuned.config, epochs=2)), n_inputs=64, **both
        ),
        "b": Candidate(method="APD", label="b", apd=run, **both),
        "c": Candidate(method="APD", label="c", apd=replace(run, config=replace(config, top_k=2.0)), **both),
    }
    done = tried(candidates, tmp_path, workers=1)
    assert all(one.covered.shape == one.cosine.shape == one.output.shape == (2,) for one in done.values())
    # The outputs' error of a candidate is that of one part for each active circuit, on samples of its own.
    target = subject("tmcs", 1001)
    apd = decomposed("tried-tmcs", run, folder=tmp_path).apd
    x = target.sample(torch.Generator().manual_seed(comparison_tuning.JUDGED + 1001), comparison_parts.N_LIVE)
    parts = comparison_parts.of_apd(apd, target, x, 1)
    x = target.draw(comparison_tuning.N_JUDGED, seed=comparison_tuning.JUDGED + 1001)
    ran = comparison_measures.output_sparsity(target, parts, x)
    assert float(done["b"].output[1]) == pytest.approx(ran.added.at_circuits, rel=1e-5)
    half, whole = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    done |= {"b": Tried(half, half, whole), "c": Tried(whole, 2 * half, 9 * half)}
    assert chosen(candidates, done) == {("tmcs", "L3D"): "a", ("tmcs", "APD"): "c"}
    more, less = torch.tensor([0.6, 0.6]), torch.tensor([0.1, 0.1])
    assert chosen(candidates, done | {"c": Tried(more, less, less)})["tmcs", "APD"] == "c"  # Circuits before cosines.
    assert chosen(candidates, done | {"c": Tried(whole, half, less)})["tmcs", "APD"] == "b"  # The first of equals.
    found = tuning_table(candidates, done, comparison_tables.TITLES)
    assert found["chosen"].tolist() == ["yes", "", "yes"]
    both = found.loc[[("circuit superposition", "APD", "b"), ("circuit superposition", "APD", "c")]]
    assert both["covered"].tolist() == ["0.50", "0.50"] and both["output error"].tolist() == ["0.50", "4.50"]


def test_a_target_without_a_decomposition_is_an_error(tmp_path):
    settings = tiny()
    short = replace(settings.targets["tmcs"], apd=(replace(settings.targets["tmcs"].apd[0], seeds=(4,)),))
    with pytest.raises(ValueError, match="APD has no decomposition of tmcs of seed 0; expected one for each seed"):
        comparison.compared("tmcs", short, 50, folder=tmp_path)


def test_what_was_chosen_was_tried_and_no_tuning_target_is_reported():
    paper = SETTINGS["09_comparison"]["paper"]
    for target, own in paper.targets.items():
        assert not set(own.seeds) & set(TUNING)
        assert set(own.seeds) <= {seed for run in own.apd for seed in run.seeds}
        tried_here = [one for one in paper.candidates.values() if one.target == target]
        assert all(one.seeds == TUNING[: 1 if (target, one.method) in ON_ONE else 2] for one in tried_here)
        if target in L3D_TRIED:
            assert any((one.l3d, one.n_inputs) == (own.l3d, own.n_inputs) for one in tried_here if one.l3d)
        if target in APD_TRIED:
            short = replace(own.apd[0].config, steps=5000)  # What takes long was tried with fewer steps.
            assert sum(one.apd.config == short for one in tried_here if one.apd) == 1
    assert [len(own.apd_again) for own in paper.targets.values()] == [1, 2, 1, 1, 1, 0, 0]
    apd = APD_SETTINGS["07_apd"]["paper"].runs
    for name in ("tms-5-2", "tms-40-10-tuned", "mlp-1", "mlp-2"):  # What chapter 7 has on disk is not made again.
        [own] = [own for own in paper.targets.values() if own.stored == name]
        assert own.apd == apd[name]


def test_the_quick_preset_has_the_first_seeds():
    own = shortened(tiny().targets["tmcs"], steps=2, epochs=1, n_seeds=1, n_inputs=32)
    assert own.seeds == (0,) and own.apd[0].seeds == (0,) and own.apd_again == () and own.apd[0].config.steps == 2


def test_cells_by_hand():
    nan = float("nan")
    assert comparison_tables.cell(torch.tensor([3.0, 1.0, 2.0]), 1) == "2.0 [1.0, 3.0]"
    assert comparison_tables.cell(torch.tensor([1.0, 2.0]), 1) == "1.5 [1.0, 2.0]"
    # Never reached is above all that is.
    assert comparison_tables.cell(torch.tensor([3.0, nan, 2.0]), 1, True) == "3.0 [2.0, –]"
    assert comparison_tables.cell(torch.tensor([nan, nan, 2.0, 4.0]), 0, True) == "– [2, –]"
    assert comparison_tables.cell(torch.tensor([nan]), 1, True) == "– [–, –]"
    # What cannot be measured is left out; what is boundless is not.
    assert comparison_tables.cell(torch.tensor([3.0, nan, 2.0]), 1) == "2.5 [2.0, 3.0], n = 2"
    assert comparison_tables.cell(torch.tensor([nan]), 1) == "" and "∞" in comparison_tables.cell(
        torch.tensor([math.inf, 1]), 1
    )


def test_tables_have_every_method_on_every_target(result):
    columns = comparison_tables.CIRCUITS | comparison_tables.AGREE
    found = comparison_tables.table(result, columns)
    assert len(found) == 8 and list(found.columns) == [title for title, _ in columns.values()]
    assert found.loc[("superposition 5 in 2, n = 1", "APD"), "agreement of seeds"] == ""
    circuits = comparison_tables.circuit_table(result)
    last = circuits.loc["superposition 5 in 2, n = 1"]
    assert list(last.index) == [*comparison.METHODS, comparison_tables.REFERENCE] and len(circuits) == 10
    assert last.iloc[-1].tolist() == [
        "", comparison_tables.cell(result.measures["tms_5-2"]["cosine_reachable"], 3), ""
    ]  # fmt: skip
    assert last.iloc[0].tolist() == found.loc[("superposition 5 in 2, n = 1", "L3D")].tolist()[:3]
    quoted = comparison_tables.summary_table(result)
    assert len(quoted) == 8 and quoted.shape[1] == 11 and quoted["peak MiB"].tolist()[3] == ""
    seconds = float(result.costs["tmcs"]["APD/seconds"])
    assert quoted["core-seconds"].iloc[5] == f"{seconds:.2g}"
    costs = comparison_tables.cost_table(result)
    assert len(costs) == 6 and costs.loc[("circuit superposition", "principal"), "numbers trained"] == "0"
    assert comparison_tables.ratios(result, "numbers")["tmcs"] == pytest.approx(12 * 2 * 30 / 768)


def test_what_both_ran_with_is_listed():
    found = comparison_tables.settings_table(tiny())
    assert list(found.index) == [(title, m) for title in ("superposition 5 in 2", "circuit superposition")
                                 for m in ("L3D", "APD")]  # fmt: skip
    assert found.loc[("superposition 5 in 2", "APD"), "trained on"] == "3 batches of 2,048"
    l3d = found.loc[("circuit superposition", "L3D")]
    assert l3d["trained on"] == "64 samples, 2 times" and l3d["settings"].endswith(TMCS_VARIANTS["tuned"].divergence)
    paper = comparison_tables.settings_table(SETTINGS["09_comparison"]["paper"])
    assert paper.loc[("MLP of 1 layer", "L3D"), "settings"] == "6.4 kept a sample, mse"
    assert paper.loc[("MLP of 2 layers", "L3D"), "settings"] == "6.4 kept a sample, mse, revival"
    assert (
        paper.loc[("superposition 40 in 10", "APD"), "settings"] == "top-k 1, simplicity 25, p 1, lr 0.01"
    )  # That of `tuned`.


def test_who_is_ahead(result):
    nan = float("nan")
    values = {
        # Medians of 2 and 3, of 1 and 1, and one that nothing is known of.
        "covered": ([1.0, 3.0], [3.0, 3.0]), "purity": ([1.0, 1.0], [1.0, 1.0]), "agreement": ([1.0, 1.0], [nan, nan]),
        # Of the first target alone both are known: 2 against 1.
        "cosine": ([2.0, 0.0], [1.0, nan]),
        # Less is better: 2 against 3; never reached on one of two, and on neither.
        "output_circuits": ([2.0, 2.0], [3.0, 3.0]), "added_active": ([5.0, nan], [9.0, 8.0]),
        "output_active": ([nan, nan], [nan, nan]),
    }  # fmt: skip
    own = {f"{m}/{key}": torch.tensor(both[i]) for key, both in values.items() for i, m in enumerate(("L3D", "APD"))}
    changed = result._replace(measures={"tmcs": own})
    expected = {
        "covered": "APD", "purity": "", "agreement": "", "cosine": "L3D", "output_circuits": "L3D",
        "added_active": "APD", "output_active": "",
    }  # fmt: skip
    for key, best in expected.items():
        assert comparison_summary.ahead(changed, key) == (["tmcs"] if best == "L3D" else [])
        assert comparison_summary.ahead(changed, key, "APD", "L3D") == (["tmcs"] if best == "APD" else [])
    listed = comparison_summary.listed
    assert listed([]) == "no kind of target" and listed(list(NAMES)) == "all kinds of targets"
    assert listed(["tmcs"]) == "circuit superposition" and listed(["tmcs", "squared"]).endswith("position and squares")
    assert listed(["tmcs", "high_rank", "squared"]) == "circuit superposition, higher rank and squares"


def test_the_record_has_every_number(result):
    found = comparison_summary.summarise(result, "quick")
    numbers = found["numbers"]
    assert all(isinstance(value, str | int | float) for value in numbers.values())
    covered = result.of("tmcs", "L3D", "covered")
    assert numbers["covered_tmcs_L3D"].startswith(numbers["median_covered_tmcs_L3D"])
    assert numbers["median_covered_tmcs_L3D"] == f"{covered.mean():.2f}"  # Of two.
    assert numbers["agreement_tms_5-2_APD"] == numbers["median_agreement_tms_5-2_APD"] == "not run"
    assert numbers["output_error"] == "5 %" and numbers["n_again_tmcs"] == 1 and numbers["chosen_tmcs_APD"] == "nothing"
    ratios = comparison_tables.ratios(result, "seconds").values()
    assert numbers["least_seconds"] == comparison_tables.amount(min(ratios))
    assert found["first_losses"].keys() == {"L3D, tms_5-2", "L3D, tmcs", "APD, tmcs, 0"}
    assert len(found["table"]) == 3 * 4
    assert json.loads(json.dumps(found, allow_nan=False)) == found  # What is not measured is no NaN.
    assert found["table"][1]["method"] == "APD" and found["table"][1]["agreement"] is None
    frame = comparison_summary.spent_frame(result, "seconds")
    assert len(frame) == 6 and frame["value"][1] == float(result.costs["tms_5-2"]["APD/seconds"])
    frame = comparison_summary.frame(result, "covered")
    assert len(frame) == 12 and set(frame["method"]) == set(comparison.METHODS)


def test_what_choosing_by_outputs_would_give(result):
    """Of three candidates of APD the one that covers most is chosen, and the last has the smallest error."""

    def of(*values):
        return torch.tensor(values, dtype=torch.float64)

    run = result.settings.targets["tmcs"].apd[0]
    common = {"target": "tmcs", "method": "APD", "seeds": (1, 2), "apd": run}
    candidates = {name: Candidate(label=name.upper(), **common) for name in "abc"}
    done = {
        "a": Tried(of(0.5, 0.5), of(0.9, 0.9), of(2.0, 4.0)), "b": Tried(of(1.0, 0.5), of(0.4, 0.4), of(1.0, 2.5)),
        "c": Tried(of(0.0, 0.5), of(0.9, 0.9), of(0.1, 0.3)),
    }  # fmt: skip
    other = Candidate(target="tmcs", method="L3D", label="other", seeds=(1,), l3d=TMCS_VARIANTS["tuned"])
    changed = result._replace(
        settings=replace(result.settings, candidates={"d": other, **candidates}),
        tried={"d": Tried(of(1.0), of(1.0), of(0.0)), **done},
    )
    found = comparison_summary.tuning_numbers(changed)
    assert found["chosen_tmcs_APD"] == "B" and found["chosen_tms_5-2_APD"] == "nothing"
    errors = {key: found[key] for key in found if "error" in key or "covered" in key}
    assert errors == {"chosen_error_tmcs": "1.75", "chosen_covered_tmcs": "0.75", "least_error_tmcs": "0.20",
                      "least_covered_tmcs": "0.25"}  # fmt: skip


def test_amounts_by_hand():
    found = [comparison_tables.amount(value) for value in (0.1234, 9.96, 99.4, 99.6, 3728.4)]
    assert found == ["0.12", "10", "99", "100", "3,728"]


def test_curves_go_to_the_goal(result):
    nan = float("nan")
    error = torch.tensor([[3.0, 0.02, nan, nan], [5.0, 1.0, 0.5, 0.01], [4.0, 3.0, 0.04, nan], [6.0, 2.0, 0.3, 0.05]])
    active = torch.tensor([[0.0, 1, 2, 3]]).expand(4, 4).where(~error.isnan(), nan)
    own = {"APD/output_curve_error": error, "APD/output_curve_active": active}
    changed = result._replace(measures={"tmcs": own})
    found, median = comparison_tables.curve(changed, "tmcs", "APD", "output")
    # Middle two of 3, 4, 5, 6; of .02, 1, 2, 3; of .02 and .04 held, .3, .5; of .01, .02, .04, .05: there.
    assert found.tolist() == [0, 1, 2, 3] and median.tolist() == pytest.approx([4.5, 1.5, 0.17, 0.03])
    # Three of the four: the median is there with two parts, and ends.
    few = {key: t[:3] for key, t in own.items()}
    found, median = comparison_tables.curve(result._replace(measures={"tmcs": few}), "tmcs", "APD", "output")
    assert found.tolist() == [0, 1, 2] and median.tolist() == pytest.approx([4, 1, 0.04])
    active, median = comparison_tables.curve(result, "tmcs", "random", "gradient")
    assert active[0] == 0 and median[0] == 1 and active[-1] == 12


def test_figures_show_every_value(result):
    import pandas as pd

    frame = pd.DataFrame({"target": ["a", "a", "b"], "method": ["L3D", "APD", "APD"], "value": [1.0, 2.0, 3.0]})
    figure = plot_measures({"covered": frame, "other": frame}, logarithmic=("other",))
    shown = sorted(y for part in figure.axes[0].collections for _, y in part.get_offsets())
    assert shown == [1, 2, 3] and figure.axes[1].get_yscale() == "log"
    curves = {
        name: {m: comparison_tables.curve(result, name, m, "output") for m in comparison.METHODS}
        for name in result.measures
    }
    figure = plot_curves(curves, 0.05, "error", "parts")
    assert [ax.get_title() for ax in figure.axes] == list(result.measures)
    assert [ax.get_xlabel() for ax in figure.axes] == ["parts", "parts"]
    assert len(figure.axes[0].lines) == 5
    # Of four, one has what is asked for with 2 parts, one with none at all, where its line is but a point.
    steps = torch.arange(3.0)
    several = {
        "L3D": (steps, torch.tensor([0.9, 0.1, 0.04])), "APD": (steps, torch.tensor([0.9, 0.1, 0.06])),
        "random": (steps[:1], torch.tensor([1e-9])),
    }  # fmt: skip
    dots = [part.get_offsets() for part in plot_curves({"a": several}, 0.05, "error", "parts").axes[0].collections]
    assert [part.tolist() for part in dots] == [[pytest.approx([2, 0.04])], [], [pytest.approx([0, 0.005])]]
    # None at all has its place at the left edge, apart from the fewest.
    ax = figure.axes[0]
    assert ax.get_xlim()[0] == 0 and ax.lines[0].get_xdata()[0] == 0 and ax.get_xticklabels()[0].get_text() == "0"
    at = ax.transData.transform([(0, 1), (0.1, 1), (1, 1)])[:, 0]
    assert at[1] - at[0] > 0.2 * (at[2] - at[1]) > 0
    plt.close("all")


def test_a_start_of_apd_has_the_size_it_should(tms):
    components = start(tms.network, APD_TMS, [torch.Generator().manual_seed(0)])
    parts = comparison_parts.of_apd(as_apd(tms, components, 5), tms, tms.draw(50, seed=0))
    # Nothing adds up yet, so that nothing runs; the error is what W does to the outputs.
    found = comparison_measures.output_sparsity(tms, parts, tms.draw(50, seed=1))
    assert math.isnan(found.needed) and float(found.added.error.min()) > 0.5
