"""Views of the chat: the panes, the loading progress, the example questions and the corrections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup

from assistant_builder.arms import ARMS, TWINS, further_arms, label
from assistant_builder.chat.answer_server import IDLE_SECONDS
from assistant_builder.chat.conversation import Answer, Conversation, Turn, default_sides, title_of
from assistant_builder.chat.feedback import Correction
from assistant_builder.chat.reply_stream import Reply
from assistant_builder.data.types import RowNumbers
from assistant_builder.i18n import N_, render, t, text_of, tn
from assistant_builder.inference.session import BASE
from assistant_builder.retrieval.copying import COPY
from assistant_builder.ui.html import callout, empty, error_callout, fragment

PAIR = ("a", "b")
"""The panes of the LoRA and QLoRA twins, which are shuffled in blind mode."""
_STATUS_TEXTS = {
    "starting": N_("Starting the chat process…"),
    "waiting": N_("Waiting until the model is free…"),
    "loading": N_("Loading the model…"),
    "answering": N_("Reading the question…"),
}
_ENDINGS = {"length": N_("cut at the maximum length"), "cancelled": N_("stopped")}


@dataclass(frozen=True)
class PaneState:
    """State of the panes.

    Attributes:
        replies: Replies to the last turn that are running or failed.
        arms: The arms of the study, none before they are trained; a single twin is on side a.
    """

    conversation: Conversation
    blind: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict)
    arms: Sequence[str] = TWINS
    only: str = ""  # the one assistant that is shown; empty: all
    corrected: Mapping[tuple[str, str], CorrectedAnswer] = field(
        default_factory=dict
    )  # by question and wrong answer
    editing: tuple[int, str] | None = (
        None  # turn and speaker of the answer whose correction is being written
    )
    note: str = ""  # what the user must know about that correction
    recommended: str = ""  # the speaker whose pane says that the report recommends it
    numbers: RowNumbers = RowNumbers()  # row numbers of the data file

    @property
    def masked(self) -> bool:
        """Whether the panes are named A and B: before a blind question, and until the vote on it."""
        turns = self.conversation.turns
        return self.blind or bool(turns and turns[-1].hidden)

    def speaker(self, side: str, turn: Turn) -> str:
        """The speaker whose answer a pane shows in a turn.

        A and B are those of each blind question; a pane with the name of an assistant shows the answers of that one.
        """
        if side not in PAIR:
            return side
        return (turn.sides if self.masked else default_sides(self.arms))[PAIR.index(side)]

    def is_visible(self, side: str, also: Collection[str] = ()) -> bool:
        """Whether a pane is shown; ``also``: speakers that are asked besides the assistants."""
        if side in (BASE, COPY):
            return side in also
        speaker = self.speaker(side, Turn("", sides=default_sides(self.arms)))
        one = bool(self.only) and not self.masked
        return (
            speaker in self.arms
            and (side in PAIR or not self.masked)
            and (not one or speaker == self.only)
        )


@dataclass(frozen=True)
class CorrectedAnswer:
    """The correction of an answer, and whether it is served at once."""

    answer: str
    served: bool = False
    time: str = ""  # identifies it


def sides() -> tuple[str, ...]:
    """Names of the panes: copied answers, two for the twins, one for each further arm, base model."""
    return (COPY, *PAIR, *further_arms(ARMS), BASE)


def pane(side: str, state: PaneState) -> Markup:
    """One pane of the conversation.

    In blind mode nothing in it identifies the assistant before the vote: no name, no colour, no figure, and no
    difference in speed (:func:`equalize_pace`).
    """
    turns = state.conversation.turns
    hidden = side in PAIR and state.masked
    who = f"side-{side}" if hidden else state.speaker(side, Turn(""))
    title = t("Assistant {upper}", upper=side.upper()) if hidden else title_of(who, state.arms)
    replies = equalize_pace(state.replies) if turns and turns[-1].hidden else state.replies
    blocks: list[Markup] = []
    for index, turn in enumerate(turns):
        live = replies.get(state.speaker(side, turn)) if index == len(turns) - 1 else None
        blocks.append(fragment("chat.question", turn.question))
        blocks.append(_answer(side, index, turn, live, title, state))
    alone = len(state.arms) == 1 or state.only
    hint = ""
    if hidden:
        hint = t("The assistant's name is shown after your vote.")
    elif side == COPY and not state.arms:
        hint = t("The answer is copied from your data, with the row that it is from.")
    elif side in (BASE, COPY) or ((len(state.arms) > 2 or state.recommended) and not alone):
        hint = t("Every speaker gets the same question.")
    elif not alone:
        hint = t("Both assistants get the same question.")
    # screen readers wait for the end of the reply
    busy = any(not reply.finished for reply in replies.values())
    chip = t("Recommended") if who == state.recommended else ""
    return fragment("chat.pane", who, title, busy, blocks, hint, chip)


def _answer(
    side: str, index: int, turn: Turn, live: Reply | None, title: str, state: PaneState
) -> Markup:
    speaker, answer = state.speaker(side, turn), turn.answers.get(state.speaker(side, turn))
    if live is not None and not (answer is not None and live.finished and live.state != "failed"):
        who = "hidden" if turn.hidden and speaker in turn.sides else speaker
        return fragment("chat.live", who, live, _status(live))
    if answer is None:
        note = t("No answer: the page was closed, or the process ended. Press “Ask again”.")
        if turn.answers:
            note = (
                t("The base model did not answer this question.")
                if side == BASE
                else t("This assistant did not answer this question.")
            )
        return fragment("parts.paragraph", note, "ab-turn ab-assistant ab-quiet")
    # before the vote: the assistants may retrieve other facts, and decline by rules of their own
    hidden = side in PAIR and state.masked and turn.hidden
    corrected = None if hidden else state.corrected.get((turn.question, answer.text.strip()))
    form = Markup("")
    if state.editing == (index, speaker) and not hidden:
        proposed = corrected.answer if corrected else answer.text
        form = fragment("chat.correction_form", side, index, turn.question, proposed, state.note)
    voted = turn.blind and side in PAIR and not hidden
    return fragment(
        "chat.answer",
        who=f"side-{side}" if hidden else speaker,
        author=speaker if voted else "",
        chosen=turn.vote in PAIR and turn.sides[PAIR.index(turn.vote)] == speaker,
        text=answer.text,
        sources="" if hidden else sources_view(answer, state.numbers),
        suggestions=() if hidden else answer.suggestions,
        why=[] if hidden else [render(text_of(record, text)) for text, record in answer.why],
        declined=answer.declined,
        corrected=corrected and _corrected(corrected, index, side) or "",
        form=form,
        ending=t(_ENDINGS[answer.ending]) if answer.ending in _ENDINGS else "",
        index=index,
        side=side,
        title=title,
        fixable=not hidden,
    )


def _status(reply: Reply) -> str:
    """What a reply without text waits for; empty for others."""
    if reply.text or reply.finished:
        return ""
    if reply.state == "loading" and reply.phase:
        return f"{render(reply.doing)}…"
    if reply.state == "waiting" and reply.ahead:
        return tn(
            "Waiting: {count} question before this one…",
            "Waiting: {count} questions before this one…",
            reply.ahead,
        )
    return t(_STATUS_TEXTS[reply.state])


def _corrected(correction: CorrectedAnswer, index: int, side: str) -> Markup:
    return fragment("chat.corrected", correction.answer, correction.served, index, side)


def sources_view(answer: Answer, numbers: RowNumbers) -> Markup:
    """The facts that the assistant was given for an answer, folded; empty if it looked nothing up."""
    return fragment("chat.sources", answer, numbers) if answer.sources else Markup("")


def equalize_pace(replies: Mapping[str, Reply]) -> dict[str, Reply]:
    """Replies of both assistants at the same pace, so that neither speed nor loading time identifies an arm.

    Both show as much text as the slower unfinished reply has. The state in which a reply ended is shown after both have
    ended. The other speakers are not changed, because their panes show their names.
    """
    arms = {speaker: reply for speaker, reply in replies.items() if speaker in ARMS}
    unfinished = [reply for reply in arms.values() if not reply.finished]
    if not unfinished:
        return dict(replies)
    shortest = min(len(reply.text) for reply in unfinished)
    if shortest == 0:
        slowest = min(
            unfinished, key=lambda reply: (list(_STATUS_TEXTS).index(reply.state), reply.fraction)
        )
        common = Reply(
            slowest.state,
            phase=t("Loading the assistants") if slowest.phase else "",
            fraction=slowest.fraction,
            ahead=max(reply.ahead for reply in unfinished),
        )
        return {**replies, **dict.fromkeys(arms, common)}
    return {
        **replies,
        **{
            speaker: replace(reply, text=reply.text[:shortest], state="answering", error=None)
            for speaker, reply in arms.items()
        },
    }


def loading_view(replies: Mapping[str, Reply], arms: Sequence[str] = TWINS) -> Markup:
    """Loading progress of the models before the first question."""
    if all(reply.state == "loaded" for reply in replies.values()):
        if set(replies) == {COPY}:
            return fragment("parts.paragraph", t("Ready to answer."), "ab-loaded ab-good", "status")
        minutes = round(IDLE_SECONDS / 60)
        text = (
            t(
                "The assistant is loaded. It is unloaded {minutes} minutes after the last question.",
                minutes=minutes,
            )
            if len(arms) == 1
            else t(
                "The assistants are loaded. They are unloaded {minutes} minutes after the last question.",
                minutes=minutes,
            )
        )
        return fragment("parts.paragraph", text, "ab-loaded ab-good", "status")
    failed = next((reply for reply in replies.values() if reply.state == "failed"), None)
    if failed is not None:
        return error_callout(failed.error or {"what": t("the assistants could not be loaded")})
    shares = [1.0 if reply.finished else reply.fraction for reply in replies.values()]
    phases = [
        f"{title_of(speaker, arms)}: "
        + (render(reply.doing) or t(_STATUS_TEXTS.get(reply.state, ""))).rstrip("…")
        for speaker, reply in replies.items()
        if not reply.finished
    ]
    return fragment("chat.loading", phases, sum(shares) / max(len(shares), 1))


def copying_note(busy: bool) -> Markup:
    """What copied answers are, before the assistants are trained; ``busy``: they are being trained."""
    later = (
        t("The assistants are being trained meanwhile.")
        if busy
        else t("Train the project to compare this with trained assistants.")
    )
    return callout(
        "warn",
        t("Looked up, not trained"),
        t("Answers are copied from your data word for word, with their rows."),
        later,
    )


def reveal_view(turn: Turn) -> Markup:
    """The assistants behind A and B, shown after the vote."""
    chosen = {"tie": t("You found both equally good."), "both bad": t("You found both bad.")}.get(
        turn.vote or "", ""
    )
    if turn.vote in ("a", "b"):
        chosen = t("You preferred {assistant}.", assistant=label(turn.sides["ab".index(turn.vote)]))
    return fragment("chat.revealed", turn, chosen)


def examples_view(questions: Sequence[str]) -> Markup:
    """The example questions as buttons; ``data-turn`` is the number of a question."""
    return fragment("chat.examples", questions)


def corrections_list(corrections: Sequence[Correction], heldout: Collection[int]) -> Markup:
    """Every correction with its question, oldest first, and a button that removes it.

    ``heldout`` has the positions of those of held-out questions.
    """
    if not corrections:
        return empty(
            t("No corrections yet"),
            t("Press “Fix the answer” below an answer to write a better one."),
        )
    return fragment("chat.corrections", corrections, heldout)
