"""Baselines without tuning: copying the answer of the nearest training question, and retrieved pairs in the prompt.

Both use the cosine similarity of the questions' sentence embeddings (all-MiniLM-L6-v2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.answering import Look

if TYPE_CHECKING:
    from assistant_builder.models.embedding import Embedder
    from assistant_builder.retrieval.retriever import Retriever

RETRIEVED = 3  # number of training pairs in a prompt (fewer if they do not fit)


@dataclass(frozen=True)
class Neighbour:
    """A training question near a held-out one; ``row`` is its row in the data file."""

    row: int
    question: str
    answer: str
    cosine: float

    def to_record(self) -> dict[str, Any]:
        """Row, question and cosine for a sample record."""
        return {"row": self.row, "question": self.question, "cosine": self.cosine}


def nearest(
    questions: Sequence[str], training: Sequence[Pair], embedder: Embedder
) -> list[list[Neighbour]]:
    """The nearest training questions of each question, the nearest first; ties in file order.

    Every turn of a training conversation counts as a question with its answer.
    """
    turns = [
        (pair.row, question.content, answer.content)
        for pair in training
        for question, answer in zip(pair.messages, pair.messages[1:], strict=False)
        if question.role == "user" and answer.role == "assistant"
    ]
    known = embedder.encode([question for _, question, _ in turns])
    found = []
    for vector in embedder.encode(questions):
        cosines = known @ vector
        best = np.argsort(-cosines, kind="stable")[:RETRIEVED]
        near = [(turns[index], float(cosines[index])) for index in best]
        found.append(
            [Neighbour(row, question, answer, cosine) for (row, question, answer), cosine in near]
        )
    return found


def retrieval_prompt(
    item: Mapping[str, Any],
    neighbours: Sequence[Neighbour],
    prompter: ChatTokenizer,
    max_tokens: int,
) -> tuple[str, list[Neighbour]]:
    """The item's prompt, preceded by training pairs as earlier turns, the nearest last; and the pairs in it.

    ``neighbours`` come with the nearest first; prompt and reference answer together have at most ``max_tokens``.
    """
    own = [Message(message["role"], message["content"]) for message in item["messages"]]
    head = [message for message in own if message.role == "system"]
    tail = [message for message in own if message.role != "system"]
    for count in range(len(neighbours), 0, -1):
        kept = list(neighbours[:count])
        shown = [
            message
            for near in reversed(kept)
            for message in (Message("user", near.question), Message("assistant", near.answer))
        ]
        prompt = prompter.text([*head, *shown, *tail], prompt=True)
        prompt_ids, target_ids = prompter.split_ids(prompt, item["target"])
        if len(prompt_ids) + len(target_ids) <= max_tokens:
            return prompt, kept
    return item["prompt"], []


def served_similarities(
    items: Sequence[Mapping[str, Any]], retriever: Retriever, held_out: Sequence[Pair]
) -> list[float]:
    """The score of the best answer to each question as for a visitor's, with all other questions in the index.

    Args:
        items: Held-out items with their ``evidence``; a later turn of a conversation keeps the score of that.
        retriever: The measured retriever.
        held_out: Validation and held-out pairs, which copying is served with; none if it is served as measured.
    """
    found = [float(item["evidence"]["similarity"]) for item in items]
    if not held_out or retriever.index.facts[0].is_passage:
        return found
    first = [place for place, item in enumerate(items) if item["turn"] == 0]
    asked = [Look.of([Message("user", items[place]["question"])]) for place in first]
    own = [{items[place]["row"]} for place in first]
    hits = retriever.with_wordings(held_out).find(asked, exclude=own)
    for place, hit in zip(first, hits, strict=True):
        found[place] = hit.evidence.similarity
    return found
