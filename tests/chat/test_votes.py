"""Blind votes: records, counting and the test of a preference, which may be read after each vote."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.chat.conversation import Answer, Choice, Turn
from assistant_builder.chat.feedback import (
    Tally,
    counted_votes,
    log_evidence,
    model_of,
    read_votes,
    record_vote,
    tally,
    tally_sentence,
    vote_p_value,
    votes_file,
)
from assistant_builder.data import Message
from assistant_builder.errors import StudyError
from assistant_builder.inference.chunks import Sampling
from assistant_builder.study import Study
from tests.synthetic_study import new_study, trained


@pytest.fixture
def study() -> Study:
    return trained(new_study())


def asked(
    question: str = "Why?", sides: tuple[str, str] = ("lora", "qlora"), **answers: str
) -> Turn:
    said = {"qlora": "four", "lora": "sixteen", **answers}
    return Turn(
        question,
        {arm: Answer(text) for arm, text in said.items()},
        sides,
        blind=True,
        sampling=Sampling(temperature=0.5, seed=9),
    )


def cast(study: Study, vote: Choice, question: str, **changes: Any) -> None:
    record_vote(study, asked(question, **changes), [Message("user", question)], vote)


def test_a_vote_is_recorded_completely_in_one_line(study):
    cast(study, "a", "متى يفتح؟")
    (line,) = votes_file(study).read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "question": "متى يفتح؟",
        "conversation": [{"role": "user", "content": "متى يفتح؟"}],
        "answers": {"qlora": "four", "lora": "sixteen"},
        "sides": {"a": "lora", "b": "qlora"},
        "vote": "a",
        "sampling": {
            "max_new_tokens": 256,
            "temperature": 0.5,
            "top_p": 1.0,
            "seed": 9,
            "look_up": True,
            "corrected": True,
        },
        "model": model_of(study),
    }
    assert read_votes(study)[0].winner == "lora"


def test_votes_for_sides_are_counted_for_arms(study):
    cast(study, "a", "1")
    cast(study, "a", "2", sides=("qlora", "lora"))
    cast(study, "b", "3", sides=("qlora", "lora"))
    cast(study, "tie", "4")
    cast(study, "both bad", "5")
    assert tally(study) == Tally(candidate=1, baseline=2, ties=1, both_bad=1, p_value=1.0)


def test_votes_on_other_adapters_and_second_votes_on_the_same_answers_do_not_count(study):
    cast(study, "a", "1")
    cast(study, "b", "1", sides=("lora", "qlora"))  # the sides are revealed by now
    cast(study, "b", "1", qlora="five")
    assert tally(study) == replace(Tally(), candidate=1, baseline=1, repeated=1)
    path = study.arm_folder("lora") / "summary.json"
    write_json(path, {**read_json(path), "adapter_sha256": "new"})
    assert tally(study) == replace(Tally(), outdated=3)
    assert counted_votes(read_votes(study), {}) == []


def test_invalid_votes_are_rejected(study):
    refused = [
        asked(qlora="sixteen"),
        replace(asked(), vote="tie"),
        replace(asked(), blind=False),
        Turn("Why?"),
    ]
    for turn in refused:
        with pytest.raises(StudyError):
            record_vote(study, turn, [], "a")
    record_vote(study, refused[0], [], "both bad")
    assert tally(study).both_bad == 1


def test_a_damaged_file_is_reported(study):
    votes_file(study).write_text('{"time": 1}\n')
    with pytest.raises(StudyError, match="line 1 is damaged"):
        tally(study)


@pytest.mark.parametrize(("wins", "losses"), [(7, 9), (0, 6), (12, 1), (5, 5)])
def test_the_evidence_averages_the_likelihood_over_all_shares(wins, losses):
    averaged, _ = quad(lambda share: share**wins * (1 - share) ** losses, 0, 1)
    assert log_evidence(wins, losses, 0.5) == pytest.approx(
        math.log(averaged / 0.5 ** (wins + losses))
    )
    assert vote_p_value(wins, losses) == pytest.approx(min(1, 0.5 ** (wins + losses) / averaged))


def test_looking_after_each_of_200_votes_finds_no_preference_in_19_of_20_studies():
    wins = np.cumsum(np.random.default_rng(0).integers(0, 2, (2000, 200)), axis=1)
    cutoffs = [
        {won for won in range(n + 1) if vote_p_value(won, n - won) <= 0.05} for n in range(1, 201)
    ]
    found = sum(any(won in cutoffs[n] for n, won in enumerate(study)) for study in wins.tolist())
    assert 0 < found <= 0.05 * 2000


def test_the_tally_sentence():
    assert tally_sentence(Tally()) == "No votes yet."
    shown = Tally(7, 9, 4, 0, p_value=vote_p_value(7, 9))
    assert tally_sentence(shown) == "Compact 7, Full 9, 4 the same: no preference shown, p = 1.00."
    clear = Tally(1, 12, 1, 2, p_value=vote_p_value(1, 12))
    assert (
        tally_sentence(clear)
        == "Compact 1, Full 12, 1 the same, 2 both bad: Full is preferred, p = 0.022."
    )
    assert (
        tally_sentence(Tally(ties=2))
        == "Compact 0, Full 0, 2 the same: no vote prefers one assistant yet."
    )
    assert "p < 0.001" in tally_sentence(Tally(20, 0, p_value=vote_p_value(20, 0)))
