"""The replies of models to one question while they are streamed, as events of the worker process change them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from assistant_builder.i18n import Text, text_of

ReplyState = Literal[
    "starting", "waiting", "loading", "answering", "stop", "length", "cancelled", "failed", "loaded"
]
FINISHED = frozenset(("stop", "length", "cancelled", "failed", "loaded"))
UPDATE_SECONDS = 0.08
"""Least seconds between two drawings of the replies on a page."""


@dataclass(frozen=True)
class Reply:
    """The current state of one arm's answer."""

    # ``starting`` the process, ``waiting`` for other questions, ``loading`` the model, ``answering``, or a final
    # state: ``stop`` (complete), ``length`` (truncated), ``cancelled``, ``failed``, or ``loaded`` for a request that
    # only loads the model
    state: ReplyState = "starting"
    text: str = ""
    tokens: int = 0
    # time from the start of the answer to its first token, without waiting and loading
    first_token_seconds: float | None = None
    seconds: float = 0.0  # time since the start of the answer
    error: dict[str, Any] | None = None  # ``AssistantBuilderError.to_record()`` of a failed answer
    phase: str = ""  # of loading, in English
    said: dict[str, Any] | None = None  # record of that message
    fraction: float = 0.0
    sources: tuple[Any, ...] = ()  # facts in the prompt of a grounded answer
    prompt_tokens: int | None = None  # tokens of that prompt
    declined: bool = False  # whether the question was declined instead of answered
    # what the rule for declining says about it, see :attr:`Chunk.judged`
    judged: Mapping[str, Any] = field(default_factory=dict)
    ahead: int = 0  # number of questions, of all users, that are answered before this one

    @property
    def doing(self) -> Text:
        """The phase of loading."""
        return text_of(self.said, self.phase)

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in FINISHED

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the answer over the whole time it took."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


class ReplyStream:
    """One question to several arms. Iterating yields ``{arm: Reply}`` until all arms have ended.

    ``stop`` requests the end of the answer with a request id; ``requests`` are by request id.
    """

    def __init__(self, stop: Callable[[str], None], requests: Mapping[str, dict[str, Any]]) -> None:
        self._stop = stop
        self._arm_of = {identity: request["arm"] for identity, request in requests.items()}
        self._replies = {arm: Reply() for arm in self._arm_of.values()}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    @property
    def snapshot(self) -> dict[str, Reply]:
        """Current reply of every arm."""
        with self._changed:
            return dict(self._replies)

    def add_listener(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after every change, in the thread that reads the worker's events; it must not block."""
        with self._changed:
            self._listeners.append(callback)

    def __iter__(self) -> Iterator[dict[str, Reply]]:
        """Yield the replies of all arms after changes, about twelve times a second at most."""
        seen: dict[str, Reply] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._replies != seen)  # noqa: B023 - evaluated within this iteration
                seen = dict(self._replies)
            yield seen
            if all(reply.finished for reply in seen.values()):
                return
            time.sleep(UPDATE_SECONDS)

    def stop(self) -> None:
        """Request the end of every arm's answer; the text so far is kept."""
        for identity, arm in self._arm_of.items():
            if not self._replies[arm].finished:
                self._stop(identity)

    def apply(self, event: Mapping[str, Any]) -> bool:
        """Apply one event of the worker; returns whether that arm has ended."""
        arm = self._arm_of[event["id"]]
        with self._changed:
            self._replies[arm] = _advance(self._replies[arm], event)
            self._changed.notify_all()
            finished, listeners = self._replies[arm].finished, list(self._listeners)
        for callback in listeners:
            callback()
        return finished


def _advance(reply: Reply, event: Mapping[str, Any]) -> Reply:
    values = {key: value for key, value in event.items() if key not in ("event", "id")}
    if event["event"] in ("state", "ahead", "loading"):
        return replace(reply, **values)
    if event["event"] == "loaded":
        return replace(reply, state="loaded", fraction=1.0)
    if event["event"] == "error":
        return replace(reply, state="failed", error=event["error"])
    return replace(
        reply,
        state=event["finish"] or "answering",
        text=reply.text + event["text"],
        tokens=event["tokens"],
        first_token_seconds=event["first_token_seconds"],
        seconds=event["seconds"],
        sources=tuple(event.get("sources", reply.sources)),
        declined=event.get("declined", False),
        judged=event.get("judged", {}),
        prompt_tokens=event.get("prompt_tokens", reply.prompt_tokens),
    )
