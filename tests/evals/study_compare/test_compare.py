"""The figures of a comparison of two studies are those of the paired statistics, whatever the tokenizers.

Which items two studies share, and what is said beside the figures.
"""

import random
from collections.abc import Callable

import pytest

from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_jsonl
from assistant_builder.errors import EvaluationError
from evals import declaration
from evals.compare import paired_comparison
from evals.study_compare import compare_studies, contrast_rows
from tests.evals.study_compare.scored_studies import (
    CELLS,
    Samples,
    each,
    edit,
    make,
    note,
    row,
    verdict,
)
from tests.synthetic_study import new_study, with_data


def test_a_study_against_itself_differs_by_exactly_nothing(a):
    found = compare_studies(a, a)
    assert found["shared_items"] == 12
    assert found["only_a"] == 0
    assert found["only_b"] == 0
    assert found["differences"] == []
    assert [row["delta"] for row in found["contrasts"]] == [0.0] * len(found["contrasts"])
    assert {row["cell"] for row in found["contrasts"]} == set(CELLS)
    assert [(v["cell"], v["outcome"], v["delta"], v["ci"]) for v in found["verdicts"]] == [
        ("Q4", "no worse", 0.0, [0.0, 0.0]),
        ("L16", "no worse", 0.0, [0.0, 0.0]),
    ]
    assert note(found, "the same study")


def test_every_figure_is_that_of_the_paired_statistics(a, b):
    luck = random.Random(4)
    edit(b, each(lambda s: {"nll": s["nll"] * luck.uniform(0.8, 1.3)}))
    found = compare_studies(a, b)
    assert {row["name"] for row in found["contrasts"]} == {"B16: B-A", "L16: B-A", "Q4: B-A"}
    for record in found["contrasts"]:
        assert record["delta"] == pytest.approx(record["b"] - record["a"], abs=1e-12)
        assert record["p_value_holm"] >= record["p_value"]
    ours, theirs = (read_jsonl(study.cell_folder("Q4") / "samples.jsonl") for study in (a, b))
    expected = paired_comparison(
        [s["nll"] / s["tokens"] for s in ours],
        [s["nll"] / s["tokens"] for s in theirs],
        weights=[s["tokens"] for s in ours],
        margin=0.03,
        higher_is_better=False,
        resamples=400,
    )
    loss = row(found, "Q4", "nll_per_token")
    assert loss["delta"] == expected.delta
    assert loss["ci_low"] == expected.ci_low
    assert loss["ci_high"] == expected.ci_high
    assert loss["p_value"] == expected.p_value
    assert loss["n"] == 12
    assert verdict(found, "Q4")["outcome"] == expected.verdict
    assert loss["a"] == pytest.approx(
        sum(s["nll"] for s in ours) / sum(s["tokens"] for s in ours), abs=1e-12
    )


def test_the_verdict_goes_by_the_margin_and_metric_of_a(a, b):
    a.write_config(a.config.with_changes({"eval.primary_metric": "token_f1", "eval.margin": 0.6}))
    found = compare_studies(a, b)
    assert [(v["metric"], v["margin"]) for v in found["verdicts"]] == [("token_f1", 0.6)] * 2
    assert "token F1, margin 0.6" in note(
        found, "defines its verdict on loss with a margin of 0.03"
    )
    assert "within the 60 points that narrow allows" in found["sentence"]


def test_without_the_primary_metric_there_is_no_verdict(a, b):
    a.write_config(a.config.with_changes({"eval.primary_metric": "chrf"}))
    edit(
        b,
        each(
            lambda s: {
                "metrics": {key: value for key, value in s["metrics"].items() if key != "chrf"}
            }
        ),
    )
    found = compare_studies(a, b)
    assert found["verdicts"] == [] and "no verdict" in found["sentence"]
    assert note(found, "chrF, which decides the verdict, was not scored in both")
    assert not [record for record in found["contrasts"] if record["metric"] == "chrf"]


def test_a_metric_is_figured_on_the_items_that_have_it_in_both(a, b):
    def drop(kept: range) -> Callable[[Samples], Samples]:
        return lambda samples: [
            s
            if place in kept
            else s | {"metrics": {k: v for k, v in s["metrics"].items() if k != "rouge_l"}}
            for place, s in enumerate(samples)
        ]

    edit(a, drop(range(0, 9)))
    edit(b, drop(range(4, 12)))
    found = compare_studies(a, b)
    assert row(found, "Q4", "rouge_l")["n"] == 5 and row(found, "Q4", "token_f1")["n"] == 12
    edit(a, drop(range(0, 5)))
    left = {record["metric"] for record in compare_studies(a, b)["contrasts"]}
    assert "token_f1" in left and "rouge_l" not in left, "a single item has no interval"


def test_clusters_of_a_claim_about_facts_are_those_of_a_or_else_of_b(a, b, monkeypatch):
    # without the families of the data
    monkeypatch.setitem(declaration._LABELS, "facts", ("cluster",))
    a.write_config(a.config.with_changes({"eval.estimand": "facts"}))
    luck = random.Random(7)
    edit(b, each(lambda s: {"nll": s["nll"] * luck.uniform(0.8, 1.3)}))
    assert row(compare_studies(a, b), "Q4", "nll_per_token")["n_clusters"] == 6
    edit(
        b,
        lambda samples: [s | {"cluster": f"fact {place // 3}"} for place, s in enumerate(samples)],
    )
    assert row(compare_studies(a, b), "Q4", "nll_per_token")["n_clusters"] == 4
    edit(
        a,
        lambda samples: [s | {"cluster": f"fact {place // 2}"} for place, s in enumerate(samples)],
    )
    assert row(compare_studies(a, b), "Q4", "nll_per_token")["n_clusters"] == 6
    edit(a, each(lambda s: {"cluster": "the only one"}))
    with pytest.raises(EvaluationError, match="which has no interval"):
        compare_studies(a, b)


def test_another_tokenizer_makes_it_a_loss_per_byte(a, b):
    for study in (a, b):
        edit(
            study,
            lambda samples: [
                s | {"reference": "Größe: 5 €"} if place == 0 else s
                for place, s in enumerate(samples)
            ],
        )
    edit(b, each(lambda s: {"tokens": 2 * s["tokens"] + 1, "nll": 1.1 * s["nll"]}))
    found = compare_studies(a, b)
    assert found["loss"] == "nll_per_byte"
    assert not [record for record in found["contrasts"] if record["metric"] == "nll_per_token"]
    ours, theirs = (read_jsonl(study.cell_folder("Q4") / "samples.jsonl") for study in (a, b))
    size = sum(len(s["reference"].encode()) for s in ours)
    assert len(ours[0]["reference"].encode()) == 14
    loss = row(found, "Q4", "nll_per_byte")
    assert loss["a"] == pytest.approx(sum(s["nll"] for s in ours) / size, abs=1e-12)
    more = sum(s["nll"] for s in theirs) - sum(s["nll"] for s in ours)
    assert loss["delta"] == pytest.approx(more / size, abs=1e-12)
    judged = verdict(found, "Q4")
    assert judged["metric"] == "nll_per_byte"
    assert judged["margin"] == pytest.approx(0.03 * sum(s["tokens"] for s in ours) / size)
    assert "nats per byte higher" in judged["sentence"]
    assert note(found, "nats per UTF-8 byte") and "nats per byte" in contrast_rows(found)[0][1]
    assert row(found, "Q4", "token_f1")["delta"] == 0


def test_items_are_found_by_what_is_asked_not_by_row(a, b):
    luck = random.Random(8)
    order = list(range(12))
    luck.shuffle(order)
    edit(b, each(lambda s: {"nll": 1.2 * s["nll"]}))
    straight = compare_studies(a, b)
    edit(
        b,
        lambda samples: [
            samples[place] | {"item": str(900 + number), "row": 900 + number}
            for number, place in enumerate(order)
        ],
    )
    shuffled = compare_studies(a, b)
    assert shuffled["contrasts"] == straight["contrasts"] and shuffled["shared_items"] == 12


def test_items_of_one_study_only_are_left_out_and_counted(a, b):
    edit(a, lambda samples: samples[:9])
    edit(b, lambda samples: [samples[0] | {"reference": "Another."}, *samples[1:]])
    found = compare_studies(a, b)
    assert (found["shared_items"], found["only_a"], found["only_b"]) == (8, 1, 4)
    assert "1 held-out item of narrow alone and 4 of wide alone" in note(found, "Not compared")


def test_another_system_prompt_is_compared_and_said(a, b):
    edit(b, each(lambda s: {"prompt": [{"role": "system", "content": "Be brief."}, *s["prompt"]]}))
    found = compare_studies(a, b)
    assert found["shared_items"] == 12
    assert note(found, "12 shared items have different system prompts")


def test_an_item_held_twice_is_paired_once_each(a, b):
    edit(a, lambda samples: [*samples, samples[0] | {"item": "again"}])
    found = compare_studies(a, b)
    assert (found["shared_items"], found["only_a"]) == (12, 1)


@pytest.mark.parametrize("shared", [0, 1])
def test_studies_that_share_too_little(a, b, shared):
    edit(
        b,
        lambda samples: [
            *samples[:shared],
            *(s | {"reference": "Another."} for s in samples[shared:]),
        ],
    )
    with pytest.raises(
        EvaluationError, match="share 0 held-out" if not shared else "share 1 held-out"
    ) as caught:
        compare_studies(a, b)
    assert "same data file" in str(caught.value.remedy)


def test_a_study_without_scores(a, home):
    fresh = with_data(new_study("fresh"))
    for pair in ((a, fresh), (fresh, a)):
        with pytest.raises(EvaluationError, match="fresh has not been evaluated") as caught:
            compare_studies(*pair)
        assert "run fresh" in str(caught.value.remedy)


def test_held_out_items_the_other_was_trained_on(a, home):
    other = make("other", data__seed=3)
    held, trained_rows = (
        {r["row"] for r in read_jsonl(study.split_file("heldout"))} for study in (a, other)
    )
    outside = len(held - trained_rows)
    assert 0 < outside < 12, "the seeds split differently"
    found = compare_studies(a, other)
    assert (
        f"{outside} held-out items of narrow are in the training or validation split of other"
        in note(found, "of narrow are in")
    )
    assert not [text for text in found["warnings"] if "leak" in text]

    leaked = read_jsonl(a.split_file("heldout"))[:2]
    leaked[0]["messages"][0]["content"] = leaked[0]["messages"][0]["content"].upper()
    trained_too = make("leaky")
    write_jsonl(
        trained_too.split_file("train"), [*read_jsonl(trained_too.split_file("train")), *leaked]
    )
    split = read_json(trained_too.folder / "data" / "split.json")
    split["hashes"]["train"] = file_hash(trained_too.split_file("train"))
    write_json(trained_too.folder / "data" / "split.json", split)
    found = compare_studies(a, trained_too)
    assert note(
        found, "2 compared items of narrow are also in the training or validation split of leaky"
    )
    (trained_too.folder / "data" / "split.json").unlink()
    assert (
        len(
            [
                text
                for text in compare_studies(a, trained_too)["warnings"]
                if "not on record" in text
            ]
        )
        == 2
    )
