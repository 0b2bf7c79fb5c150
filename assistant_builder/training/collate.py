"""Datasets, padding and the loss of training batches. Imports torch: only worker processes import this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from torch.utils.data import Sampler

from assistant_builder.inference.padded_batch import (
    IGNORED,
    LeftPadding,
    forward_columns,
    supervised_columns,
)
from assistant_builder.models.chat_template import Example
from assistant_builder.training.cpu_kernels import ChunkedCrossEntropySum
from assistant_builder.training.gpu import rows_are_padded


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """Tokenized rows with ``input_ids`` and ``labels`` (-100 at positions without loss)."""
    return Dataset.from_dict(
        {
            "input_ids": [list(example.input_ids) for example in examples],
            "labels": [
                [
                    token if used else IGNORED
                    for token, used in zip(example.input_ids, example.supervised, strict=True)
                ]
                for example in examples
            ],
        }
    )


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


class TrainingCollator:
    """Collate rows of :func:`to_dataset` into a batch for :func:`summed_nll`, on the CPU."""

    def __init__(self, pad_id: int) -> None:
        self.padding = LeftPadding(pad_id)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of :class:`LeftPadding` with the entries of :func:`locate_supervised`."""
        return locate_supervised(self.padding(rows))


def locate_supervised(batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """A batch of :class:`LeftPadding` with all that depends on its values, so that no GPU has to be asked for them.

    Returns:
        The batch with ``columns`` [columns], for which logits are computed; ``positions`` [supervised], indices of the
        supervised ones among rows × columns; ``targets`` [supervised], their tokens; and ``padded``, whether the rows
        differ in length.
    """
    columns, positions, targets = supervised_columns(batch)
    return {
        **batch,
        "columns": columns,
        "positions": positions,
        "targets": targets,
        "padded": not bool(batch["attention_mask"].all()),
    }


def summed_nll(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Summed NLL of the supervised positions of a batch of :func:`locate_supervised`, a float32 scalar.

    The output head is computed for the supervised positions only, which saves time and memory.
    """
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(
        lambda _, args: (args[0].flatten(0, 1)[inputs["positions"]].unsqueeze(0),)
    )
    try:
        with rows_are_padded(inputs["padded"]):
            logits = forward_columns(model, inputs, inputs["columns"]).logits.squeeze(0)
    finally:
        hook.remove()
    loss: torch.Tensor = ChunkedCrossEntropySum.apply(logits, inputs["targets"])
    return loss
