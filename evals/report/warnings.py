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
from evals.declaration import RIGHT_DECLINES
from evals.report.contrasts import HEADLINE, clearly_worse
from evals.report.format import (
    SIGNIFICANT,
    both_of,
    either,
    figure,
    measured,
    share_lost,
    share_of,
    shown,
)
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

Warned = tuple[str, str, Text]  # code, level and text of a warning
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
    "copy": m("showing people the stored answers"),
    "retrieval": m("using the untuned model with retrieved pairs"),
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
            worse = any(record["worse"] for record in failing)
            beaten = (
                m("beat")
                if worse or any(not record["beaten"] for record in failing)
                else m("clearly beat")
            )
            advice = (
                m("With so few items, evidence may simply be missing: add held-out items.")
                if few and not worse
                else m(
                    "Improve the training data or the settings, or consider {instead}.",
                    instead=_INSTEAD[baseline],
                )
            )
            text = m(
                "Tuning does not {beaten} {baseline}: {shortfall}. {advice}",
                beaten=beaten,
                baseline=Message(name),
                shortfall=joined([shortfall_summary(record, figures) for record in failing], "; "),
                advice=advice,
            )
            yield f"not_better_than_{baseline}", "serious", text


def _arithmetic(report: Report) -> Iterator[Warned]:
    broken = [entry for entry in report.identities if entry["error"] > IDENTITY_TOLERANCE]
    if broken:
        yield (
            "identity_broken",
            "serious",
            m(
                "{text} does not hold on {metric}: it is off by {error:.1e}. The figures of these cells are "
                "inconsistent. Score the {study} again with --redo.",
                text=broken[0]["text"],
                metric=broken[0]["metric"],
                error=broken[0]["error"],
            ),
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
                    m(
                        "The loss of {candidate} exceeds that of {reference} by {delta_nll:.4f} nats per token in the "
                        "token-by-token comparison, but by {seen:.4f} in the scores of the cells. They were computed "
                        "differently; trust neither beyond this gap.",
                        candidate=pair["candidate"],
                        reference=pair["reference"],
                        delta_nll=pair["delta_nll"],
                        seen=seen,
                    ),
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
            m(
                "Another scoring batch size alone changes {answers} of one assistant between right and wrong; "
                "{bits}-bit changes {between:,}. The flips in this report may therefore be rounding effects. Draw no "
                "conclusion from single flips.",
                answers=mn("{count} answer", "{count} answers", noise),
                between=between,
            ),
        )
    judged = report.verdict.bounds[0]["outcome"]
    if floor["verdict"] is not None and floor["verdict"] != judged:
        yield (
            "verdict_moves_with_batches",
            "serious",
            m(
                "With another scoring batch size the verdict of the primary metric is “{verdict}” instead of "
                "“{judged}”, so it depends on rounding. Add held-out items to settle it.",
                verdict=Message(floor["verdict"]),
                judged=Message(judged),
            ),
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
            m(
                "The arms of seed {unlike} are not twins: more than the storage of the base differs, or the storage "
                "does not. The spread over seeds therefore shows more than chance. Train both arms of that seed again "
                "with the same settings.",
                unlike=unlike,
            ),
        )
    verdicts = [run["verdict"] for run in seeds["runs"]]
    if len(set(verdicts)) > 1:
        listed = [
            m("“{verdict}” with seed {seed}", verdict=Message(outcome), seed=run["seed"])
            for run, outcome in zip(seeds["runs"], verdicts, strict=True)
        ]
        yield (
            "seeds_disagree",
            "serious",
            m(
                "The training seeds give different verdicts by the primary metric: {listed}. The verdict at the top "
                "averages over the seeds; treat it as unsettled until more seeds or held-out items agree.",
                listed=listed,
            ),
        )
    low, high = seeds["trained_again"]["ci"]
    worst = -low if verdict.higher_is_better else high
    if verdict.outcome == "no worse" and worst > verdict.margin:
        how = shown(verdict.metric)
        yield (
            "seeds_reach_beyond_margin",
            "note",
            m(
                "If both arms were trained again, the 95% interval of the difference would reach {signed} {unit}, more "
                "harm than the margin allows. The verdict holds for these assistants, not for every retraining. More "
                "seeds would narrow the interval.",
                signed=figure(
                    (low if verdict["higher_is_better"] else high) * how.factor,
                    how.decimals,
                    plus=True,
                ),
                unit=Message(how.unit),
            ),
        )


def _exports_and_tasks(report: Report) -> Iterator[Warned]:
    for row in report.exports:
        if row["keeps"] == "no":
            yield (
                "export_loses",
                "note",
                m(
                    "{cell} does not keep the quality measured for {measured} ({difference}): it loses {share_lost}. "
                    "{how} Choose an export that keeps the quality.",
                    cell=row["cell"],
                    measured=row["measured"],
                    difference=measured(row),
                    share_lost=Message(share_lost(row)),
                    how=row["how"],
                ),
            )
    for task, record in report.tasks.items():
        if record["error"]:
            yield "task_failed", "note", record["sentence"]
        worse = {row["name"]: row for row in record["contrasts"] if clearly_worse(row)}
        if HEADLINE in worse and worse[HEADLINE]["p_value_holm"] <= SIGNIFICANT:
            yield (
                "worse_on_task",
                "serious",
                m(
                    "{label}: QLoRA is clearly worse than its 16-bit twin ({measured}).",
                    label=record["label"],
                    measured=measured(worse[HEADLINE]),
                ),
            )
        tuned = {f"{arm.cell}-{arm.untuned_cell}" for arm in ARMS.values()}
        forgot = [
            m(
                "{candidate} against {baseline} {measured}",
                candidate=row["candidate"],
                baseline=row["baseline"],
                measured=measured(row),
            )
            for name, row in worse.items()
            if name in tuned
        ]
        if forgot and task == RETENTION:
            yield (
                "forgetting",
                "note",
                m(
                    "Tuning made the model forget general knowledge: {forgot}. If the assistant needs it, train more "
                    "gently (fewer epochs, a lower learning rate).",
                    forgot=joined(forgot, "; "),
                ),
            )


def _cut(report: Report) -> Iterator[Warned]:
    tuned = [report.cells[name] for name in tuned_cells(report.trained_arms)]
    cut = {cell["label"]: cell["cut_answers"] for cell in tuned if cell.get("cut_answers")}
    if cut:
        listed = both_of(
            [
                mn(
                    "{count} answer of {assistant}",
                    "{count} answers of {assistant}",
                    number,
                    assistant=Message(label),
                )
                for label, number in cut.items()
            ]
        )
        share = max(cut.values()) / tuned[0]["items"]
        yield (
            "cut_answers",
            "serious" if share > _CUT_SHARE else "note",
            m(
                "Of {questions}, {listed} stopped at the limit of {answer_limit:,} tokens before they had ended, and "
                "were scored without their end. Set {eval.max_new_tokens=auto} or raise it, and train longer if the "
                "answers repeat themselves.",
                questions=mn("{count} test question", "{count} test questions", tuned[0]["items"]),
                listed=listed,
                answer_limit=report["answer_limit"],
            ),
        )


def _declining(report: Report) -> Iterator[Warned]:
    cells = report.declining.cells if report.declining else {}
    inventing = [
        m(
            "{assistant} answered {number:,}",
            assistant=label,
            number=cell["unanswerable_items"] - cell["declined"],
        )
        for name, label in ((arm.cell, arm.short) for arm in ARMS.values())
        if (cell := cells.get(name)) and 2 * cell["declined"] < cell["unanswerable_items"]
    ]
    if inventing:
        asked = mn(
            "{count} question",
            "{count} questions",
            cells[tuned_cells(report.trained_arms)[0]]["unanswerable_items"],
        )
        yield (
            "invents",
            "serious",
            m(
                "Of {asked} that should be declined, {inventing}. These answers are invented, unless they decline in "
                "words that are not recognised. Read them before the assistant is used.",
                asked=asked,
                inventing=both_of(inventing),
            ),
        )


def _judge(report: Report) -> Iterator[Warned]:
    judge = report.judge
    if not judge:
        return
    if judge["failures"] > _FAILURE_SHARE * judge["items"]:
        yield (
            "judge_failures",
            "serious",
            m(
                "The judge failed on {failures:,} of {items} ({percent}). If these differ from the other items, its "
                "preference is not representative. Check the judge's server and run the {study} again.",
                failures=judge["failures"],
                items=mn("{count} item", "{count} items", judge["items"]),
                percent=share_of(judge["failures"] / judge["items"]),
            ),
        )
    share = judge["first_of_decided"]
    if (
        share is not None
        and judge["place_p_value"] <= SIGNIFICANT
        and max(share, 1 - share) >= _POSITION_BIAS
    ):
        place = m("first") if share > 0.5 else m("second")
        yield (
            "judge_position_bias",
            "note",
            m(
                "The judge chose the answer shown {place} in {percent} of its decided judgements. Every pair was shown "
                "in both orders, so neither assistant gains, but some ties hide a real preference. Another judge may "
                "decide more items.",
                place=place,
                percent=share_of(max(share, 1 - share)),
            ),
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
            m(
                "The judge prefers the answers of {baseline} to those of {candidate}, although the verdict is “no "
                "worse”. {sentence} Compare some of these answers yourself.",
                baseline=BASELINE,
                candidate=CANDIDATE,
                sentence=judge["sentence"],
            ),
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
                m(
                    "{metric}: {text}.",
                    metric=Message(shown(metric).label),
                    text=text.replace(" %", "%").rstrip("."),
                ),
            )
    if report.seeds.count == 1:
        yield "one_seed", "note", report.seeds.sentence
    if any("similarity" in report.cells[name].metrics for name in tuned_cells(report.trained_arms)):
        yield (
            "similarity_blind",
            "note",
            m(
                "Similarity hardly reacts to negations and numbers: “31 metres” and “13 metres” score almost the same. "
                "Use exact match or the facts kept to judge correctness."
            ),
        )
    if report.flips and not report.flips.noise_floor:
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
    if not both:
        pass  # without a twin there is nothing to match
    elif twins is None:
        yield (
            "twins_unknown",
            "serious",
            m(
                "The {study} has no record of the settings of both arms, so it is not proven that they were twins. "
                "Other causes than {bits}-bit may explain the difference. Train both arms again with --redo."
            ),
        )
    elif not twins["matched"]:
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
        if {untuned, tuned} <= report.cells.keys() and (
            report.cells[tuned]["nll_per_token"] >= report.cells[untuned]["nll_per_token"]
        ):
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
    devices = max((record.get("devices") or 1 for record in report.resources.values()), default=1)
    if devices > 1:
        yield (
            "several_devices",
            "note",
            m(
                "{devices} devices trained {which} arm together and shared the pairs of each step. Memory is given per "
                "device. The losses are those of a single device, except for the order in which sums are rounded.",
                devices=devices,
                which=m("each") if both else m("the"),
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
                "Storage and arithmetic are separate: the base is stored in {storages}, and {computing} in {dtypes}.",
                storages=either(stored),
                computing=m("both arms compute") if both else m("the arm computes"),
                dtypes=both_of(dtypes),
            ),
        )


def _about_data(report: Report) -> Iterator[Warned]:
    if is_respelled(report):
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
        why = m(", because the file defines the split") if report.data.split["given"] else ""
        yield (
            "leaks_left",
            "serious",
            m(
                "{questions} also occurred in training in the same or nearly the same words and stayed in the "
                "set{why}. If these are intended paraphrases, the test measures rephrasing; otherwise the scores "
                "{of_both}are too high. Set {data.remove_leaks}: always to remove such questions.",
                questions=mn(
                    "{count} held-out question", "{count} held-out questions", leaks["left"]
                ),
                why=why,
                of_both=m("of both arms ") if report.compares else "",
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
    unanswerable = sum(not row["answerable"] for row in report.items)
    if unanswerable:
        yield (
            "unanswerable",
            "note",
            m(
                "{declined} of {items:,} should be declined. They count in right declines alone, and not in the loss "
                "or any other metric.",
                declined=mn("{count} item", "{count} items", unanswerable),
                items=len(report["items"]),
            ),
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
                m(
                    "{label} is computed on {n:,} of {everything:,} items; the others have no such score.",
                    label=Message(shown(row["metric"]).label),
                    n=row["n"],
                    everything=everything,
                ),
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
