"""One pane of the chat: a conversation with one assistant, as text and never as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assistant_builder.chat.client import Reply
from assistant_builder.data import Message
from assistant_builder.ui.markup import arm_chip, error_callout, join

_WORDS = {
    "starting": "Starting the chat process…",
    "waiting": "Waiting for the answer before this one…",
    "loading": "Loading the model…",
    "answering": "",
}


def pane(arm: str, history: Sequence[Message], reply: Reply | None = None) -> Markup:
    """The conversation so far.

    Args:
        arm: Whose.
        history: Finished turns, and the question that is being answered.
        reply: The answer under way, or how the last one ended.
    """
    turns = [_turn(message.role, message.content) for message in history if message.role != "system"]
    if reply is not None and not (reply.finished and history and history[-1].role == "assistant"):
        turns.append(_answer(reply))
    if not turns:
        turns = [Markup('<p class="ab-hint">Ask below: both assistants get the same question.</p>')]
    # Newest first in the markup, turned round by the style sheet, so that the end stays in view while it grows.
    body = join(reversed(turns))
    return Markup(
        '<section class="ab-pane ab-arm-{}" aria-label="{}"><header>{}<span class="ab-speed">{}</span></header>'
        '<div class="ab-talk" tabindex="0" aria-live="polite">{}</div></section>'
    ).format(arm, arm, arm_chip(arm), speed_line(reply), body)


def _turn(role: str, text: str) -> Markup:
    return Markup('<div class="ab-turn ab-{}" dir="auto">{}</div>').format(role, text)


def _answer(reply: Reply) -> Markup:
    if reply.state == "failed":
        partial = _turn("assistant", reply.text) if reply.text else Markup("")
        return join([partial, error_callout(reply.error or {"what": "the answer failed"})])
    if not reply.text and not reply.finished:
        return Markup('<div class="ab-turn ab-assistant ab-pending">{}</div>').format(_WORDS[reply.state] or "…")
    caret = Markup("") if reply.finished else Markup('<i class="ab-caret"></i>')
    return Markup('<div class="ab-turn ab-assistant" dir="auto">{}{}</div>').format(reply.text, caret)


def speed_line(reply: Reply | None) -> str:
    """Tokens per second, time to the first token, length, and how it ended."""
    if reply is None or not reply.tokens:
        return ""
    parts = []
    if reply.tokens_per_second is not None:
        parts.append(f"{reply.tokens_per_second:.1f} tokens/s")
    if reply.first_token_seconds is not None:
        parts.append(f"first token {reply.first_token_seconds:.2f} s")
    parts.append(f"{reply.tokens} tokens")
    ending = {"length": "cut at the longest answer", "cancelled": "stopped"}.get(reply.state)
    return " · ".join([*parts, ending] if ending else parts)


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


def reference_note(question: str, reference: str) -> Markup:
    """The reference answer of a held-out question."""
    return Markup(
        '<div class="ab-reference" dir="auto"><b>Reference answer</b><p>{}</p><small>Held-out question: neither '
        "assistant was trained on this wording.</small></div>"
    ).format(reference) if reference else Markup("")
