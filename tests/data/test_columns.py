"""Mapping of columns to roles."""

import json

import pytest

from assistant_builder.data import load_pairs
from assistant_builder.data.columns import map_columns, parse_bool, parse_split
from assistant_builder.errors import DataError
from tests.data.samples import jsonl


@pytest.mark.parametrize(
    "names",
    [
        ("question", "answer"),
        ("Question", "Answer"),
        ("QUESTION ", " Answer"),
        ("Question_Text", "answer"),
        ("prompt", "completion"),
        ("prompt", "response"),
        ("instruction", "output"),
        ("instruction", "response"),
        ("query", "response"),
        ("input", "output"),
        ("q", "a"),
        ("Q", "A"),
        ("user", "assistant"),
        ("human", "gpt"),
        ("Questions", "Answers"),
        ("user_prompt", "assistant_response"),
        ("Frage", "Antwort"),
        ("question", "Réponse"),
        ("Pregunta", "Respuesta"),
        ("вопрос", "ответ"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_map_columns_knows_common_names(names, swapped):
    order = ["id", *(reversed(names) if swapped else names), "notes"]
    roles = map_columns(order, None)
    assert (roles["question"], roles["answer"]) == names


def test_map_columns_lists_the_columns_if_none_is_found():
    with pytest.raises(DataError) as caught:
        map_columns(["thema", "text"], None)
    assert str(caught.value) == (
        "no question and answer column found; the columns are: thema, text. Choose the columns (--set "
        "data.columns.question=NAME --set data.columns.answer=NAME), or name them question and answer in a header row"
    )
    with pytest.raises(DataError, match="no answer column found.*--set data.columns.answer=NAME"):
        map_columns(["question", "text"], None)


def test_map_columns_prefers_the_requested_columns_in_any_spelling():
    names = ["question", "answer", "Better Answer", "focus"]
    roles = map_columns(names, {"answer": "better_answer", "group": "focus"})
    assert roles["question"] == "question"
    assert roles["answer"] == "Better Answer"
    assert roles["group"] == "focus"


def messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def test_map_columns_reports_every_mistake_of_a_request():
    with pytest.raises(DataError) as caught:
        map_columns(
            ["question", "answer"], {"group": "fokus", "topic": "question", "answer": "answr"}
        )
    text = str(caught.value)
    assert "group is mapped to 'fokus'" in text
    assert "'topic' is not a role" in text
    assert "'answr'" in text
    assert "The columns are: question, answer" in text
    with pytest.raises(DataError, match="both mapped to 'question'"):
        map_columns(["question", "answer"], {"question": "question", "answer": "question"})
    with pytest.raises(DataError, match="either a pair or a conversation"):
        map_columns(["question", "messages"], {"question": "question", "messages": "messages"})


def test_map_columns_uses_focus_as_group_only_on_request():
    assert map_columns(["question", "answer", "focus", "topic"], None)["group"] is None
    assert map_columns(["question", "answer", "group", "cluster"], {"group": ""})["group"] is None


def test_map_columns_notes_the_choice_between_several_pairs_of_names():
    roles = map_columns(["prompt", "completion", "question", "answer"], None)
    assert (roles["question"], roles["answer"]) == ("question", "answer")
    assert "alternatives: 'prompt' and 'completion'" in str(roles.notes[0])
    roles = map_columns(["question", "answer", "response"], None)
    assert roles["answer"] == "answer" and "not used: 'response'" in str(roles.notes[0])
    roles = map_columns(["Answer", "answer", "question"], None)
    assert "differ only in spelling" in str(roles.notes[0])


def test_map_columns_finds_optional_columns():
    names = ["question", "answer", "Group", "CLUSTER", "split", "is_answerable", "System Prompt"]
    roles = map_columns(names, None)
    assert [roles[role] for role in ("group", "cluster", "split", "answerable", "system")] == names[
        2:
    ]


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("validation", "validation"),
        ("valid", "validation"),
        ("val", "validation"),
        ("dev", "validation"),
        ("heldout", "heldout"),
        ("held-out", "heldout"),
        ("held_out", "heldout"),
        ("Held Out", "heldout"),
        ("TEST", "heldout"),
        ("eval", "heldout"),
        ("other", None),
    ],
)
def test_parse_split_knows_common_names(value, split):
    assert parse_split(value) == split


def test_parse_bool_knows_common_values():
    values = ("TRUE", "yes", "1", "False", "no", "0", "maybe")
    assert [parse_bool(value) for value in values] == [True, True, True, False, False, False, None]


def test_load_pairs_parses_optional_cells_or_rejects_the_row(write):
    text = (
        "question,answer,group,split,answerable,system\n"
        "a b,c d,g1,test,no,Be kind.\n"
        "e f,g h,,train,,\n"
        "i j,k l,g1,later,yes,\n"
        "m n,o p,g1,train,perhaps,\n"
    )
    found = load_pairs(write("a.csv", text), system="Be brief.")
    first, second = found.pairs
    assert (first.group, first.split, first.answerable, first.system) == (
        "g1",
        "heldout",
        False,
        "Be kind.",
    )
    assert (second.group, second.split, second.answerable, second.system) == (
        None,
        "train",
        True,
        "Be brief.",
    )
    assert [str(r.reason) for r in found.rejected] == [
        "split is not train, validation or heldout (or test): 'later'",
        "answerable is neither true nor false: 'perhaps'",
    ]


def test_load_pairs_appends_alpaca_input_to_the_instruction(write):
    records = [
        {"instruction": "Shorten this.", "input": "A long text.", "output": "A text."},
        {"instruction": "Say hello.", "input": "", "output": "Hello there."},
    ]
    found = load_pairs(write("a.json", json.dumps(records)))
    assert [p.question for p in found.pairs] == ["Shorten this.\n\nA long text.", "Say hello."]
    assert found.columns["context"] == "input"
    assert any("appended to the question" in str(note) for note in found.notes)
    bare = load_pairs(write("b.json", json.dumps(records)), columns={"context": ""})
    assert bare.pairs[0].question == "Shorten this."
    dolly = [
        {"instruction": "Who?", "context": "Ann rows.", "response": "Ann does.", "category": "x"}
    ]
    assert load_pairs(write("c.jsonl", jsonl(dolly))).pairs[0].question == "Who?\n\nAnn rows."
