"""The home screen: the studies, and what begins, opens, renames, duplicates, deletes and takes back one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.errors import StudyError
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.study.admin import delete_study, deleted_studies, duplicate_study, rename_study, restore_study
from assistant_builder.ui.data.preview import Shipped, free_name, shipped_datasets
from assistant_builder.ui.home.study_list import StudyList, read_shelf
from assistant_builder.ui.home.view import shelf_view, welcome_view
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.train.actions import start_run

NEW_STUDY = ""
"""What the picker holds while a study is being made; None is the home screen."""
_CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", {action: button.dataset.action, name: button.dataset.name});
});"""
_NAMING = {"rename": "New name of “{}”", "duplicate": "Name of the copy of “{}”"}
_GO = {"rename": "Rename", "duplicate": "Make the copy"}


class Home:
    """Components of the screen; the caller has opened its column."""

    def __init__(self) -> None:
        self.example = next((shipped for shipped in shipped_datasets() if _settings_of(shipped).is_file()), None)
        self.welcome = gr.HTML("", js_on_load=_CLICKS, elem_id="ab-welcome")
        self.asked = gr.State(("", ""))
        with gr.Group(visible=False, elem_id="ab-naming", elem_classes="ab-group") as self.naming:
            self.wish = gr.Textbox(label="New name", info="a-z 0-9 . _ -", elem_id="ab-wish", max_lines=1)
            with gr.Row(elem_classes="ab-actions"):
                self.take = gr.Button("Rename", variant="primary", elem_id="ab-take")
                self.leave = gr.Button("Leave it as it is")
        self.list = gr.HTML("", js_on_load=_CLICKS, elem_id="ab-studies")

    def sections(self) -> list[LiveRegion]:
        """What follows the studies."""
        return [LiveRegion("home", [self.welcome, self.list], _shelf_mark, self._draw)]

    def _draw(self, look: StudyView) -> Sequence[Any]:
        return self._shown(read_shelf()) if look.name is None else [gr.skip(), gr.skip()]

    def _shown(self, shelf: StudyList) -> list[Any]:
        title = self.example.title if self.example else ""
        return [welcome_view(not shelf.entries, title), shelf_view(shelf)]

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs of a study, for the one to open.
        """
        shown = [self.welcome, self.list]
        naming = [self.naming, self.wish, self.take, self.asked]
        for component in shown:
            component.click(user_facing_errors(self._act), None, [picker, tabs, *naming, *shown], api_visibility="private",
                            show_progress="hidden")
        gr.on([self.take.click, self.wish.submit], user_facing_errors(self._name), [self.asked, self.wish],
              [self.naming, *shown], api_visibility="private", show_progress="hidden")
        self.leave.click(lambda: gr.update(visible=False), None, self.naming, show_progress="hidden",
                         api_visibility="private")

    def _act(self, event: gr.EventData) -> list[Any]:
        action, name = str(event._data.get("action", "")), str(event._data.get("name", ""))
        still: list[Any] = [gr.skip()] * 2
        quiet = [gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()]
        if action in _NAMING:
            wish = name if action == "rename" else free_name(name)
            ask = gr.update(value=wish, label=_NAMING[action].format(name), autofocus=True)
            return [*still, gr.update(visible=True), ask, gr.update(value=_GO[action]), (action, name), *still]
        if action in self._changes:
            self._changes[action](name)
            return [*still, *quiet, *self._shown(read_shelf())]
        opened, tab = self._opens(action, name)
        picked = gr.update(choices=[(opened or "New study…", opened)], value=opened)
        return [picked, gr.Tabs(selected=tab), *quiet, *still]

    @property
    def _changes(self) -> dict[str, Callable[[str], object]]:
        return {"delete": lambda name: delete_study(Study.open(name)), "restore": _restore}

    def _opens(self, action: str, name: str) -> tuple[str, str]:
        """The study and the tab that a button leads to."""
        if action == "example":
            return self._run_example(), "train"
        if action == "new":
            return NEW_STUDY, "data"
        study = Study.open(name)
        if (study.folder / "report.json").is_file():
            return study.name, "evaluate"
        return study.name, "data" if study.state == "queued" else "train"

    def _run_example(self) -> str:
        if self.example is None:
            raise StudyError("the shipped dataset is not here", remedy="Make a study from a file of yours")
        study = open_or_create(str(_settings_of(self.example)), name=free_name("example"), changes={}, redo=False)
        start_run(study.name)
        return study.name

    def _name(self, asked: tuple[str, str], wish: str) -> list[Any]:
        action, name = asked
        if action == "duplicate":
            duplicate_study(Study.open(name), wish)
        else:
            study = rename_study(Study.open(name), wish)
            if study.step("report").state == "succeeded":
                rerender_report(study)  # it speaks of the study by name
        return [gr.update(visible=False), *self._shown(read_shelf())]


def _restore(folder: str) -> None:
    found = next((deleted for deleted in deleted_studies() if deleted.folder.name == folder), None)
    if found is None:
        raise StudyError("the study is gone for good", remedy="Start a new one from its data file")
    restore_study(found)


def _settings_of(shipped: Shipped) -> Path:
    return shipped.file.with_name("study.yaml")


def _shelf_mark(look: StudyView) -> str:
    if look.name is not None:
        return "away"
    return f"{time.time() // 60}:{read_shelf()!r}"  # "3 minutes ago" goes on
