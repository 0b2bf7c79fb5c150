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

from assistant_builder.models.chat_template import Example
from assistant_builder.training.cpu_kernels import ChunkedCrossEntropySum

IGNORED = -100


def to_dataset(examples: Sequence[Example]) -> Dataset:
    """Pre-tokenised rows with ``input_ids`` and ``labels`` (-100 where the loss does not count)."""
    return Dataset.from_dict({
        "input_ids": [list(example.input_ids) for example in examples],
        "labels": [
            [token if counts else IGNORED for token, counts in zip(example.input_ids, example.supervised, strict=True)]
            for example in examples
        ],
    })


class LeftPadding:
    """Collate rows into tensors padded on the left, so that the answers, which end the rows, line up.

    Args:
        pad_id: Token that fills the left.
        multiple_of: Pad to a multiple of this many tokens.
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
    """Yield row indices in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        """Iterate over the order."""
        return iter(self.order)

    def __len__(self) -> int:
        """Rows in the order, repeats counted."""
        return len(self.order)


def supervised_logits(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the supervised positions alone.

    The head runs only over the columns in which some row is supervised: on a small model with a large vocabulary it is
    the dearest layer.

    Args:
        model: Any causal language model of transformers.
        inputs: A batch of :class:`LeftPadding`.

    Returns:
        Logits [supervised, vocabulary] as float32, and token ids [supervised].
    """
    targets = inputs["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets = targets[:, columns]
    counted = targets != IGNORED
    return _forward_columns(model, inputs, columns).logits[counted].float(), targets[counted]


def summed_nll(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Summed NLL of the supervised positions, a float32 scalar, at the least cost in time and memory.

    The head runs over the supervised positions of each row and no others.

    Args:
        model: Any causal language model of transformers.
        inputs: A batch of :class:`LeftPadding`.
    """
    targets = inputs["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets = targets[:, columns]
    counted = targets != IGNORED
    head = extract_model_from_parallel(model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, given: (given[0][counted].unsqueeze(0),))
    try:
        logits = _forward_columns(model, inputs, columns).logits.squeeze(0)
    finally:
        hook.remove()
    loss: torch.Tensor = ChunkedCrossEntropySum.apply(logits, targets[counted])
    return loss


def _forward_columns(model: Any, inputs: dict[str, torch.Tensor], columns: torch.Tensor) -> Any:
    return model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        position_ids=inputs["position_ids"],
        logits_to_keep=columns,
        use_cache=False,
    )
