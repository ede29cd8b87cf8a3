"""Numbers and claims of chapter 4, the squaring network (paper section 3.4)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .. import toys
from ..gradients import side_by_side
from ..measures import effective_rank
from .landscape import landscape, own_slopes
from .moves import DELTAS, STEP, Moves, by_activity, cross_effect, linear_error, moves, pair, ratios, shaped, swing
from .recovery import error, live, of_n
from .squared_signs import sign_shares, split_features, task_of
from .statistics import spread_text
from .studies import Study
from .toy_chapter import ToyResult
from .toy_measures import layers
from .toy_summary import MAIN, common_numbers, largest, make_record, switches_from

N = 5
N_V = (3, 5, 10, 15)
# Step of the draft's interventions on hidden layers.
HIDDEN = -0.5
# Steps at which the linear prediction is compared with what happens.
REACH = (0.03, 0.1, 0.3, 1.0)


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


class Seen(NamedTuple):
    """What is measured on stored directions, by variant and measure, one entry for each target.

    Attributes:
        moved: 'near' and 'far' (relevant output over the mean of the others, `[n_live]` and `[n_live, n_deltas]`),
            'active' (change where the feature is zero over that where it is active) and 'weights' (the same without
            the biases), 'hidden' (as 'near', first and last layer left alone), 'pairs' (the larger cross effect),
            'reach' (error of the linear prediction `[n_live, n_steps]`), 'slopes' (see `own_slopes`).
        signs: Of each live subnetwork the share of its impact from positive values of its feature, see `sign_shares`.
    """

    moved: dict[str, dict[str, list]]
    signs: dict[str, list[Tensor]]


def observe(result: ToyResult) -> Seen:
    """Returns what steps along the subnetworks of all variants do, and which sign of its input each serves."""
    return Seen({name: behaviour(result, name) for name in MAIN}, {name: sign_shares(result, name) for name in MAIN})


def without_biases(v: Tensor, task: toys.Task) -> Tensor:
    """Returns directions `[n_v, n_w]` with the parts of the biases set to zero."""
    parts = shaped(v, task.model)
    return side_by_side({name: t * ("bias" not in name) for name, t in parts.items()})


def behaviour(result: ToyResult, name: str) -> dict[str, list]:
    """Returns what steps along live subnetworks do on every target, see `Seen`.

    Args:
        result: The chapter's.
        name: A variant.
    """
    length, tops = result.settings.length, result.main.of("top_input", name)
    found: dict[str, list] = {}
    for i, (task, v, p_active) in enumerate(_each(result, name)):
        both = swing(moves(task, v, (-STEP, STEP), length))
        weights = swing(moves(task, without_biases(v, task), (-STEP, STEP), length))
        top = tops[i][live(result.main, name)[i]]
        own = {
            "near": ratios(both)[0][:, 0], "active": by_activity(both), "weights": by_activity(weights),
            "far": ratios(moves(task, v, DELTAS, length))[0],
            "hidden": ratios(moves(task, v, (HIDDEN,), length, hidden=True))[0][:, 0],
            "pairs": max(cross_effect(pair(task, v, two_outputs(both, p_active), length))),
            "reach": linear_error(task, v, REACH, length),
            "slopes": own_slopes(landscape(task, v, top, p_active, length, n=3)),
        }  # fmt: skip
        for key, value in own.items():
            found.setdefault(key, []).append(value)
    return found


def singular_ratios(study: Study, name: str) -> Tensor:
    """Returns second over first singular value of the weights of live subnetworks, the layers' largest, `[n_live]`."""
    found = []
    for seed, v, p_active in zip(study.seeds, study.of("v_out", name), study.of("p_active", name), strict=True):
        weights, _ = layers(shaped(v[p_active > 0], task_of(name, seed).model))
        found.append(torch.stack([effective_rank(w).singular_ratio for w in weights]).amax(0))
    return torch.cat(found)


def differences(result: ToyResult, name: str) -> dict[str, float]:
    """Returns the median change of the error of `text` or `code` by each single difference, the network among them."""
    changes = switches_from(result, name)
    swapped = result.studies[{"text": "elu", "code": "gelu"}[name]]
    shared = [seed for seed in result.main.seeds if seed in swapped.seeds]
    if shared:
        own, other = (study.part({name: name}, shared) for study in (result.main, swapped))
        changes["network"] = float((error(other, name) - error(own, name)).quantile(0.5))
    return changes


def nearby_changes(result: ToyResult) -> dict[str, float]:
    """Returns the median change of the error of `tuned` by each setting that is a little off; none if not studied."""
    study = result.studies.get("nearby")
    if study is None:
        return {}
    own = error(result.main.part({"tuned": "tuned"}, study.seeds), "tuned")
    return {name: float((error(study, name) - own).quantile(0.5)) for name in study.names}


def activity_table(result: ToyResult) -> pd.DataFrame:
    """Returns how many coefficients are kept of each sample, and what is left with these and with all of them."""
    main = result.main
    rows = {
        "coefficients kept of a sample (sum of P_act)": [main.of("p_active", name).sum(1) for name in MAIN],
        "error on fresh samples, these kept": [main.of("recon_fresh", name).flatten() for name in MAIN],
        "the same, all kept": [main.of("recon_dense", name)[:, 0] for name in MAIN],
    }
    return pd.DataFrame([[spread_text(x) for x in row] for row in rows.values()], list(rows), list(MAIN))


def residual_table(main: Study) -> pd.DataFrame:
    """Returns each tensor's share of the squared error that is left with every coefficient kept."""
    names = [name for name, _ in task_of("text", main.seeds[0]).model.named_parameters()]
    shares = [main.of("residual_by_tensor", name) for name in MAIN]
    rows = [[spread_text(share[:, i], 2) for share in shares] for i in range(len(names))]
    return pd.DataFrame(rows, pd.Index(names, name="tensor"), list(MAIN))


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


def _of_variant(result: ToyResult, seen: Seen, name: str) -> dict[str, Any]:
    """Returns the numbers of one variant by glue name."""
    main, own, shares = result.main, seen.moved[name], torch.cat(seen.signs[name])
    within = [i for i, delta in enumerate(DELTAS) if abs(delta) <= 0.5]
    changes = {} if name == "tuned" else differences(result, name)
    split = split_features(main, name, seen.signs[name])
    means = {key: torch.stack([r.mean() for r in own[key]]) for key in ("near", "active", "weights", "hidden")}
    return {
        f"one_each_{name}": of_n(one_each(main, name) == N),
        f"paths_{name}": of_n((main.of("top_input", name) == main.of("top_output", name))[live(main, name)]),
        f"sum_{name}": spread_text(main.of("p_active", name).sum(1), 2),
        **{f"{key}_{name}": spread_text(means[key], 1) for key in ("near", "hidden")},
        **{f"{key}_{name}": spread_text(means[key], 2) for key in ("active", "weights")},
        f"worst_{name}": spread_text(torch.stack([r.min() for r in own["near"]]), 1),
        f"far_{name}": spread_text(torch.stack([r[:, within].mean(0).min() for r in own["far"]]), 1),
        f"pairs_{name}": spread_text(own["pairs"], 2),
        f"slopes_{name}": spread_text(torch.stack([r.quantile(0.5) for r in own["slopes"]]), 1),
        **{
            f"reach_{delta:g}_{name}".replace(".", "_"): spread_text(
                torch.stack([e[:, i].mean() for e in own["reach"]]), 2
            )
            for i, delta in enumerate(REACH)
        },
        **{f"n{n_v}_{name}": spread_text(by_n_v(result, name)[i]) for i, n_v in enumerate(N_V)},
        **{f"dead{n_v}_{name}": spread_text(n_dead(result, name, n_v), 0) for n_v in N_V},
        f"three_{name}": of_n(three_single(result, name)),
        f"one_sided_{name}": of_n((shares > 0.9) | (shares < 0.1)),
        f"two_sided_{name}": of_n((shares >= 0.25) & (shares <= 0.75)),
        f"split_{name}": f"{int(split.sum())} of {N * len(split)}",
        f"singular_{name}": spread_text(singular_ratios(main, name), 2),
        f"network_{name}": f"{changes.get('network', math.nan):+.3f}" if name != "tuned" else "",
        f"differences_{name}": largest(changes),
    }


def summarise(result: ToyResult, seen: Seen, preset: str, papers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the chapter's record: glued numbers, claims, first losses and provenance (JSON-able).

    Args:
        result: What `toy_chapter.run` returned.
        seen: What `observe` returned.
        preset: The preset it ran.
        papers: The paper's own numbers, see `record.paper_values`.
    """
    numbers = common_numbers(result, N)
    for name in MAIN:
        numbers |= _of_variant(result, seen, name)
    for key, elu in (("gelu", False), ("elu", True)):
        losses = torch.tensor([toys.squared(seed, elu=elu).loss for seed in result.main.seeds])
        numbers[f"mse_{key}"] = f"{losses.quantile(0.5):.1e} [{losses.min():.1e}, {losses.max():.1e}]"
    numbers |= {
        **{f"change_{name.replace(' ', '_')}": f"{c:+.3f}" for name, c in nearby_changes(result).items()},
        "elu_text": spread_text(error(result.studies["elu"], "text")),
        "gelu_code": spread_text(error(result.studies["gelu"], "code")),
        "active_features": f"{N * toys.active_share(N):.2f}",
        "step_length": f"{STEP * result.settings.length:.3f}",
        "paper_recon": f"{100 * papers['squared_recon']['value']:.0f} %",
        "paper_swing": " to ".join(map(str, papers["squared_swing"]["range"])),
        "paper_share_in": " to ".join(map(str, papers["squared_share_in"]["range"])),
        "paper_share_out": " to ".join(map(str, papers["squared_share_out"]["range"])),
        **{f"paper_n{n_v}": f"{papers[f'squared_n{n_v}']['value']:g}" for n_v in N_V},
    }
    return make_record(result, preset, numbers, _claims(result, seen.moved))
