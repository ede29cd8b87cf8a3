"""Figures of interventions and of the loss surface: changes, steps and directions are where they belong."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from l3d_core.figures import interventions as draw
from l3d_core.figures.style import CATEGORIES, GREY

X = torch.tensor([[0.5, 0.0, -1.0], [0.0, 1.0, 0.0], [-0.2, 0.0, 0.3], [0.0, 0.0, 0.9]])
BEFORE = X**2
AFTER = torch.stack([BEFORE + torch.tensor([1.0, 0.1, 0.2]), BEFORE + torch.tensor([-0.1, 0.0, 0.7])])


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].texts]


def test_effects():
    figure = draw.plot_effects(X, BEFORE, AFTER, [0, 2], step="step +0.3")
    figure.canvas.draw()
    assert len(figure.axes) == 2 and texts(figure) == ["output 0", "output 1", "output 2"]
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("$v_{0}$ (output 0)", "$v_{1}$ (output 2)")
    # The relevant output last: its active samples, then its inactive ones as rings in the strip.
    active, off = first.collections[-2:]
    assert active.get_offsets().tolist() == pytest.approx(np.array([[0.5, 1], [-0.2, 1]]))
    assert to_hex(active.get_facecolors()[0]) == to_hex(off.get_edgecolors()[0]) == CATEGORIES[0]
    assert len(off.get_facecolors()) == 0 and (off.get_offsets()[:, 0] < -1).all()
    assert off.get_offsets()[:, 1].tolist() == pytest.approx([1, 1])
    assert second.collections[-2].get_offsets()[:, 1].tolist() == pytest.approx([0.7] * 3)
    assert first.get_ylim() == second.get_ylim()
    assert "n = 4 samples" in figure.get_supxlabel() and figure.get_supylabel() == "change of output, step +0.3"
    assert [t.get_text() for t in first.get_xticklabels()] == ["off", "-1", "0", "1"]


def test_effects_on_many_outputs_are_told_as_relevant_or_not():
    x = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))
    figure = draw.plot_effects(x, x, torch.stack([x + 1]), [3], names=["group 0"])
    [ax] = figure.axes
    assert texts(figure) == ["relevant output", "other outputs"] and ax.get_title() == "group 0"
    colours = [to_hex(c.get_facecolors()[0]) for c in ax.collections if len(c.get_facecolors())]
    assert colours[-1] == draw.POINTED and set(colours[:-1]) == {GREY}
    assert len(ax.collections) == 24


def test_delta_grid():
    after = torch.stack([2 * BEFORE - AFTER, AFTER])
    figure = draw.plot_delta_grid(X, BEFORE, after, [-0.3, 0.3], [0, 2], ratios=torch.tensor([[6.7, 2.0], [1.5, 12.0]]))
    figure.canvas.draw()
    assert len(figure.axes) == 4
    rows = [figure.axes[:2], figure.axes[2:]]
    assert [row[0].get_ylabel() for row in rows] == [r"$\delta$ = -0.3", r"$\delta$ = +0.3"]
    assert [ax.get_title() for ax in rows[0]] == ["$v_{0}$ (out 0)", "$v_{1}$ (out 2)"]
    assert [[t.get_text() for t in ax.texts] for ax in figure.axes] == [["6.7x"], ["2.0x"], ["1.5x"], ["12.0x"]]
    assert rows[0][0].collections[-2].get_offsets()[:, 1].tolist() == pytest.approx([-1, -1])
    assert rows[1][1].collections[-2].get_offsets()[:, 1].tolist() == pytest.approx([0.7] * 3)
    assert rows[0][0].get_ylim() == rows[0][1].get_ylim() != rows[1][0].get_ylim()


def test_pairs():
    changes = torch.zeros(2, 3, 4)
    changes[:, :, 1] = torch.tensor([[-12.05], [0.5]])
    changes[:, :, 3] = torch.tensor([-1.0, 0.0, 1.0])
    changes[0, 0, 0], changes[1, 2, 2], changes[0, 1, 2] = -0.25, 0.75, -0.001
    figure = draw.plot_pairs(changes, ((-1, 1), (-0.5, 0.1, 0.5)), (1, 3), subnetworks=(4, 2), n=500)
    figure.canvas.draw()
    first, second, other, _ = figure.axes[:4]
    assert [ax.get_title() for ax in (first, second)] == ["output 1 (of $v_{4}$)", "output 3 (of $v_{2}$)"]
    assert first.images[0].get_array().tolist() == pytest.approx(np.array([[-12.05] * 3, [0.5] * 3]))
    assert second.images[0].get_array().tolist() == [[-1, 0, 1]] * 2
    for ax in (first, second, other):
        assert ax.images[0].get_clim() == pytest.approx((-12.05, 12.05))
    assert [t.get_text() for t in first.texts] == 3 * ["-12.05"] + 3 * [".50"]
    assert [t.get_text() for t in other.texts] == [
        "-.25\n(0)",
        ".00\n(2)",
        ".00\n(0)",
        ".00\n(0)",
        ".00\n(0)",
        ".75\n(2)",
    ]
    assert [t.get_text() for t in first.get_xticklabels()] == ["-0.5", "0.1", "0.5"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["-1", "1"]
    [bar] = figure.axes[3].child_axes
    assert bar.get_ylabel() == "mean change of output\nn = 500 samples"


def test_ratio():
    rows = [(d, v, f * (v + 1)) for d in (-1, 1) for v in range(3) for f in (1, 2, 6)]
    figure = draw.plot_ratio(pd.DataFrame(rows, columns=["delta", "subnetwork", "ratio"]), paper={1: 10, -1: 15})
    figure.canvas.draw()
    [ax] = figure.axes
    assert [line.get_ydata().tolist() for line in ax.lines[:3]] == [[2, 2], [4, 4], [6, 6]]
    assert [line.get_color() for line in ax.lines[:3]] == CATEGORIES[:3]
    # The middle of 1, 2, 2, 3, 4, 6, 6, 12 and 18.
    assert ax.lines[3].get_ydata().tolist() == [4, 4] and list(ax.lines[4].get_ydata()) == [15, 10]
    assert texts(figure) == ["$v_{0}$", "$v_{1}$", "$v_{2}$", "median, n = 3 subnetworks", "paper, mean"]
    assert ax.get_yscale() == "log"


def test_surface():
    w_1, w_2 = torch.linspace(-1, 1, 21), torch.linspace(-2, 2, 31)
    grid = torch.stack([w_1[:, None] + 0 * w_2, 0 * w_1[:, None] + w_2])
    directions, slopes = torch.tensor([[0.5, 0.0], [0.0, 0.25]]), torch.tensor([[0.5, 0.0], [0.1, -0.25]])
    figure = draw.plot_surface(w_1, w_2, grid, directions, slopes)
    figure.canvas.draw()
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [f"sample {i}\nsteepest: $v_{{{i}}}$" for i in range(2)]
    for steepest, ax in enumerate(panels):
        lines, [point] = ax.lines[:2], ax.lines[2:]
        assert (point.get_xdata(), point.get_ydata()) == ([0], [0])
        assert [line.get_color() for line in lines] == CATEGORIES[:2]
        assert [line.get_linewidth() > 3 for line in lines] == [steepest == v for v in range(2)]
        # The longest reaches .9 of the way to the nearer side, the other half as far.
        assert lines[0].get_xdata() == pytest.approx([-0.9, 0.9]) and lines[1].get_ydata() == pytest.approx(
            [-0.45, 0.45]
        )
    # D grows to the right in the first panel: contours of the filled kind, one colour each, are not upside down.
    shades = [panel.collections[0] for panel in panels]
    assert shades[0].get_array()[0] < shades[0].get_array()[-1]
    left, right = (shades[0].get_paths()[i].vertices[:, 0].mean() for i in (0, -1))
    assert left < -0.8 and right > 0.8
    assert shades[1].get_paths()[-1].vertices[:, 1].mean() > 1.5
    assert texts(figure) == ["$v_{0}$", "$v_{1}$", "$W_0$"]


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="3 relevant outputs"):
        draw.plot_effects(X, BEFORE, AFTER, [0, 1, 2])
    with pytest.raises(ValueError, match="expected .n, n_o., .n, n_o."):
        draw.plot_effects(X[:, :2], BEFORE, AFTER, [0, 2])
    with pytest.raises(ValueError, match="for 3 steps"):
        draw.plot_delta_grid(X, BEFORE, AFTER[None], [1, 2, 3], [0, 2])
    with pytest.raises(ValueError, match="at least 3 outputs"):
        draw.plot_pairs(torch.zeros(1, 1, 2), ((1,), (1,)), (0, 1))
    with pytest.raises(ValueError, match="the table has 1 rows"):
        draw.plot_ratio(pd.DataFrame({"delta": [1]}))
    with pytest.raises(ValueError, match="got divergences"):
        draw.plot_surface(torch.ones(2), torch.ones(3), torch.ones(1, 3, 2), torch.ones(2, 2), torch.ones(1, 2))
