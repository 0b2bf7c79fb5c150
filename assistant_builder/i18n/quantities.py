"""Bytes and durations in words, in the language of the reader."""

from __future__ import annotations

from assistant_builder.i18n import Message, localize, m, render


def format_bytes(value: float | None) -> str:
    """Bytes in decimal units: ``269 MB``; a dash for None."""
    return "–" if value is None else render(bytes_of(value))


def bytes_of(value: float) -> Message:
    """:func:`format_bytes` as a value of messages."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= power:
            digits = ".3g" if value < 9.995e11 else ",.0f"
            return Message(f"{{value:{digits}}} {unit}", {"value": value / power})
    return m("{bytes:.0f} bytes", bytes=value)


def format_duration(seconds: float | None) -> str:
    """Seconds as ``2 min 21 s``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return localize(f"{seconds:.1f} s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_remaining(seconds: float) -> str:
    """An estimate of seconds: ``20 s``, from two minutes on ``7 min``."""
    if seconds < 115:
        return f"{max(10, 10 * round(seconds / 10))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
