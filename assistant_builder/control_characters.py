"""Control characters in texts of others, made visible: a terminal that prints them would obey them (ANSI escapes)."""

from __future__ import annotations

_VISIBLE = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},  # ESC → ␛
    0x7F: "\u2421", **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def visible(text: str) -> str:
    """The text with a symbol for each control character but tabs and ends of lines.

    Args:
        text: Any text.
    """
    return text.translate(_VISIBLE)
