import pytest
import reference
import torch
from cases import SHAPES, gradients, normal, stream

from l3d_core.tucker import (
    Layout,
    TuckerDirections,
    dense_matrix,
    direction_norms,
    normalising_scale,
    resolve_ranks,
)

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
RANKS = {
    "one": {name: (1,) * len(shape) for name, shape in SHAPES.items()},
    "two": {name: (2,) * len(shape) for name, shape in SHAPES.items()},
    "mixed": {"a": (2,), "b": (3, 2), "c": (1, 3, 4), "d": (2, 1, 2, 3)},
}
LAYOUTS = [("tucker", "one"), ("tucker", "two"), ("tucker", "mixed"), ("cp", "one"), ("cp", "two")]


def directions(form="tucker", ranks="mixed", n_v=3, lead=(), seed=0, shapes=None):
    shapes = shapes or SHAPES
    layout = Layout(shapes, {name: RANKS[ranks][name] for name in shapes}, form)
    return TuckerDirections(layout, normal(*lead, n_v, layout.n_numbers, seed=seed))


def twin(v, flat=None):
    """Returns the dense tensors by explicit sums, one dict per direction."""
    return reference.dense_directions(v.flat if flat is None else flat, v.layout.shapes, v.layout.ranks, v.layout.form)


def test_tucker_by_hand():
    # Core G = [[2, 1], [0, 3]], U_1 = [[1, 0, 1], [0, 1, 1]] (rows a), U_2 = [[1, 2], [1, -1]] (rows b).
    # T[i, j] = sum_ab G[a, b] U_1[a, i] U_2[b, j]: G U_2 = [[3, 3], [3, -3]], and U_1^T times it has the rows
    # (3, 3), (3, -3) and their sum (6, 0).
    layout = Layout({"w": (3, 2)}, {"w": (2, 2)})
    flat = torch.tensor([[2, 1, 0, 3, 1, 0, 1, 0, 1, 1, 1, 2, 1, -1]], dtype=torch.float64)
    v = TuckerDirections(layout, flat)
    assert v.dense()["w"].tolist() == [[[3.0, 3.0], [3.0, -3.0], [6.0, 0.0]]]
    assert v.matrix().tolist() == [[3.0, 3.0, 3.0, -3.0, 6.0, 0.0]]
    # 4 * 9 + 36 = 72 is its squared length, so is its Gram entry.
    assert v.gram().tolist() == [[72.0]]
    assert v.norms().item() == pytest.approx(72**0.5, rel=1e-12)


def test_tucker_of_order_three_by_hand():
    # Rank 1: core 2, factors (1, 3), (1, -1) and (0, 5): T[i, j, l] = 2 a_i b_j c_l.
    layout = Layout({"w": (2, 2, 2)}, {"w": (1, 1, 1)})
    v = TuckerDirections(layout, torch.tensor([[2.0, 1, 3, 1, -1, 0, 5]], dtype=torch.float64))
    assert v.dense()["w"].tolist() == [[[[0.0, 10.0], [0.0, -10.0]], [[0.0, 30.0], [0.0, -30.0]]]]


def test_polyadic_by_hand():
    # (1, 2) outer (1, 0, 1) + (0, 1) outer (3, 1, 0) = [[1, 0, 1], [2, 0, 2]] + [[0, 0, 0], [3, 1, 0]].
    layout = Layout({"w": (2, 3)}, {"w": (2, 2)}, "cp")
    v = TuckerDirections(layout, torch.tensor([[1.0, 2, 0, 1, 1, 0, 1, 3, 1, 0]], dtype=torch.float64))
    assert v.dense()["w"].tolist() == [[[1.0, 0.0, 1.0], [5.0, 1.0, 2.0]]]


def test_project_and_combine_by_hand():
    # Directions of one axis: core times factor, 2 (1, 0, 1) = (2, 0, 2) and -1 (0, 3, 1) = (0, -3, -1).
    v = TuckerDirections(
        Layout({"w": (3,)}, {"w": (1,)}), torch.tensor([[2.0, 1, 0, 1], [-1.0, 0, 3, 1]], dtype=torch.float64)
    )
    # (1, 2, 3) . (2, 0, 2) = 8; (1, 2, 3) . (0, -3, -1) = -9.
    assert v.project({"w": torch.tensor([[1.0, 2, 3]], dtype=torch.float64)}).tolist() == [[8.0, -9.0]]
    # 3 (2, 0, 2) + 2 (0, -3, -1) = (6, -6, 4).
    assert v.combine(torch.tensor([[3.0, 2.0]], dtype=torch.float64))["w"].tolist() == [[6.0, -6.0, 4.0]]
    # |(2, 0, 2)|^2 = 8, |(0, -3, -1)|^2 = 10, their product -2.
    assert v.gram().tolist() == [[8.0, -2.0], [-2.0, 10.0]]


def test_norms_by_hand():
    # Tensors (3, 4) and (12): Euclidean sqrt(9 + 16 + 144) = 13, sum of the tensors' norms 5 + 12 = 17.
    layout = Layout({"a": (2,), "b": (1,)}, {"a": (1,), "b": (1,)})
    flat = torch.tensor([[1.0, 3.0, 4.0, 2.0, 6.0]], dtype=torch.float64)  # Cores 1 and 2, factors (3, 4) and (6).
    assert direction_norms(layout, flat, "l2").tolist() == [13.0]
    assert direction_norms(layout, flat, "tensor_sum").tolist() == [17.0]


def test_layout_sizes_by_hand():
    # Tucker: a 2 + 2*3; b 6 + 3*4 + 2*3; c 12 + 1*2 + 3*3 + 4*4; d 12 + 2*3 + 1*2 + 2*2 + 3*3 = 8 + 24 + 39 + 33.
    v = directions("tucker", "mixed")
    assert v.layout.n_numbers == 104
    # cp, rank 2: 2 * ((3) + (4 + 3) + (2 + 3 + 4) + (3 + 2 + 2 + 3)) = 2 * 29.
    assert directions("cp", "two").layout.n_numbers == 58
    # 3 + 12 + 24 + 36.
    assert v.layout.n_w == 75
    assert v.n_v == 3


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
def test_dense_equals_explicit_sums(form, ranks):
    v = directions(form, ranks)
    dense, expected = v.dense(), twin(v)
    assert list(dense) == list(SHAPES)
    for i in range(v.n_v):
        torch.testing.assert_close({name: t[i] for name, t in dense.items()}, expected[i], **CLOSE)
    rows = [torch.cat([t.flatten() for t in direction.values()]) for direction in expected]
    torch.testing.assert_close(v.matrix(), torch.stack(rows), **CLOSE)


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
@pytest.mark.parametrize("name", SHAPES)
def test_project_combine_gram_and_norms_equal_dense_arithmetic(name, form, ranks):
    v = directions(form, ranks, shapes={name: SHAPES[name]})
    check_against_twin(v, {name: gradients()[name]})


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
def test_several_tensors_together_equal_dense_arithmetic(form, ranks):
    check_against_twin(directions(form, ranks), gradients())


def check_against_twin(v, g):
    dense = twin(v)
    torch.testing.assert_close(v.project(g), reference.project(g, dense), **CLOSE)
    z = normal(5, v.n_v, seed=9)
    torch.testing.assert_close(v.combine(z), reference.combine(z, dense), **CLOSE)
    gram = torch.tensor([[reference.inner(a, b) for b in dense] for a in dense], dtype=torch.float64)
    torch.testing.assert_close(v.gram(), gram, **CLOSE)
    for kind in ("l2", "tensor_sum"):
        expected = torch.tensor([reference.norm(direction, kind) for direction in dense], dtype=torch.float64)
        torch.testing.assert_close(v.norms(kind), expected, **CLOSE)


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_leading_axes_are_independent_runs(lead, form, ranks):
    v = directions(form, ranks, lead=lead)
    g, z = gradients(lead=lead), normal(*lead, 5, v.n_v, seed=9)
    dense, combined, projected = v.dense(), v.combine(z), v.project(g)
    assert projected.shape == (*lead, 5, v.n_v)
    for run in torch.cartesian_prod(*map(torch.arange, lead)).reshape(-1, len(lead)).tolist():
        run = tuple(run)
        expected = twin(v, v.flat[run])
        for i in range(v.n_v):
            torch.testing.assert_close({name: t[run][i] for name, t in dense.items()}, expected[i], **CLOSE)
        one = {name: part[run] for name, part in g.items()}
        torch.testing.assert_close(projected[run], reference.project(one, expected), **CLOSE)
        torch.testing.assert_close(
            {name: t[run] for name, t in combined.items()}, reference.combine(z[run], expected), **CLOSE
        )
        alone = TuckerDirections(v.layout, v.flat[run])
        torch.testing.assert_close(v.gram()[run], alone.gram(), **CLOSE)
        for kind in ("l2", "tensor_sum"):
            torch.testing.assert_close(v.norms(kind)[run], alone.norms(kind), **CLOSE)


def test_a_number_without_axes_is_a_direction_too():
    layout = Layout({"scale": (), "b": (2,)}, {"scale": (), "b": (1,)})
    v = TuckerDirections(layout, torch.tensor([[5.0, 2.0, 1.0, 3.0]], dtype=torch.float64))
    # The core alone for the number; 2 (1, 3) for the vector.
    assert v.matrix().tolist() == [[5.0, 2.0, 6.0]]
    assert v.dense()["scale"].shape == (1,)
    # 2 * 5 + (1, 1) . (2, 6) = 18 for a gradient of 2 and (1, 1).
    g = {"scale": torch.tensor([2.0], dtype=torch.float64), "b": torch.ones(1, 2, dtype=torch.float64)}
    assert v.project(g).tolist() == [[18.0]]
    assert v.combine(torch.tensor([[3.0]], dtype=torch.float64))["scale"].tolist() == [15.0]
    polyadic = TuckerDirections(
        Layout(layout.shapes, layout.ranks, "cp"), torch.tensor([[5.0, 1.0, 3.0]], dtype=torch.float64)
    )
    assert polyadic.matrix().tolist() == [[5.0, 1.0, 3.0]]


def test_single_precision_stays_single():
    v = directions()
    single = TuckerDirections(v.layout, v.flat.float())
    assert single.matrix().dtype == torch.float32
    assert single.normalised("tensor_sum").flat.dtype == torch.float32


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_scaled_multiplies_the_dense_directions(lead, form, ranks):
    v = directions(form, ranks, lead=lead)
    scale = normal(*lead, v.n_v, seed=5).abs() + 0.1
    torch.testing.assert_close(v.scaled(scale).matrix(), v.matrix() * scale.unsqueeze(-1), **CLOSE)


def test_shares_by_hand():
    # Tucker of two axes: core and two factors, a third each; of one axis: a half each. They add up to 1 per entry.
    layout = Layout({"w": (2, 2), "b": (2,)}, {"w": (1, 1), "b": (1,)})
    torch.testing.assert_close(layout.shares(), torch.tensor([1 / 3] * 5 + [1 / 2] * 3, dtype=torch.float64), **CLOSE)
    polyadic = Layout({"w": (2, 2), "b": (2,)}, {"w": (1, 1), "b": (1,)}, "cp")
    torch.testing.assert_close(polyadic.shares(), torch.tensor([1 / 2] * 4 + [1.0] * 2, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize(("form", "ranks"), LAYOUTS)
def test_normalised_to_l2_length_one_keeps_directions(form, ranks):
    v = directions(form, ranks)
    unit = v.normalised("l2")
    torch.testing.assert_close(unit.norms("l2"), torch.ones(3).double(), **CLOSE)
    torch.testing.assert_close(unit.matrix() * v.norms("l2")[:, None], v.matrix(), **CLOSE)


def test_normalised_by_tensor_sum_takes_the_root():
    v = directions()
    before = v.norms("tensor_sum")
    once = v.normalised("tensor_sum")
    torch.testing.assert_close(once.norms("tensor_sum"), before.sqrt(), **CLOSE)
    for _ in range(60):
        once = once.normalised("tensor_sum")
    torch.testing.assert_close(once.norms("tensor_sum"), torch.ones(3).double(), **CLOSE)


def test_direction_of_length_zero_is_left():
    v = directions()
    flat = v.flat.clone()
    flat[1] = 0
    for kind in ("l2", "tensor_sum"):
        got = TuckerDirections(v.layout, flat).normalised(kind)
        assert torch.equal(got.flat[1], torch.zeros_like(flat[1]))
        assert torch.isfinite(got.flat).all()


def test_normalising_scale_by_hand():
    # 1/4 or 1/sqrt(4), chosen for each run; 1 for a length of zero.
    norms = torch.tensor([[4.0, 0.0], [4.0, 25.0]], dtype=torch.float64)
    halved = torch.tensor([[False], [True]])
    assert normalising_scale(norms, halved).tolist() == [[0.25, 1.0], [0.5, pytest.approx(0.2)]]
    assert normalising_scale(norms[0], False).tolist() == [0.25, 1.0]


def test_draw_is_normal_with_deviation_one_over_n_v():
    # 20,000 numbers: their standard deviation is known to 1 / sqrt(40,000) = 0.5 %, the mean to 0.1 / 141.
    layout = Layout({"w": (1000, 1000)}, {"w": (1, 1)})
    drawn = layout.draw(10, stream(0))
    assert drawn.shape == (10, 2001)
    assert drawn.dtype == torch.float64
    assert float(drawn.std()) == pytest.approx(0.1, rel=0.025)
    assert abs(float(drawn.mean())) < 0.004
    assert torch.equal(drawn, layout.draw(10, stream(0)))


@pytest.mark.parametrize(("form", "small", "large"), [("tucker", "one", "mixed"), ("cp", "one", "two")])
def test_padding_ranks_with_zeros_keeps_the_directions(form, small, large):
    inner = directions(form, small)
    outer = Layout(SHAPES, RANKS[large], form)
    where = outer.positions_of(inner.layout)
    assert where.shape == (inner.layout.n_numbers,)
    assert len(where.unique()) == len(where)
    flat = torch.zeros(inner.n_v, outer.n_numbers).double()
    flat[:, where] = inner.flat
    torch.testing.assert_close(dense_matrix(outer, flat), inner.matrix(), **CLOSE)
    torch.testing.assert_close(flat[:, where], inner.flat, rtol=0, atol=0)


def test_positions_by_hand():
    # Outer: core 2 x 2 at 0..3, U_1 2 x 2 at 4..7, U_2 2 x 1 at 8..9... with shape (2, 3): U_2 is 2 x 3 at 8..13.
    # Inner ranks (1, 2): core row 0 is 0, 1; U_1 row 0 is 4, 5; U_2 whole is 8..13.
    outer, inner = Layout({"w": (2, 3)}, {"w": (2, 2)}), Layout({"w": (2, 3)}, {"w": (1, 2)})
    assert outer.positions_of(inner).tolist() == [0, 1, 4, 5, *range(8, 14)]
    # Inner ranks (2, 1): core column 0 is 0, 2; U_1 whole is 4..7; U_2 row 0 is 8..10.
    inner = Layout({"w": (2, 3)}, {"w": (2, 1)})
    assert outer.positions_of(inner).tolist() == [0, 2, 4, 5, 6, 7, 8, 9, 10]
    assert outer.positions_of(outer).tolist() == list(range(14))


def test_ranks_as_one_number():
    assert resolve_ranks(SHAPES, 2) == RANKS["two"]


def test_ranks_as_a_fraction_of_each_axis():
    # Half of each axis, rounded down and at least 1: 3 -> 1, 4 -> 2, 2 -> 1.
    assert resolve_ranks(SHAPES, 0.5) == {"a": (1,), "b": (2, 1), "c": (1, 1, 2), "d": (1, 1, 1, 1)}
    assert resolve_ranks(SHAPES, 1.0) == SHAPES
    # 0.29 * 100 is 28.999999999999996 in floating point, and 29 is meant.
    assert resolve_ranks({"w": (100, 10)}, 0.29) == {"w": (29, 2)}
    assert resolve_ranks({"w": (64, 768)}, 0.1) == {"w": (6, 76)}


def test_ranks_by_pattern_the_first_match_counting():
    ranks = {"b": (3, 2), "c": [1, 2, 4], "[ad]": 2, "*": 1}
    assert resolve_ranks(SHAPES, ranks) == {"a": (2,), "b": (3, 2), "c": (1, 2, 4), "d": (2, 2, 2, 2)}
    assert resolve_ranks(SHAPES, {"*": 1, "b": 2})["b"] == (1, 1)
    assert resolve_ranks(SHAPES, {"*": 0.5})["c"] == (1, 1, 2)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (3, r"rank \(3, 3, 3\) for 'c' does not fit its shape \(2, 3, 4\); expected 1 <= rank <= length"),
        (0, r"rank \(0,\) for 'a' does not fit its shape \(3,\)"),
        (-1, r"rank \(-1,\) for 'a' does not fit"),
        (1.5, r"rank 1.5 for 'a' is not in \(0, 1\]; expected a fraction of each axis"),
        (0.0, r"rank 0.0 for 'a' is not in \(0, 1\]"),
        ({"*": (2, 2)}, r"rank \(2, 2\) for 'a' has 2 entries; expected one per axis of \(3,\)"),
        ({"b": (4, 4), "*": 1}, r"rank \(4, 4\) for 'b' does not fit its shape \(4, 3\)"),
        ({"a": 1}, "no rank for 'b' in {'a': 1}; expected a pattern that matches it"),
    ],
)
def test_ranks_that_do_not_fit(rank, message):
    with pytest.raises(ValueError, match=message):
        resolve_ranks(SHAPES, rank)


def test_unknown_form():
    with pytest.raises(ValueError, match="form 'svd' is unknown; expected 'tucker' or 'cp'"):
        Layout(SHAPES, RANKS["one"], "svd")


def test_polyadic_form_with_uneven_ranks():
    with pytest.raises(ValueError, match=r"form 'cp' got ranks \(3, 2\) for 'b'; expected the same rank on every axis"):
        Layout(SHAPES, RANKS["mixed"], "cp")


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm 'l1' is unknown; expected 'l2' or 'tensor_sum'"):
        directions().norms("l1")


def test_gradients_of_other_names_or_shapes():
    v, g = directions(), gradients()
    with pytest.raises(ValueError, match=r"gradients of 'c': got nothing; expected \[..., n_s, \(2, 3, 4\)\]"):
        v.project({name: part for name, part in g.items() if name != "c"})
    with pytest.raises(ValueError, match=r"gradients of 'b': got \(5, 3, 4\); expected \[..., n_s, \(4, 3\)\]"):
        v.project({**g, "b": g["b"].mT})


def test_permuting_directions_permutes_results():
    v, order = directions(), torch.tensor([2, 0, 1])
    permuted = TuckerDirections(v.layout, v.flat[order])
    g = gradients()
    torch.testing.assert_close(permuted.project(g), v.project(g)[:, order], **CLOSE)
    torch.testing.assert_close(permuted.gram(), v.gram()[order][:, order], **CLOSE)
    z = normal(5, 3)
    torch.testing.assert_close(permuted.combine(z[:, order]), v.combine(z), **CLOSE)
