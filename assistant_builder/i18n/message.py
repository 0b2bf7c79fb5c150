"""Texts for people as values: an id, which is the English text, and the values of its placeholders.

What a person reads is written once as a :class:`Message` and rendered where it is shown, in the language and the words
of that place: the command line names a setting ``train.max_length``, the page “Longest pair”. Files hold the English
text and, next to it, the record of the message, so that a page can show it in another language later.
"""

from __future__ import annotations

import contextlib
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, Protocol

_FORMATTER = string.Formatter()
WRITTEN = 4
"""Bits of the quantized storage that texts name where no context says others."""


@dataclass(frozen=True)
class Message:
    """A text for people.

    Attributes:
        id: English text with named placeholders, as in ``str.format``; the id of the message in the catalogs.
        values: Value of each placeholder: text, number, another message, or one of this module's kinds of values.
            ``{bits}`` is the bits of the study's quantized storage, ``{study}`` what a study is called.
        plural: The text for another number than one of ``values["count"]``, if there is one.
        context: The use on which the translation depends, as gettext's ``msgctxt``.
    """

    id: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)
    plural: str = ""
    context: str = ""

    def __str__(self) -> str:
        from assistant_builder.i18n import render

        return render(self)

    def __bool__(self) -> bool:
        return bool(self.id)

    def map(self, change: Callable[[Any], Any], kind: type | UnionType = str) -> Message:
        """The message with ``change`` applied to all values of a kind (texts), at any depth."""
        return replace(
            self, values={name: _mapped(value, change, kind) for name, value in self.values.items()}
        )

    def to_record(self) -> dict[str, Any]:
        """The message for a file in JSON; :func:`message_from` is the inverse."""
        record: dict[str, Any] = {"id": self.id}
        if self.values:
            record["values"] = {name: _recorded(value) for name, value in self.values.items()}
        return record | {key: text for key in ("plural", "context") if (text := getattr(self, key))}


Text = str | Message
"""A text that is shown as it is, or a message."""


@dataclass(frozen=True)
class Setting:
    """A setting among the values of a message; ``{train.max_length}`` in a message is one, too.

    Attributes:
        key: Key in ``study.yaml``: ``train.max_length``.
        value: The value that it has or should get; None: the setting itself is meant.
        flag: Whether commands pass it by ``--set``.
    """

    key: str
    value: str | None = None
    flag: bool = False

    def to_record(self) -> dict[str, Any]:
        """The value for a file in JSON."""
        return {"setting": self.key, "value": self.value, "flag": self.flag}


@dataclass(frozen=True)
class Rows:
    """Numbers of rows of a data file among the values of a message; people see those of :func:`use_row_numbers`."""

    numbers: tuple[int, ...]

    def to_record(self) -> dict[str, Any]:
        """The value for a file in JSON."""
        return {"rows": list(self.numbers)}


@dataclass(frozen=True)
class ByPlace:
    """A value of a message that commands and the page say in different words."""

    command: Message
    page: Message

    def to_record(self) -> dict[str, Any]:
        """The value for a file in JSON."""
        return {"command": self.command.to_record(), "page": self.page.to_record()}


class Words(Protocol):
    """The words of a place: how it names what commands, pages and files call differently."""

    place: Literal["command", "page"]
    study: str
    studies: str

    @property
    def redo(self) -> str:
        """How results are replaced, a clause that begins with a verb in lower case."""

    @property
    def with_redo(self) -> str:
        """The same as a clause to which a purpose is added: ``… to run this step again``."""

    def setting(self, setting: Setting) -> str:
        """A setting, with its value if it has one."""


class CommandWords:
    """The words of commands and files."""

    place: Literal["command", "page"] = "command"
    study, studies = "study", "studies"

    @property
    def redo(self) -> str:
        """Run the study again with ``--redo``."""
        from assistant_builder.i18n import t

        return t("run the study again with --redo")

    @property
    def with_redo(self) -> str:
        """Pass ``--redo``."""
        from assistant_builder.i18n import t

        return t("pass --redo")

    def setting(self, setting: Setting) -> str:
        """``train.max_length``, or ``--set train.max_length=512``."""
        value = "" if setting.value is None else f"={setting.value}"
        return f"{'--set ' * setting.flag}{setting.key}{value}"


_words: ContextVar[Words] = ContextVar("words", default=CommandWords())  # noqa: B039 - it has no state
_row_number: ContextVar[Callable[[int], int]] = ContextVar("row number", default=int)
_bits: ContextVar[int] = ContextVar("bits", default=WRITTEN)


def words() -> Words:
    """The words of the current context."""
    return _words.get()


@contextlib.contextmanager
def use_words(place: Words) -> Iterator[None]:
    """Use the words of a place in the block."""
    before = _words.set(place)
    try:
        yield
    finally:
        _words.reset(before)


@contextlib.contextmanager
def use_row_numbers(shown: Callable[[int], int]) -> Iterator[None]:
    """Show ``shown(row)`` for each number of :class:`Rows` in the block."""
    before = _row_number.set(shown)
    try:
        yield
    finally:
        _row_number.reset(before)


def row_numbers(rows: Rows) -> list[int]:
    """The numbers of rows as people see them in the current context."""
    return [_row_number.get()(number) for number in rows.numbers]


def bits() -> int:
    """The bits of the quantized storage that texts name."""
    return _bits.get()


@contextlib.contextmanager
def use_bits(count: int) -> Iterator[None]:
    """Let texts in the block name a storage of so many bits."""
    before = _bits.set(count)
    try:
        yield
    finally:
        _bits.reset(before)


def m(message: str, /, **values: Any) -> Message:
    """A message with its values, to be rendered where it is shown; the extraction of the catalogs finds it."""
    return Message(message, values)


def mn(one: str, many: str, count: int, /, **values: Any) -> Message:
    """A message about a number of things: ``{count} row``, ``{count} rows``."""
    return Message(one, {"count": count, **values}, plural=many)


def joined(parts: Iterable[Text | Setting], separator: str = " ") -> Message:
    """Sentences, or parts of a list, after each other; empty ones are left out."""
    kept = [part for part in parts if part]
    return Message(
        separator.join(f"{{{number}}}" for number in map(_NAME.format, range(len(kept)))),
        {_NAME.format(number): part for number, part in enumerate(kept)},
    )


_NAME = "part_{}"


def all_of(parts: Iterable[Text | Setting]) -> Message:
    """The parts of a list with “and” between them."""
    return joined([each for part in parts for each in (m(" and "), part)][1:], "")


def capitalized(text: Text) -> Text:
    """The text with a first letter in upper case, as a sentence begins."""
    if isinstance(text, Message):
        return Message("{Text}", {"text": text})
    return text[:1].upper() + text[1:]


_FORMAT = re.compile(r"[,+]?(0?\d{1,2})?(\.\d{1,2})?[a-zA-Z%]?")
"""Formats of numbers in messages; others, such as a width of a gigabyte, are no message of this product."""
_NAMES = re.compile(r"\{([^{}!:]*)")
_MOST = 10_000
"""Characters of a message whose values are repeated in it: nested, they would multiply to any length."""


def message_from(record: object) -> Message:
    """The message of a record of :meth:`Message.to_record`, from a file that may be of somebody else.

    Raises:
        ValueError: It is not such a record.
    """
    message = _message_of(record)
    once, rendered = _lengths(message)
    if rendered > max(_MOST, 3 * once):
        raise ValueError("its values are repeated too often")
    return message


def _message_of(record: object) -> Message:
    if not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
        raise ValueError("not the record of a message")
    values = record.get("values", {})
    texts = {key: record.get(key, "") for key in ("plural", "context")}
    if not isinstance(values, Mapping) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("not the record of a message")
    if values:
        parts = [
            part for text in (record["id"], texts["plural"]) for part in _FORMATTER.parse(text)
        ]
        if not all(_FORMAT.fullmatch(part[2] or "") for part in parts):
            raise ValueError("not the format of a message")
    return Message(
        record["id"], {str(name): _value_of(value) for name, value in values.items()}, **texts
    )


def _lengths(value: Any) -> tuple[int, int]:
    """Characters of a value: of all its texts, and at most when it is rendered."""
    if isinstance(value, Message):
        text = value.id + value.plural
        # a name with a capital is the same value, as a sentence begins with it
        times = Counter(_NAMES.findall(text.casefold()))
        inside = [(times[name.casefold()], *_lengths(each)) for name, each in value.values.items()]
        return (
            len(text) + sum(once for _, once, _ in inside),
            len(text) + sum(repeated * rendered for repeated, _, rendered in inside),
        )
    if isinstance(value, ByPlace | list):
        parts = [value.command, value.page] if isinstance(value, ByPlace) else value
        both = list(map(_lengths, parts))
        return sum(once for once, _ in both), sum(rendered for _, rendered in both)
    length = value.bit_length() // 3 if isinstance(value, int) else len(str(value))
    return length, length


def _value_of(record: object) -> Any:
    if isinstance(record, str | int | float):
        return record
    if isinstance(record, list):
        return [_value_of(each) for each in record]
    if isinstance(record, Mapping):
        if isinstance(key := record.get("setting"), str):
            value = record.get("value")
            return Setting(
                key, value if isinstance(value, str) else None, record.get("flag") is True
            )
        if isinstance(numbers := record.get("rows"), list) and all(
            isinstance(each, int) for each in numbers
        ):
            return Rows(tuple(numbers))
        if "page" in record:
            return ByPlace(_message_of(record.get("command")), _message_of(record["page"]))
        return _message_of(record)
    return ""


def _recorded(value: Any) -> Any:
    if isinstance(value, Message | Setting | Rows | ByPlace):
        return value.to_record()
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Sequence):
        return [_recorded(each) for each in value]
    return str(value)


def _mapped(value: Any, change: Callable[[Any], Any], kind: type | UnionType) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Message):
        return value.map(change, kind)
    if isinstance(value, list | tuple):
        return [_mapped(each, change, kind) for each in value]
    return value
