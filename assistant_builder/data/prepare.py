"""Preparation of a data file for a study: read, check, split, describe and write."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from assistant_builder.atomic_io import read_json, write_json, write_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data.card import dataset_card, write_card
from assistant_builder.data.reading_process import load_pairs, read_table
from assistant_builder.data.split import Split, split_pairs
from assistant_builder.data.types import Pair, RowNumbers
from assistant_builder.data.validate import Findings, TokenCounter, check_pairs
from assistant_builder.errors import DataError
from assistant_builder.study.contents import Findings as FindingsFile


def row_numbers(folder: Path) -> RowNumbers:
    """The row numbers that the user sees of the prepared data in a study's ``data`` folder."""
    path = folder / "findings.json"
    with suppress(OSError):
        return _row_numbers(path, path.stat().st_mtime_ns)
    with suppress(OSError, StopIteration):  # not prepared yet
        source = next(folder.glob("source.*"))
        return _source_numbers(source, source.stat().st_mtime_ns)
    return RowNumbers()


@functools.lru_cache(maxsize=16)
def _row_numbers(path: Path, changed: int) -> RowNumbers:
    return RowNumbers.of_record(read_json(path, FindingsFile))


@functools.lru_cache(maxsize=16)
def _source_numbers(source: Path, changed: int) -> RowNumbers:
    with suppress(DataError):
        return read_table(source).numbers
    return RowNumbers()


class PreparedData(NamedTuple):
    """The findings of a data file (with its dataset) and the split made from them."""

    findings: Findings
    split: Split


def prepare_dataset(
    source: Path,
    config: DataConfig,
    *,
    tokenizer: TokenCounter | None = None,
    max_length: int = 512,
    max_pair_tokens: int | None = None,
    as_trained: Callable[[Pair], Pair] | None = None,
    folder: Path | None = None,
    title: str = "",
) -> PreparedData:
    """Read, check and split a data file, and write the result to ``folder``, the study's ``data`` folder, if given.

    The files are ``{train,validation,heldout,rejected}.jsonl``, ``findings.json``, ``card.md`` and ``split.json``.
    Nothing is written if the data cannot be used. Pairs of more than ``max_length`` tokens are reported, those of more
    than ``max_pair_tokens``, which do not fit the context of the base model, are left out, see :func:`check_pairs`.

    Raises:
        DataError: The file cannot be read, has too few usable rows, or every held-out pair leaks.
    """
    dataset = load_pairs(source, columns=config.columns, system=config.system)
    findings = check_pairs(
        dataset,
        tokenizer=tokenizer,
        max_length=max_length,
        max_pair_tokens=max_pair_tokens,
        near_duplicate_threshold=config.near_duplicate_threshold,
        as_trained=as_trained,
    )
    findings.require_start()
    try:
        split = split_pairs(findings.usable, config, findings.dataset.rows)
    except DataError as error:
        raise DataError(error.what, where=str(source), remedy=error.remedy) from error
    if folder is not None:
        split.write(folder)
        write_jsonl(folder / "rejected.jsonl", (row.to_line() for row in findings.left_out))
        numbers = replace(dataset.numbers, copies=split.copies)
        write_json(
            folder / "findings.json", {**findings.to_record(), "row_numbers": numbers.to_record()}
        )
        write_card(folder, dataset_card(findings, split, title=title or source.stem))
        # written last: it marks the data as complete
        write_json(folder / "split.json", split.to_record())
    return PreparedData(findings, split)
