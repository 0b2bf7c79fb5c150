"""Views of the tab “Inbox”: the share that was answered, the groups of questions, and the versions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from assistant_builder.chat.inbox import Inbox, Overview, QuestionGroup
from assistant_builder.i18n import t, tn
from assistant_builder.study.versions import Versions
from assistant_builder.ui.html import callout, card, empty, fold, hint, items, join, tiles
from assistant_builder.ui.study_snapshot import title_of_study
from evals.study_compare.versions import VersionVerdict

SHOWN_GROUPS = 50
SHOWN_WEEKS = 26
_BAR_PIXELS = 60


def overview_view(inbox: Inbox) -> Markup:
    """Counts of the questions, and the share that was answered by week."""
    whole = inbox.whole
    if not whole.asked:
        return empty(
            t("Nobody has asked yet"),
            t(
                "Put the assistant on a website (tab “Use it”) and start it with “--remember texts”: what visitors ask "
                "and "
                "do not get answered is then listed here."
            ),
        )
    counts = tiles(
        [
            (t("Questions"), f"{whole.asked:,}", ""),
            (t("Answered"), _percent(whole), t("neither declined nor voted down")),
            (t("Declined"), f"{whole.declined:,}", ""),
            (t("Voted down"), f"{whole.voted_down:,}", ""),
            (t("Voted up"), f"{whole.voted_up:,}", ""),
        ]
    )
    note = (
        ""
        if inbox.has_texts
        else callout(
            "info",
            t("Only counts are kept"),
            t(
                "To see here what was asked, start the assistant with “--remember texts”, and tell your visitors."
            ),
        )
    )
    return join([counts, weeks_view(inbox.weeks), note])


def _percent(counts: Overview) -> str:
    return "–" if counts.answered is None else f"{counts.answered:.0%}"


def weeks_view(weeks: Sequence[tuple[int, Overview]]) -> Markup:
    """The share that was answered in each of the last weeks as bars, with a table for screen readers."""
    shown = weeks[-SHOWN_WEEKS:]
    if len(shown) < 2:
        return Markup("")
    bars, rows = [], []
    for week, counts in shown:
        name = t("this week") if week <= 0 else tn("{count} week ago", "{count} weeks ago", week)
        asked = tn("{count} question", "{count} questions", counts.asked)
        bars.append(
            Markup('<span title="{}"><i style="height:{}%"></i><small>{}</small></span>').format(
                f"{name}: {_percent(counts)}, {asked}",
                round(100 * (counts.answered or 0)),
                _percent(counts),
            )
        )
        rows.append(
            Markup('<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>').format(
                name, _percent(counts), asked
            )
        )
    table = Markup('<table class="ab-hidden"><caption>{}</caption>{}</table>').format(
        t("Share of the questions that were answered"), join(rows)
    )
    picture = Markup(
        '<div aria-hidden="true" style="max-width:{}px"><div class="ab-weeks">{}</div>'
        '<div class="ab-week-ends"><span>{}</span><span>{}</span></div></div>'
    ).format(
        _BAR_PIXELS * len(shown),
        join(bars),
        tn("{count} week ago", "{count} weeks ago", shown[0][0]),
        t("this week"),
    )
    return card(t("Share of the questions that were answered"), picture, table)


def groups_view(inbox: Inbox) -> Markup:
    """The groups that wait for an answer, each with a button that opens it."""
    if not inbox.has_texts:
        return Markup("")
    if not inbox.groups:
        return empty(
            t("Nothing waits for an answer"),
            t("Questions that are declined or voted down appear here."),
        )
    entry = Markup(
        '<li><button type="button" data-action="open" data-name="{}"><b dir="auto">{}</b><span>{}</span></button></li>'
    )
    shown = join(
        entry.format(group.key, group.wordings[0], _about(group))
        for group in inbox.groups[:SHOWN_GROUPS]
    )
    more = len(inbox.groups) - SHOWN_GROUPS
    notes = []
    if more > 0:
        notes.append(
            hint(
                tn(
                    "{count} more is shown when these are answered.",
                    "{count} more are shown when these are answered.",
                    more,
                )
            )
        )
    if inbox.ungrouped:
        notes.append(
            hint(
                tn(
                    "{count} question is not yet compared with the others by its meaning.",
                    "{count} questions are not yet compared with the others by their meaning.",
                    inbox.ungrouped,
                )
            )
        )
    return card(
        t("Questions that wait for an answer"),
        Markup('<ol class="ab-inbox">{}</ol>').format(shown),
        *notes,
    )


def _about(group: QuestionGroup) -> str:
    parts = [
        tn("asked {count} time", "asked {count} times", group.count),
        t("declined") if group.problem == "declined" else t("voted down"),
    ]
    if len(group.wordings) > 1:
        parts.append(tn("{count} wording", "{count} wordings", len(group.wordings)))
    if group.suggestions:
        parts.append(t("a visitor suggests an answer"))
    if group.later:
        parts.append(t("for later"))
    return " · ".join(parts)


def group_view(group: QuestionGroup) -> Markup:
    """What is known about an opened group."""
    parts = [
        Markup('<h3 dir="auto">{}</h3><p class="ab-note">{}</p>').format(
            group.wordings[0], _about(group)
        )
    ]
    if group.suggestions:
        entry = Markup(
            '<li><span dir="auto">{0}</span> '
            '<button type="button" data-action="use" data-name="{0}">{1}</button></li>'
        )
        listed = join(entry.format(text, t("Copy into the answer")) for text in group.suggestions)
        parts.append(
            fold(
                t("What visitors think it should have said"),
                Markup('<ul class="ab-suggested">{}</ul>').format(listed),
                opened=True,
            )
        )
    if group.answers:
        parts.append(fold(t("What it answered"), items(group.answers)))
    return join(parts)


def versions_view(
    versions: Versions, corrections: int, verdict: VersionVerdict | None, state: str
) -> Markup:
    """Which version is served, what waits for the next one, and the verdict on a newer one.

    Args:
        versions: All versions.
        corrections: Number of corrections of the served version.
        verdict: That on the candidate; None without one.
        state: The state of the candidate in words.
    """
    served, parts = title_of_study(versions.served), []
    if len(versions.names) > 1:
        parts.append(Markup("<p>{}</p>").format(t("Served: {version}", version=served)))
    if versions.candidate is not None and verdict is not None:
        parts.append(_candidate(title_of_study(versions.candidate), served, verdict, state))
    elif corrections:
        parts.append(
            Markup("<p>{}</p>").format(
                tn(
                    "{count} answer waits for the next version. Visitors get it once that is trained and published.",
                    "{count} answers wait for the next version. Visitors get them once that is trained and published.",
                    corrections,
                )
            )
        )
    else:
        parts.append(
            hint(
                t(
                    "Answers from here and corrections from the chat are trained together in the next version. "
                    "It replaces the present one only if you publish it."
                )
            )
        )
    rejected = [
        (name, reason) for name in versions.names if (reason := versions.reason(name)) is not None
    ]
    if rejected:
        entry = Markup("<li><b>{}</b>: {}</li>")
        parts.append(
            fold(
                t("Rejected versions"),
                Markup("<ul>{}</ul>").format(
                    join(entry.format(title_of_study(name), reason) for name, reason in rejected)
                ),
            )
        )
    return card(t("Versions"), *parts)


def _candidate(title: str, served: str, verdict: VersionVerdict, state: str) -> Markup:
    if verdict.outcome == "not trained":
        return callout(
            "info",
            t("{version} is being made: {state}", version=title, state=state),
            t(
                "When it is trained and tested, its verdict against {served} appears here.",
                served=served,
            ),
        )
    if verdict.outcome == "no worse":
        return callout(
            "good",
            t("{version} is no worse than {served}", version=title, served=served),
            verdict.sentence,
            t("Publish it: visitors who are talking keep their conversation."),
        )
    if verdict.outcome == "worse":
        return callout(
            "bad",
            t("{version} is worse than {served}", version=title, served=served),
            verdict.sentence,
            t("It is kept as rejected. Look at its answers on the tab Results."),
        )
    return callout(
        "warn",
        t("Nothing shows that {version} is no worse than {served}", version=title, served=served),
        verdict.sentence,
        t(
            "Ask it some questions in its chat. Then publish it on your own judgement, or "
            "reject it; more test questions would decide."
        ),
    )
