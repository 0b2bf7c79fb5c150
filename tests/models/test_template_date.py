"""Prompts of a study hold one date, however many days pass; templates without a date are left as they are."""

import shutil
from datetime import date, datetime

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Message
from assistant_builder.models.chat_template import (
    PLAIN_TEMPLATE,
    ChatTokenizer,
    asks_for_date,
    with_date,
)
from assistant_builder.study.steps import StepRecord
from tests.models.mocked_days import GRANITE, LLAMA32, SMOLLM3, calendar
from tests.models.test_hostile_models import TEMPLATE
from tests.models.test_hostile_models import prompter as small_prompter
from tests.synthetic_study import done, new_study

MONDAY, FRIDAY = date(2026, 3, 2), date(2026, 11, 6)
TALK = [Message("user", "Who rows?")]


def rendered(template: str) -> str:
    turns = [{"role": "user", "content": "Who rows?"}]
    return _compile_jinja_template(template).render(
        messages=turns, add_generation_prompt=True, bos_token="<s>"
    )


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (LLAMA32, "Today Date: 02 Mar 2026\n"),
        (GRANITE, "Today's Date: March 02, 2026."),
        (SMOLLM3, "Today Date: 02 March 2026\n"),
    ],
)
def test_two_renderings_on_two_days_are_equal(template, written, monkeypatch):
    today = calendar(monkeypatch)
    today(MONDAY)
    undated = rendered(template)
    dated = with_date(template, MONDAY)
    assert rendered(dated) == undated and written in undated
    today(FRIDAY)
    assert rendered(template) != undated, "without a fixed date the prompt changes"
    assert rendered(dated) == undated
    assert with_date(dated, FRIDAY) == dated


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%-d. %-m. %y", "%A, %B %e", "100%% %%d %j", "%F %T %p", "%c|%x|%X"]
)
def test_every_directive_is_written_as_python_writes_it(form):
    text = _compile_jinja_template(with_date("{{ strftime_now(form) }}", MONDAY)).render(form=form)
    assert text == datetime(2026, 3, 2).strftime(form)


def test_text_around_the_date_stays_as_it_is():
    called = "{# strftime_now #}"
    for text in (
        f"\n\n  {{%- if true %}}x{{% endif %}}\n{called}\n y",
        f"  {{% if true %}}\n a{{% endif %}}{called}",
    ):
        assert rendered(with_date(text, MONDAY)) == rendered(text)


@pytest.mark.parametrize(
    "template", [TEMPLATE, PLAIN_TEMPLATE, "{{ date_string }}{{ messages[0].content }}"]
)
def test_a_template_without_a_date_keeps_its_bytes(template):
    assert not asks_for_date(template) and with_date(template, MONDAY) == template


def test_a_template_that_takes_the_date_from_a_variable_writes_its_own(monkeypatch):
    fixed = LLAMA32.replace("strftime_now is defined", "false").replace(
        'strftime_now("%d %b %Y")', "''"
    )
    calendar(monkeypatch)(FRIDAY)
    text = ChatTokenizer(small_prompter(template=fixed).tokenizer, MONDAY).text(TALK, prompt=True)
    assert "Today Date: 26 Jul 2024" in text


def test_prompts_of_a_study_keep_the_date_of_its_first_step(tmp_path, monkeypatch):
    small_prompter(template=LLAMA32).tokenizer.save_pretrained(str(tmp_path / "base"))
    today, study = calendar(monkeypatch), new_study()
    today(MONDAY)
    assert study.template_date == MONDAY and not (study.folder / "template_date.json").exists(), (
        "asking writes nothing"
    )
    assert study.record_template_date() == MONDAY
    first = ChatTokenizer.load(tmp_path / "base", study.template_date).prompt_ids(TALK)
    today(FRIDAY)
    assert study.record_template_date() == MONDAY
    assert ChatTokenizer.load(tmp_path / "base", study.template_date).prompt_ids(TALK) == first
    assert ChatTokenizer.load(tmp_path / "base").prompt_ids(TALK) != first


def test_a_study_of_before_has_the_day_of_its_training(monkeypatch):
    calendar(monkeypatch)(FRIDAY)
    study = new_study()
    done(study, "data", 1.0)
    assert study.template_date == date.fromtimestamp(1_700_000_000)
    for arm, day in (("qlora", 20), ("lora", 21)):
        when = datetime(2026, 2, day, 12).timestamp()
        study.write_step(StepRecord(f"train-{arm}", state="succeeded", started=when, seconds=1.0))
    assert study.record_template_date() == date(2026, 2, 20)
    assert read_json(study.folder / "template_date.json") == {"date": "2026-02-20"}
    shutil.rmtree(study.folder / "arms")
    assert study.template_date == date(2026, 2, 20)


def test_a_study_to_be_compared_takes_the_date_of_the_other(monkeypatch):
    today, first, second = calendar(monkeypatch), new_study(), new_study("second")
    today(MONDAY)
    first.record_template_date()
    today(FRIDAY)
    assert second.record_template_date(like=first) == MONDAY == second.template_date
    third = new_study("third")
    assert third.record_template_date() == FRIDAY == third.record_template_date(like=first)
