"""Find in a text the facts that a small slip makes wrong, and see which of them an answer keeps.

Regular expressions, no model. A *number* goes with its unit (``3.5 mg``, ``10:30``); a *code* mixes letters and digits
(``B12``, ``ISO-9001``, ``2.4.1``) or is an address; a *term* is a run of capitalised words (``Marta Oduya``, ``NASA``).
The word that begins a sentence is no term by itself. Written for English: German writes every noun with a capital and
so has every noun counted, scripts without capitals have no terms, and numbers in words (``nine``) are not seen.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from evals.names import find_names
from evals.quantities import LETTER, UNIT, Quantity, find_quantities


@dataclass(frozen=True)
class Fact:
    """Something that an answer has to repeat exactly.

    Attributes:
        kind: What it is.
        text: Its one spelling: ``3.5 mg``, ``iso-9001``, ``Marta Oduya``.
    """

    kind: Literal["number", "code", "term"]
    text: str


_PATH = r"[^\s<>\"]*[^\s<>\".,;:!?)']"
_ADDRESS = re.compile(
    rf"https?://{_PATH}|www\.{_PATH}|[\w.+-]+@[\w-]+(?:\.[\w-]+)+|"
    rf"(?<![\w.@-])(?:[a-z\d-]+\.)+(?:com|org|net|edu|gov|io|info|eu|uk|de)(?:/(?:{_PATH})?)?(?![\w-])",
    re.IGNORECASE,
)
# "mid-1990s" and "top-10" hold a number, "covid-19" is a name
_NO_CODE = r"(?!(?i:pre|post|mid|top|sub|non|under|over|early|late|around|about|until|to|from|than)-?\d)"
_CODE = re.compile(
    rf"""
    (?<![{LETTER}\d])(?<!\d\.)
    (?:
      (?!\d\d?\.\d\d?\.\d{{4}}(?!\.?\d))\d+(?:\.\d+){{2,}}(?!\.?\d)
    | {_NO_CODE}(?!(?<=\d\ )[ck]?m[23]\b)(?:[A-Z]+-)*[{LETTER}]+-?\d[{LETTER}\d]*(?:[-.][{LETTER}]*\d[{LETTER}\d]*)*
    | \d+(?!{UNIT})[{LETTER}]+\d[{LETTER}\d]*(?:[-.][{LETTER}]*\d[{LETTER}\d]*)*
    | \d+-(?!{UNIT})[A-Z]+(?![a-z])[{LETTER}\d]*
    )
    (?![{LETTER}\d])
    """,
    re.VERBOSE,
)
_ODD = re.compile(rf"(?<![{LETTER}\d])(?<!\d\.)\d+[{LETTER}]+(?![{LETTER}\d])")
_TAKEN = "\ufffc"
_WHOLE_WORDS = r"(?<![^\W\d_])(?:{})(?![^\W\d_])"


def find_facts(text: str) -> frozenset[Fact]:
    """Find the distinct facts of a text.

    Args:
        text: Any text; Markdown emphasis and list numbers are set aside.

    Returns:
        Its facts. What a longer one says again is left out: ``Oduya`` beside ``Marta Oduya``, ``5`` beside ``5 mg``.
    """
    codes, numbers, names = _scan(_clean(text))
    inside = {name for name in names for other in names if name != other and f" {name} " in f" {other} "}
    units = {number.value for number in numbers if number.unit}
    return frozenset([
        *(Fact("code", code) for code in codes),
        *(Fact("number", f"{n.value} {n.unit}".strip()) for n in numbers if n.unit or n.value not in units),
        *(Fact("term", name) for name in names - inside),
    ])


def facts_kept(answer: str, reference: str) -> float | None:
    """Share of the reference's distinct facts that the answer holds.

    A number is held with the same unit, or with any where the reference gives none. Codes, and names of several words,
    are held in any case; a name of one word must be written as one, unless the answer has no capitals at all.

    Returns:
        0 to 1; ``None`` where the reference holds no fact. What the answer adds is not looked at.
    """
    wanted = find_facts(reference)
    if not wanted:
        return None
    text = _clean(answer)
    codes, numbers, names = _scan(text)
    held = codes | names | {n.value for n in numbers} | {f"{n.value} {n.unit}" for n in numbers}
    patterns = {"code": _code_pattern, "term": _lower_pattern if text == text.lower() else _term_pattern}
    kept = sum(
        fact.text in held or (fact.kind != "number" and patterns[fact.kind](fact.text).search(text) is not None)
        for fact in wanted
    )
    return kept / len(wanted)


def _clean(text: str) -> str:
    text = re.sub(r"(?<=\d)[\u2009\u00a0\u202f](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", r"^\1", text)  # NFKC would make 10⁶ into 106
    text = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = re.sub(r"[‐‑‒–−]", "-", text.replace("—", " - "))
    text = re.sub("[‘’ʼ]", "'", text)
    text = re.sub(r"[*`]", "", text)
    text = re.sub(r"\b(?:[A-Z]\.){2,}", lambda found: found[0].replace(".", ""), text)
    numbered = re.compile(r"^[ \t]*\d{1,2}[.)](?=\s+\S)", re.MULTILINE)
    return numbered.sub("", text) if len(numbered.findall(text)) > 1 else text


def _scan(text: str) -> tuple[set[str], list[Quantity], set[str]]:
    """Codes, numbers and names; what is found as one is not looked at again as another."""
    codes = {re.sub(r"^(?:https?://)?(?:www\.)?", "", found.lower()).rstrip("/") for found in _ADDRESS.findall(text)}
    text = _ADDRESS.sub(_TAKEN, text)
    codes |= {re.sub(r"^v(?=\d+\.)", "", found[0].lower()) for found in _CODE.finditer(text)}
    text = _CODE.sub(_TAKEN, text)
    numbers = list(find_quantities(text))
    for number in reversed(numbers):
        text = text[: number.start] + _TAKEN + text[number.end :]
    codes |= {found.lower() for found in _ODD.findall(text)}
    return codes - {""}, numbers, set(find_names(_ODD.sub(_TAKEN, text)))


def _code_pattern(code: str) -> re.Pattern[str]:
    """The code with or without its hyphens; after two letters or more a space will do, as in ``ISO 9001``."""
    joint = "[- ]?" if re.match(rf"[{LETTER}]{{2}}", code) else "-?"
    pieces = re.split(rf"-|(?<=[{LETTER}])(?=\d)|(?<=\d)(?=[{LETTER}])", code)
    inner = joint.join(re.escape(piece) for piece in pieces)
    return re.compile(rf"(?<![{LETTER}\d])(?<!\d\.)v?{inner}(?![{LETTER}\d])(?!\.\d)", re.IGNORECASE)


def _term_pattern(term: str) -> re.Pattern[str]:
    if " " in term or not (term.isupper() or term.istitle()):
        return _lower_pattern(term)
    if term.isupper():
        forms = [term, term.capitalize()] if len(term) > 3 else [term]
    else:
        forms = [term, term.upper()]
    return re.compile(_WHOLE_WORDS.format("|".join(re.escape(form) for form in forms)))


def _lower_pattern(term: str) -> re.Pattern[str]:
    return re.compile(_WHOLE_WORDS.format(r"[\s.-]*".join(map(re.escape, term.split()))), re.IGNORECASE)
