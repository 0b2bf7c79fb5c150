"""Formulas, references and table of contents of the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from assistant_builder.i18n import bits, t
from assistant_builder.quantization import METHODS
from evals.report.glossary import TEXTS
from evals.report.rows import export_table
from evals.report.schema import Report
from evals.tasks.general_knowledge import TASK as RETENTION


@dataclass(frozen=True)
class Formula:
    """One number of the report: in ``formula``, ``_x`` and ``_{xy}`` are subscripts; ``sources`` counts from 1."""

    name: str
    formula: str
    about: str
    sources: tuple[int, ...] = ()


def subscripts(text: str) -> list[tuple[str, bool]]:
    """Split a formula into pieces, each with whether it is a subscript: ``w_i x`` gives ``w``, ``i``, `` x``."""
    pieces = re.split(r"_(?:\{([^{}]*)\}|(\w))", text)
    cut = []
    for plain, braced, single in zip(
        pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True
    ):
        cut += [(plain, False), (braced or single or "", True)]
    return [(piece, low) for piece, low in cut if piece]


def formulas(quant_type: str) -> tuple[Formula, ...]:
    """The formulas of a report on the storage ``quant_type``, a value of ``model.quant_type``."""
    stored = "by default NF4 with double quantization"
    if quant_type != "nf4" and quant_type in METHODS:
        method = METHODS[quant_type]
        rounds = ", which also rounds what W is multiplied with" * method.rounds_inputs
        stored = f"{method.label}{rounds}"
    texts = {"{bits}": str(bits()), "{stored}": stored}

    def filled(text: str) -> str:
        return re.sub(r"\{(?:bits|stored)\}", lambda place: texts[place[0]], text)

    return tuple(
        Formula(
            entry["name"],
            filled(entry["formula"]),
            filled(entry["about"]),
            tuple(entry.get("sources", ())),
        )
        for entry in TEXTS["formulas"]
    )


REFERENCES: tuple[str, ...] = tuple(TEXTS["references"])
"""The sources of the methods, cited by number from 1."""
CONTENTS: tuple[dict[str, Any], ...] = tuple(TEXTS["contents"])
"""Groups of sections: anchor and title of the group, its title in the report of a single arm (``alone``), and anchor
and short name of each section."""
_OF_COMPARISONS = frozenset(
    {
        "bounds",
        "flips",
        "fidelity",
        "judge",
        "votes",
        "power",
        "noise",
        "steps",
        "twins",
    }
)
"""Sections that compare the two assistants."""


def contents(report: Report) -> list[dict[str, Any]]:
    """The table of contents, without the sections that do not apply to the report."""
    others = [name for name in report.tasks if name != RETENTION]
    alone = not report.compares
    left_out = {*(() if others else ("tasks",)), *(_OF_COMPARISONS if alone else ())}
    if not report.uncovered:
        left_out.add("uncovered")
    if not report.approaches:
        left_out.add("approaches")
    if report.own_questions is None:
        left_out.add("own")
    if not (report.formats or report.formats_skipped):
        left_out.add("formats")
    if alone and export_table(report) is None:
        left_out.add("exports")
    if alone and not report.contrasts:
        left_out.add("differences")
    return [
        {
            "anchor": group["anchor"],
            "title": t(group.get("alone", group["title"]) if alone else group["title"]),
            "sections": [
                {"anchor": key, "name": t(name)}
                for key, name in group["sections"].items()
                if key not in left_out
            ],
        }
        for group in CONTENTS
    ]
