"""What a quantization method has to provide, and storage in float16, which quantizes nothing."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

MARK = "stored_as"
"""Attribute of a quantized layer that holds the name of its method."""


@dataclass(frozen=True, kw_only=True)
class TransformersConfig:
    """How transformers loads a base that a method has quantized.

    Attributes:
        class_name: Name of the class of ``quantization_config`` in ``transformers``.
        arguments: Its arguments, plain Python values.
    """

    class_name: str
    arguments: Mapping[str, Any]

    def build(self, **more: Any) -> Any:
        """The object itself, with further arguments; imports transformers."""
        import transformers

        return getattr(transformers, self.class_name)(**self.arguments, **more)

    def source(self) -> str:
        """The Python expression that makes it."""
        values = {key: f'"{value}"' if isinstance(value, str) else repr(value)
                  for key, value in self.arguments.items()}
        return f"{self.class_name}({', '.join(f'{key}={value}' for key, value in values.items())})"


@dataclass(frozen=True, kw_only=True)
class QuantizationMethod(ABC):
    """One way to store the linear layers of a frozen base.

    A method quantizes layer by layer: it replaces a ``torch.nn.Linear`` by a layer of its own that computes with the
    dequantized weight. That layer has to be a ``torch.nn.Linear`` too, with a frozen parameter ``weight``, because PEFT
    chooses the adapter by it. What else it needs are buffers, or is named by :meth:`constants`. It carries the name of
    its method, see :meth:`marked`.

    ``double_quant`` is the study's ``model.double_quant``: whether block constants are quantized too. A method without
    block constants ignores it.

    Attributes:
        name: Name in ``model.quant_type`` and ``ArmConfig.base_storage``.
        label: Name in messages.
        bits: Bits of a stored value, without constants.
        library: Distribution that implements it; empty: the product or a plugin does.
        needs_gpu: Whether it needs CUDA.
        shardable: Whether FSDP can shard the stored weights.
        speed: Device → share of the peak that a training step reaches, until runs of this machine say better. GPU: what
            the authors of QLoRA-style trainers publish for 7B to 70B (30 to 45 % at 16 bits; 4-bit pays a third for
            dequantizing). CPU: 360 of the 860 tokens a second that the peak of two Zen 4 cores allows the default
            model.
        operator: Name of the torch operator that multiplies with the stored weight, where it is not ``linear``.
    """

    name: str
    label: str
    bits: int
    library: str = ""
    needs_gpu: bool = False
    shardable: bool = False
    speed: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"cuda": 0.25, "cpu": 0.42})
    operator: str = ""

    @property
    def quantizes(self) -> bool:
        """Whether values are stored in fewer than 16 bits."""
        return self.bits < 16

    # what planning and export ask: no torch

    @abstractmethod
    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        """Bytes of a stored [outputs, inputs] weight with its constants and tables."""

    def transformers_config(self, *, double_quant: bool, compute_dtype: str) -> TransformersConfig | None:
        """How transformers loads the same base; None: it cannot."""
        return None

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...] | None:
        """Arguments with which ``vllm serve`` makes the same base; None: it cannot."""
        return None

    # what computes: these import torch

    def load(
        self, read: Callable[..., PreTrainedModel], *, double_quant: bool, compute_dtype: torch.dtype, device: str,
        sharded: bool,
    ) -> PreTrainedModel:
        """Read a base and quantize its linear layers, those of the head excepted.

        This one reads all of it in float16 first. A method that can quantize while it reads needs less memory.

        Args:
            read: ``from_pretrained``, with everything but the options of quantization.
            double_quant: Whether block constants are quantized too.
            compute_dtype: Dtype of the arithmetic.
            device: ``cpu`` or ``cuda``: what will compute.
            sharded: Whether FSDP will shard the model; it is read into main memory then.
        """
        from torch import nn

        model = read()
        head = model.get_output_embeddings()
        for parent in list(model.modules()):
            for name, layer in list(parent.named_children()):
                if type(layer) is nn.Linear and layer is not head:
                    made = self.quantize(layer, double_quant=double_quant, compute_dtype=compute_dtype)
                    setattr(parent, name, made)
        return model

    @abstractmethod
    def quantize(self, layer: nn.Linear, *, double_quant: bool, compute_dtype: torch.dtype) -> nn.Linear:
        """A marked layer with the quantized weight of a float16 layer, and its bias."""

    @abstractmethod
    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The [out, in] weight that a layer of this method represents.

        Args:
            layer: A layer made by :meth:`load` or :meth:`quantize`.
            dtype: Dtype of the new tensor; None: any dtype, the caller casts it to the compute dtype.
        """

    def constants(self, layer: nn.Linear) -> list[Any]:
        """What a layer holds of its quantization that is no parameter or buffer; copies of a base share it."""
        return []

    def stored_bytes(self, layer: nn.Module) -> int:
        """Bytes that a layer of this method occupies: parameters and constants."""
        return sum(value.nbytes for value in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))

    def marked(self, layer: nn.Linear) -> nn.Linear:
        """The layer, with the name of this method on it."""
        setattr(layer, MARK, self.name)
        return layer

    def check(self, device: str) -> None:
        """Quantize a small random weight and compare (``assistant-builder doctor``).

        Raises:
            Exception: The method does not work on this device.
        """
        import torch

        plain = torch.nn.Linear(64, 64, bias=False, device=device, dtype=torch.float16)
        made = self.quantize(plain, double_quant=True, compute_dtype=torch.float32)
        error = (self.dequantize(made, torch.float32) - plain.weight).abs().max()
        if not error <= plain.weight.abs().max() / 2:
            raise RuntimeError("dequantized weights differ from the original ones")


class Float16(QuantizationMethod):
    """Storage in float16, as checkpoints are: nothing is quantized. It also describes layers that carry no mark."""

    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        """See :meth:`QuantizationMethod.weight_bytes`."""
        return 2 * outputs * inputs

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...]:
        """See :meth:`QuantizationMethod.vllm_arguments`."""
        return ()

    def load(self, read: Callable[..., PreTrainedModel], **how: Any) -> PreTrainedModel:
        """See :meth:`QuantizationMethod.load`."""
        return read()

    def quantize(self, layer: nn.Linear, **how: Any) -> nn.Linear:
        """See :meth:`QuantizationMethod.quantize`."""
        return layer

    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        """See :meth:`QuantizationMethod.dequantize`."""
        return layer.weight.data if dtype is None else layer.weight.data.to(dtype, copy=True)

    def stored_bytes(self, layer: nn.Module) -> int:
        """Bytes of the parameters; buffers such as rotary frequencies are not part of the stored weights."""
        return sum(parameter.nbytes for parameter in layer.parameters(recurse=False))
