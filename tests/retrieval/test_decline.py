from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.errors import StudyError
from assistant_builder.retrieval.decline import (
    FIRST_TOKENS,
    DeclineRule,
    Evidence,
    Retrieved,
    evidence_of,
    fit,
    rule_of,
)

FOUND = Retrieved(similarity=0.8, margin=0.3, words=0.6, nearby=0.5, agreement=1.0)


def evidence(rng: np.random.Generator, mean: float, count: int) -> list[Evidence]:
    """Evidence whose similarity alone tells answerable questions (high) from others (low)."""
    return [Evidence(similarity=float(rng.normal(mean, 0.1)), margin=0.1, words=0.5, nearby=0.2, agreement=0.6,
                     probability=float(rng.normal(-0.2, 0.1)), lowest=-1.0, refusal=0.0) for _ in range(count)]


def fitted(seed: int = 0, count: int = 200, target: float = 0.05, gap: float = 0.4) -> DeclineRule:
    rng = np.random.default_rng(seed)
    good, bad = evidence(rng, 0.4 + gap, count), evidence(rng, 0.4, count)
    halves = [place % 2 for place in range(count)]
    rule = fit(good, bad, (halves, halves), target=target, sentence="I don't know.")
    assert rule is not None
    return rule


def test_the_rule_declines_what_was_not_found() -> None:
    rule, rng = fitted(), np.random.default_rng(1)
    assert np.mean([rule.declines(each) for each in evidence(rng, 0.4, 500)]) > 0.9
    assert np.mean([rule.declines(each) for each in evidence(rng, 0.8, 500)]) < 0.08
    assert rule.weights[0] > 1 and abs(rule.weights[5]) < 1  # the probability says nothing here


@pytest.mark.parametrize("target", [0.02, 0.05, 0.2])
def test_the_expected_share_of_false_declines_stays_at_the_target(target: float) -> None:
    shares = []
    for seed in range(60):  # even where the evidence hardly tells the two apart
        rule, rng = fitted(seed, 200, target, gap=0.1), np.random.default_rng(seed + 1000)
        shares.append(np.mean([rule.declines(each) for each in evidence(rng, 0.5, 300)]))
        assert rule.guaranteed and (rule.declined + 1) / (rule.answerable + 1) <= target
    assert np.mean(shares) <= target + 0.005  # two standard errors of the simulation


def test_a_small_validation_set_has_no_guarantee_and_declines_none_of_it() -> None:
    rule = fitted(count=20, target=0.04)
    assert not rule.guaranteed and rule.answerable == 10 and rule.declined == 0


def test_without_questions_of_a_kind_in_a_half_there_is_no_rule() -> None:
    rng = np.random.default_rng(0)
    assert fit(evidence(rng, 0.8, 3), [], ([0, 1, 1], []), target=0.04, sentence="") is None
    assert fit(evidence(rng, 0.8, 3), evidence(rng, 0.4, 2), ([0, 0, 0], [0, 1]), target=0.04, sentence="") is None


def test_only_the_first_tokens_count() -> None:
    sure, late = [-0.1] * FIRST_TOKENS, [-9.0] * 5
    assert evidence_of(FOUND, "The ferry leaves at nine", sure, ()) == evidence_of(
        FOUND, "The ferry leaves at nine", sure + late, ())
    assert evidence_of(FOUND, "I don't know; the handbook does not say.", sure, ()).refusal == 1


def test_a_rule_survives_its_file(tmp_path: Path) -> None:
    rule, path = fitted(), tmp_path / "decline.json"
    assert rule_of(path) is None
    write_json(path, {"inputs": {}, "rule": rule.to_record()})
    assert rule_of(path) == rule
    write_json(path, {"inputs": {}, "rule": None})
    assert rule_of(path) is None
    for damage in ({"evidence": ["similarity"]}, {"weights": None, "bogus": 1}):
        write_json(path, {"inputs": {}, "rule": {**rule.to_record(), **damage}})
        with pytest.raises(StudyError, match="damaged or of another version"):
            rule_of(path)


def test_equal_evidence_gives_an_equal_rule() -> None:
    assert fitted() == fitted() and fitted() != replace(fitted(), threshold=0.0)
