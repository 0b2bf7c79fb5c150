"""Find names in a text by their capitals: ``Marta Oduya``, ``Bank of England``, ``NASA``, ``Monday``.

Written for English. The first word of a sentence is not a name by itself, unless it has further capitals. Together
with other capitalized words it is (``Marta Oduya rows``), unless it is one of a few hundred words that begin sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FUNCTION = frozenset(
    "a an the this that these those i you he she it we they my your his her its our their who whom whose which "
    "what when where why how in on at by to from for with without of off into onto over under about above after "
    "before between during since until till up down out and or but nor so yet if unless because as than then "
    "though although while no not yes is are was were be been am do does did has have had can could might must "
    "shall should would there here each every all any some both either neither most many much more few such only "
    "also even just".split()
)
"""Words that never begin a name."""
_OPENERS = frozenset(
    "add adult adults again always ask avoid book books borrow bring buy call change check children choose click "
    "close collect come consult contact cover customers dial drink drop earlier eat eight email enter fill "
    "finally find first five follow formerly four get give go guests hand hello hi hold however inside instead "
    "keep later leave let letters like look make may maybe meanwhile meet members near never next nine nobody "
    "note nothing now often once one open opposite originally outside pay people perhaps phone place please press "
    "pull push put read remember remove report return ring rooms run second see seek select send seven show sign "
    "six sometimes soon sorry start stay stop students switch take talk tell ten thank thanks therefore third "
    "three thus tickets today together tomorrow try turn two unlike use visit visitors wait walk wash wear "
    "welcome well will write yesterday".split()
)
"""Words that often begin a sentence and are then not part of the name that follows."""
_TITLES = frozenset("mr mrs ms dr prof".split())
_LINKS = frozenset("of de del della der den des di da du van von la le bin al the &".split())
_ABBREVIATIONS = _TITLES | frozenset("st mt ft jr sr no vs etc approx inc ltd co fig".split())
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\S")
_SENTENCE_END = re.compile(r"(?<=[.!?:])[\"')\]]*\s+|[\n\"“”„]")
_CONTRACTION = re.compile(r"n't$|'(?:m|d|ll|re|ve)$", re.IGNORECASE)


def find_names(text: str) -> Iterator[str]:
    """Find the names of a text, from left to right, without titles such as ``Mr`` and without a final ``'s``.

    The text is in NFKC, with ``-`` for hyphens and ``'`` for apostrophes. U+FFFC marks removed text.
    """
    small = {token for token in _TOKEN.findall(text) if token.islower()}
    for sentence in _sentences(text):
        for run, begins in _runs(sentence):
            name = _name(run, begins, small)
            if name:
                yield name


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        words = _TOKEN.findall(text[start : end.start()])
        if len(words) > 1 and words[-1] == "." and "\n" not in end[0] and _abbreviated(words[-2]):
            continue
        yield _lower_if_all_caps(text[start : end.start()])
        start = end.end()
    yield _lower_if_all_caps(text[start:])


def _abbreviated(word: str) -> bool:
    return word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper())


def _lower_if_all_caps(sentence: str) -> str:
    words = re.findall(r"[^\W\d_]{2,}", sentence)
    return sentence.lower() if len(words) > 2 and sentence.isupper() else sentence


def _runs(sentence: str) -> Iterator[tuple[list[str], bool]]:
    run: list[str] = []
    begins = spoken = False
    end = 0
    for token in _TOKEN.finditer(sentence):
        word, gap = token[0], sentence[end : token.start()]
        if run and not _continues(run, gap, word):
            yield run, begins
            run = []
        if run:
            run.append(word)
        elif _capitalised(word):
            run, begins = [word], not spoken
        spoken = spoken or word[0].isalpha() or word == "\ufffc"
        end = token.end()
    if run:
        yield run, begins


def _continues(run: list[str], gap: str, word: str) -> bool:
    if word == "-" or run[-1] == "-":
        return not gap and (word == "-" or _capitalised(word))
    if word == ".":
        return not gap and _abbreviated(run[-1])
    if _function(word) and word not in _LINKS and (len(word) > 1 or run[-1] == "."):
        return (
            False  # a sentence begins after an abbreviation; but there are a Type A and a George I
        )
    return gap in ("", " ") and (word in _LINKS or _capitalised(word))


def _function(word: str) -> bool:
    capitals = len(word) > 1 and word.isupper()  # WHO is a name, who is not
    return word.lower() in _FUNCTION and not capitals


def _capitalised(word: str) -> bool:
    return word[0].isalpha() and word != word.lower() and not _CONTRACTION.search(word)


def _name(run: list[str], begins: bool, small: set[str]) -> str:
    words = [word for word in run if word not in "-."]
    while words and words[-1] in _LINKS:
        words.pop()
    while words:
        first = words[0].lower().removesuffix("'s")
        opens = begins and (
            first in _OPENERS
            or first in small
            or re.search(r"..(?:ing|ly)$", first) is not None
            or (len(words) > 1 and words[1] in _LINKS)
        )
        title = first in _TITLES or words[0] in _LINKS
        if not (opens or title or _function(words[0].removesuffix("'s"))):
            break
        begins = False
        words.pop(0)
    if begins and len(words) == 1 and words[0][1:] == words[0][1:].lower():
        return ""  # without a capital past the first letter, as in NASA, McKay or iPhone
    return " ".join(words).removesuffix("'s")
