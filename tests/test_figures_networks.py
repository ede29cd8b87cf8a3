"""Networks as pictures and maps: what is drawn follows the weights."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Rectangle

from l3d_core.figures import networks as draw
from l3d_core.figures.networks import Panel
from l3d_core.figures.style import CATEGORIES, NEGATIVE, POSITIVE, WIDE, category

W_IN = torch.tensor([[2.0, 0.0], [-1.0, 0.05]])
W_OUT = torch.tensor([[0.5], [0.0601]])


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def panel(*sizes: int, **options) -> Panel:
    generator = torch.Generator().manual_seed(sum(sizes))
    weights = [torch.rand(n_i, n_o, generator=generator) for n_i, n_o in zip(sizes, sizes[1:], strict=False)]
    biases = [torch.randn(n, generator=generator) for n in sizes[1:]]
    return Panel(weights=weights, biases=biases, **options)


def edges(ax) -> LineCollection:
    [found] = [c for c in ax.collections if isinstance(c, LineCollection)]
    return found


def test_edges_follow_the_weights():
    figure = draw.plot_networks([Panel(weights=[W_IN, W_OUT], biases=[None, torch.tensor([-1.0])], title="one")])
    [ax] = figure.axes
    # Of six weights 0 is not drawn and .05 is 2.5 % of the largest; .0601 is 3.005 %.
    assert edges(ax).get_colors() == pytest.approx(
        np.array([(*to_rgb(POSITIVE), 0.03005), (*to_rgb(POSITIVE), 0.25), (*to_rgb(NEGATIVE), 0.5), to_rgba(POSITIVE)])
    )
    # Two inputs and two hidden nodes over the whole height, the one output in the middle.
    ends = [[[1, 0], [2, 0.5]], [[1, 1], [2, 0.5]], [[0, 0], [1, 1]], [[0, 1], [1, 1]]]
    assert [s.tolist() for s in edges(ax).get_segments()] == ends
    nodes = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert [len(layer.get_offsets()) for layer in nodes] == [2, 2, 1]
    # Half of the largest weight, below 0: a quarter along the scale from blue to red.
    assert nodes[2].get_facecolors()[0] == pytest.approx(plt.get_cmap("RdBu_r")(0.25))
    assert nodes[1].get_facecolors().tolist() == [[1, 1, 1, 1]]
    assert ax.get_title() == "one"


@pytest.mark.parametrize(
    ("n", "sizes", "columns"),
    [(10, (10, 5, 10), 5), (8, (30, 10, 30), 4), (15, (5, 10, 10, 10, 10, 5), 5), (7, (5, 2, 5), 4)],
)
def test_many_panels(n, sizes, columns):
    figure = draw.plot_networks([panel(*sizes, title=f"$v_{{{i}}}$\n$P_{{act}}$ .15", dead=i == 1) for i in range(n)])
    figure.canvas.draw()
    assert len(figure.axes) == n and figure.get_size_inches()[0] == WIDE
    assert figure.axes[0].get_gridspec().ncols == columns
    for ax in figure.axes:
        assert len([c for c in ax.collections if isinstance(c, PathCollection)]) == len(sizes)
        assert 0 < len(edges(ax).get_segments()) <= sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
    # Nodes of a layer do not touch: points of height over nodes against their diameter.
    ax = figure.axes[0]
    apart = ax.get_window_extent().height * 72 / figure.dpi / 1.1 / (max(sizes) - 1)
    assert ax.collections[1].get_sizes()[0] ** 0.5 < apart
    numbers = [text.get_text() for text in ax.texts]
    assert numbers == ["0", str(sizes[0] - 1), "0", str(sizes[-1] - 1)] and not figure.axes[1].texts
    assert figure.axes[1].title.get_color() == draw.DEAD and figure.axes[0].title.get_color() == "black"
    assert [t.get_text() for t in figure.legends[0].texts] == [
        "weight > 0",
        "weight < 0",
        "fill: bias",
        "grey title: dead",
    ]


def test_groups_are_boxed():
    figure = draw.plot_networks([panel(10, 4, 10, group_size=5)])
    [ax] = figure.axes
    boxes = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 2
    heights = ax.collections[1].get_offsets()[:, 1]
    for box, nodes in zip(boxes, (heights[:5], heights[5:]), strict=True):
        assert box.get_y() < nodes.min() and nodes.max() < box.get_y() + box.get_height()
    assert boxes[1].get_y() + boxes[1].get_height() < boxes[0].get_y()
    assert [text.get_text() for text in ax.texts] == ["0", "1", "0", "9"]


def test_a_subnetwork_of_zeros_has_no_edges():
    figure = draw.plot_networks([Panel(weights=[torch.zeros(3, 2), torch.zeros(2, 3)])])
    assert not edges(figure.axes[0]).get_segments()
    assert [t.get_text() for t in figure.legends[0].texts] == ["weight > 0", "weight < 0"]


def test_maps_of_products():
    figure = draw.plot_maps([Panel(weights=[W_IN, W_OUT], title="one"), panel(10, 5, 10, group_size=5)])
    figure.canvas.draw()
    first, second, bar = figure.axes
    # W_in W_out is (1, -.496995), over its largest.
    assert np.ravel(first.images[0].get_array()).tolist() == pytest.approx([1, -0.496995])
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-1, 1)
    assert first.get_title() == "one" and "product of the layers" in bar.get_xlabel()
    assert len(second.lines) == 1 and list(second.get_yticks()) == [2, 7]


def test_maps_of_deep_networks_show_each_layer():
    deep = panel(2, 3, 4, 1)
    figure = draw.plot_maps([deep])
    ax, bar = figure.axes
    shown = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    # Blocks 3, 4 and 1 wide with a gap after the first two; the tallest layer has four inputs.
    assert shown.shape == (4, 10)
    assert np.isnan(shown[:, [3, 8]]).all() and np.isnan(shown[2:, :3]).all()
    assert shown[:3, 4:8] == pytest.approx(deep.weights[1].numpy() / deep.largest)
    assert shown[:, 9] == pytest.approx(deep.weights[2][:, 0].numpy() / deep.largest)
    assert [patch.get_width() for patch in ax.patches] == [3, 4, 1]
    assert "layers from first to last" in bar.get_xlabel()


def test_architecture_has_names_and_marks():
    models = [panel(5, 2, 5, title="superposition"), panel(5, 10, 10, 5, title="squaring")]
    marks = [{"superposed": True, "high rank": False}, {"superposed": True, "high rank": "probably"}]
    figure = draw.plot_architecture(models, marks)
    figure.canvas.draw()
    table, *nets = figure.axes
    assert [ax.get_title() for ax in nets] == ["superposition", "squaring"]
    assert [t.get_text() for t in table.texts] == ["\u2713", "\u00d7", "\u2713", "probably", "superposed", "high rank"]
    middles = [ax.get_position().x0 + ax.get_position().width / 2 for ax in nets]
    for x, place in zip(middles, (0.25, 0.75), strict=True):
        assert table.get_position().x0 + place * table.get_position().width == pytest.approx(x, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": []}, "got no weights"),
        ({"weights": [W_IN, W_IN.T[:1]]}, "n_o of one layer being n_i of the next"),
        ({"weights": [W_IN], "biases": [torch.zeros(3)]}, "biases do not fit"),
        ({"weights": [W_IN, W_OUT], "biases": [None]}, "biases do not fit"),
        ({"weights": [W_IN], "group_size": 3}, "does not divide the 2 inputs"),
    ],
)
def test_wrong_panels_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Panel(**options)


def test_nothing_to_draw_is_refused():
    for plot in (draw.plot_networks, draw.plot_maps):
        with pytest.raises(ValueError, match="got no panels"):
            plot([])
    with pytest.raises(ValueError, match="expected the same rows"):
        draw.plot_architecture([panel(2, 2)] * 2, [{"a": True}, {"b": True}])


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = rgb @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


# Machado, Oliveira and Fernandes 2009, Table 1, severity 1.
NO_RED = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
NO_GREEN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


@pytest.mark.parametrize(("sight", "least"), [(np.eye(3), 40), (NO_RED, 20), (NO_GREEN, 20)])
def test_colours_are_apart_for_every_sight(sight, least):
    seen = lab(np.clip(np.stack([linear(c) for c in CATEGORIES]) @ np.array(sight).T, 0, 1))
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(10, 1)]
    assert distances.min() > least


def test_colours_and_markers_do_not_repeat():
    assert len({tuple(category(i).values()) for i in range(50)}) == 50
