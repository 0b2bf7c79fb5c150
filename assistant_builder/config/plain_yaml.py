"""YAML as settings need it: names, values and lists. Anchors, aliases and tags are refused.

A few nested aliases stand for billions of values ("billion laughs"), and a tag asks for a Python type.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 2**16
"""Longest text that is read; a study.yaml with every default written out has 3,000 characters."""


class YamlError(ValueError):
    """The text is not the YAML that is read here.

    Args:
        message: In a sentence's part.
        line: 1-based, None where it cannot be told.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(f"{message} (line {line})" if line else message)
        self.line = line


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml reads as safely and ten times as fast: the home screen reads every study's settings."""
_DEEPEST = 64


def read_yaml(text: str) -> Any:
    """One YAML document of plain names, values and lists.

    Raises:
        YamlError: It is broken, too long or too deep, or uses what is refused.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"it has {len(text):,} characters, more than settings ever need ({MOST_CHARACTERS:,})")
    try:
        _require_plain(text)
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is broken"
        raise YamlError(str(problem), mark.line + 1 if mark is not None else None) from error
    except YamlError:
        raise
    except (ValueError, OverflowError, AttributeError, TypeError, KeyError, IndexError) as error:
        # what PyYAML lets through of dates and numbers that do not exist
        raise YamlError(f"a value cannot be read: {str(error)[:200]}") from error


def _require_plain(text: str) -> None:
    """Refuse what is not read here before any value is made of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError("anchors and aliases (&name, *name) are not read: write the value where it belongs", line)
        tag = getattr(event, "tag", None)
        if tag:
            raise YamlError(f"tags such as {str(tag)[:60]} are not read: write the plain value", line)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise YamlError("it is nested too deeply", line)
