"""From a decomposition to everything that its page shows: one function for language, vision and toy models alike."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import artifacts
from ..checkpoints import write_whole
from ..checks import check_inputs, check_model
from ..gradients import by_position, model_outputs
from ..training import L3D
from .assemble import Measured, block_of, retold
from .compare import beside, check_same
from .explored import Explored, Scores, of_l3d
from .labels import other_directions
from .push import Pushed, push
from .record import FORMAT, curve, short, shortened, to_block
from .samples import Shown, as_shown, chosen_samples
from .settings import ExplorerSettings
from .store import Result, layout_facts, load_result, save_result, stored_config

# Modules that results depend on, beside those that all results do.
CODE = (
    "assemble", "circuits", "comparison_parts", "components", "compute", "explored", "labels", "own_model_measures",
    "principal", "push", "random_directions", "record", "samples", "settings"
)  # fmt: skip


# Of a result's configuration what can change without anything being computed anew.
TOLD = ("told", "notes")
# Decimals that are kept of logits.
LOGIT_DECIMALS = 3


@dataclass(frozen=True)
class _Task:
    """A decomposition with its inputs and what is shown of them."""

    explored: Explored
    l3d: L3D | None
    inputs: Tensor
    shown: Shown
    notes: Mapping[int, str]
    settings: ExplorerSettings
    told: dict[str, Any]
    chunk_size: int
    progress: bool


def explore(
    l3d: L3D | Explored, inputs: Tensor, path: str | Path, *, samples: Tensor | None = None,
    names: Sequence[str] | None = None, labels: Mapping[str, Sequence[str] | Tensor] | None = None,
    notes: Mapping[int, str] | None = None, captions: Sequence[str] | None = None,
    input_names: Sequence[str] | None = None, title: str | None = None, name: str | None = None,
    facts: Sequence[tuple[str, str]] = (), against: str | Path | None = None,
    settings: ExplorerSettings | None = None, chunk_size: int = 32, progress: bool = False,
) -> Path:  # fmt: skip
    """Returns a page on which a reader can search, open and push every subnetwork; it needs no server.

    What it shows is kept in a folder beside it, from which `l3d explore FOLDER` writes the page anew; a page of two
    with `--against` and the other one's folder. A call that was stopped goes on where it was; one whose result is there
    only writes the page.

    Args:
        l3d: A decomposition; or what `explored.Explored` tells of one by another method.
        inputs: Samples to show subnetworks on, better ones that it was not decomposed on `[n, ...]`.
        path: The page, such as 'subnetworks.html'; the folder has the same name without the ending.
        samples: What a reader sees of the inputs, if not themselves: images of type uint8 `[n, 3, height, width]`.
        names: Of the outputs: texts of the tokens, classes.
        labels: By kind, what each sample is: texts, which are shown, or whole numbers, which only count. Coherence is
            the share of pairs of a subnetwork's top samples that have one label.
        notes: Your own notes by subnetwork.
        captions: Of the inputs.
        input_names: Of the values of inputs that are vectors.
        title: Of the page.
        name: Of the decomposition.
        facts: Names and values that the page states, such as ('model', 'karpathy/stories260K').
        against: A folder of another decomposition of the same model on the same inputs, to be shown beside it.
        settings: How much is computed; None for the defaults.
        chunk_size: Inputs that the model runs on, or whose gradients are formed, at once; results do not depend on it.
        progress: Show bars on standard error.

    Raises:
        TypeError: A decomposition, a model or inputs of the wrong kind.
        ValueError: Anything that cannot be shown, before any work is done; what is wrong and what to do is said.
        OSError: The page or the folder cannot be written; what was there is untouched.
    """
    from .page import write_page

    page = Path(path)
    page = page if page.suffix == ".html" else page.with_name(f"{page.name}.html")
    folder, settings = page.with_suffix(""), settings or ExplorerSettings()
    explored = _explored(l3d)
    shown = _checked(
        explored, inputs, chunk_size, samples=samples, names=names, labels=labels, captions=captions,
        input_names=input_names,
    )  # fmt: skip
    told = {"title": title or f"Subnetworks of {type(explored.model).__name__}", "name": name or explored.method,
            "facts": [[str(key), str(value)] for key, value in facts]}  # fmt: skip
    task = _Task(explored, l3d if isinstance(l3d, L3D) else None, inputs, shown, _checked_notes(explored, notes),
                 settings, told, chunk_size, progress)  # fmt: skip
    config = _config(task)
    _check_folder(folder)
    other = None if against is None else load_result(against)
    if other is not None:
        check_same(config, other.config)
    found = _found(task, folder, config)
    return write_page(to_block(beside(found, other) if other else found.block), page)


def _check_folder(folder: Path) -> None:
    """Raises unless a folder is not there, is empty, or holds what an earlier call left."""
    if folder.is_dir() and ("explorer" in (stored_config(folder) or {}) or not any(folder.iterdir())):
        return
    if folder.exists():
        raise ValueError(
            f"{folder} is there and no result of explore; expected a free name. Choose another path for the page, "
            "whose folder has the same name, or move what is there."
        )


def _found(task: _Task, folder: Path, config: dict[str, Any]) -> Result:
    """Returns a result from its folder, where only what is told of it may have changed, or computes it."""
    stored = stored_config(folder) or {}
    if any(stored.get(key) != value for key, value in config.items() if key not in TOLD):
        _compute(task, folder, config)
    elif stored != config:
        found = load_result(folder)
        save_result(folder, config, found.tensors, retold(found.block, task.told, task.notes, found.facts), found.facts)
    return load_result(folder)


def _explored(l3d: L3D | Explored) -> Explored:
    if not isinstance(l3d, L3D | Explored):
        raise TypeError(f"got a {type(l3d).__name__} to explore; expected an L3D, such as decompose returns.")
    explored = of_l3d(l3d) if isinstance(l3d, L3D) else l3d
    check_model(explored.model)
    if not all(torch.isfinite(side.flat).all() for side in (explored.v_in, explored.v_out)):
        raise ValueError("the directions hold NaN or infinite values; expected finite ones. Decompose again.")
    return explored


def _checked(explored: Explored, inputs: Tensor, chunk_size: int, **options: Any) -> Shown:  # noqa: ANN401
    """Returns what is shown of the inputs, or raises; the model runs on one of them."""
    check_inputs(inputs, minimum=2)
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size!r}; expected a whole number of at least 1.")
    device = explored.v_out.flat.device
    if inputs.device != device:
        raise ValueError(f"inputs are on {inputs.device}, the decomposition on {device}; expected one device.")
    with torch.no_grad():
        y = by_position(model_outputs(explored.model, {}, inputs[:1]))
    return as_shown(inputs, y.shape[1], y.shape[2], **options)


def _checked_notes(explored: Explored, notes: Mapping[int, str] | None) -> dict[int, str]:
    wrong = [v for v in notes or {} if not isinstance(v, int) or not 0 <= v < explored.v_out.n_v]
    if wrong:
        raise ValueError(
            f"a note is of subnetwork {wrong[0]!r}; expected whole numbers from 0 to {explored.v_out.n_v - 1}."
        )
    return {v: str(note) for v, note in sorted((notes or {}).items())}


def _config(task: _Task) -> dict[str, Any]:
    """Returns everything that determines a result."""
    explored, shown, digest = task.explored, task.shown, artifacts.tensor_digest
    labels = {kind: digest([of]) if isinstance(of, Tensor) else list(of) for kind, of in shown.labels.items()}
    texts = [list(shown.names), labels, shown.captions and list(shown.captions), shown.input_names]
    # Given as JSON gives it back, so that it can be compared with what is on disk.
    return json.loads(json.dumps({
        "explorer": FORMAT, "settings": asdict(task.settings), "told": task.told,
        "notes": task.notes, "method": explored.method, "terms": list(map(list, explored.terms)),
        "along": explored.along, "signs": explored.signs, "grid": explored.grid,
        "settled": list(map(list, explored.facts)),
        "kind": shown.kind,
        "layout": layout_facts(explored.v_out.layout), "weights": digest(list(explored.model.state_dict().values())),
        "directions": digest([explored.v_in.flat, explored.v_out.flat, explored.p_active, explored.history]),
        "inputs": digest([task.inputs]), "shown": digest([shown.samples], json.dumps(texts)),
        "torch": torch.__version__, "code": artifacts.code_digest(CODE),
    }))  # fmt: skip


def _compute(task: _Task, folder: Path, config: dict[str, Any]) -> None:
    """Computes a result and leaves it in its folder; what is done is kept beside it until the end."""
    scratch = folder.with_name(f"{folder.name}.unfinished-{artifacts.config_hash(config)}")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {scratch}: {error.strerror}; expected a writable folder.") from error
    measured = _scores(task, scratch)
    others = [_pushed(task, measured, v, scratch) for v in _bar(task, measured.n_v)]
    facts = artifacts.provenance(task.inputs.device.type)
    block = block_of(task.explored, task.shown, task.settings, task.told, task.notes, measured, others, facts)
    tensors = {
        "impact": measured.absolute.float(), "signed": measured.signed.float(), "v_in": task.explored.v_in.flat,
        "v_out": task.explored.v_out.flat,
    }  # fmt: skip
    tensors = {name: t.detach().cpu().clone() for name, t in tensors.items()}  # Some may be one and the same.
    save_result(folder, config, tensors, block, facts)
    # Those of calls with other arguments that were given up too.
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.unfinished-*"):
        shutil.rmtree(left, ignore_errors=True)


def _bar(task: _Task, n: int) -> tqdm:
    return tqdm(range(n), disable=not task.progress, desc="pushes", unit="subnetwork")


def _scores(task: _Task, scratch: Path) -> Measured:
    """Returns impacts of all directions and the samples that each subnetwork is shown on."""
    explored, shown, settings = task.explored, task.shown, task.settings
    n_v, others = explored.v_out.n_v, {}
    if shown.labels and task.l3d is not None:
        others = other_directions(task.l3d, task.inputs, shown.n_positions, task.chunk_size, settings.seed)
    rows = torch.cat(list(others.values())) if others else None
    what = (task.inputs, rows, settings.n_references, settings.seed, task.chunk_size, scratch, task.progress)
    found = explored.score(*what)
    own = Scores(*(each[:, :n_v] for each in found))
    top, random = chosen_samples(own.absolute, shown.n_positions, settings)
    behind = dict(zip(others, found.absolute[:, n_v:].split(n_v, 1), strict=True)) if others else {}
    with torch.no_grad():
        total = sum(
            by_position(model_outputs(explored.model, {}, x)).flatten(0, 1).double().sum(0)
            for x in task.inputs.split(task.chunk_size)
        )
    return Measured(own.absolute, own.signed, top, random, behind, (total / len(own.absolute)).to(explored.v_out.flat))


def _pushed(task: _Task, measured: Measured, v: int, scratch: Path) -> dict[str, Any]:
    """Returns a subnetwork's grid and examples, from an earlier call that was stopped if it got so far."""
    kept = scratch / f"subnetwork-{v:06}.json"
    if not kept.exists():
        found = _push(task, measured, v)
        write_whole(kept, lambda part: Path(part).write_text(json.dumps(found)))
    return json.loads(kept.read_text())


def _push(task: _Task, measured: Measured, v: int) -> dict[str, Any]:
    """Returns a subnetwork's grid, how far lines hold, and its examples; items are numbered over all samples."""
    explored, n_positions = task.explored, task.shown.n_positions
    chosen = torch.tensor([*measured.top[v].tolist(), *measured.random[v]])
    places, positions = chosen // n_positions, chosen % n_positions
    device = task.inputs.device
    found = push(
        explored.alone(v), task.inputs[places.to(device)], positions.to(device), len(measured.top[v]), task.settings,
        measured.middle, task.chunk_size,
    )  # fmt: skip
    examples = [_example(task, measured, v, found, i, sample) for i, sample in enumerate(chosen.tolist())]
    return {"deltas": found.deltas, "linear": found.linear, "examples": examples}


def _example(task: _Task, measured: Measured, v: int, found: Pushed, i: int, sample: int) -> dict[str, Any]:
    """Returns one sample of a subnetwork, the i-th that it was pushed on."""
    item, position = divmod(sample, task.shown.per_item)
    signed = measured.signed[:, v].view(-1, task.shown.per_item)[item]
    # Probabilities are exponentials of differences of these.
    least = LOGIT_DECIMALS if task.explored.distribution else None
    outputs = [curve(along, least) for along in found.real[i].double().mT.tolist()]
    real = [list(row) for row in zip(*outputs, strict=True)]
    normaliser = curve(found.normaliser[i].double().tolist(), least) if task.explored.distribution else None
    return {
        "item": item, "position": position, "impact": short(float(measured.absolute[sample, v])),
        "signed": shortened(signed.tolist()),
        "moved": [[o, short(s)] for o, s in zip(found.moved[i].tolist(), found.slopes[i].tolist(), strict=True)],
        "before": real[found.deltas.index(0.0)], "real": real, "normaliser": normaliser,
    }  # fmt: skip
