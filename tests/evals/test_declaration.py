"""What is declared before scoring, how it is resolved from the data, and what a later change shows."""

from pathlib import Path
from typing import Any

import pytest

from assistant_builder.atomic_io import file_hash, read_json, write_json, write_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.data.types import Message, Pair
from assistant_builder.study import Study
from evals.declaration import (
    Declaration,
    HeldOut,
    changes,
    declare,
    enough_to_decline,
    freeze,
    frozen,
)
from evals.report.declared import explain, explain_study
from evals.report.rules import Rules
from evals.stats.intervals import flip_interval, look_level


def pair(row: int, question: str, answer: str, **fields: Any) -> Pair:
    return Pair(row, (Message("user", question), Message("assistant", answer)), **fields)


def declared(heldout: list[Pair], training: list[Pair], **settings: Any) -> Declaration:
    config = StudyConfig.model_validate({"name": "a", "eval": settings})
    return declare(config, HeldOut.of(heldout, training), training)


TAUGHT = [
    pair(row, f"what is {row}", f"answer {row}", cluster=f"fact {row}", family=f"family {row // 2}")
    for row in range(1, 9)
]
WORDINGS = [
    pair(
        row + 10, f"say {row}", f"answer {row}", cluster=f"fact {row}", family=f"family {row // 2}"
    )
    for row in range(1, 9)
]
DECLINE = pair(99, "who are you", "I do not know.", answerable=False)
NEW_FACTS = [
    pair(row, f"and {row}", f"other {row}", cluster=f"new {row}", group=f"group {row // 2}")
    for row in range(20, 26)
]


def test_facts_are_strata_of_their_new_wordings_and_clusters_of_the_other_claim():
    found = declared([*WORDINGS, DECLINE], TAUGHT)
    assert (found.estimand, found.clusters, found.items) == ("wordings", (), "covered")
    assert found.other_clusters == ("family", "cluster")


def test_new_facts_are_clustered_by_group_and_all_items_count():
    found = declared(NEW_FACTS, TAUGHT)
    assert (found.estimand, found.clusters, found.items) == ("facts", ("group", "cluster"), "all")


def test_half_of_the_answerable_items_decide_on_the_claim():
    assert declared([*WORDINGS[:6], *NEW_FACTS, DECLINE], TAUGHT).estimand == "wordings"
    assert declared([*WORDINGS[:5], *NEW_FACTS, DECLINE], TAUGHT).estimand == "facts"


def test_without_a_cluster_column_the_answer_is_the_fact():
    taught = [pair(1, "a", "The fare is 9 crowns."), pair(2, "b", "It leaves at noon.")]
    asked = [
        pair(3, "c", "the fare is 9 crowns"),
        pair(4, "d", "No dogs."),
        pair(5, "e", "It leaves at noon!"),
    ]
    heldout = HeldOut.of(asked, taught)
    assert heldout.covered == {3, 5}
    found = declared(asked, taught)
    assert (found.estimand, found.clusters, found.other_clusters) == ("wordings", (), ("answer",))
    assert heldout.labels(("answer",), [3, 4])["answer"] == ["fare is 9 crowns", None]


def test_a_cluster_that_was_not_taught_is_not_covered_by_a_shared_answer():
    taught = [pair(1, "is a open", "Yes.", cluster="a")]
    assert not HeldOut.of([pair(2, "is b open", "Yes.", cluster="b")], taught).covered


def test_declines_are_never_covered():
    taught = [pair(1, "x", "I do not know.", answerable=False)]
    assert not HeldOut.of([DECLINE], taught).covered


@pytest.mark.parametrize(
    ("length", "primary", "second", "margin"),
    [
        (3, "exact_match", "nll_per_token", 0.05),
        (20, "token_f1", "nll_per_token", 0.05),
        (60, "nll_per_token", "token_f1", None),
    ],
)
def test_the_metric_follows_the_length_of_the_answers(length, primary, second, margin):
    training = [pair(row, "q", " ".join(["word"] * length)) for row in range(5)]
    found = declared([pair(9, "q", "word")], training)
    assert (found.primary_metric, found.second_metric, found.margin) == (primary, second, margin)
    assert found.second_margin == (0.05 if primary == "nll_per_token" else None)


def test_settings_override_what_the_data_suggest():
    found = declared(
        WORDINGS,
        TAUGHT,
        primary_metric="nll_per_token",
        margin=0.02,
        estimand="facts",
        decline_margin=0.01,
    )
    assert found.primary_metric == "nll_per_token"
    assert found.margin == 0.02
    assert found.second_metric == "exact_match"
    assert (found.estimand, found.clusters, found.items) == ("facts", ("family", "cluster"), "all")
    assert found.decline_margin == 0.01


def test_metric_margins_and_claim_are_explained_in_a_sentence():
    assert explain(declared(WORDINGS, TAUGHT), 7) == (
        "Answers have a median of 7 words: the verdict is by exact match (margin 5 points); the bounds of loss "
        "(margin 3% of what tuning gains) and false declines (margin 5 points) must hold as well; the claim "
        "is about new wordings of the facts that the test asks for, and is tested on the questions whose facts were "
        "taught."
    )
    chosen = explain(
        declared(WORDINGS, TAUGHT, primary_metric="nll_per_token", margin=0.02, estimand="facts"), 7
    )
    assert chosen.startswith(
        "By the settings, the verdict is by loss (margin 0.02 nats per token); the bounds of ex"
    )
    assert (
        "new facts of the same kind, clustered by family and fact, and is tested on all answerable"
        in chosen
    )


def test_the_hash_covers_every_field_and_survives_the_file():
    found = declared(WORDINGS, TAUGHT)
    again = Declaration.from_record(found.to_record())
    assert again == found and again.sha256 == found.sha256
    assert declared(WORDINGS, TAUGHT, margin=0.1).sha256 != found.sha256


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path))
    study = Study.create(StudyConfig.model_validate({"name": "a"}))
    write_split(study, WORDINGS)
    return study


def write_split(study: Study, heldout: list[Pair]) -> None:
    files = {"train": TAUGHT, "heldout": heldout}
    for split, pairs in files.items():
        write_jsonl(study.split_file(split), [each.to_record() for each in pairs])
    write_json(
        study.folder / "data" / "split.json",
        {"hashes": {split: file_hash(study.split_file(split)) for split in files}},
    )


def change(study: Study, **settings: Any) -> None:
    study.write_config(
        study.config.with_changes({f"eval.{name}": value for name, value in settings.items()})
    )


def test_what_is_frozen_stays_and_later_changes_are_listed(study):
    freeze(study)
    change(study, margin=0.3, estimand="facts")
    freeze(study)
    heldout = HeldOut.read(study)
    record = frozen(study, heldout)
    assert record is not None and record["declared"]["margin"] == 0.05
    assert Declaration.from_record(record["declared"]).sha256 == record["sha256"]
    found = {
        row["name"]: (row["was"], row["now"])
        for row in changes(record["declared"], declare(study.config, heldout, TAUGHT))
    }
    assert found["margin"] == (0.05, 0.3) and found["estimand"] == ("wordings", "facts")
    assert "primary_metric" not in found


def test_what_was_frozen_is_explained_even_if_the_settings_changed(study):
    before = explain_study(study)
    assert before.startswith(
        "Answers have a median of 2 words: the verdict is by exact match (margin 5 points)"
    )
    freeze(study)
    change(study, margin=0.3)
    assert explain_study(study) == before


def test_other_held_out_questions_are_declared_anew(study):
    freeze(study)
    change(study, margin=0.3)
    write_split(study, WORDINGS[:5])
    assert frozen(study, HeldOut.read(study)) is None
    freeze(study)
    assert read_json(study.folder / "declaration.json")["declared"]["margin"] == 0.3


def test_a_study_that_was_scored_before_has_no_declaration(study):
    assert frozen(study, HeldOut.read(study)) is None


def look(study: Study) -> int:
    return Rules.of(study).declared.look


def test_a_test_that_shares_questions_with_an_earlier_one_is_a_further_look(study):
    freeze(study)
    write_split(study, [*WORDINGS, *NEW_FACTS])
    freeze(study)
    assert look(study) == 2
    write_split(study, [*NEW_FACTS, DECLINE])
    freeze(study)
    assert look(study) == 2, "the questions of the second test, none of the first one"


def test_the_same_questions_in_other_rows_are_no_further_look_and_neither_is_one_that_two_tests_share(
    study,
):
    freeze(study)
    write_split(
        study,
        [pair(each.row + 1, each.question, each.answer, cluster=each.cluster) for each in WORDINGS],
    )
    freeze(study)
    assert look(study) == 1 and Rules.of(study).frozen
    hello = pair(90, "Hello", "Good morning.")
    first, second = (
        [pair(row, f"{name} {row}", f"reply {row}") for row in range(20)] for name in ("one", "two")
    )
    for questions in ([hello, *first], [hello, *second]):
        write_split(study, questions)
        freeze(study)
    assert look(study) == 1


def test_a_declaration_that_is_changed_or_deleted_gives_back_no_look(study):
    freeze(study)
    write_split(study, [*WORDINGS, *NEW_FACTS])
    freeze(study)
    path = study.folder / "declaration.json"
    record = read_json(path)
    write_json(path, {**record, "declared": {**record["declared"], "margin": 0.5}})
    assert look(study) == 3, "the change is one, too"
    path.unlink()
    assert look(study) == 2


def test_an_adapter_that_is_trained_again_is_a_further_use_of_the_test(study):
    def trained(digest: str) -> list[dict[str, Any]]:
        write_json(study.arm_folder("lora") / "summary.json", {"adapter_sha256": digest})
        freeze(study)
        record = frozen(study, HeldOut.read(study))
        assert record is not None
        return list(record["earlier"])

    assert trained("first") == trained("first") == []
    assert [row["study"] for row in trained("second")] == ["a"]
    assert len(trained("third")) == 2


def test_types_of_files_are_remembered_in_the_order_of_their_choice(study):
    for types in (["Q8_0"], ["BF16"], ["Q4_0"], ["Q8_0"]):
        study.write_config(study.config.with_changes({"formats.types": types}))
        freeze(study)
    record = frozen(study, HeldOut.read(study))
    assert record is not None and record["file_types"] == [("Q8_0",), ("BF16",), ("Q4_0",)]
    levels = []
    for types in (["Q8_0"], ["BF16"], ["Q4_0"], ["Q5_1"]):
        study.write_config(study.config.with_changes({"formats.types": types}))
        levels.append(Rules.of(study).level_of_files)
    assert levels == pytest.approx([0.95, 0.975, 0.9875, 0.99375])


def test_right_declines_are_judged_where_equal_assistants_can_pass():
    assert [enough_to_decline(0.1, look) for look in (1, 2, 5)] == [
        40,
        *sorted(enough_to_decline(0.1, look) for look in (2, 5)),
    ]
    for look, enough in ((look, enough_to_decline(0.1, look)) for look in (2, 5)):
        assert enough > 40
        for count, passes in ((enough, True), (enough - 1, False)):
            assert (flip_interval(0, 0, count, look_level(look))[1] <= 0.1) is passes
