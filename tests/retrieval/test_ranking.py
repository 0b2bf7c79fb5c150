"""Terms, BM25, and fusion by reciprocal rank."""

from __future__ import annotations

import numpy as np
import pytest

from assistant_builder.retrieval.lexical import Bm25, terms
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
def test_terms_fold_case_accents_and_signs(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


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


