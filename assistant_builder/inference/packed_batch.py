"""Run a causal language model over rows of tokens, with the keys and values of every sequence in a slot of its own.

A batch of transformers is a rectangle: short sequences are filled up, and a row that has ended stays until the longest
has. Here a forward pass takes a list of tokens, each of which says to which sequence and place it belongs; only the
attention sees sequences. Sequences of any lengths share a pass without padding, each may be read in pieces, and a slot
is free for the next sequence as soon as its own has ended.

The number of rows of a pass can be fixed, the missing ones being filled: a matrix product over another number of rows
may run through another kernel, which adds up in another order.

Imports torch: only worker processes import this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from peft import PeftModel
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "assistant_builder_rows"
"""Under which transformers knows the attention of this module."""
_QUERIES = 32
"""Queries of a sequence are filled up to a multiple of this; attention on a CPU computes in tiles of as many."""
_LAYERS = {"full_attention", "sliding_attention"}


class SlottedKVCache(Cache):
    """Keys and values of several sequences, each from the start of its slot.

    Args:
        count: Sequences at once.
        length: Longest of them, tokens.
    """

    def __init__(self, count: int, length: int) -> None:
        super().__init__(layers=[])
        self.count, self.length = count, length
        self.stored: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.step: PackedBatch | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the rows [1, heads, rows, width] of a pass; returns the slots it reads [slots, heads, length, width]."""
        assert self.step is not None
        if layer_idx == len(self.stored):
            self.stored.append((self._empty(key_states), self._empty(value_states)))
        found = []
        for stored, states in zip(self.stored[layer_idx], (key_states, value_states), strict=True):
            rows = states[0].transpose(0, 1)[self.step.written]
            stored.view(-1, *stored.shape[2:]).index_copy_(0, self.step.cache_indices, rows)
            read = stored if self.step.slots is None else stored.index_select(0, self.step.slots)
            found.append(read.transpose(1, 2))
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked by models that number their positions themselves; here every pass brings its own."""
        return 0

    def prefix_states(self, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of the first ``length`` tokens of the first slot, layer by layer."""
        return [(keys[0, :length].clone(), values[0, :length].clone()) for keys, values in self.stored]

    def fill_prefix(self, start: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Put what :meth:`first` of other slots returned at the start of every slot."""
        self.stored = []
        for given in start:
            pair = tuple(tensor.new_zeros(self.count, self.length, *tensor.shape[1:]) for tensor in given)
            for stored, tensor in zip(pair, given, strict=True):
                stored[:, : len(tensor)] = tensor
            self.stored.append((pair[0], pair[1]))

    def _empty(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(self.count, self.length, states.shape[1], states.shape[3])


@dataclass(frozen=True)
class SequenceChunk:
    """Tokens of one sequence that are read in a pass.

    Attributes:
        slot: Of its keys and values.
        start: Place of the first of these tokens in its sequence.
        ids: The tokens.
    """

    slot: int
    start: int
    ids: Sequence[int]


@dataclass
class PackedBatch:
    """One pass, prepared: which row is which token of which sequence.

    Attributes:
        ids: Tokens [1, rows].
        positions: Their places in their sequences [1, rows].
        written: Rows whose keys and values are kept: a slice or indices.
        places: Where they are kept, slot · length + place.
        slots: Slots read by the attention; None: all, in order.
        queries: Row of each query [sequences · most queries of a sequence].
        back: Query of each row [rows].
        shape: Sequences, queries of each.
        query_positions: Places of the queries [sequences, queries].
        length: Of a slot.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    written: slice
    cache_indices: torch.Tensor
    slots: torch.Tensor | None
    queries: torch.Tensor
    query_of_row: torch.Tensor
    shape: tuple[int, int]
    query_positions: torch.Tensor
    length: int
    _masks: dict[tuple[int | None, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """What each query sees: 0 or −∞, [sequences, 1, groups · queries, length]; made once a pass.

        Args:
            window: Of sliding attention; None: everything before.
            groups: Query heads that share the keys and values of one head.
            dtype: Of the queries.
        """
        if (window, groups) not in self._masks:
            key = torch.arange(self.length, device=self.query_positions.device)
            at = self.query_positions.unsqueeze(-1)
            seen = key <= at
            if window is not None:
                seen &= key > at - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            self._masks[window, groups] = mask.repeat(1, groups, 1).unsqueeze(1)
        return self._masks[window, groups]


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
    scaling: float | None = None, dropout: float = 0.0, sliding_window: int | None = None, *, step: PackedBatch, **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of a pass; ``query`` is [1, heads, rows, width], ``key`` and ``value`` come from :class:`Slots`.

    The query heads of one key head are queries beside each other, so that keys and values need not be repeated.
    """
    heads, rows, width = query.shape[1:]
    shared = key.shape[1]
    groups = heads // shared
    sequences, queries = step.shape
    asked = query[0].index_select(1, step.queries).view(shared, groups, sequences, queries, width)
    asked = asked.permute(2, 0, 1, 3, 4).reshape(sequences, shared, groups * queries, width)
    found = F.scaled_dot_product_attention(
        asked, key, value, attn_mask=step.mask(sliding_window, groups, query.dtype), scale=scaling
    )
    found = found.reshape(sequences, shared, groups, queries, -1).permute(0, 3, 1, 2, 4)
    found = found.reshape(sequences * queries, heads, -1)
    return found.index_select(0, step.query_of_row).view(1, rows, heads, -1), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)


def supports_packing(model: Any) -> bool:
    """Whether a model can be run over rows: plain or sliding attention by transformers' interface, nothing between."""
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
    """Bytes of keys and values that a model keeps for a token."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * heads * width * model.dtype.itemsize)


class PackedModel:
    """A model that reads rows.

    Args:
        model: A causal language model that is :func:`readable`, with or without adapters.
        pad_id: Token that fills missing rows.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model = _unwrap_peft(model)
        self._pad = pad_id
        self._head = self._model.get_output_embeddings()
        self._cache_name = "cache" if "cache" in inspect.signature(self._model.forward).parameters else (
            "past_key_values")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._model.device
        return device

    def prepare_prefill(self, slots: SlottedKVCache, pieces: Sequence[SequenceChunk], *, rows: int | None = None) -> PackedBatch:
        """Prepare a pass over pieces of several tokens.

        Args:
            slots: Where keys and values are kept.
            pieces: One a sequence, with at least one token.
            rows: Rows of the pass; None: as many as there are tokens.
        """
        ids = [token for piece in pieces for token in piece.ids]
        positions = [piece.start + place for piece in pieces for place in range(len(piece.ids))]
        places = [piece.slot * slots.length + piece.start + place
                  for piece in pieces for place in range(len(piece.ids))]
        widest = -(-max(len(piece.ids) for piece in pieces) // _QUERIES) * _QUERIES
        queries: list[int] = []
        asked: list[list[int]] = []
        back: list[int] = []
        row = 0
        for number, piece in enumerate(pieces):
            count = len(piece.ids)
            queries += [*range(row, row + count), *[row] * (widest - count)]
            asked.append([*range(piece.start, piece.start + count), *[piece.start] * (widest - count)])
            back += range(number * widest, number * widest + count)
            row += count
        return self._batch(slots, ids, positions, places, queries, back, asked, rows, [piece.slot for piece in pieces])

    def prepare_decode(self, slots: SlottedKVCache, pieces: Sequence[SequenceChunk], *, rows: int | None = None) -> PackedBatch:
        """Prepare a pass over one token of each piece.

        Args:
            slots: As in :meth:`read`.
            pieces: Pieces of one token each.
            rows: As in :meth:`read`.
        """
        # all slots are attended to, those without a piece in vain: a choice of them would have to be copied
        queries, asked = [0] * slots.count, [[0] for _ in range(slots.count)]
        for row, piece in enumerate(pieces):
            queries[piece.slot], asked[piece.slot] = row, [piece.start]
        return self._batch(
            slots, [piece.ids[0] for piece in pieces], [piece.start for piece in pieces],
            [piece.slot * slots.length + piece.start for piece in pieces], queries, [piece.slot for piece in pieces],
            asked, rows, list(range(slots.count)),
        )

    def _batch(
        self, slots: SlottedKVCache, ids: list[int], positions: list[int], places: list[int], queries: list[int],
        back: list[int], asked: list[list[int]], rows: int | None, read: list[int],
    ) -> PackedBatch:
        def tensor(values: Any) -> torch.Tensor:
            return torch.tensor(values, device=self.device)

        missing = max(0, (rows or 0) - len(ids))
        return PackedBatch(
            ids=tensor([ids + [self._pad] * missing]), positions=tensor([positions + [0] * missing]),
            written=slice(0, len(ids)), cache_indices=tensor(places),
            slots=None if read == list(range(slots.count)) else tensor(read), queries=tensor(queries),
            query_of_row=tensor(back + [0] * missing), shape=(len(asked), len(asked[0])), query_positions=tensor(asked),
            length=slots.length,
        )

    @torch.no_grad()
    def logits(self, slots: SlottedKVCache, step: PackedBatch, keep: Sequence[int], *, block: int | None = None) -> torch.Tensor:
        """Run a pass.

        Args:
            slots: Where keys and values are kept.
            step: The pass.
            keep: Rows whose logits are wanted.
            block: The head computes in blocks of as many rows, the last one filled; None: all at once.

        Returns:
            [kept, vocabulary] in the compute dtype.
        """
        slots.step = step
        wanted = list(keep)
        if block:
            wanted += [0] * (-len(wanted) % block)
        with self._packed_attention(), self._head_in_blocks(block):
            output = self._model(
                input_ids=step.ids, position_ids=step.positions, use_cache=True, step=step,
                logits_to_keep=torch.tensor(wanted, device=self.device), **{self._cache_name: slots},
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
        head = self._head
        if block is None:
            yield
            return
        whole = head.forward
        head.forward = lambda rows: torch.cat([whole(part) for part in rows.split(block, dim=1)], dim=1)
        try:
            yield
        finally:
            del head.forward


def _unwrap_peft(model: Any) -> Any:
    """The model of transformers inside PEFT's wrapping; its layers are adapted."""
    return model.get_base_model() if isinstance(model, PeftModel) else model
