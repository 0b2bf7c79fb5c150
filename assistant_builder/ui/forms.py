"""Settings as components: one component for each field of ``config.py``, never a default written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from assistant_builder.config import PRESETS, StudyConfig
from assistant_builder.ui.options import Option, get_value, preset_label, read_form, step_of, study_options


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
