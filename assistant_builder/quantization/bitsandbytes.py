"""bitsandbytes: NF4 and FP4, two weights per byte, with constants for blocks of weights (QLoRA paper).

Byte counts follow ``bitsandbytes.functional.quantize_4bit``: one constant for each block of 64 weights, and with double
quantization these constants as 8-bit values with a float32 constant of their own for each 256.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from assistant_builder.quantization.method import QuantizationMethod, TransformersConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BLOCK, NESTED_BLOCK = 64, 256
_CODE, _NESTED_CODE = 16 * 4, 256 * 4
"""Bytes of the tables of values that each quantized weight carries."""


class BitsAndBytes4Bit(QuantizationMethod):
    """A 4-bit type of bitsandbytes; ``name`` is that of the library: ``nf4`` or ``fp4``."""

    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        """See :meth:`QuantizationMethod.weight_bytes`; double quantization saves 0.373 of 0.5 bits a weight."""
        weights = outputs * inputs
        blocks = math.ceil(weights / BLOCK)
        packed = math.ceil(weights / 2)
        if double_quant:
            return packed + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + _CODE + _NESTED_CODE
        return packed + 4 * blocks + _CODE

    def transformers_config(self, *, double_quant: bool, compute_dtype: str) -> TransformersConfig:
        """See :meth:`QuantizationMethod.transformers_config`."""
        return TransformersConfig(class_name="BitsAndBytesConfig", arguments={
            "load_in_4bit": True, "bnb_4bit_quant_type": self.name, "bnb_4bit_use_double_quant": double_quant,
            "bnb_4bit_compute_dtype": compute_dtype,
        })

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...] | None:
        """See :meth:`QuantizationMethod.vllm_arguments`; vLLM quantizes to NF4 with double quantization only."""
        return ("--quantization", "bitsandbytes") if self.name == "nf4" and double_quant else None

    def load(self, read: Callable[..., PreTrainedModel], *, double_quant: bool, compute_dtype: torch.dtype, device: str,
             sharded: bool) -> PreTrainedModel:
        """See :meth:`QuantizationMethod.load`; transformers quantizes each weight as it is read.

        Weights for FSDP are stored in words of the compute dtype, because only floating point can be sharded.
        """
        from bitsandbytes.nn import Linear4bit

        config = self.transformers_config(
            double_quant=double_quant, compute_dtype=str(compute_dtype).removeprefix("torch.")
        ).build(bnb_4bit_quant_storage=compute_dtype if sharded else None)
        with _quantized_on_gpu() if sharded and device != "cpu" else contextlib.nullcontext():
            model = read(quantization_config=config)
        for layer in model.modules():
            if isinstance(layer, Linear4bit):
                self._forbid_packed_kernel(layer, compute_dtype)
        return model

    def quantize(self, layer: nn.Linear, *, double_quant: bool, compute_dtype: torch.dtype) -> nn.Linear:
        """See :meth:`QuantizationMethod.quantize`; the result is that of loading the layer's checkpoint in 4 bits."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        quantized = Linear4bit(layer.in_features, layer.out_features, bias=False, compute_dtype=compute_dtype,
                               compress_statistics=double_quant, quant_type=self.name, device="meta")
        quantized.weight = Params4bit(layer.weight.data, requires_grad=False, compress_statistics=double_quant,
                                      quant_type=self.name, module=quantized).to(layer.weight.device)
        quantized.bias = layer.bias
        return self._forbid_packed_kernel(quantized, compute_dtype).train(layer.training)

    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        """See :meth:`QuantizationMethod.dequantize`."""
        from bitsandbytes.functional import dequantize_4bit

        state: Any = layer.weight.quant_state
        if dtype is not None:
            state = copy.copy(state)
            state.dtype = dtype
        weight: torch.Tensor = dequantize_4bit(layer.weight.data, state)
        return weight

    def constants(self, layer: nn.Linear) -> list[Any]:
        """See :meth:`QuantizationMethod.constants`."""
        state: Any = getattr(layer, "quant_state", None)
        return [] if state is None else [state]

    def stored_bytes(self, layer: nn.Module) -> int:
        """See :meth:`QuantizationMethod.stored_bytes`."""
        total = sum(parameter.nbytes for parameter in layer.parameters(recurse=False))
        state: Any = layer.weight.quant_state
        while state is not None:  # double quantization nests a second state for the block constants
            total += state.absmax.nbytes + state.code.nbytes
            state = state.state2
        return total

    def check(self, device: str) -> None:
        """See :meth:`QuantizationMethod.check`."""
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.randn(64, 64, device=device)
        restored = dequantize_4bit(*quantize_4bit(weight, quant_type=self.name, compress_statistics=True))
        if not torch.allclose(weight, restored, atol=1.0):
            raise RuntimeError("dequantized weights differ from the original ones")

    def _forbid_packed_kernel(self, layer: Any, compute_dtype: torch.dtype) -> nn.Linear:
        """Disable the packed CPU kernel of a 4-bit layer, round its weight as the forward pass does, and mark it.

        Otherwise the first evaluation on an AVX512-BF16 CPU repacks the weight for a kernel without autograd, and all
        later training steps have wrong gradients. The backward pass would also round twice (to float16, then to the
        compute dtype), the forward pass once.
        """
        layer.support_avx512bf16_for_cpu = False
        layer.weight.quant_state.dtype = compute_dtype
        return self.marked(layer)


METHODS = tuple(BitsAndBytes4Bit(name=name, label=name.upper(), bits=4, library="bitsandbytes", shardable=True,
                                 operator="bitsandbytes::gemm_4bit") for name in ("nf4", "fp4"))


@contextlib.contextmanager
def _quantized_on_gpu() -> Iterator[None]:
    """Quantize each weight on the GPU while a base is read into main memory.

    Quantization with bitsandbytes is slow on a CPU, and a base that has to be sharded is large. The GPU needs memory
    for one 16-bit weight at a time.
    """
    import torch
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    plain = Bnb4BitHfQuantizer.get_quantize_ops
    Bnb4BitHfQuantizer.get_quantize_ops = quantizer_on(torch.device("cuda", torch.cuda.current_device()))
    try:
        yield
    finally:
        Bnb4BitHfQuantizer.get_quantize_ops = plain


def quantizer_on(device: torch.device) -> Callable[[Any], Any]:
    """The ``get_quantize_ops`` of a quantizer of transformers that computes on ``device``."""
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize

    class QuantizeOnDevice(Bnb4bitQuantize):
        """Quantizes a weight on a device and moves the 4-bit result back to the device of the weight."""

        def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            """See :class:`transformers.core_model_loading.ConversionOps`."""
            moved, origin = {}, device
            for name, given in input_dict.items():
                weight = given[0] if isinstance(given, list) else given
                moved[name], origin = weight.to(device), weight.device
            return {name: weight.to(origin) for name, weight in super().convert(moved, *args, **kwargs).items()}

    return lambda quantizer: QuantizeOnDevice(quantizer)
