"""Which facts a text holds, and which of them an answer keeps."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evals.metrics import Context, score_answer
from evals.metrics.fact_recall import facts_kept, find_facts, has_other_numbers


def found(text: str, kind: str | None = None) -> set[str]:
    return {fact.text for fact in find_facts(text) if kind in (None, fact.kind)}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (
            "3.5 mg, 12 %, $4.20, 10:30, 1,200 and 1874",
            {"3.5 mg", "12 %", "4.2 $", "10:30", "1200", "1874"},
        ),
        ("3.5mg or 3.5 MG or 3.50 milligrams", {"3.5 mg"}),
        ("12%, 12 percent, 12 per cent, 12-percent", {"12 %"}),
        ("$4.20, 4.2 dollars, USD 4.20", {"4.2 $"}),
        ("£5, 5 pounds and 5 GBP", {"5 £"}),
        ("9 crowns", {"9 crown"}),
        ("It costs 5. Then 6.", {"5", "6"}),
        ("Wait 5.", {"5"}),
        ("pi is 3.14.", {"3.14"}),
        ("1,250,000.50 people", {"1250000.5"}),
        ("rows 1,2,3", {"1", "2", "3"}),
        ("rows 1, 2 and 3", {"1", "2", "3"}),
        ("3,5 kg", {"3.5 kg"}),
        ("1\u202f200 g, 1'200 g", {"1200 g"}),
        ("-5 °C, \N{MINUS SIGN}5 °C and \N{EN DASH}5 degrees Celsius", {"-5 °C"}),
        ("10\N{EN DASH}12 mg", {"10 mg", "12 mg"}),
        ("10 to 12 mg", {"10 mg", "12 mg"}),
        ("from 10-12", {"10", "12"}),
        ("a 5-year-old and a 12-inch board", {"5 year", "12 inch"}),
        ("9 am, 9:00 a.m. and 09:00", {"09:00"}),
        ("at 10.30 p.m.", {"22:30"}),
        ("12 am is not 12 pm", {"00:00", "12:00"}),
        ("the 3rd, 21st and 2nd", {"3", "21", "2"}),
        ("the 1990s", {"1990 decade"}),
        ("2½ hours, 2 1/2 h, 2.5 hours", {"2.5 hour"}),
        ("1/3 cup", {"1/3"}),
        ("$3 million and $3M", {"3000000 $"}),
        ("3 million people", {"3000000"}),
        ("10⁶ cells in 5 m²", {"10^6", "5 m2"}),
        ("60 mg/day, 60 mg per day", {"60 mg/day"}),
        ("60 mph, 60 miles per hour", {"60 mile/hour"}),
        ("5 MW is not 5 mW", {"5 MW", "5 mW"}),
        ("5 µg and 5 mcg", {"5 μg"}),
        ("１２ kg", {"12 kg"}),
        ("2024-05-01 or 01.05.2024 or 5/1/2024", {"2024-05-01", "01.05.2024", "5/1/2024"}),
        ("extension 0742", {"742"}),
        ("born in 1874 in Rome", {"1874"}),
        ("3時に5人", {"3", "5"}),
        ("mid-1990s, pre-2000", {"1990 decade", "2000"}),
        ("nine crowns", set()),
        ("5 m and 5", {"5 m"}),
    ],
)
def test_numbers(text, numbers):
    assert found(text, "number") == numbers
    assert not found(text, "code")


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("ISO-9001, B12, BRCA1 and QX-17.", {"iso-9001", "b12", "brca1", "qx-17"}),
        ("version 2.4.1, v2.4.1 or v2.4", {"2.4.1", "2.4"}),
        ("H2O, CO₂, 22q11.2, 5-HT, 5G", {"h2o", "co2", "22q11.2", "5-ht", "5g"}),
        ("COVID\N{NON-BREAKING HYPHEN}19, covid-19, utf-8, mp3", {"covid-19", "utf-8", "mp3"}),
        ("h3llo abc123def", {"h3llo", "abc123def"}),
        ("types 1A and 1B", {"1a", "1b"}),
        (
            "See https://www.Example.com/a-b/. Or mail info@harl-point.org!",
            {"example.com/a-b", "info@harl-point.org"},
        ),
        ("harl-point.org", {"harl-point.org"}),
        ("no code at 5 kg, 10am-5pm, 5mg-10mg", set()),
    ],
)
def test_codes(text, codes):
    assert found(text, "code") == codes


def test_a_number_in_a_code_is_no_number():
    assert find_facts("B12 under ISO-9001, release 2.4.1, at https://a.org/77") == {
        fact for fact in find_facts("B12 ISO-9001 2.4.1 a.org/77") if fact.kind == "code"
    }


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The ferry sails. Dogs ride on deck. Why? It does! Bicycles too: Ask.", set()),
        ("Marta Oduya keeps the hut at Harl Point.", {"Marta Oduya", "Harl Point"}),
        ("The Old Bramble and the Copper Wren", {"Old Bramble", "Copper Wren"}),
        ("Ask Marta Oduya or visit The Hague.", {"Marta Oduya", "Hague"}),
        ("Otto rows.", set()),
        ("Today Otto rows with Runa.", {"Otto", "Runa"}),
        ("NASA and iPhone", {"NASA", "iPhone"}),
        ("in the U.S. The end", {"US"}),
        ("Mr. Fig met Dr Oduya and J. Smith at St. Mary.", {"Fig", "Oduya", "J Smith", "St Mary"}),
        ("Jean-Luc is New York-based.", {"Jean Luc", "New York"}),
        (
            "the Bank of England and Ludwig van Beethoven",
            {"Bank of England", "Ludwig van Beethoven"},
        ),
        ("Members of Thimble Row pay.", {"Thimble Row"}),
        ("Otto and I know that I'm late; they Don't.", set()),
        ("It takes vitamin C. The rest is King George I.", {"C", "King George I"}),
        ("in May it opens. May I ask on Monday?", {"May", "Monday"}),
        ("DO NOT ENTER THE ENGINE ROOM", set()),
        ("Otto's boat is Runa's. It's Bo’s.", {"Runa", "Bo"}),
        ("Marta Oduya rows. Later Oduya sings.", {"Marta Oduya"}),
        ("1. Bring a letter.\n2. Sign at Harl Point.", {"Harl Point"}),
        ("- Dogs\n* **Cats**\n> Birds", set()),
        ('He said: "The end." Then "Moby Dick" came.', {"Moby Dick"}),
        ("Visiting Paris. Usually Rome.", {"Paris", "Rome"}),
        ("Paris, Rome & Oslo", {"Rome & Oslo"}),
        ("дом в Москве", {"Москве"}),
        ("猫が寝ている", set()),
        # German writes nouns with capitals, so each counts
        ("Er sieht den Hund im Garten.", {"Hund", "Garten"}),
    ],
)
def test_terms(text, terms):
    assert found(text, "term") == terms


def test_list_numbers_are_no_facts_but_a_lone_number_is():
    assert found("1. Bring a letter.\n2. Pay 9 crowns.") == {"9 crown"}
    assert found("12. That is the number of seats.") == {"12"}


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        ("It weighs 1200 MG.", "It weighs 1,200 mg.", 1.0),
        ("It weighs 1200 g.", "It weighs 1,200 mg.", 0.0),
        ("It weighs 1200.", "It weighs 1,200 mg.", 0.0),
        ("It takes 26 kg.", "The limit is 26.", 1.0),
        ("It costs 3.5.", "It costs 35.", 0.0),
        ("It costs 35.", "It costs 3.5.", 0.0),
        ("−5 °C", "-5 °C", 1.0),
        ("5 °C", "-5 °C", 0.0),
        ("2024", "1874", 0.0),
        ("18741 boats", "In 1874", 0.0),
        ("iso 9001", "It meets ISO-9001.", 1.0),
        ("ISO9001", "It meets ISO-9001.", 1.0),
        ("ISO-90012", "It meets ISO-9001.", 0.0),
        ("a 4 m rope", "on A4 paper", 0.0),
        ("Version 2.4.1", "v2.4.1", 1.0),
        ("Version 2.4", "use v2.4", 1.0),
        ("v2.4", "use version 2.4", 1.0),
        ("2.4.10", "version 2.4.1", 0.0),
        ("marta oduya rows", "Ask Marta Oduya.", 1.0),
        ("Marta rows", "Ask Marta Oduya.", 0.0),
        ("Otto.", "It is Otto.", 1.0),
        ("otto.", "It is Otto.", 1.0),
        ("The Ottoman", "It is Otto.", 0.0),
        (
            "Wash in the bath.",
            "It is in Bath.",
            0.0,
        ),  # a common word where the answer does write capitals
        ("Those who ask", "It is the WHO.", 0.0),
        ("The Nasa", "It is NASA.", 1.0),
        ("Harl-Point's hut", "at Harl Point", 1.0),
        ("On Monday, 9 crowns", "On Monday it is 9 crowns at Harl Point, ext. 12", 0.5),
        ("", "9 crowns", 0.0),
        (
            "9 and 10 and 11 crowns and 12 crowns",
            "It costs 12 crowns.",
            1.0,
        ),  # what is added is not looked at
        ("Anything: 9 crowns.", "Ask at the desk.", None),
        ("Anything", "", None),
    ],
)
def test_facts_kept(answer, reference, share):
    assert facts_kept(answer, reference) == share


def test_facts_of_the_question_do_not_count():
    question = "Who commands the Copper Wren?"
    reference = "Captain Dunstan Reeve commands the Copper Wren."
    assert facts_kept(question, reference, question) == 0
    assert facts_kept("Captain Ingrid Vell commands the Copper Wren.", reference, question) == 0
    assert facts_kept("Dunstan Reeve, Captain Dunstan Reeve.", reference, question) == 1
    assert (
        facts_kept("Yes.", "Yes, the Copper Wren does.", "Does the Copper Wren sail on Mondays?")
        is None
    )


def test_unanswerable_items_have_no_facts_to_keep():
    scores = [
        score_answer("Ask Nell.", "Ask Nell Garrity.", Context(answerable=each))
        for each in (True, False)
    ]
    assert "facts_kept" in scores[0] and "facts_kept" not in scores[1]


WORDS = st.sampled_from(
    "the Otto Marta Oduya of - , . : 5 mg 3.5 12 % $4 10:30 pm B12 ISO-9001 v2.4 U.S. St. I'm it's \" ' ( ) & \n NASA "
    "1, 2. ² ½ 10⁶ — – −5 ß İ ǅ".split(" ")
)


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(WORDS, max_size=12).map(" ".join),
        st.lists(WORDS, max_size=8).map("".join),
    )
)
@example("Saguenay-Lac-St.-Jean")
@settings(deadline=None, max_examples=400)
def test_a_text_keeps_all_of_its_own_facts(text):
    assert facts_kept(text, text) == (1.0 if find_facts(text) else None)


@pytest.mark.parametrize(
    ("answer", "reference", "question", "other"),
    [
        ("A tent pitch costs 24 pounds.", "A caravan pitch is 31 pounds.", "", True),
        ("You can arrive from 1 pm.", "Please leave your pitch by 11 am.", "", True),
        ("It costs 31 pounds, or 35 with a dog.", "A caravan pitch is 31 pounds.", "", False),
        ("Yes, you can pay by card.", "Yes, from 5 pounds.", "", False),
        ("It is open from 9 am.", "It is open every day.", "", False),
        ("Two of the 60 pitches.", "60 pitches have power.", "Which of the 60 pitches?", False),
        ("Ask Marta Oduya at 9 am.", "Ask Tom Reed.", "", False),
    ],
)
def test_other_numbers_than_those_of_the_reference(answer, reference, question, other):
    assert has_other_numbers(answer, reference, question) == other
