"""Both trained assistants of a study, and their base model untuned, answering token by token.

Torch is imported when the first answer is asked for, so that the page's process can import the types here.
"""

from __future__ import annotations

import abc
import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from assistant_builder.config import ARMS
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.inference.generate import KVCacheState, generate_tokens, max_context_length
from assistant_builder.study import Study

Finish = Literal["stop", "length", "cancelled"]
BASE = "base"
"""The third that can be asked: the base without any adapter, as cell B16 of the evaluation; B4 where the study does
not train the 16-bit arm."""
MODELS = (*ARMS, BASE)
SEED_LIMIT = 2**32


@dataclass(frozen=True)
class Sampling:
    """How answers are generated.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 is greedy, as in the evaluation; above 0 divides the logits before sampling.
        top_p: Sample from the smallest set of tokens whose probability reaches this (nucleus sampling, Holtzman 2020).
        seed: Of the random draws; the same seed gives the same answer again. None: another one each time.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of bounds, all of them together.

        Raises:
            ConfigError: A value is out of bounds.
        """
        problems = []
        if self.max_new_tokens < 1:
            problems.append(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if not 0 <= self.temperature <= 5:
            problems.append(f"temperature={self.temperature} must lie between 0 and 5")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p={self.top_p} must lie above 0 and not above 1")
        if self.seed is not None and not 0 <= self.seed < SEED_LIMIT:
            problems.append(f"seed={self.seed} must lie between 0 and {SEED_LIMIT - 1}")
        if problems:
            raise ConfigError("; ".join(problems), where="sampling", remedy="Correct it and ask again")


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer.

    Attributes:
        text_delta: Text that came since the last chunk.
        tokens: Tokens generated so far.
        first_token_seconds: From the start of the answer to its first token (the prompt's computation).
        seconds: From the start of the answer until now.
        finish: None while it goes on; ``stop`` at the end of the answer, ``length`` at the longest allowed,
            ``cancelled`` when asked to stop.
    """

    text_delta: str
    tokens: int
    first_token_seconds: float | None
    seconds: float
    finish: Finish | None = None


@dataclass(frozen=True)
class Memory:
    """What an assistant's weights occupy.

    Attributes:
        base_bytes: Of the base as it is held now; on a CPU it is unpacked into the compute dtype, for speed.
        adapter_bytes: Of the adapter.
        shared: The base is that of the LoRA assistant, and costs nothing more.
    """

    base_bytes: int
    adapter_bytes: int
    shared: bool = False


Report = Callable[[str, float], None]
"""Told what loading does now, and the share of it that is done before."""


class ChatBackend(Protocol):
    """What the worker process needs of a session."""

    def ready(self, speaker: str) -> bool:
        """Whether its model is in memory."""

    def load(self, speaker: str, report: Report) -> Memory:
        """Bring its model into memory, if it is not there."""

    def stream(
        self, speaker: str, messages: Sequence[Message], sampling: Sampling, stop_event: threading.Event
    ) -> Iterator[Chunk]:
        """Answer piece by piece."""


class Session(abc.ABC):
    """Loads models on demand and streams their answers; which model a speaker is, is for a subclass to say.

    Args:
        speakers: Those who may be asked.
        where: Whose speakers they are, for errors.
    """

    def __init__(self, speakers: Sequence[str], where: str) -> None:
        self._speakers = tuple(speakers)
        self._where = where
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._memory: dict[str, Memory] = {}
        self._conversations: dict[str, KVCacheState] = {}
        self._loading = threading.Lock()

    def ready(self, speaker: str) -> bool:
        """Whether the model is in memory."""
        return speaker in self._loaded

    def load(self, speaker: str, report: Report = lambda phase, fraction: None) -> Memory:
        """Bring a model into memory, if it is not there.

        Args:
            speaker: ``qlora``, ``lora`` or ``base``.
            report: Told what is being done.

        Raises:
            ModelError: It is not trained, or cannot be loaded.
        """
        if speaker not in self._speakers:
            raise ModelError(f"no arm {speaker!r}", where=self._where, remedy=f"Ask {' or '.join(self._speakers)}")
        if speaker not in self._memory:
            report("Waiting for the other model to load", 0.0)
            with self._loading:  # transformers sets the default dtype of the whole process while it loads
                shared = self._load(speaker, report)
                self._memory[speaker] = _memory(self._loaded[speaker][0], shared=shared)
        return self._memory[speaker]

    def stream(
        self, speaker: str, messages: Sequence[Message], sampling: Sampling, stop_event: threading.Event
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation.

        Args:
            speaker: Who is asked.
            messages: The conversation, ending with the user's turn.
            sampling: How to generate.
            stop_event: Set it to end the answer after the token at hand.

        Yields:
            One chunk per token that adds text, then a last one that carries ``finish``.

        Raises:
            ModelError: The arm is not trained, its model cannot be loaded, or the conversation is too long for it.
        """
        if not self.ready(speaker):
            self.load(speaker)
        model, prompter = self._loaded[speaker]
        if stop_event.is_set():  # while it waited or loaded
            yield Chunk("", 0, None, 0.0, "cancelled")
            return
        ids = prompter.prompt_ids(list(messages))
        room = max_context_length(model) - len(ids)
        if room < 1:
            raise ModelError(
                f"the conversation has {len(ids)} tokens, and the model reads {max_context_length(model)}", where="chat",
                remedy="Clear the conversation and ask a shorter question",
            )
        limit = min(sampling.max_new_tokens, room)
        # taken out while it is used: an answer that fails, or one given beside, leaves it to nobody
        conversation = self._conversations.pop(speaker, KVCacheState())
        tokens = generate_tokens(model, prompter, ids, limit, sampling, stop_event, conversation)
        yield from _chunks(tokens, prompter, stop_event)
        self._conversations[speaker] = conversation

    @abc.abstractmethod
    def _load(self, speaker: str, report: Report) -> bool:
        """Put model and tokenizer of a speaker into ``_loaded``, unless they are there; whether the base was there."""


class ChatSession(Session):
    """The assistants of a study.

    One float16 and one 4-bit base are held at most: the untuned base model is that of the LoRA assistant, or of the
    only one there is, seen without its adapter.

    Args:
        study: A study whose arms are trained.
        speakers: Those who may be asked: arms that the study trains, and ``base``.
    """

    def __init__(self, study: Study, speakers: Sequence[str] = MODELS) -> None:
        super().__init__(speakers, f"study {study.name}")
        self._study = study

    def _load(self, speaker: str, report: Report) -> bool:
        if speaker in self._loaded:
            return speaker == BASE
        report("Starting PyTorch", 0.05)
        from assistant_builder.models.loading import load_arm

        if speaker != BASE:
            report("Reading the 4-bit base" if speaker == "qlora" else "Reading the 16-bit base", 0.4)
            model, prompter = load_arm(self._study, speaker, hold=True)
            prepare_for_inference(model)
            self._loaded[speaker] = model, prompter  # only whole: memory may run out in either line before
            return False
        arm = next(arm for arm in ARMS if arm in self._speakers)
        self._load(arm, report)
        model, prompter = self._loaded[arm]
        self._loaded[BASE] = (clone_sharing_weights(model.get_base_model()), prompter)
        return True


def _chunks(tokens: Iterator[int], prompter: Any, stop_event: threading.Event) -> Iterator[Chunk]:
    started = time.perf_counter()
    first: float | None = None
    generated: list[int] = []
    shown = ""
    finish: Finish = "length"
    try:
        for token in tokens:
            if first is None:
                first = time.perf_counter() - started
            if token in prompter.stop_ids:
                finish = "stop"
                break
            generated.append(token)
            text = prompter.decode(generated)
            # A character of several tokens decodes to U+FFFD until its last byte is there.
            if not text.endswith("\ufffd") and len(text) > len(shown):
                yield Chunk(text[len(shown):], len(generated), first, time.perf_counter() - started)
                shown = text
            if stop_event.is_set():
                finish = "cancelled"
                break
    finally:
        tokens.close()  # type: ignore[attr-defined]
    rest = prompter.decode(generated)[len(shown):]
    yield Chunk(rest, len(generated), first, time.perf_counter() - started, finish)


def clone_sharing_weights(base: Any) -> Any:
    """A base, without adapters, as a model of its own over the same weights, so that both can answer at once.

    Copied is the tree of modules alone: parameters and buffers are shared, and each adapted layer is replaced by the
    layer that it wraps. Switching adapters off or over instead would do so for the answer being generated beside.

    Args:
        base: A model of transformers, or that inside a ``PeftModel`` whose adapters are not merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    shared |= {id(layer): layer.get_base_layer() for layer in base.modules() if isinstance(layer, BaseTunerLayer)}
    states = (getattr(layer, "quant_state", None) for layer in base.modules())  # block constants of 4-bit layers
    shared |= {id(state): state for state in states if state is not None}
    return copy.deepcopy(base, shared)


def prepare_for_inference(*models: Any) -> None:
    """Do once what would otherwise be done at every token: cast the adapters, put the weights in order.

    Args:
        models: Changed in place; several where they stand over the same weights.
    """
    from assistant_builder.inference.packed_batch import supports_packing
    from assistant_builder.inference.prepacked_linear import cast_adapters, prepack

    for model in models:
        cast_adapters(model, model.dtype)
    if supports_packing(models[0]):
        prepack(*models)


def _memory(model: Any, *, shared: bool) -> Memory:
    from assistant_builder.inference.prepacked_linear import prepacked_bytes
    from assistant_builder.models.loading import model_bytes

    adapter = sum(parameter.nbytes for name, parameter in model.named_parameters() if "lora_" in name)
    return Memory(model_bytes(model) + prepacked_bytes(model) - adapter, adapter, shared)
