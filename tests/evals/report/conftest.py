"""Studies to report on."""

from __future__ import annotations

import pytest

from assistant_builder.study import Study
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, full_recipe, write_study


@pytest.fixture
def study() -> Study:
    """The study most tests look at: no real difference between the arms."""
    return write_study(Recipe())


@pytest.fixture
def many_cells() -> Study:
    """A study with all ten cells scored."""
    return write_study(Recipe(cells=ALL_CELLS, name="ten-cells"))


@pytest.fixture
def full() -> Study:
    """A study with all ten cells and everything that is measured beside them, three seeds and a judge included."""
    return write_study(full_recipe(seeds=3))
