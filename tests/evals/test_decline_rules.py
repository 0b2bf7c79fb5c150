from __future__ import annotations

import numpy as np
import pytest

from assistant_builder.data import load_split
from assistant_builder.retrieval.decline import Evidence
from assistant_builder.retrieval.grounding import Grounder, supports
from assistant_builder.retrieval.index import Index, facts_of
from assistant_builder.retrieval.retriever import Retriever
from assistant_builder.study import Study
from evals.decline_rules import SENTENCE, ValidationQuestions, decline_sentence
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.retrieval.test_grounding import Words
from tests.synthetic_study import LARGE, new_study, with_data


@pytest.fixture
def study() -> Study:
    return with_data(new_study("ferries", LARGE, approaches=["grounded"]))


def retriever(study: Study) -> Retriever:
    index = Index.build(load_split(study.folder / "data", "train"), FakeEmbedder())
    return Retriever(study, index, FakeEmbedder(), Grounder(Words(), 3, 1000))  # type: ignore[arg-type]


def test_a_fact_is_withheld_in_all_its_wordings(study: Study) -> None:
    asked = ValidationQuestions(study, retriever(study))
    known = [pair for pair in load_split(study.folder / "data", "validation") if pair.answerable]
    withheld = asked.found[-len(known):]
    assert len(asked.found) == len(load_split(study.folder / "data", "validation")) + len(known)
    for each, found in zip(known, withheld, strict=True):
        assert found.sources and not any(supports(hit.fact, facts_of(each)[-1]) for hit in found.sources)


def test_the_threshold_is_set_on_other_facts_than_the_weights(study: Study) -> None:
    asked = ValidationQuestions(study, retriever(study))
    halves: dict[str, set[int]] = {}
    for each, half in zip(asked.pairs, asked.halves, strict=True):
        halves.setdefault(each.cluster or "", set()).add(half)
    assert all(len(half) == 1 for half in halves.values())
    assert 0.3 < np.mean(asked.halves) < 0.7


def test_held_out_questions_change_no_rule(study: Study) -> None:
    def fitted() -> object:
        asked = ValidationQuestions(study, retriever(study))
        evidence = [Evidence(**vars(found.evidence), probability=-0.1, lowest=-0.2, refusal=0.0)
                    for found in asked.found]
        return asked.fit(evidence, 0.04)

    before = fitted()
    path = study.split_file("heldout")
    path.write_text(path.read_text().replace("ferry", "submarine"), encoding="utf-8")
    assert fitted() == before is not None


def test_the_data_decide_how_to_decline() -> None:
    declined = pair(1, "Who?", "Not in the handbook.", answerable=False)
    assert decline_sentence([declined, pair(2, "When?", "At nine.")]) == "Not in the handbook."
    assert decline_sentence([pair(2, "When?", "At nine.")]) == SENTENCE
