"""Safe YAML for settings: names, values and lists. Anchors, aliases and tags are refused.

A few nested aliases expand to billions of values ("billion laughs"), and a tag can request a Python type.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

MAX_CHARACTERS = 2**16
"""Maximum length of a text; a study.yaml with all defaults has 3,000 characters."""


class YamlError(ValueError):
    """The text is not valid YAML or uses a feature that is refused; ``line`` is 1-based."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(f"{message} (line {line})" if line else message)
        self.line = line


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml is as safe and ten times as fast; the home screen reads the settings of all studies."""
_MAX_DEPTH = 64


def read_yaml(text: str) -> Any:
    """Read a YAML document of names, values and lists; raises YamlError."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(
            f"it has {len(text):,} characters, more than the limit of settings ({MAX_CHARACTERS:,})"
        )
    try:
        _require_plain(text)
        found = yaml.load(text, Loader=_LOADER)
        json.dumps(found, default=str, skipkeys=True)  # refuses integers that are too long to show
        return found
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = (
            getattr(error, "problem", None) or getattr(error, "reason", None) or "it is invalid"
        )
        raise YamlError(str(problem), mark.line + 1 if mark is not None else None) from error
    except YamlError:
        raise
    except (ValueError, OverflowError, AttributeError, TypeError, KeyError, IndexError) as error:
        # PyYAML raises these for dates and numbers that do not exist
        raise YamlError(f"a value cannot be read: {str(error)[:200]}") from error


def _require_plain(text: str) -> None:
    """Check the parser events before any value is constructed."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise YamlError(
                "anchors and aliases (&name, *name) are not supported: write the value in each place",
                line,
            )
        tag = getattr(event, "tag", None)
        if tag:
            raise YamlError(
                f"tags such as {str(tag)[:60]} are not supported: write the plain value", line
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > _MAX_DEPTH:
            raise YamlError("it is nested too deeply", line)
