"""How one answer is scored against its reference, and what each metric means.

Scores are between 0 and 1 and higher is better, except the loss, which is computed with the model. Nothing here needs
a model, a network or a GPU.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from assistant_builder.config import Metric
from evals.facts import facts_kept


@dataclass(frozen=True)
class MetricInfo:
    """What a reader must know about a metric; report and page take their words from here.

    Attributes:
        name: Name in ``report.json``.
        label: What people call it.
        unit: Unit of the value and of differences.
        higher_is_better: Direction.
        bounds: Lowest and highest possible value; ``None`` where there is no highest.
        token_weighted: Whether items weigh by their answer's tokens (otherwise all the same).
        meaning: What is measured, in a sentence.
        blind_spots: What it does not see, in a sentence.
    """

    name: Metric
    label: str
    unit: str
    higher_is_better: bool
    bounds: tuple[float, float] | None
    token_weighted: bool
    meaning: str
    blind_spots: str


_SHARE = (0.0, 1.0)
METRIC_INFO: Mapping[str, MetricInfo] = MappingProxyType({
    info.name: info for info in (
        MetricInfo(
            "nll_per_token", "Loss", "nats per token", False, None, True,
            "How surprised the model is by the reference answer, averaged over all its tokens; perplexity is its "
            "exponential. Nothing is generated.",
            "A model can find the reference likely and still write something else; only comparable between models with "
            "the same tokenizer.",
        ),
        MetricInfo(
            "exact_match", "Exact match", "share of items", True, _SHARE, False,
            "Share of answers that equal the reference once case, punctuation, English articles and spacing are set "
            "aside.",
            "A right answer in other words counts as wrong.",
        ),
        MetricInfo(
            "token_f1", "Token F1", "0 to 1", True, _SHARE, False,
            "Overlap of the words of answer and reference, in any order (harmonic mean of precision and recall).",
            "Blind to word order and negation; one wrong number costs a single word.",
        ),
        MetricInfo(
            "rouge_l", "ROUGE-L", "0 to 1", True, _SHARE, False,
            "Longest run of words shared in order, gaps allowed (F-measure, words not stemmed).",
            "Blind to negation and to synonyms; favours answers as long as the reference.",
        ),
        MetricInfo(
            "chrf", "chrF", "0 to 1", True, _SHARE, False,
            "Overlap of character sequences of 1 to 6, recall counted twice as much as precision (sacrebleu's sentence "
            "chrF2 divided by 100).",
            "Credits answers that only look alike; blind to negation, and one wrong digit costs next to nothing.",
        ),
        MetricInfo(
            "facts_kept", "Facts kept", "0 to 1", True, _SHARE, False,
            "Share of the reference's numbers with units, codes and capitalised names that the answer holds, over the "
            "items whose reference holds any; found by regular expressions.",
            "Blind to which fact belongs to what, to negation, and to facts that the answer invents; names that the "
            "question holds count too. Not seen: numbers in words (nine), and a name that begins a sentence by itself. "
            "In German every noun counts as a name.",
        ),
        MetricInfo(
            "similarity", "Similarity", "cosine", True, (-1.0, 1.0), False,
            "Cosine of the sentence embeddings of answer and reference (all-MiniLM-L6-v2).",
            "Blind to negation and to numbers; reads the first 256 word pieces only, and was trained on English.",
        ),
    )
})
"""Every metric by its name, in the order in which reports show them."""


def normalise(text: str) -> str:
    """Bring a text to the form in which answers are compared word by word.

    The steps of SQuAD's script (lower case, punctuation deleted, ``a``/``an``/``the`` dropped, spacing collapsed),
    carried over to all of Unicode: NFKC first, case folding for lower case, punctuation and symbols of any script.
    Unlike SQuAD's, numbers keep their value: a mark between two digits stays (``3.5``, ``10:30``), as does a minus
    sign in front of a number, and commas between thousands go. A text of nothing but marks keeps them.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"[‐‑‒–—−]", "-", folded))
    kept = "".join(char for i, char in enumerate(folded) if _stays(char, folded[i - 1 : i], folded[i + 1 : i + 2]))
    plain = " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
    return plain or " ".join(folded.split())


def _stays(char: str, before: str, after: str) -> bool:
    if unicodedata.category(char)[0] not in "PS":
        return True
    between_digits = char in ".,:/-" and before.isdecimal() and after.isdecimal()
    minus = char == "-" and after.isdecimal() and not before.isalnum()
    return between_digits or minus


_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""Letters of scripts written without spaces: Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


def words(text: str) -> list[str]:
    """Split into words at white space; in scripts written without spaces every character is a word.

    Vowel signs and tone marks stay with their letter.
    """
    if not _UNSPACED.search(text):
        return text.split()
    found: list[str] = []
    for chunk in text.split():
        joined = False
        for char in chunk:
            mark = unicodedata.category(char)[0] == "M"
            alone = not mark and _UNSPACED.match(char) is not None
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
        folded = unicodedata.normalize("NFKC", text).lower()
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
    """ROUGE-L F-measure of the rouge-score library over the whole text, 0 to 1.

    Words are not stemmed: the Porter stemmer knows English only and would make scores of other languages incomparable.
    """
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def chrf(answer: str, reference: str) -> float:
    """Sentence chrF2 of sacrebleu with its defaults, divided by 100 to lie in 0 to 1.

    Defaults: character sequences of 1 to 6, no word sequences, recall weighted twice, case kept, spaces ignored.
    """
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


ANSWER_METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {"exact_match": exact_match, "token_f1": token_f1, "rouge_l": rouge_l, "chrf": chrf}
)
"""The metrics that need the two texts and nothing else, and score every pair."""

PARTIAL_METRICS: Mapping[str, Callable[[str, str], float | None]] = MappingProxyType({"facts_kept": facts_kept})
"""The same, but without a score (``None``) where the reference gives them nothing to look for."""


def score_answer(answer: str, reference: str) -> dict[str, float]:
    """Score one generated answer by every metric of ``ANSWER_METRICS`` and ``PARTIAL_METRICS``.

    Args:
        answer: What the assistant wrote; may be empty.
        reference: What it should have said.

    Returns:
        Metric name → score, each 0 to 1. A partial metric without a score is left out.
    """
    scores: dict[str, float | None] = {
        name: metric(answer, reference) for name, metric in (*ANSWER_METRICS.items(), *PARTIAL_METRICS.items())
    }
    return {name: score for name, score in scores.items() if score is not None}
