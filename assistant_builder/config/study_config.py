"""The settings of a study: reading, changing, validating and writing them."""

from __future__ import annotations

import difflib
import re
import reprlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from assistant_builder.arms import (
    ARMS,
    CELLS,
    TWINS,
    compares,
    continued,
    further_arms,
    headline_arms,
)
from assistant_builder.config.base import BASIC, ArmName, ConfigModel
from assistant_builder.config.data import DataConfig
from assistant_builder.config.eval import EvalConfig
from assistant_builder.config.executor import ExecutorConfig
from assistant_builder.config.formats import FormatsConfig
from assistant_builder.config.model import ModelConfig
from assistant_builder.config.presets import PRESETS
from assistant_builder.config.retrieval import RetrievalConfig
from assistant_builder.config.safe_yaml import MAX_CHARACTERS, YamlError, read_yaml
from assistant_builder.config.train import TrainConfig
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import N_, Message, Setting, Text, joined, m, t
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.store_kinds import store_kind

Approach = Literal["grounded", "memory"]
_DEFAULT_APPROACHES: tuple[Approach, ...] = ("grounded",)
BEFORE_APPROACHES: dict[str, Any] = {"approaches": ["memory"], "formats": {"types": []}}
"""Settings of studies from before there was a choice."""
_REMOVED: dict[str, Message] = {
    "train.early_stopping": m(
        "train.stop_loss ends a training where facts are looked up, and from memory the checkpoint of the lowest "
        "validation loss is used"
    ),
    "train.patience": m("it was part of train.early_stopping"),
    "retrieval.stop_if_broken": m("write 'retrieval.if_broken: decline'"),
}
"""Settings of earlier versions → what replaces them. Stored studies may have them."""
_REMOVED_KERNELS = ("liger", "compile")
VERSION: Literal[1] = 1
"""Version of the settings and of the study folder around them."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_UMLAUTS = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe", "å": "aa"}
)
_MAX_TITLE = 100
_MAX_SLUGGED = 1_000
_MAX_PROBLEMS = 20
_SHORT = reprlib.Repr()  # truncates values in messages
_SHORT.maxstring = _SHORT.maxother = 120
_RESERVED = {"con", "prn", "aux", "nul"}
_RESERVED |= {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid folder name on every operating system, else raise ValueError."""
    if not _NAME.fullmatch(name) or name.endswith(".") or name.split(".")[0] in _RESERVED:
        raise ValueError(
            m(
                "a {study} name is 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit (device names such as "
                "'con' are reserved)"
            )
        )
    return name


def slug(title: str) -> str:
    """A valid study name from any text: ``Krumm & Linde Bäckerei`` becomes ``krumm-linde-baeckerei``."""
    plain = unicodedata.normalize("NFKD", title[:_MAX_SLUGGED].casefold().translate(_UMLAUTS))
    words = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode())
    base = words.strip("-")[:48].strip("-") or "study"
    return f"study-{base}" if base in _RESERVED else base


def name_and_title(given: str) -> tuple[str, str]:
    """The study name for what a person calls it, and the title to show if that is something else."""
    text = " ".join(given.split())
    try:
        return check_name(text), ""
    except ValueError:
        return slug(text), text[:_MAX_TITLE]


class StudyConfig(ConfigModel):
    """One study: one data file, one base model, and arms that differ in how the frozen base is stored."""

    version: Literal[1] = VERSION
    name: Annotated[str, AfterValidator(check_name)] = Field(
        "study", title=N_("Name"), json_schema_extra=BASIC
    )
    """Name of the study and of its folder."""
    title: str = Field("", max_length=_MAX_TITLE, title=N_("Title"))
    """What is shown instead of the name. Empty: the name."""
    arms: list[ArmName] = Field(default_factory=lambda: list(TWINS), min_length=1, title=N_("Arms"))
    """The assistants that are trained. With both twins, lora and qlora, the report measures the cost of 4-bit storage.
    qlora alone suits a machine with too little memory for the 16-bit base; nothing is then compared, and lora can be
    added later."""
    seeds: int = Field(1, ge=1, le=20, title=N_("Seeds"), json_schema_extra=BASIC)
    """Number of trainings per arm, with the seeds train.seed, train.seed + 1, …; several seeds show how much of a
    difference is chance."""
    approaches: list[Approach] = Field(
        default_factory=lambda: list(_DEFAULT_APPROACHES),
        min_length=1,
        title=N_("Approach"),
        json_schema_extra=BASIC,
    )
    """grounded: the assistant reads the training pairs that are found for a question. memory: it answers from what it
    has learned, without looking anything up. With both, the arms are trained in each, and the report compares them."""
    data: DataConfig = Field(default_factory=DataConfig, title=N_("Data"))
    """Data file and split."""
    model: ModelConfig = Field(default_factory=ModelConfig, title=N_("Model"))
    """Base model."""
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig, title=N_("Looking up"))
    """Facts in the prompts of the grounded approach."""
    train: TrainConfig = Field(default_factory=TrainConfig, title=N_("Training"))
    """LoRA and optimization."""
    eval: EvalConfig = Field(default_factory=EvalConfig, title=N_("Evaluation"))
    """Scoring and verdict."""
    formats: FormatsConfig = Field(default_factory=FormatsConfig, title=N_("Files"))
    """GGUF files that are written and scored."""
    executor: ExecutorConfig = Field(default_factory=ExecutorConfig, title=N_("Executor"))
    """Where steps run."""

    @field_validator("executor", mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        """``executor: ray`` is short for ``executor: {kind: ray}``."""
        return {_SHORTHANDS["executor"].split(".")[1]: value} if isinstance(value, str) else value

    @field_validator("arms")
    @classmethod
    def _sort_arms(cls, value: list[str]) -> list[str]:
        """Each arm once, in the order of ``ARMS``, so that the order in the file does not matter."""
        return [arm for arm in ARMS if arm in value]

    @field_validator("approaches")
    @classmethod
    def _keep_first(cls, value: list[Approach]) -> list[Approach]:
        """Each approach once; the first one is the study's main approach."""
        return list(dict.fromkeys(value))

    @model_validator(mode="after")
    def _check_devices(self) -> StudyConfig:
        devices, batch = self.executor.devices, self.train.batch_size
        if devices is not None and batch % devices:
            raise ValueError(
                m(
                    "train.batch_size={batch} is not a multiple of executor.devices={devices}, among which the pairs "
                    "of a step are divided evenly",
                    batch=batch,
                    devices=devices,
                )
            )
        return self

    @property
    def shown_name(self) -> str:
        """The title, or the name."""
        return self.title or self.name

    def named(self, given: str) -> StudyConfig:
        """A copy with a valid name and, where it differs, the title that a person gave."""
        name, title = name_and_title(given)
        return self.model_copy(update={"name": name, "title": title})

    @property
    def compares(self) -> bool:
        """Whether the study compares 4-bit with 16-bit storage: it trains QLoRA and its 16-bit twin."""
        return compares(self.arms)

    @property
    def grounded(self) -> bool:
        """Whether the assistants of the main approach read the facts that are found for a question."""
        return self.approaches[0] == "grounded"

    @property
    def trains_embedder(self) -> bool:
        """Whether a sentence embedder is trained, which the memory approach alone has no use for."""
        return self.retrieval.train_embedder and "grounded" in self.approaches

    def of_approach(self, approach: Approach) -> StudyConfig:
        """The settings with one of the approaches alone."""
        return self.model_copy(update={"approaches": [approach]})

    @property
    def cells(self) -> list[str]:
        """The cells that are scored: those of ``eval.cells`` and of further arms that are possible."""
        wanted = [
            *self.eval.cells,
            *(cell for arm in further_arms(self.arms) for cell in ARMS[arm].cells),
        ]
        return [cell for cell in dict.fromkeys(wanted) if CELLS[cell].scorable(self.arms)]

    def train_of(self, arm: str) -> TrainConfig:
        """The training settings of an arm: of one that continues another, half of the epochs and the learning rate."""
        train = self.train
        if continued(arm, self.arms) is None:
            return train
        steps = None if train.max_steps is None else -(-train.max_steps // 2)
        half = {"epochs": train.epochs / 2, "learning_rate": train.learning_rate / 2}
        return train.model_copy(update={**half, "max_steps": steps})

    @property
    def weighs_columns(self) -> bool:
        """Whether the block scales of its GGUF files are chosen by an importance matrix."""
        return self.formats.importance == "on" or (
            self.formats.importance == "auto" and self.grounded
        )

    def file_types(self, arm: str) -> list[str]:
        """The types of an arm's GGUF files, largest first; of one that is trained for a type, that type alone."""
        if ARMS[arm].rounds and self.formats.types:
            return [self.train.qat_type] if self.train.qat_type in GGUF_TYPES else []
        every = self.formats.arms == "all" or arm == headline_arms(self.arms)[0]
        return self.formats.types if every else []

    @property
    def evaluation_shards(self) -> int:
        """Number of shards of the evaluation that a cluster scores in parallel; 0 on one machine."""
        shards = min(self.executor.evaluate_tasks, len(self.cells))
        return shards if self.executor.kind == "ray" and shards > 1 else 0

    @property
    def addresses(self) -> dict[str, str]:
        """Dotted key of each setting with an address that a run contacts → the address."""
        found = {
            "executor.address": self.executor.address if self.executor.kind == "ray" else None,
            "executor.store": self.executor.store,
            "eval.judge_url": self.eval.judge_url,
        }
        return {key: address for key, address in found.items() if address is not None}

    @property
    def external_addresses(self) -> dict[str, str]:
        """Dotted key of each setting with an address → what a run does with that address."""
        executor, found = self.executor, {}
        if executor.kind == "ray":
            found["executor.address"] = t(
                "computes on the Ray cluster at {address}", address=executor.address
            )
        if executor.store is not None:
            found["executor.store"] = t(
                "syncs the project with {store} ({help})",
                store=executor.store,
                help=store_kind(executor.store).help,
            )
        if self.eval.judge_url is not None:
            found["eval.judge_url"] = t(
                "sends test questions and their answers to {judge_url}",
                judge_url=self.eval.judge_url,
            )
        return {key: printable(text) for key, text in found.items()}

    def to_yaml(self) -> str:
        """The complete settings as YAML, including defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def with_changes(self, changes: dict[str, Any]) -> StudyConfig:
        """A validated copy with dotted keys replaced; text is read as YAML scalars. ConfigError lists all problems.

        ``train.preset`` sets the values of the preset, which other changes then replace; ``executor`` is short for
        ``executor.kind``.
        """
        tree = self.model_dump(mode="json")
        problems: list[Text] = []
        tree["train"] |= PRESETS.get(str(changes.get("train.preset")), {})
        for dotted, value in changes.items():
            *parents, leaf = _SHORTHANDS.get(dotted, dotted).split(".")
            node: Any = tree
            for key in parents:
                node = node.get(key) if isinstance(node, dict) else None
            open_dict = parents[-1:] == ["columns"]
            if not isinstance(node, dict) or (leaf not in node and not open_dict):
                problems.append(_no_such_setting(dotted))
                continue
            node[leaf] = read_value(dotted, value) if isinstance(value, str) else value
        if problems:
            raise ConfigError(
                joined(problems, "; "), remedy=m("'assistant-builder settings' lists all of them")
            )
        return parse_config(tree)


def printable(text: str) -> str:
    """Escape control and formatting characters of a text, so that they cannot disguise an address."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


_SHORTHANDS = {"executor": "executor.kind"}
"""Section → option that a plain value for the section sets."""


def option_fields() -> dict[str, tuple[Any, Any]]:
    """All options by dotted key, ``{"train.rank": (field, default)}``, in order of definition."""
    options: dict[str, tuple[Any, Any]] = {}
    defaults = StudyConfig()
    for section, outer in StudyConfig.model_fields.items():
        value = getattr(defaults, section)
        if isinstance(value, ConfigModel):
            for key, field in type(value).model_fields.items():
                options[f"{section}.{key}"] = (field, getattr(value, key))
        else:
            options[section] = (outer, value)
    return options


def constraints_of(field: Any) -> list[Any]:
    """The bounds of a number, also of one that may be a word instead (``int | Literal["auto"]``)."""
    inner = [
        item
        for argument in get_args(field.annotation)
        if get_origin(argument) is Annotated
        for item in get_args(argument)[1:]
    ]
    return [
        *field.metadata,
        *(constraint for item in inner for constraint in getattr(item, "metadata", ())),
    ]


def read_value(dotted: str, text: str) -> Any:
    """Read the value of ``--set key=text`` as YAML, which gives typed numbers, null, booleans and lists."""
    try:
        value = read_yaml(text)
    except YamlError as error:
        raise ConfigError(
            m("{repr} is not a value: {error}", repr=_SHORT.repr(text), error=error),
            where=dotted,
            remedy=m("Quote it"),
        ) from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-4 as text
    annotation = option_fields().get(dotted, (None, None))[0]
    if (
        isinstance(value, bool)
        and annotation is not None
        and text in get_args(annotation.annotation)
    ):
        return text  # YAML 1.1 reads on and off as booleans
    kind = str(annotation.annotation) if annotation is not None else ""
    if kind.startswith(("list", "typing.List")) and isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    wants_text = "str" in kind and "dict" not in kind and "list" not in kind
    return text if wants_text and value is not None and not isinstance(value, str) else value


def parse_config(tree: Any, *, where: str = "study.yaml") -> StudyConfig:
    """Validate a config tree; ConfigError lists each problem with its dotted key and value."""
    if not isinstance(tree, dict):
        raise ConfigError(
            m("the file contains no settings"),
            where=where,
            remedy=m("Write settings such as 'train: {epochs: 2}'"),
        )
    _require_version(tree.get("version", VERSION), where)
    try:
        return StudyConfig.model_validate(tree)
    except ValidationError as error:
        found = [item for item in error.errors() if item["loc"][-1:] != ("literal['auto']",)]
        problems = list(map(_problem, found[:_MAX_PROBLEMS]))
        if more := len(found[_MAX_PROBLEMS:]):
            problems.append(m("and {more} more", more=more))
        raise ConfigError(
            joined(problems, "; "), where=where, remedy=m("Correct it and run again")
        ) from error


_WRONG = {
    "greater_than": N_("Input should be greater than {gt}"),
    "greater_than_equal": N_("Input should be greater than or equal to {ge}"),
    "less_than": N_("Input should be less than {lt}"),
    "less_than_equal": N_("Input should be less than or equal to {le}"),
    "literal_error": N_("Input should be {expected}"),
    "int_type": N_("Input should be a valid integer"),
    "int_parsing": N_("Input should be a valid integer, unable to parse string as an integer"),
    "int_from_float": N_("Input should be a valid integer, got a number with a fractional part"),
    "float_type": N_("Input should be a valid number"),
    "float_parsing": N_("Input should be a valid number, unable to parse string as a number"),
    "finite_number": N_("Input should be a finite number"),
    "bool_type": N_("Input should be a valid boolean"),
    "bool_parsing": N_("Input should be a valid boolean, unable to interpret input"),
    "string_type": N_("Input should be a valid string"),
    "string_too_short": N_("Input should have at least {min_length} characters"),
    "string_too_long": N_("Input should have at most {max_length} characters"),
    "too_long": N_("Input should have at most {max_length} entries"),
    "list_type": N_("Input should be a valid list"),
    "dict_type": N_("Input should be a valid dictionary"),
    "missing": N_("Field required"),
}
"""The texts of pydantic by the type of a problem; their placeholders are in its context."""


def _problem(item: Mapping[str, Any]) -> Message:
    """A problem that pydantic found, with the key and the value of its setting."""
    location, context = item["loc"], item.get("ctx", {})
    or_auto = location[-1:] == ("constrained-int",)  # pydantic reports each member of a union
    key = ".".join(str(part)[:80] for part in location[: -or_auto or None]) or "config"
    if item["type"] == "extra_forbidden":
        return _no_such_setting(key)
    if item["type"] == "value_error":
        problem = context["error"].args[0]
    else:
        text = _WRONG.get(item["type"])
        bounds = {
            name: int(bound) if isinstance(bound, float) and bound.is_integer() else bound
            for name, bound in context.items()
        }
        problem = Message(text, bounds) if text else item["msg"]
    if or_auto:
        problem = m("{problem}, or 'auto'", problem=problem)
    whole = item["type"] == "value_error" and isinstance(item["input"], dict)
    setting = Setting(key, None if whole else _SHORT.repr(item["input"]))
    return m("{setting}: {problem}", setting=setting, problem=problem)


def _require_version(version: Any, where: str) -> None:
    """Raise one error for settings of another version, instead of one for each unknown option."""
    if version == VERSION and not isinstance(version, bool):
        return
    newer = isinstance(version, int) and not isinstance(version, bool) and version > VERSION
    raise ConfigError(
        m(
            "the settings have version {version!r}, and this release of Assistant Builder reads version {version_2}",
            version=version,
            version_2=VERSION,
        ),
        where=where,
        remedy=m("Update Assistant Builder to the release that wrote them")
        if newer
        else m(
            "Write 'version: {version}' if this release wrote them; there is no earlier version",
            version=VERSION,
        ),
    )


def load_config(path: Path, *, absent: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read and validate a ``study.yaml``; a relative ``data.source`` is relative to the folder of the file.

    ``absent``, of a stored study, are values of settings that the file lacks, instead of their defaults; settings that
    were removed since are ignored.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            tree = read_yaml(file.read(MAX_CHARACTERS + 1))
    except (YamlError, UnicodeDecodeError) as error:
        raise ConfigError(
            m("not readable as YAML: {error}", error=error),
            where=str(path),
            remedy=m("Correct the syntax"),
        ) from error
    except OSError as error:
        raise ConfigError(
            m("cannot be read: {strerror}", strerror=error.strerror),
            where=str(path),
            remedy=m("Check the path"),
        ) from error
    if isinstance(tree, dict) and absent is not None:
        tree = _without_removed({**absent, **tree})
    config = parse_config(tree, where=str(path))
    source = config.data.source
    if source and not Path(source).is_absolute() and (path.parent / source).exists():
        config = config.with_changes({"data.source": str((path.parent / source).resolve())})
    return config


def _without_removed(tree: dict[str, Any]) -> dict[str, Any]:
    kept = {
        section: {key: each for key, each in values.items() if f"{section}.{key}" not in _REMOVED}
        if isinstance(values, dict)
        else values
        for section, values in tree.items()
    }
    train = kept.get("train")
    if isinstance(train, dict) and train.get("kernels") in _REMOVED_KERNELS:
        train["kernels"] = "fused"
    return kept


def _no_such_setting(dotted: str) -> Message:
    if dotted in _REMOVED:
        return m("{key} was removed: {instead}", key=dotted, instead=_REMOVED[dotted])
    close = difflib.get_close_matches(dotted, list(option_fields()), n=1)
    leaf_matches = [key for key in option_fields() if key.split(".")[-1] == dotted.split(".")[-1]]
    if best := leaf_matches[:1] or close:
        return m("{key}: no such setting (did you mean {best}?)", key=dotted, best=best[0])
    return m("{key}: no such setting", key=dotted)
