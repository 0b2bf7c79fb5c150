"""The order of the page: three questions with their sections, then what stands behind the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.reading import is_compared
from evals.report.views.sources import export_table
from evals.retention import TASK as RETENTION

DID = ("did", "Did 4-bit cost anything?")
SEEN = ("seen", "How much could we even have seen?")
FROM = ("from", "Where does the loss come from?")
BEHIND = ("behind", "Behind the numbers")

CONTENTS: tuple[tuple[tuple[str, str], tuple[tuple[str, str], ...]], ...] = (
    (DID, (("quality", "Quality"), ("alone", "Not compared"), ("flips", "Flips"), ("fidelity", "Fidelity"),
           ("worst", "Worst items"), ("retention", "Forgetting"), ("tasks", "Other tasks"), ("declining", "Declining"),
           ("reliability", "Reliability"), ("judge", "Judge"), ("votes", "Votes"))),
    (SEEN, (("power", "Power"), ("noise", "Noise floor"), ("seeds", "Seeds"), ("caveats", "Caveats"))),
    (FROM, (("waterfall", "Waterfall"), ("differences", "Every difference"), ("cells", "Every cell"),
            ("exports", "Exports"), ("untuned", "Without tuning"))),
    (BEHIND, (("answers", "Answers"), ("training", "Training"), ("cost", "Time and cost"), ("twins", "Twins"),
              ("data", "Data"), ("method", "Method"), ("references", "References"), ("context", "Others' figures"),
              ("glossary", "Glossary"), ("provenance", "Provenance"))),
)
"""Groups of sections: anchor and heading of the group, then anchor and short name of each section."""
_ALONE = {"did": "How good is the assistant?", "seen": "How sure is that?", "from": "Every figure"}
"""Headings of groups where one arm was trained, and nothing is compared."""
_OF_COMPARISONS = frozenset({"flips", "fidelity", "worst", "judge", "votes", "power", "noise", "waterfall", "twins"})
"""Sections that compare the two assistants."""


def contents(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of contents; sections that the report has no use for are left out."""
    others = [name for name in report.get("tasks") or {} if name != RETENTION]
    alone = not is_compared(report)
    left_out = {*(() if others else ("tasks",)), *(_OF_COMPARISONS if alone else ("alone",))}
    if alone and export_table(report) is None:
        left_out.add("exports")
    if alone and not report["contrasts"]:
        left_out.add("differences")
    return [
        {"anchor": anchor, "title": _ALONE.get(anchor, title) if alone else title,
         "sections": [{"anchor": key, "name": name} for key, name in sections if key not in left_out]}
        for (anchor, title), sections in CONTENTS
    ]
