"""Notebooks that need data are skipped where L3D_HUB does not hold them."""

import pytest

from l3d_core.real_experiments import missing_data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cells of notebooks whose data are missing."""
    for item in items:
        missing = missing_data(item.path.stem) if item.path.suffix == ".ipynb" else []
        if missing:
            reason = f"{item.path.stem}: no data, L3D_HUB does not hold {' and '.join(missing)}"
            item.add_marker(pytest.mark.skip(reason=reason))
