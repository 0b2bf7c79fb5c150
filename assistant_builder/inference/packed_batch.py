"""Runs a causal language model on packed sequences, with a slot of the KV cache for each sequence.

The input of a forward pass is a list of tokens of several sequences, each with its position; only the attention
distinguishes the sequences. Sequences of any length share a pass without padding, each can be read in chunks, and a
slot is reused as soon as its sequence has ended.

The number of rows of a pass can be fixed by padding, since a matrix product over another number of rows may use another
kernel with another order of summation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft import PeftModel
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "assistant_builder_rows"
"""Name under which the attention of this module is registered in transformers."""
# queries of a sequence are padded to a multiple of this number, the tile size of the attention on a CPU
_QUERIES = 32
_LAYERS = {"full_attention", "sliding_attention"}


class SlottedKVCache(Cache):
    """KV cache of several sequences: ``count`` slots of ``length`` tokens, one for each sequence."""

    def __init__(self, count: int, length: int) -> None:
        super().__init__(layers=[])
        self.count, self.length = count, length
        self.stored: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.step: PackedBatch | None = None

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store keys and values [1, heads, rows, width] of a pass; returns its slots [slots, heads, length, width]."""
        assert self.step is not None
        if layer_idx == len(self.stored):
            key, value = (
                states.new_zeros(self.count, self.length, states.shape[1], states.shape[3])
                for states in (key_states, value_states)
            )
            self.stored.append((key, value))
        pair = []
        for stored, states in zip(self.stored[layer_idx], (key_states, value_states), strict=True):
            rows = states[0].transpose(0, 1)[self.step.written]
            stored.view(-1, *stored.shape[2:]).index_copy_(0, self.step.cache_indices, rows)
            read = stored if self.step.slots is None else stored.index_select(0, self.step.slots)
            pair.append(read.transpose(1, 2))
        return pair[0], pair[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Required by models that compute positions themselves; here every pass passes its own."""
        return 0

    def prefix_states(
        self, length: int, start: int = 0, slot: int = 0
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the tokens from ``start`` to ``length`` of a slot, for each layer."""
        return [
            (keys[slot, start:length].clone(), values[slot, start:length].clone())
            for keys, values in self.stored
        ]

    def fill_slot(
        self, slot: int, start: int, states: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Copy the result of :meth:`prefix_states` into a slot, from the position ``start`` on."""
        for stored, read in zip(self.stored, states, strict=True):
            for target, source in zip(stored, read, strict=True):
                target[slot, start : start + len(source)] = source

    def fill_prefix(self, start: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Copy the result of :meth:`prefix_states` of another cache to the start of every slot."""
        self.stored = []
        for states in start:
            shape = self.count, self.length
            keys, values = (tensor.new_zeros(*shape, *tensor.shape[1:]) for tensor in states)
            for stored, tensor in zip((keys, values), states, strict=True):
                stored[:, : len(tensor)] = tensor
            self.stored.append((keys, values))


@dataclass(frozen=True)
class SequenceChunk:
    """Consecutive tokens of one sequence that are read in a pass."""

    slot: int
    start: int  # position of the first token in the sequence
    ids: Sequence[int]


@dataclass
class PackedBatch:
    """Inputs of one forward pass."""

    ids: torch.Tensor  # token ids [1, rows]
    positions: torch.Tensor  # positions in their sequences [1, rows]
    written: slice  # rows whose keys and values are stored
    cache_indices: torch.Tensor  # where they are stored: slot · length + position
    slots: torch.Tensor | None  # slots that the attention reads; None for all in order
    queries: torch.Tensor  # row of each query [sequences · queries per sequence]
    query_of_row: torch.Tensor  # query of each row [rows]
    shape: tuple[int, int]  # number of sequences, and of queries per sequence
    query_positions: torch.Tensor  # positions of the queries [sequences, queries]
    length: int
    _masks: dict[tuple[int | None, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """Attention mask of 0 or −∞, [sequences, 1, groups · queries, length]; cached for the pass.

        ``window`` is that of sliding attention, None for full attention; ``groups`` are the query heads per key head.
        """
        if (window, groups) not in self._masks:
            key = torch.arange(self.length, device=self.query_positions.device)
            query = self.query_positions.unsqueeze(-1)
            visible = key <= query
            if window is not None:
                visible &= key > query - window
            mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            mask.masked_fill_(~visible, float("-inf"))
            self._masks[window, groups] = mask.repeat(1, groups, 1).unsqueeze(1)
        return self._masks[window, groups]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    *,
    step: PackedBatch,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    # attention of a pass; ``query`` is [1, heads, rows, width], ``key`` and ``value`` are from the KV cache. The
    # query heads of one key head are concatenated as queries, so that keys and values are not repeated.
    heads, rows, width = query.shape[1:]
    shared = key.shape[1]
    groups = heads // shared
    sequences, queries = step.shape
    grouped = query[0].index_select(1, step.queries).view(shared, groups, sequences, queries, width)
    grouped = grouped.permute(2, 0, 1, 3, 4).reshape(sequences, shared, groups * queries, width)
    output = F.scaled_dot_product_attention(
        grouped, key, value, attn_mask=step.mask(sliding_window, groups, query.dtype), scale=scaling
    )
    output = output.reshape(sequences, shared, groups, queries, -1).permute(0, 3, 1, 2, 4)
    output = output.reshape(sequences * queries, heads, -1)
    return output.index_select(0, step.query_of_row).view(1, rows, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)


def supports_packing(model: Any) -> bool:
    """Whether packing works for a model: only full or sliding attention through transformers' attention interface."""
    config = model.config
    return bool(
        getattr(model, "_supports_sdpa", False)
        and getattr(_unwrap_peft(model), "_supports_attention_backend", False)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) <= _LAYERS
        and getattr(config, "attn_logit_softcapping", None) is None
        and not getattr(config, "is_encoder_decoder", False)
        and not config.sub_configs
    )


def bytes_per_token(model: Any) -> int:
    """Bytes of the KV cache per token."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * heads * width * model.dtype.itemsize)


class PackedModel:
    """Runs a model that supports packing, with or without adapters; ``pad_id`` fills unused rows."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model = _unwrap_peft(model)
        self._pad = pad_id
        self._head = self._model.get_output_embeddings()
        self._kept: tuple[list[int], torch.Tensor | None] = [], None  # rows of the last logits
        named = "cache" in inspect.signature(self._model.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"

    def prepare_prefill(
        self, slots: SlottedKVCache, chunks: Sequence[SequenceChunk], *, rows: int | None = None
    ) -> PackedBatch:
        """Prepare a pass over one chunk per sequence, with ``rows`` rows; None for the number of tokens."""
        widest = -(-max(len(chunk.ids) for chunk in chunks) // _QUERIES) * _QUERIES
        queries: list[int] = []
        query_positions: list[list[int]] = []
        query_of_row: list[int] = []
        row = 0
        for number, chunk in enumerate(chunks):
            count, start = len(chunk.ids), chunk.start
            missing = widest - count
            queries += [*range(row, row + count), *[row] * missing]
            query_positions.append([*range(start, start + count), *[start] * missing])
            query_of_row += range(number * widest, number * widest + count)
            row += count
        read = [chunk.slot for chunk in chunks]
        return self._batch(slots, chunks, queries, query_of_row, query_positions, rows, read)

    def prepare_decode(
        self, slots: SlottedKVCache, chunks: Sequence[SequenceChunk], *, rows: int | None = None
    ) -> PackedBatch:
        """Prepare a pass over one token per sequence; ``rows`` as in :meth:`prepare_prefill`."""
        # the attention computes all slots, even unused ones: a selection would have to be copied
        queries, query_positions = [0] * slots.count, [[0] for _ in range(slots.count)]
        for row, chunk in enumerate(chunks):
            queries[chunk.slot], query_positions[chunk.slot] = row, [chunk.start]
        own, read = [chunk.slot for chunk in chunks], list(range(slots.count))
        return self._batch(slots, chunks, queries, own, query_positions, rows, read)

    def prepare_next(
        self, slots: SlottedKVCache, step: PackedBatch, token: torch.Tensor
    ) -> PackedBatch:
        """Prepare the pass that decodes the only slot after ``step``, without a copy to the device of ``token`` []."""
        return replace(
            step,
            ids=token.view(1, 1),
            positions=step.positions + 1,
            cache_indices=step.cache_indices + 1,
            query_positions=step.query_positions + 1,
            length=slots.length,
            _masks={},
        )

    def _batch(
        self,
        slots: SlottedKVCache,
        chunks: Sequence[SequenceChunk],
        queries: list[int],
        query_of_row: list[int],
        query_positions: list[list[int]],
        rows: int | None,
        slots_read: list[int],
    ) -> PackedBatch:
        ids = [token for chunk in chunks for token in chunk.ids]
        places = [
            (chunk.slot * slots.length, position)
            for chunk in chunks
            for position in range(chunk.start, chunk.start + len(chunk.ids))
        ]
        missing = [0] * max(0, (rows or 0) - len(ids))
        shape = len(query_positions), len(query_positions[0])
        parts = (
            ids + [self._pad] * len(missing),
            [position for _, position in places] + missing,
            [first + position for first, position in places],
            queries,
            query_of_row + missing,
            [position for row in query_positions for position in row],
            [] if slots_read == list(range(slots.count)) else slots_read,
        )
        # one copy to a GPU
        flat = torch.tensor([each for part in parts for each in part], device=self._model.device)
        row_ids, positions, cache_indices, *queried, read = flat.split(list(map(len, parts)))
        return PackedBatch(
            ids=row_ids.unsqueeze(0),
            positions=positions.unsqueeze(0),
            written=slice(0, len(ids)),
            cache_indices=cache_indices,
            queries=queried[0],
            query_of_row=queried[1],
            shape=shape,
            query_positions=queried[2].view(shape),
            slots=read if parts[6] else None,
            length=slots.length,
        )

    @torch.no_grad()
    def logits(
        self,
        slots: SlottedKVCache,
        step: PackedBatch,
        keep: Sequence[int],
        *,
        block: int | None = None,
    ) -> torch.Tensor:
        """Run a pass; returns the logits [kept, vocabulary] of the rows ``keep`` in the compute dtype.

        The head computes in padded blocks of ``block`` rows; None for all rows at once.
        """
        slots.step = step
        kept = list(keep)
        if block:
            kept += [0] * (-len(kept) % block)
        if self._kept[0] != kept:
            self._kept = kept, torch.tensor(kept, device=self._model.device)
        with self._packed_attention(), self._head_in_blocks(block):
            output = self._model(
                input_ids=step.ids,
                position_ids=step.positions,
                use_cache=True,
                step=step,
                logits_to_keep=self._kept[1],
                **{self._cache_name: slots},
            )
        logits: torch.Tensor = output.logits[0, : len(keep)]
        return logits

    @contextmanager
    def _packed_attention(self) -> Iterator[None]:
        config = self._model.config
        before = config._attn_implementation
        config._attn_implementation = NAME
        try:
            yield
        finally:
            config._attn_implementation = before

    @contextmanager
    def _head_in_blocks(self, block: int | None) -> Iterator[None]:
        if block is None:
            yield
            return
        head, forward = self._head, self._head.forward
        head.forward = lambda rows: torch.cat(list(map(forward, rows.split(block, 1))), dim=1)
        try:
            yield
        finally:
            del head.forward


def _unwrap_peft(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model
