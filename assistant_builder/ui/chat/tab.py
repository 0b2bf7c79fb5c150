"""The Chat tab: one question box, and a pane for each speaker whose replies the worker process generates."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import Choice, Conversation
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.inference.session import BASE
from assistant_builder.study import Study
from assistant_builder.ui.chat.conversation import ConversationPanel, editing_notice, gradio_error
from assistant_builder.ui.chat.feedback import Corrections, VoteBar
from assistant_builder.ui.chat.settings import ChatSettings, ReplySettings
from assistant_builder.ui.chat.view import loading_view, reference_note, sides, speaker_at, suggestions
from assistant_builder.ui.html import cut, empty
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import needs_study, shown_arms
from assistant_builder.ui.train.actions import studies_ahead
from evals.report.load import lead_arm

EMPTY = "You can chat with the trained assistants here."
_ON_CHAT = "(...all) => [new URL(window.location).searchParams.get('tab') === 'chat' ? all[0] : null, ...all.slice(1)]"
"""Passes no study name while another tab is open, so that no model is loaded for a hidden chat."""
_UNTRAINED = "nobody"


class ChatTab:
    """Components of the tab; the caller has opened the ``gr.Tab``. The pool owns the worker process."""

    def __init__(self, pool: WorkerPool) -> None:
        self.mark = gr.Textbox("", visible=False)
        self.settings = ChatSettings()
        self.empty = gr.HTML(needs_study(EMPTY))
        with gr.Column(visible=False) as self.body:
            with gr.Row(elem_classes="ab-modes"):
                self.settings.modes()
            self.ready = gr.HTML(elem_id="ab-ready")
            panes_here = gr.Column()
            self.votes = VoteBar()
            self.talk = ConversationPanel(pool, self.votes)
            with panes_here:
                self.talk.place_panes()
            self.talk.place_box()
            self.suggested = gr.Dropdown([], label="Held-out questions to try",
                                         info="No assistant was trained on these exact questions.", interactive=True,
                                         visible=False, elem_id="ab-suggested")
            self.reference = gr.HTML(elem_id="ab-reference")
            self.corrections = Corrections()
            self.corrections.editor()
            self.corrections.collection()
            self.settings.decoding()

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            LiveRegion("chat-empty", [self.empty], _trained_mark, self._draw_empty),
            LiveRegion("chat-mark", [self.mark], _trained_mark, lambda view: [_trained_mark(view)]),
            LiveRegion("chat-suggested", [self.suggested], lambda view: view.stamp("evals/status.json"),
                       self._draw_suggested),
            LiveRegion("chat-report", self.votes.tally_outputs, lambda view: view.stamp("report.json"),
                       lambda view: self.votes.tally_values(view.study if view.trained else None, blind=False)),
        ]

    def _draw_empty(self, view: StudyView) -> Sequence[Any]:
        if view.study is None:
            shown = needs_study(EMPTY)
        else:
            shown = empty("No trained assistants yet", "Train the study on the Train tab. Its assistants then answer "
                          "here side by side.")
        return [gr.update(value=shown, visible=not view.trained)]

    def _draw_suggested(self, view: StudyView) -> Sequence[Any]:
        offered = [(cut(question, 140), question) for question, _ in _suggestions(view.study)]
        return [gr.update(choices=offered, value=None, visible=bool(offered))]

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; see :class:`~assistant_builder.ui.tabs.TabContent`."""
        talk, options = self.talk, self.settings.inputs
        talk.kept.render()
        self.settings.kept.render()
        now = [picker, self.mark, talk.kept, *options]
        asked = [talk.kept, *talk.outputs, talk.question, talk.editing, talk.banner]
        gr.on([talk.send.click, talk.question.submit], self._ask, [talk.question, talk.editing, *now], asked,
              concurrency_limit=None, **QUIET)
        talk.again.click(self._again, now, asked, concurrency_limit=None, **QUIET)
        talk.stop.click(talk.stop_replies, None, None, **QUIET)
        talk.clear.click(user_facing_errors(self._clear), now, [*asked, self.reference, self.suggested], **QUIET)
        talk.leave.click(lambda: ["", None, gr.update(visible=False)], None, asked[-3:], queue=False, **QUIET)
        for choice, button in self.votes.buttons.items():
            button.click(user_facing_errors(functools.partial(self._vote, choice)), now,
                         [talk.kept, *talk.outputs, *self.votes.tally_outputs], **QUIET)
        for shown in talk.panes.values():
            shown.click(user_facing_errors(self._pane_clicked), [talk.question, talk.editing, *now],
                        [talk.question, talk.editing, talk.banner, talk.notice, *self.corrections.editor_outputs],
                        **QUIET)
        gr.on([self.settings.blind.input, self.settings.base.input], user_facing_errors(self._redraw), now,
              talk.outputs, **QUIET)
        self.suggested.input(user_facing_errors(self._suggest), [picker, self.suggested],
                             [talk.question, self.reference], **QUIET)
        self.mark.change(
            user_facing_errors(self._restore), [self.mark, talk.kept, self.settings.kept],
            [*options, *talk.outputs, talk.editing, talk.banner, self.reference, self.ready, *self.votes.tally_outputs,
             *self.corrections.list_outputs, self.corrections.name, self.corrections.box, self.body], **QUIET,
        ).then(self._load_models, [picker, self.settings.base], self.ready, js=_ON_CHAT, concurrency_limit=None,
               **QUIET)
        opened = next(tab for tab in tabs.children if getattr(tab, "id", None) == "chat")
        gr.on([opened.select, self.settings.base.input], self._load_models, [picker, self.settings.base], self.ready,
              concurrency_limit=None, **QUIET)
        self.settings.wire(picker)
        self.votes.wire(picker)
        self.corrections.wire(picker, tabs)

    def _ask(self, question: str, editing: int | None, name: str | None, mark: str, kept: Any, request: gr.Request,
             *shown: Any) -> Iterator[list[Any]]:
        session = request.session_hash or ""
        if not question.strip() or self.talk.busy(session):
            return
        conversation = self.talk.conversation(kept, name, mark)
        if editing is not None:
            conversation = conversation.before(editing)
        boxes = [["", None, gr.update(visible=False)]]
        try:
            settings = self._settings(name, shown)
            for values in self.talk.ask(name or "", mark, kept, conversation, question.strip(), settings, session):
                yield [*values, *(boxes.pop() if boxes else [gr.skip()] * 3)]
        except AssistantBuilderError as error:
            raise gradio_error(error) from error

    def _again(self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any) -> Iterator[list[Any]]:
        turns = self.talk.conversation(kept, name, mark).turns
        if turns:
            yield from self._ask(turns[-1].question, len(turns) - 1, name, mark, kept, request, *shown)

    def _clear(self, name: str | None, mark: str, kept: Any, *shown: Any) -> list[Any]:
        drawn = self.talk.values(Study.open(name or "").recommended, Conversation(), self._settings(name, shown))
        return [self.talk.stored_with(kept, name or "", mark, Conversation()), *drawn, "", None,
                gr.update(visible=False), "", None]

    def _vote(self, choice: Choice, name: str | None, mark: str, kept: Any, *shown: Any) -> list[Any]:
        settings = self._settings(name, shown)
        values = self.talk.vote(choice, name or "", mark, kept, settings)
        return [*values, *self.votes.tally_values(Study.open(name or "").recommended, blind=settings.blind)]

    def _pane_clicked(self, question: str, editing: int | None, name: str | None, mark: str, kept: Any,
                      event: gr.EventData, *shown: Any) -> list[Any]:
        """Handle a click in a pane: edit a question, or correct an answer."""
        nothing = [gr.skip()] * (4 + len(self.corrections.editor_outputs))
        conversation = self.talk.conversation(kept, name, mark)
        place, side = event.turn, event.side
        if not isinstance(place, int) or not 0 <= place < len(conversation.turns) or side not in sides():
            return nothing
        turn = conversation.turns[place]
        if event.action == "edit":
            notice = editing_notice(place, conversation)
            return [turn.question, place, gr.update(visible=True), notice, *nothing[4:]]
        speaker = speaker_at(side, turn)
        if event.action != "correct" or turn.hidden or speaker not in turn.answers:
            return nothing
        study = Study.open(name or "").recommended
        return [*nothing[:4], *self.corrections.open(study, turn.question, turn.answers[speaker].text, speaker)]

    def _redraw(self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any) -> list[Any]:
        if not name or self.talk.busy(request.session_hash or ""):
            return [gr.skip()] * len(self.talk.outputs)
        conversation = self.talk.conversation(kept, name, mark)
        return self.talk.values(Study.open(name).recommended, conversation, self._settings(name, shown))

    def _settings(self, name: str | None, shown: tuple[Any, ...]) -> ReplySettings:
        """Settings of the reply; blind mode needs two trained arms, and looking up a grounded study."""
        settings = self.settings.read(shown)
        if not name:
            return settings
        config = Study.open(name).recommended.config
        sampling = settings.sampling if config.grounded else replace(settings.sampling, look_up=True)
        return replace(settings, blind=settings.blind and config.compares, sampling=sampling)

    def _restore(self, mark: str, kept: Any, kept_settings: Any) -> list[Any]:
        """Restore the browser's state for the study of this mark; the picker may not show its name yet.

        The tab becomes visible here and not earlier, because input before this would be overwritten.
        """
        name, _, trained = mark.partition(":")
        study = None if trained == _UNTRAINED else Study.open(name).recommended
        own = study.name if study else None
        shown = self.settings.restored(own, kept_settings)
        try:
            settings = self._settings(own, tuple(shown))
        except AssistantBuilderError:  # the stored settings are not valid
            shown = self.settings.restored(own, {})
            settings = self._settings(own, tuple(shown))
        conversation = self.talk.conversation(kept, name, mark)
        updates = {
            self.settings.blind: gr.update(value=settings.blind, visible=study is None or study.config.compares),
            self.settings.from_memory: gr.update(value=not settings.sampling.look_up,
                                                 visible=study is not None and study.config.grounded)}
        shown = [updates.get(component, value)
                 for component, value in zip(self.settings.inputs, shown, strict=True)]
        return [*shown, *self.talk.values(study, conversation, settings), None, gr.update(visible=False), "", "",
                *self.votes.tally_values(study, blind=settings.blind), *self.corrections.drawn(study),
                self.corrections.proposed_name(study), gr.update(visible=False), gr.update(visible=study is not None)]

    def _load_models(self, name: str | None, base: bool) -> Iterator[Any]:
        """Load the models before the first question if no run needs the machine."""
        try:
            study = Study.open(name).recommended if name else None
            if study is None or study.state == "running" or self.talk.pool.busy:
                return
            arms = shown_arms(study.config)
            adapters = (study.arm_folder(arm) / "adapter" / "adapter_model.safetensors" for arm in arms)
            if not all(path.is_file() for path in adapters) or studies_ahead(study):  # a run plans with the memory
                return
            for replies in self.talk.pool.worker(study).load([*arms, *([BASE] if base else [])]):
                self.talk.note_memory(study.name, replies)
                yield loading_view(replies, study.config.arms)
        except AssistantBuilderError as error:
            raise gradio_error(error) from error

    def _suggest(self, name: str | None, question: str | None) -> list[Any]:
        if not question:
            return [gr.skip(), ""]
        references = dict(_suggestions(Study.open(name or "").recommended))
        return [question, reference_note(references.get(question, ""))]


def _suggestions(study: Study | None) -> list[tuple[str, str]]:
    """Questions of the scored held-out items; the held-out file itself is not read before the evaluation."""
    if study is None or study.step("evaluate").state != "succeeded":
        return []
    return suggestions(read_jsonl(study.cell_folder(lead_arm(study.config.arms).cell) / "samples.jsonl"))


def _trained_mark(view: StudyView) -> str:
    """Identifies the study's adapters."""
    if view.study is None or not view.trained:
        return f"{view.name}:{_UNTRAINED}"
    return view.stamp(*(view.study.arm_folder(arm) / "summary.json" for arm in shown_arms(view.study.config)))
