"""Chapter 7 from its settings to its record, on runs of two steps; gated functions and shipped targets."""

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import pytest
import torch

from l3d_core import apd_shipped, record, targets
from l3d_core.apd_claims import CLAIMS
from l3d_core.apd_experiments import SETTINGS
from l3d_core.apd_shipped import MLP, SHIPPED, TMS, load_shipped, train_shipped
from l3d_core.apd_targets import gated_functions, started
from l3d_core.baselines.apd import APD
from l3d_core.baselines.apd_losses import Losses
from l3d_core.baselines.apd_networks import Factors
from l3d_core.chapters import apd_chapter, apd_gated, apd_tables, apd_views
from l3d_core.chapters import apd_summary as summary
from l3d_core.chapters.apd_measures import FeatureErrors, Scrubbed, contributions
from l3d_core.chapters.apd_runs import Decomposed
from l3d_core.figures import apd as figures
from l3d_core.figures.apd_gated import plot_functions, plot_wiring
from l3d_core.parallel import run_jobs

GATED = gated_functions(0)


def tiny(run):
    """Returns a run of two steps, on a residual MLP of two steps."""
    target = run.target
    if target is not None and target.kind == "residual":
        target = replace(target, steps=2)
    return replace(run, config=replace(run.config, steps=2, batch_size=64), target=target)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    quick = SETTINGS["07_apd"]["quick"].runs
    settings = apd_chapter.APDSettings(runs={name: tuple(map(tiny, parts)) for name, parts in quick.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apd_tables, "N_SCRUBBED", 2000)
        runs = apd_chapter.compute(settings, folder=tmp_path_factory.mktemp("runs"), workers=1)
        return summary.measured(settings, runs)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# --- gated functions --------------------------------------------------------------------------------------------


def gated_components(parts):
    """Returns two runs whose components are parts of the target's weights, by a factor for each function."""
    of = apd_gated.function_weights(GATED)
    found = {}
    for name, w in GATED.network.weights.items():
        each = torch.stack([sum(share * w[0] * (of[name] == i) for i, share in enumerate(row)) for row in parts])
        u = torch.eye(w.shape[1]).expand(len(parts), -1, -1).permute(1, 0, 2)[None]
        found[name] = Factors(u.expand(2, -1, -1, -1).contiguous(), each[None].expand(2, -1, -1, -1).contiguous())
    return found


def kind_of_weights(owner=None):
    """Squared weights of the target that read x, that read bits and that write, of all functions or of one."""
    of, found = apd_gated.function_weights(GATED), [0.0, 0.0, 0.0]
    for name, w in GATED.network.weights.items():
        squares = w[0].square() * (1 if owner is None else of[name] == owner)
        if name.startswith("W_out"):
            found[2] += float(squares.sum())
        else:
            found[0] += float(squares[0].sum())
            found[1] += float(squares[1:].sum())
    return found


def shares_of_kinds(owner):
    return [a / b for a, b in zip(kind_of_weights(owner), kind_of_weights(), strict=True)]


def with_gated(result, parts):
    one = result.runs["gated"]
    return one._replace(apd=one.apd._replace(components=gated_components(parts)))


def test_one_component_for_each_function_leaves_no_error_and_is_pure(result):
    found = apd_gated.gated(with_gated(result, torch.eye(4).tolist()), GATED)
    torch.testing.assert_close(found.errors, torch.zeros(2, 4), atol=1e-8, rtol=0)
    torch.testing.assert_close(found.shares[0], torch.cat([torch.eye(4), torch.zeros(4, 1)], 1))
    assert apd_gated.one_each(found).all() and apd_gated.purity(found).min() == 1
    x = found.x[::20]
    values = torch.stack([c[0] * torch.cos(c[1] * x + c[2]) + c[3] * torch.sin(c[4] * x + c[5]) + c[6]
                          for c in GATED.coefficients])  # fmt: skip
    assert (found.target[:, ::20] - values).abs().max() < 0.05  # Pieces of lines between ten knots.


def test_shares_of_mixed_components_by_hand(result):
    # Component 0 has functions 0 and 1 in full, component 1 half of function 2, component 2 nothing.
    parts = [[1, 1, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    shares = apd_gated.shares(with_gated(result, parts), GATED)[0]
    mass = [sum(shares_of_kinds(i)) for i in (0, 1)]
    assert shares[0, :2].tolist() == pytest.approx([m / sum(mass) for m in mass], rel=1e-5)
    assert shares[1].tolist() == pytest.approx([0, 0, 1, 0, 0]) and shares[2].tolist() == [0] * 5
    found = apd_gated.gated(with_gated(result, parts), GATED)
    assert not apd_gated.one_each(found).any()
    # With functions 0 and 1 on at once in one component, bit 0 alone turns on only function 0: no error.
    assert found.errors[0, 0] < 1e-8 and found.errors[0, 2] > 0.01 and found.errors[0, 3] < 1e-8
    y, target = found.top_k[0, 2], found.target[2]
    variance = (target - target.mean()).square().mean()
    torch.testing.assert_close(found.errors[0, 2], (y - target).square().mean() / variance)
    # Each component may have a function of its own while one of the functions has none.
    twice = apd_gated.gated(with_gated(result, torch.eye(4)[[0, 0, 1, 2]].tolist()), GATED)
    assert apd_gated.purity(twice).min() == 1 and not apd_gated.one_each(twice).any()


def test_weights_that_are_zero_in_the_target_belong_to_nobody(result):
    one = with_gated(result, torch.eye(4).tolist())
    w = one.apd.components["W_in.0"].v
    place = (GATED.network.w_in[0][0] == 0).nonzero()[0]
    w[:, 0, place[0], place[1]] = 3.0
    kind = 0 if place[0] == 0 else 1
    absent = 9 / kind_of_weights()[kind]
    assert float(apd_gated.shares(one, GATED)[0, 0, 4]) == pytest.approx(absent / (sum(shares_of_kinds(0)) + absent))


def test_every_weight_of_the_gated_functions_has_its_owner():
    of = apd_gated.function_weights(GATED)
    for name, w in GATED.network.weights.items():
        assert of[name].shape == w[0].shape and ((of[name] == -1) == (w[0] == 0)).all()
    bits = of["W_in.0"][1:5]
    assert all(row[row >= 0].unique().tolist() == [i] for i, row in enumerate(bits))


def test_the_best_run_has_the_least_error(result):
    errors = torch.tensor([[0.1, 0.5], [0.2, 0.1], [0.0, 0.4]])
    assert apd_gated.best(result.gated._replace(errors=errors)) == 1
    table = apd_gated.gated_table(result.gated, result.runs["gated"].apd.seeds)
    assert list(table.index) == ["0", "1", "all"] and table["a component for each"].iloc[-1].endswith("of 2")


# --- single features --------------------------------------------------------------------------------------------


def test_responses_are_the_networks_outputs(result):
    network = result.runs["mlp-1"].network
    found = apd_views.responses(network, 1)
    n = network.embed.shape[1]
    x = torch.zeros(2, 1, n)
    x[:, 0, 3] = 0.5
    at = int((found.x - 0.5).abs().argmin())
    torch.testing.assert_close(network.outputs(x)[1, 0, 3], found.curves[3, at])
    x[:, 0, 3] = 1.0
    torch.testing.assert_close(network.outputs(x)[1, 0], found.outputs[3])
    assert found.curves.shape == (n, apd_views.N_X) and apd_views.shown_feature(network) == n - 1


def test_halves_without_any_component_are_zero_and_the_whole_is_the_sum(result):
    one = result.runs["mlp-2"]
    found = apd_views.halves_of_feature(one)
    assert found.scrubbed.shape == found.anti_scrubbed.shape == (apd_views.N_HALVES, len(found.target))
    empty = {m: Factors(torch.zeros_like(own.u), own.v) for m, own in one.apd.components.items()}
    nothing = apd_views.halves_of_feature(one._replace(apd=one.apd._replace(components=empty)))
    assert nothing.scrubbed.abs().max() < 1e-6 and nothing.top_k.abs().max() < 1e-6
    straight = torch.eye(len(found.target))[found.feature] @ one.network.embed[0] @ one.network.unembed[0]
    x = torch.eye(len(found.target))[None, found.feature, None].expand(len(one.apd.seeds), 1, -1)
    torch.testing.assert_close(found.target, one.network.outputs(x)[0, 0] - straight, rtol=1e-4, atol=1e-6)


def test_predominant_is_the_component_with_the_largest_contribution(result):
    one = result.runs["mlp-1"]
    target, best = apd_views.predominant(one)
    each = contributions(one.network, {name: own.each() for name, own in one.apd.components.items()})
    assert target.shape == best.shape == (2, each.shape[2], each.shape[3])
    for feature in (0, 7):
        largest = max(range(each.shape[1]), key=lambda c: float(each[1, c, feature].max()))
        assert best[1, feature].equal(each[1, largest, feature])
    first = apd_views.first_contributions(result.runs["mlp-1"])
    assert first[0].equal(target[0]) and first[1].equal(best[0])


def test_what_is_kept_of_large_contributions_by_hand(result, monkeypatch):
    target = torch.tensor([[[0.2, 0.4], [0.05, 0.5]], [[0.3, 0.0], [-0.9, 0.1]]])
    best = torch.tensor([[[0.1, 0.3], [0.05, 0.5]], [[0.27, 0.5], [-0.9, 0.1]]])
    monkeypatch.setattr(apd_views, "predominant", lambda one: (target, best))
    # Halves, three quarters and all of those above .1, the median; then nine tenths of the one there is.
    assert apd_views.kept_contributions(result.runs["mlp-1"]).tolist() == pytest.approx([0.75, 0.9])


def test_features_across_layers_by_hand(result, monkeypatch):
    # Two layers of two neurons. Of .04 and more: both layers, the first alone, both, in the target; then only the last.
    target = torch.tensor([[[0.04, 0.0, 0.2, 0.0], [0.3, 0.3, 0.03, 0.0], [0.0, 0.1, 0.0, 0.1]]])
    best = torch.tensor([[[0.03, 0.0, 0.2, 0.0], [0.3, 0.3, 0.03, 0.0], [0.0, 0.1, 0.0, 0.1]]])
    monkeypatch.setattr(apd_views, "predominant", lambda one: (target, best))
    network = result.runs["mlp-2"].network._replace(b=(torch.zeros(1, 2), torch.zeros(1, 2)))
    found = apd_views.across_layers(result.runs["mlp-2"]._replace(network=network))
    assert [n.tolist() for n in found] == [[2], [1]]


# --- measures and claims ----------------------------------------------------------------------------------------


def test_ratios_and_bad_features_by_hand(result):
    halves = Scrubbed(*(torch.tensor(values) for values in ([[0.0, 0.0]], [[1.0, 3.0]], [[2.0, 10.0]])))
    assert summary.ratio(result.residual["mlp-1"]._replace(halves=halves)).tolist() == [3.0]
    target, nothing = torch.tensor([[1.0, 1.0, 2.0]]), torch.zeros(1, 3)
    errors = FeatureErrors(target, torch.tensor([[1.4, 1.6, 3.1]]), torch.tensor([[1.0, 1.6, 2.0]]), nothing, nothing)
    assert [n.tolist() for n in summary.n_bad(errors)] == [[2], [1]]
    both = errors._replace(single_target=torch.tensor([[1.0, 2.0, 6.0]]), active=torch.tensor([[0.9, 1.0, 1.4]]))
    # Deviations (-2, -1, 3) and (-.2, -.1, .3) are in proportion.
    assert summary.against_active(both).tolist() == pytest.approx([1.0])


def test_every_claim_has_its_values(result):
    found = summary.claims(result)
    assert found.keys() == {claim.id for claim in CLAIMS}
    for claim in CLAIMS:
        assert found[claim.id].keys() == set(claim.variants)
        number = claim.paper is not None
        assert all(isinstance(v, float if number else bool) for values in found[claim.id].values() for v in values)


def test_claims_follow_from_the_measures(result):
    half = result.superposed["tms-5-2"]
    changed = half._replace(
        share=torch.tensor([1.0, 0.8]), mmcs=torch.tensor([0.9, 0.1]), sum_error=torch.tensor([1.0, 0])
    )
    one = result.residual["mlp-1"]
    n = result.runs["mlp-1"].network.embed.shape[1]
    flat = Scrubbed(torch.zeros(2, 1), torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0], [2.9]]))
    other = one._replace(own=torch.tensor([n, n // 2]), halves=flat, monosemantic=torch.tensor([2.0, 2.0]))
    found = summary.claims(result._replace(
        superposed={**result.superposed, "tms-5-2": changed,
                    "tms-5-2-target": half._replace(mmcs=torch.tensor([0.5, 0.5]))},
        residual={**result.residual, "mlp-1": other},
    ))  # fmt: skip
    assert found["apd-found-5"]["text"] == [True, False] and found["apd-attributions"]["text"] == [True, False]
    assert found["apd-mmcs-5"]["text"] == pytest.approx([0.9, 0.1]) and found["apd-sum"]["text"][:2] == [False, True]
    assert found["apd-own-mlp-1"]["code"] == [True, False] and found["apd-scrubbed-mlp-1"]["code"] == [True, False]
    worse = other._replace(monosemantic=torch.tensor([0.5, 2.0]))
    again = summary.claims(result._replace(residual={**result.residual, "mlp-1": worse}))
    assert again["apd-scrubbed-mlp-1"]["code"] == [False, False]


def test_claims_on_features_and_functions_from_made_up_measures(result, monkeypatch):
    n = result.runs["mlp-1"].network.embed.shape[1]
    target, nothing = torch.ones(2, n), torch.zeros(2, n)
    single = target.clone()
    single[0, : n // 5] = 1.6  # A fifth of the features badly served by one component, on the first run only.
    errors = FeatureErrors(target, single, target, nothing, nothing)
    shared = {"mlp-1": torch.tensor([3, 5]), "mlp-2": torch.tensor([4, 9])}  # The median of one layer is 4.
    monkeypatch.setattr(summary, "n_shared", lambda one: shared[f"mlp-{len(one.network.b)}"])
    shares = torch.eye(4, 5).expand(2, -1, -1).clone()
    shares[1, 3] = torch.tensor([0.0, 0, 0.4, 0.4, 0.2])
    changed = result._replace(alone={**result.alone, "mlp-1": errors}, gated=result.gated._replace(shares=shares))
    found = summary.claims(changed)
    assert found["apd-split"]["code"] == [True, False] and found["apd-two-layers"]["code"] == [False, True]
    assert found["apd-gated"]["text"] == [True, False]


def test_components_of_several_features_by_their_neurons(result, monkeypatch):
    each = torch.zeros(2, 3, 4, 5)  # Runs, components, features, neurons.
    each[0, 0, :2, 1], each[0, 1, 0, 0], each[1, 2, :, 3] = 0.05, 0.9, 0.039
    monkeypatch.setattr(summary, "contributions", lambda *_: each)
    assert summary.n_shared(result.runs["mlp-1"]).tolist() == [1, 0]


def test_targets_without_a_feature_are_left_out():
    one = apd_chapter.targets(SETTINGS["07_apd"]["paper"].runs["tms-5-2"][0], None)[0]
    nothing = torch.zeros(12, 1)
    components = {"W": Factors(torch.eye(5)[None, :, None].expand(12, 5, 1, 5).contiguous(), one.w[:, None])}
    apd = APD(
        components, Losses(*[nothing] * 4), nothing, SETTINGS["07_apd"]["paper"].runs["tms-5-2"][0].config, range(12)
    )
    found = apd_tables.superposed(Decomposed(one, torch.zeros(12), apd, {}))
    assert found.kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]  # Number 9 has one row of .39.
    assert found.found.tolist() == [1] * 11 and found.sum_error.max() == 0
    better = found._replace(found=torch.tensor([5, 5, 4] + [0] * 8), mmcs=torch.tensor([0.99, 0.995, 1.0] + [0.0] * 8))
    assert better.best == 1


def test_the_record_has_numbers_of_every_run_and_first_losses_of_every_stack(result):
    found = summary.summarise(result, "quick", {"paper_mmcs_5": "0.998"})
    assert found["first_losses"].keys() == apd_chapter.jobs(result.settings).keys()
    jobs = apd_chapter.jobs(result.settings)
    assert all(len(found["first_losses"][name][0]) == len(job.run.seeds) for name, job in jobs.items())
    stacked = torch.tensor(found["first_losses"]["tms-40-10, 1"]).flatten(0, 1)
    torch.testing.assert_close(stacked, result.runs["tms-40-10"].apd.first_losses[1:], rtol=1e-6, atol=0)
    assert len(found["table"]) == sum(len(one.apd.seeds) for one in result.runs.values())
    assert found["numbers"]["paper_mmcs_5"] == "0.998" and found["provenance"]["seconds"].keys() == result.runs.keys()
    numbers = found["numbers"]
    assert numbers["terms_mlp-1"] == numbers["full_terms_mlp-1"] == 10 and numbers["full_terms_mlp-2"] == 5
    assert numbers["n_tms-40-10-tuned"] == 2 and numbers["features_mlp-2"] == 20
    assert numbers["response_mlp-1"].endswith("n = 20") and numbers["mono_mlp-1"].endswith("n = 2")


def test_numbers_of_the_paper(root):
    found = summary.paper_texts(record.paper_values(root))
    assert found == {
        "paper_mmcs_5": "0.998", "paper_ml2r_5": "0.893", "paper_mmcs_40": "0.996", "paper_ml2r_40": "0.935",
        "paper_ratio_1": "5.1", "paper_ratio_2": "3.9",
    }  # fmt: skip


def test_residual_networks_can_have_all_terms():
    paper = SETTINGS["07_apd"]["paper"]
    full = apd_chapter.with_full_ranks(paper).runs
    terms = {"mlp-1": 50, "mlp-2": 25, "mlp-1-top-1": 50, "mlp-2-top-1": 25}
    for name, parts in paper.runs.items():
        n_terms = terms.get(name, parts[0].config.n_terms)
        assert full[name] == tuple(replace(run, config=replace(run.config, n_terms=n_terms)) for run in parts)
    # What pages call a fifth of the ranks.
    assert [5 * paper.runs[name][0].config.n_terms for name in terms] == list(terms.values())


def test_tables_name_every_run(result, root):
    papers = record.paper_values(root)
    table = apd_tables.superposed_table(result.superposed, papers)
    assert list(table.index) == [*apd_tables.PAPER_TITLES.values(), *apd_tables.TITLES.values()]
    assert table["ML2R"].tolist()[:2] == ["0.893", "0.935"] and table["all found"].tolist()[:2] == ["", ""]
    table = apd_tables.residual_table(result.residual, papers)
    assert list(table.index) == [*apd_tables.PAPER_MLP_TITLES.values(), *apd_tables.MLP_TITLES.values()]
    assert table["anti-scrubbed"].tolist()[:2] == ["13.60", "15.50"]
    assert table["anti-scrubbed / scrubbed"].tolist()[:2] == ["5.1", "3.9"]
    table = apd_tables.settings_table(result.settings, result.runs)
    assert list(table.columns) == [*apd_tables.TITLES.values(), *apd_tables.MLP_TITLES.values(), "gated functions"]
    assert result.runs.keys() == apd_tables.ALL_TITLES.keys()
    assert table.loc["numbers trained", "5 in 2, at the target"] == 5 * 3 * (5 + 2)
    assert table.loc["target's loss", "gated functions"] == ""


# --- figures ----------------------------------------------------------------------------------------------------


def test_rays_are_the_rows_of_each_panel(result):
    panels = apd_views.ray_panels(result.runs["tms-5-2"], 1)
    assert list(panels) == ["target", "sum", *(f"component {c}" for c in range(5))]
    torch.testing.assert_close(panels["sum"], sum(panels[f"component {c}"] for c in range(5)))
    figure = figures.plot_rays(panels)
    drawn = [line.get_xydata()[-1].tolist() for line in figure.axes[0].lines[::2]]
    torch.testing.assert_close(torch.tensor(drawn, dtype=torch.float32), result.runs["tms-5-2"].network.w[1])
    assert [p.weights[1].equal(p.weights[0].T) for p in figures.as_networks(panels)] == [True] * 7


def test_a_point_for_every_run():
    figure = figures.plot_instances({"a": torch.tensor([0.5, 0.75]), "b": torch.tensor([1.0])},
                                    {"a": torch.tensor([0, 1]), "b": torch.tensor([1])},
                                    {"a": 0.998, "b": 0.996})  # fmt: skip
    left, right = figure.axes
    assert sorted(x for part in left.collections for x, _ in part.get_offsets()) == [0.5, 0.75, 1.0]
    assert [line.get_xdata()[0] for line in left.lines] == [0.998, 0.996]
    assert right.get_xlabel() == "share of features found"


def test_losses_are_drawn_at_their_steps(result):
    terms = apd_views.history(result.runs["mlp-1"])
    assert list(terms) == ["faithfulness", "minimality", "simplicity", "hidden"]
    assert list(apd_views.history(result.runs["tms-40-10"])) == ["faithfulness", "minimality", "simplicity"]
    figure = figures.plot_losses({"a": {"hidden": torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 9.0]])}}, 100)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [100, 200] and line.get_ydata().tolist() == [3, 2]


def test_errors_and_outputs_are_drawn_as_given(result):
    figures.plot_errors_of_halves(apd_views.first_halves(result.residual["mlp-1"]), 0.01)
    assert apd_views.first_halves(result.residual["mlp-1"]).keys() == {"top-k", "scrubbed", "anti-scrubbed"}
    errors = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]), torch.tensor([4.0, 1.0]))
    top, bottom = figures.plot_feature_errors(*errors, 1.28).axes
    assert [p.get_height() for p in top.patches] == [5, 3, 2, 1] and [p.get_height() for p in bottom.patches] == [
        4, 1, 1, 2,
    ]  # fmt: skip
    responses = apd_views.responses(result.runs["mlp-2"].network)
    left, right = figures.plot_target_outputs(*responses, feature=2).axes
    assert left.lines[0].get_ydata().tolist() == pytest.approx(responses.outputs[2].tolist())
    assert right.lines[0].get_ydata().tolist() == pytest.approx(responses.curves[2].tolist())
    figures.plot_target_outputs(*responses)
    figures.plot_scrubbed_outputs(*apd_views.halves_of_feature(result.runs["mlp-1"])[1:])
    figures.plot_contributions(*apd_views.first_contributions(result.runs["mlp-2"]), n_layers=2)
    figures.plot_errors_against_active(torch.tensor([1e-4]), torch.tensor([1.0]))


def test_wiring_shows_the_weights_of_each_function(result):
    weights = apd_gated.drawn_weights(GATED, with_gated(result, torch.eye(4).tolist()), 0)
    figure = plot_wiring(weights, apd_gated.function_weights(GATED))
    assert [ax.get_title() for ax in figure.axes] == ["target", *(f"component {c}" for c in range(4))]
    links = [sum(len(part.get_segments()) for part in ax.collections if hasattr(part, "get_segments"))
             for ax in figure.axes]  # fmt: skip
    assert links[0] == sum(links[1:]) and min(links[1:]) > 20
    colours = {tuple(c[:3]) for part in figure.axes[1].collections[:4] for c in part.get_colors()}
    assert len(colours) == 1
    plot_functions(result.gated.x, result.gated.target, result.gated.top_k[0])


# --- shipped targets --------------------------------------------------------------------------------------------


def test_shipped_targets_are_what_their_settings_say():
    for config, parts in SHIPPED.values():
        seeds = sum(parts, ())
        network, losses = load_shipped(config, seeds[-2:])
        assert len(losses) == 2 and (losses > 0).all()
        other, _ = load_shipped(config, seeds)
        for name, w in network.weights.items():
            assert (
                w.equal(other.weights[name][-2:]) and w.shape == started(config, (0,)).weights[name].expand_as(w).shape
            )
    assert load_shipped(TMS, (0, 12)) is None and load_shipped(replace(TMS, steps=9), (0,)) is None
    assert load_shipped(MLP, (0,))[0].embed.equal(started(MLP, (0,)).embed)


def test_shipped_targets_can_be_trained_anew(tmp_path, monkeypatch):
    small = {"apd_small": (replace(TMS, steps=3), ((0, 1),)), "apd_deep": (
        replace(MLP, steps=2, n_features=4, n_hidden=4, n_layers=2, n_resid=9), ((0,), (5,)))}  # fmt: skip
    monkeypatch.setattr(apd_shipped, "SHIPPED", small)
    monkeypatch.setattr(targets, "run_jobs", partial(run_jobs, workers=1))
    assert targets.retrain(["apd_small", "apd_deep"], tmp_path, progress=False).keys() == small.keys()
    for config, parts in small.values():
        trained = apd_shipped.train_targets(config, parts[-1])
        network, losses = load_shipped(config, parts[-1], tmp_path)
        assert losses.equal(trained.losses)
        assert all(w.equal(trained.network.weights[name]) for name, w in network.weights.items())
    assert load_shipped(small["apd_small"][0], (0,), tmp_path / "none") is None
    assert train_shipped("apd_small", tmp_path) > 0
