"""Text encoding detection: byte order marks, zero bytes, UTF-8 validity, and plausibility as Western European text.

Every encoding other than UTF-8 is noted. A file whose encoding is uncertain is refused.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Message, Text, m, mn

_BYTE_ORDER_MARKS = (  # UTF-32 first, because its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with byte order mark"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16, little-endian, with byte order mark"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16, big-endian, with byte order mark"),
)
_SAVE_AS_UTF8 = N_(
    "Save the file as UTF-8 (in Excel: 'CSV UTF-8'; in a shell: iconv -f ENCODING -t UTF-8 FILE > NEW) and try again"
)
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MULTIBYTE = re.compile(
    b"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_NON_ASCII = re.compile("[\x80-\U0010ffff]")
_NON_ASCII_WORD = re.compile(r"(?<![0-9A-Za-z_])[0-9A-Za-z_]*+[^\x00-\x7f]\w*")
_LONGEST_EXAMPLE = 40
# Windows-1252 characters that occur next to any character in Western text: quotes, dashes, currency and degree signs.
_TYPOGRAPHY = frozenset("‘’“”‚„‹›«»–—…•·†‡‰™©®§¶°±×÷µ€£¥¢¼½¾\xa0\xad¹²³ªº")
_RARE_SIGNS = frozenset("¦¬¨¯´¸¤ˆ˜")
_OPENING_PUNCTUATION = frozenset("¿¡")


def decode(data: bytes) -> tuple[str, Text]:
    """Decode a text file.

    Returns:
        The text without byte order mark, and a note on the encoding (empty for UTF-8). A few damaged bytes of a UTF-8
        file become lone surrogates U+DC80…U+DCFF, so that only their rows need to be rejected.

    Raises:
        DataError: The file is not text, or its encoding is uncertain.
    """
    decoded = _with_byte_order_mark(data) or _utf16_without_mark(data) or _utf8(data)
    text, note = decoded or _windows_1252(data)
    controls = len(_CONTROLS.findall(text))
    if controls > max(3, len(text) // 20):
        raise DataError(
            m(
                "this is not text: {controls} of its {text} characters are control characters",
                controls=controls,
                text=len(text),
            ),
            remedy=m("Use a CSV, TSV, JSON, JSONL, XLSX or Parquet file"),
        )
    return text, note


def _with_byte_order_mark(data: bytes) -> tuple[str, Text] | None:
    for mark, codec, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(codec), m("read as {name}", name=name)
            except UnicodeDecodeError as error:
                if codec == "utf-8":
                    return None
                raise DataError(
                    m(
                        "the byte order mark declares {name}, but byte {start} is invalid in it",
                        name=name,
                        start=error.start + len(mark),
                    ),
                    remedy=m(_SAVE_AS_UTF8),
                ) from error
    return None


def _utf16_without_mark(data: bytes) -> tuple[str, Text] | None:
    """Detect UTF-16 by a zero byte at every other position (ASCII letters, spaces, separators, line ends)."""
    even, odd = data[0::2].count(0), data[1::2].count(0)
    if len(data) % 2 or max(even, odd) < 2 or min(even, odd) * 10 > max(even, odd):
        return None
    codec, order, positions = (
        ("utf-16-le", "little-endian", "odd") if odd > even else ("utf-16-be", "big-endian", "even")
    )
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    # UTF-8 text with a few zero bytes decodes to unassigned and private characters.
    sample = text[:20_000]
    unusual = sum(
        unicodedata.category(character) in ("Cn", "Co", "Cc")
        for character in sample
        if character > " "
    )
    if unusual * 50 > len(sample):
        return None
    if max(even, odd) * 10 < len(data) and _is_utf8(data):
        return None
    return text, m(
        "read as UTF-16, {order}, without byte order mark: {max} of its {even} zero bytes are at {positions} positions",
        order=order,
        max=max(even, odd),
        even=even + odd,
        positions=positions,
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _utf8(data: bytes) -> tuple[str, Text] | None:
    """Decode valid UTF-8, or UTF-8 with a few damaged bytes among many intact non-ASCII characters."""
    if _is_utf8(data):
        return data.decode("utf-8"), ""
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    damaged = sum("\udc80" <= character <= "\udcff" for character in text)
    intact = len(_MULTIBYTE.findall(data))
    if intact <= 2 * damaged:
        return None
    return text, mn(
        "read as UTF-8 with {count} damaged byte ({intact:,} non-ASCII characters are intact); rows with a damaged "
        "byte are rejected",
        "read as UTF-8 with {count} damaged bytes ({intact:,} non-ASCII characters are intact); rows with a "
        "damaged byte are rejected",
        damaged,
        intact=intact,
    )


def _windows_1252(data: bytes) -> tuple[str, Text]:
    non_ascii = sum(byte >= 0x80 for byte in data)
    try:
        text = data.decode("windows-1252")
    except UnicodeDecodeError:
        text = ""
    if not text or _MULTIBYTE.search(data) or not _looks_western(text):
        raise DataError(
            m(
                "the encoding is unknown: {non_ascii} of {data} bytes are not ASCII, and they are neither UTF-8 nor "
                "plausible as Windows-1252{encoding_hint}",
                non_ascii=non_ascii,
                data=len(data),
                encoding_hint=_encoding_hint(data),
            ),
            remedy=m(_SAVE_AS_UTF8),
        )
    words = (match.group()[:_LONGEST_EXAMPLE] for match in _NON_ASCII_WORD.finditer(text))
    examples = ", ".join(f'"{word}"' for word in list(dict.fromkeys(words))[:3])
    return text, mn(
        "read as Windows-1252: not UTF-8 because of {count} byte (decoded as {examples})",
        "read as Windows-1252: not UTF-8 because of {count} bytes (decoded as {examples})",
        non_ascii,
        examples=examples,
    )


def _looks_western(text: str) -> bool:
    """Whether non-ASCII characters occur where Western European languages have them.

    Cyrillic or Greek decoded as Windows-1252 gives runs of accented letters, Central European text gives ³ or ¹ in
    words.
    """
    letters = inside_runs = 0
    for match in _NON_ASCII.finditer(text):
        start, character = match.start(), match.group()
        before, after = text[start - 1 : start], text[start + 1 : start + 2]
        if character.isalpha() and character not in "ªº":
            letters += 1
            inside_runs += all(
                _NON_ASCII.match(each) and each.isalpha() for each in (before, after)
            )
        elif character in _OPENING_PUNCTUATION:
            if before.isalpha():
                return False
        elif character not in _TYPOGRAPHY:
            if character not in _RARE_SIGNS:
                return False
        elif character in "¹²³ªº¼½¾§¶" and after.isalpha() and before.isalpha():
            return False
    ascii_letters = len(re.findall("[A-Za-z]", text))
    return inside_runs * 10 <= letters and letters * 10 <= 4 * (letters + ascii_letters) + 10


def _encoding_hint(data: bytes) -> Text:
    if len(data) < 64:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(data[:200_000]).best()
    if best is None or best.language == "Unknown" or best.encoding in ("utf_8", "ascii", "cp1252"):
        return ""
    hint = m("it could be {encoding} ({language})", encoding=best.encoding, language=best.language)
    return Message("; {hint}", {"hint": hint})
