"""The ways of building the assistant, side by side on the same items: looking up, the untuned base, and the arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.arms import ARMS, LORA, TWINS, headline_arms
from assistant_builder.config import Approach
from assistant_builder.export_formats import advice
from assistant_builder.i18n import Message, Text, capitalized, joined, m
from assistant_builder.study import Study
from evals.compare import Comparison
from evals.declaration import FALSE_DECLINES, LOSS, OVERLAP, RIGHT_DECLINES
from evals.report import contrasts
from evals.report.load import Cell, read_baselines, read_cells
from evals.report.number_format import measured, shown, value_of
from evals.report.other_words import is_respelled
from evals.report.rules import Rules
from evals.report.schema import Report, in_files
from evals.stats.significance import holm

FACTS = "+facts"
NAMES = {
    "copy": m("Copying the best fact"),
    "base+facts": m("Untuned base with facts"),
    **{arm: m("{arm} from memory", arm=ARMS[arm].short) for arm in TWINS},
    **{f"{arm}{FACTS}": m("{arm} with facts", arm=ARMS[arm].short) for arm in TWINS},
}
"""Name in ``report.json`` → label."""
NO_WORSE = 0.02
"""Largest loss against copying, on a metric between 0 and 1, that counts as no worse."""
_SIGNIFICANT = 0.05
_BETTER_RESPELLED: dict[Approach, Message] = {
    "grounded": m(
        "The one that answers with facts looked up is better on this test of respelled questions."
    ),
    "memory": m("The one that answers from memory is better on this test of respelled questions."),
}
_BETTER_UNTAUGHT: dict[Approach, Message] = {
    "grounded": m(
        "The one that answers with facts looked up is better on this test, which is mostly about subjects that "
        "neither was taught. Use it if your users will ask about such subjects."
    ),
    "memory": m(
        "The one that answers from memory is better on this test, which is mostly about subjects that neither was "
        "taught. Use it if your users will ask about such subjects."
    ),
}


@dataclass(frozen=True)
class _Assistant:
    """One way of building the assistant, with its scores."""

    cell: Cell
    record: Mapping[str, Any]  # its figures, as in ``cells`` of the report
    verdict: str | None = None  # of 4-bit storage in this approach


def add_approaches(study: Study, reports: Mapping[Approach, dict[str, Any]]) -> Approach:
    """Add the table of approaches and their comparisons to the report of each approach of a study with grounding.

    Args:
        study: The study.
        reports: Approach → its report, the main approach first.

    Returns:
        The recommended approach: the main one, unless another one is better after Holm's adjustment on a test about
        what training taught, in other words than those of the file. A test about other subjects shows which one answers
        those better, not which one knows.
    """
    main = next(iter(reports))
    if "grounded" not in reports:
        return main
    found = _assistants(study, reports)
    report = Report.model_validate(reports[main])
    metric = comparing_metric(report.primary_metric)
    compared = _comparisons(study, found, metric)
    best = main
    for row in compared:
        if row["name"] == f"{row['lead']}{FACTS}-{row['lead']}" and row["outcome"] in (
            "better",
            "worse",
        ):
            best = "grounded" if row["outcome"] == "better" else "memory"
    respelled = is_respelled(report)
    decided = not (respelled or untaught(report))
    recommended = best if decided else main
    arm = advice(reports[recommended], study.config.arms).adapter
    sentence: Text = _sentence(recommended, arm, found, compared, metric, decided=decided)
    if recommended != best:
        better = _BETTER_RESPELLED if respelled else _BETTER_UNTAUGHT
        sentence = joined([sentence, better[best]])
    added = {
        "approach_metric": metric,
        "approaches": [
            {
                "name": name,
                "label": NAMES[name],
                "items": each.record["items"],
                "metrics": each.record["metrics"],
                "declined_rightly": each.record["metrics"].get(RIGHT_DECLINES),
                "declined_falsely": each.record["metrics"].get(FALSE_DECLINES),
                "verdict": each.verdict,
            }
            for name, each in found.items()
        ],
        "approach_comparisons": compared,
        "recommended_approach": recommended,
        "approach_sentence": sentence,
    }
    for approach, record in reports.items():
        files = in_files({**added, "approach": approach})
        record |= files | {"said": record.get("said", {}) | files.get("said", {})}
    return recommended


def untaught(report: Report) -> bool:
    """Whether most test questions ask for answers that the training data does not have."""
    taught = report.get("taught", {"items": 0, "covered": 0})
    return bool(2 * taught["covered"] < taught["items"])


def comparing_metric(primary: str) -> str:
    """The metric of the comparisons: the primary one, or token F1 where that is the loss, which copying has not."""
    return OVERLAP if primary == LOSS else primary


def _assistants(
    study: Study, reports: Mapping[Approach, Mapping[str, Any]]
) -> dict[str, _Assistant]:
    found: dict[str, _Assistant] = {}
    for view in study.views:
        approach = view.config.approaches[0]
        report, cells = reports[approach], read_cells(view)
        suffix = FACTS if approach == "grounded" else ""
        if suffix:
            baselines = read_baselines(view, next(iter(cells.values())))
            for name, cell, record in (
                ("copy", baselines.get("copy"), report["baselines"].get("copy")),
                (
                    "base+facts",
                    cells.get(LORA.untuned_cell),
                    report["cells"].get(LORA.untuned_cell),
                ),
            ):
                if cell is not None and record is not None:
                    found[name] = _Assistant(cell, record)
        verdict = report["verdict"]["outcome"] if view.config.compares else None
        for arm in TWINS:
            if ARMS[arm].cell in cells:
                found[f"{arm}{suffix}"] = _Assistant(
                    cells[ARMS[arm].cell],
                    report["cells"][ARMS[arm].cell],
                    verdict if arm != LORA.name else None,
                )
    return {name: found[name] for name in NAMES if name in found}


def _comparisons(
    study: Study, found: Mapping[str, _Assistant], metric: str
) -> list[dict[str, Any]]:
    """The comparisons of interest on the primary metric, Holm-adjusted as one family."""
    rules = Rules.of(study)
    pairs = []
    for lead in (arm for arm in headline_arms(study.config.arms) if arm in TWINS):
        grounded = f"{lead}{FACTS}"
        pairs += [
            (lead, grounded, "copy"),
            (lead, grounded, "base+facts"),
            (lead, grounded, lead),
            (lead, lead, "copy"),
        ]
    results: list[tuple[str, str, str, Comparison]] = []
    for lead, candidate, baseline in pairs:
        if candidate in found and baseline in found:
            one, other = found[baseline].cell, found[candidate].cell
            items = [
                item
                for item in rules.items(other, metric)
                if item in one.by_item
                and None not in (one.value(item, metric), other.value(item, metric))
            ]
            if len(items) > 1:
                results.append(
                    (lead, candidate, baseline, rules.compare(one, other, metric, items))
                )
    adjusted = holm([result.p_value for *_, result in results])
    return [
        {
            "name": f"{candidate}-{baseline}",
            "lead": lead,
            "candidate": candidate,
            "baseline": baseline,
            "metric": metric,
            **contrasts.figures_of(result),
            "p_value_holm": float(p),
            "outcome": _outcome(result, float(p)),
        }
        for (lead, candidate, baseline, result), p in zip(results, adjusted, strict=True)
    ]


def _outcome(result: Comparison, adjusted: float) -> str:
    """``better`` or ``worse`` after Holm's adjustment, ``no worse`` within :data:`NO_WORSE`, else ``inconclusive``."""
    _, low, high = result.harm
    if adjusted <= _SIGNIFICANT and high < 0:
        return "better"
    if adjusted <= _SIGNIFICANT and low > 0:
        return "worse"
    return "no worse" if high < NO_WORSE else "inconclusive"


OUTCOMES = {
    "better": m("better"),
    "worse": m("worse"),
    "no worse": m("no worse (within {points:g} points)", points=100 * NO_WORSE),
    "inconclusive": m("inconclusive"),
}


def _sentence(
    recommended: Approach,
    arm: str,
    found: Mapping[str, _Assistant],
    compared: list[dict[str, Any]],
    metric: str,
    *,
    decided: bool,
) -> Text:
    """Which approach to use if the test decides it, with the figure of an arm, and the comparison with copying."""
    lead = f"{arm}{FACTS}" if recommended == "grounded" else arm
    if lead not in found or metric not in found[lead].record["metrics"]:
        return ""
    rival = next((row for row in compared if row["name"] == f"{lead}-copy"), None)
    values = {
        "assistant": _ASSISTANTS[recommended],
        "metric": Message(shown(metric).phrase),
        "value": value_of(found[lead].record["metrics"][metric], metric),
    }
    if rival is None:
        if decided:
            return m("Use {assistant}: {metric} {value}.", **values)
        return m("{assistant}: {metric} {value}.", **values | _FIRST[recommended])
    values |= {
        "copied": value_of(found["copy"].record["metrics"][metric], metric),
        "measured": measured(rival),
        "outcome": OUTCOMES[rival["outcome"]],
    }
    if rival["outcome"] == "worse":
        return m(
            "Copying the best fact is better than either assistant: {metric} {copied}, against {value} for "
            "{assistant} ({measured}). Serve copied answers ('serve --mode copy'), or train longer.",
            **values,
        )
    if rival["outcome"] == "inconclusive":
        return m(
            "The comparison of {assistant} with copying the best fact is inconclusive: {metric} {value} against "
            "{copied} ({measured}).",
            **values,
        )
    if decided:
        return m(
            "Use {assistant}: {metric} {value}, against {copied} for copying the best fact ({measured}): {outcome}.",
            **values,
        )
    return m(
        "{assistant}: {metric} {value}, against {copied} for copying the best fact ({measured}): {outcome}.",
        **values | _FIRST[recommended],
    )


_ASSISTANTS: dict[Approach, Message] = {
    "grounded": m("the assistant that answers with facts looked up"),
    "memory": m("the assistant that answers from memory"),
}
_FIRST = {way: {"assistant": capitalized(text)} for way, text in _ASSISTANTS.items()}
"""The value of messages that begin with it."""
