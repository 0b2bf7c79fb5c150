"""Terms, BM25, and the order of answers."""

import numpy as np
import pytest

from assistant_builder.data.words import bare_words
from assistant_builder.retrieval.lexical import Bm25, terms
from assistant_builder.retrieval.ranking import PLAIN, SHARPNESS, highest, log_total, rank


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How MUCH is a «Ticket», please?", ["how", "much", "is", "a", "ticket", "please"]),
        ("Öffnungszeiten: Straße", ["offnungszeiten", "strasse"]),
        ("où est l'île?", ["ou", "est", "l", "ile"]),
        ("ЁЛКА стоит 5 €", ["елка", "стоит", "5"]),
        ("桟橋はどこ", ["桟", "橋", "は", "ど", "こ"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("9kg桟橋", ["9kg", "桟", "橋"]),
        ("?!", []),
    ],
)
def test_words_have_no_case_accents_and_signs(text, expected):
    assert bare_words(text) == expected


def test_bm25_prefers_rare_terms_and_short_texts():
    model = Bm25(
        [terms(text) for text in ("the ferry", "the dog on the ferry in the rain", "the cat", "")]
    )
    scores = model.scores(terms("the ferry"))
    assert scores.dtype == np.float32 and scores.shape == (4,)
    assert scores[0] > scores[1] > scores[2] > scores[3] == 0
    assert not model.scores(terms("zebra")).any() and not Bm25([[], []]).scores(["ferry"]).any()


def test_highest_has_ties_in_order_of_position_at_any_depth():
    scores = np.array([1, 3, 2, 3, 0, 2, 2], dtype=np.float32)
    everything = [1, 3, 2, 5, 6, 0, 4]
    for depth in range(1, 9):
        assert highest(scores, depth).tolist() == everything[:depth]


def test_terms_are_short_words_and_character_4_grams():
    assert terms("The ferries, E-44") == ["the", "ferr", "erri", "rrie", "ries", "e", "44"]


def ranked(
    cosines: list[float],
    bm25: list[float],
    answers: list[int],
    depth: int = 1000,
    *,
    subjects: list[int] | None = None,
    asked: tuple[int, ...] = (),
) -> tuple[list[int], list[float]]:
    found = rank(
        np.array(cosines, np.float32),
        np.array(bm25, np.float32),
        np.array(answers),
        depth,
        words=PLAIN.words,
        subjects=None if subjects is None else np.array(subjects),
        asked=asked,
    )
    return found.positions.tolist(), found.scores.tolist()


def test_words_decide_between_facts_of_nearly_the_same_similarity():
    rarest = float(np.log(2 + 2 * 3))
    order, scores = ranked([0.9, 0.58, 0.55], [0.0, 0.0, rarest], [0, 1, 2])
    assert order == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.55 + PLAIN.words, 0.58], abs=1e-6)


def test_an_answer_has_the_mean_of_its_best_wording_and_of_its_best_five():
    none = [0.0] * 8
    order, scores = ranked([0.8, 0.6, 0.75], none[:3], [0, 0, 1])
    assert order == [0, 1, 2] or order == [2, 0, 1]
    assert scores == pytest.approx([0.75, 0.75, 0.75], abs=1e-6)
    order, scores = ranked([0.8, 0.2, 0.75], none[:3], [0, 0, 1])
    assert order == [2, 0, 1] and scores[1] == scores[2] == pytest.approx(0.65, abs=1e-6)
    _, scores = ranked([0.8, 0.8, 0.8, 0.8, 0.8, 0.1, 0.1, 0.1], none, [0] * 8)
    assert scores == pytest.approx([0.8] * 8, abs=1e-6), "what else has the answer does not count"


def test_the_wordings_of_each_subject_of_an_answer_are_averaged_apart():
    cosines, none, answers = [0.9, 0.2, 0.2, 0.7], [0.0] * 4, [0, 0, 0, 1]
    assert ranked(cosines, none, answers)[0][0] == 3
    order, scores = ranked(cosines, none, answers, subjects=[0, 1, 2, 3])
    assert order[0] == 0 and scores == pytest.approx([0.9, 0.9, 0.9, 0.7], abs=1e-6)


def test_a_wording_that_is_the_question_itself_is_not_averaged():
    cosines, none, answers = [0.9, 0.2, 0.2, 0.7], [0.0] * 4, [0, 0, 0, 1]
    order, scores = ranked(cosines, none, answers, asked=(0,))
    assert order[0] == 0 and scores[0] == pytest.approx(0.9, abs=1e-6)
    assert ranked([-np.inf, *cosines[1:]], none, answers, asked=(0,))[0][0] == 3, (
        "a fact left out is not asked"
    )


def test_facts_left_out_are_not_ranked_and_ties_are_in_order():
    assert ranked([-np.inf, 0.5, 0.5], [0.0, 1.0, 1.0], [0, 1, 2])[0] == [1, 2]
    assert ranked([0.5] * 4, [0.0] * 4, [0, 1, 2, 3], depth=2)[0] == [0, 1]


def test_shares_are_over_the_answers_that_count():
    answers, counted = np.array([0, 0, 1, 2]), np.array([True, True, True, False])
    cosines = np.array([0.5, 0.5, 0.5, 0.9], np.float32)
    found = rank(cosines, np.zeros(4, np.float32), answers, words=PLAIN.words)
    total = log_total(found, answers, counted)
    assert SHARPNESS * 0.5 - total == pytest.approx(np.log(0.5), abs=1e-6)
    assert log_total(found, answers, np.zeros(4, dtype=bool)) == -np.inf
