"""Terms, BM25, and fusion by reciprocal rank."""

from __future__ import annotations

import numpy as np
import pytest

from assistant_builder.retrieval import ranking
from assistant_builder.retrieval.lexical import Bm25, bare_words, terms
from assistant_builder.retrieval.ranking import fuse, highest


@pytest.mark.parametrize(("text", "expected"), [
    ("How MUCH is a «Ticket», please?", ["how", "much", "is", "a", "ticket", "please"]),
    ("Öffnungszeiten: Straße", ["offnungszeiten", "strasse"]),
    ("où est l'île?", ["ou", "est", "l", "ile"]),
    ("ЁЛКА стоит 5 €", ["елка", "стоит", "5"]),
    ("桟橋はどこ", ["桟", "橋", "は", "ど", "こ"]),
    ("हिन्दी में", ["हिन्दी", "में"]),
    ("9kg桟橋", ["9kg", "桟", "橋"]),
    ("?!", []),
])
def test_words_have_no_case_accents_and_signs(text: str, expected: list[str]) -> None:
    assert bare_words(text) == expected


def test_bm25_prefers_rare_terms_and_short_texts() -> None:
    model = Bm25([terms(text) for text in ("the ferry", "the dog on the ferry in the rain", "the cat", "")])
    scores = model.scores(terms("the ferry"))
    assert scores.dtype == np.float32 and scores.shape == (4,)
    assert scores[0] > scores[1] > scores[2] > scores[3] == 0
    assert not model.scores(terms("zebra")).any() and not Bm25([[], []]).scores(["ferry"]).any()


def test_highest_has_ties_in_order_of_position_at_any_depth() -> None:
    scores = np.array([1, 3, 2, 3, 0, 2, 2], dtype=np.float32)
    everything = [1, 3, 2, 5, 6, 0, 4]
    for depth in range(1, 9):
        assert highest(scores, depth).tolist() == everything[:depth]
    assert highest(scores, 9, above=0).tolist() == everything[:-1]


def test_terms_are_short_words_and_character_4_grams() -> None:
    assert terms("The ferries, E-44") == ["the", "ferr", "erri", "rrie", "ries", "e", "44"]


def fused(cosines: list[float], bm25: list[float], answers: list[int],
          depth: int = 1000) -> tuple[list[int], list[float]]:
    found = fuse(np.array(cosines, np.float32), np.array(bm25, np.float32), np.array(answers), depth)
    return found.positions.tolist(), found.scores.tolist()


def test_fusion_adds_reciprocal_ranks_and_bm25_weighs_less() -> None:
    k, weight = ranking.RRF_K, ranking.BM25_WEIGHT
    order, scores = fused([0.9, 0.8, 0.1], [0.0, 0.0, 5.0], [0, 1, 2])
    assert order == [2, 0, 1]
    assert scores == pytest.approx([1 / (k + 3) + weight / (k + 1), 1 / (k + 1), 1 / (k + 2)][:3], abs=1e-12)
    cosines = [1 - place / 10 for place in range(8)]
    assert fused(cosines, [0.0] * 7 + [9.0], list(range(8)))[0][0] == 0, "the last of many by meaning stays behind"


def test_facts_of_one_answer_share_the_best_ranks() -> None:
    order, scores = fused([0.9, 0.5, 0.8], [0.0, 7.0, 0.0], [0, 0, 1])
    assert order == [0, 1, 2] and scores[0] == scores[1] > scores[2]


def test_facts_left_out_are_not_ranked_and_ties_are_in_order() -> None:
    assert fused([-np.inf, 0.5, 0.5], [0.0, 1.0, 1.0], [0, 1, 2])[0] == [1, 2]
    assert fused([0.5] * 4, [0.0] * 4, [0, 1, 2, 3], depth=2)[0] == [0, 1]
