"""How the linear layers of a frozen base are stored: one registry from a method's name to all that depends on it.

``METHODS`` holds ``float16`` (no quantization) and the methods of the backends, one file each. An entry says how many
bytes a weight takes (the planner asks), loads a base, quantizes and dequantizes layers (training, evaluation and export
ask), and names what transformers and vLLM need to load the same base. ``model.quant_type`` takes the name of any entry
that quantizes.

A package outside this repository adds a method by registering a subclass of :class:`QuantizationMethod`, see
:mod:`assistant_builder.registry`::

    METHODS.register(Int8Rows(name="int8_rows", label="INT8, row by row", bits=8))

Import order: this package needs :mod:`assistant_builder.errors` and :mod:`assistant_builder.registry` alone, because
``config`` validates names against it. ``config`` and everything after it may import it. Entries import torch and their
libraries inside of the methods that compute, so that importing the registry loads neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assistant_builder.quantization import bitsandbytes
from assistant_builder.quantization.method import MARK, Float16, QuantizationMethod, TransformersConfig
from assistant_builder.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["METHODS", "UNQUANTIZED", "QuantizationMethod", "TransformersConfig", "method_of", "quantizing"]

METHODS: Registry[QuantizationMethod] = Registry("quantization method")
"""Every way to store a base, by the name that ``model.quant_type`` and ``ArmConfig.base_storage`` use."""
UNQUANTIZED = "float16"
"""Name of the storage that quantizes nothing, which the 16-bit arm uses."""

for _method in (
    Float16(name=UNQUANTIZED, label="float16", bits=16, shardable=True, speed={"cuda": 0.35, "cpu": 0.42}),
    *bitsandbytes.METHODS,
):
    METHODS.register(_method)


def quantizing() -> Iterator[str]:
    """Names of the methods that quantize: the choices of ``model.quant_type``."""
    return (name for name, method in METHODS.items() if method.quantizes)


def method_of(layer: nn.Module) -> QuantizationMethod:
    """The method that stores a layer's weight: the one whose mark it carries, else float16."""
    return METHODS[getattr(layer, MARK, UNQUANTIZED)]
