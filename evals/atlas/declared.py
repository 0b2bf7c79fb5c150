"""An atlas that is declared in a file before its studies are run; each finished study leaves a cell that stays.

.. code-block:: yaml

    settings: {approaches: [memory], seeds: 3, formats.types: [Q8_0, Q4_0]}
    studies:
      - ../campsite/study.yaml
      - source: ../pool.csv
        settings: {seeds: 1}

Paths are relative to the file. A study is named after the file and its data; its cell is ``cells/NAME.json`` in the
folder of the file, with effects, settings and the machine, and no text of the data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant_builder.atomic_io import bounded_bytes, file_hash, read_json, write_json
from assistant_builder.config import StudyConfig
from assistant_builder.config.safe_yaml import read_yaml
from assistant_builder.config.study_config import option_fields
from assistant_builder.error_translation import translate_error
from assistant_builder.errors import AssistantBuilderError, Cancelled, ConfigError, EvaluationError
from assistant_builder.i18n import joined, m
from assistant_builder.runner.backend import Event
from assistant_builder.runner.open_study import create_or_update, read_source
from assistant_builder.runner.run import run_study
from assistant_builder.study import Study
from assistant_builder.study.contents import Provenance
from evals.atlas.effects import Effect, effects_of

_SUFFIXES = (".yaml", ".yml")
_NOT_DECLARED = {"name", "title", "data.source"}
_MADE_WITH = ("torch", "transformers", "peft", "bitsandbytes")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    source: str
    settings: dict[str, Any] = Field(default_factory=dict)


class _File(BaseModel):
    """Content of an atlas file."""

    model_config = ConfigDict(extra="forbid")
    note: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    studies: list[str | _Entry] = Field(min_length=1, max_length=1000)


@dataclass(frozen=True)
class _Cell:
    settings: dict[str, Any]
    data_sha256: str
    made: dict[str, Any]
    effects: tuple[Effect, ...]

    def __post_init__(self) -> None:
        if len({(each.storage, each.approach, each.metric) for each in self.effects}) < len(
            self.effects
        ):
            raise ValueError("two effects of one storage, approach and metric")


@dataclass(frozen=True)
class DeclaredStudy:
    """A study of an atlas: its settings, its data, and the file of its cell."""

    config: StudyConfig
    data: Path
    cell: Path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults, by dotted key."""
        tree = self.config.model_dump(mode="json")
        defaults = StudyConfig().model_dump(mode="json")
        found = {}
        for dotted in option_fields():
            section, _, key = dotted.partition(".")
            value, default = (
                each[section][key] if key else each[section] for each in (tree, defaults)
            )
            if value != default and dotted not in _NOT_DECLARED and section != "executor":
                found[dotted] = value
        return found

    def effects(self) -> tuple[Effect, ...]:
        """The effects of the cell; none before the study was run.

        Raises:
            StudyError: The file is damaged.
            EvaluationError: It was made with other settings or data.
        """
        if not self.cell.is_file():
            return ()
        known: _Cell = read_json(self.cell, _Cell, remedy=m("Delete it, and run the atlas again"))
        if known.settings != self.settings or known.data_sha256 != file_hash(self.data):
            raise EvaluationError(
                m("its cell was made with other settings or data"),
                where=str(self.cell),
                remedy=m("Delete it, and run the atlas again"),
            )
        return known.effects


@dataclass(frozen=True)
class Atlas:
    """A declared atlas: what is said about it, and its studies."""

    note: str
    studies: tuple[DeclaredStudy, ...]

    @property
    def missing(self) -> list[DeclaredStudy]:
        """The studies without a cell."""
        return [each for each in self.studies if not each.cell.is_file()]


def is_declared(name: str) -> bool:
    """Whether a name is that of an atlas file, and not of a study or bundle."""
    return Path(name).suffix.lower() in _SUFFIXES


def read_atlas(path: Path) -> Atlas:
    """Read an atlas file.

    Raises:
        ConfigError: It is not an atlas, a setting is invalid, a file is missing, or two studies have one name.
    """
    try:
        file = _File.model_validate(read_yaml(bounded_bytes(path).decode("utf-8-sig")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            m("it is not an atlas: {error}", error=_first_line(error)),
            where=str(path),
            remedy=m("Write 'studies:' with a list of data files or study.yaml files"),
        ) from error
    studies: dict[str, DeclaredStudy] = {}
    for entry in file.studies:
        given = _Entry(source=entry) if isinstance(entry, str) else entry
        source = path.parent / given.source
        if not os.path.isfile(source):  # a name can be too long for the system
            raise ConfigError(
                m("there is no file {source}", source=given.source),
                where=str(path),
                remedy=m("Check the path, which is relative to the atlas"),
            )
        config, data = read_source(source)
        config = config.with_changes({**file.settings, **given.settings, "data.source": str(data)})
        config = config.named(f"{path.stem}-{config.name}")
        if config.name in studies:
            raise ConfigError(
                m("two {studies} would have the name {name!r}", name=config.name),
                where=str(path),
                remedy=m("Give one of them another 'name' in its settings"),
            )
        cell = path.parent / "cells" / f"{config.name}.json"
        if cell.parent.is_symlink() or cell.is_symlink():
            raise ConfigError(
                m("{name} is a link", name=cell.parent.name),
                where=str(cell),
                remedy=m("Put the folder or the file in its place"),
            )
        studies[config.name] = DeclaredStudy(config, data, cell)
    return Atlas(file.note, tuple(studies.values()))


def run_missing(
    atlas: Atlas,
    *,
    before: Callable[[StudyConfig], None] = lambda config: None,
    listener: Callable[[str], AbstractContextManager[Callable[[Event], None]]] = lambda name: (
        nullcontext(lambda event: None)
    ),
    check: Callable[[Study], None] = lambda study: None,
) -> None:
    """Run the studies without a cell, one after the other, and write their cells; a later call goes on.

    Args:
        atlas: The atlas.
        before: Called with the settings of a study before it is created.
        listener: Called with the name of each study; the context manager of its event callback.
        check: See :func:`assistant_builder.runner.run.run_study`.

    Raises:
        Cancelled: The user cancelled.
        EvaluationError: Studies failed; the others were run.
    """
    errors: dict[str, AssistantBuilderError] = {}
    for each in atlas.missing:
        try:
            study = create_or_update(each.config, each.data, before=before)
            with listener(study.name) as on_event:
                run_study(study, on_event=on_event, check=check)
            _write_cell(each, study)
        except Cancelled:
            raise
        except (AssistantBuilderError, OSError, MemoryError) as error:
            errors[each.config.name] = translate_error(error)
    if errors:
        reasons = [joined((name, error.what), ": ") for name, error in errors.items()]
        raise EvaluationError(
            m(
                "{failed} of {all} {studies} failed ({why})",
                failed=len(errors),
                all=len(atlas.studies),
                why=joined(reasons, "; "),
            ),
            where="atlas",
            remedy=m("Run the atlas again; it repeats only the {studies} that failed"),
        )


def _write_cell(declared: DeclaredStudy, study: Study) -> None:
    provenance = read_json(study.folder / "provenance.json", Provenance)
    seconds = sum(study.step(step).seconds for step in study.shown_steps)
    made = {
        **{key: provenance[key] for key in ("created", "assistant_builder", "git_revision")},
        "packages": {name: provenance["packages"].get(name) for name in _MADE_WITH},
        "hardware": provenance["hardware"],
        "seconds": round(seconds),
    }
    cell = _Cell(declared.settings, file_hash(declared.data), made, tuple(effects_of(study.name)))
    declared.cell.parent.mkdir(exist_ok=True)
    write_json(declared.cell, asdict(cell))


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        (first, *_) = error.errors()
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).partition("\n")[0]
