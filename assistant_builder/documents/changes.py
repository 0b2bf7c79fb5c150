"""What changed in a document since it was read: statements that are new, worded otherwise, or gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from assistant_builder.data.similarity import casefold_normalize, split_words
from assistant_builder.documents.limits import MAX_CHANGES
from assistant_builder.documents.types import Statement
from assistant_builder.errors import DataError
from assistant_builder.i18n import m

Decision = Literal["keep", "drop"]
"""What becomes of the answers that rest on a statement that changed: they are still right, or no longer served."""
SIMILAR = 0.5
"""Share of their words that two statements must have in common, for one to be the other's new wording."""
_ROWS, _CANDIDATES = 500, 50
"""Old statements that are compared at a time, and new wordings of one that are considered, the most similar ones."""


@dataclass(frozen=True)
class Change:
    """A statement that changed, or that its document no longer makes.

    Attributes:
        old: The statement as it was.
        new: The statement as it is; ``None`` if it is gone.
        decision: What somebody decided; ``None`` while nobody has, and neither of the two is served.
    """

    old: Statement
    new: Statement | None = None
    decision: Decision | None = None

    @property
    def key(self) -> str:
        """Identifies the change: the key of the old statement."""
        return self.old.key

    def decided(self, decision: Decision) -> Change:
        """The change with a decision."""
        return replace(self, decision=decision)

    def to_record(self) -> dict[str, Any]:
        """The change as a line of ``changes.jsonl``."""
        new = self.new.to_record() if self.new else None
        return {"key": self.key, "old": self.old.to_record(), "new": new, "decision": self.decision}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Change:
        """The inverse of :meth:`to_record`."""
        new = record["new"] and Statement.from_record(record["new"])
        return cls(Statement.from_record(record["old"]), new, record["decision"])


def changed_statements(
    before: Sequence[Statement], after: Sequence[Statement]
) -> tuple[list[Change], list[Statement]]:
    """What changed between two states of the same documents.

    A statement whose words are the same in the same document has not changed, wherever it is there.

    Returns:
        The changes in the order of ``before``, and the statements that are new.

    Raises:
        DataError: There are more than :data:`~.limits.MAX_CHANGES`.
    """

    def words_of(statement: Statement) -> tuple[str, str]:
        return statement.document, casefold_normalize(statement.text)

    known, present = {words_of(each) for each in before}, {words_of(each) for each in after}
    gone = [each for each in before if words_of(each) not in present]
    if len(gone) > MAX_CHANGES:
        raise DataError(
            m("more than {most:,} statements changed or are gone", most=MAX_CHANGES),
            remedy=m("Read the documents under another name"),
        )
    new = [each for each in after if words_of(each) not in known]
    matches: dict[int, int] = {}
    for document in dict.fromkeys(each.document for each in gone):
        olds, news = (
            [place for place, each in enumerate(statements) if each.document == document]
            for statements in (gone, new)
        )
        found = _matches([gone[place] for place in olds], [new[place] for place in news])
        matches |= {olds[first]: news[second] for first, second in found.items()}
    changes = [
        Change(old, new[matches[place]] if place in matches else None)
        for place, old in enumerate(gone)
    ]
    matched = set(matches.values())
    return changes, [each for place, each in enumerate(new) if place not in matched]


def _matches(gone: Sequence[Statement], new: Sequence[Statement]) -> dict[int, int]:
    """Index of an old statement → index of its new wording, the most similar ones first."""
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for _, first, second in sorted(_similar(gone, new), reverse=True):
        if -first not in matches and -second not in taken:
            matches[-first] = -second
            taken.add(-second)
    return matches


def _similar(
    gone: Sequence[Statement], new: Sequence[Statement]
) -> Iterator[tuple[float, int, int]]:
    """Similarity of at least :data:`SIMILAR`, and negative indexes, of pairs of statements; at most a few for each.

    It is the number of words that two statements have in common, relative to the mean of theirs; more under the same
    heading.
    """
    import numpy as np
    from scipy.sparse import csr_array

    if not gone or not new:
        return
    words = [[{*split_words(each.text.casefold())} for each in side] for side in (gone, new)]
    number = {word: place for place, word in enumerate(dict.fromkeys(chain(*chain(*words))))}
    titles = {each.heading: place for place, each in enumerate((*gone, *new))}
    counts, headings, tables = [], [], []
    for side, statements in zip(words, (gone, new), strict=True):
        counts.append(np.array([len(each) for each in side]))
        headings.append(np.array([titles[each.heading] for each in statements]))
        columns = [number[word] for each in side for word in each]
        rows = np.concatenate([[0], np.cumsum(counts[-1])])
        ones = np.ones(len(columns), np.int32)
        tables.append(csr_array((ones, columns, rows), shape=(len(side), max(1, len(number)))))
    columns_of_new = tables[1].T.tocsr()
    for start in range(0, len(gone), _ROWS):
        part = slice(start, start + _ROWS)
        shared = (tables[0][part] @ columns_of_new).toarray()
        similarity = 2 * shared / np.maximum(1, counts[0][part, None] + counts[1])
        similarity += 0.1 * (headings[0][part, None] == headings[1])
        similarity[shared == 0] = 0.0
        for row, values in enumerate(similarity):
            (found,) = np.nonzero(values >= SIMILAR)
            for place in found[np.argsort(-values[found], kind="stable")][:_CANDIDATES]:
                yield float(values[place]), -(start + row), -int(place)
