"""A look into a data file before a study is made from it: what was read, what was found, how it would be split."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.config import DataConfig, check_name
from assistant_builder.data import Dataset, Findings, Split, check_pairs, load_pairs, split_pairs
from assistant_builder.data.editing import cell_text
from assistant_builder.data.reading import read_table
from assistant_builder.errors import DataError
from assistant_builder.study import Study
from assistant_builder.ui.snapshots import stamp

_PEEK = 3


@dataclass(frozen=True)
class Inspection:
    """What a file would give.

    Attributes:
        findings: What checking found; None when the file cannot be read.
        columns: The file's columns, as far as they can be told.
        error: Why it cannot be read.
        peek: The cells of its first rows as text, where it cannot be read for want of knowing its columns.
    """

    findings: Findings | None
    columns: tuple[str, ...] = ()
    error: dict[str, Any] | None = None
    peek: tuple[tuple[str, ...], ...] = ()

    @property
    def dataset(self) -> Dataset | None:
        """The file as read."""
        return self.findings.dataset if self.findings else None


def inspect_file(path: Path, columns: Mapping[str, str]) -> Inspection:
    """Read and check a file; a problem becomes part of the result.

    Args:
        path: The data file.
        columns: Role → column, where the user has said so; an empty name leaves the role out.
    """
    return _inspect(str(path), stamp([path]), tuple(sorted(columns.items())))


@functools.lru_cache(maxsize=8)
def _inspect(path: str, seen: str, columns: tuple[tuple[str, str], ...]) -> Inspection:
    """``seen`` is the file's stamp, so that a replaced file is read again."""
    try:
        dataset = load_pairs(path, columns=dict(columns))
        return Inspection(check_pairs(dataset), dataset.column_names)
    except DataError as error:
        return Inspection(None, *_peek(path, error))


def _peek(path: str, error: DataError) -> tuple[tuple[str, ...], dict[str, Any], tuple[tuple[str, ...], ...]]:
    try:
        table = read_table(Path(path))
    except DataError:
        return (), _named(error, path), ()
    first = [row.cells for row in table.rows if row.cells is not None][:_PEEK]
    rows = tuple(tuple(cell_text(cells.get(name)) for name in table.columns) for cells in first)
    return table.columns, _named(error, path), rows


def _named(error: DataError, path: str) -> dict[str, Any]:
    """The error with the file's name instead of the place where the page put the upload."""
    record = error.to_record()
    return {**record, "where": record["where"].replace(path, Path(path).name)}


def preview_split(findings: Findings, config: DataConfig) -> Split | dict[str, Any]:
    """The split that a study would get, or the error that would stop it, as a record."""
    try:
        return split_pairs(findings.usable, config)
    except DataError as error:
        return error.to_record()


def power_of(split: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the held-out set can show, told from its size and number of clusters alone: nothing reads it before scoring.

    Args:
        split: ``Split.to_record()``.
    """
    from evals.power import split_power

    power = split_power(split)
    return power.to_record() if power else None


@dataclass(frozen=True)
class Shipped:
    """A dataset that comes with the program."""

    name: str
    title: str
    file: Path


def shipped_datasets() -> list[Shipped]:
    """Every dataset of ``datasets_cards/``, the largest first; beside the package, or where it was installed."""
    places = (Path(__file__).parents[2], Path(sys.prefix) / "share" / "assistant-builder")
    folder = next((place / "datasets_cards" for place in places if (place / "datasets_cards").is_dir()), None)
    if folder is None:
        return []
    found = [Shipped(path.parent.name, _title(path.parent), path) for path in folder.glob("*/data.*")]
    return sorted(found, key=lambda shipped: -shipped.file.stat().st_size)


def _title(folder: Path) -> str:
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    named = re.search(r"^pretty_name:\s*(.+)$", text, flags=re.MULTILINE)
    return named.group(1).strip(" \"'") if named else folder.name


def free_name(wish: str) -> str:
    """A study name made from a file's name, with a number where there is such a study already."""
    base = re.sub(r"[^a-z0-9]+", "-", wish.lower()).strip("-")[:48].strip("-") or "study"
    try:
        check_name(base)
    except ValueError:
        base = f"study-{base}"
    taken = {study.name for study in Study.all()}
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return base if base not in taken else next(name for name in numbered if name not in taken)
