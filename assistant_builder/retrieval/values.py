"""Numbers, names and codes of an answer, and whether one fact has them all, in English, German, French and Spanish.

An assistant that repeats a fact can blend it with another one ("open until 9" of one bath and "on Monday" of another),
or with a number of the question. The values of an answer are therefore compared with those of each fact of its prompt.
An answer whose values no single fact contains is replaced by the best fact, in the fact's own words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from assistant_builder.data.language import language_of
from assistant_builder.data.words import bare_words, content_words
from assistant_builder.retrieval.lexical import COUNTED

_CALENDAR = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag januar februar "
    "marz mai juni juli oktober dezember lundi mardi mercredi jeudi vendredi samedi dimanche janvier fevrier mars "
    "avril juin juillet aout septembre octobre novembre decembre lunes martes miercoles jueves viernes sabado "
    "domingo enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split()
)
_SEVERAL = {word: number for word, number in COUNTED.items() if number != "1"}
"""Number words but those for one, which are articles in three languages."""
# bounded, so that a long word without an @ takes linear time
_ADDRESS = re.compile(r"[^\s@]{1,64}@\S+\w|(?:https?://|www\.)\S*\w", re.IGNORECASE)
_HALF = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
_CODE = re.compile(r"\b(?=\w*[^\W\d_])(?=\w*\d)\w+(?:-\w+)*|\b[^\W\d_]+-\d[\w-]*")
_QUANTITY = re.compile(r"\d+[^\W\d_]+")  # 5mg, 2nd, 24h
_NUMBER = re.compile(r"(\d+(?:[.,:'’  ]\d+)*)(?:[\s-]*([^\W\d_]{2,}))?")
_SIGN = re.compile(r"[%‰°$€£¥₹]")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?…])(?:[\"”»')]*)\s+|\n+")
_NEXT_FACT = "\nQ:"  # what an answer that goes on with the next fact of its prompt contains
_UNIT = 3  # letters by which the unit of a number is compared


class Values(NamedTuple):
    """What a text states exactly.

    Attributes:
        exact: Addresses, codes, signs, halves of the day, days and months.
        numbers: The readings of each number, and the beginning of its unit, or "".
        names: Capitalized words that do not begin a sentence, folded; none in German, whose nouns all are.
    """

    exact: frozenset[str]
    numbers: frozenset[tuple[frozenset[str], str]]
    names: frozenset[str]


@functools.lru_cache(maxsize=4096)
def values_of(text: str) -> Values:
    """The values of a text."""
    exact: set[str] = set()

    def take(pattern: re.Pattern[str], text: str, kind: str = "") -> str:
        def keep(found: re.Match[str]) -> str:
            exact.add(kind or _folded(found.group()))
            return " "

        return pattern.sub(keep, text)

    rest = take(_ADDRESS, text)
    exact.update(f"{found.group(1).lower()}m" for found in _HALF.finditer(rest))
    rest = _HALF.sub(" ", rest)
    for code in _CODE.findall(rest):
        if not _QUANTITY.fullmatch(code):
            exact.add(_folded(code))
    rest = _CODE.sub(lambda found: _spaced(found.group()), rest)
    exact.update(_SIGN.findall(rest))
    numbers = {(_readings(number), _unit(unit)) for number, unit in _NUMBER.findall(rest) if number}
    words = bare_words(rest)
    exact.update(_CALENDAR & set(words))
    for word, after in zip(words, [*words, ""][1:], strict=True):
        if word in _SEVERAL:
            numbers.add((frozenset({_SEVERAL[word]}), _unit(after)))
    names = set() if language_of(text) == "de" else _names(rest)
    return Values(frozenset(exact), frozenset(numbers), frozenset(names))


def _folded(text: str) -> str:
    return "".join(bare_words(text))


def _spaced(code: str) -> str:
    return re.sub(r"(?<=\d)(?=[^\W\d_])", " ", code) if _QUANTITY.fullmatch(code) else " "


def _readings(number: str) -> frozenset[str]:
    """1,000 is a thousand in one language and one in another; what both texts can mean is equal."""
    parts = re.split(r"\D", number)
    found = {".".join([parts[0].lstrip("0") or "0", *parts[1:]])}
    if len(parts) > 1 and all(len(part) == 3 for part in parts[1:]):
        found.add("".join(parts))
    if len(parts) == 2 and not parts[1].strip("0"):  # 5.00, 9:00
        found.add(parts[0].lstrip("0") or "0")
    return frozenset(found)


def _unit(word: str) -> str:
    return "".join(content_words(word))[:_UNIT] if word and word not in _SEVERAL else ""


def _names(text: str) -> set[str]:
    names = set()
    for sentence in _SENTENCE.split(text):
        for place, found in enumerate(_WORD.finditer(sentence)):
            word = found.group()
            if word[0].isupper() and len(word) > 1 and (place or word.isupper()):
                names.update(bare_words(word))
    return names


def stands_in(text: str, fact: str) -> bool:
    """Whether a fact, its question and its answer, has all values of a text."""
    said, known = values_of(text), values_of(fact)
    return (
        said.exact <= known.exact | set(bare_words(fact))
        and said.names <= set(bare_words(fact))
        and all(
            any(readings & other and unit in ("", also) for other, also in known.numbers)
            for readings, unit in said.numbers
        )
    )


class Checked(NamedTuple):
    """What of an answer is shown, and whether the rest is replaced."""

    text: str
    replaced: bool


def in_one_fact(
    text: str, facts: Sequence[tuple[str, str]], *, complete: bool = True, each: bool = False
) -> Checked:
    """The sentences of an answer that are shown: those whose values one fact contains.

    The first sentence whose values do not is replaced by the answer of the best fact that has those before it, and the
    answer ends. It also ends where the next fact of the prompt is repeated after it.

    Args:
        text: The answer so far.
        facts: Question and answer of the facts in the prompt, the best first.
        complete: Whether the text is complete; else its last sentence is not shown yet.
        each: Whether each sentence may have a fact of its own, as where answers join the statements of a document.
    """
    if _NEXT_FACT in text and not any(_NEXT_FACT in answer for _, answer in facts):
        own = text[: text.index(_NEXT_FACT)]
        return Checked(in_one_fact(own, facts, each=each).text.rstrip(), replaced=True)
    if not facts:
        return Checked(text, replaced=False)
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    candidates, start = list(facts), 0
    for end in [*ends, *([len(text)] if complete else [])]:
        sentence = text[start:end]
        having = [fact for fact in candidates if stands_in(sentence, " ".join(fact))]
        if not having:
            best, shown = candidates[0][1], text[:start].rstrip()
            said = f"{shown}\n\n{best}" if shown and best not in shown else shown or best
            return Checked(said, replaced=True)
        candidates, start = (list(facts) if each else having), end
    return Checked(text if complete else text[:start].rstrip(), replaced=False)
