"""Which answers rest on a statement of a document that changed or is gone.

An answer rests on it if the statement has most of its words and those of its question, and if the new wording lacks a
word or figure that the answer has. No model is needed for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from assistant_builder.data.words import content_words
from assistant_builder.documents.changes import Change
from assistant_builder.documents.store import Documents
from assistant_builder.i18n import m
from assistant_builder.retrieval.index import Fact, Index

ANSWER, WHOLE = 0.6, 0.5
"""Share of the words of an answer that the old statement has, and of those of question and answer together."""
UNDECIDED = (
    m("What it rests on has changed, and nobody has decided on the change yet."),
    m("Decide with 'assistant-builder data changes', or on the Data tab."),
)
"""Why an answer is withheld, and what to do."""
_STEM = 4  # characters by which words are compared, so that "tool" is "tools"


class Changes:
    """Changes by the words of their old statements, so that only those near an answer are compared with it."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._old = [_stems(change.old.searched) for change in changes]
        self._postings: dict[str, list[int]] = {}
        for number, old in enumerate(self._old):
            for word in old:
                self._postings.setdefault(word, []).append(number)

    def under(self, question: str, answer: str) -> list[int]:
        """Numbers of the changes whose old statement the answer rests on."""
        said, asked = _stems(answer), _stems(question)
        shared = Counter(chain.from_iterable(self._postings.get(word, ()) for word in said))
        near = sorted(number for number, count in shared.items() if count >= ANSWER * len(said))
        return [number for number in near if self._rests(number, said, asked)]

    def _rests(self, number: int, said: set[str], asked: set[str]) -> bool:
        old, new = self._old[number], self._changes[number].new
        figures = {word for word in said if any(map(str.isdigit, word))}
        if not figures <= old or len((said | asked) & old) < WHOLE * len(said | asked):
            return False
        return bool(said & (old - (_stems(new.searched) if new else set())))


def rests_on(question: str, answer: str, change: Change) -> bool:
    """Whether an answer rests on what a statement no longer says."""
    return bool(Changes([change]).under(question, answer))


def rows_resting_on(facts: Iterable[Fact], changes: Sequence[Change]) -> dict[int, list[Change]]:
    """Row of the data file → the changes that its answer rests on."""
    rows: dict[int, list[Change]] = {}
    known = Changes(changes)
    for fact in facts:
        if fact.answerable and (found := known.under(fact.question, fact.answer)):
            rows.setdefault(fact.row, []).extend(changes[number] for number in found)
    return rows


def stale_rows(documents: Documents, index: Index) -> tuple[frozenset[int], frozenset[int]]:
    """Rows of the pairs that rest on changes: those that wait for a decision, and those no longer served."""
    changes = [change for change in documents.changes if change.decision != "keep"]
    rows = rows_resting_on(index.facts, changes)
    waiting = {row for row, found in rows.items() if any(each.decision is None for each in found)}
    return frozenset(waiting), frozenset(rows.keys() - waiting)


def _stems(text: str) -> set[str]:
    # figures are compared whole: 1,200 is not 1,150
    return {word if any(map(str.isdigit, word)) else word[:_STEM] for word in content_words(text)}
