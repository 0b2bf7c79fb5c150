"""Every format: what it is told by, and what its rows come out as."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assistant_builder.data import check_pairs, column_names, load_pairs
from assistant_builder.data.reading import load_rows
from assistant_builder.data.rewriting import write_rows
from assistant_builder.errors import DataError
from tests.data.making_data import ROWS, jsonl


def csv_text(rows, separator=","):
    return "".join(
        separator.join(f'"{cell}"' for cell in cells) + "\n"
        for cells in [("question", "answer"), *((row["question"], row["answer"]) for row in rows)]
    )


def xlsx_bytes(rows, *, sheets=()):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, content in [*sheets, ("Pairs", rows)]:
        sheet = book.create_sheet(title)
        for row in content:
            sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet_bytes(records, schema=None):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), out)
    return out.getvalue()


def content_of(form):
    return {
        "csv": lambda: csv_text(ROWS).encode(),
        "tsv": lambda: csv_text(ROWS, "\t").encode(),
        "json": lambda: json.dumps(ROWS).encode(),
        "jsonl": lambda: jsonl(ROWS).encode(),
        "xlsx": lambda: xlsx_bytes([["question", "answer"], *([r["question"], r["answer"]] for r in ROWS)]),
        "parquet": lambda: parquet_bytes(ROWS),
    }[form]()


FORMATS = ["csv", "tsv", "json", "jsonl", "xlsx", "parquet"]


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_gives_the_same_pairs(write, form):
    found = load_pairs(write(f"data.{form}", content_of(form)))
    assert found.format == form
    assert [{"question": p.question, "answer": p.answer} for p in found.pairs] == ROWS
    assert [p.row for p in found.pairs] == [1, 2, 3, 4]
    assert (found.rows, found.rejected) == (4, ())
    assert found.columns["question"] == "question" and found.columns["group"] is None


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.xlsx", "data.parquet", "data.txt", "data"])
def test_content_wins_over_the_name_and_says_so(write, form, name):
    found = load_pairs(write(name, content_of(form)))
    assert found.format == form and len(found.pairs) == 4
    agrees = name.endswith("." + form) or (form == "tsv" and name.endswith(".csv"))
    assert any("the content is, though" in note for note in found.notes) != agrees


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
def test_gzip(write, form):
    found = load_pairs(write(f"data.{form}.gz", gzip.compress(content_of(form))))
    assert found.format == form and len(found.pairs) == 4
    assert not any("though" in note for note in found.notes)


def test_gzip_that_is_none_and_none_that_is(write):
    assert "not compressed" in load_pairs(write("a.jsonl.gz", content_of("jsonl"))).notes[0]
    assert "compressed with gzip" in load_pairs(write("b.jsonl", gzip.compress(content_of("jsonl")))).notes[0]
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("c.jsonl.gz", gzip.compress(content_of("jsonl"))[:-20]))


# JSON


@pytest.mark.parametrize("key", ["data", "train", "rows", "anything"])
def test_json_object_with_one_list(write, key):
    found = load_pairs(write("a.json", json.dumps({"version": 1, key: ROWS, "tags": ["x"]})))
    assert len(found.pairs) == 4 and any(key in note for note in found.notes)


def test_json_lists_under_split_names_are_the_split(write):
    found = load_pairs(write("a.json", json.dumps({"train": ROWS[:2], "test": ROWS[2:]})))
    assert [p.split for p in found.pairs] == ["train", "train", "heldout", "heldout"]


def test_json_with_two_lists_of_unclear_meaning(write):
    with pytest.raises(DataError, match="'new', 'old'"):
        load_pairs(write("a.json", json.dumps({"new": ROWS, "old": ROWS})))


def test_json_by_columns_by_key_and_single(write):
    columns = {key: [row[key] for row in ROWS] for key in ("question", "answer")}
    assert len(load_pairs(write("a.json", json.dumps(columns))).pairs) == 4
    pandas = {key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ("question", "answer")}
    assert len(load_pairs(write("b.json", json.dumps(pandas))).pairs) == 4
    by_id = {f"id{i}": row for i, row in enumerate(ROWS)}
    assert len(load_pairs(write("c.json", json.dumps(by_id))).pairs) == 4
    assert len(load_pairs(write("d.json", json.dumps(ROWS[0]))).pairs) == 1
    assert len(load_pairs(write("e.jsonl", json.dumps(ROWS[0]))).pairs) == 1


def test_json_objects_over_several_lines_one_after_another(write):
    text = "\n".join(json.dumps(row, indent=1) for row in ROWS)
    found = load_pairs(write("a.jsonl", text))
    assert [p.row for p in found.pairs] == [1, 2, 3, 4] and any("one after another" in note for note in found.notes)
    with pytest.raises(DataError, match="none of its"):
        load_pairs(write("b.jsonl", text + "\n{"))


def test_broken_json_names_the_place(write):
    with pytest.raises(DataError, match=r"broken at line 4, column"):
        load_pairs(write("a.json", '[\n {"question": "a", "answer": "b"},\n {"question": \n'))
    with pytest.raises(DataError, match="broken"):
        load_pairs(write("b.json", "hello there"))


def test_jsonl_bad_lines_are_rejected_with_their_line(write):
    text = jsonl(ROWS[:1]) + "{broken\n\n" + jsonl(ROWS[1:2]) + '"text"\n[]\n' + jsonl(ROWS[2:])
    found = load_pairs(write("a.jsonl", text))
    assert [(r.row, r.reason.split(":")[0]) for r in found.rejected] == [
        (2, "the line is not JSON"), (5, "a text instead of an object"), (6, "a list instead of an object"),
    ]  # fmt: skip
    assert [p.row for p in found.pairs] == [1, 4, 7, 8]
    assert found.rows == 7 == len(found.pairs) + len(found.rejected)
    assert found.rejected[0].record == "{broken"


def test_jsonl_without_one_good_line(write):
    with pytest.raises(DataError, match="none of its 2 lines"):
        load_pairs(write("a.jsonl", "{oops\n{no\n"))


def test_jsonl_keeps_line_separators_inside_text(write):
    found = load_pairs(write("a.jsonl", '{"question": "a\u2028b", "answer": "one two"}\r\n'))
    assert found.pairs[0].question == "a\u2028b"


def test_json_numbers_keep_their_spelling(write):
    found = load_pairs(write("a.jsonl", '{"question": "How much?", "answer": 3.50}\n{"question": 7, "answer": 1e3}\n'))
    assert [(p.question, p.answer) for p in found.pairs] == [("How much?", "3.50"), ("7", "1e3")]


def test_json_null_nan_and_lists(write):
    lines = '{"question": "a", "answer": null}\n{"question": NaN, "answer": "b"}\n{"question": "c"}\n'
    lines += '{"question": "d", "answer": ["x y"]}\n{"question": "e", "answer": ["x", "y"]}\n'
    lines += '{"question": "f", "answer": {}}\n{"question": "g", "answer": true}\n'
    found = load_pairs(write("a.jsonl", lines))
    assert [(r.row, r.reason) for r in found.rejected] == [
        (1, "the answer is empty"), (2, "the question is empty"), (3, "the answer is empty"),
        (5, "the answer is a list of 2, not a text"), (6, "the answer is empty"),
    ]  # fmt: skip
    assert [p.answer for p in found.pairs] == ["x y", "true"]


def test_deep_nesting_is_no_crash(write):
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(DataError):
        load_pairs(write("a.json", deep))
    found = load_pairs(write("b.jsonl", jsonl(ROWS) + deep + "\n"))
    assert [r.row for r in found.rejected] == [5]


# XLSX and Parquet


def test_xlsx_cells_come_out_as_people_wrote_them(write):
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
    assert [p.answer for p in found.pairs] == [
        "3", "3", "2.5", "0.3", "1e-07", "TRUE", "2024-05-01", "2024-05-01 13:30:00", "25%",
    ]  # fmt: skip


def test_xlsx_first_sheet_with_content_blank_rows_and_ragged_rows(write):
    rows = [[], ["Question", "Answer", None], ["a b", "c d"], [], ["e f", None], ["g h", "i j", "k"], []]
    found = load_pairs(write("a.xlsx", xlsx_bytes(rows, sheets=[("Cover", [])])))
    assert "sheet 'Pairs', the first with content of 2 sheets" in found.notes
    assert [(r.row, r.reason) for r in found.rejected] == [(2, "the row is empty"), (3, "the answer is empty")]
    assert [p.row for p in found.pairs] == [1, 4] and found.rows == 4
    assert found.column_names == ("Question", "Answer", "column 3")


def test_xlsx_formula_without_result_is_explained(write):
    found = load_pairs(write("a.xlsx", xlsx_bytes([["question", "answer"], ["a b", "c d"], ["e f", '="x"&"y"']])))
    assert [r.reason for r in found.rejected] == ["the answer is empty"]
    assert any("1 formulas have no stored result" in note for note in found.notes)


def test_xlsx_without_content_and_damaged(write):
    with pytest.raises(DataError, match="no sheet"):
        load_pairs(write("a.xlsx", xlsx_bytes([])))
    whole = content_of("xlsx")
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("b.xlsx", whole[: len(whole) // 2]))


def test_parquet_types(write):
    kinds = {"question": pa.string(), "answer": pa.float64(), "group": pa.float64(), "image": pa.binary()}
    schema = pa.schema(list(kinds.items()))
    records = [
        {"question": "a", "answer": 3.0, "group": 1.0, "image": b"x"},
        {"question": "b", "answer": float("nan"), "group": None, "image": None},
        {"question": None, "answer": 1.5, "group": 2.0, "image": None},
    ]
    found = load_pairs(write("a.parquet", parquet_bytes(records, schema)))
    assert [(p.answer, p.group) for p in found.pairs] == [("3", "1")]
    assert [(r.row, r.reason) for r in found.rejected] == [(2, "the answer is empty"), (3, "the question is empty")]
    assert "columns of raw bytes are left out: image" in found.notes


def test_parquet_cut_off(write):
    with pytest.raises(DataError, match="cut off"):
        load_pairs(write("a.parquet", content_of("parquet")[:-4]))
    with pytest.raises(DataError, match="damaged"):
        load_pairs(write("b.parquet", b"PAR1" + b"\x07" * 40 + b"PAR1"))


# what is no data file


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
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"x" * 99, r"old Excel file .*\.xlsx"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "picture"),
        (b"SQLite format 3\0" + bytes(99), "SQLite"),
        (zip_bytes("a.csv", "b.csv"), "zip archive of 2 files"),
        (zip_bytes("mimetype", "content.xml"), "no Excel workbook"),
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
def test_what_is_no_data_file_is_named_in_one_line(write, content, message, suffix):
    with pytest.raises(DataError, match=message) as caught:
        load_pairs(write(f"a.{suffix}", content))
    assert "\n" not in str(caught.value) and f"a.{suffix}" in str(caught.value)


def test_header_alone(write):
    for content in ("question,answer\n", "just one line of prose"):
        with pytest.raises(DataError, match="a header, but no rows"):
            load_pairs(write("a.csv", content))


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        load_pairs(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="a folder"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_damage_of_any_kind_is_a_rejection_or_one_error(write, form):
    """Bytes changed, put in and taken out at random: rows add up, or a DataError says what to do."""
    chosen = random.Random(form)
    pieces = [b'"', b"\n", b",", b"\0", b"\\", b"{", b"[", b"\xff", b"\xe9", b"\r", b";", b"null", b"\xef\xbb\xbf"]
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


def test_a_broken_first_line_among_other_broken_ones_is_no_header(write, tmp_path):
    """As it came and as it is written back, where what is broken is a quoted text that names a column."""
    bad = '{"messages": [{"role": ,user", "content": "Where?"}'
    good = json.dumps({"question": "Where is the pier?", "answer": "Beside the hut."})
    path = write("a.jsonl", f"{bad}\n{good}\n{bad}\n{bad}\n".encode())
    again = tmp_path / "again.jsonl"
    write_rows(load_rows(path)[0].rows, again)
    for found in (load_pairs(path), load_pairs(again)):
        assert [pair.row for pair in found.pairs] == [2] and [row.row for row in found.rejected] == [1, 3, 4]


def test_column_names_for_a_file_that_has_no_known_ones(write):
    assert column_names(write("a.csv", "thema,text\nx y,z\n")) == ("thema", "text")


def test_to_hf(write):
    frame = load_pairs(write("a.jsonl", content_of("jsonl"))).to_hf()
    assert frame.num_rows == 4
    assert frame[0]["messages"][0] == {"role": "user", "content": ROWS[0]["question"]}
