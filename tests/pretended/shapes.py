"""Bases of any size on the pretended card, stored as the product stores them, with adapters; and training steps."""

import threading
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from assistant_builder.config import StudyConfig, TrainConfig
from assistant_builder.planning.hardware import choose_machine
from assistant_builder.planning.load_architecture import load_architecture
from assistant_builder.planning.memory import Batch
from assistant_builder.planning.plan import Lengths, Plan
from tests.pretended.card import Ledger, move


def _llama(
    hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }


LLAMAS = {
    "llama-2-7b": _llama(4096, 11_008, 32, 32, 32, 32_000),
    "llama-3-8b": _llama(4096, 14_336, 32, 32, 8, 128_256),
    "llama-2-13b": _llama(5120, 13_824, 40, 40, 40, 32_000),
    "llama-3-70b": _llama(8192, 28_672, 80, 64, 8, 128_256),
}
"""Sizes of models that the planner knows by these names."""
CAPABILITIES = {torch.bfloat16: (8, 9), torch.float16: (7, 5)}


def base(
    ledger: Ledger, sizes: dict[str, Any], storage: str, dtype: torch.dtype, kind: str = "llama"
) -> Any:
    """A base as ``models.loading.load_base`` leaves it, without ``hold``; weights are quantized one after the other."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from assistant_builder.models.loading import _cast_all_but_linear

    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **sizes), dtype=torch.float16
    )
    head, moved = model.get_output_embeddings(), {}
    for parent in [each for each in model.modules() if not isinstance(each, nn.Linear)]:
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head and storage != "float16":
                move(layer, ledger, moved)
                setattr(parent, name, quantized(layer, storage, dtype))
                moved.clear()  # linear weights are not tied
                del layer
    move(model, ledger, {})
    model.requires_grad_(False)
    _cast_all_but_linear(model, dtype)
    return model.eval()


def quantized(layer: nn.Linear, storage: str, dtype: torch.dtype) -> nn.Module:
    """A quantized layer; the parameter classes of bitsandbytes cannot be made of pretended tensors."""
    from bitsandbytes.functional import int8_vectorwise_quant, quantize_4bit
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    from assistant_builder.quantization import METHODS
    from assistant_builder.quantization.bitsandbytes import OUTLIER

    if storage == "int8":
        with _disable_current_modes():
            wide = Linear8bitLt(
                layer.in_features,
                layer.out_features,
                bias=False,
                has_fp16_weights=False,
                threshold=OUTLIER,
                device="meta",
            )
        values, scales, _ = int8_vectorwise_quant(layer.weight.data)
        wide._parameters["weight"] = nn.Parameter(values, requires_grad=False)
        wide.weight.CB, wide.weight.SCB = None, None
        wide.state.CB, wide.state.SCB, wide.bias = values, scales, layer.bias
        return METHODS[storage]._ready(wide).train(layer.training)
    with _disable_current_modes():
        made = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=dtype,
            compress_statistics=True,
            quant_type=storage,
            device="meta",
        )
    data, state = quantize_4bit(
        layer.weight.data, blocksize=64, compress_statistics=True, quant_type=storage
    )
    made._parameters["weight"] = nn.Parameter(data, requires_grad=False)
    made.weight.quant_state, made.weight.bnb_quantized, made.quant_state = state, True, state
    made.bias = layer.bias
    return METHODS[storage]._forbid_packed_kernel(made, dtype).train(layer.training)


def batch(rows: int, length: int, supervised: int, *, equal: bool = True) -> dict[str, Any]:
    """Inputs on the card, as the collator makes them and accelerate moves them."""
    from assistant_builder.models.chat_template import Example
    from assistant_builder.training.collate import TrainingCollator, to_dataset

    with _disable_current_modes():
        lengths = [length] * rows if equal else [length - index for index in range(rows)]
        examples = [
            Example(tuple(range(5, 5 + n)), tuple(index >= n - supervised for index in range(n)))
            for n in lengths
        ]
        made = TrainingCollator(0)(list(to_dataset(examples)))
    return {
        key: torch.empty(value.shape, dtype=value.dtype, device="cuda")
        if isinstance(value, torch.Tensor)
        else value
        for key, value in made.items()
    }


def adapted(
    model: Any,
    train: TrainConfig,
    dtype: torch.dtype,
    *,
    kernels: str = "fused",
    rounds: str = "",
    checkpointing: bool = False,
) -> Any:
    """A base with adapters, prepared as TwinTrainer prepares it on a GPU."""
    from assistant_builder.models.loading import add_adapter
    from assistant_builder.models.lora_layers import hold_in_compute_dtype, train_through_rounding
    from assistant_builder.training.gpu import apply_gpu_kernels

    made = add_adapter(model, train, 0)
    if rounds:
        train_through_rounding(made, rounds)
    hold_in_compute_dtype(made, dtype, "cuda")
    apply_gpu_kernels(made, kernels, sharded=False)
    made.train()
    if checkpointing:
        made.enable_input_require_grads()
        made.gradient_checkpointing_enable({"use_reentrant": False})
    return made


def steps(model: Any, inputs: dict[str, Any], count: int = 1) -> None:
    """Optimizer steps on one micro-batch, without the loop of transformers."""
    from assistant_builder.training.collate import summed_nll

    trainable = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, foreach=True)
    for _ in range(count):
        loss = summed_nll(model, inputs) / 100
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        torch.autograd.graph.increment_version(trainable)
        optimizer.zero_grad()


def ready_to_answer(model: Any) -> Any:
    """A trained model as evaluation and chat use it: groups and the attention of training are not saved."""
    from assistant_builder.inference.session import prepare_for_inference

    for layer in model.modules():
        if getattr(layer, "group", None) is not None:
            layer.group = None
    model.eval()
    if str(model.config._attn_implementation) == "sdpa_without_sync":
        model.get_base_model().set_attn_implementation("sdpa")
    prepare_for_inference(model)
    return model


class Prompter:
    """The ids that generation reads of a tokenizer."""

    pad_id, stop_ids = 0, [2]


def answer(model: Any, prompt: int, length: int, **sampling: Any) -> list[int]:
    """Tokens of an answer of the chat."""
    from assistant_builder.inference.chunks import Sampling
    from assistant_builder.inference.generate import generate_tokens

    return list(
        generate_tokens(
            model, Prompter, [3] * prompt, length, Sampling(**sampling), threading.Event()
        )
    )


def plan(
    name: str,
    config: StudyConfig,
    batch: Batch,
    answer: int,
    *,
    card: str = "RTX 4090",
    layers: int | None = None,
    **more: Any,
) -> Plan:
    """The plan of a training on a card, for a model of the catalog or its first layers."""
    whole = load_architecture(name)[1]
    if layers is not None:
        whole = replace(
            whole,
            blocks=whole.blocks[:layers],
            modules=tuple(
                each
                for each in whole.modules
                if ".layers." not in each.name or int(each.name.split(".")[2]) < layers
            ),
        )
    lengths = Lengths(batch.length, batch.length, answer, answer)
    return Plan(name, whole, config, choose_machine(card=card), 32, lengths, largest=batch, **more)
