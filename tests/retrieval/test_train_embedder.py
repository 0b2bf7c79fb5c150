"""Training the sentence embedder on the questions of a study."""

import numpy as np
import pytest

from assistant_builder.models.embedding import Embedder
from assistant_builder.retrieval.index import Fact, Query, facts_of
from assistant_builder.retrieval.train_embedder import (
    BATCH,
    HYPERPARAMETERS,
    LEAST_STEPS,
    MOST_STEPS,
    batches,
)
from tests.retrieval.fake_embedder import pair

torch = pytest.importorskip("torch")


def facts_with(wordings: int, answers: int) -> list[Fact]:
    return [
        fact
        for answer in range(answers)
        for wording in range(wordings)
        for fact in facts_of(
            pair(
                1 + answer * wordings + wording,
                f"Which one is number {answer}, wording {wording}?",
                f"It is the answer {answer}.",
            )
        )
    ]


@pytest.mark.parametrize(
    ("wordings", "answers", "steps"),
    [(3, 4, LEAST_STEPS), (5, 75, 93), (3, 4000, MOST_STEPS), (5, 1, 0)],
)
def test_every_question_has_another_wording_or_spelling_and_answers_of_a_batch_differ(
    wordings, answers, steps
):
    found = list(batches(facts_with(wordings, answers), 0))
    assert len(found) == steps and all(1 < len(batch) <= BATCH for batch in found)
    for batch in found:
        assert len({answer for *_, answer in batch}) == len(batch)
        assert all(asked != other for asked, other, _ in batch)
    assert found == list(batches(facts_with(wordings, answers), 0))
    assert not found or found != list(batches(facts_with(wordings, answers), 1))


@pytest.mark.parametrize(("twice", "trains"), [(5, True), (4, False)])
def test_most_facts_must_have_other_wordings(twice, trains):
    others = [
        fact
        for answer in range(10 - twice)
        for fact in facts_of(
            pair(100 + answer, f"Which one is {answer}?", f"Another one, {answer}.")
        )
    ]
    found = list(batches([*facts_with(2, twice), *others], 0))
    assert bool(found) == trains
    assert not trains or any(
        other.endswith("?") and "wording" not in other for _, other, _ in found[0]
    )


def test_things_that_share_an_answer_are_not_wordings_of_one_fact():
    shared = [
        fact
        for number, (thing, answer) in enumerate([("a", "Yes."), ("b", "Yes."), ("c", "No.")] * 2)
        for fact in facts_of(
            pair(1 + number, f"Is {thing} inherited, {number}?", answer, group=thing)
        )
    ]
    found = list(batches(shared, 0))
    assert {len(batch) for batch in found} == {2} and len(found) == LEAST_STEPS
    assert all(asked.split()[1] == other.split()[1] for batch in found for asked, other, _ in batch)
    assert {asked.split()[1] for batch in found for asked, *_ in batch} == {"a", "b", "c"}


def test_questions_to_decline_are_not_trained():
    facts = facts_with(2, 3) + facts_of(
        pair(90, "Who will win?", "I cannot say.", answerable=False)
    )
    assert not any("cannot" in answer for batch in batches(facts, 0) for *_, answer in batch)


@pytest.mark.long
@pytest.mark.train
def test_a_trained_embedder_knows_a_name_of_the_data(tmp_path):
    names = {
        "Aldermoor": "the dawn lane swim",
        "Birchfold": "the pensioners' class",
        "Corvale": "the baby splash",
    }
    pairs = [
        pair(3 * place + number, text.format(name), f"{name} costs {place + 3} pounds.")
        for place, name in enumerate(names)
        for number, text in enumerate(
            ("What does {} cost?", f"how much for {names[name]}", "price of {}?")
        )
    ]
    embedder = Embedder.load()
    asked = embedder.encode([f"money for {nick}?" for nick in names.values()])
    steps: list[tuple[int, int]] = []
    untouched = torch.random.get_rng_state()
    embedder.train(
        list(batches([fact for each in pairs for fact in facts_of(each)], 0)),
        lambda done, total: steps.append((done, total)),
        **HYPERPARAMETERS,
    )
    assert torch.equal(torch.random.get_rng_state(), untouched)
    assert steps == [(step, LEAST_STEPS) for step in range(1, LEAST_STEPS + 1)]
    embedder.save(tmp_path / "embedder")
    loaded = Embedder(tmp_path / "embedder", name="trained")
    facts = [Query(f"What does {name} cost?").text for name in names]
    before = asked @ Embedder.load().encode(facts).T
    after = (
        loaded.encode([f"money for {nick}?" for nick in names.values()]) @ loaded.encode(facts).T
    )
    assert np.allclose(
        after,
        embedder.encode([f"money for {nick}?" for nick in names.values()])
        @ embedder.encode(facts).T,
        atol=1e-5,
    )
    gap = lambda table: (np.diag(table) - (table.sum(1) - np.diag(table)) / 2).mean()  # noqa: E731
    assert gap(after) > gap(before) + 0.3 and (after.argmax(1) == [0, 1, 2]).all()
    assert not list(tmp_path.glob(".*"))
