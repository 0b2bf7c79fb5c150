"""The process of the page's chat: ``python -m assistant_builder.serving.chat --study FOLDER``.

It holds the assistants of a study in PyTorch, the file to ship in llama.cpp, and the index of copied answers, each from
its first question on.
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
from assistant_builder.export_formats import shipped_file
from assistant_builder.inference.chunks import Chunk, Sampling
from assistant_builder.inference.session import (
    BASE,
    SHIPPED,
    ChatSession,
    ProgressCallback,
    Session,
)
from assistant_builder.retrieval.copying import COPY
from assistant_builder.serving.copying import CopySession
from assistant_builder.serving.llamacpp import LlamaCppSession
from assistant_builder.study import Study
from evals.report.schema import Report


class PageSession(ChatSession):
    """The assistants of a study, their untuned base, :data:`SHIPPED`, which is the file to ship, and :data:`COPY`."""

    def __init__(self, study: Study) -> None:
        super().__init__(study, (*study.config.arms, BASE))
        self._file: LlamaCppSession | None = None
        self._copies = CopySession({COPY: (study, COPY)})

    def ready(self, speaker: str) -> bool:
        """Whether the model is loaded."""
        if speaker == SHIPPED:
            return self._file is not None and self._file.ready(SHIPPED)
        return self._copies.ready(COPY) if speaker == COPY else super().ready(speaker)

    def load(self, speaker: str, report: ProgressCallback = lambda phase, fraction: None) -> None:
        """Load a model unless it is loaded; a file that the study does not have is written first."""
        other = self._other(speaker)
        load = super().load if other is None else other.load
        load(speaker, report)

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation; see :meth:`Session.stream`."""
        if speaker == COPY:
            sampling = replace(sampling, max_new_tokens=WHOLE)
        other = self._other(speaker)
        answer = super().stream if other is None else other.stream
        yield from answer(speaker, messages, sampling, stop_event)

    @property
    def holds_models(self) -> bool:
        """Whether a model is loaded; the sentence embedder of copied answers is small."""
        return super().holds_models or self._file is not None

    def _other(self, speaker: str) -> Session | None:
        if speaker == SHIPPED:
            return self._llamacpp()
        return self._copies if speaker == COPY else None

    def close(self) -> None:
        """End the process of llama.cpp."""
        if self._file is not None:
            self._file.close()

    def _llamacpp(self) -> LlamaCppSession:
        if self._file is None:
            path = self._study.report_file
            spec = shipped_file(
                Report.load(path) if path.is_file() else None, self._study.config.arms
            )
            self._file = LlamaCppSession(
                {SHIPPED: (self._study, spec.arm)}, type=spec.export_format.type
            )
        return self._file


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
