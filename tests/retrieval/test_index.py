"""The index: what it contains, what a search returns, and that its files are checked."""

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from assistant_builder.errors import StudyError
from assistant_builder.retrieval import index
from assistant_builder.retrieval.index import Fact, Hit, Index, Query, facts_of
from assistant_builder.retrieval.lexical import Numbers
from assistant_builder.retrieval.ranking import PLAIN, TRAINED
from tests.retrieval.fake_embedder import FakeEmbedder, pair

PAIRS = [
    pair(1, "When does the first ferry leave?", "It leaves at six.", cluster="first"),
    pair(2, "What time is the first boat?", "It leaves at six!", cluster="first"),
    pair(3, "How much is a ticket?", "A ticket costs nine crowns.", cluster="fare"),
    pair(4, "May I bring a dog?", "Dogs travel free."),
    pair(5, "What does code E-44 mean?", "Close the bow door."),
    pair(
        6,
        "Hello",
        "Good morning.",
        "Is the café open?",
        "The café opens at eight.",
        group="greeting",
    ),
    pair(7, "Who won the cup?", "I cannot say.", answerable=False),
]


def search(built: Index, *questions: str, k: int = 3, **options: object) -> list[list[Hit]]:
    queries = [Query(question) for question in questions]
    vectors = FakeEmbedder().encode([query.text for query in queries])
    return built.search(queries, vectors, k, **options)


@pytest.fixture
def built() -> Index:
    return Index.build(PAIRS, FakeEmbedder())


def rows(hits: list[Hit]) -> list[int]:
    return [hit.fact.row for hit in hits]


def test_every_assistant_turn_is_a_fact_with_its_history(built):
    assert len(built.facts) == 8
    first, second = facts_of(PAIRS[5])
    assert first == Fact(6, 0, "Hello", "Good morning.", "", "greeting", None, True)
    assert second == Fact(
        6, 1, "Is the café open?", "The café opens at eight.", "Hello", "greeting", None, True
    )
    assert [fact.answerable for fact in built.facts].count(False) == 1


def test_a_question_finds_its_own_fact_first(built):
    found = search(built, *(pair.question for pair in PAIRS if pair.turns == 1))
    assert [hits[0].fact.row for hits in found] == [1, 2, 3, 4, 5, 7]
    assert all(hits[0].similarity > 0.9 and hits[0].bm25 > 0 for hits in found)
    assert all(hits[0].score > hits[1].score for hits in found)


def test_distinct_keeps_the_best_of_equal_answers(built):
    hits = search(built, "What time is the first boat?", k=8)[0]
    assert rows(hits)[0] == 2 and 1 not in rows(hits)
    assert len({hit.fact.answer_key for hit in hits}) == len(hits) == 7


def test_excluded_rows_are_not_returned_but_still_make_words_common(built):
    asked = "When does the first ferry leave?", "May I bring a dog?"
    first, second = search(built, *asked, k=8, exclude=[{1, 2}, ()])
    assert not {1, 2} & set(rows(first)) and rows(second)[0] == 4
    without = Index.build([pair for pair in PAIRS if pair.row not in (1, 2)], FakeEmbedder())
    alone = search(without, asked[0], k=8)[0]
    assert sorted(rows(alone)) == sorted(rows(first))
    assert {hit.fact.row: hit.similarity for hit in alone} == {
        hit.fact.row: hit.similarity for hit in first
    }
    assert search(built, asked[0], exclude=[{pair.row for pair in PAIRS}]) == [[]]


def test_a_rare_code_is_found_by_its_words():
    pairs = [
        pair(
            row,
            f"The panel is blinking and shows number {row} since yesterday",
            f"Do step {row} of the list.",
        )
        for row in range(100, 160)
    ]
    hits = search(Index.build(pairs, FakeEmbedder()), "number 137?")[0]
    assert hits[0].fact.row == 137 and hits[0].bm25 > hits[1].bm25


def test_searches_do_not_depend_on_the_batch_and_ties_are_in_file_order(built, monkeypatch):
    asked = [pair.question for pair in PAIRS] * 5
    together = search(built, *asked, k=5)
    assert together == search(built, *asked, k=5)
    monkeypatch.setattr(index, "_BLOCK", 1)
    assert together == search(built, *asked, k=5)
    answers = [" ".join(words) for words in permutations(["one", "two", "three", "four"])]
    twins = Index.build(
        [pair(row, "Same?", answers[row]) for row in range(9, 0, -1)], FakeEmbedder()
    )
    assert rows(search(twins, "Same?", k=9)[0]) == list(range(9, 0, -1))


def test_many_facts_with_one_answer_do_not_hide_the_others(monkeypatch):
    monkeypatch.setattr(index, "DEPTH", 5)
    many = [pair(row, f"Is it open on day {row}?", "Yes, it is open.") for row in range(50)]
    built = Index.build(
        [*many, pair(90, "Where?", "At the pier."), pair(91, "Who?", "The purser.")], FakeEmbedder()
    )
    assert sorted(rows(search(built, "Is it open on day 7?")[0])) == [7, 90, 91]


def test_history_is_part_of_the_query():
    pairs = [
        pair(
            1,
            "Do you sell the oak desk?",
            "Yes, we do.",
            "How heavy is it?",
            "It weighs forty kilos.",
        ),
        pair(
            2,
            "Do you sell the pine shelf?",
            "Yes, we do.",
            "How heavy is it?",
            "It weighs ten kilos.",
        ),
    ]
    built = Index.build(pairs, FakeEmbedder())
    query = Query("How heavy is it?", "Do you sell the pine shelf?")
    assert Query("Why?", "One?\nTwo?").text == "Why?\nWhy?\nWhy?\nTwo?\nOne?"
    assert Query("Alone?").text == "Alone?"
    hits = built.search([query], FakeEmbedder().encode([query.text]), 1)[0]
    assert hits[0].fact.answer == "It weighs ten kilos."


def test_a_saved_index_is_loaded_as_it_was(built, tmp_path):
    files = built.save(tmp_path / "retrieval")
    assert [path.name for path in files] == ["facts.jsonl", "vectors.safetensors", "index.json"]
    content = [path.read_bytes() for path in files]
    loaded = Index.load(tmp_path / "retrieval")
    assert loaded.facts == built.facts and np.array_equal(loaded.vectors, built.vectors)
    assert loaded.embedder == {"name": "fake", "sha256": "0" * 64}
    asked = [pair.question for pair in PAIRS]
    assert search(loaded, *asked, k=7) == search(built, *asked, k=7)
    assert content == [
        path.read_bytes() for path in Index.build(PAIRS, FakeEmbedder()).save(tmp_path / "again")
    ]
    assert content == [path.read_bytes() for path in loaded.save(tmp_path / "third")]


def _drop_line(folder: Path) -> None:
    lines = (folder / "facts.jsonl").read_text().splitlines(keepends=True)
    (folder / "facts.jsonl").write_text("".join(lines[:-1]))


def _change_record(folder: Path, **fields: object) -> None:
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**record, **fields}))


@pytest.mark.parametrize(
    "damage",
    [
        _drop_line,
        lambda folder: (folder / "facts.jsonl").unlink(),
        lambda folder: (folder / "vectors.safetensors").write_bytes(b"\0" * 40),
        lambda folder: (folder / "index.json").write_text("[]"),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: _change_record(folder, version=99),
        lambda folder: _change_record(folder, ranking={"wordings": 1}),
        lambda folder: _change_record(folder, sha256={}),
        lambda folder: _change_record(folder, embedder=None),
        lambda folder: _change_record(folder, dimensions=3),
    ],
)
def test_damaged_files_are_refused(built, tmp_path, damage):
    built.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(StudyError) as caught:
        Index.load(tmp_path)
    assert str(caught.value.where) and "--redo" in str(caught.value.remedy)


def test_an_answer_that_says_what_the_question_means_is_found():
    pairs = [
        pair(1, "Is that possible at all?", "Wheelchair users board by the ramp."),
        pair(2, "Is that possible with a bicycle?", "Yes, it is."),
    ]
    hits = search(Index.build(pairs, FakeEmbedder()), "Which ramp for wheelchair users?")[0]
    assert rows(hits)[0] == 1


def test_cosines_are_exact_in_every_order_of_the_sums():
    rng = np.random.default_rng(1)
    left, right = (
        index.on_grid(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        for vectors in rng.standard_normal((2, 50, 384)).astype(np.float32)
    )
    exact = left.astype(np.float64) @ right.T.astype(np.float64)
    assert np.array_equal(left @ right.T, exact) and np.array_equal(left.astype(np.float16), left)
    shuffled = rng.permutation(384)
    assert np.array_equal(left[:, shuffled] @ right[:, shuffled].T, exact)


def test_an_index_keeps_its_weights_and_prefers_the_number_that_is_asked(tmp_path):
    pairs = [
        pair(1, "How much is it for three people?", "84 pounds."),
        pair(2, "How much is it for four people, please?", "104 pounds."),
        pair(3, "Is there a fee?", "I cannot say.", answerable=False),
    ]
    plain = Index.build(pairs, FakeEmbedder(), weights=PLAIN)
    plain.save(tmp_path)
    loaded = Index.load(tmp_path)
    assert loaded.weights == PLAIN and (loaded.vectors == plain.vectors).all()
    question = "How much is it for 4 people?"
    trained = Index.build(pairs, FakeEmbedder())
    assert trained.weights == TRAINED
    assert search(trained, question)[0][0].fact.row == 1
    assert search(loaded, question)[0][0].fact.row == 2
    assert search(loaded, "How much is it for people?")[0][0].fact.row == 1


def test_numbers_differ_where_both_texts_have_some_and_none_in_common():
    numbers = Numbers(
        ["a group of four", "2 to 6 players", "no number", "one person", "zwölf Tage"]
    )
    assert numbers.differ("for 4").tolist() == [False, True, False, False, True]
    assert not numbers.differ("for us").any()
    assert numbers.differ("12 days").tolist() == [True, True, False, False, False]
