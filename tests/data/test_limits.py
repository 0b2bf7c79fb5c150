"""Files that would need too much memory or time are refused."""

import gzip
import io
import os
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assistant_builder.atomic_io import MAX_DEPTH, exceeds_max_depth, read_json, read_jsonl
from assistant_builder.data import limits, load, xlsx_parquet_reader
from assistant_builder.data.load import pairs_of_file
from assistant_builder.errors import DataError, StudyError
from tests.commands import python
from tests.fuzz.targets import expect_sentence, in_workbook

SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET = f'<worksheet xmlns="{SPACE}"><sheetData>{{}}</sheetData></worksheet>'
FAR = SHEET.format('<row r="1"><c r="XFD1"><v>1</v></c></row>')


def refused(path, match):
    with pytest.raises(DataError, match=match) as caught:
        pairs_of_file(path)
    expect_sentence(caught.value, place=False)


@pytest.fixture
def low_limits(monkeypatch):
    """Limits that small files exceed; a separate process tests the actual limits."""
    for name, value in {"MAX_BYTES": 20_000, "MAX_CELLS": 5_000, "MAX_COLUMNS": 100}.items():
        monkeypatch.setattr(limits, name, value)


def parquet(**columns):
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    return made.getvalue()


def repeated(text, count):
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("line.csv", b"question,answer\nq," + b"a" * 30_000, "more than"),
        ("nul.csv", b"question,answer\n" + b"\0" * 30_000, "more than"),
        ("bomb.csv.gz", gzip.compress(b"question,answer\n" + b"a" * 1_000_000), "decompressed"),
        ("wide.csv", b"question,answer" + b",c" * 200 + b"\n", "202 columns"),
        ("commas.csv", b"question,answer\n" + b"," * 6_000, "cells"),
        ("lines.csv", b"question,answer\n" + b"\n" * 6_000, "cells"),
        ("lists.json", b"[" + b"[]," * 6_000 + b"[]]", "cells"),
        (
            "keys.jsonl",
            b"".join(b'{"k%d": 1, "question": "a", "answer": "b"}\n' % n for n in range(120)),
            "columns",
        ),
        ("bomb.xlsx", in_workbook("xl/sharedStrings.xml", b" " * 100_000), "decompressed"),
        ("cells.xlsx", in_workbook("xl/worksheets/sheet1.xml", FAR.encode()), "cells"),
        (
            "rows.parquet",
            parquet(question=pa.nulls(6_000, pa.string()), answer=pa.nulls(6_000, pa.string())),
            "cells",
        ),
        (
            "flat.parquet",
            parquet(question=repeated("x" * 1_000, 2_000), answer=repeated("y", 2_000)),
            "decompressed",
        ),
        (
            "nested.parquet",
            parquet(
                messages=pa.ListArray.from_arrays(
                    pa.array([0, 2_000], pa.int32()), pa.array(["x" * 1_000] * 2_000)
                )
            ),
            "decompressed",
        ),
    ],
)
def test_load_pairs_refuses_files_that_expand_beyond_the_limits(
    low_limits, write, name, data, match
):
    refused(write(name, data), match)


def test_read_xlsx_refuses_a_huge_row_number(write, monkeypatch):
    monkeypatch.setattr(xlsx_parquet_reader, "_MAX_SHEET_ROWS", 1_000)
    sheet = SHEET.format('<row r="2000000000"><c r="A2000000000"><v>1</v></c></row>').encode()
    refused(
        write("far.xlsx", in_workbook("xl/worksheets/sheet1.xml", sheet)), "more than 1,000 rows"
    )


def test_format_number_limits_the_decimals_of_a_percentage():
    assert len(xlsx_parquet_reader._format_number(0.5, "0." + "0" * 10**6 + "%")) < 50


PARTS = ("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml")


@pytest.mark.parametrize(
    "entity", ['"aaaaaaaaaa"', 'SYSTEM "file:///etc/passwd"', 'SYSTEM "http://evil.invalid/x"']
)
@pytest.mark.parametrize("member", PARTS)
def test_read_xlsx_neither_expands_nor_fetches_entities(write, monkeypatch, entity, member):
    opened = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *asked, **_: opened.append(asked))
    valid = zipfile.ZipFile(io.BytesIO(in_workbook("none", b""))).read(member).decode()
    start = valid.index("?>") + 2 if valid.startswith("<?xml") else 0
    planted = f"{valid[:start]}<!DOCTYPE a [<!ENTITY e {entity}>]>{valid[start:]}".replace(
        ">Where?<", ">&e;<"
    )
    path = write("entities.xlsx", in_workbook(member, planted.encode()))
    try:
        found = pairs_of_file(path)
    except DataError as error:
        expect_sentence(error, place=False)
    else:
        assert not any("root:" in pair.question or "aaaa" in pair.question for pair in found.pairs)
    assert opened == []


def test_load_pairs_refuses_archives_with_many_members_or_odd_compression(write, monkeypatch):
    monkeypatch.setattr(load, "_MAX_ZIP_MEMBERS", 5)
    refused(write("many.xlsx", in_workbook("none", b"")), "with more than 5")
    monkeypatch.undo()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("xl/workbook.xml", "<a/>")
    refused(write("lzma.xlsx", made.getvalue()), "compression method")


@pytest.mark.parametrize("cut", [9, 12, 40, 100])
def test_read_parquet_refuses_a_wrong_footer(write, cut):
    data = parquet(question=["a", "b"], answer=["c", "d"])
    size = len(data) - cut
    refused(write("cut.parquet", data[:size] + data[-8:]), "Parquet")
    huge = data[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1"
    refused(write("huge.parquet", huge), "Parquet")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 500 + "]" * 500])
def test_load_pairs_refuses_or_rejects_deep_nesting(write, text):
    refused(write("deep.json", text.encode()), "nested|none of|invalid|rows")
    row = f'{{"question": "a", "answer": {text}}}\n{{"question": "c", "answer": "d"}}\n'
    found = pairs_of_file(write("deep.jsonl", row.encode()))
    assert [pair.row for pair in found.pairs] == [2]
    assert [rejection.row for rejection in found.rejected] == [1]


def test_exceeds_max_depth_counts_without_recursion():
    value: object = "leaf"
    for _ in range(MAX_DEPTH):
        value = [value]
    assert not exceeds_max_depth(value) and exceeds_max_depth({"a": value})


@pytest.mark.parametrize("entry", ["[],", "{},", "1.5,", '"ab",'])
def test_a_state_file_of_millions_of_entries_is_damaged_at_once(tmp_path, entry):
    path = tmp_path / "run.json"
    path.write_text(f'{{"a": [{entry * 5_000_000}0]}}')
    began = time.process_time()
    with pytest.raises(StudyError, match="the file is damaged"):
        read_json(path)
    assert time.process_time() - began < 1


def test_blank_lines_cost_nothing_and_count(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n" * 30_000_000 + b'{"a": 1}\n{"b"')
    began = time.process_time()
    assert read_jsonl(path) == [{"a": 1}]
    assert time.process_time() - began < 2
    path.write_bytes(b'\n\n{"a": 1}\n  {"b"\n{}\n')
    with pytest.raises(StudyError, match="line 4 is damaged"):
        read_jsonl(path)


def test_load_pairs_refuses_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "not a regular file")
    for name in ("/dev/zero", "a\0b"):
        with pytest.raises(DataError):
            pairs_of_file(name)


MIB = 2**20
REAL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from assistant_builder.data.load import pairs_of_file
from assistant_builder.errors import DataError, StudyError
for path in sys.argv[2:]:
    try:
        pairs_of_file(path)
    except DataError as error:
        print(str(error.what))
"""


def test_load_pairs_at_the_limits_needs_less_than_two_gigabytes(tmp_path, write):
    member = gzip.compress(b"a" * 8 * MIB)
    # 1.6 GB in 1.6 MB
    paths = [write("bomb.csv.gz", gzip.compress(b"question,answer\n") + member * 200)]
    paths.append(
        write(
            "bomb.parquet",
            parquet(question=repeated("x" * MIB, 100_000), answer=repeated("y", 100_000)),
        )
    )
    paths.append(tmp_path / "line.csv")
    with paths[-1].open("wb") as file:  # one line of 1 GB, on disk as a hole
        file.write(b"question,answer\n")
        file.truncate(2**30)
    done = python("-c", REAL, 2 * 2**30, *paths)
    assert done.stdout.splitlines() == ["the file contains more than 256 MiB once decompressed"] * 3
