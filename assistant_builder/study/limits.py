"""Limits of a study in tokens that its settings leave to the data (``auto``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.study.contents import ArmSummary, Findings
from assistant_builder.study.study import Study

LENGTHS = "lengths.json"
"""File in the folder ``data``: tokens of the longest answer, of all splits."""


class Lengths(TypedDict, total=False):
    """Content of :data:`LENGTHS`."""

    longest_answer: int


def answer_limit(study: Study) -> int:
    """Most tokens of a generated answer, see :meth:`~assistant_builder.config.eval.EvalConfig.answer_limit`.

    Earlier versions did not count the longest answer; there it is at most the longest pair.
    """
    longest = (
        _read(study.folder / "data" / LENGTHS, Lengths).get("longest_answer")
        or _counted(study).get("max")
        or 0
    )
    return study.config.eval.answer_limit(int(longest))


def pair_limit(study: Study) -> int:
    """``train.max_length``; where it follows the data, the longest training sequence with its facts.

    Before the training it is estimated: the longest pair, and facts of the mean length.
    """
    config = study.config
    if config.train.max_length != "auto":
        return config.train.max_length
    trained = [
        _read(path, ArmSummary).get("max_length") or 0
        for path in study.folder.glob("arms/*/summary.json")
    ]
    if any(trained):
        return max(trained)
    counted, facts = _counted(study), config.retrieval.facts if config.grounded else 0
    return (
        round(counted["max"] + facts * counted["mean"]) if counted else config.train.assumed_length
    )


def _counted(study: Study) -> dict[str, Any]:
    return _read(study.folder / "data" / "findings.json", Findings).get("token_lengths") or {}


def _read(path: Path, content: Any) -> dict[str, Any]:
    return read_json(path, content) if path.is_file() else {}
