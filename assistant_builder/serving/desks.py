"""What is to be known of an assistant before it is asked: how long a prompt is and may be, and its system prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistant_builder.chat.asking import default_system
from assistant_builder.data import Message
from assistant_builder.models.catalog import resolve
from assistant_builder.models.fetching import fetch
from assistant_builder.models.folders import room_for_pair
from assistant_builder.models.prompts import Prompter
from assistant_builder.serving.roster import Roster
from assistant_builder.study import Study

_UNTOLD = 2048
"""Tokens that a model is taken to read where it does not say; the chat takes it so too."""


@dataclass(frozen=True)
class Desk:
    """Where the questions to one study's assistants are looked at.

    Attributes:
        count: Tokens of the prompt that a conversation becomes.
        longest: Tokens of the longest prompt after which there is room for an answer.
        system: The system prompt that the assistants were trained with; empty: none.
    """

    count: Callable[[Sequence[Message]], int]
    longest: int
    system: str


def desks_of(roster: Roster) -> dict[str, Desk]:
    """The desk of every assistant, by its id.

    Raises:
        ModelError: A base cannot be had, or has no tokenizer.
    """
    found = {assistant.folder: desk_of(assistant.study) for assistant in roster.assistants}
    return {assistant.id: found[assistant.folder] for assistant in roster.assistants}


def desk_of(study: Study) -> Desk:
    """The desk of a study's assistants; reads the tokenizer of its base."""
    model = study.config.model
    ref = resolve(model.base, trust_remote_code=model.trust_remote_code)
    folder = fetch(ref, revision=model.revision, trust_remote_code=model.trust_remote_code)
    prompter = Prompter.load(folder)

    def count(messages: Sequence[Message]) -> int:
        return len(prompter.prompt_ids(messages))

    return Desk(count, room_for_pair(folder, 1) or _UNTOLD - 1, default_system(study))
