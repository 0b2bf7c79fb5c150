from dataclasses import astuple, replace
from typing import Any

import pytest

from assistant_builder.arms import CELLS
from assistant_builder.data import Message, load_split
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.loading import BaseSpec, load_base
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.decline import (
    ANSWERABLE,
    TO_DECLINE,
    WITHHELD,
    DeclineRule,
    Retrieved,
    decline_sentence,
    far_from_everything,
    found_alone,
)
from assistant_builder.retrieval.grounding import Grounder, supports
from assistant_builder.retrieval.index import Hit, Index, facts_of
from assistant_builder.retrieval.prior import PRIORS
from assistant_builder.retrieval.retriever import Found, Retriever
from assistant_builder.study import Study
from evals.cells import LoadedCell
from evals.decline_rules import questions_of, repeats_facts
from evals.lm_eval_model import StudyLM
from tests.export.tiny import tiny_base
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
    assert list(asked.pairs[: len(known)]) == known == list(asked.pairs[-len(known) :])
    for each, kind, found in zip(known, asked.kinds, asked.found, strict=False):
        right = found.best is not None and supports(found.best, facts_of(each)[-1])
        assert kind == (ANSWERABLE if right else WITHHELD)
    assert {*asked.kinds[: len(known)]} == {ANSWERABLE, WITHHELD}, "both occur here"
    assert {*asked.kinds[-len(known) :]} == {WITHHELD}
    for each, found in zip(known, asked.found[-len(known) :], strict=True):
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


def test_the_priors_hold_for_the_embedder_that_they_were_measured_with(study, monkeypatch):
    asked = questions_of(study, retriever(study))
    evidence = [found_alone(found.evidence) for found in asked.found]
    share = 0.5 / len(evidence)  # for which no data are enough
    alone, both = (asked.fit(evidence, share, priors=priors) for priors in ({}, PRIORS))
    assert alone != both and asked.fit(evidence, share) == alone
    monkeypatch.setattr(FakeEmbedder, "name", "all-MiniLM-L6-v2")
    assert asked.fit(evidence, share) == alone, "it was not trained"
    name = "all-MiniLM-L6-v2, trained on the questions of the study"
    monkeypatch.setattr(FakeEmbedder, "name", name)
    assert asked.fit(evidence, share) == both


def test_the_data_decide_how_to_decline():
    declined = pair(1, "Who?", "Not in the handbook.", answerable=False)
    assert decline_sentence([declined, pair(2, "When?", "At nine.")]) == "Not in the handbook."
    assert decline_sentence([pair(2, "When?", "At nine.")]) == DECLINE_SENTENCE


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


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_the_evidence_is_the_same_where_the_answer_of_the_best_fact_is_read(
    tmp_path, monkeypatch, way
):
    """A model with random weights, whose answer begins as the best fact, is that fact, or is another text."""
    from evals import decline_rules, lm_eval_model

    monkeypatch.setattr(lm_eval_model, "supports_packing", lambda model: way == "packed")
    folder = tiny_base(tmp_path / "base")
    prompter = ChatTokenizer.load(folder)
    model = load_base(BaseSpec(folder, "float16", True, "float32", hold=True))
    study = new_study("ferries", LARGE, approaches=["grounded"])
    study.write_config(study.config.with_changes({"eval.max_new_tokens": 20}))
    cell = LoadedCell(CELLS["L16"], 1, model, "float32", 0, 0.0)

    def found(number: int, answer: str) -> Found:
        fact = replace(facts_of(pair(number, f"Question {number}?", answer))[0], answerable=True)
        messages = [Message("system", "Be brief."), Message("user", f"Question {number}?")]
        hits = [Hit(fact, 0.9, 1.0, 0.9)] if answer else []
        return Found(messages, hits, Retrieved(0.9, -0.1, 0.2, [answer] if answer else []))

    class Asked:
        kinds = [ANSWERABLE] * 3 + [WITHHELD] * 3
        taught: list[str] = []
        evidence: list[Any] = []

        def __init__(self, answers: list[str]) -> None:
            each = [found(number, answer) for number, answer in enumerate(answers)]
            self.found, self.follow_ups, self.respelled = each[:6], each[6:7], each[7:]

        def fit(self, evidence: Any, target: float, follow_ups: Any) -> DeclineRule:
            self.evidence = [*evidence, *follow_ups]
            return far_from_everything([], target=target, sentence="No.")

    def fitted(answers: list[str]) -> tuple[dict[str, Any], list[Any]]:
        asked = Asked(answers)
        return decline_rules._fitted(study, asked, cell, prompter), asked.evidence

    lm = StudyLM(
        model, prompter, own_tasks=(), batch_size=4, max_new_tokens=20, tick=lambda *_: None
    )
    prompts = [prompter.text(found(number, "").messages, prompt=True) for number in range(9)]
    said = lm.answer(prompts)
    answers = [said[0], said[1][:4] + "x", "Nine.", *said[3:5], "", said[6], said[7], "Ten."]
    read: list[int] = []

    def counted(found: Found, prompter: ChatTokenizer, limit: int) -> Any:
        prompt, draft = with_draft(found, prompter, limit)
        assert prompt == prompter.prompt_ids(found.messages) and len(draft) <= limit
        read.append(len(draft))
        return prompt, draft

    with_draft = decline_rules._with_draft
    monkeypatch.setattr(decline_rules, "_with_draft", counted)
    rule, evidence = fitted(answers)
    assert sum(map(bool, read)) == 8
    monkeypatch.setattr(
        decline_rules, "_with_draft", lambda found, *_: (prompter.prompt_ids(found.messages), ())
    )
    plain, alone = fitted(answers)
    assert rule == plain and rule["verbatim"]
    for one, other in zip(evidence, alone, strict=True):
        assert astuple(one) == pytest.approx(astuple(other), abs=1e-5)


@pytest.mark.parametrize(
    ("verbatim", "shown", "repeats"),
    [
        (0, 0, False),
        (12, 12, True),
        (10, 12, True),
        (9, 12, False),
        (138, 150, True),
        (137, 150, False),
    ],
)
def test_few_answers_in_other_words_are_no_evidence_that_they_are_meant(verbatim, shown, repeats):
    assert repeats_facts(verbatim, shown) is repeats
