"""The promise of a report: its test, its thresholds, its units and its words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from assistant_builder.arms import LORA, QLORA
from assistant_builder.atomic_io import read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.errors import StudyError
from assistant_builder.retrieval.decline import score_rule
from assistant_builder.retrieval.promise import kept, require_promise
from assistant_builder.study import Study
from evals.report.build import write_report
from evals.report.conclusion import conclude
from evals.report.promise import SHARES, SURE, Asked, p_value, price_rows, sentence, threshold_of
from evals.report.promise import _record as record
from evals.report.render import render_html
from tests.evals.test_approaches import both
from tests.typed_report import as_report

LEVEL = 1 - SURE


def asked(wrong: list[bool], confidence: list[float] | None = None) -> Asked:
    """Questions about a fact each."""
    return Asked.of(
        confidence or [1.0] * len(wrong), wrong, [str(each) for each in range(len(wrong))]
    )


@pytest.mark.parametrize("most", [0.05, 0.2])
@pytest.mark.parametrize("n", [40, 150])
def test_a_share_at_the_bound_is_rejected_no_oftener_than_the_level(most, n):
    counts = np.arange(n + 1)
    chance = binom.pmf(counts, n, most)
    values = [p_value(np.repeat([1 - most, -most], [k, n - k]), most) for k in counts]
    for level in (0.05, 0.01):
        assert chance[np.array(values) <= level].sum() <= level
    assert values == sorted(values)


def test_without_an_error_the_price_of_four_bets_is_at_most_four_times_the_p_value():
    for facts in (30, 100):
        value = asked([False] * facts).p_value(0.5, 0.05)
        assert 0.95**facts < value < 4.5 * 0.95**facts


def test_wordings_of_a_fact_count_once_and_questions_to_decline_keep_their_share():
    facts = ["a"] * 8 + ["b", "b"] + [None] * 5
    wrong = [True] * 4 + [False] * 6 + [True] * 5
    found = Asked.of([1.0] * 10 + [0.0] * 5, wrong, facts)
    # a half of "a", none of "b"; five of 15 questions are to be declined, and five of their 7 units
    assert found.weight.tolist() == [1.0, 1.0] + [0.2] * 5
    assert found.shares(0.5) == (pytest.approx(2 / 3), pytest.approx(1 / 4))
    assert found.shares(0.0) == (1.0, pytest.approx((0.5 + 1) / 3))


def test_declining_more_is_what_a_promise_costs():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 600)
    wrong = rng.uniform(size=600) < np.where(confidence < 0.6, 0.3, 0.005)
    found = asked(wrong.tolist(), confidence.tolist())
    thresholds = (0.7, 0.6, 0.5, 0.4)
    assert found.shares(0.4)[1] > 0.05
    assert threshold_of(found, thresholds, 0.05, LEVEL) == 0.6
    assert threshold_of(found, thresholds, 0.3, LEVEL) == 0.4
    assert threshold_of(found, thresholds, 0.001, LEVEL) is None
    of = record(found, thresholds, 0.05, LEVEL)
    assert of["threshold"] == 0.6 and of["answered"] < of["as_it_is"]["answered"]
    answered = [row["answered"] or 0.0 for row in of["price"]]
    assert [row["most_wrong"] for row in of["price"]] == list(SHARES)
    assert answered == sorted(answered)


def test_the_facts_that_would_do_are_enough_and_many_fewer_are_not():
    few = asked([False] * 29 + [True])
    needed = few.units_needed(0.5, 0.1, LEVEL)
    assert needed is not None and needed > 30
    for count, held in ((needed, True), (int(0.9 * needed), False)):
        losses = np.array([-0.1] * 29 + [0.9])
        assert (p_value(losses, 0.1, count / 30) <= LEVEL) is held
    assert few.units_needed(0.5, 0.03, LEVEL) is None


def test_a_promise_is_seldom_broken_where_thresholds_are_chosen():
    rng, broken = np.random.default_rng(7), 0
    for _ in range(400):
        confidence = rng.uniform(size=150)
        # at each threshold t the wrong share above it is (1 - t) / 8
        wrong = rng.uniform(size=150) < (1 - confidence) / 4
        found = asked(wrong.tolist(), confidence.tolist())
        threshold = threshold_of(found, (0.7, 0.6, 0.5, 0.4, 0.3), 0.1, LEVEL)
        broken += threshold is not None and (1 - threshold) / 8 > 0.1
    assert broken <= 400 * LEVEL


RULE = replace(score_rule(0.5, target=0.04, sentence="No."), stricter=(0.9, 0.7))


def promised(wrong: dict[str, int], low: float = 0.6, **changes: Any) -> Study:
    """A study with a report; ``wrong``: the wrong answers of an assistant, whose confidence is ``low``."""
    study = both({}, **changes)
    for arm, cell in (("lora", LORA.cell), ("qlora", QLORA.cell)):
        folder = study.cell_folder(cell)
        samples = read_jsonl(folder / "samples.jsonl")
        for place, sample in enumerate(samples):
            good = place >= wrong[arm] and sample["answerable"]
            given = sample["reference"] if good else "no"
            sample |= {
                **{"generated": given, "answer": given, "confidence": 0.95 if good else low},
                **{"sources": [], "declined": not sample["answerable"]},
            }
            sample["metrics"] |= {"exact_match": float(good)}
        write_jsonl(folder / "samples.jsonl", samples)
        counts = {"right": {"0": 0}, "declined": {"0": 0}, "items": 0, "to_decline": 0}
        counts |= {"follow_ups": {"right": 0, "items": 0}}
        scores = read_json(folder / "scores.json")
        write_json(folder / "scores.json", {**scores, "conversation": counts})
        file = {"inputs": {}, "rule": RULE.to_record(), "shown": 20, "verbatim": 1}
        write_json(study.arm_folder(arm) / "decline.json", file)
    write_report(study)
    return study.of_approach("grounded")


def test_the_report_promises_and_what_is_served_keeps_it():
    study = promised({"lora": 0, "qlora": 40}, retrieval__most_wrong=0.1)
    record = read_json(study.report_file)
    found = record["promise"]["cells"]
    # 286 wordings of 75 facts
    assert (record["promise"]["facts"], record["promise"]["to_decline"]) == (75, 66)
    assert found["L16"]["threshold"] == 0.5 and found["Q4"]["threshold"] == 0.7
    assert found["Q4"]["as_it_is"]["wrong"] > 0.1 > found["Q4"]["wrong"] == 0
    report = as_report(record)
    assert "at most 10% is wrong (95% sure" in sentence(report, "lora")
    assert "set retrieval.keep_promise" in sentence(report, "qlora")
    assert sentence(report, conclude(report).arm) in conclude(report).notes
    rows = price_rows(report)
    assert [row["most"] for row in rows if row["chosen"]] == ["10%"]
    assert "What a promise costs" in render_html(report)

    assert kept(study, "qlora", RULE) == RULE
    require_promise(study, "qlora")
    study = keeping(study)
    assert kept(study, "lora", RULE) == RULE
    assert kept(study, "qlora", RULE).thresholds == (0.9, 0.7, 0.7)
    assert kept(study, "qlora", RULE).follow_up_threshold == RULE.follow_up_threshold
    require_promise(study, "qlora")


def test_what_cannot_be_promised_is_not_served_with_a_promise():
    study = promised({"lora": 60, "qlora": 60}, low=0.99)
    report = as_report(read_json(study.report_file))
    assert "of what it answered" in sentence(report, "qlora")
    assert sentence(report, "copy") == ""
    require_promise(study, "qlora")
    with pytest.raises(StudyError, match="cannot make the promise for qlora"):
        require_promise(keeping(study), "qlora")


def keeping(study: Study) -> Study:
    """The same study, which keeps its promise."""
    study.write_config(study.config.with_changes({"retrieval.keep_promise": True}))
    return study
