import random

import pytest

from assistant_builder.data.respell import as_typed, mistyped
from assistant_builder.retrieval.augment import LEAST_ROWS, asked_otherwise, mixed, repetitions
from tests.retrieval.fake_embedder import pair


@pytest.mark.parametrize("pairs", [1, 42, 60, 319, 320, 5000])
def test_small_data_give_an_epoch_of_enough_rows_and_large_data_are_not_repeated(pairs):
    times = repetitions(pairs)
    assert pairs * times >= min(pairs, LEAST_ROWS) and (times - 1) * pairs < LEAST_ROWS
    assert times == 1 or pairs < LEAST_ROWS


def test_only_the_last_question_is_respelled_and_the_answer_is_kept():
    before = pair(
        7,
        "When does the Ferry leave?",
        "At nine.",
        "And on Sundays, from the western pier?",
        "At ten.",
    )
    [after] = asked_otherwise([before], 1, typed=True)
    assert after.messages[:2] == before.messages[:2] and after.messages[3] == before.messages[3]
    assert after.messages[2].content != before.messages[2].content
    assert asked_otherwise([before], 1, typed=True) == [after]
    assert (
        len(
            {
                asked_otherwise([before], seed, typed=True)[0].messages[2].content
                for seed in range(8)
            }
        )
        > 3
    )


def test_some_questions_have_a_piece_of_another_and_the_others_are_kept():
    before = [pair(row, f"a{row} b{row} c{row} d{row}", "An answer.") for row in range(300)]
    after = asked_otherwise(before, 0, typed=False)
    changed = [
        new.messages[0].content for old, new in zip(before, after, strict=True) if new != old
    ]
    assert 60 < len(changed) < 120
    assert all(old.messages[1:] == new.messages[1:] for old, new in zip(before, after, strict=True))
    assert sum(len({word[1:] for word in text.split()}) == 2 for text in changed) > 0.9 * len(
        changed
    )


def test_a_mixed_question_is_at_least_half_its_own():
    own, other = "one two three four five", "six seven eight nine ten eleven twelve"
    texts = [mixed(own, other, random.Random(seed)).split() for seed in range(200)]
    assert all(
        len(set(text) & set(own.split())) >= max(3, len(set(text) & set(other.split())))
        for text in texts
    )
    assert all(set(text) & set(other.split()) for text in texts)
    assert len({text[0] for text in texts}) > 6
    assert mixed("Why?", "Now?", random.Random(1)) in {"Why? Now?", "Now? Why?"}


def test_a_question_keeps_most_of_its_words():
    question = "Which harbour office sells the yearly ticket for bicycles?"
    for seed in range(50):
        typed = as_typed(question, random.Random(seed))
        assert (
            len(set(typed.lower().rstrip("?").split()) & set(question.lower().rstrip("?").split()))
            >= 7
        )
    assert as_typed("?", random.Random(1))


def test_a_mistyped_word_differs_by_one_slip():
    for seed in range(30):
        assert abs(len(mistyped("harbour", random.Random(seed))) - 7) <= 1
