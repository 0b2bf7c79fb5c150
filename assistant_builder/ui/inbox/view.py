"""Views of the tab “Inbox”: the share that was answered, the groups of questions, and the versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from assistant_builder.chat.inbox import Inbox, Overview, Problem, QuestionGroup
from assistant_builder.chat.watch import Watch, said
from assistant_builder.i18n import N_, localize, percentage, render, t, tn
from assistant_builder.study.versions import Versions
from assistant_builder.ui.html import empty, fragment
from assistant_builder.ui.study_snapshot import title_of_study
from evals.study_compare.versions import VersionVerdict

SHOWN_GROUPS = 50
SHOWN_WEEKS = 26
_BAR_PIXELS = 60
_PROBLEMS: dict[Problem, str] = {
    "declined": N_("declined"),
    "voted down": N_("voted down"),
    "judged wrong": N_("judged wrong"),
}


def overview_view(inbox: Inbox) -> Markup:
    """Counts of the questions, and the share that was answered by week."""
    whole = inbox.whole
    if not whole.asked:
        return empty(
            t("Nobody has asked yet"),
            t(
                "Put the assistant on a website (tab “Use it”) and tick “Keep what visitors ask, for the Inbox”: what "
                "visitors ask and do not get answered is then listed here."
            ),
        )
    return fragment(
        "inbox.overview", whole, _percent(whole), weeks_view(inbox.weeks), inbox.has_texts
    )


def _percent(counts: Overview) -> str:
    return "–" if counts.answered is None else percentage(localize(f"{100 * counts.answered:.0f}"))


def weeks_view(weeks: Sequence[tuple[int, Overview]]) -> Markup:
    """The share that was answered in each of the last weeks as bars, with a table for screen readers."""
    latest = weeks[-SHOWN_WEEKS:]
    if len(latest) < 2:
        return Markup("")
    bars = [
        (
            t("this week") if week <= 0 else _weeks_ago(week),
            round(100 * (counts.answered or 0)),
            _percent(counts),
            tn("{count} question", "{count} questions", counts.asked),
        )
        for week, counts in latest
    ]
    return fragment("inbox.weeks", bars, _BAR_PIXELS * len(bars), _weeks_ago(latest[0][0]))


def _weeks_ago(week: int) -> str:
    return tn("{count} week ago", "{count} weeks ago", week)


def groups_view(inbox: Inbox) -> Markup:
    """The groups that wait for an answer, each with a button that opens it."""
    if not inbox.has_texts:
        return Markup("")
    if not inbox.groups:
        return empty(
            t("Nothing waits for an answer"),
            t("Questions that are declined, voted down or answered wrongly appear here."),
        )
    entries = [(group, _about(group)) for group in inbox.groups[:SHOWN_GROUPS]]
    return fragment("inbox.groups", entries, len(inbox.groups) - SHOWN_GROUPS, inbox.ungrouped)


def _about(group: QuestionGroup) -> str:
    parts = [
        tn("{count} question", "{count} questions", group.count),
        t(_PROBLEMS[group.problem]),
    ]
    if len(group.wordings) > 1:
        parts.append(tn("{count} wording", "{count} wordings", len(group.wordings)))
    if group.suggestions:
        parts.append(t("a visitor suggests an answer"))
    if group.chosen:
        parts.append(t("a visitor chose another question"))
    if group.later:
        parts.append(t("for later"))
    return " · ".join(parts)


def watch_view(watch: Watch, *, promised: bool) -> Markup:
    """What the judged answers say, and those that wait to be judged, each with two buttons."""
    text = render(said(watch, promised=promised))
    alarm = ""
    if watch.broken:
        alarm = t("The promise does not hold") if promised else t("Too many answers are wrong")
    elif promised and not watch.holds:
        alarm = t("The promise is withdrawn")
    return fragment("inbox.watch", text, alarm, watch.waiting)


def group_view(group: QuestionGroup, chosen: Mapping[str, str]) -> Markup:
    """What is known about an opened group; ``chosen``: the questions that visitors chose instead, and their answers."""
    return fragment("inbox.group", group, _about(group), list(chosen.items()))


def versions_view(
    versions: Versions,
    corrections: int,
    verdict: VersionVerdict | None,
    state: str,
    *,
    at_once: bool,
    preset: str,
) -> Markup:
    """Which version is served, what waits for the next one, and the verdict on a newer one.

    Args:
        versions: All versions.
        corrections: Number of corrections of the served version.
        verdict: That on the candidate; None without one.
        state: The state of the candidate in words.
        at_once: Whether the served version answers with the corrections before a next version is trained.
        preset: The preset with which the next version would be trained; empty if none can be made now.
    """
    served = title_of_study(versions.served)
    candidate = Markup("")
    if versions.candidate is not None and verdict is not None:
        title = title_of_study(versions.candidate)
        candidate = fragment(
            "inbox.candidate", title, served, verdict.outcome, verdict.sentence, state
        )
    rejected = [
        (title_of_study(name), reason)
        for name in versions.names
        if (reason := versions.reason(name)) is not None
    ]
    several = len(versions.names) > 1
    return fragment(
        "inbox.versions", served, several, candidate, corrections, at_once, preset, rejected
    )
