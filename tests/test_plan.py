"""Which tensors are worked on together and how: bundles, padding, paths by counted operations, budgets, pins."""

from dataclasses import replace

import pytest
import torch
from reference_training import mixer, mlp, normal
from torch import nn

from l3d_core import bundles as bundles_module
from l3d_core.bundles import Bundle, Fact, Sizes, bundle_tensors, choose_path, pinned
from l3d_core.gradients import build_target
from l3d_core.l3d import L3DConfig
from l3d_core.probe import pass_numbers
from l3d_core.runs import Run, build_program
from l3d_core.training import fit
from l3d_core.tucker import Layout, resolve_ranks

GIB = 2**30


def bundled(shapes, rank=1, form="tucker", n_positions=1, n_rows=1, pins=None, whole=(), left_axis=None, padded=False):
    """Returns the bundles of tensors of these shapes."""
    layout = Layout(shapes, resolve_ranks(shapes, rank), form)
    axes = left_axis or {}
    facts = {
        name: None if name in whole else Fact(axes.get(name, 0), n_rows if len(shape) > 1 else 1)
        for name, shape in shapes.items()
    }
    return bundle_tensors(layout, facts, n_positions, pins, padded=padded)


def one(**changes):
    """Returns the bundle of one 6 x 4 matrix of rank 2, and sizes of 3 directions and 5 inputs of 2 positions."""
    base = Bundle(("w",), 6, 4, (2, 2), True, (False,), (3,), n_rows=2, factored=True)
    return replace(base, **changes), Sizes(n_sources=1, n_shared=1, n_v=3, n_inputs=5, n_positions=2)


# --- bundles ----------------------------------------------------------------------------------------------------


def test_tensors_that_act_once_can_be_padded_to_one_shape():
    # 5 x 2, 2 x 5 turned, and a vector of 5, which is 5 x 1.
    shapes, rank = {"in": (5, 2), "out": (2, 5), "b": (5,)}, {"in": (1, 2), "out": (2, 1), "b": 1}
    (bundle,) = bundled(shapes, rank=rank, padded=True)
    assert bundle.names == ("in", "out", "b")
    assert (bundle.left, bundle.right, bundle.ranks) == (5, 2, (1, 2))
    assert bundle.swapped == (False, True, False)
    assert bundle.n_pieces == (3, 3, 2)
    # Unpadded, turned tensors stand with their equals, ranks turned too.
    assert [(b.names, b.ranks) for b in bundled(shapes, rank=rank)] == [(("in", "out"), (1, 2)), (("b",), (1, 1))]
    assert len(bundled(shapes, rank=rank | {"out": (1, 2)})) == 3


def test_small_models_are_padded_and_wide_ones_are_not():
    def names(width, n_v):
        model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)).double().eval()
        config = L3DConfig(n_v=n_v, batch_size=12, epochs=1)
        return [b.names for b in build_program([Run(model, normal(1, 12, width), config)]).plan.bundles]

    everything = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert names(5, n_v=3) == [everything]
    assert len(names(200, n_v=200)) == 4


def test_tensors_with_rows_join_only_their_equals():
    shapes = {"q": (4, 4), "k": (4, 4), "up": (8, 4), "down": (4, 8)}
    for padded in (False, True):
        found = [bundle.names for bundle in bundled(shapes, n_positions=3, n_rows=3, padded=padded)]
        assert found == [("q", "k"), ("up",), ("down",)]
    assert len(bundled(shapes, padded=True)) == 1  # One row each: turned and padded.
    # Seen along the other axis, 4 x 8 is 8 x 4.
    turned = bundled({"up": (8, 4), "down": (4, 8)}, n_positions=3, n_rows=3, left_axis={"down": 1})
    assert [(b.names, b.left, b.right, b.swapped) for b in turned] == [(("up", "down"), 8, 4, (False, True))]


def test_what_comes_whole_or_has_another_form_or_pin_stands_apart():
    shapes = {"a": (3, 3), "b": (3, 3), "c": (3, 3)}
    assert [b.names for b in bundled(shapes, whole=("b",))] == [("a", "c"), ("b",)]
    assert [b.names for b in bundled(shapes, pins={"c": "dense"})] == [("a", "b"), ("c",)]
    assert [b.names for b in bundled(shapes, form="cp")] == [("a",), ("b",), ("c",)]
    assert [b.names for b in bundled({"k": (2, 3, 2, 2), "l": (2, 3, 2, 2)})] == [("k",), ("l",)]
    (kernel,) = bundled({"k": (2, 3, 2, 2)}, rank={"k": (2, 1, 1, 1)})
    assert (kernel.left, kernel.right, kernel.matrix, kernel.ranks[0]) == (2, 12, False, 2)


# --- cost -------------------------------------------------------------------------------------------------------


def test_products_by_hand():
    # 10 samples, 3 directions, area 24; 20 rows of output gradients, 10 of activations. Cores, of rank 2 x 2 and 4
    # long: 2 * 2 * 3 * 2 * 2 * 4 forwards for both sides is 192, three times 576, and lengths 2 * 2 * 3 * 4 * 10 = 480.
    # Cores count 16 * 3 * 2 * 2 * 4 = 768 as the formula has them.
    dense, sizes = one(path="dense")
    gram = 4 * 3 * 3 * 24
    both = 768 + 480
    assert dense.products(sizes) == 8 * 10 * 3 * 24 + 12 * 3 * 2 * 24 + gram + both
    factored, _ = one(path="factored")
    rows = 8 * 3 * 2 * (20 * 6 + 10 * 4)
    assert factored.products(sizes) == rows + 6 * 3 * 2 * 24 + gram + both
    low, _ = one(path="factored", low_rank_gram=True)
    assert low.products(sizes) == rows + 4 * 9 * 4 * 10 + both
    # Two tensors of four sources with two runs each: every run has its own directions and Gram matrix.
    many = Sizes(n_sources=4, n_shared=2, n_v=3, n_inputs=5, n_positions=2)
    pair = replace(dense, names=("a", "b"), swapped=(False, False), n_pieces=(3, 3))
    assert pair.products(many) == 4 * 2 * 2 * dense.products(sizes)


def test_other_operations_and_calls_count_too(monkeypatch):
    monkeypatch.setattr(bundles_module, "ELEMENTWISE", 0)
    monkeypatch.setattr(bundles_module, "CALL", 0)
    dense, sizes = one(path="dense")
    assert dense.flops(sizes) == dense.products(sizes) + 2 * 20 * 24  # Forming G from its rows.
    assert replace(dense, factored=False).flops(sizes) == dense.products(sizes)
    factored, _ = one(path="factored")
    assert factored.flops(sizes) == factored.products(sizes)
    monkeypatch.setattr(bundles_module, "CALL", 7)
    assert factored.flops(sizes) == factored.products(sizes) + 7 * bundles_module.CALLS["factored", False]


def test_path_on_both_sides_of_the_crossover():
    # 256 x 256, 100 directions, 256 samples of 16 positions, 8.5 rows each of which all 16 are counted. Rank 4 has
    # 8 * 100 * 4 * (4096 + 256) * 256 = 3.6 Gflop of factors against 8 * 256 * 100 * 65536 = 13.4 of whole gradients;
    # rank 32 has 28.5 against the same.
    sizes = Sizes(n_sources=1, n_shared=1, n_v=100, n_inputs=16, n_positions=16)
    for rank, path in ((4, "factored"), (32, "dense")):
        bundle = Bundle(("w",), 256, 256, (rank, rank), True, (False,), (3,), n_rows=16, factored=True)
        ways = choose_path(bundle, sizes)
        assert [way.path for way in ways][0] == path
        assert len(ways) == 2
        assert ways[0].flops(sizes) < ways[1].flops(sizes)


def test_gram_matrix_on_both_sides_of_the_crossover():
    # Low-rank iff about r^2 < o i / (o + i): 256 x 256 gives 128, r < 11.
    sizes = Sizes(n_sources=1, n_shared=1, n_v=1000, n_inputs=16, n_positions=16)
    for rank, low in ((4, True), (16, False)):
        bundle = Bundle(("w",), 256, 256, (rank, rank), True, (False,), (3,), n_rows=16, factored=True)
        (way,) = choose_path(bundle, sizes, "factored")
        assert way.low_rank_gram == low
    (way,) = choose_path(bundle, sizes, "dense")
    assert not way.low_rank_gram


def test_what_comes_whole_has_one_path():
    bundle, sizes = one(factored=False)
    assert [way.path for way in choose_path(bundle, sizes)] == ["dense"]


# --- pins -------------------------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_counts():
    pins = {"0.weight": "dense", "*weight": "factored"}
    assert [pinned(name, pins) for name in ("0.weight", "2.weight", "0.bias")] == ["dense", "factored", None]
    assert pinned("0.weight", None) is None


def program_of(paths=None, **settings):
    """Returns the program of a small perceptron."""
    config = L3DConfig(**{"n_v": 3, "batch_size": 4, "epochs": 1, **settings})
    return build_program([Run(mlp(0), normal(1, 12, 4), config)], paths=paths)


def test_pins_are_taken():
    for path in ("dense", "factored"):
        assert {b.path for b in program_of({"*": path}).plan.bundles} == {path}
    split = {b.names: b.path for b in program_of({"0.*": "factored", "*": "dense"}).plan.bundles}
    assert split == {("0.weight", "0.bias"): "factored", ("2.weight", "2.bias"): "dense"}


def test_wrong_pins_are_refused():
    with pytest.raises(ValueError, match=r"path 'fast' is unknown; expected one of \['dense', 'factored'\]"):
        program_of({"0.*": "fast"})

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(normal(0, 4))

        def forward(self, x):
            return x * torch.cumsum(self.w, 0)

    run = Run(Odd().eval(), normal(1, 12, 4), L3DConfig(n_v=3, batch_size=4))
    with pytest.raises(ValueError, match=r"'w' is pinned to 'factored', but the model uses it in an operation .* Pin"):
        fit([run], paths={"*": "factored"})
    assert [bundle.path for bundle in build_program([run]).plan.bundles] == ["dense"]


# --- memory -----------------------------------------------------------------------------------------------------


def test_a_budget_that_is_too_small_is_refused_with_what_fits():
    program = program_of(n_v=40, rank=2, batch_size=8)
    needed = program.plan.fixed_bytes + program.plan.block_bytes / program.plan.batches_per_block
    run = program.runs[0]
    with pytest.raises(ValueError, match=r"needs about .* GiB; expected at most memory_gib .* With n_v \d+") as refusal:
        fit([run], memory_gib=0.6 * needed / GIB)
    n_v = int(str(refusal.value).split("n_v ")[1].split()[0])
    assert 1 <= n_v < 40
    fit([replace(run, config=replace(run.config, n_v=n_v))], memory_gib=0.6 * needed / GIB)
    with pytest.raises(ValueError, match="needs about"):
        fit([replace(run, config=replace(run.config, n_v=n_v + 1))], memory_gib=0.6 * needed / GIB)
    with pytest.raises(ValueError, match="No smaller n_v or batch_size fits either"):
        fit([run], memory_gib=1e-9)


def test_a_smaller_budget_takes_smaller_blocks():
    program = program_of()
    assert program.plan.once
    assert program.plan.batches_per_block == 3
    single = program.plan.fixed_bytes + program.plan.block_bytes / 3
    tight = build_program(program.runs, memory_gib=1.01 * single / GIB).plan
    assert (tight.once, tight.batches_per_block) == (False, 1)
    assert tight.fixed_bytes + tight.block_bytes <= 1.01 * single


def test_passes_through_a_model_are_counted():
    """By hand, for each input of a 4-3-4 perceptron with tanh.

    Kept are the input (4), as the first layer's gradient needs it, and the tanh (3), for its own gradient and for that
    of the second layer; of the forward pass three tensors of 4 are alive besides, and three of the backward pass.
    """
    target = build_target([mlp(0)])
    assert pass_numbers(target, normal(1, 5, 4)) == 4 + 3 + 3 * 4 + 3 * 4
    whole = normal(1, 500, 4)  # A part of a larger tensor counts as what it is.
    assert pass_numbers(target, whole[:5]) == 31


def wide_and_narrow():
    """Returns a network that works on 16 large pictures on its way to 3 numbers, which its last layer reads."""
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).eval()


def test_a_model_whose_own_passes_do_not_fit_is_refused():
    run = Run(wide_and_narrow(), normal(1, 16, 1, 64, 64).float(), L3DConfig(n_v=2, batch_size=8), parameters="0.*")
    made = build_program([run]).plan
    pictures = 16 * 64**2 * made.sizes.n_inputs
    assert made.sizes.held * made.sizes.n_inputs > 2 * pictures  # Before and after the tanh.
    with pytest.raises(ValueError, match=r"needs about .* batch_size \d it fits") as refusal:
        fit([run], memory_gib=0.5 * (made.fixed_bytes + made.block_bytes / made.batches_per_block) / GIB)
    assert int(str(refusal.value).split("batch_size ")[1].split()[0]) in (2, 3, 4)


def test_a_large_model_runs_forward_in_parts_even_if_its_gradients_are_small():
    model, config = wide_and_narrow(), L3DConfig(n_v=2, batch_size=8, epochs=1)
    run = Run(model, normal(1, 512, 1, 64, 64).float(), config, parameters="4.*")
    made = build_program([run]).plan
    assert not made.once
    assert made.batches_per_block < 512 // 8
    few = build_program([replace(run, inputs=run.inputs[:16])]).plan
    assert few.once


def test_models_of_half_precision_are_refused():
    for dtype in (torch.float16, torch.bfloat16):
        run = Run(mlp(0).to(dtype), normal(1, 12, 4).to(dtype), L3DConfig(n_v=3, batch_size=4))
        with pytest.raises(ValueError, match=f"computes in {dtype}; expected float32 or float64, .* Call model.float"):
            fit([run])


def test_a_budget_that_is_no_number_is_refused():
    run = Run(mlp(0), normal(1, 12, 4), L3DConfig(n_v=3, batch_size=4))
    for wrong, name in (("2", "str"), (True, "bool")):
        with pytest.raises(TypeError, match=f"memory_gib is a {name}; expected a number of GiB, or None"):
            fit([run], memory_gib=wrong)


def test_references_on_another_device_are_refused():
    x = normal(1, 12, 4)
    run = Run(mlp(0), x, L3DConfig(n_v=3, batch_size=4), references=torch.empty(12, 4, device="meta"))
    with pytest.raises(ValueError, match="reference outputs are on meta, the model on cpu; expected one device"):
        fit([run])


# --- the plan in words ------------------------------------------------------------------------------------------


def test_the_plan_is_a_table():
    runs = [Run(mixer(0), normal(1, 12, 3, 3), L3DConfig(n_v=5, batch_size=4, epochs=1, rank=2), "kl", seed=s,
                parameters=["up.*", "down.weight"]) for s in range(2)]  # fmt: skip
    program = build_program(runs, paths={"down.weight": "factored", "*": "dense"})
    lines = str(program.plan).splitlines()
    assert lines[0].split() == ["tensors", "path", "gram", "rows", "rank", "Mflop", "a", "step"]
    cells = {line.split("  ")[0]: line.split() for line in lines[1:-1]}
    assert cells["down.weight"][1] == "factored"
    assert cells["up.weight"][1:5] == ["dense", "dense", "3", "2"]
    for bundle in program.plan.bundles:
        mflop = float(cells[bundle.names[0]][-1])
        assert mflop == pytest.approx(bundle.flops(program.plan.sizes) / 1e6, rel=0.01)
    assert lines[-1].startswith("2 runs, 2 sources of gradients, n_v 5, 12 samples each; ")
    assert lines[-1].endswith(" GiB; forward pass in every block; 3 batches in a block")
    assert program.plan.flops == sum(bundle.flops(program.plan.sizes) for bundle in program.plan.bundles)
    joined = str(program_of().plan).splitlines()
    assert joined[1].startswith("0.weight and 3 more")
    assert joined[-1].endswith("forward pass once; 3 batches in a block")
