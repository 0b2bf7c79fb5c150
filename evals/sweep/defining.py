"""A sweep's folder: what it is made of, written down before anything starts, and never changed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from assistant_builder.config import ARMS, StudyConfig
from assistant_builder.config.plain_yaml import YamlError, read_yaml
from assistant_builder.data import prepare
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.files import file_hash, read_json, write_json, write_text
from assistant_builder.jobs.running import locked
from assistant_builder.jobs.starting import read_source
from assistant_builder.models.catalog import resolve
from assistant_builder.models.trust import allows_code
from assistant_builder.steps import changed_inputs
from assistant_builder.study import Study, home, studies_folder
from evals.sweep.grid import Trial, combinations, read_grid
from evals.sweep.pruning import available, require_optuna

VERSION = 1
Judge = Literal["both", "qlora", "lora"]
"""By whose validation loss a study is chosen; both: the mean of all arms that are trained."""
Prune = Literal["median", "off"]
"""How hopeless studies are stopped early."""


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        folder: ``sweeps/<name>``: sweep.yaml, stopped.json, sweep.json and sweep.html.
        data: The data file.
        trials: Its studies in the order in which they run.
        arm: By whose validation loss it chooses.
        prune: How hopeless studies are stopped early.
    """

    folder: Path
    data: Path
    trials: tuple[Trial, ...]
    arm: Judge
    prune: Prune

    @property
    def name(self) -> str:
        """Name of the sweep and of its folder."""
        return self.folder.name

    @property
    def judges(self) -> tuple[str, ...]:
        """The arms that decide."""
        return tuple(self.trials[0].config.arms) if self.arm == "both" else (self.arm,)

    def study(self, trial: Trial) -> Study | None:
        """A trial's study, None while there is none."""
        folder = studies_folder() / trial.name
        return Study(folder) if (folder / "study.yaml").is_file() else None

    @property
    def stopped(self) -> dict[str, dict[str, Any]]:
        """The studies that were stopped early: name → ``run``, ``step``, ``loss`` and ``others`` (``stopped.json``)."""
        path = self.folder / "stopped.json"
        return read_json(path) if path.exists() else {}

    def note_stopped(self, name: str, why: Mapping[str, Any]) -> None:
        """Write down that a study is given up."""
        write_json(self.folder / "stopped.json", {**self.stopped, name: dict(why)})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the sweep for this process alone.

        Raises:
            StudyError: Another process runs it, or its folder cannot be written to.
        """
        with locked(self.folder, StudyError(
            "another process runs this sweep", where=f"sweep {self.name}",
            remedy="Wait until it is done; 'assistant-builder list' shows its studies",
        )):
            yield


def open_sweep(
    source: str, *, name: str | None, settings: Sequence[str], arm: Judge | None = None, prune: Prune | None = None,
    before: Callable[[StudyConfig], None] = lambda config: None,
) -> Sweep:
    """Define a sweep, or find the one that was begun; nothing is written when anything is wrong.

    Args:
        source: A ``study.yaml`` or a data file.
        name: Name of the sweep, instead of the one that the source says.
        settings: ``KEY=VALUE,VALUE,…`` as ``--set`` gives them.
        arm: By whose validation loss it chooses; None: both, or as it was begun.
        prune: How hopeless studies are stopped early; None: by the median where optuna is installed, or as begun.
        before: Called with the settings of the studies before the base model is looked at.

    Raises:
        ConfigError: A setting is wrong, the source is no file, or studies are to be stopped early without Optuna.
        DataError: No study can start from the data file.
        ModelError: The base model is unknown.
        StudyError: A sweep of that name has other settings, or a study's name is taken.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no file {source}", remedy="Name a study.yaml or a data file")
    grid = read_grid(settings)
    config, data = read_source(path)
    named = {"name": name} if name is not None else {}
    trials = combinations(config.with_changes({**named, "data.source": str(data)}), grid)
    before(trials[0].config)
    allows_code(trials[0].config.model)
    never = {"model.trust_remote_code": False}  # allowed for this command, and not written down
    trials = [replace(trial, config=trial.config.with_changes(never)) for trial in trials]
    folder = home() / "sweeps" / trials[0].name.rpartition("-")[0]
    begun = _read(folder / "sweep.yaml")
    sweep = Sweep(folder, data, tuple(trials), arm or (begun or {}).get("arm") or "both",
                  prune or (begun or {}).get("prune") or ("median" if available() else "off"))
    if sweep.prune != "off":
        require_optuna()
    arms = trials[0].config.arms
    if sweep.arm not in ("both", *arms):
        raise ConfigError(f"the studies train {' and '.join(arms)} alone", where=f"--arm {sweep.arm}",
                          remedy=f"Choose by --arm {arms[0]}, or have both trained with arms: [lora, qlora]")
    definition = _definition(sweep)
    if begun is not None:
        _refuse_other(sweep, begun, definition)
        return sweep
    _refuse_taken(sweep)
    resolve(trials[0].config.model.base, trust_remote_code=allows_code(trials[0].config.model))
    prepare(data, trials[0].config.data)  # refuses what no study can start from
    write_text(folder / "sweep.yaml", yaml.safe_dump(definition, sort_keys=False, allow_unicode=True))
    return sweep


def _definition(sweep: Sweep) -> dict[str, Any]:
    """What ``sweep.yaml`` holds: as much as decides the results."""
    first = sweep.trials[0]
    told = {"seeds", "data", "model", "train", "eval", *(() if first.config.arms == list(ARMS) else ("arms",))}
    study = first.config.model_dump(mode="json", include=told, exclude={"data": {"source"}})
    for key in first.settings:
        part, leaf = key.split(".")
        del study[part][leaf]
    values = {key: list(dict.fromkeys(trial.settings[key] for trial in sweep.trials)) for key in first.settings}
    return {
        "version": VERSION, "name": sweep.name, "arm": sweep.arm, "prune": sweep.prune, "sweep": values,
        "data_sha256": file_hash(sweep.data), "study": study,
    }


def _read(path: Path) -> dict[str, Any] | None:
    """The definition of a sweep that was begun.

    Raises:
        StudyError: It is damaged.
    """
    if not path.exists():
        return None
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
        if tree["version"] == VERSION and tree["arm"] in get_args(Judge) and tree["prune"] in get_args(Prune):
            return dict(tree)
    except (YamlError, UnicodeDecodeError, KeyError, TypeError):
        pass
    raise StudyError("the sweep's definition is of another version or damaged", where=str(path),
                     remedy="Choose another name with --name NEW")


def _refuse_other(sweep: Sweep, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    changes = changed_inputs(_flat(begun), _flat(wanted))
    if changes:
        raise StudyError(
            f"a sweep named {sweep.name!r} was begun with other settings ({'; '.join(changes)})",
            where=str(sweep.folder), remedy="Choose another name with --name NEW, or give it the settings it was "
            "begun with, and it carries on",
        )


def _refuse_taken(sweep: Sweep) -> None:
    taken = [trial.name for trial in sweep.trials if (studies_folder() / trial.name).exists()]
    if taken:
        raise StudyError(
            f"{len(taken)} of its {len(sweep.trials)} studies' names are taken ({', '.join(taken[:5])}"
            f"{', …' if len(taken) > 5 else ''})",
            where=f"sweep {sweep.name}", remedy="Choose another name for the sweep with --name NEW",
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}".removeprefix("study.")] = value
    return flat
