from dataclasses import replace

import numpy as np
import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.errors import StudyError
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    FIRST_TOKENS,
    NAMES,
    TO_DECLINE,
    WITHHELD,
    DeclineRule,
    Evidence,
    Retrieved,
    evidence_of,
    far_from_everything,
    fit,
    judgement,
    rule_of,
)
from assistant_builder.retrieval.index import Fact, Hit
from assistant_builder.retrieval.prior import Prior, Priors
from assistant_builder.retrieval.retriever import Found
from assistant_builder.retrieval.why import low_evidence

FOUND = Retrieved(
    similarity=0.8, certainty=-0.3, nearby=0.5, answers=["The ferry leaves at nine.", "It is red."]
)


def evidence(rng: np.random.Generator, mean: float, count: int) -> list[Evidence]:
    """Evidence whose certainty alone tells answerable questions (high) from others (low)."""
    return [
        Evidence(
            similarity=0.7,
            certainty=float(rng.normal(mean, 0.1)),
            nearby=0.2,
            probability=float(rng.normal(-0.2, 0.1)),
            grounded=1.0,
        )
        for _ in range(count)
    ]


def fitted(seed: int = 0, count: int = 200, target: float = 0.05, gap: float = 0.4) -> DeclineRule:
    rng = np.random.default_rng(seed)
    rule = fit(
        [*evidence(rng, 0.4 + gap, count), *evidence(rng, 0.4, count)],
        [ANSWERABLE] * count + [WITHHELD] * count,
        [str(place) for place in range(count)] * 2,
        target=target,
        sentence="I don't know.",
    )
    assert rule is not None
    return rule


def test_the_rule_declines_what_was_not_found():
    rule, rng = fitted(), np.random.default_rng(1)
    assert np.mean([rule.declines(each) for each in evidence(rng, 0.4, 500)]) > 0.7
    assert np.mean([rule.declines(each) for each in evidence(rng, 0.8, 500)]) < 0.08
    assert rule.weights[1] > 1 and abs(rule.weights[3]) < 1  # the probability says nothing here


@pytest.mark.parametrize(("target", "count"), [(0.02, 200), (0.05, 200), (0.2, 200), (0.05, 40)])
def test_the_expected_share_of_false_declines_stays_at_the_target(target, count):
    shares = []
    for seed in range(60):  # even where the evidence hardly tells the two apart
        rule, rng = fitted(seed, count, target, gap=0.1), np.random.default_rng(seed + 1000)
        shares.append(np.mean([rule.declines(each) for each in evidence(rng, 0.5, 300)]))
        assert rule.guaranteed and (rule.declined + 1) / (rule.answerable + 1) <= target
    # two standard errors
    assert np.mean(shares) <= target + 2 * np.std(shares) / len(shares) ** 0.5


def test_a_small_validation_set_has_no_guarantee_and_declines_none_of_it():
    rule = fitted(count=20, target=0.04)
    assert not rule.guaranteed and rule.answerable == 20 and rule.declined == 0


PRIOR = Prior(
    certainty=3.0, nearby=4.0, bias=-1.0, below=(-9.0, -9.0, -9.0, -2.0, -1.0, 0.0, 1.0, 1.0, 1.0)
)


def few(count: int, priors: Priors | None) -> DeclineRule:
    rng = np.random.default_rng(0)
    rule = fit(
        [*evidence(rng, 0.8, count), *evidence(rng, 0.4, count)],
        [ANSWERABLE] * count + [WITHHELD] * count,
        [str(place) for place in range(count)] * 2,
        target=0.04,
        sentence="",
        priors=priors,
    )
    assert rule is not None
    return rule


def log_odds(confidence: float) -> float:
    return float(np.log(confidence / (1 - confidence)))


def test_with_few_questions_the_log_odds_are_averaged_with_those_of_other_sheets():
    asked = Evidence(0.7, 0.55, 0.1, -0.2, 1.0)
    own, both = few(7, None), few(7, {True: PRIOR})
    prior = 3.0 * 0.55 + 4.0 * 0.1 - 1.0
    expected = (log_odds(own.confidence(asked)) + 2 * prior) / 3  # 7 questions, the prior is 14
    assert log_odds(both.confidence(asked)) == pytest.approx(expected)
    threshold = (
        log_odds(own.threshold) + 2 * -1.0
    ) / 3  # the fifth of the shares is 1.25 times 4 %
    assert log_odds(both.threshold) == pytest.approx(threshold)
    assert both.declines(replace(asked, nearby=-0.01)), "the nearest question is one to decline"
    assert not both.guaranteed and both.answerable == 7
    known = few(7, {False: PRIOR})  # that of sheets without a question to decline
    assert known == own


def test_a_prior_may_decline_every_validation_question():
    strict = replace(PRIOR, below=(50.0,) * 9)
    rule = few(7, {True: strict})
    assert rule.declined == rule.answerable == 7 and rule.thresholds == (rule.threshold,)


def test_enough_questions_decide_without_other_sheets():
    assert few(24, {True: PRIOR}) == few(24, None)
    assert few(23, {True: PRIOR}) != few(23, None)


def test_other_sheets_decide_where_no_evidence_tells_the_kinds_apart():
    same = [Evidence(0.7, -0.5, 0.7, 0.0, 1.0)] * 4
    kinds = [ANSWERABLE] * 2 + [WITHHELD] * 2
    prior = Prior(certainty=3.0, nearby=0.0, bias=1.0, below=(-1.0,) * 9)

    def fitted(priors: Priors | None) -> DeclineRule | None:
        return fit(same, kinds, list("abab"), target=0.04, sentence="", priors=priors)

    assert fitted(None) is None
    rule = fitted({False: prior})
    assert rule is not None and log_odds(rule.threshold) == pytest.approx(-1.0)
    assert log_odds(rule.confidence(same[0])) == pytest.approx(-0.5)


def test_an_improbable_answer_is_never_more_certain_to_be_right():
    """Three answerable questions were answered with less certainty than three to decline, by chance."""
    sure = [Evidence(0.8, 0.0, 0.5, -0.1, 1.0)] * 3
    unsure = [Evidence(0.4, -1.0, 0.1, -0.01, 1.0)] * 3
    kinds = [ANSWERABLE] * 3 + [TO_DECLINE] * 3
    rule = fit([*sure, *unsure], kinds, list("abcdef"), target=0.04, sentence="")
    assert rule is not None and min(rule.weights) == rule.weights[3] == 0
    assert rule.declines(Evidence(0.2, -2.0, 0.1, -0.9, 0.0))


def test_how_alike_a_question_is_worded_does_not_decide():
    """Visitors word their questions less like the data than validation does."""
    near, far = [Evidence(0.9, -0.2, 0.3, 0.0, 1.0)] * 20, [Evidence(0.4, -1.5, 0.3, 0.0, 1.0)] * 20
    kinds = [ANSWERABLE] * 20 + [WITHHELD] * 20
    rule = fit([*near, *far], kinds, list(map(str, range(40))), target=0.05, sentence="")
    assert rule is not None and rule.weights[0] == 0
    assert not rule.declines(Evidence(0.5, -0.2, 0.3, 0.0, 1.0))
    # without a known question to decline the lead over it is the same score
    alike = [replace(each, nearby=each.similarity) for each in (*near, *far)]
    rule = fit(alike, kinds, list(map(str, range(40))), target=0.05, sentence="")
    assert rule is not None and rule.weights[0] == rule.weights[2] == 0 < rule.weights[1]
    assert not rule.declines(Evidence(0.5, -0.2, 0.5, 0.0, 1.0))


def withheld(scores: list[float]) -> list[Evidence]:
    """Evidence of training questions whose own fact is withheld."""
    return [Evidence(score, 0.0, score, 0.0, 1.0) for score in scores]


def test_what_is_nearest_to_a_question_to_decline_is_declined():
    sure = Evidence(0.9, 3.0, -0.01, 0.0, 1.0)
    for rule in (fitted(), far_from_everything(withheld([0.5] * 20), target=0.04, sentence="")):
        assert rule.declines(sure) and not rule.declines(replace(sure, nearby=0.01))
        assert low_evidence(sure, rule, NAMES) == ["nearby"]
    # such a question among few of validation does not make the rule answer everything
    rng = np.random.default_rng(3)
    known = [replace(each, nearby=-0.01) for each in evidence(rng, 0.8, 1)]
    known += evidence(rng, 0.8, 5)
    kinds = [ANSWERABLE] * 6 + [WITHHELD] * 6
    some = fit(
        [*known, *evidence(rng, 0.1, 6)], kinds, list("abcdef") * 2, target=0.04, sentence=""
    )
    assert some is not None and some.threshold > 0 and some.declined == 1
    unsure = [replace(each, nearby=-0.01) for each in evidence(rng, 0.1, 6)]
    none = fit([*known, *unsure], kinds, list("abcdef") * 2, target=0.04, sentence="")
    assert none is not None and none.declines(sure) and none.recognised == 6


def test_without_evidence_that_tells_them_apart_there_is_no_rule():
    """In the few questions of a small sheet every evidence may speak for those to decline."""
    good, bad = [Evidence(0.5, -2.0, 0.5, 0.0, 1.0)] * 6, [Evidence(0.5, -0.1, 0.5, 0.0, 1.0)] * 6
    kinds = [ANSWERABLE] * 6 + [WITHHELD] * 6
    assert fit([*good, *bad], kinds, list("abcdef") * 2, target=0.04, sentence="") is None
    assert fit([*bad, *good], kinds, list("abcdef") * 2, target=0.04, sentence="") is not None


def test_without_facts_of_both_kinds_in_two_folds_there_is_no_rule():
    rng = np.random.default_rng(0)
    assert fit([], [], [], target=0.04, sentence="") is None
    assert (
        fit(evidence(rng, 0.8, 4), [ANSWERABLE] * 4, list("abcd"), target=0.04, sentence="") is None
    )
    kinds = [ANSWERABLE, ANSWERABLE, WITHHELD, TO_DECLINE]
    assert fit(evidence(rng, 0.8, 4), kinds, list("aaab"), target=0.04, sentence="") is None
    assert fit(evidence(rng, 0.8, 4), kinds, list("abab"), target=0.04, sentence="") is not None


@pytest.mark.parametrize(("count", "share"), [(100, 0.5), (60, 0.5), (30, 1 / 3), (10, 1 / 7)])
def test_withheld_and_real_questions_count_equally_unless_there_are_few(count, share):
    """Evidence that is constant within each kind, so that the weights of the kinds decide the bias of the rest."""

    def at(certainty: float, number: int) -> list[Evidence]:
        return [Evidence(0.0, certainty, 0.0, 0.0, 0.0)] * number

    both = [*at(1.0, 300), *at(0.0, 300), *at(1.0, count)]  # real ones look like answerable ones
    rule = fit(
        both,
        [ANSWERABLE] * 300 + [WITHHELD] * 300 + [TO_DECLINE] * count,
        [str(place) for place in range(len(both))],
        target=0.05,
        sentence="",
    )
    assert rule is not None
    assert rule.confidence(at(1.0, 1)[0]) == pytest.approx(1 / (1 + share), abs=0.03)


def test_an_answer_is_grounded_if_it_begins_as_a_fact():
    def grounded(text: str) -> float:
        return evidence_of(FOUND, text, [-0.1], ["It is red."]).grounded

    assert grounded("The ferry leaves at nine.") == grounded("the ferry leaves at") == 1
    assert grounded("The ferry leaves at ten.") == grounded("") == 0
    assert grounded("It is red.") == 0, "what the data say to decline is no answer"


def test_only_the_first_tokens_count():
    sure, late = [-0.1] * FIRST_TOKENS, [-9.0] * 5
    assert evidence_of(FOUND, "The ferry leaves at nine", sure, ()) == evidence_of(
        FOUND, "The ferry leaves at nine", sure + late, ()
    )


def test_a_rule_survives_its_file(tmp_path):
    rule, path = fitted(), tmp_path / "decline.json"
    assert rule_of(path) is None
    write_json(path, {"inputs": {}, "rule": rule.to_record()})
    assert rule_of(path) == rule
    write_json(path, {"inputs": {}, "rule": None})
    assert rule_of(path) is None
    for damage in (
        {"evidence": ["similarity"]},
        {"weights": None, "bogus": 1},
        {"bogus": 1},
        {"center": [1.0]},
        *({name: value} for name in rule.to_record() for value in ({}, "x")),
    ):
        if damage == {"sentence": "x"}:
            continue
        write_json(path, {"inputs": {}, "rule": {**rule.to_record(), **damage}})
        with pytest.raises(StudyError, match="damaged or of another version"):
            rule_of(path)


def test_equal_evidence_gives_an_equal_rule():
    assert fitted() == fitted() and fitted() != replace(fitted(), threshold=0.0)


def test_the_threshold_leaves_room_for_harder_wordings():
    """Answerable questions of validation are easy to tell; harder ones are nearer to those with a withheld fact."""
    rule, rng = fitted(gap=0.8), np.random.default_rng(1)
    assert np.mean([rule.declines(each) for each in evidence(rng, 0.65, 500)]) < 0.1
    assert 0.7 < np.mean([rule.declines(each) for each in evidence(rng, 0.4, 500)]) < 0.9


@pytest.mark.parametrize("scores", [[], [0.4] * 5, [0.1 * step for step in range(20)]])
def test_there_is_always_a_rule_that_declines_what_is_far(scores):
    rule = far_from_everything(withheld(scores), target=0.04, sentence="No.")

    def at(score: float) -> Evidence:
        return Evidence(score, 0.0, 0.0, 0.0, 0.0)

    assert rule.declines(at(0.02)) and not rule.declines(at(1.9))
    if len(scores) == 20:  # a score that many answers share is no reason to answer
        assert not rule.declines(at(0.5)) and rule.declines(replace(at(0.5), certainty=-1.0))
        assert rule.recognised == 5


def test_few_second_looks_of_questions_to_decline_are_answered():
    rng = np.random.default_rng(2)
    known, unknown, second = (evidence(rng, mean, 200) for mean in (0.8, 0.4, 0.55))
    rule = fit(
        [*known, *unknown],
        [ANSWERABLE] * 200 + [WITHHELD] * 200,
        [str(place) for place in range(200)] * 2,
        target=0.05,
        sentence="No.",
        follow_ups=second,
    )
    assert rule is not None and rule.follow_up_threshold >= rule.named_threshold >= rule.threshold
    sure = np.array([rule.confidence(each) for each in second])
    assert (
        0
        < (sure >= rule.follow_up_threshold).sum()
        <= 6
        < 40
        < (sure >= rule.named_threshold).sum()
        <= 60
    )


def test_two_answers_tie_where_none_is_likelier_than_all_others():
    def found(second: float, certainty: float, nearby: float = 0.8, same: str = "") -> Found:
        scores = (0.8, second)
        near = tuple(
            Hit(
                Fact(
                    row,
                    0,
                    same[: 6 - row] or f"Q{row}?",
                    f"A{row}",
                    "",
                    None,
                    None,
                    answerable=True,
                ),
                score,
                0.0,
                score,
            )
            for row, score in enumerate(scores)
        )
        return Found([], [near[0]], Retrieved(0.8, certainty, nearby, ("A0",)), near)

    assert found(0.79, -1.0).tied
    assert not found(0.77, -1.0).tied and not found(0.79, -0.6).tied
    assert found(0.79, -1.0).suggestions == ["Q0?", "Q1?"]
    # one question with two answers is asked back by nobody: "Open?" and "Open"
    alike = found(0.79, -1.0, same="Open? ")
    assert alike.suggestions == ["Open? "] and not alike.tied
    assert found(0.2, -1.0).suggestions == ["Q0?"]  # far from everything is not offered
    assert found(0.79, -1.0, -0.05).suggestions and not found(0.79, -1.0, -0.3).suggestions


def test_the_reason_names_the_evidence_that_was_low_and_what_to_add():
    rule = far_from_everything(withheld([0.5] * 20), target=0.04, sentence=DECLINE_SENTENCE)
    said = judgement(
        "copy",
        Evidence(0.3, -0.1, 0.3, 0.0, 1.0),
        rule,
        nearest=("Is it open?", 0.3),
        declined=True,
        suggestions=["Is it open?"],
    )
    assert said["reason"].endswith("No question of the data is worded much like this one.")
    assert said["advice"].startswith("If “Is it open?” asks the same")
    assert said["suggestions"] == ["Is it open?"]
    weights = (0.0, 2.0, 0.0, 1.0, 3.0)
    unsure = replace(rule, weights=weights, center=(0.0,) * 5, scale=(1.0,) * 5)
    low = low_evidence(Evidence(0.9, -1.0, 0.9, -0.5, 0.0), unsure, NAMES)
    assert low == ["certainty", "probability"]
    assert low_evidence(Evidence(0.9, 1.0, 0.9, 0.5, 1.0), unsure, NAMES) == ["similarity"]
    alone = judgement("copy", Evidence(0, 0, 0, 0, 1), rule, nearest=None, declined=True)
    assert alone["advice"].startswith("Add a row")
