"""Render ``report.json`` as a self-contained page (``report.html``) and as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assistant_builder.arms import ARMS, CELLS, QLORA, TWINS, css_rules, css_variables, label
from assistant_builder.errors import EvaluationError
from assistant_builder.redaction import escape_control_characters
from evals.report import charts, rows_headline, rows_other
from evals.report import format as report_format
from evals.report.glossary import GLOSSARY, NOT_MEASURED
from evals.report.items import answer_groups
from evals.report.load import arms_of, is_compared, lead_pair
from evals.report.method import FORMULAS, REFERENCES, contents, subscripts
from evals.report.study_facts import flatten

LISTED = 200
"""Held-out items on the page; ``report.json`` has all of them."""
_BARS = ("base_bytes", "peak_memory_bytes", "train_seconds", "tokens_per_second")


def render_html(report: dict[str, Any]) -> str:
    """The report as a self-contained page: text is escaped, and its security policy forbids scripts and requests.

    Raises:
        EvaluationError: The report has another version.
    """
    check_version(report)
    return _environment().get_template("report.html.j2").render(**page_context(report))


def check_version(report: Mapping[str, Any]) -> None:
    """Raise an EvaluationError if another version of the program wrote the report."""
    if report.get("version") != 1:
        raise EvaluationError(
            f"report.json has version {report.get('version')!r}, this program reads version 1", where="report.json",
            remedy="Create the report again with 'assistant-builder run NAME --redo'",
        )


def arm_styles() -> str:
    """The colours of the arms as CSS."""
    return "\n".join([
        f":root {{ {css_variables()} }}",
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(dark=True)} }} }}",
        css_rules(
            "polyline.ARM, line.ARM { stroke: var(--arm-ARM); }", ".mark.ARM, .bar.ARM { fill: var(--arm-ARM); }",
            ".answer.ARM { border-color: var(--arm-ARM); }",
        ),
        f".answer.{QLORA.name} {{ border-top-style: double; }}",
    ])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, finalize=_printable,
    )
    sources_of = environment.loader.get_source if environment.loader else None
    style = "".join(sources_of(environment, name)[0] for name in ("style.css", "print.css")) if sources_of else ""
    style = f"{arm_styles()}\n{style}"
    environment.globals |= {"style": Markup(style), "symbols": {arm.name: arm.symbol for arm in ARMS.values()},
                            "plural": report_format.plural, "nbsp": Markup("&nbsp;")}
    environment.filters |= {"value": format_value, "subscripts": subscripts}
    return environment


def _printable(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escape_control_characters(value.replace("\r\n", "\n"))


def format_value(value: Any) -> str:
    """A value of a setting or of the provenance as one line of text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in ({}, "") else "none"


def page_context(report: Mapping[str, Any], *, listed: int = LISTED) -> dict[str, Any]:
    """The variables of the templates, with at most ``listed`` held-out items."""
    groups, groups_of_sections = answer_groups(report, listed), contents(report)
    flipped = ("lost", "gained") if report["flips"] else ()
    return {
        "report": report,
        "contents": groups_of_sections,
        "shown": {section["anchor"] for group in groups_of_sections for section in group["sections"]},
        "compared": is_compared(report),
        "arm_names": {arm: label(arm) for arm in arms_of(report)},
        "twin_names": {arm: label(arm) for arm in TWINS},
        "missing": NOT_MEASURED,
        "flipped": [group for group in groups if group["change"] in flipped],
        "groups": [group for group in groups if group["change"] not in flipped],
        "glossary": GLOSSARY,
        "formulas": FORMULAS,
        "references": REFERENCES,
        "cell_texts": {name: cell for name, cell in CELLS.items() if name in report["cells"]},
        "provenance": list(flatten(report["provenance"])) if report["provenance"] else [],
        "settings": list(flatten(report["config"])),
        **_headline(report), **_other_results(report), **_sources(report), **_arms(report),
    }


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    margin, primary = report["verdict"]["margin"], report["primary_metric"]
    return {
        "outcome": rows_headline.outcome_label(report),
        "tone": rows_headline.tone(report),
        "tiles": rows_headline.tiles(report),
        "table": rows_headline.metric_table(report),
        "panels": charts.interval_panels(rows_headline.of_contrast(report, rows_headline.HEADLINE), primary, margin)
        if is_compared(report) else charts.interval_panels(
            rows_headline.of_contrast(report, "-".join(lead_pair(report))), "", margin,
            ("← better than untuned", "worse →", "Tuned − untuned (95% interval)")),
        "in_short": rows_headline.in_short(report),
        "power": rows_other.power_sentences(report),
        "power_rows": rows_other.power_rows(report),
        "planned": rows_other.planned_sentence(report),
        "scored_at": rows_headline.scored_at(report),
    }


def _other_results(report: Mapping[str, Any]) -> dict[str, Any]:
    seeds, margin = report.get("seeds"), report["verdict"]["margin"]
    tasks = rows_other.task_sections(report)
    return {
        "fidelity": rows_other.fidelity_rows(report),
        "fidelity_note": rows_other.fidelity_note(report),
        "worst": rows_other.worst_items(report),
        "flips": rows_other.flip_rows(report),
        "floor": rows_other.noise_sentence(report),
        "tasks": [{**task, "panel": charts.task_panel(report["tasks"][task["name"]])} for task in tasks],
        "declining": rows_other.declining_rows(report),
        "reliability": rows_other.reliability_rows(report),
        "calibration": charts.reliability_chart(report.get("reliability")),
        "judge": rows_other.judge_rows(report),
        "preference": charts.preference_bar(report.get("judge")),
        "votes": rows_other.vote_rows(report),
        "seeds": rows_other.seed_rows(report),
        "seeds_note": (seeds or {}).get("sentence") or NOT_MEASURED["seeds"],
        "spread": rows_other.spread_row(report),
        "seed_dots": charts.seed_dots(seeds),
        "seed_panel": charts.seed_panel(seeds, margin),
    }


def _sources(report: Mapping[str, Any]) -> dict[str, Any]:
    margin = report["verdict"]["margin"] if is_compared(report) else None
    groups = rows_headline.contrast_rows(report)
    return {
        "waterfall": charts.waterfall(report.get("attribution"),
                                        {name: cell["label"] for name, cell in report["cells"].items()}),
        "attribution": rows_headline.attribution_rows(report),
        "identities": rows_headline.identity_line(report),
        "cell_table": rows_headline.cell_table(report),
        "contrasts": [row for rows in groups for row in rows],
        "contrast_panels": [panel for panel in (charts.contrast_panel(rows, margin) for rows in groups)
                            if panel],
        "every_difference": rows_headline.every_difference(report),
        "exports": rows_headline.export_table(report),
        "baselines": rows_headline.baseline_rows(report),
        "baseline_texts": rows_headline.baseline_texts(report),
        "untuned": rows_headline.untuned_sentences(report),
    }


def _arms(report: Mapping[str, Any]) -> dict[str, Any]:
    resources = rows_headline.resource_rows(report)
    return {
        "curves": charts.loss_chart(report["curves"]),
        "validations": rows_headline.validation_rows(report),
        "resources": [row for row in resources if row["key"] not in _BARS],
        "costs": resources,
        "graded": rows_headline.graded_rows(report),
        "steps": rows_headline.step_rows(report),
        "bars": charts.bars([(row["label"], row["values"], row["texts"], row["ratio"])
                             for row in resources if row["key"] in _BARS]),
        "data": rows_other.data_rows(report),
        "methods": rows_other.method_rows(report),
    }


_SPECIAL = re.compile(r"([\\`*_\[\]|~$#@])")
_LINK = re.compile(r"(?i)(\bwww|\b(?:https?|ftp|mailto))([.:])")
LISTED_IN_MARKDOWN = 40
"""Held-out items in the Markdown; ``report.json`` has all of them."""


def render_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; text from the data file and the assistants cannot form markup, HTML or links.

    Raises:
        EvaluationError: The report has another version.
    """
    check_version(report)
    template = _markdown_environment().get_template("report.md.j2")
    text = template.render(**page_context(report, listed=LISTED_IN_MARKDOWN))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(value: Any) -> Any:
    """Text that Markdown shows literally, on one line; ``Markup`` is returned unchanged."""
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _LINK.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))
    return Markup("<br>".join(escape_control_characters(line.strip()) for line in text.splitlines()))  # noqa: S704 - escaped above


@cache
def _markdown_environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.report"), autoescape=False, finalize=escape, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"value": format_value}
    return environment
