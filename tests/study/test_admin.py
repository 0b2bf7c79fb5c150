import time
from pathlib import Path

import pytest
from filelock import FileLock

from assistant_builder.atomic_io import write_text
from assistant_builder.config import slug
from assistant_builder.errors import StudyError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.study import Study
from assistant_builder.study.admin import (
    CONFIRMING_DAYS,
    KEPT_DAYS,
    delete_study,
    deleted_studies,
    duplicate_study,
    purge_deleted,
    rename_study,
    restore_study,
)
from assistant_builder.ui.study_snapshot import picker_label, study_strip, take_snapshot
from tests.synthetic_study import SMALL, finished_study, new_study, running


def names() -> list[str]:
    return sorted(study.name for study in Study.all())


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_renamed_study_keeps_its_results(home):
    study = finished_study("before")
    write_text(
        study.folder / "evals" / "tasks" / "before_nll.yaml",
        "task: before_nll\nother: before_nll\n",
    )
    metrics = (study.arm_folder("lora") / "metrics.jsonl").read_bytes()
    renamed = rename_study(study, "after")
    assert names() == ["after"] and Study.open("after").config.name == "after"
    assert (renamed.arm_folder("lora") / "metrics.jsonl").read_bytes() == metrics
    assert renamed.state == "succeeded"
    task = renamed.folder / "evals" / "tasks" / "after_nll.yaml"
    assert task.read_text() == "task: after_nll\nother: before_nll\n"
    assert [path.name for path in task.parent.glob("*.yaml")] == ["after_nll.yaml"]


@pytest.mark.parametrize(("name", "error"), [("taken", StudyError), ("", StudyError)])
def test_an_invalid_or_used_name_changes_nothing(home, name, error):
    study, _ = new_study("mine"), new_study("taken")
    before = everything(home)
    for change in (rename_study, duplicate_study):
        with pytest.raises(error):
            change(study, name)
    assert everything(home) == before


def test_renaming_to_the_same_name_changes_nothing(home):
    study = new_study("mine")
    assert rename_study(study, " mine ").folder == study.folder


def test_a_duplicate_has_data_and_settings_but_no_results(home):
    study = finished_study("first")
    study.write_config(study.config.with_changes({"train.rank": 4}))
    copy = duplicate_study(study, "second")
    assert names() == ["first", "second"] and copy.config.train.rank == 4
    assert copy.source is not None and study.source is not None
    assert copy.source.read_bytes() == study.source.read_bytes()
    assert {copy.step(step).state for step in copy.steps} == {"queued"}


def test_a_deleted_study_is_restored_completely(home):
    study = finished_study("dear")
    before = everything(study.folder)
    delete_study(study)
    assert names() == [] and [deleted.name for deleted in deleted_studies()] == ["dear"]
    new_study("dear")
    with pytest.raises(StudyError, match="already"):
        restore_study(deleted_studies()[0])
    rename_study(Study.open("dear"), "other")
    restore_study(deleted_studies()[0])
    assert names() == ["dear", "other"] and everything(Study.open("dear").folder) == before
    assert deleted_studies() == []


def test_the_same_name_can_be_deleted_twice(home):
    for _ in range(2):
        delete_study(new_study("again"))
        time.sleep(0.002)
    assert [deleted.name for deleted in deleted_studies()] == ["again", "again"]


def test_a_running_study_is_neither_renamed_nor_deleted(home):
    study = new_study("busy")
    running(study, "train-lora")
    with FileLock(new_study("locked").folder / ".lock"):
        for name in ("busy", "locked"):
            with pytest.raises(StudyError, match="running"):
                delete_study(Study.open(name))
            with pytest.raises(StudyError, match="running"):
                rename_study(Study.open(name), "else")
    assert names() == ["busy", "locked"]


def test_old_deleted_studies_are_purged(home, monkeypatch):
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now - (KEPT_DAYS + 1) * 86_400)
    old = delete_study(new_study("old"))
    monkeypatch.setattr("time.time", lambda: now)
    delete_study(new_study("new"))
    for later in range(CONFIRMING_DAYS):
        assert len(deleted_studies()) == 2
        monkeypatch.setattr("time.time", lambda later=later: now + later * 86_400)
        purge_deleted()
    assert [deleted.name for deleted in deleted_studies()] == ["new"]
    with pytest.raises(StudyError, match="permanently deleted"):
        restore_study(old)


def test_a_clock_that_was_ahead_deletes_no_study(home, monkeypatch):
    now, day = time.time(), 86_400
    for later in (0, 1, 2):  # used for days before
        monkeypatch.setattr("time.time", lambda later=later: now + later * day)
        deleted = delete_study(new_study(f"study{later}"))
        purge_deleted()
    for clock in (
        102,
        102.01,
        2.1,
        102.02,
        3,
        -20_000,
        3.1,
    ):  # ahead by 100 days, more than once; and 1970
        monkeypatch.setattr("time.time", lambda clock=clock: now + clock * day)
        purge_deleted()
    assert len(deleted_studies()) == 3
    assert restore_study(deleted).name == "study2"


def test_any_name_is_accepted_and_shown():
    study = new_study()
    copy = duplicate_study(study, "Krumm & Linde Bäckerei")
    assert copy.name == "krumm-linde-baeckerei"
    assert copy.config.title == copy.config.shown_name == ("Krumm & Linde Bäckerei")
    assert Study.open("Krumm & Linde Bäckerei").folder == copy.folder
    assert picker_label(copy.title, "queued").startswith("Krumm & Linde Bäckerei")
    assert "Krumm &amp; Linde Bäckerei" in study_strip(take_snapshot(copy))
    assert delete_study(copy).title == deleted_studies()[0].title == "Krumm & Linde Bäckerei"
    copy = restore_study(deleted_studies()[0])
    plain = rename_study(copy, "bakery")
    assert plain.name == "bakery" and plain.config.title == ""
    made = open_or_create(str(SMALL), name="Überblick 2", changes={}, redo=False)
    assert (made.name, made.config.title) == ("ueberblick-2", "Überblick 2")
    assert slug("パン屋") == "study" and slug("CON") == "study-con"
    with pytest.raises(StudyError, match="no name"):
        rename_study(plain, "  ")
