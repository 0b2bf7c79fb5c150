"""``report.html``: one file that fetches nothing and runs nothing, from ``report.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assistant_builder.control_characters import visible
from assistant_builder.errors import EvaluationError
from evals.report import charts, diagrams, wording
from evals.report.answers import answer_groups
from evals.report.background import CELL_TEXTS, GLOSSARY, NOT_MEASURED
from evals.report.contents import contents
from evals.report.method import FORMULAS, REFERENCES, subscripts
from evals.report.reading import arms_of, is_compared, lead_pair
from evals.report.training import flatten
from evals.report.views import asked, cells, cost, headline, likeness, record, sources

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
        undefined=StrictUndefined, finalize=_printable,
    )
    sources_of = environment.loader.get_source if environment.loader else None
    style = "".join(sources_of(environment, name)[0] for name in ("style.css", "print.css")) if sources_of else ""
    environment.globals |= {"style": Markup(style), "plural": wording.plural, "nbsp": Markup("&nbsp;")}
    environment.filters |= {"value": shown_value, "subscripts": subscripts}
    return environment


def _printable(value: Any) -> Any:
    return visible(value.replace("\r\n", "\n")) if isinstance(value, str) and not isinstance(value, Markup) else value


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
    groups, groups_of_sections = answer_groups(report, listed), contents(report)
    flipped = ("lost", "gained") if report["flips"] else ()
    return {
        "report": report,
        "contents": groups_of_sections,
        "shown": {section["anchor"] for group in groups_of_sections for section in group["sections"]},
        "compared": is_compared(report),
        "arm_names": {arm: name for arm, name in cost.ARM_NAMES.items() if arm in arms_of(report)},
        "missing": NOT_MEASURED,
        "flipped": [group for group in groups if group["change"] in flipped],
        "groups": [group for group in groups if group["change"] not in flipped],
        "glossary": GLOSSARY,
        "formulas": FORMULAS,
        "references": REFERENCES,
        "cell_texts": {name: text for name, text in CELL_TEXTS.items() if name in report["cells"]},
        "provenance": list(flatten(report["provenance"])) if report["provenance"] else [],
        "settings": list(flatten(report["config"])),
        **_headline(report), **_beside(report), **_sources(report), **_arms(report),
    }


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    margin, primary = report["verdict"]["margin"], report["primary_metric"]
    return {
        "outcome": headline.outcome_label(report),
        "tone": headline.tone(report),
        "tiles": headline.tiles(report),
        "table": headline.metric_table(report),
        "panels": charts.interval_panels(headline.of_contrast(report, headline.HEADLINE), primary, margin)
        if is_compared(report) else charts.interval_panels(
            headline.of_contrast(report, "-".join(lead_pair(report))), "", margin,
            ("← better than untuned", "worse →", "Tuned − untuned (95% interval)")),
        "in_short": headline.in_short(report),
        "power": record.power_sentences(report),
        "power_rows": record.power_rows(report),
        "planned": record.planned_sentence(report),
        "scored_at": cost.scored_at(report),
    }


def _beside(report: Mapping[str, Any]) -> dict[str, Any]:
    seeds, margin = report.get("seeds"), report["verdict"]["margin"]
    tasks = asked.task_sections(report)
    return {
        "fidelity": likeness.fidelity_rows(report),
        "fidelity_note": likeness.fidelity_note(report),
        "worst": likeness.worst_items(report),
        "flips": likeness.flip_rows(report),
        "floor": likeness.noise_sentence(report),
        "tasks": [{**task, "panel": diagrams.task_panel(report["tasks"][task["name"]])} for task in tasks],
        "declining": asked.declining_rows(report),
        "reliability": asked.reliability_rows(report),
        "calibration": diagrams.reliability_chart(report.get("reliability")),
        "judge": asked.judge_rows(report),
        "preference": diagrams.preference_bar(report.get("judge")),
        "votes": asked.vote_rows(report),
        "seeds": asked.seed_rows(report),
        "seeds_note": (seeds or {}).get("sentence") or NOT_MEASURED["seeds"],
        "spread": asked.spread_row(report),
        "seed_dots": diagrams.seed_dots(seeds),
        "seed_panel": diagrams.seed_panel(seeds, margin),
    }


def _sources(report: Mapping[str, Any]) -> dict[str, Any]:
    margin = report["verdict"]["margin"] if is_compared(report) else None
    groups = cells.contrast_rows(report)
    return {
        "waterfall": diagrams.waterfall(report.get("attribution"),
                                        {name: cell["label"] for name, cell in report["cells"].items()}),
        "attribution": sources.attribution_rows(report),
        "identities": sources.identity_line(report),
        "cell_table": cells.cell_table(report),
        "contrasts": [row for rows in groups for row in rows],
        "contrast_panels": [panel for panel in (diagrams.contrast_panel(rows, margin) for rows in groups)
                            if panel],
        "every_difference": cells.every_difference(report),
        "exports": sources.export_table(report),
        "baselines": sources.baseline_rows(report),
        "baseline_texts": sources.baseline_texts(report),
        "untuned": sources.untuned_sentences(report),
    }


def _arms(report: Mapping[str, Any]) -> dict[str, Any]:
    resources = cost.resource_rows(report)
    return {
        "curves": charts.loss_chart(report["curves"]),
        "validations": cost.validation_rows(report),
        "resources": [row for row in resources if row["key"] not in _BARS],
        "costs": resources,
        "graded": cost.graded_rows(report),
        "steps": cost.step_rows(report),
        "bars": charts.bars([(row["label"], row["values"], row["texts"], row["ratio"])
                             for row in resources if row["key"] in _BARS]),
        "data": record.data_rows(report),
        "methods": record.method_rows(report),
    }
