"""What the page needs to know of a setting, read off ``config.py``: its kind, bounds and help; values to and fro.

Pure: no gradio. Values are validated by ``config.py`` alone, which reports all problems together.

Settings as components: one component for each field of ``config.py``, never a default written twice.

Messages that name a setting as the command line does, in the words of the page: the control that sets it.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from assistant_builder.config import PRESET_LABELS, PRESETS, RegistryName, StudyConfig, option_fields, parse_config

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
    for name_of in (constraint for constraint in field.metadata if isinstance(constraint, RegistryName)):
        kind, choices = "choice", name_of.choices()
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
    if origin is Annotated:
        name_of = next((item for item in arguments[1:] if isinstance(item, RegistryName)), None)
        return _kind(arguments[0]) if name_of is None else ("choice", name_of.choices(), False)
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
    title, purpose = PRESET_LABELS[name]
    return f"{title}: {purpose}"


def component_of(option: Option, suggestions: Sequence[tuple[str, str]] = ()) -> Component:
    """The component that suits a setting, holding its default.

    Args:
        option: The setting.
        suggestions: (label, value) offered for a text, which may still be any other.
    """
    value = option.to_widget(option.default)
    place = f"ab-{option.key.replace('.', '-')}"
    shared: dict[str, Any] = {"label": option.title, "info": option.help, "interactive": True, "elem_id": place}
    if option.key == "train.preset":
        choices = [(preset_label(name), name) for name in option.choices]
        return gr.Radio(choices, value=value, elem_classes="ab-presets", **shared)
    if option.kind in ("integer", "number") and not option.optional:  # gr.Number turns "not set" into 0
        # Bounds are left to config.py: the component would round, and refuse one value at a time without a remedy.
        return gr.Number(value=value, step=step_of(option), **shared)
    if option.kind == "flag":
        return gr.Checkbox(value=value, **shared)
    if option.kind == "choice":
        return gr.Dropdown(list(option.choices), value=value, filterable=False, **shared)
    if option.kind == "choices":
        return gr.CheckboxGroup(list(option.choices), value=value, **shared)
    if suggestions:
        return gr.Dropdown(list(suggestions), value=value, allow_custom_value=True, **shared)
    lines = 2 if option.kind == "mapping" or option.key == "data.system" else 1
    empty = "not set" if option.optional else None
    return gr.Textbox(value=value, lines=lines, max_lines=8, placeholder=empty, **shared)


class OptionForm:
    """A set of settings on the page.

    Args:
        suggestions: Dotted key → (label, value) offered for it.
    """

    def __init__(self, suggestions: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> None:
        self._suggestions = suggestions or {}
        self.components: dict[str, Component] = {}

    def show(self, keys: Iterable[str]) -> None:
        """Place the components of these settings where the caller's layout stands."""
        options = study_options()
        for key in keys:
            self.components[key] = component_of(options[key], self._suggestions.get(key, ()))

    @property
    def inputs(self) -> list[Component]:
        """The components in order, as inputs or outputs of an event."""
        return list(self.components.values())

    def values(self, config: StudyConfig) -> list[Any]:
        """What the components show for a config, in order."""
        options = study_options()
        return [options[key].to_widget(get_value(config, key)) for key in self.components]

    def read(self, shown: Sequence[Any], base: StudyConfig) -> StudyConfig:
        """The config that the components ask for.

        Raises:
            ConfigError: With every value that does not fit.
        """
        return read_form(dict(zip(self.components, shown, strict=True)), base)

    def preset_targets(self) -> list[Component]:
        """The components that choosing a preset sets."""
        return [self.components[f"train.{key}"] for key in preset_keys()]


def preset_keys() -> list[str]:
    """The fields of ``train`` that presets set."""
    return sorted({key for values in PRESETS.values() for key in values})


def preset_values(name: str) -> list[Any]:
    """What choosing a preset puts into :meth:`OptionForm.preset_targets`; ``custom`` changes nothing."""
    values = PRESETS.get(name)
    return [gr.skip() if values is None else values.get(key, gr.skip()) for key in preset_keys()]


def keys_of(part: str, *, basic: bool | None = None, without: Iterable[str] = ()) -> list[str]:
    """The dotted keys of one part of the config.

    Args:
        part: ``data``, ``model``, ``train`` or ``eval``.
        basic: Only the basic ones, only the others, or (None) all.
        without: Keys to leave out.
    """
    left_out = set(without)
    return [
        key
        for key, option in study_options().items()
        if key.startswith(f"{part}.") and key not in left_out and basic in (None, option.basic)
    ]


ROLE_TITLES = {
    "question": "Question",
    "answer": "Answer",
    "context": "Context",
    "messages": "Conversation",
    "group": "Group, kept together",
    "cluster": "Cluster, one fact",
    "split": "Split",
    "answerable": "Answerable",
    "system": "System prompt",
}
MAPPING_TITLE = "Which column is which"
_KEY = r"(?:data|model|train|eval)\.[a-z][a-z_.]*[a-z]"
_VALUE = r"""=(?:'[^']*'|[^\s,;:)'"]+)"""
_SETTING = re.compile(rf"(?:--set )?({_KEY})({_VALUE})?")
_LISTED = re.compile(rf"--set {_KEY}{_VALUE}(?: --set {_KEY}{_VALUE})+")
_PHRASES = (
    (re.compile(r"resume it with 'assistant-builder run [^']*'"), "open that study at the top of the page"),
    (re.compile(r"(?:[Rr]un the study|[Rr]un it) again with --redo"),
     "tick “Replace results” on the Train tab and press the button there"),
    (re.compile(r"pass --redo to run"), "tick “Replace results” on the Train tab to run"),
    (re.compile(r"Choose another name with --name \S+"), "Choose another name"),
)


def page_words(text: str) -> str:
    """The text with each setting called what the page calls it.

    ``--set data.columns.group=NAME`` becomes “Group, kept together” under “Which column is which”;
    ``train.max_length`` becomes “Longest pair”; ``data.remove_leaks=never`` becomes “Remove leaks” (never).
    """
    for pattern, words in _PHRASES:
        text = pattern.sub(words, text)
    text = _LISTED.sub(lambda match: match.group().replace(" --set ", " and --set "), text)
    under = f"” under “{MAPPING_TITLE}” and “"
    return _SETTING.sub(_named, text).replace(under, "” and “")


def _named(match: re.Match[str]) -> str:
    key, value = match.group(1), (match.group(2) or "").lstrip("=").strip("'")
    title = _title(key)
    if title is None:
        return match.group()
    if match.group(2) == "=''":
        return f"{title} (not used)" if key.startswith("data.columns.") else f"{title} (empty)"
    return title if not value or value.isupper() else f"{title} ({value})"


def _title(key: str) -> str | None:
    if key.startswith("data.columns."):
        role = ROLE_TITLES.get(key.removeprefix("data.columns."))
        return f"“{role}” under “{MAPPING_TITLE}”" if role else None
    option = study_options().get(key)
    return f"“{option.title}”" if option else None
