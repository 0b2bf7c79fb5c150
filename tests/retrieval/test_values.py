"""Values of answers in four languages: one fact of the prompt has to contain them."""

import time

import pytest

from assistant_builder.retrieval.grounding import BETWEEN, FACT
from assistant_builder.retrieval.values import in_one_fact, stands_in

SAME = [
    ("It opens at 9 am.", "When does the pool open? At 9:00 a.m. on weekdays."),
    ("The fee is £1,000.", "What is the fee? It costs £1000 a year."),
    ("Take 5 mg.", "How much? 5mg, with water."),
    ("It takes seven days.", "How long does it take? 7 days."),
    ("Call Marta Oduya.", "Who answers? Marta Oduya, at the desk."),
    ("Write to desk@baths.example.", "How do I reach you? By desk@baths.example."),
    ("The form is ISO-9001.", "Which form? ISO 9001, that is ISO-9001."),
    ("The ferry leaves on Monday.", "When? Every Monday and Friday."),
    ("Es kostet 3,50 €.", "Was kostet es? Der Eintritt kostet 3,50 € je Person."),
    ("Der Kurs dauert zwei Wochen.", "Wie lange dauert der Kurs? 2 Wochen."),
    ("Geöffnet ist am Mittwoch.", "Wann? Am Mittwoch und am Samstag."),
    ("L'entrée coûte 12 euros.", "Quel est le prix ? L'entrée coûte douze euros."),
    ("C'est ouvert le mardi à 9 h 30.", "Quand ? Le mardi, de 9 h 30 à 18 h."),
    ("Cierra a las 20:00.", "¿A qué hora cierra? A las 20:00 h."),
    ("La cuota es de 1.200 euros.", "¿Cuánto es la cuota? Son 1200 euros."),
    ("Yes, dogs are allowed.", "May I bring a dog? Dogs are allowed on a lead."),
]
OTHER = [
    ("It opens at 9 pm.", "When does the pool open? At 9:00 a.m. on weekdays."),
    ("The fee is $1,000.", "What is the fee? It costs £1000 a year."),
    ("Take 5 g.", "How much? 50 mg, with water."),
    ("It takes seven hours.", "How long does it take? 7 days."),
    ("Call Marta Odeya.", "Who answers? Marta Oduya, at the desk."),
    ("Write to desk@bath.example.", "How do I reach you? By desk@baths.example."),
    ("The form is ISO-9002.", "Which form? ISO 9001, that is ISO-9001."),
    ("The ferry leaves on Tuesday.", "When? Every Monday and Friday."),
    ("Es kostet 5,30 €.", "Was kostet es? Der Eintritt kostet 3,50 € je Person."),
    ("Der Kurs dauert drei Wochen.", "Wie lange dauert der Kurs? 2 Wochen."),
    ("Geöffnet ist am Donnerstag.", "Wann? Am Mittwoch und am Samstag."),
    ("L'entrée coûte 13 euros.", "Quel est le prix ? L'entrée coûte douze euros."),
    ("C'est ouvert le jeudi à 9 h 30.", "Quand ? Le mardi, de 9 h 30 à 18 h."),
    ("Cierra a las 21:00.", "¿A qué hora cierra? A las 20:00 h."),
    ("La cuota es de 1.300 euros.", "¿Cuánto es la cuota? Son 1200 euros."),
]


@pytest.mark.parametrize(("text", "fact"), SAME)
def test_values_of_a_fact_stand_in_it_however_they_are_written(text, fact):
    assert stands_in(text, fact)


@pytest.mark.parametrize(("text", "fact"), OTHER)
def test_another_value_does_not(text, fact):
    assert not stands_in(text, fact)


FACTS = [
    ("When does the north pool open?", "The north pool opens at 7 on weekdays."),
    ("When does the south pool open?", "The south pool opens at 9. It is heated to 28 degrees."),
]


def test_an_answer_that_blends_two_facts_is_replaced_by_the_best_one():
    blended = "The north pool opens at 7. It is heated to 28 degrees."
    kept = in_one_fact("The south pool opens at 9. It is heated to 28 degrees.", FACTS)
    assert kept == ("The south pool opens at 9. It is heated to 28 degrees.", False)
    text, replaced = in_one_fact(blended, FACTS)
    assert replaced and "28" not in text and text.startswith("The north pool opens at 7.")
    assert in_one_fact("It opens at 8.", FACTS) == (FACTS[0][1], True)
    assert in_one_fact(blended, FACTS, each=True) == (blended, False), "statements of a document"
    assert in_one_fact("Nothing was found for 12.", []) == ("Nothing was found for 12.", False)


def test_an_answer_ends_before_the_next_fact_of_its_prompt():
    own = FACTS[0][1]
    further = BETWEEN + FACT.format(question=FACTS[1][0], answer=FACTS[1][1])
    assert in_one_fact(own + further, FACTS) == (own, True)
    listed = [("What do people ask?", "Two things.\nQ: When?\nA: At 7.")]
    assert in_one_fact(listed[0][1], listed) == (listed[0][1], False)


def test_what_is_streamed_is_never_taken_back():
    for whole in (
        f"{FACTS[1][1]}\nQ: When does the north pool open?",
        "The south pool opens at 9. It is heated to 28 degrees.",
        "The north pool opens at 7. It is heated to 28 degrees. Ask Ms Bell.",
        "It opens at 12.",
    ):
        shown = ""
        for length in range(len(whole) + 1):
            text, replaced = in_one_fact(whole[:length], FACTS, complete=length == len(whole))
            assert text.startswith(shown)
            shown = text
            if replaced:
                break
        assert shown == in_one_fact(whole, FACTS).text


def test_a_long_word_takes_linear_time():
    """An address is looked for at each character; without a bound this takes minutes."""
    started = time.process_time()
    assert not stands_in("a" * 200_000 + " 7", "b" * 200_000)
    assert time.process_time() - started < 5
