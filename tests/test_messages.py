"""Messages: values instead of sentences, rendered in the language and the words of a place."""

import json
import subprocess
import sys
from typing import Any

import pytest

from assistant_builder.cli import output
from assistant_builder.config import StudyConfig
from assistant_builder.errors import (
    CHOOSE_NAME,
    AssistantBuilderError,
    ChangedInputsError,
    ConfigError,
    StudyError,
    error_texts,
)
from assistant_builder.i18n import (
    ByPlace,
    Message,
    Rows,
    Setting,
    environment_language,
    joined,
    m,
    message_from,
    mn,
    render,
    text_of,
    use_bits,
    use_language,
    use_row_numbers,
    use_words,
    written,
)
from assistant_builder.ui.html import error_callout
from assistant_builder.ui.settings_form import PAGE_WORDS

EVERYTHING = m(
    "the {study} {name!r} of {rows} rows, {share:.1f}, {setting}, {train.max_length}, {inner}, {place}, {list}",
    name="rivers",
    rows=1234,
    share=12.5,
    setting=Setting("data.remove_leaks", "never", flag=True),
    inner=mn("{count} row", "{count} rows", 2),
    place=ByPlace(m("Choose another name with --name NEW"), m("Choose another name")),
    list=["a", m("it does not exist")],
)


def test_a_message_is_rendered_in_the_words_of_its_place():
    assert str(EVERYTHING) == (
        "the study 'rivers' of 1234 rows, 12.5, --set data.remove_leaks=never, train.max_length, 2 rows, "
        "Choose another name with --name NEW, a, it does not exist"
    )
    with use_words(PAGE_WORDS):
        assert str(EVERYTHING) == (
            "the project 'rivers' of 1234 rows, 12.5, “Remove overlap” (never), “Longest pair”, 2 rows, "
            "Choose another name, a, it does not exist"
        )


def test_it_is_the_same_after_a_file():
    again = message_from(json.loads(json.dumps(EVERYTHING.to_record())))
    for place in (use_language("en"), use_language("de"), use_words(PAGE_WORDS)):
        with place:
            assert str(again) == str(EVERYTHING)
    with use_language("de"), use_words(PAGE_WORDS):
        english, record = written(EVERYTHING)  # files are English whatever the page is
    assert english == str(EVERYTHING) and text_of(record, "") == again


def nested(id: str) -> dict[str, Any]:
    """A record of half a kilobyte that would be rendered as ten billion characters."""
    record: Any = "x"
    for _ in range(10):
        record = {"id": id, "values": {"a": record}}
    return dict(record)


@pytest.mark.parametrize(
    "record",
    [
        *(None, 3, "x", [], {}, {"id": 3}, {"id": "a", "values": [1]}),
        {"id": "{name} is missing", "values": {"other": 1}},
        {"id": "{count:>999999999}", "values": {"count": 1}},
        {"id": "{count:{width}}", "values": {"count": 1, "width": 999999999}},
        {"id": "{count.__class__}", "values": {"count": 1}},
        {"id": "{count} row", "plural": "{count} rows", "values": {"count": "many"}},
        {"id": "{0} {", "values": {"a": 1}},
        {"id": "{a}", "values": {"a": {"page": 3}}},
        {"id": "{a:c}", "values": {"a": -1}},
        {"id": "{a:f}", "values": {"a": 10**400}},
        nested("{a}" * 10),
        nested("{A}" * 10),
        nested("{a!r}" * 10),
    ],
)
def test_a_damaged_record_leaves_the_english_text(record):
    assert text_of(record, "it is so") == "it is so"


def test_row_numbers_and_bits_are_those_of_the_context():
    message = m("rows {rows} in {bits} bits", rows=Rows((3, 5, 9)))
    assert str(message) == "rows 3, 5 and 9 in 4 bits"
    with use_row_numbers(lambda row: row + 1), use_bits(8), use_language("de"):
        assert str(message) == "rows 4, 6 und 10 in 8 bits"


def test_values_are_no_templates_and_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    error = StudyError(m("not {what}", what="{redo} hf_abcdefghijklmnopqrstuvwxyz"))
    assert str(error) == "not {redo} [hidden]"
    assert "hf_abc" not in json.dumps(error.to_record())


def test_sentences_are_joined():
    both = joined([m("it does not exist"), "", m("the disk is full")], "; ")
    assert render(both) == "it does not exist; the disk is full"
    with use_language("de"):
        assert render(both) == "; ".join(map(render, both.values.values())) != "it does not exist"


def test_an_error_keeps_its_messages_through_a_status_file():
    error = ChangedInputsError("data", ["data.seed: 1 -> 2"], "rivers")
    record = json.loads(json.dumps(error.to_record()))
    assert record["what"] == "step 'data' was finished with other inputs (data.seed: 1 -> 2)"
    assert "--redo" in record["remedy"] and record["where"] == "study rivers"
    again = AssistantBuilderError(**error_texts(record))
    with use_words(PAGE_WORDS):
        assert "Replace results" in str(again) and "project rivers" in str(again)
        assert "Replace results" in error_callout(record)
    old = {key: record[key] for key in ("what", "where", "remedy")}  # of an earlier release
    assert str(AssistantBuilderError(**error_texts(old))) == str(error)


def test_errors_are_german_on_command_line_and_page(monkeypatch):
    with pytest.raises(ConfigError) as caught:
        StudyConfig().with_changes({"train.epochs": -1})
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert environment_language() == "de"
    said = output.said(caught.value)
    assert "train.epochs=-1: " in said and "Input should be" not in said
    with use_language("de"), use_words(PAGE_WORDS):
        shown = error_callout(caught.value.to_record())
    assert "„Wiederholungen“ (-1)" in shown or "Epochen" in shown, shown
    assert isinstance(caught.value.what, Message)


def test_the_command_speaks_the_language_of_the_environment(home):
    words = [sys.executable, "-m", "assistant_builder", "status", "nothing"]
    environment = {"ASSISTANT_BUILDER_HOME": str(home), "PATH": "", "LC_ALL": "de_DE.UTF-8"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "kein Projekt namens 'nothing'" in result.stderr
    assert CHOOSE_NAME.page != CHOOSE_NAME.command
