"""The training step, whole trainings against a slow twin, stacks of runs, and what training refuses."""

import copy
import math
from dataclasses import replace

import cases
import pytest
import torch
from reference_training import batch_gradients, mixer, mlp, normal, train_slowly
from torch import nn

from l3d_core.batches import Gradients
from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run, build_program
from l3d_core.step import BETAS, EPS, Stepper
from l3d_core.streams import FIRST_LOSSES, draw_epoch, initial_state
from l3d_core.toys import Superposition
from l3d_core.training import decompose, fit, train_block_
from l3d_core.tucker import dense_matrix

RECORDS = ("recon_sq", "recon_norm", "p_active", "first_losses")
CODE = {
    "loss": "recon_sq",
    "k_extra": 1,
    "v_out_norm": "tensor_sum",
    "dense_epochs": 1,
    "weight_decay": 0.0,
}


def assert_same(a, b, *, atol):
    """Asserts that two decompositions hold the same directions and records."""
    for mine, other in ((a.v_in, b.v_in), (a.v_out, b.v_out)):
        torch.testing.assert_close(mine.matrix(), other.matrix(), rtol=0, atol=atol)
    for name in RECORDS:
        torch.testing.assert_close(getattr(a.history, name), getattr(b.history, name), rtol=0, atol=atol)


def assert_twin(fast, slow, *, atol=1e-10):
    """Asserts that a decomposition is what the slow twin found."""
    for name, value in {"v_in": fast.v_in.matrix(), "v_out": fast.v_out.matrix()}.items():
        torch.testing.assert_close(value, slow[name], rtol=0, atol=atol)
    for name in RECORDS:
        torch.testing.assert_close(getattr(fast.history, name), slow[name], rtol=0, atol=atol)


def scalar_program(loss, weights=(1.0, 1.0, 0.25, 1.0, 1.0, 1.0), **settings):
    """Returns a program whose only parameter is one weight, and its state with v_in = .25 and v_out = 1.

    Its inputs are 1 and 3, each a batch of its own, in two epochs.
    """
    base = {"n_v": 1, "epochs": 2, "batch_size": 1, "lr": 0.1, "weight_decay": 0.5}
    config = L3DConfig(loss=loss, **(base | settings))
    model, inputs = nn.Linear(1, 1, bias=False).double().eval(), torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    program = build_program([Run(model, inputs, config, references=model(inputs).detach() - 1)])
    state = initial_state(program)
    state["numbers"][:] = torch.tensor(weights, dtype=torch.float64).reshape(2, 1, 1, 3)
    return program, state


def whole_gradients(program, batch):
    """Returns a batch's gradients of the only source, `[n_s, n_w]`, from their padded bundles."""
    found = {}
    for bundle, rows in zip(program.plan.bundles, batch.rows, strict=True):
        if bundle.path == "dense":
            g = rows[0].unflatten(0, (bundle.n_tensors, bundle.left, bundle.right)).movedim(-1, 1)
        else:
            left, right = rows
            g = torch.einsum("tls,trs->tslr", left, right)
        for name, one, swapped in zip(bundle.names, g, bundle.swapped, strict=True):
            shape = program.target.shapes[name]
            one = one.mT if swapped else one
            found[name] = one[:, : shape[0], : math.prod(shape[1:])].flatten(1)
            assert one.count_nonzero() == found[name].count_nonzero()  # What pads is zero.
    return torch.cat([found[name] for name in program.target.shapes], 1)


def take_batches(program, state, n_batches):
    """Trains on the first batches of an epoch and copies the numbers to the state."""
    stepper, gradients = Stepper(program, state), Gradients(program)
    gradients.draw_(draw_epoch(program, state))
    train_block_(program, state, stepper, gradients.batches(0)[:n_batches])
    stepper.copy_(state, load=False)


def optimised(state, grads, **settings):
    """Returns the state of a scalar program after AdamW alone took steps on these gradients."""
    program, _ = scalar_program("recon_sq", **settings)
    stepper = Stepper(program, state)
    for step, grad in enumerate(grads):
        stepper.grad.fill_(grad)
        stepper.optimise_(0, step)
    stepper.copy_(state, load=False)
    return state


# --- one step ---------------------------------------------------------------------------------------------------


def test_adamw_hand():
    # Step 1, number 1, gradient .5, lr .1, decay .5: 1 (1 - .05) = .95; m = .05, v = .00025; corrected .5 and .25;
    # minus .1 * .5 / (.5 + 1e-8) = .099999998: .850000002.
    program, state = scalar_program("recon_sq", weights=(1.0,) * 6)
    optimised(state, [0.5])
    assert state["numbers"].flatten().tolist() == pytest.approx([0.850000002] * 6, abs=1e-15)
    assert state["moments"][:, 0, 0, 0, 0].tolist() == pytest.approx([0.05, 0.00025], rel=1e-14)
    # Step 2, gradient -1: m = .045 - .1 = -.055, v = .00024975 + .001 = .00124975; corrected by 1 - .81 = .19 and
    # 1 - .998001 = .001999: -.28947368 and .62518759, root .79068805; .95 * .850000002 + .1 * .28947368 / .79068805.
    program, state = scalar_program("recon_sq", weights=(1.0,) * 6)
    optimised(state, [0.5, -1.0])
    expected = 0.95 * 0.850000002 + 0.1 * (0.055 / 0.19) / (math.sqrt(0.00124975 / 0.001999) + 1e-8)
    assert state["numbers"].flatten().tolist() == pytest.approx([expected] * 6, abs=1e-14)
    assert expected == pytest.approx(0.8441103, abs=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adamw_oracle(weight_decay):
    """Three runs of other learning rates and decays, several tensors, each against the optimiser of its own."""
    base = {"n_v": 4, "epochs": 1, "batch_size": 5}
    settings = [(0.02, weight_decay), (0.01, weight_decay), (0.02, 0.1), (0.02, weight_decay)]
    configs = [L3DConfig(**base, lr=lr, weight_decay=decay) for lr, decay in settings]
    runs = [Run(mlp(0), normal(1, 5, 4), config, seed=s) for s, config in enumerate(configs)]
    program = build_program(runs)
    state = initial_state(program)
    numbers, stepper = state["numbers"].clone(), Stepper(program, state)
    twins = [numbers[:, r].clone().requires_grad_() for r in range(4)]
    optimisers = [
        torch.optim.AdamW([twin], lr=run.config.lr, weight_decay=run.config.weight_decay)
        for twin, run in zip(twins, program.runs, strict=True)
    ]
    for step in range(6):
        gradient = normal(step + 1, *numbers.shape) * 10.0**-step
        carried = {"numbers": gradient, "moments": torch.stack([gradient, gradient])}
        Stepper.copy_(other := Stepper(program, carried), carried, load=True)
        stepper.grad.copy_(other.numbers)
        stepper.optimise_(0, step)
        for r in range(4):
            twins[r].grad = gradient[:, r].clone()
            optimisers[r].step()
    stepper.copy_(state, load=False)
    assert program.places != [0, 1, 2, 3]  # Runs of equal settings stand together.
    torch.testing.assert_close(state["numbers"], torch.stack([t.detach() for t in twins], 1), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("loss", "gradient_in", "gradient_out"),
    # The error is e = 1 - v_in v_out = .75. The square has the derivatives -2 e v_out = -1.5 and -2 e v_in = -.375,
    # the root -v_out = -1 and -v_in = -.25. v_in = c u_1 u_2 with (1, 1, .25): times .25, .25 and 1.
    [("recon_sq", [-0.375, -0.375, -1.5], -0.375), ("recon_norm", [-0.25, -0.25, -1.0], -0.25)],
)
@pytest.mark.parametrize("path", ["dense", "factored"])
def test_step_hand(loss, gradient_in, gradient_out, path):
    program, state = scalar_program(loss)
    if path == "factored":
        program = build_program(program.runs, paths={"*": path})
    assert [bundle.path for bundle in program.plan.bundles] == [path]
    # References lie 1 below the outputs: the cotangent is 2, the gradient twice the input, whose size cancels.
    take_batches(program, state, 1)
    assert state["moments"][0, 0].flatten().tolist() == pytest.approx([0.1 * g for g in gradient_in], rel=1e-13)
    assert state["moments"][0, 1].flatten().tolist() == pytest.approx([0.1 * gradient_out] * 3, rel=1e-13)
    # The first step of AdamW is lr times the sign, up to 1e-8 / abs(gradient) < 1e-7, after decay by .95:
    # v_in .95 + .1 = 1.05, 1.05, .25 * .95 + .1 = .3375. v_out 1.05 each, then scaled to length 1: 1 each.
    assert state["numbers"][0].flatten().tolist() == pytest.approx([1.05, 1.05, 0.3375], abs=1e-7)
    assert state["numbers"][1].flatten().tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    # g = 2, z = .5, g_hat = .5: error 1.5^2 / 2^2 = .5625 and its root .75; the one entry was kept.
    assert float(state["recon_sq"][0, 0]) == pytest.approx(0.5625, rel=1e-14)
    assert float(state["recon_norm"][0, 0]) == pytest.approx(0.75, rel=1e-14)
    assert float(state["first_losses"][0, 0]) == pytest.approx(0.5625, rel=1e-14)
    assert float(state["p_active"][0, 0]) == 1
    assert int(state["step"]) == int(state["batch"]) == 1


@pytest.mark.parametrize(
    ("kind", "weight", "bias"),
    # W = 3 and b = 4. Length 5: .6 and .8. Sum of the tensors' lengths 7, divided out by its root: 3 / 7^.5, 4 / 7^.5.
    [("l2", 0.6, 0.8), ("tensor_sum", 3 / 7**0.5, 4 / 7**0.5)],
)
@pytest.mark.parametrize("path", ["dense", "factored"])
def test_normalise_v_out_hand(kind, weight, bias, path):
    config = L3DConfig(n_v=1, epochs=1, batch_size=1, v_out_norm=kind)
    model = nn.Linear(1, 1).double().eval()
    program = build_program([Run(model, torch.tensor([[1.0]], dtype=torch.float64), config)], paths={"*": path})
    state = initial_state(program)
    state["numbers"][:] = torch.tensor([3.0, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64).expand(2, 1, 1, 5)
    stepper = Stepper(program, state)
    stepper.normalise_()
    stepper.copy_(state, load=False)
    numbers = state["numbers"][:, 0]
    assert dense_matrix(program.layout, numbers[1]).flatten().tolist() == pytest.approx([weight, bias], rel=1e-13)
    # The three pieces of W share the factor evenly, and so do the two of b; the encoder is not touched.
    assert numbers[1].flatten().tolist() == pytest.approx(
        [3 * (weight / 3) ** (1 / 3), *[(weight / 3) ** (1 / 3)] * 2, *[2 * (bias / 4) ** 0.5] * 2], rel=1e-13
    )
    assert numbers[0].flatten().tolist() == [3, 1, 1, 2, 2]


# --- whole trainings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("divergence", "settings"),
    [
        ("mse", {}),
        ("half_reference_mse", CODE),
        ("mse", {"encoder_init": "random", "rank": 2}),
        ("kl", {"form": "cp", "rank": 2, "encoder_init": "random"}),
        ("kl", {"lr_decay_every_epochs": None, "lr_decay_every_steps": 2, "rank": {"0.weight": (1, 3), "*": 1}}),
        ("mse", {"reference": "mean", "k_fraction": 0.5}),
        ("kl", {"reference": "mean", "lr_decay_every_epochs": None}),
        ("mse", {"reference": "uniform", **CODE}),
        ("kl", {"reference": "uniform", "v_out_norm": "tensor_sum"}),
    ],
)
def test_training_oracle(divergence, settings):
    model, inputs = mlp(0), normal(1, 15, 4)  # Batches of 6, 6 and 3.
    chosen = {"n_v": 3, "epochs": 3, "batch_size": 6, "k_fraction": 0.3, "lr_decay": 0.5, "lr_decay_every_epochs": 2}
    config = L3DConfig(**(chosen | settings))
    fast = decompose(model, inputs, divergence, config, seed=7)
    slow = train_slowly(model, inputs, divergence, config, fast.v_out.layout.ranks, seed=7)
    assert_twin(fast, slow)
    start = initial_state(build_program([Run(model, inputs, config, divergence, 7)]))["numbers"][1, 0]
    assert (fast.v_out.matrix() - dense_matrix(fast.v_out.layout, start)).abs().max() > 0.01  # It moved.


@pytest.mark.parametrize(
    ("case", "divergence", "parameters"),
    [
        (cases.Case(mixer(0), normal(1, 10, 3, 3), "*", 3, 4), "half_reference_mse", ["up*", "down.weight"]),
        (cases.transformer(n=5), "kl", ["query.weight", "read.*"]),
        (cases.cnn(n=5), "mse", "*"),
        (cases.conv1d(n=5), "mse", "conv.*"),
        (cases.tms(n=9), "half_reference_mse", "*"),
        (cases.tms(n=9, tied=True), "mse", "*"),
    ],
    ids=["mixer", "transformer", "cnn", "conv1d", "tms", "tms_tied"],
)
def test_training_oracle_over_architectures(case, divergence, parameters):
    config = L3DConfig(n_v=3, epochs=2, batch_size=4, k_fraction=0.3, encoder_init="random")
    fast = decompose(case.model, case.inputs, divergence, config, seed=2, parameters=parameters)
    slow = train_slowly(case.model, case.inputs, divergence, config, fast.v_out.layout.ranks, seed=2)
    assert_twin(fast, slow)


@pytest.mark.parametrize(("model", "shape"), [(mlp(3), (11, 4)), (mixer(3), (11, 3, 4))])
def test_training_on_given_references_oracle(model, shape):
    inputs, references = normal(4, shape[0], *((4,) if len(shape) == 2 else (3, 3))), normal(5, *shape)
    config = L3DConfig(n_v=3, epochs=2, batch_size=4, k_fraction=0.3)
    fast = decompose(model, inputs, "mse", config, seed=1, references=references)
    slow = train_slowly(model, inputs, "mse", config, fast.v_out.layout.ranks, seed=1, references=references)
    assert_twin(fast, slow)


def test_a_readers_own_divergence_trains_like_the_named_one():
    model, inputs, config = mlp(0), normal(1, 12, 4), L3DConfig(n_v=3, epochs=2, batch_size=4)
    own = decompose(model, inputs, lambda y, r: ((y - r) ** 2).mean(-1), config)
    assert_same(own, decompose(model, inputs, "mse", config), atol=1e-12)


def test_normalised_mse_trains_like_mse():
    model, inputs = mlp(0), 3 * normal(1, 24, 4)
    config = L3DConfig(n_v=3, epochs=8, batch_size=8, encoder_init="random")
    plain, normalised = (decompose(model, inputs, name, config, seed=4) for name in ("mse", "normalised_mse"))
    assert normalised.divergence.name == "normalised_mse"
    y = model(inputs).detach()
    ratio = plain.divergence.cotangent(y, y.flip(0)) / normalised.divergence.cotangent(y, y.flip(0))
    assert abs(float(ratio.mean()) - 1) > 0.1  # The gradients do differ, by one factor.
    assert_same(normalised, plain, atol=1e-11)


@pytest.mark.parametrize("shared", [True, False])
def test_each_run_is_normalised_by_its_own_outputs(shared):
    models = [mlp(0)] * 2 if shared else [mlp(0), mlp(1)]
    data, config = [normal(1, 12, 4), 5 * normal(2, 12, 4)], L3DConfig(n_v=2, epochs=1, batch_size=4)
    runs = [Run(model, x, config, "normalised_mse") for model, x in zip(models, data, strict=True)]
    variances = []
    for run, l3d in zip(runs, fit(runs), strict=True):
        y = run.model(run.inputs).detach()
        variances.append(float(sum(((y - y.mean(0)) ** 2).mean(0)) / 4))  # Over samples, then the mean of 4 outputs.
        found = l3d.divergence.value(y[:1], y[1:2])
        assert float(found) == pytest.approx(float(((y[0] - y[1]) ** 2).mean()) / variances[-1], rel=1e-12)
    assert variances[1] > 1.2 * variances[0]


# --- records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "k_extra", "share"),
    [
        # n_v 8, batches of 32, k .1: 25 of 32 * 8 entries are kept, 26 with the authors' extra one.
        (64, 0, 25 / 32),
        (64, 1, 0.8125),
        # A last batch of 8 keeps floor(6.4) = 6, or 7: (25 + 6) / 40 = .775 and (26 + 7) / 40 = .825.
        (40, 0, 0.775),
        (40, 1, 0.825),
        # The toys' 1000 inputs: 31 batches of 32 and one of 8, (31 * 25 + 6) / 1000 and (31 * 26 + 7) / 1000.
        (1000, 0, 0.781),
        (1000, 1, 0.813),
    ],
)
def test_sum_of_p_active_is_kept_entries_over_samples(n, k_extra, share):
    config = L3DConfig(n_v=8, epochs=1, batch_size=32, k_extra=k_extra)
    l3d = decompose(mlp(0), normal(1, n, 4), "mse", config)
    assert l3d.history.p_active.sum(1).tolist() == pytest.approx([share], abs=1e-12)
    assert l3d.p_active.equal(l3d.history.p_active[-1])
    assert l3d.live.equal(l3d.p_active > 0)


def test_positions_are_samples_of_their_own():
    # 8 inputs of 3 positions in batches of 4: 12 samples, floor(.3 * 12 * 5) = 18 of 60 entries kept, 18 / 12 = 1.5.
    config = L3DConfig(n_v=5, epochs=2, batch_size=4, k_fraction=0.3)
    l3d = decompose(mixer(0), normal(1, 8, 3, 3), "kl", config, parameters="up.weight")
    assert l3d.history.p_active.sum(1).tolist() == pytest.approx([1.5, 1.5], abs=1e-12)


def test_dense_epochs_keep_everything():
    config = L3DConfig(n_v=5, epochs=3, batch_size=10, dense_epochs=2)
    l3d = decompose(mlp(0), normal(1, 20, 4), "mse", config)
    assert l3d.history.p_active[:2].eq(1).all()
    # Then floor(.1 * 10 * 5) = 5 of each batch: 10 / 20.
    assert float(l3d.history.p_active[2].sum()) == pytest.approx(0.5, abs=1e-12)


def test_epoch_records_are_means_over_batches():
    config = L3DConfig(n_v=3, epochs=4, batch_size=4)  # 14 inputs: 4 batches, the last of 2.
    history = decompose(mlp(0), normal(1, 14, 4), "mse", config).history
    by_epoch = history.first_losses.reshape(4, 4)
    torch.testing.assert_close(history.recon_sq, by_epoch.mean(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(history.recon_norm, by_epoch.sqrt().mean(1), rtol=1e-14, atol=0)
    assert by_epoch.std() > 1e-3
    assert history.wall_seconds > 0


def test_first_losses_are_at_most_fifty():
    config = L3DConfig(n_v=2, epochs=30, batch_size=4)
    history = decompose(mlp(0), normal(1, 8, 4), "mse", config).history  # 60 steps
    assert len(history.first_losses) == FIRST_LOSSES == 50
    assert (history.first_losses > 0).all()


def test_decoder_directions_end_with_length_one():
    config = L3DConfig(n_v=3, epochs=3, batch_size=4, rank=2)
    torch.testing.assert_close(
        decompose(mlp(0), normal(1, 12, 4), "mse", config).v_out.norms(), torch.ones(3).double(), rtol=0, atol=1e-13
    )


# --- invariants -------------------------------------------------------------------------------------------------


def test_the_target_and_the_global_stream_are_left_alone(capsys):
    model, inputs = cases.cnn().model, cases.cnn(n=8).inputs
    before, kept = copy.deepcopy(model.state_dict()), inputs.clone()
    torch.manual_seed(5)
    stream = torch.get_rng_state()
    l3d = decompose(model, inputs, "mse", L3DConfig(n_v=2, epochs=3, batch_size=4))
    assert torch.get_rng_state().equal(stream)
    assert l3d.model is model
    assert all(w.equal(before[name]) for name, w in model.state_dict().items())
    assert all(w.grad is None and w.requires_grad for w in model.parameters())
    assert inputs.equal(kept)
    assert not any(module.training for module in model.modules())
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_request(capsys):
    decompose(mlp(0), normal(1, 8, 4), "mse", L3DConfig(n_v=2, epochs=2, batch_size=4), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err


@pytest.mark.parametrize("path", ["dense", "factored"])
@pytest.mark.parametrize("n_batches", [1, 2, 3])
@pytest.mark.parametrize(("make", "shape"), [(mixer, (3, 3)), (mlp, (4,))])
def test_block_size_does_not_matter(make, shape, n_batches, path, blocks_of):
    config = L3DConfig(n_v=3, epochs=3, batch_size=3, encoder_init="random")
    runs = [Run(make(s), normal(s + 5, 13, *shape), config, "kl", s) for s in range(2)]
    whole = build_program(runs).plan
    assert (whole.once, whole.batches_per_block) == (make is mlp, 4)
    together = fit(runs)
    blocks_of(runs, n_batches)
    assert build_program(runs).plan.batches_per_block == n_batches
    for a, b in zip(fit(runs, paths={"*weight": path}), together, strict=True):
        assert_same(a, b, atol=1e-12)


VARIED = [
    ("mse", {}),
    ("kl", {"rank": 2, "lr": 0.003, "encoder_init": "random"}),
    ("half_reference_mse", {"k_fraction": 0.5, "loss": "recon_sq"}),
    ("normalised_mse", {"v_out_norm": "tensor_sum", "k_extra": 1}),
    ("mse", {"encoder_init": "random", "rank": {"0.*": 2, "*": 1}}),
    ("kl", {"weight_decay": 0.0, "dense_epochs": 3}),
    ("half_reference_mse", {"reference": "mean", "lr_decay_every_epochs": 5}),
    (
        "mse",
        {
            "rank": {"2.weight": (1, 3), "*": 1},
            "encoder_init": "random",
            "lr_decay_every_epochs": None,
            "lr_decay_every_steps": 30,
        },
    ),
]


@pytest.mark.parametrize("shared", [True, False])
def test_eight_runs_equal_each_alone(shared):
    base = {"n_v": 4, "epochs": 25, "batch_size": 5}  # 4 batches: 100 steps.
    models = [mlp(50)] * 8 if shared else [mlp(50 + i) for i in range(8)]
    data = [normal(100, 20, 4)] * 8 if shared else [normal(100 + i, 20, 4) for i in range(8)]
    runs = [
        Run(model, x, L3DConfig(**base, **settings), divergence, seed=3 + i)
        for i, (model, x, (divergence, settings)) in enumerate(zip(models, data, VARIED, strict=True))
    ]
    together = fit(runs)
    assert len({float(l3d.history.recon_sq[-1]) for l3d in together}) == 8
    for run, stacked in zip(runs, together, strict=True):
        alone = fit([run])[0]
        assert stacked.v_out.layout == alone.v_out.layout
        assert_same(stacked, alone, atol=1e-12)


def test_padding_to_a_larger_rank_leaves_a_copied_encoder_alone():
    # A copied encoder of unit directions has gradient zero at first wherever a sample keeps one subnetwork, since
    # v_out . (g - z v_out) = z - z = 0. What rounding leaves of it, below 1e-16, Adam divides by its 1e-8: steps of
    # up to lr * 1e-8 = 1e-10 differ between stacks, and no more than that.
    model, inputs, base = mlp(50), normal(100, 20, 4), {"n_v": 4, "epochs": 25, "batch_size": 5}
    runs = [Run(model, inputs, L3DConfig(**base, rank=rank), seed=4 + rank) for rank in (1, 2, 3)]
    for run, stacked in zip(runs, fit(runs), strict=True):
        assert_same(stacked, fit([run])[0], atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3])
def test_polyadic_runs_of_other_ranks_stand_side_by_side(rank):
    base = {"n_v": 3, "epochs": 4, "batch_size": 5, "form": "cp", "encoder_init": "random"}
    runs = [Run(mlp(0), normal(1, 15, 4), L3DConfig(**base, rank=r), seed=r) for r in (rank, 2)]
    for run, stacked in zip(runs, fit(runs), strict=True):
        assert_same(stacked, fit([run])[0], atol=1e-12)


def test_a_shared_model_equals_copies_of_it():
    config, inputs = L3DConfig(n_v=3, epochs=5, batch_size=5), normal(1, 15, 4)
    model = mlp(0)
    shared = fit([Run(model, inputs, config, seed=s) for s in range(3)])
    copied = fit([Run(copy.deepcopy(model), inputs.clone(), config, seed=s) for s in range(3)])
    for a, b in zip(shared, copied, strict=True):
        assert_same(a, b, atol=1e-12)


def test_a_stream_depends_on_the_seed_alone():
    config = L3DConfig(n_v=3, epochs=2, batch_size=5)
    runs = [Run(mlp(s % 2), normal(1, 13, 4), config, seed=s) for s in (4, 9, 4)]
    programs = [build_program(chosen) for chosen in (runs, runs[:1], runs[1:])]
    states = [initial_state(program) for program in programs]
    draws = [draw_epoch(program, state) for program, state in zip(programs, states, strict=True)]
    first, alone, last = ((s["numbers"][:, r], d.order[r]) for s, d, r in zip(states, draws, (0, 0, 1), strict=True))
    for mine, other in (*zip(first, alone, strict=True), *zip(first, last, strict=True)):
        assert mine.equal(other)
    for a, b, c in zip(*(d.partners for d in draws), strict=True):
        assert a[0].equal(b[0])
        assert a[0].equal(c[1])
    assert not draws[0].order[0].equal(draws[0].order[1])
    again = draw_epoch(programs[0], states[0])
    assert not again.order[0].equal(draws[0].order[0])  # The next epoch has another order.


def test_every_input_is_seen_once_in_an_epoch(batch_blocks):
    program = build_program([Run(mlp(0), normal(1, 13, 4), L3DConfig(n_v=2, epochs=1, batch_size=5), seed=1)])
    draws = draw_epoch(program, initial_state(program))
    assert sorted(draws.order[0].tolist()) == list(range(13))
    assert [tuple(block) for block in program.blocks] == [(0, 1, 5), (5, 1, 5), (10, 1, 3)]
    assert [tuple(p.shape) for p in draws.partners] == [(1, 1, 5), (1, 1, 5), (1, 1, 3)]
    assert all(int(p.max()) < p.shape[-1] for p in draws.partners)


@pytest.mark.parametrize("path", ["dense", "factored"])
@pytest.mark.parametrize("n_batches", [None, 2])
def test_gradients_of_batches_oracle(n_batches, path, blocks_of):
    model, inputs = mlp(0), normal(1, 13, 4)
    runs = [Run(model, inputs, L3DConfig(n_v=2, epochs=1, batch_size=5), seed=1)]
    blocks_of(runs, n_batches)
    program = build_program(runs, paths={"*": path})
    assert program.plan.once == (n_batches is None)
    draws, names = draw_epoch(program, initial_state(program)), list(program.target.shapes)
    gradients = Gradients(program)
    gradients.draw_(draws)
    for i, (block, partners) in enumerate(zip(program.blocks, draws.partners, strict=True)):
        batches = gradients.batches(i)
        assert [batch.n_inputs for batch in batches] == [block.size] * block.n_batches
        for b, batch in enumerate(batches):
            at = block.start + b * block.size
            x = inputs[draws.order[0, at : at + block.size]]
            slow = torch.stack(batch_gradients(model, names, x, "mse", "sample", partners[0, b], None))
            torch.testing.assert_close(whole_gradients(program, batch), slow, rtol=0, atol=1e-13)
            assert float(batch.inverse) == pytest.approx(1 / float(slow.square().sum()), rel=1e-13)
            assert (float(batch.present), float(batch.slope)) == (1, 2 * float(batch.inverse))


def test_permuting_subnetworks_permutes_what_is_learnt():
    program = build_program([Run(mlp(0), normal(1, 12, 4), L3DConfig(n_v=4, epochs=3, batch_size=4), seed=6)])
    plain, moved, order = initial_state(program), initial_state(program), torch.tensor([2, 0, 3, 1])
    moved["numbers"] = moved["numbers"][:, :, order].clone()
    for state in (plain, moved):
        for _ in range(3):
            take_batches(program, state, 3)
            state["epoch"] += 1
            state["batch"].zero_()
    torch.testing.assert_close(moved["numbers"], plain["numbers"][:, :, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(moved["p_active"], plain["p_active"][..., order], rtol=0, atol=0)
    torch.testing.assert_close(moved["recon_sq"], plain["recon_sq"], rtol=0, atol=1e-10)
    assert not plain["p_active"].equal(plain["p_active"][..., order])


def test_batches_without_gradients_train_on_without_harm():
    w_in = normal(0, 4, 2)
    model = Superposition(w_in, -torch.full((4,), 0.3, dtype=torch.float64)).eval()
    inputs = torch.zeros(12, 4, dtype=torch.float64)
    inputs[:3] = normal(1, 3, 4).abs() + 1  # The other nine give outputs of exactly zero.
    config = L3DConfig(n_v=3, epochs=4, batch_size=2)
    run = Run(model, inputs, config, "half_reference_mse", seed=1)
    program = build_program([run])
    state, silent = initial_state(program), []
    for _ in range(4):
        order = draw_epoch(program, state).order[0].reshape(6, 2)
        silent += (order >= 3).all(1).tolist()
    l3d = fit([run])[0]
    assert (l3d.history.first_losses == 0).tolist() == silent
    assert 0 < sum(silent) < 24
    for value in (l3d.v_in.flat, l3d.v_out.flat, l3d.history.recon_sq, l3d.history.recon_norm):
        assert torch.isfinite(value).all()


# --- refusals ---------------------------------------------------------------------------------------------------


def _training_mode():
    return Run(mlp(0).train(), normal(1, 8, 4), L3DConfig(n_v=2, batch_size=4))


def _with(model=None, inputs=None, divergence="mse", parameters="*", references=None, **settings):
    chosen = {"n_v": 2, "batch_size": 4, "epochs": 1, **settings}
    inputs = normal(1, 8, 4) if inputs is None else inputs
    model = mlp(0) if model is None else model
    return Run(model, inputs, L3DConfig(**chosen), divergence, 0, parameters, references)


def _nan_model():
    model = mlp(0)
    model[0].weight.data[0, 0] = float("nan")
    return model


def _nan_inputs():
    inputs = normal(1, 8, 4)
    inputs[3, 2] = float("inf")
    return inputs


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (lambda: [], "got no runs; expected at least one"),
        (lambda: [_training_mode()], "is in training mode .* Call model.eval"),
        (lambda: [_with(parameters="head.*")], r"no parameter matches \['head.\*'\]; the model has 4 parameters"),
        (lambda: [_with(rank=4)], r"rank \(4, 4\) for '0.weight' does not fit its shape \(3, 4\)"),
        (lambda: [_with(model=_nan_model())], "'0.weight' holds NaN or infinite values; expected finite weights"),
        (lambda: [_with(inputs=_nan_inputs())], "inputs hold NaN or infinite values; expected finite"),
        (lambda: [_with(inputs=normal(1, 3, 4))], "got 3 inputs for a batch_size of 4; expected at least one full"),
        (lambda: [_with(inputs=normal(1, 0, 4))], "got 0 inputs; expected at least 1"),
        (lambda: [_with(references=normal(1, 8, 3))], r"reference outputs have shape \(8, 3\); .* \(8, 4\)"),
        (lambda: [_with(references=normal(1, 7, 4))], r"reference outputs have shape \(7, 4\); .* \(8, 4\)"),
        (lambda: [_with(inputs=torch.ones(8, 4).double())], r"gradient of run 0 \(seed 0\) is zero; expected outputs"),
        (lambda: [_with(divergence="l1")], "divergence 'l1' is unknown; expected one of"),
        (lambda: [_with(), _with(n_v=3)], r"runs differ in n_v: \[2, 3\]; expected one value"),
        (lambda: [_with(), _with(batch_size=2)], r"runs differ in batch_size: \[2, 4\]"),
        (lambda: [_with(), _with(epochs=2)], r"runs differ in epochs: \[1, 2\]"),
        (lambda: [_with(), _with(form="cp")], r"runs differ in form: \['cp', 'tucker'\]"),
        (lambda: [_with(), _with(parameters="0.*")], "runs differ in parameters; expected one selection"),
        (lambda: [_with(), _with(inputs=normal(1, 9, 4))], "runs differ in the shape or type of inputs"),
        (lambda: [_with(), _with(references=normal(1, 8, 4))], "some runs give references and some do not"),
        (lambda: [_with(), _with(model=mlp(0, n_hidden=5))], "model 1 differs from model 0 in '0.bias'"),
    ],
)
def test_fit_refuses(runs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(runs(), checkpoint=tmp_path / "state")
    assert list(tmp_path.iterdir()) == []  # Nothing was written.


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: _with(model=lambda x: x), "the target is a function; expected a torch.nn.Module"),
        (lambda: _with(inputs=[1.0, 2.0]), "inputs are a list; expected one tensor"),
        (lambda: _with(divergence=3), "divergence is a int; expected a name"),
    ],
)
def test_fit_refuses_the_wrong_kind(run, message):
    with pytest.raises(TypeError, match=message):
        fit([run()])


def test_one_silent_run_of_several_is_named():
    still = _with(inputs=torch.ones(8, 4).double())
    with pytest.raises(ValueError, match=r"gradient of run 1 \(seed 0\) is zero"):
        fit([_with(), still])
    # Runs of equal settings stand together inside; the message has the place the caller gave.
    with pytest.raises(ValueError, match=r"gradient of run 2 \(seed 0\) is zero"):
        fit([_with(lr=0.02), _with(), replace(still, config=replace(still.config, lr=0.02))])


def test_gradients_that_are_not_numbers_are_refused():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(4, dtype=torch.float64))

        def forward(self, x):
            return (x * self.w).abs().sqrt()

    with pytest.raises(ValueError, match="some per-sample gradients are NaN or infinite; expected finite"):
        fit([_with(model=Root().eval(), references=torch.ones(8, 4).double())])


def test_a_loss_that_becomes_nan_is_reported():
    runs = [_with(epochs=3), _with(epochs=3, lr=1e200)]
    with pytest.raises(FloatingPointError, match=r"run 1 \(seed 0\) became NaN or infinite in epoch 0 \(1 of 2 runs\)"):
        fit(runs)


def test_directions_that_become_infinite_in_the_last_step_are_reported():
    # One step in all: its loss is that of the start and finite; what it leaves is not.
    with pytest.raises(FloatingPointError, match="became NaN or infinite in epoch 0 .* Lower lr"):
        fit([_with(batch_size=8, lr=1e308, weight_decay=1e5)])


def test_epsilon_and_betas_are_those_of_adam():
    assert (BETAS, EPS) == ((0.9, 0.999), 1e-8)
