"""A model hub on the loopback interface that speaks as much of the hub's protocol as a download needs."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = dict[str, bytes]


class StubHub(ThreadingHTTPServer):
    """Serves models from memory; a model whose files are None is gated."""

    daemon_threads = True

    def __init__(self, models: dict[str, Files | None]) -> None:
        self.models = models
        self.served: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def spoil(self, path: str, data: bytes) -> bytes:
        """What is sent in place of a file's bytes; tests of a hub that errs replace this."""
        return data

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StubHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:], body)
        else:
            self._file("/".join(parts[:2]), "/".join(parts[4:]), body)

    def _api(self, parts: list[str], body: bool) -> None:
        name = "/".join(parts[:2])
        if not name:
            return self._send(200, b"[]", body=body)
        if name not in self.server.models:
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        if len(parts) > 3 and parts[3] not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        files = self.server.models[name]
        if files is None:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        if parts[2:3] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": _hash(data)}
                for path, data in files.items()
            ]
            return self._send(200, json.dumps(tree).encode(), body=body)
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": _hash(data), **_lfs(path, data)}
            for path, data in files.items()
        ]
        info = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        self._send(200, json.dumps(info).encode(), body=body)

    def _file(self, name: str, path: str, body: bool) -> None:
        files = self.server.models.get(name) or {}
        if path not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        if body:
            self.server.served.append(path)
        named = _hash(files[path])
        data = self.server.spoil(path, files[path]) if body else files[path]
        self._send(200, data, {"ETag": f'"{named}"', "X-Repo-Commit": COMMIT}, body)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names it


def _lfs(path: str, data: bytes) -> dict[str, object]:
    """What the hub says besides of a large file."""
    if not path.endswith(".safetensors"):
        return {}
    return {
        "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    }
