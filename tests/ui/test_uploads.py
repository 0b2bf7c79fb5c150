"""The limits of the upload route."""

import time
from types import SimpleNamespace
from typing import Any

import anyio
from starlette.requests import Request

from assistant_builder.ui.uploads import Uploads
from assistant_builder.web.upload_limits import Limits

BODY = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\nquestion\r\n--x--\r\n'


def test_uploads_at_a_time_are_counted_before_the_next_one_is_admitted(tmp_path, monkeypatch):
    uploads: Any = Uploads(tmp_path, Limits(stored_files=2), SimpleNamespace(upload_file_set=set()))
    has_space, statuses = uploads._has_space, []

    def slow(size: int) -> bool:
        found = bool(has_space(size))
        time.sleep(0.05)  # all others arrive meanwhile
        return found

    async def receive() -> dict[str, Any]:
        await anyio.sleep(0.1)
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def upload() -> None:
        headers = [
            (b"content-type", b"multipart/form-data; boundary=x"),
            (b"content-length", b"%d" % len(BODY)),
        ]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "headers": headers,
        }
        statuses.append((await uploads.answer(Request(scope, receive))).status_code)

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(upload)

    monkeypatch.setattr(uploads, "_has_space", slow)
    anyio.run(all_at_once)
    assert sorted(statuses) == [200, 200, 507, 507, 507, 507]
    assert len(list(tmp_path.iterdir())) == 2
