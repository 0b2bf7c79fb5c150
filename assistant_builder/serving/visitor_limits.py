"""Limits on the questions of visitors, who need no key: for each address, and for the queue of all."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from assistant_builder.serving.schemas import too_many


@dataclass(frozen=True)
class Limits:
    """Limits of public questions.

    Attributes:
        questions: Questions of one address within :attr:`seconds`.
        open: Unfinished questions of one address.
        waiting: Questions of all visitors that may wait.
        addresses: Addresses that are remembered, each for :attr:`seconds` after its last question; of more, the ones
            that asked longest ago are forgotten.
    """

    questions: int = 30
    seconds: float = 600.0
    open: int = 3
    waiting: int = 64
    addresses: int = 20_000


class VisitorLimits:
    """Counts the questions of each address."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._asked: OrderedDict[str, list[float]] = OrderedDict()
        self._open: dict[str, int] = {}

    def enter(self, address: str) -> None:
        """Count a question.

        Raises:
            ApiError: The address has asked too many questions, or has too many unfinished ones.
        """
        limits, now = self._limits, self._clock()
        recent = [when for when in self._asked.get(address, ()) if now - when < limits.seconds]
        if self._open.get(address, 0) >= limits.open:
            raise too_many("wait for the answers to your other questions", retry_seconds=5)
        if len(recent) >= limits.questions:
            seconds = round(limits.seconds - (now - recent[0]))
            raise too_many("too many questions", retry_seconds=max(1, seconds))
        self._asked[address] = [*recent, now]
        self._asked.move_to_end(address)
        while (
            len(self._asked) > limits.addresses
            or now - next(iter(self._asked.values()))[-1] >= limits.seconds
        ):
            self._asked.popitem(last=False)
        self._open[address] = self._open.get(address, 0) + 1

    def leave(self, address: str) -> None:
        """A question of the address has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class VisitorQueue:
    """The questions of all visitors in the order in which they came; ``slots`` of them are answered at a time."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._slots, self._most = slots, slots + waiting
        self._tickets: dict[object, asyncio.Event] = {}

    def join(self) -> object:
        """A ticket of a new question; raises ApiError if too many wait."""
        if len(self._tickets) >= self._most:
            raise too_many("too many people are asking", retry_seconds=15)
        ticket = object()
        self._tickets[ticket] = asyncio.Event()
        return ticket

    async def places(self, ticket: object) -> AsyncIterator[int]:
        """The number of the question in the queue, at first and after each change of it, until its turn comes."""
        shown, moved = 0, self._tickets[ticket]
        while True:
            moved.clear()  # before the place is read: others may leave while the place is sent to a slow visitor
            place = list(self._tickets).index(ticket) - self._slots + 1
            if place <= 0:
                return
            if place != shown:
                yield (shown := place)
            await moved.wait()

    def leave(self, ticket: object) -> None:
        """Remove a question that has ended."""
        self._tickets.pop(ticket, None)
        for moved in self._tickets.values():
            moved.set()
