"""Tasks beyond the held-out set: what is said of one that cannot be run."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from assistant_builder.errors import EvaluationError
from evals.extra import ExtraTasks
from evals.retention import TASK
from evals.retention.documents import read_questions


@pytest.mark.parametrize(("error", "said"), [
    (KeyError("Spec 'x' is not registered"), "cannot be run: Spec 'x' is not registered. "),
    (ConnectionError("Couldn't reach 'owner/data' on the Hub\nand much more"), "reach 'owner/data' on the Hub. "),
    (ValueError(""), "cannot be run: ValueError. "),
])
def test_why_a_task_cannot_be_run_is_told_in_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval.tasks import TaskManager

    def load(self: TaskManager, names: list[str]) -> Any:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s")
        raise error

    monkeypatch.setattr(TaskManager, "load", load)
    with pytest.raises(EvaluationError) as caught:
        ExtraTasks([TASK])
    assert said in str(caught.value) and "\n" not in str(caught.value) and "eval.tasks" in str(caught.value)
    assert not caplog.records, "what the hub's client says of its retries"


def test_the_projects_own_task_is_counted_before_it_is_run() -> None:
    assert ExtraTasks([TASK]).documents == {TASK: len(read_questions())}
    assert ExtraTasks([]).documents == {}
