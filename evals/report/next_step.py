"""What to do after a report: the sentence of its conclusion, and the commands for it."""

from __future__ import annotations

import shlex

from assistant_builder.i18n import t
from evals.report.approaches import untaught
from evals.report.audience import Audience
from evals.report.other_words import HELP, is_respelled, own_questions_wait
from evals.report.schema import Report

_YOURS = "your question"
_MAX_QUESTION = 80  # characters of the question in the suggested command


def next_step(
    report: Report, arm: str, trained: Audience, copied: Audience | None
) -> tuple[str, tuple[str, ...]]:
    """What to do if the assistant is ready.

    Args:
        report: The report.
        arm: The recommended arm.
        trained: Who can be given it.
        copied: Who can be given copied answers, where they are recommended.
    """
    name = report.study
    action, question = (
        t("Ask it questions of your own, then serve it or export it."),
        _sample_question(report),
    )
    if (copied or trained).who != "customers":
        action = t("Ask it questions of your own, and let colleagues try it first.")
    elif copied:
        action = t(
            "Ask it questions of your own, then put it on your website: visitors get copied answers."
        )
    if is_respelled(report):
        question = _YOURS
    if untaught(report):
        action = t(
            "Ask it questions about what it was taught: this test does not show whether it knows that."
        )
        question = _YOURS
    elif report.config["train"].get("preset") == "quick":
        action = t("Train it longer, and ask it questions of your own before others do.")
        return action, (
            f"assistant-builder run {name} --name {name}-2 --set train.preset=balanced",
            f'assistant-builder ask {name}-2 "{question}" --arm {arm}',
        )
    return action, (
        f'assistant-builder ask {name} "{question}" --arm {arm}',
        f"assistant-builder serve {name}{' --mode copy' if copied else ''}",
        f"assistant-builder export {name} --arm {arm} --to {name}-{arm}",
    )


def own_wordings(report: Report) -> tuple[str, tuple[str, ...]]:
    """What to do if nothing was tested in other words."""
    command = f"assistant-builder wordings {report.study} WORDINGS.csv"
    return _waiting(report) or t(HELP), (command,)


def _waiting(report: Report) -> str:
    return (
        t(
            "Your own questions are kept: the assistants are asked them when the run has ended, or when you press "
            "“Keep them and ask” on the Results tab."
        )
        if own_questions_wait(report)
        else ""
    )


def test_declining(report: Report) -> tuple[str, tuple[str, ...]]:
    """What to do if the test has too few questions to decline."""
    ask = t(
        "Before customers ask it: test whether it declines what your file does not answer. Tick or type about ten "
        "such questions on the Results tab; the assistants are asked them without another training."
    )
    command = f"assistant-builder wordings {report.study} QUESTIONS.csv"
    return _waiting(report) or ask, (command,)


def improvement(report: Report, *, learned: bool) -> tuple[str, tuple[str, ...]]:
    """What to do if the assistant is not ready; ``learned``: it answers most questions right, but copying is better."""
    name, source = report.study, report.config["data"]["source"] or "FILE"
    if learned:
        train = report.config["train"]
        longer = f"--set train.epochs={2 * train['epochs']:g}"
        if report.approach == "grounded" and train.get("stop_loss"):
            longer += " --set train.stop_loss=0"  # else it would end early again
        return (
            t("Serve copied answers, which need no training and invent nothing, or train longer."),
            (
                f"assistant-builder serve {name} --mode copy",
                f"assistant-builder run {name} --name {name}-2 {longer}",
            ),
        )
    return (
        t(
            "Add other wordings of the questions to the data file, for all facts and not only for those "
            "that it got wrong, and train again."
        ),
        (f"assistant-builder run {shlex.quote(source)} --name {name}-2 --from {name}",),
    )


def _sample_question(report: Report) -> str:
    """The first test question that needs no escapes in a shell; a placeholder without one."""
    rows = sorted(
        (item for item in report.items if item["answerable"] and not item["context"]),
        key=lambda item: (item["row"] or 0, item["item"]),
    )
    return next(
        (
            item["question"]
            for item in rows
            if len(item["question"]) <= _MAX_QUESTION
            and item["question"].isprintable()
            and item["question"][0] != "-"
            and not set(item["question"]) & set('"\\$`!%')
        ),
        _YOURS,
    )
