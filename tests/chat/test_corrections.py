"""Corrected answers, and the new study that is trained on them without leaking held-out questions."""

import pytest

from assistant_builder.chat.feedback import (
    add_correction,
    create_retraining_study,
    heldout_matches,
    plan_retraining,
    read_corrections,
    remove_correction,
)
from assistant_builder.data import load_split, prepare_dataset
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.errors import DataError, StudyError
from assistant_builder.study import Study
from tests.data.test_one_wording import sheet
from tests.synthetic_study import LARGE, SMALL, new_study, with_data

NEW = "Where can I park a bicycle?"


@pytest.fixture
def study() -> Study:
    return with_data(new_study())


def pairs(study: Study, split: str) -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in load_split(study.folder / "data", split)]


def rerun(study: Study) -> Study:
    """Run the data step of the new study."""
    assert study.source is not None
    prepare_dataset(study.source, study.config.data, folder=study.folder / "data", title=study.name)
    return study


def retrained(study: Study) -> Study:
    plan = plan_retraining(study, read_corrections(study))
    return rerun(create_retraining_study(study, plan, "again"))


def test_corrections_are_added_replaced_and_removed(study):
    add_correction(study, NEW, "By the gate.", wrong="No idea.", arm="lora")
    second = add_correction(study, "متى؟", "غدا")
    add_correction(study, "where can i park a bicycle", "By the north gate.")
    assert [(one.question, one.answer) for one in read_corrections(study)] == [
        ("متى؟", "غدا"),
        ("where can i park a bicycle", "By the north gate."),
    ]
    remove_correction(study, second.time)
    assert len(read_corrections(study)) == 1


def test_a_correction_with_the_answer_that_declines_is_one_to_decline():
    study = with_data(new_study("ferries", LARGE))
    training = load_split(study.folder / "data", "train")
    sentence = next(pair.answer for pair in training if not pair.answerable)
    assert not add_correction(study, NEW, sentence.upper(), wrong="No idea.").answerable
    assert add_correction(study, NEW, "By the gate.", wrong="No idea.").answerable


@pytest.mark.parametrize(
    ("question", "answer", "said"),
    [
        (" ", "", "question and the better answer are empty"),
        ("Q", "same ", "is identical to the assistant's answer"),
    ],
)
def test_corrections_without_effect_are_rejected(study, question, answer, said):
    with pytest.raises(DataError, match=said):
        add_correction(study, question, answer, wrong="same")
    assert read_corrections(study) == []


@pytest.mark.parametrize("source", [SMALL, LARGE])
def test_a_new_study_keeps_the_split_and_trains_on_the_corrections(source):
    study = with_data(new_study(source=source, train__rank=4, data__max_train=20))
    add_correction(study, NEW, "By the gate.")
    new = retrained(study)
    assert pairs(new, "heldout") == pairs(study, "heldout")
    assert pairs(new, "validation") == pairs(study, "validation")
    assert pairs(new, "train") == [*pairs(study, "train"), (NEW, "By the gate.")]
    assert new.config.train == study.config.train and new.config.model == study.config.model
    systems = {pair.system for pair in load_split(new.folder / "data", "train")}
    assert systems == {pair.system for pair in load_split(study.folder / "data", "train")}


def test_a_corrected_training_question_gets_the_better_answer_only(study):
    question = pairs(study, "train")[0][0]
    add_correction(study, question.upper(), "Better.")
    new = retrained(study)
    normalized = casefold_normalize(question)
    answers = [
        answer for asked, answer in pairs(new, "train") if casefold_normalize(asked) == normalized
    ]
    assert answers == ["Better."]


def test_a_corrected_held_out_question_stays_in_the_test_and_is_not_trained_on(study):
    question = pairs(study, "heldout")[0][0]
    add_correction(study, question + "??", "Better.")
    assert heldout_matches(study, [question, NEW]).keys() == {0}
    with pytest.raises(DataError, match="all of them answer test questions"):
        plan_retraining(study, read_corrections(study))
    add_correction(study, NEW, "By the gate.")
    new = retrained(study)
    assert pairs(new, "heldout") == pairs(study, "heldout")
    assert "Better." not in [answer for _, answer in pairs(new, "train")]


def test_an_existing_name_is_rejected_and_a_title_makes_one(study):
    add_correction(study, NEW, "By the gate.")
    plan = plan_retraining(study, read_corrections(study))
    with pytest.raises(StudyError, match="already exists"):
        create_retraining_study(study, plan, study.name)
    made = create_retraining_study(study, plan, "Grün & Söhne (corrected)")
    assert (made.name, made.title) == ("gruen-soehne-corrected", "Grün & Söhne (corrected)")


def test_wordings_and_declines_are_trained_as_such(study):
    add_correction(study, NEW, "By the gate.", cluster="bicycles")
    add_correction(study, "Where do bicycles go?", "By the gate.", cluster="bicycles")
    add_correction(study, "Who won the cup?", "I don't know.", answerable=False)
    (first, second, won) = load_split(retrained(study).folder / "data", "train")[-3:]
    assert first.cluster == second.cluster == "bicycles" and first.answerable
    assert (won.question, won.answerable, won.cluster) == ("Who won the cup?", False, None)


def test_a_correction_of_a_respelled_question_is_trained_and_no_row_leaves_training(tmp_path):
    source = tmp_path / "sheet.csv"
    source.write_text(
        "question,answer\n" + "".join(f'"{pair.question}","{pair.answer}"\n' for pair in sheet())
    )
    study = with_data(new_study("sheet", source))
    asked = load_split(study.folder / "data", "heldout")[0]
    original = next(
        pair for pair in load_split(study.folder / "data", "train") if pair.row == asked.respelled
    )
    assert heldout_matches(study, [original.question, asked.question]) == {}
    add_correction(study, original.question, "It is another rule.")
    add_correction(study, "Where may I sing?", "In the cellar.")
    plan = plan_retraining(study, read_corrections(study))
    assert not plan.left_out and plan.replaced == (original.row,)
    again = rerun(create_retraining_study(study, plan, "again"))
    assert len(pairs(again, "train")) == 101
    assert ("Where may I sing?", "In the cellar.") in pairs(again, "train")
    assert all(
        pair.respelled
        for split in ("validation", "heldout")
        for pair in load_split(again.folder / "data", split)
    )
