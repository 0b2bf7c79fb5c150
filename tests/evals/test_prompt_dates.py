"""Training, scoring, answering and exporting a study on different days: one date in all prompts."""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Message
from assistant_builder.export.export import write_export
from assistant_builder.export_formats import export_specs
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import load_arm
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord
from assistant_builder.training.train import _prepare
from evals.score import _Scoring
from tests.export.tiny import tiny_base, tiny_study
from tests.models.mocked_days import LLAMA32, calendar

DAYS = [date(2026, 3, day) for day in (2, 3, 4, 5)]
QUESTION = [Message("user", "Who rows?")]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tiny_base(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(LLAMA32, encoding="utf-8")
    return folder


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> Callable[[date], None]:
    return calendar(monkeypatch)


def forget_when(study: Study) -> None:
    """Remove when its steps began, which a fabricated study has long before the test."""
    for step in ("data", "data-embed", "train-lora", "train-qlora"):
        study.write_step(StepRecord(step, state="succeeded"))


def prompts_of_training(study: Study) -> list[str]:
    prepared = _prepare(study, None)
    return [
        prepared.prompter.tokenizer.decode(list(example.input_ids))
        for example in prepared.train.examples
    ]


def prompts_of_scoring(study: Study) -> list[str]:
    return [item["prompt"] for item in _Scoring(study, None).items]


def test_training_resumed_on_another_day_and_scoring_see_the_same_date(base, today):
    today(DAYS[0])
    study = tiny_study(base)
    forget_when(study)
    first = prompts_of_training(study)
    assert all("Today Date: 02 Mar 2026" in text for text in first)
    today(DAYS[1])
    assert prompts_of_training(study) == first
    today(DAYS[2])
    assert all("Today Date: 02 Mar 2026" in text for text in prompts_of_scoring(study))


def test_answers_and_exports_have_the_date_of_training(base, tmp_path, today):
    today(DAYS[0])
    study = tiny_study(base)
    forget_when(study)
    prompts_of_scoring(study)
    today(DAYS[3])
    asked = load_arm(study, "lora")[1].text(QUESTION, prompt=True)
    assert "Today Date: 02 Mar 2026" in asked
    spec = next(spec for spec in export_specs() if spec.name == "lora-adapter")
    write_export(study, spec, tmp_path / "out", force=False, sample=2, report=lambda *_: None)
    assert ChatTokenizer.load(tmp_path / "out").text(QUESTION, prompt=True) == asked, (
        "other programs render the same"
    )
    assert read_json(tmp_path / "out" / "tokenizer_config.json")["chat_template"].endswith(LLAMA32)
    assert "always writes\n2026-03-02" in (tmp_path / "out" / "README.md").read_text(
        encoding="utf-8"
    )
