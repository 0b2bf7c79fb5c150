from __future__ import annotations

import re

import pytest
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from benchmarks.refusal_agreement import agreement, labelled_answers, main
from evals.metrics.refusal import REFUSAL_PATTERNS, is_refusal

LABELLED = labelled_answers()
SETS = {
    name: [row for row in LABELLED if row["set"] == name] for name in ("first", "fresh", "indirect", "varied", "blind")
}


def test_the_labelled_answers_are_of_both_kinds() -> None:
    assert len({row["answer"] for row in LABELLED}) == len(LABELLED) == sum(map(len, SETS.values()))
    assert {name: (sum(row["declined"] for row in rows), len(rows)) for name, rows in SETS.items()} == {
        "first": (25, 50), "fresh": (20, 40), "indirect": (20, 20), "varied": (40, 80), "blind": (40, 80)
    }


def test_recogniser_agrees_with_the_labels_it_was_written_with() -> None:
    for name in ("first", "fresh"):
        assert not [row for row in SETS[name] if is_refusal(row["answer"]) is not row["declined"]]
    assert agreement(SETS["varied"]).recognised >= 36


def test_recogniser_on_answers_whose_writer_never_saw_it() -> None:
    found = agreement(SETS["blind"])
    assert found.false_positives <= 1
    assert found.recognised >= 16


def test_a_decline_in_the_datas_own_words_is_recognised_in_any_language() -> None:
    taught = ["Das steht nicht im Fahrplan; bitte am Kai fragen."]
    assert is_refusal("Das steht nicht im Fahrplan, bitte fragen am Kai.", taught)
    assert not is_refusal("Das steht nicht im Fahrplan, bitte fragen am Kai.")
    assert not is_refusal("Im Fahrplan steht: ab Kai drei.", taught)


def test_agreement_equals_the_statistics_libraries() -> None:
    found = agreement(SETS["blind"])
    said = [is_refusal(row["answer"]) for row in SETS["blind"]]
    labels = [row["declined"] for row in SETS["blind"]]
    square = [[sum(s is a and t is b for s, t in zip(said, labels, strict=True)) for b in (True, False)]
              for a in (True, False)]
    assert found.kappa == pytest.approx(cohens_kappa(square).kappa)
    agreed = square[0][0] + square[1][1]
    assert found.interval == pytest.approx(proportion_confint(agreed, len(said), method="wilson"))
    assert found.share == agreed / len(said)
    assert (found.recognised, found.false_positives) == (square[0][0], square[0][1])


def test_kappa_is_no_better_than_chance_for_a_blind_recogniser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.refusal_agreement.is_refusal", lambda answer: True)
    found = agreement(SETS["first"])
    assert (found.share, found.kappa, found.false_positives) == (0.5, 0.0, 25)
    assert agreement(SETS["indirect"]).kappa is None


def test_the_command_prints_counts_a_reader_can_check(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--wrong"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| first | 25 of 25 | 0 of 25 | 100.0% (92.9% to 100.0%) | 1.00 |"
    assert [line.split(" | ")[0] for line in lines[3:7]] == ["| fresh", "| indirect", "| varied", "| blind"]
    wrong = [row for row in LABELLED if is_refusal(row["answer"]) is not row["declined"]]
    assert len(lines[7:]) == len(wrong) > 0
    assert all(line.endswith(row["answer"]) for line, row in zip(lines[7:], wrong, strict=True))


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
def test_more_declines(answer: str) -> None:
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
def test_answers_that_only_sound_like_declines(answer: str) -> None:
    assert not is_refusal(answer)


def test_each_kind_is_a_pattern_of_its_own() -> None:
    for pattern in REFUSAL_PATTERNS.values():
        assert re.compile(pattern).search("an adult single costs 9 crowns.") is None
