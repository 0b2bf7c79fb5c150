"""What a careful reader must know before believing the numbers: warnings, and what the held-out set could detect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from evals.report.reading import BASELINE, CANDIDATE
from evals.report.wording import SHOWN, plain, plural

_Z95 = 1.959964
_DETECTABLE = _Z95 + 0.841621
"""Standard errors between zero and a difference found in 80 % of studies at the two-sided 5 % level: 2.8 (Miller 2024,
arXiv:2411.00640, section 5)."""


def power(rows: list[dict[str, Any]], primary: str, margin: float) -> list[dict[str, Any]]:
    """What a held-out set of this size can detect, from the scatter of the differences seen.

    Args:
        rows: The headline's contrasts.
        primary: Metric of the verdict.
        margin: Its margin, in the metric's units.

    Returns:
        For the primary metric and exact match: ``standard_error`` and ``detectable``, the true difference found in 80 %
        of such studies, both in the metric's units; ``target``, the margin or 2 points; and ``needed``, the units
        (clusters where there are any, else items) at which ``detectable`` equals the target.
    """
    found = []
    for row in rows:
        is_primary = row["metric"] == primary
        if not is_primary and row["metric"] != "exact_match":
            continue
        error = (row["ci_high"] - row["ci_low"]) / (2 * _Z95)
        target = margin if is_primary else 0.02
        units = row["n_clusters"] or row["n"]
        ratio = _DETECTABLE * error / target if target > 0 else None
        found.append({
            "metric": row["metric"], "n": row["n"], "units": units, "unit": "clusters" if row["n_clusters"] else "items",
            "standard_error": error, "detectable": _DETECTABLE * error, "target": target,
            "needed": max(math.ceil(units * ratio**2), 2) if ratio else None,
        })
    return found


def warnings(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Everything that limits what the report shows.

    Args:
        report: The report so far.

    Returns:
        ``{"code", "level", "text"}``; level ``serious`` where it bears on the verdict, else ``note``.
    """
    found = [*_about_statistics(report), *_about_training(report), *_about_data(report)]
    return [{"code": code, "level": level, "text": text} for code, level, text in found]


def _about_statistics(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    verdict = report["verdict"]
    for text in verdict["warnings"]:
        yield "statistics", "serious", f"{SHOWN[verdict['metric']].label}: {text}"
    said = set(verdict["warnings"])
    for row in report["contrasts"]:
        if row["name"] == verdict["contrast"] and row["metric"] != verdict["metric"]:
            for text in row["warnings"]:
                if text not in said:
                    said.add(text)
                    yield "statistics", "note", f"{SHOWN[row['metric']].label}: {text}"
    yield ("one_seed", "note",
           "One training run of each arm, one seed. The intervals are over held-out items: they leave out how much the "
           "training itself varies, so another seed could move the difference further than the interval says.")
    if "similarity" in report["cells"][CANDIDATE]["metrics"]:
        yield ("similarity_blind", "note",
               "Similarity is blind to negation and to numbers: “31 metres” and “13 metres” score almost alike. Do not "
               "read it as correctness.")
    if report["flips"]:
        yield ("flip_noise", "note",
               "Some answers would also change if only the scoring batch had another size (rounding). That floor was "
               "not measured here, so single changed answers prove nothing.")


def _about_training(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    twins = report["twins"]
    if twins is None:
        yield "twins_unknown", "serious", "The settings of both arms are not on record, so that they were twins is unproven."
    elif not twins["matched"]:
        what = ", ".join(row["setting"] for row in twins["unintended"]) or "no difference in the base's storage was found"
        yield ("twins_differ", "serious",
               f"The arms are not twins: they differ in more, or other, than the base's storage ({what}). The difference "
               "below cannot be laid to 4-bit alone.")
    if _mentions(report["provenance"].get("base_model"), "gguf") or _mentions(report["base_model"], "gguf"):
        yield ("base_requantized", "serious",
               "The base model reached this study through a 4-bit GGUF file: “float16” here means those 4-bit weights "
               "widened to float16. Both arms start from them, but the cost of 4-bit on weights that were never rounded "
               "before may differ.")
    for untuned, tuned in (("B16", BASELINE), ("B4", CANDIDATE)):
        if untuned in report["cells"] and (
            report["cells"][tuned]["nll_per_token"] >= report["cells"][untuned]["nll_per_token"]
        ):
            yield ("tuning_did_not_help", "serious",
                   f"Tuning did not lower the loss ({tuned} against {untuned}). Comparing two assistants that learned "
                   "nothing says little about 4-bit.")
    if any(record.get("device") == "cpu" for record in report["arms"].values()):
        yield ("cpu_memory", "note",
               "Trained on a CPU. Peak memory is the resident set of the training process, Python and libraries "
               "included, so it shrinks far less than the weights do; on a GPU the weights dominate.")
    dtypes = sorted({str(record["compute_dtype"]) for record in report["arms"].values() if record.get("compute_dtype")})
    if dtypes:
        yield ("compute_dtype", "note",
               f"Storage and arithmetic are separate: the base is stored in float16 or NF4, and both arms compute in "
               f"{' and '.join(dtypes)}.")


def _about_data(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    leaks = report["data"]["leaks"]
    if leaks["question"] or leaks["embedding"]:
        parts = [plural(leaks[kind], f"{name} leak") for kind, name in (("question", "text"), ("embedding", "embedding"))
                 if leaks[kind]]
        removed = leaks["removed"]
        rest = {True: "They were removed.", False: "They were left in, so the scores may flatter both arms.",
                None: "Whether they were removed is not on record."}[removed]
        yield ("leaks", "note" if removed else "serious",
               f"Held-out questions that stand, or nearly stand, in training: {' and '.join(parts)}. {rest}")
    unanswerable = sum(not row["answerable"] for row in report["items"])
    if unanswerable:
        yield ("unanswerable", "note",
               f"{plural(unanswerable, 'item')} of {len(report['items']):,} should be declined. They count in the loss "
               "and wherever else they carry a score.")
    short = {metric: row["n"] for row in report["contrasts"] if row["name"] == report["verdict"]["contrast"]
             for metric in [row["metric"]] if row["n"] < len(report["items"])}
    for metric, n in short.items():
        yield "fewer_items", "note", f"{SHOWN[metric].label} is figured on {plain(n)} of {len(report['items']):,} items."


def _mentions(record: Any, word: str) -> bool:
    return word in json.dumps(record, default=str).lower() if record else False
