"""Bytes that do not depend on the batch: the frozen base, the adapters, their gradients, the optimizer's states.

The 4-bit figures follow bitsandbytes (``functional.quantize_4bit``): two weights a byte, one constant for each block of
64 weights, and with double quantization these constants as 8-bit values with a float32 constant of their own for each
256.
"""

from __future__ import annotations

import math
from typing import Literal

from assistant_builder.config import ModelConfig, TrainConfig
from assistant_builder.planning.architecture import VISION, Architecture, Module

Method = Literal["qlora", "lora", "full"]
BLOCK, NESTED_BLOCK = 64, 256
_CODE, _NESTED_CODE = 16 * 4, 256 * 4
"""Bytes of the tables of values that each quantized weight carries."""
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_SMALL = 4096
"""Tensors with fewer values keep 32-bit states under 8-bit AdamW (bitsandbytes' ``min_8bit_size``)."""


def four_bit_bytes(weights: int, *, double_quant: bool) -> int:
    """Bytes of one 4-bit weight with its block constants and tables.

    Args:
        weights: Number of values.
        double_quant: Whether the block constants are quantized too (0.127 instead of 0.5 bits a weight).
    """
    blocks = math.ceil(weights / BLOCK)
    packed = math.ceil(weights / 2)
    if double_quant:
        return packed + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + _CODE + _NESTED_CODE
    return packed + 4 * blocks + _CODE


def module_bytes(module: Module, method: Method, model: ModelConfig, compute_dtype: str) -> int:
    """Bytes of one module of the base, as the trainer holds it.

    Linear layers are float16 in the LoRA arm and 4-bit in the QLoRA arm; their biases are float16. Everything else is
    held in the compute dtype in both arms. Full fine-tuning holds all of it in 16 bits.
    """
    wide = 2 if method == "full" else DTYPE_BYTES[compute_dtype]
    if module.kind != "linear":
        return module.parameters * wide
    if method == "qlora":
        return four_bit_bytes(module.weights, double_quant=model.double_quant) + 2 * module.bias
    return 2 * module.parameters


def loading_extra_bytes(architecture: Architecture, method: Method, compute_dtype: str) -> int:
    """Bytes in use while a base is loaded, on top of what is stored of it by then.

    Safetensors are read tensor by tensor straight onto the target device. On top of the stored weights there is at most
    one tensor at a time: the 16-bit weight that is being quantized (transformers reads without worker threads while it
    quantizes, core_model_loading.convert_and_load_state_dict_in_model); a block's experts before they are stacked into
    one fused weight; or, afterwards, the float16 original of an embedding or head that is being cast to another compute
    dtype (models.loading).
    """
    kinds = {"experts"}
    if method == "qlora":
        kinds.add("linear")
    if method != "full" and compute_dtype != "float16":
        kinds |= {"embedding", "head"}
    return 2 * max((module.weights for module in architecture.modules if module.kind in kinds), default=0)


def adapted_modules(architecture: Architecture, train: TrainConfig) -> tuple[Module, ...]:
    """The layers that take an adapter: all linear ones of the text decoder, or those named; never the vision part's."""
    names = [name.strip() for name in train.target_modules.split(",") if name.strip()]
    if names == ["all-linear"]:
        return tuple(module for module in architecture.linear() if not module.name.startswith(VISION))
    return tuple(
        module for module in architecture.modules
        if module.kind in ("linear", "head") and not module.name.startswith(VISION)
        and any(module.name == name or module.name.endswith(f".{name}") for name in names)
    )


def adapter_parameters(module: Module, rank: int) -> int:
    """Values of one adapter: A is [rank, in], B is [out, rank]."""
    return rank * (module.inputs + module.outputs)


def optimizer_bytes(tensors: list[int], optimizer: str) -> int:
    """Bytes of AdamW's two moments for trained tensors.

    Args:
        tensors: Number of values of each.
        optimizer: ``adamw`` and ``paged_adamw_32bit`` keep two float32 values each, ``paged_adamw_8bit`` two bytes with
            a float32 constant for each 256 of them.
    """
    if optimizer != "paged_adamw_8bit":
        return 8 * sum(tensors)
    total = 0
    for values in tensors:
        total += 8 * values if values < _SMALL else 2 * (values + 4 * math.ceil(values / NESTED_BLOCK))
    return total
