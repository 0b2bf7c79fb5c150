"""The registry of quantization methods: storage formats of the linear layers of a frozen base.

``METHODS`` contains ``float16`` (no quantization) and the methods of the backends, one file each. An entry counts
the bytes of a weight for the planner, loads a base, quantizes and dequantizes layers for training, evaluation and
export, and has the arguments with which transformers and vLLM load the same base. ``model.quant_type`` is the name of
an entry that quantizes.

A package outside this repository adds a method by registering a subclass of :class:`QuantizationMethod`, see
:mod:`assistant_builder.registry`::

    METHODS.register(Int8Rows(name="int8_rows", label="INT8, row by row", bits=8))

``config`` validates names against the registry, so that this package imports only :mod:`assistant_builder.errors` and
:mod:`assistant_builder.registry`. Entries import torch and their libraries inside the methods that compute.
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
"""All methods by name, as in ``model.quant_type`` and ``ArmConfig.base_storage``."""
UNQUANTIZED = "float16"
"""Name of the storage without quantization, which the 16-bit arm uses."""

for _method in (Float16(name=UNQUANTIZED, label="float16", bits=16, shardable=True, speed={"cuda": 0.35, "cpu": 0.42}),
                *bitsandbytes.METHODS):
    METHODS.register(_method)


def quantizing() -> Iterator[str]:
    """Names of the methods that quantize: the choices of ``model.quant_type``."""
    return (name for name, method in METHODS.items() if method.quantizes)


def method_of(layer: nn.Module) -> QuantizationMethod:
    """The method that stores a layer's weight: that of its mark, else float16."""
    return METHODS[getattr(layer, MARK, UNQUANTIZED)]
