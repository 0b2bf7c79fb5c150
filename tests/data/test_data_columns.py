"""Which column plays which role, and the chat formats."""

from __future__ import annotations

import json
import re

import pytest

from assistant_builder.data import load_pairs
from assistant_builder.data.columns import canonical_split, find_roles, truth
from assistant_builder.errors import DataError
from tests.data.making_data import jsonl


@pytest.mark.parametrize(
    "names",
    [
        ("question", "answer"), ("Question", "Answer"), ("QUESTION ", " Answer"), ("Question_Text", "answer"),
        ("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response"),
        ("query", "response"), ("input", "output"), ("q", "a"), ("Q", "A"), ("user", "assistant"), ("human", "gpt"),
        ("Questions", "Answers"), ("user_prompt", "assistant_response"), ("Frage", "Antwort"), ("question", "Réponse"),
        ("Pregunta", "Respuesta"), ("вопрос", "ответ"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("swapped", [False, True])
def test_names_people_use(names, swapped):
    order = ["id", *(reversed(names) if swapped else names), "notes"]
    roles = find_roles(order, None, "f")
    assert (roles["question"], roles["answer"]) == names


def test_not_found_lists_the_columns_and_tells_to_map_them():
    with pytest.raises(DataError) as caught:
        find_roles(["thema", "text"], None, "f.csv")
    assert str(caught.value) == (
        "f.csv: no column for question and answer found among: thema, text. Say which they are (--set "
        "data.columns.question=NAME --set data.columns.answer=NAME), or name them question and answer in a header row"
    )
    with pytest.raises(DataError, match="no column for answer found.*--set data.columns.answer=NAME"):
        find_roles(["question", "text"], None, "f.csv")


def test_mapping_wins_and_ignores_spelling():
    names = ["question", "answer", "Better Answer", "focus"]
    roles = find_roles(names, {"answer": "better_answer", "group": "focus"}, "f")
    assert (roles["question"], roles["answer"], roles["group"]) == ("question", "Better Answer", "focus")


def test_every_mistake_in_a_mapping_is_named():
    with pytest.raises(DataError) as caught:
        find_roles(["question", "answer"], {"group": "fokus", "topic": "question", "answer": "answr"}, "f")
    text = str(caught.value)
    assert "group is mapped to 'fokus'" in text and "no such role: 'topic'" in text and "'answr'" in text
    assert "The columns are: question, answer" in text
    with pytest.raises(DataError, match="both mapped to 'question'"):
        find_roles(["question", "answer"], {"question": "question", "answer": "question"}, "f")
    with pytest.raises(DataError, match="either a pair or a conversation"):
        find_roles(["question", "messages"], {"question": "question", "messages": "messages"}, "f")


def test_focus_is_no_group_unless_mapped():
    assert find_roles(["question", "answer", "focus", "topic"], None, "f")["group"] is None
    assert find_roles(["question", "answer", "group", "cluster"], {"group": ""}, "f")["group"] is None


def test_two_families_are_noted_with_the_choice():
    roles = find_roles(["prompt", "completion", "question", "answer"], None, "f")
    assert (roles["question"], roles["answer"]) == ("question", "answer")
    assert "'prompt' and 'completion' would have fitted too" in roles.notes[0]
    roles = find_roles(["question", "answer", "response"], None, "f")
    assert roles["answer"] == "answer" and "not used: 'response'" in roles.notes[0]
    roles = find_roles(["Answer", "answer", "question"], None, "f")
    assert "differ in spelling only" in roles.notes[0]


def test_optional_columns():
    names = ["question", "answer", "Group", "CLUSTER", "split", "is_answerable", "System Prompt"]
    roles = find_roles(names, None, "f")
    assert [roles[role] for role in ("group", "cluster", "split", "answerable", "system")] == names[2:]


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"), ("Training", "train"), ("validation", "validation"), ("valid", "validation"),
        ("val", "validation"), ("dev", "validation"), ("heldout", "heldout"), ("held-out", "heldout"),
        ("held_out", "heldout"), ("Held Out", "heldout"), ("TEST", "heldout"), ("eval", "heldout"), ("other", None),
    ],
)  # fmt: skip
def test_split_names(value, split):
    assert canonical_split(value) == split


def test_truth_values():
    assert [truth(v) for v in ("TRUE", "yes", "1", "False", "no", "0", "maybe")] == [True] * 3 + [False] * 3 + [None]


def test_optional_cells_and_their_rejections(write):
    text = (
        "question,answer,group,split,answerable,system\n"
        "a b,c d,g1,test,no,Be kind.\n"
        "e f,g h,,train,,\n"
        "i j,k l,g1,later,yes,\n"
        "m n,o p,g1,train,perhaps,\n"
    )
    found = load_pairs(write("a.csv", text), system="Be brief.")
    first, second = found.pairs
    assert (first.group, first.split, first.answerable, first.system) == ("g1", "heldout", False, "Be kind.")
    assert (second.group, second.split, second.answerable, second.system) == (None, "train", True, "Be brief.")
    assert [r.reason for r in found.rejected] == [
        "the split 'later' is none of train, validation, heldout (or test)",
        "answerable is 'perhaps', neither true nor false",
    ]


def test_alpaca_input_follows_the_instruction(write):
    records = [
        {"instruction": "Shorten this.", "input": "A long text.", "output": "A text."},
        {"instruction": "Say hello.", "input": "", "output": "Hello there."},
    ]
    found = load_pairs(write("a.json", json.dumps(records)))
    assert [p.question for p in found.pairs] == ["Shorten this.\n\nA long text.", "Say hello."]
    assert found.columns["context"] == "input" and any("put after the question" in note for note in found.notes)
    bare = load_pairs(write("b.json", json.dumps(records)), columns={"context": ""})
    assert bare.pairs[0].question == "Shorten this."
    dolly = [{"instruction": "Who?", "context": "Ann rows.", "response": "Ann does.", "category": "x"}]
    assert load_pairs(write("c.jsonl", jsonl(dolly))).pairs[0].question == "Who?\n\nAnn rows."


# conversations

TURNS = [("system", "Be kind."), ("user", "Hello?"), ("assistant", "Hello."), ("user", "More?"), ("assistant", "No.")]


def messages(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def sharegpt(*turns):
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[role], "value": text} for role, text in turns]


def load_one(write, record):
    return load_pairs(write("a.jsonl", jsonl([record])))


@pytest.mark.parametrize(
    "record",
    [
        {"messages": messages(*TURNS)},
        {"conversations": sharegpt(*TURNS)},
        {"conversation": messages(*TURNS), "id": 7},
        {"messages": json.dumps(messages(*TURNS))},
        {"messages": repr(messages(*TURNS))},
        {"messages": {"role": [r for r, _ in TURNS], "content": [t for _, t in TURNS]}},
        {"messages": {"messages": messages(*TURNS)}},
        {"prompt": "unused", "messages": messages(*TURNS)},
        {"system": "Be kind.", "messages": messages(*TURNS[1:])},
        {"system": "Ignored.", "messages": messages(*TURNS)},
        {"prompt": messages(*TURNS[:4]), "completion": messages(*TURNS[4:])},
        messages(*TURNS),
    ],
)
def test_conversations_in_every_dress(write, record):
    (found,) = load_one(write, record).pairs
    assert [(m.role, m.content) for m in found.messages] == TURNS
    assert (found.question, found.answer, found.system, found.turns) == ("Hello?", "No.", "Be kind.", 2)
    assert found.compared_question == "Hello?\nMore?"


def test_conversation_in_a_csv_cell(write):
    cell = json.dumps(messages(*TURNS)).replace('"', '""')
    found = load_pairs(write("a.csv", f'id,messages\n1,"{cell}"\n'))
    assert found.pairs[0].turns == 2 and found.columns["question"] == found.columns["messages"] == "messages"


def test_content_parts_and_developer_role(write):
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]
    record = {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts},
                           {"role": "assistant", "content": "Seen it."}]}  # fmt: skip
    (found,) = load_one(write, record).pairs
    assert (found.system, found.question) == ("Be kind.", "Look\nhere")


def test_last_user_turn_is_dropped_and_said(write):
    found = load_one(write, {"messages": messages(*TURNS, ("user", "And?"))})
    assert found.pairs[0].messages[-1].content == "No."
    assert found.changes == {"a last user turn without an answer was dropped": (1,)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (messages(("user", "a"), ("user", "b"), ("assistant", "c")), "two turns of the user follow each other"),
        (messages(("user", "a"), ("assistant", "b"), ("assistant", "c")), "two turns of the assistant follow"),
        (messages(("assistant", "a"), ("user", "b"), ("assistant", "c")), "begins with the assistant"),
        (messages(("user", "a"), ("system", "b"), ("assistant", "c")), "a system turn stands in the middle"),
        (messages(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d")), "a system turn stands"),
        (messages(("user", "a")), "no answer of the assistant"),
        (messages(("system", "a")), "no answer of the assistant"),
        (messages(("user", "a"), ("tool", "b"), ("assistant", "c")), "turn 2 calls or answers a tool"),
        (messages(("user", "a"), ("narrator", "b")), "turn 2 has the unknown role 'narrator'"),
        (messages(("user", "a"), ("assistant", " ")), r"turn 2 \(assistant\) is empty"),
        ([{"role": "user", "content": None}], r"turn 1 \(user\) is empty"),
        ([{"role": "user"}], r"turn 1 \(user\) is empty"),
        ([{"text": "a"}], "turn 1 has no role"),
        (["a", "b"], "turn 1 is a bare text, without a role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"turn 1 holds a part that is no text \(image_url\)"),
        ([{"role": "user", "content": {"a": 1}}], "turn 1 holds an object"),
        ([{"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}], "turn 1 calls or answers a tool"),
        ("no conversation", "cannot be read: neither JSON nor a Python literal"),
        ("5", "no list of turns"),
        ([], "the conversation is empty|the row is empty"),
        (None, "the conversation is empty|the row is empty"),
    ],
)
def test_disorder_is_rejected_with_the_reason(write, record, reason):
    found = load_pairs(write("a.jsonl", jsonl([{"messages": messages(*TURNS)}, {"messages": record}])))
    (rejection,) = found.rejected
    assert rejection.row == 2
    assert re.search(reason, rejection.reason), rejection.reason


def test_record_round_trip(write):
    from assistant_builder.data import Pair

    (found,) = load_one(write, {"messages": messages(*TURNS), "group": "g", "cluster": 3, "answerable": False}).pairs
    assert Pair.from_record(json.loads(json.dumps(found.to_record()))) == found
    assert (found.group, found.cluster, found.answerable) == ("g", "3", False)
