"""In what two studies differ: settings, data, base model, and what they ran on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.files import read_json
from assistant_builder.study import Study
from evals.report.reading import Cell

_NO_MATTER = (
    "name", "version", "data.source", "train.preset", "train.sample_answers", "train.allow_low_memory",
    "eval.judge_url", "eval.judge_model", "eval.judge_items", "eval.price_per_hour",
)
"""Settings that change no score of a cell."""
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_HASH_DIGITS = 12


def differences(a: Study, b: Study, cell_a: Cell, cell_b: Cell) -> list[dict[str, Any]]:
    """Everything on record that differs and can bear on the scores.

    Args:
        a: The first study.
        b: The second.
        cell_a: A scored cell of the first.
        cell_b: The same cell of the second.

    Returns:
        ``{"setting", "a", "b"}``, settings by their dotted key first; hashes are shortened to 12 digits, and a value is
        ``None`` where it is unset or not on record.
    """
    facts_a, facts_b = dict(_facts(a, cell_a)), dict(_facts(b, cell_b))
    return [
        {"setting": key, "a": facts_a.get(key), "b": facts_b.get(key)}
        for key in dict.fromkeys([*facts_a, *facts_b]) if facts_a.get(key) != facts_b.get(key)
    ]


def _facts(study: Study, cell: Cell) -> Iterator[tuple[str, Any]]:
    config = study.config
    yield from ((key, value) for key, value in _flat(config.model_dump(mode="json")) if key not in _NO_MATTER)
    provenance = _record(study.folder / "provenance.json")
    hashes = _record(study.folder / "data" / "split.json").get("hashes", {})
    yield "data file", Path(config.data.source).name or None
    for split, name in (("train", "train"), ("validation", "validation"), ("heldout", "held-out")):
        yield f"{name} data, SHA-256", _short(hashes.get(split))
    yield "base model, SHA-256", _short((provenance.get("base_model") or {}).get("sha256"))
    yield "arithmetic of scoring", cell.scores.get("compute_dtype")
    yield "assistant-builder", provenance.get("assistant_builder")
    for package in _PACKAGES:
        yield package, (provenance.get("packages") or {}).get(package)
    hardware = provenance.get("hardware") or {}
    yield "processor", hardware.get("cpu")
    yield "GPU", (hardware.get("gpu") or {}).get("name")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _record(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _short(digest: str | None) -> str | None:
    return digest and digest[:_HASH_DIGITS]
