"""Parsing a row of a data file into a pair, and the reasons for which a row is rejected.

Those of conversations are in :mod:`assistant_builder.data.chat_formats`; pairs that parse and are left out all the
same are found by :mod:`assistant_builder.data.validate`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from assistant_builder.data.chat_formats import RowError, is_conversation, order_turns, parse_turns
from assistant_builder.data.columns import ColumnMapping, parse_bool, parse_split
from assistant_builder.data.types import (
    Message,
    Pair,
    RawRow,
    SplitName,
    has_visible_text,
    is_empty,
)
from assistant_builder.i18n import N_, Text, m

_Value = TypeVar("_Value")
# not tab, line feed, next line
_CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
# U+0080…U+009F in text are Windows-1252 bytes that were decoded as Latin-1; HTML parsers convert them the same way.
_C1_TO_WINDOWS_1252 = {
    code: bytes([code]).decode("windows-1252")
    for code in range(0x80, 0xA0)
    if code not in (0x81, 0x85, 0x8D, 0x8F, 0x90, 0x9D)
}
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS_REMOVED = N_("control characters were removed")
_CHARACTERS_RESTORED = N_(
    "control codes were replaced by the Windows-1252 characters that they stand for"
)


def parse_pair(raw: RawRow, mapping: ColumnMapping, system: str | None, changes: list[str]) -> Pair:
    """The pair of a row; what was changed in its texts is appended to ``changes``.

    Raises:
        RowError: The row is rejected; its reason.
    """
    if raw.cells is None:
        raise RowError(raw.problem)
    if all(is_empty(value) for value in raw.cells.values()):
        raise RowError(m("the row is empty"))
    cells = {role: raw.cells.get(name) if name else None for role, name in mapping.columns.items()}
    row_system = _optional_text(cells, "system", changes)
    messages = _parse_messages(cells, row_system or system or None, mapping, changes)
    group, cluster, family = (
        _optional_text(cells, role, changes) for role in ("group", "cluster", "family")
    )
    splits, booleans = m("not train, validation or heldout (or test)"), m("neither true nor false")
    split: SplitName | None = _optional_value(cells, "split", parse_split, splits)
    answerable = _optional_value(cells, "answerable", parse_bool, booleans) is not False
    return Pair(raw.row, messages, group, cluster, split, answerable, family)


def _parse_messages(
    cells: Mapping[str, Any], system: str | None, mapping: ColumnMapping, changes: list[str]
) -> tuple[Message, ...]:
    if mapping["messages"]:
        if is_empty(cells["messages"]):
            raise RowError(m("the conversation is empty"))
        turns = parse_turns(cells["messages"])
    elif is_conversation(cells["question"]) and is_conversation(cells["answer"]):
        # TRL's conversational format
        turns = parse_turns(cells["question"]) + parse_turns(cells["answer"])
    else:
        empty = [role for role in ("question", "answer") if is_empty(cells[role])]
        if empty:
            raise RowError(
                m("the question and the answer are empty")
                if len(empty) > 1
                else m("the {part} is empty", part=m(empty[0]))
            )
        question, answer = (_cell_text(role, cells[role]) for role in ("question", "answer"))
        if not is_empty(cells["context"]):
            question = f"{question.rstrip()}\n\n{_cell_text('context', cells['context']).strip()}"
        turns = [Message("user", question), Message("assistant", answer)]
    cleaned = [Message(turn.role, _clean(turn.content, changes)) for turn in turns]
    if blank := next((turn for turn in cleaned if not has_visible_text(turn.content)), None):
        raise RowError(
            m("the answer contains no visible character")
            if blank.role == "assistant"
            else m("the question contains no visible character")
        )
    return order_turns(cleaned, system, changes)


def _cell_text(role: str, value: Any) -> str:
    """The text of a cell; a list with a single item is read as that item."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple | dict):
        kind = (
            m("an object") if isinstance(value, dict) else m("a list of {value}", value=len(value))
        )
        raise RowError(m("the {role} is {kind}, not a text", role=m(role), kind=kind))
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _clean(text: str, changes: list[str]) -> str:
    if surrogate := _SURROGATES.search(text):
        code = ord(surrogate.group())
        if 0xDC80 <= code <= 0xDCFF:
            raise RowError(
                m("it contains a byte that is not valid UTF-8: 0x{code:02X}", code=code - 56320)
            )
        raise RowError(
            m("it contains half a character: the lone surrogate U+{code:04X}", code=code)
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    restored = text.translate(_C1_TO_WINDOWS_1252)
    cleaned = _CONTROLS.sub("", restored)
    if restored != text:
        changes.append(_CHARACTERS_RESTORED)
    if cleaned != restored:
        changes.append(_CONTROLS_REMOVED)
    return cleaned.strip()


def _optional_text(cells: Mapping[str, Any], role: str, changes: list[str]) -> str | None:
    value = cells[role]
    return None if is_empty(value) else _clean(_cell_text(role, value), changes)


def _optional_value(
    cells: Mapping[str, Any], role: str, parse: Callable[[str], _Value | None], expected: Text
) -> _Value | None:
    if is_empty(cells[role]):
        return None
    text = _cell_text(role, cells[role])
    value = parse(text)
    if value is None:
        raise RowError(
            m("{role} is {expected}: {text!r}", role=m(role), expected=expected, text=text)
        )
    return value
