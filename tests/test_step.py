"""The training step against its plain twin: every variant, both paths, every precision; what it costs."""

import copy
import functools
import math
from dataclasses import replace

import bench_models
import cases
import pytest
import torch
from baselines import ops_per_step
from bench_models import gpt2, language_block, recovered
from plain_step import plain_fit
from random_cases import KINDS, VARIANTS, random_runs
from reference_training import Shift, mlp, normal, train_slowly
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from l3d_core import plan, toys
from l3d_core import step as step_module
from l3d_core.batches import Gradients
from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run, build_program
from l3d_core.step import Stepper
from l3d_core.streams import draw_epoch, initial_state
from l3d_core.training import fit, train_block_
from l3d_core.tucker import dense_matrix

WAYS = ("dense", "factored, dense Gram", "factored, low-rank Gram")
CODE = VARIANTS["code"][1]


def relative(found, expected):
    """Returns the size of a difference as a share of what is expected."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def by_piece(layout, numbers):
    """Returns numbers `[..., n_numbers]` cut into cores and factors."""
    return numbers.split([math.prod(piece) for pieces in layout.pieces.values() for piece in pieces], -1)


def assert_plain(found, expected, *, within=1e-9):
    """Asserts that decompositions have the losses, factors and shares of activity of the plain twin."""
    for mine, plain in zip(found, expected, strict=True):
        assert mine.v_out.layout == plain.layout
        losses = mine.history.first_losses
        assert relative(losses, plain.losses[: len(losses)]) < within
        assert ((losses - plain.losses[: len(losses)]).abs() <= within * plain.losses[: len(losses)]).all()
        torch.testing.assert_close(mine.history.p_active, plain.p_active, rtol=0, atol=1e-12)
        for side, numbers in zip((mine.v_in, mine.v_out), plain.numbers, strict=True):
            for a, b in zip(by_piece(plain.layout, side.flat), by_piece(plain.layout, numbers), strict=True):
                assert relative(a, b) < within


def pins_of(runs, way):
    """Returns the paths that send every tensor one way where it can go it."""
    facts = build_program(runs).facts
    return {name: "factored" if fact and way != "dense" else "dense" for name, fact in facts.items()}


def fit_in_way(runs, way, gram_form):
    """Returns the decompositions found one way, after making sure that it is gone."""
    gram_form("low_rank" if "low-rank" in way else "dense")
    paths = pins_of(runs, way)
    for bundle in build_program(runs, paths=paths).plan.bundles:
        assert {paths[name] for name in bundle.names} == {bundle.path}
        assert bundle.low_rank_gram == (bundle.path == "factored" and "low-rank" in way)
    return fit(runs, paths=paths)


@functools.cache
def twin_of(seed):
    """Returns runs of one random target and their plain decompositions."""
    runs = random_runs(seed, list(KINDS)[seed % len(KINDS)])
    return runs, plain_fit(runs)


def n_revived(plains, configs):
    """Returns for each run in how many epochs, summed over subnetworks, the auxiliary loss took part."""
    return [
        int((plain.p_active[:-1] == 0).sum()) if config.revival else 0
        for plain, config in zip(plains, configs, strict=True)
    ]


@functools.cache
def revival_twin_of(seed):
    """Returns runs of one random target that keep so few coefficients that subnetworks die; and their plain twins."""
    weights = [1 / 32, 0.0, 1.0]
    runs = [
        replace(run, config=replace(run.config, revival=weights[(seed + r) % 3], k_fraction=0.05))
        for r, run in enumerate(random_runs(seed, list(KINDS)[seed % len(KINDS)]))
    ]
    return runs, plain_fit(runs)


# --- the same mathematics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {"epochs": 2, "k_fraction": 0.3, "dense_epochs": 1},
    {"epochs": 4, "k_fraction": 0.05, "dense_epochs": 1, "revival": 0.5},
    {"epochs": 3, "k_fraction": 0.05, "loss": "recon_sq", "revival": 2.0},
])  # fmt: skip
def test_the_plain_twin_is_the_slow_one(settings):
    model, inputs = mlp(0), normal(1, 15, 4)
    config = L3DConfig(n_v=3, batch_size=6, encoder_init="random", rank=2, **settings)
    plain = plain_fit([Run(model, inputs, config, "kl", 7)])[0]
    slow = train_slowly(model, inputs, "kl", config, plain.layout.ranks, seed=7)
    for name, numbers in zip(("v_in", "v_out"), plain.numbers, strict=True):
        torch.testing.assert_close(dense_matrix(plain.layout, numbers), slow[name], rtol=0, atol=1e-13)
    torch.testing.assert_close(plain.losses, slow["first_losses"], rtol=0, atol=1e-13)
    torch.testing.assert_close(plain.p_active, slow["p_active"], rtol=0, atol=1e-13)
    assert not config.revival or n_revived([plain], [config])[0] > 0


@pytest.mark.parametrize("seed", range(40))
def test_random_shapes_equal_the_twin(seed, gram_form):
    runs, expected = twin_of(seed)
    assert len(expected[0].losses) >= 20
    for way in WAYS:
        assert_plain(fit_in_way(runs, way, gram_form), expected)


def test_random_shapes_are_of_every_sort():
    drawn = [random_runs(seed, list(KINDS)[seed % len(KINDS)]) for seed in range(40)]
    configs = [run.config for runs in drawn for run in runs]
    for name in ("form", "loss", "v_out_norm", "encoder_init", "reference"):
        assert len({getattr(config, name) for config in configs}) > 1
    assert {0, 1, 2} <= {config.dense_epochs for config in configs}
    assert len({config.n_v for config in configs}) == len({config.batch_size for config in configs}) + 1 == 5
    assert {len(runs) for runs in drawn} == {1, 2, 3}
    shared = [build_program(runs).plan.sizes.n_shared for runs in drawn if runs[0].batch_seed is not None]
    assert max(shared) > 1


@functools.cache
def variants_of(variant, form):
    """Returns runs of one variant on a toy with one thing changed in each, 20 steps; and their plain decompositions."""
    divergence, settings = VARIANTS[variant]
    base = {"n_v": 5, "epochs": 4, "batch_size": 32, "form": form} | settings
    changes = [{}, {"loss": "recon_sq"}, {"loss": "recon_norm"}, {"v_out_norm": "tensor_sum"}, {"v_out_norm": "l2"},
               {"dense_epochs": 3}, {"weight_decay": 0.2}]  # fmt: skip
    task = toys.superposition(seed=1)
    model, inputs = task.model.double(), task.inputs[:160].double()
    runs = [Run(model, inputs, L3DConfig(**base | change), divergence, 5) for change in changes]
    return runs, plain_fit(runs)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_the_twin(variant, form, way, gram_form):
    runs, expected = variants_of(variant, form)
    assert_plain(fit_in_way(runs, way, gram_form), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("form", "ranks"), [("tucker", [1, 3, {"*bias": 2, "*": (2, 1)}]), ("cp", [1, 3, 2])])
def test_ranks_padded_beside_others_equal_the_twin(form, ranks, way, gram_form):
    base = {"n_v": 4, "epochs": 5, "batch_size": 5, "form": form, "encoder_init": "random"}
    configs = [L3DConfig(**base, rank=rank, lr=lr) for rank, lr in zip(ranks, (0.01, 0.02, 0.01), strict=True)]
    runs = [Run(mlp(1), normal(2, 20, 4), config, "kl", s) for s, config in enumerate(configs)]
    assert_plain(fit_in_way(runs, way, gram_form), plain_fit(runs))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_seed", [None, 3])
def test_shared_batches_equal_the_twin(batch_seed, way, gram_form):
    """Two runs on each of two sources, given in turn: they stand together inside and come back in order."""
    base = {"n_v": 3, "epochs": 5, "batch_size": 5, "encoder_init": "random"}
    models = [mlp(1), mlp(2)]
    seeds, inputs = [4, 4, 4, 4] if batch_seed is None else [4, 5, 6, 7], normal(2, 20, 4)
    configs = [L3DConfig(**base, loss=loss) for loss in ("recon_sq", "recon_sq", "recon_norm", "recon_norm")]
    runs = [
        Run(models[i % 2], inputs, config, "mse", seed, batch_seed=batch_seed)
        for i, (seed, config) in enumerate(zip(seeds, configs, strict=True))
    ]
    program = build_program(runs)
    assert (program.plan.sizes.n_sources, program.plan.sizes.n_shared) == (2, 2)
    assert program.places == [0, 2, 1, 3]
    found = fit_in_way(runs, way, gram_form)
    assert [l3d.model for l3d in found] == [run.model for run in runs]
    assert_plain(found, plain_fit(runs))


def test_runs_of_one_batch_seed_see_the_same_batches():
    base = {"n_v": 3, "epochs": 2, "batch_size": 5}
    model, inputs = mlp(1), normal(2, 20, 4)
    runs = [Run(model, inputs, L3DConfig(**base), seed=s, batch_seed=b) for s, b in ((4, 9), (5, 9), (4, None))]
    draws = [draw_epoch(program, initial_state(program)) for program in (build_program([run]) for run in runs)]
    assert draws[0].order.equal(draws[1].order)
    assert not draws[0].order.equal(draws[2].order)
    starts = [initial_state(build_program([run]))["numbers"] for run in runs]
    assert starts[0].equal(starts[2])
    assert not starts[0].equal(starts[1])


@pytest.mark.parametrize(
    ("twins", "seed"), [*((twin_of, seed) for seed in (2, 5, 6, 7, 11, 18)), (revival_twin_of, 2), (revival_twin_of, 7)]
)
def test_results_depend_on_no_block_budget_or_neighbour(twins, seed, blocks_of):
    runs, _ = twins(seed)
    expected = fit(runs)
    budget = build_program(runs).plan
    budget = 1.05 * (budget.fixed_bytes + budget.block_bytes / budget.batches_per_block) / plan.GIB
    others = [fit(runs, memory_gib=budget), [fit([run])[0] for run in runs]]
    for n_batches in (1, 2):
        blocks_of(runs, n_batches)
        others.append(fit(runs))
        others.append(fit(runs, paths=pins_of(runs, "factored")))
    for found in others:
        for a, b in zip(found, expected, strict=True):
            assert relative(a.v_in.flat, b.v_in.flat) < 1e-9
            assert relative(a.v_out.flat, b.v_out.flat) < 1e-9
            assert relative(a.history.recon_sq, b.history.recon_sq) < 1e-9
            torch.testing.assert_close(a.history.p_active, b.history.p_active, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("length", [3, 4, 6])
def test_a_model_that_lays_out_inputs_otherwise_equals_the_twin(length, flat):
    config = L3DConfig(n_v=3, epochs=5, batch_size=6, encoder_init="random")
    run = Run(cases.seeded(cases.Later(flat)), normal(1, 24, length, 2), config, "mse", 2)
    assert_plain(fit([run]), plain_fit([run]))


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_a_weight_on_its_other_side_equals_the_twin(form):
    """Output gradients lie along the second axis of an embedding and of `x @ W`, for each position."""
    runs = []
    for s in range(2):
        case = cases.transformer(s, n=12)
        config = L3DConfig(n_v=3, epochs=2, batch_size=4, form=form, encoder_init="random")
        runs.append(Run(case.model, case.inputs, config, "kl", s, ["embed.weight", "query.weight"]))
    assert_plain(fit(runs), plain_fit(runs))


# --- revival ----------------------------------------------------------------------------------------------------

# In targets 3, 4, 13, 22, 25 and 29 no run with revival has a dead subnetwork.
DYING = [seed for seed in range(30) if seed not in (3, 4, 13, 22, 25, 29)]


@pytest.mark.parametrize("seed", DYING)
def test_random_shapes_with_dead_subnetworks_equal_the_twin(seed, gram_form):
    runs, expected = revival_twin_of(seed)
    assert sum(n_revived(expected, [run.config for run in runs])) > 0
    for way in WAYS:
        assert_plain(fit_in_way(runs, way, gram_form), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_with_dead_subnetworks_equal_the_twin(variant, form, way, gram_form):
    divergence, settings = VARIANTS[variant]
    base = {"n_v": 6, "epochs": 5, "batch_size": 32, "form": form} | settings | {"k_fraction": 0.02}
    changes = [{"revival": 1 / 32}, {"revival": 1.0, "rank": 2}, {"revival": 0.5, "loss": "recon_norm"},
               {"revival": 0.5, "loss": "recon_sq"}, {"revival": 2.0, "v_out_norm": "tensor_sum"}, {}]  # fmt: skip
    task = toys.superposition(seed=1)
    model, inputs = task.model.double(), task.inputs[:96].double()
    runs = [Run(model, inputs, L3DConfig(**base | change), divergence, 5) for change in changes]
    expected = plain_fit(runs)
    assert all(n > 0 for n in n_revived(expected, [run.config for run in runs])[:-1])
    assert_plain(fit_in_way(runs, way, gram_form), expected)


@pytest.mark.parametrize(("loss", "main"), [("recon_sq", 1.0), ("recon_norm", 0.5 / math.sqrt(0.1))])
def test_revival_hand(loss, main):
    # One sample, g = (3, 1), so |g|^2 = 10. Subnetwork 0 has v_in = v_out = (1, 0) and is kept: z_0 = 3, e = (0, 1).
    # Subnetwork 1 is dead, v_in = (0, 1), v_out = (.6, .8): z_1 = 1, and e - z_1 v_out = (-.6, .2).
    # Auxiliary error .4 / 10. In z_1 its slope is -2 (.6, .8).(-.6, .2) / 10 = .04: (.12, .04) in v_in;
    # -2 * 1 * (-.6, .2) / 10 = (.12, -.04) in v_out. With weight .5: (.06, .02) and (.06, -.02).
    # Main error |e|^2 / 10 = .1: slope -2 (1, 0).(0, 1) / 10 = 0 in z_0, -2 * 3 * (0, 1) / 10 = (0, -.6) in v_out; the
    # root's is that times .5 / sqrt(.1). The auxiliary one is the same for both losses.
    # With cores of 1 a factor's slope is its direction's, a core's is the product of direction and slope: .02 twice.
    x = torch.tensor([[5.0, -2.0]], dtype=torch.float64)
    config = L3DConfig(n_v=2, epochs=2, batch_size=1, k_fraction=0.5, loss=loss, revival=0.5)
    program = build_program([Run(Shift(2).eval(), x, config, references=x - torch.tensor([[3.0, 1.0]]))])
    state = initial_state(program)
    v_in, v_out = [[1.0, 1, 0], [1, 0, 1]], [[1.0, 1, 0], [1, 0.6, 0.8]]
    state["numbers"][:, 0] = torch.tensor([v_in, v_out], dtype=torch.float64)
    state["p_active"][0, 0] = torch.tensor([1.0, 0.0])
    recon_sq, grad, kept = one_step(program, state, 1)
    assert recon_sq.tolist() == pytest.approx([0.1], abs=1e-15)
    assert kept.flatten().tolist() == [1, 0]
    assert grad[0, 0].flatten().tolist() == pytest.approx([0, 0, 0, 0.02, 0.06, 0.02], abs=1e-15)
    assert grad[1, 0].flatten().tolist() == pytest.approx([0, 0, -0.6 * main, 0.02, 0.06, -0.02], abs=1e-15)
    # Nobody is dead in the first epoch, nor after one in which both were kept.
    for p_active, epoch in (([1.0, 0.0], 0), ([0.5, 0.5], 1)):
        state["p_active"][0, 0] = torch.tensor(p_active)
        _, grad, _ = one_step(program, state, epoch)
        assert grad[:, 0, 1].count_nonzero() == 0


def identical(a, b):
    """Returns whether two decompositions and their records are the same, bit for bit."""
    records = ("recon_sq", "recon_norm", "p_active", "first_losses")
    pairs = [(a.v_in.flat, b.v_in.flat), (a.v_out.flat, b.v_out.flat)]
    pairs += [(getattr(a.history, name), getattr(b.history, name)) for name in records]
    return all(x.equal(y) for x, y in pairs)


def dying(weights, k_fraction=0.05, epochs=5, **settings):
    """Returns runs on one target with these weights of revival; they differ in their seeds too."""
    base = {"n_v": 4, "epochs": epochs, "batch_size": 5, "k_fraction": k_fraction, "encoder_init": "random"}
    return [
        Run(mlp(1), normal(2, 20, 4), L3DConfig(**base | settings, revival=weight), "mse", seed)
        for seed, weight in enumerate(weights)
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_without_revival_is_the_same_beside_one_with_it(way, gram_form):
    plain, mixed = (fit_in_way(dying(weights), way, gram_form) for weights in ((0, 0, 0), (0, 0.5, 0)))
    assert all((l3d.history.p_active[:-1] == 0).any() for l3d in plain)
    assert [identical(a, b) for a, b in zip(plain, mixed, strict=True)] == [True, False, True]


def test_revival_takes_part_only_where_a_subnetwork_is_dead(monkeypatch):
    def refuse(*_):
        raise AssertionError("revived")

    monkeypatch.setattr(Stepper, "_revive_", refuse)
    assert (fit(dying([0, 0]))[0].history.p_active == 0).any()
    fit(dying([0.5], k_fraction=1.0))  # All are kept.
    fit(dying([0.5], epochs=1))  # There is no epoch before the first.
    fit(dying([0.5], epochs=3, dense_epochs=2))  # After a dense epoch none is dead.
    for settings in ({}, {"dense_epochs": 3}):
        with pytest.raises(AssertionError, match="revived"):
            fit(dying([0, 0.5], **settings))


def test_records_are_of_the_main_loss():
    # One step is taken in the second epoch: its error is measured before revival changes anything.
    plain, revived = (fit(dying([weight], epochs=2), max_steps=5)[0] for weight in (0.0, 5.0))
    assert identical(plain, plain) and plain.history.first_losses.equal(revived.history.first_losses)
    assert not plain.v_in.flat.equal(revived.v_in.flat)


def test_a_dead_subnetwork_is_revived():
    """TMS, 60 epochs, target of seed 0: of decompositions of seeds 0 to 7, those of 1, 3 and 4 leave one of 5 dead.

    It is so in all of the last 20 epochs. With a weight of 1 all five are live, and the error of the last 10 is lower.
    """
    task, found = toys.superposition(seed=0), {}
    model, inputs = task.model.double(), task.inputs[:320].double()
    for weight in (0.0, 1.0):
        config = L3DConfig(n_v=5, epochs=60, weight_decay=0.0, revival=weight)
        found[weight] = fit([Run(model, inputs, config, "mse", seed) for seed in range(8)])
    n_dead = {
        weight: [int((l3d.history.p_active[-20:] == 0).all(0).sum()) for l3d in l3ds] for weight, l3ds in found.items()
    }
    assert n_dead == {0.0: [0, 1, 0, 1, 1, 0, 0, 0], 1.0: [0] * 8}
    assert all(l3d.live.all() for l3d in found[1.0])
    for seed in (1, 3, 4):
        plain, revived = (found[weight][seed].history.recon_sq[-10:].mean() for weight in (0.0, 1.0))
        assert revived < 0.99 * plain


# --- precision --------------------------------------------------------------------------------------------------


def in_single(runs):
    """Returns runs of one target on a float32 copy of it and its inputs."""
    model, inputs = copy.deepcopy(runs[0].model).float(), runs[0].inputs
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    return [replace(run, model=model, inputs=inputs) for run in runs]


def one_step(program, state, epoch):
    """Returns the loss of the first batch of an epoch, the gradient in the layout's order, and the mask."""
    state = {name: t.clone() for name, t in state.items()} | {"epoch": torch.tensor(epoch)}
    stepper, gradients = Stepper(program, state), Gradients(program)
    gradients.draw_(draw_epoch(program, state))
    stepper.note_dead_(state)
    with torch.no_grad():
        recon_sq, kept = stepper.step_(gradients.batches(0)[0], epoch, 0)
    stepper.moments[0].copy_(stepper.grad)
    stepper.copy_(state, load=False)
    return recon_sq, state["moments"][0], kept


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("twins", "seed"), [*((twin_of, seed) for seed in range(0, 40, 3)), (revival_twin_of, 2), (revival_twin_of, 7)]
)
def test_single_precision_has_the_gradients_of_double(twins, seed, way, gram_form, monkeypatch):
    """From a state that training reached, with the mask of double precision."""
    runs, _ = twins(seed)
    gram_form("low_rank" if "low-rank" in way else "dense")
    programs = [build_program(some, paths=pins_of(runs, way)) for some in (runs, in_single(runs))]
    state = trained_state(programs[0], 2)
    recon_sq, grad, kept = one_step(programs[0], state, 2)
    assert (recon_sq.dtype, kept.sum() > 0) == (torch.float64, True)
    monkeypatch.setattr(step_module, "keep_largest", lambda z, *_: kept.to(z))
    single = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    found_sq, found, _ = one_step(programs[1], single, 2)
    assert found.dtype == torch.float32
    assert ((found_sq - recon_sq).abs() <= 1e-5 * recon_sq).all()
    for r in range(len(runs)):
        pieces = (by_tensor(programs[0].layout, t[:, r]) for t in (found.double(), grad))
        for name, (a, b) in zip(programs[0].layout.shapes, zip(*pieces, strict=True), strict=True):
            assert relative(a, b) < 1e-5, name


def by_tensor(layout, numbers):
    """Returns numbers `[..., n_numbers]` cut into tensors."""
    return numbers.split([sum(map(math.prod, pieces)) for pieces in layout.pieces.values()], -1)


def trained_state(program, n_epochs):
    """Returns the state after some epochs."""
    state = initial_state(program)
    stepper, gradients = Stepper(program, state), Gradients(program)
    for _ in range(n_epochs):
        gradients.draw_(draw_epoch(program, state))
        stepper.note_dead_(state)
        for i in range(len(program.blocks)):
            train_block_(program, state, stepper, gradients.batches(i))
        state["epoch"] += 1
        state["batch"].zero_()
    stepper.copy_(state, load=False)
    return state


@functools.cache
def late_losses(variant, precision):
    """Returns the mean of the last 100 of 1000 losses of TMS, for 16 seeds, in 'double', 'single' or 'half'."""
    divergence, settings = VARIANTS[variant]
    case = bench_models.tms(dtype=torch.float64 if precision == "double" else torch.float32)
    config = L3DConfig(n_v=5, epochs=50, **settings)  # 50 epochs of 20 batches.
    runs = [Run(case.model, case.inputs[:640], config, divergence, seed) for seed in range(16)]
    found = fit(runs, operand_dtype=torch.bfloat16 if precision == "half" else None)
    return torch.stack([l3d.history.recon_sq[-5:].mean() for l3d in found]).double()


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_precision_trains_as_well(variant):
    single, double = late_losses(variant, "single"), late_losses(variant, "double")
    assert float(single.mean()) == pytest.approx(float(double.mean()), rel=0.01)
    assert not single.equal(double)


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_trains_as_well(variant):
    """Rounding may send a seed to another optimum, better or worse; that seed alone can move the mean of 16 by 3 %.

    So all but one seed are held to the 2 % that the mean is meant to keep. Where no seed strays the mean keeps it too.
    """
    half, double = late_losses(variant, "half"), late_losses(variant, "double")
    close = (half / double - 1).abs() < 0.02
    assert int(close.sum()) >= 15
    assert float(half[close].mean()) == pytest.approx(float(double[close].mean()), rel=0.01)
    assert not half.equal(double)


@functools.cache
def toy(name):
    """Returns a toy in float32; its target is trained once."""
    return getattr(bench_models, name)()


@functools.cache
def features_found(name, epochs, operand, n_seeds=8):
    """Returns how many features of a toy each of some decompositions recovers."""
    case = toy(name)
    config = L3DConfig(n_v=case.n_v, rank=case.rank, epochs=epochs, lr_decay_every_epochs=epochs // 4, **CODE)
    runs = [Run(case.model, case.inputs, config, case.divergence, seed) for seed in range(n_seeds)]
    return [recovered(case, l3d.v_out.dense(), l3d.live) for l3d in fit(runs, operand_dtype=operand)]


@pytest.mark.parametrize(("name", "epochs"), [("tms", 40), ("high_rank", 20), ("squared", 20)])
def test_half_precision_finds_the_same_features(name, epochs):
    found = features_found(name, epochs, None)
    assert features_found(name, epochs, torch.bfloat16) == found
    assert min(found) >= toy(name).n_features - 1


def test_half_precision_finds_as_many_features_of_a_toy_with_many_optima():
    """Of the 10 features of TMCS a seed settles on 8 to 10, some on others when rounded otherwise.

    So means over 32 seeds are compared: their difference by chance alone has a standard deviation of 0.15.
    """
    found = [features_found("tmcs", 80, operand, 32) for operand in (None, torch.bfloat16)]
    means = [sum(counts) / len(counts) for counts in found]
    assert min(means) > 9
    assert abs(means[0] - means[1]) <= 0.25


# --- what a step costs ------------------------------------------------------------------------------------------


def operations(case, n_v, path=None, n_batches=8):
    """Returns the aten operations of a step of `fit`, gradients and records included: those of one epoch more."""
    paths = None if path is None else {"*": path}
    base = {"n_v": n_v, "rank": case.rank, "batch_size": 32}
    runs = [[Run(case.model, case.inputs[: 32 * n_batches], L3DConfig(**base, epochs=e, **CODE), case.divergence)]
            for e in (2, 3)]  # fmt: skip
    fewer, more = (ops_per_step(lambda some=some: fit(some, paths=paths)) for some in runs)
    return (more - fewer) / n_batches


@pytest.mark.parametrize(("name", "most"), [("tms", 150), ("tmcs", 150), ("high_rank", 150), ("squared", 250)])
def test_a_step_is_few_operations_whatever_n_v(name, most, gram_form):
    """Those of one plan are as many for every n_v, but for two in batch top-k among many entries."""
    case = toy(name)
    assert operations(case, case.n_v) <= most
    for way in WAYS:
        gram_form("low_rank" if "low-rank" in way else "dense")
        path, counts = way.split(",")[0], {}
        for n in (1, 2, 6, 7):
            config = L3DConfig(n_v=n * case.n_v, rank=case.rank, epochs=1)
            bundles = build_program([Run(case.model, case.inputs[:256], config)], paths={"*": path}).plan.bundles
            counts.setdefault(len(bundles), set()).add(operations(case, n * case.n_v, path))
        assert all(max(found) - min(found) <= 2 for found in counts.values())
        assert len(counts) < 4
        assert max(map(max, counts.values())) <= most


class Largest(TorchDispatchMode):
    """Keeps the size of the largest memory that any operation's output lies in, in numbers."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor):
                self.numbers = max(self.numbers, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize(("path", "forms"), [("factored", False), ("dense", True)])
def test_no_gradient_is_formed_on_the_factored_path(path, forms):
    # 64 samples a step; 4 matrices in each of 2 layers, which are worked on together, the smallest 64 x 64.
    case = gpt2(n=16, n_tokens=4, width=64, n_layers=2, n_heads=2, n_vocabulary=50, n_v=10, rank=1)
    config = L3DConfig(n_v=10, rank=1, epochs=1, batch_size=16)
    run = Run(case.model, case.inputs, config, case.divergence, parameters=case.parameters)
    assert build_program([run], paths={"*": path}).layout.n_w == 2 * 12 * 64**2
    with Largest() as largest:
        fit([run], paths={"*": path})
    assert (largest.numbers >= 64 * 2 * 64 * 64) == forms


SHAPES = [
    ("factored", "low_rank", {"width": 64, "n_tokens": 8, "n_v": 20, "rank": 2}),
    ("factored", "low_rank", {"width": 32, "n_tokens": 4, "n_v": 60, "rank": 1}),
    ("factored", "dense", {"width": 32, "n_tokens": 8, "n_v": 12, "rank": 8}),
    ("factored", "dense", {"width": 64, "n_tokens": 4, "n_v": 30, "rank": 16}),
    ("dense", "dense", {"width": 32, "n_tokens": 8, "n_v": 12, "rank": 8}),
    ("dense", "dense", {"width": 64, "n_tokens": 2, "n_v": 40, "rank": 3}),
    ("dense", "dense", {"width": 64, "n_tokens": 8, "n_v": 10, "rank": 1}),
]


@pytest.mark.parametrize(("path", "form", "sizes"), SHAPES)
def test_counted_products_are_those_of_the_formula(path, form, sizes, gram_form):
    case = language_block(n=8, n_layers=2, n_heads=2, n_vocabulary=30, **sizes)
    config = L3DConfig(n_v=case.n_v, rank=case.rank, epochs=1, batch_size=8)
    gram_form(form)
    run = Run(case.model, case.inputs, config, "kl", parameters=["transformer.h.1.attn.attention.*weight"])
    program = build_program([run], paths={"*": path})
    assert all(b.path == path and b.low_rank_gram == (form == "low_rank") for b in program.plan.bundles)
    state = initial_state(program)
    stepper, gradients = Stepper(program, state), Gradients(program)
    gradients.draw_(draw_epoch(program, state))
    (batch,) = gradients.batches(0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stepper.step_(batch, 0, 0)
    expected = sum(bundle.products(program.plan.sizes) for bundle in program.plan.bundles)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)
