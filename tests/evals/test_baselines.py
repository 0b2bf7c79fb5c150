"""The untuned baselines: which training pairs are near, and how they enter a prompt."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assistant_builder.data import Message, Pair
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.retriever import Chooser, Retriever
from evals.baselines import RETRIEVED, Neighbour, nearest, retrieval_prompt, served_similarities
from evals.stats.similar import similar_questions
from evals.tasks.held_out import build_items
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import new_study


class Letters:
    """An embedder that counts letters: texts of the same letters are alike."""

    def encode(self, texts: list[str]) -> np.ndarray:
        rows = np.array(
            [[text.lower().count(letter) + 1e-9 for letter in "abcdefgh"] for text in texts]
        )
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def ask(row: int, *texts: str) -> Pair:
    roles = ("user", "assistant") * (len(texts) // 2)
    return Pair(row, tuple(Message(role, text) for role, text in zip(roles, texts, strict=True)))


TRAINING = [
    ask(1, "aaab", "one"),
    ask(2, "cc", "two", "dd", "three"),
    ask(5, "aaa", "four"),
    ask(9, "aaa", "five"),
]


def test_the_nearest_questions_come_first_and_equal_ones_in_file_order():
    (found, other) = nearest(["aaa", "d"], TRAINING, Letters())
    assert [(near.row, near.answer) for near in found] == [(5, "four"), (9, "five"), (1, "one")]
    assert found[0].cosine == pytest.approx(1.0) and found[2].cosine < 1
    # a later turn of a conversation counts as a question
    assert (other[0].row, other[0].answer) == (2, "three")
    assert len(other) == RETRIEVED


@pytest.fixture
def prompter(model_cache: Path) -> ChatTokenizer:
    return ChatTokenizer.load(model_cache / "models" / "smollm2-135m-instruct")


def near(row: int, text: str) -> Neighbour:
    return Neighbour(row, f"Question {row}?", text, 0.5)


def test_retrieved_pairs_precede_the_question_the_nearest_last(prompter):
    pair = Pair(
        7,
        (
            Message("system", "Be kind."),
            Message("user", "Who rows?"),
            Message("assistant", "Otto."),
        ),
    )
    (item,) = build_items([pair], prompter)
    neighbours = [near(1, "Anna."), near(2, "Bea."), near(3, "Cleo.")]
    prompt, kept = retrieval_prompt(item, neighbours, prompter, 1000)
    assert kept == neighbours
    places = [prompt.index(text) for text in ("Be kind.", "Cleo.", "Bea.", "Anna.", "Who rows?")]
    assert places == sorted(places)
    assert prompt.endswith(item["prompt"][item["prompt"].index("Who rows?") :])


def test_pairs_that_do_not_fit_are_left_out_the_farthest_first(prompter):
    (item,) = build_items([ask(7, "Who rows?", "Otto.")], prompter)
    alone = sum(map(len, prompter.split_ids(item["prompt"], item["target"])))
    long = [near(1, "Anna."), near(2, "word " * 400)]
    prompt, kept = retrieval_prompt(item, long, prompter, alone + 60)
    assert kept == long[:1] and "word" not in prompt
    none: Any = retrieval_prompt(item, long, prompter, alone)
    assert none == (item["prompt"], [])


def test_similar_questions_are_grouped_also_over_others():
    angles = np.deg2rad([0, 30, 60, 170, 300, 302])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups = similar_questions(vectors)
    assert groups[0] == groups[1] == groups[2] is not None and groups[3] is None
    assert groups[4] == groups[5] not in (None, groups[0])


def test_a_question_is_compared_with_all_others_that_are_served_and_not_with_itself():
    embedder = FakeEmbedder()
    pairs = [
        pair(0, "When do you open", "At nine.", cluster="open"),
        pair(1, "Where do I park", "In the yard.", cluster="park"),
    ]
    asked = [
        pair(2, "opening hours please", "At nine.", cluster="open"),
        pair(3, "opening hours today please", "At nine.", cluster="open"),
        pair(4, "is there parking anywhere", "In the yard.", cluster="park"),
    ]
    index = Index.build(pairs, embedder)
    retriever = Retriever(new_study(), index, embedder, Chooser(1))
    looks = [Look.of(each.messages[:-1]) for each in asked]
    items = [
        {
            "row": each.row,
            "turn": 0,
            "question": each.messages[0].content,
            "evidence": asdict(hit.evidence),
        }
        for each, hit in zip(asked, retriever.find(looks), strict=True)
    ]
    measured = served_similarities(items, retriever, [])
    assert measured == [item["evidence"]["similarity"] for item in items]
    served = served_similarities(items, retriever, asked)
    assert served[0] > measured[0] + 0.1 and served[1] > measured[1] + 0.1
    assert served[2] == pytest.approx(measured[2], abs=0.05)
    items[0]["turn"] = 1
    assert served_similarities(items, retriever, asked)[0] == measured[0]
