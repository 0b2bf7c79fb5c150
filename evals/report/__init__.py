"""The report of a study: ``report.json`` first, then a self-contained ``report.html`` and ``report.md`` from it."""

from evals.report.build import build_report, write_report
from evals.report.markdown import render_markdown
from evals.report.page import render_html

__all__ = ["build_report", "render_html", "render_markdown", "write_report"]
