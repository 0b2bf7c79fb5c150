import json
import random

import pytest

from benchmarks.fit_refusals import fit, phrased_rows, threshold_of, training_rows
from benchmarks.refusal_agreement import agreement, labelled_answers
from evals.metrics.refusal import (
    BUCKETS,
    WEIGHTS_FILE,
    Classifier,
    features,
    is_refusal,
    only_declines,
    sentences,
    shipped_classifier,
)

LABELLED = labelled_answers()
NAMES = list(dict.fromkeys(row["set"] for row in LABELLED))
SETS = {name: [row for row in LABELLED if row["set"] == name] for name in NAMES}


def test_the_labelled_answers_are_of_both_kinds():
    assert len({row["answer"] for row in LABELLED}) == len(LABELLED)
    counts = {
        name: (sum(row["declined"] for row in rows), len(rows)) for name, rows in SETS.items()
    }
    assert (
        counts.items()
        >= {
            "first": (25, 50),
            "fresh": (20, 40),
            "indirect": (20, 20),
            "varied": (40, 80),
            "blind": (40, 80),
            "before": (50, 100),
        }.items()
    )
    for language in ("en", "de", "es", "fr", "it"):
        declined = [row["declined"] for row in SETS["before"] if row["language"] == language]
        assert (sum(declined), len(declined)) == (10, 20)


def test_classifier_was_not_fitted_to_the_labelled_answers():
    trained = {
        row["answer"] for row in [*training_rows(), *phrased_rows()] if len(row["answer"]) > 25
    }
    assert not trained & {row["answer"] for row in LABELLED}


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "it"])
def test_training_has_both_kinds_in_each_language(language):
    declined = [row["declined"] for row in training_rows() if row["language"] == language]
    assert min(sum(declined), len(declined) - sum(declined)) >= 150


@pytest.mark.parametrize("name", ["first", "fresh", "indirect", "varied"])
def test_recogniser_agrees_with_the_labels_of_development(name):
    found = agreement(SETS[name])
    assert found.recognised >= 0.7 * found.refusals
    assert found.false_positives <= 1


def test_a_decline_in_the_datas_own_words_is_recognised_in_any_language():
    taught = ["To se v jízdním řádu nepíše; zeptejte se na molu."]
    assert is_refusal("To se v jízdním řádu nepíše, zeptejte se na molu.", taught)
    assert not is_refusal("To se v jízdním řádu nepíše, zeptejte se na molu.")
    assert not is_refusal("V jízdním řádu je: z mola tři.", taught)


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know.",
        "Das weiß ich leider nicht.",
        "Lo siento, no tengo esa información.",
        "Désolé, je ne peux pas répondre à cette question.",
        "Mi dispiace, non posso rispondere a questa domanda.",
    ],
)
def test_plain_declines_of_each_language(answer):
    assert is_refusal(answer)
    assert is_refusal(f"{answer} Thank you for your question.")


def test_quotations_are_not_the_assistants_own_words():
    assert sentences("Say „Ich weiß es nicht“ twice. «No lo sé.» Done.") == [
        'say  "  twice.',
        '"  done.',
    ]
    assert sentences("“I don’t know.”") == ["i don't know."]
    assert sentences(" ... ") == sentences("") == []


def test_each_sentence_more_needs_more_evidence():
    classifier = shipped_classifier()
    one, more = (
        classifier.log_odds("I don't know."),
        classifier.log_odds("I don't know. Nine. Ten. Eleven."),
    )
    assert one - more == pytest.approx(1.386, abs=0.001)


def test_numbers_are_one_word():
    assert features("in 1987.") == features("in 12.") != features("in may.")
    assert max(features("in 1987.")) < BUCKETS


def test_weights_are_read_as_they_were_written():
    text = WEIGHTS_FILE.read_text(encoding="utf-8")
    assert Classifier.from_json(text).to_json().splitlines()[1:4] == text.splitlines()[1:4]
    assert Classifier.from_json(Classifier.from_json(text).to_json()) == shipped_classifier()
    assert len(shipped_classifier().weights) == BUCKETS
    assert len(text) < 200_000
    assert set(json.loads(text)) == set("intercept threshold unit weights".split())


def test_the_same_rows_give_the_same_weights():
    rows = random.Random(1).sample(training_rows(), 120)
    fitted = fit(rows)
    assert fitted == fit(rows)
    scores = [fitted.log_odds(row["answer"]) for row in rows]
    threshold = threshold_of(rows, scores)
    others = [score for row, score in zip(rows, scores, strict=True) if not row["declined"]]
    assert sum(score > threshold for score in others) <= 0.02 * len(others) + 1


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
def test_more_declines(answer):
    assert is_refusal(answer)


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
def test_answers_that_only_sound_like_declines(answer):
    assert not is_refusal(answer)


@pytest.mark.parametrize(
    ("answer", "declines"),
    [
        ("I am sorry, I have no information about that.", True),
        ("Leider haben wir dazu keine Angaben; bitte fragen Sie am Schalter.", True),
        ("Désolé, je ne sais pas.", True),
        ("Our handbook does not say.", True),
        ("Sorry, we do not rent out instruments.", False),
        ("No, we cannot take card payments at the kiosk.", False),
        ("Its prevalence is unknown.", False),
        ("The desk is open from nine. We do not know the price of other rooms.", False),
        (f"I do not know that. {'But the ferry leaves at nine. ' * 10}", False),
        ("", False),
    ],
)
def test_an_answer_of_the_data_only_declines_in_a_speakers_words(answer, declines):
    assert only_declines(answer) is declines
