"""A model hub on the loopback interface that speaks as much of the hub's protocol as a download needs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.commands import ROOT
from tests.http_server import Handler, Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = dict[str, bytes]


class StubHub(Server):
    """Serves models from memory; a model whose files are None is gated."""

    def __init__(self, models: dict[str, Files | None]) -> None:
        self.models = models
        self.served: list[str] = []
        super().__init__(_Handler)

    def spoil(self, path: str, data: bytes) -> bytes:
        """What is sent in place of a file's bytes; tests of a hub that errs replace this."""
        return data


class _Handler(Handler):
    server: StubHub

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:])
        else:
            self._file("/".join(parts[:2]), "/".join(parts[4:]))

    do_HEAD = do_GET  # noqa: N815 - the name is that of the library

    def _api(self, parts: list[str]) -> None:
        name = "/".join(parts[:2])
        if not name:
            return self.send(200, [])
        if name not in self.server.models:
            return self.send(401, {}, {"X-Error-Code": "RepoNotFound"})
        if len(parts) > 3 and parts[3] not in ("main", COMMIT):
            return self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        files = self.server.models[name]
        if files is None:
            return self.send(403, {}, {"X-Error-Code": "GatedRepo"})
        if parts[2:3] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(data), "oid": _hash(data)}
                for path, data in files.items()
            ]
            return self.send(200, tree)
        siblings = [
            {"rfilename": path, "size": len(data), "blobId": _hash(data), **_lfs(path, data)}
            for path, data in files.items()
        ]
        info = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        self.send(200, info)

    def _file(self, name: str, path: str) -> None:
        files = self.server.models.get(name) or {}
        if path not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = files[path]
        if self.command == "GET":
            self.server.served.append(path)
            data = self.server.spoil(path, data)
        self.send(200, data, {"ETag": f'"{_hash(files[path])}"', "X-Repo-Commit": COMMIT})


def fetch_with(
    program: str, *words: str, home: Path, endpoint: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python whose hub is at an endpoint, and that knows nothing of the user's own hub."""
    names = ("HF_", "HUGGING", "TRANSFORMERS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    env |= {
        "HF_HOME": str(home / "hub"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def _hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # as git names it


def _lfs(path: str, data: bytes) -> dict[str, object]:
    """What the hub says besides of a large file."""
    if not path.endswith(".safetensors"):
        return {}
    return {
        "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    }
