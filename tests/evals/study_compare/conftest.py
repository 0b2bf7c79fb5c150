"""Two scored studies, alike but for the rank of the adapters."""

from pathlib import Path

import pytest

from assistant_builder.study import Study
from tests.evals.study_compare.scored_studies import make


@pytest.fixture
def a(home: Path) -> Study:
    return make("narrow")


@pytest.fixture
def b(home: Path) -> Study:
    return make("wide", train__rank=64)
