"""The interface of quantization methods, and storage in float16 without quantization."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistant_builder.errors import ConfigError
from assistant_builder.i18n import m

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

MARK = "stored_as"  # attribute of a quantized layer with the name of its method


@dataclass(frozen=True, kw_only=True)
class TransformersConfig:
    """Configuration with which transformers loads a quantized base."""

    class_name: str  # name of the class of ``quantization_config`` in ``transformers``
    arguments: Mapping[str, Any]  # its arguments, plain Python values

    def build(self, **more: Any) -> Any:
        """The configuration object, with further arguments; imports transformers."""
        import transformers

        return getattr(transformers, self.class_name)(**self.arguments, **more)

    def source(self) -> str:
        """The Python expression that creates the object."""
        values = {
            key: json.dumps(value) if isinstance(value, str) else repr(value)
            for key, value in self.arguments.items()
        }
        return f"{self.class_name}({', '.join(f'{key}={value}' for key, value in values.items())})"


@dataclass(frozen=True, kw_only=True)
class QuantizationMethod(ABC):
    """One way to store the linear layers of a frozen base.

    A method quantizes layer by layer: it replaces a ``torch.nn.Linear`` by a layer of its own that computes with the
    dequantized weight, or with the stored one if it also ``rounds_inputs``. That layer has to be a ``torch.nn.Linear``
    too, with a frozen parameter ``weight``, because PEFT chooses the adapter by it. What else it needs are buffers, or
    is named by :meth:`constants`. It carries the name of its method, see :meth:`marked`.

    ``double_quant`` is the study's ``model.double_quant``: whether block constants are quantized too. A method without
    block constants ignores it.
    """

    name: str  # name in ``model.quant_type`` and ``ArmConfig.base_storage``
    label: str  # name in messages
    bits: int  # bits of a stored value, without constants
    about: str = ""  # one line for the choice on the page, marked for translation; empty: none
    library: str = ""  # distribution that implements it; empty: the product or a plugin does
    needs_gpu: bool = False  # whether it needs CUDA
    shardable: bool = False  # whether FSDP can shard the stored weights
    # whether its layers round their inputs too, so that multiplying with the dequantized weight gives other results;
    # such layers are not dequantized for evaluation and chat on a CPU
    rounds_inputs: bool = False
    # device → fraction of peak FLOPS in a training step, before this machine has measured runs. GPU: published for 7B
    # to 70B by authors of QLoRA-style trainers (30 to 45 % at 16 bits; a third less in 4 bits for dequantization). CPU:
    # 360 of the 860 tokens per second at the peak of two Zen 4 cores (default model)
    speed: Mapping[str, float] = field(default_factory=lambda: {"cuda": 0.25, "cpu": 0.42})
    operator: str = ""  # name of the torch operator that multiplies with the stored weight if it is not ``linear``

    @property
    def quantizes(self) -> bool:
        """Whether values are stored in fewer than 16 bits."""
        return self.bits < 16

    def sharding_error(self) -> ConfigError | None:
        """The error of sharding a base of this method, if FSDP cannot."""
        if self.shardable:
            return None
        return ConfigError(
            m("a base stored as {name} cannot be sharded", name=self.name),
            where="executor.spread",
            remedy=m("Set executor.spread=ddp, or executor.devices=1"),
        )

    # used by planning and export, without torch

    @abstractmethod
    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        """Bytes of a stored [outputs, inputs] weight with its constants and tables."""

    def transformers_config(
        self, *, double_quant: bool, compute_dtype: str
    ) -> TransformersConfig | None:
        """Configuration with which transformers loads the same base; None: unsupported."""
        return None

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...] | None:
        """Arguments with which ``vllm serve`` loads the same base; None: unsupported."""
        return None

    # computation: these methods import torch

    def load(
        self,
        read: Callable[..., PreTrainedModel],
        *,
        double_quant: bool,
        compute_dtype: torch.dtype,
        device: str,
        sharded: bool,
    ) -> PreTrainedModel:
        """Load a base with ``read`` (``from_pretrained``) and quantize its linear layers except the output head.

        The default implementation first reads the complete base in float16. A method that quantizes while it reads
        needs less memory. ``device`` will compute. If FSDP will shard the model (``sharded``), it is read into main
        memory.
        """
        from torch import nn

        model = read()
        head = model.get_output_embeddings()
        how: dict[str, Any] = {"double_quant": double_quant, "compute_dtype": compute_dtype}
        for parent, name, layer in child_layers(model):
            if type(layer) is nn.Linear and layer is not head:
                setattr(parent, name, self.quantize(layer, **how))
        return model

    @abstractmethod
    def quantize(
        self, layer: nn.Linear, *, double_quant: bool, compute_dtype: torch.dtype
    ) -> nn.Linear:
        """A marked layer with the quantized weight of a float16 layer, and its bias."""

    @abstractmethod
    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The [out, in] weight of a layer; the caller casts it to the compute dtype if ``dtype`` is None."""

    def constants(self, layer: nn.Linear) -> list[Any]:
        """Quantization constants that are not parameters or buffers; copies of a base share them."""
        return []

    def stored_bytes(self, layer: nn.Module) -> int:
        """Bytes that a layer of this method occupies: parameters and constants."""
        tensors = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
        return sum(value.nbytes for value in tensors)

    def marked(self, layer: nn.Linear) -> nn.Linear:
        """Mark a layer with the name of this method and return it."""
        setattr(layer, MARK, self.name)
        return layer

    def check(self, device: str) -> None:
        """Quantize a small random weight and raise an error if the result is wrong (``assistant-builder doctor``)."""
        import torch

        plain = torch.nn.Linear(64, 64, bias=False, device=device, dtype=torch.float16)
        quantized = self.quantize(plain, double_quant=True, compute_dtype=torch.float32)
        error = (self.dequantize(quantized, torch.float32) - plain.weight).abs().max()
        if not error <= plain.weight.abs().max() / 2:
            raise RuntimeError("dequantized weights differ from the original ones")


class _Float16(QuantizationMethod):
    """Storage in float16, like checkpoints, without quantization; it applies to all layers without a mark."""

    def weight_bytes(self, outputs: int, inputs: int, *, double_quant: bool) -> int:
        return 2 * outputs * inputs

    def vllm_arguments(self, *, double_quant: bool) -> tuple[str, ...]:
        return ()

    def load(self, read: Callable[..., PreTrainedModel], **how: Any) -> PreTrainedModel:
        return read()

    def quantize(self, layer: nn.Linear, **how: Any) -> nn.Linear:
        return layer

    def dequantize(self, layer: nn.Linear, dtype: torch.dtype | None = None) -> torch.Tensor:
        return layer.weight.data if dtype is None else layer.weight.data.to(dtype, copy=True)

    def stored_bytes(self, layer: nn.Module) -> int:
        # without buffers such as rotary frequencies, which are not part of the stored weights
        return sum(parameter.nbytes for parameter in layer.parameters(recurse=False))


UNQUANTIZED = "float16"
"""Name of the storage without quantization, which the 16-bit arm uses."""
FLOAT16 = _Float16(
    name=UNQUANTIZED, label="float16", bits=16, shardable=True, speed={"cuda": 0.35, "cpu": 0.42}
)


def child_layers(
    model: nn.Module, skip: Callable[[nn.Module], bool] = lambda parent: False
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield every layer with its parent and its name in the parent, without the children of parents to ``skip``.

    The layers are looked up one after the other: a list of them would keep the weights of all that the caller replaces.
    """
    places = [
        (parent, name)
        for parent in model.modules()
        if not skip(parent)
        for name, _ in parent.named_children()
    ]
    for parent, name in places:
        yield parent, name, getattr(parent, name)
