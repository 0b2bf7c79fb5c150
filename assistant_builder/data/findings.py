"""What checking a dataset found, all of it together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from assistant_builder.data.grouping import shortage
from assistant_builder.data.records import Dataset, Pair, Rejection
from assistant_builder.data.wording import Problem, problems_of
from assistant_builder.errors import DataError

LISTED = 200
"""Entries of one kind that are listed one by one; the counts are of all."""


@dataclass(frozen=True)
class Duplicate:
    """``row`` says the same as the earlier row ``of``, word for word, and is left out."""

    row: int
    of: int


@dataclass(frozen=True)
class NearDuplicate:
    """The question of ``row`` nearly repeats that of the earlier row ``of`` (Jaccard ``similarity`` of word pairs)."""

    row: int
    of: int
    similarity: float
    question: str
    other: str


@dataclass(frozen=True)
class Repeated:
    """One text that several rows share: a question with conflicting answers, or an answer to several questions."""

    text: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """What :func:`assistant_builder.data.check_pairs` found.

    Attributes:
        dataset: What was checked.
        usable: The pairs a study works with: whole, and each once.
        rejected: Rows that cannot be used, with the reason; those of the dataset and those found by checking.
        exact_duplicates: Later copies, left out of ``usable``.
        near_duplicates: Rows whose question nearly repeats an earlier one; they stay in ``usable``.
        conflicts: Questions to which several rows give different answers; they stay.
        one_word_answers: Rows whose answer is a single word; they stay.
        answers_shared: Answers given to several questions; often honest, so they stay.
        odd_texts: Kind of oddity → rows: mojibake, replacement characters, answers that repeat the question.
        straddling_groups: Groups that the given split puts on both sides of the held-out boundary.
        tokens: Row → tokens of the whole pair under the model's template; empty where no tokenizer was given.
        max_length: Tokens beyond which a pair is over-long.
        threshold: Similarity from which questions are near-duplicates.
    """

    dataset: Dataset
    usable: tuple[Pair, ...]
    rejected: tuple[Rejection, ...]
    exact_duplicates: tuple[Duplicate, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    conflicts: tuple[Repeated, ...]
    one_word_answers: tuple[int, ...]
    answers_shared: tuple[Repeated, ...]
    odd_texts: dict[str, tuple[int, ...]]
    straddling_groups: tuple[str, ...]
    tokens: dict[int, int] = field(repr=False)
    max_length: int
    threshold: float

    @property
    def over_long(self) -> tuple[int, ...]:
        """Rows of more than ``max_length`` tokens, which training cuts at the end."""
        return tuple(row for row, count in self.tokens.items() if count > self.max_length)

    @property
    def left_out(self) -> tuple[Rejection, ...]:
        """Every row that is not in ``usable``, in file order: the rejected ones and the later copies."""
        pairs = {pair.row: pair for pair in self.dataset.pairs}
        copies = (
            Rejection(copy.row, f"an exact duplicate of row {copy.of}", pairs[copy.row].to_record())
            for copy in self.exact_duplicates
        )
        return tuple(sorted((*self.rejected, *copies), key=lambda rejection: rejection.row))

    def token_lengths(self) -> dict[str, float] | None:
        """Count, min, median, mean, 95th percentile (nearest rank), max and total of the pairs' tokens."""
        counts = sorted(self.tokens.values())
        if not counts:
            return None
        return {
            "count": len(counts),
            "min": counts[0],
            "median": counts[len(counts) // 2],
            "mean": round(sum(counts) / len(counts), 1),
            "p95": counts[min(len(counts) - 1, -(-len(counts) * 95 // 100) - 1)],
            "max": counts[-1],
            "total": sum(counts),
        }

    def can_start(self) -> bool:
        """Whether a study can start: there is at least one unit for each of the three splits."""
        return shortage(self.usable) is None

    def require_start(self) -> None:
        """Raise if a study cannot start.

        Raises:
            DataError: Too few usable pairs; says how many there are and what was left out.
        """
        short = shortage(self.usable)
        if short is None:
            return
        what, remedy = short
        lost = len(self.rejected) + len(self.exact_duplicates)
        if lost:
            reasons = f"; {lost} of {self.dataset.rows} rows were left out"
            first = next(iter(self.left_out))
            what += f"{reasons} (row {first.row}: {first.reason})"
        raise DataError(what, where=self.dataset.source, remedy=remedy)

    @property
    def problems(self) -> list[Problem]:
        """Everything found, in words, errors first."""
        return problems_of(self)

    def to_record(self) -> dict[str, Any]:
        """What ``data check --json`` prints and ``data/findings.json`` holds; lists end after 200 entries."""
        dataset = self.dataset
        return {
            "source": Path(dataset.source).name,
            "format": dataset.format,
            "columns": dataset.columns,
            "column_names": list(dataset.column_names),
            "rows": dataset.rows,
            "usable": len(self.usable),
            "turns": sum(pair.turns for pair in self.usable),
            "rejected": [rejection.to_record() for rejection in self.rejected],
            "exact_duplicates": len(self.exact_duplicates),
            "near_duplicates": len(self.near_duplicates),
            "conflicts": len(self.conflicts),
            "one_word_answers": len(self.one_word_answers),
            "over_long": len(self.over_long),
            "answers_shared": len(self.answers_shared),
            "straddling_groups": len(self.straddling_groups),
            "token_lengths": self.token_lengths(),
            "max_length": self.max_length,
            "near_duplicate_threshold": self.threshold,
            "can_start": self.can_start(),
            "notes": list(dataset.notes),
            "problems": self.problems,
            "details": {
                "exact_duplicates": _listed(self.exact_duplicates),
                "near_duplicates": _listed(self.near_duplicates),
                "conflicts": _listed(self.conflicts),
                "one_word_answers": list(self.one_word_answers[:LISTED]),
                "over_long": [{"row": row, "tokens": self.tokens[row]} for row in self.over_long[:LISTED]],
                "answers_shared": _listed(self.answers_shared),
                "straddling_groups": list(self.straddling_groups[:LISTED]),
                "odd_texts": {what: list(rows[:LISTED]) for what, rows in self.odd_texts.items()},
                "changes": {what: list(rows[:LISTED]) for what, rows in dataset.changes.items()},
            },
        }


def _listed(entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [_plain(entry) for entry in entries[:LISTED]]


def _plain(entry: Any) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(entry).items()}
