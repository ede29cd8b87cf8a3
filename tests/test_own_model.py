"""The chapter on a model of one's own: its task and training, and every measure against a number worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from l3d_core import L3DConfig, Run, check, decompose, experiments, fit
from l3d_core.chapters import own_model, own_model_measures, own_model_summary, own_model_task
from l3d_core.chapters.own_model import OwnModelResult
from l3d_core.chapters.own_model_task import OUTPUTS, PARAMETERS, RuleTraining, make_task, train
from l3d_core.chapters.studies import Study, Variant, fit_job
from l3d_core.figures import own_model as figures
from l3d_core.training import plan

SHORT = RuleTraining(steps=2, batch_size=8)
CONFIG = L3DConfig(n_v=4, k_fraction=0.5, epochs=2, batch_size=16)


def sequence(letters, rule):
    """One sequence as the model sees it."""
    names = list(own_model_task.RULES)
    return [own_model_task.LETTERS.index(letter) for letter in letters] + [8 + names.index(rule)]


@pytest.fixture(scope="module")
def task():
    return make_task(0, 64, 32, SHORT)


@pytest.fixture(scope="module")
def l3d(task):
    return decompose(task.model, task.inputs, "kl", CONFIG, parameters=PARAMETERS)


def test_answers_by_hand():
    """dach: first d, after h comes a, latest h, one vowel; aeea has four."""
    x = torch.tensor(
        [sequence("dach", rule) for rule in ("first", "next", "latest", "vowels")]
        + [sequence("aeea", "vowels"), sequence("bdbc", "next"), sequence("bdbc", "vowels")]
    )
    assert [OUTPUTS[i] for i in own_model_task.answers(x)] == ["d", "a", "h", "1", "4", "d", "0"]
    assert own_model_task.written(x[:2]) == ["first: dach", "next: dach"]
    assert own_model_task.rules_of(x).tolist() == [0, 1, 2, 3, 3, 1, 3]


def test_there_is_every_sequence_once():
    x = own_model_task.every_sequence()
    assert x.shape == (4 * 8**4, 5) and len(x.unique(dim=0)) == len(x)
    assert x[:, :4].min() == 0 and x[:, :4].max() == 7 and x[:, 4].unique().tolist() == [8, 9, 10, 11]


def test_the_model_reads_places_and_all_letters(task):
    """The same letters in another order give other outputs, and so does each place."""
    model, x = task.model, torch.tensor([sequence("abcd", "first")])
    for swapped in ("bacd", "abdc", "abce", "hbcd", "abhd"):
        assert not torch.allclose(model(x), model(torch.tensor([sequence(swapped, "first")])))


def test_training_learns_the_rules_and_follows_its_seed():
    model = train(RuleTraining(), 3)
    assert own_model_task.accuracy(model).min() > 0.99 and not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())
    short, other = (train(SHORT, seed).state_dict() for seed in (0, 1))
    assert not torch.equal(short["answer.weight"], other["answer.weight"])
    own_model_task._trained.cache_clear()
    assert all(torch.equal(weight, short[name]) for name, weight in train(SHORT, 0).state_dict().items())


def test_accuracy_by_hand():
    """A model that always says the first letter: right under `first`, sometimes under others, never under `vowels`.

    `next` agrees where the last letter comes before the first: one in eight.
    """

    class Parrot(nn.Module):
        def __init__(self):
            super().__init__()
            self.nothing = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return nn.functional.one_hot(x[:, 0], 13).float()

    right = own_model_task.accuracy(Parrot())
    # The first is the latest of four letters: sum over its value m of ((m + 1) / 8)^3 / 8.
    latest = sum(((m + 1) / 8) ** 3 / 8 for m in range(8))
    assert torch.allclose(right, torch.tensor([1, 1 / 8, latest, 0], dtype=torch.float64))


def test_held_out_sequences_are_others(task):
    both = torch.cat([task.inputs, task.held_out])
    assert len(task.inputs) == 64 and len(task.held_out) == 32 and len(both.unique(dim=0)) == 96
    assert not torch.equal(make_task(1, 64, 32, SHORT).inputs, task.inputs)


def test_sizes_and_training_are_checked():
    with pytest.raises(ValueError, match=r"n 16384 and n_held_out 1; expected .* at most 16384 together"):
        make_task(0, 16384, 1, SHORT)
    with pytest.raises(ValueError, match=r"steps=0.*expected at least one step"):
        RuleTraining(steps=0)


def test_means_shares_and_purity_by_hand():
    """Subnetwork 0 has 1, 3 in group 0 and 4 in group 1; subnetwork 1 has 0, 0 and 0. No sample is in group 2."""
    values, groups = torch.tensor([[1.0, 0], [4, 0], [3, 0]]), torch.tensor([0, 1, 0])
    means = own_model_measures.mean_by_group(values, groups, 3)
    assert means.tolist() == [[2, 4, 0], [0, 0, 0]]
    assert torch.allclose(own_model_measures.shares(means), torch.tensor([[1 / 3, 2 / 3, 0], [0, 0, 0]]))
    top, labels = torch.tensor([[0, 1, 2, 3], [4, 5, 0, 1]]), torch.tensor([7, 7, 1, 7, 2, 3])
    assert own_model_measures.purity(top, labels).tolist() == [0.75, 0.5]  # Labels 7 7 1 7 and 2 3 7 7.


def test_shares_by_rule_by_hand():
    x = torch.tensor([sequence("abcd", "first"), sequence("abcd", "vowels"), sequence("bbcd", "vowels")])
    found = own_model_measures.shares_by_rule(torch.tensor([[2.0], [4.0], [8.0]]), x)
    assert torch.allclose(found, torch.tensor([[2 / 8, 0, 0, 6 / 8]]))


def test_effects_by_hand():
    """f(x) = w x with w = (0, 0): a step of length 1 along w_0 gives logits (x, 0), against it (-x, 0).

    KL of (1/2, 1/2) from softmax(x, 0) is ln((1 + e^x) / 2) - x / 2, the same for -x.
    """

    model = nn.Linear(1, 2, bias=False).eval()
    nn.init.zeros_(model.weight)
    v_out = torch.tensor([[3.0, 0.0]])

    class Directions:
        n_v = 1

        def norms(self, kind):
            return v_out.norm(dim=1)

        def dense(self):
            return {"weight": v_out.view(1, 2, 1)}

    x = torch.tensor([[0.0], [2.0]])
    found = own_model_measures.effects(SimpleNamespace(model=model, v_out=Directions()), x, 1.0)
    expected = (torch.tensor([0.0, 2.0]).exp() + 1).log() - torch.tensor(2.0).log() - torch.tensor([0.0, 1.0])
    assert torch.allclose(found.divergence[:, 0], expected, atol=1e-6)
    assert found.divergence.shape == found.changed.shape == (2, 1)
    # Argmax takes the first of equals: at x = 2 the step against it changes the answer from 0 to 1, the other does not.
    assert found.changed[:, 0].tolist() == [0, 0.5]


def test_held_out_error_is_the_mean_over_whole_batches(task, l3d):
    from l3d_core import gradient_reconstruction

    two = [gradient_reconstruction(l3d, task.held_out[i : i + 16], seed=i // 16).recon_sq for i in (0, 16)]
    assert torch.allclose(own_model_measures.held_out_error(l3d, task.held_out), (two[0] + two[1]) / 2)
    left_out = torch.cat([task.held_out, task.inputs[:3]])
    assert torch.allclose(own_model_measures.held_out_error(l3d, left_out), (two[0] + two[1]) / 2)
    assert own_model_measures.held_out_error(l3d, task.held_out, 1.0) != (two[0] + two[1]) / 2
    with pytest.raises(ValueError, match="got 15 samples; expected at least a batch of 16"):
        own_model_measures.held_out_error(l3d, task.held_out[:15])


def test_the_start_is_where_training_starts(task, l3d):
    start = own_model_measures.at_start(l3d, task.inputs)
    assert len(start.history.recon_sq) == 0 and not torch.allclose(start.v_out.flat, l3d.v_out.flat)
    slow = fit([Run(task.model, task.inputs, replace(CONFIG, lr=1e-12), "kl", parameters=PARAMETERS)])[0]
    assert torch.allclose(slow.v_out.matrix(), start.v_out.matrix(), atol=1e-6)


def a_study(**tensors):
    """A study of one variant 'plain' on one model."""
    return Study({f"plain/{key}": torch.tensor(t) for key, t in tensors.items()}, ["plain"], [0], 1)


def test_own_rule_against_others_by_hand():
    """Own rule 1 with effect 6 of 6 + 1 + 2 + 3; own rule 0 with 0 of 4. The second subnetwork is dead."""
    study = a_study(effect=[[[1.0, 6, 2, 3], [0, 4, 0, 0]]], rule=[[1, 0]])
    own, others = own_model_summary.own_and_others(study, "plain", "effect")
    assert own.tolist() == [[6, 0]] and torch.allclose(others, torch.tensor([[2, 4 / 3]]))
    assert torch.allclose(own_model_summary.own_share(study, "plain", "effect"), torch.tensor([[0.5, 0]]))
    alive = torch.tensor([[True, False]])
    assert own_model_summary.over_live(own, alive).tolist() == [6]
    assert own_model_summary.over_live(own, ~alive & False).tolist() == [0]


def test_means_of_live_subnetworks_by_hand():
    study = a_study(p_active=[[0.2, 0.0, 0.1]], pure_rule=[[1.0, 0.1, 0.8]], rule=[[2, 1, 2]])
    assert torch.allclose(own_model_summary.served(study, "plain", "pure_rule"), torch.tensor([0.9]))
    result = OwnModelResult(own_model.SETTINGS["quick"], study, study)
    assert own_model_summary.rules_found(result, "plain").tolist() == [1]  # Rule 2 by the first; the second is dead.
    assert own_model_summary.rules_found(result, "plain", least=1.1).tolist() == [0]


def test_there_are_as_many_pairs_as_answers_under_rules():
    x = own_model_task.every_sequence()
    pairs = torch.stack([own_model_task.rules_of(x), own_model_task.answers(x)], 1).unique(dim=0)
    assert own_model_summary.N_PAIRS == len(pairs) == 29


def test_the_chapter_on_a_tiny_scale(tmp_path, monkeypatch):
    """Its tables, record and figures; the second time from disk; a changed loss is found."""
    variants = {name: v._replace(config=replace(v.config, n_v=6)) for name, v in own_model.VARIANTS.items()}
    quick = replace(own_model.SETTINGS["quick"], variants=variants, epochs=2, n_inputs=128, n_held_out=128)
    settings = replace(quick, training=SHORT)
    result = own_model.run(settings, folder=tmp_path)
    assert result.main.names == ["plain", "revived", "larger", "again"] and result.main.seeds == [0, 1]
    assert (result.start.of("p_active", "start") == 1).all()
    with monkeypatch.context() as patch:
        patch.setattr("l3d_core.chapters.studies.fit", None)
        again = own_model.run(settings, folder=tmp_path)
        assert all(torch.equal(t, again.main.tensors[name]) for name, t in result.main.tensors.items())
        with pytest.raises(TypeError):
            own_model.run(replace(settings, epochs=3), folder=tmp_path)
    task = make_task(0, 128, 128, SHORT)
    run = Run(task.model, task.inputs, replace(variants["plain"].config, epochs=2), "kl", parameters=PARAMETERS)
    [one] = fit([run])
    ones = {"plain": one, "revived": one}
    found = own_model_summary.summarise(result, "quick", task, plan([run]), ones, 0.25)
    assert found["numbers"]["n_steps"] == 4 and found["numbers"]["estimate"] == "1.0 s"
    assert {row["variant"] for row in found["table"]} == set(result.main.names) and len(found["table"]) == 8
    table = own_model_summary.model_table(result)
    assert list(table) == ["random", "plain", "revived", "larger"]
    assert list(own_model_summary.plan_table(plan([run]))) == ["path", "rank", "rows", "Mflop a step"]
    assert own_model_summary.rule_table(task).loc["first", "sequence"].startswith("first: ")
    assert len(own_model_summary.purity_rows(result)) == 4 * 3 * 2
    monkeypatch.setitem(experiments.SETTINGS, "08_your_own_model", {"paper": settings})
    assert check.check_losses("08_your_own_model", found) == []
    found["first_losses"]["main"][1][0][0] *= 1.001
    problems = check.check_losses("08_your_own_model", found)
    assert len(problems) == 1 and "main: first losses differ" in problems[0]


def test_a_job_runs_each_variant_on_each_model():
    settings = replace(own_model.SETTINGS["quick"], training=SHORT, n_inputs=64, n_held_out=64)
    runs = own_model.jobs(settings)["main"].runs()
    assert [run.seed for run in runs] == [0, 1, 0, 1, 0, 1, 1000, 1001]
    assert runs[0].model is runs[2].model and runs[0].model is not runs[1].model
    assert {run.config.epochs for run in runs} == {settings.epochs} and runs[0].parameters == PARAMETERS
    job = replace(own_model.jobs(settings)["start"], variants={"start": Variant(CONFIG, "kl")})
    assert [len(l3d.history.recon_sq) for l3d in fit_job(job, max_steps=4)] == [1, 1]


def test_changed_settings():
    quick = own_model.SETTINGS["quick"]
    assert own_model.changed(quick, None, None) == quick
    assert own_model.changed(quick, [3, 2], 5) == replace(quick, seeds=(2, 3), epochs=5)


def test_the_plan_and_the_files_as_tables(tmp_path, task, l3d):
    from l3d_core.sharing import save_l3d

    made = plan([Run(task.model, task.inputs, CONFIG, "kl", parameters=PARAMETERS)])
    assert own_model_summary.planned_mib(made) == (made.fixed_bytes + made.block_bytes) / 2**20
    table = own_model_summary.size_table(save_l3d(l3d, tmp_path / "one"))
    assert list(table.index) == ["config.json", "metrics.json", "provenance.json", "tensors.safetensors"]
    size = (tmp_path / "one" / "tensors.safetensors").stat().st_size
    assert table.loc["tensors.safetensors", "KiB"] == f"{size / 1024:.1f}"


def test_top_samples_as_a_table(task, l3d):
    scores = torch.zeros(32, 4)
    scores[5, 0], scores[7, 0], scores[9, 0] = 3, 2, 1
    table = own_model_summary.top_table(l3d, scores, task.held_out, 2)
    assert len(table) == int(l3d.live.sum()) and l3d.live[0]
    texts = own_model_task.written(task.held_out)
    answer = [OUTPUTS[a] for a in own_model_task.answers(task.held_out)]
    assert table.loc[0, "sample 1"] == f"{texts[5]} → {answer[5]}"
    assert table.loc[0, "sample 2"] == f"{texts[7]} → {answer[7]}" and "sample 3" not in table
    assert table.loc[0, "P_act"] == f"{float(l3d.p_active[0]):.3f}"


def test_figures_show_what_they_are_given():
    curves, p_active = {"a": torch.tensor([0.9, 0.5])}, {"a": torch.tensor([0.0, 0.3, 0.1])}
    figure = figures.plot_training(curves, {"a": 0.6}, p_active)
    above, below = figure.axes
    assert above.lines[0].get_ydata().tolist() == pytest.approx([0.9, 0.5])
    assert list(above.lines[1].get_ydata()) == [0.6, 0.6]
    assert below.lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.1, 0])
    assert list(below.lines[1].get_xdata()) == [3]  # The dead one, last in order.
    with pytest.raises(ValueError, match=r"held-out ones of \['b'\]"):
        figures.plot_training(curves, {"b": 0.6}, p_active)
    impact = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.8, 0.2]])
    figure = figures.plot_served(impact, impact.flip(1), ["x", "y"], ["p", "q", "r"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["r", "q", "p"]
    assert figure.axes[0].images[0].get_array().flatten().tolist() == pytest.approx([0.8, 0.2, 0.6, 0.4, 0.1, 0.9])
    assert figure.axes[1].images[0].get_array().flatten().tolist() == pytest.approx([0.2, 0.8, 0.4, 0.6, 0.9, 0.1])
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 2\); expected \(3, 1\)"):
        figures.plot_served(impact, impact, ["x"], ["p", "q", "r"])
    rows = pd.DataFrame({"variant": ["random", "plain"], "label": "both", "purity": [0.7, 0.9]})
    assert figures.plot_purity(rows).axes[0].get_ylim() == (0, 1.05)
