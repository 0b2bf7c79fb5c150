"""Fuzz targets: functions of bytes that raise AssertionError, or any unexpected exception, if a reader is wrong.

A reader returns records or raises an :class:`AssistantBuilderError` with cause, place and remedy. The targets are used
by hypothesis (``tests/fuzz/test_readers.py``) and the coverage-guided fuzzer (``python -m tests.fuzz``).
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.config.study_config import load_config, read_value
from assistant_builder.data.edit import rejected_csv, write_pasted, write_rows
from assistant_builder.data.load import pairs_of_file, rows_of_file
from assistant_builder.data.validate import check_pairs
from assistant_builder.errors import AssistantBuilderError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".parquet", ".csv.gz", "", ".txt")
LONGEST_MESSAGE = 4_000


def expect_sentence(error: AssistantBuilderError, *, place: bool = True) -> None:
    """Check that an error has a cause, a place and a remedy, and a limited length."""
    assert error.what and error.remedy and (error.where or not place), error.to_record()
    assert len(str(error)) < LONGEST_MESSAGE, str(error)[:200]


def data_file(data: bytes) -> None:
    """The first byte chooses the ending of the name, the rest is the file."""
    suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(data[1:])
        read_whole(path)


def workbook(data: bytes) -> None:
    """The bytes stand in a workbook as the sheet (odd first byte) or its shared texts."""
    sheet = bool(data) and data[0] % 2 == 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.xlsx"
        path.write_bytes(
            in_workbook("xl/worksheets/sheet1.xml" if sheet else "xl/sharedStrings.xml", data[1:])
        )
        read_whole(path)


def pasted(data: bytes) -> None:
    """Text of the clipboard; pasted text may hold lone surrogates."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, _ = write_pasted(data.decode("utf-8", errors="surrogateescape"), Path(folder))
        except AssistantBuilderError as error:
            expect_sentence(error, place=False)
        else:
            read_whole(path)


def study_yaml(data: bytes) -> None:
    """A study.yaml that came with a copied study, and a value of --set."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_bytes(data)
        try:
            load_config(path)
        except AssistantBuilderError as error:
            expect_sentence(error)
    try:
        read_value("train.epochs", data.decode("utf-8", errors="replace"))
    except AssistantBuilderError as error:
        expect_sentence(error)


def record_file(data: bytes) -> None:
    """A JSON or JSON Lines file of a study that came from elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        path.write_bytes(data)
        for read in (read_json, read_jsonl):
            try:
                read(path)
            except AssistantBuilderError as error:
                expect_sentence(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "data": data_file,
    "workbook": workbook,
    "pasted": pasted,
    "yaml": study_yaml,
    "records": record_file,
}


def read_whole(path: Path) -> None:
    """Read a data file as the page does: pairs, findings, the list of what is left out, and the file written anew."""
    try:
        table, _ = rows_of_file(path)
        dataset = pairs_of_file(path)
    except AssistantBuilderError as error:
        expect_sentence(error, place=False)
        return
    assert dataset.rows == len(table.rows) == len(dataset.pairs) + len(dataset.rejected)
    for found in dataset.pairs:
        assert found.question.strip() and found.answer.strip()
        "".join(message.content for message in found.messages).encode()  # no half characters
    json.dumps([rejection.record for rejection in dataset.rejected], allow_nan=False)
    findings = check_pairs(dataset, tokenizer=None, max_length=512)
    json.dumps(findings.to_record(), allow_nan=False)
    rejected_csv(table, {rejection.row: rejection.reason for rejection in dataset.rejected})
    again = path.with_name("again.jsonl")
    write_rows(table.rows, again)
    if dataset.pairs:
        roles = {role: name or "" for role, name in dataset.columns.items()}
        if roles["messages"]:
            roles["question"] = roles["answer"] = ""
        reread = pairs_of_file(again, columns=roles)
        assert [found.messages for found in reread.pairs] == [
            found.messages for found in dataset.pairs
        ]


def in_workbook(member: str, content: bytes) -> bytes:
    """A small valid workbook in which one member is another."""
    import openpyxl

    made = io.BytesIO()
    openpyxl.Workbook().save(made)
    with zipfile.ZipFile(made) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    types = "[Content_Types].xml"
    parts[types] = parts[types].replace(b"</Types>", _TEXTS_TYPE.encode() + b"</Types>")
    parts |= {
        "xl/worksheets/sheet1.xml": SHEET.encode(),
        "xl/sharedStrings.xml": TEXTS.encode(),
        member: content,
    }
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return changed.getvalue()


_SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_TEXTS_TYPE = (
    '<Override PartName="/xl/sharedStrings.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/>'
)
_ROW = '<row r="{0}"><c r="A{0}" t="s"><v>{1}</v></c><c r="B{0}" t="s"><v>{2}</v></c></row>'
SHEET = f'<worksheet xmlns="{_SPACE}"><sheetData>{_ROW.format(1, 0, 1)}{_ROW.format(2, 2, 3)}</sheetData></worksheet>'
TEXTS = (
    f'<sst xmlns="{_SPACE}">'
    + "".join(f"<si><t>{text}</t></si>" for text in ("question", "answer", "Where?", "There."))
    + "</sst>"
)
