"""Gradients as factors: against the whole gradients of many models, and by hand."""

import cases
import pytest
import torch
from cases import normal, seeded, stream
from random_cases import KINDS, random_runs
from reference_training import mixer, mlp
from torch import nn
from torch.nn import functional as F  # noqa: N812

from l3d_core.bundles import Fact
from l3d_core.factors import Linearised
from l3d_core.gradients import build_target, sample_gradients, split_parameters, target_outputs
from l3d_core.probe import find_uses


def linearised(models, x, parameters="*"):
    """Returns the target, the facts of its tensors, and the models side by side at inputs `[n_models, n, ...]`."""
    target = build_target(models, parameters)
    uses, facts = find_uses(target, x[0, :3])
    return target, facts, Linearised(target, uses, x)


def whole(pulled_of, facts, name, shape):
    """Returns the gradients `[n_sources, n, n_positions, *shape]` that factors stand for."""
    left, right = pulled_of(name)
    assert left.shape[3] == right.shape[2] == facts[name].n_rows
    g = torch.einsum("unpsl,unsr->unplr", left, right.expand(len(left), *right.shape[1:]))
    g = g.mT if len(shape) == 2 and facts[name].left_axis == 1 else g
    return g.reshape(*g.shape[:3], *shape)


def check(models, x, parameters="*", n_sources=None):
    """Asserts that outputs and all factors are right, for random cotangents; returns the facts."""
    target, facts, linear = linearised(models, x, parameters)
    n_sources = len(x) if n_sources is None else n_sources
    torch.testing.assert_close(linear.outputs, target_outputs(target, x), rtol=0, atol=1e-12)
    cotangents = normal(n_sources, *linear.outputs.shape[1:], seed=5)
    expected = sample_gradients(target, x.expand(n_sources, *x.shape[1:]), cotangents)
    pulled = linear.pull(cotangents) if any(facts.values()) else []
    for name, g in split_parameters(expected, target.shapes).items():
        if facts[name] is None:
            continue
        found = whole(lambda name: linear.factors(pulled, name), facts, name, target.shapes[name])
        g = g.reshape(found.shape)
        assert g.abs().max() > 1e-6
        assert float((found - g).norm()) <= 1e-12 * float(g.norm()), name
    return facts


def test_a_linear_layer_by_hand():
    # out = W x + b with x = (1, 2) and the cotangent (3, -1): the gradient of W is their outer product, of b itself.
    model = seeded(nn.Linear(2, 2))
    x = torch.tensor([[[1.0, 2.0], [5.0, 0.0]]], dtype=torch.float64)
    _, facts, linear = linearised([model], x)
    assert facts == {"weight": Fact(left_axis=0, n_rows=1), "bias": Fact(left_axis=0, n_rows=1)}
    pulled = linear.pull(torch.tensor([[[[3.0, -1.0]], [[0.0, 7.0]]]], dtype=torch.float64))
    left, right = linear.factors(pulled, "weight")
    assert (left.shape, right.shape) == ((1, 2, 1, 1, 2), (1, 2, 1, 2))
    assert left.flatten().tolist() == [3, -1, 0, 7]
    assert right.flatten().tolist() == [1, 2, 5, 0]
    assert whole(lambda name: linear.factors(pulled, name), facts, "weight", (2, 2))[0, 0, 0].tolist() == [
        [3, 6],
        [-1, -2],
    ]
    left, right = linear.factors(pulled, "bias")
    assert (left.flatten().tolist(), right.flatten().tolist()) == ([3, -1, 0, 7], [1, 1])


def test_a_convolution_by_hand():
    # One channel, a kernel of 1 x 2 over (1, 2, 4): rows (1, 2) and (2, 4); cotangents (3, -1) at the two places.
    model = seeded(nn.Sequential(nn.Conv2d(1, 1, (1, 2)), nn.Flatten()))
    x = torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 1.0]], dtype=torch.float64).reshape(1, 2, 1, 1, 3)
    _, facts, linear = linearised([model], x)
    assert facts["0.weight"] == Fact(left_axis=0, n_rows=2)
    pulled = linear.pull(torch.tensor([[[[3.0, -1.0]], [[1.0, 1.0]]]], dtype=torch.float64))
    left, right = linear.factors(pulled, "0.weight")
    assert left[0, 0, 0].tolist() == [[3], [-1]]
    assert right[0, 0].tolist() == [[1, 2], [2, 4]]
    # 3 (1, 2) - (2, 4) = (1, 2); the bias gets 3 - 1 = 2.
    assert whole(lambda name: linear.factors(pulled, name), facts, "0.weight", (2,))[0, 0, 0].tolist() == [1, 2]
    assert linear.factors(pulled, "0.bias")[0][0, 0].item() == 2


def test_an_embedding_by_hand():
    # Tokens 2, 0 and 2; out is their mean: each row gets a third of the cotangent, token 2 twice.
    model = seeded(nn.Sequential(nn.Embedding(3, 2), Mean()))
    _, facts, linear = linearised([model], torch.tensor([[[2, 0, 2], [1, 1, 1]]]))
    assert facts == {"0.weight": Fact(left_axis=1, n_rows=3)}
    pulled = linear.pull(torch.tensor([[[[3.0, 6.0]], [[0.0, 3.0]]]], dtype=torch.float64))
    found = whole(lambda name: linear.factors(pulled, name), facts, "0.weight", (3, 2))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 4.0]]).double())
    torch.testing.assert_close(found[0, 1, 0], torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]]).double())


class Mean(nn.Module):
    """The mean over the second axis."""

    def forward(self, x):
        return x.mean(1)


@pytest.mark.parametrize("name", cases.CASES)
def test_factors_are_the_gradients_of_each_case(name):
    case = cases.CASES[name]()
    facts = check([case.model], case.inputs[None], case.parameters)
    assert any(fact is not None for fact in facts.values())


@pytest.mark.parametrize("seed", range(40, 70))
def test_factors_are_the_gradients_of_random_models(seed):
    run = random_runs(seed, list(KINDS)[seed % len(KINDS)])[0]
    check([run.model], run.inputs[None], run.parameters)


@pytest.mark.parametrize("n_sources", [1, 3])
def test_several_sources_pull_at_one_model(n_sources):
    for case in (cases.mlp(), cases.transformer(), cases.cnn()):
        check([case.model], case.inputs[None], case.parameters, n_sources=n_sources)


def test_several_models_stand_side_by_side():
    check([mlp(s) for s in range(3)], normal(3, 5, 4))
    check([mixer(s) for s in range(2)], normal(2, 5, 3, 3))
    check([cases.cnn(s).model for s in range(2)], normal(2, 4, 2, 5, 5))
    tokens = torch.randint(7, (2, 4, 5), generator=stream(3))
    check([cases.transformer(s).model for s in range(2)], tokens, ["query.weight", "norm.*", "up.*", "embed.*"])


def test_one_factor_for_each_position_that_a_tensor_acts_at():
    facts = check([cases.transformer().model], cases.transformer().inputs[None])
    assert facts["query.weight"] == Fact(left_axis=0, n_rows=5)
    assert facts["embed.weight"] == Fact(left_axis=1, n_rows=5)
    # The gradient of a vector is one row, summed over positions.
    assert facts["norm.weight"] == facts["up.bias"] == Fact(left_axis=0, n_rows=1)
    # The position weights are added as a matrix: no operation with a rule, so they come whole.
    assert facts["place"] is None


class Tied(nn.Module):
    """Uses one weight several times: as two layers, and turned."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.w, self.b = kind, nn.Parameter(torch.empty(3, 3)), nn.Parameter(torch.empty(3))

    def forward(self, x):
        h = torch.tanh(F.linear(x, self.w, self.b))
        if self.kind == "twice":
            return F.linear(h, self.w, self.b)
        if self.kind == "turned":
            return h @ self.w
        if self.kind == "product":
            return h * self.b
        if self.kind == "norm":
            return h + torch.linalg.norm(self.w)
        return h + self.w.sum(0)  # "unknown"


@pytest.mark.parametrize(
    ("kind", "fact"),
    [
        ("twice", Fact(0, 2)),  # Two rows, one for each use.
        ("turned", None),  # Output gradients lie along another axis each time.
        ("product", Fact(0, 1)),
        ("norm", None),  # No rule covers it.
        ("unknown", None),
    ],
)
def test_a_tensor_used_twice(kind, fact):
    facts = check([seeded(Tied(kind))], normal(1, 4, 3))
    assert facts["w"] == fact
    assert facts["b"] == Fact(0, 1)


def test_tied_weights_of_language_models_come_whole_or_summed():
    run = random_runs(7, "gpt2")[0]
    tied = check([run.model], run.inputs[None], "transformer.wte.weight")
    assert tied == {"transformer.wte.weight": None}  # Read in as rows, read out as columns.
    assert run.model.lm_head.weight is run.model.transformer.wte.weight


def test_outputs_that_all_inputs_share():
    """Position embeddings are looked up once for a batch; each input's gradient is its own."""
    run = random_runs(7, "gpt2")[0]
    facts = check([run.model], run.inputs[None], "transformer.wpe.weight")
    length = run.inputs.shape[1]
    assert facts == {"transformer.wpe.weight": Fact(left_axis=1, n_rows=length)}
    target, _, _ = linearised([run.model], run.inputs[None], "transformer.wpe.weight")
    (use,) = find_uses(target, run.inputs[:3])[0]
    assert use.shared
    check([run.model], run.inputs[None], "transformer.wpe.weight", n_sources=2)


@pytest.mark.parametrize(
    ("module", "whole_names"),
    [
        (nn.Conv2d(2, 4, 2, groups=2), {"0.weight"}),  # A grouped convolution has no outer product of its rows.
        (nn.Conv2d(2, 4, 2, padding="same"), {"0.weight"}),
        (nn.ConvTranspose2d(2, 4, 2), {"0.weight", "0.bias"}),
        (nn.Conv2d(2, 4, 2, stride=2, dilation=2, padding=1), set()),
        (nn.PReLU(), {"0.weight"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_operations_without_a_rule_come_whole(module, whole_names):
    model = seeded(nn.Sequential(module, nn.Flatten()))
    facts = check([model], normal(1, 3, 2, 5, 5))
    assert {name for name, fact in facts.items() if fact is None} == whole_names


def test_the_row_of_padding_has_no_gradient():
    model = seeded(nn.Sequential(nn.Embedding(4, 3, padding_idx=1), Mean()))
    facts = check([model], torch.tensor([[[0, 1, 2], [1, 1, 3], [3, 2, 0]]]))
    assert facts == {"0.weight": None}  # Not as factors, which would give it one.


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("length", [3, 4, 6])
def test_inputs_that_are_not_the_first_axis(length, n, flat):
    facts = check([seeded(cases.Later(flat))], normal(1, n, length, 2))
    assert facts == {"layer.weight": None, "layer.bias": None}


def test_a_single_input_is_no_shared_output():
    target, facts, linear = linearised([mlp(0)], normal(1, 5, 4))
    assert not any(use.shared for use in find_uses(target, normal(1, 4))[0])
    assert all(fact == Fact(0, 1) for fact in facts.values())
    assert linear.outputs.shape == (1, 5, 1, 4)
