from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evals.declining import DECLINES, declined

LABELLED = [json.loads(line) for line in Path(__file__).with_name("declines.jsonl").read_text("utf-8").splitlines()]


def test_the_labelled_answers_are_fifty_of_both_kinds() -> None:
    assert len({row["answer"] for row in LABELLED}) == 50
    assert sum(row["declined"] for row in LABELLED) == 25


def test_recogniser_agrees_with_the_hand_labels() -> None:
    wrong = [row for row in LABELLED if declined(row["answer"]) is not row["declined"]]
    assert not wrong


@pytest.mark.parametrize(
    "answer",
    [
        "The answer is not in the handbook.",
        "The provided context does not contain the answer.",
        "The text doesn't provide any information about his salary.",
        "I couldn't find anything on that.",
        "My training data does not include this.",
        "That is not something I can help with.",
        '"I don\'t know."',
        "I DON'T KNOW!",
    ],
)
def test_more_declines(answer: str) -> None:
    assert declined(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "You may not tell anyone.",
        "It is not listed in the phone book.",
        "The guide does not give tours on Sunday.",
        "The rules do not say that dogs must be muzzled, so they need not be.",
        "We do not know each other.",
        "In some cases the cause of the disease cannot be determined.",
        "The data do not leave the building.",
    ],
)
def test_answers_that_only_sound_like_declines(answer: str) -> None:
    assert not declined(answer)


def test_each_kind_is_a_pattern_of_its_own() -> None:
    for pattern in DECLINES.values():
        assert re.compile(pattern).search("an adult single costs 9 crowns.") is None
