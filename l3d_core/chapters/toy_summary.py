"""What the summaries of chapters 2 to 4 share: recovery, tables, tuning, agreement, and the record of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from .. import toys
from ..measures import agreement
from .recovery import error, found_all, live, live_share, of_n
from .statistics import last_epochs, settings_digest, spread, spread_text
from .studies import Job, Study, first_losses, made_by
from .toy_chapter import ToyResult, jobs

MAIN = ("text", "code", "tuned")


def chosen_candidate(tuning: Study, n: int) -> str:
    """Returns the candidate that becomes `tuned`.

    The one that finds all n features on most targets; among equals, the one whose live subnetworks have the largest
    mean top-input share (median over targets, to two decimals); among equals still, the one of lowest error.
    """

    def merit(name: str) -> tuple[int, float, float]:
        share, recon = (spread(values)["median"] for values in (live_share(tuning, name), error(tuning, name)))
        return int(found_all(tuning, name, n).sum()), round(share, 2), -recon

    return max(tuning.names, key=merit)


def settings_table(study: Study, n: int, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Returns what each variant of a study gave: error, error on fresh samples, recovery, shares, live subnetworks."""
    rows = [
        {
            "variant": name,
            "recon_sq": spread_text(error(study, name)),
            "fresh samples": spread_text(study.of("recon_fresh", name).flatten()),
            "all found": of_n(found_all(study, name, n)),
            "top-input share": spread_text(live_share(study, name)),
            "live": spread_text(live(study, name).sum(1), 0),
        }
        for name in (study.names if names is None else names)
    ]
    return pd.DataFrame(rows).set_index("variant")


def _switched(result: ToyResult) -> Study:
    """Returns `text`, `code` and their single departures, on one network and the same targets; else `text` alone."""
    # Where `code` has a network of its own, both are compared on that of `text`.
    main, code, switches = result.main, result.studies.get("gelu", result.main), result.studies.get("switches")
    shared = [seed for seed in main.seeds if seed in code.seeds and (switches is None or seed in switches.seeds)]
    if not shared:
        return main.part({"text": "text"})
    both = main.part({"text": "text"}, shared).beside(code.part({"code": "code"}, shared))
    return both if switches is None else both.beside(switches.part({name: name for name in switches.names}, shared))


def switch_label(name: str, n_inputs: int | None = None) -> str:
    """Returns what a departure '<variant>: <difference>' switches to, in words."""
    base, _, difference = name.partition(":")
    number = "1000 points" if n_inputs is None else f"{n_inputs} points"
    to_code, to_text = {
        "divergence": ("half reference", "true mse"), "squared loss": ("squared loss", "root of the loss"),
        "sum of norms": ("sum of norms", "L2 length"), "one more kept": ("one more kept", "none more kept"),
        "Adam": ("Adam", "AdamW"), "dense start": ("dense start", "no dense start"), "points": (number, number),
    }.get(difference.strip(), (difference.strip(),) * 2)  # fmt: skip
    return f"{base}: {to_text if base == 'code' else to_code}" if difference else base


def switch_changes(result: ToyResult) -> dict[str, float]:
    """Returns the median change of the error by each single departure, '<variant>: <difference>'."""
    both = _switched(result)
    return {
        name: spread(error(both, name) - error(both, name.split(":")[0]))["median"]
        for name in both.names
        if ":" in name
    }


def switch_table(result: ToyResult, n: int) -> pd.DataFrame:
    """Returns single departures from `text` and from `code`: error and its change, fresh error, recovery."""
    both, changes, rows = _switched(result), switch_changes(result), []
    for name in both.names:
        r = both.tensors.get(f"{name}/r")
        rows.append(
            {
                "variant": _label(result, name),
                "recon_sq": spread_text(error(both, name)),
                "change": f"{changes[name]:+.3f}" if name in changes else "",
                "fresh samples": spread_text(both.of("recon_fresh", name).flatten()),
                "all found": of_n(found_all(both, name, n)),
                **({} if r is None else {"r": f"{float(r.nanquantile(0.5)):.3f}"}),
            }
        )
    return pd.DataFrame(rows).set_index("variant")


def switches_from(result: ToyResult, base: str) -> dict[str, float]:
    """Returns the median change of a variant's error by each single departure from it, by what it switches to."""
    changes = {name: c for name, c in switch_changes(result).items() if name.startswith(f"{base}:")}
    return {_label(result, name).split(": ")[1]: change for name, change in changes.items()}


def largest(changes: Mapping[str, float], times: int = 2) -> str:
    """Returns the largest changes in words, the largest first."""
    first = sorted(changes, key=lambda key: -abs(changes[key]))[:times]
    return " and ".join(f"{key} ({changes[key]:+.3f})" for key in first)


def most_moving(result: ToyResult, base: str, times: int = 2) -> str:
    """Returns the departures from a variant that change its error most, in words."""
    return largest(switches_from(result, base), times)


def _label(result: ToyResult, name: str) -> str:
    extra = result.settings.extras.get("switches")
    variant = None if extra is None else extra.variants.get(name)
    return switch_label(name, None if variant is None else variant.n_inputs)


def agreements(result: ToyResult) -> dict[str, list[float]]:
    """Returns the mean matched abs(cos) of live subnetworks between decompositions of one target, by what differs.

    'text' and 'tuned': between decompositions of other seeds, all pairs with the first. Other keys: between `tuned`
    and itself with one setting changed, of the same seed. Targets that the main study lacks are left out.
    """
    main, found = result.main, {}
    if "again" not in result.studies:  # A point of a sweep.
        return found
    again, nearby = result.studies["again"], result.studies["nearby"]
    pairs = [(name.split()[0], name.split()[0], name, again) for name in again.names]
    pairs += [(name, "tuned", name, nearby) for name in nearby.names]
    for key, base, name, study in pairs:
        for i, seed in enumerate(study.seeds):
            if seed not in main.seeds:
                continue
            at = main.seeds.index(seed)
            one, other = (s.of("v_out", v)[j] for s, v, j in ((main, base, at), (study, name, i)))
            alive, also = live(main, base)[at], live(study, name)[i]
            found.setdefault(key, []).append(float(agreement(one, other, alive, also).mean))
    return found


def agreement_table(result: ToyResult) -> pd.DataFrame:
    """Returns agreement by what differs: median, range and number of pairs."""
    rows = [
        {"between": f"seeds, {key}" if key in MAIN else f"tuned and {key}", "matched abs(cos)": spread_text(values)}
        for key, values in agreements(result).items()
    ]
    return pd.DataFrame(rows, columns=["between", "matched abs(cos)"]).set_index("between")


def tidy(study: Study) -> list[dict[str, Any]]:
    """Returns one row per variant and target, for tables of sweeps."""
    rows = []
    for name in study.names:
        columns = {
            "recon_sq": error(study, name), "recon_fresh": study.of("recon_fresh", name).flatten(),
            "covered": study.of("covered", name).flatten(), "live": live(study, name).sum(1),
            "share_in": live_share(study, name),
        }  # fmt: skip
        for i, seed in enumerate(study.seeds):
            values = {key: round(float(t[i]), 6) for key, t in columns.items()}
            rows.append({"variant": name, "seed": seed, **values})
    return rows


def revival_table(result: ToyResult, n: int) -> pd.DataFrame:
    """Returns `text` and `tuned` with and without the auxiliary loss for dead subnetworks, on the same targets."""
    names, study = {"text": "text", "tuned": "tuned"}, result.studies.get("revival")
    if study is None:  # A point of a sweep.
        return settings_table(result.main.part(names), n)
    shared = [seed for seed in study.seeds if seed in result.main.seeds]
    both = result.main.part(names, shared).beside(study.part({name: name for name in study.names}, shared))
    return settings_table(both, n, sorted(both.names))


def mean_active(tasks: Sequence[toys.Task]) -> float:
    """Returns how many circuits (inputs, or groups of them) are active in a sample, in the mean."""
    return float(torch.cat([task.config.active(task.inputs).sum(1).float() for task in tasks]).mean())


def kept_per_active(job: Job, name: str) -> float:
    """Returns the coefficients that a job's variant keeps per sample over the circuits active in a sample."""
    config = job.variants[name].config
    return config.k_fraction * config.n_v / mean_active(job.tasks())


def tuning_rows(job: Job, tuning: Study) -> list[dict[str, Any]]:
    """Returns how many coefficients each candidate keeps per active circuit, and on how many targets all are found.

    Args:
        job: The job of the study, from which `tuned` was chosen.
        tuning: Its measures.
    """
    rows, circuits = [], job.tasks()[0].config.n_groups
    for name in tuning.names:
        variant, found = job.variants[name], found_all(tuning, name, circuits)
        config = variant.config
        rows.append(
            {
                "candidate": name, "divergence": variant.divergence, "n_v": config.n_v, "k": config.k_fraction,
                "per_active": round(kept_per_active(job, name), 4), "circuits": circuits,
                "found": int(found.sum()), "targets": len(found),
                "share": round(spread(live_share(tuning, name))["median"], 4),
                "recon_sq": round(spread(error(tuning, name))["median"], 4),
            }
        )  # fmt: skip
    return rows


def common_numbers(result: ToyResult, n: int) -> dict[str, Any]:
    """Returns the numbers that every toy chapter's prose quotes, by glue name."""
    main, numbers = result.main, {}
    for name in MAIN:
        numbers |= {
            f"recon_{name}": spread_text(error(main, name)),
            f"recon_norm_{name}": spread_text(last_epochs(main.of("recon_norm", name))),
            f"recon_fresh_{name}": spread_text(main.of("recon_fresh", name).flatten()),
            f"found_{name}": of_n(found_all(main, name, n)),
            f"share_{name}": spread_text(live_share(main, name)),
            f"share_out_{name}": spread_text(live_share(main, name, "share_out")),
            f"live_{name}": spread_text(live(main, name).sum(1), 0),
            f"n_v_{name}": main.of("p_active", name).shape[1],
            f"recon_dense_{name}": spread_text(main.of("recon_dense", name)[:, 0]),
            f"recon_single_{name}": spread_text(main.of("recon_dense", name)[:, 1]),
            f"recon_several_{name}": spread_text(main.of("recon_dense", name)[:, 2]),
        }
    for key, values in agreements(result).items():
        numbers[f"agreement_{key.replace(' ', '_')}"] = spread_text(values)
    for name in ("text", "code"):
        numbers[f"moves_{name}"] = most_moving(result, name)
    for name in ("text", "tuned"):
        numbers[f"per_active_{name}"] = f"{kept_per_active(jobs(result.settings)['main'], name):.2f}"
    chosen = chosen_candidate(result.studies["tuning"], n)
    return numbers | {
        "n_trained": main.n_trained, "n_kept": len(main.seeds), "kept_seeds": ", ".join(map(str, main.seeds)),
        "shown_seed": main.seeds[0], "tuning_chosen": chosen,
        "tuning_found": of_n(found_all(result.studies["tuning"], chosen, n)),
        "epochs": result.settings.epochs,
        "core_minutes": round(sum(s.facts["core_seconds"] for s in result.studies.values()) / 60, 1),
    }  # fmt: skip


def make_record(
    result: ToyResult, preset: str, numbers: dict[str, Any], claims: dict[str, dict[str, list]]
) -> dict[str, Any]:
    """Returns a chapter's record: glued numbers, claims, a tidy table, first losses and provenance (JSON-able)."""
    return {
        "preset": preset,
        "settings": settings_digest(result.settings),
        "numbers": numbers,
        "claims": claims,
        "table": tidy(result.main),
        "tuning": tuning_rows(jobs(result.settings)["tuning"], result.studies["tuning"]),
        "first_losses": first_losses(result.studies),
        "provenance": made_by(result.studies, result.main),
    }
