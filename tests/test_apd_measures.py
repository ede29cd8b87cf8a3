"""What APD's components do, worked by hand and against loops."""

import pytest
import reference_apd as slow
import torch
from test_apd import CONFIG, components_of, two_of

from l3d_core.baselines.apd import APD
from l3d_core.baselines.apd_losses import Losses, attributions
from l3d_core.baselines.apd_networks import ResidualMLP, applied
from l3d_core.chapters import apd_measures as measures


def as_apd(components, n_runs=2):
    return APD(components, Losses(*[torch.zeros(n_runs, 1)] * 4), torch.zeros(n_runs, 1), CONFIG, tuple(range(n_runs)))


def test_cosines_and_lengths_by_hand():
    # W has rows (3, 4) and (0, 2). Component 0 holds half of the first row and the second the wrong way round,
    # component 1 a first row at a right angle and the whole second row.
    w = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    p = torch.tensor([[[[1.5, 2.0], [0.0, -2.0]], [[4.0, -3.0], [0.0, 2.0]]]])
    found = measures.geometry(w, p)
    assert found.component.tolist() == [[0, 1]]
    torch.testing.assert_close(found.cosine, torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(found.ratio, torch.tensor([[0.5, 1.0]]))
    # Paired by how far a row reaches along W's: component 0 with the first feature, 1 with the second.
    assert measures.n_found(w, p).tolist() == [2]
    short = torch.stack([0.9 * p[:, 0], p[:, 1]], 1)
    assert measures.n_found(w, short).tolist() == [1]  # .45 of the length is too short.
    # A stub with the right direction is not taken for the long row beside it.
    turned = p.clone()
    turned[0, 0, 0] = torch.tensor([4.0, 3.0])  # As long as (3, 4), with a cosine of 24 / 25.
    stub = torch.cat([turned, 0.01 * w[:, None]], 1)
    assert measures.geometry(w, stub).component[0, 0] == 2 and measures.n_found(w, stub).tolist() == [2]


def test_contributions_by_hand():
    # One feature, two neurons: reads 2 and 3 of it, writes 5 and -1 to output 0.
    one = ResidualMLP(
        torch.tensor([[[1.0, 0.0]]]), (torch.tensor([[[2.0, 3.0], [9.0, 9.0]]]),), (torch.zeros(1, 2),),
        (torch.tensor([[[0.0, 5.0], [0.0, -1.0]]]),), torch.tensor([[[0.0], [1.0]]]),
    )  # fmt: skip
    assert measures.contributions(one, one.weights).tolist() == [[[10, -3]]]
    network, _ = two_of("residual")
    components = components_of(network)
    each = {name: own.each() for name, own in components.items()}
    found = measures.contributions(network, each)
    assert found.shape == (2, 3, 4, 6)
    alone = measures.contributions(network, {name: w[:, 1] for name, w in each.items()})
    torch.testing.assert_close(found[:, 1], alone)


def test_components_of_features_are_those_of_largest_attribution():
    network, _ = two_of("residual")
    components = components_of(network)
    x = torch.eye(4, dtype=torch.float64).expand(2, -1, -1)
    scores = attributions(network, x, network.weights, components)
    assert measures.feature_components(network, as_apd(components), 4).equal(scores.argmax(-1))
    assert measures.n_own(torch.tensor([[0, 1, 1, 2], [3, 3, 3, 3]])).tolist() == [2, 0]


@pytest.mark.parametrize("few", [0.0, 1.0], ids=["many at once", "each sample's own"])
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_outputs_with_some_components_against_loops(monkeypatch, few, share):
    monkeypatch.setattr(measures, "FEW", few)
    network, x = two_of("residual")
    components = components_of(network)
    kept = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)) < share
    assert kept.any()
    found = measures.masked_outputs(network, as_apd(components), x, kept)
    for run in range(2):
        ps = slow.matrices(components, run)
        for s in range(5):
            on = {
                name: sum((p[name] for p, k in zip(ps, kept[run, s], strict=True) if k), torch.zeros_like(ps[0][name]))
                for name in ps[0]
            }
            torch.testing.assert_close(found[run, s], slow.output(network, run, on, x[run, s]))


def test_most_attributed_takes_as_many_of_each_batch():
    network, x = two_of("residual")
    apd = as_apd(components_of(network))
    scores = attributions(network, x, network.weights, apd.components)
    each = measures.most_attributed(network, apd, x, 1.0, 1)
    assert each.sum(-1).equal((scores.amax(-1) > 0).long())  # A sample on which nothing matters has no component.
    assert each.int().argmax(-1).equal(scores.argmax(-1))
    batch = measures.most_attributed(network, apd, x, 0.8, 5)
    assert batch.sum((1, 2)).tolist() == [4, 4]
    pairs = measures.most_attributed(network, apd, x, 1.5, 2)
    for run in range(2):
        assert scores[run][batch[run]].min() > scores[run][~batch[run]].max()
        for start in (0, 2, 4):  # Three of each pair of samples, one of the last alone.
            own, kept = scores[run, start : start + 2], pairs[run, start : start + 2]
            n = min(3 if start < 4 else 1, int((own > 0).sum()))
            assert sorted(own[kept].tolist()) == sorted(own.flatten().topk(n).values.tolist())


def test_scrubbing_keeps_or_drops_what_serves_the_active_features():
    network, x = two_of("residual")
    apd = as_apd(components_of(network))
    x = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    found = measures.scrubbing(network, apd, x, batch_size=5, seed=3)
    serving = measures.feature_components(network, apd, 4)
    coin = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(3)) < 0.5
    target, _ = network.forward(x, applied(network.weights))
    for run in range(2):
        for s in range(5):
            own = {int(serving[run, f]) for f in x[run, s].nonzero().flatten().tolist()}
            keep = torch.tensor([[[c in own or bool(coin[run, s, c]) for c in range(3)]]])
            drop = torch.tensor([[[c not in own and bool(coin[run, s, c]) for c in range(3)]]])
            one = slow.one_run(network, run)
            alone = as_apd({n: type(f)(f.u[run : run + 1], f.v[run : run + 1]) for n, f in apd.components.items()}, 1)
            for mask, error in ((keep, found.scrubbed), (drop, found.anti_scrubbed)):
                y = measures.masked_outputs(one, alone, x[run : run + 1, s : s + 1], mask)[0, 0]
                assert float(error[run, s]) == pytest.approx(float((y - target[run, s]).square().mean()))


def test_one_neuron_for_a_feature_by_hand():
    # Three features with axes of their own, two neurons: relu(x_0), written to output 0, and relu(x_1 + x_2), written
    # by half to output 1 and by a quarter to output 2. A neuron for each of the first two features gives relu(x_0) and
    # relu(x_1) instead.
    one = ResidualMLP(
        torch.eye(3)[None], (torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]),), (torch.zeros(1, 2),),
        (torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.25]]]),), torch.eye(3)[None],
    )  # fmt: skip
    x = torch.tensor([[[1.0, -1.0, 2.0], [1.0, 3.0, -2.0]]])
    # Targets (2, -.5, 2.25) and (2, 3.5, -1.75) against (2, -1, 2) and (2, 6, -2); the labels have 4 for 2.25.
    wanted = (0.5**2 + 0.25**2 + 2.5**2 + 0.25**2) / 6
    assert measures.monosemantic_error(one, x).tolist() == [pytest.approx(wanted)]


def test_errors_of_features_alone_against_loops():
    network, _ = two_of("residual")
    apd = as_apd(components_of(network))
    x = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x * (torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.35)
    found = measures.feature_errors(network, apd, x, batch_size=4)
    kept = measures.most_attributed(network, apd, x, CONFIG.top_k, 4)
    best = measures.most_attributed(network, apd, x, 1.0, 1)
    target = network.outputs(x)
    for run in range(2):
        for f in range(4):
            rows = [s for s in range(12) if x[run, s].nonzero().flatten().tolist() == [f]]
            if not rows:
                assert found.target[run, f].isnan()
                continue
            wanted = x[run, rows] + x[run, rows].clamp(min=0)
            single, batch = (measures.masked_outputs(network, apd, x, mask)[run, rows] for mask in (best, kept))
            assert float(found.target[run, f]) == pytest.approx(float((target[run, rows] - wanted).square().mean()))
            assert float(found.single[run, f]) == pytest.approx(float((single - wanted).square().mean()))
            assert float(found.batch[run, f]) == pytest.approx(float((batch - wanted).square().mean()))
            apart = float((single - target[run, rows]).square().mean())
            assert float(found.single_target[run, f]) == pytest.approx(apart)
            assert float(found.active[run, f]) == pytest.approx(float(kept[run, rows].sum(-1).double().mean()))
    assert found.target.isfinite().sum() >= 5
