"""From training sequences to padded tensors.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from torch.utils.data import Sampler

from assistant_builder.inference.padded_batch import IGNORED, forward_columns, supervised_columns
from assistant_builder.models.chat_template import Example
from assistant_builder.training.cpu_kernels import ChunkedCrossEntropySum


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """Pre-tokenised rows with ``input_ids`` and ``labels`` (-100 where the loss does not count)."""
    return Dataset.from_dict({
        "input_ids": [list(example.input_ids) for example in examples],
        "labels": [
            [token if counts else IGNORED for token, counts in zip(example.input_ids, example.supervised, strict=True)]
            for example in examples
        ],
    })


class FixedOrder(Sampler[int]):
    """Yield row indices in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        """Iterate over the order."""
        return iter(self.order)

    def __len__(self) -> int:
        """Rows in the order, repeats counted."""
        return len(self.order)


def summed_nll(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed NLL of the supervised positions, a float32 scalar, at the least cost in time and memory.

    The head runs over the supervised positions of each row and no others.

    Args:
        model: Any causal language model of transformers.
        inputs: A batch of :class:`LeftPadding`.
    """
    columns, targets, counted = supervised_columns(inputs)
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][counted].unsqueeze(0),))
    try:
        logits = forward_columns(model, inputs, columns).logits.squeeze(0)
    finally:
        hook.remove()
    loss: torch.Tensor = ChunkedCrossEntropySum.apply(logits, targets[counted])
    return loss
