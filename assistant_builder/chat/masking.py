"""Masks what identifies a person in a text: e-mail addresses, and phone, card, account, tax and insurance numbers.

Numbers are checked by libraries, so that prices, dates and product codes stay. Patterns repeat a bounded number of
times, and the time is linear in the length of the text.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator

from phonenumbers import Leniency, PhoneNumberMatcher
from stdnum import ean, iban, luhn
from stdnum.ch import ssn as swiss_insurance
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.iso7064 import mod_97_10
from stdnum.us import ssn

EMAIL, NUMBER = "[e-mail]", "[number]"
_REGIONS = ("US", "GB", "DE", "AT", "CH", "FR", "ES")
"""Countries whose numbers are found without a prefix such as +49."""
_MARGIN = 256
"""Characters beyond those that are kept, in which what begins before them may end."""
_PIECE, _LONGEST, _FEWEST = 250, 64, 6
"""Characters in which phone numbers are sought at a time, those of the longest, and digits of the shortest."""
_ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_GAP = "[ \u00a0\u202f-]"
_START, _END = r"(?<!\w)(?<!\d[.,])", r"(?!\w)(?![.,]\d)"
_HOURS = re.compile(r"(?<!\d)[0-2]?\d[.:][0-5]\d ?[-\u2013] ?[0-2]?\d[.:][0-5]\d(?!\d)")
_AFTER_WORD = re.compile(
    r"(?<!\w)(?:tel|tél|fon|phone|mobil|móvil|handy|cell|fax|whatsapp|sms|rufnummer)[^\W\d]{0,12}[\s.:]{0,3}"
    rf"(\(?\d(?:[ \u00a0/.()-]{{0,2}}\d){{5,14}}){_END}",
    re.IGNORECASE,
)
"""A number that only the word before it tells from others."""


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", text).upper()


def _is_account(text: str) -> bool:
    bare = _bare(text)
    return mod_97_10.is_valid(bare[4:] + bare[:4]) and iban.is_valid(bare)


def _is_card(text: str) -> bool:
    bare = _bare(text)
    return 14 <= len(bare) <= 19 and bare[0] in "23456" and luhn.is_valid(bare)


def _is_long_number(text: str) -> bool:
    """Whether a number is too long for a price or a code: not a round figure, and no number of an article (EAN)."""
    bare = _bare(text)
    groups = re.split(r"\D", text)
    return (
        len(bare) >= (9 if len(groups) == 1 else 10)
        and max(map(len, groups)) >= 5
        and not bare.endswith("000000")
        and not ean.is_valid(bare)
    )


def _is_phone(text: str, region: str) -> bool:
    """Whether what the library finds in a region is written as phone numbers are there: no hours, and no enumeration.

    Outside of the US and Spain, numbers without a prefix begin with a zero, which does not stand alone.
    """
    groups = re.findall(r"\d+", text)
    begins = region in ("US", "ES") or text[0] in "+(" or (text[0] == "0" and groups[0] != "0")
    return begins and sum(map(len, groups)) > 1.5 * len(groups) and not _HOURS.search(text)


_Check = Callable[[str], bool]
_NUMBERS: tuple[tuple[str, _Check], ...] = (
    (rf"[A-Za-z]{{2}}{_GAP}?\d{{2}}(?:{_GAP}?[A-Za-z0-9]){{11,30}}", _is_account),
    (rf"\d(?:{_GAP}?\d){{13,18}}", _is_card),
    (r"\d{3}-\d{2}-\d{4}", lambda text: True),  # the shape of a social security number in the US
    (rf"\d{{3}}({_GAP})\d{{2}}\1\d{{4}}", lambda text: ssn.is_valid(_bare(text))),
    (
        rf"[1-478]{_GAP}?\d\d{_GAP}?\d\d{_GAP}?\d[\dAB]{_GAP}?\d{{3}}{_GAP}?\d{{3}}{_GAP}?\d\d",
        lambda text: nir.is_valid(_bare(text)),
    ),
    (r"\d\d\.\d{3}\.\d{3}-?[A-Za-z]", lambda text: True),  # the shape of an identity card in Spain
    (rf"\d{{8}}{_GAP}?[A-Za-z]", lambda text: dni.is_valid(_bare(text))),
    (rf"[XYZxyz]{_GAP}?\d{{7}}{_GAP}?[A-Za-z]", lambda text: nie.is_valid(_bare(text))),
    (rf"\d\d{_GAP}?\d{{3}}{_GAP}?\d{{3}}{_GAP}?\d{{3}}", lambda text: idnr.is_valid(_bare(text))),
    (r"756\.?\d{4}\.?\d{4}\.?\d\d", lambda text: swiss_insurance.is_valid(_bare(text))),
    # pension insurance in Germany and national insurance in the UK, which the library does not know
    (rf"\d\d{_GAP}?\d\d(?:0\d|1[0-2])\d\d{_GAP}?[A-Za-z]{_GAP}?\d{{3}}", lambda text: True),
    (rf"[A-Za-z]{{2}}(?:{_GAP}?\d\d){{3}}{_GAP}?[A-Da-d]", lambda text: True),
)
_COMPILED = tuple((re.compile(f"{_START}{pattern}{_END}"), fits) for pattern, fits in _NUMBERS)
_LONG = re.compile(rf"{_START}\d{{1,64}}(?:[ /-]\d{{1,64}}){{0,4}}{_END}")


def mask(text: str, most: int | None = None) -> str:
    """A text without what identifies a person, of which at most the first ``most`` characters are kept."""
    if most is not None:
        text = text[: most + _MARGIN]
    spans = (
        [(found.start(), found.end(), EMAIL) for found in _ADDRESS.finditer(text)]
        if "@" in text
        else []
    )
    if _digits(text) >= _FEWEST:
        spans += ((start, end, NUMBER) for start, end in _numbers(text))
    parts, place, most = [], 0, len(text) if most is None else most
    for start, end, label in sorted(spans):
        if start >= most:
            break
        if end > place:
            parts += [text[place:start], label] if start >= place else []
            place = end
    return "".join((*parts, text[place:most]))


def mask_name(name: str) -> str:
    """The same for what names a visitor; visitors whose names are masked are distinguished by a hash of the name."""
    masked = mask(name)
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()
    return name if masked == name else f"{masked} {digest[:12]}"


def _numbers(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the numbers of a text; they may overlap."""
    for pattern, fits in _COMPILED:
        place = 0
        while found := pattern.search(text, place):
            ends = _ends(text, *found.span()) if fits in (_is_account, _is_card) else (found.end(),)
            end = next((end for end in ends if fits(text[found.start() : end])), 0)
            if end:
                yield found.start(), end
            place = end or found.start() + 1
    yield from (found.span(1) for found in _AFTER_WORD.finditer(text))
    yield from (found.span() for found in _LONG.finditer(text) if _is_long_number(found[0]))
    # in pieces that overlap: the time of the matcher grows with the square of the length
    pieces = (
        (begin, text[begin : begin + _PIECE + _LONGEST]) for begin in range(0, len(text), _PIECE)
    )
    for (begin, piece), region in itertools.product(pieces, _REGIONS):
        if _digits(piece) >= _FEWEST:
            for number in PhoneNumberMatcher(piece, region, leniency=Leniency.VALID):
                if _is_phone(number.raw_string, region):
                    yield begin + number.start, begin + number.end


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    """Ends of a number and of its beginnings that end with a word, the longest first."""
    yield end
    for place in range(end - 1, start + 6, -1):
        if not text[place].isalnum() and text[place - 1].isalnum():
            yield place
