"""Conversations: the record in the browser, prompts, votes and exports."""

import json
from typing import Any

import pytest

from assistant_builder.chat.conversation import (
    MAX_TURNS,
    Answer,
    Conversation,
    Turn,
    conversation_from_record,
)
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Sampling
from assistant_builder.inference.session import BASE


def turn(question: str = "Why?", **changes: Any) -> Turn:
    answers = {
        "qlora": Answer("Because 4.", "stop", 3, 0.5, 0.1),
        "lora": Answer("Because 16.", "length", 3, 0.4, 0.2),
    }
    return Turn(question, **{"answers": answers, **changes})


def test_a_conversation_survives_the_round_trip_to_the_browser():
    held = Conversation(
        (
            turn(system="Be brief.", sampling=Sampling(temperature=0.7, seed=4)),
            turn("متى؟", blind=True, sides=("lora", "qlora"), vote="b"),
            Turn("left unanswered"),
        )
    )
    assert conversation_from_record(json.loads(json.dumps(held.to_record()))) == held


@pytest.mark.parametrize(
    "damage",
    [
        {"question": 7},
        {"answers": {"lora": {"text": 1}}},
        {"answers": {"lora": {"tokens": 1}}},
        {"vote": "c"},
        {"sides": ["lora", "lora"]},
        {"sampling": {"temperature": -1}},
        {"sampling": {"top_p": "much"}},
        {"answers": None},
        {"answers": {"lora": {"text": "x", "seconds": "soon"}}},
    ],
)
def test_invalid_turns_are_dropped(damage):
    good, bad = (
        Conversation((turn(),)).to_record()[0],
        Conversation((turn("other"),)).to_record()[0],
    )
    parsed = conversation_from_record([{**bad, **damage}, good, "nonsense"])
    assert [found.question for found in parsed.turns] == ["Why?"]
    assert conversation_from_record({"turns": 1}) == Conversation()


def test_each_model_receives_only_its_own_answers():
    asked_base = turn("Two?", answers={**turn().answers, BASE: Answer("I think")})
    held = Conversation((turn("One?"), asked_base, Turn("unanswered"), turn("secret", blind=True)))
    assert held.messages("lora", "Three?", system="S", alone=False) == [
        Message("system", "S"),
        Message("user", "One?"),
        Message("assistant", "Because 16."),
        Message("user", "Two?"),
        Message("assistant", "Because 16."),
        Message("user", "Three?"),
    ]
    assert [m.content for m in held.messages(BASE, "Three?", system="", alone=False)] == [
        "Two?",
        "I think",
        "Three?",
    ]


def test_a_blind_question_is_sent_without_earlier_turns():
    held = Conversation((turn("One?"),))
    sent = [held.messages(arm, "Two?", system="S", alone=True) for arm in ("qlora", "lora")]
    assert sent[0] == sent[1] == [Message("system", "S"), Message("user", "Two?")]


def test_long_conversations_drop_their_first_turns():
    held = Conversation()
    for number in range(MAX_TURNS + 3):
        held = held.with_turn(turn(str(number)))
    assert len(held.turns) == MAX_TURNS and held.turns[0].question == "3"
    assert [found.question for found in held.before(2).turns] == ["3", "4"]
