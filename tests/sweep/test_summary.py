"""The tables of a sweep, from the results of made-up studies."""

from typing import Any

import pytest

from assistant_builder.sweep import open_sweep, run_sweep
from assistant_builder.sweep.summary import ordered, study_rows
from tests.sweep.simulated_runs import Scenario, pretend
from tests.synthetic_study import SMALL
from tests.texts import parts


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two settings; one study fails, one is clearly worse."""
    pretend(
        Scenario(validation={1: 1.4, 2: 0.9, 4: 1.2}, heldout={1: 0.5}, failing={3}), monkeypatch
    )
    settings = """
        train.rank=8,64 train.target_modules=all-linear,<b>[q] data.heldout_fraction=0.5
        eval.bootstrap_resamples=400 eval.primary_metric=nll_per_token eval.margin=0.03
        eval.estimand=wordings
    """.split()
    return run_sweep(open_sweep(str(SMALL), name="look", settings=settings))


def test_the_table_has_the_chosen_one_first_and_what_failed_last(record):
    assert [row["name"] for row in ordered(record)] == ["look-2", "look-4", "look-1", "look-3"]
    columns, rows = study_rows(record)
    assert columns == parts(
        """
        study | train.rank | train.target_modules | validation loss | held-out loss, 16-bit LoRA
        held-out loss, QLoRA
        """
    )
    assert rows[0][:4] == ["look-2 *", "8", "<b>[q]", "0.905"]
    assert rows[3][3:] == ["failed", "–", "–"]
    assert [float(text) for text in rows[2][4:]] == pytest.approx(
        [record["studies"][0]["heldout"][cell] for cell in ("L16", "Q4")], abs=5e-4
    )
