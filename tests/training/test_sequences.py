"""Training takes whole rows: each answer with its end token, and with the grounded approach with its fact."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.data import load_split
from assistant_builder.errors import DataError
from assistant_builder.models.chat_template import ChatTokenizer, Example
from assistant_builder.retrieval.build import write_index
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.invalidation import step_inputs
from assistant_builder.study import Study
from assistant_builder.study.limits import answer_limit, pair_limit
from assistant_builder.training.sequences import left_out_note, load_sequences
from assistant_builder.ui.train.preflight import run_preflight
from tests.export.tiny import tiny_base
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.synthetic_study import new_study

CONTEXT = 2048
FACTS, WORDINGS = 20, 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are bytes."""
    return tiny_base(tmp_path_factory.mktemp("base") / "base")


def answer(fact: int) -> str:
    """An answer of 40 to 350 tokens with its end token."""
    tokens = 40 + (350 - 40) * fact // (FACTS - 1)
    return f"Fact {fact}: ".ljust(tokens - 2, "abcdefgh"[fact % 8]) + "."


def rows(wordings: int = WORDINGS) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{'please ' * wording}what about fact number {fact}?",
            "answer": answer(fact),
            "cluster": f"f{fact}",
        }
        for fact in range(FACTS)
        for wording in range(wordings)
    ]


def prepared(
    tmp_path: Path, base: Path, records: Sequence[dict[str, Any]], **changes: Any
) -> Study:
    """A study whose data steps have run, with an embedder that needs no model."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    study = new_study("long", file, model__base=str(base), **changes)
    prepare_data(study)
    training, validation = (
        load_split(study.folder / "data", split) for split in ("train", "validation")
    )
    write_index(
        study.retrieval_folder, training, validation, FakeEmbedder(), {}, lambda done, total: None
    )
    return study


def supervised(example: Example) -> tuple[int, ...]:
    return tuple(
        token
        for token, learned in zip(example.input_ids, example.supervised, strict=True)
        if learned
    )


@pytest.mark.parametrize("approach", ["grounded", "memory"])
def test_every_answer_is_whole_and_every_grounded_prompt_has_its_fact(approach, tmp_path, base):
    study = prepared(tmp_path, base, rows(), approaches=[approach])
    prompter = ChatTokenizer.load(base)
    for split in ("train", "validation"):
        found = load_sequences(study, split, prompter)
        assert not found.too_long
        assert len({pair.row for pair in found.pairs}) == len(
            load_split(study.folder / "data", split)
        )
        for pair, example in zip(found.pairs, found.examples, strict=True):
            learned = supervised(example)
            assert learned[-1] == prompter.eos_id and 40 <= len(learned) <= 350
            assert prompter.decode(learned) == pair.answer
            prompt = prompter.tokenizer.decode(list(example.input_ids[: -len(learned)]))
            assert (f"A: {pair.answer}" in prompt) == (approach == "grounded")
        assert found.longest % 32 == 0
        assert found.longest - 32 < max(len(e.input_ids) for e in found.examples) <= (found.longest)
    assert answer_limit(study) == 448, "a quarter more than 350, in steps of 32"
    assert answer_limit(study) >= 1.25 * 350
    before = pair_limit(study)
    assert (before > 512) == (approach == "grounded"), "estimated from the data"
    write_json(study.arm_folder("lora") / "summary.json", {"max_length": 1440})
    assert pair_limit(study) == 1440 and pair_limit(Study(study.folder)) == 1440


def test_rows_that_a_number_is_too_short_for_are_left_out_and_named(tmp_path, base):
    study = prepared(tmp_path, base, rows(), approaches=["grounded"], train__max_length=640)
    prompter = ChatTokenizer.load(base)
    found = load_sequences(study, "train", prompter)
    assert found.too_long and all(tokens > 640 for tokens in found.too_long.values())
    assert not found.too_long.keys() & {pair.row for pair in found.pairs}
    assert max(len(example.input_ids) for example in found.examples) <= 640
    assert all(
        example.input_ids[-1] == prompter.eos_id and pair.answer in pair.messages[0].content
        for pair, example in zip(found.pairs, found.examples, strict=True)
    )
    write_json(
        study.arm_folder("lora") / "summary.json", {"max_length": 640, "left_out": found.too_long}
    )
    note, row = (
        left_out_note(study, "lora"),
        max(found.too_long, key=lambda row: found.too_long[row]),
    )
    assert note == (
        f"{len(found.too_long)} rows were left out of the training, longer than 640 tokens "
        f"(train.max_length): row {row} has {found.too_long[row]} tokens."
    )
    write_json(study.arm_folder("lora") / "summary.json", {"max_length": 640, "left_out": {}})
    assert left_out_note(study, "lora") == ""


def test_a_number_that_is_too_short_for_most_rows_is_refused_with_one_that_suffices(tmp_path, base):
    study = prepared(tmp_path, base, rows(), approaches=["memory"], train__max_length=96)
    prompter = ChatTokenizer.load(base)
    with pytest.raises(
        DataError,
        match=r"train rows are longer than the 96 tokens of train.max_length: row \d+ has",
    ) as refused:
        load_sequences(study, "train", prompter)
    suffices = int(str(refused.value.remedy).rsplit(" ", 1)[-1])
    assert str(refused.value.remedy).startswith("Set train.max_length=auto, or at least ")
    study.write_config(study.config.with_changes({"train.max_length": suffices}))
    assert not load_sequences(study, "train", prompter).too_long


def test_an_unchanged_limit_gives_the_same_tokens_as_the_data(tmp_path, base):
    study = prepared(tmp_path, base, rows(), approaches=["grounded"])
    prompter = ChatTokenizer.load(base)
    auto = load_sequences(study, "train", prompter).examples
    study.write_config(
        study.config.with_changes({"train.max_length": 2000, "eval.max_new_tokens": 64})
    )
    assert load_sequences(study, "train", prompter).examples == auto


def test_rows_beyond_the_context_are_refused_by_number_before_training(tmp_path, base):
    fits, beyond = CONTEXT // 2 - 200, CONTEXT // 2 + 100  # its fact repeats question and answer
    records = [
        *rows(),
        {"question": "What is long?", "answer": "x" * fits, "cluster": "a"},
        {"question": "What is longer?", "answer": "x" * beyond, "cluster": "b"},
    ]
    study = prepared(tmp_path, base, records, approaches=["grounded"])
    findings = read_json(study.folder / "data" / "findings.json")
    assert [entry["row"] for entry in findings["rejected"]] == [len(records)]
    assert findings["too_long"] == 1
    assert (
        "tokens, and at most 2,048 fit in the model's context" in findings["rejected"][0]["reason"]
    )
    study.write_config(study.config.with_changes({"approaches": ["memory"]}))
    prepare_data(study)
    assert read_json(study.folder / "data" / "findings.json")["rejected"] == [], (
        "without a fact it fits"
    )
    shown = CliRunner().invoke(
        app, ["data", "check", str(study.source), "--set", f"model.base={base}", "--json"]
    )
    checked = json.loads(shown.stdout)
    assert checked["too_long"] == 1
    assert checked["usable"] == len(records) - 1
    assert shown.exit_code == 0
    assert checked["details"]["too_long"][0]["row"] == len(records)
    (problem,) = [
        each for each in checked["problems"] if "longer than the model reads" in each["title"]
    ]
    assert f"Row {len(records)} has 2," in problem["detail"] and problem["rows"] == [len(records)]
    short = CliRunner().invoke(
        app,
        [
            "data",
            "check",
            str(study.source),
            "--set",
            f"model.base={base}",
            "--set",
            "train.max_length=300",
            "--json",
        ],
    )
    assert json.loads(short.stdout)["over_long"] > 10
    grounded = StudyConfig.model_validate({**study.config.model_dump(), "approaches": ["grounded"]})
    (warned,) = [note for note in run_preflight(study, grounded).warnings if "longer" in note.what]
    assert warned.what == "1 row is longer than the model reads"
    assert warned.remedy.startswith(f"Row {len(records)} has 2,")
    number = grounded.with_changes({"train.max_length": 200})
    assert any(
        "longer than the model reads" in error.what for error in run_preflight(study, number).errors
    )


def test_settings_of_earlier_versions_have_the_same_inputs(tmp_path, base):
    study = prepared(tmp_path, base, rows(), train__max_length=512, eval__max_new_tokens=64)
    assert step_inputs(study, "data")["train.max_length"] == 512
    assert (pair_limit(study), answer_limit(study)) == (512, 64)
    (study.folder / "data" / "lengths.json").unlink()
    study.write_config(study.config.with_changes({"eval.max_new_tokens": "auto"}))
    longest = read_json(study.folder / "data" / "findings.json")["token_lengths"]["max"]
    assert answer_limit(study) >= 1.25 * longest, "earlier versions counted no answers"
    study.write_config(study.config.with_changes({"train.max_length": "auto"}))
    assert (
        Study(study.folder).config.train.max_length
        == Study(study.folder).config.eval.max_new_tokens
        == "auto"
    )
