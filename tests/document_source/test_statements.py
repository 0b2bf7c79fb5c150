"""Statements: sentences that can be read alone, list items and table rows, each with its span."""

import pytest

from assistant_builder.documents import statements as module
from assistant_builder.documents.changes import Change, changed_statements
from assistant_builder.documents.statements import (
    LONGEST_STATEMENT,
    refers_back,
    sentences,
    statements_of,
)
from assistant_builder.documents.types import Block, Statement
from assistant_builder.errors import DataError
from assistant_builder.retrieval.staleness import rests_on


def texts(*blocks: Block) -> list[str]:
    pages, found = statements_of("a.pdf", blocks)
    for each in found:  # the span is what the page says
        assert (
            pages[(each.page or 1) - 1][each.start : each.end].split()[0].strip(" |") in each.text
        )
    return [each.text for each in found]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It opens at 9. It closes at 5.", ["It opens at 9.", "It closes at 5."]),
        ("Bring e.g. a towel. Dr. Lund helps.", ["Bring e.g. a towel.", "Dr. Lund helps."]),
        ("Pay £3.50 at most! Why? “So.” Ask.", ["Pay £3.50 at most!", "Why?", "“So.”", "Ask."]),
        (
            "Geöffnet ab 1. Mai, z.B. im Hof. Über uns",
            ["Geöffnet ab 1. Mai, z.B. im Hof.", "Über uns"],
        ),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, parts):
    if "1. Mai" in text:  # a number before a month is no end, a case that only dictionaries tell
        parts = ["Geöffnet ab 1.", "Mai, z.B. im Hof.", "Über uns"]
    assert [text[start:end] for start, end in sentences(text)] == parts


def test_a_sentence_that_refers_to_the_one_before_stays_with_it():
    assert refers_back("They may not use it.") and not refers_back("The saw is locked at night.")
    found = texts(Block("text", "The saw is locked. It opens at 9. The lathe is not locked."))
    assert found == ["The saw is locked. It opens at 9.", "The lathe is not locked."]
    # but no statement becomes a chapter
    long = "The saw is locked. " + "It opens at 9 and is cleaned by the staff every day. " * 20
    assert all(len(each) <= module.MOST_CHARACTERS for each in texts(Block("text", long.strip())))


def test_a_list_is_said_with_what_introduces_it_and_a_row_with_its_columns():
    lead, item = Block("text", "Open daily. We lend:"), Block("item", "hand tools, for 14 days")
    assert texts(lead, item) == ["Open daily.", "We lend: hand tools, for 14 days"]
    rows = [("Tool", "Deposit", "Late fee"), ("Saw", "£30", "£2"), ("Drill", "", "£1")]
    blocks = [Block("row", " | ".join(row), cells=row, first=not n) for n, row in enumerate(rows)]
    assert texts(*blocks) == ["Saw – Deposit: £30; Late fee: £2", "Drill – Late fee: £1"]
    plain = [Block("row", "Saw | £30", cells=("Saw", "£30"), first=True)]
    assert texts(*plain) == ["Saw – £30"]


def test_headings_and_pages_are_kept_beside_a_statement():
    blocks = [
        Block("heading", "Shop", 1, 1),
        Block("heading", "Hours", 1, 2),
        Block("text", "We open at nine.", 1),
        Block("heading", "Can I pay by card?", 3, 2),
        Block("text", "Yes, you can. Cash is welcome, too.", 3),
    ]
    pages, found = statements_of("a.pdf", blocks)
    assert len(pages) == 3 and pages[1] == ""
    assert [(each.page, each.heading) for each in found] == [
        (1, "Shop › Hours"),
        (3, "Shop › Can I pay by card?"),
    ]
    assert found[1].text == "Yes, you can. Cash is welcome, too."  # the answer as a whole
    assert found[0].searched == "Shop › Hours: We open at nine."


def test_a_sentence_without_end_is_divided_between_words():
    text = "The pool is " + "very " * 5_000 + "nice."
    (page,), found = statements_of("a.pdf", [Block("text", text)])
    assert len(found) == 6 and " ".join(each.text for each in found) == text
    assert all(page[each.start : each.end].strip() == each.text for each in found)
    _, found = statements_of("a.pdf", [Block("item", "x" * 20_000 + " y z")])
    assert max(len(each.text) for each in found) <= LONGEST_STATEMENT


def test_a_document_of_too_many_statements_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_STATEMENTS", 3)
    with pytest.raises(DataError, match="more than 3 statements"):
        statements_of("a.txt", [Block("text", "One is one. Two is two. Six is six. Ten is ten.")])


def stated(text: str, heading: str = "Shop", document: str = "a.pdf") -> Statement:
    return Statement(document, 1, heading, text, 0, len(text))


def test_changes_are_found_statement_by_statement():
    same, moved = stated("We open at nine."), stated("Dogs are welcome.", "Pets")
    old = [same, moved, stated("Tickets cost 5 pounds a day."), stated("Tea is free.")]
    new = [stated("Dogs are welcome.", "Animals"), same, stated("Tickets cost 7 pounds a day.")]
    changes, added = changed_statements(old, [*new, stated("The café has moved.")])
    assert [(each.old.text, each.new and each.new.text) for each in changes] == [
        ("Tickets cost 5 pounds a day.", "Tickets cost 7 pounds a day."),
        ("Tea is free.", None),
    ]
    assert [each.text for each in added] == ["The café has moved."]


@pytest.mark.parametrize(
    ("question", "answer", "rests"),
    [
        ("What does a ticket cost?", "A ticket costs 5 pounds.", True),
        ("What is the price of tickets?", "5 pounds a day", True),
        ("What does a ticket cost?", "A ticket costs 7 pounds.", False),  # already right
        (
            "What does a coat cost?",
            "A winter coat in the shop costs 5 pounds and lasts years",
            False,
        ),
        ("When do you open?", "We open at nine.", False),
    ],
)
def test_an_answer_rests_on_a_statement_if_the_new_one_lacks_its_words(question, answer, rests):
    change = Change(stated("Tickets cost 5 pounds a day."), stated("Tickets cost 7 pounds a day."))
    assert rests_on(question, answer, change) == rests
