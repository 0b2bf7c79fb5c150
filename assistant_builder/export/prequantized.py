"""Export format ``prequantized``: the whole model with weights that bitsandbytes has quantized, in 4 or 8 bits.

transformers and vLLM load it without the 16-bit weights and without quantizing them again. The type ``NF4`` has double
quantization, ``INT8`` is LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339). The type that the study's
``model.quant_type`` names is what the evaluation's requantized cells (LR, QR) are.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS, CELLS
from assistant_builder.export.adapter import server_snippet, write_object
from assistant_builder.export.merged import (
    MergedFormat,
    checkpoint_config,
    write_generation_config,
    write_merged_weights,
)
from assistant_builder.export_formats import (
    OTHER_FILES_BYTES,
    ExportSource,
    LoadingContext,
    Snippet,
    base_parameters,
)
from assistant_builder.i18n import N_, Text, m, t
from assistant_builder.models.checkpoint_dir import read_config
from assistant_builder.quantization.method import TransformersConfig

_WORK = ".work"
"""Folder in that of the export for the merged model."""


@dataclass(frozen=True)
class _Type:
    storage: str  # name of the quantization method
    bits: int
    arguments: Mapping[str, Any]  # of ``BitsAndBytesConfig``
    bytes_per_parameter: float  # at most, with embeddings and head in 16 bits as in small models


TYPES = {
    "NF4": _Type(
        "nf4",
        4,
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        0.9,
    ),
    "INT8": _Type("int8", 8, {"load_in_8bit": True}, 1.3),
}


class PrequantizedFormat(MergedFormat):
    """The whole model in safetensors, quantized by bitsandbytes."""

    name = "prequantized"
    label = N_("Whole model, quantized")
    noun = N_("quantized model")
    explanation = N_("the whole model in 4 or 8 bits of bitsandbytes, for transformers and vLLM")
    contents = N_(
        "Safetensors of the whole model with quantized weights, tokenizer and chat template, a model card "
        "with the project's numbers, and how to load it."
    )
    types = tuple(TYPES)
    type = "NF4"
    storage = TYPES[type].storage
    lossy = True
    relation = "quantized"

    def of_type(self, type: str) -> PrequantizedFormat:
        """This format with another type of weights."""
        other = copy.copy(self)
        other.type, other.storage = type, TYPES[type].storage
        return other

    def cell(self, arm: str) -> str | None:
        """The arm merged and quantized again, in a study with this ``storage``."""
        cells = (cell for cell in CELLS.values() if cell.adapter == arm)
        return next((cell.name for cell in cells if cell.merged == "quantized"), None)

    def estimated_bytes(self, summary: Mapping[str, Any]) -> int:
        """Quantized linear layers, and the rest in 16 bits."""
        weights = TYPES[self.type].bytes_per_parameter * base_parameters(summary)
        return round(weights) + OTHER_FILES_BYTES

    def working_bytes(self, summary: Mapping[str, Any]) -> int:
        """The merged model in 16 bits."""
        return 2 * base_parameters(summary)

    def write(self, source: ExportSource, folder: Path) -> list[Text]:
        """Merge, quantize, and write weights, ``config.json`` and ``generation_config.json``."""
        from transformers import AutoModelForCausalLM

        from assistant_builder.models.loading import (
            DTYPES,
            free_memory,
            pick_device,
            resolve_compute_dtype,
        )

        device = pick_device()
        dtype = resolve_compute_dtype(source.study.config.eval.compute_dtype, device)
        work = folder / _WORK
        work.mkdir()
        write_merged_weights(source.study, source.arm, source.base, work)
        source.report(0.5, m("Quantizing to {type}", type=self.type))
        # quantized from float16, as in training: weights rounded to bfloat16 before give other 4-bit weights
        model = AutoModelForCausalLM.from_pretrained(
            work,
            dtype=DTYPES["float16"],
            device_map={"": device},
            quantization_config=self._config(dtype).build(),
        )
        model.save_pretrained(str(folder), max_shard_size="5GB")
        del model
        free_memory()
        shutil.rmtree(work)
        quantization = read_config(folder)["quantization_config"]
        write_object(
            folder / "config.json",
            {**checkpoint_config(read_config(source.base)), "quantization_config": quantization},
        )
        write_generation_config(source.base, folder, source.prompter)
        return []

    def _config(self, compute_dtype: str) -> TransformersConfig:
        kind = TYPES[self.type]
        dtype = {"bnb_4bit_compute_dtype": compute_dtype} if kind.bits == 4 else {}
        return TransformersConfig(
            class_name="BitsAndBytesConfig", arguments={**kind.arguments, **dtype}
        )

    def record(self, folder: Path) -> dict[str, Any]:
        """The type."""
        return {"type": self.type}

    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """Transformers, vLLM."""
        server = server_snippet("As a server, with vLLM", self.vllm(context), context)
        return [self.python_snippet(context), server]

    def summary(self, arm: str, arm_label: str) -> str:
        """What the model is."""
        return (
            f"An assistant for the questions of one domain, as a whole model quantized by bitsandbytes "
            f"({self.type}): {arm_label},\nthe adapter merged into its base, the sum quantized."
        )

    def note(self, arm: str) -> str:
        """What quantizing does."""
        if not ARMS[arm].quantized:
            return ""
        return t(
            "The merged model is quantized again, which may cost more quality than {bits}-bit training."
        )

    def limitation(self, arm: str) -> str:
        """The study's figures are of another cell unless the evaluation has scored this one."""
        return (
            "The figures of the study are those of the assistant before it was quantized, unless the table calls a "
            "cell “this one”."
            if self.cell(arm)
            else "The figures of the study are those of the assistant before it was quantized."
        )


PREQUANTIZED = PrequantizedFormat()
