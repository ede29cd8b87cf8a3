"""Figures of chapter 2, the toy model of circuit superposition (paper Figs. 6 and 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .. import toys
from .curves import plot_coefficients
from .style import SMALL, VARIANT_COLOURS, WIDE, style

if TYPE_CHECKING:
    from ..chapters.studies import Study


def plot_recovery(main: Study, n: int) -> Figure:
    """Returns, for each variant, how many inputs are found on each target, and the shares of live subnetworks.

    Shares are drawn as their distance from 1 on a logarithmic axis, where they can be told apart.

    Args:
        main: The chapter's main study.
        n: Inputs that can be found.
    """
    rows, shares = [], []
    for name in main.names:
        alive = main.of("p_active", name) > 0
        rows += [{"variant": name, "found": int(c)} for c in main.of("covered", name).flatten()]
        shares += [
            {"variant": name, "rest": max(1 - float(s), 1e-5)} for s in main.of("share_in", name)[alive].flatten()
        ]
    found, rest = pd.DataFrame(rows), pd.DataFrame(shares)
    look = {"hue": "variant", "palette": VARIANT_COLOURS, "legend": False}
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 3.6))
        counts = found.groupby(["variant", "found"], sort=False).size().reset_index(name="targets")
        sns.scatterplot(counts, x="variant", y="found", size="targets", sizes=(320, 900), ax=left, alpha=0.45, **look)
        for row in counts.itertuples():
            left.annotate(str(row.targets), (row.variant, row.found), ha="center", va="center", fontsize=SMALL)
        left.set(xlabel="", ylabel="inputs found", ylim=(found["found"].min() - 0.7, n + 0.7))
        left.set_title(f"targets, n = {len(main.seeds)} each")
        left.margins(x=0.25)
        left.yaxis.get_major_locator().set_params(integer=True)
        sns.stripplot(rest, x="variant", y="rest", ax=right, size=3.5, jitter=0.25, alpha=0.7, **look)
        right.set(xlabel="", ylabel="1 - top-input share", yscale="log", title="live subnetworks")
        sizes = rest.groupby("variant", sort=False).size()
        right.set_xticks(range(len(sizes)), [f"{name}\nn = {size}" for name, size in sizes.items()])
    return figure


def plot_derived(main: Study, name: str, target: int = 0, paper_points: Any = None) -> Figure:  # noqa: ANN401
    """Returns the entries of A read back from one decomposition against the true ones (paper Fig. 7).

    Args:
        main: The chapter's main study.
        name: The variant.
        target: Which of the study's targets.
        paper_points: The points of the paper's figure, see `record.paper_curves`.
    """
    m = {key: t[target] for key, t in main.all(name).items()}
    alive = m["p_active"] > 0
    model = toys.circuit_superposition(main.seeds[target]).model
    own = (model.W_in @ model.W_out).detach()[m["a_row"][alive]]
    index = alive.nonzero().flatten()[:, None].expand_as(m["a"][alive])
    r = {"derived": float(m["r"]), "rescaled": float(m["r_scaled"]), "ceiling": float(m["ceiling"])}
    parts = [t.flatten() for t in (m["a"][alive], m["a_hat"][alive], index, own)]
    return plot_coefficients(*parts, r, paper_points)
