"""File types, formats and the conversion of rows to pairs."""

import datetime
import gzip
import io
import json
import random
import zipfile

import openpyxl
import pyarrow as pa
import pytest

from assistant_builder.data import check_pairs, load_pairs
from assistant_builder.data.edit import write_rows
from assistant_builder.data.reading_process import load_rows
from assistant_builder.errors import DataError
from tests.data.samples import FORMATS, ROWS, content_of, jsonl, parquet_bytes, xlsx_bytes


@pytest.mark.parametrize("form", FORMATS)
def test_load_pairs_reads_the_same_pairs_from_every_format(write, form):
    found = load_pairs(write(f"data.{form}", content_of(form)))
    assert found.format == form
    assert [{"question": p.question, "answer": p.answer} for p in found.pairs] == ROWS
    assert [p.row for p in found.pairs] == [1, 2, 3, 4]
    assert (found.rows, found.rejected) == (4, ())
    assert found.columns["question"] == "question" and found.columns["group"] is None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["data.csv", "data.jsonl", "data.xlsx", "data.parquet", "data.txt", "data"]
)
def test_load_pairs_prefers_the_content_to_the_file_name(write, form, name):
    found = load_pairs(write(name, content_of(form)))
    assert found.format == form and len(found.pairs) == 4
    agrees = name.endswith("." + form) or (form == "tsv" and name.endswith(".csv"))
    assert any("because of the content, although" in str(note) for note in found.notes) != agrees


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
def test_load_pairs_decompresses_gzip(write, form):
    found = load_pairs(write(f"data.{form}.gz", gzip.compress(content_of(form))))
    assert found.format == form and len(found.pairs) == 4
    assert not any("although" in str(note) for note in found.notes)


def test_load_pairs_notes_a_wrong_gzip_suffix(write):
    assert "not compressed" in str(load_pairs(write("a.jsonl.gz", content_of("jsonl"))).notes[0])
    assert "compressed with gzip" in str(
        load_pairs(write("b.jsonl", gzip.compress(content_of("jsonl")))).notes[0]
    )
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("c.jsonl.gz", gzip.compress(content_of("jsonl"))[:-20]))


# JSON
@pytest.mark.parametrize("key", ["data", "train", "rows", "anything"])
def test_load_pairs_reads_the_list_of_a_json_object(write, key):
    found = load_pairs(write("a.json", json.dumps({"version": 1, key: ROWS, "tags": ["x"]})))
    assert len(found.pairs) == 4 and any(key in str(note) for note in found.notes)


def test_load_pairs_reads_json_keys_as_splits(write):
    found = load_pairs(write("a.json", json.dumps({"train": ROWS[:2], "test": ROWS[2:]})))
    assert [p.split for p in found.pairs] == ["train", "train", "heldout", "heldout"]


def test_load_pairs_refuses_json_with_two_unknown_lists(write):
    with pytest.raises(DataError, match="'new', 'old'"):
        load_pairs(write("a.json", json.dumps({"new": ROWS, "old": ROWS})))


def test_load_pairs_reads_json_by_column_by_key_and_single_objects(write):
    columns = {key: [row[key] for row in ROWS] for key in ("question", "answer")}
    assert len(load_pairs(write("a.json", json.dumps(columns))).pairs) == 4
    pandas = {
        key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ("question", "answer")
    }
    assert len(load_pairs(write("b.json", json.dumps(pandas))).pairs) == 4
    by_id = {f"id{i}": row for i, row in enumerate(ROWS)}
    assert len(load_pairs(write("c.json", json.dumps(by_id))).pairs) == 4
    assert len(load_pairs(write("d.json", json.dumps(ROWS[0]))).pairs) == 1
    assert len(load_pairs(write("e.jsonl", json.dumps(ROWS[0]))).pairs) == 1


def test_load_pairs_reads_concatenated_json_objects(write):
    text = "\n".join(json.dumps(row, indent=1) for row in ROWS)
    found = load_pairs(write("a.jsonl", text))
    assert [p.row for p in found.pairs] == [1, 2, 3, 4]
    assert any("one after another" in str(note) for note in found.notes)
    with pytest.raises(DataError, match="none of the 17 lines"):
        load_pairs(write("b.jsonl", text + "\n{"))


def test_load_pairs_states_the_position_of_invalid_json(write):
    with pytest.raises(DataError, match=r"invalid at line 4, column"):
        load_pairs(write("a.json", '[\n {"question": "a", "answer": "b"},\n {"question": \n'))
    with pytest.raises(DataError, match="invalid"):
        load_pairs(write("b.json", "hello there"))


def test_load_pairs_rejects_invalid_jsonl_lines(write):
    text = jsonl(ROWS[:1]) + "{broken\n\n" + jsonl(ROWS[1:2]) + '"text"\n[]\n' + jsonl(ROWS[2:])
    found = load_pairs(write("a.jsonl", text))
    assert [(r.row, str(r.reason).split(":")[0]) for r in found.rejected] == [
        (2, "the line is not JSON"),
        (5, "a text instead of an object"),
        (6, "a list instead of an object"),
    ]
    assert [p.row for p in found.pairs] == [1, 4, 7, 8]
    assert found.rows == 7 == len(found.pairs) + len(found.rejected)
    assert found.rejected[0].record == "{broken"


def test_load_pairs_refuses_jsonl_without_a_valid_line(write):
    with pytest.raises(DataError, match="none of the 2 lines"):
        load_pairs(write("a.jsonl", "{oops\n{no\n"))


def test_load_pairs_keeps_line_separators_inside_jsonl_text(write):
    found = load_pairs(write("a.jsonl", '{"question": "a\u2028b", "answer": "one two"}\r\n'))
    assert found.pairs[0].question == "a\u2028b"


def test_load_pairs_keeps_the_spelling_of_json_numbers(write):
    found = load_pairs(
        write(
            "a.jsonl", '{"question": "How much?", "answer": 3.50}\n{"question": 7, "answer": 1e3}\n'
        )
    )
    assert [(p.question, p.answer) for p in found.pairs] == [("How much?", "3.50"), ("7", "1e3")]


def test_load_pairs_rejects_json_null_nan_and_lists(write):
    lines = (
        '{"question": "a", "answer": null}\n{"question": NaN, "answer": "b"}\n{"question": "c"}\n'
    )
    lines += '{"question": "d", "answer": ["x y"]}\n{"question": "e", "answer": ["x", "y"]}\n'
    lines += '{"question": "f", "answer": {}}\n{"question": "g", "answer": true}\n'
    found = load_pairs(write("a.jsonl", lines))
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (1, "the answer is empty"),
        (2, "the question is empty"),
        (3, "the answer is empty"),
        (5, "the answer is a list of 2, not a text"),
        (6, "the answer is empty"),
    ]
    assert [p.answer for p in found.pairs] == ["x y", "true"]


def test_load_pairs_survives_deep_nesting(write):
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(DataError):
        load_pairs(write("a.json", deep))
    found = load_pairs(write("b.jsonl", jsonl(ROWS) + deep + "\n"))
    assert [r.row for r in found.rejected] == [5]


# XLSX and Parquet
def test_read_xlsx_returns_displayed_text(write):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["question", "answer"])
    day, hour = datetime.date(2024, 5, 1), datetime.datetime(2024, 5, 1, 13, 30)
    values = [3, 3.0, 2.5, 0.1 + 0.2, 1e-7, True, day, hour, 0.25]
    for place, value in enumerate(values):
        sheet.append([f"question {place}", value])
    sheet.cell(row=len(values) + 1, column=2).number_format = "0%"
    out = io.BytesIO()
    book.save(out)
    found = load_pairs(write("a.xlsx", out.getvalue()))
    assert [
        p.answer for p in found.pairs
    ] == "3 | 3 | 2.5 | 0.3 | 1e-07 | TRUE | 2024-05-01 | 2024-05-01 13:30:00 | 25%".split(" | ")


def test_read_xlsx_reads_first_sheet_with_blank_and_ragged_rows(write):
    rows = [
        [],
        ["Question", "Answer", None],
        ["a b", "c d"],
        [],
        ["e f", None],
        ["g h", "i j", "k"],
        [],
    ]
    found = load_pairs(write("a.xlsx", xlsx_bytes(rows, sheets=[("Cover", [])])))
    assert "sheet 'Pairs', the first of 2 sheets with content" in map(str, found.notes)
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (2, "the row is empty"),
        (3, "the answer is empty"),
    ]
    assert [p.row for p in found.pairs] == [1, 4] and found.rows == 4
    assert found.column_names == ("Question", "Answer", "column 3")


def test_read_xlsx_notes_formulas_without_result(write):
    found = load_pairs(
        write("a.xlsx", xlsx_bytes([["question", "answer"], ["a b", "c d"], ["e f", '="x"&"y"']]))
    )
    assert [str(r.reason) for r in found.rejected] == ["the answer is empty"]
    assert any("read as empty (1 formula)" in str(note) for note in found.notes)


def test_read_xlsx_refuses_empty_and_damaged_workbooks(write):
    with pytest.raises(DataError, match="no sheet"):
        load_pairs(write("a.xlsx", xlsx_bytes([])))
    content = content_of("xlsx")
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("b.xlsx", content[: len(content) // 2]))


def test_read_xlsx_finds_the_header_below_a_title(write):
    rows = [
        ["Knowledge base"],
        [],
        ["question", "answer", "by"],
        ["a b", "c d", None],
        ["e f", None, None],
    ]
    found = load_pairs(write("a.xlsx", xlsx_bytes(rows)))
    assert found.rows == 2 and [pair.row for pair in found.pairs] == [1]
    assert any("are in row 3;" in str(note) for note in found.notes)
    plain = load_pairs(
        write("b.xlsx", xlsx_bytes([["question"], ["a b", "c d"]])), columns={"answer": "column 2"}
    )
    assert [(pair.question, pair.answer) for pair in plain.pairs] == [("a b", "c d")]


def test_read_parquet_converts_types(write):
    kinds = {
        "question": pa.string(),
        "answer": pa.float64(),
        "group": pa.float64(),
        "image": pa.binary(),
    }
    schema = pa.schema(list(kinds.items()))
    records = [
        {"question": "a", "answer": 3.0, "group": 1.0, "image": b"x"},
        {"question": "b", "answer": float("nan"), "group": None, "image": None},
        {"question": None, "answer": 1.5, "group": 2.0, "image": None},
    ]
    found = load_pairs(write("a.parquet", parquet_bytes(records, schema)))
    assert [(p.answer, p.group) for p in found.pairs] == [("3", "1")]
    assert [(r.row, str(r.reason)) for r in found.rejected] == [
        (2, "the answer is empty"),
        (3, "the question is empty"),
    ]
    assert "columns of raw bytes are not read: image" in map(str, found.notes)


def test_read_parquet_refuses_truncated_files(write):
    with pytest.raises(DataError, match="truncated"):
        load_pairs(write("a.parquet", content_of("parquet")[:-4]))
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("b.parquet", b"PAR1" + b"\x07" * 40 + b"PAR1"))


# unsupported and damaged files
def zip_bytes(*names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\r\n\t", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99, r"old Office file .*\.xlsx"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "image"),
        (b"SQLite format 3\0" + bytes(99), "SQLite"),
        (zip_bytes("a.csv", "b.csv"), "zip archive of 2 files"),
        (zip_bytes("mimetype", "content.xml"), "an office document"),
        (b"BZh91AY", "bzip2"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "git lfs pull"),
        (bytes(range(256)) * 4, "neither UTF-8"),
        (b"question,answer\n" + b"\x01\x02\x03\x04\x05" * 200, "not text"),
        (b"[]", "no rows"),
        (b"{}", "none|no rows|no column"),
        (b"[1, 2, 3]", "none of its 3 rows can be read"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "xlsx"])
def test_load_pairs_identifies_unsupported_files(write, content, message, suffix):
    with pytest.raises(DataError, match=message) as caught:
        load_pairs(write(f"a.{suffix}", content))
    assert "\n" not in str(caught.value) and f"a.{suffix}" in str(caught.value)


def test_load_pairs_refuses_a_header_without_rows(write):
    with pytest.raises(DataError, match="a header, but no rows"):
        load_pairs(write("a.csv", "question,answer\n"))
    with pytest.raises(DataError, match="text in one column"):
        load_pairs(write("a.csv", "just one line of prose"))


def test_load_pairs_refuses_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_pairs(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="a folder"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_load_pairs_rejects_rows_or_raises_for_any_damage(write, form):
    """After random changes of bytes, the row counts add up, or a DataError states a remedy."""
    chosen = random.Random(form)
    pieces = [b"null", b"\xef\xbb\xbf", *(bytes([each]) for each in b'"\n,\0\\{[\xff\xe9\r;')]
    for _ in range(60):
        content = bytearray(content_of(form))
        for _ in range(chosen.choice([1, 2, 8])):
            place = chosen.randrange(len(content))
            content[place : place + chosen.randrange(3)] = chosen.choice(pieces)
        try:
            found = load_pairs(write(f"a.{form}", bytes(content)))
        except DataError as error:
            assert error.remedy and "\n" not in str(error)
        else:
            assert found.rows == len(found.pairs) + len(found.rejected)
            json.dumps(check_pairs(found).to_record(), allow_nan=False)


def test_load_pairs_does_not_read_a_broken_json_line_as_header(write, tmp_path):
    """The file as given and as written by write_rows; the invalid line contains a quoted column name."""
    bad = '{"messages": [{"role": ,user", "content": "Where?"}'
    good = json.dumps({"question": "Where is the pier?", "answer": "Next to the hut."})
    path = write("a.jsonl", f"{bad}\n{good}\n{bad}\n{bad}\n".encode())
    again = tmp_path / "again.jsonl"
    write_rows(load_rows(path)[0].rows, again)
    for found in (load_pairs(path), load_pairs(again)):
        assert [pair.row for pair in found.pairs] == [2]
        assert [row.row for row in found.rejected] == [1, 3, 4]


def asked(found):
    return [(p.question, p.answer) for p in found.pairs]


def test_load_pairs_removes_and_reports_control_characters(write):
    found = load_pairs(
        write(
            "a.csv",
            b"question,answer\nWhere is\0 it?,It is\x07 there.\x0c\nAnd now?,Still there.\n",
        )
    )
    assert asked(found)[0] == ("Where is it?", "It is there.")
    assert found.changes == {"control characters were removed": (1,)}


def test_load_pairs_restores_windows_1252_control_codes(write):
    found = load_pairs(write("a.jsonl", '{"question": "Why?", "answer": "It\\u0092s so"}\n'))
    assert found.pairs[0].answer == "It’s so"
    assert list(found.changes.values()) == [(1,)]


def test_load_pairs_rejects_lone_surrogates(write):
    text = '{"question": "Why?", "answer": "so \\ud83d"}\n{"question": "q", "answer": "\\ud83d\\ude00 x"}\n'
    found = load_pairs(write("a.jsonl", text))
    assert (
        str(found.rejected[0].reason) == "it contains half a character: the lone surrogate U+D83D"
    )
    assert found.pairs[0].answer == "😀 x"


def test_load_pairs_normalizes_line_ends(write):
    found = load_pairs(write("a.csv", b'question,answer\r\n"a\r\nb","c\rd"\r\n'))
    assert asked(found) == [("a\nb", "c\nd")]
