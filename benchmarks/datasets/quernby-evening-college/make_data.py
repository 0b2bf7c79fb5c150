"""Write ``data.jsonl``: 18 courses of an invented college, each with up to eight facts, in hand-written wordings.

Training wordings are plain and name the course in full. Held-out wordings are colloquial, use other words, and name the
course as people do ("the bee class"). Nothing is drawn at random: choices follow a checksum of the fact.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SYSTEM = "You answer questions about Quernby Evening College."
DECLINE = "I don't know; the Quernby prospectus does not say."

ATTRIBUTES = ("tutor", "time", "start", "room", "fee", "bring", "places", "finale")

# identifier: the full name, then what people call it
COURSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "bees": ("Beekeeping for Beginners", ("the bee class", "beekeeping", "the bees one")),
    "bread": ("Bread from Old Grains", ("the bread course", "the bread one", "old grains")),
    "chair": ("Reupholster a Chair", ("the chair class", "the chair one", "reupholstering")),
    "welsh": ("Conversational Welsh", ("Welsh", "the Welsh class", "the Welsh lot")),
    "watercolour": (
        "Watercolour Landscapes",
        ("watercolours", "the watercolour class", "the landscape painting"),
    ),
    "stars": (
        "Stargazing with the Naked Eye",
        ("stargazing", "the star course", "naked-eye stargazing"),
    ),
    "walling": ("Dry Stone Walling", ("walling", "the walling course", "the stone wall thing")),
    "clarinet": ("Clarinet for Returners", ("clarinet", "the clarinet class", "the clarinet lot")),
    "books": ("Bookbinding by Hand", ("bookbinding", "the bookbinding class", "binding books")),
    "foraging": ("Hedgerow Foraging", ("foraging", "the foraging course", "the hedgerow one")),
    "silver": ("Silver Clay Jewellery", ("the jewellery class", "silver clay", "the silver one")),
    "ballroom": ("Ballroom Basics", ("ballroom", "the ballroom class", "the dancing")),
    "engines": (
        "Small Engine Repair",
        ("the engine class", "engine repair", "the little engines one"),
    ),
    "willow": ("Willow Baskets", ("the basket class", "willow baskets", "the willow one")),
    "ancestors": (
        "Family History Detectives",
        ("family history", "the family history lot", "history detectives"),
    ),
    "cheese": ("Cheese in a Kitchen", ("the cheese course", "cheese", "the cheesy one")),
    "chess": ("Chess After Dark", ("chess", "chess night", "the chess lot")),
    "glass": ("Stained Glass Panels", ("stained glass", "the glass class", "the glass one")),
}

# a course without an entry has no such fact in the prospectus
VALUES: dict[str, dict[str, str]] = {
    "tutor": {
        "bread": "Martin Pellow",
        "chair": "Ruth Penney",
        "welsh": "Gwenda Rhys",
        "watercolour": "Ruth Pellow",
        "stars": "Dr Colin Askew",
        "walling": "Jack Thornber",
        "clarinet": "Colette Marsh",
        "foraging": "Joan Thornber",
        "books": "Colin Marsh",
        "silver": "Wendy Penrose",
        "engines": "Mick Askham",
        "willow": "Joan Penrose",
        "ancestors": "Wendy Thorn",
        "cheese": "Marta Pell",
        "chess": "Dr Ruth Asher",
        "glass": "Jack Rees",
    },
    "time": {
        "bees": "Mondays at half past six",
        "bread": "Mondays at seven",
        "chair": "Tuesdays at six",
        "welsh": "Tuesdays at seven",
        "stars": "Thursdays at nine",
        "walling": "Saturdays at ten",
        "clarinet": "Wednesdays at six",
        "books": "Wednesdays at seven",
        "foraging": "Saturdays at nine",
        "silver": "Thursdays at half past six",
        "ballroom": "Fridays at eight",
        "engines": "Thursdays at seven",
        "ancestors": "Tuesdays at half past five",
        "cheese": "Wednesdays at half past six",
        "chess": "Fridays at nine",
        "glass": "Mondays at a quarter to eight",
    },
    "start": {
        "bees": "From 3 March",
        "bread": "From 14 October",
        "chair": "From 7 October",
        "welsh": "From 30 September",
        "watercolour": "From 12 May",
        "stars": "From 13 November",
        "walling": "From 18 April",
        "clarinet": "From 15 October",
        "books": "From 22 October",
        "silver": "From 6 November",
        "ballroom": "From 16 January",
        "engines": "From 15 January",
        "willow": "From 2 February",
        "ancestors": "From 13 January",
        "cheese": "From 11 February",
        "chess": "From 31 October",
    },
    "room": {
        "bees": "Room 12, above the stables",
        "bread": "The lower kitchen",
        "chair": "The joinery shed",
        "welsh": "Room 21, second floor",
        "watercolour": "Room 22, second floor",
        "stars": "The roof terrace",
        "clarinet": "Room 2, next to the boiler",
        "books": "Room 11, above the stables",
        "foraging": "The porch by the orchard",
        "silver": "Room 14, above the print shop",
        "ballroom": "The upper hall",
        "willow": "The potting shed",
        "ancestors": "The reading room",
        "cheese": "The upper kitchen",
        "glass": "Room 4, next to the forge",
        "engines": "The lower garage",
    },
    "fee": {
        "bees": "84 pounds",
        "bread": "48 pounds",
        "chair": "120 pounds",
        "watercolour": "66 pounds",
        "stars": "18 pounds",
        "walling": "102 pounds",
        "clarinet": "90 pounds",
        "books": "72 pounds",
        "foraging": "36 pounds",
        "ballroom": "54 pounds",
        "engines": "96 pounds",
        "willow": "69 pounds",
        "ancestors": "27 pounds",
        "cheese": "87 pounds",
        "chess": "12 pounds",
        "silver": "129 pounds",
    },
    "bring": {
        "bees": "Long gloves and light-coloured clothes",
        "bread": "An apron and a large jar",
        "chair": "A chair and a staple remover",
        "welsh": "A notebook and a small mirror",
        "watercolour": "Two brushes and a board",
        "stars": "A blanket and a red torch",
        "walling": "Steel-capped boots and a packed lunch",
        "books": "A sharp pencil and a steel ruler",
        "foraging": "A basket and wellingtons",
        "silver": "A cork mat and hand cream",
        "ballroom": "Shoes with leather soles",
        "engines": "Overalls and an old toothbrush",
        "willow": "Secateurs and a damp towel",
        "cheese": "An apron and a muslin cloth",
        "chess": "A travel set and slippers",
        "glass": "Safety glasses and closed shoes",
    },
    "places": {
        "bees": "At most 9 people",
        "chair": "At most 6 people",
        "welsh": "At most 16 people",
        "watercolour": "At most 15 people",
        "stars": "At most 25 people",
        "walling": "At most 10 people",
        "clarinet": "At most 7 people",
        "books": "At most 11 people",
        "foraging": "At most 13 people",
        "silver": "At most 8 people",
        "ballroom": "At most 32 people",
        "engines": "At most 5 people",
        "willow": "At most 14 people",
        "ancestors": "At most 19 people",
        "chess": "At most 20 people",
        "glass": "At most 4 people",
    },
    "finale": {
        "bees": "A honey tasting",
        "bread": "A breakfast for the neighbours",
        "welsh": "A supper without English",
        "watercolour": "A show in the corridor",
        "stars": "A night on Harrow Fell",
        "walling": "A picnic by the river",
        "clarinet": "A concert in the chapel",
        "books": "A show in the library",
        "foraging": "A soup for everybody",
        "silver": "A sale in the foyer",
        "ballroom": "A tea dance",
        "engines": "A lawnmower race",
        "willow": "A sale at the spring fair",
        "ancestors": "A trip to the county archive",
        "cheese": "A tasting with the mayor",
        "glass": "A trip to the minster",
        "chair": "A tea on the new chairs",
    },
}

TRAIN: dict[str, tuple[str, ...]] = {
    "tutor": (
        "Who teaches {}?",
        "Who is the tutor of {}?",
        "What is the name of the teacher of {}?",
        "Tell me who the tutor for {} is.",
        "Which tutor takes {}?",
    ),
    "time": (
        "What day and time is {}?",
        "On which day and at what time is {} held?",
        "When are the weekly classes of {}?",
        "Tell me the weekly day and hour of {}.",
        "When does {} meet?",
    ),
    "start": (
        "On what date does {} begin?",
        "What is the start date of {}?",
        "When is the first class of {}?",
        "Tell me the date on which {} starts.",
        "From which date does {} run?",
    ),
    "room": (
        "Which room is {} in?",
        "Where is {} held?",
        "In which room does {} take place?",
        "What is the room for {}?",
        "Tell me where {} is taught.",
    ),
    "fee": (
        "How much does {} cost?",
        "What is the fee for {}?",
        "What is the price of {}?",
        "How much do I pay for {}?",
        "Tell me the course fee of {}.",
    ),
    "bring": (
        "What should I bring to {}?",
        "What do I need for {}?",
        "Which things must students bring to {}?",
        "What equipment is needed for {}?",
        "Tell me what to bring to {}.",
    ),
    "places": (
        "How many people can join {}?",
        "How many places are there in {}?",
        "What is the largest class size of {}?",
        "How many students does {} take?",
        "Tell me the number of places in {}.",
    ),
    "finale": (
        "How does {} end?",
        "What happens in the last class of {}?",
        "What is planned for the final evening of {}?",
        "Tell me how {} finishes.",
        "What do students do in the final class of {}?",
    ),
}

VALIDATION: dict[str, tuple[str, ...]] = {
    "tutor": (
        "Who will be my instructor in {}?",
        "Name the person leading {}.",
        "Who gives the lessons in {}?",
    ),
    "time": (
        "What is the weekly slot of {}?",
        "At what hour and on which weekday should I arrive for {}?",
        "Which evening or morning of the week belongs to {}?",
    ),
    "start": (
        "What date should I note for the opening session of {}?",
        "By the calendar, when do we set out on {}?",
        "When is the earliest session of {}, by date?",
    ),
    "room": (
        "In what part of the college will I find {}?",
        "To which part of the building should I go for {}?",
        "What is the venue of {}?",
    ),
    "fee": (
        "What does the college charge for {}?",
        "What sum is due when I enrol in {}?",
        "How expensive is it to attend {}?",
    ),
    "bring": (
        "What must I have with me at {}?",
        "Which items does the college ask me to take along to {}?",
        "What do participants of {} supply themselves?",
    ),
    "places": (
        "With how many participants is {} full?",
        "What is the limit on numbers in {}?",
        "Up to how many enrolments are accepted for {}?",
    ),
    "finale": (
        "With what does {} close?",
        "How is the conclusion of {} marked?",
        "What takes place at the closing session of {}?",
    ),
}

# "{}" is the course as people call it
HELDOUT: dict[str, tuple[str, ...]] = {
    "tutor": (
        "who's the person running {} this year",
        "Who stands up at the front in {}?",
        "Got a name for whoever's behind {}?",
        "My nan knows the one in charge of {}. What are they called?",
        "who's the one taking {} then",
        "Who'll be bossing us about in {}?",
        "who've we got for {} this time round, name please",
        "I'd like to ring whoever does {}. Who do I ask for?",
        "any idea who looks after the folk in {}",
    ),
    "time": (
        "what night's {} on",
        "I work shifts, so which bit of my week would I lose to {}?",
        "gotta book a babysitter for {}, so when's that every week?",
        "when do i need to be sat down for {} each week",
        "Does {} clash with my pub quiz on Thursday night?",
        "is {} a monday thing or what",
        "how does {} fit in the week, day and o'clock pls",
        "My bus only goes every hour. When would I have to be at {} of a week?",
        "which night do I ditch the missus for {}",
    ),
    "start": (
        "when's {} kick off",
        "Only back on Sunday, is day one of {} gone by then?",
        "How long have I got before {} gets going?",
        "when's day one of {}",
        "I'm filling in my diary. Day one of {} goes where?",
        "has {} kicked off yet or when's it due",
        "When do we all pile into {} for the very first time?",
        "from when are you doing {} again",
        "I don't get paid till Friday week. When's {} getting under way?",
    ),
    "room": (
        "where've they stuck {}",
        "I'm stood in the corridor looking lost. Which door for {}?",
        "whereabouts do i plonk myself for {}",
        "Dropping my lad off at {}. Which bit of the building's that?",
        "where's {} hiding this term",
        "Wandered round for ages last week. Where on earth is {}?",
        "wheres {} happening",
        "Is {} up a load of stairs? Where've they put it?",
        "sat nav got me to the gate, now where for {}",
    ),
    "fee": (
        "what's the damage for {}",
        "How skint will paying for {} leave me?",
        "how many quid for {}",
        "Can I afford {} on a pension? What are they asking?",
        "what'll {} set me back in money",
        "The birthday money's in. Is a hundred enough for {}?",
        "how much dosh do they want for {}",
        "Is {} a bargain or a rip-off, money-wise?",
        "whats {} gonna knock off my bank balance",
    ),
    "bring": (
        "what do i chuck in my bag for {}",
        "Do I turn up to {} empty-handed, or with what?",
        "what kit have i gotta sort for {}",
        "Off to the shops. Anything I ought to pick up for {}?",
        "What stuff do they expect us to lug along to {}?",
        "what clobber for {}",
        "Is it all laid on at {}, or do I fetch bits from home?",
        "what gear does {} want off me",
        "I forgot my things at {} last week and felt daft. What was I meant to have on me?",
    ),
    "places": (
        "how packed does {} get",
        "Is {} a big crowd or a cosy one, numbers-wise?",
        "how many bums on seats at {}",
        "Me and the darts team fancy {}. How many will they let in?",
        "whats the cut-off for {}, headcount i mean",
        "how many of us squeeze into {}",
        "Will I get lost in the crowd at {}? How many tops?",
        "How fast does {} sell out, I mean how many get in?",
        "how big a gang do they allow at {}",
    ),
    "finale": (
        "what's the grand finale at {}",
        "Do we get a knees-up when {} wraps up, or what?",
        "what've they got lined up for us once {} is nearly over",
        "Is there owt special when {} packs in for the year?",
        "what's the big send-off at {}",
        "how do they round off {} then",
        "What's in store when we all say ta-ta at {}?",
        "My sister wants to come along to the do when {} is over. What sort of do is it?",
        "when {} is done and dusted, what's the treat",
    ),
}

# wordings that the lists above cannot make
EXCEPTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("bees", "bring"): ("Don't fancy getting stung. What do I wear and carry for the bee class?",),
    ("bread", "finale"): ("Who gets fed when the bread lot are finished, and which meal?",),
    ("welsh", "finale"): ("What do they do to the Welsh lot when it's all over, is there grub?",),
    ("stars", "time"): ("It has to be dark for the star course, so how late and which night?",),
    ("stars", "room"): ("You can't see stars through a ceiling, so where do the stargazers go?",),
    ("clarinet", "places"): ("how many squeaky clarinets are they letting in at once",),
    ("foraging", "finale"): ("What becomes of all the weeds the foragers pick when they're done?",),
    ("ballroom", "bring"): ("Will my trainers do for the dancing, or what should I have on?",),
    ("ballroom", "places"): (
        "How many couples' worth of dancers do they cram into ballroom, in heads?",
    ),
    ("engines", "finale"): (
        "What daft thing do the engine lot get up to when they've got everything going?",
    ),
    ("cheese", "finale"): ("Who turns up to eat the cheese when the cheesy one is done?",),
    ("chess", "bring"): ("my feet get cold at chess night, what do folk take with them",),
    ("chess", "fee"): (
        "chess is only shoving bits of wood about, what can they possibly want for it",
    ),
    ("glass", "finale"): ("Where does the glass lot go gallivanting once they've finished?",),
    ("walling", "bring"): ("what do i put on my feet and in my bag for walling",),
    ("ancestors", "finale"): (
        "where do they cart the family history lot off to when they're done",
    ),
}

TYPOS = (
    ("would", "woud"),
    ("which", "wich"),
    ("where", "were"),
    ("class", "clas"),
    ("course", "corse"),
    ("what's", "wats"),
    ("people", "poeple"),
    ("before", "befor"),
    ("their", "thier"),
    ("week", "weeek"),
    ("expect", "exspect"),
    ("name", "nmae"),
    ("going", "gong"),
    ("what", "waht"),
    ("when", "wen"),
    ("many", "mnay"),
    ("much", "mcuh"),
)


def number(*words: str) -> int:
    """A number that depends on nothing but the words."""
    return zlib.crc32(" ".join(words).encode())


def choose(pool: tuple[str, ...], count: int, *words: str) -> list[str]:
    """``count`` entries of a pool, in an order that depends on the words."""
    return sorted(pool, key=lambda entry: number(entry, *words))[:count]


def with_typo(text: str) -> str:
    """The text with one common typing error, if it has a word of the list."""
    words = text.split(" ")
    for right, wrong in TYPOS:
        for place, word in enumerate(words):
            if word == right:
                words[place] = wrong
                return " ".join(words)
    return text


def fact_rows(course: str, attribute: str, order: int) -> Iterator[tuple[str, str]]:
    """Split and question of each row of one fact."""
    full, short = COURSES[course]
    # every sixth fact is asked in one way, as in a list of frequent questions
    count = 1 if order % 6 == 3 else 3 + number(course, attribute) % 3
    for pattern in choose(TRAIN[attribute], count, course):
        yield "train", pattern.format(full)
    pattern = VALIDATION[attribute][
        number("validation", course, attribute) % len(VALIDATION[attribute])
    ]
    yield "validation", pattern.format(full)
    own = EXCEPTIONS.get((course, attribute), ())
    yield from (("heldout", question) for question in own)
    for place, pattern in enumerate(choose(HELDOUT[attribute], 3 - len(own), "heldout", course)):
        called = short[(number(course, attribute) + place) % len(short)]
        question = pattern.format(called)
        yield "heldout", with_typo(question) if number("typo", question) % 8 == 0 else question


def rows() -> Iterator[dict[str, Any]]:
    """All rows; the questions to decline are written out in ``declined.txt``."""
    order = 0
    for course in COURSES:
        for attribute in ATTRIBUTES:
            if course not in VALUES[attribute]:
                continue
            for split, question in fact_rows(course, attribute, order):
                yield {
                    "question": question,
                    "answer": VALUES[attribute][course],
                    "cluster": f"{course}-{attribute}",
                    "family": attribute,
                    "split": split,
                    "answerable": True,
                    "system": SYSTEM,
                }
            order += 1
    kind = split = ""
    count = 0
    for line in (FOLDER / "declined.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            split, kind = line[2:].split()
        elif line:
            count += 1
            yield {
                "question": line,
                "answer": DECLINE,
                "cluster": f"decline-{count:02}",
                "family": kind,
                "split": split,
                "answerable": False,
                "system": SYSTEM,
            }


def main() -> None:
    """Write the file, sorted by cluster as the ferries dataset is."""
    splits = ("train", "validation", "heldout")
    ordered = sorted(rows(), key=lambda row: (row["cluster"], splits.index(row["split"])))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered)
    (FOLDER / "data.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
