"""Parts of a model that need not run again: the layers before the decomposed tensors, and a last linear layer."""

from dataclasses import replace

import cases
import pytest
import torch
from cases import normal, seeded
from plain_step import plain_fit
from random_cases import random_runs
from test_step import assert_plain
from torch import nn

from l3d_core.cuts import cut_head, cut_prefix, replace_modules
from l3d_core.divergences import resolve_divergence
from l3d_core.gradients import build_target
from l3d_core.l3d import L3DConfig
from l3d_core.runs import Run, build_program
from l3d_core.training import fit

EXPANDING = ("0.*", "2.*")


def expanding(seed=0):
    """Returns a perceptron whose last layer has more outputs than inputs."""
    return seeded(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 6)), seed)


def run_of(model, inputs, divergence="kl", parameters="*", seed=3, **settings):
    """Returns a run of 12 steps."""
    base = {"n_v": 3, "epochs": 4, "batch_size": 4, "encoder_init": "random"}
    return Run(model, inputs, L3DConfig(**base | settings), divergence, seed, parameters)


@pytest.mark.parametrize("divergence", ["kl", "mse", "half_reference_mse", "normalised_mse"])
@pytest.mark.parametrize("reference", ["sample", "mean", "uniform"])
def test_without_its_head_a_model_trains_as_with_it(divergence, reference):
    run = run_of(expanding(), normal(12, 4), divergence, EXPANDING, reference=reference)
    assert (build_program([run]).head is not None) == (reference != "uniform")
    assert_plain(fit([run]), plain_fit([run]))


def test_what_a_head_passes_back_by_hand():
    # U = [[1, 0], [0, 2], [1, 1]], h = (1, 3): y = (1, 6, 4); mse takes 2 y / 3, of which U^T makes 2 (5, 16) / 3.
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False)).double().eval()
    model[0].weight.data.copy_(torch.eye(2))
    model[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    target = build_target([model], "0.*")
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    cut, head = cut_head(target, x, resolve_divergence("mse"))
    torch.testing.assert_close(head.own[0, 0, 0], torch.tensor([10.0, 32.0]).double() / 3)
    torch.testing.assert_close(head.other, head.own)
    assert list(cut.w0) == ["0.weight"]
    assert "1.weight" not in cut.rest
    assert cut.module(x).equal(x)


@pytest.mark.parametrize("parameters", ["*", "4.*"])
def test_a_head_that_is_decomposed_is_not_cut(parameters):
    run = run_of(expanding(), normal(12, 4), parameters=parameters)
    assert build_program([run]).head is None
    assert_plain(fit([run]), plain_fit([run]))


def test_a_head_is_not_cut_where_that_would_not_do():
    own = run_of(expanding(), normal(12, 4), lambda y, r: (y - r).square().sum(-1), EXPANDING)
    narrow = run_of(cases.mlp().model, normal(12, 4), parameters="0.*")  # 5 -> 3: cutting saves nothing.
    last = run_of(seeded(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 6), nn.Tanh())), normal(12, 4), parameters="0.*")
    two = [run_of(expanding(s), normal(12, 4), parameters=EXPANDING) for s in range(2)]
    for runs in ([own], [narrow], [last], two):
        assert build_program(runs).head is None
    given = replace(run_of(expanding(), normal(12, 4), "mse", EXPANDING), references=normal(12, 6, seed=4))
    assert build_program([given]).head is None
    assert_plain(fit([given]), plain_fit([given]))


@pytest.mark.parametrize("part", ["head", "before"])
def test_a_checkpoint_knows_the_weights_that_are_cut_off(part, tmp_path):
    model, inputs = expanding(), normal(12, 4)
    parameters = EXPANDING if part == "head" else "2.*"
    fit([run_of(model, inputs, parameters=parameters)], checkpoint=tmp_path / "state", max_steps=3)
    model[4 if part == "head" else 0].weight.data[0, 0] += 1e-12
    with pytest.raises(ValueError, match="belongs to other runs"):
        fit([run_of(model, inputs, parameters=parameters)], checkpoint=tmp_path / "state")


@pytest.mark.parametrize("kind", ["neo", "gpt2", "llama"])
@pytest.mark.parametrize("seed", [3, 5])
def test_without_what_comes_first_a_language_model_trains_as_with_it(kind, seed, batch_blocks):
    run = random_runs(seed, kind)[0]
    names = {"neo": "transformer.h.1.attn*", "gpt2": "transformer.h.1.mlp*", "llama": "model.layers.1.mlp*"}[kind]
    run = replace(run, parameters=names, config=replace(run.config, rank=1, encoder_init="random"))
    program = build_program([run])
    assert program.prefix is not None
    assert_plain(fit([run]), plain_fit([run]))


def test_nothing_comes_first_where_all_is_decomposed():
    case = cases.transformer()
    assert cut_prefix(build_target([case.model], "*"), case.inputs, 10**6) is None
    assert cut_prefix(build_target([case.model], "read.*"), case.inputs, 10) is None  # More numbers than allowed.


def test_replacing_parts_changes_no_model():
    model = expanding()
    changed = replace_modules(model, {"2": nn.Identity()})
    assert isinstance(model[2], nn.Linear)
    assert isinstance(changed[2], nn.Identity)
    assert changed[4] is model[4]


def test_forward_hooks_are_gone_afterwards():
    run = run_of(expanding(), normal(12, 4), parameters="2.*")
    fit([run])
    assert all(not module._forward_hooks for module in run.model.modules())
