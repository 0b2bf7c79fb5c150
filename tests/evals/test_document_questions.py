"""The report says who asked the questions about documents."""

from evals.report.document_questions import sentences
from evals.report.schema import Report

COUNTS = {
    "people": 14,
    "seen": 9,
    "accepted": 6,
    "sections": 2,
    "training": 120,
    "unseen": 40,
    "left_out": 3,
}


def test_a_report_says_where_the_questions_are_from():
    people, training = sentences(Report.model_validate({"document_questions": COUNTS}))
    assert "14 questions that people asked, 9 of them about sections that training sees" in people
    assert "6 accepted drafts of 2 sections" in people
    assert "120 drafted questions; nobody looked over 40" in training
    assert sentences(Report()) == []
