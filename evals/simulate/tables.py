"""The simulations as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from evals.simulate.coverage import Coverage
from evals.simulate.equal_arms import EqualArms, Family


def coverage_table(rows: Sequence[Coverage]) -> str:
    """How often intervals hold the truth."""
    return table(
        ("differences", "items", "clusters", "covered", "too high", "too low", "mean width", "“too few items”"),
        [
            (row.case, str(row.n), str(row.clusters or "–"), f"{row.covered:.1%}", f"{row.above:.1%}",
             f"{row.below:.1%}", f"{row.width:.3f}", f"{row.warned:.0%}")
            for row in rows
        ],
    )


def equal_arms_table(rows: Sequence[EqualArms]) -> str:
    """How often equal arms get which verdict."""
    return table(
        ("equal arms", "items", "clusters", "“worse”", "“no worse”", "p ≤ 0.05"),
        [
            (row.case, str(row.n), str(row.clusters or "–"), f"{row.worse:.1%}", f"{row.no_worse:.1%}",
             f"{row.significant:.1%}")
            for row in rows
        ],
    )


def family_table(rows: Sequence[Family]) -> str:
    """How often some metric of equal arms is called different."""
    return table(
        ("equal arms", "items", "clusters", "metrics", "some p ≤ 0.05", "some p ≤ 0.05 after Holm"),
        [
            (row.case, str(row.n), str(row.clusters or "–"), str(row.metrics), f"{row.any_significant:.1%}",
             f"{row.any_adjusted:.1%}")
            for row in rows
        ],
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are figures."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows))
