"""The languages of the page: message catalogs, the language of a request, and numbers in it.

Messages are written in English where they are shown, as ``t("{rows} rows", rows=12)``, and looked up in the catalog of
the current language: ``LANGUAGE.po`` next to this module. Placeholders are named. ``docs/languages.md`` says how to add
a language. The language belongs to the current context; without :func:`use_language` it is English, so that files,
reports and the command line are English.
"""

from __future__ import annotations

import contextlib
import functools
import gettext
import io
import os
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.i18n.message import (  # noqa: F401 - the package's names
    ByPlace,
    CommandWords,
    Message,
    Rows,
    Setting,
    Text,
    all_of,
    bits,
    capitalized,
    joined,
    m,
    message_from,
    mn,
    row_numbers,
    use_bits,
    use_row_numbers,
    use_words,
    words,
)

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog
    from markupsafe import Markup

ENGLISH = "en"
"""The language of the messages in the code."""
FOLDER = Path(__file__).parent
"""Folder of the catalogs."""
_RIGHT_TO_LEFT = frozenset(("ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"))
_LONGEST_ACCEPTED = (
    1_000  # characters of an Accept-Language header that are read; browsers send up to about 200
)
_current: ContextVar[str] = ContextVar("language", default=ENGLISH)


@functools.cache
def languages() -> dict[str, str]:
    """Every language by its code, with its own name; English first."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.po"))}
    return {
        ENGLISH: "English",
        **{code: _catalog(code).pgettext("language", "English") for code in found},
    }


def read_catalog(language: str) -> Catalog:
    """The catalog of a language other than English."""
    from babel.messages.pofile import read_po

    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file)


@functools.cache
def _catalog(language: str) -> gettext.NullTranslations:
    if language == ENGLISH or not (FOLDER / f"{language}.po").is_file():
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo

    compiled = io.BytesIO()
    write_mo(compiled, read_catalog(language))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def language() -> str:
    """The code of the current language."""
    return _current.get()


def direction() -> str:
    """The direction of the current language: ``ltr`` or ``rtl``."""
    return "rtl" if language().partition("-")[0] in _RIGHT_TO_LEFT else "ltr"


@contextlib.contextmanager
def use_language(code: str) -> Iterator[None]:
    """Set the current language within the block."""
    before = _current.set(code)
    try:
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def as_in_files() -> Iterator[None]:
    """Render messages as files have them: in English and in the words of commands."""
    with use_language(ENGLISH), use_words(CommandWords()):
        yield


def written(text: Text) -> tuple[str, dict[str, Any] | None]:
    """A text as files have it: in English, and the record of the message, if it is one."""
    with as_in_files():
        return render(text), text.to_record() if isinstance(text, Message) else None


def text_of(record: object, english: object) -> Text:
    """The message of a record, or the English text where a file has no such record, or one that lacks a value."""
    try:
        message = message_from(record)
        render(message)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return str(english or "")
    return message


def environment_language() -> str:
    """The language of messages that the environment asks for, by the variables of gettext; without one English."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next(filter(None, map(os.environ.get, names)), "")
    wanted = os.environ.get("LANGUAGE") or locale if locale not in ("", "C", "POSIX") else ""
    return negotiate(wanted.replace(":", ",").partition(".")[0])


def negotiate(accepted: str) -> str:
    """The language of an ``Accept-Language`` header: of those that exist the one with the highest weight."""
    wanted = []
    for entry in accepted[:_LONGEST_ACCEPTED].split(","):
        tag, _, parameter = entry.strip().partition(";")
        name, _, weight = parameter.strip().partition("=")
        try:
            quality = float(weight) if name.strip() == "q" else 1.0
        except ValueError:
            continue
        if quality > 0:
            wanted.append((quality, tag.strip().lower().replace("_", "-")))
    offered = {code.lower(): code for code in languages()}
    for _, tag in sorted(wanted, key=lambda each: -each[0]):
        while tag:  # de-AT, then de
            if tag in offered:
                return offered[tag]
            tag = tag.rpartition("-")[0]
    return ENGLISH


def t(message: str, /, **values: Any) -> str:
    """A message in the current language; numbers among the values are written as the language does."""
    return _format(_catalog(language()).gettext(message), values) if message else ""


def tn(one: str, many: str, count: int, /, **values: Any) -> str:
    """A message about a number of things, for ``{count}`` with separators: ``{count} row``, ``{count} rows``."""
    text = _catalog(language()).ngettext(one, many, count)
    return _format(text, {"count": localize(f"{count:,}"), **values})


def tc(context: str, message: str, /, **values: Any) -> str:
    """A message whose translation depends on where it is used, which ``context`` says."""
    return _format(_catalog(language()).pgettext(context, message), values)


def tm(message: str, /, **values: Any) -> Markup:
    """A message with HTML in it; the values are escaped."""
    from markupsafe import Markup  # here, so that a bundle is verified without it

    return Markup(_format(_catalog(language()).gettext(message), values, _escaping_formatter()))


def render(text: Text) -> str:
    """A message in the current language, in the words of the current place; a text as it is."""
    if isinstance(text, str):
        return text
    values = dict(text.values)
    if text.plural:
        return tn(text.id, text.plural, values.pop("count"), **values)
    return tc(text.context, text.id, **values) if text.context else t(text.id, **values)


def N_(message: str) -> str:  # noqa: N802 - the name by which gettext knows it
    """Mark a message for the catalogs where it is defined; it is translated by :func:`t` where it is used."""
    return message


class _Values(dict[str, Any]):
    """The values of a message; a missing one is what every message may name, or a setting by its key.

    A name with a capital is the value, or what every message may name, as a sentence begins with it.
    """

    def __missing__(self, name: str) -> Any:
        place = words()
        if match := _SETTING.fullmatch(name):
            return place.setting(Setting(match["key"], match["value"], bool(match["flag"])))
        known = {
            "bits": str(bits()),
            "study": place.study,
            "studies": place.studies,
            "redo": place.redo,
            "with_redo": place.with_redo,
        }
        small = name[:1].lower() + name[1:]
        text = str(_shown(self[small])) if small in self else known[small]
        return text[:1].upper() + text[1:] if name[:1].isupper() else text


class _Formatter(string.Formatter):
    """``str.format`` with numbers as the current language writes them, and with values that are messages."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        return kwargs[field_name], field_name  # a dot belongs to the key of a setting

    def format_field(self, value: Any, format_spec: str) -> Any:
        value = _shown(value)
        # the formats are those of numbers; a text is in the place of one where no row is meant
        text = super().format_field(value, "" if isinstance(value, str) else format_spec)
        return (
            localize(text)
            if isinstance(value, (int, float)) and not isinstance(value, bool)
            else text
        )


_FORMATTER = _Formatter()


@functools.cache
def _escaping_formatter() -> string.Formatter:
    """The formatter of messages with HTML: values are escaped."""
    from markupsafe import EscapeFormatter, Markup

    class EscapingFormatter(_Formatter, EscapeFormatter):
        pass

    return EscapingFormatter(Markup.escape)


def _shown(value: Any) -> Any:
    """A value of a message as text, if it is one of the kinds of :mod:`assistant_builder.i18n.message`."""
    if isinstance(value, Message):
        return render(value)
    if isinstance(value, ByPlace):
        return render(getattr(value, words().place))
    if isinstance(value, Setting):
        return words().setting(value)
    if isinstance(value, Rows):
        return enumerated([str(number) for number in row_numbers(value)])
    if isinstance(value, list | tuple):
        return ", ".join(str(_shown(each)) for each in value)
    return value


def enumerated(texts: Sequence[str]) -> str:
    """``a``, ``a and b`` or ``a, b and c`` in the current language."""
    return t(" and ").join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def _format(text: str, values: Mapping[str, Any], formatter: string.Formatter = _FORMATTER) -> str:
    return (
        formatter.vformat(text, (), _Values(values))
        if values or _NAMED_BY_ALL.search(text)
        else text
    )


_SETTING = re.compile(
    r"(?P<flag>--set )?(?P<key>(?:data|model|train|eval|retrieval)\.[a-z_.]*[a-z])(?:=(?P<value>.*))?"
)
_NAMED_BY_ALL = re.compile(
    r"\{(?:bits|[Ss]tud(?:y|ies)|[Rr]edo|with_redo|(?:--set )?(?:data|model|train|eval|retrieval)\.[^{}]*)\}"
)
"""Placeholders that need no values."""


def separators() -> tuple[str, str]:
    """The separator of thousands and the decimal one, from the sample number in the catalog."""
    return _separators(language())


@functools.cache
def _separators(language: str) -> tuple[str, str]:
    sample = re.fullmatch(r"1(\D?)234(\D)5", _catalog(language).pgettext("number", "1,234.5"))
    return (sample[1], sample[2]) if sample else (",", ".")


def localize(number: str) -> str:
    """A number in English notation (``1,234.5``) in that of the current language."""
    thousands, decimal = separators()
    if (thousands, decimal) == (",", "."):
        return number
    return number.translate({ord(","): thousands, ord("."): decimal})


def percentage(number: str) -> str:
    """A number that was written by :func:`localize` with a percent sign, as the current language sets it."""
    return tc("number", "{number}%", number=number)
