"""Copied answers, in the process of trained assistants or alone; they need no base model."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.inference.chunks import WHOLE, Chunk, Finish, Sampling
from assistant_builder.inference.conversing import Conversing
from assistant_builder.inference.session import ProgressCallback, Session
from assistant_builder.retrieval.copying import Copier, copy_stamp
from assistant_builder.study import Study


class CopySession(Session):
    """Copying assistants by id; of an answer, words are counted in place of tokens."""

    def __init__(self, assistants: Mapping[str, tuple[Study, str]]) -> None:
        super().__init__(tuple(assistants), "the server")
        self._assistants = dict(assistants)
        self._stamps: dict[str, str] = {}
        self._conversing: dict[str, Conversing] = {}

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """The answer to the last message in one chunk; see :meth:`Session.stream`."""
        self.load(speaker)
        with self._searching:
            copier = self._latest(speaker)

        def one(asked: Sequence[Message], most: int) -> Iterator[Chunk]:
            started = time.perf_counter()
            with self._searching:
                found = copier.answer(asked, corrected=sampling.corrected)
            text, words, finish = _cut(found.text, most)
            seconds = time.perf_counter() - started
            said = found.declined, found.judged
            yield Chunk(text, words, seconds, seconds, finish, found.sources, None, *said)

        if speaker not in self._conversing:
            study, _ = self._assistants[speaker]
            self._conversing[speaker] = Conversing.of(study, copier.retriever)
        yield from self._conversing[speaker].answer(messages, one, _cut, sampling.max_new_tokens)

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        study, _ = self._assistants[speaker]
        stamp = copy_stamp(study)  # before it is read: what changes meanwhile is read again
        self._loaded[speaker] = Copier.load(study, report), None
        self._conversing.pop(speaker, None)
        self._stamps[speaker] = stamp

    def _latest(self, speaker: str) -> Copier:
        # a run may have indexed the data meanwhile, or trained the embedder
        if self._stamps[speaker] != copy_stamp(self._assistants[speaker][0]):
            with suppress(AssistantBuilderError):  # until they can be read, those of before answer
                self._load(speaker, lambda phase, fraction: None)
        copier: Copier = self._loaded[speaker][0]
        return copier


class BesideCopies(Session):
    """Trained assistants, and those that copy answers, in one process; ``whole``: copied answers are never cut."""

    def __init__(self, trained: Session, copies: CopySession, *, whole: bool = False) -> None:
        super().__init__((*trained.speakers, *copies.speakers), "chat")
        self._trained, self._copies, self._whole = trained, copies, whole

    def ready(self, speaker: str) -> bool:
        """Whether the model is loaded."""
        return self._session(speaker).ready(speaker)

    def load(self, speaker: str, report: ProgressCallback = lambda phase, fraction: None) -> None:
        """Load a model unless it is loaded; copied answers do not wait for a model that loads."""
        self._load(speaker, report)

    def stream(
        self,
        speaker: str,
        messages: Sequence[Message],
        sampling: Sampling,
        stop_event: threading.Event,
    ) -> Iterator[Chunk]:
        """Answer the last message of a conversation; see :meth:`Session.stream`."""
        session = self._session(speaker)
        if self._whole and session is self._copies:
            sampling = replace(sampling, max_new_tokens=WHOLE)
        return session.stream(speaker, messages, sampling, stop_event)

    @property
    def holds_models(self) -> bool:
        """Whether the session holds memory that a run needs."""
        return self._trained.holds_models

    def close(self) -> None:
        """End processes that the session has started."""
        self._trained.close()

    def _session(self, speaker: str) -> Session:
        return self._copies if speaker in self._copies.speakers else self._trained

    def _load(self, speaker: str, report: ProgressCallback) -> None:
        self._session(speaker).load(speaker, report)


def _cut(text: str, most: int) -> tuple[str, int, Finish]:
    """A text of at most ``most`` words, their number, and ``length`` if it was cut."""
    words = list(islice(re.finditer(r"\S+", text), most + 1))
    if len(words) <= most:
        return text, len(words), "stop"
    return text[: words[most - 1].end()], most, "length"
