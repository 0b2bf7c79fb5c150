"""Summaries of all studies for the home screen, cached until the files of a study change."""

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

CACHED_SUMMARIES = 2048
"""Size of the cache of summaries; with more studies, all are read again every time."""
UNDO_SECONDS = 600.0
"""How long the home screen shows the Undo button of a deletion."""


@dataclass(frozen=True)
class StudySummary:
    """One study in the list.

    Attributes:
        name: Name of the study.
        state: Its state, or ``damaged``.
        model: Its base model; empty if the settings cannot be read.
        pairs: Number of training pairs; None before the split.
        outcome: Verdict of the report: ``no worse``, ``worse``, ``inconclusive``, or ``not compared`` for a single arm;
            empty without a report.
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
    """The studies on the home screen.

    Attributes:
        entries: The studies, the last changed first.
        undo: The study that was deleted within the last :data:`UNDO_SECONDS`.
        deleted: Every study that can be restored.
    """

    entries: tuple[StudySummary, ...]
    undo: DeletedStudy | None
    deleted: tuple[DeletedStudy, ...]


def list_studies() -> StudyList:
    """Summarize all studies; unchanged ones come from the cache."""
    entries = sorted(map(summarize, Study.all()), key=lambda entry: -entry.changed)
    deleted = tuple(deleted_studies())
    recent = deleted and time.time() - deleted[0].when < UNDO_SECONDS
    return StudyList(tuple(entries), deleted[0] if recent else None, deleted)


def summarize(study: Study) -> StudySummary:
    """Summarize a study."""
    files = _files(study.folder)
    entry = _read(str(study.folder), stamp(files))
    if entry.state in ("running", "queued") and (study.folder / "run.json").exists():
        return replace(entry, state=state_of(study))  # its process may have exited without a result
    return entry


def _files(folder: Path) -> list[Path]:
    fixed = ("study.yaml", "run.json", "report.json", "report.status.json", "data/status.json", "evals/status.json")
    return [*(folder / name for name in fixed), *sorted(folder.glob("arms/*/status.json"))]


@functools.lru_cache(maxsize=CACHED_SUMMARIES)
def _read(folder: str, seen: str) -> StudySummary:
    """``seen`` is the stamp of the files, so that a changed study is read again."""
    study = Study(Path(folder))
    changed = max(map(_modified, _files(study.folder)), default=0.0)
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


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # missing, or deleted meanwhile
        return 0.0


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}
