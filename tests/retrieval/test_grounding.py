from collections.abc import Sequence
from pathlib import Path

import pytest

from assistant_builder.data import Message, Pair
from assistant_builder.errors import StudyError
from assistant_builder.retrieval.grounding import (
    Grounder,
    grounded_pairs,
    query_of,
    read_contexts,
    shown_facts,
    supports,
    training_facts,
    with_facts,
    write_contexts,
)
from assistant_builder.retrieval.index import Hit, Index, facts_of
from assistant_builder.retrieval.ranking import WITHIN
from tests.retrieval.fake_embedder import FakeEmbedder, pair

PAIRS = [
    pair(1, "When does the hall open?", "It opens at nine.", cluster="open"),
    pair(2, "Opening time of the hall?", "It opens at nine.", cluster="open"),
    pair(3, "When does the hall close?", "It closes at six.", cluster="close"),
    pair(4, "Who keeps the hall?", "Ada Flint keeps it.", cluster="keeper"),
    pair(5, "Does the hall have a lift?", "I don't know.", answerable=False),
]


class Words:
    """A tokenizer for which each word is a token."""

    def count_tokens(self, pair: Pair) -> int:
        return len(self.prompt_ids(pair.messages))

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(range(sum(len(message.content.split()) for message in messages)))


def grounder(count: int = 3, limit: int = 1000) -> Grounder:
    return Grounder(Words(), count, limit)


def index() -> Index:
    return Index.build(PAIRS, FakeEmbedder())


def context(row: int, tmp_path: Path) -> list[Hit]:
    embedder = FakeEmbedder()
    built = Index.build(PAIRS, embedder)
    built.save(tmp_path)
    vectors = embedder.encode([fact.query.text for each in PAIRS for fact in facts_of(each)])
    write_contexts(tmp_path, built, [("train", PAIRS, vectors)])
    return read_contexts(tmp_path, "train")[(row, 0)]


def test_the_nearest_fact_is_next_to_the_question():
    facts = [facts_of(each)[0] for each in PAIRS[:2]]
    asked = [Message("system", "Be brief."), Message("user", "And now?")]
    system, question = with_facts(asked, facts)
    assert system.content == (
        "Be brief.\n\nQ: Opening time of the hall?\nA: It opens at nine.\n"
        "Q: When does the hall open?\nA: It opens at nine."
    )
    assert question == asked[1]
    assert [message.role for message in with_facts(asked[1:], facts)] == ["system", "user"]


def test_far_facts_are_dropped_before_the_question_is():
    facts = [facts_of(each)[0] for each in PAIRS[:4]]
    asked = [Message("user", "one two three four five")]
    whole, kept = grounder(4).ground(asked, facts)
    assert kept == facts
    short, kept = grounder(4, limit=17).ground(asked, facts)
    assert kept == facts[:1] and short[-1] == asked[0]
    none, kept = grounder(4, limit=6).ground(asked, facts)
    assert (none, kept) == (asked, [])


def test_a_long_question_keeps_its_facts_within_the_context():
    facts = [facts_of(each)[0] for each in PAIRS[:4]]
    asked = [Message("user", "word " * 900)]
    assert grounder(3).ground(asked, facts)[1] == facts[:3]
    grounded, kept = grounder(3).ground(asked, facts, 920)
    assert kept == facts[:1] and grounded[-1] == asked[0], "a smaller context of a server"
    assert grounder(3).ground(asked, facts, 905) == (asked, [])


def test_a_query_is_the_last_question_with_its_history():
    talk = [
        Message("system", "x"),
        Message("user", "Is there a hall?"),
        Message("assistant", "Yes."),
        Message("user", "When does it open?"),
    ]
    query = query_of(talk)
    assert (query.question, query.history) == ("When does it open?", "Is there a hall?")


@pytest.mark.parametrize("seed", range(8))
def test_training_prompts_hold_a_supporting_fact(seed, tmp_path):
    for row in (1, 2, 3, 4):
        target, hits = facts_of(PAIRS[row - 1])[0], context(row, tmp_path)
        assert all(hit.fact.row != row for hit in hits)
        facts = training_facts(target, hits, 2, seed)
        assert len(facts) == 2 and sum(supports(fact, target) for fact in facts) == 1
        assert all(fact.answerable for fact in facts)
        assert facts == training_facts(target, hits, 2, seed)
    alone = facts_of(PAIRS[3])[0]  # the only wording of its fact: its own pair is the support
    assert alone in training_facts(alone, context(4, tmp_path), 2, seed)


def test_another_wording_comes_before_the_own_pair(tmp_path):
    target, hits = facts_of(PAIRS[0])[0], context(1, tmp_path)
    own = [target in training_facts(target, hits, 2, seed) for seed in range(200)]
    assert 0.1 < sum(own) / len(own) < 0.3


def test_the_nearest_wordings_are_left_out_in_half_of_the_training_turns(tmp_path):
    wordings = [
        pair(row, "When does the hall open?" + " please" * row, "It opens at nine.", cluster="open")
        for row in range(1, 41)
    ]
    embedder = FakeEmbedder()
    built = Index.build(wordings, embedder)
    built.save(tmp_path)
    vectors = embedder.encode([fact.query.text for each in wordings for fact in facts_of(each)])
    write_contexts(
        tmp_path, built, [("train", wordings, vectors), ("validation", wordings, vectors)]
    )
    nearest = {}
    for split in ("train", "validation"):
        contexts = read_contexts(tmp_path, split)
        assert all(row != hit.fact.row for (row, _), hits in contexts.items() for hit in hits)
        assert all(len(hits) == 1 for hits in contexts.values()), "one answer"
        nearest[split] = {row: hits[0].fact.row for (row, _), hits in contexts.items()}
    changed = sum(nearest["train"][row] != nearest["validation"][row] for row in nearest["train"])
    assert 0.25 < changed / len(wordings) < 0.75


def test_validation_prompts_hold_what_was_found_and_a_supporting_fact(tmp_path):
    contexts = {(row, 0): context(row, tmp_path) for row in (1, 4)}
    first, alone = grounded_pairs([PAIRS[0], PAIRS[3]], contexts, grounder(2), None, 1000)
    assert "Opening time of the hall?" in first.messages[0].content, "another wording"
    assert "When does the hall open?" not in first.messages[0].content
    shown = alone.messages[0].content
    assert shown.startswith("Q: Who keeps the hall?\nA: Ada Flint keeps it.")
    assert shown.count("Q:") == 2
    assert list(grounded_pairs([PAIRS[3]], contexts, grounder(2), None, 1000)) == [alone]


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_far_facts_are_dropped_from_a_training_row_and_the_supporting_one_never(seed, tmp_path):
    target, hits = facts_of(PAIRS[0])[0], context(1, tmp_path)
    facts = training_facts(target, hits, 3, seed)
    (whole,) = grounded_pairs(PAIRS[:1], {(1, 0): hits}, grounder(), seed, 1000)
    tokens = Words().count_tokens(whole)
    for longest in range(tokens, 0, -1):
        (row,) = grounded_pairs(PAIRS[:1], {(1, 0): hits}, grounder(), seed, longest)
        shown = [
            fact
            for fact in dict.fromkeys([*facts, target])
            if f"Q: {fact.question}\n" in row.messages[0].content
        ]
        assert any(supports(fact, target) for fact in shown)
        assert row.messages[1:] == PAIRS[0].messages
        assert Words().count_tokens(row) <= longest or len(shown) == 1, (
            "only a row with one fact may be too long"
        )
        needed = next(fact for fact in facts if supports(fact, target))
        kept = [fact for fact in facts if fact in shown or fact is needed]
        others = [fact for fact in facts if fact is not needed]
        assert [fact for fact in kept if fact is not needed] == others[: len(kept) - 1], (
            "the nearest are kept"
        )


def test_questions_to_decline_are_not_trained(tmp_path):
    context(1, tmp_path)
    contexts = read_contexts(tmp_path, "train")
    grounded = list(grounded_pairs(PAIRS, contexts, grounder(), 0, 1000))
    assert [each.row for each in grounded] == [1, 2, 3, 4]
    assert not any("I don't know" in each.messages[0].content for each in grounded)


def test_each_turn_of_a_conversation_has_its_own_facts():
    talk = pair(
        9, "When does the hall open?", "It opens at nine.", "Who keeps it?", "Ada Flint keeps it."
    )
    first, second = grounded_pairs([talk], {}, grounder(), 0, 1000)
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert [
        message.role for message in second.messages
    ] == "system user assistant user assistant".split()
    assert "Ada Flint" not in first.messages[0].content
    assert "Ada Flint" in second.messages[0].content


def test_a_study_without_an_index_says_what_to_do(tmp_path):
    with pytest.raises(StudyError, match="no index"):
        read_contexts(tmp_path, "train")


def test_a_prompt_has_only_facts_that_are_nearly_as_good_as_the_best(tmp_path):
    facts = [facts_of(each)[0] for each in PAIRS]
    hits = [
        Hit(facts[4], 0.9, 0.0, 0.95),
        Hit(facts[0], 0.8, 0.0, 0.8),
        Hit(facts[2], 0.8, 0.0, 0.8 - 0.9 * WITHIN),
        Hit(facts[3], 0.8, 0.0, 0.8 - 1.1 * WITHIN),
    ]
    assert shown_facts(hits) == [facts[0], facts[2]], (
        "a question to decline is neither shown nor the best"
    )
    assert shown_facts(hits[:1]) == shown_facts([]) == []
    far = training_facts(facts[3], hits[1:], 3, 0)
    assert facts[3] in far and far.count(facts[3]) == 1, (
        "training sees the fact even if the search put it far behind"
    )
