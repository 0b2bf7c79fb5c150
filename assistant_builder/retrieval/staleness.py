"""Which answers rest on a statement of a document that changed or is gone.

An answer rests on it if the statement has most of its words and those of its question, and if the new wording lacks a
word or figure that the answer has. No model is needed for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assistant_builder.documents.changes import Change
from assistant_builder.documents.store import Documents
from assistant_builder.i18n import m
from assistant_builder.retrieval.index import Fact, Index
from assistant_builder.retrieval.lexical import content_words

ANSWER, WHOLE = 0.6, 0.5
"""Share of the words of an answer that the old statement has, and of those of question and answer together."""
UNDECIDED = (
    m("What it rests on has changed, and nobody has decided on the change yet."),
    m("Decide with 'assistant-builder data changes', or on the Data tab."),
)
"""Why an answer is withheld, and what to do."""
_STEM = 4  # characters by which words are compared, so that "tool" is "tools"


def rests_on(question: str, answer: str, change: Change) -> bool:
    """Whether an answer rests on what a statement no longer says."""
    said, asked = _stems(answer), _stems(question)
    old = _stems(change.old.searched)
    lost = old - (_stems(change.new.searched) if change.new else set())
    if not said & lost:
        return False
    figures = {word for word in said if any(map(str.isdigit, word))}
    if not figures <= old or len(said & old) < ANSWER * len(said):
        return False
    return len((said | asked) & old) >= WHOLE * len(said | asked)


def rows_resting_on(facts: Iterable[Fact], changes: Sequence[Change]) -> dict[int, list[Change]]:
    """Row of the data file → the changes that its answer rests on."""
    rows: dict[int, list[Change]] = {}
    for fact in facts:
        for change in changes:
            if fact.answerable and rests_on(fact.question, fact.answer, change):
                rows.setdefault(fact.row, []).append(change)
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
