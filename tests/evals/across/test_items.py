"""Which items two studies share, and what is said beside the figures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant_builder.errors import EvaluationError
from assistant_builder.files import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.study import Study
from evals.across import compare_studies, difference_rows
from tests.evals.across.scored import Samples, each, edit, make, note, verdict
from tests.fabricated import new_study, with_data


def test_items_are_found_by_what_is_asked_not_by_row(a: Study, b: Study) -> None:
    luck = random.Random(8)
    order = list(range(12))
    luck.shuffle(order)
    edit(b, each(lambda s: {"nll": 1.2 * s["nll"]}))
    straight = compare_studies(a, b)
    edit(b, lambda samples: [samples[place] | {"item": str(900 + number), "row": 900 + number}
                             for number, place in enumerate(order)])
    shuffled = compare_studies(a, b)
    assert shuffled["contrasts"] == straight["contrasts"] and shuffled["shared_items"] == 12


def test_items_of_one_study_only_are_left_out_and_counted(a: Study, b: Study) -> None:
    edit(a, lambda samples: samples[:9])
    edit(b, lambda samples: [samples[0] | {"reference": "Another."}, *samples[1:]])
    found = compare_studies(a, b)
    assert (found["shared_items"], found["only_a"], found["only_b"]) == (8, 1, 4)
    assert "1 held-out item that only narrow has and 4 that only wide has" in note(found, "Left out")


def test_another_system_prompt_is_compared_and_said(a: Study, b: Study) -> None:
    edit(b, each(lambda s: {"prompt": [{"role": "system", "content": "Be brief."}, *s["prompt"]]}))
    found = compare_studies(a, b)
    assert found["shared_items"] == 12
    assert note(found, "12 shared items were asked under different system prompts")


def test_the_same_system_prompt_finds_its_like_first(a: Study, b: Study) -> None:
    """A question asked under two system prompts in both studies, in another order: each goes with its own."""
    def twice(systems: tuple[str, str]) -> Callable[[Samples], Samples]:
        return lambda samples: [
            s | {"item": f"{s['item']} {system}", "nll": s["nll"] * (1 + len(system)),
                 "prompt": [{"role": "system", "content": system}, *s["prompt"]]}
            for system in systems for s in samples
        ]

    edit(a, twice(("Be brief.", "Be polite and complete.")))
    edit(b, twice(("Be polite and complete.", "Be brief.")))
    found = compare_studies(a, b)
    assert found["shared_items"] == 24 and verdict(found, "Q4")["ci"] == [0.0, 0.0]


def test_an_item_held_twice_is_paired_once_each(a: Study, b: Study) -> None:
    edit(a, lambda samples: [*samples, samples[0] | {"item": "again"}])
    found = compare_studies(a, b)
    assert (found["shared_items"], found["only_a"]) == (12, 1)


@pytest.mark.parametrize("shared", [0, 1])
def test_studies_that_share_too_little(a: Study, b: Study, shared: int) -> None:
    edit(b, lambda samples: [*samples[:shared], *(s | {"reference": "Another."} for s in samples[shared:])])
    with pytest.raises(EvaluationError, match="share no held-out" if not shared else "share 1 held-out") as caught:
        compare_studies(a, b)
    assert "same data file" in caught.value.remedy


def test_a_study_without_scores(a: Study, home: Path) -> None:
    fresh = with_data(new_study("fresh"))
    for pair in ((a, fresh), (fresh, a)):
        with pytest.raises(EvaluationError, match="fresh has not been evaluated") as caught:
            compare_studies(*pair)
        assert "run fresh" in caught.value.remedy




def test_held_out_items_the_other_was_trained_on(a: Study, home: Path) -> None:
    other = make("other", data__seed=3)
    held, trained_rows = ({r["row"] for r in read_jsonl(study.split_file("heldout"))} for study in (a, other))
    outside = len(held - trained_rows)
    assert 0 < outside < 12, "the seeds split differently"
    found = compare_studies(a, other)
    assert f"{outside} held-out items of narrow stand in the training or validation split of other" in note(
        found, "of narrow stand in")
    assert not [text for text in found["warnings"] if "leak" in text]

    leaked = read_jsonl(a.split_file("heldout"))[:2]
    leaked[0]["messages"][0]["content"] = leaked[0]["messages"][0]["content"].upper()
    trained_too = make("leaky")
    write_jsonl(trained_too.split_file("train"), [*read_jsonl(trained_too.split_file("train")), *leaked])
    split = read_json(trained_too.folder / "data" / "split.json")
    split["hashes"]["train"] = file_hash(trained_too.split_file("train"))
    write_json(trained_too.folder / "data" / "split.json", split)
    found = compare_studies(a, trained_too)
    assert note(found, "2 items of narrow compared here also stand in the training or validation split of leaky")
    (trained_too.folder / "data" / "split.json").unlink()
    assert len([text for text in compare_studies(a, trained_too)["warnings"] if "not on record" in text]) == 2


def test_differences_are_settings_data_and_what_it_ran_on(a: Study, b: Study) -> None:
    b.write_config(b.config.with_changes({
        "eval.judge_url": "http://judge.example/v1", "eval.judge_model": "judge", "eval.price_per_hour": 2,
        "eval.max_new_tokens": 99,
        "train.preset": "thorough",
    }))
    write_json(b.folder / "provenance.json", {"packages": {"torch": "2.13"}, "hardware": {"cpu": "Zen", "gpu": None}})
    found = compare_studies(a, b)
    changed = {row["setting"]: (row["a"], row["b"]) for row in found["differences"]}
    assert changed == {
        "train.rank": (16, 32), "train.alpha": (32.0, 64.0), "train.epochs": (3.0, 6.0), "train.evaluations": (4, 6),
        "eval.max_new_tokens": (64, 99), "torch": (None, "2.13"), "processor": (None, "Zen"),
    }
    assert "judge" not in json.dumps(found) and ["torch", "–", "2.13"] in difference_rows(found)
    assert note(found, "differ in more than one thing (train.rank, train.alpha, train.epochs, train.evaluations)")
    assert note(found, "not scored alike (eval.max_new_tokens)")
