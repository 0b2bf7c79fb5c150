"""The home screen: the list of studies and the actions on them."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from assistant_builder.atomic_io import write_text
from assistant_builder.errors import StudyError
from assistant_builder.serving.website import Website
from assistant_builder.study import Study
from assistant_builder.study.admin import delete_study, duplicate_study
from assistant_builder.study.steps import Progress
from assistant_builder.ui.home import tab as home_module
from assistant_builder.ui.home.tab import NEW_STUDY, HomeScreen
from assistant_builder.ui.home.view import (
    UNDO_SECONDS,
    StudyList,
    StudySummary,
    list_studies,
    score,
    study_list_view,
    summarize,
)
from tests.synthetic_study import finished_study, new_study, running, with_data
from tests.ui.blocks import in_order, inside_blocks


@pytest.fixture
def screen(home: Path) -> HomeScreen:
    return inside_blocks(HomeScreen)


def press(screen: HomeScreen, action: str, name: str = "") -> list[Any]:
    """Updates of picker, tabs, the parts of the dialog, welcome and list."""
    picker, tabs = gr.Dropdown(), gr.Tabs()
    updates = screen._act(picker, tabs, gr.EventData(None, {"action": action, "name": name}))
    dialog = (screen.naming, screen.new_name, screen.confirm, screen.pending)
    return in_order(updates, [picker, tabs, *dialog, screen.welcome, screen.list])


def test_summaries_contain_state_verdict_and_size(home):
    finished_study("done", eval__primary_metric="exact_match")
    running(with_data(new_study("busy")), "train-lora", Progress(29, 60, "steps"))
    entries = {entry.name: entry for entry in list_studies().entries}
    assert entries["done"].state == "succeeded" and entries["done"].pairs == 30
    found = entries["done"].conclusion
    assert found is not None and score(found) == "75 % right"
    assert (entries["busy"].state, entries["busy"].conclusion) == ("running", None)
    assert entries["busy"].progress == ("Train Full (LoRA, 16-bit)", 0.45)
    shown = study_list_view(list_studies(), time.time())
    for words in (
        "75 % right",
        found.audience.text,
        "Train Full (LoRA, 16-bit), 45%",
    ):
        assert words in shown
    assert "Chat with done" in shown and "Chat with busy" not in shown


def test_projects_are_shown_by_their_titles(home, screen):
    study = duplicate_study(new_study("other"), "Krumm & Linde Bäckerei")
    shown = study_list_view(list_studies(), time.time())
    assert shown.count("krumm-linde-baeckerei") == shown.count('data-name="krumm') + shown.count(
        "study=krumm"
    )
    assert ">Krumm &amp; Linde Bäckerei</a>" in shown
    assert "Rename Krumm &amp; Linde Bäckerei" in shown
    picked = press(screen, "open", study.name)[0]
    assert picked["choices"] == [("Krumm & Linde Bäckerei  ·  not run yet", study.name)]
    assert press(screen, "rename", study.name)[3]["value"] == "Krumm & Linde Bäckerei"
    assert press(screen, "duplicate", study.name)[3]["value"] == "Krumm & Linde Bäckerei 2"
    delete_study(study)
    gone = study_list_view(list_studies(), time.time())
    assert "“Krumm &amp; Linde Bäckerei” was deleted." in gone


def test_a_change_is_detected_and_a_damaged_study_does_not_affect_others(home):
    study = new_study("mine")
    new_study("other")
    assert {entry.state for entry in list_studies().entries} == {"queued"}
    write_text(study.folder / "study.yaml", "name: [")
    assert {entry.name: entry.state for entry in list_studies().entries} == {
        "mine": "damaged",
        "other": "queued",
    }


def test_a_project_on_a_website_says_so_until_it_is_taken_off(home):
    study = new_study("mine")
    assert summarize(study).website == ""
    site = Website(origin="https://www.example.org", address="https://chat.example.org", port=1)
    replace(site, running=True).save(study)
    assert summarize(study).website == "www.example.org"
    assert "on www.example.org" in study_list_view(list_studies(), time.time())
    write_text(study.folder / "website.json", "[")
    assert (summarize(study).website, summarize(study).state) == ("", "queued")
    site.save(study)
    assert summarize(study).website == ""


def test_listing_two_hundred_studies_is_fast(home):
    for number in range(200):
        new_study(f"study-{number}")
    list_studies()
    began = time.process_time()
    assert len(list_studies().entries) == 200
    assert time.process_time() - began < 0.5


def test_a_recent_deletion_has_an_undo_button(home):
    delete_study(new_study("gone"))
    studies = list_studies()
    assert studies.undo is not None and studies.undo.name == "gone"
    assert "Undo" in study_list_view(studies, 0.0)
    assert "Restore" not in study_list_view(studies, 0.0)
    later = StudyList((), None, studies.deleted)
    assert "Undo" not in study_list_view(later, 0.0)
    assert "Restore gone" in study_list_view(later, 0.0)
    assert UNDO_SECONDS > 60


def test_names_are_escaped():
    shown = study_list_view(
        StudyList((StudySummary("x", "<b>x</b>", "damaged", changed=0.0),), None, ()), now=100.0
    )
    assert "<b>" not in shown and "&lt;b&gt;" in shown


def test_a_score_is_neither_rounded_to_all_nor_to_none(home):
    found = summarize(finished_study(eval__primary_metric="exact_match")).conclusion
    assert found is not None
    assert [
        score(replace(found, share=share)) for share in (0.001, 0.937, 0.999, 1.0)
    ] == "1 % right | 94 % right | 99 % right | 100 % right".split(" | ")


def test_a_study_opens_on_the_tab_of_its_state(screen):
    new_study("fresh")
    running(with_data(new_study("busy")), "train-lora")
    finished_study("done")
    assert [screen._opens("open", name)[1] for name in ("fresh", "busy", "done")] == [
        "data",
        "train",
        "evaluate",
    ]
    assert [screen._opens(action, "done")[1] for action in ("chat", "results")] == [
        "chat",
        "evaluate",
    ]
    assert screen._opens("new", "") == (NEW_STUDY, "data")


def test_rename_and_duplicate_ask_for_a_name_first(screen, monkeypatch):
    reported: list[str] = []
    monkeypatch.setattr(home_module, "rerender_report", lambda study: reported.append(study.name))
    finished_study("one")
    dialog, name_box, _, pending = press(screen, "rename", "one")[2:6]
    assert dialog["visible"] and name_box["value"] == "one" and pending == ("rename", "one")
    screen._name(("rename", "one"), "two")
    assert [study.name for study in Study.all()] == ["two"] and reported == ["two"]
    name_box = press(screen, "duplicate", "two")[3]
    assert name_box["value"] == "two-2"
    screen._name(("duplicate", "two"), name_box["value"])
    assert {study.name for study in Study.all()} == {"two", "two-2"} and reported == ["two"]


def test_delete_and_restore(screen):
    new_study("one")
    press(screen, "delete", "one")
    assert Study.all() == []
    press(screen, "restore", list_studies().deleted[0].folder.name)
    assert [study.name for study in Study.all()] == ["one"]
    with pytest.raises(StudyError, match="permanently deleted"):
        press(screen, "restore", "1700000000000-other")
    with pytest.raises(StudyError):
        press(screen, "delete", "../..")


def test_one_button_trains_the_data_of_the_example(screen, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(home_module, "start_run", started.append)
    for expected in ("example-trained-here", "example-trained-here-2"):
        assert screen._opens("train-example", "") == (expected, "train")
    assert started == ["example-trained-here", "example-trained-here-2"]
    assert Study.open("example-trained-here").config.train.rank == 8
    assert Study.open("example-trained-here").source is not None
