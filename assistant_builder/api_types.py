"""What the Python API returns: answers with their sources, and servers."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict

from assistant_builder.errors import ModelError
from assistant_builder.i18n import m
from assistant_builder.retrieval.decline import Mode
from assistant_builder.study import study as folders


class Source(BaseModel):
    """A fact that the assistant read for its answer: a row of the training data, or a statement of a document."""

    model_config = ConfigDict(frozen=True, extra="allow")

    row: int | None = None  # from 0; None for a statement, and if the fact was added by hand
    question: str  # of a statement its headings
    answer: str
    similarity: float | None = None  # cosine similarity to the question that was asked
    document: str | None = None  # of a statement: the name of its document
    page: int | None = None  # of a statement: its page, from 1; None where the format has no pages
    passage: str | None = (
        None  # of a statement: its words on the page, between ``before`` and ``after``
    )


class Answer(BaseModel):
    """An answer of a trained assistant, or one that was copied from the data; its text is what ``str`` gives."""

    model_config = ConfigDict(frozen=True)

    question: str
    arm: str  # who answered, such as ``qlora``; ``copy`` for a copied answer
    text: str
    tokens: int  # of the answer; of a copied one its words
    seconds: float  # without loading the model
    first_token_seconds: float
    sources: tuple[Source, ...]  # the nearest first; empty if the assistant answers from memory
    declined: bool
    # whether a trained assistant answered, the best fact was copied, or nothing was looked up for a greeting
    mode: Mode | Literal["reply"] = "tuned"
    # the rule's estimate that the data answer the question, between 0 and 1; None if no rule judged it
    confidence: float | None = None
    evidence: dict[str, float] = {}  # what the rule judged
    reason: str | None = None  # why the question was declined
    advice: str | None = None  # what to add to the data, so that it is answered
    suggestions: tuple[str, ...] = ()  # questions of the data that are offered instead
    asks_back: bool = False  # whether the text asks which of the suggestions is meant, because two facts fit as well
    missing: tuple[
        str, ...
    ] = ()  # questions of the message that have no answer, where others have one

    def __str__(self) -> str:
        return self.text


class Server:
    """An OpenAI-compatible endpoint on a free port of this machine, which other machines cannot reach.

    It needs no API key. It ends with the ``with`` block, by :meth:`close`, or with this process.

    Attributes:
        url: Its base URL, which ends in ``/v1``.
        model: Name of the model in a request.
    """

    def __init__(self, study: folders.Study, arm: str) -> None:
        from assistant_builder.serving.endpoint_process import Endpoints, endpoint_command

        approach = [study.approach] if study.approach else []
        self._endpoints = Endpoints(lambda *which: [*endpoint_command(*which), *approach])
        try:
            self._endpoints.start(study, arm)
            while (state := self._endpoints.state(study.name)).phase == "starting":
                time.sleep(0.05)
        except BaseException:
            self.close()
            raise
        if state.phase != "running":
            raise ModelError(
                m("the server did not start: {error}", error=state.error),
                where=m("{study} {name}", name=study.name),
            )
        self.url, self.model = state.url, state.model

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Server {self.model} at {self.url}>"

    def close(self) -> None:
        """End the server."""
        self._endpoints.close()
