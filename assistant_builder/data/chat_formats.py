"""Chat formats: ``messages`` (role, content), ShareGPT ``conversations`` (from, value), and the order of turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.data.json_reader import parse_cell, reason_of
from assistant_builder.data.types import ChatRole, Message, is_empty
from assistant_builder.i18n import N_, Text, m

_ROLES: dict[str, ChatRole] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "customer"), "user"),
    **dict.fromkeys("assistant gpt bot chatgpt model ai agent".split(), "assistant"),
}
_TOOL_ROLES = set(
    "tool function function_call function_response observation ipython tool_call".split()
)
_ROLE_KEYS = ("role", "from", "speaker", "author")
_TEXT_KEYS = ("content", "value", "text", "message")
USER_TURN_DROPPED = N_("a final user turn without an answer was dropped")


class RowError(ValueError):
    """A row cannot be used; ``reason`` is shown to the author of the row."""

    def __init__(self, reason: Text) -> None:
        self.reason = reason
        super().__init__(reason)


def is_conversation(value: Any) -> bool:
    """Whether a cell is a list of turns, each with a role."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and _first_key(turn, _ROLE_KEYS) for turn in value)


def parse_turns(value: Any) -> list[Message]:
    """Parse the turns of a cell: a list of objects, an object of lists, or either as JSON text.

    Raises:
        RowError: The cell is not a conversation, or a turn has no known role or no text.
    """
    if isinstance(value, str):
        try:
            value = parse_cell(value)
        except ValueError as error:
            reason = m("the conversation cannot be read: {error}", error=reason_of(error))
            raise RowError(reason) from error
    if isinstance(value, dict):
        value = _list_of_turns(value)
    if not isinstance(value, list | tuple):
        raise RowError(m("the conversation is not a list of turns"))
    try:
        return [_parse_turn(number, turn) for number, turn in enumerate(value, start=1)]
    except RowError:
        raise
    except ValueError as error:  # a number of more than 4,300 digits, which Python does not write
        raise RowError(m("the conversation cannot be read: {error}", error=str(error))) from error


def _list_of_turns(value: dict[str, Any]) -> Any:
    """Turns of ``{"role": […], "content": […]}``, the form of sequences in ``datasets``, or ``{"messages": […]}``."""
    lists = {key: item for key, item in value.items() if isinstance(item, list)}
    if _first_key(lists, _ROLE_KEYS) and len({len(item) for item in lists.values()}) == 1:
        return [dict(zip(lists, turn, strict=True)) for turn in zip(*lists.values(), strict=True)]
    return next(iter(lists.values())) if len(lists) == 1 else value


def _first_key(turn: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in turn), None)


def _parse_turn(number: int, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise RowError(
            m("turn {number} is a text and has no role", number=number)
            if isinstance(turn, str)
            else m("turn {number} is not an object and has no role", number=number)
        )
    role_key, text_key = _first_key(turn, _ROLE_KEYS), _first_key(turn, _TEXT_KEYS)
    if role_key is None:
        raise RowError(
            m(
                "turn {number} has no role: its keys are {names}",
                number=number,
                names=", ".join(map(str, turn)),
            )
        )
    name = str(turn[role_key]).strip().casefold()
    if (
        name in _TOOL_ROLES
        or not is_empty(turn.get("tool_calls"))
        or not is_empty(turn.get("function_call"))
    ):
        raise RowError(
            m(
                "turn {number} is a tool call or a tool result, which is not supported",
                number=number,
            )
        )
    if name not in _ROLES:
        raise RowError(
            m(
                "turn {number} has an unknown role: {turn!r}",
                number=number,
                turn=str(turn[role_key]),
            )
        )
    content = turn[text_key] if text_key else None
    if isinstance(content, list | tuple):
        content = _join_content_parts(number, content)
    if is_empty(content):
        raise RowError(m("turn {number} ({roles}) is empty", number=number, roles=_ROLES[name]))
    if isinstance(content, dict):
        raise RowError(m("turn {number} contains an object instead of text", number=number))
    return Message(_ROLES[name], str(content))


def _join_content_parts(number: int, parts: Sequence[Any]) -> str:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type", "object") if isinstance(part, dict) else type(part).__name__
            raise RowError(
                m(
                    "turn {number} contains a content part that is not text: {kind}",
                    number=number,
                    kind=kind,
                )
            )
        texts.append(text)
    return "\n".join(texts)


def order_turns(
    turns: list[Message], system: str | None, changes: list[str]
) -> tuple[Message, ...]:
    """Validate the turn order ``[system] user assistant (user assistant)*``.

    A final user turn without an answer is dropped; any other order is refused, because reordering would create a
    conversation that did not take place. ``system`` is the default system prompt; changes are appended to ``changes``.

    Raises:
        RowError: The order is invalid.
    """
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    for index, turn in enumerate(turns):
        if turn.role == "system":
            raise RowError(m("a system turn is in the middle of the conversation"))
        if turn.role != ("assistant" if index % 2 else "user"):
            raise RowError(
                m("two {role} turns follow each other", role=turn.role)
                if index
                else m("the conversation begins with the assistant")
            )
    if turns and turns[-1].role == "user":
        turns = turns[:-1]
        if turns:
            changes.append(USER_TURN_DROPPED)
    if not turns:
        raise RowError(m("the conversation has no assistant turn"))
    return (*((Message("system", system),) if system else ()), *turns)
