"""Files whose answers occur once: every fact is trained, and the test asks in other words or respelled questions."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.config import DataConfig
from assistant_builder.data import (
    Pair,
    check_pairs,
    load_pairs,
    load_split,
    prepare_dataset,
    split_pairs,
)
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import RowNumbers
from assistant_builder.data.wordings import Wording, add_wordings, count_wordings
from tests.data.samples import jsonl, pair
from tests.texts import parts

CARDS = Path(__file__).parents[2] / "datasets_cards"
THINGS = parts(
    """
    printers | study rooms | lockers | e-readers | sewing machines | projectors | board games
    globes | record players | microscopes
    """
)
ASKED = parts(
    """
    How much are the {}? | Where do I find the {}? | Who may borrow the {}? | When are the {} free?
    How long may I keep the {}? | Do children pay for the {}? | Can I book the {} by phone?
    What if I break one of the {}? | Are the {} for members alone? | How many {} are there?
    """
)


def sheet(**others: object) -> list[Pair]:
    """100 rows of a library, each with its own answer."""
    return [
        pair(
            10 * i + j + 1,
            asked.format(thing),
            f"For {thing} it is rule {10 * i + j} of the house.",
            **others,
        )
        for i, thing in enumerate(THINGS)
        for j, asked in enumerate(ASKED)
    ]


def typed(rows: list[Pair], number: int = 10, **others: object) -> list[Pair]:
    """Other wordings of every seventh row."""
    return [
        pair(
            201 + i,
            f"Tell me, number {i}: what about {rows[7 * i].question.split()[-1]}",
            rows[7 * i].answer,
            **others,
        )
        for i in range(number)
    ]


def declines(number: int = 10, **others: object) -> list[Pair]:
    return [
        pair(
            301 + i,
            f"Do you know the mayor of town {i}?",
            "Please ask at the desk.",
            answerable=False,
            **others,
        )
        for i in range(number)
    ]


def rows_of(pairs: tuple[Pair, ...]) -> list[int]:
    return [p.row for p in pairs]


def test_all_facts_of_a_sheet_are_trained_and_respelled_questions_fill_test_and_validation():
    rows = sheet()
    split = split_pairs(rows, DataConfig())
    assert rows_of(split.train) == rows_of(tuple(rows)) and split.leaks == ()
    assert (len(split.heldout), len(split.validation)) == (20, 10)
    by_row = {p.row: p for p in rows}
    copies = [*split.heldout, *split.validation]
    assert sorted(rows_of(tuple(copies))) == list(range(101, 131))
    assert len({p.respelled for p in copies}) == 30  # no question is in both
    for copy in copies:
        source = by_row[copy.respelled]
        assert copy.answer == source.answer
        assert casefold_normalize(copy.question) != casefold_normalize(source.question)
    record = split.to_record()
    assert record["respelled"] == {"validation": 10, "heldout": 20}
    assert record["facts"] == {"facts": 100, "single": 100, "test": 0, "known": 0}
    assert split_pairs(rows, DataConfig()).hashes() == split.hashes()


def test_ten_typed_wordings_are_the_test():
    rows = sheet()
    other = typed(rows)
    split = split_pairs([*rows, *other], DataConfig())
    assert rows_of(split.train) == rows_of(tuple(rows))
    assert rows_of(split.heldout) == rows_of(tuple(other))
    assert all(p.respelled is not None for p in split.validation) and len(split.validation) == 10
    count = count_wordings(split.to_record())
    assert count is not None and (count.test, count.known, count.respelled) == (10, 10, 0)
    assert "asks 10 questions in other words" in count.meaning and not count.remedy


def test_many_wordings_are_validation_too():
    rows = sheet()
    other = [
        pair(201 + i, f"Word {i} about {p.question}", p.answer) for i, p in enumerate(rows[:45])
    ]
    split = split_pairs([*rows, *other], DataConfig(remove_leaks="never"))
    assert set(rows_of(tuple(rows))) <= set(rows_of(split.train))
    assert len(split.heldout) == 29 and len(split.validation) == 12 and not split.copies


@pytest.mark.parametrize("number", [1, 5])
def test_few_other_wordings_are_trained(number):
    rows = sheet()
    split = split_pairs([*rows, *typed(rows, number)], DataConfig())
    assert len(split.train) == 100 + number and all(p.respelled for p in split.heldout)


def test_six_other_wordings_are_a_test_and_a_small_sheet_needs_fewer():
    rows = sheet()
    split = split_pairs([*rows, *typed(rows, 6)], DataConfig())
    assert len(split.heldout) == 6 and not any(p.respelled for p in split.heldout)
    few = rows[:16]
    other = [
        pair(201 + i, f"Tell me {i}, of {p.question}", p.answer) for i, p in enumerate(few[:5])
    ]
    split = split_pairs([*few, *other], DataConfig(remove_leaks="never"))
    assert len(split.heldout) == 4 and not any(p.respelled for p in split.heldout)


def test_wordings_that_repeat_training_leave_a_respelled_test():
    rows = sheet()
    again = [
        pair(201 + i, rows[i].question.replace("?", "??"), rows[i].answer, group=f"g{i}")
        for i in range(10)
    ]
    split = split_pairs([*rows, *again], DataConfig())
    assert split.leaks_removed == 10
    assert len(split.train) == 100
    assert all(p.respelled for p in split.heldout)


def test_questions_to_decline_are_drawn_by_their_share():
    rows = [*sheet(), *declines(20)]
    split = split_pairs(rows, DataConfig())
    asked = [
        [p.answerable for p in part].count(False)
        for part in (split.train, split.validation, split.heldout)
    ]
    assert asked == [14, 2, 4] and sum(p.answerable for p in split.train) == 100


def test_a_short_answer_or_a_conversation_is_no_other_wording():
    short = [pair(401 + i, f"Is question {i} of yes and no?", "Yes.") for i in range(6)]
    split = split_pairs([*sheet(), *short], DataConfig())
    assert len(split.train) == 106


def test_rows_that_a_group_ties_to_an_only_wording_are_trained():
    rows = [pair(p.row, p.question, p.answer, group=p.question.split()[-1]) for p in sheet()]
    other = [
        pair(p.row, p.question, p.answer, group=p.question.split()[-1].lower()) for p in typed(rows)
    ]
    split = split_pairs([*rows, *other], DataConfig())
    assert len(split.train) == 110 and all(p.group is None for p in split.heldout)
    assert split.to_record()["units"] | {"counts": 0} == {
        "kind": "group",
        "counts": 0,
        "ungrouped_rows": 0,
        "straddling": [],
    }


def test_a_given_test_is_honoured_and_validation_takes_no_fact():
    rows = sheet(split="train")
    test = [*typed(rows, 14, split="heldout"), *declines(split="heldout")]
    split = split_pairs([*rows, *test], DataConfig())
    assert rows_of(split.train) == rows_of(tuple(rows))
    assert rows_of(split.heldout) == rows_of(tuple(test))
    assert split.cut == ("validation",) and len(split.validation) == 10
    assert split.to_record()["respelled"] == {"validation": 10}
    given = split_pairs([*rows, *typed(rows, 14, split="validation")], DataConfig())
    assert rows_of(given.validation) == list(range(201, 215))
    assert len(given.heldout) == 20
    assert len(given.train) == 100


def test_a_given_test_without_answers_gets_respelled_questions():
    split = split_pairs([*sheet(split="train"), *declines(split="heldout")], DataConfig())
    assert [p.answerable for p in split.heldout].count(False) == 10 and len(split.heldout) == 30


def test_limits_hold_for_respelled_questions():
    split = split_pairs(sheet(), DataConfig(max_train=40, max_heldout=5))
    assert (len(split.train), len(split.heldout), len(split.validation)) == (40, 5, 4)
    assert {p.respelled for p in (*split.heldout, *split.validation)} <= set(rows_of(split.train))


def test_typed_wordings_become_the_test_of_a_file_that_gives_only_training(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(
        jsonl([{"question": p.question, "answer": p.answer, "split": "train"} for p in sheet()])
    )
    columns = add_wordings(
        source,
        [Wording(3, "Who gets them?"), Wording(9, "What do they cost?")],
        tmp_path / "b.jsonl",
    )
    split = split_pairs(load_pairs(tmp_path / "b.jsonl", columns=columns).pairs, DataConfig())
    assert rows_of(split.heldout) == [101, 102] and len(split.train) == 100


def test_the_files_name_the_row_that_a_respelled_question_is_of(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text(
        "question,answer\n" + "".join(f'"{p.question}","{p.answer}"\n' for p in sheet())
    )
    prepare_dataset(source, DataConfig(), folder=tmp_path / "data")
    [first, *_] = load_split(tmp_path / "data", "heldout")
    assert first == Pair(first.row, first.messages, split="heldout", respelled=first.respelled)
    numbers = RowNumbers.of_record(read_json(tmp_path / "data" / "findings.json"))
    assert first.respelled is not None
    assert numbers.shown(first.row) == numbers.shown(first.respelled)
    assert numbers.shown(1) == 2  # the header is row 1 of a spreadsheet


def test_rows_left_out_at_the_end_of_a_file_keep_their_numbers(tmp_path):
    source = tmp_path / "a.csv"
    lines = [f'"{p.question}","{p.answer}"\n' for p in sheet()]
    source.write_text("".join(["question,answer\n", *lines, "May I bring a dog?,\n"]))
    prepare_dataset(source, DataConfig(), folder=tmp_path / "data")
    findings = read_json(tmp_path / "data" / "findings.json")
    [left_out] = findings["rejected"]
    assert RowNumbers.of_record(findings).shown(left_out["row"]) == len(lines) + 2


@pytest.mark.parametrize(
    ("name", "columns", "digest"),
    [
        ("larkmoor-campsite/data.csv", {}, "0ec282701662eb57"),
        ("larkmoor-campsite/data.csv", {"split": ""}, "e6ac4a749c0e8549"),
        ("ostrel-sound-ferries/data.jsonl", {}, "788dad65cc17e33c"),
        ("ostrel-sound-ferries/data.jsonl", {"split": ""}, "de2576fffb065576"),
        ("thimble-row-library/data.csv", {}, "1c4c4012ca695bed"),
    ],
)
def test_data_with_several_wordings_are_split_as_before(name, columns, digest):
    split = split_pairs(
        check_pairs(load_pairs(CARDS / name, columns=columns)).usable, DataConfig(columns=columns)
    )
    record = {key: value for key, value in split.to_record().items() if key != "said"}
    content = json.dumps(record, sort_keys=True).encode()
    assert sha256(content).hexdigest()[:16] == digest
