"""The page without a browser: refresh, starting runs, inspection of files, downloads, headers and imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.errors import StudyError
from assistant_builder.study import Study
from assistant_builder.study.steps import STEPS, StepRecord
from assistant_builder.ui.app import (
    _draw_frame,
    _opened,
    ready_steps,
)
from assistant_builder.ui.data.preview import (
    inspect_file,
    preview_split,
)
from assistant_builder.ui.refresh import LiveRegion, StudyView, refresh
from assistant_builder.ui.tabs import TABS
from assistant_builder.ui.train import actions as train_actions
from assistant_builder.ui.uploads import offer
from tests.synthetic_study import (
    finished_study,
    new_study,
    running,
    trained,
    with_data,
)

ROOT = Path(__file__).parents[2]


def inputs_of(
    study: Study, step: str, *, config: StudyConfig | None = None, source: Path | None = None
) -> dict[str, Any]:
    """Replaces ``invalidation.step_inputs``, which needs the base model for training steps."""
    config = config or study.config
    return {"data": {"seed": config.data.seed}, "data-embed": {}}.get(
        step, {"train.rank": config.train.rank}
    )


def made_from(study: Study) -> Study:
    """Record the inputs of the finished steps."""
    for step in STEPS:
        record = study.step(step)
        if record.state == "succeeded":
            study.write_step(replace(record, inputs=inputs_of(study, step)))
    return study


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr("assistant_builder.runner.invalidation.step_inputs", inputs_of)
    monkeypatch.setattr(
        train_actions, "start_run", lambda name, redo=False, **flags: calls.append((name, redo))
    )
    return calls


def rank_8(config: StudyConfig) -> StudyConfig:
    return config.with_changes({"train.rank": 8})


# following


def test_only_changed_regions_are_drawn():
    drawn: list[str] = []

    def section(key: str, mark: str) -> LiveRegion:
        return LiveRegion(
            key, [object()], lambda look: mark, lambda look: [drawn.append(key) or key]
        )

    before, *_ = refresh([section("a", "1"), section("b", "old")], None, "")
    assert drawn == ["a", "b"]
    after, *values = refresh([section("a", "1"), section("b", "2")], None, before)
    assert drawn == ["a", "b", "b"] and values == [gr.skip(), "b"] and after != before
    assert refresh([section("a", "1"), section("b", "2")], None, after) == [gr.skip()] * 3


def test_an_error_in_one_region_does_not_affect_the_others(monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, **options: warned.append(text))

    def broken(look: StudyView) -> list[Any]:
        raise KeyError("<b>gone</b>")

    parts = [
        LiveRegion("bad", [object()], lambda look: "1", broken),
        LiveRegion("good", [object()], lambda look: "1", lambda look: ["drawn"]),
    ]
    _, bad, good = refresh(parts, None, "")
    assert good == "drawn" and bad == gr.skip()
    assert "&lt;b&gt;" in warned[0]


def test_a_missing_or_damaged_study_is_reported():
    assert "no study named" in StudyView("nowhere").error["what"]
    study = finished_study()
    (study.folder / "report.json").write_text("{")
    look = StudyView(study.name)
    assert look.snapshot is None and look.error is not None and "damaged" in look.error["what"]
    (study.folder / "study.yaml").write_text("train: {rank: many}")
    assert StudyView(study.name).snapshot is None


def test_tabs_can_be_opened_when_their_inputs_exist():
    assert ready_steps(StudyView("")) == {"data"}
    study = new_study("way")
    assert ready_steps(StudyView("way")) == {"data", "plan", "train", "chat", "export"}
    trained(with_data(study))
    assert ready_steps(StudyView("way")) == set(
        "data plan train evaluate chat export inbox".split()
    )
    assert ready_steps(StudyView(finished_study("done").name)) == set(TABS)
    for name, asked, opened in (
        ("way", {"tab": "report"}, "data"),
        ("way", {"tab": "chat"}, "chat"),
        ("way", {}, "data"),
        ("done", {"tab": "nonsense"}, "data"),
    ):
        assert _opened({"study": name, **asked})[1][-1] == opened


def test_a_missing_study_opens_the_home_screen_with_a_notice():
    new_study("here")
    name, (_, tabs, notice, _) = _opened({"study": "<b>gone</b>", "tab": "chat"})
    assert name is None
    assert notice["visible"]
    assert "no project “&lt;b&gt;gone&lt;/b&gt;”" in notice["value"]
    name, (picker, tabs, notice, tab) = _opened({"study": "here", "tab": "train"})
    assert (name, picker["value"], tabs.selected, notice["visible"], tab) == (
        "here",
        "here",
        "train",
        False,
        "train",
    )
    assert _opened({})[0] is None and not _opened({})[1][2]["visible"]
    frame = _draw_frame(StudyView("here"))
    assert frame[-1] == gr.update(visible=False), "the notice goes when a study is opened"


# starting


def test_start_writes_changed_settings_of_an_untouched_study(started):
    study = new_study()
    assert train_actions.start_or_resume(study, rank_8(study.config), replace=False) == ""
    assert started == [("library", False)]
    assert study.config.train.rank == 8


def test_results_are_replaced_only_on_request(started):
    study = made_from(finished_study())
    message = train_actions.start_or_resume(study, rank_8(study.config), replace=False)
    assert not started and study.config.train.rank == 16
    assert "train.rank: 16 -&gt; 8" in message
    assert train_actions.start_or_resume(study, rank_8(study.config), replace=True) == ""
    assert started == [("library", True)]
    assert study.config.train.rank == 8


def test_the_page_refuses_what_the_run_would_refuse(started):
    study = with_data(new_study())
    study.write_step(StepRecord("train-lora", state="failed", inputs={"train.rank": 16}))
    study.write_step(
        StepRecord("train-qlora", state="succeeded", outputs={"arms/qlora/adapter": "its hash"})
    )
    made_from(study)
    with pytest.raises(
        StudyError, match="arms/qlora/adapter, written by step 'train-qlora', is damaged"
    ):
        train_actions.start_or_resume(study, rank_8(study.config), replace=False)
    study.write_step(replace(study.step("train-qlora"), outputs={}))
    message = train_actions.start_or_resume(study, rank_8(study.config), replace=False)
    assert "train.rank: 16 -&gt; 8" in message, (
        "the other arm does not wait for the one that failed"
    )
    with study.lock(), pytest.raises(StudyError, match="another process"):
        train_actions.start_or_resume(study, rank_8(study.config), replace=True)
    assert not started and study.config.train.rank == 16


def test_a_running_study_is_not_started_twice(started):
    study = with_data(new_study())
    running(study, "train-lora")
    with pytest.raises(StudyError, match="already running"):
        train_actions.start_or_resume(study, study.config, replace=False)
    assert not started


def test_a_waiting_study_is_not_started_twice_and_can_leave_the_queue(started):
    study = new_study()
    study.write_run_record("queued", queued_behind=["rivers"])
    with pytest.raises(StudyError, match="or queued"):
        train_actions.start_or_resume(study, study.config, replace=False)
    assert not started
    assert train_actions.pause_label(study) == "Leave the queue"
    assert train_actions.pause_run(study.name)["value"] == "Leaving the queue…"
    assert study.cancel_requested


def test_a_start_is_shown_until_the_run_writes_its_state(monkeypatch):
    study = new_study()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(
            "assistant_builder.runner.run.start_run", lambda name, **flags: process.pid
        )
        assert train_actions.start_phase(study) == ""
        train_actions.start_run(study.name)
        assert train_actions.start_phase(study) == "starting"
    (study.folder / "run.log.txt").write_text("first\nError: no such model. Choose another\n")
    assert train_actions.start_phase(study) == "refused"
    assert "Error: no such model. Choose another" in train_actions.start_refusal(study)
    study.write_run_record("running")
    assert train_actions.start_phase(study) == ""


# files


def test_the_inspection_of_a_file_is_cached_until_it_changes(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("question,answer\nWhat is it?,It is a thing.\n")
    first = inspect_file(file, {})
    assert inspect_file(file, {}) is first
    file.write_text("question,answer\nWhat is it?,It is a thing.\nWhere is it?,It is over there.\n")
    assert inspect_file(file, {}).findings.dataset.rows == 2


def test_of_large_tables_the_page_keeps_one(tmp_path, monkeypatch):
    from assistant_builder.ui.data import preview, row_editor

    for module in (preview, row_editor):
        monkeypatch.setattr(module, "LARGE_CELLS", 3)
    preview._inspect.cache_clear()
    row_editor._cached_table.cache_clear()
    for number in range(3):
        file = tmp_path / f"{number}.csv"
        file.write_text("question,answer\n" + f"q,{number}\n" * 2)
        inspect_file(file, {})
        row_editor._table(file, {})
    assert (
        preview._inspect.cache_info().currsize
        == row_editor._cached_table.cache_info().currsize
        == 1
    )


def test_the_error_of_an_unreadable_file_has_its_columns_and_not_its_path(tmp_path):
    file = tmp_path / "odd.csv"
    file.write_text("stem,key\nWhat is it?,It is a thing.\n")
    seen = inspect_file(file, {})
    assert seen.findings is None and seen.columns == ("stem", "key")
    assert seen.error is not None and str(tmp_path) not in str(seen.error)
    mapped = inspect_file(file, {"question": "stem", "answer": "key"})
    assert mapped.findings is not None
    assert isinstance(preview_split(mapped.findings, DataConfig()), dict)


def test_downloads_are_copies():
    study = finished_study()
    copy = offer(study.folder / "report.md", "library-report.md")
    assert copy is not None and Path(copy).read_bytes() == (study.folder / "report.md").read_bytes()
    assert study.folder not in Path(copy).parents and Path(copy).name == "library-report.md"
    assert offer(study.folder / "nothing", "x") is None


# headers and imports


def words_of(path: Path) -> Iterator[str]:
    """Texts in a module, apart from its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [node.body for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    alone = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_the_page_says_project_and_names_assistants_in_one_place():
    """What the code calls a study is a project on the page; ``arms.py`` alone names the assistants."""
    logs = {"refresh.py"}
    for path in (ROOT / "assistant_builder" / "ui").rglob("*.py"):
        for text in words_of(path):
            assert "LoRA" not in text, f"{path.name}: {text}"
            if path.name not in logs and " " in text and "(?:" not in text:
                assert not re.search(r"\bstud(y|ies)\b", text, re.IGNORECASE), (
                    f"{path.name}: {text}"
                )
