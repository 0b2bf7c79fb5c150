"""Files are read in a process with limits: the same results, and one sentence where a limit is reached."""

import decimal
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assistant_builder import limited_process
from assistant_builder.data import load_pairs, reading_process
from assistant_builder.data.load import pairs_of_file, rows_of_file, table_of_file
from assistant_builder.data.reading_process import load_rows, read_table
from assistant_builder.data.types import to_json_safe
from assistant_builder.errors import DataError
from assistant_builder.i18n import render, use_language
from tests.fuzz.targets import expect_sentence, in_workbook

Start = Callable[..., limited_process.ReadingProcess]
SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
STYLES = (
    f'<styleSheet xmlns="{SPACE}"><numFmts count="1"><numFmt numFmtId="200" formatCode="{{}}"/></numFmts>'
    '<cellXfs count="1"><xf numFmtId="200" applyNumberFormat="1"/></cellXfs></styleSheet>'
)
SHEET = f'<worksheet xmlns="{SPACE}"><sheetData>{{}}</sheetData>{{}}</worksheet>'
QUESTIONS = (
    '<row r="1"><c r="A1" t="inlineStr"><is><t>question</t></is></c><c r="B1" t="inlineStr"><is><t>answer</t>'
    '</is></c></row><row r="2"><c r="A2"><v>1</v></c><c r="B2"><v>2</v></c></row>'
)


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a process with other limits in place of the usual one."""
    started = []

    def start(
        memory: int = reading_process.MEMORY_BYTES, seconds: float = 30.0
    ) -> limited_process.ReadingProcess:
        monkeypatch.setattr(limited_process, "SECONDS_PER_MIB", 0.0)
        process = limited_process.ReadingProcess(
            "assistant_builder.data.reading_worker",
            memory=memory,
            seconds=seconds,
            most=2**28,
            reply_bytes=2**28,
            remedy=reading_process.REMEDY,
        )
        monkeypatch.setattr(reading_process, "_process", process)
        started.append(process)
        return process

    yield start
    for process in started:
        process.close()


def refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load_pairs(path)
    expect_sentence(caught.value)
    assert str(caught.value.where) == str(path)


def parquet(**columns: object) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    return made.getvalue()


SAMPLES: dict[str, bytes] = {
    "odd.csv": 'question;answer;note\nWhö?;=1+1;\n;b;c\nq;"open\nq2;a2;\U0001f600\n'.encode(),
    "damaged.csv": ("question,answer\n" + "é,ü\n" * 20).encode() + b"q\xff,a\n",
    "latin.csv": "question,answer\nGröße?,“Übung”\n".encode("windows-1252"),
    "utf16.csv": "question,answer\nq,a\n".encode("utf-16"),
    "sparse.jsonl": b'{"question": "q", "answer": "a", "n": NaN, "m": 1e400}\n'
    b'{"answer": [1, {"b": null}], "question": "r"}\n{"question": "half \\ud83d", "answer": "b"}\n'
    b'no json\n[]\n{"question": 12345678901234567890123, "answer": 3.50}\n',
    "chat.json": b'[{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]',
    "typed.parquet": parquet(
        question=["q", "r"],
        answer=pa.array([decimal.Decimal("1.10"), None]),
        n=[1.5, None],
        raw=[b"x", b"y"],
        nested=pa.array([[{"a": 1}], []]),
        split=["train", "test"],
    ),
    "book.xlsx": in_workbook("xl/worksheets/sheet1.xml", SHEET.format(QUESTIONS, "").encode()),
}


@pytest.mark.parametrize("read", [load_pairs, load_rows, read_table])
def test_errors_name_the_file(write, read):
    path = write("page.csv", b"<html>")
    with pytest.raises(DataError, match="web page") as caught:
        read(path)
    assert str(caught.value.where) == str(path)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_results_are_those_of_the_readers(write, name):
    path = write(name, SAMPLES[name])
    there, here = load_pairs(path, system="Brief."), pairs_of_file(path, system="Brief.")
    # a decimal number becomes text
    here = replace(here, first_rows=tuple(map(to_json_safe, here.first_rows)))
    assert replace(there, first_rows=tuple(map(to_json_safe, there.first_rows))) == here
    assert [row.record for row in there.rejected] == [row.record for row in here.rejected]
    for found, own in (
        (load_rows(path)[0], rows_of_file(path)[0]),
        (read_table(path), table_of_file(path)),
    ):
        assert repr(found).replace("'1.10'", "Decimal('1.10')") == repr(own)
    assert load_rows(path)[1] == rows_of_file(path)[1]


def test_messages_are_rendered_in_the_language_of_the_reader(write):
    found = load_pairs(write("odd.csv", SAMPLES["odd.csv"]))
    english = list(map(render, found.notes))
    with use_language("de"):
        german = list(map(render, found.notes))
    assert any(note.startswith("separator") for note in english)
    assert any(note.startswith("Trennzeichen") for note in german)


def test_a_relative_path_and_a_missing_file(write, tmp_path, monkeypatch):
    write("a.csv", "question,answer\nq,a\n")
    monkeypatch.chdir(tmp_path)
    assert load_pairs("a.csv").source == "a.csv"
    for name in ("none.csv", "a\0b", "."):
        with pytest.raises(DataError):
            load_pairs(name)


@pytest.mark.parametrize("cell", ["XFD1048576", "XFD200000", "ZZZ2", "A1048577", "AAAA1"])
def test_a_far_cell_is_refused_before_rows_are_padded(write, cell):
    row = cell.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    sheet = SHEET.format(
        QUESTIONS.rpartition("<row")[0] + f'<row r="{row}"><c r="{cell}"><v>1</v></c></row>', ""
    )
    data = in_workbook("xl/worksheets/sheet1.xml", sheet.encode())
    refused(write("far.xlsx", data), "cells|columns|rows|damaged")


def test_a_file_that_needs_too_much_memory_is_a_sentence(write, limited):
    limited(memory=3 * 2**27)
    refused(
        write("rows.json", "[" + "[]," * 6_000_000 + "[]]"), "needs more than 0.375 GB of memory"
    )
    assert len(load_pairs(write("good.csv", "question,answer\nq,a\n")).pairs) == 1


def spread(text: str, count: int) -> bytes:
    """A dictionary column in which a text stands for many rows."""
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([text]))
    return parquet(question=repeated, answer=repeated)


def shared_strings(count: int) -> bytes:
    """A workbook whose cells all show one long shared text."""
    texts = f'<sst xmlns="{SPACE}"><si><t>question</t></si><si><t>answer</t></si><si><t>{"x" * 100_000}</t></si></sst>'
    rows = "".join(
        f'<row r="{r}"><c r="A{r}" t="s"><v>2</v></c><c r="B{r}" t="s"><v>2</v></c></row>'
        for r in range(2, count)
    )
    head = '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
    made, changed = (
        zipfile.ZipFile(io.BytesIO(in_workbook("xl/sharedStrings.xml", texts.encode()))),
        io.BytesIO(),
    )
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in made.namelist():
            sheet = SHEET.format(head + rows, "").encode()
            archive.writestr(name, sheet if name == "xl/worksheets/sheet1.xml" else made.read(name))
    return changed.getvalue()


ATTACKS: dict[str, Callable[[], bytes]] = {
    "line.csv": lambda: b"question,answer\nq," + b"a" * 10_000_000 + b"\n",
    "open-quotes.csv": lambda: b"question,answer\n" + b'a","\n' * 30_000,
    "one-quote.csv": lambda: b'question,answer\n"' + b"q,a\n" * 20_000,
    "commas.csv": lambda: b"question,answer\n" + b"," * 1_000_000,
    "columns.csv": lambda: b"question,answer" + b",c" * 16_000 + b"\n" + b"," * 1_000_000,
    "million-columns.csv": lambda: b"question,answer" + b",c" * 1_000_000,
    "nul.csv": lambda: b"question,answer\nq,\0" + b"\0" * 1_000_000,
    "utf7.csv": lambda: b"question,answer\n" + b"+AGEAYg-,a\n" * 2_000,
    "half-utf16.csv": lambda: "question,answer\nq,a\n".encode("utf-16") + b"\0",
    "western.csv": lambda: b"question,answer\n\xe9," + b"a" * 150_000,
    "marks.csv": lambda: "question,answer\na{0},b{0}\n".format(
        "\u0315\u0300\u0316" * 100_000
    ).encode(),
    "mark-columns.csv": lambda: "question,answer,a{}\nq,a,b\n".format(
        "\u0315\u0300" * 100_000
    ).encode(),
    "deep.json": lambda: b'[{"question":' * 100_000,
    "deep.jsonl": lambda: (b'{"question": "q", "answer": ' + b"[" * 100_000 + b"\n") * 3,
    "documents.json": lambda: b"{\n}\n" * 50_000,
    "number.csv": lambda: (
        "messages\n\"[{'role': 'user', 'content': 0x"
        + "f" * 100_000
        + "}, {'role': 'assistant', 'content': 'b'}]\"\n"
    ).encode(),
    "literal.csv": lambda: ("messages\n" + "(" * 100_000 + "\n" + "-" * 100_000 + "1\n").encode(),
    "merged.xlsx": lambda: in_workbook(
        "xl/worksheets/sheet1.xml",
        SHEET.format(
            QUESTIONS, '<mergeCells><mergeCell ref="A1:XFD1048576"/></mergeCells>'
        ).encode(),
    ),
    "dates.xlsx": lambda: in_workbook(
        "xl/worksheets/sheet1.xml",
        SHEET.format(
            QUESTIONS.replace("<v>1</v>", "<v>1e308</v>").replace('r="B2"', 'r="B2" t="d"'), ""
        ).encode(),
    ),
    "shared.xlsx": lambda: shared_strings(5_000),
    "spread.parquet": lambda: spread("x" * 1_000_000, 10_000),
    "lists.parquet": lambda: parquet(
        question=pa.array([[]] * 50_000, pa.list_(pa.list_(pa.string()))),
        answer=pa.array(["a"] * 50_000),
    ),
    "lying.parquet": lambda: (
        b"PAR1" + b"\xff" * 60 + parquet(question=["q"] * 500, answer=["a"] * 500)[64:]
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_rows_or_a_sentence(write, limited, name):
    limited(memory=3 * 2**29, seconds=120.0)
    path = write(name, ATTACKS[name]())
    try:
        found = load_pairs(path)
    except DataError as error:
        expect_sentence(error)
        assert "takes longer" not in str(error.what) and "SIG" not in str(error.what), str(
            error.what
        )
    else:
        assert found.rows == len(found.pairs) + len(found.rejected)
