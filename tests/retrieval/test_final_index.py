"""The index that an assistant is served with, and the recommended approach."""

import pytest

from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.config import StudyConfig
from assistant_builder.data import Pair, load_split
from assistant_builder.retrieval.build import (
    ADDED,
    answers_added,
    served_index_folder,
    write_final_index,
    write_index,
)
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.recall import recommend, recommended_approach
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import LARGE, new_study, with_data


def indexed(**changes: object) -> Study:
    study = with_data(new_study("ferries", LARGE, approaches=["grounded"], **changes))
    training, validation = (
        load_split(study.folder / "data", split) for split in ("train", "validation")
    )
    write_index(study.retrieval_folder, training, validation, FakeEmbedder(), {})
    return study


def others(study: Study) -> list[Pair]:
    return [
        *load_split(study.folder / "data", "validation"),
        *load_split(study.folder / "data", "heldout"),
    ]


NEW = pair(9001, "Where does the new barge moor?", "At the stone quay behind the mill.")


def test_answers_that_training_lacks_are_added_for_serving_alone():
    study = indexed()
    before = {
        path.name: file_hash(path) for path in study.retrieval_folder.iterdir() if path.is_file()
    }
    files = write_final_index(study, [*others(study), NEW], FakeEmbedder())
    assert {
        path.name: file_hash(path) for path in study.retrieval_folder.iterdir() if path.is_file()
    } == before
    assert served_index_folder(study) == study.retrieval_folder / Study.FINAL_INDEX
    assert set(files) == set(served_index_folder(study).iterdir())
    measured, final = Index.load(study.retrieval_folder), Index.load(served_index_folder(study))
    assert final.facts == [*measured.facts, *(fact for fact in final.facts if fact.row == NEW.row)]
    assert read_json(served_index_folder(study) / ADDED) == {"added": 1, "rows": [NEW.row]}
    assert answers_added(study) == 1


def test_other_wordings_of_what_was_taught_are_not_added():
    study = indexed()
    assert write_final_index(study, others(study), FakeEmbedder()) == []
    assert served_index_folder(study) == study.retrieval_folder
    assert answers_added(study) == 0


def test_the_setting_keeps_the_measured_index():
    study = indexed(retrieval__final_index=False)
    assert write_final_index(study, [NEW], FakeEmbedder()) == []


def test_an_outdated_final_index_is_removed():
    study = indexed()
    write_final_index(study, [NEW], FakeEmbedder())
    write_final_index(study, others(study), FakeEmbedder())
    assert served_index_folder(study) == study.retrieval_folder


def test_questions_to_decline_are_no_answers():
    study = indexed()
    declined = pair(9002, "May I bring a whale?", "I cannot say that.", answerable=False)
    assert write_final_index(study, [declined], FakeEmbedder()) == []


@pytest.mark.parametrize(
    ("covered", "hits", "approach"),
    [
        (100, {"1": 80, "3": 95, "5": 99}, "grounded"),
        (100, {"1": 10, "3": 30, "5": 60}, "memory"),
        (0, {"1": 0, "3": 0, "5": 0}, "grounded"),
    ],
)
def test_the_recall_of_the_facts_in_a_prompt_decides(covered, hits, approach):
    found = recommend({"covered": covered, "hits": hits}, facts=4)
    assert found.approach == approach
    if covered:
        assert f"{hits['3']} of {covered}" in found.why


def test_pairs_without_an_index_are_answered_from_memory():
    assert recommend(None, facts=4).approach == "memory"


def test_a_study_with_the_other_approach_is_told_how_to_compare_both():
    study = indexed()
    assert "suits" in recommended_approach(study) and "--set" not in recommended_approach(study)
    study.write_config(StudyConfig.of_approach(study.config, "memory"))
    assert f"run {study.name} --set approaches=memory,grounded" in recommended_approach(study)
