"""Datasets, padding and the loss of training batches. Imports torch: only worker processes import this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset

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

    def labels(example: Example) -> list[int]:
        marked = zip(example.input_ids, example.supervised, strict=True)
        return [token if used else IGNORED for token, used in marked]

    ids = [list(example.input_ids) for example in examples]
    return Dataset.from_dict({"input_ids": ids, "labels": list(map(labels, examples))})


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
    names = ("columns", "positions", "targets")
    located = dict(zip(names, supervised_columns(batch), strict=True))
    return {**batch, **located, "padded": not bool(batch["attention_mask"].all())}


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
