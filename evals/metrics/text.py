"""Text metrics: exact match, token F1, ROUGE-L, chrF and embedding similarity of an answer and its reference.

Scores are between 0 and 1 and higher is better; a similarity is a cosine. Nothing here needs a model, a network or a
GPU, except the similarity, which asks its caller for embeddings.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from assistant_builder.normalization import normalize_form

if TYPE_CHECKING:
    from evals.metrics import Resources


def normalise(text: str) -> str:
    """Bring a text to the form in which answers are compared word by word.

    The steps of SQuAD's script (lower case, punctuation deleted, ``a``/``an``/``the`` dropped, spacing collapsed),
    carried over to all of Unicode: NFKC first, case folding for lower case, punctuation and symbols of any script.
    Unlike SQuAD's, what has a meaning stays: fractions, exponents, signs, currencies, ``%``, ``°``, ``<``; marks
    between two digits (``3.5``, ``10:30``) and at the end of a name (``C++``, ``Rh-``); addresses with ``@``; and a
    capital ``A`` that names something (``Vitamin A``). Notation does not count: ``.5`` is ``0.5``, ``£5.00`` is ``5 £``
    and ``9am`` is ``9 am``. A text of nothing but marks keeps them.
    """
    spelled = _VULGAR_FRACTION.sub(r" \g<0>", _EXPONENT.sub(r"^\g<0>", text))
    plain = normalize_form("NFKC", spelled).replace("\u2044", "/")
    folded = normalize_form("NFKC", _without_article_a(plain).casefold())
    for pattern, replacement in _NOTATION:
        folded = pattern.sub(replacement, folded)
    kept = "".join(
        char
        for place, char in enumerate(folded)
        if unicodedata.category(char)[0] not in "PS" or _has_meaning(folded, place)
    )
    kept = " ".join(re.sub(r"\b(an|the)\b", " ", _DIGIT_LETTER.sub(" ", kept)).split())
    return kept or " ".join(plain.casefold().split())


_EXPONENT = re.compile("(?<=[0-9])[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+")
_VULGAR_FRACTION = re.compile("(?<=[0-9])[\u00bc-\u00be\u2150-\u215e]")
_CURRENCY = "$\u00a2-\u00a5\u0e3f\u20a0-\u20c0"
_NOTATION = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[—―]", " "),
        ("[‐‑‒–−]", "-"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),  # between thousands
        (r"(?<![\w.])\.(?=\d)", "0."),
        (
            r"(?<![\d.,])(\d+)[.,]0{1,2}(?![.,]?\d)",
            r"\1",
        ),  # 5.00, but neither the version 1.0.3 nor the German 5.000
        (rf"(?<!\d)(?<!\d )([-+]?)([{_CURRENCY}]) ?([-+]?\d[\d.,]*)", r" \1\3 \2"),
        (r"(?<=\d) *[x×] *(?=\d)", " x "),
        (rf"(?<=\d) *(?=[{_CURRENCY}%‰°])", " "),
        ("([<>≤≥≠≈~±]) +", r"\1"),
    )
]
"""Notations of the same value, each with what it becomes."""
_DIGIT_LETTER = re.compile(r"(?<=\d)(?=[^\W\d_])")  # 9am, 5mg
_ALWAYS = frozenset("%‰°≤≥≠≈±×÷√∞")
_JOINING, _ENDING, _BEFORE_NUMBERS = frozenset(".,:/-+^"), frozenset("+-#"), frozenset("+-<>~")


def _has_meaning(text: str, place: int) -> bool:
    char, before, after = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    if char in _ALWAYS or unicodedata.category(char) == "Sc":
        return True
    if before.isdecimal() and after.isdecimal():
        return char in _JOINING
    if before.isalnum() and after.isalnum():
        return char == "@" or char in "._+-" and _in_address(text, place)
    if after.isdecimal():
        return char in _BEFORE_NUMBERS and not before.isalnum()
    if char == "\u2032":  # of feet and minutes; that of inches and seconds is two of them
        return before.isdecimal() or before == char
    return char in _ENDING and not after.isalnum() and (before.isalnum() or before == char)


def _in_address(text: str, place: int) -> bool:
    first = max(0, place - 100)
    start = max(text.rfind(" ", first, place), place - 100) + 1
    return "@" in text[start : place + 100].split(" ", 1)[0]


def _without_article_a(text: str) -> str:
    """Drop the article ``a``; a capital one is an article only where a sentence begins, or where all is in capitals."""
    if text.isupper():
        return re.sub(r"\bA\b", " ", text)
    return re.sub(r"(?<![\w@.])a(?![\w@]|\.\w)|(?:^|(?<=[.!?:\n] ))A(?= \w)", " ", text)


UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Letters of scripts written without spaces: Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


def words(text: str) -> list[str]:
    """Split into words at white space; in scripts written without spaces every character is a word.

    Vowel signs and tone marks stay with their letter.
    """
    if not UNSPACED.search(text):
        return text.split()
    found: list[str] = []
    for chunk in text.split():
        joined = False
        for char in chunk:
            mark = unicodedata.category(char)[0] == "M"
            alone = not mark and UNSPACED.match(char) is not None
            if found and (mark or (joined and not alone)):
                found[-1] += char
            else:
                found.append(char)
            joined = not alone if not mark else joined
    return found


def exact_match(answer: str, reference: str) -> float:
    """1 where the normalised texts are equal, else 0."""
    return float(normalise(answer) == normalise(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words of the normalised texts (SQuAD), 0 to 1."""
    given, wanted = words(normalise(answer)), words(normalise(reference))
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted))


class _RougeWords:
    """Tokenizer for rouge-score: its own rule (lower case, runs of letters and digits) for every script.

    The library's default keeps ``a-z0-9`` only, so Greek or Arabic scores 0 and ``café`` becomes ``caf``. On ASCII text
    the two agree.
    """

    def tokenize(self, text: str) -> list[str]:
        folded = normalize_form("NFKC", text).lower()
        return words(
            "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
        )


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # two seconds, for nltk

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_RougeWords())


@lru_cache(maxsize=1)
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure of the rouge-score library; words are not stemmed, as the stemmer knows English only."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """Sentence chrF2 of sacrebleu with its defaults, divided by 100: sequences of 1 to 6 characters, case kept."""
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


def similarity(
    answers: Sequence[str], references: Sequence[str], resources: Resources
) -> list[float]:
    """Cosine of the sentence embeddings of each answer and its reference, -1 to 1."""
    vectors = resources.embed(answers) * resources.embed(references, keep=True)
    return [float(value) for value in vectors.sum(axis=1)]
