"""Export format ``gguf``: the merged model in one file for llama.cpp and Ollama, in 16 bits or quantized."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.data import Message
from assistant_builder.export.adapter import QUESTION, curl_command, shell_word, write_object
from assistant_builder.export.merged import write_merged_weights, write_modelfile
from assistant_builder.export.ollama import match_family
from assistant_builder.export_formats import OTHER_FILES_BYTES, ExportFormat, ExportSource, LoadingContext, Snippet
from assistant_builder.inference import llamacpp
from assistant_builder.models.checkpoint_dir import read_json_object
from assistant_builder.models.gguf_convert import convert_checkpoint, require_extra
from assistant_builder.quantization.ggml import GGUF_TYPES, GgufFile, Report, quantize, read_gguf, require_writer
from assistant_builder.study import Study

DEFAULT_TYPE = "Q8_0"
_WORK = ".work"
"""Folder in that of the export for intermediate files."""
_MERGED, _CONVERTED, _QUANTIZED = 0.3, 0.6, 0.9
"""Fractions of the writing at which its phases end."""


class GgufFormat(ExportFormat):
    """The whole model as a GGUF file, with a Modelfile that names it."""

    name = "gguf"
    label = "GGUF"
    noun = "GGUF file"
    explanation = "the whole model in one file, 16-bit or quantized, for llama.cpp and Ollama"
    contents = ("One GGUF file with tokenizer and chat template, a Modelfile for Ollama, a model card with the study's "
                "numbers, and how to load it.")
    activity = "Merging adapter and base"
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
        return round(_parameters(summary) * GGUF_TYPES[self.type].bits / 8) + OTHER_FILES_BYTES

    def working_bytes(self, summary: Mapping[str, Any]) -> int:
        """The merged model twice in 16 bits: as safetensors and as GGUF."""
        return 4 * _parameters(summary)

    def write(self, source: ExportSource, folder: Path) -> list[str]:
        """Write the GGUF file and the Modelfile."""
        work = folder / _WORK
        work.mkdir()
        full = work / "merged-f16.gguf"
        write_float16_gguf(source, work / "merged", full, source.report)
        path = folder / gguf_name(source.study.name, source.arm, self.type)
        written = quantize(full, path, self.type, lambda fraction, message: source.report(
            _CONVERTED + (_QUANTIZED - _CONVERTED) * fraction, message))
        shutil.rmtree(work)
        notes = [_types_sentence(written, self.type), self._check_prompts(source, path)]
        return [*(note for note in notes if note), *write_modelfile(source, folder, f"./{path.name}")]

    def _check_prompts(self, source: ExportSource, path: Path) -> str:
        """Compare the file's prompts with the study's on held-out items; returns the result in a sentence."""
        if not llamacpp.is_installed():
            return (f"Tokenizer and chat template of the file were not checked, because {llamacpp.PACKAGE} is not "
                    "installed.")
        source.report(_QUANTIZED, "Checking tokenizer and chat template in llama.cpp")
        conversations = {str(item["item"]): messages for item, messages in heldout_prompts(source.study, source.sample)}
        with llamacpp.LlamaServer(path) as server:
            llamacpp.check_prompts(server, source.prompter, conversations)
        return (f"In llama.cpp, tokenizer and chat template of the file give exactly the study's prompts on "
                f"{len(conversations)} held-out items.")

    def record(self, folder: Path) -> dict[str, Any]:
        """Type of the file, and the number of tensors of each GGML type."""
        return {"type": self.type, "tensor_types": read_gguf(only_gguf(folder)).tensor_types}

    def load(self, study: Study, arm: str, base: Path, folder: Path, options: dict[str, Any]) -> Any:
        """Dequantize the file with transformers; None if transformers does not know the architecture's GGUF."""
        from transformers import AutoModelForCausalLM, GgufConfig

        options = {key: value for key, value in options.items() if key != "use_safetensors"}
        try:
            return AutoModelForCausalLM.from_pretrained(folder, gguf_file=only_gguf(folder).name, **options,
                                                        quantization_config=GgufConfig(dequantize=True))
        except (ValueError, NotImplementedError):
            return None

    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """Ollama, llama.cpp's server."""
        return [Snippet("ollama", "On a laptop, with Ollama", "shell", "\n".join([
                    f"cd {shell_word(context.folder)}",
                    f"ollama create {shell_word(context.name)} -f Modelfile",
                    f'ollama run {shell_word(context.name)} "{QUESTION}"'])),
                Snippet("server", "As a server, with llama.cpp", "shell", "\n".join([
                    f"llama-server -m {shell_word(context.folder)}/{self._name(context)} -c {context.context} "
                    f"--alias {shell_word(context.name)} --jinja --port 8000", curl_command(context)]))]

    def model_lines(self, context: LoadingContext) -> list[str]:
        """The dequantized model."""
        return ["from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig",
                f"model = AutoModelForCausalLM.from_pretrained({context.folder!r}, gguf_file={self._name(context)!r}, "
                f'quantization_config=GgufConfig(dequantize=True), dtype="{context.compute_dtype}")']

    def _name(self, context: LoadingContext) -> str:
        return gguf_name(context.name, context.arm, self.type)

    def summary(self, arm: str, arm_label: str) -> str:
        """What the file is."""
        how = "quantized" if self.lossy else "in 16 bits"
        return (f"An assistant for the questions of one domain, as one GGUF file for llama.cpp and Ollama, {how} "
                f"({self.type}): {arm_label},\nthe adapter merged into its base.")

    def note(self, arm: str) -> str:
        """What quantizing does."""
        return ("The merged model is quantized again, which may cost more quality than 4-bit training."
                if self.lossy and ARMS[arm].quantized else "")

    def limitation(self, arm: str) -> str:
        """The study's figures are those of the 16-bit or NF4 assistant."""
        return ("The figures of the study are those of the assistant before it was rounded to this type, computed by "
                "PyTorch.") if self.lossy else ""


def _parameters(summary: Mapping[str, Any]) -> int:
    return int(summary["total_parameters"]) - int(summary["trainable_parameters"])


def gguf_name(study: str, arm: str, type: str) -> str:
    """Name of the file of an export."""
    return f"{study}-{arm}-{type}.gguf"


def only_gguf(folder: Path) -> Path:
    """The GGUF file of an export."""
    (path,) = folder.glob("*.gguf")
    return path


def write_float16_gguf(source: ExportSource, merged: Path, target: Path, report: Report) -> GgufFile:
    """Merge the adapter, and write the merged model as a GGUF file in float16, from which every type is quantized.

    The adapter is merged in float32 and the sum is rounded once to float16, so that the weights are exactly those of
    the export ``merged`` and of the evaluation's merged cells.

    Args:
        source: What to export.
        merged: Folder for the merged checkpoint, which is removed.
        target: The file to write.
        report: Progress callback.

    Raises:
        ConfigError: The extra ``gguf`` is not installed.
        ModelError: The adapter is not the one that was trained, its weights do not fit float16, or llama.cpp's
            converter does not support the model.
    """
    from assistant_builder.export.export import copy_tokenizer

    report(0.0, "Merging adapter and base")
    merged.mkdir()
    write_merged_weights(source.study, source.arm, source.base, merged)
    match = match_family(source.prompter, source.system)  # its Modelfile leaves a BOS token to the file's tokenizer
    copy_tokenizer(source.base, merged, source.prompter, adds_bos=match.adds_bos if match else False)
    for name in ("config.json", "tokenizer_config.json"):  # the converter would run the code that these name
        write_object(merged / name, {key: value for key, value in read_json_object(merged / name).items()
                                     if key != "auto_map"})
    written = convert_checkpoint(merged, target, lambda fraction, message: report(
        _MERGED + (_CONVERTED - _MERGED) * fraction, message))
    shutil.rmtree(merged)
    return written


def heldout_prompts(study: Study, most: int | None = None) -> list[tuple[dict[str, Any], list[Message]]]:
    """Held-out items of the evaluation with the conversations of their prompts, facts included; none before it.

    ``most``: number of items, evenly spread over all; None for all.
    """
    from assistant_builder.export.verify import evenly_spaced, item_messages

    items = read_jsonl(study.evals_folder / "tasks" / "items.jsonl")
    chosen = items if most is None else evenly_spaced(items, most)
    return [(item, item_messages(item)) for item in chosen]


def _types_sentence(written: GgufFile, type: str) -> str:
    """The tensors by type, and those that have another type than their file."""
    counts = ", ".join(f"{count} {kind}" for kind, count in written.tensor_types.items())
    main = next(iter(written.tensor_types))
    others = [tensor for tensor in written.tensors if tensor.type not in (main, "F32")]
    named = ", ".join(f"{tensor.name} as {tensor.type}" for tensor in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"Tensors of the {type} file: {counts}" + (f" ({named}{more})." if others else ".")


GGUF = GgufFormat()
