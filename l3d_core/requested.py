"""What a command asks for: notebooks by name, parameters, where results go, the device."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def shared_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what every notebook takes."""
    parameters = {"preset": options.preset, "device": resolve_device(options.device)}
    if options.artifacts:
        parameters["artifacts_dir"] = str(options.artifacts.resolve())
    return parameters


def check_names(names: Sequence[str], every: bool) -> list[str]:
    """Returns the notebooks to run.

    Args:
        names: Those asked for.
        every: Whether all were.

    Raises:
        ValueError: Neither or both, or an unknown notebook.
    """
    from .experiments import notebooks

    known = notebooks()
    if bool(names) == every:
        raise ValueError(f"got {len(names)} names and --all {'set' if every else 'not set'}; expected names or --all.")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"notebook {unknown[0]!r} is unknown; expected one of {known}. See l3d list.")
    return known if every else list(names)


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Returns parameters given as name=value, values read as Python literals or else as YAML.

    Raises:
        ValueError: No '=' in one, a value that cannot be read, or a name that has its own option.
    """
    from .runner import read_value, split_parameter

    texts = {pair: split_parameter(pair) for pair in pairs}
    return {name: read_value(text, pair) for pair, (name, text) in texts.items()}


def destination(root: Path, name: str, options: argparse.Namespace, overrides: dict[str, Any]) -> Path:
    """Returns where an executed notebook goes.

    Args:
        root: The checkout.
        name: The notebook.
        options: Of `l3d run`: preset, output, in_place.
        overrides: Parameters given with -p.

    Raises:
        ValueError: Options that contradict each other, or an output that is no notebook or a notebook's source.
    """
    sources = root / "notebooks"
    if options.in_place:
        if options.preset != "quick" or overrides or options.output:
            raise ValueError("--in-place refreshes the quick outputs; expected no --preset paper, -p or --output.")
        return sources / f"{name}.ipynb"
    if options.output:
        if options.output.suffix != ".ipynb" or options.output.resolve().parent == sources:
            raise ValueError(f"--output {options.output} is refused; expected an .ipynb file outside notebooks/.")
        return options.output.resolve()
    if overrides:
        key = json.dumps([options.preset, overrides], sort_keys=True, default=str)
        return root / "artifacts" / "runs" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.ipynb"
    if options.preset == "paper":
        return root / "book" / "results" / f"{name}.ipynb"
    return root / "artifacts" / "runs" / f"{name}.quick.ipynb"


def resolve_device(device: str) -> str:
    """Returns 'cpu' or 'cuda'.

    Args:
        device: 'auto', 'cpu' or 'cuda'.

    Raises:
        ValueError: 'cuda' where there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no GPU; expected one. Use --device auto or cpu.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
