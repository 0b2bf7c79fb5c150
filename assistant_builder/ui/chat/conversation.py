"""The conversation of the Chat tab: ask, stop, ask again and vote. The browser stores the turns."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.arms import TWINS, further_arms
from assistant_builder.chat.ask import longest_answer
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import (
    DEFAULT_SIDES,
    Answer,
    Choice,
    Conversation,
    Turn,
    conversation_from_record,
    default_sides,
)
from assistant_builder.chat.feedback import read_corrections, record_vote
from assistant_builder.chat.reply_stream import Reply, ReplyStream
from assistant_builder.data.edit import NO_NUMBERS
from assistant_builder.data.prepare import row_numbers
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m, t
from assistant_builder.inference.chunks import Sampling
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.ui.chat.feedback import VoteBar, pane_script
from assistant_builder.ui.chat.settings import ReplySettings
from assistant_builder.ui.chat.view import (
    PAIR,
    CorrectedAnswer,
    PaneState,
    pane,
    reveal_view,
    sides,
)
from assistant_builder.ui.refresh import Updates, browser_state
from assistant_builder.ui.study_snapshot import answering_arms, recommends_copies

KEPT_STUDIES = 8
"""Number of studies whose conversation the browser keeps; the least recently used is deleted first."""


class ConversationPanel:
    """Components of the conversation; the pool owns the worker process."""

    def __init__(self, pool: WorkerPool, votes: VoteBar) -> None:
        self.pool = pool
        self._votes = votes
        self._active: dict[str, ReplyStream] = {}
        self.kept = browser_state("talks", {})

    def place_panes(self) -> None:
        """Place the panes."""
        nothing = PaneState(Conversation())
        with gr.Row(elem_classes="ab-panes"):
            self.panes = {
                side: gr.HTML(
                    pane(side, nothing),
                    js_on_load=pane_script(),
                    min_width=260,
                    elem_id=f"ab-side-{side}",
                    visible=side in PAIR,
                )
                for side in sides()
            }

    def place_box(self) -> None:
        """Place the examples, the question box and its buttons, which stay at the lower edge of the window."""
        with gr.Column(elem_id="ab-box"):
            self.examples = gr.HTML(js_on_load=pane_script(), elem_id="ab-examples")
            with gr.Row(elem_classes="ab-ask"):
                self.question = gr.Textbox(
                    label=t("Your question"),
                    show_label=False,
                    container=False,
                    lines=1,
                    placeholder=t("Ask… (Enter sends, Shift+Enter starts a new line)"),
                    max_lines=6,
                    scale=8,
                    submit_btn=False,
                    elem_id="ab-question",
                    max_length=20_000,
                    min_width=160,
                )
                self.send = gr.Button(
                    t("Ask"), variant="primary", elem_id="ab-send", min_width=76, scale=0
                )
                self.stop = gr.Button(
                    t("Stop"),
                    variant="stop",
                    visible=False,
                    elem_id="ab-stop",
                    min_width=76,
                    scale=0,
                )
            with gr.Row(
                elem_classes="ab-actions", visible=False, elem_id="ab-talk-actions"
            ) as self.actions:
                self.again = gr.Button(
                    t("Ask again"), size="sm", interactive=False, elem_id="ab-again"
                )
                self.clear = gr.Button(t("Clear conversation"), size="sm")

    # drawing

    @property
    def outputs(self) -> list[Any]:
        """Components set by :meth:`updates`."""
        buttons = (self.send, self.stop, self.again, self.clear)
        return [
            *self.panes.values(),
            *buttons,
            self.examples,
            self.actions,
            *self._votes.outputs,
        ]

    def updates(
        self,
        study: Study | None,
        conversation: Conversation,
        settings: ReplySettings,
        replies: Mapping[str, Reply] | None = None,
        *,
        busy: bool = False,
        outcome: str = "",
        editing: tuple[int, str] | None = None,
        note: str = "",
    ) -> Updates:
        """Show a conversation; ``editing`` and ``note`` as of :class:`PaneState`."""
        turns = conversation.turns
        finished = bool(turns) and not busy
        panes = self.pane_updates(
            study,
            conversation,
            settings,
            replies or {},
            corrected=corrected_answers(study),
            editing=editing,
            note=note,
        )
        votes = self._votes.updates(
            turns[-1] if turns else None, blind=settings.blind, busy=busy, outcome=outcome
        )
        return {
            **panes,
            self.send: gr.update(visible=not busy),
            self.stop: gr.update(visible=busy),
            self.again: gr.update(interactive=finished),
            self.clear: gr.update(interactive=finished),
            self.examples: gr.update(visible=not turns),
            self.actions: gr.update(visible=bool(turns)),
            **votes,
        }

    def pane_updates(
        self,
        study: Study | None,
        conversation: Conversation,
        settings: ReplySettings,
        replies: Mapping[str, Reply],
        **correcting: Any,
    ) -> Updates:
        """Show the panes alone, which a reply changes many times."""
        arms = answering_arms(study) if study else TWINS
        state = PaneState(
            conversation,
            settings.blind,
            replies,
            arms,
            settings.only if settings.only in arms else "",
            numbers=row_numbers(study.folder / "data") if study else NO_NUMBERS,
            recommended=COPY if study and arms and recommends_copies(study) else "",
            **correcting,
        )
        return {
            box: gr.update(value=pane(side, state), visible=state.is_visible(side, settings.also))
            for side, box in self.panes.items()
        }

    # the browser's storage

    def conversation(self, kept: Any, name: str | None, mark: str) -> Conversation:
        """The stored conversation with a study; empty if the study has other adapters now."""
        known = isinstance(kept, dict) and isinstance(name, str)
        stored = kept.get(name) if known else None
        if not isinstance(stored, dict) or stored.get("mark") != mark or "turns" not in stored:
            return Conversation()
        return conversation_from_record(stored["turns"])

    def stored_with(
        self, kept: Any, name: str, mark: str, conversation: Conversation
    ) -> dict[str, Any]:
        """The new value of the browser's storage."""
        others = {
            key: value
            for key, value in (kept if isinstance(kept, dict) else {}).items()
            if key != name
        }
        recent = dict(list(others.items())[-(KEPT_STUDIES - 1) :])
        return (
            {**recent, name: {"mark": mark, "turns": conversation.to_record()}}
            if conversation.turns
            else recent
        )

    # events

    def ask(
        self,
        name: str,
        mark: str,
        kept: Any,
        conversation: Conversation,
        question: str,
        settings: ReplySettings,
        session: str,
    ) -> Iterator[Updates]:
        """Send a question to all speakers and stream the replies; before the training, answers are copied.

        Args:
            name: The study.
            mark: Identifies its adapters.
            kept: The browser's storage.
            conversation: The turns before the question.
            question: The question.
            settings: Settings of the reply.
            session: Identifies the browser window.

        Yields:
            Updates of :attr:`kept` and :attr:`outputs`.
        """
        study = Study.open(name).recommended
        arms = answering_arms(study)
        pair = random.sample(DEFAULT_SIDES, 2) if settings.blind else default_sides(arms)
        sampling = settings.sampling_with_seed()
        if (
            sampling.max_new_tokens == Sampling().max_new_tokens
        ):  # the default, which long answers of the data exceed
            sampling = replace(sampling, max_new_tokens=longest_answer(study))
        turn = Turn(
            question, {}, (pair[0], pair[1]), settings.blind, None, settings.system, sampling
        )
        asked = conversation.with_turn(turn)
        asked_arms = [side for side in turn.sides if side in arms]
        if not settings.blind:
            asked_arms += further_arms(arms)
            asked_arms = [settings.only] if settings.only in asked_arms else asked_arms
        sent = {
            speaker: conversation.messages(
                speaker, question, system=settings.system, alone=settings.blind
            )
            for speaker in (*asked_arms, *settings.also)
        }
        stream = self.pool.worker(study).ask(sent, turn.sampling)
        self._active[session] = stream
        replies: dict[str, Reply] = {speaker: Reply() for speaker in sent}
        yield {
            self.kept: self.stored_with(kept, name, mark, asked),
            **self.updates(study, asked, settings, replies, busy=True),
        }
        corrected, ended = corrected_answers(study), 0
        try:
            for replies in stream:
                shown = self.pane_updates(study, asked, settings, replies, corrected=corrected)
                complete = {side: reply for side, reply in replies.items() if reply.finished}
                if len(complete) > ended:  # kept, too, if the page is left before the others end
                    ended = len(complete)
                    partly = conversation.with_turn(replace(turn, answers=_answers(complete)))
                    shown[self.kept] = self.stored_with(kept, name, mark, partly)
                yield shown
        finally:
            stream.stop()  # the browser may have closed the page
            self._active.pop(session, None)
        done = conversation.with_turn(replace(turn, answers=_answers(replies)))
        yield {
            self.kept: self.stored_with(kept, name, mark, done),
            **self.updates(study, done, settings, replies),
        }

    def busy(self, session: str) -> bool:
        """Whether this window is receiving replies."""
        return session in self._active

    def stop_replies(self, request: gr.Request) -> None:
        """Stop the replies of this window; the text so far is kept."""
        stream = self._active.get(request.session_hash or "")
        if stream is not None:
            stream.stop()

    def vote(
        self, choice: Choice, name: str, mark: str, kept: Any, settings: ReplySettings
    ) -> Updates:
        """Record a vote and reveal the assistants."""
        study = Study.open(name).recommended
        conversation = self.conversation(kept, name, mark)
        if not conversation.turns:
            raise ConfigError(
                m("there is nothing to vote on"), where="chat", remedy=m("Ask in blind mode first")
            )
        turn = conversation.turns[-1]
        sent = conversation.before(len(conversation.turns) - 1).messages(
            turn.sides[0], turn.question, system=turn.system, alone=True
        )
        record_vote(study, turn, sent, choice)
        voted = conversation.with_vote(choice)
        return {
            self.kept: self.stored_with(kept, name, mark, voted),
            **self.updates(study, voted, settings, outcome=reveal_view(voted.turns[-1])),
        }


def corrected_answers(study: Study | None) -> dict[tuple[str, str], CorrectedAnswer]:
    """(question, wrong answer) → its correction."""
    try:
        found = read_corrections(study) if study else []
    except AssistantBuilderError:  # the list of corrections shows it
        return {}
    return {
        (one.asked or one.question, one.wrong): CorrectedAnswer(
            one.answer,
            study.serves_corrections,
            one.time,
        )
        for one in found
        if study
    }


def _answers(replies: Mapping[str, Reply]) -> dict[str, Answer]:
    """The answers to store; speakers without an answer are left out."""
    return {
        speaker: Answer(
            reply.text.strip(),
            reply.state,
            reply.tokens,
            reply.seconds,
            reply.first_token_seconds,
            reply.sources,
            reply.declined,
            tuple(reply.judged.get("suggestions", ())),
            _why(reply.judged),
        )
        for speaker, reply in replies.items()
        if reply.text.strip()
    }


def _why(judged: Mapping[str, Any]) -> tuple[tuple[str, dict[str, Any] | None], ...]:
    """Why a question was declined, and what to add to the data: the English texts with their messages."""
    if "reason" not in judged:
        return ()
    texts = judged["reason"], judged["advice"]
    return tuple(zip(texts, judged["why"], strict=True))
