"""Scores reference answers and generates greedy answers for many sequences at a time.

:class:`BatchScorer` packs sequences without padding. It reads each question together with its reference answer, scores
the answer in that pass, and generates the model's own answer from the cached keys and values. The pass also predicts
the token after each token of the reference answer, so that the model's own answer is known up to its first token that
differs (speculative decoding with the reference as the draft, Leviathan et al. 2023), and generated from there on. The
common prefix of all prompts (system prompt, template header) is read once, and so is what several prompts share beyond
it, such as facts (:mod:`assistant_builder.inference.prefix_tree`). When an answer ends, its slot is reused.
Every pass has the same number of rows, and the computation of a sequence depends only on its own length, so its scores
are bit-identical whatever else is in the batch (see :mod:`assistant_builder.inference.batch_invariant`).

:class:`PaddedBatchScorer` does the same with padded batches, for models that do not support packing.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import LogitsProcessor

from assistant_builder.inference.batch_invariant import BatchInvariantLinear, ContiguousLinear
from assistant_builder.inference.packed_batch import (
    PackedModel,
    SequenceChunk,
    SlottedKVCache,
    bytes_per_token,
)
from assistant_builder.inference.padded_batch import (
    IGNORED,
    LENGTH,
    LeftPadding,
    batches,
    padded,
    supervised_logits,
)
from assistant_builder.inference.prefix_tree import Beginning, shared_beginnings

ROWS = 512  # rows of a prefill pass
HEAD_ROWS = 128  # rows that the head computes at once in a prefill pass
DECODE_ROWS = 64  # rows of a decoding pass: the number of answers generated at once
MAX_CACHE_BYTES = 1 << 30
"""Maximum bytes of the KV cache on a CPU, and the least on a GPU; see :func:`max_cache_bytes`."""
# slot lengths are multiples of the first number, and beyond 512 tokens of the second
_SHORT, _LONG = 128, 256
LEAST_SHARED = 8  # tokens of a beginning that is worth its copies
_WINDOW = 0.25  # share of the cache for the beginnings that sequences share

Tokens = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its target; the target may be empty."""
Scored = tuple[torch.Tensor, list[int]]
"""Log-probabilities of the target's tokens, and the most likely token at each of their positions."""
OnScores = Callable[[dict[int, Scored]], None]
"""Callback with the scores of a pass, by sequence index; sequences without a target are omitted."""
OnRead = Callable[["ScoredChunk", torch.Tensor], None]
"""Callback with the logits of a pass and their log-softmax."""
OnAnswers = Callable[[dict[int, list[int]]], None]
"""Callback with finished answers, including the stop token, by sequence index. It is also called without any answer, so
that it can raise to cancel."""


@dataclass(frozen=True, eq=False)
class _Part:
    # Tokens that are read after ``start``: a sequence, or a beginning that several sequences share
    index: int  # of the sequence; a beginning has the place in its tree and neither scores nor an answer
    prompt: Sequence[int]
    target: Sequence[int]
    start: int
    parent: int = -1  # the beginning that it continues
    shared: bool = False  # whether it is a beginning

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.target[:-1]]

    @property
    def last_rows(self) -> int:
        # rows in its last prefill pass; its earlier passes are full and contain only this part
        tokens = len(self.prompt) + max(0, len(self.target) - 1)
        return (tokens - self.start - 1) % ROWS + 1


@dataclass
class _ActiveSequence:
    # A part in its slot; the last token of ``answer`` is at ``next_position`` and not yet read
    part: _Part
    slot: int
    next_position: int = 0
    answer: list[int] = field(default_factory=list)
    certainty: list[float] = field(default_factory=list)  # log-probabilities of these tokens


class _Waiting:
    """The parts of a group that are not read yet; a part waits for the beginning that it continues.

    The group is divided into windows of prompts that follow each other in the order of their tokens, each with its own
    tree, so that the keys and values of beginnings need no more memory than those of a window.
    """

    def __init__(
        self,
        group: Sequence[int],
        sequences: Sequence[Tokens],
        known: int,
        *,
        most: int,
        least: int,
    ) -> None:
        self._sequences, self._known, self._least = sequences, known, least
        self._windows: deque[list[int]] = deque()
        tokens = 0
        for index in sorted(group, key=lambda index: list(sequences[index][0])):
            new = len(sequences[index][0]) - known
            if not self._windows or tokens + new > most:
                self._windows.append([])
                tokens = 0
            self._windows[-1].append(index)
            tokens += new
        self._beginnings: list[Beginning] = []
        self._states: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._children: dict[int, list[_Part]] = {}
        self._ready: list[_Part] = []
        self._open_window()

    def __len__(self) -> int:
        return len(self._ready)

    def _open_window(self) -> None:
        while not self._ready and self._windows:
            window = self._windows.popleft()
            prompts = [self._sequences[index][0] for index in window]
            self._beginnings, longest = shared_beginnings(prompts, self._known, self._least)
            self._states, self._children = {}, {}
            parts = [
                _Part(place, each.ids, (), each.start, each.parent, shared=True)
                for place, each in enumerate(self._beginnings)
            ]
            for index, parent in zip(window, longest, strict=True):
                start = len(self._beginnings[parent].ids) if parent >= 0 else self._known
                parts.append(_Part(index, *self._sequences[index], start, parent))
            for part in parts:
                self._children.setdefault(part.parent, []).append(part)
            self._release(-1)

    def _release(self, parent: int) -> None:
        self._ready += self._children.pop(parent, [])
        self._ready.sort(key=lambda part: (not part.shared, -part.last_rows, part.index))

    def next_pass(self, most: int) -> list[_Part]:
        """Parts that fit a pass together, at most so many: beginnings, for which others wait, then the longest."""
        chosen: list[_Part] = []
        rows = ROWS
        for part in self._ready:
            if part.last_rows <= rows and len(chosen) < most:
                chosen.append(part)
                rows -= part.last_rows
        return chosen

    def start(self, slots: SlottedKVCache, rows: Sequence[_ActiveSequence]) -> None:
        """Copy what is known of parts into their slots; they no longer wait."""
        for row in rows:
            self._ready.remove(row.part)
            place = row.part.parent
            while place >= 0:
                slots.fill_slot(row.slot, self._beginnings[place].start, self._states[place])
                place = self._beginnings[place].parent

    def finish(self, slots: SlottedKVCache, rows: Sequence[_ActiveSequence]) -> None:
        """Keep the keys and values of beginnings that were read; what continues them can be read next."""
        for row in rows:
            part = row.part
            if part.shared:
                states = slots.prefix_states(len(part.prompt), part.start, row.slot)
                self._states[part.index] = states
                self._release(part.index)
        self._open_window()


@dataclass(frozen=True)
class ScoredChunk:
    """Logits of one prefill pass."""

    sequences: list[int]
    logits: torch.Tensor  # [rows, vocabulary] as float32
    targets: torch.Tensor  # next token of each row, [rows]; 0 for a prompt without a target
    counts: list[int]  # number of rows of each sequence


class BatchScorer:
    """Scores and generates with packed sequences, at most ``size`` at once.

    The model must support packing, see :func:`~assistant_builder.inference.packed_batch.supports_packing`. A beginning
    of at least ``least_shared`` tokens that several sequences share is read once.
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        stop_ids: Sequence[int],
        size: int,
        *,
        least_shared: int = LEAST_SHARED,
    ) -> None:
        self._packed = PackedModel(model, pad_id)
        self._stop = set(stop_ids)
        self._size = min(size, DECODE_ROWS)
        self._max_tokens = max_cache_bytes(model.device) // bytes_per_token(model)
        self._window = max(int(self._max_tokens * _WINDOW), 2 * ROWS)
        self._least_shared = least_shared
        self._prefix: tuple[int, ...] = ()
        self._prefix_states: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.seconds = {"nll": 0.0, "generate": 0.0}
        self.certainties: dict[int, list[float]] = {}

    def run(
        self,
        sequences: Sequence[Tokens],
        *,
        max_new_tokens: int,
        on_scores: OnScores,
        on_answers: OnAnswers,
        on_read: OnRead | None = None,
        room: int = 0,
    ) -> None:
        """Score every target and generate the greedy answer to every prompt; ``max_new_tokens=0`` generates none.

        With ``room=n``, which is for a pass without answers, scores are those of a pass with ``max_new_tokens=n``.

        ``certainties`` then has the log-probabilities of each answer's tokens, by sequence index.
        """
        self.certainties = {}
        self._read_prefix(sequences)
        for group, slots in self._groups(sequences, max_new_tokens or room):
            waiting = self._waiting(group, sequences)
            free = deque(range(slots.count))
            active: dict[int, _ActiveSequence] = {}
            while waiting or active:
                parts = waiting.next_pass(len(free))
                # decoding continues until there are enough free slots for a full prefill pass
                full = len(parts) == len(waiting) or len(parts) < len(free)
                if parts and (full or not active):
                    rows = [_ActiveSequence(part, free.popleft()) for part in parts]
                    waiting.start(slots, rows)
                    on_scores(self._read(slots, rows, max_new_tokens, on_read))
                    waiting.finish(slots, rows)
                    answering = [row for row in rows if max_new_tokens and not row.part.shared]
                    active |= {row.slot: row for row in answering}
                    free.extend(row.slot for row in rows if row.slot not in active)
                    if not max_new_tokens:
                        continue
                else:
                    self._decode(slots, active)
                ended = [
                    row
                    for row in active.values()
                    if len(row.answer) >= max_new_tokens or row.answer[-1] in self._stop
                ]
                for row in ended:
                    del active[row.slot]
                    free.append(row.slot)
                    self.certainties[row.part.index] = row.certainty
                on_answers({row.part.index: row.answer for row in ended})

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[ScoredChunk]:
        """Read every prompt with its target, pass by pass, without generating."""
        self._read_prefix(sequences)
        for group, slots in self._groups(sequences, 0, max_tokens=2 * ROWS):
            waiting = self._waiting(group, sequences)
            while waiting:
                parts = waiting.next_pass(slots.count)
                rows = [_ActiveSequence(part, slot) for slot, part in enumerate(parts)]
                waiting.start(slots, rows)
                yield from self._scored_chunks(slots, rows)
                waiting.finish(slots, rows)

    def _read_prefix(self, sequences: Sequence[Tokens]) -> None:
        # the last token of every prompt is excluded, since its logits are needed
        shared = os.path.commonprefix([list(prompt[:-1]) for prompt, _ in sequences])
        self._prefix = tuple(shared) if len(sequences) > 1 and len(shared) >= LEAST_SHARED else ()
        self._prefix_states = []
        if self._prefix:
            slots = SlottedKVCache(1, _slot_length(len(self._prefix)))
            for start in range(0, len(self._prefix), ROWS):
                chunk = SequenceChunk(0, start, self._prefix[start : start + ROWS])
                self._pass(slots, [chunk], [0])
            self._prefix_states = slots.prefix_states(len(self._prefix))

    def _groups(
        self, sequences: Sequence[Tokens], max_new_tokens: int, *, max_tokens: int | None = None
    ) -> Iterator[tuple[list[int], SlottedKVCache]]:
        # sequence indices grouped by slot length, the shortest slots first, with the slots
        lengths = [
            _slot_length(len(prompt) + max(len(target), max_new_tokens))
            for prompt, target in sequences
        ]
        for length in sorted(set(lengths)):
            group = [index for index in range(len(sequences)) if lengths[index] == length]
            capacity = (max_tokens or int(self._max_tokens * (1 - _WINDOW))) // length
            slots = SlottedKVCache(max(1, min(self._size, capacity, len(group))), length)
            if self._prefix_states:
                slots.fill_prefix(self._prefix_states)
            yield group, slots

    def _waiting(self, group: Sequence[int], sequences: Sequence[Tokens]) -> _Waiting:
        known, least = len(self._prefix), self._least_shared
        return _Waiting(group, sequences, known, most=self._window, least=least)

    def _scored_chunks(
        self, slots: SlottedKVCache, rows: Sequence[_ActiveSequence]
    ) -> Iterator[ScoredChunk]:
        last: list[tuple[_Part, SequenceChunk]] = []
        for row in rows:
            ids = row.part.ids
            end = len(ids) - row.part.last_rows
            for start in range(row.part.start, end, ROWS):
                chunk = SequenceChunk(row.slot, start, ids[start : start + ROWS])
                yield self._score_pass(slots, [(row.part, chunk)])
            last.append((row.part, SequenceChunk(row.slot, end, ids[end:])))
        yield self._score_pass(slots, last)

    def _score_pass(
        self, slots: SlottedKVCache, read: Sequence[tuple[_Part, SequenceChunk]]
    ) -> ScoredChunk:
        keep: list[int] = []
        targets: list[int] = []
        counts, row = [], 0
        for part, chunk in read:
            if not part.shared:
                answers, known = list(part.target) or [0], len(part.prompt)
                # the logits of a token predict the next one
                first, end = max(chunk.start, known - 1), chunk.start + len(chunk.ids)
                keep += range(row + first - chunk.start, row + len(chunk.ids))
                if end >= known:
                    targets += answers[first - known + 1 : end - known + 1]
                counts.append(max(0, end - first))
            row += len(chunk.ids)
        logits = self._pass(slots, [chunk for _, chunk in read], keep or [0])
        logits = logits[: len(keep)].float()
        followed = torch.tensor(targets, dtype=torch.long, device=logits.device)
        indices = [part.index for part, _ in read if not part.shared]
        return ScoredChunk(indices, logits, followed, counts)

    def _pass(
        self, slots: SlottedKVCache, chunks: Sequence[SequenceChunk], keep: Sequence[int]
    ) -> torch.Tensor:
        step = self._packed.prepare_prefill(slots, chunks, rows=ROWS)
        return self._packed.logits(slots, step, keep, block=HEAD_ROWS)

    def _read(
        self,
        slots: SlottedKVCache,
        rows: Sequence[_ActiveSequence],
        max_new_tokens: int,
        on_read: OnRead | None,
    ) -> dict[int, Scored]:
        began = time.monotonic()
        scored = [row for row in rows if not row.part.shared]
        chunks: dict[int, list[tuple[torch.Tensor, ...]]] = {row.part.index: [] for row in scored}
        for read in self._scored_chunks(slots, rows):
            for index, part in _scores(read, on_read if read.sequences else None):
                chunks[index].append(part)
        found: dict[int, Scored] = {}
        for row in scored:
            chosen, top, sure = map(torch.cat, zip(*chunks[row.part.index], strict=True))
            likeliest = top.tolist()
            count = _known_tokens(likeliest[:max_new_tokens], row.part.target, self._stop)
            row.next_position = len(row.part.prompt) + count - 1
            row.answer = likeliest[:count]
            row.certainty = sure[:count].tolist()
            if row.part.target:
                found[row.part.index] = chosen, likeliest
        self.seconds["nll"] += time.monotonic() - began
        return found

    def _decode(self, slots: SlottedKVCache, active: dict[int, _ActiveSequence]) -> None:
        began = time.monotonic()
        rows = [active[slot] for slot in sorted(active)]
        chunks = [SequenceChunk(row.slot, row.next_position, row.answer[-1:]) for row in rows]
        step = self._packed.prepare_decode(slots, chunks, rows=DECODE_ROWS)
        logits = self._packed.logits(slots, step, range(DECODE_ROWS))
        certainty = torch.log_softmax(logits[: len(rows)].float(), dim=-1).amax(dim=-1).tolist()
        for row, token, sure in zip(rows, logits.argmax(dim=-1).tolist(), certainty, strict=False):
            row.next_position += 1
            row.answer.append(token)
            row.certainty.append(sure)
        self.seconds["generate"] += time.monotonic() - began


def _scores(
    read: ScoredChunk, on_read: OnRead | None
) -> Iterator[tuple[int, tuple[torch.Tensor, ...]]]:
    # by sequence: log-probabilities of the targets, likeliest tokens, and their log-probabilities
    likely = torch.log_softmax(read.logits, dim=-1)
    if on_read is not None:
        on_read(read, likely)
    chosen = likely.gather(1, read.targets.unsqueeze(1)).squeeze(1)
    scores = chosen, read.logits.argmax(dim=-1), likely.amax(dim=-1)
    parts = zip(*(each.split(read.counts) for each in scores), strict=True)
    return zip(read.sequences, parts, strict=True)


def _known_tokens(likeliest: Sequence[int], target: Sequence[int], stop: Container[int]) -> int:
    # number of tokens of the greedy answer among the likeliest tokens after the prompt and after each target token.
    # The answer is known up to its first token that is not the target's, or up to its end.
    for count, (token, expected) in enumerate(zip(likeliest, target, strict=False), start=1):
        if token != expected or token in stop:
            return count
    return len(likeliest)


def max_cache_bytes(device: torch.device) -> int:
    """Maximum bytes of the KV cache on a device.

    On a GPU half of the free memory, in whole gibibytes: a pass copies the slots of a layer that it reads, and needs
    memory for its logits.
    """
    if device.type != "cuda":
        return MAX_CACHE_BYTES
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reusable
    return max(1, free // (2 * MAX_CACHE_BYTES)) * MAX_CACHE_BYTES


def _slot_length(tokens: int) -> int:
    # it depends on nothing but the tokens of the sequence
    unit = _SHORT if tokens <= 2 * _LONG else _LONG
    return -(-tokens // unit) * unit


ROUND = 32  # tokens generated before finished answers are removed from the batches
LONG_PROMPT = 256  # tokens beyond which a prompt is read only once
MAX_SCORED_TOKENS = 2048  # maximum tokens scored at once, since each has logits over the vocabulary
MAX_CACHED_TOKENS = 16384
"""Maximum prompt tokens of a batch during generation, since their keys and values are cached."""


class _Certainty(LogitsProcessor):
    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._steps.append(torch.log_softmax(scores.float(), dim=-1).amax(dim=-1))
        return scores

    def of_rows(self) -> list[list[float]]:
        return torch.stack(self._steps, dim=1).tolist()


class PaddedBatchScorer:
    """Scores and generates with padded batches and transformers' ``generate``.

    Unless ``fixed``, the computation is not batch-invariant: scores depend on the batch. ``certainties`` is that of
    :class:`BatchScorer`.
    """

    def __init__(
        self, model: Any, pad_id: int, stop_ids: Sequence[int], size: int, *, fixed: bool = True
    ) -> None:
        self._model, self._stop, self._size, self._fixed = model, list(stop_ids), size, fixed
        self._padding = LeftPadding(pad_id, LENGTH if fixed else 1)
        self._cached_tokens = MAX_CACHED_TOKENS
        if model.device.type == "cuda":
            room = max_cache_bytes(model.device) // bytes_per_token(model)
            self._cached_tokens = min(MAX_CACHED_TOKENS, room)
        self.seconds = {"nll": 0.0, "generate": 0.0}
        self.certainties: dict[int, list[float]] = {}

    def run(
        self,
        sequences: Sequence[Tokens],
        *,
        max_new_tokens: int,
        on_scores: OnScores,
        on_answers: OnAnswers,
        on_read: OnRead | None = None,
        room: int = 0,
    ) -> None:
        """See :meth:`BatchScorer.run`."""
        targeted = [index for index, (_, target) in enumerate(sequences) if target]
        begun: dict[int, tuple[list[int], list[float]]] = {}
        began = time.monotonic()
        for read in self.passes([sequences[index] for index in targeted]):
            scored: dict[int, Scored] = {}
            own = replace(read, sequences=[targeted[index] for index in read.sequences])
            for index, (chosen, top, sure) in _scores(own, on_read):
                tokens = top.tolist()
                count = _known_tokens(tokens[:max_new_tokens], sequences[index][1], self._stop)
                begun[index] = tokens[:count], sure[:count].tolist()
                scored[index] = chosen, tokens
            self.seconds["nll"] += time.monotonic() - began
            on_scores(scored)
            began = time.monotonic()
        self.certainties = {}
        if max_new_tokens:
            self._answer(
                [list(prompt) for prompt, _ in sequences], begun, max_new_tokens, on_answers
            )

    def passes(self, sequences: Sequence[Tokens]) -> Iterator[ScoredChunk]:
        """See :meth:`BatchScorer.passes`."""
        lengths = [sum(map(len, sequence)) for sequence in sequences]
        for batch in batches(
            lengths, self._size, equal_lengths=self._fixed, max_tokens=MAX_SCORED_TOKENS
        ):
            logits, targets = self._logits([sequences[index] for index in batch])
            yield ScoredChunk(batch, logits, targets, [len(sequences[index][1]) for index in batch])

    @torch.no_grad()
    def _logits(self, sequences: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [
            {"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + list(target)}
            for prompt, target in sequences
        ]
        with self._kernels(generating=False):
            return supervised_logits(self._model, self._padding(rows))

    def _answer(
        self,
        ids: Sequence[list[int]],
        begun: Mapping[int, tuple[list[int], list[float]]],
        longest: int,
        on_answers: OnAnswers,
    ) -> None:
        # generate answers in rounds; ``begun``: what is known of an answer and its certainty, by sequence index.
        # Unfinished answers to short prompts continue in new batches after ``ROUND`` tokens, so that a few long
        # answers do not delay all others. Long prompts are not split into rounds, since reading them again would take
        # longer.
        # learned positions end with the context
        context = getattr(self._model.config, "max_position_embeddings", None)
        context = context or longest + max(map(len, ids))
        limits = [max(1, min(longest, context - len(prompt))) for prompt in ids]
        known = [begun.get(index, ([], [])) for index in range(len(ids))]
        answers = [list(tokens) for tokens, _ in known]
        self.certainties = {
            index: list(certainties) for index, (_, certainties) in enumerate(known)
        }
        waiting = [
            index
            for index, answer in enumerate(answers)
            if len(answer) < limits[index] and not (answer and answer[-1] in self._stop)
        ]
        on_answers({index: answers[index] for index in set(range(len(ids))) - set(waiting)})
        while waiting:
            unfinished = []
            lengths = [len(ids[index]) + len(answers[index]) for index in waiting]
            for batch in batches(
                lengths, self._size, equal_lengths=self._fixed, max_tokens=self._cached_tokens
            ):
                began = time.monotonic()
                rows = [waiting[place] for place in batch]
                most = max(lengths[place] for place in batch)
                wanted = longest - min(len(answers[index]) for index in rows)
                left = min(wanted, max(1, context - most))
                length = left if padded(most) > LONG_PROMPT else min(ROUND, left)
                parts = self._generate([ids[i] + answers[i] for i in rows], length)
                for index, (new, certainties) in zip(rows, parts, strict=True):
                    room = limits[index] - len(answers[index])
                    answers[index] += new[:room]
                    self.certainties[index] += certainties[:room]
                    if len(answers[index]) < limits[index] and answers[index][-1] not in self._stop:
                        unfinished.append(index)
                self.seconds["generate"] += time.monotonic() - began
                ended = set(rows) - set(unfinished)
                on_answers({index: answers[index] for index in rows if index in ended})
            waiting = sorted(unfinished)

    @torch.no_grad()
    def _generate(
        self, prompts: Sequence[Sequence[int]], length: int
    ) -> list[tuple[list[int], list[float]]]:
        certainty = _Certainty()
        with self._kernels(generating=True):
            answers = self._padding.generate(
                self._model, prompts, length, self._stop, logits_processor=[certainty]
            )
        ends = [
            next((place + 1 for place, token in enumerate(ids) if token in self._stop), len(ids))
            for ids in answers
        ]
        return [
            (ids[:end], sure[:end])
            for ids, sure, end in zip(answers, certainty.of_rows(), ends, strict=True)
        ]

    def _kernels(self, *, generating: bool) -> Any:
        return BatchInvariantLinear(generating=generating) if self._fixed else ContiguousLinear()
