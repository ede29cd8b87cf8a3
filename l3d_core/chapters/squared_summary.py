"""Numbers and claims of chapter 4, the squaring network (paper section 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import toys
from ..divergences import resolve_divergence
from ..gradients import divergence_gradients
from ..measures import sign_split
from .moves import DELTAS, STEP, Moves, by_activity, cross_effect, linear_error, moves, pair, ratios, swing
from .statistics import spread_text
from .studies import Study
from .toy_chapter import ToyResult
from .toy_measures import FRESH, N_FRESH
from .toy_summary import MAIN, common_numbers, error, live, make_record, of_n

N = 5
N_V = (3, 5, 10, 15)
# Steps at which the linear prediction is compared with what happens.
REACH = (0.03, 0.1, 0.3, 1.0)


def task_of(name: str, seed: int) -> toys.Task:
    """Returns the target of a variant: `code` decomposes the network of the authors' code."""
    return toys.squared(seed, elu=name.startswith("code"))


def sweep_of(result: ToyResult, name: str) -> Study:
    """Returns the study that holds a variant's decompositions of other n_v."""
    return result.studies["n_v-code" if name == "code" else "n_v"]


def by_n_v(result: ToyResult, name: str) -> Tensor:
    """Returns the errors with 3, 5, 10 and 15 subnetworks, `[4, n_targets]`."""
    return torch.stack([error(sweep_of(result, name), f"{name}, n_v {n_v}") for n_v in N_V])


def one_each(study: Study, name: str) -> Tensor:
    """Returns how many features have a live subnetwork with 97 % of its first and 95 % of its last layer on them."""
    m = study.all(name)
    good = live(study, name) & (m["share_in"] >= 0.97) & (m["share_out"] >= 0.95) & (m["top_input"] == m["top_output"])
    return torch.tensor([top[g].unique().numel() for top, g in zip(m["top_input"], good, strict=True)])


def three_single(result: ToyResult, name: str) -> Tensor:
    """Returns on which targets three subnetworks are live, 90 % of each first layer on one input, all different."""
    study, key = sweep_of(result, name), f"{name}, n_v 3"
    alive, top = live(study, key), study.of("top_input", key)
    pure = (study.of("share_in", key) >= 0.9).all(1) & alive.all(1)
    return pure & torch.tensor([t.unique().numel() == 3 for t in top])


def n_dead(result: ToyResult, name: str, n_v: int) -> Tensor:
    """Returns how many of n_v subnetworks are dead on each target."""
    return n_v - live(sweep_of(result, name), f"{name}, n_v {n_v}").sum(1)


def _each(result: ToyResult, name: str) -> list[tuple[toys.Task, Tensor, Tensor]]:
    """Returns target, directions of live subnetworks, and their activity, for every target."""
    main = result.main
    rows = zip(main.seeds, main.of("v_out", name), main.of("p_active", name), strict=True)
    return [(task_of(name, seed), v[p > 0], p[p > 0]) for seed, v, p in rows]


def two_outputs(moved: Moves, p_active: Tensor) -> tuple[int, int]:
    """Returns the most active subnetwork and the most active one with another top output."""
    order = p_active.argsort(descending=True).tolist()
    other = next((i for i in order if moved.relevant[i] != moved.relevant[order[0]]), order[-1])
    return order[0], other


def behaviour(result: ToyResult, name: str) -> dict[str, list]:
    """Returns what steps along live subnetworks do on every target: selectivity, near and far, pairs, hidden layers.

    Args:
        result: The chapter's.
        name: A variant.

    Returns:
        By name, one entry for each target.
    """
    length, found = result.settings.length, {key: [] for key in ("near", "active", "far", "pairs", "hidden", "reach")}
    for task, v, p_active in _each(result, name):
        both = swing(moves(task, v, (-STEP, STEP), length))
        found["near"].append(ratios(both)[0][:, 0])
        found["active"].append(by_activity(both))
        found["far"].append(ratios(moves(task, v, DELTAS, length))[0])
        found["hidden"].append(ratios(moves(task, v, (-0.5,), length, hidden=True))[0][:, 0])
        found["pairs"].append(max(cross_effect(pair(task, v, two_outputs(both, p_active), length))))
        found["reach"].append(linear_error(task, v, REACH, length))
    return found


def sign_shares(result: ToyResult, name: str = "tuned", n_references: int = 10) -> list[Tensor]:
    """Returns the share of each live subnetwork's impact that falls on samples with a positive feature, per target.

    Impacts (paper Eq. 8) on fresh samples; only samples in which the subnetwork's feature is active count.
    """
    main, found = result.main, []
    variant = result.settings.variants[name]
    divergence = resolve_divergence(variant.divergence)
    for i, seed in enumerate(main.seeds):
        task, alive = task_of(name, seed), live(main, name)[i]
        x = task.sample(N_FRESH, seed=FRESH + task.seed)
        impacts = 0
        for draw in range(n_references):
            parts = divergence_gradients(task.model, x, divergence, seed=draw)
            g = torch.cat([part.flatten(1) for part in parts.values()], 1)
            impacts = impacts + (g @ main.of("v_in", name)[i].mT).abs()
        found.append(sign_split(impacts, x, main.of("top_input", name)[i])[alive])
    return found


def _claims(result: ToyResult, seen: dict[str, dict[str, list]]) -> dict[str, dict[str, list]]:
    main, near = result.main, [i for i, delta in enumerate(DELTAS) if abs(delta) <= 0.5]

    def each(name: str, key: str, holds: Any) -> Tensor:  # noqa: ANN401
        return torch.tensor([bool(holds(value)) for value in seen[name][key]])

    found = {
        "squared-recon": lambda name: error(main, name),
        "squared-one-each": lambda name: one_each(main, name) == N,
        "squared-fraction": lambda name: main.of("p_active", name).sum(1) < 1,
        **{f"squared-n{n_v}": lambda name, i=i: by_n_v(result, name)[i] for i, n_v in enumerate(N_V)},
        "squared-more-lower": lambda name: (by_n_v(result, name).diff(dim=0) < 0).all(0),
        "squared-three": lambda name: three_single(result, name),
        "squared-more-dead": lambda name: n_dead(result, name, 15) > n_dead(result, name, 5),
        "squared-selective": lambda name: each(name, "near", lambda r: r.mean() >= 6 and r.min() >= 3),
        "squared-relevant-samples": lambda name: each(name, "active", lambda r: r.mean() < 0.5),
        "squared-far": lambda name: each(name, "far", lambda r: (r[:, near].mean(0) >= 6).all()),
        "squared-pairs": lambda name: each(name, "pairs", lambda share: share <= 0.15),
        "squared-hidden": lambda name: each(name, "hidden", lambda r: (r >= 3).float().mean() > 0.5),
    }
    return {claim: {name: values(name).tolist() for name in MAIN} for claim, values in found.items()}


def summarise(result: ToyResult, preset: str, papers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `toy_chapter.run` returned.
        preset: The preset it ran.
        papers: The paper's own numbers, see `record.paper_values`.
    """
    main, numbers = result.main, common_numbers(result, N)
    seen = {name: behaviour(result, name) for name in MAIN}
    for name in MAIN:
        own = seen[name]
        numbers |= {
            f"one_each_{name}": of_n(one_each(main, name) == N),
            f"near_{name}": spread_text(torch.stack([r.mean() for r in own["near"]]), 1),
            f"worst_{name}": spread_text(torch.stack([r.min() for r in own["near"]]), 1),
            f"active_{name}": spread_text(torch.stack([r.mean() for r in own["active"]]), 2),
            f"pairs_{name}": spread_text(own["pairs"], 2),
            f"hidden_{name}": spread_text(torch.stack([r.mean() for r in own["hidden"]]), 1),
            **{
                f"reach_{delta:g}_{name}".replace(".", "_"): spread_text(
                    torch.stack([e[:, i].mean() for e in own["reach"]]), 2
                )
                for i, delta in enumerate(REACH)
            },
            **{f"n{n_v}_{name}": spread_text(by_n_v(result, name)[i]) for i, n_v in enumerate(N_V)},
        }
    shares = torch.cat(sign_shares(result))
    numbers |= {
        "one_sided": f"{int(((shares > 0.9) | (shares < 0.1)).sum())} of {len(shares)}",
        "two_sided": f"{int(((shares >= 0.25) & (shares <= 0.75)).sum())} of {len(shares)}",
        "elu_text": spread_text(error(result.studies["elu"], "text")),
        "gelu_code": spread_text(error(result.studies["gelu"], "code")),
        "paper_recon": f"{100 * papers['squared_recon']['value']:.0f} %",
        "paper_swing": " to ".join(map(str, papers["squared_swing"]["range"])),
    }
    return make_record(result, preset, numbers, _claims(result, seen))
