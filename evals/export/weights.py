"""The weights of an export and what lies beside them: adapter, merged model, tokenizer, chat template.

Imports torch inside functions: only the export's process calls them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import file_hash, read_json
from assistant_builder.errors import ModelError
from assistant_builder.models.chat_template import ChatTokenizer
from assistant_builder.models.checkpoint_dir import read_config, read_object
from assistant_builder.study import Study
from evals.export.kinds import Kind

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)
_SHARD = "5GB"


def copy_adapter(study: Study, kind: Kind, folder: Path, *, base: str, revision: str | None) -> None:
    """Write ``adapter_model.safetensors`` and an ``adapter_config.json`` that names a base others can load.

    Raises:
        ModelError: The adapter is not the one that was trained.
    """
    source = _trained_adapter(study, kind)
    shutil.copyfile(source / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    config = read_object(source / "adapter_config.json")
    config |= {"base_model_name_or_path": base, "revision": revision}
    _write_json(folder / "adapter_config.json", config)


def write_merged(study: Study, kind: Kind, base: Path, folder: Path) -> None:
    """Write the whole model in float16: the cell's own merge, with everything else as the base has it.

    QLoRA is merged into the 4-bit base that it was trained on, dequantized, and never into the float16 weights, nor
    into a 4-bit layer (see ``models.merging``).

    Args:
        study: The study.
        kind: Whose adapter.
        base: The base model's folder.
        folder: Where to.

    Raises:
        ModelError: The adapter is not the one that was trained, or a merged weight is no finite float16 number.
    """
    from assistant_builder.models import loading
    from assistant_builder.models.merging import merge
    from evals.cells import CELL_SPECS, base_of

    # float16 arithmetic, so that embeddings, norms and head keep the base's float16 values; nothing is computed in it
    spec = replace(base_of(study, base, CELL_SPECS[kind.cell].base), compute_dtype="float16")
    model = merge(loading.load_adapter(loading.load_base(spec), _trained_adapter(study, kind)))
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    _require_finite(model)
    model.save_pretrained(str(folder), max_shard_size=_SHARD)
    del model
    loading.release()
    _write_json(folder / "config.json", _config(read_config(base)))


def _trained_adapter(study: Study, kind: Kind) -> Path:
    folder = study.arm_folder(kind.arm) / "adapter"
    expected = read_json(study.arm_folder(kind.arm) / "summary.json")["adapter_sha256"]
    if file_hash(folder / "adapter_model.safetensors") != expected:
        raise ModelError("the adapter is not the one that training left", where=str(folder),
                         remedy=f"Train it again with 'assistant-builder run {study.name} --redo'")
    return folder


def _require_finite(model: Any) -> None:
    """Float16 ends at 65504: a merged weight beyond it is infinite, and the model says nothing but noise."""
    bad = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise ModelError(
            f"{len(bad)} merged weights are too large for float16 or no numbers, the first is {bad[0]}",
            remedy="Export the adapter instead, or train again with a lower train.learning_rate",
        )


def _config(base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's own config.json, with the dtype of these weights, in the words of old readers and of new ones.

    transformers 5 writes the rotary base into ``rope_parameters`` alone; Ollama's converter and transformers 4 look for
    ``rope_theta`` and would silently go on with 10,000.
    """
    config = {**base, "dtype": "float16", "torch_dtype": "float16"}
    rope = base.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
    return config


def copy_tokenizer(base: Path, folder: Path, prompter: ChatTokenizer, *, adds_bos: bool | None) -> None:
    """Write tokenizer and chat template as the study used them.

    Args:
        base: The base model's folder.
        folder: Where to.
        prompter: The base's, for the chat template of a base that brings none.
        adds_bos: Whether a server must put the token that begins a sequence before a rendered prompt; None: not known.
    """
    for name in _TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    template = prompter.tokenizer.chat_template
    settings = read_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        settings["chat_template"] = template  # Ollama's converter and older readers look here
    if adds_bos is False:
        settings["add_bos_token"] = False
    _write_json(folder / "tokenizer_config.json", settings)


def write_generation_config(base: Path, folder: Path, prompter: ChatTokenizer) -> None:
    """Write ``generation_config.json``: greedy, as evaluated, and ending where the assistant was taught to end."""
    path = base / "generation_config.json"
    config = read_object(path) if path.is_file() else {}
    kept: dict[str, Any] = {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    ends = prompter.stop_ids
    _write_json(folder / "generation_config.json", {
        "pad_token_id": prompter.pad_id, **kept, "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "do_sample": False,
    })


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
