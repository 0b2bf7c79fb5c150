"""One question to the trained assistants, in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from assistant_builder.chat.session import ChatSession, Sampling
from assistant_builder.config import Arm
from assistant_builder.data import Message
from assistant_builder.files import read_jsonl
from assistant_builder.study import Study


def ask_arms(study: Study, question: str, arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Answer a question greedily with each arm, with the study's system prompt.

    Args:
        study: A study whose arms are trained.
        question: What the user asks.
        arms: Which assistants answer.

    Returns:
        Arm → ``text``, ``tokens``, ``seconds``, ``first_token_seconds``.

    Raises:
        ModelError: An arm is not trained or cannot be loaded.
    """
    session = ChatSession(study, arms)
    messages = [Message("user", question)]
    system = default_system(study)
    if system:
        messages.insert(0, Message("system", system))
    answers: dict[str, dict[str, Any]] = {}
    for arm in arms:
        chunks = list(session.stream(arm, messages, Sampling(), threading.Event()))
        answers[arm] = {
            "text": "".join(chunk.text_delta for chunk in chunks).strip(),
            "tokens": chunks[-1].tokens,
            "seconds": round(chunks[-1].seconds, 3),
            "first_token_seconds": round(chunks[-1].first_token_seconds or 0.0, 3),
        }
    return answers


def default_system(study: Study) -> str:
    """The system prompt that the assistants were trained with, as far as it is one and the same; else empty."""
    if study.config.data.system:
        return study.config.data.system
    records = read_jsonl(study.split_file("train"))
    found = {turn["content"] for record in records for turn in record["messages"] if turn["role"] == "system"}
    return found.pop() if len(found) == 1 and all(r["messages"][0]["role"] == "system" for r in records) else ""
