"""Requests of a size or a form that would stop the server: refused at once, with the name of the field."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from assistant_builder.chat.visitor_log import VisitorLog
from assistant_builder.serving.engine import StopSequenceFilter
from assistant_builder.serving.schemas import MAX_LABEL, MAX_MESSAGES, MAX_STOP, MAX_TEXT
from assistant_builder.web.connections import AlikeLines
from tests.serving.conftest import Served
from tests.serving.test_published import port_of, raw

HUGE = "x" * 900_000
QUESTION = {"role": "user", "content": "hello"}
PROMPT_SECONDS = 3.0
"""Computing time of client and server within which a request is refused."""


def post(served: Served, content: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    return httpx.post(
        f"{served.url}{path}",
        timeout=60,
        headers={"Content-Type": "application/json"},
        content=content if isinstance(content, bytes) else json.dumps(content),
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": HUGE}, "stop.0"),
        ({"stop": ["ab" * 400_000]}, "stop.0"),
        ({"stop": ["a"] * 200_000}, "stop"),
        ({"stop": ["x" * (MAX_STOP + 1)]}, "stop.0"),
        ({"stop": {"a": "b"}}, "stop"),
        ({"user": HUGE}, "user"),
        ({"user": "x" * (MAX_LABEL + 1)}, "user"),
        ({"model": HUGE}, "model"),
        ({"safety_identifier": HUGE}, "safety_identifier"),
        ({"prompt_cache_key": HUGE}, "prompt_cache_key"),
        ({"messages": [QUESTION] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [1] * 300_000}, "messages"),
        ({"messages": [{**QUESTION, "name": HUGE}]}, "messages.0.name"),
        ({"messages": [{**QUESTION, "content": "x" * (MAX_TEXT + 1)}]}, "messages.0.content"),
        ({"messages": [{**QUESTION, "content": "x" * (MAX_TEXT // 2)}] * 3}, None),
        (
            {"messages": [{**QUESTION, "content": [{"type": "text", "text": ""}] * 60_000}]},
            "messages.0.content",
        ),
        ({"messages": [{**QUESTION, "content": [{"type": HUGE}]}]}, "messages.0.content"),
        ({"messages": [{**QUESTION, "annotations": [0] * 300_000}]}, "messages.0.annotations"),
        ({"messages": [{**QUESTION, "role": HUGE}]}, "messages.0.role"),
        ({"metadata": {str(number): "" for number in range(100_000)}}, "metadata"),
        ({"metadata": {"a": HUGE}}, "metadata.a"),
        ({"metadata": {"a": {"b": HUGE}}}, "metadata.a"),
        ({"logit_bias": {str(number): 1 for number in range(200_000)}}, "logit_bias"),
        ({"tools": [{}] * 300_000}, "tools"),
        ({f"field{number}": 1 for number in range(200_000)}, None),
        ({HUGE: 1}, "x" * 50),
        ({"seed": 2**63}, "seed"),
        ({"seed": -(10**300)}, "seed"),
        ({"n": 10**300}, "n"),
        ({"max_tokens": 10**300}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"presence_penalty": float("-inf")}, "presence_penalty"),
        ({"stream_options": {f"field{number}": 1 for number in range(100_000)}}, "stream_options"),
        ({"response_format": {"type": HUGE}}, "response_format.type"),
        ({"modalities": ["text"] * 300_000}, "modalities"),
    ],
)
def test_a_field_that_is_too_large_is_named_at_once(served, fields, param):
    content = json.dumps({"model": "library-lora", "messages": [QUESTION], **fields}).encode()
    began = time.process_time()
    refused = post(served, content)
    assert time.process_time() - began < PROMPT_SECONDS
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["type"] == "invalid_request_error", error
    assert error["param"] == param and len(refused.content) < 2_000, error


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["x" * MAX_STOP] * 4},
        {"user": "x" * MAX_LABEL},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"metadata": {str(number): "x" * 512 for number in range(16)}},
        {"temperature": 2, "top_p": 1},
        {"max_tokens": 2**31 - 1},
        {"n": 1},
    ],
)
def test_the_largest_values_are_answered(served, fields):
    assert served.ask(**fields).status_code == 200


def test_stops_of_the_largest_size_cost_little():
    stops, began, text = (
        StopSequenceFilter(["a" * (MAX_STOP - 1) + end for end in "bcde"]),
        time.process_time(),
        "",
    )
    for _ in range(1_000):
        text += "a"
        stops.feed(text, last=False)
    assert time.process_time() - began < PROMPT_SECONDS


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 2_000_000,
        b'{"a":' * 700_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"9" * 3_000_000,
        b'{"seed": ' + b"9" * 4000 + b"}",
        b'{"temperature": 1e' + b"9" * 1000 + b"}",
        b"NaN",
        b"-Infinity",
        b'{"model": NaN, "messages": Infinity}',
        b'"' + b"\\ud800" * 500_000 + b'"',
        b"\xff\xfe" * 1000,
        b"\x00" * 1000,
        b"[" + b"{}," * 900_000 + b"{}]",
        b" " * 3_000_000,
        b'{"model": "a", ' * 2,
    ],
    ids=lambda content: content[:12].hex(),
)
def test_odd_documents_are_refused_at_once(served, content):
    for path in ("/v1/chat/completions", "/v1/feedback"):
        began = time.process_time()
        refused = post(served, content, path)
        assert refused.status_code == 400 and len(refused.content) < 2_000, refused.text[:500]
        assert time.process_time() - began < PROMPT_SECONDS


def test_others_are_answered_while_one_sends_large_fields(served):
    """The attack that stopped the endpoint: a stop text of 0.9 MB, now again and again."""
    over = threading.Event()

    def attack() -> None:
        while not over.is_set():
            post(
                served,
                {"model": "library-lora", "messages": [QUESTION], "stop": HUGE, "user": HUGE},
            )

    with ThreadPoolExecutor() as pool:
        attacks = [pool.submit(attack) for _ in range(3)]
        try:
            for _ in range(5):
                assert served.ask().status_code == 200  # within a minute
        finally:
            over.set()
        for each in attacks:
            each.result()


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked",
        "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c",
        "GET /v1/models HTTP/2.0\r\nHost: localhost",
        "GET /v1/models HTTP/0.9",
        "GET  /v1/models HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /v1/models HTTP/1.1\r\nHost : localhost",
        "GET /v1/models HTTP/1.1\r\nX: \x00\r\nHost: localhost",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost",
        "TRACE / HTTP/1.1\r\nHost: localhost",
        "GET /v1/models/" + "x" * 60_000 + " HTTP/1.1\r\nHost: localhost",
        "GET /v1/models HTTP/1.1\r\nHost: localhost" + "\r\nX: y" * 12_000,
    ],
)
def test_odd_requests_of_http_do_no_harm(served, head):
    status, content = raw(port_of(served.url), f"{head}\r\nConnection: close", b"zz\r\n0\r\n\r\n")
    assert status < 500 and len(content) < 100_000
    assert served.ask().status_code == 200


@pytest.mark.parametrize("size", [b"FFFFFFFFFFFFFFFF", b"-5", b"0x10", b"7fffffff"])
def test_chunks_that_lie_end_the_connection(served, size):
    with socket.create_connection(("127.0.0.1", port_of(served.url)), timeout=3) as connection:
        connection.sendall(
            b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + size
            + b"\r\n"
            + b"x" * 1000
        )
        time.sleep(0.1)
    assert served.ask().status_code == 200


def test_many_small_streams_that_nobody_reads_leave_the_server_usable(served):
    body = json.dumps({"model": "library-lora", "messages": [QUESTION], "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    connections = [socket.create_connection(("127.0.0.1", port_of(served.url))) for _ in range(60)]
    for connection in connections:
        connection.sendall(head + body)
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 30
    while served.ask().status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_client_does_not_fill_the_log_of_the_server(served, capfd, monkeypatch):
    monkeypatch.setattr("assistant_builder.web.connections._alike_lines", AlikeLines())
    for _ in range(30):
        raw(port_of(served.url), "GET\r\nX")
        raw(
            port_of(served.url),
            "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\n"
            "Upgrade: websocket",
        )
    assert len(capfd.readouterr().err) < 4_000


def test_a_user_of_the_api_fills_no_log(tmp_path, monkeypatch, serve):
    log = VisitorLog(tmp_path / "visitors.db", "texts", 90)
    monkeypatch.setattr(
        "assistant_builder.serving.app.open_logs", lambda models, config: {"library-lora": log}
    )
    served = serve()
    for _ in range(10):
        assert (
            post(
                served, {"model": "library-lora", "messages": [QUESTION], "user": HUGE}
            ).status_code
            == 400
        )
    assert served.ask(user="x" * MAX_LABEL).status_code == 200
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 200_000
