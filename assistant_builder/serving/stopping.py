"""Texts that end an answer."""

from __future__ import annotations

from collections.abc import Sequence


class Cutter:
    """Lets a growing text through up to the first of some texts; what may be the beginning of one is held back.

    Args:
        stops: The texts, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._given = 0
        self.cut = False

    def take(self, text: str, *, last: bool) -> str:
        """What may be shown of a text beyond what was shown before.

        Args:
            text: The whole text so far; it begins with what it was before.
            last: Nothing more will come.
        """
        found = [place for stop in self._stops if (place := text.find(stop, self._given)) >= 0]
        self.cut = bool(found)
        end = min(found) if found else len(text) if last else len(text) - self._held(text)
        shown = text[self._given : end]
        self._given = max(self._given, end)
        return shown

    def _held(self, text: str) -> int:
        """Characters at the end of a text with which one of the texts may begin."""
        return max(
            (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length])),
            default=0,
        )
