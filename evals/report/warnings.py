"""The warnings of a report, and the smallest difference that its held-out set can detect.

A warning states what limits the result, why that matters, and what to do about it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.i18n import Message, Text, joined, m, mn
from assistant_builder.models.bundled import BASE_MODEL
from evals.report.approaches import comparing_metric
from evals.report.load import lead_pair
from evals.report.measured_warnings import Warned, secondary_warnings
from evals.report.number_format import (
    both_of,
    either,
    shown,
)
from evals.report.other_words import is_respelled
from evals.report.schema import Report, ReportWarning
from evals.stats.power import (
    TARGET,
    items_needed,
    minimum_detectable_mean,
)

_Z95 = 1.959964


def power(rows: list[dict[str, Any]], primary: str, margin: float) -> list[dict[str, Any]]:
    """What a held-out set of this size can detect, estimated from the spread of the measured differences.

    Returns:
        One record for the primary metric and one for exact match: ``detectable``, the true difference that 80 % of such
        studies detect, in the metric's units; ``target``, the margin or 2 points; and ``needed``, the units (clusters,
        or items without clusters) at which both are equal.
    """
    found = []
    for row in rows:
        is_primary, is_exact = row["metric"] == primary, row["metric"] == "exact_match"
        if not (is_primary or is_exact):
            continue
        error = (row["ci_high"] - row["ci_low"]) / (2 * _Z95)
        target = margin if is_primary else TARGET
        units = row["n_clusters"] or row["n"]
        scatter = error * math.sqrt(units)
        found.append(
            {
                "metric": row["metric"],
                "n": row["n"],
                "units": units,
                "unit": "clusters" if row["n_clusters"] else "items",
                "standard_error": error,
                "detectable": minimum_detectable_mean(units, scatter),
                "target": target,
                "needed": items_needed(target, variance=scatter**2) if target > 0 else None,
            }
        )
    return found


def warnings(report: Report) -> list[dict[str, Any]]:
    """Everything that limits the conclusions of the report.

    The level is ``serious`` where it affects the verdict or the question whether tuning was worth it, else ``note``.
    """
    found = [
        *secondary_warnings(report),
        *_about_statistics(report),
        *_about_training(report),
        *_about_data(report),
    ]
    return [{"code": code, "level": level, "text": text} for code, level, text in found]


def _about_statistics(report: Report) -> Iterator[Warned]:
    verdict, lead = report.verdict, "-".join(lead_pair(report))
    found = [("serious", verdict.metric, text) for text in verdict.messages("warnings")]
    found += [
        ("note", row["metric"], text)
        for row in report.contrasts
        if row["name"] == lead and (row["metric"] != verdict.metric or not report.compares)
        for text in row.messages("warnings")
    ]
    first = {str(text): (level, metric) for level, metric, text in reversed(found)}
    for level, metric, text in found:
        if first[str(text)] == (level, metric):
            yield (
                "statistics",
                level,
                m(
                    "{metric}: {text}.",
                    metric=Message(shown(metric).label),
                    text=text,
                ),
            )
    if report.seeds.count == 1:
        yield "one_seed", "note", report.seeds.message("sentence")
    if report.flips and not report.flips.noise_floor and "cells" not in report.to_come:
        yield (
            "flip_noise",
            "note",
            m(
                "Rounding alone changes some answers, for example with another scoring batch size. This noise floor "
                "was not measured, so single changed answers prove nothing. Set {eval.noise_floor}: true to measure "
                "it."
            ),
        )


def _about_training(report: Report) -> Iterator[Warned]:
    twins, both = report.twins, report.compares
    if both and twins is None:
        yield (
            "twins_unknown",
            "serious",
            m(
                "The {study} has no record of the settings of both arms, so it is not proven that they were twins. "
                "Other causes than {bits}-bit may explain the difference. Train both arms again with --redo."
            ),
        )
    elif both and twins is not None and not twins["matched"]:
        settings = ", ".join(row["setting"] for row in twins["unintended"])
        what = (
            m("more than the storage of the base differs ({settings})", settings=settings)
            if settings
            else m("both store the base alike")
        )
        yield (
            "twins_differ",
            "serious",
            m(
                "The arms are not twins: {what}. Their difference cannot be attributed to {bits}-bit alone. Train both "
                "arms again with the same settings.",
                what=what,
            ),
        )
    came_through_gguf = (
        "gguf" in json.dumps(report.provenance.get("base_model"), default=str).lower()
    )
    if came_through_gguf or report.config["model"]["base"].strip().casefold() == BASE_MODEL:
        yield (
            "base_requantized",
            "serious",
            m(
                "The base model of this {study} comes from a 4-bit GGUF file: “float16” here means those 4-bit weights "
                "converted to float16. {consequence} Use the original checkpoint as {model.base} to find out.",
                consequence=m(
                    "Both arms start from them, but with weights that were never rounded the cost of {bits}-bit may "
                    "differ."
                )
                if both
                else m("With weights that were never rounded, training may give another result."),
            ),
        )
    for untuned, tuned in ((arm.untuned_cell, arm.cell) for arm in ARMS.values()):
        if {untuned, tuned} <= report.cells.keys() and not _learned(report, untuned, tuned):
            yield (
                "tuning_did_not_help",
                "serious",
                joined(
                    [
                        m(
                            "The loss of {tuned} is not below that of {untuned}: tuning did not lower it.",
                            tuned=tuned,
                            untuned=untuned,
                        ),
                        m(
                            "A comparison of assistants that learned nothing shows little about {bits}-bit."
                        )
                        if both
                        else "",
                        m("Check the training curves, the learning rate and the data."),
                    ]
                ),
            )
    if any(record.get("device") == "cpu" for record in report.arms.values()):
        yield (
            "cpu_memory",
            "note",
            m(
                "Training ran on a CPU. Peak memory is the resident set of the training process, which includes Python "
                "and libraries, so it shrinks much less than the weights do. On a GPU the weights dominate."
            ),
        )
    if len({record.get("gradient_checkpointing") for record in report.resources.values()}) > 1:
        yield (
            "checkpointing_differs",
            "note",
            m(
                "Only one arm had to recompute activations (gradient checkpointing) to fit into memory. This changes "
                "no result, but time and memory of the two arms are not directly comparable."
            ),
        )
    by_seed = zip(
        *(record.get("cards") or [] for record in report.resources.values()), strict=False
    )
    cards = max((set(filter(None, names)) for names in by_seed), key=len, default=set())
    if both and len(cards) > 1:
        yield (
            "cards_differ",
            "note",
            m(
                "The arms of a seed were trained on different cards ({cards}), which round differently and draw other "
                "dropout masks from the same seed: the arms are paired by data, order and initial adapters, and not by "
                "dropout. Train both on cards of one model to pair it, too.",
                cards=sorted(cards),
            ),
        )
    dtypes = sorted(
        {
            str(record["compute_dtype"])
            for record in report.arms.values()
            if record.get("compute_dtype")
        }
    )
    if dtypes:
        storages = list(dict.fromkeys(ARMS[arm].storage for arm in report.trained_arms))
        stored: list[Text] = [
            storage or (m("in {bits} bits") if place else m("{bits} bits"))
            for place, storage in enumerate(storages)
        ]
        yield (
            "compute_dtype",
            "note",
            m(
                "Storage and arithmetic are separate: the base is stored in {storages}, and both arms compute in "
                "{dtypes}.",
                storages=either(stored),
                dtypes=both_of(dtypes),
            )
            if both
            else m(
                "Storage and arithmetic are separate: the base is stored in {storages}, and the arm computes in "
                "{dtypes}.",
                storages=either(stored),
                dtypes=both_of(dtypes),
            ),
        )


def _about_data(report: Report) -> Iterator[Warned]:
    if is_respelled(report) and report.own_questions and report.own_questions.arms:
        yield (
            "respelled",
            "note",
            m(
                "The verdict, its figures and intervals come from questions of training, respelled. In other words "
                "only your own questions were asked."
            ),
        )
    elif is_respelled(report):
        yield (
            "respelled",
            "serious",
            m(
                "Nothing was tested in other words: the file has hardly any, so the test asks questions of training, "
                "respelled. The figures compare the assistants on these, and do not show how often either is right "
                "when people ask in words of their own. Add about ten questions as people would ask them."
            ),
        )
    leaks = report.data.leaks
    if leaks["removed"]:
        yield (
            "leaks_removed",
            "note",
            m(
                "{questions} of the held-out set occurred in training in the same or nearly the same words and left "
                "the set.",
                questions=mn("{count} question", "{count} questions", leaks["removed"]),
            ),
        )
    if leaks["left"]:
        questions = mn("{count} held-out question", "{count} held-out questions", leaks["left"])
        yield (
            "leaks_left",
            "serious",
            joined(
                [
                    m(
                        "{questions} also occurred in training in the same or nearly the same words and stayed in the "
                        "set, because the file defines the split.",
                        questions=questions,
                    )
                    if report.data.split["given"]
                    else m(
                        "{questions} also occurred in training in the same or nearly the same words and stayed in the "
                        "set.",
                        questions=questions,
                    ),
                    m(
                        "If these are intended paraphrases, the test measures rephrasing; otherwise the scores of both "
                        "arms are too high."
                    )
                    if report.compares
                    else m(
                        "If these are intended paraphrases, the test measures rephrasing; otherwise the scores are too "
                        "high."
                    ),
                    m("Set {data.remove_leaks}: always to remove such questions."),
                ]
            ),
        )
    if leaks["text"] is None or leaks["embedding"] is None:
        missing = either(
            [
                name
                for name, key in ((m("text"), "text"), (m("sentence embedding"), "embedding"))
                if leaks[key] is None
            ]
        )
        yield (
            "leaks_unknown",
            "note",
            m(
                "No search for leaks by {missing} is on record: held-out questions may occur in training unnoticed.",
                missing=missing,
            ),
        )


def _learned(report: Report, untuned: str, tuned: str) -> bool:
    """Whether the answers of a tuned cell are better, or its loss is lower: with facts, that of the base is low."""
    before, after = report.cells[untuned], report.cells[tuned]
    metric = comparing_metric(report.primary_metric)
    answers = before["metrics"].get(metric), after["metrics"].get(metric)
    better = None not in answers and answers[1] > answers[0]
    return better or after["nll_per_token"] < before["nll_per_token"]


_BY_WEIGHT = (
    "respelled",
    "twins_differ",
    "twins_unknown",
    "seeds_not_twins",
    "leaks_left",
    "tuning_did_not_help",
    "verdict_moves_with_batches",
    "seeds_disagree",
    "statistics",
    "flips_within_noise",
    "base_requantized",
    "worse_on_task",
    "judge_prefers_lora",
    "invents",
    "not_better_than_copy",
    "not_better_than_retrieval",
)
"""Codes of serious warnings, the heaviest first: those that put the verdict in doubt, then those beside it."""
FIRST = 3
"""Serious warnings at the top of a report."""


def by_weight(
    found: Sequence[ReportWarning],
) -> tuple[list[ReportWarning], list[ReportWarning]]:
    """The serious warnings for the top of a report, and the others in order of weight.

    Args:
        found: ``report.warnings``.
    """
    places = {code: place for place, code in enumerate(_BY_WEIGHT)}
    ranked = sorted(
        found,
        key=lambda entry: (entry["level"] != "serious", places.get(entry["code"], len(places))),
    )
    first = [entry for entry in ranked[:FIRST] if entry["level"] == "serious"]
    return first, ranked[len(first) :]
