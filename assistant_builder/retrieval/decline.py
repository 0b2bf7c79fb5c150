"""When a grounded assistant declines: a rule on what was found and on the answer, fitted on validation questions.

The rule is a logistic regression that tells questions whose fact is in the index from questions whose fact was withheld
or should be declined, and a threshold on its probability. The threshold is that of conformal risk control (Angelopoulos
et al. 2022, arXiv 2208.02814): the largest with (k + 1) / (n + 1) ≤ α, where k of the n answerable validation questions
are declined. So that few questions suffice, weights and threshold come from the same questions by cross-fitting, as in
cross-conformal prediction (Vovk 2015, Annals of Mathematics and Artificial Intelligence 74): the facts are divided into
folds, each question is judged by weights that were fitted without its fold, and the weights that are kept are fitted on
all of them. Other than with a separate calibration set this does not prove that the expected share of false declines is
at most α; it is near α as far as the weights hardly depend on any one fold, and tests/retrieval/test_decline.py
simulates it. In both cases the share holds for questions like those of validation.

What people ask is often worded less like the training data than validation is. So the threshold is never higher than it
must be to decline :data:`WITHHELD_SHARE` of the questions whose fact was withheld: where those are told from answerable
ones with ease, the room between the two is left to harder wordings.

With fewer questions than α needs, the threshold is a matter of chance: there the rule is averaged with that of other
sheets (:mod:`assistant_builder.retrieval.prior`). There is always a rule; where validation has too few facts, it
declines what is far from everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NotRequired
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from assistant_builder.atomic_io import read_json
from assistant_builder.data import Pair
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.data.types import DECLINE_SENTENCE, declining_answer
from assistant_builder.errors import StudyError
from assistant_builder.i18n import Text, m, written
from assistant_builder.retrieval.prior import PRIOR_QUESTIONS, Prior, Priors
from assistant_builder.retrieval.why import why_declined
from evals.metrics.refusal import is_refusal

FILE = "decline.json"  # file in the folder of a trained arm
RULE_VERSION = 8
"""With another version a rule is fitted again, and what it decided is scored again."""
Mode = Literal["tuned", "copy"]
"""Whether a trained assistant answers, or the best fact is copied."""
FIRST_TOKENS = 16
"""Tokens of an answer on which the decision rests, so that a longer answer need not be complete before it is shown."""
RIDGE = 3.0  # penalty of the squared weights of standardized evidence, in units of one question
FOLDS = 10  # parts of the facts; each is judged by weights of the others
ANSWERABLE, TO_DECLINE, WITHHELD = "answerable", "to decline", "withheld"
"""Kinds of questions: those with a fact in the index, and those to decline, as the data say or with a fact withheld."""
MOST_WEIGHT = 5.0
"""Withheld questions that count as much as one that the data say to decline, at most: together the two kinds count
equally, unless there are few of the second."""
WITHHELD_SHARE = 0.8
"""Share of the validation questions with a withheld fact that is declined, at most. On facts of 12 places with
colloquial test questions, the threshold for 4 % of validation declines all test questions, and this one 3 %."""
FOLLOW_UP_SHARE, NAMED_SHARE = 0.03, 0.3
"""Largest share of the questions to decline that the second look answers after an unrelated question, and that share
for facts with all the words of the question, which the second look rarely finds by chance."""
LEAST_WITHHELD, LOWEST_SHARE, CERTAIN, FAR = 10, 0.25, 0.4, 0.3
"""Where validation has too few facts: least training questions for a threshold, their share that it declines, weight of
certainty relative to the score, and the score below which a question is far from everything where they are fewer."""
OWN_WORDS = 0.95
"""Share of the answers to validation questions that repeat a fact word for word, from which other answers are replaced:
of 908 test answers of two such assistants 6 did not, and none of the 6 was right."""
OWN_WORDS_LEVEL = 0.05
"""Level of the test that the share is lower: of few answers a single one in other words is no evidence."""
STRICTER = (0.03, 0.1, 0.2, 0.3, 0.45)
"""Shares of the answered validation questions that stricter thresholds decline, for a promise that needs it."""
FOLLOW_UPS = 0.75
"""Confidence for the second look of a follow-up where none was fitted, as by earlier versions."""
_ITERATIONS = 50
_SPREAD = (
    0.05  # of the scores of :func:`far_from_everything`, which confidence is a logistic function of
)
_MOST_LOG_ODDS = 6.0  # of a threshold that is averaged


def decline_sentence(training: Sequence[Pair]) -> str:
    """The most frequent answer of the training questions that should be declined, else :data:`DECLINE_SENTENCE`."""
    return declining_answer(training) or DECLINE_SENTENCE


@dataclass(frozen=True)
class Retrieved:
    """What the search says about whether a question can be answered.

    Attributes:
        similarity: Score of the best answer (:mod:`assistant_builder.retrieval.ranking`); a fitted rule gives it no
            weight.
        certainty: Logarithm of its share among all answers.
        nearby: Its score minus that of the nearest known question to decline, whose score is 0 if none is known.
        answers: The answers of the facts in the prompt, the best first.
    """

    similarity: float
    certainty: float
    nearby: float
    answers: Sequence[str]


@dataclass(frozen=True)
class Evidence:
    """What the search and the answer say about whether a question can be answered.

    Attributes:
        similarity, certainty, nearby: Of :class:`Retrieved`.
        probability: Mean log-probability of the first tokens of the answer.
        grounded: 1 if the answer begins as one of the facts in the prompt, else 0.
    """

    similarity: float
    certainty: float
    nearby: float
    probability: float
    grounded: float


NAMES = tuple(field.name for field in fields(Evidence))
_NEARBY = NAMES.index("nearby")
_NONE = (0.0,) * (len(NAMES) - 2)  # weights of what the answer says


@dataclass(frozen=True)
class DeclineRule:
    """Declines a question whose confidence is below a threshold.

    Attributes:
        center: Mean of each evidence, by :data:`NAMES`.
        scale: Its standard deviation.
        weights: Weight of each standardized evidence.
        bias: Log-odds of an answerable question at the mean.
        threshold: Confidence, between 0 and 1, below which a question is declined.
        target: Share of answerable questions that may be declined (α).
        guaranteed: Whether there are enough questions for a threshold with that share; else none of them is declined.
        answerable: Answerable validation questions, each judged by weights that were fitted without it.
        declined: Of those, the declined ones.
        to_decline: Questions to decline, judged in the same way.
        recognised: Of those, the declined ones.
        sentence: What the assistant says instead of an answer.
        follow_up_threshold: Confidence below which the second look of a follow-up is not answered.
        named_threshold: The same where the fact has all the words of the question.
        own_words: Whether an answer is replaced by the fact that it repeats.
        values: What must contain the values of an answer: one fact, one for each sentence (answers join the statements
            of a document), or anything.
        stricter: Thresholds that decline more of the answerable validation questions, the strictest first.
    """

    __pydantic_config__ = {"extra": "forbid"}

    center: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    target: float
    guaranteed: bool
    answerable: int
    declined: int
    to_decline: int
    recognised: int
    sentence: str
    follow_up_threshold: float = FOLLOW_UPS
    named_threshold: float = FOLLOW_UPS
    own_words: bool = False
    values: Literal["answer", "sentence", "anywhere"] = "anywhere"
    stricter: tuple[float, ...] = ()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of confidence, the strictest first, and that of the rule."""
        return *self.stricter, self.threshold

    def at_least(self, threshold: float) -> DeclineRule:
        """The rule that declines below a threshold, too."""
        return replace(
            self,
            threshold=max(self.threshold, threshold),
            follow_up_threshold=max(self.follow_up_threshold, threshold),
            named_threshold=max(self.named_threshold, threshold),
        )

    def confidence(self, evidence: Evidence) -> float:
        """Estimated probability that the question can be answered from the facts, between 0 and 1.

        It is 0 where the nearest question of the data is one that should be declined.
        """
        return float(self._confidence(np.array([astuple(evidence)]))[0])

    def declines(self, evidence: Evidence) -> bool:
        """Whether the question is declined."""
        return self.confidence(evidence) < self.threshold

    def _confidence(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        standardized = (table - np.array(self.center)) / np.array(self.scale)
        found = _sigmoid(standardized @ np.array(self.weights) + self.bias)
        found[table[:, _NEARBY] < 0] = 0.0  # the nearest question is to be declined
        return found

    def to_record(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"evidence": list(NAMES), **asdict(self)}


class RuleFile(TypedDict):
    """``decline.json``: the rule, what it was fitted on, and how many answers repeat a fact word for word."""

    rule: dict[str, Any] | None
    inputs: NotRequired[dict[str, Any]]
    shown: NotRequired[int]
    verbatim: NotRequired[int]


def rule_of(path: Path) -> DeclineRule | None:
    """The rule in a file of a trained arm; ``None`` if there is none, because the arm was not evaluated.

    Raises:
        StudyError: The file is damaged or of another version.
    """
    remedy = m("{Redo} to fit it again")
    record = read_json(path, RuleFile, remedy=remedy)["rule"] if path.exists() else None
    if record is None:
        return None
    try:
        values = {name: value for name, value in record.items() if name != "evidence"}
        rule: DeclineRule = TypeAdapter(DeclineRule).validate_python(values)
        sizes = {len(rule.center), len(rule.scale), len(rule.weights)}
        if record.get("evidence") != list(NAMES) or sizes != {len(NAMES)}:
            raise ValueError("other evidence")
    except ValueError as error:
        raise StudyError(
            m("the rule for declining is damaged or of another version"),
            where=str(path),
            remedy=remedy,
        ) from error
    return rule


def evidence_of(
    found: Retrieved, text: str, certainties: Sequence[float], taught: Sequence[str]
) -> Evidence:
    """What the search and the first tokens of the answer say.

    Args:
        found: What the search says.
        text: The beginning of the answer.
        certainties: Log-probabilities of its tokens; :data:`FIRST_TOKENS` of them are used.
        taught: Answers of the data that decline; an answer that declines is grounded in nothing.
    """
    first, begun = list(certainties[:FIRST_TOKENS]) or [0.0], casefold_normalize(text)
    answers = map(casefold_normalize, found.answers)
    grounded = bool(begun) and any(answer.startswith(begun) for answer in answers)
    return Evidence(
        found.similarity,
        found.certainty,
        found.nearby,
        probability=sum(first) / len(first),
        grounded=float(grounded and not is_refusal(text, taught)),
    )


def found_alone(found: Retrieved) -> Evidence:
    """The evidence where no model answers and the best fact is copied."""
    return Evidence(found.similarity, found.certainty, found.nearby, probability=0.0, grounded=1.0)


def judgement(
    mode: Mode,
    evidence: Evidence,
    rule: DeclineRule,
    *,
    nearest: tuple[str, float] | None,
    declined: bool,
    suggestions: Sequence[str] = (),
    tied: bool = False,
    why: tuple[Text, Text] | None = None,
) -> dict[str, Any]:
    """What is said about a judged answer: ``mode``, ``confidence``, ``evidence``; of a declined one also why.

    That is ``reason``, ``advice`` (what to add to the data), their messages as ``why``, and ``suggestions``; of a tie
    these and ``asks_back``.

    Args:
        mode: How the answer was made.
        evidence: What was judged.
        rule: The rule that judged it.
        nearest: Question and cosine similarity of the best fact; ``None`` if none was found.
        declined: Whether the question was declined.
        suggestions: The questions that are offered if it was declined, or is a tie.
        tied: Whether two answers fit equally well.
        why: Why it was declined and what to do, if the evidence does not say it.
    """
    confidence = rule.confidence(evidence)
    # of the five, copying knows what the search says
    names = NAMES[:3] if mode == "copy" else NAMES
    said: dict[str, Any] = {
        "mode": mode,
        "confidence": round(confidence, 4),
        "evidence": {name: round(getattr(evidence, name), 4) for name in names},
    }
    if not declined:
        return {**said, "asks_back": True, "suggestions": list(suggestions)} if tied else said
    reason, advice = map(written, why or why_declined(evidence, rule, names, nearest))
    return {
        **said,
        "reason": reason[0],
        "advice": advice[0],
        "why": [reason[1], advice[1]],
        "suggestions": list(suggestions),
    }


def fit(
    evidence: Sequence[Evidence],
    kinds: Sequence[str],
    facts: Sequence[str],
    *,
    target: float,
    sentence: str,
    follow_ups: Sequence[Evidence] = (),
    priors: Priors | None = None,
) -> DeclineRule | None:
    """Fit weights and thresholds.

    Args:
        evidence: Evidence of n questions.
        kinds: The kind of each question.
        facts: What each question asks for; questions of a fact are in one fold.
        target: Largest share of answerable questions to be declined (α).
        sentence: What is said instead of an answer.
        follow_ups: Evidence of questions to decline that were looked up with an unrelated question before them.
        priors: What other sheets say, where there are too few questions.

    Returns:
        The rule; ``None`` if answerable questions or questions to decline are of fewer than two folds, or if no
        evidence tells them apart.
    """
    table = np.array([astuple(each) for each in evidence]).reshape(-1, len(NAMES))
    kind, fold = np.array(kinds), np.array([crc32(fact.encode()) % FOLDS for fact in facts])
    good = kind == ANSWERABLE
    if min(len(set(fold[good])), len(set(fold[~good]))) < 2:
        return None
    confidence = np.zeros(len(table))
    for number in set(fold.tolist()):
        inside = fold == number
        weights = _fit_weights(table[~inside], kind[~inside], target, sentence)
        confidence[inside] = weights._confidence(table[inside])
    sure, withheld = np.sort(confidence[good]), confidence[kind == WITHHELD]
    n = len(sure)
    if not sure[-1]:  # each is nearest to a question to decline: no threshold is between the two
        return None
    guaranteed = 1 / (n + 1) <= target
    allowed = int(np.floor(target * (n + 1) - 1 + 1e-9)) if guaranteed else 0
    # confidences below it are declined: ``allowed`` of them, and those of 0
    threshold = float(sure[min(max(allowed, int((sure == 0).sum())), n - 1)])
    if len(withheld):
        threshold = min(threshold, float(np.quantile(withheld, WITHHELD_SHARE)))
    threshold = max(threshold, float(np.finfo(float).tiny))  # a confidence of 0 is below it
    rule = replace(_fit_weights(table, kind, target, sentence), threshold=threshold)
    prior = priors.get(not _no_question_to_decline(table)) if priors else None
    if prior is not None and not guaranteed:
        rule, confidence = _with_prior(rule, table, confidence, prior, n)
        threshold, sure = rule.threshold, np.sort(confidence[good])
    if not any(rule.weights):
        return None
    unsure = confidence[~good]
    rule = replace(
        rule,
        guaranteed=guaranteed,
        answerable=n,
        declined=int((sure < threshold).sum()),
        to_decline=len(unsure),
        recognised=int((unsure < threshold).sum()),
        stricter=_stricter(sure, threshold),
    )
    return _with_second_looks(rule, follow_ups)


def _with_second_looks(rule: DeclineRule, follow_ups: Sequence[Evidence]) -> DeclineRule:
    second = [rule.confidence(each) for each in follow_ups]
    if not second:
        return rule
    follow_up, named = (
        max(rule.threshold, float(np.nextafter(np.quantile(second, 1 - share, method="higher"), 1)))
        for share in (FOLLOW_UP_SHARE, NAMED_SHARE)
    )
    return replace(rule, follow_up_threshold=follow_up, named_threshold=named)


def _with_prior(
    rule: DeclineRule,
    table: NDArray[np.float64],
    confidence: NDArray[np.float64],
    prior: Prior,
    questions: int,
) -> tuple[DeclineRule, NDArray[np.float64]]:
    # Log-odds are averaged, and so are the thresholds. ``confidence`` is that of the cross-fitted rules.
    share = questions / (questions + PRIOR_QUESTIONS) if any(rule.weights) else 0.0
    other = np.zeros(len(NAMES))
    other[[NAMES.index("certainty"), _NEARBY]] = prior.certainty, prior.nearby
    center, scale = np.array(rule.center), np.array(rule.scale)
    weights = share * np.array(rule.weights) + (1 - share) * other * scale
    bias = share * rule.bias + (1 - share) * (prior.bias + float(other @ center))
    own = float(np.clip(_log_odds(rule.threshold), -_MOST_LOG_ODDS, _MOST_LOG_ODDS))
    threshold = float(_sigmoid(share * own + (1 - share) * prior.threshold(rule.target)))
    mixed = _sigmoid(share * _log_odds(confidence) + (1 - share) * (table @ other + prior.bias))
    mixed[table[:, _NEARBY] < 0] = 0.0
    mixed_rule = replace(rule, weights=tuple(weights.tolist()), bias=bias, threshold=threshold)
    return mixed_rule, mixed


def _log_odds(chance: Any) -> Any:
    chance = np.clip(chance, np.finfo(float).tiny, 1 - np.finfo(float).epsneg)
    return np.log(chance / (1 - chance))


def _no_question_to_decline(table: NDArray[np.float64]) -> bool:
    return np.array_equal(table[:, _NEARBY], table[:, NAMES.index("similarity")])


def _stricter(sure: NDArray[np.float64], threshold: float) -> tuple[float, ...]:
    shown = sure[sure >= threshold]
    if not len(shown):
        return ()
    found = (float(shown[int(share * len(shown))]) for share in STRICTER)
    return tuple(sorted({each for each in found if each > threshold}, reverse=True))


def far_from_everything(
    withheld: Sequence[Evidence],
    *,
    target: float,
    sentence: str,
    follow_ups: Sequence[Evidence] = (),
) -> DeclineRule:
    """The rule where validation has too few facts, so that false declines cannot be counted.

    A question is declined if its best answer is as far from it, and as little better than others, as those of training
    questions whose own fact is withheld: if its score and :data:`CERTAIN` times its certainty are below the
    :data:`LOWEST_SHARE` quantile of theirs. With fewer than :data:`LEAST_WITHHELD` of them its score must reach
    :data:`FAR`. The share of false declines is unknown.

    Args:
        withheld: Evidence of training questions whose own fact is withheld, by the search alone.
        target: As of :func:`fit`.
        sentence: What is said instead of an answer.
        follow_ups: Evidence of such questions with an unrelated question before them.
    """
    if len(withheld) < LEAST_WITHHELD:
        return score_rule(FAR, target=target, sentence=sentence)
    score, certainty = (
        np.array([getattr(each, name) for each in withheld]) for name in ("similarity", "certainty")
    )
    values = score + CERTAIN * certainty
    lowest = float(np.quantile(values, LOWEST_SHARE))
    rule = replace(
        score_rule(0.0, target=target, sentence=sentence),
        center=(float(score.mean()), float(certainty.mean()), *_NONE),
        scale=(1.0,) * len(NAMES),
        weights=(1 / _SPREAD, CERTAIN / _SPREAD, *_NONE),
        bias=(float(values.mean()) - lowest) / _SPREAD,
        to_decline=len(withheld),
        recognised=int((values < lowest).sum()),
    )
    return _with_second_looks(rule, follow_ups)


def score_rule(lowest: float, *, target: float, sentence: str) -> DeclineRule:
    """The rule that declines below a score of the best answer; other arguments as of :func:`far_from_everything`."""
    plain = (0.0,) * (len(NAMES) - 1)
    center, scale, weights = (lowest, *plain), (_SPREAD, *(1.0 for _ in plain)), (1.0, *plain)
    counts = 0, 0, 0, 0
    return DeclineRule(center, scale, weights, 0.0, 0.5, target, False, *counts, sentence)


def _fit_weights(
    table: NDArray[np.float64], kind: NDArray[np.str_], target: float, sentence: str
) -> DeclineRule:
    # The rule without a threshold; answerable questions and the others count equally, see :data:`MOST_WEIGHT`. More of
    # any evidence speaks for an answer. Where a few questions say the opposite, it is left out: the least probable
    # answers, which are made up, would be given otherwise. So is the score of the best answer: how alike a question is
    # to the data depends on who asks, and validation is worded by who wrote the data.
    center, scale = table.mean(axis=0), table.std(axis=0)
    scale[scale < 1e-9] = 1.0
    good, real = kind == ANSWERABLE, kind == TO_DECLINE
    shares = np.ones(len(kind))
    if real.any():
        shares[real] = min(max((kind == WITHHELD).sum() / real.sum(), 1.0), MOST_WEIGHT)
    for part in (good, ~good):
        shares[part] *= len(kind) / 2 / shares[part].sum()
    standard, weights = (table - center) / scale, np.zeros(0)
    used = np.array([name != "similarity" for name in NAMES])
    if _no_question_to_decline(table):
        used[_NEARBY] = False
    while True:
        weights, bias = _logistic(standard[:, used], good.astype(float), shares)
        if not len(weights) or weights.min() >= 0:
            break
        used[np.flatnonzero(used)[weights.argmin()]] = False
    every = np.zeros(len(NAMES))
    every[used] = weights
    fitted = tuple(center), tuple(scale), tuple(every)
    return DeclineRule(*fitted, bias, 0.0, target, False, 0, 0, 0, 0, sentence)


def _logistic(
    table: NDArray[np.float64], labels: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    design = np.column_stack([table, np.ones(len(table))])
    penalty = np.diag([RIDGE] * table.shape[1] + [1e-6])
    weights = np.zeros(design.shape[1])
    for _ in range(_ITERATIONS):
        chance = _sigmoid(design @ weights)
        gradient = design.T @ (shares * (labels - chance)) - penalty @ weights
        hessian = (design * (shares * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
