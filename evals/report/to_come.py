"""What a first report does not have yet, which is written while people read its verdict."""

from __future__ import annotations

from assistant_builder.i18n import N_, enumerated, t
from assistant_builder.study import Study
from assistant_builder.study.steps import FORMATS
from evals.report.other_words import is_respelled, own_questions_wait
from evals.report.schema import Report

_PARTS = {"cells": N_("further comparisons"), "files": N_("the files for other programs")}
_STEPS = {"cells": "evaluate", "files": FORMATS}
"""Entry of ``to_come`` → the step that makes it."""


def to_come(study: Study) -> list[str]:
    """The entries of the report for what is not scored yet; none in the final one."""
    return [
        name
        for name, step in _STEPS.items()
        if step in study.steps and study.step(step).state != "succeeded"
    ]


def later_sections(report: Report) -> dict[str, str]:
    """The texts of sections that a first report lacks and the final one has, by the name of the section."""
    if "cells" not in report.to_come:
        return {}
    settings = report.config["eval"]
    wanted = {
        "noise": settings["noise_floor"],
        "fidelity": settings["fidelity"],
        "retention": settings["retention"],
        "judge": settings["judge_url"],
        "steps": "L4" in settings["cells"],
        "exports": set(settings["cells"]) - report.cells.keys(),
    }
    text = t("This is still being scored. The final report has it.")
    return {section: text for section, due in wanted.items() if due}


def to_come_text(report: Report) -> str:
    """What is still to come, in one sentence; empty for a final report."""
    if not report.to_come:
        return ""
    parts = enumerated([t(_PARTS[name]) for name in report.to_come])
    if own_questions_wait(report):
        return t("Still to come: {parts}, and the answers to your own questions.", parts=parts)
    if is_respelled(report):  # there is no verdict
        return t("Still to come: {parts}.", parts=parts)
    return t("This verdict is final. Still to come: {parts}.", parts=parts)
