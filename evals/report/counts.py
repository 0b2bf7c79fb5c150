"""How many test questions an assistant answered right or wrong, or declined wrongly."""

from __future__ import annotations

from assistant_builder.arms import ARMS
from assistant_builder.study.contents import Entries
from evals.declaration import EXACT, FALSE_DECLINES
from evals.report.number_format import count, number
from evals.report.schema import Report


def total(report: Report, metric: str) -> int:
    """The number of test questions that a metric is computed on."""
    counted = [row["n"] for row in report.contrasts if row["metric"] == metric]
    return (
        int(counted[0])
        if counted
        else sum(
            any(metric in metrics for metrics in item["metrics"].values()) for item in report.items
        )
    )


def score_text(report: Report, cell: Entries, metric: str) -> str:
    """A cell's figure: the number of right answers for exact match."""
    value = cell["metrics"][metric]
    return count(round(value * total(report, metric))) if metric == EXACT else number(value, metric)


def declined_wrongly(report: Report, arm: str) -> int | None:
    """The number of questions that an assistant declined wrongly; None if that was not scored."""
    share = report.cells[ARMS[arm].cell]["metrics"].get(FALSE_DECLINES)
    return None if share is None else round(share * total(report, FALSE_DECLINES))


def wrong_answers(report: Report, arm: str) -> int:
    """The number of questions that an assistant answered wrong and did not decline."""
    asked, falsely = total(report, EXACT), declined_wrongly(report, arm)
    return max(
        0, asked - round(report.cells[ARMS[arm].cell]["metrics"][EXACT] * asked) - (falsely or 0)
    )
