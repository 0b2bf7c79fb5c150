"""The whole way of a data file into a study: read, check, split, describe, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import write_json, write_jsonl
from assistant_builder.config import DataConfig
from assistant_builder.data.card import dataset_card
from assistant_builder.data.card_file import write_generated
from assistant_builder.data.checking import TokenCounter, check_pairs
from assistant_builder.data.findings import Findings
from assistant_builder.data.reading import load_pairs
from assistant_builder.data.records import Dataset
from assistant_builder.data.splitting import Split, split_pairs
from assistant_builder.errors import DataError


@dataclass(frozen=True)
class PreparedData:
    """A data file made ready: what was read, found, and split.

    Attributes:
        dataset: As read.
        findings: What checking found.
        split: The three sets.
    """

    dataset: Dataset
    findings: Findings
    split: Split

    def write(self, folder: Path, *, title: str) -> Mapping[str, Any]:
        """Write ``{train,validation,heldout,rejected}.jsonl``, ``findings.json``, ``card.md``, last ``split.json``.

        A card that a person has edited stays; see :mod:`assistant_builder.data.card_file`.

        Args:
            folder: The study's ``data`` folder.
            title: Heading of the card.

        Returns:
            The record of ``split.json``.
        """
        record = self.split.to_record()
        self.split.write(folder)
        left_out = self.findings.left_out
        write_jsonl(
            folder / "rejected.jsonl", ({**rejection.to_record(), "record": rejection.record} for rejection in left_out)
        )
        write_json(folder / "findings.json", self.findings.to_record())
        write_generated(folder, dataset_card(self.findings, self.split, title=title))
        write_json(folder / "split.json", record)
        return record


def prepare(
    source: Path,
    config: DataConfig,
    *,
    tokenizer: TokenCounter | None = None,
    max_length: int = 512,
    room: int | None = None,
    folder: Path | None = None,
    title: str = "",
) -> PreparedData:
    """Read, check and split a data file, and write the result.

    Nothing is written unless all of it can be: with ``folder=None`` this tells whether a study can start.

    Args:
        source: The data file.
        config: Columns, system prompt, fractions, limits, thresholds, seed.
        tokenizer: Counts the tokens of a pair; None leaves lengths unchecked.
        max_length: Tokens beyond which a pair is over-long.
        room: Tokens that the base model can read; longer pairs are left out.
        folder: Where the files go; None writes nothing.
        title: Heading of the card; by default the file's name.

    Raises:
        DataError: The file cannot be read, too little of it is usable, or no held-out pair is left.
    """
    dataset = load_pairs(source, columns=config.columns, system=config.system)
    findings = check_pairs(
        dataset, tokenizer=tokenizer, max_length=max_length, room=room,
        near_duplicate_threshold=config.near_duplicate_threshold,
    )
    findings.require_start()
    try:
        split = split_pairs(findings.usable, config)
    except DataError as error:
        raise DataError(error.what, where=str(source), remedy=error.remedy) from error
    prepared = PreparedData(dataset, findings, split)
    if folder is not None:
        prepared.write(folder, title=title or source.stem)
    return prepared
