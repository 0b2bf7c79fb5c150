"""What a test shows where most answers of the file occur once: other wordings, or only its own questions, respelled."""

from __future__ import annotations

from assistant_builder.arms import ARMS
from assistant_builder.data.wordings import WordingCount, count_wordings
from assistant_builder.i18n import N_, t
from evals.report.schema import Report

RESPELLED = N_("The questions of this test are those of your file, respelled.")
HELP = N_(
    "Type about ten questions as people would ask them: Results tab → “Test it in your own words”. The assistants are "
    "asked them without another training."
)


def is_respelled(report: Report) -> bool:
    """Whether the test asks nothing but questions of the file, respelled."""
    counted = _counted(report)
    return counted is not None and counted.respelled > 0


def own_questions_wait(report: Report) -> bool:
    """Whether the owner wrote questions that no trained assistant was asked yet."""
    own = report.own_questions
    return own is not None and bool(own.questions) and own.arms.keys().isdisjoint(ARMS)


def own_wordings_asked(report: Report) -> bool:
    """Whether a trained assistant was asked other wordings of the owner, and not only questions to decline."""
    own = report.own_questions
    return own is not None and any(own.arms[arm].wordings for arm in ARMS if arm in own.arms)


def decided_outcome(report: Report) -> str:
    """The outcome that exit codes and labels follow: respelled questions of the file decide nothing."""
    return "inconclusive" if is_respelled(report) else str(report.verdict.outcome)


def asks_other_words(report: Report) -> bool:
    """Whether the test asks in other words for answers that mostly occur once in the file."""
    counted = _counted(report)
    return (
        counted is not None
        and counted.occurs_once
        and not counted.respelled
        and 2 * counted.known >= counted.test
    )


def nothing_tested(report: Report) -> str:
    """The sentence about a test whose questions are respelled."""
    counted = _counted(report)
    if counted is not None and counted.single < counted.facts:
        return t("Nothing was tested in other words: your file has too few other wordings.")
    return t("Nothing was tested in other words: your file has one wording of each question.")


def _counted(report: Report) -> WordingCount | None:
    return count_wordings(report.data.split)
