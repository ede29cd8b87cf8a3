"""Every setting that the notebooks' results are made with; with `exhibits`, the manifest of the book."""

from __future__ import annotations

from . import apd_experiments, comparison_experiments, real_experiments, toy_experiments
from .chapters import apd_chapter, comparison, own_model, real_chapter, superposition, toy_chapter
from .chapters.apd_chapter import APDSettings
from .chapters.comparison_settings import ComparisonSettings
from .chapters.own_model import OwnModelSettings
from .chapters.real_chapter import RealSettings
from .chapters.superposition import SuperpositionSettings
from .chapters.toy_chapter import ToySettings
from .exhibits import EXHIBITS as EXHIBITS
from .exhibits import Exhibit as Exhibit

PRESETS = ("quick", "paper")

SETTINGS = {
    **toy_experiments.SETTINGS, **real_experiments.SETTINGS, **apd_experiments.SETTINGS,
    "08_your_own_model": own_model.SETTINGS, **comparison_experiments.SETTINGS,
}  # fmt: skip

NOTEBOOKS = (
    "01_superposition", "02_circuit_superposition", "03_high_rank", "04_squared", "05_language_model", "06_vision",
    "07_apd", "08_your_own_model", "09_comparison",
)  # fmt: skip
# The module that computes each notebook's results.
CHAPTERS = {
    "01_superposition": superposition,
    **dict.fromkeys(("02_circuit_superposition", "03_high_rank", "04_squared"), toy_chapter),
    **dict.fromkeys(("05_language_model", "06_vision"), real_chapter),
    "07_apd": apd_chapter,
    "08_your_own_model": own_model,
    "09_comparison": comparison,
}


def notebooks() -> list[str]:
    """Returns all notebooks, in reading order."""
    return list(NOTEBOOKS)


def built(exhibit: Exhibit) -> bool:
    """Returns whether the book shows an exhibit's notebook yet."""
    return exhibit.notebook in NOTEBOOKS


def settings(
    notebook: str, preset: str
) -> SuperpositionSettings | ToySettings | RealSettings | APDSettings | OwnModelSettings | ComparisonSettings:
    """Returns the settings of a notebook's preset.

    Args:
        notebook: A name such as '01_superposition'.
        preset: 'quick' or 'paper'.

    Raises:
        ValueError: An unknown notebook or preset.
    """
    if notebook not in SETTINGS:
        raise ValueError(f"notebook {notebook!r} is unknown; expected one of {notebooks()}. See l3d list.")
    if preset not in SETTINGS[notebook]:
        raise ValueError(f"preset {preset!r} of {notebook} is unknown; expected one of {list(SETTINGS[notebook])}.")
    return SETTINGS[notebook][preset]
