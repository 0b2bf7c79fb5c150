from __future__ import annotations

import random

import pytest

from assistant_builder.retrieval.augment import LEAST_ROWS, as_typed, mistyped, repetitions, respelled
from tests.retrieval.fake_embedder import pair


@pytest.mark.parametrize("pairs", [1, 42, 60, 319, 320, 5000])
def test_small_data_give_an_epoch_of_enough_rows_and_large_data_are_not_repeated(pairs: int) -> None:
    times = repetitions(pairs)
    assert pairs * times >= min(pairs, LEAST_ROWS) and (times - 1) * pairs < LEAST_ROWS
    assert times == 1 or pairs < LEAST_ROWS


def test_only_the_last_question_is_respelled_and_the_answer_is_kept() -> None:
    before = pair(7, "When does the Ferry leave?", "At nine.", "And on Sundays, from the western pier?", "At ten.")
    [after] = respelled([before], 1)
    assert after.messages[:2] == before.messages[:2] and after.messages[3] == before.messages[3]
    assert after.messages[2].content != before.messages[2].content
    assert respelled([before], 1) == [after]
    assert len({respelled([before], seed)[0].messages[2].content for seed in range(8)}) > 3


def test_a_question_keeps_most_of_its_words() -> None:
    question = "Which harbour office sells the yearly ticket for bicycles?"
    for seed in range(50):
        typed = as_typed(question, random.Random(seed))
        assert len(set(typed.lower().rstrip("?").split()) & set(question.lower().rstrip("?").split())) >= 7
    assert as_typed("?", random.Random(1))


def test_a_mistyped_word_differs_by_one_slip() -> None:
    for seed in range(30):
        assert abs(len(mistyped("harbour", random.Random(seed))) - 7) <= 1
