"""Subnetworks of stored decompositions as panels of `networks`."""

from __future__ import annotations

from torch import Tensor, nn

from ..chapters.moves import shaped
from ..chapters.studies import Study
from ..chapters.toy_measures import layers
from .networks import Panel


def model_panel(model: nn.Module, title: str, group_size: int | None = None) -> Panel:
    """Returns a target itself as a panel."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    weights, biases = layers(named)
    return Panel(weights=weights, biases=_biases(named, biases), title=title, group_size=group_size)


def subnetwork_panels(
    study: Study,
    name: str,
    model: nn.Module,
    target: int = 0,
    *,
    group_size: int | None = None,
    most: int | None = None,
) -> list[Panel]:
    """Returns the subnetworks of one decomposition as panels, by top input, dead ones last.

    Args:
        study: One that keeps directions.
        name: The variant.
        model: The target that was decomposed, for the shapes.
        target: Which of the study's targets.
        group_size: Inputs that are active together.
        most: How many to return at most.
    """
    m = {key: t[target] for key, t in study.all(name).items()}
    tensors, live = shaped(m["v_out"], model), m["p_active"] > 0
    order = sorted(range(len(live)), key=lambda v: (not live[v], int(m["top_input"][v]), -float(m["p_active"][v])))
    word, panels = "input" if group_size is None else "group", []
    for v in order[:most]:
        own = {key: t[v] for key, t in tensors.items()}
        weights, biases = layers(own)
        top = f"{word} {int(m['top_input'][v])}" if live[v] else "dead"
        p_active = float(m["p_active"][v])
        used = "< 0.01" if live[v] and p_active < 0.005 else f"{p_active:.2f}"  # 0.00 would be taken for a dead one.
        title = f"$v_{{{v}}}$: {top}\n$P_{{act}}$ {used}"
        panels.append(
            Panel(
                weights=weights, biases=_biases(own, biases), title=title, group_size=group_size, dead=not bool(live[v])
            )
        )
    return panels


def _biases(tensors: dict[str, Tensor], biases: list[Tensor]) -> list[Tensor | None]:
    """Returns the biases of each layer; the hidden layer of a perceptron has none."""
    return [None, biases[-1]] if "W_in" in tensors else biases
