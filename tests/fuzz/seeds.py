"""Valid inputs of every target, from which fuzzing and mutation start."""

import functools
import gzip
import io
import json

from assistant_builder.config import StudyConfig
from tests.fuzz.targets import SHEET, TEXTS

_ROWS = [
    ("Where is the pier?", "Beside the hut."),
    ('A "quoted", one?', "Yes;\nquite."),
    ("مرحبا؟", "أهلا"),
    ("=1+1", "2"),
]


def seeds(target: str) -> list[bytes]:
    """A few inputs that the target accepts, constant within a process."""
    if target == "data":
        return [bytes([place]) + content for place, content in enumerate(_files())]
    if target == "workbook":
        return [b"\1" + SHEET.encode(), b"\0" + TEXTS.encode()]
    if target == "pasted":
        return [b"question\tanswer\na\tb\n", b"a,b\nc,d\n", b'{"question":"a","answer":"b"}\n']
    if target == "yaml":
        return [
            StudyConfig().to_yaml().encode(),
            b"train: {epochs: 2, rank: 8}\nname: a\n",
            b"1e-4",
        ]
    return [b'{"a": [1, {"b": null}]}', b'{"a": 1}\n{"a": 2}\n']


@functools.cache  # a workbook carries the time of its making
def _files() -> list[bytes]:
    import openpyxl
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = "".join(
        '"{}","{}"\n'.format(*(cell.replace('"', '""') for cell in row)) for row in _ROWS
    )
    table = "question,answer\n" + lines
    records = [{"question": question, "answer": answer} for question, answer in _ROWS]
    talks = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in _ROWS
    ]
    book, workbook, parquet = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    for row in [("question", "answer"), *_ROWS]:
        book.active.append(row)
    book.save(workbook)
    pq.write_table(pa.Table.from_pylist(records), parquet)
    return [
        table.encode(),
        table.replace(",", "\t").encode(),
        json.dumps(records).encode(),
        "\n".join(map(json.dumps, talks)).encode(),
        workbook.getvalue(),
        parquet.getvalue(),
        gzip.compress(table.encode()),
    ]
