"""``python -m benchmarks.scripted_worker SLOTS``: a worker process without a model; answers follow from questions.

It speaks the protocol of :mod:`assistant_builder.chat.answer_server` and writes at the pace of a small model on a CPU,
so that a load test measures the server alone and knows each answer beforehand.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence

from assistant_builder.chat.answer_server import run_server
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import ProgressCallback

WORD_SECONDS = 0.02
"""Time of a word."""
UNKNOWN = "unknown"
"""A question with this word is declined."""
_FEWEST, _SPREAD = 8, 18  # words after the repeated question


def answer_to(questions: Sequence[str]) -> str:
    """The answer to the last question of a conversation.

    It repeats that question and the first words of the earlier ones, so that a mixed answer or conversation shows.

    Args:
        questions: What the user said, oldest first.
    """
    *earlier, last = questions
    mark = last.split()[0]
    after = (
        " ".join(["after", *(question.split()[0] for question in earlier)]) if earlier else "first"
    )
    count = _FEWEST + zlib.crc32(last.encode()) % _SPREAD
    return f"{last} ({after}): {' '.join(mark + '-' + chr(97 + number) for number in range(count))}"


class ScriptedSession:
    """The session of a worker process, see :class:`assistant_builder.chat.answer_server.Server`."""

    def ready(self, speaker: str) -> bool:
        """Nothing is loaded, so every assistant is ready."""
        return True

    def load(self, speaker: str, report: ProgressCallback) -> None:
        """There are no weights."""

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """Yield :func:`answer_to` word by word."""
        text = answer_to([turn.content for turn in messages if turn.role == "user"])
        words = re.findall(r"\S+\s*", text)
        began, first = time.perf_counter(), 0.0
        for number, word in enumerate(words, start=1):
            if stop_event.wait(WORD_SECONDS):
                yield Chunk("", number - 1, first, time.perf_counter() - began, "cancelled")
                return
            seconds = time.perf_counter() - began
            first, last = first or seconds, number == len(words)
            yield Chunk(
                word,
                number,
                first,
                seconds,
                "stop" if last else None,
                declined=last and UNKNOWN in messages[-1].content.split(),
            )


def main() -> None:
    """Answer until standard input closes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scripted_worker", description=__doc__
    )
    parser.add_argument("slots", type=int, help="questions that are answered at a time")
    run_server(
        ScriptedSession(),  # type: ignore[arg-type]
        idle_seconds=threading.TIMEOUT_MAX,
        exit_on_run=False,
        concurrency=parser.parse_args().slots,
    )


if __name__ == "__main__":
    main()
