"""``sweep.html``: one file that fetches nothing, from ``sweep.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.report.charts import interval_panel
from evals.sweep.grid import label
from evals.sweep.picture import axes, parallel_coordinates
from evals.sweep.wording import ARM_OF, STATES, comparison_rows, ordered, study_outcomes, study_rows


def render_page(record: Mapping[str, Any]) -> str:
    """The results of a sweep as a self-contained page.

    Its one script is plotly's, which draws the picture; a content policy forbids every request.

    Args:
        record: What ``sweep.json`` holds.
    """
    figure = parallel_coordinates(record)
    picture = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return _environment().get_template("sweep.html.j2").render(
        record=record, studies=study_rows(record), tests=comparison_rows(record), picture=Markup(picture),
        axes=len(axes(record)), panels=_panels(record), tone=_tone(record),
        states=STATES, unfinished=[row for row in ordered(record) if row["state"] != "succeeded"],
    )


@cache
def _environment() -> Environment:
    report = PackageLoader("evals.report")
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("evals.sweep"), report]), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )
    environment.globals["style"] = Markup("".join(report.get_source(environment, name)[0]
                                                  for name in ("style.css", "print.css")))
    return environment


def _tone(record: Mapping[str, Any]) -> str:
    """The look of the verdict: good where all others are clearly worse."""
    outcomes = set(study_outcomes(record).values())
    return "no-worse" if outcomes == {"worse"} else "inconclusive"


def _panels(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The differences from the chosen study with their intervals, one axis for each arm that decides."""
    settings = {row["name"]: label(row["settings"]) for row in ordered(record)}
    place = {name: number for number, name in enumerate(settings)}
    panels = []
    for cell, (_, name) in ARM_OF.items():
        rows = [{**row, "label": row["study"], "about": settings[row["study"]], "note": row["outcome"],
                 "primary": False, "margin": None}
                for row in sorted(record["comparisons"], key=lambda row: place[row["study"]]) if row["cell"] == cell]
        if rows:
            panels.append({"name": name, **interval_panel(rows, f"← better than {record['selected']}", "worse →",
                                                          "difference (95% interval)")})
    return panels
