"""Render ``report.json`` as a self-contained page, ``report.html``; ``report.md`` is the text of that page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assistant_builder.arms import (
    ARMS,
    CELLS,
    QLORA,
    TWINS,
    TWINS_TITLE,
    css_rules,
    css_variables,
    label,
    main_cells,
)
from assistant_builder.data.types import RowNumbers
from assistant_builder.i18n import Message, direction, language, render, t, tm, tn
from assistant_builder.quantization import texts_of
from assistant_builder.redaction import escape_control_characters
from evals.metrics import metric_of
from evals.report import (
    approaches,
    brief,
    charts,
    document_questions,
    formats,
    in_conversation,
    promise,
    rows,
)
from evals.report import number_format as fmt
from evals.report.conclusion import conclude
from evals.report.contrasts import HEADLINE
from evals.report.declared import changed_text
from evals.report.glossary import glossary, not_measured
from evals.report.items import answer_groups, cut
from evals.report.load import lead_arm, lead_pair, served_cells
from evals.report.markdown import to_markdown
from evals.report.method import REFERENCES, contents, subscripts
from evals.report.method import formulas as formulas_of
from evals.report.number_format import percent, shown
from evals.report.other_words import is_respelled
from evals.report.own_questions import own_texts
from evals.report.schema import Report
from evals.report.study_facts import flatten
from evals.report.to_come import later_sections, to_come_text
from evals.report.verdict import as_row, level_of, meaning
from evals.report.warnings import by_weight
from evals.tasks.general_knowledge import TASK as RETENTION

LISTED = 200  # held-out items on the page; ``report.json`` has all of them


def render_html(report: Report, *, listed: int = LISTED) -> str:
    """The report as a self-contained page: text is escaped, and its security policy forbids scripts and requests."""
    with texts_of(_storage(report)):
        template = _environment().get_template("report.html.j2")
        return template.render(**page_context(report, listed=listed), whole=True)


def render_results(report: Report) -> str:
    """The verdict and the sections on its figures, as a page like :func:`render_html`."""
    with texts_of(_storage(report)):
        template = _environment().get_template("report.html.j2")
        return template.render(**page_context(report, listed=LISTED_IN_MARKDOWN), whole=False)


def draw_intervals(panels: Sequence[dict[str, Any]]) -> Markup:
    """Panels of :func:`evals.report.charts.interval_panel` as HTML, for pages with the styles of charts.css."""
    charts = _environment().get_template("charts.html.j2").module
    return Markup(charts.intervals(panels))  # type: ignore[attr-defined]  # noqa: S704 - escaped


def chart_styles() -> str:
    """The styles of charts, without colours."""
    return files("evals.report").joinpath("templates/charts.css").read_text(encoding="utf-8")


def page_styles(environment: Environment) -> Markup:
    """The styles of a report, and of other pages with its templates."""
    assert environment.loader is not None
    sheets = [
        environment.loader.get_source(environment, f"{name}.css")[0]
        for name in ("charts", "style", "print")
    ]
    return Markup("\n".join((arm_styles(), *sheets)))  # noqa: S704 - of this package


def arm_styles() -> str:
    """The colours of the arms as CSS."""
    return "\n".join(
        [
            f":root {{ {css_variables()} }}",
            f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(dark=True)} }} }}",
            css_rules(
                "polyline.ARM, line.ARM { stroke: var(--arm-ARM); }",
                ".mark.ARM, .bar.ARM { fill: var(--arm-ARM); }",
                ".answer.ARM { border-color: var(--arm-ARM); }",
            ),
            f".answer.{QLORA.name} {{ border-top-style: double; }}",
        ]
    )


_FORMATS = (
    "count difference duration figure interval level_text nats number p_value percent perplexity plain "
    "rate signed signed_percent size"
).split()
"""Functions of :mod:`evals.report.number_format` that templates have as filters."""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.report"),
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.globals |= {
        "style": page_styles(environment),
        "t": t,
        "tn": tn,
        "tm": tm,
        "language": language,
        "direction": direction,
        "counted": rows.counted,
        "in_sentences": lambda names: ", ".join(
            fmt.in_sentence(shown(name).label) for name in names
        ),
        "share": fmt.share,
        "shown_as": shown,
        "headline": HEADLINE,
        "metrics_in": rows.metrics_in,
        "scale": rows.scale,
        "scored_metrics": rows.scored_metrics,
        "retention": RETENTION,
        "approach_names": approaches.NAMES,
        "format_verdicts": formats.VERDICTS,
        "approach_outcomes": approaches.OUTCOMES,
        "level_of": level_of,
        "nbsp": Markup("&nbsp;"),
        "symbols": {arm.name: arm.symbol for arm in ARMS.values()},
    }
    environment.filters |= {
        **{name: getattr(fmt, name) for name in _FORMATS},
        "two_digits": fmt.two_significant_digits,
        "in_sentence": lambda label: fmt.in_sentence(render(label)),
        "reading": rows.reading,
        "unit_note": rows.unit_note,
        "expm1": math.expm1,
        "higher_is_better": lambda metric: metric_of(metric).higher_is_better,
        "value": format_value,
        "subscripts": subscripts,
        "cut": cut,
        "short": short,
    }
    return environment


def _printable(value: Any) -> Any:
    if isinstance(value, Message):
        value = render(value)
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return escape_control_characters(value.replace("\r\n", "\n"))


def format_value(value: Any) -> str:
    """A value of a setting or of the provenance as one line of text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return t("yes") if value else t("no")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or t("none")
    return str(value) if value not in ({}, "") else t("none")


def title_of(report: Report) -> str:
    """What people call the study of a report."""
    return str(report.config.get("title") or report.study)


def file_row(numbers: RowNumbers, row: int | None) -> str:
    """A row as the user counts the rows of the data file."""
    return "–" if row is None else str(numbers.shown(row))


def short(text: str, length: int = 110) -> str:
    """The text truncated to ``length`` characters, with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def page_context(report: Report, *, listed: int = LISTED) -> dict[str, Any]:
    """The variables of the templates, with at most ``listed`` held-out items."""
    with texts_of(_storage(report)):
        return _page_context(report, listed)


def _storage(report: Report) -> str:
    return str(report.config["model"]["quant_type"])


def _page_context(report: Report, listed: int) -> dict[str, Any]:
    conclusion = conclude(report)
    groups, groups_of_sections, compared = (
        answer_groups(report, listed),
        contents(report),
        report.compares,
    )
    flips, fidelity, seeds, margin = (
        report.flips,
        report.fidelity,
        report.seeds,
        report.verdict.margin,
    )
    flipped = ("lost", "gained") if flips else ()
    first, more = by_weight(report.warnings)
    lead = rows.of_contrast(report, "-".join(lead_pair(report)))
    resources = rows.resource_rows(report)
    untuned = [
        {
            "text": entry.message("sentence"),
            "beaten": not entry["not_beaten"] and not entry["worse"],
        }
        for entry in report.beats_untuned
    ]
    return {
        "report": report,
        "title": title_of(report),
        "glossary": glossary(),
        "formulas": formulas_of(_storage(report)),
        "contents": groups_of_sections,
        "compared": compared,
        "served": served_cells(report.trained_arms),
        "file_row": partial(file_row, RowNumbers.of_record(report.data.model_dump())),
        "shown": {
            section["anchor"] for group in groups_of_sections for section in group["sections"]
        },
        "arm_names": {arm: label(arm) for arm in report.trained_arms},
        "twin_names": {arm: label(arm) for arm in TWINS},
        "missing": not_measured() | later_sections(report),
        "to_come": to_come_text(report),
        "references": REFERENCES,
        "flipped": [group for group in groups if group["change"] in flipped],
        "groups": [group for group in groups if group["change"] not in flipped],
        "cell_texts": {name: cell.about for name, cell in CELLS.items() if name in report.cells},
        "provenance": list(flatten(report.provenance)) if report.provenance else [],
        "settings": list(flatten(report.config)),
        # the headline
        "twins_title": t(TWINS_TITLE),
        "conclusion": conclusion,
        "brief": {
            "about": brief.about(report),
            "examples": brief.examples(report, conclusion),
            "risks": brief.risks(report, conclusion),
        },
        "verdict_title": t("What did {bits}-bit cost?") if compared else t(rows.NOT_COMPARED),
        "outcome": rows.outcome_label(report),
        "tone": rows.tone(report),
        "meaning": "" if is_respelled(report) else meaning(report.verdict),
        "action": report.verdict.message("action") if compared and not is_respelled(report) else "",
        "changed": changed_text(report.verdict.frozen),
        "first_warnings": first,
        "more_warnings": more,
        "bounds": rows.bound_rows(report),
        "judged": as_row(report.verdict) if compared else None,
        "memory": [row for row in resources if row["key"] in ("base_bytes", "peak_memory_bytes")],
        "lead_arm": lead_arm(report.trained_arms),
        "lead": lead,
        "pair": lead_pair(report),
        "headline_cells": {
            name: report.cells[name]
            for name in main_cells(report.trained_arms)
            if name in report.cells
        },
        "panels": charts.interval_panels(
            lead,
            report.primary_metric if compared else "",
            margin,
            *(
                []
                if compared
                else [
                    (
                        t("← better than untuned"),
                        t("worse →"),
                        t("Tuned − untuned (95% interval)"),
                    )
                ]
            ),
        ),
        "scored_at": rows.scored_at(report),
        "own": own_texts(report),
        "promise_rows": promise.price_rows(report),
        "promise_sure": percent(promise.SURE, 0),
        "further_lines": [
            *document_questions.sentences(report),
            *in_conversation.sentences(report),
        ],
        "approach_metric": shown(report.approach_metric).label if report.approach_metric else "",
        "format_chart": charts.size_chart(report.formats),
        "format_kl": formats.kl_sentence(report),
        "format_metric": shown(report.primary_metric).label,
        # further measurements
        "fidelity_note": fidelity.message("sentence") if fidelity else "",
        "floor": flips.noise_floor.message("sentence") if flips and flips.noise_floor else "",
        "seeds_note": seeds.message("sentence"),
        "seed_panel": charts.seed_panel(seeds, margin),
        # all differences, cells and exports
        "every_difference": rows.every_difference(report),
        "exports": rows.export_table(report),
        "untuned": sorted(
            untuned, key=lambda line: bool(line["beaten"])
        ),  # unbeaten baselines first
        # training, data and method
        "curves": charts.loss_chart(report.curves),
        "validations": rows.validation_rows(report),
        "resources": resources,
        "methods": [(metric_of(row["metric"]), row["method"]) for row in lead],
    }


LISTED_IN_MARKDOWN = 40  # held-out items in the Markdown; ``report.json`` has all of them


def render_markdown(report: Report) -> str:
    """The text of the same page as Markdown; text of data and assistants cannot form markup, HTML or links."""
    return to_markdown(render_html(report, listed=LISTED_IN_MARKDOWN))
