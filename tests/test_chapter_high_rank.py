"""Chapter 3: its summaries of hand-made studies with known answers, and its figures of them."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from l3d_core import experiments, record, toys
from l3d_core.chapters import high_rank_summary as summary
from l3d_core.chapters.studies import Study
from l3d_core.chapters.toy_chapter import ToyResult
from l3d_core.figures import high_rank as draw
from l3d_core.l3d import L3DConfig

SEEDS = [0, 1]
NAMES = ("text", "code", "tuned")
TOPS = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def direction(group: int, *, rank_2: bool = False) -> torch.Tensor:
    """A subnetwork of 630 weights: a group to hidden node 0, on request half as much to node 1, and on to output 0."""
    w_in, w_out = torch.zeros(30, 10), torch.zeros(10, 30)
    w_in[5 * group : 5 * group + 2, 0] = 1
    if rank_2:  # Orthogonal to the first column: singular values sqrt(2) and sqrt(1 / 2), ratio 1 / 2.
        w_in[5 * group : 5 * group + 2, 1] = torch.tensor([0.5, -0.5])
    w_out[0, 0] = 1
    return torch.cat([w_in.flatten(), w_out.flatten(), torch.zeros(30)])


def measures(error: float, *, n_v: int = 8, live: int = 6, covered: int = 6, rank_2: bool = False) -> dict:
    """What a study keeps of one variant on two targets, the second with an error higher by 0.01."""
    p = torch.zeros(2, n_v)
    p[:, :live] = 0.1
    v = torch.stack([direction(int(TOPS[i % 8]), rank_2=rank_2) for i in range(n_v)])
    errors = torch.tensor([error, error + 0.01])
    return {
        "recon_sq": errors[:, None].expand(2, 120).clone(), "recon_norm": errors[:, None].expand(2, 120).sqrt(),
        "recon_fresh": errors[:, None] + 0.1, "recon_dense": errors[:, None] + torch.tensor([0.2, 0.3, 0.4]),
        "residual_by_tensor": torch.tensor([0.75, 0.25, 0.0]).expand(2, 3),
        "first_losses": torch.ones(2, 50), "p_active": p, "covered": torch.full((2, 1), covered),
        "once": torch.tensor([[True], [False]]), "top_input": TOPS.repeat(2)[:n_v].expand(2, n_v),
        "share_in": torch.ones(2, n_v), "share_out": torch.ones(2, n_v), "v_out": v.repeat(2, 1, 1),
    }  # fmt: skip


def study(variants: dict[str, dict]) -> Study:
    tensors = {f"{name}/{key}": t for name, m in variants.items() for key, t in m.items()}
    return Study(tensors, list(variants), SEEDS, 2, {"core_seconds": 6.0})


def with_errors(names: dict[str, float], **options) -> Study:
    return study({name: measures(error, **options) for name, error in names.items()})


@pytest.fixture
def result() -> ToyResult:
    """Errors rise by 0.001 a rank; six subnetworks leave 0.03 more than eight for text and lose a group for code."""
    paper = experiments.settings("03_high_rank", "paper")
    base = dict(zip(NAMES, (0.3, 0.15, 0.25), strict=True))
    ranks = with_errors({f"{n}, rank {r}": e + 0.001 * r for n, e in base.items() for r in range(1, 7)}, n_v=10)
    sizes = {
        f"{name}, n_v {n_v}": measures(
            error + (0.03 if (name, n_v) == ("text", 6) else 0), n_v=n_v, live=6,
            covered=5 if (name, n_v) == ("code", 6) else 6,
        )
        for name, error in base.items()
        for n_v in (6, 8, 10)
    }  # fmt: skip
    switches = {"text: Adam": 0.31, "text: divergence": 0.16, "code: divergence": 0.3, "code: Adam": 0.15}
    main = study({n: measures(e, live=8 if n == "tuned" else 6, rank_2=n == "code") for n, e in base.items()})
    studies = {
        "main": main, "ranks": ranks, "n_v": study(sizes), "switches": with_errors(switches),
        "tuning": with_errors({"mse, n_v 10, k 0.1": 0.2, "mse, n_v 8, k 0.1": 0.3}),
        "again": with_errors({"text 1": 0.3, "tuned 1": 0.3}), "nearby": with_errors({"rank 2": 0.25}),
        "draft": with_errors(base, covered=5, live=5),
    }  # fmt: skip
    return ToyResult(replace(paper, seeds=(0, 1)), main, studies)


def papers(root) -> dict:
    return record.paper_values(root) | record.paper_curves(root)


def test_errors_by_rank(result):
    assert summary.by_rank(result, "text").shape == (6, 2)
    assert summary.by_rank(result, "text")[4].tolist() == pytest.approx([0.305, 0.315])
    assert summary.found_by_rank(result, "code").all()
    table = summary.rank_table(result)
    assert table.shape == (18, 3) and table.loc[("code", 2), "recon_sq"] == "0.157 [0.152, 0.162], n = 2"
    assert table.loc[("code", 2), "all groups"] == "2 of 2"


def test_training_that_is_caught(result):
    """text by its error, code by a group that is missed, tuned not at all."""
    assert [summary.caught(result, name).tolist() for name in NAMES] == [[True, True], [True, True], [False, False]]
    table = summary.excess_table(result)
    assert table.loc[("code", 6), "all groups"] == "0 of 2" and table.loc[("text", 6), "live"] == "6 [6, 6], n = 2"
    assert table.loc[("text", 6), "recon_sq"] == "0.335 [0.330, 0.340], n = 2"


def test_singular_values_of_live_subnetworks(result):
    of_rank_2, of_rank_1 = (summary.singular_ratios(result.main, name) for name in ("code", "text"))
    assert of_rank_2[:, :6].flatten().tolist() == pytest.approx([0.5] * 12) and of_rank_2[:, 6:].isnan().all()
    assert of_rank_1[:, :6].abs().max() < 1e-6


def test_kept_coefficients_per_sample():
    """8 subnetworks, k = 0.1: 25 of a batch of 32 and 6 of one of 8; one more each as the authors' code had it."""
    config = L3DConfig(n_v=8, rank=1, k_fraction=0.1, epochs=1, batch_size=32)
    assert summary.kept_per_sample(config, 1000) == pytest.approx((31 * 25 + 6) / 1000)
    assert summary.kept_per_sample(replace(config, k_extra=1), 250) == pytest.approx((7 * 26 + 21) / 250)
    assert summary.kept_per_sample(config, 64) == pytest.approx(50 / 64)


def test_what_one_direction_a_group_leaves(result, monkeypatch):
    """Gradients of a group: three of length 1 along one direction and one of length 1 across it leave a quarter."""

    def gradients(model, x, divergence, *, seed):
        assert divergence == result.settings.variants["text"].divergence
        w_in = torch.zeros(len(x), 30, 10)
        w_in[:, 0, 0], w_in[3::4, 0, 0], w_in[3::4, 1, 1] = 1, 0, 1
        return {"W_in": w_in, "W_out": torch.zeros(len(x), 10, 30), "b": torch.zeros(len(x), 30)}

    def sample(self, n, seed):
        return torch.eye(6).repeat_interleave(5, 1).repeat_interleave(4, 0)

    monkeypatch.setattr(summary, "divergence_gradients", gradients)
    monkeypatch.setattr(toys.Task, "sample", sample)
    found = summary.group_directions(result, "text")
    assert found.error.tolist() == pytest.approx([0.25, 0.25])
    assert found.singular_ratio.shape == (2, 6) and found.singular_ratio.abs().max() < 1e-6


def test_no_single_direction_leaves_less_than_the_first_principal_one(result):
    found, other = summary.group_directions(result, "code"), summary.group_directions(result, "text")
    assert (found.error > 0).all() and (found.error < other.error).all() and (found.singular_ratio < 0.1).all()


def test_agreement_of_pure_subnetworks(result):
    """The same six directions again: all agree. One of them is a mixture: those that are left do."""
    assert summary.pure_agreements(result, "text") == pytest.approx([1.0, 1.0])
    again = result.studies["again"]
    again.of("share_in", "text 1")[1, 0] = 0.5
    again.of("v_out", "text 1")[1, 0] = again.of("v_out", "text 1")[1, 1]
    assert summary.pure_agreements(result, "text") == pytest.approx([1.0, 1.0])
    again.of("share_in", "text 1")[1, 0] = 1.0
    # Now two of six have one direction. The second group's finds no match of its own but the first's, with which it
    # shares W_out, a third of its squared length.
    assert summary.pure_agreements(result, "text") == pytest.approx([1.0, (5 + 1 / 3) / 6])
    del result.studies["again"]
    assert summary.pure_agreements(result, "text") == []


def test_the_record(result, root):
    found = summary.summarise(result, "quick", papers(root))
    claims, numbers = found["claims"], found["numbers"]
    assert claims["high-rank-groups"] == dict.fromkeys(NAMES, [True, True])
    assert claims["high-rank-dead"] == {"text": [True, True], "code": [True, True], "tuned": [False, False]}
    assert claims["high-rank-recon"]["code"] == pytest.approx([0.1535, 0.1635])
    assert claims["high-rank-rank-1"]["text"] == [True, True] and claims["high-rank-similar"]["text"] == [True, True]
    assert claims["high-rank-rank"] == {"text": [False, False], "code": [True, True], "tuned": [False, False]}
    assert numbers["rank_spread_text"] == "0.005" and numbers["dead_tuned"] == "0 of 2"
    assert numbers["kept_text"] == "0.781" and numbers["kept_code"] == "0.812" and numbers["kept_tuned"] == "1.000"
    assert numbers["residual_w_in_code"] == "0.750 [0.750, 0.750], n = 2" and numbers["paper_recon"] == "0.143"
    assert numbers["paper_live"] == "6 of 8" and numbers["paper_live_ranks"] == "7"
    assert numbers["paper_singular"] == "0.014 to 0.034" and numbers["paper_share"] == "0.990 to 0.998"
    assert [numbers[f"above_rank_1_{name}"] for name in NAMES] == ["0 of 2", "2 of 2", "0 of 2"]
    assert numbers["singular_pure_code"] == numbers["singular_code"] and numbers["singular_mixed_code"] == "none"
    assert numbers["draft_found_code"] == "2 of 2" and numbers["found_6_code"] == "0 of 2"
    assert numbers["singular_code"] == "0.500 [0.500, 0.500], n = 12" and "(+0.150)" in numbers["moves_code"]


def test_the_claims_are_those_of_the_ledger(result, root):
    from l3d_core.claims import CLAIMS

    found = summary.summarise(result, "quick", papers(root))["claims"]
    assert set(found) == {claim.id for claim in CLAIMS if claim.notebook == "03_high_rank"}


def test_panels_tell_group_and_share(result):
    panels = draw.group_panels(result.main, "text")
    titles = [panel.title for panel in panels]
    assert titles[0] == "$v_{0}$: group 0\n100.0% of $W_{in}$\n$P_{act}$ 0.10" and titles[5].startswith(
        "$v_{5}$: group 5\n"
    )
    assert [panel.dead for panel in panels] == [False] * 6 + [True] * 2 and titles[6] == "$v_{6}$: dead\n$P_{act}$ 0.00"
    assert len(draw.plot_group_networks(result.main, "text").axes) == 8
    assert len(draw.plot_group_maps(result.main, "text").axes) == 9  # And the scale.


def test_the_target_beside_the_part_of_one_group():
    whole, part = draw.plot_target(0, group=2).axes
    assert whole.get_title() == "the target" and "group 2" in part.get_title()
    # Of the part's edges from the inputs, drawn at 0, all begin within group 2's box.
    starts = [path.vertices[0] for path in part.collections[0].get_paths() if path.vertices[0][0] == 0]
    box = part.patches[2].get_bbox()
    assert starts and all(box.y0 < y < box.y1 for _, y in starts)


def test_curves_of_ranks(result, root):
    curves = record.paper_curves(root)["loss_vs_rank"]
    figure = draw.plot_rank_curves(result, curves)
    lines = figure.axes[0].lines
    own, paper = [line for line in lines if line.get_ls() == "-"], [line for line in lines if line.get_ls() == ":"]
    assert len(own) == 6 and len([line for line in paper if len(line.get_xdata())]) == 6
    assert own[0].get_xdata()[:3].tolist() == [1, 6, 11] and own[0].get_ydata()[0] == pytest.approx(0.156)
    assert paper[0].get_xdata()[:2].tolist() == [51, 101] and paper[0].get_ydata()[0] == 0.156
    assert "n = 2" in figure.legends[0].get_title().get_text()


def test_figures_of_runs_have_a_dot_for_each(result):
    def ticks(figure):
        return [label.get_text() for label in figure.axes[0].get_xticklabels()]

    assert ticks(draw.plot_variants(result)) == ["text\nn = 2", "code\nn = 2", "tuned\nn = 2"]
    assert ticks(draw.plot_rank_errors(result, 0.143)) == [f"{rank}\nn = 2" for rank in range(1, 7)]
    assert ticks(draw.plot_singular(result, (0.014, 0.034))) == [f"{rank}\nn = 12" for rank in range(2, 7)]
    bars = draw.plot_excess(result).axes[0]
    assert [t.get_text() for t in bars.texts] == ["2/2", "2/2", "2/2", "0/2", "2/2", "2/2", "2/2", "2/2", "2/2"]


def test_curves_and_points_of_the_paper_name_their_place_and_source(root):
    found = record.paper_curves(root)
    assert all({"place", "source"} <= set(entry) for entry in found.values())
    assert list(found["loss_vs_rank"]["curves"]) == list("123456")
    assert list(found["loss_vs_nsub_x2"]["curves"]) == ["3", "5", "10", "15"]
    for name in ("loss_vs_rank", "loss_vs_nsub_x2"):
        for curve in found[name]["curves"].values():
            assert len(curve["epoch"]) == len(curve["loss"]) and curve["epoch"][:2] == [0, 50]
    assert [len(of) for of in found["fig7_points_a_ahat_by_subnetwork"]["points"]] == [10] * 10
