"""Studies to report on, and reports on them."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from assistant_builder.study import Study
from evals.report.build import build_report
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, full_recipe, write_study

RECIPES = {
    "study": Recipe(),
    "ten cells": Recipe(cells=ALL_CELLS, name="ten-cells"),
    "full": full_recipe(seeds=3),
}


@pytest.fixture
def study() -> Study:
    """The study most tests look at: no real difference between the arms."""
    return write_study(RECIPES["study"])


@pytest.fixture
def full() -> Study:
    """A study with all ten cells and everything that is measured beside them, three seeds and a judge included."""
    return write_study(RECIPES["full"])


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The reports on the studies of the recipes, each built once."""

    @cache
    def build(recipe: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path_factory.mktemp("reported")))
            return build_report(write_study(RECIPES[recipe]))

    return build


@pytest.fixture
def report(reports: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(reports("study"))


@pytest.fixture
def report_of_ten(reports: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(reports("ten cells"))


@pytest.fixture
def full_report(reports: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return copy.deepcopy(reports("full"))
