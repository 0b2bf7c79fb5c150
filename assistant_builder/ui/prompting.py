"""Pairs seen through the base model's template, for the page: kept for as long as neither file nor settings change."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from assistant_builder.config import ModelConfig, StudyConfig
from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.models.preview import Lengths, measure, model_at_hand, render
from assistant_builder.models.prompts import Prompter
from assistant_builder.ui.inspection import inspect_file
from assistant_builder.ui.markup import Markup, error_callout
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.prompted import lengths_view, plain_view, prompted_view


def seen_by_model(
    path: Path, config: StudyConfig, rows: int, *, first: Sequence[Pair] | None = None
) -> tuple[Markup, Markup]:
    """The first rows of a data file as its base model is trained on them, and how long its pairs are.

    Args:
        path: The data file.
        config: Columns, system prompt, base model and longest length.
        rows: How many rows.
        first: The rows themselves; None: the first usable ones of the file.
    """
    findings = inspect_file(path, config.data.columns).findings
    if findings is None or not findings.usable:
        return Markup(""), Markup("")
    if first is None:
        first = [with_system(pair, config.data.system) for pair in findings.usable[:rows]]
    folder = model_at_hand(config.model)
    if folder is None:
        return plain_view(first, config.model.base), Markup("")
    try:
        prompter = _prompter(str(folder), stamp([folder / "tokenizer.json", folder / "chat_template.jinja"]))
        limit = config.train.max_length
        rendered = [render(prompter, pair, limit) for pair in first]
        columns = tuple(config.data.columns.items())
        lengths = _lengths(str(path), stamp([path]), columns, config.data.system, config.model, limit)
    except ModelError as error:
        return error_callout(error.to_record()) + plain_view(first, config.model.base), Markup("")
    return (
        prompted_view(first, rendered, config.model.base, limit),
        lengths_view(lengths, config.eval.max_new_tokens),
    )


def with_system(pair: Pair, system: str | None) -> Pair:
    """The pair with the study's system prompt, unless it brings one of its own."""
    if not system or pair.system is not None:
        return pair
    return replace(pair, messages=(Message("system", system), *pair.messages))


@functools.lru_cache(maxsize=2)
def _prompter(folder: str, seen: str) -> Prompter:
    """``seen`` is the stamp of the tokenizer's files."""
    return Prompter.load(Path(folder))


@functools.lru_cache(maxsize=8)
def _lengths(
    path: str, seen: str, columns: tuple[tuple[str, str], ...], system: str | None, model: ModelConfig, limit: int
) -> Lengths:
    """``seen`` is the stamp of the data file."""
    findings = inspect_file(Path(path), dict(columns)).findings
    folder = model_at_hand(model)
    assert findings is not None and folder is not None  # the caller has looked
    prompter = _prompter(str(folder), stamp([folder / "tokenizer.json", folder / "chat_template.jinja"]))
    return measure(prompter, [with_system(pair, system) for pair in findings.usable], limit)
