"""A trained assistant withholds what rests on a change of a document, and reads what the documents state now."""

from collections.abc import Iterator
from typing import Any

import pytest

from assistant_builder.atomic_io import write_jsonl
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.data.types import DECLINE_SENTENCE
from assistant_builder.documents.questions import trained_file
from assistant_builder.documents.store import Documents
from assistant_builder.inference.chunks import Chunk
from assistant_builder.inference.conversing import Conversing
from assistant_builder.inference.grounded import Generation, Grounded
from assistant_builder.models import embedding
from assistant_builder.retrieval import train_embedder
from assistant_builder.retrieval.build import lookup_stamp, write_index
from assistant_builder.retrieval.decline import score_rule
from assistant_builder.retrieval.passages import tuned_retriever
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.retrieval.test_passages import POOL, tell

QUESTION = "How warm is the teaching pool?"
PAIRS = [
    pair(1, QUESTION, "The teaching pool has 31 degrees."),
    pair(2, "When is soup served?", "Soup is served at noon."),
]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: FakeEmbedder())
    monkeypatch.setattr(train_embedder, "embedder_of_study", lambda study: FakeEmbedder())


def trained(name: str) -> Study:
    study = Study.create(StudyConfig(name=name))
    write_index(study.retrieval_folder, PAIRS, [], FakeEmbedder(), {})
    return study


def ask(study: Study, question: str) -> Chunk:
    """What an assistant says that repeats the best fact."""
    retriever = tuned_retriever(study, None)
    rule = score_rule(0.3, target=0.04, sentence=DECLINE_SENTENCE)
    grounded = Grounded(retriever, rule)
    messages = [Message("user", question)]
    found: list[Any] = []

    def find(look: Any) -> Any:
        found.extend(retriever.find([look]))
        return found[-1]

    def generate(prompt: Any) -> Generation:
        def chunks() -> Iterator[Chunk]:
            yield Chunk(found[-1].best.answer, 9, 0.0, 0.0, "stop")

        return Generation(5, chunks(), [-0.1] * 9)

    def cut(text: str) -> tuple[str, int, Any]:
        return text, len(text.split()), "stop"

    (chunk,) = grounded.one(messages, find, generate, cut)
    return chunk


def test_an_answer_that_rests_on_a_change_is_withheld_until_somebody_decides():
    study = trained("baths")
    assert ask(study, QUESTION).text_delta == PAIRS[0].answer
    tell(study, POOL)
    assert ask(study, QUESTION).text_delta == PAIRS[0].answer
    stamp = lookup_stamp(study, [])
    tell(study, POOL.replace("31", "30"))
    assert lookup_stamp(study, []) != stamp  # a served assistant is loaded again
    withheld = ask(study, QUESTION)
    assert withheld.declined and withheld.text_delta == DECLINE_SENTENCE and not withheld.sources
    assert "nobody has decided" in withheld.judged["reason"]
    assert "data changes" in withheld.judged["advice"] and not withheld.judged["suggestions"]
    other = ask(study, "When is soup served?")
    assert other.text_delta == PAIRS[1].answer and not other.declined
    Documents(study).decide(None, "keep")
    assert ask(study, QUESTION).text_delta == PAIRS[0].answer


def test_a_dropped_answer_is_not_read_any_more():
    study = trained("baths")
    tell(study, POOL)
    tell(study, POOL.replace("31", "30"))
    Documents(study).decide(None, "drop")
    answer = ask(study, QUESTION)
    assert answer.text_delta != PAIRS[0].answer
    assert all(source["row"] != 1 for source in answer.sources)


def test_an_assistant_that_reads_statements_reads_what_they_are_now():
    study = Study.create(StudyConfig(name="guide"))
    tell(study, POOL, "Soup is served at noon.")
    trained_file(study).parent.mkdir(exist_ok=True)
    write_jsonl(trained_file(study), (each.to_record() for each in Documents(study).statements))
    served = ask(study, QUESTION)
    assert served.text_delta == POOL and served.sources[0]["passage"] == POOL
    assert (served.sources[0]["row"], served.sources[0]["page"]) == (None, 4)
    tell(study, POOL.replace("31", "30"), "Soup is served at noon.")
    assert ask(study, QUESTION).declined
    far = ask(study, "xylophone zebra quartz")
    assert far.declined and not far.judged["suggestions"]  # a statement is no question
    known = Conversing.of(study, tuned_retriever(study, None))
    assert known.known == frozenset() and known.examples == () and known.divides
    Documents(study).decide(None, "drop")  # nothing rests on it; the new statement is served
    assert ask(study, QUESTION).text_delta == POOL.replace("31", "30")
