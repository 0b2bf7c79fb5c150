"""A hub that hangs, disconnects or sends wrong files ends in an error with a remedy."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.models.stub_hub import StubHub

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
WHOLE = {"config.json": CONFIG, "model.safetensors": b"w" * 1000, "tokenizer.json": b"{}"}
CHILD = """
import json, sys
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models import hub
from assistant_builder.models.catalog import resolve
from assistant_builder.models.download import fetch
hub.STALLED_SECONDS = 2.0
for turn in range(int(sys.argv[1])):
    try:
        print(json.dumps({"files": sorted(path.name for path in fetch(resolve("me/whole")).iterdir())}), flush=True)
    except AssistantBuilderError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""


class Spoiling(StubHub):
    """Replaces the first responses to requests of files."""

    def __init__(self, spoil: object, times: int = 99) -> None:
        self._spoil, self._left = spoil, times
        super().__init__({"me/whole": dict(WHOLE)})

    def spoil(self, path: str, data: bytes) -> bytes:
        if self._left <= 0:
            return data
        spoilt: bytes = self._spoil(path, data)
        self._left -= spoilt != data
        return spoilt


@contextmanager
def serving(hub: StubHub) -> Iterator[str]:
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub.endpoint
    finally:
        hub.shutdown()
        hub.server_close()


def fetch(endpoint: str, home: Path, times: int = 1) -> list[dict[str, object]]:
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))
    }
    env |= {
        "HF_HOME": str(home / "hub"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(times)],
        capture_output=True,
        text=True,
        env=env,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def flipped(path: str, data: bytes) -> bytes:
    return b"v" + data[1:] if path == "model.safetensors" else data


def garbled_config(path: str, data: bytes) -> bytes:
    return b"<" * len(data) if path == "config.json" else data


@pytest.mark.parametrize("spoil", [flipped, garbled_config])
def test_a_damaged_download_is_refused_and_repeated(home, spoil):
    with serving(Spoiling(spoil, times=1)) as endpoint:
        first, second = fetch(endpoint, home, 2)
    assert "was damaged during the download" in str(first["error"])
    assert "Run again" in str(first["error"])
    assert second["files"] == ["config.json", "model.safetensors", "tokenizer.json"]


def hang(path: str, data: bytes) -> bytes:
    if path == "model.safetensors":
        time.sleep(15)
    return data


@pytest.mark.long
def test_a_hanging_download_times_out(home):
    with serving(Spoiling(hang)) as endpoint:
        began = time.monotonic()
        (found,) = fetch(endpoint, home)
    assert "the model hub cannot be reached for me/whole (no data arrived for 2 seconds)" in str(
        found["error"]
    )
    assert "smollm2-135m-instruct" in str(found["error"]) and time.monotonic() - began < 120


def test_an_interrupted_download_is_refused(home):
    with serving(
        Spoiling(lambda path, data: data[:100] if path == "model.safetensors" else data)
    ) as endpoint:
        (found,) = fetch(endpoint, home)
    assert "error" in found
    assert not list((home / "hub").glob("hub/models--*/snapshots/*/model.safetensors"))


def test_a_web_page_instead_of_the_hub_is_reported(home):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>Please log in to this network</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Suppress the request log."""

    portal = StubHub({})
    portal.RequestHandlerClass = Page
    with serving(portal) as endpoint:
        (found,) = fetch(endpoint, home)
    assert "the model hub cannot be reached for me/whole" in str(found["error"])
    assert "\n" not in str(found["error"])
