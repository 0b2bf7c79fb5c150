"""The verdict and the summary as plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.arms import ARMS, CELLS, headline_arms
from assistant_builder.data import load_split
from assistant_builder.i18n import N_, Message, Text, joined, m, mn, render, t, text_of
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.declaration import (
    CLAIMS,
    ENOUGH_TO_DECLINE,
    FACTS,
    FALSE_DECLINES,
    LABEL_NAMES,
    RIGHT_DECLINES,
    SHARE_OF_GAIN,
    Declaration,
    HeldOut,
    answer_words,
    declare,
    frozen,
    metric_for_length,
)
from evals.metrics import METRICS
from evals.report import format as fmt
from evals.report.format import shown
from evals.report.load import BASELINE, CANDIDATE, served_cells, tuned_cells
from evals.report.other_results import NAMES
from evals.report.other_words import is_respelled
from evals.report.schema import Report
from evals.stats.intervals import LEVEL, look_level
from evals.stats.seed_variance import MOST_SEEDS


def audience(
    rows: list[dict[str, Any]], verdict: Mapping[str, Any], *, respelled: bool = False
) -> Message:
    """The items of the verdict, such as ``208 held-out questions``, with a note if they are too few."""
    count = verdict["n"]
    if respelled:
        questions = mn("{count} respelled question", "{count} respelled questions", count)
    elif any(row["turn"] for row in rows):
        questions = mn("{count} held-out answer", "{count} held-out answers", count)
    else:
        questions = mn("{count} held-out question", "{count} held-out questions", count)
    if any(text.startswith("too few") for text in verdict["warnings"]):
        return m("{questions} (too few for a firm verdict)", questions=questions)
    return questions


def verdict_sentence(verdict: Mapping[str, Any], questions: Text) -> Message:
    """The verdict in one sentence, and what it did not test; without a comparison the reason and the remedy."""
    if verdict["contrast"] is None:
        said = verdict.get("said", {})
        return joined([text_of(said.get(key), verdict[key]) for key in ("reason", "action")])
    once = (
        m(
            "The verdict is about these two assistants, each trained once: another training seed may give another one."
        )
        if verdict.get("seeds") == 1
        else ""
    )
    return joined([_outcome_sentence(verdict, questions), once, untested_text(verdict)])


def untested_text(verdict: Mapping[str, Any]) -> Text:
    """What the verdict did not test: declining, where the test has too few questions for it."""
    found = verdict.get("to_decline")
    if found is None or found["judged"]:
        return ""
    has = (
        mn("has only {count} question", "has only {count} questions", found["questions"])
        if found["questions"]
        else m("has no questions")
    )
    return m(
        "Whether {bits}-bit still declines what it should was not tested: the test {has} to decline, and "
        "{needed} are needed.",
        has=has,
        needed=found.get("needed", ENOUGH_TO_DECLINE),
    )


def _outcome_sentence(verdict: Mapping[str, Any], questions: Text) -> Message:
    low, high = harm_interval(verdict)
    primary, *others = verdict["bounds"]
    values = {
        "questions": questions,
        "measured": measured_text(verdict, m("QLoRA's"), m("that of its 16-bit twin")),
        "limit": m("the {amount} allowed", amount=_amount(primary)),
    }
    if verdict["outcome"] == "no worse":
        if verdict["within_margin_but_worse"]:
            text = m(
                "On your {questions}, {bits}-bit is measurably worse, but within {limit}: {measured}.",
                **values,
            )
        elif high < 0:
            text = m(
                "On your {questions}, {bits}-bit did not cost quality, it is better: {measured}.",
                **values,
            )
        else:
            text = m(
                "On your {questions}, {bits}-bit is no worse: {measured}, within {limit}.", **values
            )
        names = fmt.enumerated([Message(shown(bound["metric"]).phrase) for bound in others] or [""])
        also = (
            m("The {metrics} is no worse either.", metrics=names)
            if len(others) == 1
            else m("The {metrics} are no worse either.", metrics=names)
        )
        return joined([text, also if others else ""])
    if verdict["outcome"] == "worse" and not primary["passed"] and low > 0:
        if low > primary["margin"]:
            return m(
                "On your {questions}, {bits}-bit made the assistant worse: {measured}, all of it beyond {limit}.",
                **values,
            )
        return m(
            "On your {questions}, {bits}-bit made the assistant worse: {measured}, and the harm may exceed {limit}.",
            **values,
        )
    if verdict["outcome"] == "worse":
        return m(
            "On your {questions}, {bits}-bit made the assistant worse in another respect, beyond the margin: "
            "{harmed}. {measured}.",
            harmed=harmed_bounds(verdict),
            **values,
        )
    if primary["passed"]:
        return m(
            "On your {questions}, the result is inconclusive: {measured}, within {limit}, but more harm than allowed "
            "is not ruled out for the {open}.",
            open=open_bounds(verdict),
            **values,
        )
    if high <= primary["margin"]:
        return m(
            "On your {questions}, this metric cannot show whether {bits}-bit cost anything, because nearly all "
            "answers of both assistants are wrong: {measured}.",
            **values,
        )
    return m(
        "On your {questions}, the result is inconclusive: {measured}, which reaches from no harm to more than "
        "{limit}.",
        **values,
    )


def open_bounds(verdict: Mapping[str, Any]) -> Text:
    """The bounds other than the primary one that were not shown, each with its difference and its margin."""
    return fmt.enumerated(
        [
            *(_details(bound) for bound in verdict["bounds"][1:] if not bound["passed"]),
            *(
                m("{metric} (not measured)", metric=Message(shown(name).phrase))
                for name in verdict.get("not_shown", ())
            ),
        ]
    )


def harmed_bounds(verdict: Mapping[str, Any]) -> Text:
    """The bounds other than the primary one whose whole interval is beyond the margin, with difference and margin."""
    return fmt.enumerated(
        [
            _details(bound)
            for bound in verdict["bounds"][1:]
            if harm_interval(bound)[0] > bound["margin"]
        ]
    )


def _amount(bound: Entries) -> Message:
    return fmt.margin(bound["metric"], bound["margin"])


def _details(bound: Entries) -> Message:
    """A metric with its difference and its margin."""
    return m(
        "{metric} ({measured}; allowed {amount})",
        metric=Message(shown(bound["metric"]).phrase),
        measured=fmt.measured(as_row(bound)),
        amount=_amount(bound),
    )


def as_row(bound: Entries) -> dict[str, Any]:
    """A bound in the form of a contrast's record."""
    return {
        "metric": bound["metric"],
        "delta": bound["delta"],
        "ci_low": bound["ci"][0],
        "ci_high": bound["ci"][1],
        "margin": bound["margin"],
    }


def meaning(verdict: Entries) -> str:
    """What the outcome means for the reader, with its claim; empty without a comparison or without bounds."""
    bounds = verdict.get("bounds") or []
    if not bounds:
        return ""
    claim, primary = t(CLAIMS[verdict["estimand"]]), bounds[0]
    if verdict["outcome"] == "no worse":
        return t(
            "If you serve {bits}-bit instead of 16-bit, the harm on {claim} is at most {limits}. Each figure is the "
            "harmful end of a {level} interval.",
            claim=claim,
            limits=fmt.enumerated([_most_harm(bound) for bound in bounds]),
            level=level_of(verdict),
        )
    if verdict["outcome"] == "worse":
        costs = [
            m(
                "{low} to {high} ({metric})",
                low=_harm(bound, low, unit=False),
                high=_harm(bound, high),
                metric=Message(shown(bound["metric"]).label),
            )
            for bound in bounds
            for low, high in (harm_interval(bound),)
            if low > (0 if bound is primary else bound["margin"])
        ]
        return t(
            "Expect the {bits}-bit assistant to do worse on {claim}: by {costs}.",
            claim=claim,
            costs=fmt.enumerated(costs),
        )
    possible = [_most_harm(bound) for bound in bounds if harm_interval(bound)[1] > bound["margin"]]
    if not possible:
        return t("The study shows neither that {bits}-bit is as good nor that it is worse.")
    return t(
        "The study shows neither that {bits}-bit is as good nor that it is worse. On {claim}, a harm of up to "
        "{possible} remains possible.",
        claim=claim,
        possible=fmt.enumerated(possible),
    )


def _most_harm(bound: Entries) -> Message:
    return m(
        "{harm} ({metric})",
        harm=_harm(bound, harm_interval(bound)[1]),
        metric=Message(shown(bound["metric"]).label),
    )


def _harm(bound: Entries, value: float, *, unit: bool = True) -> Message:
    """An amount of harm with the precision of its interval, at least 0."""
    how, places = shown(bound["metric"]), fmt.decimals(bound["metric"], as_row(bound))
    amount = fmt.figure(max(0.0, value) * how.factor, places)
    return joined([amount, Message(how.unit if unit else "")])


def basis(report: Report) -> list[Message]:
    """What the verdict rests on: the technical claim, what it is about, and what was fixed before scoring."""
    verdict, other = report.verdict, report.other_claim
    if verdict["contrast"] is None:
        return []
    lines = []
    if verdict["outcome"] == "no worse":
        margins = [
            m(
                "{amount} ({metric})",
                amount=_amount(bound),
                metric=Message(shown(bound["metric"]).label),
            )
            for bound in verdict["bounds"]
        ]
        lines.append(
            m(
                "Non-inferior at a margin of {margins}, each one-sided {error}.",
                margins=fmt.enumerated(margins),
                error=fmt.level_message((1 - verdict.get("level", LEVEL)) / 2),
            )
        )
    lines.append(
        m(
            "The verdict is about {claim}, {grouping}.",
            claim=Message(CLAIMS[verdict["estimand"]]),
            grouping=clustered_text(verdict),
        )
    )
    if verdict["uncovered"]:
        lines.append(
            mn(
                "{count} held-out question about facts that were not taught is reported apart.",
                "{count} held-out questions about facts that were not taught are reported apart.",
                verdict["uncovered"],
            )
        )
    if "grounded" in report.config.get("approaches", ()):
        lines.append(
            m(
                "Both assistants read the same facts, which were looked up: the verdict measures how well they read a "
                "fact that was found."
            )
        )
    if other:
        as_declared = other["estimand"] == "wordings" or verdict["uncovered"]
        lines.append(
            m(
                "For {claim}, {grouping}, the interval is {interval}: {verdict}.",
                claim=Message(CLAIMS[other["estimand"]])
                if as_declared
                else m("other facts of the same kind, taught alike"),
                grouping=clustered_text(other),
                interval=joined(
                    [fmt.span(other, verdict["metric"]), Message(shown(verdict["metric"]).unit)]
                ),
                verdict=Message(other["verdict"]),
            )
        )
    again = verdict["trained_again"]
    if again:
        row = {"ci_low": again["ci"][0], "ci_high": again["ci"][1]}
        averaged = m(
            "The verdict is about these assistants, averaged over {seeds} training seeds. If both were trained again, "
            "the interval would be {interval}.",
            seeds=verdict["seeds"],
            interval=fmt.span(row, verdict["metric"]),
        )
        lines.append(joined([averaged, _seeds_text(again.get("seeds_needed"), verdict)]))
    return [*lines, joined([frozen_text(verdict["frozen"]), look_text(verdict["frozen"])])]


def _seeds_text(needed: int | None, verdict: Entries) -> Text:
    """How many training seeds would decide about 4-bit as a method; empty if another metric leaves that open."""
    if verdict["outcome"] == "inconclusive" and any(
        not bound["passed"] for bound in verdict["bounds"][1:]
    ):
        return ""
    if needed == verdict["seeds"]:
        return m(
            "This decides about training in {bits} bits as well, not only about these assistants."
        )
    if needed is None:
        return m(
            "At the spread seen, no number of seeds up to {most} would decide about training in {bits} bits with these "
            "questions.",
            most=MOST_SEEDS,
        )
    return m(
        "At the spread seen, about {needed} seeds would decide about training in {bits} bits, and not only about "
        "these assistants.",
        needed=needed,
    )


def leave_one_out_text(verdict: Entries) -> str:
    """How far the difference moves if any one cluster or item is left out; empty if that is not on record."""
    ends = verdict.get("leave_one_out") or []
    if len(ends) != 2 or not all(
        isinstance(end, (int, float)) and math.isfinite(end) for end in ends
    ):
        return ""
    metric, row = verdict["metric"], {"ci_low": ends[0], "ci_high": ends[1]}
    low, high = (fmt.difference(end, metric, row) for end in ends)
    unit = shown(metric).unit
    values = {"metric": fmt.in_sentence(shown(metric).label), "low": low, "high": f"{high} {unit}"}
    if verdict["n_clusters"]:
        text = (
            t("Leaving out any one cluster, the difference ({metric}) stays at {high}.", **values)
            if low == high
            else t(
                "Leaving out any one cluster, the difference ({metric}) stays between {low} and {high}.",
                **values,
            )
        )
    else:
        text = (
            t(
                "Leaving out any one held-out answer, the difference ({metric}) stays at {high}.",
                **values,
            )
            if low == high
            else t(
                "Leaving out any one held-out answer, the difference ({metric}) stays between {low} and {high}.",
                **values,
            )
        )
    return text


def harm_text(report: Report) -> str:
    """The metrics whose whole interval is on the harmful side of zero, whatever the verdict is."""
    verdict = report.verdict
    if report.objection:
        return render(report.message("objection"))
    if "possible_harm" not in verdict:
        return ""
    if not verdict["possible_harm"]:
        return t("No metric has an interval that is wholly on the harmful side of zero.")
    names = [fmt.in_sentence(shown(metric).label) for metric in verdict["possible_harm"]]
    return t(
        "The whole interval is on the harmful side of zero for {metrics}.",
        metrics=fmt.enumerated(names),
    )


def clustered_text(record: Entries) -> Message:
    """The labels by which a comparison is clustered, as a part of a sentence."""
    if not record.get("clustered_by"):
        return m("each item counted as independent")
    return m(
        "clustered by {labels} ({clusters})",
        labels=_labels(record["clustered_by"]),
        clusters=mn("{count} cluster", "{count} clusters", record["n_clusters"]),
    )


def _labels(names: Sequence[str]) -> Text:
    return fmt.both_of([Message(LABEL_NAMES.get(name, name)) for name in names])


def frozen_text(frozen: Entries) -> Message:
    """When metrics, margins and claim were fixed, and what was changed since."""
    if frozen["sha256"] is None and frozen["written"] is not None:
        return m(
            "declaration.json was changed after it was written, its hash does not hold: metric, margins and claim may "
            "have been chosen after scoring."
        )
    if frozen["sha256"] is None:
        return m(
            "Metric, margins and claim are not on record from before scoring: they may have been chosen afterwards."
        )
    text = m(
        "Fixed before scoring, {time} UTC (SHA-256 {sha256}).",
        time=frozen["written"][:16].replace("T", " "),
        sha256=frozen["sha256"][:12],
    )
    return joined([changed_message(frozen), text, earlier_text(frozen)])


def look_text(frozen: Entries) -> Text:
    """Which look at the questions the verdict is, and what it costs; empty for the first one."""
    look = frozen["declared"].get("look", 1)
    if look == 1:
        return ""
    errors = sum(1 - look_level(each) for each in range(1, look + 1)) / 2
    return mn(
        "This is look {look} at these questions: {count} earlier test on this computer shared some of them. Its "
        "intervals are therefore at {level}, and a false “no worse” in any of the looks has a probability of at most "
        "{errors}.",
        "This is look {look} at these questions: {count} earlier tests on this computer shared some of them. Its "
        "intervals are therefore at {level}, and a false “no worse” in any of the looks has a probability of at most "
        "{errors}.",
        look - 1,
        look=look,
        level=fmt.level_message(look_level(look)),
        errors=fmt.share_of(errors, 2),
    )


def earlier_text(frozen: Entries) -> Text:
    """Earlier uses of the same test questions on this computer; empty if there was none."""
    found = frozen.get("earlier")
    if not found:
        return ""
    return mn(
        "The same test questions were used {count} time before on this computer ({uses}): whoever tries until a "
        "verdict pleases is wrong more often than 2.5%.",
        "The same test questions were used {count} times before on this computer ({uses}): whoever tries until a "
        "verdict pleases is wrong more often than 2.5%.",
        len(found),
        uses=fmt.enumerated([f"{row['study']}, {row['written'][:10]}" for row in found[-_SHOWN:]]),
    )


def changed_text(frozen: Entries) -> str:
    """:func:`changed_message` in the current language."""
    return render(changed_message(frozen))


def changed_message(frozen: Entries) -> Message:
    """What was changed after scoring had started, with the old values; empty if nothing was."""
    changes = frozen.get("changes") or []
    now = {**frozen["declared"], **{row["name"]: row["now"] for row in changes}}
    applied, others = (
        joined(
            [
                m(
                    "{name}, was {before}, now {now}",
                    name=Message(_FIELDS.get(row["name"], row["name"])),
                    before=_value(row["name"], frozen["declared"]),
                    now=_value(row["name"], now),
                )
                for row in changes
                if (row["name"] in _APPLIED) == work
            ],
            "; ",
        )
        for work in (True, False)
    )
    return joined(
        [
            m("Changed after scoring: {changes}.", changes=applied) if applied else "",
            m("Changed after scoring and not applied: {changes}.", changes=others)
            if others
            else "",
        ]
    )


_FIELDS = {
    "primary_metric": N_("primary metric"),
    "margin": N_("margin"),
    "second_metric": N_("second metric"),
    "second_margin": N_("second margin"),
    "decline_margin": N_("decline margin"),
    "right_decline_margin": N_("right decline margin"),
    "facts_margin": N_("facts margin"),
    "estimand": N_("estimand"),
    "clusters": N_("clusters"),
    "other_clusters": N_("other clusters"),
    "items": N_("items"),
    "arms": N_("arms"),
    "cells": N_("cells"),
    "seeds": N_("seeds"),
    "eval_seed": N_("eval seed"),
    "resamples": N_("resamples"),
    "formats": N_("formats"),
    "look": N_("look"),
}
"""Names of the fields of a declaration."""
_APPLIED = frozenset({"arms", "cells", "seeds", "formats"})
"""What was declared of the work; after a change other things are trained or scored."""
_SHOWN = 3
_NO_BOUND = {"right_decline_margin": RIGHT_DECLINES, "facts_margin": FACTS}
_MARGINS = {"margin": "primary_metric", "second_margin": "second_metric"}


def _value(name: str, declared: Mapping[str, Any]) -> Text:
    """A field of a declaration as text; margins have the unit of their metric."""
    value = declared.get(name)
    if value is None and name in _NO_BOUND:
        return m("no bound")
    if value is None:
        return m("{share} of what tuning gained", share=fmt.share_of(SHARE_OF_GAIN, 0))
    if name == "decline_margin" or name in _MARGINS or name in _NO_BOUND:
        metric = (
            declared[_MARGINS[name]] if name in _MARGINS else _NO_BOUND.get(name, FALSE_DECLINES)
        )
        return fmt.margin(metric, value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or m("none")
    return Message(shown(value).label if value in METRICS else CLAIMS.get(str(value), str(value)))


def harm_interval(verdict: Entries) -> tuple[float, float]:
    """The interval of the harm, where positive means worse."""
    low, high = verdict["ci"]
    return (-high, -low) if verdict["higher_is_better"] else (low, high)


def level_of(verdict: Entries) -> str:
    """The level of a verdict's intervals as text; those of earlier releases have none."""
    return fmt.level_text(verdict.get("level", LEVEL))


def measured_text(verdict: Mapping[str, Any], whose: Text, other: Text = "") -> Message:
    """The difference of a verdict in words, with its interval, for sentences; ``whose`` metric against ``other``."""
    metric, delta = verdict["metric"], verdict["delta"]
    how = shown(metric)
    row = {"ci_low": verdict["ci"][0], "ci_high": verdict["ci"][1], "margin": verdict["margin"]}
    amount = fmt.figure(abs(delta) * how.factor, fmt.decimals(metric, row))
    if float(f"{abs(delta) * how.factor:.{fmt.decimals(metric, row)}f}") == 0:
        compared = m("the same as {other}", other=other) if other else m("the same")
    else:
        values = {"amount": amount, "unit": Message(how.unit), "other": other}
        if delta > 0:
            compared = (
                m("{amount} {unit} higher than {other}", **values)
                if other
                else m("{amount} {unit} higher", **values)
            )
        else:
            compared = (
                m("{amount} {unit} lower than {other}", **values)
                if other
                else m("{amount} {unit} lower", **values)
            )
    return m(
        "{whose} {metric} is {compared} ({level} interval {interval})",
        whose=whose,
        metric=Message(how.phrase),
        compared=compared,
        level=fmt.level_message(verdict.get("level", LEVEL)),
        interval=fmt.span(row, metric),
    )


def counter_evidence(rows: list[dict[str, Any]], verdict: Mapping[str, Any]) -> Text:
    """The metrics whose interval is on the harmful side of zero, unadjusted, if the verdict is not "worse"."""
    against = [
        m(
            "{metric} ({measured})",
            metric=Message(shown(row["metric"]).phrase),
            measured=fmt.measured(row),
        )
        for row in rows
        if row["metric"] in verdict["possible_harm"] and row["metric"] != verdict["metric"]
    ]
    if not against or verdict["outcome"] == "worse":
        return ""
    return m("Possible harm by another measure: {metrics}.", metrics=fmt.enumerated(against))


def summary(report: Report) -> list[Text]:
    """The first answers after the verdict: perplexity, right answers, refusals, and whether tuning helped."""
    cells = report.cells
    lines: list[Text] = []
    change, seeds = report.verdict.perplexity_change, report.seeds
    if change:
        shares = {"change": change["share"], "low": change["ci"][0], "high": change["ci"][1]}
        lines.append(
            m(
                "In perplexity: {lora} for 16-bit LoRA, {qlora} for QLoRA, {change} ({low} to {high}).",
                lora=perplexity_of(cells[BASELINE]["perplexity"]),
                qlora=perplexity_of(cells[CANDIDATE]["perplexity"]),
                **{name: fmt.share_of(share, plus=True) for name, share in shares.items()},
            )
        )
    return [
        *lines,
        *_right_answers(report),
        *_declining(report),
        *_tuning(report),
        *_untuned(report),
        *([seeds.message("sentence")] if seeds["count"] > 1 else []),
    ]


def perplexity_of(perplexity: float) -> Message:
    """A perplexity with about three digits, as a value of messages."""
    return Message("{value:.2f}" if perplexity < 100 else "{value:,.0f}", {"value": perplexity})


def number_of(perplexity: float) -> str:
    """:func:`perplexity_of` in the current language."""
    return render(perplexity_of(perplexity))


def _short(cell: str) -> str:
    """What sentences call the assistant of a cell."""
    return ARMS[CELLS[cell].adapter or ""].short


def _right_answers(report: Report) -> list[Message]:
    if is_respelled(report):  # they are no test of the assistants
        return []
    cells, tuned = report.cells, served_cells(report.trained_arms)
    share = {name: cell["metrics"].get("exact_match") for name, cell in cells.items()}
    if any(share.get(name) is None for name in tuned):
        return [m("Exact match, the share of completely right answers, was not scored.")]
    total = next(
        (row["n"] for row in report.contrasts if row["metric"] == "exact_match"),
        len(report.items),
    )
    listed = [
        Message("{arm} {score}", {"arm": _short(name), "score": _of(share[name], total)})
        for name in tuned
    ]
    untuned = ARMS[headline_arms(report.trained_arms)[0]].untuned_cell
    if share.get(untuned) is not None:
        listed.append(m("the untuned base {score}", score=_of(share[untuned], total)))
    text = m("Exactly right answers: {listed}.", listed=listed)
    flips = report.flips
    if not flips:
        return [text]
    asked = {row["item"] for row in report.items if row["answerable"]}
    lost, gained = (
        sum(flip["item"] in asked for flip in flips[kind]) for kind in ("lost", "gained")
    )
    differing = mn(
        "{count} question right only under LoRA, {gained:,} only under QLoRA.",
        "{count} questions right only under LoRA, {gained:,} only under QLoRA.",
        lost,
        gained=gained,
    )
    return [joined([text, differing])]


def _declining(report: Report) -> list[Message]:
    cells = report.declining.cells if report.declining else {}
    tuned = tuned_cells(report.trained_arms)
    if not set(tuned) <= cells.keys() or not cells[tuned[0]]["unanswerable_items"]:
        return []
    first, last = cells[tuned[0]], cells[tuned[-1]]
    values = {
        "arm": _short(tuned[0]),
        "answerable": first["answerable_items"],
        "declined": first["declined"],
        "falsely": first["false_declines"],
        "other_declined": last["declined"],
        "other_falsely": last["false_declines"],
    }
    if len(tuned) == 1:
        return [
            mn(
                "Of {count} question that should be declined, {arm} declined {declined:,}; of the {answerable:,} that "
                "should be answered, it declined {falsely:,}.",
                "Of {count} questions that should be declined, {arm} declined {declined:,}; of the {answerable:,} that "
                "should be answered, it declined {falsely:,}.",
                first["unanswerable_items"],
                **values,
            )
        ]
    return [
        mn(
            "Of {count} question that should be declined, 16-bit LoRA declined {declined:,} and QLoRA "
            "{other_declined:,}; of the {answerable:,} that should be answered, they declined {falsely:,} and "
            "{other_falsely:,}.",
            "Of {count} questions that should be declined, 16-bit LoRA declined {declined:,} and QLoRA "
            "{other_declined:,}; of the {answerable:,} that should be answered, they declined {falsely:,} and "
            "{other_falsely:,}.",
            first["unanswerable_items"],
            **values,
        )
    ]


def _untuned(report: Report) -> list[Message]:
    """A line if tuning beats every untuned baseline on all metrics; otherwise there is a warning instead."""
    found = report.beats_untuned
    if not found or any(record["not_beaten"] or record["worse"] for record in found):
        return []
    rivals = fmt.both_of(
        [NAMES[name] for name in dict.fromkeys(record["baseline"] for record in found)]
    )
    arms = len(report.trained_arms)
    if arms == 1:
        return [m("The assistant clearly beats {rivals} by every measure.", rivals=rivals)]
    if arms == 2:
        return [m("Both assistants clearly beat {rivals} by every measure.", rivals=rivals)]
    return [m("All assistants clearly beat {rivals} by every measure.", rivals=rivals)]


def _of(share: float, total: int) -> Message:
    return m(
        "{part:,} of {whole:,} ({share})",
        part=round(share * total),
        whole=total,
        share=fmt.share_of(share),
    )


def _tuning(report: Report) -> list[Message]:
    cells = report.cells
    scored = {row["name"] for row in report.contrasts if row["metric"] == "nll_per_token"}
    changes = [
        m(
            "of {arm} from {before} to {after}",
            arm=arm.short,
            before=fmt.value_of(cells[arm.untuned_cell]["nll_per_token"], "nll_per_token"),
            after=fmt.value_of(cells[arm.cell]["nll_per_token"], "nll_per_token"),
        )
        for arm in ARMS.values()
        if f"{arm.cell}-{arm.untuned_cell}" in scored
    ]
    if not changes:
        return []
    return [m("Tuning took the loss (nats per token) {changes}.", changes=changes)]


def explain(declaration: Declaration, length: float) -> str:
    """Metric, margins and claim of the verdict in one sentence, with the reason for the metric.

    Args:
        declaration: What is or will be frozen.
        length: Median words of the answers (:func:`answer_words`).
    """
    primary = declaration.primary_metric
    claim: Text = Message(CLAIMS[declaration.estimand])
    if declaration.clusters:
        labels = _labels(declaration.clusters)
        claim = m("{claim}, clustered by {labels}", claim=claim, labels=labels)
    values = {
        "metric": _with_margin(primary, declaration.margin),
        "bounds": fmt.enumerated(
            [_with_margin(*bound) for bound in list(declaration.bounds.items())[1:]]
        ),
        "claim": claim,
        "questions": m("the questions whose facts were taught")
        if declaration.items == "covered"
        else m("all answerable questions"),
    }
    if primary == metric_for_length(length):
        return t(
            "Answers have a median of {length:g} words: the verdict is by {metric}; the bounds of {bounds} must hold "
            "as well; the claim is about {claim}, and is tested on {questions}.",
            length=length,
            **values,
        )
    return t(
        "By the settings, the verdict is by {metric}; the bounds of {bounds} must hold as well; the claim is about "
        "{claim}, and is tested on {questions}.",
        **values,
    )


def _with_margin(metric: str, margin: float | None) -> Message:
    allowed = (
        m("{share} of what tuning gains", share=fmt.share_of(SHARE_OF_GAIN, 0))
        if margin is None
        else fmt.margin(metric, margin)
    )
    name = fmt.in_sentence(shown(metric).label)
    return m("{metric} (margin {margin})", metric=name, margin=allowed)


def explain_study(study: Study) -> str:
    """:func:`explain` for a study whose data steps are done: what was frozen, or will be when scoring starts.

    Raises:
        DataError: The split was changed.
        EvaluationError: No held-out pair is left.
    """
    training, heldout = load_split(study.folder / "data", "train"), HeldOut.read(study)
    record = frozen(study, heldout)
    declared = (
        declare(study.config, heldout, training)
        if record is None
        else Declaration.from_record(record["declared"])
    )
    return explain(declared, answer_words(training))
