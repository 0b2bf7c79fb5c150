"""Recall at k on validation questions, and the files that a study gets."""

import json
from pathlib import Path

import numpy as np
import pytest

from assistant_builder.atomic_io import file_hash, read_json, write_jsonl
from assistant_builder.data import Pair, load_split
from assistant_builder.models import embedding
from assistant_builder.retrieval import build
from assistant_builder.retrieval.build import write_index
from assistant_builder.retrieval.grounding import read_contexts
from assistant_builder.retrieval.index import Index, facts_of
from assistant_builder.retrieval.recall import Recall, last_facts, recall_at_k
from assistant_builder.runner import data_steps
from assistant_builder.runner.invalidation import first_stale_step, step_inputs
from assistant_builder.study import Study
from assistant_builder.study.steps import StepRecord
from assistant_builder.ui.data.tab import study_data_panel
from assistant_builder.ui.data.view import lookup_view
from evals.tasks.held_out import heldout_pairs
from tests.data.test_one_wording import sheet
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import new_study, with_data

HOSTILE = '<img src="x" onerror=1>'
TRAINING = [
    pair(1, "When does the first ferry leave?", "It leaves at six.", cluster="first"),
    pair(2, "How much is a ticket?", "A ticket costs nine crowns.", cluster="fare"),
    pair(3, "May dogs travel?", "Dogs travel free of charge."),
    pair(4, "Is there a kiosk?", "Yes."),
    pair(5, "Which pier does the mail boat use?", "The mail boat uses pier two."),
]


def measured(*pairs: Pair) -> Recall:
    index = Index.build(TRAINING, FakeEmbedder())
    vectors = FakeEmbedder().encode([fact.query.text for fact in last_facts(pairs)])
    return recall_at_k(index, pairs, vectors)


def test_a_hit_has_the_same_cluster_or_without_one_the_same_answer():
    recall = measured(
        pair(11, "When is the first ferry?", "Six o'clock.", cluster="first"),
        pair(12, "May dogs travel with me?", "dogs travel free of charge"),
        pair(13, "Is there a toilet?", "Yes."),  # too short to be the same fact
        pair(14, "Who is the captain?", "Captain Marl is.", cluster="captain"),  # not in the index
        pair(15, "Who will win?", "I cannot say that.", answerable=False),
        pair(
            16, "Which pier does the mail boat use?", "A ticket costs nine crowns.", cluster="fare"
        ),
    )
    assert (recall.questions, recall.covered) == (5, 3)
    assert recall.hits[1] == 2 and recall.hits[5] == 3
    assert recall.recall[1] == pytest.approx(2 / 3)


def test_misses_name_what_was_found_instead():
    asked = pair(
        16,
        "Hello",
        "Hi",
        "Which pier: mail boat, kiosk, dogs, ferry?",
        "Nine crowns it is.",
        cluster="fare",
    )
    recall = measured(asked)
    assert recall.missed == 1 and recall.hits[3] == 0
    record = json.loads(json.dumps(recall.to_record()))
    miss = record["misses"][0]
    assert (miss["row"], miss["question"][:10], miss["history"]) == (16, "Which pier", "Hello")
    assert miss["expected"] == "Nine crowns it is." and len(miss["found"]) == 3
    assert miss["found"][0]["answer"] == "The mail boat uses pier two."
    assert record["recall"]["3"] == 0.0
    assert record["hits"] == {"1": 0, "3": 0, "5": miss["rank"] is not None}


def test_without_covered_questions_there_is_no_share():
    recall = measured(pair(14, "Who is the captain?", "Captain Marl is.", cluster="captain"))
    assert recall.covered == 0 and recall.recall == {1: None, 3: None, 5: None}
    assert "not measured" in lookup_view(recall.to_record())


def test_a_training_question_is_searched_without_its_own_row():
    index = Index.build(
        [*TRAINING, pair(6, "first boat time", "It leaves at six.", cluster="first")],
        FakeEmbedder(),
    )
    vectors = FakeEmbedder().encode([fact.query.text for fact in last_facts(TRAINING)])
    assert recall_at_k(index, TRAINING, vectors).covered == 1


# the files of a study


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> FakeEmbedder:
    """The embedder of the step; the provenance would need the base model."""
    embedder = FakeEmbedder()
    monkeypatch.setattr(embedding.Embedder, "load", lambda report: embedder)
    monkeypatch.setattr(data_steps, "collect_provenance", lambda study: {})
    return embedder


@pytest.fixture
def study(home: Path, embedder: FakeEmbedder) -> Study:
    """A study whose data steps have run with the fake embedder."""
    study = with_data(new_study())
    _run(study)
    return study


def _run(study: Study) -> StepRecord:
    files = list(data_steps.embed_data(study))
    record = StepRecord(
        "data-embed",
        state="succeeded",
        inputs=step_inputs(study, "data-embed"),
        outputs={str(path.relative_to(study.folder)): file_hash(path) for path in files},
    )
    study.write_step(record)
    return record


def test_the_step_returns_the_index_and_its_recall(study):
    names = [
        f"retrieval/{name}"
        for name in tuple(
            "facts.jsonl vectors.safetensors index.json recall.json contexts.jsonl".split()
        )
    ]
    assert list(study.step("data-embed").outputs) == ["data/embedding.json", *names]
    train = load_split(study.folder / "data", "train")
    index = Index.load(study.retrieval_folder)
    assert [fact.row for fact in index.facts] == [pair.row for pair in train]
    assert read_json(study.retrieval_folder / "recall.json")["questions"] == len(
        load_split(study.folder / "data", "validation")
    )


def test_nothing_of_held_out_and_validation_reaches_the_index(study):
    """Other held-out and validation answers give the same index, byte for byte."""
    names = ("facts.jsonl", "vectors.safetensors", "index.json")
    before = [(study.retrieval_folder / name).read_bytes() for name in names]
    of_validation = ("recall.json", "contexts.jsonl")
    measured = [(study.retrieval_folder / name).read_bytes() for name in of_validation]
    split = read_json(study.folder / "data" / "split.json")
    for name in ("heldout", "validation"):
        path = study.split_file(name)
        pairs = load_split(study.folder / "data", name)
        poisoned = [
            pair(each.row, f"poison {each.question}", "poison " * 4, group=each.group)
            for each in pairs
        ]
        write_jsonl(path, [each.to_record() for each in poisoned])
        split["hashes"][name] = file_hash(path)
        (study.folder / "data" / "split.json").write_text(json.dumps(split))
        _run(study)
        assert before == [(study.retrieval_folder / file).read_bytes() for file in names]
        assert name == "validation" or measured == [
            (study.retrieval_folder / file).read_bytes() for file in of_validation
        ]
    assert not any(b"poison" in content for content in before)


def test_respelled_questions_are_no_leaks_and_say_nothing_about_recall(home, tmp_path, embedder):
    source = tmp_path / "sheet.csv"
    source.write_text(
        "question,answer\n" + "".join(f'"{each.question}","{each.answer}"\n' for each in sheet())
    )
    study = with_data(new_study("sheet", source, data__embedding_threshold=0.6))
    list(data_steps.embed_data(study))
    assert read_json(study.embedding_file)["leaks"] == [] and len(heldout_pairs(study)) == 20
    assert read_json(study.retrieval_folder / "recall.json")["questions"] == 0
    found = read_contexts(study.retrieval_folder, "validation")
    rows = {pair.row: pair.respelled for pair in load_split(study.folder / "data", "validation")}
    assert len(found) == 10
    assert sum(hits[0].fact.row == rows[row] for (row, _), hits in found.items()) > 5


def test_questions_are_embedded_once_and_as_without_an_index(home, embedder):
    study = with_data(new_study())
    list(data_steps.embed_data(study))
    data = study.folder / "data"
    pairs = [each for name in ("heldout", "train", "validation") for each in load_split(data, name)]
    asked = [each.compared_question for each in pairs]
    answers = {fact.answer for each in load_split(data, "train") for fact in facts_of(each)}
    assert embedder.embedded[: len(asked)] == asked
    assert set(embedder.embedded[len(asked) :]) == answers - set(asked)


def test_a_study_without_an_index_is_not_stale_and_a_changed_index_is_damaged(study):
    record = study.step("data-embed")
    study.write_step(StepRecord("data", state="succeeded", inputs=step_inputs(study, "data")))
    assert first_stale_step(study, redo=False) is None
    assert first_stale_step(study, redo=True) is None
    study.delete_step_outputs("data-embed")
    assert not study.retrieval_folder.exists()
    old = {"data/embedding.json": record.outputs["data/embedding.json"]}
    study.write_step(StepRecord("data-embed", state="succeeded", inputs=record.inputs, outputs=old))
    assert first_stale_step(study, redo=False) is None
    assert "Looking up" not in study_data_panel(study)
    _run(study)
    (study.retrieval_folder / "facts.jsonl").write_text("")
    assert first_stale_step(study, redo=True) == "data-embed"


def test_too_many_answers_leave_a_study_without_an_index(tmp_path, monkeypatch):
    folder = tmp_path / "retrieval"
    assert len(write_index(folder, TRAINING, TRAINING[:1], FakeEmbedder(), {})) == 5
    monkeypatch.setattr(build, "MAX_FACTS", 4)
    assert write_index(folder, TRAINING, TRAINING[:1], FakeEmbedder(), {}) == []
    assert not folder.exists()


def test_known_vectors_are_not_embedded_again(tmp_path):
    embedder = FakeEmbedder()
    known = dict(zip(["May dogs travel?"], np.eye(64, dtype=np.float32), strict=False))
    write_index(tmp_path, TRAINING, [], embedder, known)
    assert "May dogs travel?" not in embedder.embedded and len(embedder.embedded) == 9, (
        "four questions, five answers"
    )
    assert Index.load(tmp_path).vectors[2, 0] > 0.9


# the Data tab


def test_the_page_says_how_often_the_answer_is_found(study):
    record = read_json(study.retrieval_folder / "recall.json")
    panel = study_data_panel(study)
    assert (
        f"first 3 found for {record['hits']['3']} of {record['covered']} validation questions"
        in panel
        or "Looking up: not measured" in panel
    )
    assert lookup_view(None) == ""


def test_texts_of_misses_are_escaped():
    record = measured(
        pair(
            16,
            HOSTILE,
            "A",
            f"Which pier does the mail boat use? Is there a kiosk? May dogs travel? "
            f"When does the first ferry leave? {HOSTILE}",
            HOSTILE,
            cluster="fare",
        )
    )
    shown = lookup_view(record.to_record())
    assert "0 of 1" in shown and "The 1 not found" in shown and "Found instead" in shown
    assert "<img" not in shown and "&lt;img" in shown


@pytest.mark.train
def test_the_bundled_embedder_finds_other_wordings(bundled_models):
    embedder = embedding.Embedder.load()
    index = Index.build(TRAINING, embedder)
    assert index.embedder["name"] == "all-minilm-l6-v2" and len(index.embedder["sha256"]) == 64
    asked = [
        pair(11, "what's the fare", "nine", cluster="fare"),
        pair(12, "earliest sailing", "six", cluster="first"),
    ]
    vectors = embedder.encode([fact.query.text for fact in last_facts(asked)])
    assert recall_at_k(index, asked, vectors).hits[3] == 2
