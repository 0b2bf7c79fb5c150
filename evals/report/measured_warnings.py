"""Warnings from what is measured besides the verdict: baselines, arithmetic, noise, seeds, exports, tasks, the judge.

A warning states what limits the result, why that matters, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator

from assistant_builder.arms import ARMS
from assistant_builder.i18n import Message, Text, joined, m, mn
from evals.report.contrasts import HEADLINE, clearly_worse
from evals.report.load import BASELINE, CANDIDATE, tuned_cells
from evals.report.number_format import (
    SIGNIFICANT,
    both_of,
    figure,
    measured,
    share_lost,
    share_of,
    shown,
)
from evals.report.other_results import NAMES, shortfall_summary
from evals.report.other_words import is_respelled
from evals.report.schema import Report
from evals.tasks.general_knowledge import TASK as RETENTION

Warned = tuple[str, str, Text]  # code, level and text of a warning
_FAILURE_SHARE = 0.1
_CUT_SHARE = (
    0.02  # share of answers that stop at the limit of tokens above which the scores are in doubt
)


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
    "copy": m(
        "Improve the training data or the settings, or consider showing people the stored answers."
    ),
    "retrieval": m(
        "Improve the training data or the settings, or consider using the untuned model with retrieved pairs."
    ),
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
            clearly = not worse and all(record["beaten"] for record in failing)
            advice = (
                m("With so few items, evidence may simply be missing: add held-out items.")
                if few and not worse
                else _INSTEAD[baseline]
            )
            values = {
                "baseline": name,
                "shortfall": joined(
                    [shortfall_summary(record, figures) for record in failing], "; "
                ),
                "advice": advice,
            }
            yield (
                f"not_better_than_{baseline}",
                "serious",
                m("Tuning does not clearly beat {baseline}: {shortfall}. {advice}", **values)
                if clearly
                else m("Tuning does not beat {baseline}: {shortfall}. {advice}", **values),
            )


def _arithmetic(report: Report) -> Iterator[Warned]:
    if report.fidelity and report.fidelity.skipped:
        yield "fidelity_skipped", "note", report.fidelity.message("sentence")


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
                    share_lost=share_lost(row),
                    how=row.message("how"),
                ),
            )
    for task, record in report.tasks.items():
        if record["error"]:
            yield "task_failed", "note", record.message("sentence")
        worse = {row["name"]: row for row in record["contrasts"] if clearly_worse(row)}
        if HEADLINE in worse and worse[HEADLINE]["p_value_holm"] <= SIGNIFICANT:
            yield (
                "worse_on_task",
                "serious",
                m(
                    "{label}: QLoRA is clearly worse than its 16-bit twin ({measured}).",
                    label=record.message("label"),
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
                sentence=judge.message("sentence"),
            ),
        )
