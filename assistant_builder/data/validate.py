"""Validation of pairs: duplicates, conflicts, lengths, unusual texts, and the messages that report them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from assistant_builder.config import DataConfig
from assistant_builder.data.check_messages import Problem, problem_record, problems_of
from assistant_builder.data.language import language_of_pairs
from assistant_builder.data.similarity import (
    NearDuplicateIndex,
    casefold_normalize,
    normalize_unicode,
)
from assistant_builder.data.types import (
    Dataset,
    Pair,
    RejectedRow,
    declining_answer,
    group_by,
    has_visible_text,
    is_empty,
)
from assistant_builder.data.units import has_given_split, straddling_groups, too_few_units
from assistant_builder.errors import DataError
from assistant_builder.i18n import N_, Rows, Text, joined, m, written
from evals.metrics.refusal import only_declines

MAX_LISTED = 200  # entries of one kind in the record of the findings; the counts include all
_COUNTED = """
    exact_duplicates near_duplicates conflicts declining one_word_answers over_long too_long answers_shared
    straddling_groups
    """.split()
_ENOUGH_WORDS = 200
_UNLIKE = 3
_CJK = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_MOJIBAKE = re.compile(
    "Ã[\x80-\xbf‚ƒ„…†‡ˆ‰Š‹Œ©¤¶¼¨ª«®±²³´µ¹º»]|â€[\x80-\xbf™œžš¦“”˜]|Â[\xa0°»«£§©®±²³·]"
)
_HTML = re.compile(
    r"</(?:p|div|span|a|b|i|em|strong|ul|ol|li|table|tr|td|h[1-6])>|<br ?/?>", re.IGNORECASE
)
# kind → whether a pair, whose user and assistant turns are joined to one text, is of that kind
_ODD_TEXTS: dict[str, Callable[[Pair, str], object]] = {
    N_(
        "text that was probably decoded with the wrong encoding (such as Ã© for é)"
    ): lambda pair, text: _MOJIBAKE.search(text),
    N_("replacement characters (�), where the original character is lost"): lambda pair, text: (
        "\ufffd" in text
    ),
    N_("the answer repeats the question"): lambda pair, text: (
        casefold_normalize(pair.answer) == casefold_normalize(pair.question)
    ),
    N_(
        "HTML tags in the text (such as <p>), which the assistant will learn to write"
    ): lambda pair, text: _HTML.search(text),
}


class TokenCounter(Protocol):
    """Counts the tokens of a pair under the chat template of a model."""

    def count_tokens(self, pair: Pair) -> int:
        """Number of tokens of the complete pair."""


@dataclass(frozen=True)
class Duplicate:
    """``row`` is identical to the earlier row ``of`` and is left out."""

    row: int
    of: int


@dataclass(frozen=True)
class NearDuplicate:
    """The question of ``row`` is similar to that of the earlier row ``of`` (Jaccard ``similarity`` of word pairs)."""

    row: int
    of: int
    similarity: float
    question: str
    other: str


@dataclass(frozen=True)
class SharedText:
    """A text that several rows share: a question with different answers, or an answer to different questions."""

    text: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Findings:
    """Result of :func:`check_pairs`; only exact duplicates and rejected rows are not in ``usable``."""

    dataset: Dataset
    usable: tuple[Pair, ...]
    rejected: tuple[RejectedRow, ...]
    exact_duplicates: tuple[Duplicate, ...]  # copies of earlier rows
    near_duplicates: tuple[NearDuplicate, ...]  # questions similar to an earlier one
    conflicts: tuple[SharedText, ...]  # questions with different answers
    # rows whose answer declines, where no column says which questions to decline
    declining: tuple[int, ...]
    one_word_answers: tuple[int, ...]
    answers_shared: tuple[SharedText, ...]  # answers to several questions, often intended
    odd_texts: dict[str, tuple[int, ...]]  # kind → rows
    straddling_groups: tuple[str, ...]  # in held-out and another split
    # row → tokens under the chat template; empty without a tokenizer
    tokens: dict[int, int] = field(repr=False)
    max_length: int
    threshold: float  # minimum similarity of near-duplicates
    too_long: dict[int, int] = field(default_factory=dict, repr=False)
    """Rejected row → tokens, of those that the model cannot read whole."""
    max_pair_tokens: int | None = None  # tokens that the model reads

    @property
    def over_long(self) -> tuple[int, ...]:
        """Rows of more than ``max_length`` tokens, which training leaves out."""
        return tuple(row for row, count in self.tokens.items() if count > self.max_length)

    @property
    def left_out(self) -> tuple[RejectedRow, ...]:
        """All rows that are not in ``usable``, in file order: rejected rows and exact duplicates."""
        pairs = {pair.row: pair for pair in self.dataset.pairs}
        duplicates = [
            _reject(pairs[copy.row], m("an exact duplicate of row {of}", of=Rows((copy.of,))))
            for copy in self.exact_duplicates
        ]
        return tuple(sorted([*self.rejected, *duplicates], key=lambda rejected: rejected.row))

    @property
    def to_mark(self) -> tuple[int, ...]:
        """Rows that the owner can mark as questions to decline."""
        return (*self.declining, *self.unanswered)

    @property
    def unanswered(self) -> tuple[int, ...]:
        """Rows with a question and no answer, where no column says which questions to decline."""
        columns = self.dataset.columns
        question, answer = columns.get("question"), columns.get("answer")
        if columns.get("answerable") or not (question and answer):
            return ()
        return tuple(
            entry.row
            for entry in self.rejected
            if isinstance(entry.record, dict)
            and not is_empty(entry.record.get(question))
            and is_empty(entry.record.get(answer))
        )

    def token_lengths(self) -> dict[str, float] | None:
        """Count, min, median, mean, 95th percentile (nearest rank), max and total of the tokens of the pairs."""
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
        """Whether a study can start: each of the three splits can have at least one unit."""
        return too_few_units(self.usable) is None

    def require_start(self) -> None:
        """Check that a study can start.

        Raises:
            DataError: There are too few usable pairs; the message states how many rows were left out.
        """
        if problem := too_few_units(self.usable):
            what, remedy = problem
            if left_out := self.left_out:
                first = left_out[0]
                left = m(
                    "; {left_out} of {rows} rows were left out (row {row}: {reason})",
                    left_out=len(left_out),
                    rows=self.dataset.rows,
                    row=Rows((first.row,)),
                    reason=first.reason,
                )
                what = joined((what, left), "")
            what = self.dataset.numbers.in_message(what)
            raise DataError(what, where=self.dataset.source, remedy=remedy)

    @property
    def is_foreign(self) -> bool:
        """Whether questions and answers are in another language than English; False for few words."""
        language = language_of_pairs(self.usable)
        return not language.english and language.words >= _ENOUGH_WORDS

    @property
    def problems(self) -> list[Problem]:
        """All findings as messages, errors first."""
        return problems_of(self)

    def to_record(self) -> dict[str, Any]:
        """Output of ``data check --json`` and content of ``data/findings.json``; lists have at most 200 entries."""
        dataset = self.dataset

        tokens = {**self.tokens, **self.too_long}
        notes = list(map(written, dataset.notes))

        def listed(kind: str) -> list[Any]:
            found = list(getattr(self, kind))[:MAX_LISTED]
            if kind in ("over_long", "too_long"):
                return [{"row": row, "tokens": tokens[row]} for row in found]
            return [entry if isinstance(entry, int | str) else asdict(entry) for entry in found]

        return {
            "source": Path(dataset.source).name,
            "format": dataset.format,
            "columns": dataset.columns,
            "column_names": list(dataset.column_names),
            "rows": dataset.rows,
            "usable": len(self.usable),
            "to_decline": sum(not pair.answerable for pair in self.usable),
            "declines_with": declining_answer(self.usable),
            "turns": sum(pair.turns for pair in self.usable),
            "rejected": [rejected.to_record() for rejected in self.rejected],
            **{kind: len(getattr(self, kind)) for kind in _COUNTED},
            "token_lengths": self.token_lengths(),
            "max_length": self.max_length,
            "near_duplicate_threshold": self.threshold,
            "can_start": self.can_start(),
            "notes": [text for text, _ in notes],
            "said": [said for _, said in notes],
            "problems": list(map(problem_record, self.problems)),
            "row_numbers": dataset.numbers.to_record(),
            "details": {
                **{kind: listed(kind) for kind in _COUNTED},
                **{
                    name: {kind: list(rows[:MAX_LISTED]) for kind, rows in found.items()}
                    for name, found in (("odd_texts", self.odd_texts), ("changes", dataset.changes))
                },
            },
        }


def check_pairs(
    dataset: Dataset,
    *,
    tokenizer: TokenCounter | None = None,
    max_length: int = 512,
    near_duplicate_threshold: float = DataConfig().near_duplicate_threshold,
    max_pair_tokens: int | None = None,
    as_trained: Callable[[Pair], Pair] | None = None,
) -> Findings:
    """Check a dataset for duplicates, conflicts, lengths and unusual texts.

    Without a tokenizer, lengths are not checked. Pairs of more than ``max_length`` tokens are reported, those of more
    than ``max_pair_tokens`` are left out. ``near_duplicate_threshold`` is a Jaccard similarity of word pairs.
    ``as_trained`` adds to a pair what its prompt has at least in the training: texts of the pair itself, once more.
    """
    rejected = [*dataset.rejected, *_unusable(dataset.pairs)]
    excluded = {entry.row for entry in rejected}
    pairs = [pair for pair in dataset.pairs if pair.row not in excluded]
    tokens = {pair.row: tokenizer.count_tokens(pair) for pair in pairs} if tokenizer else {}
    too_long: dict[int, int] = {}
    if max_pair_tokens is not None and tokenizer:
        for pair in pairs:
            needed = tokens[pair.row]
            # twice its texts at most
            if as_trained is not None and max_pair_tokens / 3 < needed <= max_pair_tokens:
                needed = tokenizer.count_tokens(as_trained(pair))
            if needed > max_pair_tokens:
                too_long[pair.row] = needed
        for pair in pairs:
            if pair.row in too_long:
                reason = m(
                    "it has {tokens:,} tokens, and at most {max_pair_tokens:,} fit in the model's context",
                    tokens=too_long[pair.row],
                    max_pair_tokens=max_pair_tokens,
                )
                rejected.append(_reject(pair, reason))
        pairs = [pair for pair in pairs if pair.row not in too_long]
    usable, duplicates = _without_exact_duplicates(pairs)
    conflicts, reworded = _repeated_questions(usable)
    near = reworded + _near_duplicates(usable, near_duplicate_threshold)
    straddling = (
        straddling_groups((pair, pair.split == "heldout") for pair in usable)
        if has_given_split(usable)
        else ()
    )
    one_word = tuple(
        pair.row
        for pair in usable
        if max(len(pair.answer.split()), len(_CJK.findall(pair.answer))) <= 1
    )
    return Findings(
        dataset=dataset,
        usable=tuple(usable),
        rejected=tuple(sorted(rejected, key=lambda entry: entry.row)),
        exact_duplicates=tuple(duplicates),
        near_duplicates=tuple(sorted(near, key=lambda entry: entry.row)),
        conflicts=tuple(conflicts),
        declining=() if dataset.columns.get("answerable") else tuple(sorted(_declining(usable))),
        one_word_answers=one_word,
        answers_shared=tuple(_shared_answers(usable)),
        odd_texts=_odd_texts(usable),
        straddling_groups=tuple(straddling),
        tokens={pair.row: tokens[pair.row] for pair in usable} if tokens else {},
        max_length=max_length,
        threshold=near_duplicate_threshold,
        too_long=too_long,
        max_pair_tokens=max_pair_tokens,
    )


def _unusable(pairs: Sequence[Pair]) -> Iterable[RejectedRow]:
    given = sum(pair.split is not None for pair in pairs)
    for pair in pairs:
        if not has_visible_text(pair.question) or not has_visible_text(pair.answer):
            empty = N_("question") if not has_visible_text(pair.question) else N_("answer")
            yield _reject(pair, m("the {part} is empty", part=m(empty)))
        elif given and pair.split is None:
            yield _reject(
                pair, m("it has no split, while {given} other rows have one", given=given)
            )


def _reject(pair: Pair, reason: Text) -> RejectedRow:
    return RejectedRow(pair.row, reason, pair.to_record())


def _without_exact_duplicates(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Duplicate]]:
    """The first of all identical pairs, and the copies; identical pairs in different given splits are a leak."""
    first: dict[tuple[object, ...], int] = {}
    kept, copies = [], []
    for pair in pairs:
        key = (
            pair.split,
            *((message.role, normalize_unicode(message.content)) for message in pair.messages),
        )
        if key in first:
            copies.append(Duplicate(pair.row, first[key]))
        else:
            first[key] = pair.row
            kept.append(pair)
    return kept, copies


def _repeated_questions(pairs: Sequence[Pair]) -> tuple[list[SharedText], list[NearDuplicate]]:
    """Repeated questions: conflicts if their answers differ, near-duplicates if they are equal.

    Conversations of several turns are ignored, because they may differ later.
    """
    by_question = group_by(
        (pair for pair in pairs if pair.turns == 1),
        lambda pair: (pair.system, casefold_normalize(pair.question)),
    )
    conflicts, reworded = [], []
    for same in by_question.values():
        answers: dict[str, Pair] = {}
        for pair in same:
            earlier = answers.setdefault(casefold_normalize(pair.answer), pair)
            if earlier is not pair:
                questions = pair.question, earlier.question
                reworded.append(NearDuplicate(pair.row, earlier.row, 1.0, *questions))
        if len(answers) > 1:
            conflicts.append(SharedText(same[0].question, tuple(pair.row for pair in same)))
    return conflicts, reworded


def _near_duplicates(pairs: Sequence[Pair], threshold: float) -> list[NearDuplicate]:
    by_question = group_by(pairs, lambda pair: casefold_normalize(pair.compared_question))
    distinct = [same[0] for same in by_question.values()]
    index = NearDuplicateIndex([pair.compared_question for pair in distinct], threshold)
    found = []
    for number, pair in enumerate(distinct):
        match = index.nearest(number)
        if match is not None:
            other, similarity = distinct[match[0]], round(match[1], 4)
            questions = pair.question, other.question
            found.append(NearDuplicate(pair.row, other.row, similarity, *questions))
        index.add(number)
    return found


def _shared_answers(pairs: Sequence[Pair]) -> Iterable[SharedText]:
    """Answers to several different questions, except the answer that declines, which is meant to be shared."""
    single_turn = (pair for pair in pairs if pair.answerable and pair.turns == 1)
    for same in group_by(single_turn, lambda pair: casefold_normalize(pair.answer)).values():
        if len({casefold_normalize(pair.question) for pair in same}) > 1:
            yield SharedText(same[0].answer, tuple(pair.row for pair in same))


def _declining(pairs: Sequence[Pair]) -> Iterable[int]:
    for answer, same in group_by(pairs, lambda pair: pair.answer).items():
        if only_declines(answer, repeated=_are_unlike([pair.question for pair in same])):
            yield from (pair.row for pair in same)


def _are_unlike(questions: Sequence[str]) -> bool:
    """Whether these are no wordings of one question: at most half of at least three have a longer word in common."""
    words = Counter(word for text in questions for word in set(casefold_normalize(text).split()))
    shared = max((count for word, count in words.items() if len(word) > 3), default=0)
    return len(questions) >= _UNLIKE and 2 * shared <= len(questions)


def _odd_texts(pairs: Sequence[Pair]) -> dict[str, tuple[int, ...]]:
    texts = [
        "\n".join(message.content for message in pair.messages if message.role != "system")
        for pair in pairs
    ]
    found = {
        kind: tuple(pair.row for pair, text in zip(pairs, texts, strict=True) if is_odd(pair, text))
        for kind, is_odd in _ODD_TEXTS.items()
    }
    return {kind: rows for kind, rows in found.items() if rows}
