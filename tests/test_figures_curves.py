"""Curves, counts and coefficients: medians, ranges, n and the paper's values are where they belong."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from l3d_core.figures import curves as draw
from l3d_core.figures.style import CATEGORIES, GREY, VARIANT_COLOURS

R = {"derived": 0.916, "rescaled": 0.928, "ceiling": 0.95}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].texts]


def test_coefficients():
    a, index = torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.tensor([0, 0, 7, 7])
    scale = torch.tensor([0.02, 0.02, 0.5, 0.5])
    points = [[[1.0, 0.1], [2.0, 0.2]], [[3.0, 0.9]]]
    figure = draw.plot_coefficients(a, a * scale, index, a + 0.1, R, points)
    figure.canvas.draw()
    derived, rescaled, ceiling, key = figure.axes
    assert "$r$ = 0.916, $r^2$ = 0.839" in derived.get_title() and "0.928" in rescaled.get_title()
    assert "the target itself" in ceiling.get_title() and "$r$ = 0.950" in ceiling.get_title()
    assert derived.collections[1].get_offsets().tolist() == pytest.approx(np.array([[1, 0.5], [3, 1.5]]))
    # Over its own slope each subnetwork lies on the diagonal, and so do these points of the paper.
    for points in rescaled.collections:
        assert points.get_offsets()[:, 1].tolist() == pytest.approx(points.get_offsets()[:, 0].tolist())
    assert len(rescaled.collections) == 3 and len(derived.collections) == 2
    assert to_hex(ceiling.collections[1].get_facecolor()) == CATEGORIES[7]
    assert ceiling.collections[0].get_offsets()[:, 1].tolist() == pytest.approx([1.1, 2.1])
    assert key.get_legend().get_title().get_text() == "n = 4 coefficients"
    assert [t.get_text() for t in key.get_legend().texts] == ["$v_{0}$", "$v_{7}$", "paper"]


def test_coefficients_of_a_dead_subnetwork():
    figure = draw.plot_coefficients(torch.ones(2), torch.zeros(2), torch.zeros(2, dtype=int), torch.ones(2), R)
    assert figure.axes[1].collections[0].get_offsets()[:, 1].tolist() == [0, 0]


def losses() -> pd.DataFrame:
    rows = [
        {"epoch": e, "recon_sq": 1 / (e + 1) / n * f, "n_v": n, "target": t}
        for n in (10, 3)
        for t, f in enumerate((1.0, 2.0, 4.0))
        for e in range(4)
    ]
    return pd.DataFrame(rows)


def test_loss_curves():
    paper = pd.DataFrame({"epoch": [0, 2, 0, 2], "recon_sq": [1, 0.5, 1, 0.6], "n_v": [3, 3, 8, 8]})
    figure = draw.plot_loss_curves(losses(), hue="n_v", paper_curves=paper)
    figure.canvas.draw()
    [ax] = figure.axes
    three, ten, of_three, of_eight = ax.lines[:4]
    # The middle of factors 1, 2 and 4.
    assert three.get_ydata() == pytest.approx([2 / 3, 1 / 3, 2 / 9, 1 / 6])
    assert ten.get_ydata() == pytest.approx([0.2, 0.1, 2 / 30, 0.05])
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((1 / 12, 4 / 3))
    assert of_three.get_linestyle() == of_eight.get_linestyle() == ":"
    assert of_three.get_color() == three.get_color() != ten.get_color() and of_eight.get_color() == GREY
    assert texts(figure) == ["3", "10", "paper", "paper, 8"]
    assert figure.legends[0].get_title().get_text().endswith("median and range over targets, n = 3")


def test_loss_curves_on_logarithmic_axes():
    table = losses().query("not (n_v == 3 and target == 0)")
    figure = draw.plot_loss_curves(table, hue="n_v", band="none", log_x=True, log_y=True, labels={"n_v": "width"})
    figure.canvas.draw()
    [ax] = figure.axes
    assert ax.get_xscale() == ax.get_yscale() == "log" and not ax.collections
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert figure.legends[0].get_title().get_text() == "width; median over targets, n = 2 to 3"
    assert {t.get_text() for t in ax.get_yticklabels()} >= {"0.05", "0.1", "0.2"}


def runs() -> pd.DataFrame:
    rows = [
        {"rank": rank, "variant": variant, "recon_sq": rank + 0.1 * seed, "success": seed < rank}
        for rank in (2, 1)
        for variant in ("tuned", "text")
        for seed in range(4 if (rank, variant) == (2, "text") else 5)
    ]
    return pd.DataFrame(rows)


def test_counts():
    figure = draw.plot_counts(runs(), "rank", "recon_sq", paper={1: 1.4})
    figure.canvas.draw()
    [ax] = figure.axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1\nn = 5", "2\nn = 4 to 5"]
    assert texts(figure) == ["text", "tuned", "paper"]
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in dotted] == [[1.4, 1.4]]
    ranges = sorted(tuple(np.round(line.get_ydata(), 6)) for line in ax.lines if len(set(line.get_ydata())) > 1
                    and line.get_marker() != "_")  # fmt: skip
    assert ranges == [(1, 1.4), (1, 1.4), (2, 2.3), (2, 2.4)]
    medians = [line.get_ydata().tolist() for line in ax.lines if line.get_marker() == "_"]
    assert medians == [pytest.approx([1.2, 2.15]), pytest.approx([1.2, 2.2])]
    colours = [to_hex(line.get_color()) for line in ax.lines if line.get_marker() == "_"]
    assert colours == [VARIANT_COLOURS["text"], VARIANT_COLOURS["tuned"]]
    assert sum(len(c.get_offsets()) for c in ax.collections) == 19


def test_success():
    figure = draw.plot_success(runs(), "rank", labels={"success": "groups found (%)"})
    figure.canvas.draw()
    [ax] = figure.axes
    assert [t.get_text() for t in ax.texts] == ["1/5", "2/4", "1/5", "2/5"]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([20, 50, 20, 40])
    assert ax.get_ylabel() == "groups found (%)" and texts(figure) == ["text", "tuned"]
    assert {t.get_rotation() for t in ax.texts} == {0}


def test_success_of_a_setting_that_was_not_run():
    figure = draw.plot_success(runs().query("not (rank == 1 and variant == 'text')"), "rank")
    assert [t.get_text() for t in figure.axes[0].texts] == ["2/4", "1/5", "2/5"]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="got 2, 1, 2, 2 values"):
        draw.plot_coefficients(torch.ones(2), torch.ones(1), torch.ones(2), torch.ones(2), R)
    with pytest.raises(ValueError, match="band is 'sd'"):
        draw.plot_loss_curves(losses(), hue="n_v", band="sd")
    for plot in (lambda t: draw.plot_loss_curves(t), lambda t: draw.plot_counts(t, "rank", "recon_sq"),
                 lambda t: draw.plot_success(t, "rank")):  # fmt: skip
        with pytest.raises(ValueError, match="the table has 24 rows"):
            plot(losses())
    with pytest.raises(ValueError, match="the table has 0 rows"):
        draw.plot_counts(runs()[:0], "rank", "recon_sq")
