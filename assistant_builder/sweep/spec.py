"""The combinations of a sweep: ``--set key=a,b`` read, refused or turned into one config a study.

Which study is given up before its training ends: Optuna's median rule over the validation losses of its arms.

A training is hopeless where its best validation loss so far is above the median of what the finished trainings of the
same arm had at the same place (the median stopping rule of Golovin et al., Google Vizier, KDD 2017). Places are
validations: the learning rate follows a cosine over a run's own length, so that trainings of different lengths are
compared at equal shares of theirs.

A sweep's folder: what it is made of, written down before anything starts, and never changed afterwards.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from assistant_builder.arms import ARMS, TWINS
from assistant_builder.atomic_io import file_hash, read_json, read_jsonl, write_json, write_text
from assistant_builder.config import StudyConfig, option_fields
from assistant_builder.config.safe_yaml import YamlError, read_yaml
from assistant_builder.data import prepare_dataset
from assistant_builder.errors import ConfigError, StudyError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.remote_code import allows_code
from assistant_builder.runner.open_study import read_source
from assistant_builder.study import Study, home, studies_folder
from assistant_builder.study.locks import folder_lock
from assistant_builder.study.steps import changed_inputs

MOST_STUDIES = 100
"""Studies of one sweep at most: each is two trainings and a scoring, and a slip of the keyboard asks for thousands."""
_OPENING, _CLOSING = "[{(", "]})"
_SWEPT = ("model", "train")
"""The parts of the settings that make an assistant."""
_NOT_SWEPT = {
    "data": "it would change the split, and a sweep has one",
    "eval": "it changes how an assistant is scored, not the assistant",
    "name": "the studies are named after the sweep",
    "seeds": "every study is to be trained equally often",
    "arms": "every study is to train the same arms",
    "model.base": "validation losses per token of different models cannot be compared",
    "model.revision": "validation losses per token of different models cannot be compared",
    "model.trust_remote_code": "no study can allow it",
    "train.max_length": "it changes which tokens the validation loss is taken over",
}
"""Settings, or whole parts of them, that may have one value only, and why."""


@dataclass(frozen=True)
class Grid:
    """What ``--set`` asks for.

    Attributes:
        fixed: Settings with one value, the same in every study.
        swept: Settings with several, as they were written.
    """

    fixed: dict[str, str]
    swept: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Trial:
    """One study of a sweep.

    Attributes:
        config: Its settings; the name is the study's.
        settings: The swept settings among them, by dotted key.
    """

    config: StudyConfig
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.config.name

    @property
    def label(self) -> str:
        """``train.rank=8, train.learning_rate=0.0001``."""
        return label(self.settings)


def label(settings: Mapping[str, Any]) -> str:
    """A combination as one line of text."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def read_grid(settings: Iterable[str]) -> Grid:
    """Read ``["train.rank=8,16", "train.epochs=2"]``.

    Raises:
        ConfigError: A text is not KEY=VALUE, a key comes twice or has an empty value, or a key that may not be swept
            has several values, or none has; all of it is named.
    """
    texts: dict[str, str] = {}
    problems = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not text.strip():
            problems.append(f"{setting!r} is not KEY=VALUE,VALUE,…")
        elif key in texts:
            problems.append(f"{key} is given twice: write --set {key}={texts[key]},{text}")
        else:
            texts[key] = text
    values = {key: split_values(key, text) for key, text in texts.items()}
    for key, found in values.items():
        if not all(found):
            problems.append(f"{key}={texts[key]} has an empty value between two commas or at an end")
        elif len(found) > 1 and (why := _why_not(key)):
            problems.append(f"{key} cannot be swept: {why}")
    swept = {key: found for key, found in values.items() if len(found) > 1}
    if not swept and not problems:
        problems.append("no setting has several values")
    if problems:
        raise ConfigError("; ".join(problems), where="--set",
                          remedy="An example is --set train.rank=8,16; one value that itself holds commas goes into "
                          "brackets or quotes")
    return Grid({key: found[0] for key, found in values.items() if len(found) == 1}, swept)


def split_values(key: str, text: str) -> tuple[str, ...]:
    """Split at the commas that stand outside of brackets and quotes.

    ``all-linear,[q_proj,v_proj]`` are two values. Brackets around the value of a setting that is text, as
    ``train.target_modules`` is, are left out: they are there to hold it together.
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
    found = [part.strip() for part in parts]
    if _is_text(key):
        found = [part[1:-1].strip() if part[:1] == "[" and part[-1:] == "]" else part for part in found]
    return tuple(found)


def combinations(base: StudyConfig, grid: Grid) -> list[Trial]:
    """Every combination as a study named ``<base.name>-1``, ``-2``, …; the last setting changes fastest.

    Raises:
        ConfigError: There are too many, a setting is unknown or a value refused, or two combinations are the same
            study; all of it is named.
    """
    wanted = 1
    for values in grid.swept.values():
        wanted *= len(values)
    if wanted > MOST_STUDIES:
        counts = " × ".join(str(len(values)) for values in grid.swept.values())
        raise ConfigError(f"{counts} = {wanted:,} studies, and a sweep has {MOST_STUDIES} at most", where="--set",
                          remedy="Sweep fewer values, or coarser ones first")
    trials, problems = [], []
    for number, values in enumerate(itertools.product(*grid.swept.values()), start=1):
        chosen = dict(zip(grid.swept, values, strict=True))
        try:
            config = base.with_changes({**grid.fixed, **chosen, "name": f"{base.name}-{number}"})
        except ConfigError as error:
            problems += error.what.split("; ")  # a combination's problems; most are those of one value
            continue
        trials.append(Trial(config, {key: value_of(config, key) for key in grid.swept}))
    if not problems:
        problems = _same(trials)
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)), where="--set",
                          remedy="Nothing was started. 'assistant-builder settings' lists every setting")
    return trials


def value_of(config: StudyConfig, key: str) -> Any:
    """A setting's value by its dotted key."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def _why_not(key: str) -> str | None:
    """Why a setting may have one value only; of settings that do not exist :func:`combinations` tells."""
    part = key.partition(".")[0]
    other = "it changes no assistant" if key in option_fields() and part not in _SWEPT else None
    return _NOT_SWEPT.get(key) or _NOT_SWEPT.get(part) or other


def _is_text(key: str) -> bool:
    field = option_fields().get(key, (None, None))[0]
    return field is not None and field.annotation is str


def _same(trials: list[Trial]) -> list[str]:
    """One sentence for each combination that an earlier one is already; the name of a preset changes nothing."""
    seen: dict[str, Trial] = {}
    problems = []
    for trial in trials:
        settings = trial.config.model_dump_json(exclude={"name": True, "train": {"preset"}})
        first = seen.setdefault(settings, trial)
        if first is not trial:
            problems.append(f"{first.label} comes twice" if first.label == trial.label
                            else f"{first.label} and {trial.label} are the same study")
    return problems


FINISHED_FIRST = 3
"""Trainings of an arm that must have finished before one is judged: the median of fewer says little."""
FIRST_JUDGED = 2
"""The validation from which on a training is judged: the first one comes soon after warm-up."""
Curve = tuple[tuple[float, float], ...]
"""Validation losses of a training in order: share of its steps that were done, loss in nats a token."""


def available() -> bool:
    """Whether Optuna is installed."""
    return importlib.util.find_spec("optuna") is not None


def require_optuna() -> None:
    """Refuse to stop studies early without Optuna.

    Raises:
        ConfigError: It is not installed.
    """
    if not available():
        raise ConfigError("stopping hopeless studies early needs Optuna, which is not installed", where="--prune",
                          remedy="pip install 'assistant-builder[sweep]'; a new sweep does without it with --prune off")


def curve_of(folder: Path) -> Curve:
    """The validation losses that an arm's ``metrics.jsonl`` holds so far."""
    return tuple((event["step"] / event["steps"], event["loss"])
                 for event in read_jsonl(folder / "metrics.jsonl") if event["event"] == "validation")


def should_prune(own: Curve, finished: Sequence[Curve]) -> bool:
    """Whether a training is to be given up after its last validation so far.

    Args:
        own: Its validations; one that has reached its end is never given up.
        finished: Those of the trainings of the same arm that have come to their end.
    """
    import optuna

    if len(own) < FIRST_JUDGED or own[-1][0] >= 1:
        return False
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner(
        n_startup_trials=FINISHED_FIRST, n_warmup_steps=FIRST_JUDGED))
    for curve in finished:
        study.add_trial(optuna.trial.create_trial(
            value=min(loss for _, loss in curve),
            intermediate_values=dict(enumerate((_loss_at(curve, share) for share, _ in own), start=1)),
        ))
    trial = study.ask()
    for place, (_, loss) in enumerate(own, start=1):
        trial.report(loss, place)
    return bool(trial.should_prune())


def _loss_at(curve: Curve, share: float) -> float:
    """The loss of the validation nearest to a share of the steps, the later of two equally near."""
    return min(reversed(curve), key=lambda point: abs(point[0] - share))[1]


VERSION = 1
Prune = Literal["median", "off"]
"""How hopeless studies are stopped early."""


@dataclass(frozen=True)
class Sweep:
    """One sweep.

    Attributes:
        folder: ``sweeps/<name>``: sweep.yaml, stopped.json, sweep.json and sweep.html.
        data: The data file.
        trials: Its studies in the order in which they run.
        arm: The arm by whose validation loss it chooses, or ``both``: by the mean of all that are trained.
        prune: How hopeless studies are stopped early.
    """

    folder: Path
    data: Path
    trials: tuple[Trial, ...]
    arm: str
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
        with folder_lock(self.folder, StudyError(
            "another process runs this sweep", where=f"sweep {self.name}",
            remedy="Wait until it is done; 'assistant-builder list' shows its studies",
        )):
            yield


def open_sweep(
    source: str, *, name: str | None, settings: Sequence[str], arm: str | None = None, prune: Prune | None = None,
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
    prepare_dataset(data, trials[0].config.data)  # refuses what no study can start from
    write_text(folder / "sweep.yaml", yaml.safe_dump(definition, sort_keys=False, allow_unicode=True))
    return sweep


def _definition(sweep: Sweep) -> dict[str, Any]:
    """What ``sweep.yaml`` holds: as much as decides the results."""
    first = sweep.trials[0]
    told = {"seeds", "data", "model", "train", "eval", *(() if first.config.arms == list(TWINS) else ("arms",))}
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
        if tree["version"] == VERSION and tree["arm"] in ("both", *ARMS) and tree["prune"] in get_args(Prune):
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
