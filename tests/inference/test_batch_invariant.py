"""Batches of padded sequences, and batch-invariant linear layers."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode

from assistant_builder.inference.batch_invariant import (
    ROWS,
    ROWS_PER_TOKEN,
    BatchInvariantLinear,
    ContiguousLinear,
)
from assistant_builder.inference.padded_batch import LENGTH, batches, padded


def test_the_padded_length_depends_only_on_the_length():
    assert [padded(length) for length in (1, LENGTH, LENGTH + 1)] == [LENGTH, LENGTH, 2 * LENGTH]


def test_only_sequences_of_equal_padded_length_share_a_batch():
    lengths = [40, 5, 33, 31, 64, 32, 65]
    found = batches(lengths, 3)
    assert found == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches(lengths, 2) == [[1, 3], [5], [2, 0], [4], [6]]
    assert batches(lengths, 3, equal_lengths=False) == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches([40, 5, 33], 3, equal_lengths=False) == [[1, 2, 0]]


def test_the_tokens_of_a_batch_are_limited_unless_one_sequence_is_longer():
    assert batches([30] * 5 + [300], 8, max_tokens=64) == [[0, 1], [2, 3], [4], [5]]


def test_the_input_of_the_head_is_contiguous():
    gaps: list[bool] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is F.linear:
                gaps.append(not args[0].is_contiguous())
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 7, 8), torch.randn(16, 8)
    with Watch():
        plain = F.linear(hidden[:, -1:], weight)
        with ContiguousLinear():
            whole = F.linear(hidden[:, -1:], weight)
    assert gaps == [True, False] and torch.allclose(plain, whole, atol=1e-6)


def test_4bit_products_on_a_gpu_have_a_fixed_number_of_rows():
    """The meta device replaces a GPU, since only shapes matter."""
    import bitsandbytes  # noqa: F401 - registers the product

    product = torch.ops.bitsandbytes.gemm_4bit.default
    seen: list[int] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is product:
                seen.append(args[0].numel() // args[0].shape[-1])
            return func(*args, **(kwargs or {}))

    def results(*shape: int, generating: bool) -> torch.Size:
        x = torch.empty(*shape, 64, dtype=torch.bfloat16, device="meta")
        packed = torch.empty(32 * 64 // 2, 1, dtype=torch.uint8, device="meta")
        absmax = torch.empty(32, dtype=torch.float32, device="meta")
        with Watch(), BatchInvariantLinear(generating=generating):
            found: torch.Tensor = product(x, packed, (32, 64), absmax, 64, "nf4", bias=None)
        return found.shape

    assert results(3, 100, generating=False) == (3, 100, 32)
    assert seen == [ROWS, ROWS]
    seen.clear()
    assert results(5, 1, generating=True) == (5, 1, 32)
    assert seen == [ROWS_PER_TOKEN]
