"""Studies to report on."""

from __future__ import annotations

import pytest

from assistant_builder.study import Study
from tests.evals.report.handmade import Recipe, write_study


@pytest.fixture
def study() -> Study:
    """The study most tests look at: no real difference between the arms."""
    return write_study(Recipe())


@pytest.fixture
def many_cells() -> Study:
    """A study with all ten cells scored."""
    return write_study(Recipe(cells=("B16", "B4", "L16", "Q4", "L4", "Q16", "QD", "QR", "LM", "LR"), name="ten-cells"))
