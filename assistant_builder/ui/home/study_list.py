"""The studies as the home screen lists them, read from their files and kept until these change."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.study.admin import DeletedStudy, deleted_studies
from assistant_builder.ui.study_snapshot import stamp, state_of

KEPT_ENTRIES = 2048
"""Studies whose entries are kept; where there are more, all are read again at every look."""
UNDO_SECONDS = 600.0
"""How long the home screen offers to take back a deletion with one button on top."""


@dataclass(frozen=True)
class StudySummary:
    """One study in the list.

    Attributes:
        name: The study.
        state: Its state, or ``damaged``.
        model: Its base model; empty where the settings cannot be read.
        pairs: Training pairs; None before the split is made.
        outcome: The report's verdict, ``no worse``, ``worse`` or ``inconclusive``, or ``not compared`` where one
            arm was trained; empty before there is one.
        sentence: The verdict as a sentence.
        changed: Unix time of the last change.
    """

    name: str
    state: str
    model: str = ""
    pairs: int | None = None
    outcome: str = ""
    sentence: str = ""
    changed: float = 0.0


@dataclass(frozen=True)
class StudyList:
    """What the home screen shows.

    Attributes:
        entries: The studies, the last changed first.
        undo: The study that was deleted last, where that was a moment ago.
        deleted: Every study that can be taken back.
    """

    entries: tuple[StudySummary, ...]
    undo: DeletedStudy | None
    deleted: tuple[DeletedStudy, ...]


def read_shelf() -> StudyList:
    """Look at all studies; those whose files are as they were are not read again."""
    entries = sorted(map(entry_of, Study.all()), key=lambda entry: -entry.changed)
    deleted = tuple(deleted_studies())
    recent = deleted and time.time() - deleted[0].when < UNDO_SECONDS
    return StudyList(tuple(entries), deleted[0] if recent else None, deleted)


def entry_of(study: Study) -> StudySummary:
    """How a study stands."""
    files = _files(study.folder)
    entry = _read(str(study.folder), stamp(files))
    if entry.state in ("running", "queued") and (study.folder / "run.json").exists():
        return replace(entry, state=state_of(study))  # its process can have died without a word
    return entry


def _files(folder: Path) -> list[Path]:
    fixed = ("study.yaml", "run.json", "report.json", "report.status.json", "data/status.json", "evals/status.json")
    return [*(folder / name for name in fixed), *sorted(folder.glob("arms/*/status.json"))]


@functools.lru_cache(maxsize=KEPT_ENTRIES)
def _read(folder: str, seen: str) -> StudySummary:
    """``seen`` is the stamp of the study's files, so that a changed study is read again."""
    study = Study(Path(folder))
    changed = max(map(_changed, _files(study.folder)), default=0.0)
    try:
        model = study.config.model.base
        report = _optional(study.folder / "report.json")
        split = _optional(study.folder / "data" / "split.json")
        verdict = report.get("verdict") or {}
        alone = verdict.get("contrast", "") is None
        outcome = "not compared" if alone else str(verdict.get("outcome", ""))
        return StudySummary(
            study.name, state_of(study), model, split["counts"]["train"] if split else None,
            outcome, str(report.get("sentence", "")), changed,
        )
    except (AssistantBuilderError, KeyError, TypeError, ValueError, AttributeError, OSError):
        return StudySummary(study.name, "damaged", changed=changed)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # not there, or gone since
        return 0.0


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
