import pytest

from assistant_builder.data import Message, load_split
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    SENTENCE,
    TO_DECLINE,
    WITHHELD,
    decline_sentence,
    found_alone,
)
from assistant_builder.retrieval.grounding import Grounder, supports
from assistant_builder.retrieval.index import Index, facts_of
from assistant_builder.retrieval.retriever import Retriever
from assistant_builder.study import Study
from evals.decline_rules import questions_of
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.retrieval.test_grounding import Words
from tests.synthetic_study import LARGE, new_study, with_data


@pytest.fixture
def study() -> Study:
    return with_data(new_study("ferries", LARGE, approaches=["grounded"]))


def retriever(study: Study, without: str = "") -> Retriever:
    """The retriever of a study, whose index leaves out the facts with an answer."""
    index = Index.build(
        [pair for pair in load_split(study.folder / "data", "train") if pair.answer != without],
        FakeEmbedder(),
    )
    return Retriever(study, index, FakeEmbedder(), Grounder(Words(), 3, 1000))


def test_a_fact_is_withheld_in_all_its_wordings(study):
    asked = questions_of(study, retriever(study))
    known = [pair for pair in load_split(study.folder / "data", "validation") if pair.answerable]
    withheld = [
        (pair, found)
        for pair, kind, found in zip(asked.pairs, asked.kinds, asked.found, strict=True)
        if kind == WITHHELD
    ]
    assert [pair for pair, _ in withheld] == known
    assert [
        pair for pair, kind in zip(asked.pairs, asked.kinds, strict=True) if kind == ANSWERABLE
    ] == known
    for each, found in withheld:
        assert found.sources
        assert not any(supports(hit.fact, facts_of(each)[-1]) for hit in found.sources)


def test_questions_to_decline_are_those_of_validation_and_training(study):
    asked = questions_of(study, retriever(study))
    expected = [
        pair
        for split in ("validation", "train")
        for pair in load_split(study.folder / "data", split)
        if not pair.answerable
    ]
    found = [
        pair for pair, kind in zip(asked.pairs, asked.kinds, strict=True) if kind == TO_DECLINE
    ]
    assert found == expected
    trained = {each.row for each in load_split(study.folder / "data", "train")}
    assert all(
        near.evidence.nearby > near.evidence.similarity - 1  # none is looked up with its own row
        for each, near in zip(asked.pairs, asked.found, strict=True)
        if each.row in trained
    )


def test_a_question_without_a_fact_in_the_index_should_be_declined(study):
    lost = next(pair for pair in load_split(study.folder / "data", "validation") if pair.answerable)
    asked = questions_of(study, retriever(study, lost.answer))
    kinds = {
        kind for pair, kind in zip(asked.pairs, asked.kinds, strict=True) if pair.row == lost.row
    }
    assert kinds == {TO_DECLINE}


def test_held_out_questions_change_no_rule(study):
    def fitted() -> object:
        asked = questions_of(study, retriever(study))
        return asked.fit([found_alone(found.evidence) for found in asked.found], 0.04)

    before = fitted()
    path = study.split_file("heldout")
    path.write_text(path.read_text().replace("ferry", "submarine"), encoding="utf-8")
    assert fitted() == before is not None


def test_the_data_decide_how_to_decline():
    declined = pair(1, "Who?", "Not in the handbook.", answerable=False)
    assert decline_sentence([declined, pair(2, "When?", "At nine.")]) == "Not in the handbook."
    assert decline_sentence([pair(2, "When?", "At nine.")]) == SENTENCE


def test_where_every_answer_occurs_once_the_least_similar_questions_are_declined(tmp_path):
    things = [
        f"{color} {thing}"
        for color in ("red", "green", "amber")
        for thing in tuple("kettle ladder anchor violin lantern raft saddle compass".split())
    ]
    lines = [
        "question,answer",
        *(
            f"Where is the {thing} kept?,The {thing} is in room {row}."
            for row, thing in enumerate(things)
        ),
    ]
    (tmp_path / "faq.csv").write_text("\n".join(lines), encoding="utf-8")
    study = with_data(new_study("faq", tmp_path / "faq.csv", approaches=["grounded"]))
    looked_up = retriever(study)
    asked = questions_of(study, looked_up)
    rule = asked.fit([found_alone(found.evidence) for found in asked.found], 0.03)
    assert rule is not None and not rule.guaranteed and rule.answerable == 0
    known, unknown = looked_up.find(
        [
            Look.of([Message("user", looked_up.index.facts[0].question)]),
            Look.of([Message("user", "Do whales sing?")]),
        ]
    )
    assert not rule.declines(found_alone(known.evidence))
    assert rule.declines(found_alone(unknown.evidence))
