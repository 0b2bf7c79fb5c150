"""The verdict and the summary as plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from assistant_builder.arms import ARMS, CELLS, headline_arms
from assistant_builder.data import load_split
from assistant_builder.i18n import Message, Text, bits, joined, m, mn, text_of
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
from evals.report.format import interval, number, percent, plural, shown, signed_percent
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
    claim, primary = CLAIMS[verdict["estimand"]], bounds[0]
    if verdict["outcome"] == "no worse":
        limits = fmt.enumerated(
            [
                f"{_harm(bound, harm_interval(bound)[1])} ({shown(bound['metric']).label})"
                for bound in bounds
            ]
        )
        return (
            f"If you serve {bits()}-bit instead of 16-bit, the harm on {claim} is at most {limits}. Each figure is the "
            f"harmful end of a {level_of(verdict)} interval."
        )
    if verdict["outcome"] == "worse":
        harmed = [
            bound
            for bound in bounds
            if harm_interval(bound)[0] > (0 if bound is primary else bound["margin"])
        ]
        costs = [
            f"{_harm(bound, low, unit=False)} to {_harm(bound, high)} ({shown(bound['metric']).label})"
            for bound in harmed
            for low, high in (harm_interval(bound),)
        ]
        return (
            f"Expect the {bits()}-bit assistant to do worse on {claim}: by {fmt.enumerated(costs)}."
        )
    possible = fmt.enumerated(
        [
            f"{_harm(bound, harm_interval(bound)[1])} ({shown(bound['metric']).label})"
            for bound in bounds
            if harm_interval(bound)[1] > bound["margin"]
        ]
        or [""]
    )
    text = f"The study shows neither that {bits()}-bit is as good nor that it is worse."
    return f"{text} On {claim}, a harm of up to {possible} remains possible." if possible else text


def _harm(bound: Entries, value: float, *, unit: bool = True) -> str:
    """An amount of harm with the precision of its interval, at least 0."""
    how = shown(bound["metric"])
    amount = f"{max(0.0, value) * how.factor:.{fmt.decimals(bound['metric'], as_row(bound))}f}"
    return f"{amount} {how.unit}".rstrip() if unit else amount


def basis(report: Report) -> list[str]:
    """What the verdict rests on: the technical claim, what it is about, and what was fixed before scoring."""
    verdict, other = report.verdict, report.other_claim
    if verdict["contrast"] is None:
        return []
    lines = []
    if verdict["outcome"] == "no worse":
        margins = fmt.enumerated(
            [f"{_amount(bound)} ({shown(bound['metric']).label})" for bound in verdict["bounds"]]
        )
        error = 50 * (1 - verdict.get("level", LEVEL))
        lines.append(f"Non-inferior at a margin of {margins}, each one-sided {error:.3g}%.")
    lines.append(
        f"The verdict is about {CLAIMS[verdict['estimand']]}{clustered_text(verdict)}"
        + (
            f"; {plural(verdict['uncovered'], 'held-out question')} about facts that were not taught "
            f"{'is' if verdict['uncovered'] == 1 else 'are'} reported apart"
            if verdict["uncovered"]
            else ""
        )
        + "."
    )
    if "grounded" in report.config.get("approaches", ()):
        lines.append(
            "Both assistants read the same facts, which were looked up: the verdict measures how well they "
            "read a fact that was found."
        )
    if other:
        claim = (
            CLAIMS[other["estimand"]]
            if other["estimand"] == "wordings" or verdict["uncovered"]
            else "other facts of the same kind, taught alike"
        )
        lines.append(
            f"For {claim}{clustered_text(other)}, the interval is "
            f"{interval(other, verdict['metric'], plus=False)} {shown(verdict['metric']).unit}: "
            f"{other['verdict']}."
        )
    again = verdict["trained_again"]
    if again:
        row = {"ci_low": again["ci"][0], "ci_high": again["ci"][1]}
        lines.append(
            f"The verdict is about these assistants, averaged over {verdict['seeds']} training seeds. If both "
            f"were trained again, the interval would be {interval(row, verdict['metric'], plus=False)}. "
            + _seeds_text(again.get("seeds_needed"), verdict)
        )
    return [
        *lines,
        " ".join(filter(None, (frozen_text(verdict["frozen"]), look_text(verdict["frozen"])))),
    ]


def _seeds_text(needed: int | None, verdict: Entries) -> str:
    """How many training seeds would decide about 4-bit as a method; empty if another metric leaves that open."""
    if verdict["outcome"] == "inconclusive" and any(
        not bound["passed"] for bound in verdict["bounds"][1:]
    ):
        return ""
    if needed == verdict["seeds"]:
        return f"This decides about training in {bits()} bits as well, not only about these assistants."
    if needed is None:
        return (
            f"At the spread seen, no number of seeds up to {MOST_SEEDS} would decide about training in {bits()} bits "
            "with "
            "these questions."
        )
    return (
        f"At the spread seen, about {needed} seeds would decide about training in {bits()} bits, and not only about "
        "these "
        "assistants."
    )


def leave_one_out_text(verdict: Entries) -> str:
    """How far the difference moves if any one cluster or item is left out; empty if that is not on record."""
    ends = verdict.get("leave_one_out") or []
    if len(ends) != 2 or not all(
        isinstance(end, (int, float)) and math.isfinite(end) for end in ends
    ):
        return ""
    metric, unit = verdict["metric"], "cluster" if verdict["n_clusters"] else "held-out answer"
    row = {"ci_low": ends[0], "ci_high": ends[1]}
    low, high = (fmt.difference(end, metric, row) for end in ends)
    name = fmt.in_sentence(shown(metric).label)
    if low == high:
        return f"Leaving out any one {unit}, the difference ({name}) stays at {low} {shown(metric).unit}.".strip()
    return f"Leaving out any one {unit}, the difference ({name}) stays between {low} and {high} {shown(metric).unit}."


def harm_text(report: Report) -> str:
    """The metrics whose whole interval is on the harmful side of zero, whatever the verdict is."""
    verdict = report.verdict
    if report.objection:
        return str(report.objection)
    if "possible_harm" not in verdict:
        return ""
    if not verdict["possible_harm"]:
        return "No metric has an interval that is wholly on the harmful side of zero."
    names = fmt.enumerated(
        [fmt.in_sentence(shown(metric).label) for metric in verdict["possible_harm"]]
    )
    return f"The whole interval is on the harmful side of zero for {names}."


def clustered_text(record: Entries) -> str:
    """The labels by which a comparison is clustered, as the end of a sentence."""
    if not record.get("clustered_by"):
        return ", each item counted as independent"
    names = " and ".join(LABEL_NAMES.get(name, name) for name in record["clustered_by"])
    return f", clustered by {names} ({plural(record['n_clusters'], 'cluster')})"


def frozen_text(frozen: Entries) -> str:
    """When metrics, margins and claim were fixed, and what was changed since."""
    if frozen["sha256"] is None and frozen["written"] is not None:
        return (
            "declaration.json was changed after it was written, its hash does not hold: metric, margins and claim "
            "may have been chosen after scoring."
        )
    if frozen["sha256"] is None:
        return "Metric, margins and claim are not on record from before scoring: they may have been chosen afterwards."
    text = f"Fixed before scoring, {frozen['written'][:16].replace('T', ' ')} UTC (SHA-256 {frozen['sha256'][:12]})."
    return " ".join(filter(None, (changed_text(frozen), text, earlier_text(frozen))))


def look_text(frozen: Entries) -> str:
    """Which look at the questions the verdict is, and what it costs; empty for the first one."""
    look = frozen["declared"].get("look", 1)
    if look == 1:
        return ""
    errors = sum(1 - look_level(each) for each in range(1, look + 1)) / 2
    level = fmt.level_text(look_level(look))
    return (
        f"This is look {look} at these questions: {plural(look - 1, 'earlier test')} on this computer shared some "
        f"of them. Its intervals are therefore at {level}, and a false “no worse” in any of the looks has a "
        f"probability of at most {percent(errors, 2)}."
    )


def earlier_text(frozen: Entries) -> str:
    """Earlier uses of the same test questions on this computer; empty if there was none."""
    found = frozen.get("earlier")
    if not found:
        return ""
    shown_ones = fmt.enumerated(
        [f"{row['study']}, {row['written'][:10]}" for row in found[-_SHOWN:]]
    )
    return (
        f"The same test questions were used {plural(len(found), 'time')} before on this computer "
        f"({shown_ones}): whoever tries until a verdict pleases is wrong more often than 2.5%."
    )


def changed_text(frozen: Entries) -> str:
    """What was changed after scoring had started, with the old values; empty if nothing was."""
    changes = frozen.get("changes")
    if not changes:
        return ""
    now = {**frozen["declared"], **{row["name"]: row["now"] for row in changes}}
    texts = []
    for title, names in (
        ("Changed after scoring", _APPLIED),
        ("Changed after scoring and not applied", now.keys() - _APPLIED),
    ):
        changed = [
            f"{row['name'].replace('_', ' ')}, was {_value(row['name'], frozen['declared'])}, now "
            f"{_value(row['name'], now)}"
            for row in changes
            if row["name"] in names
        ]
        texts += [f"{title}: {'; '.join(changed)}."] if changed else []
    return " ".join(texts)


_APPLIED = frozenset({"arms", "cells", "seeds", "formats"})
"""What was declared of the work; after a change other things are trained or scored."""
_SHOWN = 3
_NO_BOUND = {"right_decline_margin": RIGHT_DECLINES, "facts_margin": FACTS}
_MARGINS = {"margin": "primary_metric", "second_margin": "second_metric"}


def _value(name: str, declared: Mapping[str, Any]) -> Text:
    """A field of a declaration as text; margins have the unit of their metric."""
    value = declared.get(name)
    if value is None and name in _NO_BOUND:
        return "no bound"
    if value is None:
        return f"{SHARE_OF_GAIN:.0%} of what tuning gained"
    if name == "decline_margin" or name in _MARGINS or name in _NO_BOUND:
        metric = (
            declared[_MARGINS[name]] if name in _MARGINS else _NO_BOUND.get(name, FALSE_DECLINES)
        )
        return fmt.margin(metric, value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return shown(value).label if value in METRICS else CLAIMS.get(str(value), str(value))


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


def summary(report: Report) -> list[str]:
    """The first answers after the verdict: perplexity, right answers, refusals, and whether tuning helped."""
    cells, lines = report.cells, []
    change, seeds = report.verdict.perplexity_change, report.seeds
    if change:
        low, high = change["ci"]
        lines.append(
            f"In perplexity: {number_of(cells[BASELINE]['perplexity'])} for 16-bit LoRA, "
            f"{number_of(cells[CANDIDATE]['perplexity'])} for QLoRA, {signed_percent(change['share'])} "
            f"({signed_percent(low)} to {signed_percent(high)})."
        )
    return [
        *lines,
        *_right_answers(report),
        *_declining(report),
        *_tuning(report),
        *_untuned(report),
        *([seeds["sentence"]] if seeds["count"] > 1 else []),
    ]


def number_of(perplexity: float) -> str:
    """A perplexity with about three digits."""
    return f"{perplexity:.2f}" if perplexity < 100 else f"{perplexity:,.0f}"


def _short(cell: str) -> str:
    """What sentences call the assistant of a cell."""
    return ARMS[CELLS[cell].adapter or ""].short


def _right_answers(report: Report) -> list[str]:
    if is_respelled(report):  # they are no test of the assistants
        return []
    cells, tuned = report.cells, served_cells(report.trained_arms)
    share = {name: cell["metrics"].get("exact_match") for name, cell in cells.items()}
    if any(share.get(name) is None for name in tuned):
        return ["Exact match, the share of completely right answers, was not scored."]
    total = next(
        (row["n"] for row in report.contrasts if row["metric"] == "exact_match"),
        len(report.items),
    )
    text = "Exactly right answers: " + ", ".join(
        f"{_short(name)} {_of(share[name], total)}" for name in tuned
    )
    untuned = ARMS[headline_arms(report.trained_arms)[0]].untuned_cell
    if share.get(untuned) is not None:
        text += f", the untuned base {_of(share[untuned], total)}"
    flips = report.flips
    if flips:
        asked = {row["item"] for row in report.items if row["answerable"]}
        lost, gained = (
            sum(flip["item"] in asked for flip in flips[kind]) for kind in ("lost", "gained")
        )
        text += f". {plural(lost, 'question')} right only under LoRA, {gained} only under QLoRA"
    return [text + "."]


def _declining(report: Report) -> list[str]:
    cells = report.declining.cells if report.declining else {}
    tuned = tuned_cells(report.trained_arms)
    if not set(tuned) <= cells.keys() or not cells[tuned[0]]["unanswerable_items"]:
        return []
    if len(tuned) == 1:
        found = cells[tuned[0]]
        return [
            f"Of {plural(found['unanswerable_items'], 'question')} that should be declined, {_short(tuned[0])} "
            f"declined {found['declined']:,}; of the {found['answerable_items']:,} that should be answered, it "
            f"declined {found['false_declines']:,}."
        ]
    lora, qlora = cells[BASELINE], cells[CANDIDATE]
    return [
        f"Of {plural(lora['unanswerable_items'], 'question')} that should be declined, 16-bit LoRA declined "
        f"{lora['declined']:,} and QLoRA {qlora['declined']:,}; of the {lora['answerable_items']:,} that should be "
        f"answered, they declined {lora['false_declines']:,} and {qlora['false_declines']:,}."
    ]


def _untuned(report: Report) -> list[str]:
    """A line if tuning beats every untuned baseline on all metrics; otherwise there is a warning instead."""
    found = report.beats_untuned
    if not found or any(record["not_beaten"] or record["worse"] for record in found):
        return []
    rivals = " and ".join(
        NAMES[name] for name in dict.fromkeys(record["baseline"] for record in found)
    )
    who = {1: "The assistant clearly beats", 2: "Both assistants clearly beat"}
    return [
        f"{who.get(len(report.trained_arms), 'All assistants clearly beat')} {rivals} by every measure."
    ]


def _of(share: float, total: int) -> str:
    return f"{round(share * total):,} of {total:,} ({percent(share)})"


def _tuning(report: Report) -> list[str]:
    cells, lines = report.cells, []
    scored = {row["name"] for row in report.contrasts if row["metric"] == "nll_per_token"}
    for arm in ARMS.values():
        if f"{arm.cell}-{arm.untuned_cell}" in scored:
            before, after = (
                number(cells[name]["nll_per_token"], "nll_per_token")
                for name in (arm.untuned_cell, arm.cell)
            )
            lines.append(f"{arm.short} from {before} to {after}")
    return [f"Tuning took the loss (nats per token) of {', of '.join(lines)}."] if lines else []


def explain(declaration: Declaration, length: float) -> str:
    """Metric, margins and claim of the verdict in one sentence, with the reason for the metric.

    Args:
        declaration: What is or will be frozen.
        length: Median words of the answers (:func:`answer_words`).
    """
    primary = declaration.primary_metric
    if primary == metric_for_length(length):
        reason = f"Answers have a median of {length:g} words: the verdict is by"
    else:
        reason = "By the settings, the verdict is by"
    labels = " and ".join(LABEL_NAMES.get(name, name) for name in declaration.clusters)
    return (
        f"{reason} {_with_margin(primary, declaration.margin)}; the bounds of "
        f"{fmt.enumerated([_with_margin(*bound) for bound in list(declaration.bounds.items())[1:]])} must hold as "
        f"well; the claim is about "
        f"{CLAIMS[declaration.estimand]}{f', clustered by {labels}' if labels else ''}, and is tested on "
        f"{'the questions whose facts were taught' if declaration.items == 'covered' else 'all answerable questions'}."
    )


def _with_margin(metric: str, margin: float | None) -> str:
    how = fmt.in_sentence(fmt.shown(metric).label)
    allowed = (
        f"{SHARE_OF_GAIN:.0%} of what tuning gains"
        if margin is None
        else fmt.margin(metric, margin)
    )
    return f"{how} (margin {allowed})"


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
