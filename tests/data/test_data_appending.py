"""Pairs added to a data file: whatever it was, everything that stood in it still does."""

from __future__ import annotations

import json

import pytest

from assistant_builder.config import DataConfig
from assistant_builder.data import check_pairs, load_pairs, split_pairs
from assistant_builder.data.appending import append_pairs
from assistant_builder.data.reading import read_table
from tests.data.making_data import ROWS, honest, jsonl
from tests.data.test_data_formats import FORMATS, content_of, csv_text, parquet_bytes, xlsx_bytes

NEW = [("How long is the pier?", "It is 90 metres long."), ("متى يفتح المكتب؟", "=SUM(1)\nيفتح في الثامنة")]


def same_rows(old, new):
    """Pairs and rejected rows of the source, in the file that was made from it."""
    return old.pairs == new.pairs[: -len(NEW)] and [entry.row for entry in old.rejected] == [
        entry.row for entry in new.rejected
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_rows_of_every_format_stay_and_new_ones_follow(form, write, tmp_path):
    source, target = write(f"pairs.{form}", content_of(form)), tmp_path / "more.jsonl"
    before = source.read_bytes()
    assert append_pairs(source, NEW, target) == {}
    old, new = load_pairs(source), load_pairs(target)
    assert same_rows(old, new) and new.rows == old.rows + len(NEW)
    assert [(pair.question, pair.answer) for pair in new.pairs[-2:]] == NEW
    assert source.read_bytes() == before


def test_every_cell_of_every_column_stays(write, tmp_path):
    text = (
        'Frage;Antwort;Notiz;Notiz\n"Wo; ist sie?";Dort.;"a\nb";ü\nWann?;;x\nzu;viele;Zellen;in;ihr\n;;;\n'
        'Ende?;Ja "so".;;\n'
    )
    source, target = write("pairs.csv", text), tmp_path / "more.jsonl"
    append_pairs(source, NEW, target)
    old, new = read_table(source), read_table(target)
    assert new.columns == old.columns == ("Frage", "Antwort", "Notiz", "Notiz (2)")
    for before, after in zip(old.rows, new.rows, strict=False):
        assert before.row == after.row
        assert (after.cells, after.raw) == (before.cells, before.raw)
    assert same_rows(load_pairs(source), load_pairs(target))


def test_blank_lines_empty_rows_and_cells_of_a_type_stay(write, tmp_path):
    records = [{"question": "How many?", "answer": "3.50", "n": 1.5, "tags": ["a", "b"]}, {"question": "Why?"}]
    for name, content in (
        ("lines.jsonl", "\n" + jsonl(records) + "\nnot json\n" + jsonl(ROWS)),
        ("typed.parquet", parquet_bytes(records)),
        ("gaps.xlsx", xlsx_bytes([["question", "answer", "n"], ["a b", "c d", 0.1], [], ["e f", "g h", True]])),
    ):
        source, target = write(name, content), tmp_path / "more.jsonl"
        append_pairs(source, NEW, target)
        assert same_rows(load_pairs(source), load_pairs(target)), name


def test_columns_as_mapped_take_the_new_pairs(write, tmp_path):
    source = write("odd.csv", csv_text(ROWS).replace("question", "stem").replace("answer", "key", 1))
    columns = {"question": "stem", "answer": "key"}
    mapping = append_pairs(source, NEW, tmp_path / "more.jsonl", columns)
    assert mapping == columns
    assert same_rows(load_pairs(source, columns=columns), load_pairs(tmp_path / "more.jsonl", columns=mapping))


def test_a_given_split_and_the_system_prompt_go_on(write, tmp_path):
    rows = [{**row, "split": split, "system": "Be kind."} for row, split in zip(
        ROWS, ("train", "train", "dev", "test"), strict=True)]
    append_pairs(write("a.jsonl", jsonl(rows)), NEW, tmp_path / "more.jsonl")
    found = load_pairs(tmp_path / "more.jsonl").pairs
    assert [pair.split for pair in found] == ["train", "train", "validation", "heldout", "train", "train"]
    assert {pair.system for pair in found} == {"Be kind."}
    # a column that gives no split must not become one, or the other rows would be rejected for lack of it
    append_pairs(write("b.jsonl", jsonl([{**row, "split": ""} for row in ROWS])), NEW, tmp_path / "more.jsonl")
    assert not check_pairs(load_pairs(tmp_path / "more.jsonl")).rejected


def test_conversations_get_a_conversation(write, tmp_path):
    turns = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["question"]},
              {"role": "assistant", "content": row["answer"]}] for row in ROWS]
    append_pairs(write("a.jsonl", jsonl([{"messages": turn} for turn in turns])), NEW, tmp_path / "more.jsonl")
    last = load_pairs(tmp_path / "more.jsonl").pairs[-1]
    assert (last.system, last.question, last.answer) == ("Be brief.", *NEW[1])


def test_the_split_of_a_study_is_frozen_and_new_pairs_are_trained_on(write, tmp_path):
    source = write("a.jsonl", jsonl([{"question": pair.question, "answer": pair.answer} for pair in honest(30)]))
    split = split_pairs(check_pairs(load_pairs(source)).usable, DataConfig())
    places = {pair.row: name for name in ("train", "validation", "heldout") for pair in split.pairs(name)}
    mapping = append_pairs(source, NEW, tmp_path / "more.jsonl", splits=places)
    assert mapping == {"split": "split"}
    again = split_pairs(check_pairs(load_pairs(tmp_path / "more.jsonl", columns=mapping)).usable, DataConfig())
    assert [pair.row for pair in again.heldout] == [pair.row for pair in split.heldout]
    assert [pair.row for pair in again.validation] == [pair.row for pair in split.validation]
    assert [pair.question for pair in again.train[-2:]] == [question for question, _ in NEW]


def test_a_column_called_split_that_is_none_is_left_alone(write, tmp_path):
    rows = [{**row, "split": "left"} for row in ROWS]
    source, target = write("a.jsonl", jsonl(rows)), tmp_path / "more.jsonl"
    mapping = append_pairs(source, NEW, target, {"split": ""}, splits=dict.fromkeys(range(1, 5), "train"))
    assert mapping == {"split": "split 2"}
    assert {json.loads(line).get("split") for line in target.read_text(encoding="utf-8").splitlines()} == {"left", None}
    assert {pair.split for pair in load_pairs(target, columns=mapping).pairs} == {"train"}
