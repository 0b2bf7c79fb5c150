"""What the page needs to know of a setting, read off ``config.py``: its kind, bounds and help; values to and fro.

Pure: no gradio. Values are validated by ``config.py`` alone, which reports all problems together.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from assistant_builder.config import PRESET_WORDS, StudyConfig, option_fields, parse_config

Kind = Literal["integer", "number", "text", "flag", "choice", "choices", "list", "mapping"]

NOT_OPTIONS = frozenset(("version", "model.trust_remote_code"))
"""Fields of the config that nobody chooses: no setting allows a model's own code, see ``models/trust.py``."""


@dataclass(frozen=True)
class Option:
    """One setting as the page shows it.

    Attributes:
        key: Dotted key, as in ``study.yaml`` and ``--set``.
        title: Label.
        help: What it does, with its bounds.
        kind: Which component suits it.
        basic: Shown without opening the advanced pane.
        optional: May be left empty.
        choices: Of ``choice`` and ``choices``.
        default: The default value.
    """

    key: str
    title: str
    help: str
    kind: Kind
    basic: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any

    def to_widget(self, value: Any) -> Any:
        """The value in the form in which a component shows it."""
        if self.kind == "list":
            return ", ".join(value)
        if self.kind == "mapping":
            return "\n".join(f"{key} = {item}" for key, item in value.items())
        if self.kind == "text" or self.optional:
            return "" if value is None else str(value)
        return list(value) if self.kind == "choices" else value

    def from_widget(self, shown: Any) -> Any:
        """The reverse of :meth:`to_widget`; what makes no sense is passed on for ``config.py`` to refuse."""
        if self.kind == "list":
            return [item.strip() for item in (shown or "").split(",") if item.strip()]
        if self.kind == "mapping":
            return _mapping(shown or "")
        if self.optional and (shown is None or not str(shown).strip()):
            return None
        if self.kind == "text":
            return shown or ""
        if self.kind == "integer" and isinstance(shown, float) and shown.is_integer():
            return int(shown)
        return shown


def _mapping(text: str) -> dict[str, str]:
    parts = (line.partition("=") for line in text.split("\n") if line.strip())
    return {key.strip(): value.strip() for key, _, value in parts}


def study_options() -> dict[str, Option]:
    """Every setting by its dotted key, in the order of ``config.py``."""
    return {
        key: _option(key, field, default)
        for key, (field, default) in option_fields().items()
        if key not in NOT_OPTIONS
    }


def _option(key: str, field: FieldInfo, default: Any) -> Option:
    kind, choices, optional = _kind(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    bounds = bounds_text(field)
    return Option(
        key=key,
        title=field.title or key.rsplit(".", 1)[-1],
        help=f"{field.description or ''} {bounds[:1].upper()}{bounds[1:]}{'.' if bounds else ''}".strip(),
        kind=kind,
        basic=extra.get("level") == "basic",
        optional=optional,
        choices=choices,
        default=default,
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """Kind, choices, and whether None is allowed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        kind, choices, _ = _kind(inner[0])
        return kind, choices, True
    if origin is Literal:
        return "choice", tuple(str(choice) for choice in arguments), False
    if origin is list:
        kind, choices, _ = _kind(arguments[0])
        return ("choices", choices, False) if kind == "choice" else ("list", (), False)
    if origin is dict:
        return "mapping", (), False
    kinds: dict[Any, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
    return kinds[annotation], (), False


def bounds_text(field: FieldInfo) -> str:
    """The bounds of a number in words: ``above 0, below 0.9``; empty where there are none."""
    words = []
    for constraint in field.metadata:
        if isinstance(constraint, annotated_types.Gt):
            words.append(f"above {constraint.gt}")
        elif isinstance(constraint, annotated_types.Ge):
            words.append(f"at least {constraint.ge}")
        elif isinstance(constraint, annotated_types.Lt):
            words.append(f"below {constraint.lt}")
        elif isinstance(constraint, annotated_types.Le):
            words.append(f"at most {constraint.le}")
    return ", ".join(words)


def get_value(config: StudyConfig, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def flat(config: StudyConfig) -> dict[str, Any]:
    """Every setting by its dotted key."""
    return {key: get_value(config, key) for key in study_options()}


def read_form(shown: Mapping[str, Any], base: StudyConfig) -> StudyConfig:
    """The config that a form asks for.

    Args:
        shown: Dotted key → what the component holds.
        base: Where the settings come from that the form does not show.

    Raises:
        ConfigError: With every value that does not fit.
    """
    options = study_options()
    tree = base.model_dump(mode="json")
    for key, value in shown.items():
        asked = options[key].from_widget(value)
        if asked == options[key].from_widget(options[key].to_widget(get_value(base, key))):
            continue  # untouched: keep the very value, also where two of them look the same in a component
        node = tree
        *parents, leaf = key.split(".")
        for part in parents:
            node = node[part]
        node[leaf] = asked
    return parse_config(tree, where="settings")


def step_of(option: Option) -> float:
    """By how much the arrows of a number change it: 1, or one in the default's first digit."""
    if option.kind == "integer":
        return 1
    return 10.0 ** math.floor(math.log10(option.default)) if option.default else 0.01


def preset_label(name: str) -> str:
    """A preset and what it is for: ``Quick look: does it work at all?``."""
    title, purpose = PRESET_WORDS[name]
    return f"{title}: {purpose}"
