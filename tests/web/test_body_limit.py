"""Limits on the bodies of requests, the files that they may name, and the limits of uploads."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from assistant_builder.errors import ConfigError
from assistant_builder.web.body_limit import BodyLimitMiddleware
from assistant_builder.web.sessions import may_read
from assistant_builder.web.upload_limits import COUNT_VARIABLE, SIZE_VARIABLE, Limits


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
