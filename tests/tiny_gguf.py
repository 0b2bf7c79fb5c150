"""A GGUF file small enough to be written and loaded in a test: two layers, bytes for tokens, no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assistant_builder.models.chat_template import ChatTokenizer
from tests.export.tiny import CHATML, SPECIALS
from tests.tiny_models import byte_tokenizer

WIDTH, INNER, LAYERS = 64, 128, 2


def tokens() -> list[str]:
    """The vocabulary: control tokens, bytes as GPT-2 writes them, and one pair of bytes."""
    from tokenizers import pre_tokenizers

    return [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def prompter(template: str = CHATML, *, adds_bos: bool = False) -> ChatTokenizer:
    """The tokenizer of the file; one that ``adds_bos`` adds the token to plain text."""
    tokenizer = byte_tokenizer(SPECIALS, pairs=(("t", "h"),), template=template)
    tokenizer.add_bos_token = adds_bos
    return ChatTokenizer(tokenizer)


def write_tiny_gguf(
    path: Path,
    *,
    template: str = CHATML,
    vocabulary: Sequence[str] | None = None,
    width: int = WIDTH,
    tied: bool = True,
    leave_out: str = "",
    adds_bos: bool = False,
) -> Path:
    """Write a Llama with random weights, matrices in float16 and norms in float32."""
    from gguf import GGUFWriter, LlamaFileType, TokenType

    words = list(vocabulary or tokens())
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(
        [TokenType.CONTROL if word in SPECIALS else TokenType.NORMAL for word in words]
    )
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template(template)
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        if name != leave_out:
            writer.add_tensor(name, random.normal(0, 0.3, (rows, columns)).astype(np.float16))

    matrix("token_embd.weight", len(words), width)
    if not tied:
        matrix("output.weight", len(words), width)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", width // 2, width),
            ("attn_v", width // 2, width),
            ("attn_output", width, width),
            ("ffn_gate", INNER, width),
            ("ffn_up", INNER, width),
            ("ffn_down", width, INNER),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
