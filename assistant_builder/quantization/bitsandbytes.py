"""bitsandbytes: NF4 and FP4 (QLoRA paper), and INT8 (LLM.int8, Dettmers et al. 2022, arXiv 2208.07339).

NF4 and FP4 store two weights per byte, with constants for blocks of weights. Byte counts follow
``bitsandbytes.functional.quantize_4bit``: one constant for each block of 64 weights, and with double quantization these
constants as 8-bit values with a float32 constant of their own for each 256. INT8 stores a weight per byte, with a
float32 constant for each row.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from assistant_builder.i18n import N_
from assistant_builder.quantization.method import QuantizationMethod, TransformersConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BLOCK, NESTED_BLOCK = 64, 256
# bytes of the tables of values that each quantized weight carries
_CODE, _NESTED_CODE = 16 * 4, 256 * 4
OUTLIER = 6.0
"""Least absolute value of an outlier in the input of an INT8 layer; the threshold of the paper and of transformers."""


class _BitsAndBytes4Bit(QuantizationMethod):
    """A 4-bit type of bitsandbytes; ``name`` is that of the library: ``nf4`` or ``fp4``."""

    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        # double quantization saves 0.373 of 0.5 bits a weight
        weights = outputs * inputs
        blocks = math.ceil(weights / BLOCK)
        packed = math.ceil(weights / 2)
        if double_quant:
            return packed + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + _CODE + _NESTED_CODE
        return packed + 4 * blocks + _CODE

    def transformers_config(self, *, double_quant: bool, compute_dtype: str) -> TransformersConfig:
        return TransformersConfig(
            class_name="BitsAndBytesConfig",
            arguments={
                "load_in_4bit": True,
                "bnb_4bit_quant_type": self.name,
                "bnb_4bit_use_double_quant": double_quant,
                "bnb_4bit_compute_dtype": compute_dtype,
            },
        )

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...] | None:
        # vLLM quantizes to NF4 with double quantization only
        return ("--quantization", "bitsandbytes") if self.name == "nf4" and double_quant else None

    def load(
        self,
        read: Callable[..., PreTrainedModel],
        *,
        double_quant: bool,
        compute_dtype: torch.dtype,
        device: str,
        sharded: bool,
    ) -> PreTrainedModel:
        # transformers quantizes each weight as it is read; weights for FSDP are stored in words of the compute dtype,
        # because only floating point can be sharded
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

    def quantize(
        self, layer: nn.Linear, *, double_quant: bool, compute_dtype: torch.dtype
    ) -> nn.Linear:
        # the result is that of loading the layer's checkpoint in 4 bits
        from bitsandbytes.nn import Linear4bit, Params4bit

        quantized = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=compute_dtype,
            compress_statistics=double_quant,
            quant_type=self.name,
            device="meta",
        )
        quantized.weight = Params4bit(
            layer.weight.data,
            requires_grad=False,
            compress_statistics=double_quant,
            quant_type=self.name,
            module=quantized,
        ).to(layer.weight.device)
        quantized.bias = layer.bias
        return self._forbid_packed_kernel(quantized, compute_dtype).train(layer.training)

    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        state: Any = layer.weight.quant_state
        if dtype is not None:
            state = copy.copy(state)
            state.dtype = dtype
        weight: torch.Tensor = dequantize_4bit(layer.weight.data, state)
        return weight

    def constants(self, layer: nn.Linear) -> list[Any]:
        state: Any = getattr(layer, "quant_state", None)
        return [] if state is None else [state]

    def stored_bytes(self, layer: nn.Module) -> int:
        total = sum(parameter.nbytes for parameter in layer.parameters(recurse=False))
        state: Any = layer.weight.quant_state
        while state is not None:  # double quantization nests a second state for the block constants
            total += state.absmax.nbytes + state.code.nbytes
            state = state.state2
        return total

    def check(self, device: str) -> None:
        import torch
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.randn(64, 64, device=device)
        stored = quantize_4bit(weight, quant_type=self.name, compress_statistics=True)
        restored = dequantize_4bit(*stored)
        if not torch.allclose(weight, restored, atol=1.0):
            raise RuntimeError("dequantized weights differ from the original ones")

    def _forbid_packed_kernel(self, layer: Any, compute_dtype: torch.dtype) -> nn.Linear:
        # disable the packed CPU kernel of a 4-bit layer, round its weight as the forward pass does, and mark it.
        # Otherwise the first evaluation on an AVX512-BF16 CPU repacks the weight for a kernel without autograd, and
        # all later training steps have wrong gradients. The backward pass would also round twice (to float16, then to
        # the compute dtype), the forward pass once.
        layer.support_avx512bf16_for_cpu = False
        layer.weight.quant_state.dtype = compute_dtype
        layer.weight.module = None  # used while quantizing; a cycle, which would delay the release of a replaced layer
        return self.marked(layer)


class _LlmInt8(QuantizationMethod):
    """LLM.int8 as bitsandbytes computes it for models that transformers loads with ``load_in_8bit=True``.

    A weight is stored as int8 values with the largest absolute value of its row, which becomes 127. In a forward pass
    the inputs are rounded to int8 too, each row by its own largest value, and the products are summed in int32. Columns
    of the input with a value of at least :data:`OUTLIER` in any row of the batch are not rounded: they are multiplied
    in 16 bits with dequantized weights. The result of a row therefore depends slightly on the other rows of its batch.

    This is the forward pass of ``bitsandbytes.nn.Linear8bitLt``, which is used unchanged: on a GPU always, on a CPU in
    evaluation mode. In training mode on a CPU bitsandbytes multiplies with dequantized weights and does not round the
    inputs (``MatMul8bitFp``), because its CPU operators for rounding are slow; the product does the same with weights
    that are dequantized once. Gradients pass the rounding unchanged (straight-through estimator): the gradient of the
    input is that of the dequantized weight, computed in the compute dtype on both devices.

    vLLM reads weights that are stored in 8 bits, but cannot quantize to 8 bits (``bitsandbytes_loader.py``).
    """

    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        # a byte for each weight, and a float32 constant for each row
        return outputs * inputs + 4 * outputs

    def transformers_config(self, *, double_quant: bool, compute_dtype: str) -> TransformersConfig:
        # the threshold is the default of transformers
        return TransformersConfig(class_name="BitsAndBytesConfig", arguments={"load_in_8bit": True})

    def load(self, read: Callable[..., PreTrainedModel], **how: Any) -> PreTrainedModel:
        # transformers quantizes each weight as it is read
        from bitsandbytes.nn import Linear8bitLt

        config = self.transformers_config(double_quant=False, compute_dtype="")
        model = read(quantization_config=config.build(llm_int8_threshold=OUTLIER))
        for layer in model.modules():
            if isinstance(layer, Linear8bitLt):
                layer.init_8bit_state()
                self._ready(layer)
        return model

    def quantize(
        self, layer: nn.Linear, *, double_quant: bool, compute_dtype: torch.dtype
    ) -> nn.Linear:
        # the result is that of loading the layer's checkpoint in 8 bits
        import torch
        from bitsandbytes.functional import int8_vectorwise_quant
        from bitsandbytes.nn import Int8Params, Linear8bitLt

        quantized = Linear8bitLt(
            layer.in_features,
            layer.out_features,
            bias=False,
            has_fp16_weights=False,
            threshold=OUTLIER,
            device="meta",
        )
        values, scales, _ = int8_vectorwise_quant(layer.weight.data.to(torch.float16).contiguous())
        quantized.weight = Int8Params(values, requires_grad=False, has_fp16_weights=False)
        quantized.state.CB, quantized.state.SCB = values, scales
        quantized.bias = layer.bias
        return self._ready(quantized).train(layer.training)

    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        # float32 if ``dtype`` is None
        scales = layer.state.SCB.unsqueeze(1) * (1 / 127)
        weight: torch.Tensor = layer.weight.data.float() * scales
        return weight if dtype is None else weight.to(dtype)

    def constants(self, layer: nn.Linear) -> list[Any]:
        # the state also names the stored weight, which is not copied
        state: Any = getattr(layer, "state", None)
        return [] if state is None else [state]

    def stored_bytes(self, layer: nn.Module) -> int:
        weights = sum(parameter.nbytes for parameter in layer.parameters(recurse=False))
        return weights + int(layer.state.SCB.nbytes)

    def check(self, device: str) -> None:
        # multiplies too, with an input that has an outlier
        import torch

        plain = torch.nn.Linear(64, 64, bias=False, device=device, dtype=torch.float16).eval()
        layer = self.quantize(plain, double_quant=False, compute_dtype=torch.float16)
        x = torch.linspace(-1, 1, 4 * 64, device=device).view(4, 64).half()
        x[1, 3] = 2 * OUTLIER
        exact = x.float() @ plain.weight.float().T
        with torch.no_grad():
            product = layer(x).float()
        if not (product - exact).abs().max() <= 0.05 * exact.abs().max():
            raise RuntimeError("products with 8-bit weights differ from the original ones")

    def _ready(self, layer: Any) -> nn.Linear:
        # mark a layer, and silence a warning of bitsandbytes that every forward pass in bfloat16 would repeat
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return self.marked(layer)


METHODS = (
    *(
        _BitsAndBytes4Bit(
            name=name,
            label=name.upper(),
            bits=4,
            about=about,
            library="bitsandbytes",
            shardable=True,
            operator="bitsandbytes::gemm_4bit",
        )
        for name, about in (
            ("nf4", N_("4 bits, levels for normally distributed weights")),
            ("fp4", N_("4 bits, levels of a floating-point number")),
        )
    ),
    _LlmInt8(
        name="int8",
        label="LLM.int8",
        bits=8,
        about=N_("8 bits, LLM.int8: closer to 16 bits, twice the memory"),
        library="bitsandbytes",
        rounds_inputs=True,
    ),
)


@contextlib.contextmanager
def _quantized_on_gpu() -> Iterator[None]:
    # quantize each weight on the GPU while a base is read into main memory. Quantization with bitsandbytes is slow on
    # a CPU, and a base that has to be sharded is large. The GPU needs memory for one 16-bit weight at a time.
    import torch
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    plain = Bnb4BitHfQuantizer.get_quantize_ops
    gpu = torch.device("cuda", torch.cuda.current_device())
    Bnb4BitHfQuantizer.get_quantize_ops = quantizer_on(gpu)
    try:
        yield
    finally:
        Bnb4BitHfQuantizer.get_quantize_ops = plain


def quantizer_on(device: torch.device) -> Callable[[Any], Any]:
    """The ``get_quantize_ops`` of a quantizer of transformers that computes on ``device``."""
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize

    class QuantizeOnDevice(Bnb4bitQuantize):
        def convert(
            self, input_dict: dict[str, Any], *args: Any, **kwargs: Any
        ) -> dict[str, torch.Tensor]:
            moved, origin = {}, device
            for name, given in input_dict.items():
                weight = given[0] if isinstance(given, list) else given
                moved[name], origin = weight.to(device), weight.device
            return {
                name: weight.to(origin)
                for name, weight in super().convert(moved, *args, **kwargs).items()
            }

    return lambda quantizer: QuantizeOnDevice(quantizer)
