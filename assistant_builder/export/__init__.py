"""Exports of trained assistants: one file a format, model card, and verification of the written files.

``python -m assistant_builder.export`` writes an export in a separate process; importing this package loads no torch.
The formats are registered in :mod:`assistant_builder.export_formats`.
"""
