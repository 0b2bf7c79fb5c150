"""Metrics: the registry (:mod:`evals.metrics.registry`) and the functions of the built-in ones.

This package is a leaf: it imports the registry and the errors of ``assistant_builder`` and nothing above them, because
``assistant_builder.config`` looks names up here.
"""

from evals.metrics.registry import (
    METRICS,
    Context,
    Metric,
    Resources,
    metric_of,
    score_answer,
    score_answers,
    score_sample,
    score_stored,
    text_metrics,
)

__all__ = [
    "METRICS",
    "Context",
    "Metric",
    "Resources",
    "metric_of",
    "score_answer",
    "score_answers",
    "score_sample",
    "score_stored",
    "text_metrics",
]
