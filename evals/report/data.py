"""What the report says about the data: where it came from, how it was split, and what leaked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.study import Study, read_json

_COUNTED = ("exact_duplicates", "near_duplicates", "conflicts", "one_word_answers", "over_long", "answers_shared")
_LISTED = 20
"""Leaks listed with their questions; the study's data folder holds all of them."""


def data_summary(study: Study) -> dict[str, Any]:
    """Counts, hashes and leaks from ``data/findings.json``, ``data/split.json`` and ``data/embedding.json``.

    Records that are absent leave their entries ``None``.
    """
    folder = study.folder / "data"
    findings, split, embedding = (
        read_json(path) if (path := folder / name).exists() else {}
        for name in ("findings.json", "split.json", "embedding.json")
    )
    config = study.config.data
    return {
        "source": config.source or None,
        "format": findings.get("format"),
        "columns": {role: name for role, name in findings.get("columns", {}).items() if name},
        "rows": findings.get("rows"),
        "usable": findings.get("usable"),
        "rejected": _amount(findings.get("rejected")),
        "findings": {key: _amount(findings[key]) for key in _COUNTED if key in findings},
        "notes": list(findings.get("notes", [])),
        "split": {key: split.get(key) for key in ("given", "seed", "counts", "hashes")},
        "leaks": _leaks(split, embedding),
    }


def _leaks(split: Mapping[str, Any], embedding: Mapping[str, Any]) -> dict[str, Any]:
    text, near = split.get("leaks"), embedding.get("leaks")
    removed = [record[key] for record, key in ((split, "leaks_removed"), (embedding, "removed")) if key in record]
    listed = [leak for found in (text, near) if isinstance(found, list) for leak in found]
    return {
        "question": _amount(text), "embedding": _amount(near),
        "removed": all(map(bool, removed)) if removed else None, "listed": listed[:_LISTED],
    }


def _amount(value: Any) -> int | None:
    """A count, given as a number or as what is counted."""
    if value is None or isinstance(value, bool):
        return None
    return int(value) if isinstance(value, (int, float)) else len(value)
