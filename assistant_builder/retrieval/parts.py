"""The parts of a message: small talk, and the questions in it, in English, German, French and Spanish.

Both are recognised by words alone, so that every client gets the same parts and nothing is loaded. A message is
divided where a sentence ends, and before a conjunction that a question word or an auxiliary verb follows ("… and is
there parking?"). Sentences that are no questions stay with the question after them, which may need them; the last ones
stay with the question before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assistant_builder.data.words import bare_words, content_words

MOST_PARTS = 4
"""Questions of a message that are answered one by one; a message with more is one question."""
Talk = Literal["greeting", "thanks", "goodbye", "abilities"]

_WORDS = {
    "en": "what when where who whom whose which why how whats",
    "de": "was wann wo wer wem wen wie warum wieso weshalb welche welcher welches welchen woher wohin wieviel",
    "fr": "quand qui que quoi quel quelle quels quelles combien comment pourquoi",
    "es": "que cuando donde quien quienes cual cuales cuanto cuanta cuantos cuantas como",
}
_VERBS = {
    "en": "is are was were am do does did can could may might will would shall should has have had",
    "de": "ist sind war waren kann konnen konnte konnten darf durfen gibt hat haben muss mussen soll wird werden",
    "fr": "est sont peut peuvent puis pouvez peux avez avons faut acceptez",
    "es": "hay es son esta estan puedo puede podemos pueden tiene tienen tienes",
}
QUESTION_WORDS = frozenset(" ".join(_WORDS.values()).split())
VERBS = frozenset(" ".join(_VERBS.values()).split())
_OPENERS = QUESTION_WORDS | VERBS
_BEFORE_WORDS = frozenset(
    "until till at from on in to for with since by bis ab seit um mit zu jusqu a de en con hasta desde para".split()
)
PRONOUNS = frozenset(
    "it its they them their that those this these he him his she her one ones es er sie ihn ihm ihr ihnen das dies "
    "diese dafur davon damit il elle ils elles ca cela ce lui leur en lo la los las eso esto ello".split()
)
_MEASURES = frozenset(
    "many much long often far big large old high deep late early viel viele lange oft weit gross alt hoch".split()
)
_SENTENCE = re.compile(r"[^.?!;…\n]+(?:[.?!;…\n]+(?=\s|$)|[.?!;…\n]+|$)")
_CONJUNCTION = re.compile(
    r"(?:,\s*|\s+)(?:and|und|sowie|et|y)(?:\s+(?:also|auch|aussi|también))?\s+", re.IGNORECASE
)

_TALK: dict[str, dict[Talk, str]] = {
    "en": {
        "greeting": "hi|hello|hey|hiya|howdy|good morning|good afternoon|good evening|good day|greetings|how are you|"
        "how is it going|how do you do|hows it going|nice to meet you",
        "thanks": "thanks|thank you|thank u|thx|ty|cheers|ok|okay|alright|great|perfect|got it|that helped|that helps|"
        "i see|good|nice|cool|awesome|wonderful",
        "goodbye": "bye|bye bye|goodbye|good bye|see you|see you later|good night|have a nice day|have a good day",
        "abilities": "what can you do|what can you help me with|what can you help with|what do you do|what do you know|"
        "what can i ask|what can i ask you|who are you|what are you|are you a bot|are you a robot|are you human|help|"
        "help me|can you help me|can you help|how can you help|how can you help me|i need help|i have a question",
    },
    "de": {
        "greeting": "hallo|hi|moin|servus|guten morgen|guten tag|guten abend|gruss gott|wie geht es dir|wie gehts|"
        "wie geht es ihnen",
        "thanks": "danke|danke schon|dankeschon|vielen dank|besten dank|alles klar|in ordnung|super|prima",
        "goodbye": "tschuss|tschus|auf wiedersehen|bis bald|gute nacht|schonen tag",
        "abilities": "was kannst du|was konnen sie|was kann ich fragen|wobei kannst du helfen|"
        "wobei kannst du mir helfen|"
        "wobei konnen sie helfen|wobei konnen sie mir helfen|wer bist du|wer sind sie|hilfe|kannst du mir helfen|"
        "konnen sie mir helfen|ich habe eine frage",
    },
    "fr": {
        "greeting": "bonjour|bonsoir|salut|coucou|comment allez vous|comment ca va|ca va",
        "thanks": "merci|merci beaucoup|merci bien|d accord|parfait|super",
        "goodbye": "au revoir|a bientot|bonne nuit|bonne journee|bonne soiree",
        "abilities": "que peux tu faire|que pouvez vous faire|que sais tu faire|qui es tu|qui etes vous|aide|aidez moi|"
        "pouvez vous m aider|peux tu m aider|j ai une question|comment pouvez vous m aider",
    },
    "es": {
        "greeting": "hola|buenos dias|buenas tardes|buenas noches|buenas|que tal|como estas|como esta",
        "thanks": "gracias|muchas gracias|mil gracias|vale|de acuerdo|perfecto|genial",
        "goodbye": "adios|hasta luego|hasta pronto|hasta manana",
        "abilities": "que puedes hacer|que puede hacer|que sabes hacer|en que puedes ayudarme|en que puede ayudarme|"
        "quien eres|quien es usted|ayuda|ayudame|puedes ayudarme|puede ayudarme|tengo una pregunta",
    },
}
_FILLERS = frozenset(
    "there everyone all very much so a lot please that this for your the help helped you again and really indeed und "
    "sehr ihr ihre hilfe zusammen bitte pour votre aide tout le monde por su ayuda a todos today assistant bot".split()
)
_ORDER: tuple[Talk, ...] = ("abilities", "goodbye", "thanks", "greeting")
_PHRASES = sorted(
    (
        (tuple(phrase.split()), kind, language)
        for language, kinds in _TALK.items()
        for kind, phrases in kinds.items()
        for phrase in phrases.split("|")
    ),
    key=lambda each: -len(each[0]),
)


@dataclass(frozen=True)
class SmallTalk:
    """What is said without a question.

    Attributes:
        kind: The one that needs most of a reply.
        language: Code of its language.
    """

    kind: Talk
    language: str


def small_talk(text: str) -> SmallTalk | None:
    """What a message is that only greets, thanks, or asks what the assistant can do; ``None`` for any other."""
    words, found, place = bare_words(text), [], 0
    while place < len(words):
        length = 1
        phrase = next(
            (each for each in _PHRASES if tuple(words[place : place + len(each[0])]) == each[0]),
            None,
        )
        if phrase is not None:
            found.append(SmallTalk(phrase[1], phrase[2]))
            length = len(phrase[0])
        elif words[place] not in _FILLERS or not found:
            return None
        place += length
    return min(found, key=lambda each: _ORDER.index(each.kind), default=None)


def is_question(text: str) -> bool:
    """Whether a sentence is a question by its sign, or by its first word."""
    words = bare_words(text)
    return bool(words) and (text.rstrip().endswith("?") or words[0] in _OPENERS)


def parts_of(message: str) -> list[str]:
    """The questions of a message in their order, each with the sentences that go with it; small talk is left out.

    Returns:
        One text, the message as it is, if it has no question, one, or more than :data:`MOST_PARTS`.
    """
    sentences = [found[0].strip() for found in _SENTENCE.finditer(message)]
    kept = [each for each in sentences if bare_words(each) and small_talk(each) is None]
    parts: list[str] = []
    before: list[str] = []
    for sentence in kept:
        if not is_question(sentence):
            before.append(sentence)
            continue
        if parts and not before and _refers(bare_words(sentence)):
            parts[-1] = " ".join([parts[-1], sentence])
            continue
        first, *others = _clauses(sentence)
        parts += [" ".join([*before, first]), *others]
        before = []
    if parts and before:
        parts[-1] = " ".join([parts[-1], *before])
    return parts if 1 < len(parts) <= MOST_PARTS else [message]


def _refers(words: Sequence[str]) -> bool:
    """Whether a question only asks more of what was asked before it ("and what does it cost?")."""
    content = len(set(content_words(" ".join(words))) - _MEASURES - VERBS)
    return content == 0 or (content == 1 and bool(PRONOUNS.intersection(words)))


def _clauses(sentence: str) -> Sequence[str]:
    """The questions that conjunctions join in a sentence."""
    cuts = [(0, 0)]
    for found in _CONJUNCTION.finditer(sentence):
        left, right = (
            bare_words(sentence[cuts[-1][1] : found.start()]),
            bare_words(sentence[found.end() :]),
        )
        if right[:1] and right[0] in _BEFORE_WORDS and right[1:2] and right[1] in QUESTION_WORDS:
            # "and until when does the café serve food?", but not "and on which day?"
            more = len(set(content_words(" ".join(right))) - VERBS) > 1
            right = right[1:] if more and not PRONOUNS.intersection(right) else []
        both = len(left) > 1 and len(right) > 1 and {left[0], right[0]} <= _OPENERS
        if both and not _refers(right):
            cuts.append((found.start(), found.end()))
    ends = [start for start, _ in cuts[1:]] + [len(sentence)]
    return [sentence[start:end].strip() for (_, start), end in zip(cuts, ends, strict=True)]
