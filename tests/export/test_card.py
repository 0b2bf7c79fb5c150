"""The model card: metadata that the hub reads, numbers that the report has, and no text that escapes."""

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from assistant_builder.arms import TWINS
from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.config import ModelConfig
from assistant_builder.data.card import inline
from assistant_builder.export.card import model_card, shareable_data_card
from assistant_builder.export.export import loading_snippets
from assistant_builder.export.verify import Rescore, compare
from assistant_builder.export_formats import (
    EXPORT_FORMATS,
    ExportSpec,
    LoadingContext,
    advice,
    export_specs,
    parse_export,
)
from assistant_builder.study import Study
from evals.report.schema import Report
from tests.synthetic_study import finished_study, new_study, trained, with_data

SCORED = replace(compare("Q4", [("1", 10.0, 10)], [(10.1, 10)]), compute_dtype="bfloat16")


def card_of(study: Study, spec: ExportSpec, rescore: Rescore = SCORED) -> ModelCard:
    path = study.folder / "report.json"
    report = Report.load(path) if path.is_file() else None
    ways = loading_snippets(study, spec, folder=".", base="BASE")
    return ModelCard(model_card(study, spec, report, rescore, ways))


def test_metadata_and_numbers_are_the_reports_own():
    study = finished_study()
    report = read_json(study.folder / "report.json")
    for spec in export_specs(TWINS):
        data = card_of(study, spec).data
        assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert data.license == "apache-2.0"
        assert data.library_name == {"adapter": "peft", "gguf": "gguf"}.get(
            spec.format, "transformers"
        )
        assert spec.arm in data.tags and data.pipeline_tag == "text-generation"
        if spec.cell is None:
            assert data.eval_results is None
            continue
        figures = {result.metric_type: result.metric_value for result in data.eval_results}
        cell = report["cells"][spec.cell]
        assert figures["perplexity"] == pytest.approx(cell["perplexity"], abs=1e-6)
        assert figures["exact_match"] == cell["metrics"]["exact_match"]
    text = card_of(study, ExportSpec("lora", "merged")).text
    assert report["sentence"] in text
    assert f"| Held-out answers | {report['verdict']['n']} |" in text
    claim = report["basis"][0].removeprefix("The verdict is about ").split(";")[0].rstrip(".")
    assert f"| Outcome | {report['verdict']['outcome']} |" in text
    assert f"| Claim | {claim} |" in text
    assert "| False declines (points, lower is better) |" in text
    assert "| LM (this one) |" in text and "L16 (this one)" not in text
    assert report["warnings"]
    assert all(inline(warning["text"], 1000) in text for warning in report["warnings"])
    assert "went through a 4-bit GGUF file" in text and "[DATA.md](DATA.md)" in text
    assert "No item moved by more than 0.01 nats per token" in text
    moved = replace(SCORED, outcome="moved", moved=1, largest_move=0.05)
    assert (
        "Warning: 1 of 1 items moved" in card_of(study, ExportSpec("qlora", "adapter"), moved).text
    )

    # a report of an earlier version
    old = {
        **report,
        "verdict": {
            key: value
            for key, value in report["verdict"].items()
            if key not in ("bounds", "estimand", "clustered_by", "frozen")
        },
    }
    write_json(study.folder / "report.json", old)
    assert "| Claim |" not in card_of(study, ExportSpec("lora", "merged")).text

    # hostile text stays text
    report["sentence"] = "<script>x</script> ![x](http://evil.invalid/x.png)\n---\nlicense: mit"
    write_json(study.folder / "report.json", report)
    hostile = card_of(study, ExportSpec("lora", "adapter"))
    assert "<script>" not in hostile.text
    assert "![x](" not in hostile.text
    assert hostile.data.license == "apache-2.0"


def test_before_the_evaluation_the_card_claims_nothing():
    study = trained(with_data(new_study(data__system="|-\n  ```\n  <b>Not a heading")))
    card = card_of(study, ExportSpec("qlora", "adapter"), Rescore("not measured"))
    assert card.data.eval_results is None
    assert "written before the evaluation of the study" in card.text
    assert "were not scored again" in card.text
    # the system prompt stays inside a string of the Python lines
    assert "```\\n<b>Not a heading" in card.text


def test_the_data_card_goes_along_without_examples():
    text = "# Data\n\n## Splits\n\n10\n\n## Examples from training\n\nsecret\n\n## Notes\n\nkept\n"
    assert shareable_data_card(text) == "# Data\n\n## Splits\n\n10\n\n## Notes\n\nkept\n"


def test_names_and_prompts_add_no_words_to_the_commands():
    base = LoadingContext(
        arm="lora",
        folder="--host=0.0.0.0; touch a",
        base="--trust-remote-code",
        name="b; touch c",
        system="Ring \x9b2J and quote ' \" $(touch d)\n`touch e`",
        model=ModelConfig(),
        compute_dtype="bfloat16",
        max_new_tokens=64,
        rank=16,
        context=4096,
    )
    formats = [EXPORT_FORMATS["adapter"], EXPORT_FORMATS["merged"]]
    lines = {
        snippet.title: snippet.text.splitlines()
        for format in formats
        for snippet in format.snippets(base)
    }
    commands = [
        shlex.split(line, comments=True)
        for title, text in lines.items()
        if "Python" not in title
        for line in text
    ]
    words = {word for command in commands for word in command}
    assert "./--host=0.0.0.0; touch a" in words
    assert "./--trust-remote-code" in words
    assert "b; touch c" in words
    assert not words & {"touch", "a", "c", "d", "e", "--trust-remote-code", "--host=0.0.0.0"}
    (body,) = {json.loads(word)["messages"][0]["content"] for word in words if word.startswith("{")}
    assert body == base.system
    assert all(
        command[command.index("--max-model-len") + 1] == "4096"
        for command in commands
        if command[:2] == ["vllm", "serve"]
    )
    assert all(line.isprintable() for text in lines.values() for line in text)


def verdict(outcome: str, low: float, high: float) -> dict[str, Any]:
    return {"verdict": {"outcome": outcome, "ci": [low, high], "higher_is_better": False}}


@pytest.mark.parametrize(
    ("report", "adapter", "merged"),
    [
        (None, "lora", "lora"),
        (verdict("worse", 0.04, 0.06), "lora", "lora"),
        (verdict("inconclusive", -0.01, 0.06), "lora", "lora"),
        (verdict("no worse", -0.01, 0.02), "qlora", "lora"),
        (verdict("no worse", -0.03, -0.01), "qlora", "qlora"),
    ],
)
def test_which_export_is_advised(report, adapter, merged):
    found = advice(report)
    assert (found.adapter, found.merged) == (adapter, merged)


def test_kinds_are_parsed():
    assert parse_export("qlora", "merged").cell == "QD"
    assert parse_export("lora", "merged").cell == "LM"
    with pytest.raises(ValueError, match="'dora' is not one of qlora, lora"):
        parse_export("dora", "merged")
    with pytest.raises(
        ValueError, match="'onnx' is not one of adapter, merged, prequantized, gguf"
    ):
        parse_export("lora", "onnx")
    assert (
        parse_export("lora", "gguf", "Q8_0").name
        == parse_export("lora", "gguf").name
        == "lora-gguf"
    )
    small = parse_export("lora", "gguf", "Q4_0")
    assert (small.name, small.cell, small.export_format.type) == ("lora-gguf-Q4_0", None, "Q4_0")
    with pytest.raises(ValueError, match="'Q9' is not one of BF16, Q8_0"):
        parse_export("lora", "gguf", "Q9")
    with pytest.raises(ValueError, match="merged has no --type"):
        parse_export("lora", "merged", "Q8_0")
