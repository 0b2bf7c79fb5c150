"""Text normalization and near-duplicate search."""

import random

import pytest

from assistant_builder.data import check_pairs
from assistant_builder.data.similarity import (
    NearDuplicateIndex,
    casefold_normalize,
    identifier_tokens,
    lsh_bands,
    split_words,
)
from tests.data.samples import clean_pairs, dataset, pair, words


def test_casefold_normalize_keeps_meaningful_signs():
    assert (
        casefold_normalize("  What IS it ?! ") == "what is it" == casefold_normalize("what is it")
    )
    assert casefold_normalize("STRASSE") == casefold_normalize("Straße")
    assert casefold_normalize("Don’t “go” (now)…") == "don't go now"
    assert (
        len(
            {
                casefold_normalize(text)
                for text in ("C", "C++", "C#", "2-2", "2+2", "3.5", "35", "???")
            }
        )
        == 8
    )


def test_split_words_splits_scripts_without_spaces():
    assert split_words("X-linked 3.5 mg?") == ["x", "linked", "3", ".", "5", "mg"]
    assert split_words("办公室 in") == ["办", "公", "室", "in"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "What are the symptoms of glycogen storage disease type 1 in adults?",
            "… type 2 in adults?",
        ),
        (
            "What are the symptoms of glycogen storage disease type I in adults?",
            "… type II in adults?",
        ),
        (
            "How is a chronic infection with hepatitis B treated in adults?",
            "… hepatitis C treated in adults?",
        ),
    ],
)
def test_questions_with_different_identifiers_are_not_near_duplicates(one, other):
    tail = other.removeprefix("… ")
    head = one[: one.index(tail.split()[0])]
    assert identifier_tokens(one) != identifier_tokens(head + tail)
    found = check_pairs(
        dataset([*clean_pairs(3), pair(1, one), pair(2, head + tail)]), near_duplicate_threshold=0.5
    )
    assert found.near_duplicates == ()


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 0.95, 1.0])
def test_lsh_bands_reach_the_recall_at_the_threshold(threshold):
    bands, rows = lsh_bands(threshold)
    assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.995


def test_near_duplicate_index_agrees_with_exhaustive_comparison():
    chosen = random.Random(5)
    base = [words(12, i).split() for i in range(40)]
    questions = [" ".join(b) for b in base]
    for b in base:
        changed = list(b)
        for _ in range(chosen.randrange(4)):
            changed[chosen.randrange(12)] = words(1, chosen.random())
        questions.append(" ".join(changed))

    def jaccard(a, b):
        left, right = ({*zip(t, t[1:], strict=False)} for t in (a.split(), b.split()))
        return len(left & right) / len(left | right)

    for threshold in (0.5, 0.7, 0.9):
        index = NearDuplicateIndex(questions, threshold)
        for place in range(len(questions)):
            similar = [
                (jaccard(questions[place], questions[other]), -other) for other in range(place)
            ]
            best = max(similar, default=(0, 0))
            match = index.nearest(place)
            assert (match is not None) == (best[0] >= threshold - 1e-9)
            if match:
                assert match == (-best[1], pytest.approx(best[0]))
            index.add(place)
