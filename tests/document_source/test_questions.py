"""Questions about documents: drafted from templates, looked over in a list, and split by section for training."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from assistant_builder.chat.stale_answers import answers_resting_on
from assistant_builder.config import DataConfig, StudyConfig
from assistant_builder.data.language import language_of
from assistant_builder.documents.changes import Change
from assistant_builder.documents.questions import (
    COLUMNS,
    DocumentQuestion,
    Questions,
    parse_questions,
)
from assistant_builder.documents.statements import statements_of
from assistant_builder.documents.templates import draft_from_templates
from assistant_builder.documents.types import Block, Statement
from assistant_builder.errors import ConfigError, DataError
from assistant_builder.runner.document_training import current_questions, training_rows
from assistant_builder.study import Study


def read(*blocks: Block) -> list[Statement]:
    return statements_of("guide.pdf", blocks)[1]


def texts(*sentences: str) -> list[Statement]:
    return read(*(Block("text", each) for each in sentences))


def drafted(statements: Sequence[Statement], most: int = 3) -> list[tuple[str, str, str]]:
    drafts = draft_from_templates(statements, language_of, most)
    return [(each.kind, each.question, each.answer) for each in drafts]


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("The hall costs £40 a day.", "How much does The hall cost?", "£40 a day"),
        ("The desk opens at 9:30 on Monday.", "When does The desk open?", "at 9:30 on Monday"),
        (
            "Hand tools may be kept for 14 days.",
            "For how long may Hand tools be kept?",
            "14 days",
        ),
        (
            "There are 48 lockers in the corridor.",
            "How many lockers are there in the corridor?",
            "48 lockers",
        ),
        ("Der Saal kostet 40 € am Tag.", "Was kostet Der Saal?", "40 € am Tag"),
        ("Die Werkstatt öffnet um 9 Uhr.", "Wann öffnet Die Werkstatt?", "um 9 Uhr"),
        ("La salle coûte 40 € par jour.", "Combien coûte La salle ?", "40 € par jour"),
        ("La sala cuesta 40 € al día.", "¿Cuánto cuesta La sala?", "40 € al día"),
    ],
)
def test_a_sentence_is_asked_for_its_value(sentence, question, answer):
    assert drafted(texts(sentence)) == [("part", question, answer)]


def test_a_word_is_written_small_inside_a_question_where_the_documents_do():
    found = drafted(texts("The hall costs £40.", "Somebody cleans the hall."))
    assert found[0][1] == "How much does the hall cost?"


def test_a_row_is_asked_for_each_cell_and_two_rows_of_one_subject_are_joined():
    def table(title: str, head: tuple[str, ...], row: tuple[str, ...]) -> list[Block]:
        return [
            Block("heading", title, level=1),
            Block("row", "", cells=head, first=True, head=True),
            Block("row", "", cells=row),
        ]

    statements = read(
        *table("Inductions", ("Machine", "Length"), ("Lathe", "4 hours")),
        *table("Prices", ("Machine", "Price"), ("Lathe", "£36")),
    )
    assert drafted(statements) == [
        ("part", "How long is the Lathe?", "4 hours"),
        ("part", "How much does Lathe cost?", "£36"),
        ("two", "How long is the Lathe, and how much does Lathe cost?", "4 hours\n£36"),
    ]


def test_a_heading_that_asks_is_the_question_and_a_sentence_without_subject_has_none():
    statements = read(
        Block("heading", "Do you deliver?", level=1),
        Block("text", "Tools are delivered on Thursday."),
        Block("heading", "Dust", level=1),
        Block("text", "If the lamp is on, the bag is full."),
    )
    expected = ("statement", "Do you deliver?", "Tools are delivered on Thursday.")
    assert drafted(statements) == [expected]


def test_odd_texts_are_not_drafted_from_and_rows_of_one_subject_are_joined_with_few():
    odd = (". is was.", "... costs 5 euros.", "Bus – : 5; : 3")
    for kind in ("text", "row"):
        draft_from_templates(
            [Statement("a", None, "", each, 0, 1, kind) for each in odd],
            language_of,
            2,
        )
    rows = [
        Statement("a", None, "H", f"The pool – Price: {n} euros", 0, 1, "row") for n in range(200)
    ]
    assert len(draft_from_templates(rows, language_of, 2)) < 200 * 25


def test_replies_of_a_model_are_questions_with_a_part_of_the_statement():
    (statement,) = texts("The forge reaches 1,200 degrees.")
    reply = '1. How hot is it? | 1,200 degrees\nHow warm? | 900\nHere you are:\n- "What is hot?"'
    found = parse_questions(reply, statement, 3, "a-model")
    assert [(each.kind, each.question, each.answer) for each in found] == [
        ("part", "How hot is it?", "1,200 degrees"),
        ("statement", "How warm?", statement.text),
        ("statement", "What is hot?", statement.text),
    ]
    assert found[0].origin == "a-model" and found[0].state == "proposed"
    assert not parse_questions(f"Is it {'a ' * 600}?", statement, 3, "a-model")


def draft(question: str, *keys: str, state="accepted", origin="template") -> DocumentQuestion:
    return DocumentQuestion(question, "An answer", keys, "part", origin, state)


def edit(path: Path, changes: dict[int, dict[str, str]]) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for number, cells in changes.items():
        rows[number].update(cells)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_a_list_is_accepted_edited_and_dropped_in(tmp_path):
    questions = Questions(Study.create(StudyConfig(name="guide")))
    names = ["How hot?", "=How cold?", "How long?", "How far?"]
    questions.add([draft(name, "k", state="proposed") for name in names])
    path = tmp_path / "list.csv"
    assert questions.write_list(path, []) == 4
    edit(path, {0: {"accept": "yes", "question": "How hot is it?"}, 1: {"accept": "Yes"}})
    edit(path, {2: {"accept": "no"}})
    assert questions.read_list(path) == {"accepted": 2, "dropped": 1}
    known = [(each.question, each.state) for each in questions.all()]
    assert known == [
        ("How hot is it?", "accepted"),
        ("=How cold?", "accepted"),
        ("How long?", "dropped"),
        ("How far?", "proposed"),
    ]
    assert questions.add([draft("how long?", "k", state="proposed")]) == []  # stays dropped
    assert questions.decide_proposed("training") == 1


def test_a_wrong_list_changes_nothing(tmp_path):
    questions = Questions(Study.create(StudyConfig(name="guide")))
    questions.add([draft("How hot?", "k", state="proposed"), draft("How?", "k", state="proposed")])
    before = questions.path.read_bytes()
    path = tmp_path / "list.csv"
    for cells, problem in (
        ({"accept": "perhaps"}, "'perhaps' is no decision"),
        ({"accept": "yes", "key": "other"}, "no question has the key 'other'"),
    ):
        questions.write_list(path, [])
        edit(path, {0: {"accept": "yes"}, 1: cells})
        with pytest.raises(DataError, match=problem) as caught:
            questions.read_list(path)
        assert "row 2" in str(caught.value.where)
    with pytest.raises(ConfigError, match="no question other"):
        questions.decide({"other": "dropped"})
    assert questions.path.read_bytes() == before


def sections(count: int, of_each: int = 2) -> list[Statement]:
    blocks = []
    for number in range(count):
        blocks.append(Block("heading", f"Section {number}", level=1))
        blocks += [Block("text", f"Fact {number}.{each} holds.") for each in range(of_each)]
    return read(*blocks)


def by_split(rows: Sequence[dict]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"train": set(), "validation": set(), "heldout": set()}
    for row in rows:
        found[row["split"]].add(row["cluster"])
    return found


def test_the_test_is_of_accepted_drafts_of_sections_that_training_does_not_see():
    statements = sections(20)
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    drafts = [
        draft(f"Which {words[place % 10]} of number {place}?", each.key)
        for place, each in enumerate(statements)
    ]
    rows, counts = training_rows(drafts, statements, DataConfig())
    of = {f"passage:{each.key}": each.heading for each in statements}
    headings = [{of[each] for each in group} for group in by_split(rows).values()]
    assert all(headings) and not headings[0] & headings[1]
    assert not headings[2] & (headings[0] | headings[1])
    families = {row["family"] for row in rows}
    assert families == {f"guide.pdf › {each.heading}" for each in statements}, "units of a verdict"
    assert counts["accepted"] == 8 and counts["sections"] == 4 and not counts["left_out"]
    crossing = draft("Both of these?", statements[0].key, statements[-1].key)
    held = [each.key for each in statements if each.heading in headings[2]]
    seen = next(each.key for each in statements if each.heading in headings[0])
    crossing = draft("What about both of these two?", held[0], seen)
    rows, counts = training_rows([*drafts, crossing], statements, DataConfig())
    assert counts["left_out"] == 1 and crossing.question not in {each["question"] for each in rows}


def test_what_nobody_saw_never_tests_and_what_people_asked_always_does():
    statements = sections(20)
    unseen = [
        draft(f"Unseen question {place}?", each.key, state="training")
        for place, each in enumerate(statements)
    ]
    people = [draft("When does it open then?", statements[0].key, origin="people")]
    people.append(
        DocumentQuestion("Is there a pool?", "", (), "unanswerable", "people", "accepted")
    )
    same = draft("when does it open, then", statements[0].key, state="training")
    rows, counts = training_rows([*unseen, *people, same], statements, DataConfig())
    test = [row["question"] for row in rows if row["split"] == "heldout"]
    assert test == ["When does it open then?", "Is there a pool?"]
    assert [row["answerable"] for row in rows if row["split"] == "heldout"] == [True, False]
    assert counts["unseen"] == counts["training"] == 40 and counts["left_out"] == 1
    assert (counts["people"], counts["seen"], counts["accepted"]) == (2, 1, 0)


def test_a_question_of_a_changed_statement_is_used_only_where_somebody_kept_it():
    old, new, gone = texts("The pool has 31 degrees.", "The pool has 30 degrees.", "Gone for good.")
    asked = [draft("How warm?", old.key), draft("Gone?", gone.key), draft("New?", new.key)]
    dropped = draft("Dropped?", new.key, state="dropped")

    def used(decision) -> list[tuple[str, tuple[str, ...]]]:
        changes = [Change(old, new, decision)]
        found = current_questions([*asked, dropped], [new], changes)
        return [(each.question, each.keys) for each in found]

    assert used(None) == used("drop") == [("New?", (new.key,))]
    assert used("keep") == [("How warm?", (new.key,)), ("New?", (new.key,))]


def test_questions_that_rest_on_a_change_are_listed_before_any_training():
    study = Study.create(StudyConfig(name="guide"))
    old, new = texts("The pool has 31 degrees.", "The pool has 30 degrees.")
    asked = [
        DocumentQuestion("How warm is the pool?", "31 degrees", (old.key,), "part", *how)
        for how in (("template", "accepted"), ("people", "accepted"), ("template", "dropped"))
    ]
    for question, name in zip(asked, ("How warm", "How hot", "What warmth"), strict=True):
        Questions(study).add([replace(question, question=f"{name} is the pool?")])
    ((first, second),) = answers_resting_on(study, [Change(old, new)])
    assert (first.kind, first.question) == ("pair", "How warm is the pool?")
    assert (second.kind, second.question) == ("test question", "How hot is the pool?")
