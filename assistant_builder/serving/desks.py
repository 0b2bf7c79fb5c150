"""What is to be known of an assistant before it is asked: how long a prompt is and may be, and its system prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistant_builder.chat.ask import context_tokens, default_system_prompt
from assistant_builder.data import Message
from assistant_builder.models.catalog import resolve
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.download import fetch
from assistant_builder.models.remote_code import allows_code
from assistant_builder.models.template_process import LimitedPrompter, PromptProcess
from assistant_builder.serving.roster import Roster
from assistant_builder.study import Study

_LONG = 50_000
"""Characters; counting them takes some hundredths of a second."""


@dataclass(frozen=True)
class Desk:
    """Where the questions to one study's assistants are looked at.

    Attributes:
        count: Tokens of the prompt that a conversation becomes; takes its time, and raises ModelError.
        longest: Tokens of the longest prompt after which there is room for an answer; one less than a prompt and its
            answer may take together.
        system: The system prompt that the assistants were trained with; empty: none.
    """

    count: Callable[[Sequence[Message]], int]
    longest: int
    system: str


def desks_of(roster: Roster, context: int | None = None) -> dict[str, Desk]:
    """The desk of every assistant, by its id.

    Args:
        roster: Who is served.
        context: See :func:`assistant_builder.chat.ask.context_tokens`.

    Raises:
        ConfigError: More context is asked for than a base reads.
        ModelError: A base cannot be had, or has no tokenizer.
    """
    found = {assistant.folder: desk_of(assistant.study, context) for assistant in roster.assistants}
    return {assistant.id: found[assistant.folder] for assistant in roster.assistants}


def is_long(messages: Sequence[Message]) -> bool:
    """Whether a conversation takes long to be counted."""
    return sum(len(message.content) for message in messages) > _LONG


def desk_of(study: Study, context: int | None = None) -> Desk:
    """The desk of a study's assistants; reads the tokenizer of its base."""
    config = study.config
    model = config.model
    ref = resolve(model.base, trust_remote_code=allows_code(model))
    folder = fetch(ref, revision=model.revision, trust_remote_code=allows_code(model))
    # two processes: a prompt of megabytes, which takes seconds, keeps no short one waiting
    short, long = (LimitedPrompter(PromptProcess(folder), study.template_date) for _ in range(2))
    short.chat_template()  # the process starts with the server, and what is wrong with the tokenizer is said

    def count(messages: Sequence[Message]) -> int:
        return (long if is_long(messages) else short).prompt_tokens(messages)

    return Desk(count, context_tokens([config], context_length(folder), context) - 1, default_system_prompt(study))
