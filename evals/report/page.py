"""``report.html``: one file that fetches nothing and runs nothing, from ``report.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assistant_builder.errors import EvaluationError
from evals.report import charts, views, wording
from evals.report.answers import answer_groups
from evals.report.background import CELL_TEXTS, GLOSSARY
from evals.report.training import flatten

LISTED = 200
"""Held-out items shown on the page; ``report.json`` holds all of them."""
_BARS = ("base_bytes", "peak_memory_bytes", "train_seconds", "tokens_per_second")


def render_html(report: dict[str, Any]) -> str:
    """The report as a self-contained page.

    Text from the data file and from the assistants is escaped; there is no script, and a content policy forbids
    every request.

    Args:
        report: What :func:`evals.report.build_report` returns, or ``report.json`` read back.

    Raises:
        EvaluationError: The report is of another version.
    """
    check_version(report)
    return _environment().get_template("report.html.j2").render(**page_context(report))


def check_version(report: Mapping[str, Any]) -> None:
    """Refuse a report that another version of the program wrote."""
    if report.get("version") != 1:
        raise EvaluationError(
            f"report.json is of version {report.get('version')!r}, this program reads version 1", where="report.json",
            remedy="Make the report anew with 'assistant-builder run NAME --redo'",
        )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    source = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    environment.globals |= {"style": Markup(source), "plural": wording.plural}
    environment.filters |= {"value": shown_value}
    return environment


def shown_value(value: Any) -> str:
    """A setting or a version as one line of text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in ({}, "") else "none"


def page_context(report: Mapping[str, Any], *, listed: int = LISTED) -> dict[str, Any]:
    """Everything the templates print, with at most ``listed`` held-out items."""
    rows = views.of_contrast(report, views.HEADLINE)
    margin, primary = report["verdict"]["margin"], report["primary_metric"]
    resources = views.resource_rows(report)
    return {
        "report": report,
        "outcome": views.outcome_label(report),
        "tone": views.tone(report),
        "tiles": tiles(report),
        "table": views.metric_table(report),
        "all_cells": views.metric_table(report, tuple(report["cells"])) if _more_cells(report) else None,
        "panels": charts.interval_panels(rows, primary, margin),
        "contrasts": views.contrast_table(report, primary),
        "decomposition": views.decomposition(report),
        "power": views.power_sentences(report),
        "curves": charts.loss_chart(report["curves"]),
        "validations": views.validation_rows(report),
        "resources": [row for row in resources if row["key"] not in _BARS],
        "costs": resources,
        "steps": views.step_rows(report),
        "scored_at": views.scored_at(report),
        "bars": charts.bars([(row["label"], row["values"], row["texts"], row["ratio"])
                             for row in resources if row["key"] in _BARS]),
        "arm_names": views.ARM_NAMES,
        "groups": answer_groups(report, listed),
        "declining": views.declining_rows(report),
        "data": views.data_rows(report),
        "methods": views.method_rows(report),
        "glossary": GLOSSARY,
        "cell_texts": {name: text for name, text in CELL_TEXTS.items() if name in report["cells"]},
        "provenance": list(flatten(report["provenance"])) if report["provenance"] else [],
        "settings": list(flatten(report["config"])),
    }


def _more_cells(report: Mapping[str, Any]) -> bool:
    return bool(report["cells"].keys() - set(views.MAIN_CELLS))


def tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """The four or five figures at the top: what it is, its value, and what it stands against."""
    verdict = report["verdict"]
    judged = views.of_contrast(report, verdict["contrast"], verdict["metric"])[0]
    shown = wording.SHOWN[verdict["metric"]]
    found = [{
        "label": f"{shown.label}: QLoRA minus LoRA",
        "value": wording.difference(judged["delta"], verdict["metric"], judged),
        "note": f"95% interval {wording.interval(judged, verdict['metric'])}; allowed: "
                f"{wording.plain(verdict['margin'] * shown.factor)}",
    }]
    for row in views.of_contrast(report, verdict["contrast"], "exact_match"):
        scores = {name: report["cells"][row[name]]["metrics"]["exact_match"] for name in ("candidate", "baseline")}
        found.append({
            "label": "Exactly right answers, QLoRA", "value": wording.number(scores["candidate"], "exact_match"),
            "note": f"{wording.number(scores['baseline'], 'exact_match')} with 16-bit LoRA",
        })
    names = {"base_bytes": "Base weights as stored, QLoRA", "train_seconds": "Training time, QLoRA"}
    for line in views.resource_rows(report):
        if line["key"] in names and line["values"].get("qlora") is not None:
            found.append({"label": names[line["key"]], "value": line["texts"]["qlora"],
                          "note": f"{line['texts']['lora']} with 16-bit LoRA ({line['ratio']})"})
    return found
