"""The studies of the home screen: their summaries, cached until the files of a study change, and the list as HTML."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from assistant_builder.study.admin import KEPT_DAYS, DeletedStudy, deleted_studies
from assistant_builder.ui.html import STATE_LABELS, badge, cut, fold, join
from assistant_builder.ui.study_snapshot import stamp, state_of
from evals.report.format import count, plural

CACHED_SUMMARIES = 2048
"""Size of the cache of summaries; with more studies, all are read again every time."""
UNDO_SECONDS = 600.0
"""How long the home screen shows the Undo button of a deletion."""


@dataclass(frozen=True)
class StudySummary:
    """One study in the list.

    Attributes:
        state: Its state, or ``damaged``.
        model: Its base model; empty if the settings cannot be read.
        pairs: Number of training pairs; None before the split.
        outcome: A key of :data:`OUTCOMES`; empty without a report.
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
    entry = _read(study.folder, stamp(_files(study.folder)))
    if entry.state in ("running", "queued") and (study.folder / "run.json").exists():
        return replace(entry, state=state_of(study))  # its process may have exited without a result
    return entry


def _files(folder: Path) -> list[Path]:
    fixed = ("study.yaml", "run.json", "report.json", "report.status.json", "data/status.json", "evals/status.json")
    return [*(folder / name for name in fixed), *sorted(folder.glob("arms/*/status.json"))]


@functools.lru_cache(maxsize=CACHED_SUMMARIES)
def _read(folder: Path, seen: str) -> StudySummary:
    """``seen`` is the stamp of the files, so that a changed study is read again."""
    study = Study(folder)
    changed = max(map(_modified, _files(folder)))
    try:
        report, split = _optional(folder / "report.json"), _optional(folder / "data" / "split.json")
        verdict = report.get("verdict") or {}
        outcome = "not compared" if verdict.get("contrast", "") is None else str(verdict.get("outcome", ""))
        pairs = split["counts"]["train"] if split else None
        return StudySummary(study.name, state_of(study), study.config.model.base, pairs, outcome,
                            str(report.get("sentence", "")), changed)
    except (AssistantBuilderError, KeyError, TypeError, ValueError, AttributeError, OSError):
        return StudySummary(study.name, "damaged", changed=changed)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # missing, or deleted meanwhile
        return 0.0


def _optional(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


OUTCOMES = {
    "no worse": ("good", "4-bit was no worse"),
    "worse": ("bad", "4-bit was worse"),
    "inconclusive": ("warn", "inconclusive: too few test questions"),
    "not compared": ("info", "one assistant, not compared"),
}
_PROMISE = (
    "Upload questions with their answers and get two assistants trained on them: one whose base model is stored in 4 "
    "bits, one in 16 bits. You see what 4-bit costs on questions that neither has seen, and chat with both."
)
_STEPS = ("Upload a spreadsheet", "See the plan", "Train both", "Read the verdict", "Chat with both", "Export one")
_STUDY_ACTIONS = (("rename", "Rename"), ("duplicate", "Duplicate"), ("delete", "Delete"))


def study_list_view(studies: StudyList, now: float) -> Markup:
    """The list of studies; ``now`` is the Unix time."""
    parts, undo = [], studies.undo
    if undo is not None:
        button = _button("restore", undo.folder.name, "Undo", f"Undo the deletion of {undo.name}")
        parts.append(Markup('<div class="ab-undo" role="status"><span>“{}” was deleted.</span>{}</div>').format(
            undo.name, button))
    if studies.entries:
        cards = join(_card(entry, now) for entry in studies.entries)
        parts.append(Markup('<ul class="ab-overview">{}</ul>').format(cards))
    others = [deleted for deleted in studies.deleted if deleted is not studies.undo]
    if others:
        rows = join(
            Markup("<li><span>{}</span><small>deleted {}</small>{}</li>").format(
                deleted.name, ago(now - deleted.when),
                _button("restore", deleted.folder.name, "Restore", f"Restore {deleted.name}"))
            for deleted in others)
        summary = f"Deleted studies ({len(others)}), kept for {plural(KEPT_DAYS, 'day')}"
        parts.append(fold(summary, Markup('<ul class="ab-deleted">{}</ul>').format(rows)))
    return join(parts)


def welcome_view(first: bool, example: str) -> Markup:
    """The buttons that create a study; ``first``: there is none yet; ``example``: title of its dataset, or empty."""
    buttons = [_button("new", "", "New study from my file", "New study from my file", "ab-primary")]
    if example:
        buttons.append(_button("example", "", "Run the example", f"Run the example: {example}"))
    begin = Markup('<div class="ab-begin">{}</div>').format(join(buttons))
    if not first:
        return Markup('<div class="ab-welcome">{}</div>').format(begin)
    listed = join(Markup("<li>{}</li>").format(step) for step in _STEPS)
    note = Markup("<small>{}</small>").format(
        f"The example trains on “{example}” and takes about half an hour on a laptop; you can watch it, or close "
        "the page and come back."
    ) if example else Markup("")
    return Markup('<div class="ab-welcome ab-first"><h2>{}</h2><p>{}</p><ol>{}</ol>{}{}</div>').format(
        "Make an assistant from your questions and answers", _PROMISE, listed, begin, note
    )


def ago(seconds: float) -> str:
    """A duration as ``3 days ago``."""
    if seconds < 45:
        return "just now"
    if seconds >= 86_400 * 60:
        return f"{seconds / 86_400 / 30.4:.0f} months ago"
    for unit, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit:
            return f"{plural(round(seconds / unit), word)} ago"
    return "a minute ago"


def _card(entry: StudySummary, now: float) -> Markup:
    pairs = f"{count(entry.pairs)} training pairs" if entry.pairs else ""
    facts = [text for text in (entry.model, pairs, f"changed {ago(now - entry.changed)}") if text]
    verdict = Markup("")
    if entry.outcome in OUTCOMES:
        tone, short = OUTCOMES[entry.outcome]
        verdict = Markup('<p class="ab-outcome ab-{}"><strong>{}</strong> {}</p>').format(
            tone, short, cut(entry.sentence, 220))
    actions = join(_button(action, entry.name, word, f"{word} {entry.name}") for action, word in _STUDY_ACTIONS)
    described = f"Open {entry.name}, {STATE_LABELS.get(entry.state, entry.state)}"
    return Markup(
        '<li class="ab-entry"><div class="ab-entry-head">{}{}</div><p class="ab-facts">{}</p>{}'
        '<div class="ab-entry-actions">{}</div></li>'
    ).format(_button("open", entry.name, entry.name, described, "ab-open"), badge(entry.state), " · ".join(facts),
             verdict, actions)


def _button(action: str, name: str, text: str, label: str, classes: str = "") -> Markup:
    return Markup(
        '<button type="button" class="ab-button {}" data-action="{}" data-name="{}" aria-label="{}">{}</button>'
    ).format(classes, action, name, label, text)
