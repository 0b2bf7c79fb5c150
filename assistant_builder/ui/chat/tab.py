"""The Chat tab: one question box over two or three panes, all answering at once, each from the worker process."""

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
from assistant_builder.ui.chat.conversation import ConversationPanel, editing_notice, refused
from assistant_builder.ui.chat.feedback import Corrections, VoteBar
from assistant_builder.ui.chat.settings import ChatSettings, Settings
from assistant_builder.ui.chat.view import readiness, reference_note, sides, speaker_at, suggestions
from assistant_builder.ui.html import cut, empty
from assistant_builder.ui.refresh import LiveRegion, StudyView, user_facing_errors
from assistant_builder.ui.study_snapshot import all_trained, needs_study, shown_arms, stamp
from assistant_builder.ui.train.actions import others_before
from evals.report.load import lead_arm

EMPTY = "Here you talk to the trained assistants."
_ON_CHAT = "(...all) => [new URL(window.location).searchParams.get('tab') === 'chat' ? all[0] : null, ...all.slice(1)]"
"""Names no study while another tab is open, so that no model is loaded for a chat that nobody looks at."""
_NOBODY = "nobody"
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class ChatTab:
    """Components of the tab; the caller has opened the ``gr.Tab``.

    Args:
        pool: Holds the worker process.
    """

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
            self.suggested = gr.Dropdown(
                [], label="Held-out questions to try", info="No assistant was trained on their wording.",
                interactive=True, visible=False, elem_id="ab-suggested",
            )
            self.reference = gr.HTML(elem_id="ab-reference")
            self.corrections = Corrections()
            self.corrections.editor()
            self.corrections.collection()
            self.settings.decoding()

    def sections(self) -> list[LiveRegion]:
        """What follows the study."""
        return [
            LiveRegion("chat-empty", [self.empty], _trained_mark, self._draw_empty),
            LiveRegion("chat-mark", [self.mark], _trained_mark, lambda look: [_trained_mark(look)]),
            LiveRegion("chat-suggested", [self.suggested], _evaluated_mark, self._draw_suggested),
            LiveRegion("chat-report", self.votes.tally_outputs, _reported_mark, self._draw_tally),
        ]

    def _draw_empty(self, look: StudyView) -> Sequence[Any]:
        if look.study is None:
            shown = needs_study(EMPTY)
        else:
            shown = empty("Nobody to talk to yet", "Train the study on the Train tab. As soon as its assistants "
                          "are trained, they answer here side by side.")
        return [gr.update(value=shown, visible=not _trained(look))]

    def _draw_suggested(self, look: StudyView) -> Sequence[Any]:
        offered = [(cut(question, 140), question) for question, _ in _suggestions(look.study)]
        return [gr.update(choices=offered, value=None, visible=bool(offered))]

    def _draw_tally(self, look: StudyView) -> Sequence[Any]:
        return self.votes.counted(look.study if _trained(look) else None, blind=False)

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components.

        Args:
            picker: Holds the name of the chosen study.
            tabs: The tabs, to move on to another one.
        """
        talk, options = self.talk, self.settings.inputs
        talk.kept.render()
        self.settings.kept.render()
        now = [picker, self.mark, talk.kept, *options]
        asked = [talk.kept, *talk.outputs, talk.question, talk.editing, talk.banner]
        gr.on(
            [talk.send.click, talk.question.submit], self._ask, [talk.question, talk.editing, *now], asked,
            concurrency_limit=None, **_QUIET,
        )
        talk.again.click(self._again, now, asked, concurrency_limit=None, **_QUIET)
        talk.stop.click(talk.halt, None, None, **_QUIET)
        talk.clear.click(user_facing_errors(self._clear), now, [*asked, self.reference, self.suggested], **_QUIET)
        talk.leave.click(lambda: ["", None, gr.update(visible=False)], None, asked[-3:], queue=False, **_QUIET)
        for choice, button in self.votes.buttons.items():
            button.click(
                user_facing_errors(functools.partial(self._vote, choice)), now,
                [talk.kept, *talk.outputs, *self.votes.tally_outputs], **_QUIET,
            )
        for shown in talk.panes.values():
            shown.click(
                user_facing_errors(self._act), [talk.question, talk.editing, *now],
                [talk.question, talk.editing, talk.banner, talk.notice, *self.corrections.opened], **_QUIET,
            )
        gr.on([self.settings.blind.input, self.settings.base.input], user_facing_errors(self._redraw), now, talk.outputs, **_QUIET)
        self.suggested.input(user_facing_errors(self._suggest), [picker, self.suggested], [talk.question, self.reference], **_QUIET)
        self.mark.change(
            user_facing_errors(self._restore), [self.mark, talk.kept, self.settings.kept],
            [*options, *talk.outputs, talk.editing, talk.banner, self.reference, self.ready, *self.votes.tally_outputs,
             *self.corrections.listed, self.corrections.name, self.corrections.box, self.body], **_QUIET,
        ).then(self._warm, [picker, self.settings.base], self.ready, js=_ON_CHAT, concurrency_limit=None, **_QUIET)
        opened = next(tab for tab in tabs.children if getattr(tab, "id", None) == "chat")
        gr.on([opened.select, self.settings.base.input], self._warm, [picker, self.settings.base], self.ready,
              concurrency_limit=None, **_QUIET)
        self.settings.wire(picker)
        self.votes.wire(picker)
        self.corrections.wire(picker, tabs)

    def _ask(
        self, question: str, editing: int | None, name: str | None, mark: str, kept: Any, request: gr.Request,
        *shown: Any,
    ) -> Iterator[list[Any]]:
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
            raise refused(error) from error

    def _again(
        self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any
    ) -> Iterator[list[Any]]:
        turns = self.talk.conversation(kept, name, mark).turns
        if turns:
            yield from self._ask(turns[-1].question, len(turns) - 1, name, mark, kept, request, *shown)

    def _clear(self, name: str | None, mark: str, kept: Any, *shown: Any) -> list[Any]:
        drawn = self.talk.drawn(Study.open(name or ""), Conversation(), self._settings(name, shown))
        return [self.talk.keep(kept, name or "", mark, Conversation()), *drawn, "", None, gr.update(visible=False), "",
                None]

    def _vote(self, choice: Choice, name: str | None, mark: str, kept: Any, *shown: Any) -> list[Any]:
        settings = self._settings(name, shown)
        values = self.talk.vote(choice, name or "", mark, kept, settings)
        return [*values, *self.votes.counted(Study.open(name or ""), blind=settings.blind)]

    def _act(
        self, question: str, editing: int | None, name: str | None, mark: str, kept: Any, event: gr.EventData,
        *shown: Any,
    ) -> list[Any]:
        """Edit a question, or correct an answer: what was pressed in a pane."""
        nothing = [gr.skip()] * (4 + len(self.corrections.opened))
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
        study = Study.open(name or "")
        return [*nothing[:4], *self.corrections.open(study, turn.question, turn.answers[speaker].text, speaker)]

    def _redraw(self, name: str | None, mark: str, kept: Any, request: gr.Request, *shown: Any) -> list[Any]:
        if not name or self.talk.busy(request.session_hash or ""):
            return [gr.skip()] * len(self.talk.outputs)
        conversation = self.talk.conversation(kept, name, mark)
        return self.talk.drawn(Study.open(name), conversation, self._settings(name, shown))

    def _settings(self, name: str | None, shown: tuple[Any, ...]) -> Settings:
        """How to answer; blind mode hides which twin answers where, and is off where one of them is not trained."""
        settings = self.settings.read(shown)
        return settings if not name or Study.open(name).config.compares else replace(settings, blind=False)

    def _restore(self, mark: str, kept: Any, kept_settings: Any) -> list[Any]:
        """Everything as the browser kept it for the study of this mark; the picker may not show its name yet.

        The tab is shown by this and not before: what was typed or ticked earlier would be overwritten.
        """
        name, _, trained = mark.partition(":")
        study = None if trained == _NOBODY else Study.open(name)
        shown = self.settings.restored(study.name if study else None, kept_settings)
        try:
            settings = self._settings(study.name if study else None, tuple(shown))
        except AssistantBuilderError:  # kept while they did not fit
            shown = self.settings.restored(study.name if study else None, {})
            settings = self._settings(study.name if study else None, tuple(shown))
        conversation = self.talk.conversation(kept, name, mark)
        pair = study is None or study.config.compares
        shown = [gr.update(value=settings.blind, visible=pair) if component is self.settings.blind else value
                 for component, value in zip(self.settings.inputs, shown, strict=True)]
        return [
            *shown, *self.talk.drawn(study, conversation, settings), None, gr.update(visible=False), "", "",
            *self.votes.counted(study, blind=settings.blind), *self.corrections.drawn(study),
            self.corrections.proposed(study), gr.update(visible=False), gr.update(visible=study is not None),
        ]

    def _warm(self, name: str | None, base: bool) -> Iterator[Any]:
        """Load the models before anything is asked, while nothing else needs the machine."""
        try:
            study = Study.open(name) if name else None
            if study is None or not _loadable(study) or study.state == "running" or self.talk.pool.busy:
                return
            if others_before(study):  # a run of another study plans with the memory that is free
                return
            for replies in self.talk.pool.worker(study).load([*shown_arms(study.config), *([BASE] if base else [])]):
                self.talk.note_memory(study.name, replies)
                yield readiness(replies, study.config.arms)
        except AssistantBuilderError as error:
            raise refused(error) from error

    def _suggest(self, name: str | None, question: str | None) -> list[Any]:
        if not question:
            return [gr.skip(), ""]
        references = dict(_suggestions(Study.open(name or "")))
        return [question, reference_note(references.get(question, ""))]


def _suggestions(study: Study | None) -> list[tuple[str, str]]:
    """From the scored held-out items, so that nothing reads the held-out file before the evaluation has."""
    if study is None or study.step("evaluate").state != "succeeded":
        return []
    return suggestions(read_jsonl(study.cell_folder(lead_arm(study.config.arms).cell) / "samples.jsonl"))


def _loadable(study: Study) -> bool:
    return all((study.arm_folder(arm) / "adapter" / "adapter_model.safetensors").is_file()
               for arm in shown_arms(study.config))


def _trained(look: StudyView) -> bool:
    return look.study is not None and all_trained(look.study)


def _trained_mark(look: StudyView) -> str:
    """Changes when the adapters do, and with them whom one talks to."""
    if look.study is None or not all_trained(look.study):
        return f"{look.name}:{_NOBODY}"
    return f"{look.name}:" + stamp(look.study.arm_folder(arm) / "summary.json"
                                   for arm in shown_arms(look.study.config))


def _evaluated_mark(look: StudyView) -> str:
    return f"{look.name}:" + (stamp([look.study.status_file("evaluate")]) if look.study else "nothing")


def _reported_mark(look: StudyView) -> str:
    """Changes when the report does, and with it whether it holds the votes."""
    return f"{look.name}:" + (stamp([look.study.folder / "report.json"]) if look.study else "nothing")
