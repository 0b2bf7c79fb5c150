"""An OpenAI-compatible endpoint, which is asked for chat completions; these give no loss of a given answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assistant_builder.chat_endpoint import (
    ChatEndpoint,
    EndpointError,
    RetryPolicy,
    endpoint_url,
)
from assistant_builder.errors import ConfigError, EvaluationError
from assistant_builder.i18n import Message, m
from assistant_builder.redaction import CANDIDATE_KEY
from evals.model_compare.candidates import MAX_ANSWER, Candidate, Item, Receive, Result

AT_ONCE = 4
MOST_PER_TOKEN = 64
"""Characters of an answer for each token that it may have; an endpoint that sends more does not keep to the limit."""
GIVE_UP_AFTER = 5
"""Consecutive items without an answer after which the endpoint counts as stopped."""
PATIENCE = RetryPolicy(timeout_seconds=120.0, attempts=3, backoff_seconds=1.0)


def sampling(limit: int) -> Mapping[str, Any]:
    """The fields of each request that decide how an answer is drawn: greedily, without penalties."""
    return {
        "temperature": 0,
        "top_p": 1,
        "seed": 0,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "max_tokens": limit,
    }


@dataclass
class EndpointCandidate(Candidate):
    """A model behind an address.

    Attributes:
        url: Base address, which usually ends in ``/v1``.
        model: Its name there.
        patience: Timeout and retries of a request.
    """

    url: str
    model: str
    patience: RetryPolicy = PATIENCE

    def __post_init__(self) -> None:
        self.kind = "endpoint"
        found = endpoint_url(self.url)
        if found is None or not self.model:
            raise ConfigError(
                m("{given!r} is not MODEL@URL", given=self.given),
                where=self.letter,
                remedy=m("Write for example my-model@http://127.0.0.1:8000/v1"),
            )
        if found.userinfo or found.query:
            raise ConfigError(
                m("the address of an endpoint must not contain a password or key"),
                where=self.letter,
                remedy=m("Put the key into the environment variable {key}", key=self._key_name),
            )
        self._host = found.netloc.decode("ascii")

    @property
    def _key_name(self) -> str:
        return CANDIDATE_KEY + self.letter

    @property
    def name(self) -> str:
        """Model and host."""
        return f"{self.model}@{self._host}"

    @property
    def gives_loss(self) -> bool:
        """A chat completion has no log-probabilities of an answer that is given."""
        return False

    def identity(self) -> dict[str, Any]:
        """Address and name; what answers there is not known, and may change."""
        return {"url": self.url, "model": self.model}

    def score(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        """Ask several items at a time, the first one alone."""
        if items:
            asyncio.run(self._ask_all(items, limit, receive))

    async def _ask_all(self, items: Sequence[Item], limit: int, receive: Receive) -> None:
        endpoint = ChatEndpoint(
            self.url,
            self.model,
            key=os.environ.get(self._key_name),
            patience=self.patience,
            sampling=sampling(limit),
            where=self.letter,
        )
        waiting, failed, answered = list(reversed(items)), 0, False
        running: set[asyncio.Task[tuple[Result, EndpointError | None]]] = set()
        async with endpoint:
            try:
                while waiting or running:
                    while waiting and len(running) < (AT_ONCE if answered else 1):
                        running.add(asyncio.create_task(_ask(endpoint, waiting.pop(), limit)))
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for result, error in (task.result() for task in done):
                        receive(result)
                        failed = 0 if error is None else failed + 1
                        answered = answered or error is None
                        if error is not None and (
                            failed >= GIVE_UP_AFTER
                            or error.kind == "key"
                            or (not answered and error.kind in ("refused", "unreachable"))
                        ):
                            raise self._stopped(error)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    def _stopped(self, error: EndpointError) -> EvaluationError:
        remedies: dict[str, Message] = {
            "unreachable": m("Start its server or correct the address"),
            "key": m("Set the environment variable {key} to the right key", key=self._key_name),
            "refused": m(
                "Check the name of the model, and that the address ends before /chat/completions (often with /v1)"
            ),
            "busy": m("Check its server"),
            "reply": m("Check that the address is that of an OpenAI-compatible endpoint"),
        }
        return EvaluationError(
            m("the endpoint does not answer ({error})", error=error),
            where=f"{self.letter} {self._host}",
            remedy=m("{remedy}; the same command continues from here", remedy=remedies[error.kind]),
        )


async def _ask(
    endpoint: ChatEndpoint, item: Item, limit: int
) -> tuple[Result, EndpointError | None]:
    try:
        answer = (await endpoint.ask(item["messages"])).strip()
        if len(answer) > min(MAX_ANSWER, MOST_PER_TOKEN * limit):
            raise EndpointError("reply", f"the answer is longer than {limit} tokens can be")
        return Result(item["item"], answer), None
    except EndpointError as error:
        return Result(item["item"], "", error=str(error)), error
