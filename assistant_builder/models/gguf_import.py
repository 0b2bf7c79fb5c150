"""Conversion of the bundled GGUF file to a transformers folder: float16 safetensors, config, tokenizer, template.

It uses only ``gguf`` and ``numpy``, because transformers 5.24 silently replaces the ``smollm`` pre-tokenizer by that of
GPT-2, which splits whitespace before digits differently (a blank line before "1." becomes two tokens).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.models.wheel_download import Report, no_progress

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

_CONTROL = 3  # the value of ``tokenizer.ggml.token_type`` that marks control tokens (llama.cpp)

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert_gguf(source: Path, folder: Path, report: Report = no_progress) -> None:
    """Write a Llama-architecture GGUF file with the ``smollm`` tokenizer as a transformers folder.

    Quantized weights are dequantized in float32 and rounded to float16. A tied head is not written.

    Raises:
        ModelError: The file has another architecture or tokenizer.
    """
    from gguf import GGUFReader

    report(0, 1, m("Reading the model file"))
    reader = GGUFReader(source)
    read = re.compile(r"(general|llama|tokenizer)(\.|$)").match
    metadata = {name: field.contents() for name, field in reader.fields.items() if read(name)}
    kind = (metadata["general.architecture"], metadata.get("tokenizer.ggml.pre"))
    if kind != ("llama", "smollm"):
        raise ModelError(
            m(
                "the model file has architecture and tokenizer {kind}, not ('llama', 'smollm')",
                kind=kind,
            ),
            where=str(source),
            remedy=m("Use the bundled model, or a folder with safetensors"),
        )
    _write_tokenizer(metadata, folder)
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    _write_config(metadata, folder, tied=tied)
    _write_weights(reader, metadata, folder, report)


def _build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    # byte-level BPE; as in SmolLM2's published tokenizer.json and llama.cpp, every digit is split off before GPT-2's
    # pre-tokenizer
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    control = (token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL)
    special = [AddedToken(token, normalized=False, special=True) for token in control]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _write_tokenizer(metadata: Mapping[str, Any], folder: Path) -> None:
    _build_tokenizer(metadata).save(str(folder / "tokenizer.json"))
    tokens = metadata["tokenizer.ggml.tokens"]
    # The generic class is required: with the published "GPT2Tokenizer" transformers 5 rebuilds the tokenizer with
    # GPT-2's pre-tokenizer and drops the digit splitting of tokenizer.json.
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {
        f"{own}_token": tokens[metadata[f"tokenizer.ggml.{name}_token_id"]]
        for own, name in names.items()
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
    }
    _write_json(folder / "tokenizer_config.json", settings)
    template = metadata["tokenizer.chat_template"]
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_config(metadata: Mapping[str, Any], folder: Path, *, tied: bool) -> None:
    ids = {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "vocab_size": metadata["llama.vocab_size"],
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        "head_dim": metadata["llama.rope.dimension_count"],
        "max_position_embeddings": metadata["llama.context_length"],
        # stored as float32; its shortest decimal is the published 1e-05
        "rms_norm_eps": _shortest(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": _shortest(metadata["llama.rope.freq_base"]),
        },
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        **ids,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", ids)


def _shortest(value: float) -> float:
    import numpy as np

    return float(str(np.float32(value)))


def _write_weights(
    reader: GGUFReader, metadata: Mapping[str, Any], folder: Path, report: Report
) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {
        "attn_q": metadata["llama.attention.head_count"],
        "attn_k": metadata["llama.attention.head_count_kv"],
    }
    weights: dict[str, NDArray[np.float16]] = {}
    for done, tensor in enumerate(reader.tensors, start=1):
        values = dequantize(tensor.data, tensor.tensor_type)
        *front, kind, suffix = tensor.name.split(".")
        # undo llama.cpp's reordering of query and key rows for its interleaved rotary embedding
        if kind in heads:
            rows, columns = values.shape
            halves = values.reshape(heads[kind], rows // heads[kind] // 2, 2, columns)
            values = halves.swapaxes(1, 2).reshape(rows, columns)
        name = f"model.layers.{front[1]}.{_LAYER[kind]}" if front else _OUTER[kind]
        weights[f"{name}.{suffix}"] = np.ascontiguousarray(values, dtype=np.float16)
        report(done, len(reader.tensors), m("Turning the weights into float16"))
    target = folder / "model.safetensors"
    save_file(weights, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors writes it for its owner only


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
