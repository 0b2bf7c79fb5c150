from __future__ import annotations

import os
import re
import time
from pathlib import Path

import gradio as gr
import pytest

from assistant_builder.atomic_io import write_text
from assistant_builder.errors import StudyError
from assistant_builder.study import Study
from assistant_builder.study.admin import delete_study
from assistant_builder.ui.home.study_list import UNDO_SECONDS, StudyList, StudySummary, read_shelf
from assistant_builder.ui.home.tab import NEW_STUDY, Home
from assistant_builder.ui.home.tab import tab as home_module
from assistant_builder.ui.home.view import ago, shelf_view, welcome_view
from tests.synthetic_study import finished_study, new_study, running, with_data
from tests.ui.blocks import inside_blocks


@pytest.fixture
def screen(home: Path) -> Home:
    return inside_blocks(Home)


def press(screen: Home, action: str, name: str = "") -> list:
    return screen._act(gr.EventData(None, {"action": action, "name": name}))


def test_entries_tell_state_verdict_and_size(home: Path) -> None:
    finished_study("done")
    running(with_data(new_study("busy")), "train-lora")
    entries = {entry.name: entry for entry in read_shelf().entries}
    assert (entries["done"].state, entries["done"].outcome) == ("succeeded", "worse")
    assert entries["done"].pairs == 30 and "QLoRA" in entries["done"].sentence
    assert (entries["busy"].state, entries["busy"].outcome) == ("running", "")


def test_the_last_changed_study_comes_first(home: Path) -> None:
    for name in ("old", "new"):
        new_study(name)
    os.utime(Study.open("old").folder / "study.yaml", (1e9, 1e9))
    assert [entry.name for entry in read_shelf().entries] == ["new", "old"]


def test_a_change_is_seen_and_a_damaged_study_takes_no_other_with_it(home: Path) -> None:
    study = new_study("mine")
    new_study("other")
    assert {entry.state for entry in read_shelf().entries} == {"queued"}
    write_text(study.folder / "study.yaml", "name: [")
    assert {entry.name: entry.state for entry in read_shelf().entries} == {"mine": "damaged", "other": "queued"}


def test_two_hundred_studies_are_listed_at_once(home: Path) -> None:
    for number in range(200):
        new_study(f"study-{number}")
    read_shelf()
    began = time.process_time()
    assert len(read_shelf().entries) == 200
    assert time.process_time() - began < 0.5


def test_what_was_deleted_a_moment_ago_can_be_taken_back_on_top(home: Path) -> None:
    delete_study(new_study("gone"))
    shelf = read_shelf()
    assert shelf.undo is not None and shelf.undo.name == "gone"
    assert "Undo" in shelf_view(shelf) and "Restore" not in shelf_view(shelf)
    later = StudyList((), None, shelf.deleted)
    assert "Undo" not in shelf_view(later) and "Restore gone" in shelf_view(later)
    assert UNDO_SECONDS > 60


def test_names_are_shown_as_the_text_they_are() -> None:
    shown = shelf_view(StudyList((StudySummary("<b>x</b>", "damaged", changed=0.0),), None, ()), now=100.0)
    assert "<b>" not in shown and "&lt;b&gt;" in shown


def test_every_button_says_what_it_does_to_which_study() -> None:
    shown = shelf_view(StudyList((StudySummary("one", "succeeded"), StudySummary("two", "failed")), None, ()), now=100.0)
    labels = re.findall(r'aria-label="([^"]+)"', shown)
    assert len(labels) == len(set(labels)) == 8


def test_the_first_visit_is_told_what_happens() -> None:
    assert "Run the example" in welcome_view(True, "Ferries") and "<h2>" in welcome_view(True, "Ferries")
    assert "<h2>" not in welcome_view(False, "Ferries")
    assert "example" not in welcome_view(False, "")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3, "just now"), (50, "a minute ago"), (61, "1 minute ago"), (7200, "2 hours ago"), (86_400 * 3, "3 days ago"),
     (86_400 * 70, "2 months ago")],
)
def test_ago(seconds: float, said: str) -> None:
    assert ago(seconds) == said


def test_a_study_is_opened_where_it_stands(screen: Home) -> None:
    new_study("fresh")
    running(with_data(new_study("busy")), "train-lora")
    finished_study("done")
    assert [screen._opens("open", name)[1] for name in ("fresh", "busy", "done")] == ["data", "train", "evaluate"]
    assert screen._opens("new", "") == (NEW_STUDY, "data")


def test_rename_and_duplicate_ask_for_a_name_first(screen: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(home_module, "rerender_report", lambda study: reported.append(study.name))
    finished_study("one")
    naming, wish, _, asked = press(screen, "rename", "one")[2:6]
    assert naming["visible"] and wish["value"] == "one" and asked == ("rename", "one")
    screen._name(("rename", "one"), "two")
    assert [study.name for study in Study.all()] == ["two"] and reported == ["two"]
    wish = press(screen, "duplicate", "two")[3]
    assert wish["value"] == "two-2"
    screen._name(("duplicate", "two"), wish["value"])
    assert {study.name for study in Study.all()} == {"two", "two-2"} and reported == ["two"]


def test_delete_and_restore(screen: Home) -> None:
    new_study("one")
    press(screen, "delete", "one")
    assert Study.all() == []
    press(screen, "restore", read_shelf().deleted[0].folder.name)
    assert [study.name for study in Study.all()] == ["one"]
    with pytest.raises(StudyError, match="gone for good"):
        press(screen, "restore", "1700000000000-other")
    with pytest.raises(StudyError):
        press(screen, "delete", "../..")


def test_the_example_starts_with_one_button(screen: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(home_module, "start_run", started.append)
    for expected in ("example", "example-2"):
        assert screen._opens("example", "") == (expected, "train")
    assert started == ["example", "example-2"]
    assert Study.open("example").config.train.epochs == 4 and Study.open("example").source is not None
