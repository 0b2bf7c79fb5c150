"""The registry of quantization methods: storage formats of the linear layers of a frozen base.

An entry counts the bytes of a weight for the planner, loads a base, quantizes and dequantizes layers, and has the
arguments with which transformers and vLLM load the same base. A package outside this repository adds a method by
registering a subclass of :class:`QuantizationMethod`. ``config`` validates names against the registry, so that entries
import torch and their libraries inside the methods that compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from assistant_builder.i18n.message import WRITTEN, use_bits
from assistant_builder.quantization import bitsandbytes
from assistant_builder.quantization.method import (
    FLOAT16,
    MARK,
    UNQUANTIZED,
    QuantizationMethod,
    TransformersConfig,
)
from assistant_builder.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "METHODS",
    "UNQUANTIZED",
    "QuantizationMethod",
    "TransformersConfig",
    "method_of",
    "quantizing",
    "texts_of",
]

METHODS: Registry[QuantizationMethod] = Registry("quantization method")
"""All methods by name, as in ``model.quant_type`` and ``ArmConfig.base_storage``."""
for _method in (FLOAT16, *bitsandbytes.METHODS):
    METHODS.register(_method)


def quantizing() -> Iterator[str]:
    """Names of the methods that quantize: the choices of ``model.quant_type``."""
    return (name for name, method in METHODS.items() if method.quantizes)


def method_of(layer: nn.Module) -> QuantizationMethod:
    """The method that stores a layer's weight: that of its mark, else float16."""
    return METHODS[getattr(layer, MARK, UNQUANTIZED)]


def texts_of(quant_type: str) -> AbstractContextManager[None]:
    """The context in which texts name the bits of a storage, a value of ``model.quant_type``.

    An unknown name, as of a plugin that is not installed, is named as the texts are written.
    """
    return use_bits(METHODS[quant_type].bits if quant_type in METHODS else WRITTEN)
