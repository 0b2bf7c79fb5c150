"""Pairs seen through the base model's template, for the page: kept for as long as neither file nor settings change."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from assistant_builder.config import ModelConfig, StudyConfig
from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.models.preview import Lengths, model_at_hand
from assistant_builder.models.prompt_process import LimitedPrompter, PromptProcess
from assistant_builder.ui.inspection import inspect_file
from assistant_builder.ui.markup import Markup, error_callout
from assistant_builder.ui.snapshots import stamp
from assistant_builder.ui.views.prompted import lengths_view, plain_view, prompted_view

_IDLE_SECONDS = 300.0
_MOST_PROCESSES = 4
"""Base models that are rendered and tokenized for at the same time."""


def seen_by_model(
    path: Path, config: StudyConfig, rows: int, *, first: Sequence[Pair] | None = None, day: date | None = None
) -> tuple[Markup, Markup]:
    """The first rows of a data file as its base model is trained on them, and how long its pairs are.

    Args:
        path: The data file.
        config: Columns, system prompt, base model and longest length.
        rows: How many rows.
        first: The rows themselves; None: the first usable ones of the file.
        day: What the model's chat template writes as today's date; None: the current day.
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
        limit, seen = config.train.max_length, _stamp(folder)
        rendered = LimitedPrompter(_process(str(folder), seen), day).render(first, limit)
        columns = tuple(config.data.columns.items())
        lengths = _lengths(str(path), stamp([path]), columns, config.data.system, config.model, limit, seen, day)
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


_processes: OrderedDict[tuple[str, str], PromptProcess] = OrderedDict()
_processes_lock = threading.Lock()


def _process(folder: str, seen: str) -> PromptProcess:
    """The process that renders and tokenizes for a base model; ``seen`` is the stamp of its files."""
    with _processes_lock:
        process = _processes.pop((folder, seen), None) or PromptProcess(Path(folder), idle_seconds=_IDLE_SECONDS)
        _processes[folder, seen] = process
        while len(_processes) > _MOST_PROCESSES:
            _processes.popitem(last=False)[1].close()
        return process


def _stamp(folder: Path) -> str:
    return stamp(folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"))


@functools.lru_cache(maxsize=8)
def _lengths(
    path: str, seen: str, columns: tuple[tuple[str, str], ...], system: str | None, model: ModelConfig, limit: int,
    model_seen: str, day: date | None,
) -> Lengths:
    """``seen`` is the stamp of the data file, ``model_seen`` that of the model's files."""
    findings = inspect_file(Path(path), dict(columns)).findings
    folder = model_at_hand(model)
    assert findings is not None and folder is not None  # the caller has looked
    prompter = LimitedPrompter(_process(str(folder), model_seen), day)
    return prompter.measure([with_system(pair, system) for pair in findings.usable], limit)
