"""The tables and the figure of the page on settings."""

from types import SimpleNamespace

import matplotlib.pyplot as plt

from l3d_core.chapters.settings_summary import chosen_table, kept_table
from l3d_core.figures.settings import plot_kept


def row(per_active, found, targets=4, share=0.9, divergence="mse"):
    return {
        "per_active": per_active, "found": found, "targets": targets, "share": share, "divergence": divergence,
    }  # fmt: skip


ROWS = {"one": [row(0.4, 0), row(0.49, 1, share=0.7), row(0.5, 3)], "two": [row(1.5, 8, 8, 0.95), row(3.0, 7, 8, 0.85)]}


def test_candidates_by_what_they_keep():
    header, cells = kept_table(ROWS)
    assert header == ["coefficients kept per active circuit", "one", "two"]
    # A bound belongs to the range above it.
    assert cells == [
        ["below 0.5", "1 of 8; share 0.800", ""], ["0.5 to 0.75", "3 of 4; share 0.900", ""], ["0.75 to 1", "", ""],
        ["1 to 1.5", "", ""], ["1.5 or more", "", "15 of 16; share 0.900"],
    ]  # fmt: skip


def test_what_is_recommended():
    config = SimpleNamespace(n_v=12, rank=1, k_fraction=0.15)
    variant = SimpleNamespace(config=config, divergence="mse")
    numbers = {"one": {"per_active_tuned": "1.44", "per_active_text": "0.80"}}
    header, cells = chosen_table(numbers, {"one": variant})
    assert cells == [["one", "12", "1", "0.15", "`mse`", "1.44", "0.80"]] and len(header) == 7


def test_the_figure_has_a_mark_for_each_candidate():
    figure = plot_kept({**ROWS, "three": [row(1.0, 2, divergence="half_reference_mse")]})
    above, below = figure.axes
    lines = [line for line in above.lines if len(line.get_xdata()) and line.get_marker() in "o^"]
    marks = [(round(x, 3), round(y, 3)) for line in lines for x, y in zip(*line.get_data(), strict=True)]
    assert sorted(marks) == [(0.4, 0), (0.49, 0.25), (0.5, 0.75), (1.0, 0.5), (1.5, 1.0), (3.0, 0.875)]
    assert {line.get_marker() for line in below.lines if len(line.get_xdata()) == 1} == {"^"}
    plt.close(figure)
