"""Arithmetic that does not depend on what else is in the batch.

A matrix product over more rows may run through another kernel, which adds up in another order; in bfloat16 that moved
the loss of an item by up to 0.07 nats a token between batches of 16 and of 32. Here every linear layer sees blocks of
always the same number of rows, the last one filled with zeros, and each sequence is padded to a length that its own
length decides. Then an item's scores are the same to the last digit in batches of any size (measured on CPUs; on a GPU
the attention kernel may still choose by batch).

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode

ROWS = 256
"""Rows of a block while a whole sequence is read."""
ROWS_PER_TOKEN = 64
"""Rows of a block while one token a sequence is generated; fewer save little time, for the weights must be read."""


class BatchInvariantLinear(TorchFunctionMode):
    """While entered, ``torch.nn.functional.linear`` computes in blocks of a fixed number of rows.

    So does a 4-bit layer on a GPU, which has a product of its own and chooses its kernel by the number of rows
    (bitsandbytes/backends/cuda/ops.py, ``_gemm_4bit_use_custom_cuda``). On a CPU those layers are scored as plain ones.

    Args:
        generating: Whether answers are generated, so that inputs of one token a sequence get the smaller blocks.
    """

    def __init__(self, *, generating: bool) -> None:
        super().__init__()
        self._generating = generating

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Divide the rows of a linear layer's input; leave every other function as it is."""
        kwargs = kwargs or {}
        plain = func is F.linear and not kwargs
        if not plain and not (_is_4bit_product(func) and args[0].device.type != "cpu"):
            return func(*args, **kwargs)
        x, *rest = args
        rows = ROWS_PER_TOKEN if self._generating and x.dim() == 3 and x.shape[1] == 1 else ROWS
        flat = x.reshape(-1, x.shape[-1])
        missing = -len(flat) % rows
        blocks = (F.pad(flat, (0, 0, 0, missing)) if missing else flat).split(rows)
        results = [func(block, *rest, **kwargs) for block in blocks]
        whole = results[0] if len(results) == 1 else torch.cat(results)
        return whole[: len(flat)].view(*x.shape[:-1], -1)


def _is_4bit_product(func: Any) -> bool:
    return isinstance(func, torch._ops.OpOverload) and func.name() == "bitsandbytes::gemm_4bit"


class ContiguousLinear(TorchFunctionMode):
    """While entered, ``torch.nn.functional.linear`` gets its input in one piece of memory; nothing else is changed.

    The last position of every prompt is a view with gaps. On a CPU torch 2.13 multiplies such an input row by row with
    copies of the weight: for the head of the bundled model and 64 prompts 3.5 GB of them (measured by ``VmHWM``).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Close the gaps of a linear layer's input."""
        if func is F.linear and not kwargs:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))
