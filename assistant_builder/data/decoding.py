"""Bytes to text, by evidence: byte order marks, zero bytes, UTF-8 validity, and what Western European text looks like.

Nothing is guessed silently. What is not plainly UTF-8 is said in a note, and what fits no reading is refused.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

from assistant_builder.errors import DataError

_MARKS = (  # UTF-32 before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with byte order mark"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16, little-endian, with byte order mark"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16, big-endian, with byte order mark"),
)
_SAVE_AS_UTF8 = (
    "Save the file as UTF-8 (in Excel: 'CSV UTF-8'; in a shell: iconv -f ENCODING -t UTF-8 FILE > NEW) and try again"
)
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MULTIBYTE = re.compile(b"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile("[\x80-\U0010ffff]")
# Windows-1252 characters that stand in Western text beside anything: quotes, dashes, currency, degree and the like.
_TYPOGRAPHY = frozenset("‘’“”‚„‹›«»–—…•·†‡‰™©®§¶°±×÷µ€£¥¢¼½¾\xa0\xad¹²³ªº")
_OPENING = frozenset("¿¡")


@dataclass(frozen=True)
class Decoded:
    """Text, and how it was made from bytes.

    Attributes:
        text: Without byte order mark. A byte that is not UTF-8 in a file that otherwise is stands as a lone
            surrogate U+DC80…U+DCFF, so that only the rows that hold one need be rejected.
        encoding: In words.
        notes: What a reader of the findings should know; empty for plain UTF-8.
    """

    text: str
    encoding: str
    notes: tuple[str, ...] = ()


def decode(data: bytes, where: str) -> Decoded:
    """Turn the bytes of a text file into text.

    Args:
        data: The whole file.
        where: What errors call the file.

    Raises:
        DataError: It is no text, or text in an encoding that cannot be told with certainty.
    """
    decoded = _by_mark(data, where) or _utf16_without_mark(data) or _utf8(data) or _windows_1252(data, where)
    controls = len(_CONTROLS.findall(decoded.text))
    if controls > max(3, len(decoded.text) // 20):
        raise DataError(
            f"this is not text: {controls} of its {len(decoded.text)} characters are control characters",
            where=where, remedy="Give a CSV, TSV, JSON, JSONL, XLSX or Parquet file",
        )
    return decoded


def _by_mark(data: bytes, where: str) -> Decoded | None:
    for mark, codec, name in _MARKS:
        if data.startswith(mark):
            try:
                text = data[len(mark) :].decode(codec)
            except UnicodeDecodeError as error:
                if codec == "utf-8":
                    return None
                raise DataError(
                    f"the file says it is {name}, but byte {error.start + len(mark)} does not fit", where=where,
                    remedy=_SAVE_AS_UTF8,
                ) from error
            return Decoded(text, name, (f"read as {name}",))
    return None


def _utf16_without_mark(data: bytes) -> Decoded | None:
    """UTF-16 shows itself by zero bytes at every other place (ASCII letters, spaces, separators, line ends)."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if len(data) % 2 or max(even, odd) < 2 or min(even, odd) * 10 > max(even, odd):
        return None
    codec, name = ("utf-16-le", "little-endian") if odd > even else ("utf-16-be", "big-endian")
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    # UTF-8 text with a few stray zero bytes would come out as unassigned and private characters.
    sample = text[:20_000]
    strange = sum(unicodedata.category(character) in ("Cn", "Co", "Cc") for character in sample if character > " ")
    if strange * 50 > len(sample):
        return None
    if max(even, odd) * 10 < len(data) and _is_utf8(data):
        return None
    places = "odd" if odd > even else "even"
    return Decoded(
        text, f"UTF-16, {name}, without byte order mark",
        (f"read as UTF-16, {name}, without byte order mark: {max(even, odd)} zero bytes, all but "
         f"{min(even, odd)} at {places} places",),
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _utf8(data: bytes) -> Decoded | None:
    """UTF-8, whole or with a few damaged bytes among many good characters beyond ASCII."""
    if _is_utf8(data):
        return Decoded(data.decode("utf-8"), "UTF-8")
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    damaged = sum("\udc80" <= character <= "\udcff" for character in text)
    good = len(_MULTIBYTE.findall(data))
    if good <= 2 * damaged:
        return None
    return Decoded(
        text, "UTF-8, damaged",
        (f"read as UTF-8, in which {damaged} bytes are damaged ({good} characters beyond ASCII are whole); "
         "rows with a damaged byte are rejected",),
    )


def _windows_1252(data: bytes, where: str) -> Decoded:
    """Windows-1252, if every high byte stands where Western European text has one."""
    high = sum(byte >= 0x80 for byte in data)
    try:
        text = data.decode("windows-1252")
    except UnicodeDecodeError:
        text = ""
    if not text or _MULTIBYTE.search(data) or not _looks_western(text):
        raise DataError(
            f"the encoding cannot be told: {high} of {len(data)} bytes are beyond ASCII, and they are neither UTF-8 "
            f"nor plausible as Windows-1252{_hint(data)}",
            where=where, remedy=_SAVE_AS_UTF8,
        )
    words = list(dict.fromkeys(re.findall(r"\w*[^\x00-\x7f]\w*", text)))[:3]
    shown = ", ".join(f'"{word}"' for word in words)
    return Decoded(
        text, "Windows-1252",
        (f"read as Windows-1252: {high} {'byte is' if high == 1 else 'bytes are'} not UTF-8 (they read as {shown})",),
    )


def _looks_western(text: str) -> bool:
    """Whether the characters beyond ASCII are placed as in text of Western European languages.

    Read as Windows-1252, Cyrillic or Greek gives long runs of accented letters, and Central European text gives
    signs such as ³ or ¹ inside words; both are told here.
    """
    letters = inside_runs = 0
    for match in _HIGH.finditer(text):
        at, character = match.start(), match.group()
        before, after = text[at - 1 : at], text[at + 1 : at + 2]
        if character.isalpha() and character not in "ªº":
            letters += 1
            inside_runs += bool(_HIGH.match(before) and _HIGH.match(after) and before.isalpha() and after.isalpha())
        elif character in _OPENING:
            if before.isalpha():
                return False
        elif character not in _TYPOGRAPHY:
            if character not in "¦¬¨¯´¸¤ˆ˜":
                return False
        elif character in "¹²³ªº¼½¾§¶" and after.isalpha() and before.isalpha():
            return False
    ascii_letters = len(re.findall("[A-Za-z]", text))
    return inside_runs * 10 <= letters and letters * 10 <= 4 * (letters + ascii_letters) + 10


def _hint(data: bytes) -> str:
    if len(data) < 64:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(data[:200_000]).best()
    if best is None or best.encoding in ("utf_8", "ascii", "cp1252"):
        return ""
    return f"; it could be {best.encoding} ({best.language})" if best.language != "Unknown" else ""
