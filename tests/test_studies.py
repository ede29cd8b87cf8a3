"""Studies: targets, runs, stacks, what lies on disk under which name, parts of them, chapters of several."""

import json
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from l3d_core import artifacts, toys, training
from l3d_core.artifacts import config_hash
from l3d_core.chapters import studies, toy_chapter
from l3d_core.chapters.statistics import made_in, seven_digits
from l3d_core.chapters.studies import Job, Study, Variant, described, first_losses, fit_job, run_studies, study
from l3d_core.chapters.toy_chapter import Extra, ToySettings, changed
from l3d_core.chapters.toy_measures import measure_all, measure_directions, measure_numbers
from l3d_core.l3d import L3DConfig
from l3d_core.training import decompose

CONFIG = L3DConfig(n_v=3, epochs=7, batch_size=16)


def counts(l3d, task, *, factor=1.0):
    """A measure: the target's seed, the run's, and its losses."""
    return {
        "seeds": torch.tensor([task.seed, l3d.seed]),
        "first_losses": factor * l3d.history.first_losses,
        "v_out": l3d.v_out.matrix(),
    }


def other_counts(l3d, task):
    """Another measure."""
    return counts(l3d, task)


def job(**changes):
    """Returns a small job on targets 0 (not kept), 1 and 4 of the toy model of superposition."""
    variants = {"a": Variant(CONFIG, "mse", n_inputs=48), "b": Variant(CONFIG, "half_reference_mse", 48, 100)}
    made = Job(toy="superposition", size=(5, 2), seeds=(0, 1, 4), variants=variants, epochs=2, measure=counts)
    return replace(made, **changes)


def no_fit(*_, **__):
    raise AssertionError("this result lies on disk")


# --- targets and runs -------------------------------------------------------------------------------------------


def test_targets_that_are_not_kept_are_left_out():
    assert not toys.superposition(0).kept
    assert [task.seed for task in job().tasks()] == [1, 4]
    with pytest.raises(ValueError, match=r"no target of \[0, 2\] of superposition_5-2 is kept; give more seeds"):
        job(seeds=(0, 2)).tasks()
    with pytest.raises(ValueError, match="no target superposition_5-2 of seed 99"):
        job(seeds=(1, 99)).tasks()


def test_runs_go_variant_by_variant_and_target_by_target():
    variants = {
        "all": Variant(CONFIG, "mse"),
        "few": Variant(replace(CONFIG, lr=0.5), "half_reference_mse", n_inputs=40),
        "again": Variant(CONFIG, "mse", n_inputs=40, seed_offset=100),
        "all again": Variant(CONFIG, "mse", seed_offset=200),
    }
    made = job(variants=variants)
    runs, tasks = made.runs(), made.tasks()
    assert [run.seed for run in runs] == [1, 4, 1, 4, 101, 104, 201, 204]
    assert [len(run.inputs) for run in runs] == [1000, 1000, 40, 40, 40, 40, 1000, 1000]
    assert [run.divergence for run in runs] == ["mse"] * 2 + ["half_reference_mse"] * 2 + ["mse"] * 4
    assert {run.config.epochs for run in runs} == {2}  # The job's, not the variants'.
    assert [run.config.lr for run in runs[:4]] == [0.01, 0.01, 0.5, 0.5]
    for i, run in enumerate(runs):
        task = tasks[i % 2]
        assert run.inputs.equal(task.inputs[: len(run.inputs)])
        assert all(p.equal(q) for p, q in zip(run.model.parameters(), task.model.parameters(), strict=True))
    # Runs of one target on as many inputs have one tensor and one model, so that they can share their gradients.
    assert runs[2].inputs is runs[4].inputs and runs[0].inputs is runs[6].inputs
    assert runs[0].inputs is not runs[2].inputs and runs[2].inputs is not runs[3].inputs
    assert runs[0].model is runs[2].model is runs[4].model and runs[0].model is not runs[1].model


def test_stacks_hold_runs_of_one_shape_and_give_what_each_gives_alone(monkeypatch):
    variants = {
        "first": Variant(CONFIG, "mse", n_inputs=48),
        "wide": Variant(replace(CONFIG, n_v=4, rank=2), "mse", n_inputs=48),
        "few": Variant(CONFIG, "half_reference_mse", n_inputs=32),
        "like first": Variant(replace(CONFIG, k_fraction=0.3, loss="recon_sq"), "mse", 48, 100),
        "rank": Variant(replace(CONFIG, rank=2), "mse", 48),
        "batches": Variant(replace(CONFIG, batch_size=24), "mse", 48),
        "form": Variant(replace(CONFIG, form="cp"), "mse", 48),
    }
    made, sizes, fit = job(variants=variants), [], studies.fit
    monkeypatch.setattr(studies, "fit", lambda runs, **options: sizes.append(len(runs)) or fit(runs, **options))
    found = fit_job(made)
    assert sorted(sizes) == [2, 2, 2, 2, 2, 4] and len(found) == 14
    for l3d, run in zip(found, made.runs(), strict=True):
        alone = decompose(run.model, run.inputs, run.divergence, run.config, seed=run.seed)
        assert (l3d.seed, l3d.config) == (alone.seed, alone.config)
        torch.testing.assert_close(l3d.v_out.matrix(), alone.v_out.matrix(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(l3d.history.recon_sq, alone.history.recon_sq, rtol=1e-4, atol=1e-6)


# --- on disk ----------------------------------------------------------------------------------------------------


def test_a_study_holds_every_measure_by_variant_and_target(tmp_path):
    found = study("small", job(), tmp_path)
    assert (found.names, found.seeds, found.n_trained) == (["a", "b"], [1, 4], 3)
    assert set(found.tensors) == {f"{v}/{key}" for v in "ab" for key in ("seeds", "first_losses", "v_out")}
    assert found.of("seeds", "a").tolist() == [[1, 1], [4, 4]]
    assert found.of("seeds", "b").tolist() == [[1, 101], [4, 104]]
    for i, l3d in enumerate(fit_job(job())):
        assert found.of("v_out", "ab"[i // 2])[i % 2].equal(l3d.v_out.matrix())
    assert found.facts["wall_seconds"] >= 0 and found.facts["torch"] == torch.__version__
    [folder] = tmp_path.iterdir()
    config = json.loads((folder / "config.json").read_text())
    assert folder.name == f"small-{config_hash(config)}"
    assert (config["kept"], config["seeds"], config["size"]) == ([1, 4], [0, 1, 4], [5, 2])


def test_a_study_is_read_again(tmp_path, monkeypatch):
    first = study("small", job(), tmp_path)
    monkeypatch.setattr(studies, "fit", no_fit)
    again = study("small", job(), tmp_path)
    assert (again.names, again.seeds, again.n_trained, again.facts) == (
        first.names, first.seeds, first.n_trained, first.facts,
    )  # fmt: skip
    assert all(again.tensors[key].equal(t) for key, t in first.tensors.items())
    with pytest.raises(AssertionError, match="lies on disk"):
        study("small", job(epochs=3), tmp_path)


def test_a_study_resumes_where_it_stopped(tmp_path, monkeypatch):
    """The second stack fails; the next try does not train the first one again."""
    variants = {"a": job().variants["a"], "wide": Variant(replace(CONFIG, n_v=4), "mse", 48)}
    made, fit, steps = job(variants=variants), studies.fit, []

    def breaks_off(runs, **options):
        if runs[0].config.n_v == 4:
            raise KeyboardInterrupt
        return fit(runs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "fit", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            study("small", made, tmp_path)
    [scratch] = tmp_path.iterdir()
    assert [p.name for p in scratch.iterdir()] == ["checkpoint_0.safetensors"]

    train_block_ = training.train_block_
    monkeypatch.setattr(training, "train_block_", lambda *args: steps.append(len(args[3])) or train_block_(*args))
    found = study("small", made, tmp_path)
    assert sum(steps) == 2 * 3  # Two epochs of three batches, those of the second stack.
    assert [p.name for p in tmp_path.iterdir()] == [scratch.name.removesuffix(".unfinished")]
    whole = study("small", made, tmp_path / "elsewhere")
    assert all(found.tensors[key].equal(t) for key, t in whole.tensors.items())


@pytest.fixture
def name_of(monkeypatch):
    """Returns what a study would be called on disk, without computing it."""

    def named(made, **options):
        class FoundError(Exception):
            pass

        def catch(folder, name, config, compute, device):
            raise FoundError(config_hash(config))

        with monkeypatch.context() as patch:
            patch.setattr(artifacts, "cached", catch)
            with pytest.raises(FoundError) as found:
                study("small", made, "nowhere", **options)
        return str(found.value)

    return named


def test_the_name_follows_all_that_matters(name_of, monkeypatch):
    a, b = job().variants.values()
    others = {
        "epochs": job(epochs=3),
        "seeds": job(seeds=(1, 4)),
        "other seeds": job(seeds=(0, 1, 6)),
        "size": job(size=(10, 4)),
        "measure": job(measure=other_counts),
        "arguments": job(measure=partial(counts, factor=2.0)),
        "other arguments": job(measure=partial(counts, factor=3.0)),
        "order of variants": job(variants={"b": b, "a": a}),
        "name of a variant": job(variants={"a": a, "c": b}),
        "a variant less": job(variants={"a": a}),
        "divergence": job(variants={"a": a, "b": b._replace(divergence="mse")}),
        "inputs": job(variants={"a": a, "b": b._replace(n_inputs=None)}),
        "seed of the decomposition": job(variants={"a": a, "b": b._replace(seed_offset=1)}),
        **{
            f"setting {name}": job(variants={"a": a, "b": b._replace(config=replace(CONFIG, **{name: value}))})
            for name, value in asdict(replace(
                CONFIG, n_v=4, rank=2, form="cp", k_fraction=0.3, k_extra=1, loss="recon_sq", v_out_norm="tensor_sum",
                encoder_init="random", dense_epochs=1, reference="mean", batch_size=8, lr=0.1, lr_decay=0.5,
                lr_decay_every_epochs=None, weight_decay=0.0,
            )).items() if getattr(CONFIG, name) != value
        },
    }  # fmt: skip
    names = {key: name_of(made) for key, made in others.items()}
    names["itself"] = name_of(job())
    assert len(set(names.values())) == len(names) == 14 + 15
    assert name_of(job(), device="cuda") == name_of(job(), progress=True) == names["itself"]
    monkeypatch.setattr(artifacts, "code_digest", lambda also: ",".join(also))
    assert name_of(job()) != names["itself"]


def test_the_name_follows_the_code_of_the_measure(name_of, monkeypatch):
    asked = []
    monkeypatch.setattr(artifacts, "code_digest", lambda also: asked.append(also) or "code")
    for measure in (measure_numbers, partial(measure_all, length=1.0), partial(partial(measure_all), length=1.0)):
        name_of(job(measure=measure))
    assert asked == [["studies", "toy_measures"]] * 3


def test_the_name_follows_weights_and_inputs(name_of, monkeypatch):
    own, other = name_of(job()), toys.superposition(1)
    with torch.no_grad():
        other.model.b[0] += 1
    for changed_one in (other, replace(toys.superposition(1), inputs=other.inputs + 1)):
        monkeypatch.setattr(Job, "tasks", lambda self, one=changed_one: [one, toys.superposition(4)])
        assert name_of(job()) != own
    monkeypatch.setattr(Job, "tasks", lambda self: [toys.superposition(1), toys.superposition(4)])
    assert name_of(job()) == own


def test_the_name_follows_the_order_of_rank_patterns(name_of):
    ranks = {"W_*": 2, "*": 1}, {"*": 1, "W_*": 2}  # Ranks 2 and 1, and rank 1 throughout.
    named = [job(variants={"a": Variant(replace(CONFIG, rank=rank), "mse", 48)}) for rank in ranks]
    shapes = [fit_job(made, max_steps=1)[0].v_out.flat.shape for made in named]
    assert shapes[0] != shapes[1]
    assert name_of(named[0]) != name_of(named[1])


def test_functions_are_described():
    assert described(counts) == ["test_studies.counts"]
    assert described(partial(counts, factor=2.0)) == ["test_studies.counts", "()", "[('factor', 2.0)]"]
    # Python merges partials of partials; arguments in any order are the same.
    one, two = partial(counts, None, x=1, y=2), partial(partial(counts, None, y=2), x=1)
    assert described(one) == described(two) == ["test_studies.counts", "(None,)", "[('x', 1), ('y', 2)]"]


# --- parts ------------------------------------------------------------------------------------------------------


def made_study(names=("a", "b"), seeds=(1, 4, 6), **facts):
    tensors = {
        f"{name}/{key}": torch.arange(6.0).view(3, 2)[: len(seeds)] + 100 * i + 10 * j
        for i, name in enumerate(names)
        for j, key in enumerate(("first_losses", "x"))
    }
    return Study(tensors, list(names), list(seeds), 5, facts)


def test_a_part_of_a_study():
    found = made_study()
    part = found.part({"b": "other", "a": "a"}, [6, 1])
    assert (part.names, part.seeds, part.n_trained) == (["other", "a"], [1, 6], 5)
    assert part.of("x", "other").tolist() == [[110, 111], [114, 115]]
    assert part.of("first_losses", "a").tolist() == [[0, 1], [4, 5]]
    assert set(part.tensors) == {"other/x", "other/first_losses", "a/x", "a/first_losses"}
    assert found.part({"a": "b"}).of("x", "b").equal(found.of("x", "a"))
    assert found.names == ["a", "b"]


def test_names_that_begin_alike_are_kept_apart():
    found = made_study(("text", "text, n_v 3"))
    assert set(found.all("text")) == {"first_losses", "x"}
    assert found.all("text")["x"].equal(found.of("x", "text"))
    assert set(found.part({"text": "new"}).tensors) == {"new/first_losses", "new/x"}


def test_studies_beside_one_another():
    both = made_study(wall_seconds=1).beside(made_study(("c",)))
    assert (both.names, both.seeds, both.facts) == (["a", "b", "c"], [1, 4, 6], {"wall_seconds": 1})
    assert both.of("x", "c").equal(made_study(("c",)).of("x", "c"))
    with pytest.raises(ValueError, match=r"targets \[1, 4, 6\] and \[1, 4\]; expected the same ones"):
        made_study().beside(made_study(("c",), (1, 4)))


def test_first_losses_are_lists_by_study_variant_target_and_step(tmp_path):
    found = study("small", job(), tmp_path)
    listed = first_losses({"one": found, "two": made_study()})
    assert list(listed) == ["one", "two"]
    assert torch.tensor(listed["one"]).shape == (2, 2, 6)  # Two epochs of three batches.
    for v, name in enumerate("ab"):
        close = torch.tensor(listed["one"][v]), found.of("first_losses", name)
        torch.testing.assert_close(*close, rtol=1e-6, atol=0)
    assert listed["two"][1] == [[100, 101], [102, 103], [104, 105]]
    rounded = Study({"a/first_losses": torch.tensor([[1 / 3]]).double()}, ["a"], [0], 1)
    assert first_losses({"s": rounded}) == {"s": [[[0.3333333]]]}
    assert json.loads(json.dumps(listed)) == listed


def test_several_studies_keep_their_order(tmp_path):
    jobs = {"second": job(epochs=1), "first": job(variants={"a": job().variants["a"]}), "third": job(epochs=3)}
    found = run_studies("chapter", jobs, folder=tmp_path, workers=1)
    assert list(found) == ["second", "first", "third"]
    assert [len(found[name].of("first_losses", "a")[0]) for name in found] == [3, 6, 9]
    assert sorted(p.name.rsplit("-", 1)[0] for p in tmp_path.iterdir()) == [
        "chapter-first", "chapter-second", "chapter-third",
    ]  # fmt: skip


def test_workers_on_a_gpu_and_the_default_folder(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(studies, "run_jobs", lambda *arguments: asked.append(arguments) or [])
    monkeypatch.setattr(artifacts, "project_root", lambda: tmp_path)
    run_studies("c", {}, workers=5)
    run_studies("c", {}, workers=5, device="cuda")
    assert [workers for *_, workers in asked] == [5, 1]
    with pytest.raises(ValueError, match="shorter"):  # One result is missing for the one job.
        run_studies("c", {"one": job()}, progress=True)
    assert asked[-1][1] == [
        {"name": "c-one", "job": job(), "folder": tmp_path / "artifacts", "device": "cpu", "progress": True}
    ]


# --- chapters ---------------------------------------------------------------------------------------------------


def settings(**changes):
    """Returns settings of a small chapter."""
    a, b = job().variants.values()
    extras = {
        "tuning": Extra({"x": a, "y": b, "z": a}, (1000, 1001)),
        "again": Extra({"text 1": a}, (1, 4), directions=True),
        "code": Extra({"code": b}, (1, 4), toy="superposition", size=(5, 2), everything=True),
        "larger": Extra({"text": a}, (1, 4, 6), size=(10, 4)),
    }
    made = ToySettings(toy="superposition", size=(5, 2), variants={"text": a, "tuned": b}, seeds=(1, 4), extras=extras)
    return replace(made, epochs=2, length=0.25, **changes)


def test_the_jobs_of_a_chapter():
    found = toy_chapter.jobs(settings(), counts)
    assert list(found) == ["tuning", "main", "larger", "again", "code"]  # 6, 4, 3, 2 and 2 runs.
    everything = ["test_studies.counts", "()", "[('length', 0.25)]"]
    assert {name: described(made.measure) for name, made in found.items()} == {
        "main": everything, "code": everything, "again": described(measure_directions),
        "tuning": described(measure_numbers), "larger": described(measure_numbers),
    }  # fmt: skip
    assert {name: made.size for name, made in found.items() if made.size != (5, 2)} == {"larger": (10, 4)}
    assert {made.epochs for made in found.values()} == {2} and {made.toy for made in found.values()} == {
        "superposition"
    }
    assert (found["main"].seeds, found["tuning"].seeds) == ((1, 4), (1000, 1001))
    assert list(found["main"].variants) == ["text", "tuned"] and list(found["code"].variants) == ["code"]
    assert toy_chapter.jobs(settings(extras={}))["main"].measure.func is measure_all
    other = settings(extras={"elu": Extra({}, (0,), toy="squared_elu")})
    assert toy_chapter.jobs(other)["elu"].toy == "squared_elu"


def test_a_chapter_puts_the_code_beside_its_main_study(tmp_path):
    def chapter(extras):
        return toy_chapter.run(settings(extras=extras), folder=tmp_path, workers=1, measure=measured)

    extras = settings().extras
    found = chapter({"code": extras["code"], "again": extras["again"]})
    assert found.main.names == ["text", "tuned", "code"] and found.main.seeds == [1, 4]
    assert set(found.studies) == {"main", "code", "again"} and found.studies["main"].names == ["text", "tuned"]
    assert found.main.of("length", "code").tolist() == [0.25, 0.25]
    assert all(p.name.startswith("superposition-") for p in tmp_path.iterdir())
    assert chapter({}).main.names == ["text", "tuned"]


def measured(l3d, task, *, length):
    """A measure that tells the length it was given."""
    return {"length": torch.tensor(length)}


def test_changed_settings():
    own = settings()
    assert changed(own) == changed(own, n_v=None, seeds=None) == own
    found = changed(own, n_v=7, k_fraction=0.5, seeds=[4], epochs=9)
    assert (found.seeds, found.epochs, found.extras["code"].seeds) == ((4,), 9, (4,))
    for variant in (*found.variants.values(), *found.extras["code"].variants.values()):
        assert (variant.config.n_v, variant.config.k_fraction) == (7, 0.5)
    assert set(own.extras) - set(found.extras) == {"again"}
    for name in ("tuning", "larger"):
        assert found.extras[name] == own.extras[name]
    assert own == settings()
    with pytest.raises(ValueError, match="n_v is 0; expected"):
        changed(own, n_v=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        changed(own, colour=1)


def test_records_have_seven_digits_and_the_seconds_of_all():
    assert seven_digits(torch.tensor([[[1 / 3, 2.0]], [[1e-9, 12345678.9]]], dtype=torch.float64)) == [
        [[0.3333333, 2.0]], [[1e-9, 12345680.0]],
    ]  # fmt: skip
    facts = {"torch": "2", "wall_seconds": 9.0, "core_seconds": 3.0}
    found = made_in(facts, {"a": 1.25, "b": 2.5})
    assert found == {"torch": "2", "core_seconds": 3.8, "seconds": {"a": 1.25, "b": 2.5}}
