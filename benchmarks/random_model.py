"""A model of any size with random weights, written shard by shard so that memory never holds the complete model.

Speed and memory of training do not depend on the values of the weights. Imports torch inside functions.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assistant_builder.atomic_io import read_json, write_json

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 2 * 10**9
_DEVIATION = 0.02
"""Standard deviation of the weights, as in ``initializer_range``."""
_OF_THE_MODEL = ("config.json", "generation_config.json", "SHA256SUMS", "origin.json")
SHAPES: dict[str, dict[str, Any]] = {
    # https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json
    "8b": {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    },
}
"""Llama configs by name: ``8b`` is Llama 3.1 8B, ``tiny`` is for tests of the benchmark."""


def write_model(
    folder: Path,
    shape: str,
    tokenizer: Path,
    *,
    device: str = "cpu",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write config, tokenizer and float16 safetensors, unless an earlier call wrote them; returns the folder.

    ``shape`` is one of :data:`SHAPES`. A GPU draws the values many times faster. A shard has at most ``shard_bytes``
    unless a single tensor is larger.
    """
    wanted = {"shape": shape, "tokenizer": str(tokenizer.resolve())}
    made = folder / "made.json"
    if made.exists() and read_json(made) == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in tokenizer.iterdir():
        if (
            path.is_file()
            and path.name not in _OF_THE_MODEL
            and path.suffix != ".safetensors"
            and path.name != INDEX
        ):
            shutil.copyfile(path, folder / path.name)
    config = _config(shape, tokenizer)
    config.save_pretrained(folder)
    _write_shards(folder, _shapes(config), device, shard_bytes)
    write_json(made, wanted)  # last: an unfinished folder is written again
    return folder


def _config(shape: str, tokenizer: Path) -> Any:
    from transformers import AutoTokenizer, LlamaConfig

    known = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    values = dict(SHAPES[shape])
    vocabulary = max(values.pop("vocab_size", 0), len(known))
    return LlamaConfig(
        **values,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        dtype="float16",
        architectures=["LlamaForCausalLM"],
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
    )


def _shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, from a model on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _write_shards(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], device: str, shard_bytes: int
) -> None:
    import torch
    from safetensors.torch import save_file

    shards = list(shards_of(shapes, shard_bytes))
    generator = torch.Generator(device).manual_seed(0)
    weight_map, total = {}, 0
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            value = torch.ones(shapes[name], dtype=torch.float16)
            if len(shapes[name]) > 1:  # norms are vectors of ones
                drawn = torch.empty(shapes[name], dtype=torch.float16, device=device)
                value = drawn.normal_(0, _DEVIATION, generator=generator).cpu()
            tensors[name] = value
            weight_map[name] = file
            total += value.nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def shards_of(shapes: Mapping[str, tuple[int, ...]], shard_bytes: int) -> Iterator[list[str]]:
    """Names of the tensors of each shard of at most ``shard_bytes`` in float16; a larger tensor has its own shard."""
    names: list[str] = []
    used = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        if names and used + size > shard_bytes:
            yield names
            names, used = [], 0
        names.append(name)
        used += size
    if names:
        yield names
