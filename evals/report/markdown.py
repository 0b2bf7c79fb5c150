"""``report.md``: the page's numbers as GitHub-flavoured Markdown, from ``report.json`` alone."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assistant_builder.control_characters import visible
from evals.report.page import check_version, page_context, shown_value

_SPECIAL = re.compile(r"([\\`*_\[\]|~$#@])")
_LINK = re.compile(r"(?i)(\bwww|\b(?:https?|ftp|mailto))([.:])")
LISTED = 40
"""Held-out items listed; ``report.json`` holds all of them."""


def render_markdown(report: dict[str, Any]) -> str:
    """The report as Markdown; text from the data file and the assistants cannot form markup, HTML or links.

    Args:
        report: What :func:`evals.report.build_report` returns, or ``report.json`` read back.

    Raises:
        EvaluationError: The report is of another version.
    """
    check_version(report)
    text = _environment().get_template("report.md.j2").render(**page_context(report, listed=LISTED))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(value: Any) -> Any:
    """Text that Markdown prints as it stands, on one line; what is ``Markup`` already stays."""
    if isinstance(value, Markup):
        return value
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _LINK.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", text))
    return Markup("<br>".join(visible(line.strip()) for line in text.splitlines()))  # noqa: S704 - escaped above


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("evals.report"), autoescape=False, finalize=escape, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"value": shown_value}
    return environment
