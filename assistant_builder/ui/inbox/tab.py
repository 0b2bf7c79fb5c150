"""The tab “Inbox”: answer what visitors asked in vain, train the next version, and publish it."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from assistant_builder.chat.inbox import (
    accept,
    chosen_answers,
    known_answers,
    read_inbox,
    reject,
    set_state,
)
from assistant_builder.chat.visitor_log import log_file
from assistant_builder.chat.watch import judge, read_watch
from assistant_builder.child_process import compute_environment, python_command, start_program
from assistant_builder.errors import AssistantBuilderError, StudyError
from assistant_builder.i18n import N_, m, t, tn, written
from assistant_builder.retrieval.promise import is_promised
from assistant_builder.study import Study
from assistant_builder.study import versions as versions_of
from assistant_builder.study.versions import read_versions, root_of, served_version, versions_file
from assistant_builder.ui.html import (
    CLICKS,
    empty,
    error_callout,
    state_label,
)
from assistant_builder.ui.inbox.view import (
    group_view,
    groups_view,
    overview_view,
    versions_view,
    watch_view,
)
from assistant_builder.ui.refresh import (
    QUIET,
    LiveRegion,
    StudyView,
    Updates,
    chosen_study,
    inform,
    ready_region,
)
from assistant_builder.ui.settings_form import preset_title
from assistant_builder.ui.study_snapshot import needs_study, stamp
from assistant_builder.ui.train.actions import start_unless_asked
from evals.study_compare.versions import (
    VersionVerdict,
    create_next_version,
    pending_corrections,
    publish_version,
    reject_if_worse,
)

EMPTY = N_("What visitors of your website asked is listed here.")
_WORDINGS = 100
"""Wordings of a group that are offered, the most frequent; a flood of questions has 100,000."""
_LIST_SECONDS = 10.0
"""Time after which the list follows what visitors have asked since."""
_TO_FORM = """() => setTimeout(() => {
  document.querySelector("#ab-answer")?.scrollIntoView({ block: "nearest" });
  document.querySelector("#ab-answer-text textarea")?.focus({ preventScroll: true });
}, 80)"""
"""JavaScript after a group is opened, since the form is below the list."""
_grouping: dict[str, subprocess.Popen[bytes]] = {}
"""Folder of a study → the process that groups its questions."""


class InboxTab:
    """Components of the tab; the caller has opened the ``gr.Tab``."""

    def __init__(self) -> None:
        self.empty = gr.HTML(needs_study(t(EMPTY)))
        with gr.Column(visible=False) as self.body:
            self.overview = gr.HTML(elem_id="ab-inbox-overview")
            self.watch = gr.HTML(js_on_load=CLICKS, elem_id="ab-watch")
            self.versions = gr.HTML(elem_id="ab-versions")
            with gr.Row(elem_classes="ab-actions"):
                self.next = gr.Button(
                    t("Train the next version"),
                    variant="primary",
                    visible=False,
                    elem_id="ab-next-version",
                )
                self.settings = gr.Button(
                    t("Choose how it is trained"), visible=False, elem_id="ab-next-settings"
                )
                self.open = gr.Button(
                    t("Open the new version"), visible=False, elem_id="ab-open-version"
                )
                self.publish = gr.Button(
                    t("Publish it"), variant="primary", visible=False, elem_id="ab-publish"
                )
                self.refuse = gr.Button(t("Reject it"), visible=False, elem_id="ab-refuse")
                self.undo = gr.Button(
                    t("Serve the previous version again"), visible=False, elem_id="ab-undo-version"
                )
            self.groups = gr.HTML(js_on_load=CLICKS, elem_id="ab-inbox")
            with gr.Column(
                visible=False, elem_classes="ab-use-card", elem_id="ab-answer"
            ) as self.form:
                self.key = gr.State("")
                self.question = gr.HTML(js_on_load=CLICKS)
                self.wordings = gr.CheckboxGroup(
                    [],
                    label=t("Wordings"),
                    elem_id="ab-answer-wordings",
                    show_select_all=True,
                    info=t("Tick those that your answer fits: it is trained for each of them."),
                )
                self.answer = gr.Textbox(
                    label=t("Answer"),
                    lines=3,
                    elem_id="ab-answer-text",
                    info=t("What the assistant should say."),
                )
                self.known = gr.Dropdown(
                    [], label=t("Or an answer of your file"), elem_id="ab-answer-known"
                )
                with gr.Row(elem_classes="ab-actions"):
                    self.accept = gr.Button(
                        t("Use this answer"), variant="primary", elem_id="ab-answer-accept"
                    )
                    self.reject = gr.Button(t("It should decline this"), elem_id="ab-answer-reject")
                    self.later = gr.Button(t("Later"), elem_id="ab-answer-later")
                    self.close = gr.Button(t("Close"), elem_id="ab-answer-close")

    @property
    def _list(self) -> list[Any]:
        return [self.overview, self.watch, self.groups]

    @property
    def _version(self) -> list[Any]:
        buttons = [self.next, self.settings, self.open, self.publish, self.refuse, self.undo]
        return [self.versions, *buttons]

    @property
    def _form(self) -> list[Any]:
        return [self.form, self.key, self.question, self.wordings, self.answer, self.known]

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when visitors ask, and when a version changes."""
        return [
            ready_region("inbox-body", self.empty, self.body, EMPTY, _untrained, has_inbox),
            LiveRegion(
                "inbox-list", self._list, _list_mark, lambda view: self._draw_list(view.study)
            ),
            LiveRegion(
                "inbox-form", self._form, lambda view: str(view.name), lambda view: self._closed()
            ),
            LiveRegion(
                "inbox-versions",
                self._version,
                _versions_mark,
                lambda view: self._draw_versions(view.study),
            ),
        ]

    def _draw_list(self, study: Study | None) -> Updates:
        if study is None:
            return dict.fromkeys(self._list, "")
        root = root_of(study)
        try:
            inbox, version = read_inbox(root, time.time()), served_version(root)
            watch = read_watch(root, version)
        except AssistantBuilderError as error:
            return {
                **dict.fromkeys(self._list, ""),
                self.overview: error_callout(error.to_record()),
            }
        if inbox.ungrouped:
            group_in_background(root)
        watched = inbox.has_texts or watch.drift is not None
        return {
            self.overview: overview_view(inbox),
            self.watch: watch_view(watch, promised=is_promised(version)) if watched else "",
            self.groups: groups_view(inbox),
        }

    def _draw_versions(self, study: Study | None) -> Updates:
        hidden = dict.fromkeys(self._version, gr.update(visible=False))
        if study is None:
            return {**hidden, self.versions: ""}
        root = root_of(study)
        try:
            verdict = _candidate_verdict(root)  # first, since it rejects a version that is worse
            versions, waiting = read_versions(root), len(pending_corrections(root))
        except AssistantBuilderError as error:
            return {**hidden, self.versions: error_callout(error.to_record())}
        candidate = versions.candidate
        state = Study.open(candidate).state if candidate else ""
        judged = candidate is not None and verdict is not None and verdict.outcome != "not trained"
        no_worse = verdict is not None and verdict.outcome == "no worse"
        served, next_one = Study.open(versions.served), candidate is None and waiting > 0
        return {
            self.versions: versions_view(
                versions,
                waiting,
                verdict,
                state_label(state),
                at_once=served.serves_corrections,
                preset=preset_title(served.config) if next_one else "",
            ),
            self.settings: gr.update(visible=next_one),
            self.next: gr.update(
                visible=next_one,
                interactive=True,
                value=tn(
                    "Train the next version with {count} answer",
                    "Train the next version with {count} answers",
                    waiting,
                ),
            ),
            self.open: gr.update(visible=candidate is not None and candidate != study.name),
            self.publish: gr.update(
                visible=judged,
                variant="primary" if judged and no_worse else "secondary",
                value=t("Publish it") if no_worse else t("Publish it anyway"),
            ),
            self.refuse: gr.update(visible=candidate is not None and state != "running"),
            self.undo: gr.update(visible=bool(versions.before)),
        }

    def _closed(self) -> Updates:
        """Close the form."""
        return {
            self.form: gr.update(visible=False),
            self.wordings: gr.update(choices=[], value=[]),
            **dict.fromkeys((self.key, self.question, self.answer), ""),
            self.known: gr.update(choices=[], value=None),
        }

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; ``picker`` holds the name of the chosen study."""
        self.groups.click(self._open, picker, self._form, **QUIET).then(
            None, None, None, js=_TO_FORM
        )
        self.watch.click(self._judge, picker, self._list, **QUIET)
        self.question.click(_with_suggestion, self.answer, self.answer, **QUIET)
        self.known.input(lambda answer: answer or "", self.known, self.answer, **QUIET)
        self.close.click(self._closed, None, self._form, queue=False, **QUIET)
        decided = [*self._list, *self._form, *self._version]
        chosen = [picker, self.key, self.wordings, self.answer]
        for button, decide in (
            (self.accept, self._accept),
            (self.reject, self._reject),
            (self.later, self._later),
        ):
            button.click(
                functools.partial(self._decide, decide),
                chosen,
                decided,
                **QUIET,
            )
        self.next.click(
            self._train,
            picker,
            self._version,
            show_progress_on=self.next,
            api_visibility="private",
        )
        self.settings.click(self._make, picker, [picker, tabs], **QUIET)
        self.open.click(self._open_version, picker, [picker, tabs], **QUIET)
        for button, change in (
            (self.publish, self._publish),
            (self.refuse, self._refuse),
            (self.undo, self._undo),
        ):
            button.click(
                functools.partial(self._change, change),
                picker,
                self._version,
                **QUIET,
            )

    def _open(self, name: str | None, event: gr.EventData) -> Updates:
        root = root_of(Study.open(name or ""))
        group = read_inbox(root, time.time()).group(str(event.name))
        # What visitors wrote is neither ticked nor filled in, so that "Use this answer" alone trains none of it.
        return {
            self.form: gr.update(visible=True),
            self.key: group.key,
            self.question: group_view(group, chosen_answers(served_version(root), group)),
            self.wordings: gr.update(
                choices=list(group.wordings[:_WORDINGS]),
                value=[],
                visible=len(group.wordings) > 1,
            ),
            self.answer: "",
            self.known: gr.update(choices=known_answers(served_version(root)), value=None),
        }

    def _judge(self, name: str | None, event: gr.EventData) -> Updates:
        study = Study.open(name or "")
        root = root_of(study)
        judge(root, served_version(root), str(event.name), right=event.action == "right")
        return self._draw_list(study)

    def _decide(
        self,
        decide: Callable[..., str],
        name: str | None,
        key: str,
        wordings: list[str],
        answer: str,
    ) -> Updates:
        study = Study.open(name or "")
        root = root_of(study)
        group = read_inbox(root, time.time()).group(key)
        said = decide(root, group, wordings if len(group.wordings) > 1 else None, answer)
        inform(said)
        return {**self._draw_list(study), **self._closed(), **self._draw_versions(study)}

    def _accept(self, root: Study, group: Any, wordings: list[str] | None, answer: str) -> str:
        count = accept(root, group, answer, wordings, corrected=served_version(root))
        return tn("Saved for {count} wording.", "Saved for {count} wordings.", count)

    def _reject(self, root: Study, group: Any, wordings: list[str] | None, answer: str) -> str:
        count = reject(root, group, wordings, corrected=served_version(root))
        return tn(
            "{count} question to decline is saved.",
            "{count} questions to decline are saved.",
            count,
        )

    def _later(self, root: Study, group: Any, wordings: list[str] | None, answer: str) -> str:
        set_state(root, group, "later")
        return t("It is at the end of the list now.")

    def _train(self, name: str | None) -> Updates:
        study = Study.open(name or "")
        made, _ = create_next_version(root_of(study))
        if not start_unless_asked(made):
            inform(
                t(
                    "It contacts other machines, or its model runs its own code. Open it, check its settings "
                    "and press Start."
                ),
                t("The new version is not started yet"),
                seconds=30,
            )
        return self._draw_versions(study)

    def _make(self, name: str | None) -> list[Any]:
        create_next_version(root_of(Study.open(name or "")))
        return self._open_version(name)

    def _open_version(self, name: str | None) -> list[Any]:
        candidate = read_versions(root_of(Study.open(name or ""))).candidate
        made = Study.open(candidate or name or "")
        return [chosen_study(made, made.state), gr.Tabs(selected="train")]

    def _change(self, change: Callable[[Study], str], name: str | None) -> Updates:
        study = Study.open(name or "")
        inform(change(root_of(study)))
        return self._draw_versions(study)

    def _publish(self, root: Study) -> str:
        version = Study.open(_candidate(root))
        publish_version(root, version, anyway=True)  # the button says what the verdict is
        return t(
            "{version} is published. A server that runs changes to it in some seconds.",
            version=version.title,
        )

    def _refuse(self, root: Study) -> str:
        candidate, verdict = _candidate(root), _candidate_verdict(root)
        versions_of.reject(
            root,
            candidate,
            written(verdict.sentence)[0]
            if verdict and verdict.sentence
            else t("rejected before it was tested"),
        )
        return t("It is kept as rejected.")

    def _undo(self, root: Study) -> str:
        return t("{version} is served again.", version=Study.open(versions_of.undo(root)).title)


def _candidate(root: Study) -> str:
    """The version that waits for a decision; raises StudyError if another window has decided."""
    found = read_versions(root).candidate
    if found is None:
        raise StudyError(
            m("no new version waits for a decision"), remedy=m("Train the next version first")
        )
    return found


def _with_suggestion(answer: str, event: gr.EventData) -> str:
    """The answer in the form, followed by the suggestion whose button was pressed."""
    return f"{answer}\n{event.name}".strip()


def has_inbox(view: StudyView) -> bool:
    """Whether visitors may have asked: the study is trained, or copies answers on a website and keeps questions."""
    return view.trained or (view.study is not None and log_file(view.study).is_file())


def _untrained(study: Study) -> str:
    return empty(
        t("No trained assistants yet"), t("Visitors can ask the assistant once it is trained.")
    )


def _candidate_verdict(root: Study) -> VersionVerdict | None:
    """The verdict on the newest version, which is rejected if it is worse; None without one that waits."""
    candidate = read_versions(root).candidate
    if candidate is None:
        return None
    version = Study.open(candidate)
    files = [
        each / "evals" / "status.json" for each in (served_version(root).folder, version.folder)
    ]
    return _judged(str(root.folder), candidate, stamp([*files, versions_file(root)]))


@functools.lru_cache(maxsize=16)
def _judged(root: str, version: str, changed: str) -> VersionVerdict:
    """The verdict on a version; ``changed`` identifies the files that it depends on."""
    return reject_if_worse(Study(Path(root)), Study.open(version))


_marks: dict[str, tuple[float, str]] = {}
"""Folder of a study → when its list was looked at, and the version then."""


def _list_mark(view: StudyView) -> str:
    """Changes at most every :data:`_LIST_SECONDS`: visitors ask all the time, and someone may be reading."""
    if view.study is None:
        return ""
    root = root_of(view.study)
    seen, mark = _marks.get(str(root.folder), (float("-inf"), ""))
    if time.monotonic() - seen > _LIST_SECONDS:
        path = log_file(root)
        mark = stamp([path, path.with_name(f"{path.name}-wal")])
        _marks[str(root.folder)] = time.monotonic(), mark
    return f"{view.name}:{mark}"


def _versions_mark(view: StudyView) -> str:
    if view.study is None:
        return ""
    root = root_of(view.study)
    files = [versions_file(root)]
    with contextlib.suppress(AssistantBuilderError):
        files.append(served_version(root).folder / "corrections.jsonl")
        if (candidate := read_versions(root).candidate) is not None:
            folder = Study.open(candidate).folder
            files += [folder / "run.json", folder / "evals" / "status.json"]
    return f"{view.name}:{view.trained}:{stamp(files)}"


def group_in_background(root: Study) -> None:
    """Start the process that groups the questions by meaning, unless it runs."""
    running = _grouping.get(str(root.folder))
    if running is None or running.poll() is not None:
        command = python_command("-m", "assistant_builder.chat.inbox", str(root.folder))
        _grouping[str(root.folder)] = start_program(command, compute_environment())
