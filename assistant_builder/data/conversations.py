"""Chat formats: ``messages`` (role, content), ShareGPT ``conversations`` (from, value), and their order of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.data.objects import parse_cell
from assistant_builder.data.records import Message, RoleOfTurn
from assistant_builder.data.table import is_empty

_ROLES: dict[str, RoleOfTurn] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
    "ai": "assistant", "agent": "assistant",
}  # fmt: skip
_TOOLS = {"tool", "function", "function_call", "function_response", "observation", "ipython", "tool_call"}
_ROLE_KEYS = ("role", "from", "speaker", "author")
_TEXT_KEYS = ("content", "value", "text", "message")
DROPPED_USER_TURN = "a last user turn without an answer was dropped"


class RowError(ValueError):
    """A row cannot be used; the message is the reason shown to its author."""


def is_conversation(value: Any) -> bool:
    """Whether a cell holds a list of turns, each with a role."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and _key(turn, _ROLE_KEYS) for turn in value)


def read_turns(value: Any) -> list[Message]:
    """The turns of one cell: a list of objects, an object of lists, or either as JSON text.

    Raises:
        RowError: It is no conversation, or a turn has no known role or no text.
    """
    if isinstance(value, str):
        try:
            value = parse_cell(value)
        except ValueError as error:
            raise RowError(f"the conversation cannot be read: {error}") from error
    if isinstance(value, dict):
        value = _transposed(value)
    if not isinstance(value, list | tuple):
        raise RowError("the conversation is no list of turns")
    return [_turn(number, turn) for number, turn in enumerate(value, start=1)]


def _transposed(value: dict[str, Any]) -> Any:
    """``{"role": […], "content": […]}``, as ``datasets`` stores a sequence of objects, or ``{"messages": […]}``."""
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if _key(lists, _ROLE_KEYS) and len({len(item) for item in lists.values()}) == 1:
        return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]
    if len(lists) == 1:
        return next(iter(lists.values()))
    return value


def _key(turn: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in turn), None)


def _turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise RowError(f"turn {number} is {'a bare text' if isinstance(turn, str) else 'no object'}, without a role")
    role_key, text_key = _key(turn, _ROLE_KEYS), _key(turn, _TEXT_KEYS)
    if role_key is None:
        raise RowError(f"turn {number} has no role (its keys: {', '.join(map(str, turn))})")
    name = str(turn[role_key]).strip().casefold()
    if name in _TOOLS or not is_empty(turn.get("tool_calls")) or not is_empty(turn.get("function_call")):
        raise RowError(f"turn {number} calls or answers a tool, which is not supported")
    if name not in _ROLES:
        raise RowError(f"turn {number} has the unknown role {str(turn[role_key])!r}")
    content = turn[text_key] if text_key else None
    if isinstance(content, list | tuple):
        content = _parts(number, content)
    if is_empty(content):
        raise RowError(f"turn {number} ({_ROLES[name]}) is empty")
    if isinstance(content, dict):
        raise RowError(f"turn {number} holds an object instead of text")
    return Message(_ROLES[name], str(content))


def _parts(number: int, parts: Sequence[Any]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type", "object") if isinstance(part, dict) else type(part).__name__
            raise RowError(f"turn {number} holds a part that is no text ({kind})")
    return "\n".join(texts)


def ordered(turns: list[Message], system: str | None, changes: list[str]) -> tuple[Message, ...]:
    """The turns as ``[system] user assistant (user assistant)*``.

    A last user turn that nobody answered is dropped, since the turns before it are whole. Anything else out of order
    is refused: mending it would put words together that nobody said.

    Args:
        turns: As the file gives them.
        system: System prompt for a conversation that brings none.
        changes: What was changed is appended here.

    Raises:
        RowError: The order is another.
    """
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    for place, turn in enumerate(turns):
        wanted = "assistant" if place % 2 else "user"
        if turn.role == "system":
            raise RowError("a system turn stands in the middle of the conversation")
        if turn.role != wanted and place == 0:
            raise RowError("the conversation begins with the assistant")
        if turn.role != wanted:
            raise RowError(f"two turns of the {turn.role} follow each other")
    if turns and turns[-1].role == "user":
        turns = turns[:-1]
        if turns:
            changes.append(DROPPED_USER_TURN)
    if not turns:
        raise RowError("the conversation has no answer of the assistant")
    head = (Message("system", system),) if system else ()
    return (*head, *turns)
