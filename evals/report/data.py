"""What the report says about the data: where it came from, how it was split, and what leaked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assistant_builder.files import read_json
from assistant_builder.study import Study

_COUNTED = ("exact_duplicates", "near_duplicates", "conflicts", "one_word_answers", "over_long", "answers_shared")
_SPLIT = ("given", "cut", "seed", "counts", "turns", "hashes", "sampled_out", "units", "clusters")
_LISTED = 20
"""Leaks listed with their questions; the study's data folder holds all of them."""


def data_summary(study: Study) -> dict[str, Any]:
    """Counts, hashes and leaks from ``data/findings.json``, ``data/split.json`` and ``data/embedding.json``.

    What is not on record is ``None``.
    """
    folder = study.folder / "data"
    findings, split = _record(folder / "findings.json"), _record(folder / "split.json")
    return {
        "source": study.config.data.source or findings.get("source"),
        "format": findings.get("format"),
        "columns": {role: name for role, name in findings.get("columns", {}).items() if name},
        "rows": findings.get("rows"),
        "usable": findings.get("usable"),
        "rejected": _amount(findings.get("rejected")),
        "findings": {key: _amount(findings[key]) for key in _COUNTED if key in findings},
        "token_lengths": findings.get("token_lengths"),
        "notes": [*findings.get("notes", []), *split.get("notes", [])],
        "split": {key: split.get(key) for key in _SPLIT},
        "leaks": _leaks(split, _record(study.embedding_file)),
    }


def _record(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _leaks(split: Mapping[str, Any], embedding: Mapping[str, Any]) -> dict[str, Any]:
    """Leaks found by comparing texts and by comparing embeddings, and how many held-out rows were taken out for it."""
    text, near = split.get("leaks"), embedding.get("leaks")
    found = [leak for listed in (text, near) if isinstance(listed, list) for leak in listed]
    left = {leak["heldout_row"] for leak in found if not leak.get("removed")}
    return {
        "text": _amount(text), "embedding": _amount(near),
        "removed": len({leak["heldout_row"] for leak in found if leak.get("removed")}), "left": len(left),
        "listed": sorted(found, key=lambda leak: bool(leak.get("removed")))[:_LISTED],
    }


def _amount(value: Any) -> int | None:
    """A count, given as a number or as a list of what is counted."""
    if value is None:
        return None
    return int(value) if isinstance(value, (int, float)) else len(value)
