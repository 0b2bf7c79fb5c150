"""Read the catalogs: ``.po`` files, which people edit, as the ``.mo`` format that the standard library reads."""

from __future__ import annotations

import ast
import re
import struct

_LINE = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr)(?:\[(\d+)\])?\s+(".*")')


def read_catalog(text: str) -> dict[tuple[str, str, str], list[str]]:
    """The messages of a ``.po`` file: (context, message, plural) → its translations; fuzzy ones are left out."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for block in re.split(r"\n[ \t]*\n", text):
        parts: dict[str, str] = {}
        key, flags = "", ""
        for line in block.splitlines():
            line = line.strip()
            match = _LINE.fullmatch(line)
            if line.startswith("#"):
                flags += line if line.startswith("#,") else ""
            elif match:
                key = match[1] + (match[2] or "")
                parts[key] = ast.literal_eval(match[3])
            elif line.startswith('"') and key:
                parts[key] += ast.literal_eval(line)
        if "msgid" in parts and "fuzzy" not in flags:
            strings = [parts[key] for key in sorted(parts) if key.startswith("msgstr")]
            found[parts.get("msgctxt", ""), parts["msgid"], parts.get("msgid_plural", "")] = strings
    return found


def compile_catalog(text: str) -> bytes:
    """A ``.po`` file as ``.mo``; messages without a translation are left out."""
    entries = []
    for (context, message, plural), strings in read_catalog(text).items():
        if not all(strings):
            continue
        key = (f"{context}\x04" if context else "") + message + (f"\0{plural}" if plural else "")
        entries.append((key.encode(), "\0".join(strings).encode()))
    entries.sort()
    tables, data, start = [b"", b""], b"", 28 + 16 * len(entries)
    for place in (0, 1):
        for entry in entries:
            tables[place] += struct.pack("<II", len(entry[place]), start + len(data))
            data += entry[place] + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return header + b"".join(tables) + data
