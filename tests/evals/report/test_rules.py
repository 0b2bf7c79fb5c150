"""The comparison of two cells by the rules of a study: what its items have in common."""

from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data.types import Message, Pair
from evals.declaration import HeldOut, declare
from evals.report.load import Cell
from evals.report.rules import Rules

FACTS, WORDINGS = 20, 10


def pair(row: int, question: str, answer: str) -> Pair:
    return Pair(row, (Message("user", question), Message("assistant", answer)))


def rules() -> Rules:
    """Facts of ten wordings each, without a column of clusters; each five wordings are a group of similar questions."""
    training = [pair(1000 + fact, f"ask {fact}", f"the answer is {fact}") for fact in range(FACTS)]
    asked = [
        pair(row, f"say {row}", f"the answer is {row // WORDINGS}")
        for row in range(FACTS * WORDINGS)
    ]
    heldout, config = HeldOut.of(asked, training), StudyConfig.model_validate({"name": "a"})
    groups: dict[str, int | None] = {str(row): row // 5 for row in range(FACTS * WORDINGS)}
    return Rules(declare(config, heldout, training), heldout, config.eval, similar=groups)


def cell(lost: set[int], names: list[str] | None = None) -> Cell:
    """A cell whose answers to some rows are wrong; ``names`` replace the names of the items."""
    samples: list[dict[str, Any]] = [
        {
            "item": str(row),
            "row": row,
            "answerable": True,
            "tokens": 4,
            "cluster": None,
            "metrics": {"exact_match": float(row not in lost)},
        }
        for row in range(FACTS * WORDINGS)
    ]
    if names:
        samples = [
            {**sample, "item": name, "name": sample["item"]}
            for name, sample in zip(names, samples, strict=True)
        ]
    return Cell("L16", tuple(samples), {})


@pytest.mark.parametrize("renamed", [False, True])
def test_wordings_that_are_lost_in_groups_of_similar_questions_widen_the_interval(renamed):
    names = [f"shared {place}" for place in range(FACTS * WORDINGS)] if renamed else None
    before, after = cell(set(), names), cell({*range(0, 5), *range(50, 55)}, names)
    found, chosen = rules(), list(before.by_item)
    assert (found.declared.estimand, found.declared.clusters) == ("wordings", ())
    grouped = found.compare(before, after, "exact_match", chosen)
    unaware = replace(found, similar={}).compare(before, after, "exact_match", chosen)
    assert [text for text in grouped.warnings if "group of similar questions" in text]
    assert grouped.harm[2] > unaware.harm[2] + 0.01


def test_facts_that_are_lost_whole_are_no_correlation_in_a_claim_about_these_facts():
    before, after = cell(set()), cell({*range(0, 10), *range(50, 60)})
    found = rules().compare(before, after, "exact_match", list(before.by_item))
    assert not [text for text in found.warnings if "alike" in text]
