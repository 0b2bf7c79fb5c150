"""Extraction of messages for ``benchmarks.catalogs`` from the modules of settings, whose docstrings are help texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, Any

from babel.messages.extract import extract_python

from evals.report.glossary import messages


def extract(
    file: IO[bytes], keywords: Any, comment_tags: Any, options: Any
) -> Iterator[tuple[Any, ...]]:
    """Yield the messages of a module and the docstrings of the settings with a translated title."""
    yield from extract_python(file, keywords, comment_tags, options)
    file.seek(0)
    for scope in ast.walk(ast.parse(file.read())):
        for field, text in pairwise(scope.body if isinstance(scope, ast.ClassDef) else []):
            if isinstance(text, ast.Expr) and "title=N_(" in ast.unparse(field):
                assert isinstance(text.value, ast.Constant)
                yield text.lineno, None, " ".join(str(text.value.value).split()), []


def extract_report_texts(
    file: IO[bytes], keywords: Any, comment_tags: Any, options: Any
) -> Iterator[tuple[Any, ...]]:
    """Yield the texts of every report, which are in ``texts.yaml``."""
    for text in messages():
        yield 1, None, text, []
