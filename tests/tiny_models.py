"""Models of every family with a few thousand weights, a tokenizer of single bytes, and a training of four pairs."""

from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen2": {},  # biases
    "qwen3": {},  # norms of the heads
    "gemma3_text": {"sliding_window": 16},  # other norms, windows, scaled embeddings
    "gemma2": {"sliding_window": 16},
    "gpt_neox": {},  # one fused projection, layer norms
    "phi3": {},  # fused gate and up
    "olmo2": {},
    "olmo": {"clip_qkv": 0.5},  # projections that are clipped in place
    "granite": {},
    "smollm3": {},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
}
"""Model families with the settings that make them differ."""


def sizes_of(kind: str, **changes: Any) -> dict[str, Any]:
    """The config of a small model of a family."""
    sizes = SIZES | FAMILIES[kind] | changes
    return {
        key: value
        for key, value in sizes.items()
        if key != "head_dim" or kind not in ("phi3", "olmo", "olmo2")
    }


def save_model(kind: str, folder: Path, **changes: Any) -> Path:
    """Write a model with random float16 weights and its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes_of(kind, **changes))
    )
    model.to(torch.float16).save_pretrained(folder)
    return folder


def small_llama(**changes: Any) -> Any:
    """A Llama of two layers in memory, with random float32 weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


def as_if_trained(model: Any, spread: float, seed: int = 1) -> Any:
    """The model with random values in the B matrices of its adapter, which begin as zeros."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, spread, generator=generator)
    return model


def byte_tokenizer(
    specials: tuple[str, ...],
    *,
    pairs: tuple[tuple[str, str], ...] = (),
    template: str | None = None,
    **named: Any,
) -> Any:
    """A tokenizer with a token for each control token, each byte and each of some pairs of bytes.

    Args:
        specials: The control tokens; the first begins a text, the last ends a turn.
        pairs: The pairs.
        template: The chat template.
        named: Further arguments of the tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, pairs)]
    backend = Tokenizer(
        models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=list(pairs))
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=specials[0],
        eos_token=specials[-1],
        pad_token=specials[-1],
        additional_special_tokens=list(specials),
        **named,
    )
    tokenizer.chat_template = template
    return tokenizer


def training_run(prompter: Any, train: Any, folder: Path, device: str, **more: Any) -> Any:
    """The plan of a training on four pairs of different lengths, which are its validation as well."""
    from assistant_builder.data import Message, Pair
    from assistant_builder.training.sft_config import TrainingRun

    examples = [
        example
        for words in ("one", "two and", "three and more", "four")
        for example in prompter.examples(
            Pair(
                1, (Message("user", f"Which is {words}?"), Message("assistant", f"It is {words}."))
            )
        )
    ]
    options = {
        "gradient_checkpointing": False,
        "dequantize": False,
        "cancelled": lambda: False,
        "on_step": lambda *_: None,
    }
    return TrainingRun(
        train=train,
        train_examples=examples,
        validation_examples=examples,
        folder=folder,
        device=device,
        **options | more,
    )
