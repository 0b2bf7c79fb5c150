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
from assistant_builder.study import Study
from assistant_builder.study.admin import KEPT_DAYS, DeletedStudy, deleted_studies
from assistant_builder.study.contents import Split
from assistant_builder.ui.html import badge, bar, cut, fold, join, state_label
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
    """

    name: str
    title: str
    state: str
    model: str = ""
    pairs: int | None = None
    conclusion: Conclusion | None = None
    progress: tuple[str, float] | None = None
    changed: float = 0.0

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
    entry = _read(study.folder, stamp(_files(study.folder)), language())
    if entry.state in ("running", "queued") and (study.folder / "run.json").exists():
        # its process may have exited without a result
        return replace(entry, state=state_of(study), progress=_progress(study))
    return entry


def _progress(study: Study) -> tuple[str, float] | None:
    """Title and progress of the running step, in steps of 5 %, because every change draws the list anew."""
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
        "data/status.json",
        "evals/status.json",
    )
    return [*(folder / name for name in fixed), *sorted(folder.glob("arms/*/status.json"))]


@functools.lru_cache(maxsize=CACHED_SUMMARIES)
def _read(folder: Path, seen: str, language: str) -> StudySummary:
    """``seen`` is the stamp of the files, so that a changed study is read again; a summary is in one language."""
    study = Study(folder)
    changed = max(map(_modified, _files(folder)))
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
        )
    except (AssistantBuilderError, OSError):
        return StudySummary(study.name, study.title, "damaged", changed=changed)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # missing, or deleted meanwhile
        return 0.0


PROMISE = N_("Turn your questions and answers into an assistant, and see how good it is.")
_BEGIN = (
    ("new", N_("New project from my file")),
    ("example", N_("Open a finished example")),
    ("train-example", N_("Train the example")),
)
_STEPS = (
    N_("Upload a spreadsheet"),
    N_("Train"),
    N_("See how good it is"),
    N_("Chat"),
    N_("Use it"),
)
_STUDY_ACTIONS = (
    ("rename", N_("Rename"), N_("Rename {name}")),
    ("duplicate", N_("Duplicate"), N_("Duplicate {name}")),
    ("delete", N_("Delete"), N_("Delete {name}")),
)


def study_list_view(studies: StudyList, now: float) -> Markup:
    """The list of studies, which the page calls projects; ``now`` is the Unix time."""
    parts, undo = [], studies.undo
    if undo is not None:
        button = _button(
            "restore",
            undo.folder.name,
            t("Undo"),
            t("Undo the deletion of {name}", name=undo.title),
        )
        parts.append(
            Markup('<div class="ab-undo" role="status"><span>{}</span>{}</div>').format(
                t("“{name}” was deleted.", name=undo.title), button
            )
        )
    if studies.entries:
        cards = join(_card(entry, now) for entry in studies.entries)
        parts.append(Markup('<ul class="ab-overview">{}</ul>').format(cards))
    others = [deleted for deleted in studies.deleted if deleted is not studies.undo]
    if others:
        rows = join(
            Markup("<li><span>{}</span><small>{}</small>{}</li>").format(
                deleted.title,
                t("deleted {ago}", ago=ago(now - deleted.when)),
                _button(
                    "restore",
                    deleted.folder.name,
                    t("Restore"),
                    t("Restore {name}", name=deleted.title),
                ),
            )
            for deleted in others
        )
        summary = tn(
            "Deleted projects ({number}), kept for {count} day",
            "Deleted projects ({number}), kept for {count} days",
            KEPT_DAYS,
            number=len(others),
        )
        parts.append(fold(summary, Markup('<ul class="ab-deleted">{}</ul>').format(rows)))
    return join(parts)


def welcome_view(first: bool) -> Markup:
    """The buttons that create a project or open the example; ``first``: there is no project yet."""
    buttons = [
        _button(action, "", t(text), t(text), "ab-primary" if action == "new" else "")
        for action, text in _BEGIN
    ]
    begin = Markup('<div class="ab-begin">{}</div>').format(join(buttons))
    if not first:
        return Markup('<div class="ab-welcome">{}</div>').format(begin)
    listed = join(Markup("<li>{}</li>").format(t(step)) for step in _STEPS)
    return Markup(
        '<div class="ab-welcome ab-first"><h2>{}</h2><ol>{}</ol>{}<small>{}</small></div>'
    ).format(
        t("Make an assistant from your questions and answers"),
        listed,
        begin,
        t(
            "The finished example is an assistant of a campsite: you can chat with it at once. Training it on this "
            "computer takes about a quarter of an hour."
        ),
    )


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
    """A study; all of the card is its link, apart from the buttons."""
    pairs = (
        tn("{count} training pair", "{count} training pairs", entry.pairs) if entry.pairs else ""
    )
    facts = " · ".join(
        text
        for text in (entry.model, pairs, t("changed {ago}", ago=ago(now - entry.changed)))
        if text
    )
    menu = join(
        _button(action, entry.name, t(word), t(described, name=entry.title))
        for action, word, described in _STUDY_ACTIONS
    )
    described = t("Open {name}, {state}", name=entry.title, state=state_label(entry.state))
    body = [Markup('<p class="ab-facts">{}</p>').format(facts)]
    buttons = [
        Markup(
            '<details class="ab-menu"><summary aria-label="{}">⋯</summary><div>{}</div></details>'
        ).format(t("More for {name}", name=entry.title), menu)
    ]
    if entry.progress is not None:
        title, share = entry.progress
        body.append(
            Markup("<p>{}, {:.0%}</p>{}").format(
                title, share, bar(share, f"{entry.title}: {title}")
            )
        )
    if entry.conclusion is not None:
        body.append(_result(entry.conclusion))
        if entry.state == "succeeded":
            buttons[:0] = [
                _button("chat", entry.name, t("Chat"), t("Chat with {name}", name=entry.title)),
                _button(
                    "results", entry.name, t("Results"), t("Results of {name}", name=entry.title)
                ),
            ]
    link = Markup(
        '<a class="ab-open" href="?{}" data-action="open" data-name="{}" aria-label="{}">{}</a>'
    ).format(urlencode({"study": entry.name, "tab": entry.tab}), entry.name, described, entry.title)
    return Markup(
        '<li class="ab-entry"><div class="ab-entry-head">{}{}</div>{}<div class="ab-entry-actions">{}</div></li>'
    ).format(link, badge(entry.state), join(body), join(buttons))


def _result(conclusion: Conclusion) -> Markup:
    """The score with its ring, who can be given the assistant, and the first sentences of the conclusion."""
    ring = Markup("")
    if conclusion.share is not None:
        ring = Markup(
            '<i class="ab-ring ab-{}" style="--share:{:.3f}" aria-hidden="true"></i>'
        ).format("good" if conclusion.ready else "bad", conclusion.share)
    return Markup('<div class="ab-result">{}<p><strong>{}</strong> {}</p></div>').format(
        ring, score(conclusion), cut(conclusion.good_enough, 260)
    )


def score(conclusion: Conclusion) -> str:
    """The score of an assistant in a few words: ``94 % right``."""
    if not conclusion.tested:
        return t("not tested in other words")
    if conclusion.share is None or conclusion.metric != EXACT:
        return f"{conclusion.figures[0].what} {conclusion.figures[0].value}"
    percent = round(100 * conclusion.share)
    if 0 < conclusion.share < 1:
        percent = min(max(percent, 1), 99)  # neither all nor none
    return t("{percent} % right", percent=percent)


def _button(action: str, name: str, text: str, label: str, classes: str = "") -> Markup:
    return Markup(
        '<button type="button" class="ab-button {}" data-action="{}" data-name="{}" aria-label="{}">{}</button>'
    ).format(classes, action, name, label, text)
