"""Messages as people write them: their parts, small talk, and questions for yes or no."""

import pytest

from assistant_builder.data.language import language_of
from assistant_builder.retrieval.parts import parts_of, small_talk
from assistant_builder.retrieval.yes_no import decides, said_yes_or_no, without_yes_no


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "How much is an adult ticket and is there parking?",
            ["How much is an adult ticket", "is there parking?"],
        ),
        (
            "Hi! When does it open, and until when does the café serve food?",
            ["When does it open", "until when does the café serve food?"],
        ),
        (
            "Wann ist offen und darf ich meinen Hund mitbringen?",
            ["Wann ist offen", "darf ich meinen Hund mitbringen?"],
        ),
        (
            "Combien coûte le billet ? Avez-vous un café ?",
            ["Combien coûte le billet ?", "Avez-vous un café ?"],
        ),
        (
            "¿Dónde está el baño? ¿Hay aparcamiento?",
            ["¿Dónde está el baño?", "¿Hay aparcamiento?"],
        ),
    ],
)
def test_questions_of_a_message_are_divided(message, parts):
    assert parts_of(message) == parts


@pytest.mark.parametrize(
    "message",
    [
        "Is there a cat on board, and what is it called?",  # asks more of the same
        "Does a packet hold a lot of seed? how many",
        "Does a food truck visit, and on which day?",
        "Do I have to buy a ticket for my spaniel, and what would it cost?",
        "Where is the boat kept at night, when nobody is sailing her?",
        "Do you sell tea and coffee?",
        "My order has not come. What can I do?",
        "The bus leaves at 7.30 p.m. on Friday",
        "a? b c? d e? f g? h i? j k?",  # more than are answered one by one
        "???",
    ],
)
def test_one_question_stays_as_it_is(message):
    assert parts_of(message) == [message]


@pytest.mark.parametrize(
    ("text", "kind", "language"),
    [
        ("hi", "greeting", "en"),
        ("Hello there, how are you?", "greeting", "en"),
        ("Thank you very much, that helped!", "thanks", "en"),
        ("hello, what can you do?", "abilities", "en"),
        ("Guten Tag", "greeting", "de"),
        ("Vielen Dank!", "thanks", "de"),
        ("Bonjour", "greeting", "fr"),
        ("¿En qué puedes ayudarme?", "abilities", "es"),
    ],
)
def test_small_talk_has_a_kind_and_a_language(text, kind, language):
    found = small_talk(text)
    assert found is not None and (found.kind, found.language) == (kind, language)


@pytest.mark.parametrize(
    "text", ["", "Who are you open for?", "hi, is there parking?", "your help", "thanks to whom?"]
)
def test_a_question_is_no_small_talk(text):
    assert small_talk(text) is None


TICKET, CHEQUES = (
    "An adult ticket costs 9 pounds.",
    "You can pay by card or in cash; cheques are not accepted.",
)


@pytest.mark.parametrize(
    ("question", "fact", "said"),
    [
        ("Is parking free?", "Parking is free; the car park has 45 spaces.", "Yes"),
        ("Can I pay by card?", CHEQUES, "Yes"),
        ("Do you accept cheques?", CHEQUES, "No"),
        ("Do you have wifi?", "There is no wifi on the ridge.", "No"),
        ("Is it right that an adult ticket costs 12 pounds?", TICKET, "No"),
        ("Is it right that an adult ticket costs 9 pounds?", TICKET, "Yes"),
        ("Does the course have nine evenings?", "The course has six evenings.", "No"),
        ("Ist das Parken kostenlos?", "Das Parken ist kostenlos.", "Ja"),
        ("Sind Hunde erlaubt?", "Hunde sind nicht erlaubt.", "Nein"),
        ("Le parking est-il gratuit ?", "Le parking est gratuit.", None),
        ("Est-ce que le parking est gratuit ?", "Le parking est gratuit.", "Oui"),
        ("¿Están permitidos los perros?", "Los perros no están permitidos.", "No"),
    ],
)
def test_a_fact_that_decides_says_yes_or_no(question, fact, said):
    assert said_yes_or_no(question, fact) == said


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("How much is a ticket?", TICKET),
        ("Does a ticket cost more than 9 pounds?", TICKET),
        ("Can I pay by card or by cheque?", CHEQUES),
        ("Are assistance dogs allowed?", "Dogs are not allowed, except assistance dogs."),
        ("Does a 12 year old need an adult?", "Children under 14 must come with an adult."),
        ("Is the café open until 23:45?", "The café is open until 22:15."),
        ("Do you have lockers?", "Lockers were removed in 2020."),
        ("Is parking not free?", "Parking is free."),
        ("Are you open on 27 December?", "The pool is closed from 20 December to 6 January."),
        ("Is there a lift?", "The dome has 38 steps."),
        ("And the refractor?", "The refractor was built in 1894."),
        ("Is it free?", "Yes, it is free."),
    ],
)
def test_a_doubt_leaves_the_fact_to_speak_for_itself(question, fact):
    assert decides(question, fact) is None


def test_the_language_of_a_text():
    texts = {
        "en": "The car park is free.",
        "de": "Der Parkplatz ist für alle da.",
        "fr": "Le parking est dans la rue.",
        "es": "El aparcamiento está en la calle.",
    }
    assert {code: language_of(text) for code, text in texts.items()} == {
        code: code for code in texts
    }
    assert language_of("") == "en"


def test_an_answer_is_compared_without_its_yes_or_no():
    for fact in ("Parking is free.", "No dogs.", "Yes. Always."):
        for said in ("Yes. ", "No. ", "Nein. ", "Oui. ", "Sí. "):
            assert without_yes_no(said + fact) == fact
    for text in ("Yes.", "No dogs.", "Nobody. Ask at the desk.", ""):
        assert without_yes_no(text) == text
