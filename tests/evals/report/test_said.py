"""The texts of a report in the language of the reader."""

from collections.abc import Iterator
from typing import Any

import pytest
from markupsafe import escape

from assistant_builder.i18n import message_from, render, text_of, use_language
from assistant_builder.quantization import texts_of
from assistant_builder.ui.evaluate.view import results_frame
from evals.report.build import build_report
from evals.report.schema import Report
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, write_study


def said(value: Any) -> Iterator[tuple[str, Any]]:
    """Every text that has a record of its message, with the record."""
    if isinstance(value, list):
        for each in value:
            yield from said(each)
    elif isinstance(value, dict):
        for name, record in value.get("said", {}).items():
            if isinstance(record, list):
                yield from (pair for pair in zip(value[name], record, strict=True) if pair[1])
            else:
                yield value[name], record
        for name, each in value.items():
            if name != "said":
                yield from said(each)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(cells=ALL_CELLS, harm=0.2, settings={"model.quant_type": "int8"}),
        Recipe(settings={"arms": ["qlora"]}, cells=("B4", "Q4")),
    ],
    ids=["no worse", "worse, 8 bits", "one arm"],
)
def test_texts_and_their_records_are_the_same_messages(recipe):
    report = build_report(write_study(recipe))
    pairs = list(said(report))
    texts = {text for text, _ in pairs}
    assert {report["sentence"], *(each["text"] for each in report["warnings"])} - texts <= {
        report["seeds"]["sentence"]
    }
    with texts_of(report["config"]["model"]["quant_type"]):
        assert [render(message_from(record)) for _, record in pairs] == [text for text, _ in pairs]


def test_a_report_is_built_in_english_and_read_in_the_language_of_the_reader():
    study = write_study(Recipe())
    english = build_report(study)
    with use_language("de"):
        assert build_report(study)["sentence"] == english["sentence"]
    report = Report.model_validate(english)
    assert "is 0.006 nats per token higher" in english["sentence"]
    with use_language("de"):
        assert " 0,006 " in render(report.message("sentence"))
    assert render(report.message("sentence")) == english["sentence"]


def test_a_report_of_an_earlier_release_is_shown_in_english():
    english = build_report(write_study(Recipe()))
    for record in (english, english["verdict"], *english["warnings"]):
        record.pop("said", None)
    report = Report.model_validate(english)
    with use_language("de"):
        assert report.message("sentence") == english["sentence"]
        assert [each.message("text") for each in report.warnings] == [
            each["text"] for each in english["warnings"]
        ]


def test_a_damaged_record_is_not_shown():
    report = Report.model_validate({"verdict": {}, "sentence": "No harm.", "said": {"sentence": 1}})
    assert report.message("sentence") == "No harm." == text_of(None, "No harm.")


def test_the_page_says_verdict_and_warnings_in_its_language():
    report = Report.model_validate(build_report(write_study(Recipe())))
    shown = str(results_frame(report))
    with use_language("de"):
        german = str(results_frame(report))
        assert escape(escape(render(report.message("sentence")))) in german
        serious = [each for each in report.warnings if each.level == "serious"]
        assert serious and escape(escape(render(serious[0].message("text")))) in german
    assert german.startswith("<iframe") and shown.startswith("<iframe")
    assert "What the verdict rests on" in shown and "Worauf das Urteil beruht" in german
