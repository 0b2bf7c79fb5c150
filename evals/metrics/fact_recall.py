"""Fact recall: the share of a reference's facts that an answer repeats.

Regular expressions, no model. A *number* goes with its unit (``3.5 mg``, ``10:30``); a *code* mixes letters and digits
(``B12``, ``ISO-9001``, ``2.4.1``) or is an address; a *term* is a run of capitalised words (``Marta Oduya``, ``NASA``),
see :mod:`evals.metrics.named_entities`. Written for English: German writes every noun with a capital and every
noun is counted, scripts without capitals have no terms, and numbers in words (``nine``) are not recognised.

Numbers are read in English notation and compared in one spelling (``1,200 MG`` and ``1200 mg`` are both ``1200 mg``): a
comma between groups of three digits separates thousands and a point decimals; a comma before one or two digits
(``3,5``) is a decimal comma. Dates keep their notation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import Literal

from assistant_builder.normalization import normalize_form
from evals.metrics.named_entities import find_names

LETTER = "A-Za-zÀ-ɏͰ-Ͽ"
"""Latin and Greek letters, as part of a character class: a number directly next to one belongs to a code."""

_UNITS = """
% percent pct per_cent|‰ permille|° degree degrees deg|°C celsius degrees_celsius degrees_C deg_C
°F fahrenheit degrees_fahrenheit degrees_F deg_F|K kelvin kelvins
m metre metres meter meters|km kilometre kilometres kilometer kilometers kms
cm centimetre centimetres centimeter centimeters
mm millimetre millimetres millimeter millimeters|μm um micrometre micrometres micrometer micrometers micron microns
nm nanometre nanometres nanometer nanometers|mile miles mi|yard yards yd yds|foot feet ft|inch inches
m2 m^2 sqm square_metre square_metres square_meter square_meters|km2 km^2 square_kilometres square_kilometers
cm2 cm^2|ha hectare hectares|acre acres|m3 m^3 cubic_metre cubic_metres cubic_meter cubic_meters|cm3 cm^3 cc
l L litre litres liter liters|ml millilitre millilitres milliliter milliliters|dl decilitre decilitres
cl centilitre centilitres|μl ul microlitre microlitres microliter microliters|gallon gallons gal|pint pints
g gram grams gm|kg kgs kilogram kilograms kilo kilos|mg milligram milligrams|μg ug mcg microgram micrograms
ng nanogram nanograms|t tonne tonnes|ton tons|lb lbs|oz ounce ounces
second seconds s sec secs|ms millisecond milliseconds|minute minutes min mins|hour hours h hr hrs|day days d
week weeks wk wks|month months|year years yr yrs
V volt volts|kV kilovolt kilovolts|mV millivolt millivolts|amp amps ampere amperes|mA milliamp milliamps
W watt watts|kW kilowatt kilowatts|MW megawatt megawatts|mW milliwatt milliwatts|GW gigawatt gigawatts
Wh|kWh|MWh|Ω ohm ohms|Hz hertz|kHz kilohertz|MHz megahertz|GHz gigahertz|J joule joules|kJ|MJ|cal|kcal|N newton newtons
Pa pascal pascals|hPa|kPa|MPa|bar bars|psi|mmHg mm_Hg|dB decibel decibels
bit bits|byte bytes|kB KB kilobyte kilobytes|MB megabyte megabytes|GB gigabyte gigabytes|TB terabyte terabytes
Mbit Mb megabit megabits|Gbit Gb gigabit gigabits|Mbps|Gbps|px pixel pixels|fps|rpm|bpm|ppm|ppb
mol mole moles|mmol millimole millimoles|μmol umol|mM|μM uM|nM|IU|mEq|Da|kDa|bp|kb kilobase kilobases
mile/hour mph|km/hour kph kmh
$ US$ USD dollar dollars|€ EUR euro euros|£ GBP pound pounds|¥ JPY yen|₹ INR rupee rupees|CHF franc francs
kr krone kroner krona kronor|crown crowns|cent cents|pence
"""
_SPELLINGS = {
    spelling.replace("_", " "): row.split()[0]
    for row in re.split(r"[|\n]", _UNITS.strip())
    for spelling in row.split()
}
_FOLDED: dict[str, str] = {}
for _spelling, _canonical in _SPELLINGS.items():
    if len(_spelling) > 1:  # a single letter keeps its case: m is a metre, M is not
        _FOLDED.setdefault(_spelling.casefold(), _canonical)

_SIGNS = "%‰°$€£¥₹"
_WORDS = "|".join(
    re.escape(unit) for unit in sorted(_SPELLINGS, key=len, reverse=True) if len(unit) > 1
)
_LETTERS = "".join(unit for unit in _SPELLINGS if len(unit) == 1 and unit not in _SIGNS)
UNIT = rf"(?:(?:(?i:{_WORDS})|[{_LETTERS}])(?![{LETTER}\d])|[{_SIGNS}])"

_TIMES = {
    **dict.fromkeys(("thousand", "k"), 10**3),
    **dict.fromkeys(("million", "m"), 10**6),
    **dict.fromkeys(("billion", "bn", "b"), 10**9),
    "trillion": 10**12,
}
_QUANTITY = re.compile(
    rf"""
    (?<![{LETTER}\d])(?<!\d\.)
    (?:
      (?P<date>\d{{4}}-\d\d-\d\d | \d\d?/\d\d?/(?:\d{{4}}|\d\d) | \d\d?\.\d\d?\.\d{{4}})
    | (?P<hour>\d\d?):(?P<minute>[0-5]\d)(?P<seconds>:[0-5]\d)?(?:\ ?(?P<half>(?i:[ap]m\b|[ap]\.m\b\.?)))?
    | (?P<hour12>\d\d?)(?:\.(?P<minute12>[0-5]\d))?\ ?(?P<half12>(?i:[ap]m\b|[ap]\.m\b\.?))
    | (?P<sign>(?<![)\]])-)?(?P<money>(?:US\$|[$€£¥₹]|USD|EUR|GBP|CHF|JPY|INR)\ ?)?
      (?P<value>
        (?:\d{{1,9}}\ )?\d{{1,9}}/[1-9]\d{{0,8}}
      | \d{{1,3}}(?:[,']\d{{3}})+(?:\.\d+)?(?![,']?\d)
      | (?<!\d,)\d+,\d\d?(?![\d,])
      | (?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d\d?|\^-?\d+)?
      )
      (?:
        (?i:st|nd|rd|th)
      | (?P<decade>(?<=\d\d\d0)'?s)
      | (?(money)(?P<short>[kKmMbB]|bn)|(?!))
      | (?:\ (?P<times>thousand|million|billion|trillion)(?![{LETTER}]))?
        (?:[\ -]?(?P<unit>{UNIT})(?:\ ?(?:/|per\ )\ ?(?P<per>{UNIT}))?)?
      )
    )
    (?![{LETTER}\d])(?!(?<=\d)\.\d)
    """,
    re.VERBOSE,
)
_BETWEEN = re.compile(r" ?- ?| to |-to-")


@dataclass(frozen=True)
class Quantity:
    """A number in a text, and where it begins and ends.

    Attributes:
        value: The number without needless zeros or separators; a time as ``HH:MM``, a date as it is written.
        unit: Canonical spelling of its unit, or ``""``.
    """

    value: str
    unit: str
    start: int
    end: int


@dataclass(frozen=True)
class Fact:
    """Something that an answer has to repeat exactly: ``3.5 mg``, ``iso-9001``, ``Marta Oduya``."""

    kind: Literal["number", "code", "term"]
    text: str


_PATH = r"[^\s<>\"]*[^\s<>\".,;:!?)']"
_ADDRESS = re.compile(
    rf"https?://{_PATH}|www\.{_PATH}|(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+|"
    rf"(?<![\w.@-])(?:[a-z\d-]+\.)+(?:com|org|net|edu|gov|io|info|eu|uk|de)(?:/(?:{_PATH})?)?(?![\w-])",
    re.IGNORECASE,
)
# "mid-1990s" and "top-10" contain a number, "covid-19" is a name
_NO_CODE = (
    r"(?!(?i:pre|post|mid|top|sub|non|under|over|early|late|around|about|until|to|from|than)-?\d)"
)
_CODE = re.compile(
    rf"""
    (?<![{LETTER}\d])(?<!\d\.)
    (?:
      (?!\d\d?\.\d\d?\.\d{{4}}(?!\.?\d))\d+(?:\.\d+){{2,}}(?!\.?\d)
    | {_NO_CODE}(?!(?<=\d\ )[ck]?m[23]\b)
      (?:[A-Z]+-){{0,8}}[{LETTER}]+-?\d[{LETTER}\d]*(?:[-.][{LETTER}]*\d[{LETTER}\d]*)*
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
    """Find the distinct facts of a text, without those that a longer one contains: ``Oduya`` in ``Marta Oduya``.

    Markdown emphasis and list numbers are ignored.
    """
    codes, numbers, names = _scan(_clean(text))
    inside = {
        name for name in names for other in names if name != other and f" {name} " in f" {other} "
    }
    units = {number.value for number in numbers if number.unit}
    return frozenset(
        [
            *(Fact("code", code) for code in codes),
            *(
                Fact("number", f"{n.value} {n.unit}".strip())
                for n in numbers
                if n.unit or n.value not in units
            ),
            *(Fact("term", name) for name in names - inside),
        ]
    )


def facts_kept(answer: str, reference: str, question: str = "") -> float | None:
    """Share of the reference's distinct facts, without those of the question, that the answer contains.

    A number matches with the same unit, or with any unit if the reference has none. Codes and names of several words
    match in any case. A name of one word must be capitalized, unless the answer has no capitals at all.

    Returns:
        0 to 1; ``None`` if the reference contains no fact beyond the question. Additional facts of the answer are
        ignored.
    """
    wanted = _beyond(question, reference)
    return sum(_contained(wanted, answer)) / len(wanted) if wanted else None


@functools.lru_cache(maxsize=10_000)  # a page asks for each answer of a report several times
def has_other_numbers(answer: str, reference: str, question: str = "") -> bool:
    """Whether an answer has numbers or codes, but none of the reference's: "24 pounds" where "31 pounds" is right.

    Those of the question count for neither. An answer without any, or with some of the reference's, is not meant.
    """
    wanted, given = (
        [fact for fact in _beyond(question, text) if fact.kind != "term"]
        for text in (reference, answer)
    )
    return bool(wanted and given) and not any(_contained(wanted, answer))


def _beyond(question: str, text: str) -> list[Fact]:
    facts = list(find_facts(text))
    echoed = _contained(facts, question)
    return [fact for fact, echo in zip(facts, echoed, strict=True) if not echo]


def _contained(facts: Sequence[Fact], text: str) -> list[bool]:
    text = _clean(text)
    codes, numbers, names = _scan(text)
    held = codes | names | {n.value for n in numbers} | {f"{n.value} {n.unit}" for n in numbers}
    patterns = {
        "code": _code_pattern,
        "term": _lower_pattern if text == text.lower() else _term_pattern,
    }
    return [
        fact.text in held
        or (fact.kind != "number" and patterns[fact.kind](fact.text).search(text) is not None)
        for fact in facts
    ]


def _clean(text: str) -> str:
    text = re.sub(r"(?<=\d)[\u2009\u00a0\u202f](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=\d)([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", r"^\1", text)  # NFKC would make 10⁶ into 106
    text = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", text)
    text = normalize_form("NFKC", text).replace("⁄", "/")
    text = re.sub(r"[‐‑‒–−]", "-", text.replace("—", " - "))
    text = re.sub("[‘’ʼ]", "'", text)
    text = re.sub(r"[*`]", "", text)
    text = re.sub(r"\b(?:[A-Z]\.){2,}", lambda found: found[0].replace(".", ""), text)
    numbered = re.compile(r"^[ \t]*\d{1,2}[.)](?=\s+\S)", re.MULTILINE)
    return numbered.sub("", text) if len(numbered.findall(text)) > 1 else text


def _scan(text: str) -> tuple[set[str], list[Quantity], set[str]]:
    """Codes, numbers and names; a match of one kind is removed before the next kind is searched."""
    codes = {
        re.sub(r"^(?:https?://)?(?:www\.)?", "", found.lower()).rstrip("/")
        for found in _ADDRESS.findall(text)
    }
    text = _ADDRESS.sub(_TAKEN, text)
    codes |= {re.sub(r"^v(?=\d+\.)", "", found[0].lower()) for found in _CODE.finditer(text)}
    text = _CODE.sub(_TAKEN, text)
    numbers = list(find_quantities(text))
    for number in reversed(numbers):
        text = text[: number.start] + _TAKEN + text[number.end :]
    codes |= {found.lower() for found in _ODD.findall(text)}
    return codes - {""}, numbers, set(find_names(_ODD.sub(_TAKEN, text)))


def _code_pattern(code: str) -> re.Pattern[str]:
    """Pattern of a code with or without hyphens; after two or more letters a space matches too, as in ``ISO 9001``."""
    joint = "[- ]?" if re.match(rf"[{LETTER}]{{2}}", code) else "-?"
    pieces = re.split(rf"-|(?<=[{LETTER}])(?=\d)|(?<=\d)(?=[{LETTER}])", code)
    inner = joint.join(re.escape(piece) for piece in pieces)
    return re.compile(
        rf"(?<![{LETTER}\d])(?<!\d\.)v?{inner}(?![{LETTER}\d])(?!\.\d)", re.IGNORECASE
    )


def _term_pattern(term: str) -> re.Pattern[str]:
    if " " in term or not (term.isupper() or term.istitle()):
        return _lower_pattern(term)
    if term.isupper():
        forms = [term, term.capitalize()] if len(term) > 3 else [term]
    else:
        forms = [term, term.upper()]
    return re.compile(_WHOLE_WORDS.format("|".join(re.escape(form) for form in forms)))


def _lower_pattern(term: str) -> re.Pattern[str]:
    return re.compile(
        _WHOLE_WORDS.format(r"[\s.-]*".join(map(re.escape, term.split()))), re.IGNORECASE
    )


def find_quantities(text: str) -> Iterator[Quantity]:
    """Find the numbers of a text, from left to right; in a range (``10-12 mg``) both ends have the unit.

    The text is in NFKC, with ``-`` for every minus sign and hyphen.
    """
    found = [_quantity(match) for match in _QUANTITY.finditer(text)]
    for first, second in pairwise(found):
        ranged = _BETWEEN.fullmatch(text, first.end, second.start) and not first.unit
        yield replace(first, unit=second.unit) if ranged else first
    yield from found[-1:]


def _quantity(match: re.Match[str]) -> Quantity:
    part = match.groupdict()
    unit = ""
    if part["date"]:
        value = part["date"]
    elif part["hour"] or part["hour12"]:
        hour = int(part["hour"] or part["hour12"])
        half = (part["half"] or part["half12"] or "").lower()
        if half and 1 <= hour <= 12:
            hour = hour % 12 + (12 if half.startswith("p") else 0)
        value = f"{hour:02d}:{part['minute'] or part['minute12'] or '00'}{part['seconds'] or ''}"
    else:
        times = _TIMES.get((part["short"] or part["times"] or "").lower(), 1)
        value = _number(part["value"], times)
        value = f"-{value}" if part["sign"] and value != "0" else value
        texts = (part["unit"] or part["money"] or "", part["per"])
        units = [text.strip() for text in texts if text]
        named = "/".join(_SPELLINGS.get(text) or _FOLDED[text.casefold()] for text in units)
        unit = "decade" if part["decade"] else named
    return Quantity(value, unit, match.start(), match.end())


def _number(text: str, times: int) -> str:
    if "^" in text:
        return text
    if "/" in text:
        *whole, fraction = text.split()
        above, below = map(int, fraction.split("/"))
        if pow(10, below.bit_length(), below) != 0:  # its decimals never end
            return text
        value = Decimal(above) / below + sum(map(int, whole))
    else:
        value = Decimal(re.sub(r"[,'](?=\d{3}(?!\d))", "", text).replace(",", "."))
    written = format(value if times == 1 else value * times, "f")  # products have 28 digits
    return (written.rstrip("0").rstrip(".") if "." in written else written) or "0"
