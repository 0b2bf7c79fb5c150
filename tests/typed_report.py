"""Reports of tests, typed."""

from __future__ import annotations

from typing import Any

from evals.report.schema import Report


def as_report(record: Any) -> Any:
    """A report that a test has changed as a dictionary."""
    return record if record is None or isinstance(record, Report) else Report.model_validate(record)
