"""The panes of the chat: what they tell, and in blind mode do not tell."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.chat.client import Reply
from assistant_builder.chat.conversation import Answer, Conversation, Turn
from assistant_builder.chat.feedback import Correction, RetrainingPlan
from assistant_builder.inference.session import Memory
from assistant_builder.ui.chat.view import (
    PAIR,
    PaneState,
    corrections_list,
    equalize_pace,
    loading_view,
    memory_line,
    pane,
    reference_note,
    retrained_note,
    reveal_view,
    speed_line,
    suggestions,
)

HOSTILE = '<img src="http://evil.invalid/a.png"><script>alert(1)</script>" onload="x'


def plain(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def said(*turns: Turn, **changes: Any) -> PaneState:
    return PaneState(Conversation(turns), **changes)


def test_text_of_users_and_models_stays_text() -> None:
    error = {"what": HOSTILE, "where": HOSTILE, "remedy": HOSTILE}
    shown = [
        pane("b", said(Turn(HOSTILE, {"lora": Answer(HOSTILE)}))),
        pane("b", said(Turn(HOSTILE), replies={"lora": Reply("answering", HOSTILE)})),
        pane("b", said(Turn(HOSTILE), replies={"lora": Reply("failed", HOSTILE, error=error)})),
        pane("b", said(Turn("Q"), replies={"lora": Reply("loading", phase=HOSTILE)})),
        reference_note(HOSTILE), loading_view({"lora": Reply("loading", phase=HOSTILE)}),
        corrections_list([Correction("now", HOSTILE, HOSTILE, HOSTILE)], ()),
    ]
    for markup in shown:
        assert "&lt;img" in markup and "<img" not in markup and "<script" not in markup
        assert not re.search(r'<[^>]*\son\w+=', markup)


def test_the_speed_line_tells_how_it_went() -> None:
    answer = Answer("text", "stop", 10, 2.0, 0.25)
    assert speed_line(answer) == "5.0 tokens/s · first token 0.25 s · 10 tokens"
    assert speed_line(replace(answer, ending="length")).endswith("cut at the maximum length")
    assert speed_line(replace(answer, ending="cancelled")).endswith("stopped")
    assert speed_line(Answer("")) == speed_line(None) == ""


def test_memory_is_that_of_the_weights_as_stored_and_as_they_are_held() -> None:
    stored = (110_000_000, 19_500_000)
    assert memory_line("qlora", stored, None) == "memory: 110 MB base + 19.5 MB adapter"
    assert memory_line("qlora", stored, Memory(269_000_000, 19_500_000)).endswith("(dequantized here: 269 MB)")
    assert memory_line("lora", (269_000_000, 1), Memory(269_000_000, 1)) == "memory: 269 MB base + 1 bytes adapter"
    assert "shares the base of LoRA" in memory_line("base", None, None)


def test_a_pane_shows_what_it_is_waiting_for() -> None:
    asked = Turn("Why?")

    def live(reply: Reply) -> str:
        return pane("b", said(asked, replies={"lora": reply}))

    assert "Reading the 16-bit base" in live(Reply("loading", phase="Reading the 16-bit base", fraction=0.4))
    assert "Waiting: 3 questions before this one" in live(Reply("waiting", ahead=3))
    assert "Waiting: 1 question before this one" in live(Reply("waiting", ahead=1))
    assert "until the model is free" in live(Reply("waiting"))
    assert 'aria-valuenow="40.0"' in live(Reply("loading", fraction=0.4))
    assert "ab-caret" in live(Reply("answering", "Be"))
    assert "ab-caret" not in live(Reply("stop", "Because."))
    assert "Ask a question below" in pane("b", said()) and "Ask again" in pane("b", said(asked))
    assert "did not get this question" in pane("base", said(Turn("Why?", {"lora": Answer("x")})))


def hidden_panes(one: Reply, other: Reply, sides: tuple[str, str]) -> list[str]:
    turn = Turn("Why?", {}, sides, blind=True)
    shown = said(turn, blind=True, replies=dict(zip(sides, (one, other), strict=True)),
                 stored={"qlora": (1, 2), "lora": (3, 4)}, memory={"lora": Memory(5, 6)})
    return [re.sub(f'side-{side}|data-side="{side}"|Assistant {side.upper()}', "", pane(side, shown))
            for side in PAIR]


@pytest.mark.parametrize(("fast", "slow"), [
    (Reply("loading", phase="Reading the 4-bit base", fraction=0.9), Reply("waiting")),
    (Reply("answering", "The same words, and more", 6, 0.1, 0.4), Reply("answering", "The same", 2, 0.3, 0.4)),
    (Reply("waiting", ahead=1), Reply("waiting", ahead=2)),
    (Reply("stop", "The same words", 3, 0.1, 0.4), Reply("answering", "The same", 2, 0.3, 0.4)),
    (Reply("answering", "x", 1, 0.1, 0.1), Reply("loading", phase="Reading the 16-bit base", fraction=0.4)),
])
@pytest.mark.parametrize("sides", [("qlora", "lora"), ("lora", "qlora")])
def test_nothing_tells_the_sides_apart_before_the_vote(fast: Reply, slow: Reply, sides: tuple[str, str]) -> None:
    one, other = hidden_panes(fast, slow, sides)
    assert one == other
    assert not re.search("lora|bit|tokens/s|MB|bytes", one, re.IGNORECASE)


def test_both_answers_are_whole_once_both_have_come() -> None:
    replies = {"qlora": Reply("stop", "long answer", 2), "lora": Reply("stop", "short", 1)}
    assert equalize_pace(replies) == replies
    base = {"base": Reply("answering", "free to run ahead", 4)}
    assert equalize_pace({**replies, "lora": Reply("waiting"), **base})["base"] == base["base"]


def test_the_vote_gives_name_and_colour_back() -> None:
    answers = {"qlora": Answer("4", "stop", 1, 1.0, 0.1), "lora": Answer("16", "stop", 1, 1.0, 0.1)}
    turn = Turn("Why?", answers, ("lora", "qlora"), blind=True)
    before, after = pane("a", said(turn, blind=True)), pane("a", said(replace(turn, vote="a"), blind=True))
    assert "LoRA" not in before and "tokens/s" not in before and 'data-action="correct"' not in before
    assert "LoRA (16-bit) · your choice" in after and "tokens/s" in after and 'data-action="correct"' in after
    assert "A was LoRA (16-bit), B was QLoRA (4-bit). You preferred LoRA" in plain(reveal_view(replace(turn, vote="a")))


def test_sources_are_text_and_are_shown_after_a_blind_vote() -> None:
    source = {"row": 7, "question": HOSTILE, "answer": HOSTILE, "similarity": 0.9}
    answers = {"qlora": Answer("4", sources=(source,)), "lora": Answer("No.", sources=(source,), declined=True)}
    turn = Turn("Why?", answers, ("lora", "qlora"), blind=True)
    for side in PAIR:
        hidden = pane(side, said(turn, blind=True))
        assert "Row 7" not in hidden and "Declined" not in hidden and "evil" not in hidden
    voted = replace(turn, vote="tie")
    declined, answered = (pane(side, said(voted, blind=True)) for side in PAIR)
    assert "Declined: nothing that was found" in declined and "From 1 fact of your data" in answered
    assert "&lt;img" in answered and "<img" not in answered and "<script" not in answered
    assert "ab-sources" not in pane("a", said(Turn("Why?", {"qlora": Answer("From memory.")})))


def test_loading_ahead_tells_how_far_it_is() -> None:
    loading = loading_view({"lora": Reply("loaded"), "qlora": Reply("loading", phase="Reading", fraction=0.4)})
    assert "QLoRA (4-bit): Reading" in loading and 'aria-valuenow="70.0"' in loading
    assert "are loaded" in loading_view({"lora": Reply("loaded")})
    assert "no adapter" in loading_view({"lora": Reply("failed", error={"what": "no adapter"})})


def test_corrections_are_listed_and_what_becomes_of_them_told() -> None:
    made = Correction("now", "<b>Q</b>", "<i>A</i>", "wrong")
    shown = corrections_list([made, replace(made, question="Two")], {1})
    assert "&lt;b&gt;" in shown and shown.count("in the held-out set") == 1
    note = retrained_note("new", RetrainingPlan((made,), (made,), (3,), (4, 5)), "old")
    for part in ("1 additional correction", "2 answers", "held-out set: 1 question", "compare old new"):
        assert part in note


def test_suggestions_take_one_question_a_cluster() -> None:
    samples = [
        {"item": str(n), "cluster": f"c{n // 2}", "turn": 0, "question": f"q{n}", "reference": f"r{n}"}
        for n in range(100)
    ]
    found = suggestions(samples)
    assert found[:2] == [("q0", "r0"), ("q2", "r2")] and len(found) == 40
