"""Datasets, padding and the loss of training batches. Imports torch: only worker processes import this module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from torch.utils.data import Sampler

from assistant_builder.models.chat_template import Example
from assistant_builder.training.cpu_kernels import ChunkedCrossEntropySum

IGNORED = -100


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """Tokenized rows with ``input_ids`` and ``labels`` (-100 at positions without loss)."""
    return Dataset.from_dict({
        "input_ids": [list(example.input_ids) for example in examples],
        "labels": [
            [token if used else IGNORED for token, used in zip(example.input_ids, example.supervised, strict=True)]
            for example in examples
        ],
    })


class LeftPadding:
    """Collate rows into tensors padded on the left, which aligns the answers at the end of the rows.

    Args:
        pad_id: Padding token.
        multiple_of: The padded length is a multiple of this number of tokens.
    """

    def __init__(self, pad_id: int, multiple_of: int = 1) -> None:
        self.pad_id = pad_id
        self.multiple_of = multiple_of

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``labels``, ``attention_mask`` and ``position_ids``, each [rows, longest]."""
        longest = -(-max(len(row["input_ids"]) for row in rows) // self.multiple_of) * self.multiple_of
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self.pad_id, dtype=torch.long)
        labels = torch.full(shape, IGNORED, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.long)
        for index, row in enumerate(rows):
            start = longest - len(row["input_ids"])
            input_ids[index, start:] = torch.tensor(row["input_ids"])
            labels[index, start:] = torch.tensor(row["labels"])
            mask[index, start:] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return {"input_ids": input_ids, "labels": labels, "attention_mask": mask, "position_ids": positions}


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


def supervised_logits(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the supervised positions.

    The output head is computed only for the columns in which a row is supervised: in a small model with a large
    vocabulary it is the most expensive layer.

    Args:
        model: Any causal language model of transformers.
        inputs: A batch of :class:`LeftPadding`.

    Returns:
        Logits [supervised, vocabulary] as float32, and token ids [supervised].
    """
    columns, targets, supervised = _supervised_columns(inputs)
    return _forward_columns(model, inputs, columns).logits[supervised].float(), targets[supervised]


def summed_nll(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed NLL of the supervised positions, a float32 scalar.

    The output head is computed for the supervised positions only, which saves time and memory.

    Args:
        model: Any causal language model of transformers.
        inputs: A batch of :class:`LeftPadding`.
    """
    columns, targets, supervised = _supervised_columns(inputs)
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0][supervised].unsqueeze(0),))
    try:
        logits = _forward_columns(model, inputs, columns).logits.squeeze(0)
    finally:
        hook.remove()
    loss: torch.Tensor = ChunkedCrossEntropySum.apply(logits, targets[supervised])
    return loss


def _supervised_columns(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Columns with a supervised position, the targets [rows, columns] there, and the mask of supervised ones."""
    targets = inputs["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets = targets[:, columns]
    return columns, targets, targets != IGNORED


def _forward_columns(model: Any, inputs: dict[str, torch.Tensor], columns: torch.Tensor) -> Any:
    return model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        position_ids=inputs["position_ids"],
        logits_to_keep=columns,
        use_cache=False,
    )
