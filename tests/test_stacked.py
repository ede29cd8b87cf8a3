"""Tables with the range of a number under it."""

import pandas as pd

from l3d_core.chapters.statistics import spread_text
from l3d_core.figures.stacked import stacked


def test_ranges_stand_under_their_medians():
    table = pd.DataFrame({"a": [spread_text([0.5, 1.0, 3.0], 1), "– [2, –]"], "b<c": ["4 & 5", 7]}, index=["x", "y"])
    html = stacked(table)
    assert html._repr_html_() == html and 'class="dataframe stacked"' in html
    assert "<td>1.0<br><small>[0.5, 3.0]<br>n = 3</small></td>" in html
    assert "<td>–<br><small>[2, –]</small></td>" in html  # A range may be told without how many there are.
    assert "<td>4 &amp; 5</td>" in html and "<td>7</td>" in html and "<th>b&lt;c</th>" in html


def test_nothing_is_cut_off_or_taken_for_a_range():
    long = "a" + " word" * 30
    html = stacked(pd.DataFrame({"a": [long, "five in 2 [sic], n = 3", "2, n = 3"] * 40}))
    assert html.count(long) == 40 and "<small>" not in html and html.count("<tr>") == 120
