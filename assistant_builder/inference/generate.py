"""Generates an answer token by token, greedily or by sampling.

Torch is imported inside functions, since the page's process imports this module for its types.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from assistant_builder.inference.chunks import Sampling

_SLOT_MULTIPLE = 256  # the slot length of a conversation is a multiple of this many tokens
_CHUNK = 512  # prompt tokens per prefill pass


class _TokenQueueStreamer:
    # passes tokens from the thread of ``generate`` to the thread that streams them
    def __init__(self) -> None:
        self._queue: queue.Queue[int | BaseException | None] = queue.Queue()
        self._skipped_prompt = False

    def put(self, tokens: torch.Tensor) -> None:
        # called by ``generate``: first with the prompt, then with each new token [1]
        if self._skipped_prompt:
            self._queue.put(int(tokens[0]))
        self._skipped_prompt = True

    def end(self, error: BaseException | None = None) -> None:
        # called by ``generate`` at the end, or by its thread after a failure
        self._queue.put(error)

    def __iter__(self) -> Iterator[int]:
        while (token := self._queue.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token


class KVCacheState:
    """KV cache of the last conversation, so that a follow-up question only reads its new tokens."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.slots: Any = None

    def resume(self, ids: Sequence[int]) -> int:
        """Prepare the cache for a prompt.

        Returns:
            Number of prompt tokens that are already cached; the last token never is.
        """
        known = len(os.path.commonprefix([self.ids, list(ids[:-1])]))
        self.ids = list(ids[:known])
        self.resize(len(ids))
        return known

    def resize(self, tokens: int) -> None:
        """Give the slot the length for ``tokens`` tokens, since every pass reads the whole slot."""
        from assistant_builder.inference.packed_batch import SlottedKVCache

        length = -(-tokens // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        if self.slots is None or self.slots.length != length:
            slots = SlottedKVCache(1, length)
            if self.ids:
                slots.fill_prefix(self.slots.prefix_states(len(self.ids)))
            self.slots = slots


def generate_tokens(
    model: Any,
    prompter: Any,
    ids: Sequence[int],
    limit: int,
    sampling: Sampling,
    stop_event: threading.Event,
    conversation: KVCacheState | None = None,
    certainties: list[float] | None = None,
) -> Iterator[int]:
    """Generate at most ``limit`` token ids with the same computation as the evaluation, until ``stop_event`` is set.

    ``prompter`` is the chat tokenizer, ``ids`` is the prompt; the cache of the conversation is changed. The
    log-probability of the likeliest token at each position is appended to ``certainties`` before its token is yielded.
    """
    from assistant_builder.inference.packed_batch import supports_packing

    certainties = [] if certainties is None else certainties
    how = model, prompter, ids, limit, sampling, stop_event
    if supports_packing(model):
        return _generate_packed(*how, conversation or KVCacheState(), certainties)
    return generate_with_transformers(*how, certainties)


def _generate_packed(
    model: Any,
    prompter: Any,
    ids: Sequence[int],
    limit: int,
    sampling: Sampling,
    stop_event: threading.Event,
    conversation: KVCacheState,
    certainties: list[float],
) -> Iterator[int]:
    import torch

    from assistant_builder.inference.packed_batch import PackedModel, SequenceChunk

    rows = PackedModel(model, prompter.pad_id)
    processors = sampling_processors(sampling)
    known = conversation.resume(ids)
    slots = conversation.slots
    for start in range(known, len(ids), _CHUNK):
        part = list(ids[start : start + _CHUNK])
        prefill = rows.prepare_prefill(slots, [SequenceChunk(0, start, part)])
        logits = rows.logits(slots, prefill, [len(part) - 1])
        conversation.ids += part
        if stop_event.is_set():
            return
    step = None
    for count in range(1, limit + 1):
        scores = logits.float()
        certainty = torch.log_softmax(scores, dim=-1).amax()
        for processor in processors:
            scores = processor(torch.tensor([conversation.ids]), scores)
        likeliest = scores.argmax()
        # one read from the device
        sure, token = torch.stack((certainty.double(), likeliest.double())).tolist()
        certainties.append(sure)
        token = int(token)
        yield token
        if count == limit or token in prompter.stop_ids or stop_event.is_set():
            return
        conversation.resize(len(conversation.ids) + 1)
        if step is None:
            chunk = SequenceChunk(0, len(conversation.ids), [token])
            step = rows.prepare_decode(conversation.slots, [chunk])
        else:
            step = rows.prepare_next(conversation.slots, step, likeliest)
        logits = rows.logits(conversation.slots, step, [0])
        conversation.ids.append(token)


def generate_with_transformers(
    model: Any,
    prompter: Any,
    ids: Sequence[int],
    limit: int,
    sampling: Sampling,
    stop_event: threading.Event,
    certainties: list[float] | None = None,
) -> Iterator[int]:
    """Generate tokens with transformers' ``generate``, for models that do not support packing."""
    import torch
    from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList

    from assistant_builder.inference.padded_batch import greedy

    class Certainty(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if certainties is not None:
                certainties.append(float(torch.log_softmax(scores[0].float(), dim=-1).amax()))
            return scores

    class StopRequested(StoppingCriteria):
        def __call__(
            self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any
        ) -> torch.Tensor:
            requested = stop_event.is_set() or abandoned.is_set()
            return torch.full((len(input_ids),), requested, device=input_ids.device)

    abandoned = threading.Event()
    streamer = _TokenQueueStreamer()
    prompt = torch.tensor([list(ids)], device=model.device)
    processors = [Certainty(), *sampling_processors(sampling)]

    more = {
        "logits_processor": processors,
        "stopping_criteria": StoppingCriteriaList([StopRequested()]),
    }

    def generate() -> None:
        mask, pad, stop = torch.ones_like(prompt), prompter.pad_id, prompter.stop_ids
        try:
            greedy(model, prompt, mask, limit, pad, stop, streamer=streamer, **more)
        except BaseException as error:  # raised in the thread that reads the tokens
            streamer.end(error)

    thread = threading.Thread(target=generate, name="generate", daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        abandoned.set()
        thread.join()


def sampling_processors(sampling: Sampling) -> list[Any]:
    """Logits processors for temperature, top-p and a sample by the Gumbel-max trick with its own random generator.

    The argmax of (log-probability + Gumbel noise) is a sample of the distribution (Gumbel 1954; Maddison et al. 2014).
    Concurrent answers do not share torch's global generator, so a seed reproduces an answer, and both assistants get
    the same noise for the same seed. Greedy decoding (temperature 0) needs none.
    """
    import torch
    from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return []
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)

    class GumbelDraw(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            # Exponential noise is never exactly 0 in float64, and -log of it is Gumbel noise.
            noise = torch.empty(scores.shape, dtype=torch.float64)
            noise = noise.exponential_(generator=generator).log().neg()
            return scores.double() + noise.to(scores.device)

    nucleus = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return [TemperatureLogitsWarper(sampling.temperature), *nucleus, GumbelDraw()]
