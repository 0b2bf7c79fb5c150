"""A report on a storage of 8 bits never calls it 4-bit, and leaves texts of the data as they are."""

import json
import re

import pytest

from assistant_builder.atomic_io import read_json
from evals.report.build import build_report, write_report
from evals.report.render import render_html, render_markdown
from tests.evals.report.additions import with_additions
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, full_recipe, write_study
from tests.typed_report import as_report

TRUE_OF_THE_WEIGHTS = re.compile(r"a 4-bit GGUF file|those 4-bit weights|rounded to 4 bits before")
"""What is said of the published weights of the bundled base, in every study."""
CALLED_4_BIT = re.compile(r"(?<![\d.])\b4[- \u00a0]bits?\b|NF4|one of 16 values")
INT8 = {"model.quant_type": "int8"}


def claims(text: str) -> list[str]:
    """Where a text calls something 4-bit, with what is around it."""
    plain = TRUE_OF_THE_WEIGHTS.sub("", re.sub(r"\\(?=.)", "", text))
    return [
        plain[max(0, found.start() - 50) : found.end() + 30]
        for found in CALLED_4_BIT.finditer(plain)
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(settings=INT8),
        full_recipe(settings=INT8, seeds=3),
        Recipe(settings=INT8, cells=ALL_CELLS, harm=0.2),
        Recipe(settings=INT8, harm=-0.05, clustered=False),
        Recipe(settings={**INT8, "arms": ["qlora"]}, cells=("B4", "Q4")),
    ],
    ids=["few cells", "everything", "worse", "better", "one arm"],
)
def test_no_text_calls_8_bits_4_bit(recipe):
    study = write_study(recipe)
    page = write_report(study)
    document = read_json(study.folder / "report.json")
    texts = {
        **document,
        "arms": None,
        "twins": None,
        "cells": {name: {**cell, "base": ""} for name, cell in document["cells"].items()},
    }
    # `base_storage` is written by the recipe
    assert claims(json.dumps(texts, ensure_ascii=False)) == []
    for text in (
        page.read_text(encoding="utf-8"),
        page.with_suffix(".md").read_text(encoding="utf-8"),
    ):
        assert claims(text.replace("nf4", "")) == []
        assert "8-bit" in text and "LLM.int8" in (text if text.startswith("<") else "LLM.int8")


def test_everything_that_can_be_in_a_report_is_named_when_it_is_rendered():
    report = with_additions(build_report(write_study(Recipe(settings=INT8))))
    for text in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert claims(text.replace("nf4", "")) == []


def test_texts_of_the_data_are_left_as_they_are():
    report = build_report(
        write_study(
            Recipe(
                settings=INT8,
                question="What does 4-bit mean?",
                answer="In 4 bits.",
                name="in-4-bit",
            )
        )
    )
    assert report["study"] == "in-4-bit"
    assert any(item["question"] == "What does 4-bit mean?" for item in report["items"])
    for text in (render_html(as_report(report)), render_markdown(as_report(report))):
        assert "What does 4-bit mean?" in re.sub(r"\\(?=.)", "", text)
        assert "What does 8-bit mean?" not in re.sub(r"\\(?=.)", "", text)
        assert "In 8 bits." not in text


def test_a_report_on_4_bits_is_as_it_was():
    report = build_report(write_study(Recipe()))
    text = render_html(as_report(report))
    assert "What did 4-bit cost?" in text
    assert "Compact (QLoRA, 4-bit)" in text
    assert "8-bit" not in text
    assert "by default NF4 with double quantization" in text
