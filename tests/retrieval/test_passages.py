"""Answers from documents, alone and beside pairs, and none from what changed before somebody decides."""

import pytest

from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.documents.statements import statements_of
from assistant_builder.documents.store import Documents, Reading
from assistant_builder.documents.types import Block, Document
from assistant_builder.models import embedding
from assistant_builder.retrieval.copying import Copied, Copier, copy_stamp
from assistant_builder.study import Study
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.retrieval.test_copying import SHEET

POOL = "The teaching pool of the baths has 31 degrees."


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: FakeEmbedder())


def tell(study: Study, *sentences: str) -> None:
    blocks = [Block("text", each, 4) for each in sentences]
    pages, statements = statements_of("guide.pdf", blocks)
    document = Document("guide.pdf", "pdf", "Guide", tuple(pages), tuple(statements))
    Documents(study).update([Reading(document, "0" * 64)], "", {}, complete=False)


def ask(study: Study, question: str) -> Copied:
    return Copier.load(study).answer([Message("user", question)])


def test_documents_answer_alone_with_page_and_passage():
    study = Study.create(StudyConfig(name="guide"))
    tell(study, "The canteen serves lentil soup.", "Lockers need a coin.")
    found = ask(study, "Do the lockers need a coin?")
    assert found.text == "Lockers need a coin." and not found.declined
    source = found.sources[0]
    assert (source["document"], source["page"], source["row"]) == ("guide.pdf", 4, None)
    assert source["passage"] == "Lockers need a coin."
    assert source["before"] == "The canteen serves lentil soup.\n"
    far = ask(study, "xylophone zebra quartz?")
    assert far.declined and "No statement of the documents is near enough" in far.judged["reason"]
    assert "Add a document" in far.judged["advice"] and not far.judged["suggestions"]


def test_the_index_of_statements_is_kept_and_made_again_where_they_changed(monkeypatch):
    study = Study.create(StudyConfig(name="guide"))
    tell(study, "Lockers need a coin.")
    ask(study, "lockers?")
    known = FakeEmbedder()
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: known)
    ask(study, "lockers?")
    assert known.embedded == ["lockers?"]
    tell(study, "Lockers need a coin.", "Soup is served at noon.")
    assert ask(study, "When is soup served?").text == "Soup is served at noon."


def test_pairs_and_documents_answer_side_by_side():
    study = Study.create(StudyConfig().named("baths"), SHEET)
    alone = ask(study, "how warm is the teaching pool")
    before = copy_stamp(study)
    tell(study, "Lockers need a copper coin.")
    assert copy_stamp(study) != before
    assert ask(study, "how warm is the teaching pool") == alone  # the pair, with its row
    found = ask(study, "Do lockers need a copper coin?")
    assert found.text == "Lockers need a copper coin." and found.sources[0]["page"] == 4


def test_what_changed_is_not_served_until_somebody_decides():
    study = Study.create(StudyConfig().named("baths"), SHEET)
    question = "How warm is the teaching pool?"
    tell(study, POOL)
    served = ask(study, question)
    assert served.text == "The teaching pool has 31 degrees."
    tell(study, POOL.replace("31", "30"))
    waiting = ask(study, question)
    assert (
        waiting.declined
        and not waiting.sources
        and "nobody has decided" in waiting.judged["reason"]
    )
    # what page and command show of every decline
    assert "data changes" in waiting.judged["advice"] and len(waiting.judged["why"]) == 2
    assert waiting.judged["suggestions"] == []
    Documents(study).decide(None, "keep")
    assert ask(study, question) == served
    tell(study, POOL.replace("31", "29"))
    (change,) = Documents(study).undecided
    # the pair says 31, and rests on what was before the first decision, which kept it
    assert change.old.text == POOL.replace("31", "30")
    Documents(study).decide(None, "drop")
    assert ask(study, question).text != POOL.replace("31", "30")


def test_a_dropped_pair_is_no_longer_served_and_the_new_statement_is():
    study = Study.create(StudyConfig().named("baths"), SHEET)
    tell(study, POOL)
    tell(study, POOL.replace("31", "30"))
    Documents(study).decide(None, "drop")
    found = ask(study, "How warm is the teaching pool of the baths?")
    assert found.text == POOL.replace("31", "30") and found.sources[0]["document"] == "guide.pdf"


def test_a_statement_that_is_gone_is_not_replaced_by_a_neighbour_unnoticed():
    study = Study.create(StudyConfig(name="guide"))
    tell(study, "Lockers need a copper coin.", "Lockers are blue.")
    tell(study, "Lockers are blue.")
    assert ask(study, "Do lockers need a copper coin?").declined
    Documents(study).decide(None, "drop")
    assert not ask(study, "Are lockers blue?").declined
