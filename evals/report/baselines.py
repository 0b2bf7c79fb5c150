"""The untuned baselines beside the cells, and whether tuning beats them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.report.contrasts import clearly_better, clearly_worse
from evals.report.reading import BASELINE, CANDIDATE
from evals.report.wording import SHOWN, SIGNIFICANT, number

_ARMS = (("lora", BASELINE, "16-bit LoRA"), ("qlora", CANDIDATE, "QLoRA"))
NAMES = {"copy": "copying the answer of the nearest training question",
         "retrieval": "the untuned base model shown three retrieved pairs"}


def beats_untuned(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each arm against each baseline, metric by metric.

    Args:
        rows: The report's contrasts.
        figures: The report's cells and baselines, for the figures in the sentences.

    Returns:
        Records with ``arm cell baseline``, the metrics ``beaten`` (interval beside zero and Holm-adjusted p up to
        0.05), those on which the tuned arm is clearly ``worse``, those ``not_beaten`` for any other reason, and a
        ``sentence``.
    """
    found = []
    for baseline in NAMES:
        for arm, cell, _ in _ARMS:
            family = [row for row in rows if row["name"] == f"{cell}-{baseline}"]
            if family:
                clear = [row for row in family if row["p_value_holm"] <= SIGNIFICANT]
                beaten = [row["metric"] for row in clear if clearly_better(row)]
                worse = [row["metric"] for row in clear if clearly_worse(row)]
                record = {
                    "arm": arm, "cell": cell, "baseline": baseline, "beaten": beaten,
                    "not_beaten": [row["metric"] for row in family if row["metric"] not in (*beaten, *worse)],
                    "worse": worse,
                }
                found.append({**record, "sentence": _sentence(record, figures)})
    return found


def shortfall_in_short(record: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """On how many metrics a tuned arm does not beat an untuned baseline, with the figures of one.

    Args:
        record: One of :func:`beats_untuned` with something ``worse`` or ``not_beaten``.
        figures: The report's cells and baselines.
    """
    total = sum(len(record[key]) for key in ("worse", "not_beaten", "beaten"))
    parts = [f"{words} on {len(record[key])} of {total} metrics"
             for key, words in (("worse", "worse"), ("not_beaten", "not clearly better")) if record[key]]
    example = _listed([*record["worse"], *record["not_beaten"]][:1], record, figures)
    return f"{_arm(record)} is {' and '.join(parts)}, for one in {example}"


def _shortfall(record: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Where a tuned arm does not beat a baseline: ``16-bit LoRA is worse in … and not clearly better in …``."""
    parts = [f"{words} in {_listed(record[key], record, figures)}"
             for key, words in (("worse", "worse"), ("not_beaten", "not clearly better")) if record[key]]
    return f"{_arm(record)} is {' and '.join(parts)}"


def _sentence(record: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    beaten = _listed(record["beaten"], record, figures) if record["beaten"] else ""
    rival = NAMES[record["baseline"]]
    if not record["worse"] and not record["not_beaten"]:
        return f"{_arm(record)} clearly beats {rival} in {beaten}."
    text = f"Against {rival}, {_shortfall(record, figures)}"
    return f"{text}; it is clearly better in {beaten}." if beaten else f"{text}."


def _arm(record: Mapping[str, Any]) -> str:
    return next(name for _, cell, name in _ARMS if cell == record["cell"])


def _listed(metrics: Sequence[str], record: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> str:
    texts = [
        f"{SHOWN[metric].phrase} ({number(figures[record['cell']]['metrics'][metric], metric)} against "
        f"{number(figures[record['baseline']]['metrics'][metric], metric)})" for metric in metrics
    ]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
