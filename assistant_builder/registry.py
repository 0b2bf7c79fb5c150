"""Registries of arms, metrics, export formats and other components, which plugins extend.

A package outside this repository registers entries when one of its modules is imported. The module is named in the
entry point group ``assistant_builder.plugins`` of an installed package, or in the environment variable
``ASSISTANT_BUILDER_PLUGINS`` (names separated by commas). Child processes inherit both.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m

PLUGIN_GROUP = "assistant_builder.plugins"
PLUGIN_VARIABLE = "ASSISTANT_BUILDER_PLUGINS"

_loaded: set[str] = set()


class Named(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str:
        """The key of the entry in configuration, files and command line."""


class Listed(Named, Protocol):
    """An entry that the help of a command lists."""

    @property
    def help(self) -> str:
        """Description of the entry, in one phrase."""


Entry = TypeVar("Entry", bound=Named)


class Registry(Mapping[str, Entry]):
    """Entries by name, in the order of their registration; ``kind`` is their name in messages.

    Plugins are imported when entries are listed, and when a name is looked up that is not registered. ``builtin`` lists
    entries as ``module:attribute``, for a registry in a package below those modules: they are imported at the first use
    and precede all others.
    """

    def __init__(self, kind: str, builtin: Sequence[str] = ()) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._builtin = tuple(builtin)

    def register(self, entry: Entry) -> Entry:
        """Add an entry; raises ValueError if another entry has this name."""
        self._import_builtin()
        if self._entries.setdefault(entry.name, entry) != entry:
            raise ValueError(f"{self.kind} {entry.name!r} is registered already")
        return entry

    def __getitem__(self, name: str) -> Entry:
        """The entry of this name, or KeyError; use :meth:`find` for names from users."""
        self._import_builtin()
        if name not in self._entries:  # reading the metadata of all packages takes a while
            load_plugins()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def _load(self) -> None:
        self._import_builtin()
        load_plugins()

    def _import_builtin(self) -> None:
        paths, self._builtin = self._builtin, ()
        for path in paths:
            module, _, attribute = path.partition(":")
            self.register(getattr(importlib.import_module(module), attribute))

    def find(self, name: str) -> Entry:
        """The entry of a name from a user; raises ConfigError with a list of the names if it does not exist."""
        if name not in self:
            raise ConfigError(
                m("{kind} {name!r} is unknown", kind=self.kind, name=name),
                remedy=m("Choose one of {names}", names=", ".join(self)),
            )
        return self[name]


def find_registry(place: str) -> Registry[Any]:
    """Import a registry, given as ``evals.metrics:METRICS``, when a setting is validated or choices are listed.

    The package that contains it is above ``assistant_builder.config`` in the import order.
    """
    found = pkgutil.resolve_name(place)
    assert isinstance(found, Registry)
    return found


def load_plugins() -> None:
    """Import the modules of plugins, each once per process; raises ConfigError for one that cannot be imported."""
    named = [
        name.strip() for name in os.environ.get(PLUGIN_VARIABLE, "").split(",") if name.strip()
    ]
    if PLUGIN_GROUP not in _loaded:  # reading the metadata of all packages takes a while
        _loaded.add(PLUGIN_GROUP)
        named += [point.module for point in importlib.metadata.entry_points(group=PLUGIN_GROUP)]
    for name in named:
        if name in _loaded:
            continue
        # before the import: the module registers entries, which may look others up
        _loaded.add(name)
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                m(
                    "plugin {name} cannot be imported: {name_2}: {error}",
                    name=name,
                    name_2=type(error).__name__,
                    error=error,
                ),
                remedy=m(
                    "Remove it from {plugin_variable}, or uninstall its package",
                    plugin_variable=PLUGIN_VARIABLE,
                ),
            ) from error
