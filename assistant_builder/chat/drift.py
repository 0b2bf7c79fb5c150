"""Whether visitors ask other questions than those of the test, on which a promise rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.chat.visitor_log import MAX_QUESTIONS, TALK, checked, log_file, opened
from assistant_builder.documents.store import Documents
from assistant_builder.i18n import Message, m, mn
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.study.contents import SampleLine

LEAST = 30
"""Questions of visitors from which they are compared with the test."""
LEVEL = 0.001
"""Largest p-value of a difference; it is looked at often."""
Row = tuple[int, float | None]
"""Whether a question was declined, and the confidence of the rule."""


@dataclass(frozen=True)
class Drift:
    """Visitors' questions compared with those of the test.

    Attributes:
        asked: Questions of visitors to the assistant that answered last, without small talk.
        declined: Share of them that was declined.
        tested_declined: The same share of the test questions.
        declines_more: Whether that is a larger share than in the test (Fisher's exact test).
        confidence: Median confidence of the rule in their answers; None if it is not kept.
        tested_confidence: The same of the test questions.
        less_confident: Whether it is lower than in the test (Mann-Whitney).
        stale: Changes of the documents on which nobody has decided.
    """

    asked: int
    declined: float
    tested_declined: float
    declines_more: bool
    confidence: float | None
    tested_confidence: float
    less_confident: bool
    stale: int

    def sentences(self) -> Iterator[Message]:
        """What changed since the test, if anything did."""
        if self.less_confident:
            yield m(
                "Visitors ask questions unlike those of the test: the median confidence of the answers is {now:.2f}, "
                "and was {tested:.2f}.",
                now=self.confidence,
                tested=self.tested_confidence,
            )
        if self.declines_more:
            yield m(
                "Visitors ask about what the data lack: {now:.0f} % of their questions were declined, and "
                "{tested:.0f} % of those of the test.",
                now=100 * self.declined,
                tested=100 * self.tested_declined,
            )
        if self.stale:
            yield mn(
                "{count} statement of the documents changed, and nobody has decided on it.",
                "{count} statements of the documents changed, and nobody has decided on them.",
                self.stale,
            )


def read_drift(study: Study, served: Study) -> Drift | None:
    """Compare visitors' questions with the test; None with fewer than :data:`LEAST`, or without a test.

    Args:
        study: The first study of the versions, which keeps the questions of visitors.
        served: The version that is served.
    """
    path = log_file(study)
    if not path.is_file():
        return None
    with opened(path) as connection:
        last = connection.execute(
            "SELECT model FROM question ORDER BY rowid DESC LIMIT 1"
        ).fetchone() or ("",)
        rows = checked(
            connection.execute(
                "SELECT declined, confidence FROM question LEFT JOIN drawn USING (id) WHERE model = ? AND state != ? "
                "LIMIT ?",
                (*last, TALK, MAX_QUESTIONS),  # a database of somebody else can have more
            ).fetchall(),
            Row,
        )
    tested = _tested(served, str(last[0]).rpartition("-")[2])
    if len(rows) < LEAST or not tested:
        return None
    return compared(rows, tested, len(Documents(served).undecided))


def compared(rows: Sequence[Row], tested: Sequence[Row], stale: int = 0) -> Drift:
    """Compare visitors' questions with those of the test; see :class:`Drift` for ``stale``."""
    from scipy.stats import fisher_exact

    declined, before = (sum(bool(each) for each, _ in group) for group in (rows, tested))
    table = [[declined, len(rows) - declined], [before, len(tested) - before]]
    sure, were_sure = (_confidences(group) for group in (rows, tested))
    lower = len(sure) >= LEAST and bool(were_sure)
    return Drift(
        len(rows),
        declined / len(rows),
        before / len(tested),
        bool(fisher_exact(table, alternative="greater").pvalue < LEVEL),
        median(sure) if sure else None,
        median(were_sure) if were_sure else 0.0,
        lower and _is_lower(sure, were_sure),
        stale,
    )


def _is_lower(sure: Sequence[float], were_sure: Sequence[float]) -> bool:
    from scipy.stats import mannwhitneyu

    # exact ranks of thousands of answers take minutes, and are not needed from LEAST on
    found = mannwhitneyu(sure, were_sure, alternative="less", method="asymptotic")
    return bool(found.pvalue < LEVEL)


def _confidences(rows: Sequence[Row]) -> list[float]:
    """Those of the questions that were answered."""
    return [each for declined, each in rows if not declined and each is not None]


def _tested(study: Study, arm: str) -> list[Row]:
    """Whether each test question was declined, and the confidence of the rule."""
    known = {name: study.cell_folder(spec.cell) for name, spec in ARMS.items()}
    known[COPY] = study.evals_folder / "baselines" / COPY
    path = known[arm] / "samples.jsonl" if arm in known else None
    lines = read_jsonl(path, SampleLine) if path is not None else []
    return [(bool(line.get("declined")), line.get("confidence")) for line in lines]
