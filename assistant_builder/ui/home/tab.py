"""The home screen: create, open, rename, duplicate, delete and restore studies."""

from __future__ import annotations

import time

import gradio as gr

from assistant_builder.errors import StudyError
from assistant_builder.i18n import N_, m, t
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.run import rerender_report
from assistant_builder.study import Study
from assistant_builder.study.admin import (
    delete_study,
    deleted_studies,
    duplicate_study,
    rename_study,
    restore_study,
)
from assistant_builder.study.example import example_folder, open_example
from assistant_builder.ui.data.preview import unused_name, unused_title
from assistant_builder.ui.home.compare_models import ModelComparison
from assistant_builder.ui.home.view import (
    list_studies,
    study_list_view,
    summarize,
    welcome_view,
)
from assistant_builder.ui.html import CLICKS
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, chosen_study
from assistant_builder.ui.study_snapshot import state_of, title_of_study
from assistant_builder.ui.train.actions import start_run

NEW_STUDY = ""
"""Value of the picker for a new study; None is the home screen."""
_MENUS = """const close = (event) => element.querySelectorAll("details[open]").forEach((menu) => {
  if (event.key === "Escape" || (event.type === "click" && !menu.contains(event.target))) menu.open = false;
});
document.addEventListener("click", close);
element.addEventListener("keydown", close);"""
"""Closes the menus of the cards on a click outside and on Escape."""
_CHOSEN = """element.addEventListener("click", (event) => {
  window.abDocuments = event.target.closest('[data-action="documents"]') !== null;
}, true);"""
_TO_DOCUMENTS = """() => setTimeout(() => {
  if (!window.abDocuments) return;
  window.abDocuments = false;
  const form = document.querySelector("#ab-documents");
  const head = form?.querySelector("button");
  if (head && !head.classList.contains("open")) head.click();
  form?.scrollIntoView({ block: "start" });
}, 300)"""
"""JavaScript that opens the form for documents after its button on the home screen."""
_NAME_LABELS = {
    "rename": N_("New name of “{name}”"),
    "duplicate": N_("Name of the copy of “{name}”"),
}
_CONFIRM_LABELS = {"rename": N_("Rename"), "duplicate": N_("Duplicate")}


class HomeScreen:
    """Components of the screen, created in the open column."""

    def __init__(self) -> None:
        self.welcome = gr.HTML("", js_on_load=f"{CLICKS}\n{_CHOSEN}", elem_id="ab-welcome")
        self.pending = gr.State(("", ""))
        with gr.Group(visible=False, elem_id="ab-naming", elem_classes="ab-group") as self.naming:
            self.new_name = gr.Textbox(label=t("New name"), elem_id="ab-new-name", max_lines=1)
            with gr.Row(elem_classes="ab-actions"):
                self.confirm = gr.Button(t("Rename"), variant="primary", elem_id="ab-confirm-name")
                self.cancel = gr.Button(t("Cancel"))
        self.list = gr.HTML("", js_on_load=f"{CLICKS}\n{_MENUS}", elem_id="ab-studies")
        self.models = ModelComparison()

    def sections(self) -> list[LiveRegion]:
        """Regions that follow the studies."""
        home = LiveRegion("home", [self.welcome, self.list], _list_version, self._draw)
        return [home, self.models.section()]

    def _draw(self, look: StudyView) -> Updates:
        return self._listed() if look.name is None else {}

    def _listed(self) -> Updates:
        studies = list_studies()
        return {
            self.welcome: welcome_view(not studies.entries),
            self.list: study_list_view(studies, time.time()),
        }

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the events; ``picker`` holds the name of the selected study, ``tabs`` opens one of its tabs."""
        dialog = [self.naming, self.new_name, self.confirm, self.pending]

        def act(event: gr.EventData) -> Updates:  # gradio finds no event in a partial
            return self._act(picker, tabs, event)

        for component in (self.welcome, self.list):
            component.click(
                act,
                None,
                [picker, tabs, *dialog, self.welcome, self.list],
                **QUIET,
            ).then(None, None, None, js=_TO_DOCUMENTS)
        gr.on(
            [self.confirm.click, self.new_name.submit],
            self._name,
            [self.pending, self.new_name],
            [self.naming, self.welcome, self.list],
            **QUIET,
        )
        self.cancel.click(lambda: gr.update(visible=False), None, self.naming, queue=False, **QUIET)
        self.models.wire()

    def _act(self, picker: gr.Dropdown, tabs: gr.Tabs, event: gr.EventData) -> Updates:
        action, name = str(event.action), str(event.name)
        if action in _NAME_LABELS:
            title = title_of_study(name)
            proposed = title if action == "rename" else unused_title(title)
            return {
                self.naming: gr.update(visible=True),
                self.new_name: gr.update(
                    value=proposed, label=t(_NAME_LABELS[action], name=title), autofocus=True
                ),
                self.confirm: gr.update(value=t(_CONFIRM_LABELS[action])),
                self.pending: (action, name),
            }
        closed = {self.naming: gr.update(visible=False)}
        if action in ("delete", "restore"):
            _restore(name) if action == "restore" else delete_study(Study.open(name))
            return {**closed, **self._listed()}
        opened, tab = self._opens(action, name)
        chosen = gr.update(choices=[(t("New project…"), NEW_STUDY)], value=NEW_STUDY)
        if opened:
            study = Study.open(opened)
            chosen = chosen_study(study, state_of(study))
        return {**closed, picker: chosen, tabs: gr.Tabs(selected=tab)}

    def _opens(self, action: str, name: str) -> tuple[str, str]:
        """The study and the tab that a button opens."""
        if action == "example":
            return open_example().name, "chat"
        if action == "train-example":
            settings = str(example_folder() / "study.yaml")
            study = open_or_create(
                settings, name=unused_name("example-trained-here"), changes={}, redo=False
            )
            start_run(study.name)
            return study.name, "train"
        if action in ("new", "documents"):
            return NEW_STUDY, "data"
        study = Study.open(name)
        return study.name, {"chat": "chat", "results": "evaluate"}.get(action) or summarize(
            study
        ).tab

    def _name(self, pending: tuple[str, str], new_name: str) -> Updates:
        action, name = pending
        if action == "duplicate":
            duplicate_study(Study.open(name), new_name)
        else:
            study = rename_study(Study.open(name), new_name)
            if study.step("report").state == "succeeded":
                rerender_report(study)  # it contains the name of the study
        return {self.naming: gr.update(visible=False), **self._listed()}


def _restore(folder: str) -> None:
    found = next((deleted for deleted in deleted_studies() if deleted.folder.name == folder), None)
    if found is None:
        raise StudyError(
            m("the project is permanently deleted"), remedy=m("Create a new one from its data file")
        )
    restore_study(found)


def _list_version(look: StudyView) -> str:
    if look.name is not None:
        return "hidden"
    return f"{time.time() // 60}:{list_studies()!r}"  # updates texts such as "3 minutes ago"
