"""Export format ``gguf``: the merged model in one file for llama.cpp and Ollama, in 16 bits or quantized."""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from typing_extensions import TypedDict

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import (
    file_hash,
    read_json,
    read_jsonl,
    require_disk_space,
    write_json,
)
from assistant_builder.chat.ask import default_system_prompt
from assistant_builder.child_process import configure_libraries
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.export.adapter import (
    copy_tokenizer,
    ollama_snippet,
    server_snippet,
    shell_word,
    write_object,
)
from assistant_builder.export.importance import NotMeasured, importance_matrix, importance_rows
from assistant_builder.export.merged import write_merged_weights, write_modelfile
from assistant_builder.export.ollama import match_family
from assistant_builder.export_formats import (
    OTHER_FILES_BYTES,
    ExportFormat,
    ExportSource,
    ExportSpec,
    LoadingContext,
    Snippet,
    base_name,
    base_parameters,
    require_trained,
)
from assistant_builder.i18n import N_, Text, m, t
from assistant_builder.inference import llamacpp
from assistant_builder.models.base_model import fetch_base
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_json_object
from assistant_builder.models.gguf_convert import (
    CONVERTER,
    convert_checkpoint,
    load_dequantized,
    require_extra,
)
from assistant_builder.quantization.gguf import (
    GgufFile,
    Importance,
    Report,
    quantize,
    read_gguf,
    require_writer,
)
from assistant_builder.quantization.gguf_types import GGUF_TYPES
from assistant_builder.study import Study
from assistant_builder.study.contents import ItemLine

DEFAULT_TYPE = "Q8_0"
_WORK = ".work"
"""Folder in that of the export for intermediate files."""
_MERGED, _CONVERTED, _QUANTIZED = 0.3, 0.6, 0.9
"""Fractions of the writing at which its phases end."""


class GgufFormat(ExportFormat):
    """The whole model as a GGUF file, with a Modelfile that names it."""

    name = "gguf"
    label = N_("GGUF")
    noun = N_("GGUF file")
    explanation = N_("the whole model in one file, 16-bit or quantized, for llama.cpp and Ollama")
    contents = N_(
        "One GGUF file with tokenizer and chat template, a Modelfile for Ollama, a model card with the "
        "project's numbers, and how to load it."
    )
    activity = N_("Merging adapter and base")
    library = "gguf"
    types = tuple(GGUF_TYPES)
    type = DEFAULT_TYPE
    lossy = GGUF_TYPES[DEFAULT_TYPE].lossy
    relation = "quantized"

    def of_type(self, type: str) -> GgufFormat:
        """This format with another type of weights."""
        other = copy.copy(self)
        other.type, other.lossy = type, GGUF_TYPES[type].lossy
        return other

    def cell(self, arm: str) -> str | None:
        """None: llama.cpp computes otherwise than the evaluation's cells."""
        return None

    def check(self) -> None:
        """Check that the extra ``gguf`` and what writes the type are installed."""
        require_extra("sentencepiece", "an export to GGUF")
        require_writer(self.type)

    def estimated_bytes(self, summary: Mapping[str, Any]) -> int:
        """The weights in this type."""
        return round(base_parameters(summary) * GGUF_TYPES[self.type].bits / 8) + OTHER_FILES_BYTES

    def working_bytes(self, summary: Mapping[str, Any]) -> int:
        """The merged model twice in 16 bits: as safetensors and as GGUF."""
        return 4 * base_parameters(summary)

    def write(self, source: ExportSource, folder: Path) -> list[Text]:
        """Write the GGUF file and the Modelfile."""
        work = folder / _WORK
        work.mkdir()
        full = work / "merged-f16.gguf"
        importance = write_float16_gguf(source, work / "merged", full, source.report)
        path = folder / gguf_name(source.study.name, source.arm, self.type)

        def report(fraction: float, message: Text) -> None:
            source.report(_CONVERTED + (_QUANTIZED - _CONVERTED) * fraction, message)

        written = quantize(full, path, self.type, report, importance=importance)
        shutil.rmtree(work)
        notes = [_types_sentence(written, self.type), self._check_prompts(source, path)]
        if importance is not None:
            notes.append(
                m(
                    "Block scales were chosen by the importance of {importance:,} matrices' columns on training rows.",
                    importance=len(importance),
                )
            )
        return [
            *(note for note in notes if note),
            *write_modelfile(source, folder, f"./{path.name}"),
        ]

    def _check_prompts(self, source: ExportSource, path: Path) -> Text:
        if not llamacpp.is_installed():
            return m(
                "Tokenizer and chat template of the file were not checked, because {package} is not installed.",
                package=llamacpp.PACKAGE,
            )
        source.report(_QUANTIZED, m("Checking tokenizer and chat template in llama.cpp"))
        conversations = {
            str(item["item"]): messages
            for item, messages in heldout_prompts(source.study, source.sample)
        }
        with llamacpp.LlamaServer(path) as server:
            llamacpp.check_prompts(server, source.prompter, conversations)
        return m(
            "In llama.cpp, tokenizer and chat template of the file give exactly the {study}'s prompts on "
            "{conversations} held-out items.",
            conversations=len(conversations),
        )

    def record(self, folder: Path) -> dict[str, Any]:
        """Type of the file, and the number of tensors of each GGML type."""
        return {"type": self.type, "tensor_types": read_gguf(only_gguf(folder)).tensor_types}

    def load(
        self, study: Study, arm: str, base: Path, folder: Path, options: dict[str, Any]
    ) -> Any:
        """Dequantize the file; None if transformers does not know the architecture's GGUF."""
        others = options.keys() - {"use_safetensors", "trust_remote_code"}
        return load_dequantized(only_gguf(folder), base, **{key: options[key] for key in others})

    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """Ollama, llama.cpp's server."""
        command = (
            f"llama-server -m {shell_word(context.folder)}/{self._name(context)} -c {context.context} "
            f"--alias {shell_word(context.name)} --jinja --port 8000"
        )
        server = server_snippet("As a server, with llama.cpp", command, context)
        return [ollama_snippet(context), server]

    def model_lines(self, context: LoadingContext) -> list[str]:
        """The dequantized model."""
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig",
            f"model = AutoModelForCausalLM.from_pretrained({context.folder!r}, gguf_file={self._name(context)!r}, "
            f"quantization_config=GgufConfig(dequantize=True), dtype={json.dumps(context.compute_dtype)})",
        ]

    def _name(self, context: LoadingContext) -> str:
        return gguf_name(context.name, context.arm, self.type)

    def summary(self, arm: str, arm_label: str) -> str:
        """What the file is."""
        how = "quantized" if self.lossy else "in 16 bits"
        return (
            f"An assistant for the questions of one domain, as one GGUF file for llama.cpp and Ollama, {how} "
            f"({self.type}): {arm_label},\nthe adapter merged into its base."
        )

    def note(self, arm: str) -> str:
        """What quantizing does."""
        if ARMS[arm].rounds:
            return t(
                "This assistant was trained for one type of file; in another type it answers worse."
            )
        if not self.lossy or not ARMS[arm].quantized:
            return ""
        return t(
            "The merged model is quantized again, which may cost more quality than {bits}-bit training."
        )

    def limitation(self, arm: str) -> str:
        """The study's figures are those of the 16-bit or NF4 assistant."""
        return (
            (
                "The figures of the study are those of the assistant before it was rounded to this type, computed by "
                "PyTorch."
            )
            if self.lossy
            else ""
        )


def gguf_name(study: str, arm: str, type: str) -> str:
    """Name of the file of an export."""
    return f"{study}-{arm}-{type}.gguf"


def only_gguf(folder: Path) -> Path:
    """The GGUF file of an export."""
    (path,) = folder.glob("*.gguf")
    return path


def write_float16_gguf(
    source: ExportSource, merged: Path, target: Path, report: Report
) -> Importance | None:
    """Merge the adapter, and write the merged model as a GGUF file in float16, from which every type is quantized.

    The adapter is merged in float32 and the sum is rounded once to float16, so that the weights are exactly those of
    the export ``merged`` and of the evaluation's merged cells.

    Args:
        source: What to export.
        merged: Folder for the merged checkpoint, which is removed.
        target: The file to write.
        report: Progress callback.

    Returns:
        The importance matrix for :func:`assistant_builder.quantization.gguf.quantize`, if the source asks for one.

    Raises:
        ConfigError: The extra ``gguf`` is not installed.
        ModelError: The adapter is not the one that was trained, its weights do not fit float16, llama.cpp's
            converter does not support the model, or its importance matrix cannot be measured.
    """
    from assistant_builder.models.loading import pick_device, resolve_compute_dtype

    report(0.0, m("Merging adapter and base"))
    merged.mkdir()
    write_merged_weights(source.study, source.arm, source.base, merged)
    # its Modelfile leaves a BOS token to the file's tokenizer
    match = match_family(source.prompter, source.system)
    copy_tokenizer(
        source.base, merged, source.prompter, adds_bos=match.adds_bos if match else False
    )
    # the converter would run the code that these name
    for name in ("config.json", "tokenizer_config.json"):
        record = read_json_object(merged / name)
        record.pop("auto_map", None)
        write_object(merged / name, record)
    written = convert_checkpoint(
        merged,
        target,
        lambda fraction, message: report(_MERGED + (_CONVERTED - _MERGED) * fraction, message),
    )
    importance = None
    if source.importance:
        dtype = resolve_compute_dtype(source.study.config.eval.compute_dtype, pick_device())
        importance = importance_matrix(
            merged,
            written.architecture,
            importance_rows(source.study, source.prompter),
            dtype,
            lambda fraction, message: report(_CONVERTED, message),
        )
    shutil.rmtree(merged)
    return importance


def heldout_prompts(
    study: Study, most: int | None = None
) -> list[tuple[dict[str, Any], list[Message]]]:
    """Held-out items of the evaluation with the conversations of their prompts, facts included; none before it.

    ``most``: number of items, evenly spread over all; None for all.
    """
    from assistant_builder.export.verify import item_messages
    from evals.work_items import evenly_spaced

    items = read_jsonl(study.evals_folder / "tasks" / "items.jsonl", ItemLine)
    chosen = items if most is None else evenly_spaced(items, most)
    return [(item, item_messages(item)) for item in chosen]


class _GgufRecord(TypedDict):
    type: str
    bytes: int
    sha256: str
    tensor_types: dict[str, int]
    inputs: dict[str, Any]


class GgufFiles:
    """The GGUF files of one arm in the study's folder ``formats/``, each with a record that is written last."""

    def __init__(self, study: Study, arm: str) -> None:
        self.study, self.arm, self.folder = study, arm, study.formats_folder

    def path(self, type: str) -> Path:
        """Path of the file of a type."""
        return self.folder / gguf_name(self.study.name, self.arm, type)

    def record(self, type: str) -> dict[str, Any] | None:
        """Type, bytes, ``sha256``, ``tensor_types`` and ``inputs`` of a file; None if it is missing or stale."""
        path = self._record_file(type)
        if not path.is_file() or not self.path(type).is_file():
            return None
        found: dict[str, Any] = read_json(path, _GgufRecord)
        same = found["inputs"] == self.inputs() and found["bytes"] == self.path(type).stat().st_size
        return found if same else None

    def ensure(
        self, types: Sequence[str], report: Report = lambda fraction, message: None
    ) -> dict[str, Path]:
        """Write the files of these types that are missing or stale, from one merged model; imports torch.

        A file appears complete or not at all; an exception from ``report`` cancels the rest.

        Returns:
            Type → file.

        Raises:
            ConfigError: The extra ``gguf`` is not installed, or a type needs llama.cpp, which is not.
            StudyError: The arm is not trained, or the folder cannot be written.
            ModelError: The base is not available, or llama.cpp's converter does not support it.
            ResourceError: The disk is too full.
        """
        formats = {type: GGUF.of_type(type) for type in types}
        for format in formats.values():
            format.check()
        summary = require_trained(self.study, ExportSpec(self.arm, GGUF.name))
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{self.arm}.lock"):
            missing = [type for type in types if self.record(type) is None]
            if missing:
                needed = formats[missing[0]].working_bytes(summary) + sum(
                    formats[type].estimated_bytes(summary) for type in missing
                )
                require_disk_space(self.folder, needed, "writing GGUF files", "Free disk space")
                self._write(missing, report)
        return {type: self.path(type) for type in types}

    def _write(self, types: Sequence[str], report: Report) -> None:
        # of a killed process; this one has the lock
        for left in self.folder.glob(f".{self.arm}-*/"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f".{self.arm}-") as work:
            full = Path(work) / "merged-f16.gguf"
            weighted = self._weighted and any(GGUF_TYPES[type].takes_importance for type in types)
            merged = Path(work) / "merged"
            source = _source(self.study, self.arm, importance=weighted)
            try:
                importance = write_float16_gguf(source, merged, full, report)
            except NotMeasured:  # files without a matrix are better than none
                shutil.rmtree(merged)
                full.unlink()
                importance = write_float16_gguf(
                    replace(source, importance=False), merged, full, report
                )
            for place, type in enumerate(types):

                def within(fraction: float, message: Text, place: int = place) -> None:
                    report(_CONVERTED + (1 - _CONVERTED) * (place + fraction) / len(types), message)

                made = Path(work) / self.path(type).name
                written = quantize(full, made, type, within, importance=importance)
                record = {
                    "type": type,
                    "bytes": made.stat().st_size,
                    "sha256": file_hash(made),
                    "tensor_types": written.tensor_types,
                    "inputs": self.inputs(),
                    "importance": importance is not None and GGUF_TYPES[type].takes_importance,
                }
                self._record_file(type).unlink(missing_ok=True)
                os.replace(made, self.path(type))
                write_json(self._record_file(type), record)

    def _record_file(self, type: str) -> Path:
        return self.path(type).with_suffix(".json")

    def inputs(self) -> dict[str, Any]:
        """What a file is made of."""
        return {
            "adapter": self.study.arm_summary(self.arm)["adapter_sha256"],
            "template_date": self.study.template_date.isoformat(),
            "converter": CONVERTER.wheel.requirement,
            **({"importance": True} if self._weighted else {}),
        }

    @property
    def _weighted(self) -> bool:
        """Whether an importance matrix is used; an arm is trained through the rounding without one."""
        return self.study.config.weighs_columns and not ARMS[self.arm].rounds


def uses_importance(study: Study, spec: ExportSpec) -> bool:
    """Whether an export is written with an importance matrix, as the scored file of the study."""
    format = spec.export_format
    if (
        format.name != "gguf"
        or not GGUF_TYPES[format.type].takes_importance
        or ARMS[spec.arm].rounds
    ):
        return False
    scored = GgufFiles(study, spec.arm).record(format.type)
    return bool((scored or {}).get("importance", study.config.weighs_columns))


def _source(study: Study, arm: str, *, importance: bool) -> ExportSource:
    base, name = fetch_base(study.config.model), base_name(study)[0]
    prompter, system = (
        ChatTokenizer.load(base, study.record_template_date()),
        default_system_prompt(study),
    )
    title = f"{study.name}: {arm}"
    return ExportSource(study, arm, title, base, name, prompter, system, importance=importance)


def _types_sentence(written: GgufFile, type: str) -> str:
    counts = ", ".join(f"{count} {kind}" for kind, count in written.tensor_types.items())
    main = next(iter(written.tensor_types))
    others = [tensor for tensor in written.tensors if tensor.type not in (main, "F32")]
    named = ", ".join(f"{tensor.name} as {tensor.type}" for tensor in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"Tensors of the {type} file: {counts}" + (f" ({named}{more})." if others else ".")


GGUF = GgufFormat()


def main() -> int:
    """Write files of a study: ``python -m assistant_builder.export.gguf --study DIR --arm lora --types Q8_0,Q4_0``."""
    parser = argparse.ArgumentParser(
        description="Write GGUF files of a trained assistant to its study."
    )
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument("--approach", help="the approach of the assistant; default: the main one")
    parser.add_argument("--arm", choices=list(ARMS), required=True)
    parser.add_argument("--types", required=True, help=f"of {', '.join(GGUF_TYPES)}, with commas")
    options = parser.parse_args()
    configure_libraries()
    try:
        GgufFiles(Study(options.study, options.approach), options.arm).ensure(
            options.types.split(",")
        )
    except AssistantBuilderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
