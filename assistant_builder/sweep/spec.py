"""The definition of a sweep: its combinations of settings, and its folder.

The definition is written to the sweep's folder before anything starts, and does not change afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from assistant_builder.arms import ARMS, TWINS
from assistant_builder.atomic_io import file_hash, write_text
from assistant_builder.config import StudyConfig, option_fields
from assistant_builder.config.safe_yaml import YamlError, read_yaml
from assistant_builder.data import prepare_dataset
from assistant_builder.errors import CHOOSE_NAME, ConfigError, StudyError
from assistant_builder.i18n import Message, Text, joined, m
from assistant_builder.models.base_model import base_ref
from assistant_builder.models.remote_code import allows_code
from assistant_builder.runner.open_study import read_source
from assistant_builder.study import Study, home, studies_folder
from assistant_builder.study.addresses import allow_addresses
from assistant_builder.study.locks import folder_lock
from assistant_builder.study.steps import changed_inputs
from evals.report.study_facts import flatten

MOST_STUDIES = 100
"""Maximum number of studies of a sweep, so that a typing error does not start thousands of trainings."""
_OPENING, _CLOSING = "[{(", "]})"
_SWEPT = ("model", "train")  # the sections of the settings that affect the assistant
_NOT_SWEPT = {
    "data": m("it would change the split, and a sweep has one split"),
    "eval": m("it changes how an assistant is scored, not the assistant"),
    "name": m("the {studies} are named after the sweep"),
    "seeds": m("every {study} must have the same number of trainings"),
    "arms": m("every {study} must train the same arms"),
    "model.base": m("validation losses per token of different models cannot be compared"),
    "model.revision": m("validation losses per token of different models cannot be compared"),
    "model.trust_remote_code": m("a {study} cannot allow it"),
    "train.max_length": m("it changes the tokens of the validation loss"),
}
"""Settings and sections that can have one value only, with the reason."""


@dataclass(frozen=True)
class Grid:
    """The settings of ``--set``."""

    fixed: dict[str, str]  # settings with one value, which is the same in every study
    swept: dict[str, tuple[str, ...]]  # settings with several values, as texts


@dataclass(frozen=True)
class Trial:
    """One study of a sweep."""

    config: StudyConfig  # its settings; the name is the study's
    settings: dict[str, Any]  # the swept settings among them, by dotted key

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.name


def label(settings: Mapping[str, Any]) -> str:
    """A combination as one line of text."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def read_grid(settings: Iterable[str]) -> Grid:
    """Parse settings such as ``["train.rank=8,16", "train.epochs=2"]``.

    Raises:
        ConfigError: A text is not KEY=VALUE, a key is repeated or has an empty value, a key that cannot be swept has
            several values, or no key has several; the message lists all problems.
    """
    texts: dict[str, str] = {}
    problems = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text.strip():
            problems.append(m("{setting!r} is not KEY=VALUE,VALUE,…", setting=setting))
        elif key in texts:
            problems.append(
                m(
                    "{key} is given twice: write --set {key}={texts},{text}",
                    key=key,
                    texts=texts[key],
                    text=text,
                )
            )
        else:
            texts[key] = text
    values = {key: split_values(key, text) for key, text in texts.items()}
    for key, found in values.items():
        if not all(found):
            problems.append(
                m(
                    "{key}={texts} has an empty value between two commas or at an end",
                    key=key,
                    texts=texts[key],
                )
            )
        elif len(found) > 1 and (why := _why_not(key)):
            problems.append(m("{key} cannot be swept: {why}", key=key, why=why))
    swept = {key: found for key, found in values.items() if len(found) > 1}
    if not swept and not problems:
        problems.append(m("no setting has several values"))
    if problems:
        raise ConfigError(
            joined(problems, "; "),
            where="--set",
            remedy=m(
                "Write for example --set train.rank=8,16, and put a value that contains commas into brackets or quotes"
            ),
        )
    return Grid({key: found[0] for key, found in values.items() if len(found) == 1}, swept)


def split_values(key: str, text: str) -> tuple[str, ...]:
    """Split at the commas outside of brackets and quotes.

    ``all-linear,[q_proj,v_proj]`` has two values. Brackets around the value of a text setting such as
    ``train.target_modules`` only group it and are removed.
    """
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if sign == "," and not depth and not quote:
            parts.append("")
            continue
        parts[-1] += sign
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and not parts[-1].strip(sign).strip():
            quote = sign
        else:
            depth = max(0, depth + (sign in _OPENING) - (sign in _CLOSING))
    values = [part.strip() for part in parts]
    field = option_fields().get(key, (None, None))[0]
    if field is not None and field.annotation is str:
        values = [
            value[1:-1].strip() if value[:1] == "[" and value[-1:] == "]" else value
            for value in values
        ]
    return tuple(values)


def combinations(base: StudyConfig, grid: Grid) -> list[Trial]:
    """Every combination as a study named ``<base.name>-1``, ``-2``, …; the last setting varies fastest.

    Raises:
        ConfigError: There are too many combinations, a setting is unknown, a value is invalid, or two combinations are
            the same study; the message lists all problems.
    """
    wanted = math.prod(map(len, grid.swept.values()))
    if wanted > MOST_STUDIES:
        counts = " × ".join(str(len(values)) for values in grid.swept.values())
        raise ConfigError(
            m(
                "{counts} = {wanted:,} {studies}, and a sweep has {most_studies} at most",
                counts=counts,
                wanted=wanted,
                most_studies=MOST_STUDIES,
            ),
            where="--set",
            remedy=m("Sweep fewer values, for example a coarse grid first"),
        )
    trials: list[Trial] = []
    problems: list[Text] = []
    for number, values in enumerate(itertools.product(*grid.swept.values()), start=1):
        chosen = dict(zip(grid.swept, values, strict=True))
        try:
            config = base.with_changes(
                {"formats.types": [], **grid.fixed, **chosen, "name": f"{base.name}-{number}"}
            )
        except ConfigError as error:
            # many combinations repeat the problem of one value
            found = error.what
            problems += found.values.values() if isinstance(found, Message) else [found]
            continue
        tree = config.model_dump(mode="json")
        trials.append(Trial(config, {k: reduce(getitem, k.split("."), tree) for k in grid.swept}))
    if not problems:
        problems = _same(trials)
    if problems:
        raise ConfigError(
            joined({str(each): each for each in problems}.values(), "; "),
            where="--set",
            remedy=m("Nothing was started. 'assistant-builder settings' lists every setting"),
        )
    return trials


def _why_not(key: str) -> Text | None:
    """The reason why a setting can have one value only; :func:`combinations` reports unknown settings."""
    part = key.partition(".")[0]
    why = _NOT_SWEPT.get(key) or _NOT_SWEPT.get(part)
    if why is None and key in option_fields() and part not in _SWEPT:
        return m("it does not affect the assistant")
    return why


def _same(trials: list[Trial]) -> list[Text]:
    """One sentence for each duplicate combination; the name of a preset has no effect by itself."""
    seen: dict[str, Trial] = {}
    problems: list[Text] = []
    for trial in trials:
        settings = trial.config.model_dump_json(exclude={"name": True, "train": {"preset"}})
        first = seen.setdefault(settings, trial)
        if first is not trial:
            one, other = label(first.settings), label(trial.settings)
            problems.append(
                m("{settings} is given twice", settings=one)
                if one == other
                else m("{settings} and {other} are the same {study}", settings=one, other=other)
            )
    return problems


VERSION = 1


@dataclass(frozen=True)
class Sweep:
    """One sweep."""

    folder: Path  # ``sweeps/<name>``: sweep.yaml and sweep.json
    data: Path
    trials: tuple[Trial, ...]  # its studies in the order in which they run
    arm: str  # the arm by whose validation loss it chooses, or ``both``: by the mean of all that are trained

    @property
    def name(self) -> str:
        """Name of the sweep and of its folder."""
        return self.folder.name

    @property
    def judges(self) -> tuple[str, ...]:
        """The arms that decide."""
        return tuple(self.trials[0].config.arms) if self.arm == "both" else (self.arm,)

    def study(self, trial: Trial) -> Study | None:
        """A trial's study; None if it does not exist yet."""
        folder = studies_folder() / trial.name
        return Study(folder) if (folder / "study.yaml").is_file() else None

    @property
    def values(self) -> dict[str, list[Any]]:
        """The swept settings, each with its values in order."""
        return {
            key: list(dict.fromkeys(trial.settings[key] for trial in self.trials))
            for key in self.trials[0].settings
        }

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the sweep; raises StudyError if another process runs it, or its folder is not writable."""
        taken = StudyError(
            m("another process runs this sweep"),
            where=f"sweep {self.name}",
            remedy=m("Wait until it has finished; 'assistant-builder list' shows its {studies}"),
        )
        with folder_lock(self.folder, taken):
            yield


def open_sweep(
    source: str,
    *,
    name: str | None,
    settings: Sequence[str],
    arm: str | None = None,
    before: Callable[[StudyConfig], None] = lambda config: None,
) -> Sweep:
    """Define a sweep, or open an existing one; nothing is written if there is an error.

    ``source`` is a ``study.yaml`` or a data file; ``name`` overrides its name; ``settings`` are those of ``--set``.
    ``arm`` defaults to that of an existing sweep, else to both arms.
    ``before`` is called with the settings of the studies before the base model is resolved.

    Raises:
        ConfigError: A setting is invalid, the source is not a file.
        DataError: The data file cannot be used for a study.
        ModelError: The base model is unknown.
        StudyError: A sweep of that name has other settings, or the name of a study is in use.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(
            m("there is no file {source}", source=source),
            remedy=m("Specify a study.yaml or a data file"),
        )
    grid = read_grid(settings)
    config, data = read_source(path)
    named = {"name": name} if name is not None else {}
    trials = combinations(config.with_changes({**named, "data.source": str(data)}), grid)
    first = trials[0].config
    # the user's own words
    allow_addresses(address for key, address in first.addresses.items() if key in grid.fixed)
    before(first)
    allows_code(first.model)
    never = {"model.trust_remote_code": False}  # allowed for this command, but not stored
    trials = [replace(trial, config=trial.config.with_changes(never)) for trial in trials]
    folder = home() / "sweeps" / first.name.rpartition("-")[0]
    begun = _read(folder / "sweep.yaml")
    sweep = Sweep(folder, data, tuple(trials), arm or (begun["arm"] if begun else "both"))
    arms = first.arms
    if sweep.arm not in ("both", *arms):
        raise ConfigError(
            m("the {studies} train {arms} alone", arms=" and ".join(arms)),
            where=f"--arm {sweep.arm}",
            remedy=m(
                "Choose by --arm {arms}, or have both trained with arms: [lora, qlora]",
                arms=arms[0],
            ),
        )
    definition = _definition(sweep)
    if begun is not None:
        _refuse_other(sweep, begun, definition)
        return sweep
    _refuse_used_names(sweep)
    base_ref(trials[0].config.model)  # raises if there is no such model
    prepare_dataset(data, first.data)  # raises if no study can use the file
    text = yaml.safe_dump(definition, sort_keys=False, allow_unicode=True)
    write_text(folder / "sweep.yaml", text)
    return sweep


def _definition(sweep: Sweep) -> dict[str, Any]:
    first = sweep.trials[0]
    included = {"seeds", "data", "model", "train", "eval"}
    if first.config.arms != list(TWINS):
        included.add("arms")
    study = first.config.model_dump(mode="json", include=included, exclude={"data": {"source"}})
    for key in first.settings:
        part, leaf = key.split(".")
        del study[part][leaf]
    return {
        "version": VERSION,
        "name": sweep.name,
        "arm": sweep.arm,
        "sweep": sweep.values,
        "data_sha256": file_hash(sweep.data),
        "study": study,
    }


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
        if tree["version"] == VERSION and tree["arm"] in ("both", *ARMS):
            return {
                key: value for key, value in tree.items() if key != "prune"
            }  # of earlier versions
    except (YamlError, UnicodeDecodeError, KeyError, TypeError):
        pass
    raise StudyError(
        m("the sweep's definition has another version or is damaged"),
        where=str(path),
        remedy=m("{choose_name}", choose_name=CHOOSE_NAME),
    )


def _refuse_other(sweep: Sweep, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    was, now = (
        {key.removeprefix("study."): value for key, value in flatten(definition)}
        for definition in (begun, wanted)
    )
    if changes := changed_inputs(was, now):
        raise StudyError(
            m(
                "the sweep {name!r} exists with other settings ({changes})",
                name=sweep.name,
                changes="; ".join(changes),
            ),
            where=str(sweep.folder),
            remedy=m("{choose_name}, or use its settings to resume it", choose_name=CHOOSE_NAME),
        )


def _refuse_used_names(sweep: Sweep) -> None:
    taken = [trial.name for trial in sweep.trials if (studies_folder() / trial.name).exists()]
    if taken:
        raise StudyError(
            m(
                "{taken} of the names of its {trials} {studies} are in use ({names})",
                taken=len(taken),
                trials=len(sweep.trials),
                names=", ".join([*taken[:5], *["…"] * (len(taken) > 5)]),
            ),
            where=f"sweep {sweep.name}",
            remedy=m("Choose another name for the sweep with --name NEW"),
        )
