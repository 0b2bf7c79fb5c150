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
    Unlike SQuAD's, numbers keep their value: a mark between two digits stays (``3.5``, ``10:30``), as does a minus
    sign in front of a number, and commas between thousands go. A text of nothing but marks keeps them.
    """
    folded = normalize_form("NFKC", normalize_form("NFKC", text).casefold())
    folded = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"[‐‑‒–—−]", "-", folded))
    kept = ""
    for i, char in enumerate(folded):
        before, after = folded[i - 1 : i], folded[i + 1 : i + 2]
        between_digits = char in ".,:/-" and before.isdecimal() and after.isdecimal()
        minus = char == "-" and after.isdecimal() and not before.isalnum()
        if between_digits or minus or unicodedata.category(char)[0] not in "PS":
            kept += char
    plain = " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
    return plain or " ".join(folded.split())


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
        return words("".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in folded))


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


def similarity(answers: Sequence[str], references: Sequence[str], resources: Resources) -> list[float]:
    """Cosine of the sentence embeddings of each answer and its reference, -1 to 1."""
    vectors = resources.embed(answers) * resources.embed(references, keep=True)
    return [float(value) for value in vectors.sum(axis=1)]
