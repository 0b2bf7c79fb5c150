"""K-quants: which type each tensor of a file gets, and its blocks by the package ``libgguf``.

The types are those of llama.cpp's ``llama-quantize`` (``src/llama-quant.cpp``: ``llama_tensor_get_type_impl``,
``use_more_bits``, ``tensor_type_fallback``). A K-quant has blocks of 256 values: where the rows of a matrix are no
multiple of that, llama.cpp takes a type with blocks of 32 that is next in size, so that a file of a narrow model
consists mostly of these.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "libgguf"
BLOCK = 256
_PLAIN = {"Q3_K_M": "Q3_K", "Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K"}
K_TYPES = tuple(_PLAIN)
"""Types of a file that are written here."""
_FALLBACK = {"Q3_K": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""The type of a matrix whose rows are no multiple of 256."""
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Model:
    """What the types of a model's tensors depend on.

    Attributes:
        layers: Number of layers.
        experts: Number of experts in a layer; 0 without.
        tied: Whether the output matrix is the embedding matrix.
    """

    layers: int
    experts: int
    tied: bool


def is_installed() -> bool:
    """Whether the package that writes the blocks is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def k_type(name: str, columns: int, wanted: str, model: Model) -> str:
    """The GGML type of a matrix that is quantized, in a file of the type ``wanted``.

    Args:
        name: Name of the tensor.
        columns: Values of a row.
        wanted: A name of :data:`K_TYPES`.
        model: The model.
    """
    kind = _wide_type(name, wanted, model)
    if columns % BLOCK:
        kind = _FALLBACK.get(kind, kind)
    return "F16" if columns % 32 else kind


def _wide_type(name: str, wanted: str, model: Model) -> str:
    plain = _PLAIN[wanted]
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return "Q6_K"
    found = _LAYER.match(name)
    layer = int(found[1]) if found else 0
    more = _use_more_bits(layer, model.layers)
    if "attn_v.weight" in name:
        if model.experts == 8:
            return "Q8_0"
        if wanted == "Q3_K_M":
            return "Q5_K" if layer < 2 else "Q4_K"
        return "Q6_K" if more else plain
    if "attn_k.weight" in name and model.experts == 8:
        return "Q8_0"
    if "ffn_down" in name:
        if wanted == "Q3_K_M":
            return "Q5_K" if layer < model.layers // 16 else "Q4_K"
        return "Q6_K" if more else plain
    if "attn_output.weight" in name:
        if model.experts == 8:
            return "Q5_K" if wanted in ("Q3_K_M", "Q4_K_M") else plain
        return "Q4_K" if wanted == "Q3_K_M" else plain
    if "attn_qkv.weight" in name:
        return {"Q3_K_M": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(wanted, plain)
    return plain


def _use_more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def quantize_rows(
    rows: NDArray[Any], kind: str, weights: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The blocks of a matrix in float32, shape ``[n, columns]``; shape ``[n, bytes of a row]``.

    Args:
        rows: The matrix.
        kind: A GGML type.
        weights: Weight of the squared error in each column, shape ``[columns]``.
    """
    from gguf import GGMLQuantizationType

    library = importlib.import_module(PACKAGE)
    blocks: NDArray[Any] = library.quantize_rows(rows, int(GGMLQuantizationType[kind]), weights)
    return blocks
