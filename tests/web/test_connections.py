"""Limits on connections with an incomplete header, body or handshake, against real servers.

Clients that disconnect during a request or its response leave no traceback in the log.
"""

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from assistant_builder.web.access import listen
from assistant_builder.web.connections import (
    AlikeLines,
    ConnectionLimits,
    limited_config,
    mark_trusted,
)
from tests.browser.serving import (
    PASSWORD,
    PATIENCE_SECONDS,
    ROOT,
    USER,
    App,
    free_port,
    guarded_app,
)
from tests.browser.test_https import make_pem
from tests.web.conftest import Clock

HALF_HEADER = b"GET /login HTTP/1.1\r\nHost: localhost\r\nX-Wait: "
HALF_LOGIN = (
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 100\r\n\r\nusername=a"
)
MANY = 600
PROMPT_SECONDS = 2.0
"""Within which someone who may ask is answered while others hold connections."""
KEY = "k" * 24


@contextlib.contextmanager
def held(url: str, sent: Sequence[bytes]) -> Iterator[list[socket.socket]]:
    """A connection for each of some beginnings of requests, all of them left open."""
    parts = urlsplit(url)
    connections: list[socket.socket] = []
    try:
        for beginning in sent:
            connections.append(socket.create_connection((parts.hostname, parts.port), timeout=20))
            with contextlib.suppress(OSError):
                connections[-1].sendall(beginning)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closed a connection, possibly after an answer."""
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return True
        except OSError:
            return True
    return False


def whole_response(connection: socket.socket) -> bytes:
    """What arrives until the other side closes; head and body may come in separate pieces."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def all_close(connections: Sequence[socket.socket], seconds: float) -> bool:
    """Whether the other side closes all connections within a time."""
    deadline = time.monotonic() + seconds
    while not all(is_closed(connection) for connection in connections):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded_app(tmp_path_factory.mktemp("page")) as app:
        yield app


@pytest.mark.long
@pytest.mark.parametrize("path", ["/login", "/active"])
def test_the_connection_of_a_login_is_trusted(page, path):
    app = page
    with app.logged_in() as inside:
        cookie = "; ".join(f"{name}={value}" for name, value in inside.cookies.items())
        parts = urlsplit(app.url)
        user = HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        form = f"username={USER}&password={PASSWORD}" if path == "/login" else ""
        user.request(
            "POST",
            path,
            form,
            {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"},
        )
        response = user.getresponse()
        assert response.status in (200, 204)
        response.read()
        with held(app.url, [HALF_HEADER] * 70) as attack:
            while not is_closed(attack[0]):
                time.sleep(0.02)
            assert user.sock is not None and not is_closed(user.sock)
        user.close()


@pytest.mark.parametrize(
    "beginning", [HALF_HEADER, HALF_LOGIN, b""], ids=["header", "body", "nothing"]
)
@pytest.mark.slow
def test_idle_connections_do_not_lock_out_logged_in_users(tmp_path, beginning):
    with guarded_app(tmp_path) as app, app.logged_in() as inside:
        with held(app.url, [beginning] * MANY) as attack:
            began = time.monotonic()
            with app.client(
                cookies=inside.cookies
            ) as user:  # a new connection: uvicorn closes idle ones after 5 s
                assert user.get("/config").status_code == 200
            with app.logged_in() as another:
                assert another.get("/pulse").status_code == 200
            assert time.monotonic() - began < 2 * PROMPT_SECONDS
            assert all_close(attack, 60)
        assert inside.get("/config").status_code == 200
    assert "Traceback" not in app.log.read_text(encoding="utf-8")


SERVE = """
import sys
from pathlib import Path
from assistant_builder.config.serving import ServingConfig
from assistant_builder.chat.client import ChatWorker
from assistant_builder.serving import local
from tests.chat.fake_worker import parrot_command
from tests.serving.conftest import limits, models

folder = Path(sys.argv[1])
served = models(folder)
local.prompt_limits = lambda models, context: dict.fromkeys(models.ids, limits())
local.start_worker = lambda models: ChatWorker(parrot_command(folder))
local.serve_locally(served, ServingConfig(port=int(sys.argv[2]), proxy=sys.argv[4]), sys.argv[3])
"""
"""``assistant-builder serve`` with assistants that need no model."""


@contextlib.contextmanager
def serving_endpoint(folder: Path, proxy: str = "") -> Iterator[tuple[str, Path]]:
    """The endpoint in a process of its own: its address and its log."""
    port, log = free_port(), folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder), str(port), KEY, proxy],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (
        b"(Ctrl-C ends it)" not in log.read_bytes()
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_endpoint(tmp_path_factory.mktemp("endpoint")) as (url, log):
        yield url
    assert "Traceback" not in log.read_text(encoding="utf-8")


HALF_POST = b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
"""The one path that asks for no key."""


@pytest.mark.parametrize(
    "beginning", [HALF_HEADER, HALF_POST, b""], ids=["header", "body", "nothing"]
)
@pytest.mark.slow
def test_idle_connections_do_not_lock_out_clients_with_a_key(endpoint, beginning):
    with held(endpoint, [beginning] * MANY) as attack:
        began = time.monotonic()
        answer = httpx.get(
            f"{endpoint}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )
        assert answer.status_code == 200 and time.monotonic() - began < PROMPT_SECONDS
        assert all_close(attack, 60)


@pytest.mark.parametrize(("proxy", "closed"), [("127.0.0.1", 0), ("", 36)])
def test_visitors_behind_the_proxy_of_the_endpoint_are_not_one_client(tmp_path, proxy, closed):
    with (
        serving_endpoint(tmp_path, proxy) as (url, _),
        held(url, [HALF_HEADER] * 100) as connections,
    ):
        time.sleep(0.5)
        assert sum(is_closed(connection) for connection in connections) == closed


# with limits of the tests' own


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """``/in``: lets the request in, and reads its body; ``/much``: an answer of 16 MB."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    if scope["path"] == "/in":
        mark_trusted(scope)
    more, size = scope["path"] != "/much", 0
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more, size = message.get("more_body", False), size + len(message.get("body", b""))
    pieces = [b"x" * 65536] * 256 if scope["path"] == "/much" else [str(size).encode()]
    length = str(sum(map(len, pieces))).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def limited(
    proxy: str = "", *, options: dict[str, Any] | None = None, **limits: Any
) -> Iterator[str]:
    """A server of :func:`app` whose limits are short."""
    short: dict[str, Any] = {
        "header_seconds": 1.5,
        "body_seconds": 1.5,
        "body_bytes_per_second": 100,
        "stalled_seconds": 2.0,
        "waiting_per_client": 5,
        "waiting": 8,
    }
    listener = listen("127.0.0.1", 0)
    config = limited_config(
        app,
        listener,
        proxy=proxy,
        limits=ConnectionLimits(**{**short, **limits}),
        lifespan="on",
        log_level="warning",
        timeout_graceful_shutdown=1,
        **(options or {}),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    scheme = "https" if options and "ssl_certfile" in options else "http"
    try:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def dribble(connection: socket.socket, piece: bytes, seconds: float, pause: float = 0.2) -> float:
    """Send a piece again and again; the seconds after which the other side closed, at most those given."""
    began = time.monotonic()
    while time.monotonic() - began < seconds and not is_closed(connection):
        with contextlib.suppress(OSError):
            connection.sendall(piece)
        time.sleep(pause)
    return time.monotonic() - began


def test_slow_headers_are_closed_also_after_a_first_request():
    with (
        limited() as url,
        held(url, [b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n", b"GET / HTTP"]) as both,
    ):
        for connection in both:
            assert dribble(connection, b"X-A: b\r\n", 15) < 15


def test_bodies_below_the_minimum_rate_are_closed():
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\nConnection: close\r\n\r\n"
    with limited() as url, held(url, [head, head]) as (slow, steady):
        for _ in range(9):  # 250 bytes a second, over three intervals
            steady.sendall(b"x" * 100)
            with contextlib.suppress(OSError):
                slow.sendall(b"x" * 2)
            time.sleep(0.4)
        assert is_closed(slow)
        assert whole_response(steady).endswith(b"900")


def test_an_endless_header_is_closed():
    with (
        limited(header_seconds=60.0, header_bytes=10_000) as url,
        held(url, [b"GET / HTTP/1.1\r\n"]) as (endless,),
    ):
        assert dribble(endless, b"X-A: " + b"b" * 1000 + b"\r\n", 20, pause=0) < 20


@pytest.mark.long
def test_a_response_that_is_not_read_is_closed():
    with limited() as url, held(url, [b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n"]) as (deaf,):
        time.sleep(8)
        received = b""
        with contextlib.suppress(OSError):
            while piece := deaf.recv(2**20):
                received += piece
        assert 0 < len(received) < 256 * 65536


def test_the_longest_waiting_untrusted_connection_of_a_client_is_closed():
    upload = b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    patient = {"header_seconds": 60.0, "body_seconds": 60.0}
    with limited(**patient) as url, held(url, [upload]) as (inside,):
        time.sleep(0.3)
        with held(url, [HALF_HEADER] * 8) as attack:
            time.sleep(0.5)
            assert [is_closed(connection) for connection in attack] == [True] * 3 + [False] * 5
            assert httpx.get(f"{url}/").status_code == 200, (
                "who sends a complete request is answered"
            )
        inside.sendall(b"abcd")
        assert whole_response(inside).endswith(b"4")


@pytest.mark.parametrize(
    ("proxy", "left"), [("127.0.0.1", 8), ("127.0.0.0/8", 8), ("*", 8), ("127.0.0.2", 5)]
)
def test_the_limit_per_client_does_not_apply_to_a_proxy(proxy, left):
    with limited(proxy, header_seconds=60.0) as url, held(url, [HALF_HEADER] * 12) as connections:
        time.sleep(0.5)
        assert sum(not is_closed(connection) for connection in connections) == left


def test_the_client_with_the_most_connections_loses_one_at_the_total_limit():
    """Other addresses of the loopback stand for other clients."""
    with limited(header_seconds=60.0, waiting=6) as url, held(url, [HALF_HEADER] * 2) as few:
        parts = urlsplit(url)
        many = [
            socket.create_connection(
                (parts.hostname, parts.port or 0), source_address=("127.0.0.3", 0)
            )
            for _ in range(5)
        ]
        time.sleep(0.5)
        assert not any(is_closed(connection) for connection in few)
        assert [is_closed(connection) for connection in many] == [True, False, False, False, False]
        for connection in many:
            connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = make_pem(tmp_path_factory.mktemp("certificate"))
    return {"ssl_certfile": file, "ssl_keyfile": file}


def test_unfinished_handshakes_are_counted_and_closed(certificate):
    with limited(options=certificate) as url, held(url, [b"\x16\x03\x01"] * 8) as attack:
        time.sleep(0.3)
        assert sum(is_closed(connection) for connection in attack) == 3
        context = ssl.create_default_context(cafile=str(certificate["ssl_certfile"]))
        with httpx.Client(verify=context) as client:
            assert client.get(f"{url}/").status_code == 200
            assert client.post(f"{url}/in", content=b"x" * 200_000).text == "200000"
        assert all_close(attack, 20)


def test_a_request_sent_with_the_end_of_the_handshake_is_answered(certificate):
    context = ssl.create_default_context(cafile=str(certificate["ssl_certfile"]))
    with limited(options=certificate, waiting_per_client=64, waiting=64) as url:
        parts = urlsplit(url)
        for _ in range(30):
            with socket.create_connection((parts.hostname, parts.port or 0), timeout=20) as raw:
                into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
                side = context.wrap_bio(into, out, server_hostname="127.0.0.1")
                while True:
                    try:
                        side.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        raw.sendall(out.read())
                        into.write(raw.recv(65536))
                side.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                # the last message of the handshake and the request in one piece
                raw.sendall(out.read())
                answer = b""
                while b"\r\n\r\n" not in answer:
                    into.write(raw.recv(65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        answer += side.read(65536)
                assert answer.startswith(b"HTTP/1.1 200")


def test_non_tls_connections_cause_no_traceback(certificate, capfd):
    with (
        limited(options=certificate) as url,
        held(url, [b"GET / HTTP/1.1\r\n\r\n", b""]) as (plain, gone),
    ):
        gone.close()
        assert all_close([plain], 20)
        time.sleep(0.3)
    assert "Traceback" not in capfd.readouterr().err


PATHS = """
    /login /logout /active /gradio_api/queue/join /gradio_api/run/predict /gradio_api/cancel
    /gradio_api/reset /gradio_api/upload /pulse /
""".split()
KINDS = ["application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=b"]
COMPLETIONS = "/v1/chat/completions"


def hang_up(
    url: str, method: str, path: str, headers: dict[str, str], body: bytes, *, answer: bool = False
) -> None:
    """Send a request and close the connection; with ``answer`` once the answer has begun."""
    parts = urlsplit(url)
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {headers[name]}" for name in headers),
    ]
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        if answer:
            assert raw.recv(100)
        else:
            time.sleep(0.05)


@pytest.mark.long
def test_disconnecting_clients_of_the_page_cause_no_traceback(page):
    with page.logged_in() as client:
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        for path in PATHS:
            for kind in KINDS:
                for who in ({}, {"Cookie": cookie}):
                    if path == "/logout" and who:
                        continue  # needs no body: it ends the session
                    headers = {"Content-Type": kind, "Content-Length": "5000", **who}
                    hang_up(
                        page.url,
                        "POST",
                        path,
                        headers,
                        b'--b\r\nContent-Disposition: form-data; name="files"',
                    )
        for stream in ("/gradio_api/heartbeat/gone", "/gradio_api/queue/data?session_hash=gone"):
            hang_up(page.url, "GET", stream, {"Cookie": cookie}, b"", answer=True)
        assert client.get("/config").status_code == 200
    time.sleep(1)
    said = page.log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]


def test_disconnecting_clients_of_the_endpoint_cause_no_traceback(tmp_path):
    with serving_endpoint(tmp_path) as (url, log):
        key = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        for path in (COMPLETIONS, "/v1/models", "/health", "/"):
            for headers in (key, {}):
                hang_up(url, "POST", path, {**headers, "Content-Length": "5000"}, b'{"model": ')
        for stream in (True, False):
            turns = [{"role": "user", "content": "long talk"}]
            body = json.dumps({"model": "library", "messages": turns, "stream": stream}).encode()
            for answer in {stream, False}:
                hang_up(
                    url,
                    "POST",
                    COMPLETIONS,
                    {**key, "Content-Length": str(len(body))},
                    body,
                    answer=answer,
                )
        time.sleep(3)
        said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]


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
    # requests that wait when the server ends
    logger.error("Exception in ASGI application", exc_info=asyncio.CancelledError())
    assert written[-1] == "Invalid HTTP request received."
