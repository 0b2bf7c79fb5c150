"""What the tests that train the real bundled model share."""

from pathlib import Path

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.study import Study

CARDS = Path(__file__).resolve().parents[2] / "datasets_cards"
SMALL = CARDS / "thimble-row-library" / "data.csv"


@pytest.fixture
def small_study(bundled_models: Path) -> Study:
    """A study of six steps on the small shipped dataset, not yet run."""
    config = StudyConfig(name="small").with_changes(
        {
            "approaches": ["memory"],
            "data.source": str(SMALL),
            "train.max_steps": 6,
            "train.batch_size": 4,
            "train.micro_batch_size": 2,
            "train.evaluations": 2,
            "train.rank": 4,
            "train.dropout": 0.05,
            "data.max_heldout": 4,
            "eval.max_new_tokens": 8,
            "eval.bootstrap_resamples": 500,
        }
    )
    return Study.create(config, SMALL)
