"""The report's numbers as rows of text, shared by the page and the Markdown; they read ``report.json`` alone.

Whatever was not measured comes out as ``None`` or empty, also from reports older than the measurement.
"""
