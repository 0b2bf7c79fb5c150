"""The questions of a comparison: an item for each answer of the file, in file order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant_builder.data import Message, Pair, load_pairs
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

LEAST = 2  # questions; an interval needs at least two


def read_questions(path: Path, system: str | None = None) -> tuple[list[Pair], int]:
    """The usable pairs of a file of questions and reference answers, and the number of rejected rows.

    Args:
        path: A file of any format that a study can start from.
        system: System prompt for rows without one.

    Raises:
        DataError: The file cannot be read, has no answers, or has fewer than two usable questions.
    """
    dataset = load_pairs(path, system=system)
    pairs = list(dataset.pairs)
    if len(pairs) < LEAST:
        first = next(iter(dataset.rejected), None)
        raise DataError(
            m(
                "the file has {count} usable questions, and a comparison needs at least two",
                count=len(pairs),
            )
            if first is None
            else m(
                "the file has {count} usable questions, and a comparison needs at least two; row {row}: {reason}",
                count=len(pairs),
                row=first.row,
                reason=first.reason,
            ),
            where=str(path),
            remedy=m("Give each question its reference answer; 'data check' lists every row"),
        )
    return pairs, len(dataset.rejected)


def build_items(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The items, one for each assistant turn.

    Returns:
        ``item`` (its name), ``row``, ``turn``, ``cluster``, ``answerable``, ``question``, ``messages`` (the
        conversation up to the question) and ``reference``.
    """
    several = any(pair.turns > 1 for pair in pairs)
    items = []
    for pair in pairs:
        ends = [end for end, message in enumerate(pair.messages) if message.role == "assistant"]
        for turn, end in enumerate(ends):
            items.append(
                {
                    "item": f"{pair.row}.{turn + 1}" if pair.turns > 1 else str(pair.row),
                    "row": pair.row,
                    "turn": turn,
                    # the turns of a conversation are one unit
                    "cluster": pair.cluster or (str(pair.row) if several else None),
                    "answerable": pair.answerable,
                    "question": pair.messages[end - 1].content,
                    "messages": [message.to_record() for message in pair.messages[:end]],
                    "reference": pair.messages[end].content,
                }
            )
    return items


def messages_of(item: dict[str, Any]) -> list[Message]:
    """The conversation of an item."""
    return [Message(turn["role"], turn["content"]) for turn in item["messages"]]
