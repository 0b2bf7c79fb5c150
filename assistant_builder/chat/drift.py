"""Whether visitors ask other questions than those of the test, on which a promise rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.chat.visitor_log import MAX_QUESTIONS, checked, log_file, opened
from assistant_builder.documents.store import Documents
from assistant_builder.i18n import Message, m, mn
from assistant_builder.retrieval.copying import COPY
from assistant_builder.study import Study
from assistant_builder.study.contents import ItemLine, SampleLine

LEAST = 30
"""Questions of visitors from which they are compared with the test."""
LEVEL = 0.001
"""Largest p-value of a difference; it is looked at often."""
Row = tuple[int, float | None]
"""Whether a question was declined, and the score of the best answer of the data
(:mod:`assistant_builder.retrieval.ranking`)."""


@dataclass(frozen=True)
class Drift:
    """Visitors' questions compared with those of the test.

    Attributes:
        asked: Questions of visitors to the assistant that answered last, without small talk.
        declined: Share of them that was declined.
        tested_declined: The same share of the test questions.
        declines_more: Whether that is a larger share than in the test (Fisher's exact test).
        similarity: Median score of the best answer to them; None if it is not kept.
        tested_similarity: The same of the test questions.
        unlike: Whether it is lower than in the test (Mann-Whitney).
        stale: Changes of the documents on which nobody has decided.
    """

    asked: int
    declined: float
    tested_declined: float
    declines_more: bool
    similarity: float | None
    tested_similarity: float
    unlike: bool
    stale: int

    def sentences(self) -> Iterator[Message]:
        """What changed since the test, if anything did."""
        if self.unlike:
            yield m(
                "Visitors ask questions unlike those of the test: the nearest question of the data is typically "
                "{now:.0f} % similar, in the test {tested:.0f} %.",
                now=100 * (self.similarity or 0),
                tested=100 * self.tested_similarity,
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
                "SELECT declined, similarity FROM question LEFT JOIN found USING (id) "
                "WHERE model = ? AND state != 'talk' LIMIT ?",
                (*last, MAX_QUESTIONS),  # a database of somebody else can have more
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
    alike, were_alike = (
        [each for _, each in group if each is not None] for group in (rows, tested)
    )
    return Drift(
        len(rows),
        declined / len(rows),
        before / len(tested),
        bool(fisher_exact(table, alternative="greater").pvalue < LEVEL),
        median(alike) if alike else None,
        median(were_alike) if were_alike else 0.0,
        len(alike) >= LEAST and bool(were_alike) and _is_lower(alike, were_alike),
        stale,
    )


def _is_lower(alike: Sequence[float], were_alike: Sequence[float]) -> bool:
    from scipy.stats import mannwhitneyu

    # exact ranks of thousands of questions take minutes, and are not needed from LEAST on
    found = mannwhitneyu(alike, were_alike, alternative="less", method="asymptotic")
    return bool(found.pvalue < LEVEL)


def _tested(study: Study, arm: str) -> list[Row]:
    """Whether each test question was declined, and the score of the best answer to it."""
    known = {name: study.cell_folder(spec.cell) for name, spec in ARMS.items()}
    known[COPY] = study.evals_folder / "baselines" / COPY
    path = known[arm] / "samples.jsonl" if arm in known else None
    if path is None:
        return []
    items = read_jsonl(study.evals_folder / "tasks" / "items.jsonl", ItemLine)
    alike = {item.get("item"): item.get("evidence", {}).get("similarity") for item in items}
    return [
        # copying is served with questions in its index that the test held out
        (bool(line.get("declined")), line.get("served_similarity", alike.get(line.get("item"))))
        for line in read_jsonl(path, SampleLine)
    ]
