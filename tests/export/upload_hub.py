"""A model hub on the loopback interface that speaks as much of the hub's protocol as an upload needs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class UploadHub(ThreadingHTTPServer):
    """Keeps repositories in memory; requests without the token of the owner ``me`` are refused."""

    daemon_threads = True

    def __init__(self, token: str) -> None:
        self.token = token
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.refuse_commit = 0  # HTTP status of a refusal
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: UploadHub

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub, sent = self.server, self.headers.get("Authorization", "")
        if sent != f"Bearer {hub.token}":
            return self._send(401, {"error": f"Invalid credentials: {sent}"})
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "me":
                return self._send(403, {"error": f"You may not write to {asked['organization']}"})
            status = 409 if repo in hub.private else 200
            hub.private.setdefault(repo, asked.get("private", asked.get("visibility") == "private"))
            return self._send(status, {"url": f"{hub.endpoint}/{repo}"})
        _, _, _, owner, name, *action = path.split("/")
        repo = f"{owner}/{name}"
        if repo not in hub.private:
            return self._send(
                404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
        if action[:1] == ["preupload"]:
            return self._send(
                200,
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                },
            )
        if action[:1] == ["commit"]:
            if hub.refuse_commit:
                return self._send(hub.refuse_commit, {"error": "the quota of me is used up"})
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files.setdefault(repo, {})[line["value"]["path"]] = base64.b64decode(
                        line["value"]["content"]
                    )
            return self._send(
                200, {"commitOid": COMMIT, "commitUrl": f"{hub.endpoint}/{repo}/commit/{COMMIT}"}
            )
        return self._send(
            200,
            {"_id": "1", "id": repo, "sha": COMMIT, "private": hub.private[repo], "siblings": []},
        )

    def _send(
        self, status: int, record: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(record).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def upload_hub(token: str) -> Iterator[UploadHub]:
    """A hub that runs within the block."""
    server = UploadHub(token)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
