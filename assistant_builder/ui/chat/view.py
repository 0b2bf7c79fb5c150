"""The panes of the chat: one conversation seen from each side, as text and never as markup.

The list of corrected answers, and what becomes of them in a new study.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from assistant_builder.arms import ARMS, TWINS, base_owner, further_arms, label
from assistant_builder.chat.client import Reply
from assistant_builder.chat.conversation import Answer, Conversation, Turn, default_sides, title_of
from assistant_builder.chat.feedback import Correction, RetrainingPlan
from assistant_builder.chat.worker import IDLE_SECONDS
from assistant_builder.inference.session import BASE, Memory
from assistant_builder.ui.html import assistants, bar, empty, error_callout, fold, join
from evals.report.format import plural, size

PAIR = ("a", "b")
"""The sides of the twins, which change places in blind mode."""
_WORDS = {
    "starting": "Starting the chat process…",
    "waiting": "Waiting until the model is free…",
    "loading": "Loading the model…",
    "answering": "Reading the question…",
}
_ENDINGS = {"length": "cut at the longest answer", "cancelled": "stopped"}


@dataclass(frozen=True)
class Shown:
    """What the panes show.

    Attributes:
        conversation: The turns.
        blind: Whether blind mode is on.
        replies: Answers to the last turn that are under way or ended badly.
        stored: Speaker → bytes of base and adapter as stored.
        held: Speaker → what it occupies in memory now, where that is known.
        arms: The arms of the study; one twin alone is on side a.
    """

    conversation: Conversation
    blind: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict)
    stored: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    held: Mapping[str, Memory] = field(default_factory=dict)
    arms: Sequence[str] = TWINS


def sides() -> tuple[str, ...]:
    """The panes: those of the twins, one for each further arm, and that of the base model."""
    return (*PAIR, *further_arms(ARMS), BASE)


def speaker_at(side: str, turn: Turn) -> str:
    """The speaker whose answers a pane shows in a turn."""
    return turn.sides[PAIR.index(side)] if side in PAIR else side


def pane(side: str, shown: Shown) -> Markup:
    """One side of the conversation.

    In blind mode nothing on it tells who it is before the vote: no name, no colour, no figure, and no difference in
    pace (:func:`even`).
    """
    turns = shown.conversation.turns
    hidden = side in PAIR and (shown.blind or (bool(turns) and turns[-1].hidden))
    who = f"side-{side}" if hidden else speaker_at(side, _next_turn(shown))
    title = _title(who, shown.arms)
    replies = equalize_pace(shown.replies) if turns and turns[-1].hidden else shown.replies
    going = any(not reply.finished for reply in replies.values())  # read aloud when it has ended, not with every token
    said: list[Markup] = []
    for place, turn in enumerate(turns):
        live = replies.get(speaker_at(side, turn)) if place == len(turns) - 1 else None
        said += _turn(side, place, turn, live, title)
    if not said:
        hint = "Ask below: nobody tells you who answers here until you have voted." if hidden else (
            "Ask below: all get the same question." if side == BASE or len(shown.arms) > 2 else
            "Ask below: both assistants get the same question." if len(shown.arms) > 1 else
            "Ask below: the assistant answers here.")
        said = [Markup('<p class="ab-hint">{}</p>').format(hint)]
    # Newest first in the markup, turned round by the style sheet, so that the end stays in view while it grows.
    return Markup(
        '<section class="ab-pane ab-arm-{}" id="ab-pane-{}" aria-label="{}"><header><span class="ab-chip">{}</span>'
        '</header><div class="ab-talk" tabindex="0" role="log" aria-busy="{}" aria-label="{}">{}</div>'
        '<div class="ab-figures">{}</div></section>'
    ).format(who, who, title, title, "true" if going else "false", f"Conversation with {title}",
             join(reversed(said)), _figures(side, shown, hidden))


def _next_turn(shown: Shown) -> Turn:
    """A turn that nobody has asked yet, for who stands where."""
    return Turn("", sides=default_sides(shown.arms))


def _title(who: str, arms: Sequence[str]) -> str:
    return {"side-a": "Assistant A", "side-b": "Assistant B"}.get(who) or title_of(who, arms)


def _turn(side: str, place: int, turn: Turn, live: Reply | None, title: str) -> list[Markup]:
    speaker = speaker_at(side, turn)
    question = Markup(
        '<div class="ab-turn ab-user" dir="auto">{}</div><div class="ab-tools ab-of-user">{}</div>'
    ).format(turn.question, _tool("edit", "Edit", f"Edit question {place + 1}", place, side))
    answer = turn.answers.get(speaker)
    if live is not None and not (answer is not None and live.finished and live.state != "failed"):
        return [_block(question), _live(live, speaker, turn)]
    if answer is None:
        if side not in PAIR and turn.answers:
            who = "The base model" if side == BASE else "This assistant"
            return [_block(question), _note(f"{who} was not asked this.")]
        return [_block(question), _note("This was not answered: the page was left, or the process ended. "
                                        "“Ask again” asks it anew.")]
    return [_block(question), _answer(side, place, turn, speaker, answer, title)]


def _block(content: Markup) -> Markup:
    return Markup('<div class="ab-asked">{}</div>').format(content)


def _note(text: str) -> Markup:
    return Markup('<p class="ab-turn ab-assistant ab-quiet">{}</p>').format(text)


def _answer(side: str, place: int, turn: Turn, speaker: str, answer: Answer, title: str) -> Markup:
    tools = [_tool("copy", "Copy", f"Copy answer {place + 1} of {title}", place, side)]
    if not turn.hidden:
        tools.append(_tool("correct", "Correct", f"Correct answer {place + 1} of {title}", place, side))
    mark = Markup("")
    if turn.blind and side in PAIR and not turn.hidden:
        won = turn.vote == side
        mark = Markup('<span class="ab-was ab-arm-{}">{}{}</span>').format(
            speaker, label(speaker), " · your choice" if won else "")
    ending = Markup("<small>{}</small>").format(_ENDINGS[answer.ending]) if answer.ending in _ENDINGS else ""
    return Markup(
        '<div class="ab-said ab-arm-{}">{}<div class="ab-turn ab-assistant" dir="auto" data-text>{}</div>'
        '<div class="ab-tools">{}{}</div></div>'
    ).format(f"side-{side}" if turn.hidden and side in PAIR else speaker, mark, answer.text, join(tools), ending)


def _tool(action: str, text: str, label: str, place: int, side: str) -> Markup:
    return Markup(
        '<button type="button" class="ab-tool" data-action="{}" data-turn="{}" data-side="{}" aria-label="{}">{}'
        "</button>"
    ).format(action, place, side, label, text)


def _live(reply: Reply, speaker: str, turn: Turn) -> Markup:
    who = "hidden" if turn.hidden and speaker in turn.sides else speaker
    if reply.state == "failed":
        partial = Markup('<div class="ab-turn ab-assistant" dir="auto">{}</div>').format(reply.text)
        body = join([partial if reply.text else "", error_callout(reply.error or {"what": "the answer failed"})])
    elif not reply.text and not reply.finished:
        meter = bar(reply.fraction, "Loading") if reply.state == "loading" else Markup("")
        body = Markup('<div class="ab-turn ab-assistant ab-pending">{}{}</div>').format(
            _doing(reply), meter)
    else:
        caret = Markup("") if reply.finished else Markup('<i class="ab-caret"></i>')
        body = Markup('<div class="ab-turn ab-assistant" dir="auto">{}{}</div>').format(reply.text, caret)
    # the tools come with the end of the answer; their place is kept, so that nothing moves then
    return Markup('<div class="ab-said ab-arm-{}">{}<div class="ab-tools"></div></div>').format(who, body)


def _doing(reply: Reply) -> str:
    """What a reply waits for before its first word."""
    if reply.state == "loading" and reply.phase:
        return f"{reply.phase}…"
    if reply.state == "waiting" and reply.ahead:
        return f"Waiting: {plural(reply.ahead, 'question')} before this one…"
    return _WORDS[reply.state]


def equalize_pace(replies: Mapping[str, Reply]) -> dict[str, Reply]:
    """Both assistants' answers at one pace, so that neither its speed nor its loading tells an arm.

    Shown of both is as much text as the slower one has; an answer that has ended holds up no other, and how it ended is
    told when both have. The base model, which has a pane of its own with its name on it, is left alone.
    """
    arms = {speaker: reply for speaker, reply in replies.items() if speaker != BASE}
    going = [reply for reply in arms.values() if not reply.finished]
    if not going:
        return dict(replies)
    shortest = min(len(reply.text) for reply in going)
    if shortest == 0:
        slowest = min(going, key=lambda reply: (list(_WORDS).index(reply.state), reply.fraction))
        common = Reply(slowest.state, phase="Loading the assistants" if slowest.phase else "",
                       fraction=slowest.fraction, ahead=max(reply.ahead for reply in going))
        return {**replies, **dict.fromkeys(arms, common)}
    paced = {
        speaker: replace(reply, text=reply.text[:shortest], state="answering", error=None)
        for speaker, reply in arms.items()
    }
    return {**replies, **paced}


def _figures(side: str, shown: Shown, hidden: bool) -> Markup:
    turns = shown.conversation.turns
    if hidden and (not turns or turns[-1].hidden):
        return Markup('<span class="ab-speed">Speed and memory are shown after the vote.</span>')
    speaker = speaker_at(side, turns[-1] if turns else _next_turn(shown))
    answer = turns[-1].answers.get(speaker) if turns else None
    reply = shown.replies.get(speaker)
    if reply is not None and reply.tokens:
        answer = Answer(reply.text, reply.state, reply.tokens, reply.seconds, reply.first_token_seconds)
    return Markup('<span class="ab-speed">{}</span><span class="ab-memory">{}</span>').format(
        speed_line(answer) or "Not asked yet" if not turns else speed_line(answer) or "\N{NO-BREAK SPACE}",
        memory_line(speaker, shown.stored.get(speaker), shown.held.get(speaker), shown.arms),
    )


def speed_line(answer: Answer | None) -> str:
    """Tokens per second, time to the first token, length, and how it ended."""
    if answer is None or not answer.tokens:
        return ""
    parts = []
    if answer.seconds > 0:
        parts.append(f"{answer.tokens / answer.seconds:.1f} tokens/s")
    if answer.first_token_seconds is not None:
        parts.append(f"first token {answer.first_token_seconds:.2f} s")
    parts.append(f"{answer.tokens} tokens")
    return " · ".join([*parts, *([_ENDINGS[answer.ending]] if answer.ending in _ENDINGS else [])])


def memory_line(
    speaker: str, stored: tuple[int, int] | None, held: Memory | None, arms: Sequence[str] = TWINS
) -> str:
    """What the base and the adapter occupy as stored, and, where that is more, in this chat's memory."""
    if speaker == BASE:
        return f"memory: the base of {label(base_owner(arms))}, none of its own"
    if stored is None:
        return ""
    base, adapter = stored
    text = f"memory: {size(base)} base + {size(adapter)} adapter"
    if held is not None and held.base_bytes > 1.2 * base:
        text += f" (unpacked here: {size(held.base_bytes)})"
    return text


def readiness(replies: Mapping[str, Reply], arms: Sequence[str] = TWINS) -> Markup:
    """How far the models are that load before anything is asked."""
    if all(reply.state == "loaded" for reply in replies.values()):
        who = ("The assistant is loaded. It leaves" if len(arms) == 1 else
               f"{assistants(len(arms)).capitalize()} are loaded. They leave")
        return Markup('<p class="ab-loaded ab-good" role="status">{} the memory {} '
                      "minutes after the last question.</p>").format(who, round(IDLE_SECONDS / 60))
    failed = next((reply for reply in replies.values() if reply.state == "failed"), None)
    if failed is not None:
        return error_callout(failed.error or {"what": "the assistants could not be loaded"})
    fraction = sum(1.0 if reply.finished else reply.fraction for reply in replies.values()) / max(len(replies), 1)
    doing = [f"{title_of(speaker, arms)}: {reply.phase or _WORDS.get(reply.state, '')}".rstrip("…")
             for speaker, reply in replies.items() if not reply.finished]
    return Markup('<div class="ab-loaded" role="status"><span>{}</span>{}</div>').format(
        "Loading the assistants. " + " · ".join(doing), bar(fraction, "Loading the assistants"))


def revealed(turn: Turn) -> Markup:
    """Who was who, said after the vote."""
    chosen = {"tie": "You found both as good.", "both bad": "You found both bad."}.get(turn.vote or "", "")
    if turn.vote in ("a", "b"):
        chosen = f"You preferred {label(turn.sides['ab'.index(turn.vote)])}."
    return Markup('<p class="ab-revealed" role="status"><b>A was {}, B was {}.</b> {}</p>').format(
        label(turn.sides[0]), label(turn.sides[1]), chosen)


def suggestions(samples: Sequence[Mapping[str, Any]], most: int = 40) -> list[tuple[str, str]]:
    """Held-out questions worth asking: (question, reference), one a cluster, those the arms disagree on not preferred.

    Args:
        samples: Lines of a cell's samples.jsonl.
        most: How many.
    """
    seen: set[str] = set()
    chosen: list[tuple[str, str]] = []
    for sample in samples:
        cluster = str(sample.get("cluster") or sample["item"])
        if cluster in seen or sample.get("turn"):
            continue
        seen.add(cluster)
        chosen.append((sample["question"], sample["reference"]))
        if len(chosen) == most:
            break
    return chosen


def reference_note(reference: str) -> Markup:
    """The reference answer of a held-out question, behind a click."""
    if not reference:
        return Markup("")
    return fold("Show the reference answer", Markup(
        '<div class="ab-reference"><p dir="auto">{}</p><small>Held-out question: no assistant was trained on this '
        "wording.</small></div>"
    ).format(reference))


def corrections_list(corrections: Sequence[Correction], heldout: Collection[int]) -> Markup:
    """Every correction with its question, and a button that removes it.

    Args:
        corrections: Oldest first.
        heldout: Places of those whose question stands in the held-out set.
    """
    if not corrections:
        return empty("No corrections yet", "“Correct” under an answer opens it here: write what should have been said, "
                     "and train a new study on it.")
    return Markup('<ol class="ab-corrections">{}</ol>').format(
        join(_entry(place, found, place in heldout) for place, found in enumerate(corrections)))


def _entry(place: int, found: Correction, heldout: bool) -> Markup:
    mark = Markup('<span class="ab-badge ab-lost">stands in the held-out set</span>') if heldout else Markup("")
    wrong = Markup('<p class="ab-wrong" dir="auto"><s>{}</s></p>').format(found.wrong) if found.wrong else Markup("")
    return Markup(
        '<li><b dir="auto">{}</b> {}{}<p dir="auto">{}</p><button type="button" class="ab-tool" data-action="remove" '
        'data-turn="{}" data-side="" aria-label="Remove correction {}">Remove</button></li>'
    ).format(found.question, mark, wrong, found.answer, place, place + 1)


def retrained_note(name: str, plan: RetrainingPlan, old: str) -> str:
    """What the new study is made of, and how the two are compared."""
    parts = [f"{name} trains on {plural(len(plan.trained), 'correction')} more."]
    if plan.replaced:
        parts.append(f"{plural(len(plan.replaced), 'answer')} to the same questions replaced.")
    if plan.dropped:
        parts.append(f"{plural(len(plan.dropped), 'held-out question')} taken out of the test, since a correction "
                     "gives them away; the others are those of the old study.")
    if plan.left_out:
        parts.append(f"{plural(len(plan.left_out), 'correction')} left out of training, since the test asks the same.")
    return " ".join([*parts, f"When it is done, compare it with {old} on the Evaluate tab, or with "
                             f"'assistant-builder compare {old} {name}'."])
