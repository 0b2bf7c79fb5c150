"""How sequences are put into batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch.overrides import TorchFunctionMode

from evals.blocks import LENGTH, WholeRows, batches, padded


def test_a_sequence_is_padded_to_a_length_of_its_own() -> None:
    assert [padded(length) for length in (1, LENGTH, LENGTH + 1)] == [LENGTH, LENGTH, 2 * LENGTH]


def test_only_sequences_padded_alike_share_a_batch() -> None:
    lengths = [40, 5, 33, 31, 64, 32, 65]
    found = batches(lengths, 3)
    assert found == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches(lengths, 2) == [[1, 3], [5], [2, 0], [4], [6]]
    assert batches(lengths, 3, alike=False) == [[1, 3, 5], [2, 0, 4], [6]]
    assert batches([40, 5, 33], 3, alike=False) == [[1, 2, 0]]


def test_a_batch_holds_no_more_tokens_than_allowed_unless_one_sequence_does() -> None:
    assert batches([30] * 5 + [300], 8, most_tokens=64) == [[0, 1], [2, 3], [4], [5]]


def test_the_last_position_of_every_prompt_is_multiplied_as_one_piece_of_memory() -> None:
    gaps: list[bool] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.linear:
                gaps.append(not args[0].is_contiguous())
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 7, 8), torch.randn(16, 8)
    with Watch():
        plain = F.linear(hidden[:, -1:], weight)
        with WholeRows():
            whole = F.linear(hidden[:, -1:], weight)
    assert gaps == [True, False] and torch.allclose(plain, whole, atol=1e-6)
