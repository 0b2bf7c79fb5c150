"""Messages that are more or less than one question, with answers from a table instead of a model."""

from collections.abc import Iterator, Sequence
from itertools import islice
from types import SimpleNamespace

import pytest

from assistant_builder.config.retrieval import RetrievalConfig
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Chunk
from assistant_builder.inference.conversing import Conversing
from assistant_builder.retrieval.index import Fact

NOT_KNOWN = "I can't say."
ANSWERS = {
    "How much is an adult ticket": "An adult ticket costs 9 pounds.",
    "is there parking?": "There is a car park with 45 spaces.",
    "Is parking free?": "Parking is free.",
    "Where are the toilets?": "The toilets are next to the entrance.",
}
SURE = {"An adult ticket costs 9 pounds.": 0.9}


def fact(question: str, answer: str) -> Fact:
    return Fact(1, 0, question, answer, "", None, None, answerable=True)


def conversing(*questions: str, **settings: object) -> Conversing:
    facts = [fact(question, f"Answer to {question}") for question in questions]
    config = SimpleNamespace(retrieval=RetrievalConfig(**settings))  # type: ignore[arg-type]
    study = SimpleNamespace(config=config)
    index = SimpleNamespace(facts=facts)
    return Conversing.of(study, SimpleNamespace(index=index, corrects=lambda text: False))  # type: ignore[arg-type]


class Asked:
    """Answers from the table, and what was asked."""

    def __init__(self, pieces: int = 1) -> None:
        self.conversations: list[list[str]] = []
        self.pieces = pieces

    def __call__(self, messages: Sequence[Message], most: int) -> Iterator[Chunk]:
        self.conversations.append([message.content for message in messages])
        text = ANSWERS.get(messages[-1].content)
        if text is None:
            judged = {"mode": "copy", "confidence": 0.1, "suggestions": ["Is parking free?"]}
            yield Chunk(NOT_KNOWN, 3, 0.1, 0.1, "stop", declined=True, judged=judged)
            return
        words = text.split(" ")
        finish = "stop" if len(words) <= most else "length"
        shown = words[:most]
        source = {"row": len(text), "question": "", "answer": text, "similarity": 0.9}
        judged = {"mode": "copy", "confidence": SURE.get(text, 0.7)}
        if self.pieces > 1:
            yield Chunk(shown[0], 1, 0.1, 0.1, None, (source,), 10)
            shown[0] = ""
        text = " ".join(shown)
        yield Chunk(text, len(shown), 0.1, 0.2, finish, (source,), 10, judged=judged)


def cut(text: str, most: int) -> tuple[str, int, str]:
    words = list(islice(text.split(), most + 1))
    return (text, len(words), "stop") if len(words) <= most else ("", most, "length")


def said(asked: Asked, *talk: str, most: int = 100, with_: Conversing | None = None) -> list[Chunk]:
    roles = ("user", "assistant") * len(talk)
    messages = [Message(role, text) for role, text in zip(roles, talk, strict=False)]  # type: ignore[arg-type]
    return list((with_ or conversing()).answer(messages, asked, cut, most))  # type: ignore[arg-type]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text_delta for chunk in chunks)


@pytest.mark.parametrize("pieces", [1, 2])
def test_several_questions_are_answered_one_by_one(pieces):
    asked = Asked(pieces)
    chunks = said(asked, "How much is an adult ticket and is there parking?")
    assert text_of(chunks) == (
        "An adult ticket costs 9 pounds.\n\nThere is a car park with 45 spaces."
    )
    assert [chunk.finish for chunk in chunks] == [None, None, "stop"]
    assert len(chunks[-1].sources) == 2 and chunks[-1].prompt_tokens == 20
    assert chunks[-1].tokens == 14 and not chunks[-1].declined
    # the less certain of the two answers
    assert chunks[-1].judged == {"mode": "copy", "confidence": 0.7}
    # the second question follows the first one
    assert asked.conversations[1] == [
        "How much is an adult ticket",
        "An adult ticket costs 9 pounds.",
        "is there parking?",
    ]


def test_the_part_without_an_answer_is_named():
    (_, last) = said(Asked(), "How much is an adult ticket and who won in 1998?")
    assert last.text_delta == "\n\n“who won in 1998?”: I can't say."
    assert not last.declined and last.judged["missing"] == ["who won in 1998?"]
    assert last.judged["suggestions"] == ["Is parking free?"]


def test_a_message_without_any_answer_is_asked_whole_and_declined_once():
    asked = Asked()
    whole = "Who won in 1998? When was the radio mast painted?"
    (declined,) = said(asked, whole)
    assert declined.declined and declined.text_delta == NOT_KNOWN
    assert asked.conversations[-1] == [whole]


def test_one_answer_to_both_questions_is_given_once():
    ANSWERS["where is the car park?"] = ANSWERS["is there parking?"]
    chunks = said(Asked(), "is there parking? where is the car park?")
    assert text_of(chunks) == ANSWERS.pop("where is the car park?")


def test_the_parts_have_no_more_tokens_together_than_were_asked_for():
    chunks = said(Asked(), "How much is an adult ticket and is there parking?", most=9)
    assert chunks[-1].tokens == 9 and chunks[-1].finish == "length"
    assert text_of(chunks) == "An adult ticket costs 9 pounds.\n\nThere is a"


def test_data_with_such_questions_have_theirs_answered_whole():
    message = "How much is an adult ticket and is there parking?"
    for known in (
        conversing(message),
        conversing("Where is Rye? Are dogs allowed?", "Where are cats? Is Rye open?"),
    ):
        asked = Asked()
        said(asked, message, with_=known)
        assert asked.conversations == [[message]]


def test_greetings_get_a_reply_with_examples_and_are_not_looked_up():
    known = conversing("Is parking free?", "Where are the toilets?", "x" * 100)
    asked = Asked()
    for text, reply in (("hi", "Hello! Ask me a question."), ("thanks", "You're welcome.")):
        (chunk,) = said(asked, text, with_=known)
        assert chunk.text_delta.startswith(reply) and not chunk.declined
        assert chunk.judged["mode"] == "reply"
        assert chunk.judged["suggestions"] == ["Is parking free?", "Where are the toilets?"]
    assert asked.conversations == []


def test_the_reply_is_the_owners_if_there_is_one():
    known = conversing("Is parking free?", greeting="Welcome to the pool!", suggestions=False)
    (chunk,) = said(Asked(), "Bonjour", with_=known)
    assert chunk.text_delta == "Welcome to the pool!" and chunk.judged["suggestions"] == []
    known = conversing("Is parking free?", examples=["When do you open?"], suggestions=False)
    (chunk,) = said(Asked(), "hi", with_=known)
    assert chunk.judged["suggestions"] == ["When do you open?"]


def test_a_greeting_of_the_data_is_answered_from_them():
    asked = Asked()
    said(asked, "Who are you?", with_=conversing("who are you"))
    assert asked.conversations == [["Who are you?"]]


def test_yes_or_no_stands_before_the_words_of_a_fact_only():
    assert text_of(said(Asked(), "Is parking free?")) == "Yes. Parking is free."
    assert text_of(said(Asked(2), "Is parking free?")) == "Parking is free."  # a model's own words
    assert text_of(said(Asked(), "Where are the toilets?")) == ANSWERS["Where are the toilets?"]


def test_a_tie_asks_back_with_both_questions():
    first, second = "Where is the car park?", "Where can bicycles be parked?"
    judged = {"mode": "copy", "asks_back": True, "suggestions": [first, second]}

    def ask(messages: Sequence[Message], most: int) -> Iterator[Chunk]:
        yield Chunk("The car park is west.", 5, 0.1, 0.1, "stop", ({"answer": ""},), judged=judged)

    def said_by(known: Conversing) -> Chunk:
        (chunk,) = known.answer([Message("user", "Where can I park?")], ask, cut, 100)  # type: ignore[arg-type]
        return chunk

    asked = said_by(conversing())
    said = "Do you mean “Where is the car park” or “Where can bicycles be parked”?"
    assert asked.text_delta == said and not asked.sources
    assert asked.judged == judged and not asked.declined
    shown = said_by(conversing(suggestions=False))  # questions of the data are not shown
    assert shown.text_delta == "The car park is west." and shown.judged == {"mode": "copy"}


def test_statements_below_one_heading_are_sources_of_their_own():
    """Statements of documents have no row."""

    def answered(messages: Sequence[Message], most: int) -> Iterator[Chunk]:
        text = ANSWERS[messages[-1].content]
        source = {"row": None, "question": "Visit", "answer": text, "similarity": 0.9}
        yield Chunk(text, 5, 0.1, 0.1, "stop", (source,))

    messages = [Message("user", "Is parking free? Where are the toilets?")]
    chunks = list(conversing().answer(messages, answered, cut, 100))  # type: ignore[arg-type]
    assert [each["answer"] for each in chunks[-1].sources] == list(ANSWERS.values())[2:]
