"""What changed in a document since it was read: statements that are new, worded otherwise, or gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from assistant_builder.data.similarity import casefold_normalize, split_words
from assistant_builder.documents.types import Statement

Decision = Literal["keep", "drop"]
"""What becomes of the answers that rest on a statement that changed: they are still right, or no longer served."""
SIMILAR = 0.5
"""Share of their words that two statements must have in common, for one to be the other's new wording."""


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
    """

    def words_of(statement: Statement) -> tuple[str, str]:
        return statement.document, casefold_normalize(statement.text)

    known, present = {words_of(each) for each in before}, {words_of(each) for each in after}
    gone = [each for each in before if words_of(each) not in present]
    new = [each for each in after if words_of(each) not in known]
    pairs = sorted(
        (
            (_similarity(old, other), -first, -second)
            for first, old in enumerate(gone)
            for second, other in enumerate(new)
            if old.document == other.document
        ),
        reverse=True,
    )
    matches: dict[int, int] = {}
    for similarity, first, second in pairs:
        if similarity >= SIMILAR and -first not in matches and -second not in matches.values():
            matches[-first] = -second
    changes = [
        Change(old, new[matches[place]] if place in matches else None)
        for place, old in enumerate(gone)
    ]
    matched = set(matches.values())
    return changes, [each for place, each in enumerate(new) if place not in matched]


def _similarity(first: Statement, second: Statement) -> float:
    """Words that two statements have in common, relative to the mean of theirs; more under the same heading."""
    one, other = ({*split_words(each.text.casefold())} for each in (first, second))
    shared = 2 * len(one & other) / max(1, len(one) + len(other))
    return shared + 0.1 * (first.heading == second.heading) if shared else 0.0
