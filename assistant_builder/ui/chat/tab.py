"""The Chat tab: one question box, and a pane for each speaker whose replies the worker process generates."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.arms import plain
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import Choice, Conversation
from assistant_builder.chat.feedback import (
    add_correction,
    remove_correction,
)
from assistant_builder.data import load_split
from assistant_builder.documents.store import Documents
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, t
from assistant_builder.inference.session import BASE
from assistant_builder.retrieval.copying import COPY
from assistant_builder.retrieval.decline import decline_sentence
from assistant_builder.serving.widget import opening_examples
from assistant_builder.study import Study
from assistant_builder.ui.chat.conversation import (
    ConversationPanel,
    corrected_answers,
)
from assistant_builder.ui.chat.feedback import Corrections, VoteBar, heldout_note
from assistant_builder.ui.chat.settings import ALL, ChatSettings, ReplySettings
from assistant_builder.ui.chat.view import (
    PaneState,
    copying_note,
    examples_view,
    loading_view,
    sides,
)
from assistant_builder.ui.html import Markup, empty
from assistant_builder.ui.refresh import QUIET, LiveRegion, StudyView, Updates, Values, inform
from assistant_builder.ui.study_snapshot import (
    answering_arms,
    needs_study,
    shown_arms,
    state_of,
)
from assistant_builder.ui.train.actions import studies_ahead

EMPTY = N_("You can chat with the assistants here.")
_ON_CHAT = "(...all) => [new URL(window.location).searchParams.get('tab') === 'chat' ? all[0] : null, ...all.slice(1)]"
"""Passes no study name while another tab is open, so that no model is loaded for a hidden chat."""
_PREPARED_BYTES = 1_000_000
"""Largest data file that is indexed before the tab is opened: some thousand rows, in less than a minute."""
_NOBODY, _UNTRAINED = "nobody", "untrained"
"""Marks of a study that cannot answer, and of one whose answers are copied."""


class ChatTab:
    """Components of the tab; the caller has opened the ``gr.Tab``. The pool owns the worker process."""

    def __init__(self, pool: WorkerPool) -> None:
        self.mark = gr.Textbox("", visible=False, elem_id="ab-chat-mark")
        self.settings = ChatSettings()
        self.empty = gr.HTML(needs_study(t(EMPTY)))
        with gr.Column(visible=False, elem_id="ab-chat") as self.body:
            self.copying = gr.HTML(visible=False, elem_id="ab-copying")
            with gr.Row(elem_classes="ab-modes"):
                self.settings.modes()
                self.ready = gr.HTML(elem_id="ab-ready")
            options = gr.Accordion(t("Options"), open=False, elem_id="ab-chat-options")
            self.corrections = Corrections()
            panes_here = gr.Column()
            self.votes = VoteBar()
            self.talk = ConversationPanel(pool, self.votes)
            with panes_here:
                self.talk.place_panes()
            self.talk.place_box()
            with options:
                self.settings.more()

    def sections(self) -> list[LiveRegion]:
        """The regions that are redrawn when the study changes."""
        return [
            LiveRegion("chat-empty", [self.empty], _trained_mark, self._draw_empty),
            LiveRegion(
                "chat-copying",
                [self.copying],
                lambda view: f"{view.name}:{view.trained}:{_is_busy(view)}",
                lambda view: {
                    self.copying: gr.update(
                        value=copying_note(_is_busy(view)), visible=can_copy(view)
                    )
                },
            ),
            LiveRegion(
                "chat-mark",
                [self.mark],
                _trained_mark,
                lambda view: {self.mark: _trained_mark(view)},
            ),
            LiveRegion(
                "chat-examples",
                [self.talk.examples],
                lambda view: view.stamp("data/status.json"),
                lambda view: {self.talk.examples: examples_view(_examples(view.study))},
            ),
            LiveRegion(
                "chat-report",
                [self.votes.tally],
                lambda view: view.stamp("report.json"),
                lambda view: self.votes.tally_updates(
                    view.study if view.trained else None, blind=False
                ),
            ),
        ]

    def _draw_empty(self, view: StudyView) -> Updates:
        if view.study is None:
            shown = needs_study(t(EMPTY))
        else:
            shown = empty(
                t("No trained assistants yet"),
                t(
                    "Train the project on the Train tab. Its assistants then answer here side by side."
                ),
            )
        return {self.empty: gr.update(value=shown, visible=not can_answer(view))}

    # events

    def wire(self, picker: gr.Dropdown, tabs: gr.Tabs) -> None:
        """Connect the components; see :class:`~assistant_builder.ui.tabs.TabContent`."""
        talk, settings, self._picker = self.talk, self.settings, picker
        talk.kept.render()
        settings.kept.render()
        state = {picker, self.mark, talk.kept, *settings.inputs}
        outputs = [talk.kept, *talk.outputs, talk.question]
        streamed: dict[str, Any] = {**QUIET, "concurrency_limit": None}
        gr.on(
            [talk.send.click, talk.question.submit],
            self._ask,
            {talk.question, *state},
            outputs,
            **streamed,
        )
        talk.again.click(self._again, state, outputs, **streamed)
        talk.stop.click(talk.stop_replies, None, None, **QUIET)
        talk.clear.click(self._clear, state, outputs, **QUIET)
        talk.examples.click(self._ask_example, state, outputs, **streamed)
        for choice, button in self.votes.buttons.items():
            button.click(
                functools.partial(self._vote, choice),
                state,
                [talk.kept, *talk.outputs, self.votes.tally],
                **QUIET,
            )
        for box in talk.panes.values():
            box.click(self._pane_clicked, state, [*outputs, *self.corrections.outputs], **QUIET)
            box.click(self._ask_suggested, state, outputs, **streamed)
        modes = (
            settings.blind,
            settings.base,
            settings.copied,
            settings.only,
        )
        gr.on([mode.input for mode in modes], self._redraw, state, talk.outputs, **QUIET)
        loading = [picker, settings.base, settings.copied, settings.only]
        self.mark.change(self._prepare, self.mark, None, queue=False, **QUIET)
        self.mark.change(
            self._restore,
            [self.mark, talk.kept, settings.kept],
            [
                *settings.inputs,
                *talk.outputs,
                self.ready,
                self.votes.tally,
                *self.corrections.outputs,
                self.body,
            ],
            **QUIET,
        ).then(self._load_models, loading, self.ready, js=_ON_CHAT, **streamed)
        opened = next(tab for tab in tabs.children if getattr(tab, "id", None) == "chat")
        # the report can have come since the page was opened
        opened.select(
            self._opened, {*state, settings.kept}, [settings.copied, *talk.outputs], **QUIET
        ).then(self._load_models, loading, self.ready, **streamed)
        gr.on(
            [settings.base.input, settings.copied.input],
            self._load_models,
            loading,
            self.ready,
            **streamed,
        )
        self.settings.wire(picker)
        self.corrections.wire(picker)

    def _conversation(self, values: Values) -> Conversation:
        return self.talk.conversation(
            values[self.talk.kept], values[self._picker], values[self.mark]
        )

    def _ask(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        yield from self._send(
            values, self._conversation(values), values[self.talk.question].strip(), request
        )

    def _send(
        self, values: Values, conversation: Conversation, question: str, request: gr.Request
    ) -> Iterator[Updates]:
        session = request.session_hash or ""
        if not question or self.talk.busy(session):
            return
        name, box = values[self._picker] or "", {self.talk.question: ""}
        for updates in self.talk.ask(
            name,
            values[self.mark],
            values[self.talk.kept],
            conversation,
            question,
            self._settings(name, values),
            session,
        ):
            yield {**updates, **box}
            box = {}

    def _again(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        conversation = self._conversation(values)
        if turns := conversation.turns:
            before = conversation.before(len(turns) - 1)
            yield from self._send(values, before, turns[-1].question, request)

    def _clear(self, values: Values) -> Updates:
        name, nothing = values[self._picker] or "", Conversation()
        settings = self._settings(name, values)
        stored = self.talk.stored_with(values[self.talk.kept], name, values[self.mark], nothing)
        return {
            self.talk.kept: stored,
            **self.talk.updates(Study.open(name).recommended, nothing, settings),
            self.talk.question: "",
        }

    def _ask_example(
        self, values: Values, request: gr.Request, event: gr.EventData
    ) -> Iterator[Updates]:
        questions, index = _examples(Study.open(values[self._picker] or "")), event.turn
        if isinstance(index, int) and 0 <= index < len(questions):
            yield from self._send(values, self._conversation(values), questions[index], request)

    def _ask_suggested(
        self, values: Values, request: gr.Request, event: gr.EventData
    ) -> Iterator[Updates]:
        question = self._suggested(values, event) if event.action == "suggested" else None
        if question is None:
            yield gr.skip()  # a listener that yields nothing would clear its outputs
        else:
            yield from self._send(values, self._conversation(values), question, request)

    def _suggested(self, values: Values, event: gr.EventData) -> str | None:
        """The suggested question whose button was clicked."""
        turns, index, place = self._conversation(values).turns, event.turn, event.place
        if not isinstance(index, int) or index not in range(len(turns)):
            return None
        study = Study.open(values[self._picker] or "").recommended
        state = PaneState(Conversation(turns), arms=answering_arms(study))
        answer = turns[index].answers.get(state.speaker(str(event.side), turns[index]))
        offered = () if answer is None else answer.suggestions
        return offered[place] if isinstance(place, int) and place in range(len(offered)) else None

    def _vote(self, choice: Choice, values: Values) -> Updates:
        name = values[self._picker] or ""
        settings = self._settings(name, values)
        voted = self.talk.vote(choice, name, values[self.mark], values[self.talk.kept], settings)
        study = Study.open(name).recommended
        return {**voted, **self.votes.tally_updates(study, blind=settings.blind)}

    def _pane_clicked(self, values: Values, request: gr.Request, event: gr.EventData) -> Updates:
        """Handle a click in a pane: open, close, save or undo the correction of an answer."""
        talk, conversation = self.talk, self._conversation(values)
        index, side = event.turn, event.side
        if (
            not isinstance(index, int)
            or not 0 <= index < len(conversation.turns)
            or side not in sides()
            or event.action == "suggested"  # asked by another listener
            or talk.busy(request.session_hash or "")
        ):
            return gr.skip()
        turn = conversation.turns[index]
        name = values[self._picker] or ""
        study, settings = Study.open(name).recommended, self._settings(name, values)
        state = PaneState(conversation, settings.blind, arms=answering_arms(study))
        speaker = state.speaker(side, turn)
        if speaker not in turn.answers or (turn.hidden and index == len(conversation.turns) - 1):
            return gr.skip()
        editing, note, lists = None, "", {}
        if event.action == "correct":
            editing, note = (index, speaker), heldout_note(study, turn.question)
        if event.action in ("save", "decline"):
            answer = str(event.answer)
            if declines := event.action == "decline":
                answer = decline_sentence(load_split(study.folder / "data", "train"))
            add_correction(
                study,
                str(event.question),
                answer,
                wrong=turn.answers[speaker].text,
                arm=speaker,
                asked=turn.question,
                answerable=not declines,
            )
            lists = self.corrections.updates(study)
            inform(
                t("Saved: it is answered so from now on. “Undo” below the answer takes it back.")
                if study.serves_corrections
                else t(
                    "Saved. When you have corrected what you want, train the next version on the tab “Inbox”."
                )
            )
        if event.action == "undo":
            asked = turn.question, turn.answers[speaker].text.strip()
            if (found := corrected_answers(study).get(asked)) is not None:
                remove_correction(study, found.time)
            lists = self.corrections.updates(study)
        return {**talk.updates(study, conversation, settings, editing=editing, note=note), **lists}

    def _redraw(self, values: Values, request: gr.Request) -> Updates:
        name = values[self._picker]
        if not name or self.talk.busy(request.session_hash or ""):
            return gr.skip()
        study, settings = Study.open(name).recommended, self._settings(name, values)
        return self.talk.updates(study, self._conversation(values), settings)

    def _opened(self, values: Values, request: gr.Request) -> Updates:
        copied, name = self.settings.copied, values[self._picker]
        shown = str(values[self.mark]).partition(":")[0]
        if not name or shown != name or self.talk.busy(request.session_hash or ""):
            return gr.skip()
        wanted = self.settings.copied_too(name, values[self.settings.kept])
        if wanted == bool(values[copied]):  # nothing is redrawn: a correction may be half written
            return gr.skip()
        return {copied: wanted, **self._redraw({**values, copied: wanted}, request)}

    def _settings(self, name: str | None, values: Values) -> ReplySettings:
        """Settings of the reply; blind mode needs two trained arms, and looking up a grounded study."""
        settings = self.settings.read(values)
        if not name:
            return settings
        study = Study.open(name).recommended
        if not answering_arms(study):
            return settings.untrained()
        config = study.config
        sampling = (
            settings.sampling if config.grounded else replace(settings.sampling, look_up=True)
        )
        return replace(settings, blind=settings.blind and config.compares, sampling=sampling)

    def _restore(self, mark: str, kept: Any, kept_settings: Any) -> Updates:
        """Restore the browser's state for the study of this mark; the picker may not show its name yet.

        The tab becomes visible here and not earlier, because input before this would be overwritten.
        """
        name, _, trained = mark.partition(":")
        study = None if trained == _NOBODY else Study.open(name).recommended
        own = study.name if study else None
        values = self.settings.restored(own, kept_settings)
        try:
            settings = self._settings(own, values)
        except AssistantBuilderError:  # the stored settings are not valid
            values = self.settings.restored(own, {})
            settings = self._settings(own, values)
        conversation = self.talk.conversation(kept, name, mark)
        arms = answering_arms(study) if study else ()
        all_arms = (t("Both") if len(arms) == 2 else t("All"), ALL)
        return {
            **values,
            self.settings.only: gr.update(
                value=settings.only or ALL,
                visible=len(arms) > 1,
                choices=[all_arms, *((plain(arm), arm) for arm in arms)],
            ),
            self.settings.blind: gr.update(
                value=settings.blind,
                visible=study is None or (bool(arms) and study.config.compares),
            ),
            **{
                box: gr.update(value=values[box], visible=bool(arms))
                for box in (self.settings.base, self.settings.copied)
            },
            self.settings.from_memory: gr.update(
                value=not settings.sampling.look_up,
                visible=study is not None and bool(arms) and study.config.grounded,
            ),
            **self.talk.updates(study, conversation, settings),
            self.ready: "",
            **self.votes.tally_updates(study if arms else None, blind=settings.blind),
            **self.corrections.updates(study, opened=False),
            self.body: gr.update(visible=study is not None),
        }

    def _prepare(self, mark: str) -> None:
        """Start to look up the answers of a new study, so that they are ready when the tab is opened."""
        name, _, trained = mark.partition(":")
        if trained != _UNTRAINED or self.talk.pool.busy:
            return
        study = Study.open(name).recommended
        if study.step("data").state != "queued" or not _has_answers(study):
            return
        if study.source is None or study.source.stat().st_size <= _PREPARED_BYTES:
            self.talk.pool.worker(study).load([COPY])

    def _load_models(
        self, name: str | None, base: bool, copied: bool, only: str
    ) -> Iterator[Markup]:
        """Load the models before the first question if no run needs the machine, or what copies answers."""
        study = Study.open(name).recommended if name else None
        if study is None or self.talk.pool.busy:
            return
        if not (arms := answering_arms(study)):
            if _has_answers(study):
                for replies in self.talk.pool.worker(study).load([COPY]):
                    yield loading_view(replies)
            return
        if study.state == "running":
            return
        adapters = (study.arm_folder(arm) / "adapter" / "adapter_model.safetensors" for arm in arms)
        # a run plans with the memory
        if not all(path.is_file() for path in adapters) or studies_ahead(study):
            return
        speakers = [only] if only in arms else [*arms]
        speakers += [BASE] * bool(base) + [COPY] * bool(copied)
        for replies in self.talk.pool.worker(study).load(speakers):
            yield loading_view(replies, [only] if only in arms else study.config.arms)


def _examples(study: Study | None) -> list[str]:
    """Example questions of a study; none of a large file before it is split."""
    if study is None:
        return []
    source = study.source
    split = study.split_file("train").is_file()
    if not split and source is not None and source.stat().st_size > _PREPARED_BYTES:
        return []
    return opening_examples(study)


def can_copy(view: StudyView) -> bool:
    """Whether answers are copied: the study has its data or documents, and is not trained yet."""
    study = view.study
    return study is not None and not view.trained and _has_answers(study)


def _has_answers(study: Study) -> bool:
    return study.source is not None or bool(Documents(study))


def can_answer(view: StudyView) -> bool:
    """Whether the assistants of the study answer, or answers are copied."""
    return view.trained or can_copy(view)


def _is_busy(view: StudyView) -> bool:
    return view.study is not None and state_of(view.study) == "running"


def _trained_mark(view: StudyView) -> str:
    """Identifies the study's adapters."""
    if view.study is None or not view.trained:
        return f"{view.name}:{_UNTRAINED if can_copy(view) else _NOBODY}"
    return view.stamp(
        *(view.study.arm_folder(arm) / "summary.json" for arm in shown_arms(view.study.config))
    )
