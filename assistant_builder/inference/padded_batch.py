"""Pads sequences on the left and divides them into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

IGNORED = -100  # label of tokens that do not count in the loss, as in PyTorch and transformers
_TOKENS = ("input_ids", "attention_mask", "position_ids")
LENGTH = 32  # sequences are padded to a multiple of this many tokens


class LeftPadding:
    """Collate rows into tensors padded on the left to a multiple of ``multiple_of`` tokens; the answers are aligned."""

    def __init__(self, pad_id: int, multiple_of: int = 1) -> None:
        self.pad_id, self.multiple_of = pad_id, multiple_of

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``labels``, ``attention_mask`` and ``position_ids``, each [rows, longest]."""
        most = max(len(row["input_ids"]) for row in rows)
        longest = -(-most // self.multiple_of) * self.multiple_of
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
        tensors = {"input_ids": input_ids, "labels": labels}
        return tensors | {"attention_mask": mask, "position_ids": positions}

    def generate(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        limit: int,
        stop_ids: Sequence[int],
        **more: Any,
    ) -> list[list[int]]:
        """Return at most ``limit`` greedy tokens after each prompt, by transformers' ``generate``.

        The answers of a batch have the length of its longest; ``more`` are further arguments of ``generate``.
        """
        rows = [{"input_ids": list(ids), "labels": [IGNORED] * len(ids)} for ids in prompts]
        inputs = self(rows)
        ids, mask = (inputs[name].to(model.device) for name in ("input_ids", "attention_mask"))
        output = greedy(model, ids, mask, limit, self.pad_id, stop_ids, **more)
        return [row[ids.shape[1] :].tolist() for row in output]


def greedy(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    limit: int,
    pad_id: int,
    stop_ids: Sequence[int],
    **more: Any,
) -> torch.Tensor:
    """Run transformers' ``generate`` greedily, whatever the model's own generation config says."""
    own = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=limit,
        pad_token_id=pad_id,
        eos_token_id=list(stop_ids),
        **own,
        **more,
    )


def supervised_logits(
    model: Any, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [supervised, vocabulary] as float32 and targets [supervised] of the supervised positions of a batch.

    The head runs only over the columns in which some row is supervised: it is the most expensive layer of a small model
    with a large vocabulary. Positions are found where ``inputs`` are: on the CPU nothing waits for the model's GPU.
    """
    columns, positions, targets = (tensor.to(model.device) for tensor in supervised_columns(inputs))
    moved = {name: inputs[name].to(model.device) for name in _TOKENS}
    return forward_columns(model, moved, columns).logits.flatten(0, 1)[positions].float(), targets


def supervised_columns(
    inputs: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Columns [columns] that predict a supervised token in some row, and positions and targets [supervised].

    A position is the index of a supervised token in rows × columns.
    """
    targets = inputs["labels"][:, 1:]
    columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets = targets[:, columns].flatten()
    positions = (targets != IGNORED).nonzero().squeeze(1)
    return columns, positions, targets[positions]


def forward_columns(model: Any, inputs: Mapping[str, torch.Tensor], columns: torch.Tensor) -> Any:
    """Run the model on a batch; logits are computed for the given columns only."""
    return model(
        **{name: inputs[name] for name in _TOKENS}, logits_to_keep=columns, use_cache=False
    )


def padded(length: int) -> int:
    """The length to which a sequence of ``length`` tokens is padded."""
    return -(-length // LENGTH) * LENGTH


def batches(
    lengths: Sequence[int], size: int, *, equal_lengths: bool = True, max_tokens: int | None = None
) -> list[list[int]]:
    """Divide sequences into batches of at most ``size`` indices into ``lengths``, shortest first.

    With ``equal_lengths`` a batch only holds sequences with the same padded length. ``max_tokens`` of a batch include
    padding; a single longer sequence is a batch of its own.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        longest = padded(lengths[index])
        rows = len(parts[-1]) + 1 if parts else size + 1
        fits = rows <= size and (max_tokens is None or rows * longest <= max_tokens)
        if fits and (not equal_lengths or padded(lengths[parts[-1][0]]) == longest):
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts
