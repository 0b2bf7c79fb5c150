"""Where the questions of a study of documents are from, for its report."""

from __future__ import annotations

from assistant_builder.i18n import t, tn
from evals.report.schema import Report


def sentences(report: Report) -> list[str]:
    """Who asked the questions of the test and of training, in the current language; none for a study of pairs."""
    counts = report.document_questions
    if counts is None:
        return []
    people = tn(
        "The test has {count} question that people asked, {seen:,} of them about sections that training sees, and "
        "{accepted:,} accepted drafts of {sections:,} sections that it does not see.",
        "The test has {count} questions that people asked, {seen:,} of them about sections that training sees, and "
        "{accepted:,} accepted drafts of {sections:,} sections that it does not see.",
        counts["people"],
        seen=counts["seen"],
        accepted=counts["accepted"],
        sections=counts["sections"],
    )
    training = t(
        "Training has {training:,} drafted questions; nobody looked over {unseen:,} of them.",
        training=counts["training"],
        unseen=counts["unseen"],
    )
    return [people, training]
