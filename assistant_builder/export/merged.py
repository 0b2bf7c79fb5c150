"""Export format ``merged``: base and adapter in one float16 model, for transformers, vLLM and Ollama."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from assistant_builder.arms import ARMS
from assistant_builder.atomic_io import read_jsonl
from assistant_builder.errors import ModelError
from assistant_builder.export.adapter import (
    chat_lines,
    ollama_snippet,
    server_snippet,
    shell_word,
    trained_adapter,
    vllm_command,
    write_object,
)
from assistant_builder.export.ollama import match_family, modelfile, omitted_values
from assistant_builder.export_formats import (
    OTHER_FILES_BYTES,
    ExportFormat,
    ExportSource,
    LoadingContext,
    Snippet,
    base_parameters,
)
from assistant_builder.i18n import N_, Text, m, t
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_config, read_json_object
from assistant_builder.study import Study
from assistant_builder.study.contents import PairLine


class MergedFormat(ExportFormat):
    """The whole model in float16 safetensors, with a Modelfile."""

    name = "merged"
    label = N_("Whole model")
    noun = N_("merged model")
    explanation = N_("adapter and base in one, for Ollama, vLLM and transformers")
    contents = N_(
        "16-bit safetensors of the whole model, tokenizer and chat template, a Modelfile for Ollama, a model "
        "card with the project's numbers, and how to load it."
    )
    activity = N_("Merging adapter and base")

    def cell(self, arm: str) -> str | None:
        """The merged arm."""
        return ARMS[arm].merged_cell

    def estimated_bytes(self, summary: Mapping[str, Any]) -> int:
        """Two bytes for each parameter of the base."""
        return 2 * base_parameters(summary) + OTHER_FILES_BYTES

    def write(self, source: ExportSource, folder: Path) -> list[Text]:
        """Write weights, ``generation_config.json`` and Modelfile."""
        write_merged_weights(source.study, source.arm, source.base, folder)
        write_generation_config(source.base, folder, source.prompter)
        return write_modelfile(source, folder)

    def snippets(self, context: LoadingContext) -> list[Snippet]:
        """Transformers, Ollama, vLLM."""
        command = f"{self.vllm(context)}\n# or: transformers serve {shell_word(context.folder)} --port 8000"
        return [
            self.python_snippet(context),
            ollama_snippet(context),
            server_snippet("As a server, with vLLM or transformers", command, context),
        ]

    def python_snippet(self, context: LoadingContext) -> Snippet:
        """Lines that ask the model in Python."""
        lines = [
            "from transformers import pipeline",
            f'assistant = pipeline("text-generation", model={context.folder!r}, '
            f"dtype={json.dumps(context.compute_dtype)})",
            *chat_lines(context),
        ]
        return Snippet("python", "Python, with transformers", "python", "\n".join(lines))

    def vllm(self, context: LoadingContext) -> str:
        """The command that serves the model with vLLM."""
        name = shell_word(context.name)
        return f"{vllm_command(context.folder, context)} --served-model-name {name} --port 8000"

    def model_lines(self, context: LoadingContext) -> list[str]:
        """The whole model."""
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"model = AutoModelForCausalLM.from_pretrained({context.folder!r}, "
            f"dtype={json.dumps(context.compute_dtype)})",
        ]

    def summary(self, arm: str, arm_label: str) -> str:
        """What was merged into what."""
        base = "the 16-bit base it was trained on"
        if ARMS[arm].quantized:
            base = (
                f"the base it was trained on, that is the {ARMS[arm].base_label} weights widened to 16 bits, and not\n"
                "into the original 16-bit weights"
            )
        return (
            "An assistant for the questions of one domain, as a whole model in 16 bits (float16 safetensors): "
            f"{arm_label}, the adapter\nmerged into {base}."
        )

    def note(self, arm: str) -> str:
        """Why a 4-bit base becomes larger, or a rounded assistant worse."""
        if ARMS[arm].rounds:
            return t("This assistant was trained to be rounded; in 16 bits it answers worse.")
        if not ARMS[arm].quantized:
            return ""
        return t(
            "Merged into the {kind} base it was trained on, widened to 16 bits: into the original weights it would be "
            "another assistant than the one measured.",
            kind=ARMS[arm].base_label,
        )

    def load(
        self, study: Study, arm: str, base: Path, folder: Path, options: dict[str, Any]
    ) -> Any:
        """Load the model from its folder."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, **options)


def write_modelfile(source: ExportSource, folder: Path, weights: str = ".") -> list[Text]:
    """Write the Modelfile over ``weights``, a path from its folder; return what it leaves out, in sentences."""
    match = match_family(source.prompter, source.system)
    varied = not source.system and any(
        turn["role"] == "system"
        for record in read_jsonl(source.study.split_file("train"), PairLine)
        for turn in record["messages"]
    )
    system, title = source.system, source.title
    text = modelfile(
        match, source.prompter, system=system, title=title, varied=varied, weights=weights
    )
    (folder / "Modelfile").write_text(text, encoding="utf-8", newline="\n")
    return omitted_values(match, source.prompter, source.system)


def write_merged_weights(study: Study, arm: str, base: Path, folder: Path) -> None:
    """Write the merged model in float16, as the evaluation's cell merges it.

    QLoRA is merged into the dequantized 4-bit base that it was trained on, neither into the original float16 weights
    nor into a 4-bit layer (see ``models.lora_layers``).

    Raises:
        ModelError: The adapter is not the one that was trained, or a merged weight is not a finite float16 number.
    """
    from assistant_builder.models import loading
    from assistant_builder.models.lora_layers import merge
    from evals.cells import base_of

    # float16 arithmetic, so that embeddings, norms and head keep the base's float16 values; nothing is computed in it
    spec = replace(base_of(study, base, ARMS[arm].base), compute_dtype="float16")
    model = merge(loading.load_adapter(loading.load_base(spec), trained_adapter(study, arm)))
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:  # beyond float16's largest value of 65,504: the model would generate noise
        raise ModelError(
            m(
                "{bad} merged weights are infinite or not numbers in float16; the first is {bad_2}",
                bad=len(bad),
                bad_2=bad[0],
            ),
            remedy=m(
                "Export the adapter instead, or train again with a lower {train.learning_rate}"
            ),
        )
    model.save_pretrained(str(folder), max_shard_size="5GB")
    del model
    loading.free_memory()
    write_object(folder / "config.json", checkpoint_config(read_config(base)))


def checkpoint_config(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's own config.json with the dtype of these weights, under the keys of old readers and of new ones.

    transformers 5 writes the rotary base into ``rope_parameters`` alone; Ollama's converter and transformers 4 look for
    ``rope_theta`` and would silently use 10,000.
    """
    config = {**base, "dtype": "float16", "torch_dtype": "float16"}
    rope = base.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault(
                "rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"}
            )
    return config


def write_generation_config(base: Path, folder: Path, prompter: ChatTokenizer) -> None:
    """Write ``generation_config.json``: greedy, as evaluated, with the stop tokens of training."""
    path = base / "generation_config.json"
    config = read_json_object(path) if path.is_file() else {}
    ends = prompter.stop_ids
    written: dict[str, Any] = {"pad_token_id": prompter.pad_id}
    written |= {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    written |= {"eos_token_id": ends[0] if len(ends) == 1 else ends, "do_sample": False}
    write_object(folder / "generation_config.json", written)


MERGED = MergedFormat()
