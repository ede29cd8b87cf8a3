"""The same numbers on CUDA as on the CPU."""

import copy

import pytest
import torch
from reference_training import mixer, mlp, normal

from l3d_core.apd_targets import TargetTraining, train_targets
from l3d_core.baselines.apd import APDConfig
from l3d_core.baselines.apd_training import decompose_apd
from l3d_core.batches import Gradients
from l3d_core.chapters.apd_toys import on_device
from l3d_core.intervention import delta_sweep, impact, matched_deltas, output_gradients, top_samples
from l3d_core.l3d import L3DConfig
from l3d_core.metrics import gradient_reconstruction, match_directions
from l3d_core.runs import Run, build_program
from l3d_core.step import Stepper
from l3d_core.streams import draw_epoch, initial_state
from l3d_core.toys import ToyTraining, train
from l3d_core.training import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECORDS = ("recon_sq", "recon_norm", "p_active", "first_losses")
BASE = {"n_v": 4, "epochs": 4, "batch_size": 5}
VARIED = [
    ("mse", {"encoder_init": "random", "rank": 2}),
    ("kl", {"encoder_init": "random", "lr": 0.003}),
    ("half_reference_mse", {"loss": "recon_sq", "k_extra": 1, "v_out_norm": "tensor_sum", "dense_epochs": 1}),
    ("normalised_mse", {"weight_decay": 0.0, "reference": "mean", "k_fraction": 0.5}),
    ("mse", {"reference": "uniform", "lr_decay_every_epochs": None, "lr_decay_every_steps": 3}),
]


def pair_of_runs(models, data, device):
    """Returns one run for each variant, on a device."""
    return [
        Run(copy.deepcopy(model).to(device), x.to(device), L3DConfig(**BASE, **settings), divergence, seed)
        for seed, (model, x, (divergence, settings)) in enumerate(zip(models, data, VARIED, strict=True))
    ]


def assert_close(found, expected, *, atol=1e-9):
    """Asserts that decompositions on CUDA hold the numbers of those on the CPU."""
    for a, b in zip(found, expected, strict=True):
        assert a.v_out.flat.is_cuda
        for name in ("v_in", "v_out"):
            mine, other = getattr(a, name).matrix(), getattr(b, name).matrix()
            torch.testing.assert_close(mine.cpu(), other.cpu(), rtol=0, atol=atol)
        for name in RECORDS:
            mine, other = getattr(a.history, name), getattr(b.history, name)
            torch.testing.assert_close(mine.cpu(), other.cpu(), rtol=0, atol=atol)


@pytest.mark.parametrize("make", [mlp, mixer])
@pytest.mark.parametrize("path", ["dense", "factored"])
@pytest.mark.parametrize("n_batches", [None, 1])
def test_training(make, path, n_batches, blocks_of):
    models = [make(i) for i in range(5)]
    data = [normal(i, 18, 4) if make is mlp else normal(i, 18, 3, 3) for i in range(5)]
    on_cpu, on_cuda = (pair_of_runs(models, data, device) for device in ("cpu", "cuda"))
    expected = fit(on_cpu)
    blocks_of(on_cuda, n_batches)
    assert_close(fit(on_cuda, paths={"*weight": path}), expected)


def test_a_training_begun_on_the_cpu_goes_on_on_cuda(tmp_path, batch_blocks):
    models, data = [mlp(0)] * 5, [normal(1, 18, 4)] * 5
    on_cpu, on_cuda = (pair_of_runs(models, data, device) for device in ("cpu", "cuda"))
    fit(on_cpu, checkpoint=tmp_path / "state", max_steps=6)
    assert_close(fit(on_cuda, checkpoint=tmp_path / "state"), fit(on_cpu))


def test_half_precision_operands():
    """The loss is that of single precision to within 2 %."""
    models, data = [mlp(0).float()] * 5, [normal(1, 18, 4).float()] * 5
    runs = pair_of_runs(models, data, "cuda")
    for half, single in zip(fit(runs, operand_dtype=torch.bfloat16), fit(runs), strict=True):
        torch.testing.assert_close(half.history.recon_sq, single.history.recon_sq, rtol=0.02, atol=0)


def test_a_step_does_not_wait_for_the_device():
    runs = pair_of_runs([mlp(i) for i in range(5)], [normal(i, 18, 4) for i in range(5)], "cuda")
    program = build_program(runs)
    state = initial_state(program)
    stepper, gradients = Stepper(program, state), Gradients(program)
    gradients.draw_(draw_epoch(program, state))
    batches = gradients.batches(0)
    stepper.step_(batches[0], 2, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        stepper.step_(batches[1], 2, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_metrics_and_interventions():
    config = L3DConfig(n_v=4, epochs=2, batch_size=5, encoder_init="random")
    x, runs = normal(1, 15, 4), [Run(mlp(0), normal(1, 15, 4), config)]
    (a,) = fit(runs)
    (b,) = fit([Run(mlp(0).cuda(), runs[0].inputs.cuda(), config)])
    pairs = [
        (gradient_reconstruction(a, x).recon_sq, gradient_reconstruction(b, x.cuda()).recon_sq),
        (impact(a, x, 3), impact(b, x.cuda(), 3)),
        (delta_sweep(a, 1, [-0.1, 0.7], x), delta_sweep(b, 1, [-0.1, 0.7], x.cuda())),
        (matched_deltas(a, 0.5), matched_deltas(b, 0.5)),
        (output_gradients(a, 2, x), output_gradients(b, 2, x.cuda())),
    ]
    for on_cpu, on_cuda in pairs:
        assert on_cuda.is_cuda
        torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=0, atol=1e-9)
    assert top_samples(pairs[1][1], 3).cpu().equal(top_samples(pairs[1][0], 3))
    assert match_directions(a.v_out.matrix(), b.v_out.matrix().cpu()).cosines.min() > 1 - 1e-9


def test_toy_targets():
    config = ToyTraining(n_features=4, n_hidden=2, n_points=70, epochs=3, batch_size=16)
    on_cpu, on_cuda = train(config, [0, 1]), train(config, [0, 1], device="cuda")
    assert not on_cuda.w_in.is_cuda
    torch.testing.assert_close(on_cuda.w_in, on_cpu.w_in, rtol=0, atol=1e-5)


def test_inputs_and_model_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="inputs are on cpu, the model on cuda:0; expected one device"):
        fit([Run(mlp(0).cuda(), normal(1, 15, 4), L3DConfig(n_v=2, batch_size=5))])


@pytest.mark.parametrize("attributions", ["target", "components"])
def test_apd(attributions):
    sizes = {"kind": "residual", "n_features": 6, "n_hidden": 4, "n_layers": 2, "n_resid": 12}
    target = TargetTraining(**sizes, steps=5, batch_size=16)
    config = APDConfig(
        n_components=5, n_terms=2, steps=6, batch_size=32, hidden=1.0, init_scale=30.0, attributions=attributions
    )
    network = train_targets(target, (0, 1)).network
    expected = decompose_apd(network, target.inputs, config, (0, 1))
    found = decompose_apd(on_device(network, "cuda"), target.inputs, config, (0, 1))
    for name, own in expected.components.items():
        assert found.components[name].u.is_cuda
        torch.testing.assert_close(found.components[name].total().cpu(), own.total(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.first_losses.cpu(), expected.first_losses, rtol=1e-4, atol=1e-6)
