import pytest
import reference
import torch
from cases import CASES, cnn, conv1d, mlp, normal, seeded, stream, tms, transformer
from torch import nn

from l3d_core.divergences import NAMED, resolve_divergence
from l3d_core.gradients import (
    build_target,
    check_inputs,
    check_model,
    check_references,
    divergence_gradients,
    model_outputs,
    sample_gradients,
    select_parameters,
    split_parameters,
    target_outputs,
)
from l3d_core.l3d import reconstruct

CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def assert_same_gradients(got, expected, relative=1e-6):
    """Holds each sample's gradient of each tensor to `relative` of that tensor's largest entry."""
    assert list(got) == list(expected)
    for name in got:
        assert got[name].shape == expected[name].shape
        assert got[name].dtype == torch.float64
        size = float(expected[name].abs().max())
        torch.testing.assert_close(got[name], expected[name], rtol=relative, atol=relative * size)
    assert any(float(g.abs().max()) > 1e-6 for g in expected.values())


def one_backward_each(model, inputs, divergence, names, references):
    """Returns gradients by the slow twin against given references `[n, ..., n_o]`."""
    y_ref = references.reshape(-1, references.shape[-1])
    return reference.gradients(model, inputs, y_ref, reference.DIVERGENCES[divergence], names)


def check_against_backward(model, inputs, divergence, parameters="*", relative=1e-6):
    """Compares gradients with one backward per sample and position, for given reference outputs."""
    with torch.no_grad():
        y = model_outputs(model, {}, inputs)
    references = y + normal(*y.shape, seed=50)
    got = divergence_gradients(model, inputs, divergence, references=references, parameters=parameters)
    expected = one_backward_each(model, inputs, divergence, list(select_parameters(model, parameters)), references)
    assert_same_gradients(got, expected, relative)


def test_linear_model_by_hand():
    # f(x) = W x with W = [[1, 2], [0, 1]] and x = (1, 3): y = (7, 3). Against y_r = (5, 4), mse has
    # dD/dy = 2 (2, -1) / 2 = (2, -1), and dD/dW = (dD/dy) x^T = [[2, 6], [-1, -3]].
    # x = (2, 0): y = (2, 0), against (0, 1): dD/dy = (2, -1), dD/dW = [[4, 0], [-2, 0]].
    model = nn.Linear(2, 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    inputs, references = torch.tensor([[1.0, 3.0], [2.0, 0.0]]).double(), torch.tensor([[5.0, 4.0], [0.0, 1.0]])
    got = divergence_gradients(model, inputs, "mse", references=references.double())
    expected = torch.tensor([[[2.0, 6.0], [-1.0, -3.0]], [[4.0, 0.0], [-2.0, 0.0]]]).double()
    torch.testing.assert_close(got, {"weight": expected}, **CLOSE)


def test_positions_by_hand():
    # f at a position is 3 times its input, n_o = 1, y_r = 0: dD/dw = 2 (w x) x = 6 x^2, one for each position,
    # positions running fastest.
    model = nn.Linear(1, 1, bias=False).double().eval()
    nn.init.constant_(model.weight, 3.0)
    inputs = torch.tensor([[[1.0], [2.0]], [[0.0], [-1.0]]]).double()
    got = divergence_gradients(model, inputs, "mse", references=torch.zeros_like(inputs))
    torch.testing.assert_close(got["weight"].flatten(), torch.tensor([6.0, 24.0, 0.0, 6.0]).double(), **CLOSE)


@pytest.mark.parametrize("divergence", sorted(NAMED))
@pytest.mark.parametrize("case", CASES)
def test_equals_one_backward_per_sample(case, divergence):
    model, inputs, parameters, n_positions, n_o = CASES[case]()
    with torch.no_grad():
        assert reference.outputs(model, inputs[0]).shape == (n_positions, n_o)
    check_against_backward(model, inputs, divergence, parameters, relative=1e-10)


def test_references_from_the_batch_are_those_of_the_loop():
    for case in (mlp(), transformer()):
        with torch.no_grad():
            y = case.model(case.inputs).reshape(-1, case.n_o)
        partners = torch.randint(len(y), (1, len(y)), generator=stream(3))[0]
        names = [name for name, _ in case.model.named_parameters()]
        for kind, divergence in [
            ("sample", "mse"),
            ("mean", "mse"),
            ("uniform", "mse"),
            ("mean", "kl"),
            ("uniform", "kl"),
        ]:
            y_ref = reference.reference_outputs(y, kind, partners, probabilities=divergence == "kl")
            expected = reference.gradients(case.model, case.inputs, y_ref, reference.DIVERGENCES[divergence], names)
            got = divergence_gradients(case.model, case.inputs, divergence, references=kind, seed=3)
            assert_same_gradients(got, expected, 1e-10)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_parameters_without_axes(shape):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return torch.tanh(self.scale * x + self.shift)

    model = seeded(Scaled())
    check_against_backward(model, normal(*shape), "mse", relative=1e-10)


def test_mobilenet_block():
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v3_small(weights=None).double()
        # Statistics of a few images, so that activations keep their size through the layers.
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None
        with torch.no_grad():
            model.train()(normal(16, 3, 32, 32, seed=1))
    model.eval()
    names = select_parameters(model, "features.7.*")
    assert len(names) == 13
    assert sum(w.numel() for w in names.values()) == 21_968
    check_against_backward(model, normal(3, 3, 32, 32, seed=2), "kl", "features.7.*")


def language_model(kind, attention):
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": 17, "hidden_size": 8, "max_position_embeddings": 8, "intermediate_size": 16}
    common |= {"bos_token_id": 0, "eos_token_id": 0, "attn_implementation": attention}
    if kind == "gpt_neo":
        layers = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 3}
        model = transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(**common, **layers))
    else:
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common, **layers))
    return seeded(model)


@pytest.mark.parametrize(
    ("kind", "attention", "parameters", "n_tensors"),
    [
        ("gpt_neo", "eager", "transformer.h.1.attn.*", 5),
        ("gpt_neo", "eager", "transformer.h.1.*", 13),
        ("llama", "eager", "model.layers.1.self_attn.*", 4),
        ("llama", "sdpa", "model.layers.0.self_attn.*", 4),
        ("llama", "sdpa", "model.layers.1.*", 9),
    ],
)
def test_attention_blocks_of_language_models(kind, attention, parameters, n_tensors):
    model = language_model(kind, attention)
    tokens = torch.randint(17, (3, 5), generator=stream(0))
    assert len(select_parameters(model, parameters)) == n_tensors
    check_against_backward(model, tokens, "kl", parameters)


def test_tied_embeddings_of_a_language_model_count_once_with_both_uses():
    model = language_model("gpt_neo", "eager")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert list(select_parameters(model, "lm_head.*")) == ["transformer.wte.weight"]
    check_against_backward(model, torch.randint(17, (2, 4), generator=stream(0)), "kl", "transformer.wte.weight")


@pytest.mark.parametrize("case", ["mlp", "tms_tied", "cnn", "transformer"])
def test_chunk_size_does_not_change_results(case):
    model, inputs, parameters, *_ = CASES[case]()
    whole = divergence_gradients(model, inputs, "kl", parameters=parameters, seed=1)
    for chunk_size in (1, 2, len(inputs), 100):
        parts = divergence_gradients(model, inputs, "kl", parameters=parameters, seed=1, chunk_size=chunk_size)
        torch.testing.assert_close(parts, whole, **CLOSE)


def test_gradient_scales_with_the_normaliser():
    case = mlp()
    with torch.no_grad():
        constant = float(case.model(case.inputs).var(0, correction=0).mean())
    plain = divergence_gradients(case.model, case.inputs, "mse", seed=2)
    normalised = divergence_gradients(case.model, case.inputs, "normalised_mse", seed=2)
    torch.testing.assert_close(normalised, {name: g / constant for name, g in plain.items()}, **CLOSE)


def test_normaliser_and_scale_do_not_change_reconstruction():
    case = mlp()
    v_in, v_out = normal(3, 43, seed=5), normal(3, 43, seed=6)
    errors = []
    for divergence in ("mse", "normalised_mse", lambda y, r: 1e3 * (y - r).square().sum(-1)):
        parts = divergence_gradients(case.model, case.inputs, divergence, seed=2)
        g = torch.cat([part.flatten(1) for part in parts.values()], 1)
        errors.append(reconstruct(g, v_in, v_out, 7, dense=False))
    for other in errors[1:]:
        assert torch.equal(other.kept, errors[0].kept)
        torch.testing.assert_close(other.recon_sq, errors[0].recon_sq, **CLOSE)
        torch.testing.assert_close(other.recon_norm, errors[0].recon_norm, **CLOSE)


def test_own_divergence_equals_the_named_one():
    case = transformer()
    own = divergence_gradients(case.model, case.inputs, lambda y, r: (y - r).square().mean(-1), seed=4)
    torch.testing.assert_close(own, divergence_gradients(case.model, case.inputs, "mse", seed=4), **CLOSE)


def test_selected_parameters_have_the_same_gradients_as_among_all():
    case = mlp()
    every = divergence_gradients(case.model, case.inputs)
    some = divergence_gradients(case.model, case.inputs, parameters="2.*")
    torch.testing.assert_close(some, {name: every[name] for name in ("2.weight", "2.bias")}, **CLOSE)


def test_seed_chooses_the_reference_samples():
    case = mlp(n=20)
    first = divergence_gradients(case.model, case.inputs, seed=0)
    torch.testing.assert_close(first, divergence_gradients(case.model, case.inputs, seed=0), rtol=0, atol=0)
    assert not torch.equal(first["0.weight"], divergence_gradients(case.model, case.inputs, seed=1)["0.weight"])


def test_a_sample_depends_on_no_other_when_references_are_given():
    case = cnn(n=4)
    references = normal(4, case.n_o)
    together = divergence_gradients(case.model, case.inputs, references=references)
    alone = divergence_gradients(case.model, case.inputs[2:3], references=references[2:3])
    torch.testing.assert_close({name: g[2:3] for name, g in together.items()}, alone, **CLOSE)


def test_model_is_left_as_it_was():
    case = cnn()
    before = {name: w.clone() for name, w in case.model.state_dict().items()}
    global_state = torch.get_rng_state()
    g = divergence_gradients(case.model, case.inputs)
    torch.testing.assert_close(dict(case.model.state_dict()), before, rtol=0, atol=0)
    assert all(w.grad is None and w.requires_grad for w in case.model.parameters())
    assert not any(part.requires_grad for part in g.values())
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize("make", [mlp, cnn, transformer])
def test_models_side_by_side_equal_each_alone(make):
    cases = [make(seed=seed) for seed in range(3)]
    target = build_target([case.model for case in cases])
    assert target.n_models == 3
    x = torch.stack([case.inputs for case in cases])
    y = target_outputs(target, x)
    cotangents = normal(*y.shape, seed=9)
    for chunk_size in (None, 2):
        together = sample_gradients(target, x, cotangents, chunk_size)
        for r, case in enumerate(cases):
            alone = build_target([case.model])
            torch.testing.assert_close(target_outputs(alone, x[r][None])[0], y[r], **CLOSE)
            g = sample_gradients(alone, x[r][None], cotangents[r][None])
            torch.testing.assert_close(together[r], g[0], rtol=1e-11, atol=1e-13)


def test_one_model_serves_several_runs_of_inputs():
    case = conv1d()
    target = build_target([case.model])
    x = normal(2, 3, 2, 6, seed=1)
    y = target_outputs(target, x)
    assert y.shape == (2, 3, 4, 3)
    torch.testing.assert_close(y[1], case.model(x[1]).detach(), **CLOSE)
    cotangents = normal(*y.shape, seed=2)
    g = sample_gradients(target, x, cotangents, chunk_size=2)
    for r in range(2):
        alone = sample_gradients(target, x[r][None], cotangents[r][None])
        torch.testing.assert_close(g[r], alone[0], rtol=1e-11, atol=1e-13)


def test_outputs_of_several_position_axes_are_flattened_in_order():
    model = seeded(nn.Linear(3, 2))
    x = normal(1, 2, 4, 5, 3)
    y = target_outputs(build_target([model]), x)
    assert y.shape == (1, 2, 20, 2)
    torch.testing.assert_close(y[0, :, 7], model(x[0, :, 1, 2]).detach(), **CLOSE)


def test_target_shares_storage_with_one_model():
    model = mlp().model
    target = build_target([model], "0.*")
    assert target.w0["0.weight"].data_ptr() == model[0].weight.data_ptr()
    assert target.shapes == {"0.weight": (5, 4), "0.bias": (5,)}
    assert set(target.rest) == {"2.weight", "2.bias"}


def test_buffers_are_kept_with_the_other_parameters():
    target = build_target([cnn().model], "0.*")
    assert {"1.running_mean", "1.running_var"} <= set(target.rest)


def test_select_parameters_by_patterns():
    model = mlp().model
    assert list(select_parameters(model)) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert list(select_parameters(model, ["2.*", "*.bias"])) == ["0.bias", "2.weight", "2.bias"]
    assert select_parameters(model, "0.weight")["0.weight"] is model[0].weight


def test_select_parameters_finds_a_tied_one_by_either_name():
    model = nn.Module()
    model.first, model.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    model.second.weight = model.first.weight
    assert list(select_parameters(model, "second.*")) == ["first.weight"]
    assert list(select_parameters(model, "*")) == ["first.weight"]


def test_select_parameters_leaves_integers_out():
    model = mlp().model
    model.counts = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)
    assert "counts" not in select_parameters(model)


def test_split_parameters_restores_shapes_and_order():
    flat = torch.arange(14.0).reshape(2, 7)
    parts = split_parameters(flat, {"a": (2, 2), "b": (), "c": (1, 2)})
    assert parts["a"].tolist() == [[[0.0, 1.0], [2.0, 3.0]], [[7.0, 8.0], [9.0, 10.0]]]
    assert parts["b"].tolist() == [4.0, 11.0]
    assert parts["c"].tolist() == [[[5.0, 6.0]], [[12.0, 13.0]]]


def test_outputs_in_an_object_with_logits():
    class Wrapped(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return type("Output", (), {"logits": self.model(x)})()

    case = mlp()
    plain = divergence_gradients(case.model, case.inputs)
    wrapped = divergence_gradients(Wrapped(case.model).eval(), case.inputs)
    torch.testing.assert_close(wrapped, {f"model.{name}": g for name, g in plain.items()}, **CLOSE)


def test_no_parameter_matches():
    with pytest.raises(
        ValueError, match=r"no parameter matches \['head.\*'\]; the model has 4 parameters: 0.weight, 0.b"
    ):
        select_parameters(mlp().model, "head.*")


def test_target_is_no_module():
    with pytest.raises(TypeError, match="the target is a function; expected a torch.nn.Module"):
        check_model(mlp)
    with pytest.raises(TypeError, match="the target is a str; expected"):
        divergence_gradients("model", normal(3, 4))


def test_training_mode_even_of_a_part():
    case = cnn()
    case.model[1].train()
    with pytest.raises(ValueError, match=r"'1' is in training mode \(one of 1 modules\).*Call model.eval\(\)"):
        divergence_gradients(case.model, case.inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value):
    case = cnn()
    with torch.no_grad():
        case.model[0].bias[1] = value
    with pytest.raises(ValueError, match="'0.bias' holds NaN or infinite values; expected finite weights"):
        divergence_gradients(case.model, case.inputs)


def test_buffers_that_are_not_finite():
    case = cnn()
    case.model[1].running_var[0] = float("inf")
    with pytest.raises(ValueError, match="'1.running_var' holds NaN or infinite values"):
        check_model(case.model)


def test_models_of_different_architecture():
    with pytest.raises(ValueError, match="model 1 differs from model 0 in .*; expected one architecture"):
        build_target([mlp().model, tms().model])


def test_inputs_of_the_wrong_kind_or_number():
    with pytest.raises(TypeError, match="inputs are a list; expected one tensor"):
        check_inputs([1.0])
    with pytest.raises(ValueError, match="got 0 inputs; expected at least 1"):
        check_inputs(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="got 0 inputs; expected at least 1"):
        check_inputs(torch.tensor(1.0))
    with pytest.raises(ValueError, match="got 1 inputs; expected at least 2"):
        check_inputs(torch.zeros(1, 3), minimum=2)
    with pytest.raises(ValueError, match="inputs hold NaN or infinite values"):
        divergence_gradients(mlp().model, torch.full((2, 4), torch.nan).double())
    check_inputs(torch.zeros(2, 3, dtype=torch.long), minimum=2)


@pytest.mark.parametrize(("case", "shape"), [("mlp", r"\(6, 3\)"), ("transformer", r"\(3, 5, 7\)")])
def test_references_of_another_shape(case, shape):
    case = CASES[case]()
    with pytest.raises(ValueError, match=rf"reference outputs have shape \(2, 2\); expected .* {shape}: one reference"):
        divergence_gradients(case.model, case.inputs, references=normal(2, 2))


def test_check_references_arranges_them_as_outputs():
    y = torch.zeros(1, 2, 3, 4)
    references = normal(2, 3, 4).requires_grad_()
    arranged = check_references(references, y)
    assert arranged.shape == (1, 2, 3, 4)
    assert not arranged.requires_grad
    assert torch.equal(arranged[0], references.detach())
    assert check_references(normal(2, 4), torch.zeros(1, 2, 1, 4)).shape == (1, 2, 1, 4)


def test_unknown_reference_and_divergence():
    case = mlp()
    with pytest.raises(ValueError, match="reference 'zero' is unknown"):
        divergence_gradients(case.model, case.inputs, references="zero")
    with pytest.raises(ValueError, match="divergence 'l1' is unknown"):
        divergence_gradients(case.model, case.inputs, "l1")
    with pytest.raises(TypeError, match="divergence is a NoneType"):
        divergence_gradients(case.model, case.inputs, None)


@pytest.mark.parametrize(("result", "got"), [(torch.zeros(3), r"\(3,\)"), ("text", "no tensor and no .logits")])
def test_outputs_that_are_no_vectors(result, got):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return result

    with pytest.raises(ValueError, match=rf"the model returned {got}; expected outputs \[n_s, n_o\]"):
        divergence_gradients(Odd().eval(), torch.zeros(3, 2))


def test_custom_divergence_resolves_before_gradients():
    case = mlp()
    d = resolve_divergence("kl")
    by_name = divergence_gradients(case.model, case.inputs, "kl", references="mean")
    torch.testing.assert_close(divergence_gradients(case.model, case.inputs, d, references="mean"), by_name, **CLOSE)


def test_models_of_equal_shapes_but_other_modules_are_refused():
    """The first model's forward serves all, so that a second activation would be ignored in silence."""
    models = [nn.Sequential(nn.Linear(3, 4), f(), nn.Linear(4, 2)).eval() for f in (nn.ReLU, nn.Tanh)]
    with pytest.raises(ValueError, match=r"(?s)model 1 has other modules than model 0: .*; expected one architecture"):
        build_target(models)
