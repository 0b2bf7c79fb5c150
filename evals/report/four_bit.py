"""Whether the compact assistant is as good as the full one, in a sentence."""

from __future__ import annotations

from assistant_builder.arms import TWINS
from assistant_builder.i18n import render, t, tn
from evals.declaration import EXACT
from evals.report.approaches import comparing_metric
from evals.report.counts import score_text, total
from evals.report.load import BASELINE, CANDIDATE
from evals.report.number_format import count, enumerated, margin, shown
from evals.report.other_words import RESPELLED
from evals.report.own_questions import own_counts
from evals.report.schema import Report
from evals.report.verdict import harm_interval


def four_bit(report: Report, *, copies: bool = False) -> str:
    """The verdict on the compact assistant in one sentence; "as good" only if the verdict is that it is no worse.

    ``copies``: copied answers are recommended.
    """
    verdict = report.verdict
    if not report.compares:
        return render(verdict.message("reason"))
    metric = comparing_metric(report.primary_metric)
    qlora, lora = (report.cells[name] for name in (CANDIDATE, BASELINE))
    if None in (qlora["metrics"].get(metric), lora["metrics"].get(metric)):
        metric = report.primary_metric
    ours, theirs = (score_text(report, cell, metric) for cell in (qlora, lora))
    measured = (
        t("{score} of {total} right", score=ours, total=count(total(report, metric)))
        if metric == EXACT
        else f"{shown(metric).phrase} {ours}"
    )
    figures = t("{measured}, the full one {other}", measured=measured, other=theirs)
    bounds = verdict.bounds or []
    if verdict.outcome == "no worse":
        if verdict.within_margin_but_worse:
            return t(
                "The compact one is measurably worse, but within the {margin} allowed: {figures}.",
                margin=margin(verdict.metric, verdict.margin),
                figures=figures,
            )
        if report.objection:
            return t(
                "The compact one is no worse by the main measure, but possibly by another: {figures}.",
                figures=figures,
            )
        return t("The compact one is as good: {figures}.", figures=figures)
    if verdict.outcome == "worse":
        beyond = [
            shown(bound["metric"]).phrase
            for bound in bounds
            if harm_interval(bound)[0] > bound["margin"]
        ]
        main = not bounds or harm_interval(verdict)[0] > 0
        if main or not beyond:
            return t("The compact one is worse: {figures}.", figures=figures)
        if ours == theirs:  # figures that are equal explain nothing
            return t(
                "The compact one is worse in {metrics}; otherwise both are equal: {score}.",
                metrics=enumerated(beyond),
                score=measured,
            )
        return t(
            "The compact one is worse in {metrics}: {figures}.",
            metrics=enumerated(beyond),
            figures=figures,
        )
    again = verdict.trained_again
    if bounds and not bounds[0]["passed"] and harm_interval(bounds[0])[1] <= bounds[0]["margin"]:
        said = t(
            "The test cannot show whether the compact one is as good, because nearly all answers of both are "
            "wrong: {figures}.",
            figures=figures,
        )
    elif again and again["seed_share"] > 0.5:
        said = t(
            "Too few training seeds to say whether the compact one is as good: {figures}.",
            figures=figures,
        )
    else:
        said = t(
            "Too few test questions to say whether the compact one is as good: {figures}.",
            figures=figures,
        )
    until = (
        t("Until then, the full one is the safer of the two.")
        if copies
        else t("Until then, take the full one.")
    )
    return f"{said} {until}"


def own_four_bit(report: Report) -> str:
    """How the twins compare on the owner's wordings, which are too few for a verdict."""
    ours, theirs = (own_counts(report, arm) for arm in (TWINS[1], TWINS[0]))
    if not (report.compares and ours.wordings and theirs.wordings):
        return untested_four_bit(report)
    return tn(
        "Of your {count} own wording the compact one was right on {ours}, and the full one on {theirs}. Such a "
        "small test cannot show whether the compact one is as good.",
        "Of your {count} own wordings the compact one was right on {ours}, and the full one on {theirs}. Such a "
        "small test cannot show whether the compact one is as good.",
        ours.wordings,
        ours=count(ours.right),
        theirs=count(theirs.right),
    )


def untested_four_bit(report: Report) -> str:
    """Why respelled questions decide nothing."""
    if not report.compares:
        return f"{four_bit(report)} {t(RESPELLED)}"
    said = t("The test cannot show whether the compact one is as good.")
    return f"{said} {t(RESPELLED)}"
