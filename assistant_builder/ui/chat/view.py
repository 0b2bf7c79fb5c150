"""Views of the chat: the panes, the loading progress, the example questions and the corrections."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from markupsafe import Markup

from assistant_builder.arms import ARMS, TWINS, base_owner, further_arms, label
from assistant_builder.chat.answer_server import IDLE_SECONDS
from assistant_builder.chat.client import Reply
from assistant_builder.chat.conversation import Answer, Conversation, Turn, default_sides, title_of
from assistant_builder.chat.feedback import AskedAgain, Correction, RetrainingPlan, TaughtPair
from assistant_builder.data import Pair
from assistant_builder.data.types import RowNumbers
from assistant_builder.i18n import N_, t, tn, translate_formatted
from assistant_builder.inference.session import BASE, SHIPPED, Memory
from assistant_builder.ui.html import bar, empty, error_callout, fold, join, table
from evals.report.format import size

EXAMPLES = 4
_MAX_EXAMPLE = 80  # characters of an example question
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
        stored: Speaker → stored bytes of base and adapter.
        memory: Speaker → its present memory, if known.
        arms: The arms of the study; a single twin is on side a.
    """

    conversation: Conversation
    blind: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict)
    stored: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    arms: Sequence[str] = TWINS
    only: str = ""  # the one assistant that is shown; empty: all
    figures: bool = False  # whether speed and memory are shown
    corrected: Mapping[tuple[str, str], CorrectedAnswer] = field(
        default_factory=dict
    )  # by question and wrong answer
    editing: tuple[int, str] | None = (
        None  # turn and speaker of the answer whose correction is being written
    )
    note: str = ""  # what the user must know about that correction
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
        if side in (BASE, SHIPPED):
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
    """The correction of an answer, and the training pair that has it already."""

    answer: str
    taught: TaughtPair | None = None


def sides() -> tuple[str, ...]:
    """Names of the panes: two for the twins, one for each further arm, the file to ship, and the base model."""
    return (*PAIR, *further_arms(ARMS), SHIPPED, BASE)


def pane(side: str, shown: PaneState) -> Markup:
    """One pane of the conversation.

    In blind mode nothing in it identifies the assistant before the vote: no name, no colour, no figure, and no
    difference in speed (:func:`equalize_pace`).
    """
    turns = shown.conversation.turns
    hidden = side in PAIR and shown.masked
    who = f"side-{side}" if hidden else shown.speaker(side, Turn(""))
    title = t("Assistant {upper}", upper=side.upper()) if hidden else title_of(who, shown.arms)
    replies = equalize_pace(shown.replies) if turns and turns[-1].hidden else shown.replies
    busy = any(
        not reply.finished for reply in replies.values()
    )  # screen readers then wait for the end of the reply
    blocks: list[Markup] = []
    for place, turn in enumerate(turns):
        live = replies.get(shown.speaker(side, turn)) if place == len(turns) - 1 else None
        blocks += _turn(side, place, turn, live, title, shown)
    if not blocks:
        alone = len(shown.arms) == 1 or shown.only
        hint = (
            t("The assistant's name is shown after your vote.")
            if hidden
            else (
                t("Every speaker gets the same question.")
                if side in (BASE, SHIPPED) or (len(shown.arms) > 2 and not alone)
                else ""
                if alone
                else t("Both assistants get the same question.")
            )
        )
        blocks = [Markup('<p class="ab-hint">{} {}</p>').format(t("Ask a question below."), hint)]
    figures = (
        Markup('<div class="ab-figures">{}</div>').format(_figures(side, shown, hidden))
        if shown.figures
        else ""
    )
    # The newest turn is first in the markup; the style sheet reverses the order, so that the end stays in view.
    return Markup(
        '<section class="ab-pane ab-arm-{}" id="ab-pane-{}" aria-label="{}"><header><span class="ab-chip">{}</span>'
        '</header><div class="ab-talk" tabindex="0" role="log" aria-busy="{}" aria-label="{}">{}</div>{}</section>'
    ).format(
        who,
        who,
        title,
        title,
        "true" if busy else "false",
        t("Conversation with {title}", title=title),
        join(reversed(blocks)),
        figures,
    )


def _turn(
    side: str, place: int, turn: Turn, live: Reply | None, title: str, shown: PaneState
) -> list[Markup]:
    speaker = shown.speaker(side, turn)
    question = Markup(
        '<div class="ab-asked"><div class="ab-turn ab-user" dir="auto">{}</div>'
        '<div class="ab-tools ab-of-user">{}</div></div>'
    ).format(
        turn.question,
        _tool("edit", t("Edit"), t("Edit question {place}", place=place + 1), place, side),
    )
    answer = turn.answers.get(speaker)
    if live is not None and not (answer is not None and live.finished and live.state != "failed"):
        return [question, _live_reply(live, speaker, turn)]
    if answer is not None:
        return [question, _answer(side, place, turn, speaker, answer, title, shown)]
    note = t("No answer: the page was closed, or the process ended. Press “Ask again”.")
    if turn.answers:
        note = (
            t("The base model did not answer this question.")
            if side == BASE
            else t("This assistant did not answer this question.")
        )
    return [question, Markup('<p class="ab-turn ab-assistant ab-quiet">{}</p>').format(note)]


def _answer(
    side: str, place: int, turn: Turn, speaker: str, answer: Answer, title: str, shown: PaneState
) -> Markup:
    # before the vote: the assistants may find other facts, and decline by rules of their own
    hidden = side in PAIR and shown.masked and turn.hidden
    tools = [
        _tool(
            "copy",
            t("Copy"),
            t("Copy answer {place} of {title}", place=place + 1, title=title),
            place,
            side,
        )
    ]
    if not hidden:
        tools.append(
            _tool(
                "correct",
                t("Fix the answer"),
                t("Fix the answer {place} of {title}", place=place + 1, title=title),
                place,
                side,
            )
        )
    mark = Markup("")
    if turn.blind and side in PAIR and not hidden:
        chosen = turn.vote in PAIR and turn.sides[PAIR.index(turn.vote)] == speaker
        mark = Markup('<span class="ab-was ab-arm-{}">{}{}</span>').format(
            speaker, label(speaker), t(" · your choice") if chosen else ""
        )
    ending = (
        Markup("<small>{}</small>").format(t(_ENDINGS[answer.ending]))
        if answer.ending in _ENDINGS
        else ""
    )
    below: Markup | str = Markup('<div class="ab-tools">{}{}</div>').format(join(tools), ending)
    corrected = shown.corrected.get((turn.question, answer.text.strip()))
    if shown.editing == (place, speaker) and not hidden:
        proposed = corrected.answer if corrected else answer.text
        below = _correction_form(side, place, turn.question, proposed, shown.note)
    elif corrected is not None and not hidden:
        below = _corrected(corrected) + below
    return Markup(
        '<div class="ab-said ab-arm-{}" data-copied>{}<div class="ab-turn ab-assistant" dir="auto" data-text>{}</div>'
        "{}{}</div>"
    ).format(
        f"side-{side}" if hidden else speaker,
        mark,
        answer.text,
        "" if hidden else sources_view(answer, shown.numbers),
        below,
    )


def _correction_form(side: str, place: int, question: str, answer: str, note: str) -> Markup:
    """The editor of a correction, in the place of the buttons below the answer."""
    return Markup(
        '<form class="ab-correct" data-turn="{}" data-side="{}"><label>{}'
        '<textarea name="answer" rows="3" dir="auto" maxlength="20000">{}</textarea></label>'
        "<label>{} <small>{}</small>"
        '<textarea name="question" rows="1" dir="auto" maxlength="20000">{}</textarea></label>{}'
        '<div><button type="submit">{}</button><button type="button" data-action="close" data-turn="{}" '
        'data-side="{}">{}</button></div></form>'
    ).format(
        place,
        side,
        t("What should the answer have been?"),
        answer,
        t("Question"),
        t("It is trained without the earlier turns, so it must be complete."),
        question,
        Markup("<p>{}</p>").format(note) if note else "",
        t("Save correction"),
        place,
        side,
        t("Cancel"),
    )


def _corrected(found: CorrectedAnswer) -> Markup:
    """The correction below an answer."""
    return Markup('<div class="ab-corrected"><b>{}</b><p dir="auto">{}</p>{}</div>').format(
        t("Your correction"),
        found.answer,
        Markup("<small>{}</small>").format(taught_note(found.taught)) if found.taught else "",
    )


def taught_note(pair: TaughtPair) -> str:
    """That a correction is in the training data already, and what helps."""
    where = (
        t("row {row}", row=pair.row)
        if pair.same_question
        else t("row {row}, for “{question}”", row=pair.row, question=pair.question)
    )
    return t(
        "This answer is in the training data already ({where}), and the assistant did not learn it. Training "
        "on it again changes little; training longer does.",
        where=where,
    )


def sources_view(answer: Answer, numbers: RowNumbers) -> Markup:
    """The facts that the assistant was given for an answer, folded; empty if it looked nothing up."""
    if not answer.sources:
        return Markup("")
    fact = Markup('<li><b dir="auto">{}</b><p dir="auto">{}</p><small>{}</small></li>')
    facts = Markup('<ol class="ab-sources">{}</ol>').format(
        join(
            fact.format(
                source["question"],
                source["answer"],
                t("Row {row} of your file", row=numbers.shown(source["row"])),
            )
            for source in answer.sources
        )
    )
    if answer.declined:
        return fold(
            t("Declined: nothing that was found seems to answer this. The nearest questions"), facts
        )
    return fold(
        tn(
            "From {count} fact of your data", "From {count} facts of your data", len(answer.sources)
        ),
        facts,
    )


def _tool(action: str, text: str, label: str, place: int, side: str) -> Markup:
    return Markup(
        '<button type="button" class="ab-tool" data-action="{}" data-turn="{}" data-side="{}" aria-label="{}">{}'
        "</button>"
    ).format(action, place, side, label, text)


def _live_reply(reply: Reply, speaker: str, turn: Turn) -> Markup:
    who = "hidden" if turn.hidden and speaker in turn.sides else speaker
    if reply.state == "failed":
        partial = Markup('<div class="ab-turn ab-assistant" dir="auto">{}</div>').format(reply.text)
        body = join(
            [
                partial if reply.text else "",
                error_callout(reply.error or {"what": t("the answer failed")}),
            ]
        )
    elif not reply.text and not reply.finished:
        status = t(_STATUS_TEXTS[reply.state])
        if reply.state == "loading" and reply.phase:
            status = f"{translate_formatted(reply.phase)}…"
        elif reply.state == "waiting" and reply.ahead:
            status = tn(
                "Waiting: {count} question before this one…",
                "Waiting: {count} questions before this one…",
                reply.ahead,
            )
        meter = bar(reply.fraction, t("Loading")) if reply.state == "loading" else Markup("")
        body = Markup('<div class="ab-turn ab-assistant ab-pending">{}{}</div>').format(
            status, meter
        )
    else:
        caret = Markup("") if reply.finished else Markup('<i class="ab-caret"></i>')
        body = Markup('<div class="ab-turn ab-assistant" dir="auto">{}{}</div>').format(
            reply.text, caret
        )
    # the tools appear at the end of the answer; the empty element reserves their space
    return Markup('<div class="ab-said ab-arm-{}">{}<div class="ab-tools"></div></div>').format(
        who, body
    )


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


def _figures(side: str, shown: PaneState, hidden: bool) -> Markup:
    turns = shown.conversation.turns
    if hidden and (not turns or turns[-1].hidden):
        return Markup('<span class="ab-speed">{}</span>').format(
            t("Speed and memory are shown after the vote.")
        )
    speaker = shown.speaker(side, turns[-1] if turns else Turn("", sides=default_sides(shown.arms)))
    answer = turns[-1].answers.get(speaker) if turns else None
    reply = shown.replies.get(speaker)
    if reply is not None and reply.tokens:
        answer = Answer(
            reply.text, reply.state, reply.tokens, reply.seconds, reply.first_token_seconds
        )
    return Markup('<span class="ab-speed">{}</span><span class="ab-memory">{}</span>').format(
        speed_line(answer) or ("\N{NO-BREAK SPACE}" if turns else t("Not asked yet")),
        memory_line(speaker, shown.stored.get(speaker), shown.memory.get(speaker), shown.arms),
    )


def speed_line(answer: Answer | None) -> str:
    """Tokens per second, time to the first token, length, and the reason of the end."""
    if answer is None or not answer.tokens:
        return ""
    speed = (
        t("{tokens:.1f} tokens/s", tokens=answer.tokens / answer.seconds)
        if answer.seconds > 0
        else ""
    )
    first = (
        ""
        if answer.first_token_seconds is None
        else t(
            "first token {first_token_seconds:.2f} s",
            first_token_seconds=answer.first_token_seconds,
        )
    )
    parts = (
        speed,
        first,
        t("{tokens} tokens", tokens=answer.tokens),
        t(_ENDINGS[answer.ending]) if answer.ending in _ENDINGS else "",
    )
    return " · ".join(part for part in parts if part)


def memory_line(
    speaker: str, stored: tuple[int, int] | None, memory: Memory | None, arms: Sequence[str] = TWINS
) -> str:
    """Stored size of base and adapter, and the memory of the base in this chat if that is larger."""
    if speaker == SHIPPED:
        return (
            t("memory: {size} with the file's pages", size=size(memory.base_bytes))
            if memory is not None
            else ""
        )
    if speaker == BASE:
        return t("memory: shares the base of {base_owner}", base_owner=label(base_owner(arms)))
    if stored is None:
        return ""
    base, adapter = stored
    text = t("memory: {base} base + {adapter} adapter", base=size(base), adapter=size(adapter))
    if memory is not None and memory.base_bytes > 1.2 * base:
        text += " " + t("(dequantized here: {size})", size=size(memory.base_bytes))
    return text


def loading_view(replies: Mapping[str, Reply], arms: Sequence[str] = TWINS) -> Markup:
    """Loading progress of the models before the first question."""
    if all(reply.state == "loaded" for reply in replies.values()):
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
        return Markup('<p class="ab-loaded ab-good" role="status">{}</p>').format(text)
    failed = next((reply for reply in replies.values() if reply.state == "failed"), None)
    if failed is not None:
        return error_callout(failed.error or {"what": t("the assistants could not be loaded")})
    fraction = sum(1.0 if reply.finished else reply.fraction for reply in replies.values()) / max(
        len(replies), 1
    )
    phases = {
        speaker: translate_formatted(reply.phase or _STATUS_TEXTS.get(reply.state, ""))
        for speaker, reply in replies.items()
        if not reply.finished
    }
    doing = [f"{title_of(speaker, arms)}: {phase}".rstrip("…") for speaker, phase in phases.items()]
    return Markup('<div class="ab-loaded" role="status"><span>{}</span>{}</div>').format(
        " ".join((t("Loading the assistants."), " · ".join(doing))),
        bar(fraction, t("Loading the assistants")),
    )


def reveal_view(turn: Turn) -> Markup:
    """The assistants behind A and B, shown after the vote."""
    chosen = {"tie": t("You found both equally good."), "both bad": t("You found both bad.")}.get(
        turn.vote or "", ""
    )
    if turn.vote in ("a", "b"):
        chosen = t("You preferred {assistant}.", assistant=label(turn.sides["ab".index(turn.vote)]))
    return Markup('<p class="ab-revealed" role="status"><b>{}</b> {}</p>').format(
        t(
            "A was {first}, B was {second}.",
            first=label(turn.sides[0]),
            second=label(turn.sides[1]),
        ),
        chosen,
    )


def example_questions(training: Iterable[Pair], validation: Iterable[Pair]) -> list[str]:
    """Questions to try, whose answers were taught: of the validation data, else of the training data; always the same.

    Held-out questions are left out, because a correction of one would take it from the test.
    """
    taught = [pair for pair in training if _is_example(pair)]
    answers = {pair.answer for pair in taught}
    offered = [
        pair for pair in validation if _is_example(pair) and pair.answer in answers
    ] or taught
    shuffled = random.Random(0).sample(offered, len(offered))
    questions: dict[str, str] = {}  # one for each answer
    for pair in shuffled:
        questions.setdefault(pair.answer, pair.question)
    return list(questions.values())[:EXAMPLES]


def _is_example(pair: Pair) -> bool:
    return pair.turns == 1 and pair.answerable and len(pair.question) <= _MAX_EXAMPLE


def examples_view(questions: Sequence[str]) -> Markup:
    """The example questions as buttons; ``data-turn`` is the number of a question."""
    button = Markup(
        '<button type="button" data-action="example" data-turn="{}" data-side="" dir="auto">{}</button>'
    )
    return Markup('<div class="ab-examples" role="group" aria-label="{}">{}</div>').format(
        t("Example questions"),
        join(button.format(place, question) for place, question in enumerate(questions)),
    )


def asked_again_view(found: Sequence[AskedAgain], progress: str = "") -> Markup:
    """The corrected questions before and after retraining; ``progress``: what is being done."""
    if not found:
        return Markup("")
    asked = [each for each in found if each.after is not None]
    right, changed = sum(each.is_right for each in asked), sum(each.is_changed for each in asked)
    figures = {"right": right, "asked": len(asked), "others": changed - right}
    head = progress or (
        t(
            "Your corrections: {right} of {asked} answered as you corrected them, {others} in another way than before",
            **figures,
        )
        if changed > right
        else t("Your corrections: {right} of {asked} answered as you corrected them", **figures)
    )
    states = [
        ("good", t("As corrected"))
        if each.is_right
        else ("warn", t("Changed"))
        if each.is_changed
        else ("", t("Not asked yet"))
        if each.after is None
        else ("bad", t("Not changed"))
        for each in found
    ]
    rows = [
        (
            each.correction.question,
            each.correction.wrong,
            each.correction.answer,
            each.after or "",
            Markup('<span class="ab-mark ab-{}">{}</span>').format(*state),
        )
        for each, state in zip(found, states, strict=True)
    ]
    return fold(
        head,
        table((t("Question"), t("Before"), t("Your correction"), t("After"), ""), rows),
        opened=True,
    )


def corrections_list(
    corrections: Sequence[Correction],
    heldout: Collection[int],
    taught: Mapping[int, TaughtPair] = MappingProxyType({}),
) -> Markup:
    """Every correction with its question, oldest first, and a button that removes it.

    ``heldout`` has the positions of those of held-out questions, ``taught`` of those that are trained already.
    """
    if not corrections:
        return empty(
            t("No corrections yet"),
            t(
                "Press “Fix the answer” below an answer to write a better one, then train a new project on "
                "them."
            ),
        )
    return Markup('<ol class="ab-corrections">{}</ol>').format(
        join(
            _entry(place, found, place in heldout, taught.get(place))
            for place, found in enumerate(corrections)
        )
    )


def _entry(place: int, found: Correction, heldout: bool, taught: TaughtPair | None) -> Markup:
    badge, mark = Markup('<span class="ab-badge ab-lost">{}</span>'), Markup("")
    if heldout:
        mark += badge.format(t("a test question"))
    if not found.answerable:
        mark += badge.format(t("to be declined"))
    if taught is not None:
        mark += badge.format(t("in the training data already, row {row}", row=taught.row))
    wrong = (
        Markup('<p class="ab-wrong" dir="auto"><s>{}</s></p>').format(found.wrong)
        if found.wrong
        else Markup("")
    )
    return Markup(
        '<li><b dir="auto">{}</b> {}{}<p dir="auto">{}</p><button type="button" class="ab-tool" data-action="remove" '
        'data-turn="{}" data-side="" aria-label="{}">{}</button></li>'
    ).format(
        found.question,
        mark,
        wrong,
        found.answer,
        place,
        t("Remove correction {number}", number=place + 1),
        t("Remove"),
    )


def retrained_note(title: str, plan: RetrainingPlan, old: str) -> str:
    """Summary of the new study's data, and a hint how to compare it with the old one; both by their titles."""
    parts = [
        tn(
            "{name} trains on {count} additional correction.",
            "{name} trains on {count} additional corrections.",
            len(plan.trained),
            name=title,
        )
    ]
    if plan.replaced:
        parts.append(
            tn(
                "Replaced: {count} answer to the same questions.",
                "Replaced: {count} answers to the same questions.",
                len(plan.replaced),
            )
        )
    if plan.left_out:
        parts.append(
            tn(
                "Not trained on: {count} correction of test questions.",
                "Not trained on: {count} corrections of test questions.",
                len(plan.left_out),
            )
        )
    if plan.taught:
        parts.append(
            tn(
                "In the training data already: {count} correction.",
                "In the training data already: {count} corrections.",
                len(plan.taught),
            )
        )
    return " ".join(
        [
            *parts,
            t(
                "After the run, its Chat tab asks each corrected question again. Compare it with {old} "
                "on the Results tab, under “For specialists”.",
                old=old,
            ),
        ]
    )
