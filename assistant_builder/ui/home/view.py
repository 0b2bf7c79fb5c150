"""HTML of the home screen: every study with its state, verdict, last change and actions."""

from __future__ import annotations

import time

from markupsafe import Markup

from assistant_builder.study.admin import KEPT_DAYS
from assistant_builder.ui.home.study_list import StudyList, StudySummary
from assistant_builder.ui.html import STATE_LABELS, badge, cut, fold, join
from evals.report.format import count, plural

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


def study_list_view(studies: StudyList, now: float | None = None) -> Markup:
    """The list of studies; ``now`` is the Unix time, by default the current one."""
    now = time.time() if now is None else now
    parts = []
    if studies.undo is not None:
        parts.append(
            Markup('<div class="ab-undo" role="status"><span>“{}” was deleted.</span>{}</div>').format(
                studies.undo.name,
                _button("restore", studies.undo.folder.name, "Undo", f"Undo the deletion of {studies.undo.name}"),
            )
        )
    if studies.entries:
        cards = join(_card(entry, now) for entry in studies.entries)
        parts.append(Markup('<ul class="ab-overview">{}</ul>').format(cards))
    others = [deleted for deleted in studies.deleted if deleted is not studies.undo]
    if others:
        rows = join(
            Markup("<li><span>{}</span><small>deleted {}</small>{}</li>").format(
                deleted.name, ago(now - deleted.when),
                _button("restore", deleted.folder.name, "Restore", f"Restore {deleted.name}"),
            )
            for deleted in others
        )
        summary = f"Deleted studies ({len(others)}), kept for {plural(KEPT_DAYS, 'day')}"
        parts.append(fold(summary, Markup('<ul class="ab-deleted">{}</ul>').format(rows)))
    return join(parts)


def welcome_view(first: bool, example: str) -> Markup:
    """The buttons that create a study, above the list.

    Args:
        first: Whether there is no study yet.
        example: Title of the dataset of the example; empty without one.
    """
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
    if seconds < 86_400 * 60:
        return f"{_rounded(seconds)} ago"
    return f"{seconds / 86_400 / 30.4:.0f} months ago"


def _rounded(seconds: float) -> str:
    for unit, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= unit:
            return plural(round(seconds / unit), word)
    return "a minute"


def _card(entry: StudySummary, now: float) -> Markup:
    pairs = f"{count(entry.pairs)} training pairs" if entry.pairs else ""
    facts = [text for text in (entry.model, pairs, f"changed {ago(now - entry.changed)}") if text]
    verdict = Markup("")
    if entry.outcome in OUTCOMES:
        tone, short = OUTCOMES[entry.outcome]
        verdict = Markup('<p class="ab-outcome ab-{}"><strong>{}</strong> {}</p>').format(
            tone, short, cut(entry.sentence, 220)
        )
    actions = join(_button(action, entry.name, word, f"{word} {entry.name}") for action, word in _STUDY_ACTIONS)
    return Markup(
        '<li class="ab-entry"><div class="ab-entry-head">{}{}</div><p class="ab-facts">{}</p>{}'
        '<div class="ab-entry-actions">{}</div></li>'
    ).format(
        _button("open", entry.name, entry.name, f"Open {entry.name}, {STATE_LABELS.get(entry.state, entry.state)}",
                "ab-open"),
        badge(entry.state), " · ".join(facts), verdict, actions,
    )


def _button(action: str, name: str, text: str, label: str, classes: str = "") -> Markup:
    return Markup(
        '<button type="button" class="ab-button {}" data-action="{}" data-name="{}" aria-label="{}">{}</button>'
    ).format(classes, action, name, label, text)
