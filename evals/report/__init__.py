"""The report of a study: ``report.json`` first, then a self-contained ``report.html`` and ``report.md`` from it."""
