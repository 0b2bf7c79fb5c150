"""The warnings of a report, and the smallest difference that its held-out set can detect.

A warning states what limits the result, why that matters, and what to do about it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.i18n import bits
from assistant_builder.models.bundled import BASE_MODEL
from evals.declaration import RIGHT_DECLINES
from evals.report.contrasts import HEADLINE, clearly_worse
from evals.report.format import SIGNIFICANT, measured, percent, plural, share_lost, shown, signed
from evals.report.load import BASELINE, CANDIDATE, lead_pair, tuned_cells
from evals.report.other_results import NAMES, shortfall_summary
from evals.report.other_words import is_respelled
from evals.report.schema import Fidelity, Report, ReportWarning
from evals.stats.power import (
    TARGET,
    heldout_power,
    intraclass_correlation,
    items_needed,
    minimum_detectable_mean,
)
from evals.tasks.general_knowledge import TASK as RETENTION

Warned = tuple[str, str, str]  # code, level and text of a warning
IDENTITY_TOLERANCE = 1e-12  # largest rounding error at which an identity holds
_FAILURE_SHARE = 0.1
_CUT_SHARE = (
    0.02  # share of answers that stop at the limit of tokens above which the scores are in doubt
)
_POSITION_BIAS = (
    0.6  # share of decided judgements for one position from which a judge counts as biased
)
_LOSS_TOLERANCE = 1e-3


def secondary_warnings(report: Report) -> Iterator[Warned]:
    """Warnings from baselines, arithmetic, fidelity, noise, seeds, exports, tasks, cut answers, refusals and judge."""
    for about in (
        _untuned,
        _arithmetic,
        _noise,
        _seeds,
        _exports_and_tasks,
        _cut,
        _declining,
        _judge,
    ):
        yield from about(report)


_INSTEAD = {
    "copy": "showing people the stored answers",
    "retrieval": "using the untuned model with retrieved pairs",
}
"""What to do where tuning does not beat a baseline."""


def _untuned(report: Report) -> Iterator[Warned]:
    if is_respelled(report):  # the nearest question of training is nearly always the right one
        return
    figures = {**report.cells, **report.baselines}
    few = any(text.startswith("too few") for text in report.verdict.warnings)
    for baseline, name in NAMES.items():
        failing = [
            record
            for record in report.beats_untuned
            if record["baseline"] == baseline and (record["not_beaten"] or record["worse"])
        ]
        if failing:
            beaten = (
                "beat"
                if any(record["worse"] or not record["beaten"] for record in failing)
                else "clearly beat"
            )
            text = (
                f"Tuning does not {beaten} {name}: "
                f"{'; '.join(shortfall_summary(record, figures) for record in failing)}."
            )
            if few and not any(record["worse"] for record in failing):
                text += " With so few items, evidence may simply be missing: add held-out items."
            else:
                text += (
                    f" Improve the training data or the settings, or consider {_INSTEAD[baseline]}."
                )
            yield f"not_better_than_{baseline}", "serious", text


def _arithmetic(report: Report) -> Iterator[Warned]:
    broken = [entry for entry in report.identities if entry["error"] > IDENTITY_TOLERANCE]
    if broken:
        yield (
            "identity_broken",
            "serious",
            f"{broken[0]['text']} does not hold on {broken[0]['metric']}: it is off by {broken[0]['error']:.1e}. "
            "The figures of these cells are inconsistent. Score the study again with --redo.",
        )
    fidelity = report.fidelity or Fidelity()
    if fidelity.skipped:
        yield "fidelity_skipped", "note", fidelity.sentence
    asked = [row for row in report.items if row["answerable"]] or report["items"]  # as the recorder
    tokens = sum(row["tokens"] for row in asked)
    for pair in fidelity.pairs:
        if {pair["candidate"], pair["reference"]} <= report.cells.keys() and pair.get(
            "tokens", tokens
        ) == tokens:
            seen = (
                sum(row["nll"][pair["candidate"]] - row["nll"][pair["reference"]] for row in asked)
                / tokens
            )
            if abs(pair["delta_nll"] - seen) > _LOSS_TOLERANCE:
                yield (
                    "fidelity_disagrees",
                    "note",
                    f"The loss of {pair['candidate']} exceeds that of {pair['reference']} by "
                    f"{pair['delta_nll']:.4f} nats per token in the token-by-token comparison, but by {seen:.4f} in "
                    "the scores of the cells. They were computed differently; trust neither beyond this gap.",
                )


def _noise(report: Report) -> Iterator[Warned]:
    flips = report.flips
    floor = flips.noise_floor if flips else None
    if flips is None or floor is None:
        return
    between = len(flips["lost"]) + len(flips["gained"])
    noise = max(cell["lost"] + cell["gained"] for cell in floor["cells"].values())
    if noise and noise >= between:
        level = "serious" if report.primary_metric == flips["metric"] else "note"
        yield (
            "flips_within_noise",
            level,
            f"Another scoring batch size alone changes {plural(noise, 'answer')} of one assistant between right and "
            f"wrong; {bits()}-bit changes {between:,}. The flips in this report may therefore be rounding effects. "
            "Draw no "
            "conclusion from single flips.",
        )
    judged = report.verdict.bounds[0]["outcome"]
    if floor["verdict"] is not None and floor["verdict"] != judged:
        yield (
            "verdict_moves_with_batches",
            "serious",
            f"With another scoring batch size the verdict of the primary metric is “{floor['verdict']}” instead of "
            f"“{judged}”, so it depends on rounding. Add held-out items to settle it.",
        )


def _seeds(report: Report) -> Iterator[Warned]:
    seeds, verdict = report.seeds, report.verdict
    if seeds["spread"] is None or not report.compares:
        return
    unlike = [str(run["seed"]) for run in seeds["runs"][1:] if run["twins"] is False]
    if unlike:
        yield (
            "seeds_not_twins",
            "serious",
            f"The arms of seed {', '.join(unlike)} are not twins: more than the storage of the base differs, or the "
            "storage does not. The spread over seeds therefore shows more than chance. Train both arms of that seed "
            "again with the same settings.",
        )
    verdicts = [run["verdict"] for run in seeds["runs"]]
    if len(set(verdicts)) > 1:
        listed = ", ".join(
            f"“{outcome}” with seed {run['seed']}"
            for run, outcome in zip(seeds["runs"], verdicts, strict=True)
        )
        yield (
            "seeds_disagree",
            "serious",
            f"The training seeds give different verdicts by the primary metric: {listed}. The verdict at the top "
            "averages over the seeds; treat it as unsettled until more seeds or held-out items agree.",
        )
    low, high = seeds["trained_again"]["ci"]
    worst = -low if verdict.higher_is_better else high
    if verdict.outcome == "no worse" and worst > verdict.margin:
        how = shown(verdict.metric)
        yield (
            "seeds_reach_beyond_margin",
            "note",
            f"If both arms were trained again, the 95% interval of the difference would reach "
            f"{signed((low if verdict['higher_is_better'] else high) * how.factor, how.decimals)} {how.unit}, more "
            "harm than the margin allows. The verdict holds for these assistants, not for every retraining. "
            "More seeds would narrow the interval.",
        )


def _exports_and_tasks(report: Report) -> Iterator[Warned]:
    for row in report.exports:
        if row["keeps"] == "no":
            yield (
                "export_loses",
                "note",
                f"{row['cell']} does not keep the quality measured for {row['measured']} ({measured(row)}): it "
                f"loses {share_lost(row)}. {row['how']} Choose an export that keeps the quality.",
            )
    for task, record in report.tasks.items():
        if record["error"]:
            yield "task_failed", "note", record["sentence"]
        worse = {row["name"]: row for row in record["contrasts"] if clearly_worse(row)}
        if HEADLINE in worse and worse[HEADLINE]["p_value_holm"] <= SIGNIFICANT:
            yield (
                "worse_on_task",
                "serious",
                f"{record['label']}: QLoRA is clearly worse than its 16-bit twin ({measured(worse[HEADLINE])}).",
            )
        tuned = {f"{arm.cell}-{arm.untuned_cell}" for arm in ARMS.values()}
        forgot = [
            f"{row['candidate']} against {row['baseline']} {measured(row)}"
            for name, row in worse.items()
            if name in tuned
        ]
        if forgot and task == RETENTION:
            yield (
                "forgetting",
                "note",
                f"Tuning made the model forget general knowledge: {'; '.join(forgot)}. If the assistant needs it, "
                "train more gently (fewer epochs, a lower learning rate).",
            )


def _cut(report: Report) -> Iterator[Warned]:
    tuned = [report.cells[name] for name in tuned_cells(report.trained_arms)]
    cut = {cell["label"]: cell["cut_answers"] for cell in tuned if cell.get("cut_answers")}
    if cut:
        listed = " and ".join(
            f"{plural(number, 'answer')} of {label}" for label, number in cut.items()
        )
        share = max(cut.values()) / tuned[0]["items"]
        yield (
            "cut_answers",
            "serious" if share > _CUT_SHARE else "note",
            f"Of {plural(tuned[0]['items'], 'test question')}, {listed} stopped at the limit of "
            f"{report['answer_limit']:,} tokens before they had ended, and were scored without their end. Set "
            "eval.max_new_tokens=auto or raise it, and train longer if the answers repeat themselves.",
        )


def _declining(report: Report) -> Iterator[Warned]:
    cells = report.declining.cells if report.declining else {}
    inventing = [
        f"{label} answered {cell['unanswerable_items'] - cell['declined']:,}"
        for name, label in ((arm.cell, arm.short) for arm in ARMS.values())
        if (cell := cells.get(name)) and 2 * cell["declined"] < cell["unanswerable_items"]
    ]
    if inventing:
        asked = plural(cells[tuned_cells(report.trained_arms)[0]]["unanswerable_items"], "question")
        yield (
            "invents",
            "serious",
            f"Of {asked} that should be declined, {' and '.join(inventing)}. These answers are invented, unless "
            "they decline in words that are not recognised. Read them before the assistant is used.",
        )


def _judge(report: Report) -> Iterator[Warned]:
    judge = report.judge
    if not judge:
        return
    if judge["failures"] > _FAILURE_SHARE * judge["items"]:
        yield (
            "judge_failures",
            "serious",
            f"The judge failed on {judge['failures']:,} of {plural(judge['items'], 'item')} "
            f"({percent(judge['failures'] / judge['items'])}). If these differ from the other items, its preference "
            "is not representative. Check the judge's server and run the study again.",
        )
    share = judge["first_of_decided"]
    if (
        share is not None
        and judge["place_p_value"] <= SIGNIFICANT
        and max(share, 1 - share) >= _POSITION_BIAS
    ):
        place = "first" if share > 0.5 else "second"
        yield (
            "judge_position_bias",
            "note",
            f"The judge chose the answer shown {place} in {percent(max(share, 1 - share))} of its decided "
            "judgements. Every pair was shown in both orders, so neither assistant gains, but some ties hide a real "
            "preference. Another judge may decide more items.",
        )
    if (
        judge["ci"]
        and judge["ci"][1] < 0.5
        and judge["p_value"] <= SIGNIFICANT
        and (report.verdict.outcome == "no worse")
    ):
        yield (
            "judge_prefers_lora",
            "serious",
            f"The judge prefers the answers of {BASELINE} to those of {CANDIDATE}, although the verdict is “no "
            f"worse”. {judge['sentence']} Compare some of these answers yourself.",
        )


_Z95 = 1.959964


def power(
    rows: list[dict[str, Any]], items: list[dict[str, Any]], primary: str, margin: float
) -> list[dict[str, Any]]:
    """What a held-out set of this size can detect, estimated from the spread of the measured differences.

    Returns:
        One record for the primary metric and one for exact match: ``detectable``, the true difference that 80 % of such
        studies detect, in the metric's units; ``target``, the margin or 2 points; and ``needed``, the units (clusters,
        or items without clusters) at which both are equal. For exact match also the estimate made before the run,
        ``planned``, and the measured values of its assumptions, ``seen``; ``None`` for other metrics.
    """
    found = []
    clusters = [item["cluster"] for item in items]
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
                "planned": heldout_power(len(items), clusters=clusters).to_record()
                if is_exact
                else None,
                "seen": _flips_seen(items) if is_exact else None,
            }
        )
    return found


def _flips_seen(items: list[dict[str, Any]]) -> dict[str, float]:
    """The share of items that flipped, and the intraclass correlation of flips within clusters."""
    both = [
        item
        for item in items
        if all("exact_match" in item["metrics"][cell] for cell in (BASELINE, CANDIDATE))
    ]
    flips = [
        item["metrics"][CANDIDATE]["exact_match"] - item["metrics"][BASELINE]["exact_match"]
        for item in both
    ]
    return {
        "flip_rate": sum(flip != 0 for flip in flips) / len(flips),
        "icc": intraclass_correlation(flips, [item["cluster"] for item in both]),
    }


def warnings(report: Report) -> list[dict[str, str]]:
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
    found = [("serious", verdict.metric, text) for text in verdict.warnings]
    found += [
        ("note", row["metric"], text)
        for row in report.contrasts
        if row["name"] == lead and (row["metric"] != verdict.metric or not report.compares)
        for text in row["warnings"]
    ]
    first = {text: (level, metric) for level, metric, text in reversed(found)}
    for level, metric, text in found:
        if first.get(text) == (level, metric):
            yield (
                "statistics",
                level,
                f"{shown(metric).label}: {text.replace(' %', '%').rstrip('.')}.",
            )
    if report.seeds.count == 1:
        yield "one_seed", "note", report.seeds.sentence
    if any("similarity" in report.cells[name].metrics for name in tuned_cells(report.trained_arms)):
        yield (
            "similarity_blind",
            "note",
            "Similarity hardly reacts to negations and numbers: “31 metres” and “13 metres” score almost the same. "
            "Use exact match or the facts kept to judge correctness.",
        )
    if report.flips and not report.flips.noise_floor:
        yield (
            "flip_noise",
            "note",
            "Rounding alone changes some answers, for example with another scoring batch size. This noise floor was "
            "not measured, so single changed answers prove nothing. Set eval.noise_floor: true to measure it.",
        )


def _about_training(report: Report) -> Iterator[Warned]:
    twins, both = report.twins, report.compares
    if not both:
        pass  # without a twin there is nothing to match
    elif twins is None:
        yield (
            "twins_unknown",
            "serious",
            "The study has no record of the settings of both arms, so it is not proven that they were twins. Other "
            f"causes than {bits()}-bit may explain the difference. Train both arms again with --redo.",
        )
    elif not twins["matched"]:
        settings = ", ".join(row["setting"] for row in twins["unintended"])
        what = (
            f"more than the storage of the base differs ({settings})"
            if settings
            else "both store the base alike"
        )
        yield (
            "twins_differ",
            "serious",
            f"The arms are not twins: {what}. Their difference cannot be attributed to {bits()}-bit alone. Train both "
            "arms "
            "again with the same settings.",
        )
    came_through_gguf = (
        "gguf" in json.dumps(report.provenance.get("base_model"), default=str).lower()
    )
    if came_through_gguf or report.config["model"]["base"].strip().casefold() == BASE_MODEL:
        yield (
            "base_requantized",
            "serious",
            "The base model of this study comes from a 4-bit GGUF file: “float16” here means those 4-bit weights "
            "converted to float16. "
            + (
                f"Both arms start from them, but with weights that were never rounded the cost of {bits()}-bit may "
                "differ. "
                if both
                else "With weights that were never rounded, training may give another result. "
            )
            + "Use the original checkpoint as model.base to find out.",
        )
    for untuned, tuned in ((arm.untuned_cell, arm.cell) for arm in ARMS.values()):
        if {untuned, tuned} <= report.cells.keys() and (
            report.cells[tuned]["nll_per_token"] >= report.cells[untuned]["nll_per_token"]
        ):
            yield (
                "tuning_did_not_help",
                "serious",
                f"The loss of {tuned} is not below that of {untuned}: tuning did not lower it."
                + (
                    f" A comparison of assistants that learned nothing shows little about {bits()}-bit."
                    if both
                    else ""
                )
                + " Check the training curves, the learning rate and the data.",
            )
    if any(record.get("device") == "cpu" for record in report.arms.values()):
        yield (
            "cpu_memory",
            "note",
            "Training ran on a CPU. Peak memory is the resident set of the training process, which includes Python "
            "and libraries, so it shrinks much less than the weights do. On a GPU the weights dominate.",
        )
    if len({record.get("gradient_checkpointing") for record in report.resources.values()}) > 1:
        yield (
            "checkpointing_differs",
            "note",
            "Only one arm had to recompute activations (gradient checkpointing) to fit into memory. This changes no "
            "result, but time and memory of the two arms are not directly comparable.",
        )
    devices = max((record.get("devices") or 1 for record in report.resources.values()), default=1)
    if devices > 1:
        yield (
            "several_devices",
            "note",
            f"{devices} devices trained {'each' if both else 'the'} arm together and shared the pairs of each step. "
            "Memory is given per device. The losses are those of a single device, except for the order in which "
            "sums are rounded.",
        )
    by_seed = zip(
        *(record.get("cards") or [] for record in report.resources.values()), strict=False
    )
    cards = max((set(filter(None, names)) for names in by_seed), key=len, default=set())
    if both and len(cards) > 1:
        yield (
            "cards_differ",
            "note",
            f"The arms of a seed were trained on different cards ({', '.join(sorted(cards))}), which round "
            "differently and draw other dropout masks from the same seed: the arms are paired by data, order and "
            "initial adapters, and not by dropout. Train both on cards of one model to pair it, too.",
        )
    dtypes = sorted(
        {
            str(record["compute_dtype"])
            for record in report.arms.values()
            if record.get("compute_dtype")
        }
    )
    if dtypes:
        stored = " or ".join(
            dict.fromkeys(ARMS[arm].storage or f"in {bits()} bits" for arm in report.trained_arms)
        )
        yield (
            "compute_dtype",
            "note",
            f"Storage and arithmetic are separate: the base is stored in {stored.removeprefix('in ')}, and "
            f"{'both arms compute' if both else 'the arm computes'} in {' and '.join(dtypes)}.",
        )


def _about_data(report: Report) -> Iterator[Warned]:
    if is_respelled(report):
        yield (
            "respelled",
            "serious",
            "Nothing was tested in other words: the file has hardly any, so the test asks questions of training, "
            "respelled. The figures compare the assistants on these, and do not show how often either is right when "
            "people ask in words of their own. Add about ten questions as people would ask them.",
        )
    leaks = report.data.leaks
    if leaks["removed"]:
        yield (
            "leaks_removed",
            "note",
            f"{plural(leaks['removed'], 'question')} of the held-out set occurred in training in the same or nearly "
            "the same words and left the set.",
        )
    if leaks["left"]:
        why = ", because the file defines the split" if report.data.split["given"] else ""
        yield (
            "leaks_left",
            "serious",
            f"{plural(leaks['left'], 'held-out question')} also occurred in training in the same or nearly the same "
            f"words and stayed in the set{why}. If these are intended paraphrases, the test measures rephrasing; "
            f"otherwise the scores {'of both arms ' if report.compares else ''}are too high. Set "
            "data.remove_leaks: always to remove such questions.",
        )
    if leaks["text"] is None or leaks["embedding"] is None:
        missing = " or ".join(
            name
            for name, key in (("text", "text"), ("sentence embedding", "embedding"))
            if leaks[key] is None
        )
        yield (
            "leaks_unknown",
            "note",
            f"No search for leaks by {missing} is on record: held-out questions may occur in training unnoticed.",
        )
    unanswerable = sum(not row["answerable"] for row in report.items)
    if unanswerable:
        yield (
            "unanswerable",
            "note",
            f"{plural(unanswerable, 'item')} of {len(report['items']):,} should be declined. They count in right "
            "declines alone, and not in the loss or any other metric.",
        )
    rows = [
        row
        for row in report.contrasts
        if row["name"] == "-".join(lead_pair(report)) and row["metric"] != RIGHT_DECLINES
    ]
    everything = max((row["n"] for row in rows), default=0)
    for row in rows:
        if row["n"] < everything:
            yield (
                "fewer_items",
                "note",
                f"{shown(row['metric']).label} is computed on {row['n']:,} of {everything:,} items; the others have "
                "no such score.",
            )


_BY_WEIGHT = (
    "identity_broken",
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
