"""The process of the page's chat: ``python -m assistant_builder.serving.chat --study FOLDER``.

It holds the assistants of a study in PyTorch, and the index of copied answers, each from its first question on.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from assistant_builder.chat.answer_server import IDLE_SECONDS, run_server
from assistant_builder.chat.ask import WHOLE
from assistant_builder.child_process import configure_libraries
from assistant_builder.data import Message
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import (
    BASE,
    ChatSession,
    ProgressCallback,
)
from assistant_builder.retrieval.copying import COPY
from assistant_builder.serving.copying import CopySession
from assistant_builder.study import Study


class PageSession(ChatSession):
    """The assistants of a study, their untuned base, and :data:`COPY`."""

    def __init__(self, study: Study) -> None:
        super().__init__(study, (*study.config.arms, BASE))
        self._copies = CopySession({COPY: (study, COPY)})

    def ready(self, speaker: str) -> bool:
        """Whether the model is loaded."""
        return self._copies.ready(COPY) if speaker == COPY else super().ready(speaker)

    def load(self, speaker: str, report: ProgressCallback = lambda phase, fraction: None) -> None:
        """Load a model unless it is loaded."""
        load = self._copies.load if speaker == COPY else super().load
        load(speaker, report)

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation; see :meth:`Session.stream`."""
        answer = super().stream
        if speaker == COPY:
            answer, sampling = self._copies.stream, replace(sampling, max_new_tokens=WHOLE)
        yield from answer(speaker, messages, sampling, stop_event)


def main() -> None:
    """Start the worker of a study."""
    parser = argparse.ArgumentParser(
        description="Answer questions with the trained assistants of a study."
    )
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument("--approach", help="the approach of the assistants; default: the main one")
    parser.add_argument(
        "--idle-seconds", type=float, default=IDLE_SECONDS, help="idle time until the process ends"
    )
    options = parser.parse_args()
    configure_libraries()
    run_server(PageSession(Study(options.study, options.approach)), options.idle_seconds)


if __name__ == "__main__":
    main()
