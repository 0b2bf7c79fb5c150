import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

from evals.metrics import score_answer
from evals.metrics.fact_recall import facts_kept
from evals.metrics.text import chrf, exact_match, normalise, rouge_l, token_f1, words

WORDS = "the ferry a cat 12 26 kilograms of luggage Brindle Cove isn't closed, 3.5 well-known (blue) sea-chest.".split()


def random_pairs(count: int = 200) -> list[tuple[str, str]]:
    rng = random.Random(7)
    return [
        (
            " ".join(rng.choices(WORDS, k=rng.randint(0, 14))),
            " ".join(rng.choices(WORDS, k=rng.randint(1, 14))),
        )
        for _ in range(count)
    ]


def test_rouge_and_chrf_equal_their_libraries_on_200_pairs():
    rouge, chr_f = RougeScorer(["rougeL"], use_stemmer=False), CHRF()
    for answer, reference in random_pairs():
        expected = rouge.score(reference, answer)["rougeL"].fmeasure
        assert rouge_l(answer, reference) == pytest.approx(expected, abs=1e-12)
        expected = chr_f.sentence_score(answer, [reference]).score / 100
        assert chrf(answer, reference) == pytest.approx(expected, abs=1e-12)


def test_token_f1_and_exact_match_equal_squads_script_on_200_pairs():
    from lm_eval.tasks.qasper.metrics import (
        f1_abstractive,
        normalize_answer,
    )  # SQuAD's script, as lm-eval ships it

    for answer, reference in random_pairs():
        assert token_f1(answer, reference) == pytest.approx(
            f1_abstractive([answer], [reference]), abs=1e-12
        )
        for text in (answer, reference.upper()):
            assert exact_match(text, reference) == (
                normalize_answer(text) == normalize_answer(reference)
            )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Cat, and a dog!", "cat and dog"),
        ("It costs 3.5 crowns.", "it costs 3.5 crowns"),
        ("1,250 seats", "1250 seats"),
        ("−5 °C", "-5 °c"),
        ("at 9 a.m., or write to a.b@c.com", "at 9 am or write to a.b@c.com"),
        ("A gate, and Vitamin A", "gate and vitamin a"),
        ("A GATE", "gate"),
        ("US$ 5,50 – not £5.00!", "us 5,50 $ not 5 £"),
        ("-$5, $-5", "-5 $ -5 $"),
        ("1½ m², 10², C++ or C#", "1 1/2 m2 10^2 c++ or c#"),
        ("8×10 cm, <5%, +44 20", "8 x 10 cm <5 % +44 20"),
        ("v1.0.3, 5.000, 5.0", "v1.0.3 5.000 5"),
        ("10–12 o’clock, 10:30", "10-12 oclock 10:30"),
        ("STRASSE Straße", "strasse strasse"),
        ("ﬁne １２", "fine 12"),
        ("¿Dónde está?", "dónde está"),
        ("Это — «кот».", "это кот"),
        ("+", "+"),
        ("", ""),
        ("The", "the"),
    ],
)
def test_normalise(text, plain):
    assert normalise(text) == plain


@given(st.text(max_size=60))
@settings(deadline=None)
def test_normalise_is_stable_and_never_empties_a_text(text):
    once = normalise(text)
    assert bool(once) == bool(unicodedata.normalize("NFKC", text).strip())
    assert exact_match(once.upper(), once) == exact_match(once, once) == 1


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_scores_are_shares_and_a_text_equals_itself(answer, reference):
    scores = score_answer(answer, reference)
    assert set(scores) - {"facts_kept"} == {"exact_match", "token_f1", "rouge_l", "chrf"}
    assert scores.get("facts_kept") == facts_kept(answer, reference)
    assert all(0 <= value <= 1 for value in scores.values())
    assert exact_match(answer, answer) == token_f1(answer, answer) == 1.0
    assert token_f1(answer, reference) == pytest.approx(token_f1(reference, answer))


def test_token_f1_by_hand():
    assert token_f1("the ferry leaves at noon", "ferry leaves noon today") == pytest.approx(
        2 * 3 / (4 + 4)
    )
    assert token_f1("", "noon") == 0
    assert token_f1("noon noon", "noon") == pytest.approx(2 / 3)


def test_scripts_without_spaces_score_by_character():
    assert words("東京は3時") == ["東", "京", "は", "3", "時"]
    assert words("東京tower9です ok") == ["東", "京", "tower9", "で", "す", "ok"]
    assert words("ที่นี่") == ["ที่", "นี่"]
    assert 0 < token_f1("東京です", "東京でした") < 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Η γάτα κοιμάται", "Η γάτα"),
        ("القطة نائمة هنا", "القطة نائمة"),
        ("बिल्ली सो रही है", "बिल्ली सो"),
        ("고양이가 잔다", "고양이가"),
        ("猫が寝ている", "猫が"),
        ("แมวนอนอยู่", "แมว"),
    ],
)
def test_other_scripts_score_fully_and_partly(text, part):
    for metric in (token_f1, rouge_l, chrf):
        assert metric(text, text) == pytest.approx(1.0)
        assert 0 < metric(part, text) < 1


def test_accented_words_are_whole_words():
    assert rouge_l("cafe", "café") == 0
    assert rouge_l("cafe\u0301", "café") == 1


def test_empty_answers_score_zero():
    assert score_answer("", "Nine crowns.") == {
        "exact_match": 0.0,
        "token_f1": 0.0,
        "rouge_l": 0.0,
        "chrf": 0.0,
    }


def test_a_partial_metric_is_left_out_where_the_reference_has_nothing_for_it():
    assert "facts_kept" not in score_answer("It costs 9 crowns.", "Ask at the desk.")
    assert score_answer("It costs 9 crowns.", "It costs 9 crowns on Monday.")["facts_kept"] == 0.5
