"""Rate limit, sessions and size limits, with a fake clock."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from assistant_builder.errors import ConfigError
from assistant_builder.web.body_limit import BodyLimitMiddleware
from assistant_builder.web.connections import AlikeLines
from assistant_builder.web.passwords import (
    ALL_ATTEMPTS,
    FREE_ATTEMPTS,
    MAX_WAIT,
    RateLimiter,
    client_key,
)
from assistant_builder.web.request_limits import (
    COUNT_VARIABLE,
    SIZE_VARIABLE,
    Limits,
    TrustedProxies,
)
from assistant_builder.web.sessions import IDLE_SECONDS, MAX_SECONDS, Sessions, may_read


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(await Request(scope, receive).body())(scope, receive, send)


def post(uploads: Path, content: Any, path: str = "/gradio_api/run/predict") -> httpx.Response:
    app = BodyLimitMiddleware(echo, Limits(message_bytes=2000), uploads, "/gradio_api/upload")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost:1"
        ) as client:
            return await client.post(path, content=content)

    return asyncio.run(ask())


def file(path: str, url: str | None = None) -> dict[str, Any]:
    return {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}


def test_requests_may_name_uploaded_files(tmp_path):
    place = str(tmp_path / "upload-x" / "0" / "a b.csv")
    address = "http://localhost:1/gradio_api/file=" + place.replace(" ", "%20")
    body = json.dumps(
        {"data": [file(place, address), {"kept": [file(place)]}, {"path": "/etc/passwd"}]}
    )
    assert post(tmp_path, body).text == body


@pytest.mark.parametrize(
    "named",
    [
        file("/etc/passwd"),
        file("../secret"),
        file(""),
        file("{}/../secret"),
        file("{}/upload-x/../../secret"),
        file("http://evil.example/a.csv"),
        file("{}/a.csv", "http://evil.example/gradio_api/file={}/a.csv"),
        file("{}/a.csv", "file:///etc/passwd"),
        file("{}/a.csv", "http://localhost:1/gradio_api/file=/etc/passwd"),
        file("{}/a\0.csv"),
        file("{}/link/passwd"),
        file("{}/a.csv", "http://["),
    ],
)
@pytest.mark.parametrize("place", [lambda named: named, lambda named: {"talks": {"demo": [named]}}])
def test_requests_must_not_name_other_files(tmp_path, named, place):
    (tmp_path / "link").symlink_to("/etc")
    text = json.dumps({"data": [place(named)]}).replace("{}", str(tmp_path))
    answer = post(tmp_path, text)
    assert answer.status_code == 403 and "not uploaded here" in answer.text


@pytest.mark.parametrize(
    "path", ["", "relative", "/", "/proc/self/environ", "\0", "/" + "a" * 5000]
)
def test_paths_outside_the_upload_folder_are_not_uploads(tmp_path, path):
    assert not may_read(path, tmp_path, None)


def test_request_bodies_are_limited_and_passed_on_complete(tmp_path):
    async def pieces() -> Any:
        for _ in range(10):
            yield b" " * 500

    assert post(tmp_path, b" " * 2001).status_code == 413
    assert post(tmp_path, pieces()).status_code == 413
    assert post(tmp_path, b"{").status_code == 400
    assert post(tmp_path, b"[" * 1900).status_code == 400
    assert post(tmp_path, b"").status_code == 200
    assert post(tmp_path, b"x" * 5000, "/gradio_api/upload").status_code == 200, (
        "uploads have limits of their own"
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_wait_doubles_with_every_attempt():
    clock = Clock()
    throttle = RateLimiter(clock)
    assert [throttle.attempt("10.0.0.1") for _ in range(FREE_ATTEMPTS)] == [0.0] * FREE_ATTEMPTS
    waits = []
    for _ in range(14):
        waits.append(throttle.attempt("10.0.0.1"))
        clock.now += waits[-1]
        assert throttle.attempt("10.0.0.1") == 0.0
    assert waits[:4] == [2.0, 4.0, 8.0, 16.0] and waits[-1] == MAX_WAIT
    assert throttle.attempt("10.0.0.2") == 0.0, "others are not held up"
    throttle.succeeded("10.0.0.1")
    assert throttle.attempt("10.0.0.1") == 0.0 and throttle.failures("10.0.0.1") == 1


def test_a_day_of_guessing_allows_few_attempts():
    clock = Clock()
    throttle = RateLimiter(clock)
    tried = 0
    while clock.now < 1000 + 24 * 3600:
        wait = throttle.attempt("10.0.0.1")
        tried += wait == 0
        clock.now += wait
    assert tried < 120


def test_attempts_of_all_clients_together_are_limited():
    clock = Clock()
    throttle = RateLimiter(clock)
    tried = sum(
        throttle.attempt(f"10.0.{number // 250}.{number % 250}") == 0 for number in range(1000)
    )
    assert tried == ALL_ATTEMPTS
    clock.now += 100
    assert sum(throttle.attempt(f"10.1.0.{number}") == 0 for number in range(100)) == 10


def test_addresses_of_one_ipv6_network_count_as_one_client():
    assert (
        client_key("2001:db8::1") == client_key("2001:db8::ffff:2") != client_key("2001:db8:0:1::1")
    )
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1") == "10.0.0.1"
    assert client_key("fe80::1%eth0") == client_key("fe80::2") and client_key("") == ""


def client_of(
    *lines: str, proxy: str, peer: str = "127.0.0.1", scheme: str = ""
) -> tuple[str, str]:
    """Client and scheme of a request whose lines of X-Forwarded-For are these."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    headers += [(b"x-forwarded-proto", scheme.encode())] if scheme else []
    scope = {"client": (peer, 1), "headers": headers, "scheme": "http"}
    return TrustedProxies(proxy).client(scope), TrustedProxies(proxy).scheme(scope)


@pytest.mark.parametrize(
    ("lines", "proxy", "client"),
    [
        (["198.51.100.7"], "", "127.0.0.1"),
        (["198.51.100.7"], "10.0.0.1", "127.0.0.1"),
        (["198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7"], "127.0.0.1", "198.51.100.7"),  # as HAProxy appends it
        (["198.51.100.7", "2.2.2.2", "10.1.2.3"], "127.0.0.1, 10.0.0.0/8", "2.2.2.2"),
        (["10.9.9.9, 10.1.2.3"], "127.0.0.1,10.0.0.0/8", "10.9.9.9"),
        (["1.1.1.1, nonsense"], "127.0.0.1", "127.0.0.1"),
        (["1.1.1.1,"], "127.0.0.1", "127.0.0.1"),
        ([""], "127.0.0.1", "127.0.0.1"),
        (["nonsense, 10.1.2.3"], "127.0.0.1,10.0.0.0/8", "10.1.2.3"),
        (["1.1.1.1, 198.51.100.7:4711"], "127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, [2001:db8::1]:443"], "127.0.0.1", "2001:db8::1"),
        (["::ffff:198.51.100.7"], "::ffff:127.0.0.1", "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "*", "198.51.100.7"),
        (["2.2.2.2," * 20_000 + "198.51.100.7"], "127.0.0.1", "198.51.100.7"),
        (["127.0.0.1," * 20_000], "127.0.0.0/8", "127.0.0.1"),
        (["\xb9.1.1.1"], "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_client_is_what_the_nearest_trusted_proxy_saw(lines, proxy, client):
    assert client_of(*lines, proxy=proxy)[0] == client


def test_the_scheme_is_that_of_a_trusted_proxy():
    assert client_of(proxy="127.0.0.1", scheme="http, HTTPS")[1] == "https"
    assert (
        client_of(proxy="", scheme="https")[1]
        == client_of(proxy="127.0.0.1", scheme="javascript")[1]
        == "http"
    )


@pytest.mark.parametrize("proxy", ["nginx", "127.0.0.1, 10.0.0.0/99", "localhost", "127.0.0.1:80"])
def test_what_is_no_address_of_a_proxy_is_refused(proxy):
    with pytest.raises(ConfigError, match="neither an address nor a network"):
        TrustedProxies(proxy)


def test_alike_lines_of_the_log_are_limited():
    clock, written = Clock(), list[str]()
    alike, logger = AlikeLines(clock), logging.Logger("uvicorn.error")
    logger.addFilter(alike)
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())
    logger.addHandler(handler)
    for _ in range(1000):
        logger.warning("Invalid HTTP request received.")
        logger.warning("Unsupported upgrade request.")
    assert len(written) == 20 and "left out" in written[-1]
    clock.now += 61
    logger.warning("Invalid HTTP request received.")
    assert written[-1] == "Invalid HTTP request received."


def test_an_idle_session_expires():
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.create("ann")
    clock.now += IDLE_SECONDS - 1
    session = sessions.find(token)
    assert session is not None and session.user == "ann"
    sessions.touch(session)
    clock.now += IDLE_SECONDS - 1
    assert sessions.find(token) is session
    clock.now += 1
    assert sessions.find(token) is None


def test_an_active_session_expires_eventually():
    clock = Clock()
    sessions = Sessions(clock=clock)
    token = sessions.create("ann")
    for _ in range(int(MAX_SECONDS // 1000)):
        clock.now += 1000
        session = sessions.find(token)
        if session is not None:
            sessions.touch(session)
    assert clock.now - 1000 < MAX_SECONDS and sessions.find(token) is not None
    clock.now = 1000 + MAX_SECONDS
    assert sessions.find(token) is None


def test_tokens_are_long_random_and_stored_as_hashes():
    sessions = Sessions()
    tokens = {sessions.create("ann") for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43
    assert not any(token in repr(vars(sessions)) for token in tokens)
    for made_up in (None, "", "x", "\ud800", "a" * 10_000):
        assert sessions.find(made_up) is None


def test_ending_a_session_ends_its_open_responses():
    sessions = Sessions()
    token, other = sessions.create("ann"), sessions.create("ann")
    closed: list[str] = []
    for name in (token, other):
        session = sessions.find(name)
        assert session is not None
        session.open_responses.add(lambda name=name: closed.append(name))
    sessions.end(token)
    assert closed == [token] and sessions.find(token) is None and sessions.find(other) is not None


def test_the_oldest_of_too_many_sessions_is_dropped():
    clock = Clock()
    sessions = Sessions(clock=clock)
    first = sessions.create("ann")
    for _ in range(1000):
        clock.now += 1
        last = sessions.create("ann")
    assert sessions.find(first) is None and sessions.find(last) is not None


def test_limits_come_from_the_environment(monkeypatch):
    assert Limits.from_environment() == Limits()
    monkeypatch.setenv(SIZE_VARIABLE, "1.5 GB")
    monkeypatch.setenv(COUNT_VARIABLE, "7")
    limits = Limits.from_environment()
    assert limits.file_bytes == 1_500_000_000
    assert limits.stored_files == 7
    assert limits.stored_bytes == 6_000_000_000
    mistakes = (
        (SIZE_VARIABLE, "many"),
        (SIZE_VARIABLE, "0"),
        (COUNT_VARIABLE, "-1"),
        (COUNT_VARIABLE, "٣"),
    )
    for variable, wrong in mistakes:
        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=variable):
            patch.setenv(variable, wrong)
            Limits.from_environment()
