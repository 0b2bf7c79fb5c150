"""Changes to data files: appended pairs, pasted text, edited rows and rejected rows as CSV."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant_builder.config import DataConfig
from assistant_builder.data import check_pairs, load_pairs, split_pairs
from assistant_builder.data.csv_reader import (
    FORMULA_PREFIXES,
    FORMULAS_UNESCAPED,
    escape_formula,
    unescape_formula,
)
from assistant_builder.data.edit import (
    AddedPair,
    Edits,
    append_pairs,
    apply_edits,
    edit_grid,
    rejected_csv,
    write_pasted,
    write_rows,
)
from assistant_builder.data.reading_process import read_table
from assistant_builder.errors import DataError
from tests.data.samples import (
    FORMATS,
    ROWS,
    clean_pairs,
    content_of,
    csv_text,
    jsonl,
    parquet_bytes,
    xlsx_bytes,
)

NEW = [
    AddedPair("How long is the pier?", "It is 90 metres long."),
    AddedPair("متى يفتح المكتب؟", "=SUM(1)\nيفتح في الثامنة"),
]


def same_rows(old, new):
    """Whether the new file contains the pairs and rejected rows of the source."""
    return old.pairs == new.pairs[: -len(NEW)] and [entry.row for entry in old.rejected] == [
        entry.row for entry in new.rejected
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_append_pairs_keeps_the_rows_of_every_format(form, write, tmp_path):
    source, target = write(f"pairs.{form}", content_of(form)), tmp_path / "more.jsonl"
    before = source.read_bytes()
    assert append_pairs(source, NEW, target) == {}
    old, new = load_pairs(source), load_pairs(target)
    assert same_rows(old, new) and new.rows == old.rows + len(NEW)
    assert [(pair.question, pair.answer) for pair in new.pairs[-2:]] == [each[:2] for each in NEW]
    assert source.read_bytes() == before


def test_append_pairs_keeps_every_cell_of_every_column(write, tmp_path):
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


def test_append_pairs_keeps_blank_lines_empty_rows_and_typed_cells(write, tmp_path):
    records = [
        {"question": "How many?", "answer": "3.50", "n": 1.5, "tags": ["a", "b"]},
        {"question": "Why?"},
    ]
    for name, content in (
        ("lines.jsonl", "\n" + jsonl(records) + "\nnot json\n" + jsonl(ROWS)),
        ("typed.parquet", parquet_bytes(records)),
        (
            "gaps.xlsx",
            xlsx_bytes(
                [["question", "answer", "n"], ["a b", "c d", 0.1], [], ["e f", "g h", True]]
            ),
        ),
    ):
        source, target = write(name, content), tmp_path / "more.jsonl"
        append_pairs(source, NEW, target)
        assert same_rows(load_pairs(source), load_pairs(target)), name


def test_append_pairs_writes_to_the_mapped_columns(write, tmp_path):
    source = write(
        "odd.csv", csv_text(ROWS).replace("question", "stem").replace("answer", "key", 1)
    )
    columns = {"question": "stem", "answer": "key"}
    mapping = append_pairs(source, NEW, tmp_path / "more.jsonl", columns)
    assert mapping == columns
    assert same_rows(
        load_pairs(source, columns=columns), load_pairs(tmp_path / "more.jsonl", columns=mapping)
    )


def test_append_pairs_sets_split_and_system_prompt_of_new_rows(write, tmp_path):
    rows = [
        {**row, "split": split, "system": "Be kind."}
        for row, split in zip(ROWS, ("train", "train", "dev", "test"), strict=True)
    ]
    append_pairs(write("a.jsonl", jsonl(rows)), NEW, tmp_path / "more.jsonl")
    found = load_pairs(tmp_path / "more.jsonl").pairs
    assert [pair.split for pair in found] == "train train validation heldout train train".split()
    assert {pair.system for pair in found} == {"Be kind."}
    # new rows must get no split where no other row has one, or the other rows would be rejected
    append_pairs(
        write("b.jsonl", jsonl([{**row, "split": ""} for row in ROWS])),
        NEW,
        tmp_path / "more.jsonl",
    )
    assert not check_pairs(load_pairs(tmp_path / "more.jsonl")).rejected


@pytest.mark.parametrize(
    "known", [{}, {"cluster": "fact", "answerable": "yes"}], ids=["new columns", "own columns"]
)
def test_append_pairs_marks_wordings_of_one_question_and_declines(known, write, tmp_path):
    rows = [
        {**row, **{name: "x" if role == "cluster" else "true" for role, name in known.items()}}
        for row in ROWS
    ]
    pairs = [
        AddedPair("Is there Wi-Fi?", "Yes.", "wifi"),
        AddedPair("Do you have internet?", "Yes.", "wifi"),
        AddedPair("Who won?", "I cannot say.", answerable=False),
    ]
    mapping = append_pairs(write("a.jsonl", jsonl(rows)), pairs, tmp_path / "more.jsonl", known)
    assert mapping == (known or {"cluster": "cluster", "answerable": "answerable"})
    *old, wifi, internet, won = load_pairs(tmp_path / "more.jsonl", columns=mapping).pairs
    assert wifi.cluster == internet.cluster == "wifi" and wifi.answerable and internet.answerable
    assert won.cluster is None and not won.answerable and all(pair.answerable for pair in old)


def test_append_pairs_adds_a_conversation_to_conversations(write, tmp_path):
    turns = [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        for row in ROWS
    ]
    append_pairs(
        write("a.jsonl", jsonl([{"messages": turn} for turn in turns])),
        NEW,
        tmp_path / "more.jsonl",
    )
    last = load_pairs(tmp_path / "more.jsonl").pairs[-1]
    assert (last.system, last.question, last.answer) == ("Be brief.", *NEW[1][:2])


def test_append_pairs_with_splits_keeps_them_and_adds_training_pairs(write, tmp_path):
    rows = [{"question": pair.question, "answer": "They share it."} for pair in clean_pairs(30)]
    source = write("a.jsonl", jsonl(rows))
    split = split_pairs(check_pairs(load_pairs(source)).usable, DataConfig())
    places = {
        pair.row: name for name in ("train", "validation", "heldout") for pair in split.pairs(name)
    }
    mapping = append_pairs(source, NEW, tmp_path / "more.jsonl", splits=places)
    assert mapping == {"split": "split"}
    again = split_pairs(
        check_pairs(load_pairs(tmp_path / "more.jsonl", columns=mapping)).usable, DataConfig()
    )
    assert [pair.row for pair in again.heldout] == [pair.row for pair in split.heldout]
    assert [pair.row for pair in again.validation] == [pair.row for pair in split.validation]
    assert [pair.question for pair in again.train[-2:]] == [each.question for each in NEW]


def test_append_pairs_does_not_overwrite_a_column_named_split(write, tmp_path):
    rows = [{**row, "split": "left"} for row in ROWS]
    source, target = write("a.jsonl", jsonl(rows)), tmp_path / "more.jsonl"
    mapping = append_pairs(
        source, NEW, target, {"split": ""}, splits=dict.fromkeys(range(1, 5), "train")
    )
    assert mapping == {"split": "split 2"}
    assert {
        json.loads(line).get("split") for line in target.read_text(encoding="utf-8").splitlines()
    } == {"left", None}
    assert {pair.split for pair in load_pairs(target, columns=mapping).pairs} == {"train"}


RECORDS = [
    {"question": "How many?\r\nSay.", "answer": "3.50", "n": 1.5, "tags": ["a", "b"]},
    {"question": "Why?", "answer": None},
    {"question": "متى؟", "answer": "غدا", "tags": {"x": True}},
]


@pytest.fixture
def table(write):
    return read_table(write("a.jsonl", jsonl(RECORDS) + "no json\n"))


def test_apply_edits_of_an_unchanged_grid_changes_nothing(table):
    lines = edit_grid(table, range(1, 5), {4: "broken"})
    assert lines[3][:2] == ["4", "broken. The row contains: no json"]
    browser = [[cell.replace("\r\n", "\n") for cell in line] for line in lines]
    rows, edits = apply_edits(table, range(1, 5), browser)
    assert not edits and rows == table.rows


def test_apply_edits_replaces_only_edited_cells(table, tmp_path):
    lines = edit_grid(table, [2, 3, 4], {})
    lines[0][3] = "=SUM"
    lines[1][5] = '["c"]'
    lines[2][2:4] = ["What now?", "This."]
    rows, edits = apply_edits(table, [2, 3, 4], lines)
    assert edits == Edits(cells=4)
    assert rows[0] is table.rows[0]
    assert rows[1].cells == {"question": "Why?", "answer": "=SUM"}
    assert rows[2].cells["tags"] == ["c"]
    write_rows(rows, tmp_path / "b.jsonl")
    assert [
        pair.answer for pair in load_pairs(tmp_path / "b.jsonl").pairs
    ] == "3.50 =SUM غدا This.".split()


def test_apply_edits_adds_and_removes_rows_and_keeps_hidden_ones(table):
    lines = edit_grid(table, [2, 3], {})
    del lines[0]
    lines += [["", "", "New?", "Yes.", "", ""], ["", None, "", "", None, ""]]
    rows, edits = apply_edits(table, [2, 3], lines)
    assert edits == Edits(added=1, removed=1)
    assert [row.row for row in rows] == [1, 2, 3, 4]
    assert [row.cells and row.cells["question"] for row in rows] == [
        "How many?\r\nSay.",
        "متى؟",
        None,
        "New?",
    ]


def test_apply_edits_refuses_removed_columns(table):
    with pytest.raises(DataError, match="columns were added or removed"):
        apply_edits(table, [1], [line[:-1] for line in edit_grid(table, [1], {})])


@pytest.mark.parametrize(
    ("text", "suffix", "pairs"),
    [
        (
            'Wo?\t"Am Pier.\nDort."\nمتى؟\tغدا',
            ".tsv",
            [("Wo?", "Am Pier.\nDort."), ("متى؟", "غدا")],
        ),
        ("Frage\tAntwort\nWo?\tDort.", ".tsv", [("Wo?", "Dort.")]),
        (
            "Wo, genau?;Dort.\nWann?;Jetzt, gleich.",
            ".csv",
            [("Wo, genau?", "Dort."), ("Wann?", "Jetzt, gleich.")],
        ),
        ('{"question": "Why?", "answer": "So."}', ".jsonl", [("Why?", "So.")]),
    ],
)
def test_write_pasted_reads_text_with_and_without_header(text, suffix, pairs, tmp_path):
    path, _ = write_pasted(text, tmp_path)
    assert path.suffix == suffix
    assert [(pair.question, pair.answer) for pair in load_pairs(path).pairs] == pairs


@pytest.mark.parametrize("text", ["", " \n\n", "just one column\nof words"])
def test_write_pasted_refuses_text_without_pairs(text, tmp_path):
    with pytest.raises(DataError) as caught:
        write_pasted(text, tmp_path)
    assert "question and answer columns" in str(caught.value.remedy)


def test_rejected_csv_has_byte_order_mark_and_escaped_formulas(write):
    table = read_table(
        write("a.csv", 'question,answer,note\n=1+1,,@x\na,b,c,d\n"Wo, ü?",-5,"+x\ny"\n')
    )
    data = rejected_csv(table, {1: "the answer is empty", 2: "too many cells", 3: "=odd"})
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    assert rows[0] == ["row", "reason", "question", "answer", "note", "raw text"]
    assert rows[1] == ["2", "the answer is empty", "'=1+1", "", "'@x", ""]
    assert rows[2] == ["3", "too many cells", "", "", "", "a,b,c,d"]
    assert rows[3] == ["4", "'=odd", "Wo, ü?", "'-5", "'+x\ny", ""]


@given(
    st.text() | st.lists(st.sampled_from([*FORMULA_PREFIXES, "'", '"', ";", " ", "a"])).map("".join)
)
def test_escape_formula_is_lossless_and_leaves_no_formula(text):
    assert unescape_formula(escape_formula(text)) == text
    for separator in ",;\t":  # of the spreadsheet program, whatever that of the file is
        out = io.StringIO(newline="")
        csv.writer(out).writerow(["", escape_formula(text), "b"])
        rows = csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=separator)
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@"))]


FORMULAS = [
    "=1+1",
    "+49 30 1234",
    "-5",
    "@SUM(A1)",
    '=HYPERLINK("http://evil.invalid")',
    "'=kept",
    "''=twice",
    "＝1+1",
    "=cmd|' /C calc'!A0",
    "-2+3+cmd|'a'!B1",
]


@pytest.mark.parametrize("column", ["question", "=1+1"])
def test_rejected_csv_that_was_corrected_reads_back_unescaped(write, column):
    lines = [["question", "answer", column], *(["", formula, formula] for formula in FORMULAS)]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(lines)
    table = read_table(write("a.csv", out.getvalue()))
    listed = rejected_csv(table, {row.row: "=the question is empty" for row in table.rows})
    cells = [cell for line in csv.reader(io.StringIO(listed.decode("utf-8-sig"))) for cell in line]
    assert not any(cell.startswith(FORMULA_PREFIXES) for cell in cells)
    corrected = [
        line[:2] + ["Q?" if place else line[2], *line[3:]]
        for place, line in enumerate(csv.reader(io.StringIO(listed.decode("utf-8-sig"))))
    ]
    out = io.StringIO(newline="")
    csv.writer(out).writerows(corrected)
    found = load_pairs(write("corrected.csv", out.getvalue()))
    assert [pair.answer for pair in found.pairs] == FORMULAS
    assert found.changes[FORMULAS_UNESCAPED]


def test_load_pairs_keeps_apostrophes_of_other_files(write):
    found = load_pairs(write("a.csv", "question,answer\na,'=1+1\n"))
    assert found.pairs[0].answer == "'=1+1" and FORMULAS_UNESCAPED not in found.changes
