"""Visitors of the chat widget, for :mod:`benchmarks.widget_load`: what they ask, and what they get.

They come through a proxy, which names their addresses, and open a connection for each request.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import httpx

from benchmarks.scripted_worker import UNKNOWN, answer_to

ORIGIN = "https://shop.example"
KEY = secrets.token_hex(16)
"""Key of the endpoint, which the widget does not need."""
"""The website of the visitors."""
_TURNS = 5
"""Questions of a conversation at most; below the limit of an address."""
_MANNERS: dict[Manner, int] = {"read": 75, "stop": 10, "leave": 8, "slow": 7}  # in a hundred
_STOPPED = 3  # texts after which a visitor stops an answer
_NOTICED = 0.15  # seconds in which the server knows that a visitor has left
_VOTERS = 0.4  # share of the answers that are voted on
_THINKING = (0.2, 2.0)  # seconds between an answer and the next question
_READING = 1.5  # seconds for which a slow reader reads nothing
_PATIENCE = 300.0  # seconds without a byte after which an answer counts as lost

Manner = Literal["read", "stop", "glance", "leave", "slow"]
"""``stop``: leaves in the middle of the answer, ``glance``: at its first text, ``leave``: at the first event, be it a
place in the queue; ``slow``: pauses while reading."""


NOBODY = "nobody"
"""Who asks before there are visitors, so that the answers of a study are known."""


@dataclass
class Question:
    """A question and what came back.

    Attributes:
        conversation: What the visitor said, this question last.
        answers: The answers to the earlier ones.
        tab: The tab of the browser.
        address: The visitor's address.
        sent: When it was asked, of the monotonic clock.
        status: Of the response; 0 without one.
        retry: The header Retry-After.
        places: Numbers in the queue, as told.
        answer: The text so far.
        first_text: Seconds until the first text; None without text.
        ended: Whether the answer was complete.
        left: Whether the visitor closed the connection before.
        error: What went wrong.
    """

    conversation: Sequence[str]
    answers: Sequence[str] = ()
    tab: str = ""
    address: str = ""
    sent: float = 0.0
    status: int = 0
    retry: str | None = None
    places: list[int] = field(default_factory=list)
    answer: str = ""
    first_text: float | None = None
    ended: bool = False
    declined: bool = False
    left: bool = False
    error: str = ""
    id: str = ""
    vote: int | None = None
    suggestion: str = ""

    @property
    def text(self) -> str:
        """The question."""
        return self.conversation[-1]

    def messages(self) -> list[dict[str, str]]:
        """The conversation as the widget sends it."""
        turns = itertools.zip_longest(self.conversation, self.answers)
        return [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
            if content is not None
        ]


class Topic(Protocol):
    """What is asked."""

    several: bool  # whether a question may follow others

    def question(self) -> str:
        """The next question."""

    def pair(self) -> tuple[str, str]:
        """Two questions whose answers take as long."""

    def wrong(self, asked: Question) -> str:
        """What is wrong with a complete answer; empty if nothing is."""


class Scripted:
    """Questions to :mod:`benchmarks.scripted_worker`, each with a mark of its own."""

    several = True

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def question(self) -> str:
        """A question that nobody else asks; letters alone, since the log masks long numbers."""
        number = next(self._numbers)
        mark = "q" + "".join(chr(97 + int(digit)) for digit in str(number))
        return f"{mark} is all of it here and {UNKNOWN if number % 7 == 3 else 'known'} ?"

    def pair(self) -> tuple[str, str]:
        """Two questions."""
        return self.question(), self.question()

    def wrong(self, asked: Question) -> str:
        """The answer must be that of the script."""
        wanted = answer_to(asked.conversation)
        declined = UNKNOWN in asked.text.split()
        return (
            ""
            if (asked.answer, asked.declined) == (wanted, declined)
            else (f"{asked.conversation} got {asked.answer!r} instead of {wanted!r}")
        )


class Known:
    """Questions of a study, with the answers that the endpoint gave to each alone.

    Args:
        answers: Question → answer.
    """

    several = False

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers = answers
        self._next = itertools.cycle(answers)

    def question(self) -> str:
        """One of the questions."""
        return next(self._next)

    def pair(self) -> tuple[str, str]:
        """One question twice."""
        question = self.question()
        return question, question

    def wrong(self, asked: Question) -> str:
        """The answer must not be that to another question; its wording may depend on what is computed beside it."""
        own = self._answers[asked.text]
        foreign = next(
            (
                question
                for question, answer in self._answers.items()
                if answer == asked.answer and answer != own
            ),
            None,
        )
        return (
            ""
            if foreign is None and asked.answer
            else f"{asked.text!r} got the answer to {foreign!r}"
        )


@dataclass
class Site:
    """The website: its server, what is asked there, and all that was asked.

    Attributes:
        url: Address of the server.
        model: Name of the assistant at the endpoint.
        token: The site's public token.
        topic: What is asked.
        client: Sends the requests.
        asked: All questions, in the order in which they were sent.
        wrong: What went wrong besides answers.
        refused_votes: Votes with a status other than 204.
    """

    url: str
    model: str
    token: str
    topic: Topic
    client: httpx.AsyncClient
    asked: list[Question] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused_votes: int = 0

    def __post_init__(self) -> None:
        self._addresses = itertools.count(1)

    def address(self) -> str:
        """An address that no visitor has had."""
        number = next(self._addresses)
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    def new(
        self,
        conversation: Sequence[Question] = (),
        address: str = "",
        tab: str = "",
        text: str = "",
    ) -> Question:
        """A question after those of a conversation, not yet asked; without ``text`` the next one of the topic."""
        found = Question(
            [*(each.text for each in conversation), text or self.topic.question()],
            [each.answer for each in conversation],
            tab or secrets.token_hex(12),
            address or self.address(),
        )
        self.asked.append(found)
        return found

    async def ask(self, asked: Question, manner: Manner = "read") -> Question:
        """Ask, and read the events as the manner says."""
        began, events, texts = time.perf_counter(), 0, 0
        asked.sent = time.monotonic()
        body = {"site": self.token, "visitor": asked.tab, "messages": asked.messages()}
        try:
            async with self.client.stream(
                "POST",
                f"{self.url}/widget/ask",
                content=json.dumps(body),
                headers=self._headers(asked),
            ) as response:
                asked.status, asked.retry = (
                    response.status_code,
                    response.headers.get("retry-after"),
                )
                if response.status_code != 200:
                    asked.error = (await response.aread()).decode()
                    return asked
                async for event in _events(response):
                    self._take(asked, event, time.perf_counter() - began)
                    events, texts = events + 1, texts + ("text" in event)
                    if not asked.ended and (
                        manner == "leave" or texts == {"stop": _STOPPED, "glance": 1}.get(manner)
                    ):
                        asked.left = True
                        return asked
                    if manner == "slow" and events == 1:
                        await asyncio.sleep(_READING)
            if not asked.ended and not asked.error:
                asked.error = "the answer broke off"
        except httpx.HTTPError as error:
            asked.error = f"{type(error).__name__}: {error}"
        return asked

    def _take(self, asked: Question, event: dict[str, Any], seconds: float) -> None:
        if "place" in event:
            asked.places.append(event["place"])
            if asked.answer:
                self.wrong.append(f"{asked.text}: was told a place after its answer had begun")
        if "text" in event:
            asked.answer += event["text"]
            asked.first_text = asked.first_text if asked.first_text is not None else seconds
        if "error" in event:
            asked.error = str(event["error"])
        if event.get("end"):
            asked.ended, asked.declined, asked.id = True, event["declined"], event["id"]

    async def vote(self, asked: Question, vote: int, suggestion: str = "") -> None:
        """Vote on an answer; a suggestion is sent after the vote, as by the widget."""
        for part in ({"vote": vote}, {"suggestion": suggestion})[: 1 + bool(suggestion)]:
            body = {"site": self.token, "id": asked.id, **part}
            sent = await self.client.post(
                f"{self.url}/widget/feedback",
                content=json.dumps(body),
                headers=self._headers(asked),
            )
            if sent.status_code != 204:
                self.refused_votes += 1
                self.wrong.append(f"{asked.text}: its vote had status {sent.status_code}")
                return
        asked.vote, asked.suggestion = vote, suggestion

    async def complete(self, asked: Question, manner: Manner = "read") -> Question:
        """Ask at the endpoint instead, as a stream: ``read`` or ``glance``."""
        began = time.perf_counter()
        body = {
            "model": self.model,
            "messages": asked.messages(),
            "stream": True,
            "user": asked.tab,
        }
        async with self.client.stream(
            "POST",
            f"{self.url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {KEY}"},
        ) as response:
            asked.status = response.status_code
            async for event in _events(response):
                asked.id = event.get("id", asked.id)
                for choice in event.get("choices", ()):
                    text = choice["delta"].get("content", "")
                    if text and asked.first_text is None:
                        asked.first_text = time.perf_counter() - began
                    asked.answer += text
                    asked.ended = asked.ended or choice["finish_reason"] == "stop"
                asked.declined = asked.declined or event.get("assistant_builder", {}).get(
                    "declined", False
                )
                asked.error = asked.error or event.get("error", {}).get("message", "")
                if manner == "glance" and asked.answer and not asked.ended:
                    asked.left = True
                    return asked
        return asked

    def _headers(self, asked: Question) -> dict[str, str]:
        return {
            "origin": ORIGIN,
            "x-forwarded-for": asked.address,
            "content-type": "text/plain;charset=UTF-8",
        }


async def _events(response: httpx.Response) -> Any:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def visitors_client() -> httpx.AsyncClient:
    """A client without limits on connections and without connections that are kept, as a proxy has by default."""
    return httpx.AsyncClient(
        timeout=_PATIENCE, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
    )


async def visit(site: Site, number: int, until: float) -> None:
    """One visitor after another, until a time of the monotonic clock; ``number`` seeds what they do."""
    rng = random.Random(number)
    while time.monotonic() < until:
        address, tab = site.address(), secrets.token_hex(12)
        conversation: list[Question] = []
        for _ in range(rng.randint(1, _TURNS)):
            (manner,) = rng.choices(list(_MANNERS), list(_MANNERS.values()))
            asked = await site.ask(site.new(conversation, address, tab), manner)
            if asked.ended and rng.random() < _VOTERS:
                vote = rng.choice((1, -1))
                await site.vote(
                    asked,
                    vote,
                    f"It should say {asked.text}" if vote < 0 and rng.random() < 0.5 else "",
                )
            if asked.ended and site.topic.several:
                conversation.append(asked)
            pause = rng.uniform(*_THINKING) if asked.status != 429 else float(asked.retry or 1)
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
            if time.monotonic() >= until:
                return


async def ask_at_once(site: Site, count: int, address: str = "") -> list[Question]:
    """Questions at the same time, of one address or each of its own; all are read to the end."""
    return list(await asyncio.gather(*(site.ask(site.new(address=address)) for _ in range(count))))


async def ask_and_leave(site: Site, count: int) -> list[Question]:
    """Questions of one address, one after another; each is left at its first event."""
    address, found = site.address(), []
    for _ in range(count):
        found.append(await site.ask(site.new(address=address), "leave"))
        await asyncio.sleep(_NOTICED)
    return found


async def first_texts(site: Site, rounds: int) -> list[tuple[float, float]]:
    """Seconds until the first text through the widget and from the endpoint, for pairs of questions, one at a time.

    Each is left at its first text. Where one question is asked twice, it is asked once before, since models remember
    prompts.
    """
    found = []
    for number in range(rounds + 2):
        one, other = (site.new(text=text) for text in site.topic.pair())
        if one.text == other.text:
            await site.complete(site.new(text=one.text))
        for asked in (one, other)[:: 1 if number % 2 else -1]:
            await (site.ask(asked, "glance") if asked is one else site.complete(asked, "glance"))
            await asyncio.sleep(_NOTICED)
        if (
            number >= 2 and one.first_text is not None and other.first_text is not None
        ):  # the first two warm up
            found.append((one.first_text, other.first_text))
    return found
