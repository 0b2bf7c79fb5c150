"""Rows edited by hand: only what was touched changes; pasted text; rows left out as CSV; an edited card."""

from __future__ import annotations

import csv
import io

import pytest

from assistant_builder.config import DataConfig
from assistant_builder.data import load_pairs, prepare
from assistant_builder.data.card_file import is_edited, is_outdated, save_edited, take_generated
from assistant_builder.data.editing import Edits, apply_edits, grid
from assistant_builder.data.exporting import left_out_csv
from assistant_builder.data.pasting import write_pasted
from assistant_builder.data.reading import read_table
from assistant_builder.data.rewriting import write_rows
from assistant_builder.errors import DataError
from tests.data.making_data import ROWS, jsonl
from tests.data.test_data_formats import xlsx_bytes

RECORDS = [
    {"question": "How many?\r\nSay.", "answer": "3.50", "n": 1.5, "tags": ["a", "b"]},
    {"question": "Why?", "answer": None},
    {"question": "متى؟", "answer": "غدا", "tags": {"x": True}},
]


@pytest.fixture
def table(write):
    return read_table(write("a.jsonl", jsonl(RECORDS) + "no json\n"))


def test_a_grid_that_nobody_touched_changes_nothing(table):
    lines = grid(table, range(1, 5), {4: "broken"})
    assert lines[3][:2] == ["4", "broken. It reads: no json"]
    browser = [[cell.replace("\r\n", "\n") for cell in line] for line in lines]
    rows, edits = apply_edits(table, range(1, 5), browser)
    assert not edits and rows == table.rows


def test_a_touched_cell_is_replaced_and_all_else_stays(table, tmp_path):
    lines = grid(table, [2, 3, 4], {})
    lines[0][3] = "=SUM"
    lines[1][5] = '["c"]'
    lines[2][2:4] = ["What now?", "This."]
    rows, edits = apply_edits(table, [2, 3, 4], lines)
    assert edits == Edits(cells=4)
    assert rows[0] is table.rows[0]
    assert rows[1].cells == {"question": "Why?", "answer": "=SUM"}
    assert rows[2].cells["tags"] == ["c"]
    write_rows(rows, tmp_path / "b.jsonl")
    assert [pair.answer for pair in load_pairs(tmp_path / "b.jsonl").pairs] == ["3.50", "=SUM", "غدا", "This."]


def test_rows_are_added_and_removed_and_those_not_shown_stay(table):
    lines = grid(table, [2, 3], {})
    del lines[0]
    lines += [["", "", "New?", "Yes.", "", ""], ["", None, "", "", None, ""]]
    rows, edits = apply_edits(table, [2, 3], lines)
    assert edits == Edits(added=1, removed=1)
    assert [row.row for row in rows] == [1, 2, 3, 4]
    assert [row.cells and row.cells["question"] for row in rows] == ["How many?\r\nSay.", "متى؟", None, "New?"]


def test_columns_taken_out_of_the_grid_are_refused(table):
    with pytest.raises(DataError, match="columns were added or taken out"):
        apply_edits(table, [1], [line[:-1] for line in grid(table, [1], {})])


@pytest.mark.parametrize(
    ("text", "suffix", "pairs"),
    [
        ('Wo?\t"Am Pier.\nDort."\nمتى؟\tغدا', ".tsv", [("Wo?", "Am Pier.\nDort."), ("متى؟", "غدا")]),
        ("Frage\tAntwort\nWo?\tDort.", ".tsv", [("Wo?", "Dort.")]),
        ("Wo, genau?;Dort.\nWann?;Jetzt, gleich.", ".csv", [("Wo, genau?", "Dort."), ("Wann?", "Jetzt, gleich.")]),
        ('{"question": "Why?", "answer": "So."}', ".jsonl", [("Why?", "So.")]),
    ],
)
def test_pasted_text_is_read_with_and_without_a_header(text, suffix, pairs, tmp_path):
    path, _ = write_pasted(text, tmp_path)
    assert path.suffix == suffix
    assert [(pair.question, pair.answer) for pair in load_pairs(path).pairs] == pairs


@pytest.mark.parametrize("text", ["", " \n\n", "just one column\nof words"])
def test_pasted_text_without_pairs_is_refused_with_a_remedy(text, tmp_path):
    with pytest.raises(DataError) as caught:
        write_pasted(text, tmp_path)
    assert "two columns" in caught.value.remedy


def test_rows_left_out_open_in_a_spreadsheet_and_hold_no_formula(write):
    table = read_table(write("a.csv", 'question,answer,note\n=1+1,,@x\na,b,c,d\n"Wo, ü?",-5,"+x\ny"\n'))
    data = left_out_csv(table, {1: "the answer is empty", 2: "too many cells", 3: "=odd"})
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert rows[0] == ["row", "reason", "question", "answer", "note", "text as found"]
    assert rows[1] == ["1", "the answer is empty", "'=1+1", "", "'@x", ""]
    assert rows[2] == ["2", "too many cells", "", "", "", "a,b,c,d"]
    assert rows[3] == ["3", "'=odd", "Wo, ü?", "'-5", "'+x\ny", ""]


def test_names_of_columns_are_found_below_a_title(write):
    rows = [["Knowledge base"], [], ["question", "answer", "by"], ["a b", "c d", None], ["e f", None, None]]
    found = load_pairs(write("a.xlsx", xlsx_bytes(rows)))
    assert found.rows == 2 and [pair.row for pair in found.pairs] == [1]
    assert any("row 3 of the sheet" in note for note in found.notes)
    plain = load_pairs(write("b.xlsx", xlsx_bytes([["question"], ["a b", "c d"]])), columns={"answer": "column 2"})
    assert [(pair.question, pair.answer) for pair in plain.pairs] == [("a b", "c d")]


def test_an_edited_card_outlives_a_new_run_of_the_data_step(write, tmp_path):
    source, folder = write("a.jsonl", jsonl(ROWS)), tmp_path / "data"
    prepare(source, DataConfig(), folder=folder)
    generated = (folder / "card.md").read_text()
    assert not is_edited(folder)
    save_edited(folder, generated.replace("license: unknown", "license: cc-by-4.0"), generated)
    assert is_edited(folder) and not is_outdated(folder)
    prepare(source, DataConfig(seed=3), folder=folder)
    assert "cc-by-4.0" in (folder / "card.md").read_text() and is_outdated(folder)
    take_generated(folder)
    text = (folder / "card.md").read_text()
    assert "cc-by-4.0" not in text and "seed 3" in text and not is_edited(folder)
    with pytest.raises(DataError, match="cannot be read in line"):
        save_edited(folder, "---\nlicense: [\n---\n# Card\n", text)
    assert (folder / "card.md").read_text() == text
