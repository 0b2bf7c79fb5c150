"""The panes of the chat: what they tell, and in blind mode do not tell."""

import re
from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.chat.conversation import Answer, Conversation, Turn
from assistant_builder.chat.feedback import Correction
from assistant_builder.chat.reply_stream import Reply
from assistant_builder.ui.chat.view import (
    PAIR,
    CorrectedAnswer,
    PaneState,
    corrections_list,
    examples_view,
    loading_view,
    pane,
    reveal_view,
)
from tests.texts import plain

HOSTILE = '<img src="http://evil.invalid/a.png"><script>alert(1)</script>" onload="x'


def said(*turns: Turn, **changes: Any) -> PaneState:
    return PaneState(Conversation(turns), **changes)


def test_text_of_users_and_models_stays_text():
    error = {"what": HOSTILE, "where": HOSTILE, "remedy": HOSTILE}
    shown = [
        pane("b", said(Turn(HOSTILE, {"lora": Answer(HOSTILE)}))),
        pane("b", said(Turn(HOSTILE), replies={"lora": Reply("answering", HOSTILE)})),
        pane("b", said(Turn(HOSTILE), replies={"lora": Reply("failed", HOSTILE, error=error)})),
        pane("b", said(Turn("Q"), replies={"lora": Reply("loading", phase=HOSTILE)})),
        loading_view({"lora": Reply("loading", phase=HOSTILE)}),
        examples_view([HOSTILE]),
        pane(
            "b", said(Turn(HOSTILE, {"lora": Answer(HOSTILE)}), editing=(0, "lora"), note=HOSTILE)
        ),
        pane(
            "b",
            said(
                Turn("Q", {"lora": Answer("A")}),
                corrected={("Q", "A"): CorrectedAnswer(HOSTILE)},
            ),
        ),
        corrections_list([Correction("now", HOSTILE, HOSTILE, HOSTILE)], ()),
    ]
    for markup in shown:
        assert "&lt;img" in markup and "<img" not in markup and "<script" not in markup
        assert not re.search(r"<[^>]*\son\w+=", markup)


def hidden_panes(one: Reply, other: Reply, sides: tuple[str, str]) -> list[str]:
    turn = Turn("Why?", {}, sides, blind=True)
    shown = said(
        turn,
        blind=True,
        replies=dict(zip(sides, (one, other), strict=True)),
    )
    return [
        re.sub(f'side-{side}|data-side="{side}"|Assistant {side.upper()}', "", pane(side, shown))
        for side in PAIR
    ]


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (Reply("loading", phase="Reading the 4-bit base", fraction=0.9), Reply("waiting")),
        (
            Reply("answering", "The same words, and more", 6, 0.1, 0.4),
            Reply("answering", "The same", 2, 0.3, 0.4),
        ),
        (Reply("waiting", ahead=1), Reply("waiting", ahead=2)),
        (Reply("stop", "The same words", 3, 0.1, 0.4), Reply("answering", "The same", 2, 0.3, 0.4)),
        (
            Reply("answering", "x", 1, 0.1, 0.1),
            Reply("loading", phase="Reading the 16-bit base", fraction=0.4),
        ),
    ],
)
@pytest.mark.parametrize("sides", [("qlora", "lora"), ("lora", "qlora")])
def test_nothing_tells_the_sides_apart_before_the_vote(fast, slow, sides):
    one, other = hidden_panes(fast, slow, sides)
    assert one == other
    assert not re.search("lora|bit|tokens/s|MB|bytes", one, re.IGNORECASE)


def test_the_vote_gives_name_and_colour_back():
    answers = {"qlora": Answer("4", "stop", 1, 1.0, 0.1), "lora": Answer("16", "stop", 1, 1.0, 0.1)}
    turn = Turn("Why?", answers, ("lora", "qlora"), blind=True)
    before, after = (
        pane("a", said(shown, blind=True)) for shown in (turn, replace(turn, vote="a"))
    )
    assert "LoRA" not in before
    assert 'data-action="correct"' not in before
    assert "Full (LoRA, 16-bit) · your choice" in after
    assert 'data-action="correct"' in after
    assert "A was Full (LoRA, 16-bit), B was Compact (QLoRA, 4-bit). You preferred Full" in plain(
        reveal_view(replace(turn, vote="a"))
    )


@pytest.mark.parametrize("vote", ["b", "tie", None])
@pytest.mark.parametrize("sides", [("qlora", "lora"), ("lora", "qlora")])
def test_answers_stand_under_their_own_name_when_blind_mode_is_off(sides, vote):
    blind = Turn(
        "Blind?", {"qlora": Answer("by Q"), "lora": Answer("by L")}, sides, blind=True, vote=vote
    )
    later = Turn("Open?", {"qlora": Answer("Q"), "lora": Answer("L")})
    for side, name, own, other in (("a", "Compact", "by Q", "by L"), ("b", "Full", "by L", "by Q")):
        shown = pane(side, said(blind, later))
        assert f'<span class="ab-chip">{name} ' in shown and own in shown and other not in shown
        assert ("your choice" in shown) is (
            vote == "b" and sides[1] == {"Compact": "qlora", "Full": "lora"}[name]
        )


def test_one_assistant_is_shown_alone_except_in_blind_mode():
    def visible(**changes: Any) -> list[str]:
        shown = said(only="lora", **changes)
        return [side for side in ("a", "b", "base") if shown.is_visible(side)]

    assert visible() == ["b"] and visible(blind=True) == ["a", "b"]
    assert "Both" not in pane("b", said(only="lora")) and "Both" in pane("b", said())
    assert "did not answer" in pane("a", said(Turn("Why?", {"lora": Answer("x")})))


def test_a_correction_is_written_in_the_bubble():
    turns = (
        Turn("One?", {"lora": Answer("1"), "qlora": Answer("1")}),
        Turn("Two?", {"lora": Answer("3")}),
    )
    shown = pane("b", said(*turns, editing=(1, "lora"), note="Held out."))
    form = shown[shown.index("<form") : shown.index("</form>")]
    assert 'data-turn="1" data-side="b"' in form and ">3</textarea>" in form and "Held out." in form
    assert shown.count("<form") == 1 and shown.count('data-action="correct"') == 1
    assert shown.index("<form") < shown.index("Two?") < shown.index("One?"), (
        "the newest is first in the markup"
    )
    hidden = Turn("Blind?", {"lora": Answer("1"), "qlora": Answer("2")}, blind=True)
    assert "<form" not in pane("b", said(hidden, blind=True, editing=(0, "lora")))


def test_sources_are_text_and_are_shown_after_a_blind_vote():
    source = {"row": 7, "question": HOSTILE, "answer": HOSTILE, "similarity": 0.9}
    answers = {
        "qlora": Answer("4", sources=(source,)),
        "lora": Answer("No.", sources=(source,), declined=True),
    }
    turn = Turn("Why?", answers, ("lora", "qlora"), blind=True)
    for side in PAIR:
        hidden = pane(side, said(turn, blind=True))
        assert "Row 7" not in hidden and "Declined" not in hidden and "evil" not in hidden
    voted = replace(turn, vote="tie")
    declined, answered = (pane(side, said(voted, blind=True)) for side in PAIR)
    assert (
        "Declined: nothing that was found" in declined
        and "Looked up: 1 fact of your data" in answered
    )
    assert "&lt;img" in answered and "<img" not in answered and "<script" not in answered
    assert "ab-sources" not in pane("a", said(Turn("Why?", {"qlora": Answer("From memory.")})))


def test_a_decline_offers_questions_and_says_why():
    why = (("Nothing is near <b>.", {"id": "Nothing is near <b>."}), ("Add a row.", None))
    declined = Answer("No.", declined=True, suggestions=(HOSTILE, "Is it open?"), why=why)
    shown = pane("b", said(Turn("Why?", {"lora": declined})))
    assert "Did you mean one of these?" in shown and "Why did it decline this?" in shown
    assert 'data-action="suggested" data-turn="0" data-side="b" data-place="1"' in shown
    assert "Is it open?" in shown and "Add a row." in shown
    assert "&lt;img" in shown and "<img" not in shown and "<b>." not in shown
    greeted = pane("b", said(Turn("hi", {"lora": Answer("Hello!", suggestions=("Is it open?",))})))
    assert 'aria-label="Example questions"' in greeted and "decline" not in greeted
    answers = {"qlora": declined, "lora": Answer("Yes.")}
    hidden = Turn("Why?", answers, ("qlora", "lora"), blind=True)
    assert "suggested" not in pane("a", said(hidden, blind=True))
