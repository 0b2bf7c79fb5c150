"""Questions of the owner: which facts are asked for, what is suggested, and the files."""

from pathlib import Path

import numpy as np
import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.data import load_split
from assistant_builder.data.wordings import Wording, add_wordings
from assistant_builder.errors import DataError, StudyError
from assistant_builder.i18n import use_language
from assistant_builder.retrieval.decline import FILE as RULE
from assistant_builder.retrieval.index import Index, facts_of
from assistant_builder.retrieval.own_questions import (
    ASKED,
    add_questions_of_file,
    answers_file,
    facts_to_word,
    questions_file,
    read_answers,
    read_questions,
    save_answers,
    save_questions,
    suggested_questions,
    takes_own_questions,
    takes_wordings,
    unasked,
    wording_of,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnQuestion
from tests.data.samples import jsonl, pair
from tests.data.test_one_wording import sheet, typed
from tests.synthetic_study import SMALL, new_study, trained, with_data


def study_of(folder: Path, pairs: list) -> Study:
    source = folder / "sheet.jsonl"
    source.write_text(jsonl([{"question": p.question, "answer": p.answer} for p in pairs]))
    return with_data(new_study("sheet", source))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return study_of(tmp_path, sheet())


def test_only_sheets_without_other_wordings_take_own_questions(tmp_path, study):
    assert takes_own_questions(study)
    assert not takes_own_questions(new_study("unprepared"))
    assert not takes_own_questions(with_data(new_study("wordings", SMALL)))
    rows = sheet()
    columns = add_wordings(
        tmp_path / "sheet.jsonl",
        [Wording(7 * i + 1, p.question) for i, p in enumerate(typed(rows))],
        tmp_path / "more.jsonl",
    )
    tested = with_data(new_study("tested", tmp_path / "more.jsonl", data__columns=columns))
    assert not takes_own_questions(tested), "the file has a test of its own"


def test_a_test_without_questions_to_decline_takes_them_from_the_owner(tmp_path):
    def grounded(name: str, to_decline: int) -> Study:
        rows = [
            {"question": f"{ask} {thing}?", "answer": f"{thing} is at {n}.", "split": split}
            for n, thing in enumerate(["ash", "birch", "cedar", "elm", "fir", "hazel"] * 2)
            for ask, split in (
                (f"Where do I find {n}", "train"),
                (f"Tell me the place of {n}, the", "heldout"),
            )
        ]
        rows += [
            {"question": f"What is {n} plus {n}, Sir{n}?", "answer": "No idea.", "split": "heldout"}
            for n in range(to_decline)
        ]
        for row in rows:
            row["answerable"] = row["answer"] != "No idea."
        source = tmp_path / f"{name}.jsonl"
        source.write_text(jsonl(rows))
        return with_data(new_study(name, source, approaches=["grounded"]))

    study = grounded("few", ASKED - 1)
    assert takes_own_questions(study) and not takes_wordings(study)
    assert not takes_own_questions(grounded("enough", ASKED))


def test_the_facts_asked_for_are_spread_and_the_most_confusable_ones(tmp_path):
    words = "ash birch cedar elm fir hazel larch maple oak pine rowan yew".split()
    plain = [pair(i + 1, f"Zone {w}{w}?", f"Rule {w} holds.") for i, w in enumerate(words * 5)]
    rows = [
        pair(
            p.row,
            f"{p.question[:-1]} number {p.row} {chr(97 + p.row % 26) * 6}?",
            f"Rule {p.row} holds.",
        )
        for p in plain
    ]
    rows[17] = pair(18, "When does the garden open in summer?", "At nine.")
    rows[43] = pair(44, "When does the garden close in summer?", "At six.")
    chosen = [p.row for p in facts_to_word(study_of(tmp_path, rows))]
    assert {18, 44} <= set(chosen[:4]), "those two are easily confused"
    assert len(chosen) == ASKED
    assert sorted((row - 1) // 6 for row in chosen) == list(range(10)), "one of each tenth"


def test_the_index_decides_which_facts_are_near(study):
    pairs = load_split(study.folder / "data", "train")
    facts = [fact for p in pairs for fact in facts_of(p)]
    vectors = np.eye(len(facts), dtype=np.float32)
    vectors[94] = vectors[96]
    Index(facts, vectors, {"name": "fake", "sha256": "0"}).save(study.retrieval_folder)
    assert facts_to_word(study)[0] == pairs[94]


def test_facts_with_one_answer_are_not_confused_with_each_other(tmp_path):
    rows = [pair(i + 1, f"Is thing {i} sold on day {i}?", f"Answer {i}.") for i in range(30)]
    rows[4] = pair(5, "Where is the tall tower of Velmoor?", "In the east.")
    rows[5] = pair(6, "Where is the tall tower of Velmoor today?", "In the east.")
    rows[9] = pair(10, "Is it open in May?", "From ten.")
    rows[29] = pair(30, "is it open in May", "From nine.")  # one question with two answers
    asked = [each.row for each in facts_to_word(study_of(tmp_path, rows))]
    assert asked[0] not in (5, 6) and {10, 30}.isdisjoint(asked)


def test_near_questions_have_nouns_of_the_file_and_far_ones_do_not():
    rows = [
        pair(1, "When does the castle open?", "a"),
        pair(2, "Who built the castle?", "b"),
        pair(3, "Is there a ghost tour?", "c"),
        *(
            pair(4 + place, "What are the costs, and what is the opening time?", "d")
            for place in range(3)
        ),
    ]
    found = suggested_questions(rows)
    assert found[:2] == [
        "What would it cost to insure the castle?",
        "Can I buy the tour from you?",
    ]
    assert found[2:] == suggested_questions([]) and "Write a poem about the sea." in found
    with use_language("de"):
        assert suggested_questions(rows)[-5:] != found[-5:]


def test_own_questions_are_kept_in_order_without_repetitions(study):
    (first, second, *_) = load_split(study.folder / "data", "train")
    saved = save_questions(
        study,
        [
            OwnQuestion("Who is the mayor?"),
            wording_of(first, "  what about\nprinters "),
            wording_of(second, "What about printers"),
            wording_of(second, " "),
        ],
    )
    assert saved == read_questions(study)
    assert [each.question for each in saved] == ["what about printers", "Who is the mayor?"]
    assert (saved[0].row, saved[0].known, saved[0].answer) == (
        first.row,
        first.question,
        first.answer,
    )


@pytest.mark.parametrize("row", [None, 0])
def test_a_question_of_the_file_tests_nothing(study, row):
    known = load_split(study.folder / "data", "train")[3].question
    with pytest.raises(DataError, match="your file has the question"):
        save_questions(study, [OwnQuestion(known.upper(), row)])
    assert read_questions(study) == ()


def test_a_file_of_questions_is_added(study, tmp_path):
    rows, path = sheet(), tmp_path / "own.csv"
    save_questions(study, [OwnQuestion("Who is the mayor?")])
    path.write_text(f"question,answer\nprinters how dear,{rows[0].answer}\nwhat is the moon,-\n")
    found = add_questions_of_file(study, path)
    assert [each.question for each in found] == [
        "printers how dear",
        "Who is the mayor?",
        "what is the moon",
    ]
    assert found[0].answer == rows[0].answer and found[2].row is None
    path.write_text("question,answer\nanything,Nobody has this answer.\n")
    with pytest.raises(DataError, match="no row has the answer of 'anything'"):
        add_questions_of_file(study, path)
    assert read_questions(study) == found


def test_answers_hold_for_one_adapter(study):
    save_questions(study, [OwnQuestion("Who is the mayor?"), OwnQuestion("Why?")])
    assert unasked(study) == [("Who is the mayor?", ["copy"]), ("Why?", ["copy"])]
    trained(study)
    everyone = ["lora", "qlora", "copy"]
    assert unasked(study) == [("Who is the mayor?", everyone), ("Why?", everyone)]
    assert unasked(study, copies=True) == [("Who is the mayor?", ["copy"]), ("Why?", ["copy"])]
    given = {arm: {"text": "We do.", "declined": False} for arm in everyone}
    save_answers(study, "Why?", given)
    save_answers(study, "Who is the mayor?", {"lora": given["lora"]})
    assert unasked(study) == [("Who is the mayor?", ["qlora", "copy"])]
    path = study.arm_folder("lora") / "summary.json"
    write_json(path, {**read_json(path), "adapter_sha256": "retrained"})
    assert read_answers(study, "lora") == {} and set(read_answers(study, "qlora")) == {"Why?"}
    assert ("Why?", ["lora"]) in unasked(study)


def test_trained_assistants_are_asked_when_the_rule_for_declining_is_fitted():
    study = trained(with_data(new_study("grounded", approaches=["grounded"])))
    save_questions(study, [OwnQuestion("Who is the mayor?")])
    assert unasked(study) == [("Who is the mayor?", ["copy"])]
    write_json(study.arm_folder("qlora") / RULE, {})
    assert unasked(study) == [("Who is the mayor?", ["qlora", "copy"])]


def test_damaged_files_say_what_to_do(study):
    trained(study)
    for path in (questions_file(study), answers_file(study)):
        save_questions(study, [OwnQuestion("Why?")])
        path.write_text('{"questions": 3, "lora": 4}')
        with pytest.raises(StudyError, match="Delete it"):
            unasked(study)
        path.unlink()
