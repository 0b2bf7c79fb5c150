"""Chat formats and the order of turns."""

import json
import re

import pytest

from assistant_builder.data import Pair, load_pairs
from tests.data.samples import jsonl

TURNS = [
    ("system", "Be kind."),
    ("user", "Hello?"),
    ("assistant", "Hello."),
    ("user", "More?"),
    ("assistant", "No."),
]


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
def test_load_pairs_reads_every_chat_format(write, record):
    (found,) = load_one(write, record).pairs
    assert [(m.role, m.content) for m in found.messages] == TURNS
    assert found.question == "Hello?"
    assert found.answer == "No."
    assert found.system == "Be kind."
    assert found.turns == 2
    assert found.compared_question == "Hello?\nMore?"


def test_load_pairs_reads_a_conversation_in_a_csv_cell(write):
    cell = json.dumps(messages(*TURNS)).replace('"', '""')
    found = load_pairs(write("a.csv", f'id,messages\n1,"{cell}"\n'))
    assert found.pairs[0].turns == 2
    assert found.columns["question"] == found.columns["messages"] == "messages"


def test_parse_turns_joins_content_parts_and_knows_the_developer_role(write):
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]
    record = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "Seen it."},
        ]
    }
    (found,) = load_one(write, record).pairs
    assert (found.system, found.question) == ("Be kind.", "Look\nhere")


def test_order_turns_drops_and_reports_a_final_user_turn(write):
    found = load_one(write, {"messages": messages(*TURNS, ("user", "And?"))})
    assert found.pairs[0].messages[-1].content == "No."
    assert found.changes == {"a final user turn without an answer was dropped": (1,)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (
            messages(("user", "a"), ("user", "b"), ("assistant", "c")),
            "two user turns follow each other",
        ),
        (
            messages(("user", "a"), ("assistant", "b"), ("assistant", "c")),
            "two assistant turns follow",
        ),
        (
            messages(("assistant", "a"), ("user", "b"), ("assistant", "c")),
            "begins with the assistant",
        ),
        (
            messages(("user", "a"), ("system", "b"), ("assistant", "c")),
            "a system turn is in the middle",
        ),
        (
            messages(("system", "a"), ("system", "b"), ("user", "c"), ("assistant", "d")),
            "a system turn is in",
        ),
        (messages(("user", "a")), "no assistant turn"),
        (messages(("system", "a")), "no assistant turn"),
        (
            messages(("user", "a"), ("tool", "b"), ("assistant", "c")),
            "turn 2 is a tool call or a tool result",
        ),
        (messages(("user", "a"), ("narrator", "b")), "turn 2 has an unknown role: 'narrator'"),
        (messages(("user", "a"), ("assistant", " ")), r"turn 2 \(assistant\) is empty"),
        ([{"role": "user", "content": None}], r"turn 1 \(user\) is empty"),
        ([{"role": "user"}], r"turn 1 \(user\) is empty"),
        ([{"text": "a"}], "turn 1 has no role"),
        (["a", "b"], "turn 1 is a text and has no role"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"turn 1 .* part that is not text: image_url",
        ),
        ([{"role": "user", "content": {"a": 1}}], "turn 1 contains an object"),
        (
            [{"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}],
            "turn 1 is a tool call or a tool result",
        ),
        ("no conversation", "cannot be read: neither JSON nor a Python literal"),
        ("5", "not a list of turns"),
        ([], "the conversation is empty|the row is empty"),
        (None, "the conversation is empty|the row is empty"),
    ],
)
def test_load_pairs_rejects_invalid_conversations_with_the_reason(write, record, reason):
    found = load_pairs(
        write("a.jsonl", jsonl([{"messages": messages(*TURNS)}, {"messages": record}]))
    )
    (rejection,) = found.rejected
    assert rejection.row == 2
    assert re.search(reason, str(rejection.reason)), rejection.reason


def test_pair_to_record_and_from_record_are_inverse(write):
    (found,) = load_one(
        write, {"messages": messages(*TURNS), "group": "g", "cluster": 3, "answerable": False}
    ).pairs
    assert Pair.from_record(json.loads(json.dumps(found.to_record()))) == found
    assert (found.group, found.cluster, found.answerable) == ("g", "3", False)
