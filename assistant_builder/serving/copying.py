"""Assistants that copy answers: ``python -m assistant_builder.serving.copying ASSISTANTS``.

No base model is loaded: the process reads the data, a sentence embedder and the index. It uses the protocol of
:mod:`assistant_builder.chat.answer_server`, with the ids of the assistants in place of arms.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

from assistant_builder.chat.answer_server import run_models
from assistant_builder.config.serving import ServingConfig
from assistant_builder.data import Message
from assistant_builder.errors import AssistantBuilderError, ConfigError
from assistant_builder.i18n import m
from assistant_builder.inference.chunks import Chunk, Finish, Sampling
from assistant_builder.inference.conversing import Conversing
from assistant_builder.inference.session import ProgressCallback, Session
from assistant_builder.retrieval.copying import Copier, copy_stamp
from assistant_builder.serving.engine import COPIES, start_worker
from assistant_builder.serving.local import serve_with
from assistant_builder.serving.registry import ModelRegistry
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


def _cut(text: str, most: int) -> tuple[str, int, Finish]:
    """A text of at most ``most`` words, their number, and ``length`` if it was cut."""
    words = list(islice(re.finditer(r"\S+", text), most + 1))
    if len(words) <= most:
        return text, len(words), "stop"
    return text[: words[most - 1].end()], most, "length"


def serve_copies(
    models: ModelRegistry, config: ServingConfig, key: str | None, *, as_json: bool = False
) -> None:
    """Serve copying assistants until interrupted; arguments as of :attr:`ServingBackend.start`.

    Raises:
        ConfigError: A backend was chosen, other machines could use the server without a key, or the address is not
            available.
    """
    if config.backend != "local":
        raise ConfigError(
            m(
                "copied answers need no backend, and --backend {name} runs models",
                name=config.backend,
            ),
            where="serve --mode copy",
            remedy=m("Omit --backend, or serve trained assistants with --mode tuned"),
        )
    start = partial(start_worker, module=COPIES)
    serve_with(start, models, config, key, as_json=as_json)


if __name__ == "__main__":
    run_models(CopySession)
