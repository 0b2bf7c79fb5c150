"""Registries: look-up, duplicates, entries that a module outside the product registers."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from assistant_builder import registry
from assistant_builder.errors import ConfigError
from assistant_builder.registry import PLUGIN_VARIABLE, Registry, find_registry


@dataclass(frozen=True)
class Colour:
    name: str
    code: str = ""


COLOURS: Registry[Colour] = Registry("colour")


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_loaded", set())

    def write(text: str) -> None:
        (tmp_path / "colour_plugin.py").write_text(text)
        monkeypatch.setenv(PLUGIN_VARIABLE, "colour_plugin")
        sys.modules.pop("colour_plugin", None)

    return write


def test_entries_keep_the_order_of_registration():
    colours: Registry[Colour] = Registry("colour")
    colours.register(Colour("red"))
    colours.register(Colour("blue"))
    assert list(colours) == ["red", "blue"]
    assert colours["blue"] == Colour("blue")


def test_name_that_is_taken_is_refused_and_the_same_entry_is_not():
    colours: Registry[Colour] = Registry("colour")
    colours.register(Colour("red"))
    colours.register(Colour("red"))
    with pytest.raises(ValueError, match="colour 'red' is registered already"):
        colours.register(Colour("red", "#f00"))


def test_builtin_entries_precede_those_of_plugins_and_are_imported_at_the_first_use(
    tmp_path, monkeypatch
):
    (tmp_path / "builtin_colours.py").write_text(
        "from tests.test_registry import Colour\nRED = Colour('red')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    colours: Registry[Colour] = Registry("colour", builtin=("builtin_colours:RED",))
    assert "builtin_colours" not in sys.modules
    colours.register(Colour("blue"))  # as a plugin does that another registry has loaded
    assert list(colours) == ["red", "blue"]
    sys.modules.pop("builtin_colours")


def test_unknown_name_lists_the_known_ones():
    colours: Registry[Colour] = Registry("colour")
    colours.register(Colour("red"))
    with pytest.raises(ConfigError, match="colour 'green' is unknown") as caught:
        colours.find("green")
    assert "red" in str(caught.value.remedy)


def test_module_named_in_the_environment_registers_entries(plugin, monkeypatch):
    colours: Registry[Colour] = Registry("colour")
    monkeypatch.setattr(registry, "COLOURS", colours, raising=False)
    plugin(
        "from dataclasses import dataclass\nfrom assistant_builder import registry\n"
        "@dataclass(frozen=True)\nclass Colour:\n    name: str\n"
        "registry.COLOURS.register(Colour('green'))\n"
    )
    assert "green" in colours


def test_module_that_cannot_be_imported_is_named(plugin):
    plugin("raise RuntimeError('no such colour')")
    with pytest.raises(
        ConfigError, match="plugin colour_plugin cannot be imported: RuntimeError: no such colour"
    ):
        list(COLOURS)


def test_known_name_is_found_without_plugins_and_lists_with_them(plugin):
    plugin("raise RuntimeError('no such colour')")
    colours: Registry[Colour] = Registry("colour")
    colours.register(Colour("red"))
    assert colours["red"] == Colour("red") and "red" in colours
    with pytest.raises(ConfigError, match="plugin colour_plugin cannot be imported"):
        "green" in colours  # noqa: B015


def test_registry_is_found_by_its_place():
    from evals.metrics import METRICS

    assert find_registry("evals.metrics:METRICS") is METRICS
