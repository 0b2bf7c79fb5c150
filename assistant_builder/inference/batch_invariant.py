"""Batch-invariant linear layers: results that do not depend on the other sequences of the batch.

A matrix product over more rows may use another kernel with another order of summation; in bfloat16 this changed the
loss of an item by up to 0.07 nats per token between batches of 16 and of 32. Here every linear layer computes blocks of
a fixed number of rows, the last one filled with zeros, and the padded length of a sequence depends only on its own
length. The scores of an item are then bit-identical for any batch size (measured on CPUs; on a GPU the attention kernel
may still depend on the batch).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode

from assistant_builder.quantization import METHODS

ROWS = 256  # rows of a block during prefill
ROWS_PER_TOKEN = 64
"""Rows of a block during decoding; fewer rows save little time, since all weights are read in any case."""


class BatchInvariantLinear(TorchFunctionMode):
    """Context in which ``torch.nn.functional.linear`` computes in blocks of a fixed number of rows.

    The same applies on a GPU to a quantization method with its own product: the kernel of bitsandbytes depends on the
    number of rows (bitsandbytes/backends/cuda/ops.py, ``_gemm_4bit_use_custom_cuda``). On a CPU those layers are
    dequantized first. With ``generating``, inputs of one token per sequence use the smaller blocks.
    """

    def __init__(self, *, generating: bool) -> None:
        super().__init__()
        self._generating = generating
        self._products = {method.operator for method in METHODS.values() if method.operator}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Divide the input rows of a linear layer; other functions are unchanged."""
        kwargs = kwargs or {}
        plain = func is F.linear and not kwargs
        product = isinstance(func, torch._ops.OpOverload) and func.name() in self._products
        if not plain and not (product and args[0].device.type != "cpu"):
            return func(*args, **kwargs)
        x, *rest = args
        rows = ROWS_PER_TOKEN if self._generating and x.dim() == 3 and x.shape[1] == 1 else ROWS
        flat = x.reshape(-1, x.shape[-1])
        missing = -len(flat) % rows
        blocks = (F.pad(flat, (0, 0, 0, missing)) if missing else flat).split(rows)
        results = [func(block, *rest, **kwargs) for block in blocks]
        whole = results[0] if len(results) == 1 else torch.cat(results)
        return whole[: len(flat)].view(*x.shape[:-1], -1)


class ContiguousLinear(TorchFunctionMode):
    """Context in which ``torch.nn.functional.linear`` gets contiguous inputs.

    The last positions of the prompts are a strided view. On a CPU, torch 2.13 multiplies such an input row by row with
    copies of the weight: 3.5 GB for the head of the bundled model and 64 prompts (measured by ``VmHWM``).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make the input of a linear layer contiguous."""
        if func is F.linear and not kwargs:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))
