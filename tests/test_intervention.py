"""Pushing a model along its subnetworks, impacts, and the samples and outputs they affect."""

import copy

import cases
import pytest
import torch
from reference_training import Shift, made_at_random, made_of_vectors, mixer, mlp, normal, slow_impact
from torch import nn

from l3d_core.intervention import (
    delta_sweep,
    direction,
    impact,
    matched_deltas,
    output_gradients,
    perturb,
    top_outputs,
    top_samples,
)
from l3d_core.toys import Superposition

TARGETS = {
    "mlp": (mlp(0), normal(1, 5, 4), "*"),
    "mixer": (mixer(0), normal(2, 4, 3, 3), "up*"),
    "cnn": (cases.cnn().model, cases.cnn(n=4).inputs, "*"),
    "transformer": (cases.transformer().model, cases.transformer(n=3).inputs, ["*.weight", "place"]),
}
targets = pytest.mark.parametrize(("model", "inputs", "patterns"), TARGETS.values(), ids=TARGETS)


def moved_by_hand(l3d, coefficients, kept=lambda name: True):
    """Returns a copy of the target whose parameters have been moved in place, one subnetwork after another."""
    model = copy.deepcopy(l3d.model)
    with torch.no_grad():
        for name, w in model.named_parameters():
            if name in l3d.parameters and kept(name):
                for v, delta in coefficients.items():
                    w += delta * l3d.v_out.dense()[name][v]
    return model


# --- perturb ----------------------------------------------------------------------------------------------------


def test_perturb_hand():
    l3d = made_of_vectors([[9.0, 9.0], [9.0, 9.0]], [[0.6, 0.8], [1.0, 0.0]])
    x = torch.tensor([[10.0, 20.0]], dtype=torch.float64)
    # w = 5 (.6, .8) = (3, 4); with -2 (1, 0) beside it (1, 4).
    assert perturb(l3d, {0: 5})(x).flatten().tolist() == pytest.approx([13, 24], rel=1e-14)
    assert perturb(l3d, {0: 5.0, 1: -2.0})(x).flatten().tolist() == pytest.approx([11, 24], rel=1e-14)
    # A step of .1 is .1 in double precision, not in single: 1e-9 off would show.
    assert perturb(l3d, {1: 0.1})(x).flatten().tolist() == pytest.approx([10.1, 20], abs=1e-14)


@targets
def test_perturb_oracle(model, inputs, patterns):
    l3d = made_at_random(model, 4, rank=2 if model is TARGETS["mlp"][0] else 1, patterns=patterns)
    for coefficients in ({1: 0.3}, {3: -0.7, 0: 0.25, 2: 1.0}):
        expected = moved_by_hand(l3d, coefficients)(inputs)
        torch.testing.assert_close(perturb(l3d, coefficients)(inputs), expected.detach(), rtol=0, atol=1e-13)
        assert (expected - model(inputs)).abs().max() > 1e-3


@pytest.mark.parametrize("patterns", ["0.*", ["*.bias", "2.weight"], "*.weight"])
def test_perturb_moves_only_some_tensors(patterns):
    l3d, x = made_at_random(mlp(0), 3), normal(1, 5, 4)
    names = {"0.*": ["0.weight", "0.bias"], "*.weight": ["0.weight", "2.weight"]}
    kept = names.get(patterns if isinstance(patterns, str) else "", ["0.bias", "2.weight", "2.bias"])
    found = perturb(l3d, {1: 0.8}, patterns)(x)
    expected = moved_by_hand(l3d, {1: 0.8}, lambda name: name in kept)(x).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert (found - perturb(l3d, {1: 0.8})(x)).abs().max() > 1e-3
    moved = {name for name, d in direction(l3d, {1: 0.8}, patterns).items() if d.abs().max() > 0}
    assert moved == set(kept)


@targets
def test_a_step_of_zero_is_the_identity(model, inputs, patterns):
    l3d = made_at_random(model, 3, patterns=patterns)
    # As in `perturb`: products with weights that ask for gradients may take another path, which rounds otherwise.
    twin = copy.deepcopy(model)
    for name in l3d.parameters:
        twin.get_parameter(name).requires_grad_(False)
    with torch.no_grad():
        expected = twin(inputs)
    for coefficients in ({0: 0.0}, {0: 0, 2: 0.0}, {}):
        assert perturb(l3d, coefficients)(inputs).equal(expected)


def test_perturb_leaves_the_model_alone():
    model, x = mlp(0), normal(1, 5, 4)
    l3d, before = made_at_random(model, 3), copy.deepcopy(model.state_dict())
    pushed = perturb(l3d, {0: 3.0})
    first = pushed(x)
    assert not first.requires_grad
    assert all(w.equal(before[name]) for name, w in model.state_dict().items())
    assert pushed(x).equal(first)


def test_perturb_takes_and_returns_what_the_model_does():
    class Wrapped(Shift):
        def forward(self, x, *, scale=1.0):
            return {"y": scale * super().forward(x)}

    l3d = made_of_vectors([[1.0, 2.0]])
    wrapped = Wrapped(2).eval()
    object.__setattr__(l3d, "model", wrapped)
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert perturb(l3d, {0: 1.0})(x, scale=10.0)["y"].tolist() == [[10, 20]]


def test_tied_parameters_move_together():
    model = Superposition(normal(0, 4, 2), normal(1, 4), tied=True).eval()
    l3d, x = made_at_random(model, 2), normal(2, 6, 4).abs()
    assert l3d.parameters == ["W_in", "b"]
    torch.testing.assert_close(perturb(l3d, {1: 0.4})(x), moved_by_hand(l3d, {1: 0.4})(x).detach(), rtol=0, atol=1e-14)


def test_order_of_subnetworks_does_not_matter():
    l3d, x = made_at_random(mlp(0), 3), normal(1, 5, 4)
    torch.testing.assert_close(
        perturb(l3d, {0: 0.5, 2: -1.0})(x), perturb(l3d, {2: -1.0, 0: 0.5})(x), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("wrong", [3, -1, 0.0])
def test_a_subnetwork_that_does_not_exist_is_refused(wrong):
    l3d, x = made_at_random(mlp(0), 3), normal(1, 5, 4)
    message = rf"subnetwork {wrong!r} does not exist; expected whole numbers from 0 to 2"
    with pytest.raises(ValueError, match=message):
        perturb(l3d, {0: 1.0, wrong: 1.0} if wrong else {wrong: 1.0})
    with pytest.raises(ValueError, match=message):
        delta_sweep(l3d, wrong, [1.0], x)
    with pytest.raises(ValueError, match=message):
        output_gradients(l3d, wrong, x)


def test_patterns_that_match_no_tensor_are_refused():
    l3d = made_at_random(mlp(0), 3, patterns="0.*")
    with pytest.raises(
        ValueError, match=r"no decomposed tensor matches \['2.\*'\]; expected some of \['0.weight', '0.b"
    ):
        perturb(l3d, {0: 1.0}, "2.*")


# --- sweeps -----------------------------------------------------------------------------------------------------


def test_delta_sweep_hand():
    l3d = made_of_vectors([[1.0, 0.0]], [[2.0, -1.0]])
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    # Along (2, -1) by -1, 0 and .5.
    expected = [[[-2, 1], [-1, 2]], [[0, 0], [1, 1]], [[1, -0.5], [2, 0.5]]]
    assert delta_sweep(l3d, 0, [-1, 0, 0.5], x).tolist() == expected


def test_delta_sweep_oracle():
    l3d, x, deltas = made_at_random(mixer(0), 3), normal(1, 5, 3, 3), (-1.0, 0.0, 0.1, 2.0)
    for tensors, kept in (("*", lambda name: True), ("up.*", lambda name: name.startswith("up."))):
        swept = delta_sweep(l3d, 2, deltas, x, tensors)
        assert swept.shape == (4, 5, 3, 4)
        for delta, y in zip(deltas, swept, strict=True):
            expected = moved_by_hand(l3d, {2: delta}, kept)(x).detach()
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)


def test_delta_sweep_takes_models_that_return_logits():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(Shift):
        def forward(self, x):
            return Output(super().forward(x))

    l3d = made_of_vectors([[2.0, -1.0]])
    object.__setattr__(l3d, "model", Wrapped(2).eval())
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert delta_sweep(l3d, 0, [1, 2], x).tolist() == [[[2, -1]], [[4, -2]]]
    assert output_gradients(l3d, 0, x).tolist() == [[2, -1]]


def test_matched_deltas_hand():
    l3d = made_of_vectors([[1.0, 0.0]] * 3, [[3.0, 4.0], [0.0, 0.0], [0.0, 0.5]])
    # Lengths 5, 0 and .5; a step of length 10 is 2, none, and 20.
    assert matched_deltas(l3d, 10.0).tolist() == [2, 0, 20]


def test_matched_deltas_give_steps_of_that_length():
    l3d = made_at_random(mlp(0), 4, rank=2)
    for v, delta in enumerate(matched_deltas(l3d, 0.58).tolist()):
        step = direction(l3d, {v: delta})
        total = sum(float((d**2).sum()) for d in step.values())
        assert total**0.5 == pytest.approx(0.58, rel=1e-13)


# --- impact -----------------------------------------------------------------------------------------------------


def partners_of(n_s, n_references, seed):
    """Returns the references that a seed draws, one tensor for each round."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(n_s, (1, n_s), generator=generator)[0] for _ in range(n_references)]


@pytest.mark.parametrize("signed_mean", [False, True])
def test_impact_hand(signed_mean):
    # Inputs 0 and 3 with outputs alike; the gradient is 2 (y - r) and v_in is -.5 or 2. So z is 0 against oneself,
    # and against the other -3 and 3 in size 3, or 12: times how often of 4 the other one was drawn.
    l3d = made_of_vectors([[-0.5], [2.0]], [[1.0], [1.0]])
    x = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    drawn = torch.stack(partners_of(2, 4, seed=3))
    others = [int((drawn[:, s] != s).sum()) for s in range(2)]
    assert others[0] not in (0, 4)
    expected = [[3 * n / 4, 12 * n / 4] for n in others]
    found = impact(l3d, x, 4, seed=3, signed_mean=signed_mean)
    assert found.flatten().tolist() == pytest.approx(sum(expected, []), rel=1e-14)


def test_signed_mean_cancels_where_the_mean_of_sizes_does_not():
    # For the middle input, 0, references -1 and 1 give z = 2 and -2.
    l3d = made_of_vectors([[1.0]])
    x = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    drawn = torch.stack(partners_of(3, 6, seed=2))[:, 1].tolist()
    up, down = drawn.count(0), drawn.count(2)
    assert min(up, down) > 0
    assert float(impact(l3d, x, 6, seed=2)[1, 0]) == pytest.approx(2 * (up + down) / 6, rel=1e-14)
    assert float(impact(l3d, x, 6, seed=2, signed_mean=True)[1, 0]) == pytest.approx(2 * abs(up - down) / 6, abs=1e-14)


@pytest.mark.parametrize("signed_mean", [False, True])
@pytest.mark.parametrize(
    ("target", "divergence"), [("mlp", "mse"), ("mixer", "kl"), ("cnn", "half_reference_mse"), ("transformer", "kl")]
)
def test_impact_oracle(target, divergence, signed_mean):
    model, inputs, patterns = TARGETS[target]
    l3d = made_at_random(model, 3, patterns=patterns, divergence=divergence)
    n_s = model(inputs).shape[:-1].numel()
    slow = slow_impact(l3d, inputs, divergence, partners_of(n_s, 3, seed=5), signed_mean=signed_mean)
    assert slow.min() >= 0
    assert slow.max() > 1e-3
    for chunk_size in (None, 1, 2, 100):
        fast = impact(l3d, inputs, 3, seed=5, signed_mean=signed_mean, chunk_size=chunk_size)
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-13)


def test_impact_follows_the_seed():
    l3d, x = made_at_random(mlp(0), 3), normal(1, 8, 4)
    assert impact(l3d, x, seed=1).equal(impact(l3d, x, seed=1))
    assert not impact(l3d, x, seed=1).equal(impact(l3d, x, seed=2))


def test_permuting_subnetworks_permutes_impacts():
    vectors = normal(0, 4, 2).tolist()
    x, order = normal(1, 6, 2), [2, 0, 3, 1]
    plain, moved = impact(made_of_vectors(vectors), x), impact(made_of_vectors([vectors[v] for v in order]), x)
    torch.testing.assert_close(moved, plain[:, order], rtol=0, atol=1e-14)


def test_impact_refuses():
    l3d = made_at_random(mlp(0), 2)
    with pytest.raises(ValueError, match="n_references is 0; expected at least 1"):
        impact(l3d, normal(1, 4, 4), 0)
    with pytest.raises(ValueError, match="got 1 inputs; expected at least 2"):
        impact(l3d, normal(1, 1, 4))
    with pytest.raises(TypeError, match="inputs are a list; expected one tensor"):
        impact(l3d, [[1.0] * 4] * 3)
    with pytest.raises(ValueError, match="is in training mode"):
        impact(made_at_random(mlp(0).train(), 2), normal(1, 4, 4))


# --- top samples and outputs ------------------------------------------------------------------------------------


def test_top_samples_hand():
    scores = torch.tensor([[0.1, 9.0], [0.7, 1.0], [0.5, 2.0], [0.6, 3.0]])
    assert top_samples(scores, 3).tolist() == [[1, 3, 2], [0, 3, 2]]
    # Samples 1 and 3 are of one text: it is shown once, by its best sample. So are 0 and 2.
    assert top_samples(scores, 2, groups=torch.tensor([7, 4, 7, 4])).tolist() == [[1, 2], [0, 3]]
    # Ties stay in the order of the samples.
    assert top_samples(torch.ones(4, 1), 3).tolist() == [[0, 1, 2]]


def test_top_samples_oracle():
    scores, groups = normal(0, 12, 3), torch.randint(5, (12,), generator=torch.Generator().manual_seed(1))
    n = len(groups.unique())
    plain, grouped = top_samples(scores, 4), top_samples(scores, n, groups=groups)
    for v in range(3):
        ranked = sorted(range(12), key=lambda s: -float(scores[s, v]))
        assert plain[v].tolist() == ranked[:4]
        best = {g: max((s for s in range(12) if int(groups[s]) == g), key=lambda s: float(scores[s, v])) for g in
                set(groups.tolist())}  # fmt: skip
        assert grouped[v].tolist() == sorted(best.values(), key=lambda s: -float(scores[s, v]))


@pytest.mark.parametrize(("n", "groups"), [(5, None), (0, None), (3, [0, 0, 1, 1])])
def test_top_samples_refuses_more_than_there_are(n, groups):
    with pytest.raises(ValueError, match=rf"n is {n}; expected between 1 and the {2 if groups else 4} samples"):
        top_samples(torch.ones(4, 2), n, groups=None if groups is None else torch.tensor(groups))


def test_output_gradients_hand():
    l3d = made_of_vectors([[9.0, 9.0]], [[3.0, -4.0]])
    x = torch.zeros(2, 2, dtype=torch.float64)
    assert output_gradients(l3d, 0, x).tolist() == [[3, -4], [3, -4]]
    # Softmax of equal logits is (1/2, 1/2) with derivative p (v - p . v) = (1/2)(3 + 1/2), (1/2)(-4 + 1/2).
    assert output_gradients(l3d, 0, x, probabilities=True)[0].tolist() == pytest.approx([1.75, -1.75], rel=1e-14)


@targets
@pytest.mark.parametrize("probabilities", [False, True])
def test_output_gradients_against_finite_differences(model, inputs, patterns, probabilities):
    l3d, h = made_at_random(model, 2, patterns=patterns), 1e-5
    up, down = (moved_by_hand(l3d, {1: delta})(inputs).detach() for delta in (h, -h))
    if probabilities:
        up, down = up.softmax(-1), down.softmax(-1)
    found = output_gradients(l3d, 1, inputs, probabilities=probabilities)
    assert not found.requires_grad
    assert found.shape == model(inputs).shape
    assert found.abs().max() > 1e-3
    # Central differences err by h^2 / 6 times a third derivative, some 1e-10 times order 10 to 100 here.
    torch.testing.assert_close(found, (up - down) / (2 * h), rtol=1e-6, atol=1e-7)


def test_output_gradients_through_fused_attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(self.w(x), x, x, is_causal=True)

    torch.manual_seed(0)
    model, x = Attention().double().eval(), normal(1, 2, 1, 3, 4)
    l3d = made_at_random(model, 2)
    up, down = (moved_by_hand(l3d, {0: delta})(x).detach() for delta in (1e-5, -1e-5))
    torch.testing.assert_close(output_gradients(l3d, 0, x), (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


def test_top_outputs_hand():
    gradients = torch.tensor([[0.1, -3.0, 2.0, 0.5], [4.0, 1.0, -5.0, 0.0]])
    assert top_outputs(gradients, 2).tolist() == [[1, 2], [2, 0]]
    assert top_outputs(gradients, 2, signed=True).tolist() == [[2, 3], [0, 1]]


@pytest.mark.parametrize("signed", [False, True])
def test_top_outputs_oracle(signed):
    gradients = normal(0, 3, 2, 7)
    found = top_outputs(gradients, 3, signed=signed)
    for i in range(3):
        for p in range(2):
            values = gradients[i, p].tolist()
            ranked = sorted(range(7), key=lambda o: -(values[o] if signed else abs(values[o])))  # noqa: B023
            assert found[i, p].tolist() == ranked[:3]


def test_output_gradients_through_an_operation_without_a_second_derivative():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Linear(3, 3)

        def forward(self, x):
            return x * nn.functional.hardsigmoid(self.w(x))

    torch.manual_seed(0)
    model, x = Gated().double().eval(), normal(1, 4, 3)
    l3d = made_at_random(model, 2)
    up, down = (moved_by_hand(l3d, {0: delta})(x).detach() for delta in (1e-5, -1e-5))
    found = output_gradients(l3d, 0, x)
    torch.testing.assert_close(found, (up - down) / 2e-5, rtol=1e-6, atol=1e-8)
    assert not found.requires_grad and found.abs().max() > 1e-3
