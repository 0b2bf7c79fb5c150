"""Misspelt words of a question are looked up as the data spell them."""

import time

import pytest

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.data import Message
from assistant_builder.retrieval.answering import Look
from assistant_builder.retrieval.build import with_missing_answers
from assistant_builder.retrieval.index import Index, Query
from assistant_builder.retrieval.retriever import Chooser, Retriever
from assistant_builder.retrieval.spelling import MOST, NEAR, Spelling
from tests.retrieval.fake_embedder import FakeEmbedder, pair
from tests.synthetic_study import new_study

DATA = Spelling(
    [
        "How much is a family ticket? A family ticket costs 24 pounds.",
        "Can I bring my dog? Dogs may come on Wednesdays. Is the café open?",
        "Größe der Säle: 12",
    ]
)
KNOWN = {"chess", "lift", "the", "there", "wifi"}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("how mutch is a famly tiket", "how much is a family ticket"),
        ("can i brign my dgo", "can i bring my dog"),
        ("Tikcet, FAMILLY!", "ticket, family!"),
        ("wensdays", "wensdays"),  # two changes
        ("dxg dogx", "dxg dogs"),  # of three letters an exchange alone
        ("is there a lift", "is there a lift"),  # words that the embedder knows
        ("die Grösse, die Grössse", "die Grösse, die grösse"),  # without case ß is ss
        ("caffé", "café"),
        ("24 puonds in 2O26", "24 pounds in 2O26"),
        ("กขคง 家族票家", "กขคง 家族票家"),  # scripts without cases
        ("", ""),
    ],
)
def test_a_word_that_nobody_knows_becomes_the_nearest_of_the_data(typed, read):
    assert DATA.corrected(typed, KNOWN.__contains__) == read


def test_the_more_frequent_word_is_chosen():
    spelling = Spelling(["a boat", "a boat and a coat"])
    assert spelling.corrected("xoat", lambda word: False) == "boat"


def test_long_and_many_words_take_no_time():
    many = Spelling([" ".join(f"word{letter}{other}" for letter in "abc" for other in "xyz")])
    started = time.process_time()
    text = "z" * 100_000 + " " + "wordaxx " * 100_000
    corrected = many.corrected(text, lambda word: False)
    assert time.process_time() - started < 2
    assert corrected.count("wordax ") == MOST and corrected.startswith("zzz")


def test_few_of_the_words_that_are_alike_are_compared():
    letters = [chr(code) for code in range(97, 0x500) if chr(code).casefold() == chr(code)]
    cased = [letter for letter in letters if letter.upper() != letter.lower()]
    spelling = Spelling([" ".join(f"{'a' * 23}{each}" for each in cased)])
    assert len(cased) > NEAR == max(map(len, spelling._near.values()))


def test_the_words_that_are_corrected_to_are_bounded(monkeypatch):
    monkeypatch.setattr("assistant_builder.retrieval.spelling.WORDS", 2)
    spelling = Spelling(["museum museum gallery gallery library"])
    assert spelling.corrected("librari museun", lambda word: False) == "librari museum"
    assert len(spelling._near) <= 2 * 9
    monkeypatch.setattr("assistant_builder.retrieval.spelling.MOST_WORDS", 2)
    assert Spelling(["one museum", "two"]).corrected("museun", lambda word: False) == "museun"
    assert len(Spelling(["one two three four five six"])._counts) == 3, "nor of one long text"


def test_a_misspelt_question_finds_its_fact_and_is_shown_as_typed(monkeypatch):
    embedder = FakeEmbedder()
    facts = [pair(1, "How much is parking?", "Free."), pair(2, "Where is the museum?", "Here.")]
    index = Index.build(facts, embedder)
    retriever = Retriever(new_study(), index, embedder, Chooser(1))
    look = Look.of((Message("user", "museeum?"),))
    monkeypatch.setattr(embedder, "is_word", lambda word: word != "museeum")
    (found,) = retriever.find([look])
    assert found.best is not None and found.best.row == 2
    assert embedder.embedded[-1] == "museum?" and found.messages[-1].content == "museeum?"


def test_an_index_of_an_earlier_version_is_searched_as_it_was_measured(tmp_path):
    index = Index.build([pair(1, "Where is the museum?", "Here.")], FakeEmbedder())
    index.save(tmp_path)
    query = Query("museeum?")
    assert Index.load(tmp_path).corrected(query, lambda word: False) == Query("museum?")
    record = read_json(tmp_path / "index.json")
    assert record.pop("spelling") is True
    write_json(tmp_path / "index.json", record)
    old = Index.load(tmp_path)
    assert old.corrected(query, lambda word: False) == query
    wider, _ = with_missing_answers(old, [pair(2, "Where is the mill?", "There.")], FakeEmbedder())
    assert wider.corrected(query, lambda word: False) == query
