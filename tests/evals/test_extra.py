"""Tasks beyond the held-out set: what is said of one that cannot be run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
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


def test_a_file_is_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("open('ran', 'w').close()\ndocuments = list\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ncustom_dataset: !function helper.documents\noutput_type: multiple_choice\n", encoding="utf-8"
    )
    for name in ("mine.yaml", str(tmp_path / "mine.yaml")):
        with pytest.raises(EvaluationError, match="knows no task") as caught:
            ExtraTasks([name])
        assert "lm-eval ls tasks" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_tasks_are_loaded_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    seen: list[list[str]] = []
    load = TaskManager.load

    def looking(self: TaskManager, names: list[str]) -> Any:
        seen.append(os.listdir())
        return load(self, names)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rouge").mkdir()  # evaluate.load("rouge") would run the script in it
    monkeypatch.setattr(TaskManager, "load", looking)
    ExtraTasks([TASK])
    assert seen == [[]] and Path.cwd() == tmp_path


def test_the_projects_own_task_is_counted_before_it_is_run() -> None:
    assert ExtraTasks([TASK]).documents == {TASK: len(read_questions())}
    assert ExtraTasks([]).documents == {}
