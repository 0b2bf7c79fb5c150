"""The product sends no telemetry and works without a network."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from assistant_builder import TELEMETRY_SWITCHES as SWITCHES

ROOT = Path(__file__).parents[1]
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"
GUARD = """
import json, os, socket, sys
asked = []
def refuse(what, *more, **named):
    asked.append(str(what))
    raise OSError("the network is cut")
def guard(call):
    def guarded(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            refuse(address)
        return call(self, address)
    return guarded
looked_up = socket.getaddrinfo
def look_up(host, *more, **named):
    return looked_up(host, *more, **named) if host in ("127.0.0.1", "localhost", "::1") else refuse(host)
for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, guard(getattr(socket.socket, name)))
socket.getaddrinfo = look_up
"""


def child(
    code: str, home: Path, *words: str, cut: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    without = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    settings = {
        **without,
        "ASSISTANT_BUILDER_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    if cut:
        command = ["unshare", "-rn", *command]
    return subprocess.run(
        command, env=settings, capture_output=True, text=True, timeout=300, cwd=home.parent
    )


def test_telemetry_of_libraries_is_disabled(home):
    code = """
        import assistant_builder, json, os
        from gradio.analytics import analytics_enabled
        from huggingface_hub import constants
        print(json.dumps([analytics_enabled(), constants.HF_HUB_DISABLE_TELEMETRY, dict(os.environ)]))
    """
    gradio, hub, environment = json.loads(child(code, home).stdout)
    assert (gradio, hub) == (False, True)
    assert {name: environment[name] for name in SWITCHES} == SWITCHES
    mine = json.loads(child(code, home, GRADIO_ANALYTICS_ENABLED="True").stdout)
    assert mine[0] is True, "whoever wants it keeps it"


SERVE = """
import os, signal
from concurrent.futures import ThreadPoolExecutor
import httpx
from assistant_builder.ui.app import build_app
from assistant_builder.ui.server import serve_page
from assistant_builder.web.access import Access
with socket.create_server(("127.0.0.1", 0)) as free:
    access = Access(port=free.getsockname()[1])
def ask():
    try:
        patient = httpx.HTTPTransport(retries=8)
        client = httpx.Client(base_url=access.url, timeout=120, follow_redirects=True, transport=patient)
        page = client.get("/", params={"token": access.token})
        assert page.status_code == 200 and "gradio_config" in page.text
        config = client.get("/config").json()
        assert config["analytics_enabled"] is False
    finally:
        os.kill(os.getpid(), signal.SIGINT)
with ThreadPoolExecutor() as pool:
    said = pool.submit(ask)
    serve_page(build_app, access)
    said.result()
"""
STEP = """
from pathlib import Path
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.runner.data_steps import prepare_data
from assistant_builder.runner.step_process import run_as_step
study = open_or_create(sys.argv[1], name="cut", changes={}, redo=False)
code = run_as_step(study, "data", lambda: prepare_data(study))
print(json.dumps({"code": code, "asked": asked, "pairs": len(study.split_file("train").read_text().splitlines())}))
"""


def can_cut() -> bool:
    """Whether a process can be started in an empty network namespace."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return (
        subprocess.run(
            ["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.long
def test_the_page_and_a_step_work_without_a_network(bundled_models, home):
    """All network calls of Python are monitored, and the network is disabled if the system permits it."""
    up = (
        "import subprocess\nsubprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        if can_cut()
        else ""
    )
    done = child(up + GUARD + SERVE + STEP, home, str(FERRIES), cut=bool(up))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["code"] == 0 and record["pairs"] > 100
    assert record["asked"] == []


def test_the_guard_detects_a_request(home):
    code = (
        GUARD
        + "import httpx\ntry:\n    httpx.get('https://example.com')\nexcept Exception: pass\nprint(asked)"
    )
    assert "example.com" in child(code, home).stdout


@pytest.mark.parametrize("name", ["gradio", "huggingface_hub"])
def test_importing_the_product_does_not_import_the_libraries(name, home):
    code = f"import assistant_builder, sys\nassert {name!r} not in sys.modules"
    assert child(code, home).returncode == 0
