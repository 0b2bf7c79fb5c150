"""When a grounded assistant declines: a rule on what was found and on the answer, fitted on validation questions.

The rule is a logistic regression that tells questions whose fact is in the index from questions whose fact was withheld
or should be declined, and a threshold. Weights are fitted on one half of the validation facts, the threshold on the
other half, by conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814): with k of the n questions of that
half declined, the largest threshold with (k + 1) / (n + 1) ≤ α keeps the expected share of false declines at α or
below for further questions of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant_builder.atomic_io import read_json
from assistant_builder.errors import StudyError
from evals.metrics.refusal import is_refusal

FILE = "decline.json"
"""File in the folder of a trained arm."""
FIRST_TOKENS = 16
"""Tokens of an answer on which the decision rests, so that a longer answer need not be complete before it is shown."""
RIDGE = 1.0
"""Penalty of the squared weights of standardized evidence, in units of one question."""
_ITERATIONS = 50


@dataclass(frozen=True)
class Retrieved:
    """What the search says about whether a question can be answered.

    Attributes:
        similarity: Cosine of the nearest answerable fact.
        margin: That cosine minus the one of the next fact with another answer.
        words: Share of the question's terms, weighted by rarity, that occur in one of the facts of the prompt.
        nearby: That cosine minus the one of the nearest known question to decline.
        agreement: Share of the five best facts, of any answer, that have the answer of the best.
    """

    similarity: float
    margin: float
    words: float
    nearby: float
    agreement: float


@dataclass(frozen=True)
class Evidence(Retrieved):
    """That, and what the answer says.

    Attributes:
        probability: Mean log-probability of the first tokens of the answer.
        lowest: Smallest log-probability of one of its tokens.
        refusal: 1 if the answer itself declines, else 0.
    """

    probability: float
    lowest: float
    refusal: float


NAMES = tuple(field.name for field in fields(Evidence))


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
        guaranteed: Whether conformal risk control bounds the expected share; else the target is only aimed at.
        answerable: Validation questions behind the threshold.
        declined: Of those, the declined ones.
        to_decline: Questions to decline behind the threshold.
        recognised: Of those, the declined ones.
        sentence: What the assistant says instead of an answer.
    """

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

    def confidence(self, evidence: Evidence) -> float:
        """Estimated probability that the question can be answered from the facts, between 0 and 1."""
        return float(self._confidence(np.array([astuple(evidence)]))[0])

    def declines(self, evidence: Evidence) -> bool:
        """Whether the question is declined."""
        return self.confidence(evidence) < self.threshold

    def _confidence(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        return _sigmoid((table - np.array(self.center)) / np.array(self.scale) @ np.array(self.weights) + self.bias)

    def to_record(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"evidence": list(NAMES), **asdict(self)}


def rule_of(path: Path) -> DeclineRule | None:
    """The rule in a file of a trained arm; ``None`` if there is none, because validation has too few questions.

    Raises:
        StudyError: The file is damaged or of another version.
    """
    record = read_json(path)["rule"] if path.exists() else None
    if record is None:
        return None
    try:
        if record["evidence"] != list(NAMES):
            raise ValueError("other evidence")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in record.items() if name != "evidence"}
        return DeclineRule(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError("the rule for declining is damaged or of another version", where=str(path),
                         remedy="Run the study again with --redo to fit it again") from error


def evidence_of(found: Retrieved, text: str, certainties: Sequence[float], taught: Sequence[str]) -> Evidence:
    """What the search and the first tokens of the answer say.

    Args:
        found: What the search says.
        text: The beginning of the answer.
        certainties: Log-probabilities of its tokens; :data:`FIRST_TOKENS` of them are used.
        taught: Answers of the data that decline.
    """
    first = list(certainties[:FIRST_TOKENS]) or [0.0]
    return Evidence(**asdict(found), probability=sum(first) / len(first), lowest=min(first),
                    refusal=float(is_refusal(text, taught)))


def fit(answerable: Sequence[Evidence], to_decline: Sequence[Evidence], halves: tuple[Sequence[int], Sequence[int]],
        *, target: float, sentence: str) -> DeclineRule | None:
    """Fit weights on one half and the threshold on the other.

    Args:
        answerable: Evidence of validation questions whose facts are in the index.
        to_decline: Evidence of questions to decline, and of answerable ones whose facts were withheld.
        halves: For each question of both lists, 0 or 1: the half that it belongs to; facts are not divided.
        target: Largest share of answerable questions to be declined (α).
        sentence: What is said instead of an answer.

    Returns:
        The rule; ``None`` if a half lacks one of the kinds.
    """
    good, bad = (np.array([astuple(each) for each in rows]).reshape(-1, len(NAMES))
                 for rows in (answerable, to_decline))
    first, second = (np.asarray(half) for half in halves)
    parts = [good[first == 0], bad[second == 0], good[first == 1], bad[second == 1]]
    if any(not len(part) for part in parts):
        return None
    table = np.concatenate(parts[:2])
    center, scale = table.mean(axis=0), table.std(axis=0)
    scale[scale < 1e-9] = 1.0
    labels = np.repeat([1.0, 0.0], [len(parts[0]), len(parts[1])])
    shares = np.where(labels == 1, len(labels) / (2 * len(parts[0])), len(labels) / (2 * len(parts[1])))
    weights, bias = _logistic((table - center) / scale, labels, shares)
    rule = DeclineRule(tuple(center), tuple(scale), tuple(weights), bias, 0.0, target, False, 0, 0, 0, 0, sentence)
    sure, unsure = np.sort(rule._confidence(parts[2])), rule._confidence(parts[3])
    n = len(sure)
    guaranteed = 1 / (n + 1) <= target
    allowed = int(np.floor(target * (n + 1) - 1 + 1e-9)) if guaranteed else 0
    threshold = float(sure[min(allowed, n - 1)])  # confidences below it are declined: ``allowed`` of them
    return DeclineRule(rule.center, rule.scale, rule.weights, rule.bias, threshold, target, guaranteed, n,
                       int((sure < threshold).sum()), len(unsure), int((unsure < threshold).sum()), sentence)


def _logistic(table: NDArray[np.float64], labels: NDArray[np.float64],
              shares: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Ridge logistic regression by Newton's method; the bias is not penalized."""
    design = np.column_stack([table, np.ones(len(table))])
    penalty = np.diag([RIDGE] * table.shape[1] + [1e-6])
    found = np.zeros(design.shape[1])
    for _ in range(_ITERATIONS):
        chance = _sigmoid(design @ found)
        gradient = design.T @ (shares * (labels - chance)) - penalty @ found
        hessian = (design * (shares * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(hessian, gradient)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return found[:-1], float(found[-1])


def _sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
