"""The registry of metrics: what each one is called, how it is computed, and how its values are displayed.

:data:`METRICS` is the only place where a metric is listed. Scoring, ``eval.primary_metric``, the page, the reports, the
model card and the comparison of studies take names, labels, directions and functions from it. A module named in
``ASSISTANT_BUILDER_PLUGINS`` adds a metric with ``METRICS.register(Metric(...))``.

Metric libraries are imported when they are first used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from assistant_builder.errors import EvaluationError
from assistant_builder.i18n import N_, m
from assistant_builder.registry import Registry
from evals.metrics import text
from evals.metrics.fact_recall import facts_kept


@dataclass(frozen=True)
class Context:
    """What a metric may know about an item besides its answer and reference.

    It is not ``answerable`` where the right answer is to decline; ``messages`` are the prompt.
    """

    question: str = ""
    answerable: bool = True
    messages: Sequence[Mapping[str, Any]] = ()


class Resources(Protocol):
    """Models that a metric may use; each is loaded when it is first used."""

    def embed(self, texts: Sequence[str], *, keep: bool = False) -> Any:
        """Sentence embeddings of n texts, unit length, shape ``[n, 384]``; ``keep`` stores them for the next call."""


Score = Callable[[str, str, Context], float | None]
"""``score(answer, reference, context)``; ``None`` where the reference gives the metric nothing to look for."""
ScoreSample = Callable[[Mapping[str, Any]], float | None]
"""``score_sample(sample)``: from a line of ``samples.jsonl``; ``None`` for items that the metric is not about."""
ScoreBatch = Callable[[Sequence[str], Sequence[str], Resources], Sequence[float | None]]
"""``score_batch(answers, references, resources)``: one score an answer, for metrics that need a model."""


@dataclass(frozen=True)
class Metric:
    """A metric: what it measures, how it is computed, how it is compared and how it is displayed.

    Attributes:
        name: Name in ``report.json`` and in ``eval.primary_metric``.
        label: Name in tables.
        explanation: What is measured, in a sentence.
        blind_spots: What the metric does not see, in a sentence.
        score: Function for one answer. A metric has one of the three functions; only the loss, which is computed with
            the evaluated model, has none.
        score_batch: Function for all answers of a cell.
        score_sample: Function for the record of a scored item.
        needs_embedder: Whether ``score_batch`` embeds texts; it is then switched off by ``eval.similarity=false``.
        bounds: Lowest and highest possible value; ``None`` where there is no limit.
        data: ``binary`` where every score is 0 or 1, else ``real``.
        format: How values are displayed: ``percent`` (``12.5%``) and ``points`` (``12.5``) multiply by 100, ``number``
            does not (``0.125``).
        phrase: Name inside a sentence; the label unless given.
        token_weighted: Whether items are weighted by the tokens of their reference answer, else equally.
        can_be_primary: Whether the verdict may be based on the metric.
        default_margin: Margin of a study that sets none, in the metric's units; that of the loss is a share of what
            tuning gained (:mod:`evals.declaration`).
        hub_type: Metric type in the model index of the Hugging Face Hub; ``None`` leaves the metric out there.
    """

    name: str
    label: str
    explanation: str
    blind_spots: str = ""
    score: Score | None = None
    score_batch: ScoreBatch | None = None
    score_sample: ScoreSample | None = field(default=None, kw_only=True)
    needs_embedder: bool = field(default=False, kw_only=True)
    higher_is_better: bool = field(default=True, kw_only=True)
    bounds: tuple[float, float] | None = field(default=(0.0, 1.0), kw_only=True)
    data: Literal["binary", "real"] = field(default="real", kw_only=True)
    format: Literal["percent", "points", "number"] = field(default="points", kw_only=True)
    unit: str = field(default="0 to 1", kw_only=True)
    phrase: str = field(default="", kw_only=True)
    token_weighted: bool = field(default=False, kw_only=True)
    can_be_primary: bool = field(default=True, kw_only=True)
    default_margin: float = field(default=0.05, kw_only=True)
    hub_type: str | None = field(default=None, kw_only=True)

    def checked(self, score: float | None) -> float | None:
        """A score that the metric's function returned, as a float.

        Raises:
            EvaluationError: It is not a finite number, lies outside ``bounds``, or is neither 0 nor 1 for binary data.
        """
        if score is None:
            return None
        value = float(score)
        low, high = self.bounds or (-math.inf, math.inf)
        rounding = 1e-5  # a float32 cosine may pass 1 by that much
        if not math.isfinite(value) or not low - rounding <= value <= high + rounding:
            allowed = f"a number from {low:g} to {high:g}" if self.bounds else "a finite number"
        elif self.data == "binary" and value not in (0.0, 1.0):
            allowed = "0 or 1"
        else:
            return value
        raise EvaluationError(
            m(
                "metric {name!r} returned {value:g} for an answer, which is not {allowed}",
                name=self.name,
                value=value,
                allowed=allowed,
            ),
            where="scoring",
            remedy=m("Correct the metric's function, its bounds or its kind of data"),
        )


METRICS: Registry[Metric] = Registry("metric")
"""Every metric by its name, in the order in which reports list them."""


def _of_texts(function: Callable[[str, str], float | None]) -> Score:
    return lambda answer, reference, context: function(answer, reference)


def _facts_kept(answer: str, reference: str, context: Context) -> float | None:
    return facts_kept(answer, reference, context.question) if context.answerable else None


def _declined(sample: Mapping[str, Any]) -> float | None:
    return None if sample.get("declined") is None else float(sample["declined"])


_BUILT_IN = (
    Metric(
        "nll_per_token",
        N_("Loss"),
        "How surprised the model is by the reference answer, averaged over all its tokens; perplexity is its "
        "exponential. Nothing is generated.",
        "A model can find the reference likely and still write something else; only comparable between models with "
        "the same tokenizer.",
        higher_is_better=False,
        bounds=None,
        format="number",
        unit=N_("nats per token"),
        phrase=N_("loss"),
        token_weighted=True,
        hub_type="perplexity",
    ),
    Metric(
        "exact_match",
        N_("Exact match"),
        "Share of answers that equal the reference once case, punctuation, English articles, spacing and the notation "
        "of numbers are set aside; signs, units and symbols count.",
        "A right answer in other words counts as wrong.",
        _of_texts(text.exact_match),
        data="binary",
        format="percent",
        unit=N_("share of items"),
        phrase=N_("share of exactly right answers"),
        hub_type="exact_match",
    ),
    Metric(
        "token_f1",
        N_("Token F1"),
        "Overlap of the words of answer and reference, in any order (harmonic mean of precision and recall).",
        "Blind to word order and negation; one wrong number costs a single word.",
        _of_texts(text.token_f1),
        phrase=N_("token F1"),
        hub_type="f1",
    ),
    Metric(
        "rouge_l",
        N_("ROUGE-L"),
        "Longest run of words shared in order, gaps allowed (F-measure, words not stemmed).",
        "Blind to negation and to synonyms; favours answers as long as the reference.",
        _of_texts(text.rouge_l),
        hub_type="rouge",
    ),
    Metric(
        "chrf",
        N_("chrF"),
        "Overlap of character sequences of 1 to 6, recall counted twice as much as precision (sacrebleu's sentence "
        "chrF2 divided by 100).",
        "Credits answers that only look alike; blind to negation, and one wrong digit costs next to nothing.",
        _of_texts(text.chrf),
        hub_type="chrf",
    ),
    Metric(
        "facts_kept",
        N_("Facts kept"),
        "Share of the reference's numbers with units, codes and capitalised names that the answer holds, without those "
        "that the question holds, over the answerable items whose reference holds any; found by regular expressions.",
        "Blind to which fact belongs to what, to negation, and to facts that the answer invents. Not seen: numbers in "
        "words (nine), and a name that begins a sentence by itself. In German every noun counts as a name.",
        _facts_kept,
        format="percent",
        phrase=N_("share of facts kept"),
    ),
    Metric(
        "similarity",
        N_("Similarity"),
        "Cosine of the sentence embeddings of answer and reference (all-MiniLM-L6-v2).",
        "Blind to negation and to numbers; reads the first 256 word pieces only, and was trained on English.",
        None,
        text.similarity,
        needs_embedder=True,
        bounds=(-1.0, 1.0),
        unit=N_("cosine"),
        phrase=N_("similarity"),
    ),
    Metric(
        "false_decline",
        N_("False declines"),
        "Share of the answerable questions that the assistant declines to answer.",
        "Declining indirectly, or in a language other than five, is often not recognised.",
        score_sample=lambda sample: _declined(sample) if sample["answerable"] else None,
        higher_is_better=False,
        data="binary",
        format="percent",
        unit=N_("share of answerable items"),
        phrase=N_("share of answerable questions that it declines"),
        can_be_primary=False,
    ),
    Metric(
        "right_decline",
        N_("Right declines"),
        "Share of the questions that should be declined which the assistant declines.",
        "Declining indirectly, or in a language other than five, is often not recognised.",
        score_sample=lambda sample: None if sample["answerable"] else _declined(sample),
        data="binary",
        format="percent",
        unit=N_("share of unanswerable items"),
        phrase=N_("share of unanswerable questions that it declines"),
        can_be_primary=False,
    ),
)
for _metric in _BUILT_IN:
    METRICS.register(_metric)


def metric_of(name: str) -> Metric:
    """The metric of this name, or a description of a metric whose plugin is not loaded, for reports that hold it."""
    if name in METRICS:
        return METRICS[name]
    return Metric(
        name,
        name,
        "This metric comes from a plugin that is not loaded.",
        bounds=None,
        format="number",
        unit="",
    )


def text_metrics() -> list[Metric]:
    """The metrics that score one answer from its text alone, in the order of the registry."""
    return [metric for metric in METRICS.values() if metric.score is not None]


def plugin_metrics() -> list[Metric]:
    """Those of :func:`text_metrics` that a plugin registered."""
    return [metric for metric in text_metrics() if metric not in _BUILT_IN]


def score_sample(sample: Mapping[str, Any]) -> dict[str, float]:
    """Score a line of ``samples.jsonl`` by the metrics that need its whole record."""
    if sample["answer"] is None:
        return {}
    return _checked(
        (metric, metric.score_sample(sample)) for metric in METRICS.values() if metric.score_sample
    )


def score_answer(answer: str, reference: str, context: Context | None = None) -> dict[str, float]:
    """Score one generated answer by every metric of :func:`text_metrics` that has a score for this reference.

    Raises:
        EvaluationError: A metric's function returned a score that its description does not allow.
    """
    return _scores(text_metrics(), answer, reference, context or Context())


def score_stored(sample: Mapping[str, Any]) -> dict[str, float]:
    """Scores of a stored answer by metrics of its record, and of plugins that were registered after it was scored.

    Args:
        sample: A line of ``samples.jsonl``. The text metrics of this package are never computed again.
    """
    missing = [metric for metric in plugin_metrics() if metric.name not in sample["metrics"]]
    if sample["answer"] is None:
        return {}
    context = Context(sample["question"], sample["answerable"], sample["prompt"])
    return score_sample(sample) | _scores(missing, sample["answer"], sample["reference"], context)


def _scores(
    metrics: Sequence[Metric], answer: str, reference: str, context: Context
) -> dict[str, float]:
    return _checked(
        (metric, metric.score(answer, reference, context)) for metric in metrics if metric.score
    )


def _checked(scores: Iterable[tuple[Metric, float | None]]) -> dict[str, float]:
    """The scores by name, without those of metrics that have none for the item."""
    values = {metric.name: metric.checked(score) for metric, score in scores}
    return {name: value for name, value in values.items() if value is not None}


def score_answers(
    answers: Sequence[str],
    references: Sequence[str],
    resources: Resources,
    *,
    embedder: bool = True,
) -> list[dict[str, float]]:
    """Score the answers of a cell by every metric that needs a model; metrics that embed texts only with ``embedder``.

    Raises:
        EvaluationError: A metric's function returned a score that its description does not allow.
    """
    columns = [
        [(metric, score) for score in metric.score_batch(answers, references, resources)]
        for metric in METRICS.values()
        if metric.score_batch and (embedder or not metric.needs_embedder)
    ]
    rows = zip(answers, *columns, strict=True)
    return [_checked(scores) for _, *scores in rows]
