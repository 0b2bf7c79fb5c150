"""Settings on the page: one component per field of the config, and messages that name settings by their labels.

Kind, bounds, help and default of a setting come from :mod:`assistant_builder.config`, which also validates the values.
"""

from __future__ import annotations

import functools
import math
import operator
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from assistant_builder.config import (
    BY_HEART,
    PRESET_LABELS,
    PRESETS,
    RegistryName,
    StudyConfig,
    constraints_of,
    option_fields,
    parse_config,
)
from assistant_builder.i18n import N_, CommandWords, Setting, t
from assistant_builder.i18n.message import WRITTEN, use_bits

if TYPE_CHECKING:
    from gradio.components import Component

Kind = Literal["integer", "number", "text", "flag", "choice", "choices", "list", "mapping"]

HIDDEN_KEYS = frozenset(("version", "model.trust_remote_code", "retrieval.examples"))
"""Fields of the config that the form of settings lacks: code of a model is trusted by ``models/trust.py``, examples
are chosen where the bubble is put on a website."""


@dataclass(frozen=True)
class Option:
    """One setting as the page shows it.

    Attributes:
        key: Dotted key, as in ``study.yaml`` and ``--set``.
        help: Description with the bounds.
        kind: Type of the value, which selects the component.
        basic: Whether it is shown outside of the advanced section.
        optional: Whether it may be empty.
        choices: Allowed values of ``choice`` and ``choices``; of a number, words that it may be instead (``auto``).
        meanings: What a choice means, in a few words, for choices that say it.
    """

    key: str
    title: str
    help: str
    kind: Kind
    basic: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_typed(self) -> bool:
        """Whether it is shown as text: a number component has no value for "not set" and for a word."""
        return (
            self.kind == "text" or self.optional or (self.kind == "integer" and bool(self.choices))
        )

    def to_widget(self, value: Any) -> Any:
        """Convert a value to that of the component."""
        if self.kind == "list":
            return ", ".join(value)
        if self.kind == "mapping":
            return "\n".join(f"{key} = {item}" for key, item in value.items())
        if self.is_typed:
            return "" if value is None else str(value)
        return list(value) if self.kind == "choices" else value

    def from_widget(self, shown: Any) -> Any:
        """The inverse of :meth:`to_widget`; an invalid value is returned unchanged, for the config to refuse."""
        if self.kind == "list":
            return [item.strip() for item in (shown or "").split(",") if item.strip()]
        if self.kind == "mapping":
            pairs = (line.partition("=") for line in (shown or "").split("\n") if line.strip())
            return {key.strip(): value.strip() for key, _, value in pairs}
        if self.optional and (shown is None or not str(shown).strip()):
            return None
        if self.kind == "integer" and self.choices and isinstance(shown, str):
            return (
                int(shown) if shown.strip().isdecimal() else shown.strip().lower() or self.default
            )
        if self.kind == "text":
            return shown or ""
        if self.kind == "integer" and isinstance(shown, float) and shown.is_integer():
            return int(shown)
        return shown


def study_options() -> dict[str, Option]:
    """Every setting by its dotted key, in the order of the config."""
    return {
        key: _option(key, field, default)
        for key, (field, default) in option_fields().items()
        if key not in HIDDEN_KEYS
    }


def _option(key: str, field: FieldInfo, default: Any) -> Option:
    kind, choices, optional = _kind(field.annotation)
    meanings: Mapping[str, str] = {}
    for name_of in (
        constraint for constraint in field.metadata if isinstance(constraint, RegistryName)
    ):
        kind, choices = "choice", name_of.choices()
        with use_bits(WRITTEN):  # each entry says its own bits
            meanings = {name: t(about) for name, about in name_of.meanings().items()}
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    bounds, help = bounds_text(field), t(field.description or "")
    return Option(
        key=key,
        title=t(field.title) if field.title else key.rsplit(".", 1)[-1],
        help=f"{help} {bounds[:1].upper()}{bounds[1:]}{'.' if bounds else ''}".strip(),
        kind=kind,
        basic=extra.get("level") == "basic",
        optional=optional,
        choices=choices,
        default=default,
        meanings=meanings,
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """Kind, choices, and whether None is valid."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        kind, choices, _ = _kind(arguments[0])
        words = tuple(
            word
            for other in arguments[1:]
            if get_origin(other) is Literal
            for word in get_args(other)
        )
        return kind, choices or words, type(None) in arguments
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
    """The bounds of a number in words: ``above 0, below 0.9``; empty if it has none."""
    bounds = (
        (annotated_types.Gt, N_("above {bound}"), "gt"),
        (annotated_types.Ge, N_("at least {bound}"), "ge"),
        (annotated_types.Lt, N_("below {bound}"), "lt"),
        (annotated_types.Le, N_("at most {bound}"), "le"),
    )
    return ", ".join(
        t(words, bound=getattr(constraint, name))
        for constraint in constraints_of(field)
        for kind, words, name in bounds
        if isinstance(constraint, kind)
    )


def get_value(config: StudyConfig, key: str) -> Any:
    """The value of a dotted key."""
    return operator.attrgetter(key)(config)


def flat(config: StudyConfig) -> dict[str, Any]:
    """Every setting by its dotted key."""
    return {key: get_value(config, key) for key in study_options()}


def read_form(shown: Mapping[str, Any], base: StudyConfig) -> StudyConfig:
    """Build a config from the values of a form by dotted key, and from ``base`` for settings that it does not show.

    Raises:
        ConfigError: Values are invalid; the error lists all of them.
    """
    options = study_options()
    tree = base.model_dump(mode="json")
    for key, value in shown.items():
        entered = options[key].from_widget(value)
        if entered == options[key].from_widget(options[key].to_widget(get_value(base, key))):
            continue  # unchanged: keep the value of the base, since two values can look the same in a component
        *parents, leaf = key.split(".")
        functools.reduce(dict.__getitem__, parents, tree)[leaf] = entered
    return parse_config(tree, where="settings")


def number_step(option: Option) -> float:
    """The step of a number field: 1, or one unit of the first digit of the default."""
    if option.kind == "integer":
        return 1
    return 10.0 ** math.floor(math.log10(option.default)) if option.default else 0.01


def make_component(option: Option, suggestions: Sequence[tuple[str, str]] = ()) -> Component:
    """Create the component of a setting, with its default and (label, value) of suggested texts."""
    import gradio as gr

    value = option.to_widget(option.default)
    place = f"ab-{option.key.replace('.', '-')}"
    shared: dict[str, Any] = {
        "label": option.title,
        # of the base model the page says more below it
        "info": None if option.key == "model.base" else option.help,
        "interactive": True,
        "elem_id": place,
    }
    if option.key == "train.preset":
        return gr.Radio(
            preset_choices(by_heart=False),
            value=value,
            elem_classes="ab-preset-cards",
            show_label=False,
            **{**shared, "info": None},
        )
    if (
        option.kind in ("integer", "number") and not option.is_typed
    ):  # gr.Number turns "not set" into 0
        # No bounds here: the component would round, and refuse one value at a time without a remedy.
        return gr.Number(value=value, step=number_step(option), **shared)
    if option.kind == "flag":
        return gr.Checkbox(value=value, **shared)
    if option.kind == "choice":
        return gr.Dropdown(
            [
                (f"{name}: {option.meanings[name]}" if name in option.meanings else name, name)
                for name in option.choices
            ],
            value=value,
            filterable=False,
            **shared,
        )
    if option.kind == "choices":
        return gr.CheckboxGroup(list(option.choices), value=value, **shared)
    if suggestions:
        return gr.Dropdown(list(suggestions), value=value, allow_custom_value=True, **shared)
    lines = 2 if option.kind == "mapping" or option.key == "data.system" else 1
    empty = t("not set") if option.optional else None
    return gr.Textbox(value=value, lines=lines, max_lines=8, placeholder=empty, **shared)


class OptionForm:
    """The components of several settings, with suggested texts by dotted key."""

    def __init__(self, suggestions: Mapping[str, Sequence[tuple[str, str]]] | None = None) -> None:
        self._suggestions = suggestions or {}
        self.components: dict[str, Component] = {}

    def show(self, keys: Iterable[str]) -> None:
        """Create the components of these settings in the open layout block."""
        options = study_options()
        for key in keys:
            self.components[key] = make_component(options[key], self._suggestions.get(key, ()))

    @property
    def inputs(self) -> list[Component]:
        """The components in order, for use as inputs or outputs of an event."""
        return list(self.components.values())

    def values(self, config: StudyConfig) -> dict[Component, Any]:
        """Component → its value for a config."""
        options = study_options()
        return {
            component: options[key].to_widget(get_value(config, key))
            for key, component in self.components.items()
        }

    def read(self, values: Mapping[Any, Any], base: StudyConfig) -> StudyConfig:
        """Build a config from the values of the components; see :func:`read_form`."""
        shown = {key: values[component] for key, component in self.components.items()}
        return read_form(shown, base)

    def preset_targets(self) -> list[Component]:
        """The components that a preset sets."""
        return [self.components[f"train.{key}"] for key in preset_keys()]


def preset_choices(
    times: Mapping[str, str] | None = None, *, by_heart: bool = True
) -> list[tuple[str, str]]:
    """The cards of the presets: title, time (``times``) and purpose in lines; CSS hides “custom” unless chosen."""
    return [
        ("\n".join(filter(None, (t(title), (times or {}).get(name, ""), t(purpose)))), name)
        for name, (title, purpose) in PRESET_LABELS.items()
        if by_heart or name != BY_HEART
    ]


def matching_preset(values: Mapping[str, Any], chosen: str) -> str:
    """The chosen preset, or ``custom`` if a value of ``train`` differs from it."""
    wanted = PRESETS.get(chosen, {})
    return (
        chosen
        if wanted and all(values[key] == value for key, value in wanted.items())
        else "custom"
    )


def preset_title(config: StudyConfig) -> str:
    """Name of the preset of a study on the page."""
    train = config.train
    return t(PRESET_LABELS[matching_preset(train.model_dump(), train.preset)][0])


def preset_keys() -> list[str]:
    """The fields of ``train`` that presets set."""
    return sorted({key for values in PRESETS.values() for key in values})


def preset_values(name: str) -> list[Any]:
    """Values that a preset sets in :meth:`OptionForm.preset_targets`; ``custom`` changes nothing."""
    import gradio as gr

    values = PRESETS.get(name)
    return [gr.skip() if values is None else values.get(key, gr.skip()) for key in preset_keys()]


def keys_of(part: str, *, basic: bool | None = None, without: Sequence[str] = ()) -> list[str]:
    """The dotted keys of one section of the config: the basic ones, the advanced ones (False), or all (None)."""
    return [
        key
        for key, option in study_options().items()
        if key.startswith(f"{part}.") and key not in without and basic in (None, option.basic)
    ]


ROLE_TITLES = {
    "question": N_("Question"),
    "answer": N_("Answer"),
    "context": N_("Context"),
    "messages": N_("Conversation"),
    "group": N_("Group, kept together"),
    "cluster": N_("Cluster, one fact"),
    "family": N_("Family, facts of one kind"),
    "split": N_("Split"),
    "answerable": N_("Answerable"),
    "system": N_("System prompt"),
}
MAPPING_TITLE = N_("Match your columns")


class PageWords:
    """The words of the page: settings by their labels, and studies as projects."""

    place: Literal["command", "page"] = "page"
    study, studies = "project", "projects"

    @property
    def redo(self) -> str:
        """The box on the Train tab."""
        return t("tick “Replace results” on the Train tab and press the button there")

    @property
    def with_redo(self) -> str:
        """The box on the Train tab."""
        return t("tick “Replace results” on the Train tab")

    def setting(self, setting: Setting) -> str:
        """``data.remove_leaks=never`` is “Remove leaks” (never), a column its role under “Match your columns”."""
        role = ROLE_TITLES.get(setting.key.removeprefix("data.columns."))
        option = study_options().get(setting.key)
        if role and setting.key.startswith("data.columns."):
            title = t("“{role}” under “{title}”", role=t(role), title=t(MAPPING_TITLE))
        elif option:
            title = t("“{title}”", title=option.title)
        else:
            return CommandWords().setting(setting)
        value = (setting.value or "").strip("'")
        if setting.value is not None and not value:
            return (
                t("{title} (not used)", title=title) if role else t("{title} (empty)", title=title)
            )
        return title if not value or value.isupper() else f"{title} ({value})"


PAGE_WORDS = PageWords()
