"""The registry of export formats, and the cell, size and recommendation of one arm in one format.

Page, command line, model card and report read everything that they show of a format from its subclass of
:class:`ExportFormat`. The registry is below ``evals``, because the report names the formats that a cell scored; the
modules that write files are above it, in :mod:`assistant_builder.export`, and are imported at the first look-up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assistant_builder.arms import (
    ARMS,
    LORA,
    QAT,
    QLORA,
    TWINS,
    compares,
    headline_arms,
    label,
    plain_order,
    with_arm,
)
from assistant_builder.config import ModelConfig
from assistant_builder.config.train import QAT_TYPES
from assistant_builder.errors import StudyError
from assistant_builder.i18n import N_, Text, m, t
from assistant_builder.models.base_model import base_ref
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.registry import Registry
from assistant_builder.study import Study
from assistant_builder.study.contents import Entries

DEFAULT_FORMAT = "adapter"
OTHER_FILES_BYTES = 6_000_000
"""Approximate size of tokenizer, card and other small files."""


@dataclass(frozen=True)
class Snippet:
    """A few lines to copy."""

    key: str  # short name
    title: str  # what they are for
    language: Literal["python", "shell"]
    text: str


@dataclass(frozen=True)
class LoadingContext:
    """What a format needs to know to show how an export is loaded."""

    arm: str
    folder: str  # path of the export
    base: str  # name or folder of the base model
    name: str  # name of the study
    system: str  # system prompt of the study; empty without one
    model: ModelConfig
    compute_dtype: str  # dtype of the evaluation's arithmetic
    max_new_tokens: int  # longest answer of the evaluation, in tokens
    rank: int  # rank of the adapter
    context: int  # tokens that a server allows for a prompt and its answer together


@dataclass(frozen=True)
class ExportSource:
    """What a format writes an export from."""

    study: Study
    arm: str  # the arm, which is trained
    title: str  # title of the export, one line
    base: Path  # folder of the base model
    base_name: str  # name of the base model that others can use
    prompter: ChatTokenizer  # the base's tokenizer, with the chat template as the study used it
    system: str  # system prompt of the study; empty without one
    sample: int = 0  # held-out items for checks of what is written
    # progress callback: fraction of the writing that is done, and current activity; an exception cancels the export
    report: Callable[[float, Text], None] = lambda fraction, message: None
    # whether block scales are chosen by an importance matrix, in a format that has any
    importance: bool = False


class ExportFormat(ABC):
    """A file format of exported assistants.

    A format with several types of weights is registered with its default type, see :meth:`of_type`. The exporter adds
    tokenizer, chat template, model card, ``LOADING.md`` and data card to what :meth:`write` writes.
    """

    name: str  # value of ``--format``, and part of the folder name below ``exports/``
    label: str  # short title for page and report
    noun: str  # the same within a title: "adapter", "merged model"
    explanation: str  # what it is and for whom, in one phrase
    contents: str  # content of the folder, in one sentence
    activity: str = N_("Writing the files")  # progress message of :meth:`write`
    needs_base: bool = False  # whether it is loaded on its base model and useless without it
    # whether the base has the storage of training, so that QLoRA saves memory
    keeps_storage: bool = False
    zipped: bool = False  # whether the folder contains a zip of itself
    types: Sequence[str] = ()  # values of ``--type``; none if the format has one type
    type: str = ""  # the type of this entry, one of ``types``
    # whether weights are rounded to fewer than 16 bits, so that another loss is no error
    lossy: bool = False
    storage: str = ""  # quantization method of the weights, if it has to be the study's for :meth:`cell` to hold
    library: str = "transformers"  # ``library_name`` of the model card
    # ``base_model_relation`` of the model card
    relation: Literal["adapter", "finetune", "merge", "quantized"] = "finetune"

    @property
    def help(self) -> str:
        """Text of the format in the help of the command line."""
        return self.explanation

    def of_type(self, type: str) -> ExportFormat:
        """This format with another type of weights, one of ``types``."""
        return self

    @abstractmethod
    def cell(self, arm: str) -> str | None:
        """The cell of the evaluation that scored this arm in this format; None if no cell does."""

    @abstractmethod
    def estimated_bytes(self, summary: Mapping[str, Any]) -> int:
        """Bytes of the folder, an archive in it included, by ``summary.json`` of the arm."""

    def check(self) -> None:  # noqa: B027 - most formats need nothing
        """Check before anything is written whether this machine can write the format.

        Raises:
            ConfigError: Something is not installed.
        """

    def working_bytes(self, summary: Mapping[str, Any]) -> int:
        """Bytes of files that exist only while the export is written."""
        return 0

    @abstractmethod
    def write(self, source: ExportSource, folder: Path) -> list[Text]:
        """Write the weights into an empty folder and return notes for the user. Heavy libraries are imported here.

        Raises:
            ModelError: The adapter is not the one that was trained, or its weights do not fit the format.
        """

    @abstractmethod
    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """The ways to load an export, the most faithful first."""

    @abstractmethod
    def summary(self, arm: str, arm_label: str) -> str:
        """First paragraph of the model card; ``arm_label`` contains the storage of the arm's base."""

    def load(
        self, study: Study, arm: str, base: Path, folder: Path, options: dict[str, Any]
    ) -> Any:
        """Load a written export with public libraries alone, to score it again; None if torch cannot score it.

        ``base`` is the folder of the base model; ``options`` are arguments of ``from_pretrained``: dtype, device,
        trust.
        """
        return None

    def model_lines(self, context: LoadingContext) -> list[str]:
        """Python lines that import ``AutoTokenizer`` and load ``model`` with transformers; none if it cannot."""
        return []

    def record(self, folder: Path) -> dict[str, Any]:
        """What ``export.json`` says of this format alone, from the written files."""
        return {}

    def note(self, arm: str) -> str:
        """A note before the export of this arm; empty if there is none."""
        return ""

    def limitation(self, arm: str) -> str:
        """A limit of this arm in this format, for the model card; empty if there is none."""
        return ""


EXPORT_FORMATS: Registry[ExportFormat] = Registry(
    "export format",
    builtin=(
        "assistant_builder.export.adapter:ADAPTER",
        "assistant_builder.export.merged:MERGED",
        "assistant_builder.export.prequantized:PREQUANTIZED",
        "assistant_builder.export.gguf:GGUF",
    ),
)


_DEFAULT_STORAGE = str(ModelConfig.model_fields["quant_type"].default)


@dataclass(frozen=True)
class ExportSpec:
    """One arm in one format."""

    arm: str
    format: str
    type: str = ""  # of a format with several types; empty for its default type

    @property
    def name(self) -> str:
        """Name of its folder below ``exports/``."""
        return "-".join(part for part in (self.arm, self.format, self.type) if part)

    @property
    def export_format(self) -> ExportFormat:
        """The format, with its type."""
        format = EXPORT_FORMATS[self.format]
        return format.of_type(self.type) if self.type else format

    @property
    def cell(self) -> str | None:
        """The cell of the evaluation that scored exactly this, in a study with the default ``model.quant_type``."""
        return self.cell_in(_DEFAULT_STORAGE)

    def cell_in(self, quant_type: str) -> str | None:
        """The cell of the evaluation that scored exactly this in a study with this ``model.quant_type``."""
        format = self.export_format
        return format.cell(self.arm) if format.storage in ("", quant_type) else None


def export_specs(arms: Iterable[str] | None = None) -> list[ExportSpec]:
    """Every one of these arms, of all arms by default, in every format, with its default type."""
    return [
        ExportSpec(arm, format)
        for arm in plain_order(ARMS if arms is None else arms)
        for format in EXPORT_FORMATS
    ]


def typed(spec: ExportSpec) -> list[ExportSpec]:
    """The spec with each type of its format; the spec alone if the format has one type."""
    types = spec.export_format.types
    return [parse_export(spec.arm, spec.format, type) for type in types] or [spec]


def file_to_ship(report: Entries | None) -> ExportSpec | None:
    """The GGUF file that a report names as the smallest one that is no worse; None if it names none."""
    found = (report or {}).get("smallest_no_worse")
    return parse_export(found["arm"], "gguf", found["name"]) if found else None


def file_to_train_for(report: Entries | None, arms: Sequence[str]) -> str | None:
    """The type of a GGUF file that a report calls worse and that a further arm can be trained for; None without one."""
    rows = () if QAT.name in arms else (report or {}).get("formats") or ()
    worse = (str(row["name"]) for row in rows if row["verdict"] == "worse")
    return next((name for name in worse if name in QAT_TYPES), None)


def parse_export(arm: str, format: str, type: str | None = None) -> ExportSpec:
    """The spec of these names; raises ValueError if there is no such arm, format or type of the format."""
    for value, known in ((arm, plain_order(ARMS)), (format, tuple(EXPORT_FORMATS))):
        if value not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    types = EXPORT_FORMATS[format].types
    if type is not None and type not in types:
        raise ValueError(
            f"{type!r} is not one of {', '.join(types)}" if types else f"{format} has no --type"
        )
    return ExportSpec(
        arm, format, "" if type in (None, EXPORT_FORMATS[format].type) else type or ""
    )


def formats_of_cell(arm: str, cell: str, quant_type: str = _DEFAULT_STORAGE) -> list[ExportFormat]:
    """The formats of which a type has the quality that a cell measured in a study with this ``model.quant_type``."""
    return [
        format
        for name, format in EXPORT_FORMATS.items()
        if any(spec.cell_in(quant_type) == cell for spec in typed(ExportSpec(arm, name)))
    ]


def require_trained(study: Study, spec: ExportSpec) -> dict[str, Any]:
    """The arm's ``summary.json``; raises StudyError if the arm is not trained."""
    arms = study.config.arms
    if spec.arm not in arms:
        raise StudyError(
            m(
                "the {study} trains {arms} alone, and has no {arm} assistant",
                arms=" and ".join(arms),
                arm=spec.arm,
            ),
            where=m("{study} {name}", name=study.name),
            remedy=m(
                "Export --arm {arms}, or train it with 'assistant-builder run {name} --set arms={with_arm}'",
                arms=arms[0],
                name=study.name,
                with_arm=",".join(with_arm(arms, spec.arm)),
            ),
        )
    folder = study.arm_folder(spec.arm)
    trained = study.step(f"train-{spec.arm}").state == "succeeded"
    if not trained or not (folder / "adapter" / "adapter_model.safetensors").is_file():
        raise StudyError(
            m("the {arm} assistant is not trained yet", arm=spec.arm),
            where=m("{study} {name}", name=study.name),
            remedy=m("Train it with 'assistant-builder run {name}'", name=study.name),
        )
    return study.arm_summary(spec.arm)


def base_parameters(summary: Mapping[str, Any]) -> int:
    """Parameters of the base model, by ``summary.json`` of an arm."""
    return int(summary["total_parameters"]) - int(summary["trainable_parameters"])


def estimated_bytes(study: Study, spec: ExportSpec) -> int:
    """Bytes of the folder that an export makes."""
    return spec.export_format.estimated_bytes(study.arm_summary(spec.arm))


@dataclass(frozen=True)
class Advice:
    """The recommended export."""

    adapter: str  # the recommended arm if the base keeps its storage, as with an adapter
    merged: str  # the recommended arm if the export has 16-bit weights
    why: str

    def arm(self, format: ExportFormat) -> str:
        """The recommended arm in a format."""
        return self.adapter if format.keeps_storage else self.merged


_ALONE: dict[str, str] = {
    QLORA.name: N_(
        "Only Compact (QLoRA, {bits}-bit) is trained; whether Full (LoRA, 16-bit) would be better was not "
        "measured. Its adapter is served on the base in {bits} bits; merged, it is a 16-bit model."
    ),
    LORA.name: N_(
        "Only Full (LoRA, 16-bit) is trained; whether Compact (QLoRA, {bits}-bit) would be as good was not measured."
    ),
}
"""The reason if the study trains only one of the twins."""


def advice(report: Entries | None, arms: Sequence[str] = TWINS) -> Advice:
    """The recommended export by ``report.json`` (None before the evaluation), for the arms that the study trains.

    Merged models are 16-bit and have the same size, so that a merged QLoRA saves no memory: LoRA is recommended unless
    QLoRA scored better.
    """
    if not compares(arms):
        (arm,) = headline_arms(arms)
        if len(arms) == 1:
            return Advice(arm, arm, t(_ALONE.get(arm, "")) or f"Only {label(arm)} is trained.")
        return Advice(arm, arm, f"No verdict compares {' and '.join(map(label, arms))}.")
    full, compact = LORA.name, QLORA.name
    if report is None:
        return Advice(full, full, t("Nothing is measured yet: until then Full is the safe choice."))
    verdict = report.get("verdict")
    if not verdict or not verdict.get("ci"):
        why = t(
            "The report is of an older version, without a verdict that can be read here: evaluate again. "
            "Until then Full is the safe choice."
        )
        return Advice(full, full, why)
    low, high = verdict["ci"]
    ahead = low > 0 if verdict["higher_is_better"] else high < 0
    if verdict["outcome"] == "worse":
        why = t(
            "Compact is measurably worse: take Full, unless it does not fit the machine that runs it."
        )
        return Advice(full, full, why)
    if verdict["outcome"] != "no worse":
        why = t(
            "Whether Compact is worse than you allowed is undecided: Full is the safe "
            "choice; the other adapter needs less memory where it is served."
        )
        return Advice(full, full, why)
    if ahead:
        return Advice(compact, compact, t("Compact scored better: take it in either format."))
    why = t(
        "Compact was no worse than you allowed. Take its adapter if the assistant will be served in {bits} bits, where "
        "it saves memory. A merged model is 16-bit in either case and of the same size, so that Full is the better "
        "choice there."
    )
    return Advice(compact, full, why)


def shipped_file(report: Entries | None, arms: Sequence[str] = TWINS) -> ExportSpec:
    """The GGUF file to ship: the smallest that is no worse, else that of the recommended arm in the default type."""
    return file_to_ship(report) or ExportSpec(
        advice(report, arms).arm(EXPORT_FORMATS["gguf"]), "gguf"
    )


def base_name(study: Study) -> tuple[str, Path | None]:
    """The base model of a study: a name that others can use, and the local folder, if any."""
    from assistant_builder.models.bundled import BASE

    ref = base_ref(study.config.model)
    if ref.kind == "bundled":
        assert ref.entry is not None
        return ref.entry.hub_id, BASE.folder
    return (ref.hub_id, None) if ref.hub_id else (ref.name, ref.folder)
