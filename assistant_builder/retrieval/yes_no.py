"""Whether a fact says yes or no to a question, in English, German, French and Spanish.

The fact decides where one of its clauses has all content words of the question: yes without a negation, no with one, or
with another number in the same place. It does not decide where a word bounds or compares ("until", "more than"), where
the fact has a condition or an exception, and where the question has an alternative. A wrong yes costs more than none,
so every doubt leaves the fact to speak for itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from assistant_builder.data.language import language_of
from assistant_builder.data.words import bare_words, content_words
from assistant_builder.retrieval.lexical import number_of
from assistant_builder.retrieval.parts import QUESTION_WORDS, VERBS

YES_NO = {"en": ("Yes", "No"), "de": ("Ja", "Nein"), "fr": ("Oui", "Non"), "es": ("Sí", "No")}
"""The words of each language."""
_BEGINS = re.compile(
    rf"^(?:{'|'.join(sorted({word for both in YES_NO.values() for word in both}))})\. (?=\S)"
)
_NOT = frozenset(
    "no not neither nor never none cannot isn aren don doesn didn wasn weren won can't nicht kein keine keinen keiner "
    "keinem nie niemals weder pas aucun aucune jamais ni ningun ninguna nunca tampoco sin".split()
)
_BARE_NO = frozenset(
    "no kein keine keinen keiner keinem aucun aucune ningun ninguna hay pas d de".split()
)
_LOST = frozenset(
    "closed forbidden prohibited banned removed unavailable impossible stopped ended cancelled canceled hardly rarely "
    "refused without out instead geschlossen verboten untersagt ohne statt ferme interdit interdite sans cerrado "
    "prohibido prohibida".split()
)
_CONDITION = frozenset(
    "if unless except only but otherwise when wenn falls sofern ausser nur aber sonst si sauf seulement mais sinon "
    "salvo excepto solo pero".split()
)
_BOUND = frozenset(
    "more less fewer than over under above below before after until till by from to between within least most up about "
    "around nearly always every all both any still too also yet enough older younger bigger smaller mehr weniger als "
    "uber unter vor nach bis ab von zwischen mindestens hochstens immer jede jeder alle noch zu auch plus moins que "
    "avant apres jusque jusqu depuis entre toujours tous toutes encore trop aussi mas menos antes despues hasta desde "
    "siempre todos todas todavia demasiado tambien".split()
)
_OR = frozenset("or oder ou o u".split())
_CLAIM = re.compile(
    r"^\W*(?:is it (?:right|true|correct) that|is it so that|stimmt es,? dass|ist es richtig,? dass|est[- ]ce que|"
    r"est-il vrai que|es (?:cierto|verdad) que)\b",
    re.IGNORECASE,
)
_TAG = re.compile(
    r",\s*(?:right|correct|true|(?:is|are|do|does|did|was|were|has|have|can|will)n['’]?t (?:it|they|there|you|he|she)|"
    r"oder|nicht wahr|stimmt'?s|n['’]est-ce pas|verdad|no)\s*\?\s*$",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"[,;:!?()\n]|\.(?!\d)|(?<!\d)\.")
_STEM = 4  # characters by which longer words are compared


def said_yes_or_no(question: str, fact: str) -> str | None:
    """The yes or no with which an answer to a question begins, in the language of the fact.

    Args:
        question: The question.
        fact: The answer of the fact.

    Returns:
        ``None`` if the question wants neither, or the fact does not decide.
    """
    decided = decides(question, fact)
    return None if decided is None else YES_NO[language_of(fact)][0 if decided else 1]


def without_yes_no(answer: str) -> str:
    """An answer without the yes or no of :func:`said_yes_or_no`, as a fact of the data is."""
    return _BEGINS.sub("", answer, count=1)


def decides(question: str, fact: str) -> bool | None:
    """True for yes, False for no; ``None`` if the question wants neither, or the fact does not decide."""
    asked, claims = _asked(question)
    said = bare_words(fact)
    if not asked or not said or said[0] in {"yes", "no", "ja", "nein", "oui", "non", "si"}:
        return None
    if (_NOT | _OR | _LOST).intersection(asked) or _CONDITION.intersection([*asked, *said]):
        return None
    content = [word for word in content_words(" ".join(asked)) if word not in VERBS]
    bounds = _BOUND.intersection(asked)
    if not content or not all(_has(said, word) for word in content if not number_of(word)):
        return None
    numbers = [word for word in content if number_of(word)]
    plain = [word for word in content if not number_of(word)]
    known = [number_of(word) for word in said]
    if other := [word for word in numbers if number_of(word) not in known]:
        return (
            False
            if len(other) == 1 and not bounds and _othernumber_of(asked, other[0], fact)
            else None
        )
    for clause in map(bare_words, _CLAUSE.split(fact)):
        negated = _NOT.intersection(clause)
        if not plain or not bounds <= set(clause):
            continue
        whole = all(_has(clause, word) for word in plain) and all(
            number_of(word) in map(number_of, clause) for word in numbers
        )
        if (
            negated
            and _has(clause, plain[0])
            and (whole or sum(_has(clause, each) for each in plain) > 1)
        ):
            return False if len(plain) > 1 or _denied(clause, plain[0]) else None
        if whole and not negated and len(content) > 1 and not _LOST.intersection(clause):
            return None if claims and not numbers and len(plain) < 2 else True
    return None


def _asked(question: str) -> tuple[list[str], bool]:
    """The words of a question that wants yes or no, without what only asks for it, and whether it is a claim."""
    claim = _CLAIM.sub("", _TAG.sub("?", question))
    claims = claim != question
    words = bare_words(claim)
    while (
        words
        and words[0] in {"so", "and", "but", "und", "also", "et", "y", "ok", "is", "are"} - VERBS
    ):
        words = words[1:]
    if not words or QUESTION_WORDS.intersection(words[:1]):
        return [], False
    if words[0] in VERBS:
        return words[1:], claims
    return (words, True) if claims else ([], False)


def _othernumber_of(asked: Sequence[str], number: str, fact: str) -> bool:
    """Whether a clause of the fact has one other number where the question has this one."""
    place = list(asked).index(number)
    left = asked[place - 1] if place else ""
    right = asked[place + 1] if place + 1 < len(asked) else ""
    found = []
    for clause in map(bare_words, _CLAUSE.split(fact)):
        for at, word in enumerate(clause):
            if not number_of(word):
                continue
            before = clause[at - 1] if at else ""
            after = clause[at + 1] if at + 1 < len(clause) else ""
            same_left = bool(left) and left == before and (not right or bool(content_words(left)))
            if same_left or (bool(right) and bool(content_words(right)) and _same(right, after)):
                found.append(clause)
    return len(found) == 1 and not (_BOUND | _NOT | _CONDITION).intersection(found[0])


def _denied(clause: Sequence[str], word: str) -> bool:
    place = next(at for at, each in enumerate(clause) if _same(word, each))
    return bool(place) and clause[place - 1] in _BARE_NO


def _has(words: Sequence[str], word: str) -> bool:
    return any(_same(word, each) for each in words)


def _same(word: str, other: str) -> bool:
    """Whether two words are forms of one: the shorter begins the longer, apart from an ending."""
    short, long = sorted((word, other), key=len)
    if len(short) < _STEM:
        return short == long or (len(short) > 2 and long in (f"{short}s", f"{short}es"))
    stem = short[: max(_STEM, len(short) - 2)] if len(short) > _STEM + 1 else short
    return long.startswith(stem) and len(long) - len(stem) <= _STEM
