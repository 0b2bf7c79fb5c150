"""A hub that hangs, disconnects or sends wrong files ends in an error with a remedy."""

import json
import time
from pathlib import Path

import pytest

from tests.http_server import Handler, Server, running
from tests.models.stub_hub import StubHub, fetch_with

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
WHOLE = {"config.json": CONFIG, "model.safetensors": b"w" * 1000, "tokenizer.json": b"{}"}
CHILD = """
import json, sys
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models import hub
from assistant_builder.models.catalog import resolve
from assistant_builder.models.fetch import fetch
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


def fetch(endpoint: str, home: Path, times: int = 1) -> list[dict[str, object]]:
    done = fetch_with(CHILD, str(times), home=home, endpoint=endpoint, HF_HUB_DOWNLOAD_TIMEOUT="1")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def flipped(path: str, data: bytes) -> bytes:
    return b"v" + data[1:] if path == "model.safetensors" else data


def garbled_config(path: str, data: bytes) -> bytes:
    return b"<" * len(data) if path == "config.json" else data


@pytest.mark.parametrize("spoil", [flipped, garbled_config])
def test_a_damaged_download_is_refused_and_repeated(home, spoil):
    with running(Spoiling(spoil, times=1)) as hub:
        first, second = fetch(hub.endpoint, home, 2)
    assert "was damaged during the download" in str(first["error"])
    assert "Run again" in str(first["error"])
    assert second["files"] == ["config.json", "model.safetensors", "tokenizer.json"]


def hang(path: str, data: bytes) -> bytes:
    if path == "model.safetensors":
        time.sleep(15)
    return data


@pytest.mark.long
def test_a_hanging_download_times_out(home):
    with running(Spoiling(hang)) as hub:
        began = time.monotonic()
        (found,) = fetch(hub.endpoint, home)
    assert "the model hub cannot be reached for me/whole (no data arrived for 2 seconds)" in str(
        found["error"]
    )
    assert "smollm2-135m-instruct" in str(found["error"]) and time.monotonic() - began < 120


def test_an_interrupted_download_is_refused(home):
    with running(
        Spoiling(lambda path, data: data[:100] if path == "model.safetensors" else data)
    ) as hub:
        (found,) = fetch(hub.endpoint, home)
    assert "error" in found
    assert not list((home / "hub").glob("hub/models--*/snapshots/*/model.safetensors"))


def test_a_web_page_instead_of_the_hub_is_reported(home):
    class Page(Handler):
        def do_GET(self) -> None:
            self.send(200, b"<html>Please log in to this network</html>")

        do_HEAD = do_GET

    with running(Server(Page)) as portal:
        (found,) = fetch(portal.endpoint, home)
    assert "the model hub cannot be reached for me/whole" in str(found["error"])
    assert "\n" not in str(found["error"])
