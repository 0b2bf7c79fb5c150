"""What comes back from the worker process: one reply for each that was asked, as far as it has come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from assistant_builder.chat.session import Memory

ReplyState = Literal[
    "starting", "waiting", "loading", "answering", "stop", "length", "cancelled", "failed", "loaded"
]
FINISHED = frozenset(("stop", "length", "cancelled", "failed", "loaded"))
PACE_SECONDS = 0.08


@dataclass(frozen=True)
class Reply:
    """One arm's answer as far as it has come.

    Attributes:
        state: ``starting`` the process, ``waiting`` behind other questions, ``loading`` the model, ``answering``, or
            how it ended: ``stop`` (complete), ``length`` (cut at the longest answer), ``cancelled``, ``failed``, or,
            where loading was all that was asked for, ``loaded``.
        text: The answer so far.
        tokens: Its tokens.
        first_token_seconds: From the start of the answer to its first token; waiting and loading not counted.
        seconds: From the start of the answer until now.
        error: ``AssistantBuilderError.to_record()`` of a failed answer.
        phase: What loading does now.
        fraction: Share of the loading that is done.
        memory: What the model occupies, once it is loaded.
        ahead: Questions, of whomever, that are answered before this one.
    """

    state: ReplyState = "starting"
    text: str = ""
    tokens: int = 0
    first_token_seconds: float | None = None
    seconds: float = 0.0
    error: dict[str, Any] | None = None
    phase: str = ""
    fraction: float = 0.0
    memory: Memory | None = None
    ahead: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in FINISHED

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of the answer over the whole time it took."""
        return self.tokens / self.seconds if self.tokens and self.seconds > 0 else None


class Exchange:
    """One question put to several arms. Iterate over it for ``{arm: Reply}`` until all have ended.

    Args:
        stop: Asks for the answer to one request to end.
        requests: Identity → what was asked.
    """

    def __init__(self, stop: Callable[[str], None], requests: Mapping[str, dict[str, Any]]) -> None:
        self._stop = stop
        self._arm_of = {identity: request["arm"] for identity, request in requests.items()}
        self._replies = {arm: Reply() for arm in self._arm_of.values()}
        self._changed = threading.Condition()
        self._told: list[Callable[[], None]] = []

    @property
    def now(self) -> dict[str, Reply]:
        """Every arm's reply as far as it has come."""
        with self._changed:
            return dict(self._replies)

    def listen(self, told: Callable[[], None]) -> None:
        """Have ``told`` called after every change, in the thread that brings it; it must not wait for anything."""
        with self._changed:
            self._told.append(told)

    def __iter__(self) -> Iterator[dict[str, Reply]]:
        """Yield the state of all arms whenever it changed, a dozen times a second at most."""
        seen: dict[str, Reply] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._replies != seen)  # noqa: B023 - asked within this turn
                seen = dict(self._replies)
            yield seen
            if all(reply.finished for reply in seen.values()):
                return
            time.sleep(PACE_SECONDS)

    def stop(self) -> None:
        """Ask every arm to end its answer; what has come stays."""
        for identity, arm in self._arm_of.items():
            if not self._replies[arm].finished:
                self._stop(identity)

    def take(self, event: Mapping[str, Any]) -> bool:
        """Take in one event of the worker; True when that arm has ended."""
        arm = self._arm_of[event["id"]]
        with self._changed:
            self._replies[arm] = _advance(self._replies[arm], event)
            self._changed.notify_all()
            finished, listeners = self._replies[arm].finished, list(self._told)
        for told in listeners:
            told()
        return finished


def _advance(reply: Reply, event: Mapping[str, Any]) -> Reply:
    if event["event"] == "state":
        return replace(reply, state=event["state"])
    if event["event"] == "ahead":
        return replace(reply, ahead=event["ahead"])
    if event["event"] == "loading":
        return replace(reply, phase=event["phase"], fraction=event["fraction"])
    if event["event"] == "memory":
        return replace(reply, memory=Memory(event["base_bytes"], event["adapter_bytes"], event["shared"]))
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
    )
