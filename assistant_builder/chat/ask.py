"""One question to the trained assistants, in this process, and what is to be known of them before."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from assistant_builder.atomic_io import read_jsonl
from assistant_builder.config import Arm, StudyConfig
from assistant_builder.data import Message
from assistant_builder.error_translation import ran_out_of_memory
from assistant_builder.errors import ConfigError, ResourceError
from assistant_builder.inference.session import ChatSession, Sampling
from assistant_builder.study import Study

MIN_CONTEXT = 4096
"""Tokens of a prompt and its answer that are served where the studies' own pairs are shorter: several questions and
answers. The KV cache of one such conversation takes 0.5 GiB with Llama-3.1-8B (32 layers, 8 heads of 128, keys and
values in 16 bits), and 16 GiB at all the 131,072 tokens that the model reads."""


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
        ResourceError: Memory does not suffice for an arm.
    """
    session = ChatSession(study, arms)
    messages = [Message("user", question)]
    system = default_system_prompt(study)
    if system:
        messages.insert(0, Message("system", system))
    answers: dict[str, dict[str, Any]] = {}
    for arm in arms:
        try:
            chunks = list(session.stream(arm, messages, Sampling(), threading.Event()))
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            alone = f"Ask one arm alone, with --arm {arm}, or close" if len(arms) > 1 else "Close"
            raise ResourceError("memory ran out", where=f"arm {arm}", remedy=f"{alone} other programs") from error
        answers[arm] = {
            "text": "".join(chunk.text_delta for chunk in chunks).strip(),
            "tokens": chunks[-1].tokens,
            "seconds": round(chunks[-1].seconds, 3),
            "first_token_seconds": round(chunks[-1].first_token_seconds or 0.0, 3),
        }
    return answers


def default_system_prompt(study: Study) -> str:
    """The system prompt that the assistants were trained with, as far as it is one and the same; else empty."""
    if study.config.data.system:
        return study.config.data.system
    records = read_jsonl(study.split_file("train"))
    found = {turn["content"] for record in records for turn in record["messages"] if turn["role"] == "system"}
    return found.pop() if len(found) == 1 and all(r["messages"][0]["role"] == "system" for r in records) else ""


def context_tokens(configs: Iterable[StudyConfig], limit: int, wanted: int | None = None) -> int:
    """Tokens that a prompt and its answer may take together, whatever serves them.

    By default these are what the studies' own pairs take: ``train.max_length`` and the longest answer that is scored
    or given to a request that names no limit. They are at least those of a conversation, and at most what the model
    reads.

    Args:
        configs: Settings of the studies that are served over one base.
        limit: Tokens that the base model reads.
        wanted: What the user asks for; None: the default.

    Raises:
        ConfigError: More than the model reads is asked for.
    """
    if wanted is not None and wanted > limit:
        raise ConfigError(f"--context {wanted} is more than the {limit} tokens that the base model reads",
                          where="serve", remedy=f"Give {limit} or less, or leave it out")
    pairs = [config.train.max_length + max(config.eval.max_new_tokens, Sampling().max_new_tokens) for config in configs]
    return wanted or min(limit, max(MIN_CONTEXT, *pairs))
