import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.data import Message
from assistant_builder.data.words import content_words
from assistant_builder.retrieval.answering import (
    Judged,
    Look,
    added_words,
    alone,
    is_verbatim,
    looks,
    own_words,
    reads_conversations,
    settle,
)
from assistant_builder.retrieval.decline import NAMES, DeclineRule
from assistant_builder.retrieval.index import Fact
from tests.synthetic_study import new_study

SHOP, HUT = "The shop is open from 8 to 12.", "A hut costs 46 pounds a night and sleeps four."


def talk(*questions: str) -> list[Message]:
    turns = [Message("system", "Be brief.")]
    for question in questions:
        turns += [Message("user", question), Message("assistant", "Yes.")]
    return turns[:-1]


def rule(threshold: float = 0.5, second: float = 0.75, named: float = 0.65) -> DeclineRule:
    plain = (0.0,) * len(NAMES)
    return DeclineRule(
        plain,
        (1.0,) * len(NAMES),
        plain,
        0.0,
        threshold,
        0.04,
        True,
        9,
        0,
        9,
        9,
        "No.",
        second,
        named,
    )


def fact(answer: str, question: str = "When is the shop open?") -> Fact:
    return Fact(1, 0, question, answer, "", None, None, True)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("And on Mondays?", ["mondays"]),
        ("what's in it?", []),
        ("Until when?", []),
        ("Wo ist das?", []),
        ("Et le lundi ?", ["lundi"]),
        ("¿Y los lunes?", ["lunes"]),
        ("How old is the cat on the Copper Wren?", ["old", "cat", "copper", "wren"]),
    ],
)
def test_content_words_are_no_function_words_of_four_languages(question, words):
    assert content_words(question) == words


def test_a_question_is_looked_up_alone_whatever_was_asked_before():
    question = "Which captain commands the Copper Wren?"
    first, second = looks(
        talk("Do you rent bikes?", "Is there a bus?", question), conversations=False
    )
    assert second is None and first == looks(talk(question), conversations=False)[0]
    assert first.messages == alone(talk(question)) == tuple(talk(question))


def test_a_short_question_is_looked_up_again_with_the_turn_before():
    first, second = looks(
        talk("Do you rent bikes?", "When is the café open?", "And on Mondays?"), conversations=False
    )
    assert first == looks(talk("And on Mondays?"), conversations=False)[0]
    assert second is not None and second.messages == first.messages
    assert second.query.question == "And on Mondays?"
    assert second.query.history == "When is the café open?"


def test_the_turn_before_may_be_a_follow_up_itself():
    _, second = looks(
        talk("Is there a bus?", "When is the café open?", "And on Mondays?", "Until when?"),
        conversations=False,
    )
    assert second is not None and second.query.history == "When is the café open?\nAnd on Mondays?"


def test_assistants_of_conversations_read_earlier_turns():
    asked = talk("When is the café open?", "And on Mondays?")
    first, second = looks(asked, conversations=True)
    assert first == Look.of(asked) and second is not None and second.messages == alone(asked)
    long = talk("When is the café open?", "Which captain commands the Copper Wren?")
    first, second = looks(long, conversations=True)
    assert first.messages == alone(long) and second == Look.of(long)


def settled(question: str, first: float, second: float | None) -> int | None:
    taken = (
        (lambda: Judged(second, fact(HUT, "What does a hut cost?"))) if second is not None else None
    )
    return settle(rule(), question, Judged(first, fact(SHOP)), taken)


def test_the_second_look_answers_where_the_first_declines():
    assert settled("And on Mondays?", 0.2, 0.8) == 1
    assert settled("And on Mondays?", 0.2, 0.7) is None  # the second look has its own threshold
    assert settled("And on Mondays?", 0.2, None) is None
    assert settled("And on Mondays?", 0.6, None) == 0


def test_an_answer_is_replaced_only_by_a_fact_of_the_same_words_or_far_more_certainty():
    assert settled("And the shop?", 0.6, 0.8) == 0
    assert settled("And a hut?", 0.6, 0.8) == 1
    assert settled("From what time?", 0.6, 0.99) == 1
    assert settled("Which captain commands it?", 0.6, 0.99) == 0
    assert settled("And a hut at night?", 0.6, 0.7) == 1


def test_a_fact_with_the_words_of_the_question_needs_less_confidence():
    assert settled("And a hut?", 0.2, 0.7) == 1
    assert settled("And a hut?", 0.2, 0.6) is None
    assert settled("Until when?", 0.2, 0.7) is None


@pytest.mark.parametrize(
    ("question", "earlier", "words"),
    [
        ("And for a child?", "What does an adult pay?", ["child"]),
        ("And what does a child pay?", "What does an adult pay?", ["child"]),
        ("Und für Kinder?", "Was kostet der Eintritt für Erwachsene?", ["kinder"]),
        ("¿Y para un niño?", "¿Cuánto paga un adulto?", ["nino"]),
        ("Et pour un enfant ?", "Combien paie un adulte ?", ["enfant"]),
        ("From what time?", "When does the pizza van come?", []),
        ("How much is it?", "Do you sell firewood?", []),
        ("Where exactly?", "Are campfires allowed?", []),
        ("Does it cost more?", "Do you rent boats?", []),
        ("And the cost?", "What does a course cost?", []),
    ],
)
def test_a_follow_up_may_name_another_thing(question, earlier, words):
    assert added_words(question, earlier) == words


def test_a_thing_that_the_follow_up_names_must_be_in_the_fact():
    earlier = "What does an adult pay?"
    adult = fact("An adult pays 9 pounds.", earlier)

    def settled(question: str, given: Fact, first: float = 0.2) -> int | None:
        second = Judged(0.99, given)
        return settle(rule(), question, Judged(first, fact(SHOP)), lambda: second, earlier)

    assert settled("And for a child?", adult) is None
    assert settled("And what does a child pay?", adult) is None
    assert settled("And for a child?", adult, first=0.6) == 0, "the first look answers"
    assert settled("And for a child?", fact("Children pay 4 pounds.", "And the young?")) == 1
    assert settled("In which currency?", adult) == 1


def test_the_second_look_is_not_taken_without_need():
    def never() -> Judged:
        raise AssertionError

    assert settle(rule(), "Which old captain commands it?", Judged(0.6, fact(SHOP)), never) == 0


def test_without_a_fact_in_the_prompt_nothing_is_answered():
    assert settle(rule(), "When is the shop open?", Judged(0.9, None), None) is None
    assert settle(rule(), "Where?", Judged(0.2, None), lambda: Judged(0.9, None)) is None


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        (SHOP, SHOP),
        (SHOP.upper(), SHOP),
        ("The shop is open from 8 to 13.", SHOP),
        ("A hut costs 64 pounds", HUT),
        ("Yes, a hut costs 64 pounds.", SHOP),
        ("A hat", SHOP),
        ("", SHOP),
    ],
)
def test_an_answer_is_given_in_the_words_of_the_fact_that_it_begins(text, chosen):
    assert own_words(text, [SHOP, HUT]) == chosen


def test_a_fact_is_chosen_as_soon_as_only_one_is_left():
    tea = ["The tea hut at Fennick sells pasties.", "The tea hut at Harl Point sells flapjack."]
    assert own_words("The tea hut at", tea, complete=False) is None
    assert own_words("The tea hut at Ha", tea, complete=False) is None  # the word may go on
    assert own_words("The tea hut at Harl P", tea, complete=False) == tea[1]
    # neither goes on so: the better one
    assert own_words("The tea hut in Fennick", tea, complete=False) == tea[0]
    assert own_words("Ten", tea, complete=False) is None
    assert own_words("Ten pasties", tea, complete=False) == tea[0]
    assert own_words("Yes", ["No.", "Yes."]) == "Yes."


def test_a_changed_number_is_not_verbatim():
    assert is_verbatim("the shop is open from 8 to 12", [HUT, SHOP])
    assert not is_verbatim("The shop is open from 8 to 13.", [HUT, SHOP])


@pytest.mark.parametrize(
    ("split", "reads"),
    [
        ({"counts": {"train": 3}, "turns": {"train": 3}}, False),
        ({"counts": {"train": 3}, "turns": {"train": 4}}, True),
        ({"counts": {"train": 3000}, "turns": {"train": 3009}}, False),
        ({}, False),
        (None, False),
    ],
)
def test_one_conversation_among_thousands_of_rows_makes_no_assistant_of_conversations(split, reads):
    study = new_study("spoken")
    if split is not None:
        write_json(study.folder / "data" / "split.json", split)
    assert reads_conversations(study) == reads
