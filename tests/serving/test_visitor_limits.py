"""Limits on the questions of visitors: addresses that are forgotten, and the order of the queue."""

import asyncio

import pytest

from assistant_builder.serving.schemas import ApiError
from assistant_builder.serving.visitor_limits import Limits, VisitorLimits, VisitorQueue


def test_forgotten_addresses_do_not_grow():
    now = [0.0]
    visitors = VisitorLimits(Limits(questions=1, seconds=10, open=1, addresses=5), lambda: now[0])
    for number in range(50):
        visitors.enter(str(number))
        visitors.leave(str(number))
    assert len(visitors._asked) == 5 and not visitors._open
    with pytest.raises(ApiError, match="too many questions"):
        visitors.enter("49")
    now[0] = 11.0
    visitors.enter("49")
    assert list(visitors._asked) == ["49"], (
        "addresses are remembered as long as their questions count"
    )
    with pytest.raises(ApiError, match="other questions"):
        visitors.enter("49")


def test_a_question_that_waits_is_not_overtaken():
    async def run() -> list[str]:
        queue, order = VisitorQueue(1, 5), []

        async def visit(name: str, ticket: object) -> None:
            async for _ in queue.places(ticket):
                pass
            order.append(name)
            await asyncio.sleep(0)
            queue.leave(ticket)

        tickets = {name: queue.join() for name in "abcd"}
        await asyncio.gather(*(visit(name, tickets[name]) for name in "dcba"))
        return order

    assert asyncio.run(run()) == ["a", "b", "c", "d"]


def test_a_place_is_told_when_it_changes_and_not_missed_while_it_is_told():
    """Those before a slow visitor leave while it is told its place; others behind it come and go."""

    async def run() -> list[int]:
        queue, told = VisitorQueue(1, 5), []
        first, second, slow, behind = (queue.join() for _ in range(4))
        async for place in queue.places(slow):
            told.append(place)
            if place == 2:
                queue.leave(behind)
                queue.leave(second)
            else:
                queue.leave(first)
        return told

    assert asyncio.run(asyncio.wait_for(run(), 5)) == [2, 1]

    async def wait() -> list[int]:
        queue, told = VisitorQueue(1, 5), []
        first, last = queue.join(), queue.join()

        async def follow() -> None:
            async for place in queue.places(last):
                told.append(place)

        following = asyncio.create_task(follow())
        for _ in range(3):
            queue.leave(queue.join())
            await asyncio.sleep(0.01)
        queue.leave(first)
        await following
        return told

    assert asyncio.run(asyncio.wait_for(wait(), 5)) == [1]
