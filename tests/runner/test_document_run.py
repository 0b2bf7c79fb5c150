"""A study of documents: answers first, then drafted questions, training and a report, from the command line."""

import json
from pathlib import Path

import pytest

from benchmarks.documents import EXAMPLE, gold
from tests.commands import QUICK, command, record_of, refusal_of, set_words
from tests.export.tiny import tiny_base


@pytest.mark.slow
@pytest.mark.train
def test_documents_are_trained_with_enough_questions(bundled_models, tmp_path):
    documents = EXAMPLE / "documents"
    assert "250 statements are new" in command(f"run {documents}").stdout
    assert "needs 40 and 10" in refusal_of("run toolworks")
    drafted = record_of("data questions toolworks --draft --train-unseen")
    assert drafted["added"] == drafted["unseen"] > 200
    rows = [each for each in gold("reading") if each["answer"]]
    lines = [json.dumps({key: each[key] for key in ("question", "answer")}) for each in rows[:14]]
    people = tmp_path / "people.jsonl"
    people.write_text("\n".join(lines), encoding="utf-8")
    assert record_of(f"data questions toolworks {people}")["file"] == {"people": 14}
    settings = {
        **QUICK,
        "approaches": "grounded",
        "model.base": tiny_base(tmp_path / "base"),
        "eval.primary_metric": "nll_per_token",
        "eval.margin": 0.03,
    }
    document = record_of("run toolworks", *set_words(settings))
    assert document["state"] == "succeeded"
    report = json.loads(command("report toolworks --format json").stdout)
    counts = report["document_questions"]
    assert counts["people"] == 14 and counts["accepted"] == 0
    assert counts["unseen"] == counts["training"] > 200
    names = {each["name"] for each in report["approaches"]}
    assert {"copy", "lora+facts", "qlora+facts"} <= names
    sources = [source for item in report["items"] for source in item["sources"]]
    assert sources and all(source["row"] is None for source in sources)
    page = Path(command("report toolworks").stdout.strip()).read_text(encoding="utf-8")
    assert "14 questions that people asked" in page
    # reading the same documents again trains nothing
    assert "It is trained" in command(f"run {documents}").stdout
    answer = record_of('ask toolworks "How hot does the gas forge get?" --mode copy')
    (copied,) = answer["answers"].values()
    assert "1,200" in copied["text"] and copied["sources"][0]["page"] == 9
