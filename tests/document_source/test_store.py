"""The documents of a study: added, replaced, compared, and decided on."""

import time

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.documents import changes
from assistant_builder.documents.changes import Change, changed_statements
from assistant_builder.documents.statements import statements_of
from assistant_builder.documents.store import Documents, Reading
from assistant_builder.documents.types import Block, Document, Statement
from assistant_builder.errors import ConfigError, DataError
from assistant_builder.retrieval.staleness import Changes
from assistant_builder.study import Study


def reading(name: str, *sentences: str) -> Reading:
    pages, statements = statements_of(name, [Block("text", each, 1) for each in sentences])
    return Reading(Document(name, "pdf", "", tuple(pages), tuple(statements)), "0" * 64)


@pytest.fixture
def documents() -> Documents:
    return Documents(Study.create(StudyConfig(name="shop")))


def read_again(documents: Documents, *readings: Reading, root: str = "/docs", **how):
    how = {"complete": True, "problems": {}, **how}
    problems = how.pop("problems")
    return documents.update(readings, root, problems, **how)


def test_documents_are_kept_with_their_pages(documents):
    assert not documents and documents.statements == [] and documents.changes == []
    update = read_again(documents, reading("a.pdf", "We open at nine.", "Tea is free."))
    assert documents and len(update.added) == 2 and not update.changes
    assert [each["name"] for each in documents.records] == ["a.pdf"]
    first, second = documents.statements
    assert documents.passage(second) == ("We open at nine.\n", "Tea is free.", "")
    assert first.place == "a.pdf, p. 1"
    again = read_again(documents, reading("a.pdf", "We open at nine.", "Tea is free."))
    assert not again.added and not again.changes


def test_a_changed_document_waits_for_a_decision(documents):
    read_again(documents, reading("a.pdf", "We open at nine daily.", "Tea is free."))
    before = documents.stamp
    update = read_again(documents, reading("a.pdf", "We open at ten daily."))
    assert documents.stamp != before
    assert [(each.old.text, each.new and each.new.text) for each in update.changes] == [
        ("We open at nine daily.", "We open at ten daily."),
        ("Tea is free.", None),
    ]
    # read again unchanged: the same decisions are due
    assert (
        read_again(documents, reading("a.pdf", "We open at ten daily.")).changes == update.changes
    )
    # an edit that is taken back needs none
    assert not read_again(
        documents, reading("a.pdf", "We open at nine daily.", "Tea is free.")
    ).changes
    read_again(documents, reading("a.pdf", "We open at ten daily."))
    (opening, tea) = documents.undecided
    assert documents.decide([opening.key], "drop")[0].decision == "drop"
    assert documents.undecided == [tea]
    with pytest.raises(ConfigError, match="no undecided change nothing"):
        documents.decide(["nothing"], "keep")
    documents.decide(None, "keep")
    assert documents.undecided == [] and len(documents.changes) == 2
    # the decisions stay, and what was decided is the state that the next reading is compared with
    update = read_again(documents, reading("a.pdf", "We open at eleven daily."))
    assert [each.old.text for each in update.changes] == ["We open at ten daily."]
    assert len(documents.changes) == 3


def test_a_document_that_is_gone_or_unreadable(documents):
    read_again(documents, reading("a.pdf", "We open at nine."), reading("b.pdf", "Tea is free."))
    read_again(documents, reading("c.pdf", "Dogs are welcome."), root="", complete=False)
    # it cannot be read now: what is known of it stays
    damaged = {"b.pdf": DataError("damaged")}
    update = read_again(documents, reading("a.pdf", "We open at nine."), problems=damaged)
    assert not update.changes and len(documents.statements) == 3
    # it is not in the folder any more; other documents are not touched
    update = read_again(documents, reading("a.pdf", "We open at nine."))
    assert [each.old.text for each in update.changes] == ["Tea is free."]
    assert [each["name"] for each in documents.records] == ["a.pdf", "c.pdf"]


def test_too_many_changes_at_a_time_are_refused(documents, monkeypatch):
    monkeypatch.setattr(changes, "MAX_CHANGES", 1)
    read_again(documents, reading("a.pdf", "We open at nine.", "Tea is free."))
    with pytest.raises(DataError, match="more than 1 statements changed"):
        read_again(documents, reading("a.pdf", "We close."))
    assert len(documents.statements) == 2


def test_answers_are_compared_with_thousands_of_changes_in_seconds():
    changed = [
        Change(Statement("a.pdf", 1, "", f"Room {n} costs {n} euros a night.", 0, 1))
        for n in range(4_000)
    ]
    began = time.process_time()
    known = Changes(changed)
    assert all(known.under(f"What is room {n}?", f"{n} euros") == [n] for n in range(1_000))
    assert time.process_time() - began < 8


def test_thousands_of_changed_statements_are_compared_in_seconds():
    def told(euros: int) -> list[Statement]:
        return [
            Statement("a.pdf", 1, "Prices", f"Room {n} costs {euros + n} euros a night.", 0, 1)
            for n in range(3_000)
        ]

    began = time.process_time()
    found, added = changed_statements(told(0), told(10_000))
    assert time.process_time() - began < 8 and not added
    assert all(each.new and each.new.text.split()[1] == each.old.text.split()[1] for each in found)
