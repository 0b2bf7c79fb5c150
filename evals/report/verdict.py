"""The verdict in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assistant_builder.i18n import Message, Text, joined, m, mn, t, text_of
from assistant_builder.study.contents import Entries
from evals.declaration import (
    CLAIMS,
    ENOUGH_TO_DECLINE,
)
from evals.report import number_format as fmt
from evals.report.declared import clustered_text, frozen_text, look_text
from evals.report.number_format import shown
from evals.report.schema import Report
from evals.stats.intervals import LEVEL
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
    """A metric with its difference and its margin, or why it shows nothing though the interval is within."""
    if not bound["passed"] and harm_interval(bound)[1] <= bound["margin"]:
        return m(
            "{metric} (nearly all answers of both are wrong by it, so that it can show nothing)",
            metric=Message(shown(bound["metric"]).phrase),
        )
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
