"""The combinations of a sweep: ``--set key=a,b`` read, refused or turned into one config a study."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from assistant_builder.config import StudyConfig, option_fields
from assistant_builder.errors import ConfigError

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
