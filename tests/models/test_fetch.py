"""Models from a hub: downloaded once, used offline, and refused in one line when they cannot be had.

Each fetch runs in a process of its own, because the hub's client reads its settings when it is imported.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import python
from tests.http_server import running
from tests.models.stub_hub import StubHub, fetch_with

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
WHOLE = {
    "config.json": CONFIG,
    "model.safetensors": b"w" * 1000,
    "tokenizer.json": b"{}",
    "README.md": b"no part of the model",
    "pytorch_model.bin": b"pickle",
    "modeling_own.py": b"code",
    "consolidated.safetensors": b"the same weights again",
    "onnx/model.onnx": b"other format",
    "onnx/config.json": b"{}",
}
EMBEDDER = {
    **WHOLE,
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
    "2_Dense/model.safetensors": b"dense",
    "2_Dense/pytorch_model.bin": b"pickle",
    "openvino/openvino_model.bin": b"other format",
    "vocab.txt": b"a",
    "0_own/modeling_own.py": b"code",
    "nested/1_Pooling/config.json": b"{}",
    "train.csv": b"data",
}
OWN = {
    **WHOLE,
    "config.json": CONFIG.replace(
        b'"llama"', b'"newest", "auto_map": {"AutoModel": "modeling_own.M"}'
    ),
}
CHILD = """
import json, sys
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.catalog import resolve
from assistant_builder.models.fetch import fetch
options = json.loads(sys.argv[2])
told = []
try:
    folder = fetch(resolve(sys.argv[1]), report=lambda *step: told.append(step), **options)
    found = {"files": sorted(path.name for path in folder.iterdir())}
except AssistantBuilderError as error:
    found = {"error": str(error), "type": type(error).__name__}
print(json.dumps({**found, "told": told[-1:], "torch": "torch" in sys.modules}, default=str))
"""


@pytest.fixture
def hub() -> Iterator[StubHub]:
    models = StubHub(
        {
            "me/whole": WHOLE,
            "me/pickled": {"config.json": CONFIG, "pytorch_model.bin": b""},
            "me/gated": None,
            "me/own": OWN,
            "me/embedder": EMBEDDER,
        }
    )
    with running(models) as server:
        yield server


def fetch(
    base: str,
    home: Path,
    endpoint: str,
    *,
    offline: bool = False,
    program: str = CHILD,
    **options: object,
) -> dict[str, object]:
    done = fetch_with(
        program,
        base,
        json.dumps(options),
        home=home,
        endpoint=endpoint,
        HF_HUB_OFFLINE=str(int(offline)),
        ASSISTANT_BUILDER_WHEELS="",
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_downloaded_once_then_used_without_the_hub(home, hub):
    first = fetch("me/whole", home, hub.endpoint)
    assert first["files"] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert first["torch"] is False
    assert sorted(hub.served) == ["config.json", "model.safetensors", "tokenizer.json"]
    hub.served.clear()
    assert fetch("me/whole", home, hub.endpoint)["files"] == first["files"]
    assert fetch("me/whole", home, "http://127.0.0.1:9", offline=True)["files"] == first["files"]
    assert hub.served == []
    # what the cache holds is named where something else cannot be had
    assert "me/whole" in fetch("me/other", home, "http://127.0.0.1:9", offline=True)["error"]


EMBEDDER_CHILD = """
import json, sys
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models.fetch import needs_embedder_download
from assistant_builder.models.embedding import Embedder
told, before = [], needs_embedder_download(sys.argv[1])
try:
    folder = Embedder.download(sys.argv[1], lambda *step: told.append(step[2]))
    found = {"files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())}
except AssistantBuilderError as error:
    found = {"error": str(error), "type": type(error).__name__}
found |= {"told": told[-1:], "before": before, "after": needs_embedder_download(sys.argv[1])}
print(json.dumps(found, default=str))
"""


def test_an_embedder_is_announced_and_only_its_weights_are_downloaded(home, hub):
    first = fetch("me/embedder", home, hub.endpoint, program=EMBEDDER_CHILD)
    wanted = """
        1_Pooling/config.json 2_Dense/model.safetensors config.json consolidated.safetensors
        model.safetensors modules.json tokenizer.json vocab.txt
    """.split()
    assert first["files"] == wanted and set(hub.served) <= set(wanted)
    assert (first["before"], first["after"]) == (True, False)
    assert first["told"] == ["Downloading me/embedder"]
    hub.served.clear()
    again = fetch("me/embedder", home, "http://127.0.0.1:9", offline=True, program=EMBEDDER_CHILD)
    assert again["files"] == wanted and again["before"] is False and hub.served == []
    for name, said in (
        ("me/pickled", "no safetensors"),
        ("me/gated", "is gated"),
        ("me/nothing", "there is no model"),
        ("../no folder", "retrieval.embedder"),
        ("a/b/c", "retrieval.embedder"),
    ):
        refused = fetch(name, home, hub.endpoint, program=EMBEDDER_CHILD)
        assert said in str(refused["error"]) and "retrieval.embedder" in str(refused["error"]), (
            refused
        )
        assert "\n" not in str(refused["error"]) and refused["type"] == "ModelError"


def test_interrupted_download_is_completed(home, hub):
    fetch("me/whole", home, hub.endpoint)
    weights = next((home / "hub").glob("hub/models--me--whole/snapshots/*/model.safetensors"))
    weights.unlink()
    assert "model.safetensors" in fetch("me/whole", home, hub.endpoint)["files"]


@pytest.mark.parametrize(
    ("base", "options", "said"),
    [
        ("me/nothing", {}, "there is no model me/nothing on the hub"),
        ("me/gated", {}, "me/gated is gated"),
        ("me/pickled", {}, "me/pickled has no safetensors weights"),
        ("me/whole", {"revision": "v9"}, "me/whole has no revision 'v9'"),
        ("me/own", {}, "needs its own Python code"),
        ("smollm2-135m-instruct", {"revision": "main"}, "has no revisions"),
    ],
)
def test_refusals_are_one_line_with_a_remedy(home, hub, base, options, said):
    found = fetch(base, home, hub.endpoint, **options)
    assert found["type"] == "ModelError"
    assert said in found["error"]
    assert "\n" not in found["error"]
    if base in ("me/nothing", "me/gated"):
        assert "smollm2-135m-instruct" in found["error"]


def test_own_code_is_fetched_once_it_is_allowed(home, hub, monkeypatch):
    assert "needs its own Python code" in str(fetch("me/own", home, hub.endpoint)["error"])
    assert "modeling_own.py" in str(
        fetch("me/own", home, hub.endpoint, trust_remote_code=True)["files"]
    )
    # and what a run was refused for is known to the page, which asks no network
    code = (
        "from assistant_builder.config import ModelConfig\n"
        "from assistant_builder.models.remote_code import code_needing_permission\n"
        "bases = 'me/own', 'me/whole', '/no/where', 'qwen3-8b'\n"
        "print(*[code_needing_permission(ModelConfig(base=base)) for base in bases])"
    )
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    done = python("-c", code)
    assert done.stdout.split() == ["me/own", "None", "None", "None"]


def test_no_hub_in_reach_says_so_soon(home):
    start = time.monotonic()
    found = fetch("me/whole", home, "http://127.0.0.1:9")
    assert "the model hub cannot be reached for me/whole" in found["error"]
    assert "smollm2-135m-instruct" in found["error"]
    assert time.monotonic() - start < 15


def test_a_hub_that_never_answers_is_given_up(home):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        found = fetch("me/whole", home, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "the model hub cannot be reached" in found["error"]
    assert time.monotonic() - start < 15


def test_offline_by_wish(home):
    found = fetch("me/whole", home, "http://127.0.0.1:9", offline=True)
    assert "HF_HUB_OFFLINE is set" in found["error"]
