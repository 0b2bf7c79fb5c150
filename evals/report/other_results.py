"""Results in addition to the held-out scores: extra tasks, calibration, judge, blind votes, untuned baselines.

Extra tasks are compared document by document: a document that the untuned base gets right and the tuned model gets
wrong was forgotten.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from typing_extensions import TypedDict

from assistant_builder.arms import ARMS, LORA, QLORA, Arm, further_arms, main_cells
from assistant_builder.atomic_io import read_json, read_jsonl
from assistant_builder.chat.feedback import (
    counted_votes,
    log_evidence,
    model_of,
    read_votes,
    tally,
    tally_message,
)
from assistant_builder.config import EvalConfig
from assistant_builder.i18n import Message, Text, joined, m, mn
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.compare import SATURATED, holm, paired_comparison
from evals.judge.pairwise import JudgeLine, preference
from evals.metrics import metric_of
from evals.report.contrasts import (
    HEADLINE,
    all_pairs,
    clearly_better,
    clearly_worse,
    clusters_of,
    figures_of,
    in_words,
)
from evals.report.format import SIGNIFICANT, enumerated, measured, share_of, shown, value_of
from evals.report.load import BASELINE, CANDIDATE, Cell
from evals.report.schema import Report
from evals.stats.significance import sign_test
from evals.tasks.general_knowledge import TASK as RETENTION

_LISTED = 12  # forgotten documents
_PREFERRED = ("acc", "acc_norm", "exact_match", "f1")
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "brier_score", "mse", "ter", "wer")
_TEXTS = {
    RETENTION: (
        m("General knowledge"),
        m(
            "Multiple-choice questions on general knowledge, supplied with assistant-builder and unrelated to the "
            "training data. They show what tuning makes the model forget. Guessing gives 25%."
        ),
    ),
}


Documents = dict[Any, dict[str, Any]]


def _tuned(cells: Mapping[str, Any]) -> list[Arm]:
    """The arms of which a task was run on the assistant and on its untuned base."""
    return [arm for arm in ARMS.values() if {arm.cell, arm.untuned_cell} <= cells.keys()]


class _DocumentLine(TypedDict):
    doc_id: int | str
    metrics: dict[str, Any]
    likelihoods: NotRequired[list[float] | None]
    document: NotRequired[dict[str, Any]]


def task_records(study: Study, cells: Mapping[str, Cell]) -> dict[str, dict[str, Any]]:
    """The results of every task that was run on the study's cells.

    A task without figures has an ``error`` with the reason. ``p_value_holm`` is adjusted over the tasks of the same
    contrast.
    """
    config = study.config.eval
    records = {}
    for task in dict.fromkeys([RETENTION] * config.retention + config.tasks):
        found: dict[str, Documents] = {}
        for name in main_cells(study.config.arms):
            path = study.cell_folder(name) / "tasks" / f"{task}.jsonl"
            lines = read_jsonl(path, _DocumentLine) if name in cells else []
            if lines:
                found[name] = {line["doc_id"]: line for line in lines}
        if found:
            records[task] = _record(task, found, config)
    rows = [row for record in records.values() for row in record["contrasts"]]
    for name in {row["name"] for row in rows}:
        family = [row for row in rows if row["name"] == name]
        for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
            row["p_value_holm"] = float(adjusted)
    for task, record in records.items():
        record["sentence"] = _sentence(task, record)
    return records


def _record(task: str, found: Mapping[str, Documents], config: EvalConfig) -> dict[str, Any]:
    label, about = _TEXTS.get(task, (task, m("The task {task} of lm-eval.", task=task)))
    record: dict[str, Any] = {
        "label": label,
        "about": about,
        "metric": None,
        "items": 0,
        "cells": {},
        "contrasts": [],
        "flips": {},
        "listed": [],
        "sentence": "",
        "error": None,
    }
    first = next(iter(next(iter(found.values())).values()))
    names = [name for name in first["metrics"] if _value(first, name) is not None]
    metric = next((name for name in (*_PREFERRED, *names) if name in names), None)
    if metric is None:
        return {**record, "error": m("it has no score that is a number for each document")}
    ids = sorted(
        set.intersection(
            *(
                {
                    doc_id
                    for doc_id, document in documents.items()
                    if _value(document, metric) is not None
                }
                for documents in found.values()
            )
        )
    )
    values = {
        cell: [float(documents[doc_id]["metrics"][metric]) for doc_id in ids]
        for cell, documents in found.items()
    }
    record |= {
        "metric": metric,
        "items": len(ids),
        "cells": {
            cell: math.fsum(scores) / len(scores) for cell, scores in values.items() if scores
        },
    }
    meanings = {pair.name: pair.meaning for pair in all_pairs()}
    further = [(ARMS[arm].cell, BASELINE) for arm in further_arms(ARMS)]
    pairs = [
        *((arm.cell, arm.untuned_cell) for arm in ARMS.values()),
        (CANDIDATE, BASELINE),
        (QLORA.untuned_cell, LORA.untuned_cell),
        *further,
    ]
    for candidate, baseline in pairs:
        if candidate in values and baseline in values and len(ids) > 1:
            name = f"{candidate}-{baseline}"
            result = paired_comparison(
                values[baseline],
                values[candidate],
                higher_is_better=not metric.endswith(_LOWER_IS_BETTER),
                seed=config.seed,
                resamples=config.bootstrap_resamples,
            )
            record["contrasts"].append(
                {
                    "name": name,
                    "metric": metric,
                    "baseline": baseline,
                    "candidate": candidate,
                    "meaning": meanings[name],
                    **figures_of(result),
                }
            )
            if set(values[baseline]) | set(values[candidate]) <= {0.0, 1.0}:
                both = list(zip(ids, values[baseline], values[candidate], strict=True))
                record["flips"][name] = {
                    "lost": [doc_id for doc_id, before, after in both if before > after],
                    "gained": [doc_id for doc_id, before, after in both if after > before],
                }
    if task == RETENTION:
        record["listed"] = _forgotten(record["flips"], found)
    return record


def _value(document: Mapping[str, Any], metric: str) -> float | None:
    value = document["metrics"].get(metric)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _forgotten(
    flips: Mapping[str, Mapping[str, list[Any]]], found: Mapping[str, Documents]
) -> list[dict[str, Any]]:
    """Documents that the untuned base gets right and a tuned model gets wrong, those forgotten by both first."""
    lost_in: dict[Any, list[str]] = {}
    for arm in _tuned(found):
        name = f"{arm.cell}-{arm.untuned_cell}"
        for doc_id in flips.get(name, {}).get("lost", []):
            lost_in.setdefault(doc_id, []).append(name)
    order = sorted(lost_in, key=lambda doc_id: (-len(lost_in[doc_id]), doc_id))
    listed = []
    for doc_id in order[:_LISTED]:
        documents = {cell: docs[doc_id] for cell, docs in found.items() if doc_id in docs}
        likelihoods = {cell: document["likelihoods"] for cell, document in documents.items()}
        listed.append(
            {
                "doc_id": doc_id,
                "lost_in": lost_in[doc_id],
                "document": next(iter(documents.values()))["document"],
                "chosen": {
                    cell: each.index(max(each)) if each else None
                    for cell, each in likelihoods.items()
                },
            }
        )
    return listed


def _sentence(task: str, record: Mapping[str, Any]) -> Text:
    if record["error"]:
        return m(
            "{label} cannot be shown: {reason}.", label=record["label"], reason=record["error"]
        )
    metric, rows = record["metric"], {row["name"]: row for row in record["contrasts"]}
    worse = m("tuning made it forget") if task == RETENTION else m("worse after tuning")
    better, unchanged = m("better after tuning"), m("no clear change")
    parts = [
        m(
            "{arm} {tuned}, the untuned {base} base {untuned} ({difference}): {outcome}",
            arm=arm.short,
            tuned=value_of(record["cells"][arm.cell], metric),
            base=arm.base_label,
            untuned=value_of(record["cells"][arm.untuned_cell], metric),
            difference=_difference(row, record),
            outcome=in_words(row, worse, better, unchanged),
        )
        for arm in _tuned(record["cells"])
        if (row := rows.get(f"{arm.cell}-{arm.untuned_cell}"))
    ]
    asked = (
        mn("{count} question", "{count} questions", record["items"])
        if task == RETENTION
        else mn("{count} document", "{count} documents", record["items"])
    )
    found = [m("On {asked}: {results}.", asked=asked, results=joined(parts, "; "))] if parts else []
    if HEADLINE in rows:
        values = {
            "difference": _difference(rows[HEADLINE], record),
            "outcome": in_words(
                rows[HEADLINE],
                m("clearly worse"),
                m("clearly better"),
                m("no clear difference"),
            ),
        }
        found.append(
            m("QLoRA against 16-bit LoRA: {difference}, {outcome}.", **values)
            if parts
            else m(
                "On {asked}: QLoRA against 16-bit LoRA: {difference}, {outcome}.",
                asked=asked,
                **values,
            )
        )
    return joined(found)


def _difference(row: Mapping[str, Any], record: Mapping[str, Any]) -> Message:
    flips = record["flips"].get(row["name"])
    if not flips:
        return measured(row)
    return m(
        "{measured}, {lost:,} lost and {gained:,} gained",
        measured=measured(row),
        lost=len(flips["lost"]),
        gained=len(flips["gained"]),
    )


PARTIAL = 0.5  # token F1 from which an answer counts as right if exact match is almost always or almost never reached
_BINS = ((150, 10), (75, 5))
"""Minimum number of items for a number of bins; with fewer items, one bin per ``_FEWEST_IN_BIN``."""
_FEWEST_IN_BIN = 15
_Z95 = float(stats.norm.ppf(0.975))


def reliability(
    cells: Mapping[str, Cell], served: Sequence[str] = (BASELINE, CANDIDATE)
) -> dict[str, Any] | None:
    """The reliability curve of each arm's assistant, its calibration error ``ece`` and its ``brier`` score.

    The bins have equal counts and a Wilson interval. ``None`` if probabilities or answers are missing, or the items do
    not fill two bins.
    """
    tuned = [name for name in served if name in cells]
    scores = [
        cells[name].values(
            [item for item, sample in cells[name].by_item.items() if sample["answerable"]],
            "exact_match",
        )
        for name in tuned
    ]
    known = [math.fsum(values) / len(values) for values in scores if values]
    saturated = len(known) < len(tuned) or max(known) < SATURATED or min(known) > 1 - SATURATED
    metric, threshold = ("token_f1", PARTIAL) if saturated else ("exact_match", 1.0)
    points = {name: _points(cells[name], metric, threshold) for name in tuned}
    if min(len(probability) for probability, _ in points.values()) < 2 * _FEWEST_IN_BIN:
        return None
    return {
        "metric": metric,
        "correct_means": m("the answer equals the reference (exact match)")
        if metric == "exact_match"
        else m(
            "token F1 of answer and reference is at least {least}, because by exact match nearly all answers are "
            "right, or nearly all are wrong",
            least=PARTIAL,
        ),
        "cells": {name: _curve(*found) for name, found in points.items()},
        "about": m(
            "The mean probability that the assistant gives to the tokens of the reference answer, compared with the "
            "share of questions to answer that its own answer gets right. On the diagonal, the probability equals the "
            "share of right answers. ECE is the mean distance from the diagonal, with bins weighted by their items. "
            "The Brier score is the mean squared difference between the probability and right (1) or wrong (0). The "
            "intervals treat items as independent."
        ),
    }


def _points(cell: Cell, metric: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in ascending order, and whether each answer is right; both of shape ``[n]``."""
    found = sorted(
        (float(sample["mean_probability"]), value >= threshold)
        for item, sample in cell.by_item.items()
        if sample["answerable"]
        and sample.get("mean_probability") is not None
        and (value := cell.value(item, metric)) is not None
    )
    return np.array([probability for probability, _ in found]), np.array(
        [right for _, right in found], dtype=float
    )


def _curve(probability: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    n = len(probability)
    count = next((bins for fewest, bins in _BINS if n >= fewest), n // _FEWEST_IN_BIN)
    bins: list[dict[str, Any]] = []
    for part in np.array_split(np.arange(n), count):
        share = float(right[part].mean())
        bins.append(
            {
                "low": float(probability[part[0]]),
                "high": float(probability[part[-1]]),
                "n": len(part),
                "mean_probability": float(probability[part].mean()),
                "correct": share,
                "ci": _wilson(share, len(part)),
            }
        )
    ece = (
        math.fsum(each["n"] * abs(each["mean_probability"] - each["correct"]) for each in bins) / n
    )
    return {"bins": bins, "ece": ece, "brier": float(np.square(probability - right).mean()), "n": n}


def _wilson(share: float, n: int) -> list[float]:
    """The 95 % Wilson score interval of a share (Wilson 1927)."""
    spread = _Z95**2 / n
    half = _Z95 * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    center = (share + spread / 2) / (1 + spread)
    return [max(0.0, center - half), min(1.0, center + half)]


class _JudgeFile(TypedDict):
    model: str
    items: int
    failures: int
    disagreements: int


def judged(study: Study, cells: Mapping[str, Cell]) -> dict[str, Any] | None:
    """``evals/judge.json`` with the preference for QLoRA, its interval and its test; ``None`` without a judge."""
    path, config = study.evals_folder / "judge.json", study.config.eval
    if not study.config.compares or not config.judge_url or not path.exists():
        return None
    items = cells[BASELINE].by_item
    lines = [
        line
        for line in read_jsonl(path.with_suffix(".jsonl"), JudgeLine)
        if str(line["item"]) in items
    ]
    clusters = clusters_of([items[str(line["item"])] for line in lines])
    found = preference([line["outcome"] for line in lines], clusters=clusters, seed=config.seed)
    choices = Counter(order["choice"] for line in lines for order in line["orders"])
    place = sign_test(choices["first"], choices["second"], choices["tie"])
    record = {
        **read_json(path, _JudgeFile),
        **found,
        "place_p_value": place.p_value,
        "first_of_decided": place.share,
    }
    return {**record, "sentence": _judged_sentence(record)}


def _judged_sentence(record: Mapping[str, Any]) -> Message:
    items = mn("{count} item", "{count} items", record["items"])
    if record["preference"] is None:
        return m(
            "The judge {model} gave no usable verdict on {items}.",
            model=record["model"],
            items=items,
        )
    sentences = [
        m(
            "The judge {model} saw {items} in both orders. It preferred QLoRA on {wins:,} and 16-bit LoRA on "
            "{losses:,}, and neither on {ties:,} (on {disagreements:,} of these the two orders disagreed).",
            **{key: record[key] for key in ("model", "wins", "losses", "ties", "disagreements")},
            items=mn("{count} item", "{count} items", record["n"]),
        )
    ]
    if record["failures"]:
        sentences.append(
            mn(
                "{count} failed item is not counted.",
                "{count} failed items are not counted.",
                record["failures"],
            )
        )
    share = share_of(record["preference"])
    if record["ci"] is None:
        sentences.append(
            m("With ties counted as half, QLoRA is preferred on {share}.", share=share)
        )
        return joined(sentences)
    low, high = record["ci"]
    values = {"share": share, "low": share_of(low), "high": share_of(high)}
    if low <= 0.5 <= high or record["p_value"] > SIGNIFICANT:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): no clear "
            "preference.",
            **values,
        )
    elif low > 0.5:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): a clear "
            "preference for QLoRA.",
            **values,
        )
    else:
        last = m(
            "With ties counted as half, QLoRA is preferred on {share} (95% interval {low} to {high}): a clear "
            "preference for 16-bit LoRA.",
            **values,
        )
    return joined([*sentences, last])


def votes(study: Study) -> dict[str, Any] | None:
    """Totals of ``votes.jsonl`` with QLoRA's share of the decided votes and its interval; ``None`` without votes.

    The interval and the p-value hold after each vote, however many times they were looked at before. Ties and "both
    bad" express no preference; they are counted separately.
    """
    if not study.config.compares:
        return None
    found = tally(study)
    if not found.counted:
        return None
    kept = counted_votes(read_votes(study), model_of(study))
    decided = found.candidate + found.baseline
    share = found.candidate / decided if decided else None
    ci = None if share is None else _anytime_interval(found.candidate, found.baseline)
    sentence = m("In blind votes on answers in the chat: {tally}", tally=tally_message(found))
    if share is not None and ci is not None:
        preferred = m(
            "{assistant} has {share} of the votes that prefer one (95% interval {low} to {high}, which holds after "
            "each vote).",
            assistant=Message(QLORA.plain),
            share=share_of(share),
            low=share_of(ci[0]),
            high=share_of(ci[1]),
        )
        sentence = joined([sentence, preferred])
    return {
        "votes": found.counted,
        QLORA.name: found.candidate,
        LORA.name: found.baseline,
        "ties": found.ties,
        "both_bad": found.both_bad,
        "outdated": found.outdated,
        "repeated": found.repeated,
        "questions": len({vote.question for vote in kept}),
        "share": share,
        "ci": ci,
        "p_value": found.p_value,
        "first": min(vote.time for vote in kept),
        "last": max(vote.time for vote in kept),
        "left": sum(vote.vote == "a" for vote in kept),
        "sentence": sentence,
    }


def _anytime_interval(wins: int, losses: int) -> list[float]:
    """The 95 % confidence sequence of a share: the shares whose e-value is at most 1 / 0.05."""

    def excess(share: float) -> float:
        return log_evidence(wins, losses, share) - math.log(20)

    tiny = 1e-12
    share = min(max(wins / (wins + losses), tiny), 1 - tiny)
    return [
        float(brentq(excess, tiny, share)) if wins else 0.0,
        float(brentq(excess, share, 1 - tiny)) if losses else 1.0,
    ]


def report_lacks_votes(study: Study) -> bool:
    """Whether the study has a report with another number of votes than there are now.

    Counts are compared rather than file times, because a clock that was set back would make new votes look old.
    """
    path = study.folder / "report.json"
    if not path.is_file() or not study.config.compares:
        return False
    votes = Report.load(path).votes
    return tally(study).counted != (votes.votes if votes else 0)


NAMES = {
    "copy": m("copying the answer of the nearest training question"),
    "retrieval": m("the untuned base model with three retrieved pairs"),
}


def beats_untuned(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Entries]
) -> list[dict[str, Any]]:
    """Each arm against each baseline: the metrics ``beaten``, ``worse`` and ``not_beaten``, with a sentence.

    A difference counts if its interval excludes zero and the Holm-adjusted p is at most 0.05.
    """
    found = []
    for baseline in NAMES:
        for arm in ARMS.values():
            family = [
                row
                for row in rows
                if row["name"] == f"{arm.cell}-{baseline}"
                and metric_of(row["metric"]).can_be_primary
            ]
            if family:
                clear = [row for row in family if row["p_value_holm"] <= SIGNIFICANT]
                beaten = [row["metric"] for row in clear if clearly_better(row)]
                worse = [row["metric"] for row in clear if clearly_worse(row)]
                record = {
                    "arm": arm.name,
                    "cell": arm.cell,
                    "baseline": baseline,
                    "beaten": beaten,
                    "not_beaten": [
                        row["metric"] for row in family if row["metric"] not in (*beaten, *worse)
                    ],
                    "worse": worse,
                }
                found.append({**record, "sentence": _baseline_sentence(record, figures)})
    return found


def shortfall_summary(record: Entries, figures: Mapping[str, Entries]) -> Message:
    """The number of metrics on which a tuned arm does not beat an untuned baseline, with one example."""
    worse, open = len(record["worse"]), len(record["not_beaten"])
    example = _listed([*record["worse"], *record["not_beaten"]][:1], record, figures)
    values = {
        "arm": ARMS[record["arm"]].short,
        "worse": worse,
        "open": open,
        "total": worse + open + len(record["beaten"]),
        "example": example,
    }
    if worse and open:
        return m(
            "{arm} is worse on {worse} of {total} metrics and not clearly better on {open} of {total} metrics, for "
            "example in {example}",
            **values,
        )
    if worse:
        return m("{arm} is worse on {worse} of {total} metrics, for example in {example}", **values)
    return m(
        "{arm} is not clearly better on {open} of {total} metrics, for example in {example}",
        **values,
    )


def _baseline_sentence(record: Entries, figures: Mapping[str, Entries]) -> Message:
    listed = {
        key: _listed(record[key], record, figures) if record[key] else ""
        for key in ("beaten", "worse", "not_beaten")
    }
    values = {"rival": NAMES[record["baseline"]], "arm": ARMS[record["arm"]].short, **listed}
    if not (record["worse"] or record["not_beaten"]):
        return m("{arm} clearly beats {rival} in {beaten}.", **values)
    if record["worse"] and record["not_beaten"]:
        found = m(
            "Against {rival}, {arm} is worse in {worse} and not clearly better in {not_beaten}.",
            **values,
        )
    elif record["worse"]:
        found = m("Against {rival}, {arm} is worse in {worse}.", **values)
    else:
        found = m("Against {rival}, {arm} is not clearly better in {not_beaten}.", **values)
    better = m("It is clearly better in {beaten}.", **values) if record["beaten"] else ""
    return joined([found, better])


def _listed(metrics: Sequence[str], record: Entries, figures: Mapping[str, Entries]) -> Text:
    cell, baseline = (figures[record[key]]["metrics"] for key in ("cell", "baseline"))
    return enumerated(
        [
            m(
                "{metric} ({value} against {other})",
                metric=Message(shown(metric).phrase),
                value=value_of(cell[metric], metric),
                other=value_of(baseline[metric], metric),
            )
            for metric in metrics
        ]
    )
