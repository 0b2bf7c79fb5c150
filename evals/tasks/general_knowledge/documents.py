"""Loads the retention questions for lm-eval; depends only on the file ``questions.jsonl`` in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets


def documents(**metadata: object) -> dict[str, datasets.Dataset]:
    """The questions as a dataset of one split, ``test``; the metadata that lm-eval passes is not used."""
    import datasets

    return {"test": datasets.Dataset.from_list(read_questions())}


def read_questions() -> list[dict[str, Any]]:
    """The questions in file order: ``question``, four ``choices``, ``answer`` (index of the right one) and ``area``."""
    lines = Path(__file__).with_name("questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
