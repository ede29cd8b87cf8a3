import math

import pytest
import reference
import torch
from cases import normal

from l3d_core.divergences import (
    NAMED,
    Divergence,
    half_reference_mse,
    half_reference_mse_cotangent,
    half_reference_mse_parts,
    kl,
    kl_cotangent,
    kl_parts,
    mse,
    mse_cotangent,
    mse_parts,
    normalised_mse,
    normalised_mse_cotangent,
    output_variance,
    resolve_divergence,
)
from l3d_core.references import reference_outputs

Y, Y_REF = torch.tensor([1.0, 4.0]).double(), torch.tensor([3.0, 1.0]).double()
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def close(got, expected):
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=torch.float64), **CLOSE)


def test_mse_by_hand():
    # y - y_ref = (-2, 3): D = (4 + 9) / 2; dD/dy = 2 (-2, 3) / 2.
    close(mse(Y, Y_REF), 6.5)
    close(mse_cotangent(Y, Y_REF), [-2.0, 3.0])


def test_half_reference_mse_by_hand():
    # y - y_ref / 2 = (-0.5, 3.5): D = (0.25 + 12.25) / 2; dD/dy = (2 - 3, 8 - 1) / 2.
    close(half_reference_mse(Y, Y_REF), 6.25)
    close(half_reference_mse_cotangent(Y, Y_REF), [-0.5, 3.5])


def test_normalised_mse_by_hand():
    # mse 6.5 and its derivative (-2, 3), each divided by 4.
    close(normalised_mse(Y, Y_REF, variance=4.0), 1.625)
    close(normalised_mse_cotangent(Y, Y_REF, variance=4.0), [-0.5, 0.75])


def test_kl_by_hand():
    # p = (3/4, 1/4) and q = (1/4, 3/4): KL(q || p) = 1/4 log(1/3) + 3/4 log 3 = log(3) / 2; dD/dy = p - q.
    y, y_ref = torch.tensor([3.0, 1.0]).double().log(), torch.tensor([1.0, 3.0]).double().log()
    close(kl(y, y_ref), math.log(3) / 2)
    close(kl_cotangent(y, y_ref), [0.5, -0.5])


def test_kl_weighs_by_the_reference():
    # p = (1/2, 1/2) and q = (9/10, 1/10): KL(q || p) = 0.9 log 1.8 + 0.1 log 0.2; KL(p || q) = 0.5 log(25 / 9) differs.
    y, y_ref = torch.zeros(2).double(), torch.tensor([9.0, 1.0]).double().log()
    close(kl(y, y_ref), 0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    close(kl(y_ref, y), 0.5 * math.log(25 / 9))


def test_output_variance_by_hand():
    # Three samples: output 0 takes 0, 3, 6 with variance (9 + 0 + 9) / 3 = 6; output 1 takes 1, 1, 4 with mean 2
    # and variance (1 + 1 + 4) / 3 = 2. Their mean is 4.
    outputs = torch.tensor([[0.0, 1.0], [3.0, 1.0], [6.0, 4.0]]).double()
    assert output_variance(outputs) == pytest.approx(4.0, rel=1e-12)
    assert output_variance(outputs[:, None]) == pytest.approx(4.0, rel=1e-12)


def test_output_variance_ignores_differences_between_outputs():
    # Outputs 0 and 100 never vary over samples but by 1 and by 0: ((1/4) + 0) / 2.
    assert output_variance(torch.tensor([[0.0, 100.0], [1.0, 100.0]]).double()) == pytest.approx(0.125)


@pytest.mark.parametrize("name", ["mse", "kl"])
def test_value_equals_loop(name):
    y, y_ref = normal(2, 3, 5, seed=1), normal(2, 3, 5, seed=2)
    close(NAMED[name].value(y, y_ref), reference.per_vector(reference.DIVERGENCES[name], y, y_ref))


def test_half_reference_mse_equals_loop_up_to_a_constant_of_the_reference():
    y, y_ref = normal(2, 3, 5, seed=1), normal(2, 3, 5, seed=2)
    loop = reference.per_vector(reference.half_reference_mse, y, y_ref)
    close(half_reference_mse(y, y_ref), loop + (y_ref / 2).square().mean(-1))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_cotangent_equals_derivative_of_loop(name):
    y, y_ref = normal(2, 3, 5, seed=3).requires_grad_(), normal(2, 3, 5, seed=4)
    reference.per_vector(reference.DIVERGENCES[name], y, y_ref).sum().backward()
    close(NAMED[name].cotangent(y.detach(), y_ref), y.grad)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_cotangent_is_derivative_of_own_value(name):
    y, y_ref = normal(4, 5, seed=5).requires_grad_(), normal(4, 5, seed=6)
    NAMED[name].value(y, y_ref).sum().backward()
    close(NAMED[name].cotangent(y.detach(), y_ref), y.grad)


@pytest.mark.parametrize("name", ["mse", "kl"])
def test_divergence_from_itself_is_zero_with_zero_cotangent(name):
    y = normal(4, 5)
    close(NAMED[name].value(y, y), torch.zeros(4))
    close(NAMED[name].cotangent(y, y), torch.zeros(4, 5))


def test_kl_ignores_a_shift_of_logits_and_survives_large_ones():
    y, y_ref = normal(4, 5, seed=1), normal(4, 5, seed=2)
    torch.testing.assert_close(kl(y + 1e4, y_ref - 1e4), kl(y, y_ref), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(kl_cotangent(y + 1e4, y_ref - 1e4), kl_cotangent(y, y_ref), rtol=1e-10, atol=1e-11)


def test_normalised_mse_is_mse_over_one_constant():
    y, y_ref, outputs = normal(2, 3, 5, seed=1), normal(2, 3, 5, seed=2), 3 * normal(2, 50, 5, seed=3)
    d = resolve_divergence("normalised_mse", outputs)
    # The loop: variance over the 100 samples of each output, then the mean over the 5 outputs.
    columns = outputs.reshape(100, 5).T.tolist()
    means = [sum(column) / 100 for column in columns]
    constant = sum(sum((v - m) ** 2 for v in c) / 100 for c, m in zip(columns, means, strict=True)) / 5
    assert constant > 5
    close(d.value(y, y_ref), mse(y, y_ref) / constant)
    close(d.cotangent(y, y_ref), mse_cotangent(y, y_ref) / constant)
    assert d.name == "normalised_mse"


def test_names_resolve_to_themselves():
    assert resolve_divergence("mse") == Divergence("mse", mse, mse_cotangent, mse_parts)
    assert resolve_divergence("kl") == Divergence("kl", kl, kl_cotangent, kl_parts)
    half = Divergence("half_reference_mse", half_reference_mse, half_reference_mse_cotangent, half_reference_mse_parts)
    assert resolve_divergence("half_reference_mse") == half
    assert resolve_divergence(half) is half


@pytest.mark.parametrize("name", ["mse", "half_reference_mse", "kl", "normalised_mse"])
def test_parts_are_the_two_terms_of_the_cotangent(name):
    y, y_ref = normal(6, 5), normal(6, 5, seed=1)
    d = resolve_divergence(name, y)
    own, other = d.parts(y)[0], d.parts(y_ref)[1]
    close(own - other, d.cotangent(y, y_ref))
    # Of a mean reference, it is the mean of the parts.
    mean = reference_outputs(y, "mean", probabilities=name == "kl")
    close(own - d.parts(y)[1].mean(0), d.cotangent(y, mean))


def test_parts_by_hand():
    # y = (1, 4), 2 outputs: 2 y / 2 and y / 2; log 3 and 0 have the probabilities 3/4 and 1/4.
    own, other = resolve_divergence("half_reference_mse").parts(Y[None])
    close(own, [[1.0, 4.0]])
    close(other, [[0.5, 2.0]])
    own, other = resolve_divergence("kl").parts(torch.tensor([[3.0, 1.0]]).double().log())
    close(own, [[0.75, 0.25]])
    close(other, [[0.75, 0.25]])
    assert resolve_divergence(lambda y, r: (y - r).abs().sum(-1)).parts is None


def test_own_function_gets_its_derivative():
    def fourth_power(y, y_ref):
        return (y - y_ref).pow(4).sum(-1)

    d = resolve_divergence(fourth_power)
    # (1 - 3)^4 + (4 - 1)^4 = 16 + 81; 4 (-2)^3 and 4 * 3^3.
    close(d.value(Y[None], Y_REF[None]), [97.0])
    close(d.cotangent(Y[None], Y_REF[None]), [[-32.0, 108.0]])
    assert d.name == "fourth_power"


def test_own_function_sees_rows_of_samples_whatever_the_leading_axes():
    def own(y, y_ref):
        assert y.ndim == 2
        return (y - y_ref).square().mean(-1)

    y, y_ref = normal(2, 3, 4, 5, seed=1), normal(2, 3, 4, 5, seed=2)
    d = resolve_divergence(own)
    close(d.value(y, y_ref), mse(y, y_ref))
    close(d.cotangent(y, y_ref), mse_cotangent(y, y_ref))


def test_own_function_treats_the_reference_as_a_constant():
    d = resolve_divergence(lambda y, y_ref: (y * y_ref).sum(-1))
    y = normal(3, 4).requires_grad_()
    # With the reference tied to y the derivative of y y_ref would be 2 y; held constant it is y.
    got = d.cotangent(y, y)
    close(got, y.detach())
    assert not got.requires_grad


def test_own_function_works_where_gradients_are_off():
    d = resolve_divergence(lambda y, y_ref: (y - y_ref).square().mean(-1))
    with torch.no_grad():
        close(d.cotangent(Y[None], Y_REF[None]), [[-2.0, 3.0]])


@pytest.mark.parametrize("own", [lambda y, r: (y - r).square().mean(), lambda y, r: (y - r).square()])
def test_own_function_that_does_not_give_one_value_per_sample(own):
    with pytest.raises(ValueError, match=r"expected one value per sample, shape \(3,\).*Reduce over outputs only"):
        resolve_divergence(own).cotangent(normal(3, 4), normal(3, 4))


def test_own_function_that_returns_no_tensor():
    with pytest.raises(ValueError, match="the divergence returned float; expected one value per sample"):
        resolve_divergence(lambda y, r: 1.0).value(normal(3, 4), normal(3, 4))


def test_unknown_name():
    with pytest.raises(ValueError, match="'mae' is unknown; expected one of .*'kl', 'mse', 'normalised_mse'"):
        resolve_divergence("mae")


def test_neither_name_nor_function():
    with pytest.raises(TypeError, match="divergence is a int; expected a name"):
        resolve_divergence(3)


def test_normalised_mse_without_outputs():
    with pytest.raises(ValueError, match="normalised_mse got no outputs"):
        resolve_divergence("normalised_mse")


def test_normalised_mse_of_outputs_that_do_not_vary():
    with pytest.raises(ValueError, match="variance of the outputs, which is 0.0 .*expected outputs that differ"):
        resolve_divergence("normalised_mse", torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
