"""What was or will be declared before scoring, and what was changed since, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assistant_builder.data import load_split
from assistant_builder.i18n import N_, Message, Text, joined, m, mn, render, t
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries
from evals.declaration import (
    CLAIMS,
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
from evals.report import number_format as fmt
from evals.report.number_format import shown
from evals.stats.intervals import look_level


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
