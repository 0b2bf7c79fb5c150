"""Chat template and tokenizer of a base model in a separate process with memory and time limits.

A chat template is a program, and a tokenizer.json can turn twenty characters into millions of tokens. The page and
``serve`` send conversations to this process, so that a hostile model affects neither their memory nor other models.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from assistant_builder.data import Message, Pair
from assistant_builder.errors import ModelError
from assistant_builder.i18n import Text, m
from assistant_builder.limited_process import Limit, LimitedProcess, serve_requests
from assistant_builder.models.chat_template import ChatTokenizer

# maximum number of measured pairs; tokenizing twelve thousand takes several seconds
MAX_MEASURED_PAIRS = 3_000


@dataclass(frozen=True)
class Lengths:
    """Token counts of pairs."""

    pairs: int  # in the data
    tokens: tuple[int, ...]  # of each measured pair
    answers: tuple[int, ...]  # tokens of its last answer


def sample_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """Return at most :data:`MAX_MEASURED_PAIRS` pairs, evenly spaced over the data."""
    stride = -(-len(pairs) // MAX_MEASURED_PAIRS) or 1
    return list(pairs[::stride])


def measure_lengths(prompter: ChatTokenizer, pairs: Sequence[Pair]) -> Lengths:
    """Count the tokens of pairs."""
    lengths = prompter.lengths(sample_pairs(pairs))
    tokens = tuple(prompt + answer for prompt, answer in lengths)
    return Lengths(len(pairs), tokens, tuple(answer for _, answer in lengths))


MEMORY_BYTES = 2 * 2**30
"""Memory limit of the process; a tokenizer of 262,000 tokens needs a quarter, 4 MB of text as bytes two thirds."""
SECONDS = 30.0  # time limit of a request
REPLY_BYTES = 8 * 2**20  # size limit of a reply
MEASURE_SECONDS = 90.0  # time limit for measuring all pairs of a data file
_BATCH_CHARACTERS = 1_000_000
_REMEDY = m("Choose another base model, or shorten the text")


class TemplateProcess(LimitedProcess):
    """The process of one base model; see :class:`LimitedProcess`.

    ``seconds`` and ``memory`` (bytes) limit a request; the process ends after ``idle_seconds`` without requests. A
    request raises ModelError if the tokenizer cannot be read, the template refuses the conversation, or a limit was
    exceeded.
    """

    error = ModelError

    def __init__(
        self,
        folder: Path,
        *,
        idle_seconds: float | None = None,
        seconds: float | None = None,
        memory: int | None = None,
    ) -> None:
        self.where = str(folder)
        super().__init__(
            __name__,
            [str(folder)],
            memory=MEMORY_BYTES if memory is None else memory,
            seconds=SECONDS if seconds is None else seconds,
            reply_bytes=REPLY_BYTES,
            idle_seconds=idle_seconds,
        )

    def limit_error(
        self, limit: Limit, detail: str, reached: Text, request: Mapping[str, Any]
    ) -> ModelError:
        """The error of a request that reached a limit."""
        what = m("the base model's chat template or tokenizer {reached}", reached=reached)
        return ModelError(what, where=self.where, remedy=_REMEDY)


class LimitedChatTokenizer:
    """The methods of :class:`~assistant_builder.models.chat_template.ChatTokenizer` within the limits of a process.

    Every method raises ModelError if the template refuses the conversation or a limit was exceeded.
    """

    def __init__(self, process: TemplateProcess, day: date | None = None) -> None:
        self._process = process
        self._day = day.isoformat() if day is not None else None

    def chat_template(self) -> str:
        """Return the chat template."""
        return str(self._request("template"))

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the text of a conversation up to the assistant's answer."""
        return str(self._request("prompt_text", messages=_turns(messages)))

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens of a conversation up to the assistant's answer."""
        return tuple(self._request("prompt_ids", messages=_turns(messages)))

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of these tokens."""
        return int(self._request("prompt_tokens", messages=_turns(messages)))

    def count_tokens(self, pair: Pair) -> int:
        """Return the tokens of the pair's longest sequence."""
        return int(self._request("count_tokens", pair=_turns(pair.messages)))

    def longest_answer(self, pairs: Sequence[Pair]) -> int:
        """Return the tokens of the longest answer of all turns, with its end token; 0 without pairs."""
        longest = (self._request("longest_answer", pairs=batch) for batch in _batches(pairs))
        return max(map(int, longest), default=0)

    def measure(self, pairs: Sequence[Pair]) -> Lengths:
        """Count the tokens of pairs (see ``measure_lengths``)."""
        end = time.monotonic() + MEASURE_SECONDS
        tokens: list[int] = []
        answers: list[int] = []
        for batch in _batches(sample_pairs(pairs)):
            if time.monotonic() > end:
                raise ModelError(
                    m(
                        "measuring {pairs:,} pairs took longer than {measure_seconds:g} seconds",
                        pairs=len(pairs),
                        measure_seconds=MEASURE_SECONDS,
                    ),
                    where=self._process.where,
                    remedy=_REMEDY,
                )
            part = self._request("measure", pairs=batch)
            tokens += part["tokens"]
            answers += part["answers"]
        return Lengths(len(pairs), tuple(tokens), tuple(answers))

    def _request(self, operation: str, **values: Any) -> Any:
        return self._process.request(operation, day=self._day, **values)


def _batches(pairs: Sequence[Pair]) -> Iterator[list[list[list[str]]]]:
    # the turns of pairs in batches of about a megabyte of text, because requests have limits
    batch: list[list[list[str]]] = []
    size = 0
    for pair in pairs:
        size += sum(len(message.content) for message in pair.messages)
        batch.append(_turns(pair.messages))
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _turns(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


# in the process


class _Worker:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompters: dict[str | None, ChatTokenizer] = {}

    def answer(self, request: Mapping[str, Any]) -> Any:
        prompter = self._prompter(request["day"])
        operation = request["op"]
        if operation == "template":
            return prompter.tokenizer.get_chat_template()
        if operation == "prompt_text":
            return prompter.text(_messages(request["messages"]), prompt=True)
        if operation in ("prompt_ids", "prompt_tokens"):
            ids = prompter.prompt_ids(_messages(request["messages"]))
            return ids if operation == "prompt_ids" else len(ids)
        if operation == "count_tokens":
            return prompter.count_tokens(_pair(request["pair"]))
        pairs = [_pair(turns) for turns in request["pairs"]]
        if operation == "longest_answer":
            return max(len(turn.answer_ids) for pair in pairs for turn in prompter.turns(pair))
        return asdict(measure_lengths(prompter, pairs))

    def _prompter(self, day: str | None) -> ChatTokenizer:
        if day not in self._prompters:
            if len(self._prompters) >= 4:
                self._prompters.clear()
            fixed = date.fromisoformat(day) if day else None
            self._prompters[day] = ChatTokenizer.load(self._folder, fixed)
        return self._prompters[day]


def _messages(turns: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]


def _pair(turns: Sequence[Sequence[str]]) -> Pair:
    return Pair(0, _messages(turns))


def main() -> None:
    """Answer requests until standard input closes."""
    folder = Path(sys.argv[2])

    def prepare() -> Any:
        import transformers.tokenization_utils_tokenizers  # noqa: F401 - import before the first request

        return _Worker(folder).answer

    def failed(request: Mapping[str, Any], reason: str) -> ModelError:
        what = m("the base model's chat template or tokenizer failed: {reason}", reason=reason)
        return ModelError(what, where=str(folder), remedy=_REMEDY)

    serve_requests(prepare, failed)


if __name__ == "__main__":
    main()
