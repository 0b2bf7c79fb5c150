"""What no tuning gives: the answer of the nearest training question, and the base with retrieved pairs in its prompt.

Both find their pairs by the cosine of the questions' sentence embeddings (all-MiniLM-L6-v2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer

if TYPE_CHECKING:
    from assistant_builder.models.embedding import Embedder

RETRIEVED = 3
"""Training pairs put before a question (fewer where they do not fit)."""


@dataclass(frozen=True)
class Neighbour:
    """A training question near a held-out one.

    Attributes:
        row: Its row in the data file.
        question: The question.
        answer: Its answer.
        cosine: How near, at most 1.
    """

    row: int
    question: str
    answer: str
    cosine: float

    def to_record(self) -> dict[str, Any]:
        """Row, question and cosine, as a sample lists them."""
        return {"row": self.row, "question": self.question, "cosine": self.cosine}


def nearest(questions: Sequence[str], training: Sequence[Pair], embedder: Embedder) -> list[list[Neighbour]]:
    """The nearest training questions of each question, the nearest first; equal ones in file order.

    Args:
        questions: Held-out questions.
        training: Training pairs; every turn of a conversation counts as a question with its answer.
        embedder: Embeds both.
    """
    turns = [
        (pair.row, asked.content, told.content)
        for pair in training for asked, told in zip(pair.messages, pair.messages[1:], strict=False)
        if asked.role == "user" and told.role == "assistant"
    ]
    known = embedder.encode([question for _, question, _ in turns])
    found = []
    for vector in embedder.encode(questions):
        cosines = known @ vector
        best = np.argsort(-cosines, kind="stable")[:RETRIEVED]
        near = [(turns[index], float(cosines[index])) for index in best]
        found.append([Neighbour(row, question, answer, cosine) for (row, question, answer), cosine in near])
    return found


def retrieval_prompt(
    item: Mapping[str, Any], neighbours: Sequence[Neighbour], prompter: ChatTokenizer, room: int
) -> tuple[str, list[Neighbour]]:
    """The item's prompt with training pairs before it as earlier turns, the nearest last.

    Args:
        item: As :func:`evals.tasks.held_out.build_items` made it.
        neighbours: The nearest first.
        prompter: Tokenizer and template of the base.
        room: Most tokens of prompt and reference answer together.

    Returns:
        The prompt, and the neighbours that are in it.
    """
    own = [Message(message["role"], message["content"]) for message in item["messages"]]
    head = [message for message in own if message.role == "system"]
    tail = [message for message in own if message.role != "system"]
    for count in range(len(neighbours), 0, -1):
        kept = list(neighbours[:count])
        shown = [
            message for near in reversed(kept)
            for message in (Message("user", near.question), Message("assistant", near.answer))
        ]
        prompt = prompter.text([*head, *shown, *tail], prompt=True)
        prompt_ids, target_ids = prompter.split_ids(prompt, item["target"])
        if len(prompt_ids) + len(target_ids) <= room:
            return prompt, kept
    return item["prompt"], []
