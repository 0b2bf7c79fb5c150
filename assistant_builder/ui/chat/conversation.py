"""The conversation on the page: ask, stop, ask again, edit, vote; drawn in the panes, kept by the browser."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from assistant_builder.arms import ARMS, TWINS, further_arms
from assistant_builder.atomic_io import read_json
from assistant_builder.chat.client import Reply, ReplyStream, WorkerPool
from assistant_builder.chat.conversation import (
    DEFAULT_SIDES,
    Answer,
    Choice,
    Conversation,
    Turn,
    as_json,
    as_markdown,
    conversation_from_record,
    default_sides,
)
from assistant_builder.chat.feedback import record_vote
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.inference.session import BASE, Memory
from assistant_builder.study import Study
from assistant_builder.ui.chat.feedback import PANE_SCRIPT, VoteBar
from assistant_builder.ui.chat.settings import Settings
from assistant_builder.ui.chat.view import PAIR, Shown, pane, revealed, sides
from assistant_builder.ui.html import Markup, toast
from assistant_builder.ui.refresh import browser_state
from assistant_builder.ui.uploads import offer_text

KEPT_STUDIES = 8
"""Conversations that the browser keeps, one a study; the least recently spoken to is forgotten first."""


class ConversationPanel:
    """The components, and what the worker process says.

    Args:
        pool: Holds the worker process.
        votes: The vote's buttons.
    """

    def __init__(self, pool: WorkerPool, votes: VoteBar) -> None:
        self.pool = pool
        self._votes = votes
        self._under_way: dict[str, ReplyStream] = {}
        self._held: dict[str, dict[str, Memory]] = {}
        self.kept = browser_state("talks", {})
        self.editing = gr.State(None)

    def place_panes(self) -> None:
        """Place the panes."""
        nothing = Shown(Conversation())
        with gr.Row(elem_classes="ab-panes"):
            self.panes = {
                side: gr.HTML(pane(side, nothing), js_on_load=PANE_SCRIPT, min_width=260, elem_id=f"ab-side-{side}",
                              visible=side in PAIR)
                for side in sides()
            }

    def place_box(self) -> None:
        """Place the question box and what belongs to it."""
        with gr.Row(visible=False, elem_id="ab-editing", elem_classes="ab-actions") as self.banner:
            self.notice = gr.HTML()
            self.leave = gr.Button("Leave it as it was", size="sm", scale=0)
        with gr.Row(elem_classes="ab-ask"):
            self.question = gr.Textbox(
                label="Your question", placeholder="Ask… (Enter sends, Shift+Enter starts a new line)",
                lines=1, max_lines=6, scale=8, submit_btn=False, elem_id="ab-question", max_length=20_000,
            )
            with gr.Column(scale=1, min_width=120, elem_classes="ab-send"):
                self.send = gr.Button("Ask", variant="primary", elem_id="ab-send")
                self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="ab-stop")
        with gr.Row(elem_classes="ab-actions"):
            self.again = gr.Button("Ask again", size="sm", interactive=False, elem_id="ab-again")
            self.clear = gr.Button("Clear the conversation", size="sm")
            self.files = [
                gr.DownloadButton(f"Download .{ending}", size="sm", interactive=False, elem_id=f"ab-talk-{ending}")
                for ending in ("md", "json")
            ]

    # drawing

    @property
    def outputs(self) -> list[Any]:
        """What :meth:`drawn` sets."""
        return [*self.panes.values(), self.send, self.stop, self.again, self.clear, *self.files, *self._votes.outputs]

    def drawn(
        self, study: Study | None, conversation: Conversation, settings: Settings,
        replies: Mapping[str, Reply] | None = None, *, busy: bool = False, outcome: str = "",
    ) -> list[Any]:
        """Everything that follows the conversation."""
        turns = conversation.turns
        ended = bool(turns) and not busy
        last = turns[-1] if turns else None
        return [
            *self._panes(study, conversation, settings, replies or {}),
            gr.update(interactive=not busy), gr.update(interactive=busy), gr.update(interactive=ended),
            gr.update(interactive=ended), *self._downloads(study, conversation if ended else Conversation()),
            *self._votes.drawn(last, blind=settings.blind, busy=busy, outcome=outcome),
        ]

    def _panes(
        self, study: Study | None, conversation: Conversation, settings: Settings, replies: Mapping[str, Reply]
    ) -> list[Any]:
        held = self.note_memory(study.name if study else "", replies)
        arms = tuple(study.config.arms) if study else TWINS
        shown = Shown(conversation, settings.blind, replies, _stored(study), held, arms)
        blind = settings.blind or bool(conversation.turns and conversation.turns[-1].hidden)
        there = dict(zip(PAIR, (side in arms for side in default_sides(arms)), strict=True))
        there |= {arm: arm in arms and not blind for arm in further_arms(ARMS)} | {BASE: settings.base}
        return [gr.update(value=pane(side, shown), visible=there[side]) for side in sides()]

    def note_memory(self, name: str, replies: Mapping[str, Reply]) -> dict[str, Memory]:
        """Take note of what a study's models occupy, as the worker process tells; returns all that is known."""
        held = self._held.setdefault(name, {})
        held |= {speaker: reply.memory for speaker, reply in replies.items() if reply.memory}
        return held

    def _downloads(self, study: Study | None, conversation: Conversation) -> list[Any]:
        if study is None or not conversation.turns:
            return [gr.update(value=None, interactive=False)] * 2
        written = {"md": as_markdown(study.name, conversation, study.config.arms),
                   "json": as_json(study.name, conversation)}
        return [
            gr.update(interactive=True, value=offer_text(text, f"{study.name}-chat.{ending}"))
            for ending, text in written.items()
        ]

    # what the browser keeps

    def conversation(self, kept: Any, name: str | None, mark: str) -> Conversation:
        """The conversation with a study, empty where its adapters are not those that it was held with."""
        found = kept.get(name) if isinstance(kept, dict) else None
        same = isinstance(found, dict) and found.get("mark") == mark
        return conversation_from_record(found["turns"]) if same and isinstance(found, dict) and "turns" in found else (
            Conversation())

    def keep(self, kept: Any, name: str, mark: str, conversation: Conversation) -> dict[str, Any]:
        """What the browser shall keep."""
        others = {key: value for key, value in (kept if isinstance(kept, dict) else {}).items() if key != name}
        recent = dict(list(others.items())[-(KEPT_STUDIES - 1):])
        return {**recent, name: {"mark": mark, "turns": conversation.to_record()}} if conversation.turns else recent

    # events

    def ask(
        self, name: str, mark: str, kept: Any, conversation: Conversation, question: str, settings: Settings,
        session: str,
    ) -> Iterator[list[Any]]:
        """Put a question to all, and draw what comes; yields values for ``[kept, *outputs]``.

        Args:
            name: The study.
            mark: Its adapters.
            kept: What the browser keeps.
            conversation: The turns before the question.
            question: The question.
            settings: How to answer.
            session: Tells this window from others.
        """
        study = Study.open(name)
        arms = study.config.arms
        pair = random.sample(DEFAULT_SIDES, 2) if settings.blind else default_sides(arms)
        turn = Turn(question, {}, (pair[0], pair[1]), settings.blind, None, settings.system, settings.drawn())
        asked = conversation.with_turn(turn)
        sent = {
            speaker: conversation.messages(speaker, question, system=settings.system, blind=settings.blind)
            for speaker in (*(side for side in turn.sides if side in arms),
                            *(() if settings.blind else further_arms(arms)), *([BASE] if settings.base else []))
        }
        exchange = self.pool.worker(study).ask(sent, turn.sampling)
        self._under_way[session] = exchange
        replies: dict[str, Reply] = {speaker: Reply() for speaker in sent}
        yield [self.keep(kept, name, mark, asked), *self.drawn(study, asked, settings, replies, busy=True)]
        unchanged = [gr.skip()] * (len(self.outputs) - len(sides()))
        try:
            for replies in exchange:
                yield [gr.skip(), *self._panes(study, asked, settings, replies), *unchanged]
        finally:
            exchange.stop()  # the page may be gone
            self._under_way.pop(session, None)
        done = conversation.with_turn(replace(turn, answers=_answers(replies)))
        yield [self.keep(kept, name, mark, done), *self.drawn(study, done, settings, replies)]

    def busy(self, session: str) -> bool:
        """Whether an answer is under way in this window."""
        return session in self._under_way

    def halt(self, request: gr.Request) -> None:
        """End the answers under way; what has come stays."""
        exchange = self._under_way.get(request.session_hash or "")
        if exchange is not None:
            exchange.stop()

    def vote(self, choice: Choice, name: str, mark: str, kept: Any, settings: Settings) -> list[Any]:
        """Record a vote, and show who was who; values for ``[kept, *outputs]``."""
        study = Study.open(name)
        conversation = self.conversation(kept, name, mark)
        if not conversation.turns:
            raise ConfigError("there is nothing to vote on", where="chat", remedy="Ask in blind mode first")
        turn = conversation.turns[-1]
        sent = conversation.before(len(conversation.turns) - 1).messages(
            turn.sides[0], turn.question, system=turn.system, blind=True)
        record_vote(study, turn, sent, choice)
        voted = conversation.with_vote(choice)
        outcome = revealed(voted.turns[-1])
        return [self.keep(kept, name, mark, voted), *self.drawn(study, voted, settings, outcome=outcome)]


def refused(error: AssistantBuilderError) -> gr.Error:
    """An error as the page tells it."""
    return gr.Error(toast(error.what, error.remedy), print_exception=False)


def editing_notice(place: int, conversation: Conversation) -> Markup:
    """What sending an edited question will replace."""
    later = len(conversation.turns) - place - 1
    also = "" if not later else " and the question after it" if later == 1 else f" and the {later} questions after it"
    return Markup("<p>You are editing question {}. Sending it takes the place of the old one{}.</p>").format(
        place + 1, also)


def _answers(replies: Mapping[str, Reply]) -> dict[str, Answer]:
    """What is kept of the replies; a question that got no answer from someone has none of theirs."""
    return {
        speaker: Answer(reply.text.strip(), reply.state, reply.tokens, reply.seconds, reply.first_token_seconds)
        for speaker, reply in replies.items() if reply.text.strip()
    }


def _stored(study: Study | None) -> dict[str, tuple[int, int]]:
    """Bytes of base and adapter as stored, by arm."""
    found: dict[str, tuple[int, int]] = {}
    for arm in study.config.arms if study else ():
        path = study.arm_folder(arm) / "summary.json" if study else None
        if path is not None and path.is_file():
            summary = read_json(path)
            found[arm] = (int(summary["base_bytes"]), int(summary["adapter_bytes"]))
    return found
