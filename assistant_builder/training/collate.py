"""Datasets, padding and the loss of training batches. Imports torch: only worker processes import this module."""

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
    """Tokenized rows with ``input_ids`` and ``labels`` (-100 at positions without loss)."""
    return Dataset.from_dict({
        "input_ids": [list(example.input_ids) for example in examples],
        "labels": [
            [token if used else IGNORED for token, used in zip(example.input_ids, example.supervised, strict=True)]
            for example in examples
        ],
    })


class FixedOrder(Sampler[int]):
    """Sampler that yields row indices in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        """Iterate over the order."""
        return iter(self.order)

    def __len__(self) -> int:
        """Number of indices, repetitions included."""
        return len(self.order)


def summed_nll(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed NLL of the supervised positions of a batch of :class:`LeftPadding`, a float32 scalar.

    The output head is computed for the supervised positions only, which saves time and memory.
    """
    columns, targets, supervised = supervised_columns(inputs)
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][supervised].unsqueeze(0),))
    try:
        logits = forward_columns(model, inputs, columns).logits.squeeze(0)
    finally:
        hook.remove()
    loss: torch.Tensor = ChunkedCrossEntropySum.apply(logits, targets[supervised])
    return loss
