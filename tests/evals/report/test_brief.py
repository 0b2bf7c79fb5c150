"""What the first page of a report adds to the conclusion."""

from typing import Any

import pytest

from assistant_builder.arms import ARMS
from evals.report.brief import about, examples, misses, risks
from evals.report.build import build_report
from evals.report.conclusion import conclude
from evals.report.render import render_html
from tests.evals.report.synthetic_study import Recipe, write_study
from tests.typed_report import as_report


@pytest.fixture
def report(home: Any) -> dict[str, Any]:
    settings = {"eval.primary_metric": "exact_match", "eval.margin": 0.05}
    return build_report(write_study(Recipe(flips=0.1, settings=settings)))


def test_the_examples_are_a_right_answer_and_wrong_ones(report):
    conclusion = conclude(as_report(report))
    found = examples(as_report(report), conclusion)
    assert [example.tone for example in found] == ["good", "bad", "bad"]
    assert found[0].verdict == "right"
    assert found[0].answer == found[0].reference and found[1].answer != found[1].reference
    total, right = (int(part) for part in conclusion.figures[0].value.split(" of ")[::-1])
    assert len(misses(as_report(report), conclusion)) == total - right


def test_without_wrong_answers_the_examples_are_right(report):
    cell = ARMS[conclude(as_report(report)).arm].cell
    for row in report["items"]:
        row["metrics"][cell]["exact_match"] = 1.0
    found = examples(as_report(report), conclude(as_report(report)))
    assert [example.verdict for example in found] == ["right"] * 3
    assert not misses(as_report(report), conclude(as_report(report)))


def test_an_answer_with_another_price_is_missed_however_many_words_it_shares(report):
    report = {**report, "primary_metric": "token_f1"}
    rows = [row for row in report["items"] if row["answerable"]]
    for row in rows:
        row["metrics"] = {cell: {"token_f1": 0.9, "exact_match": 0.0} for cell in row["metrics"]}
        row["answers"] = dict.fromkeys(row["metrics"], row["reference"])
        row["declined"] = dict.fromkeys(row["metrics"], False)
    assert not misses(as_report(report), conclude(as_report(report)))
    rows[0]["reference"] = "A caravan pitch costs 31 pounds."
    rows[0]["answers"] = dict.fromkeys(rows[0]["metrics"], "A tent pitch costs 24 pounds.")
    [missed] = misses(as_report(report), conclude(as_report(report)))
    assert missed.verdict == "other numbers, token F1 90.0" and missed.tone == "bad"


def test_questions_about_facts_that_were_not_taught_are_left_out(report):
    before = misses(as_report(report), conclude(as_report(report)))
    wrong = next(row for row in report["items"] if row["question"] == before[0].question)
    wrong["uncovered"] = True
    assert len(misses(as_report(report), conclude(as_report(report)))) == len(before) - 1


def test_risks_are_plain_and_few(report):
    report["warnings"] = [
        {"code": code, "level": "serious", "text": "Technical."}
        for code in tuple(
            "leaks_left tuning_did_not_help base_requantized not_better_than_retrieval".split()
        )
    ]
    report["data"]["leaks"]["left"] = 2
    said = risks(as_report(report), conclude(as_report(report)))
    assert len(said) == 4 and not any("Technical" in risk for risk in said)
    assert any(risk.startswith("2 test questions also occurred in training") for risk in said)


def test_the_page_begins_with_it_and_has_no_tile_of_training_time(report):
    html = render_html(as_report(report))
    first, rest = html[html.index("<header") :].split("</header>")
    places = [
        first.index(text)
        for text in (
            "Is the assistant good enough?",
            about(as_report(report))[:20],
            "declined wrongly",
            "Examples",
            "Risks",
            "Recommendation",
            "Next step",
        )
    ]
    assert places == sorted(places)
    assert (
        "Training time"
        not in rest[rest.index('class="tiles"') : rest.index("</dl>", rest.index('class="tiles"'))]
    )
