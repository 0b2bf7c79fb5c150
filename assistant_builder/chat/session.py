"""Both trained assistants of a study, answering token by token.

Torch is imported when the first answer is asked for, so that the page's process can import the types here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from assistant_builder.config import ARMS, Arm
from assistant_builder.data import Message
from assistant_builder.errors import ConfigError, ModelError
from assistant_builder.study import Study

if TYPE_CHECKING:
    import torch

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How answers are generated.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 is greedy, as in the evaluation; above 0 divides the logits before sampling.
        top_p: Sample from the smallest set of tokens whose probability reaches this (nucleus sampling, Holtzman 2020).
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0

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


class Answering(Protocol):
    """What the worker process needs of a session."""

    def ready(self, arm: str) -> bool:
        """Whether the arm's model is in memory."""

    def stream(
        self, arm: str, messages: Sequence[Message], sampling: Sampling, stop_event: threading.Event
    ) -> Iterator[Chunk]:
        """Answer piece by piece."""


class ChatSession:
    """Loads the arms of a study on demand and streams their answers.

    Args:
        study: A study whose arms are trained.
        arms: The arms that may be asked.
    """

    def __init__(self, study: Study, arms: Sequence[Arm] = ARMS) -> None:
        self._study = study
        self._arms = tuple(arms)
        self._loaded: dict[str, tuple[Any, Any]] = {}
        self._loading = threading.Lock()

    def ready(self, arm: str) -> bool:
        """Whether the arm's model is in memory."""
        return arm in self._loaded

    def stream(
        self, arm: str, messages: Sequence[Message], sampling: Sampling, stop_event: threading.Event
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation.

        Args:
            arm: ``qlora`` or ``lora``.
            messages: The conversation, ending with the user's turn.
            sampling: How to generate.
            stop_event: Set it to end the answer after the token at hand.

        Yields:
            One chunk per token that adds text, then a last one that carries ``finish``.

        Raises:
            ModelError: The arm is not trained, its model cannot be loaded, or the conversation is too long for it.
        """
        model, prompter = self._load(arm)
        if stop_event.is_set():  # while it waited or loaded
            yield Chunk("", 0, None, 0.0, "cancelled")
            return
        ids = prompter.prompt_ids(list(messages))
        room = _context(model) - len(ids)
        if room < 1:
            raise ModelError(
                f"the conversation has {len(ids)} tokens, and the model reads {_context(model)}", where="chat",
                remedy="Clear the conversation and ask a shorter question",
            )
        limit = min(sampling.max_new_tokens, room)
        yield from self._answer(model, prompter, ids, limit, sampling, stop_event)

    def _load(self, arm: str) -> tuple[Any, Any]:
        if arm not in self._arms:
            raise ModelError(f"no arm {arm!r}", where=f"study {self._study.name}", remedy=f"Ask {' or '.join(ARMS)}")
        with self._loading:  # transformers sets the default dtype of the whole process while it loads
            if arm not in self._loaded:
                from assistant_builder.models.loading import load_arm

                self._loaded[arm] = load_arm(self._study, arm, hold=True)
            return self._loaded[arm]

    def _answer(
        self, model: Any, prompter: Any, ids: Sequence[int], limit: int, sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        started = time.perf_counter()
        first: float | None = None
        generated: list[int] = []
        shown = ""
        finish: Finish = "length"
        for token in _tokens(model, prompter, ids, limit, sampling, stop_event):
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
        rest = prompter.decode(generated)[len(shown):]
        yield Chunk(rest, len(generated), first, time.perf_counter() - started, finish)


class _Handover:
    """Takes tokens from ``generate`` in its thread and hands them to the one that streams them."""

    def __init__(self) -> None:
        self._queue: queue.Queue[int | BaseException | None] = queue.Queue()
        self._prompt_came = False

    def put(self, tokens: torch.Tensor) -> None:
        """Called by ``generate``: first with the prompt, then with each new token [1]."""
        if self._prompt_came:
            self._queue.put(int(tokens[0]))
        self._prompt_came = True

    def end(self, error: BaseException | None = None) -> None:
        """Called by ``generate`` at the end, or by its thread when it failed."""
        self._queue.put(error)

    def __iter__(self) -> Iterator[int]:
        """Token ids as they come.

        Raises:
            BaseException: What ``generate`` failed with.
        """
        while True:
            token = self._queue.get()
            if token is None:
                return
            if isinstance(token, BaseException):
                raise token
            yield token


def _tokens(
    model: Any, prompter: Any, ids: Sequence[int], limit: int, sampling: Sampling, stop_event: threading.Event
) -> Iterator[int]:
    """Token ids one by one, generated as the evaluation does it."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Asked(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any) -> torch.Tensor:
            asked = stop_event.is_set() or abandoned.is_set()
            return torch.full((len(input_ids),), asked, device=input_ids.device)

    abandoned = threading.Event()
    handover = _Handover()
    prompt = torch.tensor([list(ids)], device=model.device)
    greedy = sampling.temperature == 0
    chosen = {"temperature": None, "top_p": None, "top_k": None} if greedy else {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0,
    }

    def generate() -> None:
        try:
            model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, do_sample=not greedy,
                num_beams=1, pad_token_id=prompter.pad_id, eos_token_id=prompter.stop_ids, streamer=handover,
                stopping_criteria=StoppingCriteriaList([Asked()]), **chosen,
            )
        except BaseException as error:  # handed to the thread that reads the tokens
            handover.end(error)

    thread = threading.Thread(target=generate, name="generate", daemon=True)
    thread.start()
    try:
        yield from handover
    finally:
        abandoned.set()
        thread.join()


def _context(model: Any) -> int:
    """Tokens that the model can read and write in one conversation."""
    return int(getattr(model.config, "max_position_embeddings", None) or 2048)
