"""Results of the explorer on disk: folders with impacts, directions and the block that a page is made of."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import artifacts
from ..tucker import Layout, TuckerDirections
from .record import FORMAT, Block, from_json, to_json

BLOCK = "explorer.json"
NEEDED = ("impact", "signed", "v_in", "v_out")


class Result(NamedTuple):
    """What a folder of the explorer holds.

    Attributes:
        config: What determined it.
        tensors: `impact` and `signed` `[n_s, n_v]`, `v_in` and `v_out` as cores and factors.
        block: What a page shows.
        facts: Provenance.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    block: Block
    facts: dict[str, Any]

    @property
    def v_out(self) -> TuckerDirections:
        """The subnetworks."""
        return TuckerDirections(read_layout(self.config["layout"]), self.tensors["v_out"])


def layout_facts(layout: Layout) -> dict[str, Any]:
    """Returns a layout as `sharing.save_l3d` has it in its configuration; `read_layout` reads it back."""
    tensors = [[name, list(layout.shapes[name]), list(layout.ranks[name])] for name in layout.shapes]
    return {"form": layout.form, "tensors": tensors}


def read_layout(facts: dict[str, Any]) -> Layout:
    """Returns the layout of `layout_facts`."""
    shapes, ranks = ({row[0]: tuple(row[i]) for row in facts["tensors"]} for i in (1, 2))
    return Layout(shapes, ranks, facts["form"])


def weights_facts(v_in: TuckerDirections, v_out: TuckerDirections) -> dict[str, Any]:
    """Returns directions as a page holds them, from which one subnetwork can be taken away: see `read_weights`."""
    return {
        "layout": layout_facts(v_out.layout),
        **{name: _encoded(side.flat) for name, side in (("v_in", v_in), ("v_out", v_out))},
    }


def _encoded(flat: Tensor) -> str:
    numbers = flat.detach().cpu().float().contiguous().numpy().astype("<f4")
    return base64.b64encode(numbers.tobytes()).decode()


def read_weights(facts: dict[str, Any]) -> tuple[TuckerDirections, TuckerDirections]:
    """Returns V_in and V_out from what a page holds of them."""
    import numpy

    layout = read_layout(facts["layout"])
    sides = []
    for name in ("v_in", "v_out"):
        numbers = numpy.frombuffer(base64.b64decode(facts[name]), dtype="<f4").astype("f4")
        sides.append(TuckerDirections(layout, torch.from_numpy(numbers).view(-1, layout.n_numbers)))
    return sides[0], sides[1]


def save_result(
    path: Path, config: dict[str, Any], tensors: dict[str, Tensor], block: Block, facts: dict[str, Any]
) -> None:
    """Writes a result whole or not at all.

    Args:
        path: The folder to appear.
        config: What determined it.
        tensors: See `Result`.
        block: What a page shows.
        facts: Provenance.

    Raises:
        OSError: The folder cannot be written; what was there is untouched.
    """
    numbers = {"n_subnetworks": len(block.decompositions[0].subnetworks), "n_items": len(block.items)}
    artifacts.save_artifact(path, config, tensors, numbers, facts, more={BLOCK: to_json(block) + "\n"})


def load_result(path: str | Path) -> Result:
    """Returns what `explore` left in a folder.

    Raises:
        ValueError: No such folder, one that is not whole or has no impacts, or one of another version.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected a result that explore left. Make it with l3d explore.")
    config, tensors, _, facts = artifacts.load_artifact(path)
    missing = [name for name in NEEDED if name not in tensors]
    if missing:
        raise ValueError(
            f"{path} holds no {missing[0]!r} among its tensors {sorted(tensors)}; expected a result of explore, with "
            "the impacts of its subnetworks. Call explore(l3d, inputs, ...) first."
        )
    if config.get("explorer") != FORMAT:
        raise ValueError(
            f"{path} has format {config.get('explorer')!r}; expected {FORMAT}. Call explore again with this version."
        )
    try:
        text = (path / BLOCK).read_text()
    except OSError as error:
        raise ValueError(f"{path} is no whole result ({error}); delete the folder and call explore again.") from error
    return Result(config, tensors, _checked(path, text), facts)


def _checked(path: Path, text: str) -> Block:
    try:
        return from_json(text)
    except ValueError as error:
        raise ValueError(f"{path / BLOCK}: {error}") from error


def stored_config(path: Path) -> dict[str, Any] | None:
    """Returns the configuration that a folder tells of, None if there is none to be read."""
    try:
        return json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return None
