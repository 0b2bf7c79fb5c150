"""A data file with pairs added to it, such as answers that were corrected in the chat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant_builder.data.columns import Roles, canonical_split
from assistant_builder.data.reading import load_pairs, load_rows
from assistant_builder.data.records import SplitName
from assistant_builder.data.rewriting import write_rows
from assistant_builder.data.table import RawRow, Table, is_empty


def append_pairs(
    source: Path,
    pairs: Sequence[tuple[str, str]],
    target: Path,
    columns: Mapping[str, str] | None = None,
    *,
    splits: Mapping[int, SplitName] | None = None,
) -> dict[str, str]:
    """Write a file that reads back with the rows of ``source``, rejected ones included, and the new pairs after them.

    Every column, every cell and every row number is kept. A new row holds the question and the answer; where the file
    gives a split, ``train``; where most of its rows bring one and the same system prompt, that; its other cells stay
    empty.

    Args:
        source: Any file that :func:`~assistant_builder.data.load_pairs` reads; it is not changed.
        pairs: Questions and their answers.
        target: Where the new file goes, as JSON Lines: its name must end in ``.jsonl``.
        columns: Role → column of the source, as in ``data.columns``.
        splits: Row → split of a study that ran on the source. With it the new file gives that very split and the new
            pairs are trained on, so that the assistants of both studies can be compared on the same held-out
            questions. Without it, and if the source gives no split, a new one is drawn, and a new pair can be drawn
            into the held-out set.

    Returns:
        The ``columns`` to read the new file with.

    Raises:
        DataError: The source cannot be read, or its columns are not found.
    """
    table, roles = load_rows(source, columns)
    mapping = dict(columns or {})
    rows = table.rows
    split_column = roles["split"] if _gives_split(table, roles) else None
    if splits is not None:
        split_column = roles["split"] or _free_name("split", table.columns)
        mapping["split"] = split_column
        rows = [_with_split(row, split_column, splits) for row in rows]
    system = _shared_system(source, columns)
    added = [
        RawRow(number, _new_cells(roles, question, answer, system, split_column))
        for number, (question, answer) in enumerate(pairs, start=rows[-1].row + 1)
    ]
    write_rows([*rows, *added], target)
    return mapping


def _gives_split(table: Table, roles: Roles) -> bool:
    column = roles["split"]
    cells = (row.cells.get(column) for row in table.rows if row.cells is not None and column)
    return any(not is_empty(cell) and canonical_split(str(cell)) for cell in cells)


def _with_split(row: RawRow, column: str, splits: Mapping[int, SplitName]) -> RawRow:
    """A row in its split; a row of none keeps what it says and is left out as before, or for lack of a split."""
    if row.cells is None or row.row not in splits:
        return row
    return RawRow(row.row, {**row.cells, column: splits[row.row]})


def _new_cells(
    roles: Roles, question: str, answer: str, system: str | None, split_column: str | None
) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    turns = [("user", question), ("assistant", answer)]
    if roles["messages"]:
        told = [("system", system)] if system and not roles["system"] else []
        cells[roles["messages"]] = [{"role": role, "content": content} for role, content in [*told, *turns]]
    else:
        question_column, answer_column = roles["question"], roles["answer"]
        assert question_column and answer_column  # find_roles refuses a file without them
        cells |= {question_column: question, answer_column: answer}
    if roles["system"] and system:
        cells[roles["system"]] = system
    if split_column:
        cells[split_column] = "train"
    return cells


def _shared_system(source: Path, columns: Mapping[str, str] | None) -> str | None:
    """The system prompt of more than half of the rows, where the file itself brings one."""
    pairs = load_pairs(source, columns=columns).pairs
    brought = Counter(pair.system for pair in pairs)
    (system, count), *_ = brought.most_common(1) or [(None, 0)]
    return system if count * 2 > len(pairs) else None


def _free_name(wish: str, taken: Sequence[str]) -> str:
    names = (wish if number == 1 else f"{wish} {number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
