"""Clients that hang up in the middle of a request or of its answer leave no traceback in the log."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.access.test_connections import KEY, serving_endpoint
from tests.browser.serving import App, guarded_app

PATHS = ["/login", "/logout", "/active", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel",
         "/gradio_api/reset", "/gradio_api/upload", "/pulse", "/"]  # fmt: skip
KINDS = ["application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=b"]
COMPLETIONS = "/v1/chat/completions"


def hang_up(url: str, method: str, path: str, headers: dict[str, str], body: bytes, *, answer: bool = False) -> None:
    """Send a request and close the connection; with ``answer`` once the answer has begun."""
    parts = urlsplit(url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{name}: {headers[name]}" for name in headers)]
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        if answer:
            assert raw.recv(100)
        else:
            time.sleep(0.05)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with guarded_app(tmp_path_factory.mktemp("page")) as app:
        yield app


def test_the_page_says_nothing_of_clients_that_hang_up(page: App) -> None:
    with page.logged_in() as client:
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        for path in PATHS:
            for kind in KINDS:
                for who in ({}, {"Cookie": cookie}):
                    if path == "/logout" and who:
                        continue  # needs no body: it ends the session
                    headers = {"Content-Type": kind, "Content-Length": "5000", **who}
                    hang_up(page.url, "POST", path, headers, b'--b\r\nContent-Disposition: form-data; name="files"')
        for stream in ("/gradio_api/heartbeat/gone", "/gradio_api/queue/data?session_hash=gone"):
            hang_up(page.url, "GET", stream, {"Cookie": cookie}, b"", answer=True)
        assert client.get("/config").status_code == 200
    time.sleep(1)
    said = page.log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]


def test_the_endpoint_says_nothing_of_clients_that_hang_up(tmp_path: Path) -> None:
    with serving_endpoint(tmp_path) as (url, log):
        key = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        for path in (COMPLETIONS, "/v1/models", "/health", "/"):
            for headers in (key, {}):
                hang_up(url, "POST", path, {**headers, "Content-Length": "5000"}, b'{"model": ')
        for stream in (True, False):
            turns = [{"role": "user", "content": "long talk"}]
            body = json.dumps({"model": "library", "messages": turns, "stream": stream}).encode()
            for answer in {stream, False}:
                hang_up(url, "POST", COMPLETIONS, {**key, "Content-Length": str(len(body))}, body, answer=answer)
        time.sleep(3)
        said = log.read_text(encoding="utf-8")
    assert "Traceback" not in said and "ERROR" not in said, said[-3000:]
