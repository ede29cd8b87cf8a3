"""Chapter 4: what steps do (by hand and by loops), summaries of hand-made studies, a tiny real run, and its figures."""

from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from torch.nn.functional import gelu, normalize

from l3d_core import experiments, record, toys
from l3d_core.chapters import landscape as planes
from l3d_core.chapters import moves as steps
from l3d_core.chapters import squared_signs as signs
from l3d_core.chapters import squared_summary as summary
from l3d_core.chapters import toy_chapter
from l3d_core.chapters.studies import Study
from l3d_core.figures import squared as draw
from l3d_core.figures.interventions import plot_pairs
from l3d_core.toy_models import DeepPerceptron
from l3d_core.toys import Task, ToyTraining

LENGTH = 0.5


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def task_with(weights, biases, n: int = 2) -> Task:
    """A target of given layers; those before the last are followed by GELU."""
    config = ToyTraining(toy="squared", n_features=n, n_hidden=2)
    model = DeepPerceptron([torch.tensor(w) for w in weights], [torch.tensor(b) for b in biases]).eval()
    return Task(config, 3, model, torch.zeros(1, n), 0.0)


@pytest.fixture
def linear() -> Task:
    """y = x + (1, 2): one layer, without a nonlinearity."""
    return task_with([[[1.0, 0.0], [0.0, 1.0]]], [[1.0, 2.0]])


@pytest.fixture
def deep() -> tuple[Task, torch.Tensor]:
    """A shipped target and five chance directions."""
    return toys.squared(2), torch.randn(5, 445, generator=torch.Generator().manual_seed(0))


# --- moves ------------------------------------------------------------------------------------------------------


def test_moves_by_hand(linear):
    """A step of length 1/2 along (3, 4) / 5 on weight [0, 0] and bias 0 changes output 0 by .3 x_0 + .4."""
    v = torch.tensor([[3.0, 0, 0, 0, 4, 0], [0, 0, 0, 0, 0, -2]])
    moved = steps.moves(linear, v, (-1.0, 2.0), LENGTH)
    own = 0.3 * moved.x[:, 0] + 0.4
    assert torch.allclose(moved.base, moved.x + torch.tensor([1.0, 2.0]))
    assert moved.relevant[0] == 0
    assert torch.allclose(moved.change[0, 0, :, 0], -own, atol=1e-6)
    assert torch.allclose(moved.change[0, 1, :, 0], 2 * own, atol=1e-6)
    assert torch.allclose(moved.change[1, 1, :, 1], torch.tensor(-1.0), atol=1e-6)  # 2 * .5 * -1, for every sample.
    assert moved.change[0, :, :, 1].abs().max() < 1e-6 and moved.change[1, :, :, 0].abs().max() < 1e-6


def moved_model(task, v, size, hidden=False):
    """A copy of a target with a step of some length added tensor by tensor."""
    model, at = deepcopy(task.model), 0
    names = [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        part = size * v[at : at + p.numel()].view_as(p) / v.norm()
        at += p.numel()
        if not (hidden and name.split(".")[1] in ("0", names[-1].split(".")[1])):
            p.data += part
    return model


@pytest.mark.parametrize("hidden", [False, True])
def test_moves_agree_with_a_loop(deep, hidden):
    task, v = deep
    moved = steps.moves(task, v, (-0.5, 1.0), LENGTH, hidden=hidden)
    for i in range(5):
        for j, delta in enumerate((-0.5, 1.0)):
            with torch.no_grad():
                y = moved_model(task, v[i], LENGTH * delta, hidden)(moved.x)
            assert torch.allclose(moved.change[i, j], y - task.model(moved.x), atol=1e-5)
    last = v[:, -55:-5].view(5, 5, 10).square().sum(2)  # layers.4.weight, an output a row.
    assert moved.relevant.tolist() == last.argmax(1).tolist()


def test_a_direction_of_zeros_moves_nothing(deep):
    task, v = deep
    assert (steps.moves(task, 0 * v, (1.0,), LENGTH).change == 0).all()


def hand_made() -> steps.Moves:
    """One subnetwork of output 1, two steps, two samples, three outputs."""
    x = torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
    first = torch.tensor([[0.5, -2.0, 0.1], [0.3, 4.0, -0.1]])
    second = torch.tensor([[1.0, 5.0, 0.0], [-1.0, 1.0, 0.0]])
    return steps.Moves(x, x**2, torch.tensor([1]), torch.stack([first, second])[None])


def test_ratios_by_hand():
    """Mean absolute changes: (.4, 3, .1), so 3 / .25 and 3 / .4; and (1, 3, 0), so 3 / .5 and 3 / 1."""
    over_mean, over_max = steps.ratios(hand_made())
    assert over_mean.tolist() == pytest.approx(torch.tensor([[12.0, 6.0]]).numpy(), rel=1e-6)
    assert over_max.tolist() == pytest.approx(torch.tensor([[7.5, 3.0]]).numpy(), rel=1e-6)


def test_swing_and_activity_by_hand():
    """Last minus first: 7 where input 1 is on, -3 where it is off."""
    both = steps.swing(hand_made())
    assert both.change.shape == (1, 1, 2, 3) and both.change[0, 0, :, 1].tolist() == [7, -3]
    assert steps.by_activity(both).tolist() == pytest.approx([3 / 7])


def test_pairs_by_hand():
    """Biases of a linear target move their own outputs by half their steps: no cross effect, no bystander."""
    linear = task_with([torch.eye(3).tolist()], [[0.0, 0.0, 0.0]], n=3)
    v = torch.zeros(2, 12)
    v[0, 9], v[1, 10] = 1, 1
    v[0, 0], v[1, 4] = 1e-3, 1e-3  # A top output is read off the weights.
    found = steps.pair(linear, v, (0, 1), LENGTH)
    deltas = torch.tensor(steps.DELTAS)
    assert torch.allclose(found.first, 0.5 * deltas[:, None].expand(6, 6), atol=1e-3)
    assert torch.allclose(found.second, 0.5 * deltas.expand(6, 6), atol=1e-3)
    assert max(steps.cross_effect(found)) < 1e-3 and found.bystander.max() < 1e-6


def test_cross_effect_by_hand():
    """first: (0, .1) over the other's step in its first row, its own range from .05 to 1; second the other way."""
    first = torch.tensor([[0.0, 0.1], [1.0, 1.0]])
    found = steps.cross_effect(steps.Pair(first, 2 * first.T, torch.zeros(2, 2)))
    assert found == pytest.approx((0.1 / 0.95, 0.1 / 0.95))


def test_linear_error(linear, deep):
    flat = steps.linear_error(linear, torch.eye(6)[[0, 4]], (0.3, 1.0), LENGTH)
    assert flat.shape == (2, 2) and flat.max() < 2e-3
    task, v = deep
    x = task.sample(1000, seed=2**21 + task.seed)
    with torch.no_grad():
        base = task.model(x)
        small, large = (moved_model(task, v[1], LENGTH * d)(x) - base for d in (1e-3, 0.3))
    error = (large - 300 * small).norm() / large.norm()
    assert steps.linear_error(task, v, (0.3,), LENGTH)[1, 0] == pytest.approx(float(error), rel=2e-2)


# --- the plane ---------------------------------------------------------------------------------------------------


def test_pair_changes_are_those_of_pairs(deep):
    task, v = deep
    relevant = steps.moves(task, v, (0.1,), LENGTH).relevant.tolist()
    other = next(i for i in range(1, 5) if relevant[i] != relevant[0])
    changes, found = planes.pair_changes(task, v, (0, other), LENGTH), steps.pair(task, v, (0, other), LENGTH)
    assert changes.shape == (6, 6, 5)
    assert torch.allclose(changes[..., relevant[0]], found.first, atol=1e-5)
    assert torch.allclose(changes[..., relevant[other]], found.second, atol=1e-5)


def test_three_apart():
    top, p = torch.tensor([0, 0, 3, 1, 2]), torch.tensor([0.1, 0.4, 0.0, 0.2, 0.3])
    assert planes.three_apart(top, p) == [1, 4, 3]
    assert planes.three_apart(top[:4], p[:4]) == [1, 3]
    with pytest.raises(ValueError, match=r"have top inputs \[0\]; expected at least two different ones"):
        planes.three_apart(top[:3], p[:3])


def test_alone():
    x = torch.tensor([[0.4, 0.0], [-0.9, 0.1], [-0.8, 0.0], [0.9, 0.0]])
    assert planes.alone(x, 0).tolist() == pytest.approx([-0.8, 0])
    with pytest.raises(ValueError, match=r"in no sample is feature 1 alone active with at least 0\.5"):
        planes.alone(x, 1)


def test_landscape_agrees_with_moved_copies(deep):
    task, v = deep
    top, p = torch.tensor([1, 0, 3, 0, 1]), torch.tensor([0.1, 0.3, 0.2, 0.0, 0.05])
    found = planes.landscape(task, v, top, p, LENGTH, n=5)
    assert found.subnetworks == [1, 2, 0] and [int(x.abs().argmax()) for x in found.x] == [0, 3, 1]
    assert ((found.x != 0).sum(1) == 1).all() and (found.x.abs().amax(1) >= planes.LEAST).all()
    unit = normalize(v, dim=1)
    # The first axis is the first subnetwork itself; in the plane the second keeps its whole length.
    assert found.directions[1].tolist() == pytest.approx([1, 0], abs=1e-5)
    assert found.directions[2].norm() == pytest.approx(1, abs=1e-5)
    assert found.directions[0, 0] == pytest.approx(float(unit[0] @ unit[1]), abs=1e-5)
    with torch.no_grad():
        at = moved_model(task, v[1], LENGTH * 0.5)(found.x)  # The fourth of -1, -.5, 0, .5, 1.
        base = task.model(found.x)
        little = moved_model(task, v[4], LENGTH * 1e-3)(found.x)
    there, here, near = ((y - found.y_ref).square().mean(1) for y in (at, base, little))
    assert torch.allclose(found.divergences[:, 3, 2], there, atol=1e-5)
    assert torch.allclose(found.divergences[:, 2, 2], here, atol=1e-6)
    assert torch.allclose(found.slopes[:, 4], (near - here) / 1e-3, atol=2e-3)


def test_own_slopes_by_hand():
    slopes = torch.tensor([[0.5, -6.0, 1.0, 9.0], [2.0, 1.0, 4.0, 9.0], [-3.0, 1.0, 1.0, 9.0]])
    found = planes.Landscape([1, 2, 0], *[torch.zeros(0)] * 5, slopes)
    assert planes.own_slopes(found).tolist() == pytest.approx([6 / 0.75, 4 / 1.5, 3])


# --- hand-made studies -------------------------------------------------------------------------------------------


def study(variants: dict[str, dict], seeds=(0, 1)) -> Study:
    tensors = {f"{name}/{key}": t for name, m in variants.items() for key, t in m.items()}
    return Study(tensors, list(variants), list(seeds), len(seeds))


def clean(n_v: int = 5, dead: int = 0) -> dict[str, torch.Tensor]:
    """Two targets on which subnetwork i is a path from input i to output i."""
    p = torch.full((2, n_v), 0.1)
    p[:, n_v - dead :] = 0
    top = torch.arange(n_v).remainder(5).expand(2, n_v).clone()
    ones = torch.ones(2, n_v)
    return {
        "p_active": p,
        "share_in": ones.clone(),
        "share_out": ones.clone(),
        "top_input": top,
        "top_output": top.clone(),
    }


def test_one_each_by_hand():
    measures = clean()
    measures["share_in"][0, 0] = 0.96  # Not clean enough at its input.
    measures["share_out"][1, 1] = 0.94  # At its output.
    measures["top_output"][1, 2] = 4  # To another output.
    measures["p_active"][1, 3] = 0  # Dead.
    assert summary.one_each(study({"text": measures}), "text").tolist() == [4, 2]


@pytest.fixture
def sweep() -> toy_chapter.ToyResult:
    """Errors .4, .3, .2, .1 with 3, 5, 10 and 15 subnetworks, and 0.05 more on the second target."""
    parts = {}
    for i, n_v in enumerate(summary.N_V):
        errors = torch.tensor([0.4, 0.45]) - 0.1 * i
        parts[f"text, n_v {n_v}"] = clean(n_v, dead=n_v // 5) | {"recon_sq": errors[:, None].expand(2, 150)}
    parts["text, n_v 3"]["share_in"][1, 2] = 0.8
    settings = experiments.settings("04_squared", "paper")
    return toy_chapter.ToyResult(settings, study({}), {"n_v": study(parts)})


def test_the_sweep_by_hand(sweep):
    expected = torch.tensor([[0.4, 0.45], [0.3, 0.35], [0.2, 0.25], [0.1, 0.15]])
    assert torch.allclose(summary.by_n_v(sweep, "text"), expected)
    assert summary.three_single(sweep, "text").tolist() == [True, False]
    assert summary.n_dead(sweep, "text", 15).tolist() == [3, 3] and summary.n_dead(sweep, "text", 5).tolist() == [1, 1]


def test_the_code_is_swept_on_its_own_network(sweep):
    sweep.studies["n_v-code"] = "code's"
    assert summary.sweep_of(sweep, "code") == "code's" and summary.sweep_of(sweep, "tuned") is sweep.studies["n_v"]
    assert signs.task_of("code", 1).model.activation == "elu" and signs.task_of("tuned", 1).model.activation == "gelu"
    assert signs.variant_of(sweep, "code").n_inputs == 250 and signs.variant_of(sweep, "text").config.rank == 2


def test_two_outputs():
    moved = steps.Moves(None, None, torch.tensor([2, 2, 0, 1]), None)
    assert summary.two_outputs(moved, torch.tensor([0.3, 0.2, 0.05, 0.1])) == (0, 3)
    same = steps.Moves(None, None, torch.tensor([2, 2]), None)
    assert summary.two_outputs(same, torch.tensor([0.1, 0.2])) == (1, 0)


def test_split_features_by_hand():
    """Input 0 has one subnetwork a sign; input 1 two of the same; input 2 one of either, but one is of both."""
    top = torch.tensor([[0, 0, 1, 1, 2, 2, 3]])
    p = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]])
    main = study({"text": {"top_input": top, "p_active": p}}, seeds=(0,))
    shares = [torch.tensor([0.05, 0.95, 0.99, 0.91, 0.02, 0.6])]
    assert signs.split_features(main, "text", shares).tolist() == [1]


def test_singular_ratios_by_hand():
    """Two layers' worth of weights with singular values 2 and 1, the others' 1: the largest ratio is that half."""
    shapes = [p.shape for p in toys.squared(0).model.parameters()]
    parts = []
    for i, shape in enumerate(shapes):
        t = torch.zeros(shape)
        if t.ndim == 2:
            t[0, 0] = 2
            t[1, 1] = 1.0 if i in (0, 4) else 0.0
        parts.append(t.flatten())
    v = torch.stack([torch.cat(parts), torch.randn(445)])[None]
    main = study({"text": {"v_out": v, "p_active": torch.tensor([[0.1, 0.0]])}}, seeds=(0,))
    assert summary.singular_ratios(main, "text").tolist() == pytest.approx([0.5])


def test_directions_without_biases(deep):
    task, v = deep
    weights = summary.without_biases(v, task)
    named = steps.shaped(weights, task.model)
    assert all((t == 0).all() == ("bias" in name) for name, t in named.items())
    kept = weights != 0
    assert torch.equal(weights[kept], v[kept]) and kept.sum() == 5 * 400


def test_largest_in_words():
    changes = {"a": 0.01, "b": -0.3, "c": 0.12}
    assert summary.largest(changes) == "b (-0.300) and c (+0.120)"


def test_differences_count_the_network():
    def with_error(error, higher=0.0):
        both = error + torch.tensor([0.0, higher])
        return {"recon_sq": both[:, None].expand(2, 100), "p_active": torch.ones(2, 5)}

    main = study({"text": with_error(0.5), "code": with_error(0.4)})
    studies = {
        "switches": study({"text: Adam": with_error(0.45), "code: Adam": with_error(0.5)}),
        "elu": study({"text": with_error(0.2, 0.1)}), "gelu": study({"code": with_error(0.45)}),
    }  # fmt: skip
    result = toy_chapter.ToyResult(experiments.settings("04_squared", "paper"), main, studies)
    assert summary.differences(result, "text") == pytest.approx(
        {"Adam": -0.05, "network": -0.25}
    )  # Middle of -.3 and -.2.
    # Switches are compared with `code` on the GELU network.
    assert summary.differences(result, "code") == pytest.approx({"AdamW": 0.05, "network": 0.05})


def test_changes_of_settings_a_little_off():
    """On the second target alone, which is the only one of the study."""
    main = study({"tuned": {"recon_sq": torch.tensor([0.5, 0.2])[:, None].expand(2, 100)}})
    nearby = study({"rank 2": {"recon_sq": torch.full((1, 100), 0.25)}}, seeds=(1,))
    result = toy_chapter.ToyResult(None, main, {"nearby": nearby})
    assert summary.nearby_changes(result) == pytest.approx({"rank 2": 0.05})
    assert summary.nearby_changes(result._replace(studies={})) == {}


def test_tables_of_activity_and_of_what_is_left():
    def measures(shift):
        return {
            "p_active": torch.full((2, 5), 0.1), "recon_fresh": torch.full((2, 1), 0.3 + shift),
            "recon_dense": torch.tensor([0.2, 0.1, 0.4]).expand(2, 3) + shift,
            "residual_by_tensor": torch.arange(10).float().expand(2, 10) / 45,
        }  # fmt: skip

    main = study({name: measures(0.01 * i) for i, name in enumerate(summary.MAIN)})
    table = summary.activity_table(toy_chapter.ToyResult(None, main, {}))
    assert list(table.columns) == ["text", "code", "tuned"]
    assert [row.split()[0] for row in table["code"]] == ["0.500", "0.310", "0.210"]
    left = summary.residual_table(main)
    assert list(left.index)[:2] == ["layers.0.weight", "layers.0.bias"] and len(left) == 10
    assert left["tuned"].iloc[9].startswith("0.20 ")


# --- a tiny real run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> toy_chapter.ToyResult:
    """One target, three epochs, and of each study as little as can be."""
    quick = experiments.settings("04_squared", "quick")
    few = {"tuning": 1, "again": 6, "nearby": 1, "elu": 1, "gelu": 1, "code": 1, "n_v": 8, "n_v-code": 4}
    extras = {}
    for name, extra in quick.extras.items():
        variants = dict(list(extra.variants.items())[: few.get(name)])
        if name == "switches":
            variants = {key: extra.variants[key] for key in ("text: Adam", "code: Adam")}
        extras[name] = extra._replace(variants=variants, seeds=extra.seeds[:1])
    settings = replace(quick, seeds=(0,), extras=extras, epochs=3)
    return toy_chapter.run(settings, folder=tmp_path_factory.mktemp("artifacts"), workers=1)


@pytest.fixture(scope="module")
def seen(tiny) -> summary.Seen:
    return summary.observe(tiny)


def test_the_record_of_a_tiny_run(tiny, seen, root):
    found = summary.summarise(tiny, seen, "quick", record.paper_values(root))
    from l3d_core.claims import CLAIMS

    claims = {claim.id for claim in CLAIMS if claim.notebook == "04_squared"}
    assert set(found["claims"]) == claims
    assert all(set(values) == {"text", "code", "tuned"} for values in found["claims"].values())
    numbers = found["numbers"]
    assert numbers["sum_text"] == "0.50 [0.50, 0.50], n = 1" and numbers["paper_n10"] == "0.084"
    assert numbers["active_features"] == "1.11" and numbers["step_length"] == "0.095"
    assert {f"reach_0_3_{name}" for name in summary.MAIN} <= set(numbers)
    assert "network (" in numbers["differences_text"] or "Adam (" in numbers["differences_text"]


def test_impacts_of_a_tiny_run(tiny, seen):
    """Impacts by equation 8 with a loop over samples and references."""
    found = signs.impacts(tiny, "text", n_references=2)
    main, task = tiny.main, toys.squared(0)
    assert found.subnetworks.tolist() == (main.of("p_active", "text")[0] > 0).nonzero().flatten().tolist()
    assert found.values.shape == (1000, len(found.subnetworks)) and (found.values >= 0).all()
    expected, i = 0.0, 17
    for draw_seed in range(2):
        partners = signs.divergence_gradients(task.model, found.x, "mse", seed=draw_seed)
        g = torch.cat([part[i].flatten() for part in partners.values()])
        expected += float((main.of("v_in", "text")[0, found.subnetworks[0]] @ g).abs()) / 2
    assert float(found.values[i, 0]) == pytest.approx(expected, rel=1e-4)
    assert all(((s >= 0) & (s <= 1)).all() for s in seen.signs["text"])


# --- figures -----------------------------------------------------------------------------------------------------


def test_the_toys_with_the_papers_ticks():
    figure = draw.plot_toys((1, 0, 0, 0))
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    # Table 1: 4 + 3 + 1 ticks of the paper, and "probably" once; 8 + 3 crosses fill the table of 16.
    assert texts.count("\u2713") == 4 + 3 + 1 + 1 and texts.count("\u00d7") == 1 + 2 + 3 and "probably" in texts
    assert [name for name in draw.PROPERTIES if name in texts] == list(draw.PROPERTIES)
    titles = [ax.get_title() for ax in figure.axes]
    assert sum("X" in title for title in titles) == 4


def test_variants_on_both_networks(tiny):
    [ax] = draw.plot_variants(tiny, 0.32).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{draw.GELU}\nn = 1", f"{draw.ELU}\nn = 1"]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [0.32, 0.32]
    dots = sorted(float(y) for c in ax.collections for _, y in c.get_offsets() if len(c.get_offsets()))
    main, studies = tiny.main, tiny.studies
    errors = [main.of("recon_sq", name).mean() for name in summary.MAIN]
    errors += [studies["elu"].of("recon_sq", "text").mean(), studies["gelu"].of("recon_sq", "code").mean()]
    assert dots == pytest.approx(sorted(map(float, errors)), abs=1e-5)


def test_the_sweep_is_drawn_with_the_papers_values(tiny, root):
    panels = draw.plot_sweep(tiny, "text", 3, toys.squared(0).model)
    assert len(panels.axes) == 3
    paper = record.paper_curves(root)["loss_vs_nsub_x2"]["curves"]
    curves = draw.plot_curves(tiny, "text", paper)
    labels = [t.get_text() for t in curves.legends[0].texts]
    assert labels == ["3", "5", "10", "15", "paper"]
    own = [line for line in curves.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in own] == [[1, 2, 3]] * 4
    [ax] = draw.plot_by_n_v(tiny, record.paper_values(root)).axes
    dotted = [float(line.get_ydata()[0]) for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == [0.558, 0.372, 0.084, 0.033]


def test_moved_outputs_are_drawn_with_their_ratios(deep):
    task, v = deep
    moved = steps.moves(task, v, (-0.3, 0.3), LENGTH)
    figure = draw.plot_moved(moved, (-0.3, 0.3), steps.ratios(moved)[0], most=50)
    assert len(figure.axes) == 10 and "n = 50 samples" in figure.get_supxlabel()
    written = [float(ax.texts[0].get_text()[:-1]) for ax in figure.axes]
    assert written == pytest.approx(steps.ratios(moved)[0].mT.flatten().tolist(), abs=0.051)


def test_two_at_once_are_drawn(deep):
    task, v = deep
    changes = planes.pair_changes(task, v, (0, 3), LENGTH)
    figure = plot_pairs(changes, (steps.DELTAS, steps.DELTAS), (1, 4), subnetworks=(0, 3), n=1000)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["output 1 (of $v_{0}$)", "output 4 (of $v_{3}$)"]
    assert torch.allclose(torch.tensor(figure.axes[0].images[0].get_array()), changes[..., 1])


def test_steps_and_reach_are_drawn_for_each_target(seen):
    for figure, key, n in (
        (draw.plot_far(seen, steps.DELTAS), "far", 6),
        (draw.plot_reach(seen, summary.REACH), "reach", 4),
    ):
        [ax] = figure.axes
        dots = sorted(float(y) for c in ax.collections for _, y in c.get_offsets())
        expected = sorted(float(found[:, i].mean()) for m in seen.moved.values() for found in m[key] for i in range(n))
        assert dots == pytest.approx(expected, rel=1e-3)


def test_signs_and_impacts_are_drawn(tiny, seen):
    figure = draw.plot_signs(seen)
    counts = [len(torch.cat(seen.signs[name])) for name in summary.MAIN]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"{name}, n = {n}" for name, n in zip(summary.MAIN, counts, strict=True)]
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == pytest.approx(100)
    found = signs.impacts(tiny, "tuned", n_references=1)
    panels = draw.plot_impacts(found).axes
    drawn = [t.get_text() for ax in panels if ax.get_legend() for t in ax.get_legend().texts]
    assert sorted(drawn) == sorted(f"$v_{{{v}}}$" for v in found.subnetworks.tolist())
    assert all(c.get_offsets()[:, 1].max() <= 1 + 1e-6 for ax in panels for c in ax.collections)


def test_the_landscape_is_drawn_with_its_samples_and_subnetworks(deep):
    task, v = deep
    top, p = torch.tensor([1, 0, 3, 0, 1]), torch.tensor([0.1, 0.3, 0.2, 0.0, 0.05])
    found = planes.landscape(task, v, top, p, LENGTH, n=5)
    figure = draw.plot_landscape(found)
    titles = [ax.get_title() for ax in figure.axes[:3]]
    assert [title.split("$")[1] for title in titles] == ["x_{0}", "x_{3}", "x_{1}"]
    assert figure.axes[0].get_xlabel() == r"$\delta$ along $v_{1}$" and "$v_{2}$" in figure.axes[0].get_ylabel()
    steepest = [f"$v_{{{int(s.abs().argmax())}}}$" for s in found.slopes]
    assert [title.split(": ")[1] for title in titles] == steepest


def test_gelu_is_what_the_network_of_the_text_has():
    """One hidden unit of weight 1: gelu(x), and a last layer that doubles it."""
    task = task_with([[[1.0]], [[2.0]]], [[0.0], [0.5]], n=1)
    x = torch.tensor([[-0.3], [0.7]])
    with torch.no_grad():
        assert torch.allclose(task.model(x), 2 * gelu(x) + 0.5)
