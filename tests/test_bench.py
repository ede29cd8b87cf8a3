"""The benchmark's arithmetic, its sections on small stand-ins, and what the page on speed makes of its results."""

import json
import time

import bench
import pytest
import torch
from bench_layers import Shape, direct_loss, gradient_factors, off
from bench_programs import BASELINES, Step, package_quality, plain_quality, problem_of, runs_of, stack
from bench_timing import (
    ATTEMPTS,
    QUICK,
    Effort,
    Variant,
    calm_block,
    check,
    geometric_mean,
    interleave,
    paired_ratio,
    rounded,
    run_apart,
    slope,
    spread,
    units_per_block,
    with_memory,
)

from l3d_core import speed_pages
from l3d_core.chapters import speed_summary
from l3d_core.figures import speed as draw

# --- statistics -------------------------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round():
    # 2 / 1, 6 / 2, 9 / 9: 2, 3, 1. The ratio of the medians would be 6 / 2 = 3.
    assert paired_ratio([2, 6, 9], [1, 2, 9]) == {"median": 2, "min": 1, "max": 3, "n": 3}
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1, 2], [1])


def test_exponents():
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)  # 3 x^2
    # Decades (0, 0), (1, 2), (2, 2): about their means (1, 4/3) the products add to 4/3 + 0 + 2/3, the squares to 2.
    assert slope([1, 10, 100], [1, 100, 100]) == pytest.approx(1)


def test_means_and_digits():
    assert geometric_mean([1, 4, 2]) == pytest.approx(2)
    assert spread([3.0, 1.0, 2.0]) == {"median": 2, "min": 1, "max": 3, "n": 3}
    assert rounded({"a": [1.23456, 12345678.0], "b": 7, "c": "x", "d": None, "e": True}) == {
        "a": [1.235, 12350000.0], "b": 7, "c": "x", "d": None, "e": True,
    }  # fmt: skip


# --- timing -----------------------------------------------------------------------------------------------------


def gauge(*values):
    """Returns what gives these values in turn, then the last of them for ever."""
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_disturbed_block_is_taken_again_up_to_a_bound():
    taken = iter([5.0, 6.0, 7.0, 8.0])
    variant = Variant(lambda n: next(taken))
    assert calm_block(variant, 1, gauge(1.0, 1.2, 1.0, 1.09)) == (6.0, 1)
    assert calm_block(variant, 1, gauge(1.0, 1.1)) == (7.0, 0)
    assert calm_block(Variant(lambda n: 1.0), 1, gauge(*(1.2**i for i in range(9)))) == (1.0, ATTEMPTS)


def test_blocks_are_long_enough():
    asked = []

    def take(n):
        asked.append(n)
        return 0.01 * n

    # 1 to warm up; 1 and 4 last less than a quarter of half a second, 16 last 0.16 s; 16 * 0.5 / 0.16 = 50.
    assert units_per_block(Variant(take), 0.5) == 50
    assert asked == [1, 1, 4, 16]


def test_variants_take_turns_and_steps_are_counted():
    order = []

    def made(name, seconds):
        def take(n):
            order.append(name)
            return seconds * n

        return take

    found = interleave({"a": Variant(made("a", 2.0)), "b": Variant(made("b", 6.0), steps=3)}, Effort(2, 0.1), lambda: 1)
    assert "".join(order) == "aabb" + "abab"  # Two calls each to find the length, dropped.
    assert found.seconds == {"a": [2.0, 2.0], "b": [2.0, 2.0]}
    assert found.disturbed == 0


def test_the_peak_of_memory_is_seen():
    def work():
        torch.ones(2**24).sum()  # 64 MiB, gone at the end
        return {"x": 1}

    found = with_memory(work)
    assert found["x"] == 1
    assert 0.06 < found["growth_gib"] < 0.2 and found["peak_gib"] > found["growth_gib"]


def test_a_process_of_its_own():
    found = run_apart(bench.SCRIPT, "shape", {"shape": Shape(8, 2, 4, 8, 2), "n_steps": 2}, 1)
    assert len(found["losses"]) == 2 and found["peak_gib"] > 0.1
    with pytest.raises(RuntimeError, match="(?s)shape failed with status 1.*TypeError"):
        run_apart(bench.SCRIPT, "shape", {"nonsense": 1}, 1)


# --- the programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASELINES)
def test_programs_of_equal_steps_have_equal_quality(kind):
    case = bench.toy("tms")
    ours = package_quality(case, runs_of(case, [3]), 64)
    other = plain_quality(kind, case, problem_of(case), 64, seed=3)
    assert ours["steps"] == 64
    assert ours["loss"]["median"] == pytest.approx(other["loss"], rel=1e-4)
    assert ours["recovered"]["median"] == other["recovered"]


def test_stacks():
    case = bench.toy("tms")
    own, targets, shared = (stack(case, mode, 3) for mode in ("own", "targets", "shared"))
    assert [run.seed for run in own] == [0, 1, 2] and {run.batch_seed for run in own} == {None}
    assert {run.batch_seed for run in shared} == {0}
    assert all(run.model is case.model for run in own + shared)
    first, second = (run.model.W_in for run in targets[:2])
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, case.model.W_in, rtol=0.1, atol=0)
    assert Step(own).program.plan.sizes.n_sources == 3
    assert Step(shared).program.plan.sizes.n_sources == 1


@pytest.mark.parametrize("shape", [Shape(8, 2, 5, 12, 3), Shape(16, 4, 3, 8, 4)])
def test_the_direct_loss_is_that_of_the_step(shape):
    run = shape.run()
    step = Step([run])
    for _ in range(30):
        step()
    layout, numbers = step.program.layout, step.numbers()
    direct = direct_loss(run, layout, numbers)
    assert direct < 0.99 and not torch.equal(*numbers)
    assert off(float(step()), direct) < 1e-4
    assert direct_loss(run, layout, numbers, block_numbers=1) == pytest.approx(direct, rel=1e-12)
    assert off(direct_loss(run, layout, numbers.flip(0)), direct) > 1e-3


def test_steps_follow_one_another():
    run = Shape(8, 2, 5, 12, 3).run()
    dense, factored = (Step([run], paths={"*": path}) for path in ("dense", "factored"))
    for _ in range(10):
        dense()
    factored.follow(dense)
    assert torch.equal(factored.numbers(), dense.numbers())
    assert off(float(factored()), float(dense())) < 1e-4


def test_what_two_losses_leave_is_compared():
    assert off(0.9, 0.8) == pytest.approx(0.5)  # .1 / .2


def test_gradient_factors_by_automatic_differentiation():
    run = Shape(6, 2, 3, 8, 4).run()
    d, b = gradient_factors(run)
    y = run.model(run.inputs)
    losses = (y - run.references).square().mean(-1).flatten()
    for n in range(len(losses)):
        [g] = torch.autograd.grad(losses[n], run.model.map.weight, retain_graph=True)
        torch.testing.assert_close(g.double(), torch.outer(d[n], b[n]), rtol=1e-4, atol=1e-6)


def test_there_are_shapes_on_both_sides_of_the_crossover():
    shapes = bench.shapes_to_plan(tiny=False)
    assert len(set(shapes)) == len(shapes) >= 40
    assert all(s.whole or s.n_s % s.n_rows == 0 for s in shapes)
    varied = {field: {getattr(s, field) for s in shapes} for field in ("width", "rank", "n_v", "n_rows", "n_s")}
    assert all(len(values) >= 3 for values in varied.values())


# --- sections ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Two sections tried in this process, into a file that has others."""
    path = tmp_path_factory.mktemp("bench") / "speed.json"
    path.write_text(json.dumps({"reach": {"checks": [], "kept": 1}, "toys": {"replaced": 1}}))
    whole = bench.SECTIONS["toys"]
    bench.SECTIONS["toys"] = lambda effort: whole(effort, ["tms"])
    try:
        start = time.perf_counter()
        assert bench.main(["--quick", "--here", "--only", "toys", "paths", "gpu", "--output", str(path)]) == 0
        return json.loads(path.read_text()), time.perf_counter() - start
    finally:
        bench.SECTIONS["toys"] = whole


def test_a_section_replaces_its_own_part(tried):
    found, _ = tried
    assert list(found) == ["toys", "reach", "paths", "gpu"]
    assert found["reach"] == {"checks": [], "kept": 1}
    assert "replaced" not in found["toys"]


def test_a_section_tells_where_it_was_measured(tried):
    found, seconds = tried
    facts = found["toys"]["provenance"]
    assert {"version", "commit", "torch", "python", "device", "cores", "threads", "date", "seconds"} <= facts.keys()
    assert facts["threads"] == 1 and facts["quick"] is True and 0 < facts["seconds"] < seconds


def test_speed_stands_beside_quality(tried):
    rows = {row["program"]: row for row in tried[0]["toys"]["rows"]}
    package, textbook, published = (rows[bench.PROGRAMS[kind]] for kind in ("package", "textbook", "published"))
    for row in (package, textbook, published):
        assert {"steps", "loss", "recovered", "later_steps", "later_loss", "later_recovered"} <= row.keys()
        assert row["steps"] == package["steps"] and row["features"] == 5
    assert package["later_steps"] > textbook["later_steps"] > published["later_steps"] == published["steps"]
    assert published["package_faster_by"]["median"] > 1 and package["operations"] < textbook["operations"]
    for row in tried[0]["paths"]["rows"]:
        assert row["off_other_path"] < 1e-3 and 0 < row["loss"] < 1
        assert row["over_better"] >= 1


def test_the_section_for_a_gpu_works_without_one():
    found = bench.gpu(QUICK, device="cpu")
    assert [one["value"] is None for one in found["checks"]] == [False, False, False, True, False, True]
    if not torch.cuda.is_available():
        without = bench.gpu(QUICK)
        assert [one["what"] for one in without["checks"]] == [one["what"] for one in found["checks"]]
        assert {one["value"] for one in without["checks"]} == {None} and without["reason"] == "not measured: no GPU"


def test_sections_that_fail_are_named(tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    assert bench.main(["--quick", "--only", "gpu", "--output", str(tmp_path / "broken")]) == 1
    assert "not measured: gpu; run again with --only gpu" in capsys.readouterr().err


# --- the page ---------------------------------------------------------------------------------------------------


def s(value, n=7):
    return {"median": value, "min": 0.9 * value, "max": 1.1 * value, "n": n}


FACTS = {"device": "a machine", "threads": 1, "date": "2026-01-01", "version": "0", "commit": "c", "torch": "2",
         "python": "3", "seconds": 1.0, "quick": False}  # fmt: skip
RESULTS = {
    "stacked": {
        "rows": [{"toy": "TMS", "how": f"64 runs, {how}", "per_core_hour": s(9000.0), "times_published": s(210.0),
                  "features": 5, "steps": 960, "loss": s(0.3), "recovered": 5.0, "published_loss": 0.31,
                  "later_steps": 3000, "later_loss": s(0.1)} for how in ("own batches", "shared batches")],
        "series": [{"toy": "TMS", "how": how, "n_runs": n, "per_core_hour": s(40.0 * n)} for how, n in (
            ("as published (U1)", 1), ("own batches", 1), ("own batches", 64), ("shared batches", 1))],
        "memory": [{"how": "own batches", "n_runs": n, "growth_mib": 2.0 * n} for n in (1, 64)],
        "checks": [check("stacked", 190.0, least=200), check("stacked too", 210.0, least=200)],
    },
    "language": {
        "rows": [{"program": program, "seconds_per_step": s(0.5), "times_published": s(40.0), "growth_gib": 1.0,
                  "steps": 3, "loss": 0.9, "off_published": 1e-6, "later_steps": 120, "later_loss": 0.7}
                 for program in ("this package", "as published (U1)")],
        "stages": [{"step": f"rank {r}", "ms_per_step": s(10.0 * r), "steps": 30, "loss": 0.8} for r in (4, 25)],
        "checks": [check("memory", 1.0, most=2.5), check("vocabulary", 1.25, most=1.1)],
    },
    "scaling": {
        "points": [{"against": against, "x": x, "path": "factored", "ms_per_step": s(10.0 * x), "growth_mib": 1.0 * x,
                    "steps": 30, "loss": 0.7, "off_float64": 1e-6,
                    **({"textbook_ms_per_step": s(5000.0), "textbook_growth_mib": 300.0, "textbook_off": 2e-6}
                       if x == 125 else {})} for against in ("n_w", "n_v", "T") for x in (125, 250)],
        "exponents": {against: {"time": 1.0, "memory": 1.0} for against in ("n_w", "n_v", "T")},
        "checks": [check("exponent", 1.2, most=1.2)],
    },
    "reach": {
        "rows": [{"n_tensors": 48, "n_w": 84934656, "n_v": 100, "rank": 2, "n_samples": 32, "seconds_per_step": 6.0,
                  "peak_gib": 5.0, "whole_gradients_gib": 10.1, "steps": 10,
                  "loss": 0.98, "off_float64": 3e-8}],
        "checks": [],
    },
    "gpu": {"reason": "not measured: no GPU", "checks": [check("on a GPU", None, most=1.3)]},
}  # fmt: skip
RESULTS = {name: {"provenance": FACTS, **part} for name, part in RESULTS.items()}


def test_a_missed_target_is_shown_as_missed():
    rows = {row[0]: row[1:] for row in speed_summary.targets(RESULTS)}
    assert rows["stacked"] == ["190", "at least 200", "missed"]
    assert rows["stacked too"] == ["210", "at least 200", "met"]
    assert rows["memory"][-1] == "met" and rows["vocabulary"] == ["1.25", "at most 1.1", "missed"]
    assert rows["exponent"] == ["1.2", "at most 1.2", "met"]
    assert rows["on a GPU"] == ["", "at most 1.3", "not measured"]
    lines = speed_pages.speed(RESULTS)["speed_targets"].splitlines()
    assert [line for line in lines if '"verdict verdict-missed">missed<' in line] == [lines[2], lines[5]]


def test_the_summary_counts_and_names_what_is_missed():
    text = speed_pages.speed(RESULTS)["speed_summary"]
    assert "**3 of 6 targets are met, 2 missed and 1 not measured.** Missed: stacked; vocabulary. Measured on" in text
    assert text.endswith("Measured on a machine, l3d_core 0 at commit c, torch 2.")
    good = {"scaling": RESULTS["scaling"]}
    assert (
        "**1 of 1 targets are met, 0 missed and 0 not measured.** Measured" in speed_pages.speed(good)["speed_summary"]
    )


def test_every_section_has_its_part_of_the_page(tried):
    parts = speed_pages.speed({**RESULTS, "toys": tried[0]["toys"], "paths": tried[0]["paths"]})
    assert list(bench.SECTIONS) == list(speed_summary.SECTIONS)
    lines = {name: parts[f"speed_{name}"].splitlines() for name in bench.SECTIONS}
    assert (
        "| TMS | 64 runs, own batches | 9,000 [8,100, 9,900] | 210 [189, 231] | 960 | 0.3 [0.27, 0.33] | 0.31 | 5 | 5 "
        "| 3,000 | 0.1 [0.09, 0.11] |"
    ) in lines["stacked"]
    assert "| own batches | 64 | 128 |" in lines["stacked"]
    line = "| this package | 0.5 [0.45, 0.55] | 40 [36, 44] | 1 | 3 | 0.9 | 1.0e-06 | 120 | 0.7 |"
    assert line in lines["language"] and "| rank 25 | 250 [225, 275] | 30 | 0.8 |" in lines["language"]
    line = "| n_v | 125 | factored | 1,250 [1,125, 1,375] | 125 | 30 | 0.7 | 1.0e-06 | "
    assert line + "5,000 [4,500, 5,500] | 300 | 2.0e-06 |" in lines["scaling"]
    assert "| n_v | 250 | factored | 2,500 [2,250, 2,750] | 250 | 30 | 0.7 | 1.0e-06 |  |  |  |" in lines["scaling"]
    assert "| parameter values n_w | 84,934,656 |" in lines["reach"]
    assert lines["gpu"] == ["Not measured: no GPU. `make bench ONLY=gpu` measures this part."]
    assert any(line.startswith("| TMS | this package | ") for line in lines["toys"])
    for name in ("toys", "stacked", "scaling", "paths"):
        assert lines[name][:2] == [f"```{{figure}} generated/speed_{name}.png", f":name: speed-{name}"]
        assert lines[name][2].startswith(":alt: ") and f"`make bench ONLY={name}`" in lines[name][4]


def test_trials_are_told(tried):
    assert "mean nothing: toys" in speed_pages.speed({**RESULTS, "toys": tried[0]["toys"]})["speed_trials"]
    assert speed_pages.speed(RESULTS)["speed_trials"].startswith("%")


def test_without_results_the_page_says_so(tmp_path):
    assert speed_pages.speed_results(tmp_path) == {}
    parts = speed_pages.speed({})
    assert parts["speed_targets"] == parts["speed_machine"] == "Nothing is measured yet."
    for name in bench.SECTIONS:
        assert parts[f"speed_{name}"] == f"Not measured yet. `make bench ONLY={name}` measures this part."
    assert speed_pages.speed_figures({}) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (None, ""),
        ("words", "words"),
        (0.01234, "0.0123"),
        (1.6e-8, "1.6e-08"),
        (999.4, "999"),
        (84934656, "84,934,656"),
    ],
)
def test_numbers_on_the_page(value, text):
    assert speed_summary.cell(value) == text


def test_figures(tried):
    import matplotlib.pyplot as plt

    results = {**RESULTS, "toys": tried[0]["toys"], "paths": tried[0]["paths"]}
    found = speed_pages.speed_figures(results)
    assert list(found) == ["speed_toys", "speed_stacked", "speed_scaling", "speed_paths"]
    for figure in found.values():
        assert figure.get_facecolor() == (1, 1, 1, 1) and figure.get_size_inches()[0] <= draw.WIDTH
        figure.canvas.draw()
    stacked = found["speed_stacked"].axes[0]
    [own] = [c.lines[0] for c in stacked.containers if c.get_label() == "own batches"]
    assert own.get_xdata().tolist() == [1, 64] and own.get_ydata().tolist() == [40, 2560]
    titles = [ax.get_title() for ax in found["speed_scaling"].axes]
    assert titles == 3 * ["time: exponent 1.00", "memory: exponent 1.00"]
    for figure in found.values():
        plt.close(figure)
