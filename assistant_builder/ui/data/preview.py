"""Cached checks and previews of a data file: findings, split, and its pairs in the chat template of the base model."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant_builder.config import DataConfig, StudyConfig, name_and_title, slug
from assistant_builder.data import (
    Findings,
    Message,
    Pair,
    Split,
    check_pairs,
    load_pairs,
    split_pairs,
)
from assistant_builder.data.columns import automatic_roles, guess_columns
from assistant_builder.data.edit import cell_text
from assistant_builder.data.load import first_rows
from assistant_builder.data.reading_process import read_table
from assistant_builder.error_record import ErrorRecord
from assistant_builder.errors import DataError
from assistant_builder.models.checkpoint_dir import context_length
from assistant_builder.models.fetch import local_model_folder
from assistant_builder.models.template_process import LimitedChatTokenizer, TemplateProcess
from assistant_builder.retrieval.grounding import row_limit, rows_longer_than
from assistant_builder.study import Study
from assistant_builder.ui.study_snapshot import stamp


@dataclass(frozen=True)
class Inspection:
    """The result of reading and checking a file.

    Attributes:
        findings: Result of the check; None if the file cannot be read.
        columns: Columns of the file, if they are known.
        error: Record of the error if it cannot be read.
        peek: Cells of the first rows as text.
        roles: Role → column.
        guessed: Question and answer column by their content, if their names do not tell.
    """

    findings: Findings | None
    columns: tuple[str, ...] = ()
    error: ErrorRecord | None = None
    peek: tuple[tuple[str, ...], ...] = ()
    roles: Mapping[str, str | None] = field(default_factory=dict)
    guessed: Mapping[str, str] = field(default_factory=dict)


LARGE_CELLS = 1_000_000
"""Cells of a table of which the page keeps one at a time: they take 50 to 100 bytes each, whatever the file takes."""


def inspect_file(path: Path, columns: Mapping[str, str]) -> Inspection:
    """Read and check a file; an error becomes part of the result.

    ``columns`` is role → column, as mapped by the user; an empty name leaves the role unused.
    """
    return _inspect(str(path), stamp([path]), tuple(sorted(columns.items())))


@functools.lru_cache(maxsize=8)
def _inspect(path: str, seen: str, columns: tuple[tuple[str, str], ...]) -> Inspection:
    """``seen`` is the stamp of the file, so that a replaced file is read again."""
    try:
        dataset = load_pairs(path, columns=dict(columns))
        if dataset.rows * len(dataset.column_names) > LARGE_CELLS:
            _inspect.cache_clear()
        return Inspection(
            check_pairs(dataset),
            dataset.column_names,
            None,
            _peek(dataset.column_names, dataset.first_rows),
            dataset.columns,
        )
    except DataError as error:
        record = error.to_record()
        record["where"] = record["where"].replace(path, Path(path).name)  # the path is temporary
    try:
        table = read_table(Path(path))
    except DataError:
        return Inspection(None, (), record)
    if not table.rows:  # no choice of columns would help
        return Inspection(None, (), record)
    chosen = {role: name for role, name in columns if name}
    return Inspection(
        None,
        table.columns,
        record,
        _peek(table.columns, first_rows(table)),
        {**automatic_roles(table.columns), **chosen},
        guess_columns(table) or {},
    )


def _peek(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(cell_text(cells.get(name)) for name in columns) for cells in rows)


def preview_split(findings: Findings, config: DataConfig) -> Split | dict[str, Any]:
    """The split that a study would get, or the record of the error that prevents it."""
    try:
        return split_pairs(findings.usable, config, findings.dataset.rows)
    except DataError as error:
        return dict(error.to_record())


def heldout_power(split: Mapping[str, Any]) -> dict[str, Any] | None:
    """Statistical power of the held-out set of ``Split.to_record()``, by its size and clusters; None if it is empty."""
    from evals.stats.power import split_power

    power = split_power(split)
    return power.to_record() if power else None


def unused_name(proposed: str) -> str:
    """A valid study name from any text, with a number if the name is taken."""
    base = slug(proposed)
    taken = {study.name for study in Study.all()}
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return base if base not in taken else next(name for name in numbered if name not in taken)


def unused_title(proposed: str) -> str:
    """What to call a new study: the proposed name or title, with a number if its name is taken."""
    free = unused_name(proposed)
    _, title = name_and_title(proposed)
    return title + free.removeprefix(slug(proposed)).replace("-", " ") if title else free


_IDLE_SECONDS = 300.0
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_MOST_PROCESSES = 4
"""Number of base models with a running tokenizer process."""


def rows_too_long(path: Path, config: StudyConfig) -> Mapping[int, int]:
    """Row as shown → tokens, of the rows of a file that training would leave out; empty without the model's files.

    Raises:
        ModelError: The tokenizer or the chat template of the base model fails.
    """
    folder = local_model_folder(config.model)
    if folder is None:
        return {}
    return _too_long(
        str(path),
        stamp([path]),
        tuple(config.data.columns.items()),
        config.data.system,
        folder,
        stamp(folder / name for name in _TOKENIZER_FILES),
        row_limit(config.train.max_length, context_length(folder)),
        config.grounded,
    )


@functools.lru_cache(maxsize=8)
def _too_long(
    path: str,
    seen: str,
    columns: tuple[tuple[str, str], ...],
    system: str | None,
    folder: Path,
    model_seen: str,
    limit: int,
    grounded: bool,
) -> Mapping[int, int]:
    """``seen`` is the stamp of the data file, ``model_seen`` that of the model files."""
    findings = inspect_file(Path(path), dict(columns)).findings
    if findings is None:
        return {}
    found = rows_longer_than(
        limit,
        [with_system(pair, system) for pair in findings.usable],
        LimitedChatTokenizer(_process(str(folder), model_seen)),
        grounded=grounded,
    )
    return {findings.dataset.numbers.shown(row): tokens for row, tokens in found.items()}


def with_system(pair: Pair, system: str | None) -> Pair:
    """The pair with the system prompt of the study, unless it has its own."""
    if not system or pair.system is not None:
        return pair
    return replace(pair, messages=(Message("system", system), *pair.messages))


_processes: OrderedDict[tuple[str, str], TemplateProcess] = OrderedDict()
_processes_lock = threading.Lock()


def _process(folder: str, seen: str) -> TemplateProcess:
    """The tokenizer process of a base model; ``seen`` is the stamp of its files."""
    with _processes_lock:
        process = _processes.pop((folder, seen), None) or TemplateProcess(
            Path(folder), idle_seconds=_IDLE_SECONDS
        )
        _processes[folder, seen] = process
        while len(_processes) > _MOST_PROCESSES:
            _processes.popitem(last=False)[1].close()
        return process
