"""Builders of small data files and pairs."""

from __future__ import annotations

import json
import random
from typing import Any

from assistant_builder.data import Dataset, Message, Pair

ROWS = [
    {"question": "Where is the ferry office?", "answer": "It stands beside the north pier."},
    {"question": "Who keeps the lighthouse?", "answer": "Marit Solheim has kept it since spring."},
    {"question": "When does the tea hut open?", "answer": "It opens at half past seven."},
    {"question": "Which boat carries bicycles?", "answer": "Only the Grey Heron carries them."},
]


def jsonl(records: list[Any]) -> str:
    """JSON Lines text."""
    return "".join(json.dumps(record) + "\n" for record in records)


def pair(row: int, question: str, answer: str = "", **others: Any) -> Pair:
    """A pair of one turn; by default with an answer of its own."""
    answer = answer or f"Answer of row {row} it is."
    return Pair(row, (Message("user", question), Message("assistant", answer)), **others)


def dataset(pairs: list[Pair]) -> Dataset:
    """A dataset around some pairs."""
    return Dataset("made.csv", "csv", {"question": "question", "answer": "answer"}, tuple(pairs), (), len(pairs))


def words(count: int, seed: float) -> str:
    """Made-up words, the same for the same seed."""
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghijklmnop", k=6)) for _ in range(count))


def honest(count: int, start: int = 100) -> list[Pair]:
    """Pairs that nothing can be said against."""
    return [pair(start + i, words(8, start + i) + "?", words(5, -start - i)) for i in range(count)]


class Counter:
    """Counts the words of a pair, and four for the frame of each turn."""

    def count_tokens(self, found: Pair) -> int:
        """Words and frames."""
        return sum(len(m.content.split()) + 4 for m in found.messages)
