"""Ask the trained assistants one question in this process, and their system prompt and context length."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data import Message
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import WHOLE, Sampling
from assistant_builder.inference.session import ChatSession, Session
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.study.contents import PairLine
from assistant_builder.study.limits import answer_limit, pair_limit

MIN_CONTEXT = 4096
"""Smallest default context in tokens, enough for several questions and answers. Its KV cache takes 0.5 GiB with
Llama-3.1-8B (32 layers, 8 heads of 128, keys and values in 16 bits); the full 131,072 tokens would take 16 GiB."""


def ask_arms(
    study: Study,
    question: str,
    arms: Sequence[str],
    *,
    look_up: bool = True,
    session: Session | None = None,
    history: Sequence[Message] = (),
) -> dict[str, dict[str, Any]]:
    """Answer a question greedily with each of the trained arms, with the study's system prompt, or copy an answer.

    ``session`` answers, by default one with PyTorch; ``history`` has the turns before the question.

    Returns:
        Arm → ``text``, ``tokens``, ``seconds``, ``first_token_seconds``, ``sources``, ``declined``, ``mode``, and of
        an answer that a rule judged ``confidence``, ``evidence``, and ``reason`` if it was declined.

    Raises:
        ModelError: An arm is not trained or cannot be loaded.
        ResourceError: An arm does not fit into memory.
    """
    session = session or ChatSession(study, arms)
    copies = list(arms) == [COPY]
    system = "" if copies else default_system_prompt(study)
    longest = WHOLE if copies else longest_answer(study)
    first = [Message("system", system)] if system else []
    messages = [*first, *history, Message("user", question)]
    answers: dict[str, dict[str, Any]] = {}
    for arm in arms:
        try:
            sampling = Sampling(longest, look_up=look_up)
            chunks = list(session.stream(arm, messages, sampling, threading.Event()))
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            raise ResourceError(
                m("memory ran out"),
                where=f"arm {arm}",
                remedy=m("Ask only one arm with --arm {arm}, or close other programs", arm=arm)
                if len(arms) > 1
                else m("Close other programs"),
            ) from error
        answers[arm] = {
            "text": "".join(chunk.text_delta for chunk in chunks).strip(),
            "tokens": chunks[-1].tokens,
            "seconds": round(chunks[-1].seconds, 3),
            "first_token_seconds": round(chunks[-1].first_token_seconds or 0.0, 3),
            "sources": list(chunks[-1].sources),
            "declined": chunks[-1].declined,
            "mode": "tuned",
            **chunks[-1].judged,
        }
    return answers


def default_system_prompt(study: Study) -> str:
    """The system prompt that all training pairs share; empty if there is none."""
    if study.config.data.system:
        return study.config.data.system
    path = study.split_file("train")
    records = read_jsonl(path, PairLine) if path.is_file() else []
    found = {
        turn["content"]
        for record in records
        for turn in record["messages"]
        if turn["role"] == "system"
    }
    return (
        found.pop()
        if len(found) == 1 and all(r["messages"][0]["role"] == "system" for r in records)
        else ""
    )


def context_tokens(study: Study, limit: int, requested: int | None = None) -> int:
    """Maximum tokens of a prompt and its answer together, for every serving backend.

    The default is the longest pair of the training plus the longest answer of the evaluation or of a request without a
    limit, but at least :data:`MIN_CONTEXT` and at most the context length of the base model. ``limit`` is that context
    length; ``requested`` is the value set by the user, None for the default.

    Raises:
        ConfigError: The value set by the user exceeds the context length of the base model.
    """
    if requested is not None and requested > limit:
        raise ConfigError(
            m(
                "--context {requested} exceeds the context length of the base model ({limit} tokens)",
                requested=requested,
                limit=limit,
            ),
            where="serve",
            remedy=m("Set at most {limit}, or omit --context", limit=limit),
        )
    return requested or min(limit, max(MIN_CONTEXT, pair_limit(study) + longest_answer(study)))


def assistant_context(study: Study, limit: int, requested: int | None) -> int:
    """Tokens of a prompt with its facts and of its answer; arguments as of :func:`context_tokens`."""
    facts = pair_limit(study) if study.config.grounded else 0
    return min(limit, context_tokens(study, limit, requested) + facts)


def longest_answer(study: Study) -> int:
    """Most tokens of an answer where a user sets no limit: those of the data's longest answer, but at least 256."""
    return max(answer_limit(study), Sampling().max_new_tokens)
