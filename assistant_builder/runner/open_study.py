"""Open or create the study that the user names by a data file, a study.yaml, a study name or a URL in a store."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, write_bytes
from assistant_builder.config import StudyConfig, load_config, read_value
from assistant_builder.data import prepare_dataset
from assistant_builder.data.reading_process import read_table
from assistant_builder.errors import ConfigError, StoreError, StudyError
from assistant_builder.i18n import m
from assistant_builder.models.catalog import resolve
from assistant_builder.models.remote_code import allows_code
from assistant_builder.runner.invalidation import delete_unreadable_steps, first_stale_step
from assistant_builder.study import Study, studies_folder
from assistant_builder.study.addresses import allow_addresses

_YAML = (".yaml", ".yml")
_GENERIC_NAMES = {"data", "dataset", "train", "pairs", "qa"}
"""File names that are too generic for a study name; the name of the folder is used instead."""


def open_or_create(
    source: str,
    *,
    name: str | None,
    changes: Mapping[str, Any],
    redo: bool,
    before: Callable[[StudyConfig], None] = lambda config: None,
    like: str | None = None,
) -> Study:
    """Open the study that ``source`` names, or create it; nothing is written if an error is raised.

    ``source`` is a data file, a ``study.yaml``, a study's name, or its URL in a store. ``changes`` are settings by
    dotted key. ``before`` is called with the settings before an address in them is contacted and before the base model
    is looked up, and again if the store has other settings. ``like`` is a study whose settings a data file takes over.
    Addresses in ``source`` and ``changes`` are the user's own words, so they are allowed and remembered.

    Raises:
        ConfigError: A setting is invalid, ``source`` does not exist, ``like`` is given for another source than a
            data file, or the user has not allowed the store that a study names.
        ChangedInputsError: The study exists with other inputs, and ``redo`` is off.
    """
    path = Path(source).expanduser()
    before = _allowing(changes, before)
    if like is not None and (not path.is_file() or path.suffix.lower() in _YAML):
        raise ConfigError(
            m(
                "--from {like} takes over settings for a data file, and {source} is none",
                like=like,
                source=source,
            ),
            remedy=m("A {study} as SOURCE keeps its settings: leave --from out"),
        )
    if "://" in source:
        changes = {**changes, "executor.store": source.rstrip("/").rpartition("/")[0]}
        # rejects a URL with a secret before it is contacted
        typed = StudyConfig().with_changes(changes)
        allow_addresses(typed.addresses.values())
        from assistant_builder.store.sync import fetch_study

        return _update(fetch_study(source), name, changes, redo=redo, before=before)
    if not path.is_file():
        if "/" in source or path.suffix:
            raise ConfigError(
                m("there is no file {source}", source=source), remedy=m("Check the path")
            )
        study = Study.open(source)
        config = study.config.with_changes(dict(changes))
        before(config)
        store = config.executor.store
        if store is not None:
            from assistant_builder.store.sync import pull_updates

            # the run raises and records the error again
            with contextlib.suppress(StoreError, StudyError):
                pull_updates(study, store)
        return _update(study, name, changes, redo=redo, before=before)
    config, data = read_source(path)
    if like is not None:
        config = _settings_of(like, data, config.name)
    config = config.with_changes({**changes, "data.source": str(data)})
    if name is not None:
        config = config.named(name)
    return create_or_update(config, data, redo=redo, before=before)


def _allowing(
    changes: Mapping[str, Any], before: Callable[[StudyConfig], None]
) -> Callable[[StudyConfig], None]:
    """Allow the addresses among the changes, and then call ``before``."""

    def allow(config: StudyConfig) -> None:
        typed = {
            key: read_value(key, value) if isinstance(value, str) else value
            for key, value in changes.items()
            if key in config.addresses
        }
        allow_addresses(
            address for key, address in config.addresses.items() if typed.get(key) == address
        )
        before(config)

    return allow


def _update(
    study: Study,
    name: str | None,
    changes: Mapping[str, Any],
    *,
    redo: bool,
    before: Callable[[StudyConfig], None],
) -> Study:
    """Change a study's settings, or create a study of another name from its data and settings."""
    config, source = study.config.with_changes(dict(changes)), None
    if name is not None and config.named(name).name != study.name:
        config, source = config.named(name), study.source
    return create_or_update(config, source, redo=redo, before=before)


def _settings_of(name: str, data: Path, new_name: str) -> StudyConfig:
    """The settings of a study for another data file; columns that the file does not have are mapped again."""
    config = Study.open(name).config
    mapped = config.data.columns
    known = read_table(data, {column for column in mapped.values() if column}).columns
    columns = {role: column for role, column in mapped.items() if not column or column in known}
    return config.with_changes({"name": new_name, "data.columns": columns})


def read_source(path: Path) -> tuple[StudyConfig, Path]:
    """The settings and the data file of a ``study.yaml``, or of a data file alone; raises ConfigError."""
    if path.suffix.lower() not in _YAML:
        stem = path.name.split(".")[0]
        if stem.lower() in _GENERIC_NAMES and path.resolve().parent.name:
            stem = path.resolve().parent.name
        name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "study"
        return StudyConfig(name=name), path.resolve()
    config = load_config(path)
    data = Path(config.data.source)
    if not config.data.source or not data.is_file():
        raise ConfigError(
            m("data.source={source!r} is not a file", source=config.data.source),
            where=str(path),
            remedy=m("Write the path of the data file, relative to the study.yaml"),
        )
    return config, data


def create_or_update(
    config: StudyConfig,
    source: Path | None,
    *,
    redo: bool = False,
    before: Callable[[StudyConfig], None] = lambda config: None,
) -> Study:
    """Create or update a study, with ``source`` None for its present data; see :func:`open_or_create`."""
    before(config)
    resolve(config.model.base, trust_remote_code=allows_code(config.model))
    # allowed for one run only, so never saved
    config = config.with_changes({"model.trust_remote_code": False})
    folder = studies_folder() / config.name
    if not folder.exists():
        if source is None:
            raise StudyError(
                m("the {study} has no data file"),
                where=str(folder),
                remedy=m("Start it from a data file"),
            )
        prepare_dataset(source, config.data)  # rejects unusable data before anything is written
        return Study.create(config, source)
    study = Study.open(config.name)
    first_stale_step(study, redo=redo, config=config, source=source)
    other_source = source is not None and (
        study.source is None or file_hash(source) != file_hash(study.source)
    )
    if other_source or config != study.config:
        with study.lock():  # a running study must not mix steps of different settings
            if redo:
                delete_unreadable_steps(study)
            if study.state == "running":
                raise StudyError(
                    m("a step of the {study} is still running with the previous settings"),
                    where=m("{study} {name}", name=study.name),
                    remedy=m("Wait until it is done, or cancel it first"),
                )
            if source is not None and other_source:
                old, new = study.source, study.folder / "data" / f"source{source.suffix.lower()}"
                write_bytes(new, source.read_bytes())
                if old is not None and old != new:
                    old.unlink()
            study.write_config(config)
    return study
