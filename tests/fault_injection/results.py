"""Counts of injected faults and lost results, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One kind of fault.

    Attributes:
        fault: Description of the fault.
        injected: Number of injections.
        compared: Results compared with those of the undisturbed run, or sentences looked at.
        lost: Descriptions of results that differ from the promise.
        missed: Injections that came too late to have an effect.
    """

    fault: str
    injected: int = 0
    compared: int = 0
    lost: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, done: bool, otherwise: str) -> None:
        """Count a fault, or note that it came too late."""
        if done:
            self.injected += 1
        else:
            self.missed.append(otherwise)

    def compare(self, problems: Sequence[str], what: str) -> None:
        """Count a comparison and keep what was not as promised."""
        self.compared += 1
        self.lost += [f"{what}: {problem}" for problem in problems]


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line a kind of fault; below it what was lost."""
    lines = ["| fault | injected | compared | lost |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {row.fault} | {row.injected} | {row.compared} | {len(row.lost)} |" for row in rows]
    lines += [f"LOST  {row.fault}: {problem}" for row in rows for problem in row.lost]
    lines += [f"late  {row.fault}: {problem}" for row in rows for problem in row.missed]
    return "\n".join(lines)
