"""Small data files, pairs and datasets."""

import io
import json
import random
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq

from assistant_builder.data import Dataset, Message, Pair

FORMATS = ["csv", "tsv", "json", "jsonl", "xlsx", "parquet"]
ROWS = [
    {"question": "Where is the ferry office?", "answer": "It is next to the north pier."},
    {"question": "Who keeps the lighthouse?", "answer": "Marit Solheim has kept it since spring."},
    {"question": "When does the tea hut open?", "answer": "It opens at half past seven."},
    {"question": "Which boat carries bicycles?", "answer": "Only the Grey Heron carries them."},
]


def csv_text(rows, separator=","):
    """CSV text with the columns question and answer."""
    return "".join(
        separator.join(f'"{cell}"' for cell in cells) + "\n"
        for cells in [("question", "answer"), *((row["question"], row["answer"]) for row in rows)]
    )


def jsonl(records: list[Any]) -> str:
    """JSON Lines text."""
    return "".join(json.dumps(record) + "\n" for record in records)


def xlsx_bytes(rows, *, sheets=()):
    """A workbook with the rows in its last sheet, after other sheets (title, rows)."""
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
    """A Parquet file."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, schema=schema), out)
    return out.getvalue()


def content_of(form):
    """The rows :data:`ROWS` in one of the :data:`FORMATS`."""
    return {
        "csv": lambda: csv_text(ROWS).encode(),
        "tsv": lambda: csv_text(ROWS, "\t").encode(),
        "json": lambda: json.dumps(ROWS).encode(),
        "jsonl": lambda: jsonl(ROWS).encode(),
        "xlsx": lambda: xlsx_bytes(
            [["question", "answer"], *([r["question"], r["answer"]] for r in ROWS)]
        ),
        "parquet": lambda: parquet_bytes(ROWS),
    }[form]()


def pair(row: int, question: str, answer: str = "", **others: Any) -> Pair:
    """A single-turn pair, by default with a unique answer."""
    answer = answer or f"Answer of row {row} it is."
    return Pair(row, (Message("user", question), Message("assistant", answer)), **others)


def dataset(pairs: list[Pair]) -> Dataset:
    """A dataset of pairs."""
    return Dataset(
        "made.csv",
        "csv",
        {"question": "question", "answer": "answer"},
        tuple(pairs),
        (),
        len(pairs),
    )


def words(count: int, seed: float) -> str:
    """Random words, the same for the same seed."""
    chosen = random.Random(seed)
    return " ".join("".join(chosen.choices("abcdefghijklmnop", k=6)) for _ in range(count))


def clean_pairs(count: int, start: int = 100) -> list[Pair]:
    """Pairs without any finding."""
    return [pair(start + i, words(8, start + i) + "?", words(5, -start - i)) for i in range(count)]


class WordCounter:
    """A token counter: the words of a pair, and four tokens per turn for the chat template."""

    def count_tokens(self, found: Pair) -> int:
        """Number of words and template tokens."""
        return sum(len(m.content.split()) + 4 for m in found.messages)
