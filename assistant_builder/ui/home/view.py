"""The studies of the home screen: their summaries, cached until the files of a study change, and the list as HTML."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from markupsafe import Markup

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.i18n import N_, language, t, tn
from assistant_builder.serving.website import published_file, published_site
from assistant_builder.study import Study
from assistant_builder.study.admin import KEPT_DAYS, DeletedStudy, deleted_studies
from assistant_builder.study.contents import Split
from assistant_builder.study.study import modified
from assistant_builder.ui.html import fragment
from assistant_builder.ui.study_snapshot import (
    report_conclusion,
    stamp,
    state_of,
    step_title,
    study_report,
)
from evals.declaration import EXACT
from evals.report.conclusion import Conclusion

CACHED_SUMMARIES = 2048
"""Size of the cache of summaries; with more studies, all are read again every time."""
UNDO_SECONDS = 600.0
"""How long the home screen shows the Undo button of a deletion."""


@dataclass(frozen=True)
class StudySummary:
    """One study in the list.

    Attributes:
        title: What people call it.
        state: Its state, or ``damaged``.
        model: Its base model; empty if the settings cannot be read.
        pairs: Number of training pairs; None before the split.
        conclusion: That of its report; None without one.
        progress: Title and progress of the running step, between 0 and 1.
        changed: Unix time of the last change.
        website: Address of the website that has its bubble; empty if none is published.
    """

    name: str
    title: str
    state: str
    model: str = ""
    pairs: int | None = None
    conclusion: Conclusion | None = None
    progress: tuple[str, float] | None = None
    changed: float = 0.0
    website: str = ""

    @property
    def tab(self) -> str:
        """The tab on which it opens."""
        if self.conclusion is not None or self.state == "succeeded":
            return "evaluate"
        return "data" if self.state == "queued" else "train"


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
    entry = _read(study.folder, stamp([*_files(study.folder), published_file()]), language())
    if entry.state in ("running", "queued") and (study.folder / "run.json").exists():
        # its process may have exited without a result
        return replace(entry, state=state_of(study), progress=_progress(study))
    return entry


def _progress(study: Study) -> tuple[str, float] | None:
    """Title and progress of the running step, in steps of 5 %, because every change draws the list again."""
    for step in study.shown_steps:
        if study.step(step).state == "running":
            found = study.progress(step)
            share = found.done / found.total if found is not None and found.total else 0.0
            return step_title(step), math.floor(20 * min(share, 1.0)) / 20
    return None


def _files(folder: Path) -> list[Path]:
    fixed = (
        "study.yaml",
        "run.json",
        "report.json",
        "report.status.json",
        "website.json",
        "data/status.json",
        "evals/status.json",
    )
    return [*(folder / name for name in fixed), *sorted(folder.glob("arms/*/status.json"))]


@functools.lru_cache(maxsize=CACHED_SUMMARIES)
def _read(folder: Path, seen: str, language: str) -> StudySummary:
    """``seen`` is the stamp of the files, so that a changed study is read again; a summary is in one language."""
    study = Study(folder)
    changed = max(map(modified, _files(folder)))
    if (state := state_of(study)) == "damaged":  # its files are not read
        return StudySummary(study.name, study.title, state, changed=changed)
    try:
        report, split = study_report(study), folder / "data" / "split.json"
        pairs = read_json(split, Split)["counts"].get("train") if split.is_file() else None
        return StudySummary(
            study.name,
            study.title,
            state,
            study.config.model.base,
            pairs,
            report_conclusion(report) if report else None,
            changed=changed,
            website=published_site(study),
        )
    except (AssistantBuilderError, OSError):
        return StudySummary(study.name, study.title, "damaged", changed=changed)


PROMISE = N_("Turn your questions and answers into an assistant, and see how good it is.")


def study_list_view(studies: StudyList, now: float) -> Markup:
    """The list of studies, which the page calls projects; ``now`` is the Unix time."""
    others = [
        (deleted, ago(now - deleted.when))
        for deleted in studies.deleted
        if deleted is not studies.undo
    ]
    cards = [_card(entry, now) for entry in studies.entries]
    return fragment("home.studies", cards, studies.undo, others, KEPT_DAYS)


def welcome_view(first: bool) -> Markup:
    """The buttons that create a project or open the example; ``first``: there is no project yet."""
    return fragment("home.welcome", first)


def ago(seconds: float) -> str:
    """A duration as ``3 days ago``."""
    if seconds < 45:
        return t("just now")
    if seconds >= 86_400 * 60:
        return t("{months:.0f} months ago", months=seconds / 86400 / 30.4)
    if seconds >= 86_400:
        return tn("{count} day ago", "{count} days ago", round(seconds / 86_400))
    if seconds >= 3_600:
        return tn("{count} hour ago", "{count} hours ago", round(seconds / 3_600))
    if seconds >= 60:
        return tn("{count} minute ago", "{count} minutes ago", round(seconds / 60))
    return t("a minute ago")


def _card(entry: StudySummary, now: float) -> Markup:
    pairs = (
        tn("{count} training pair", "{count} training pairs", entry.pairs) if entry.pairs else ""
    )
    site = entry.website and t("on {site}", site=entry.website)
    facts = (entry.model, pairs, site, t("changed {ago}", ago=ago(now - entry.changed)))
    address = urlencode({"study": entry.name, "tab": entry.tab})
    points = score(entry.conclusion) if entry.conclusion else ""
    return fragment("home.entry", entry, " · ".join(filter(None, facts)), address, points)


def score(conclusion: Conclusion) -> str:
    """The score of an assistant in a few words: ``94 % right``."""
    if not conclusion.tested:
        return t("not tested in other words")
    if conclusion.share is None or conclusion.metric != EXACT:
        return f"{conclusion.figures[0].what}: {conclusion.figures[0].value}"
    percent = round(100 * conclusion.share)
    if 0 < conclusion.share < 1:
        percent = min(max(percent, 1), 99)  # neither all nor none
    return t("{percent} % right", percent=percent)
