"""An endpoint as a child process: found when ready, stopped by a button, and gone with its parent."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from assistant_builder.serving.endpoint_process import Endpoints, EndpointState
from assistant_builder.study import Study
from tests.cluster.conftest import wait_until
from tests.synthetic_study import new_study

ROOT = Path(__file__).parents[2]
FAKE = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from assistant_builder.child_protocol import end_with_standard_input
end_with_standard_input()
assert "ASSISTANT_BUILDER_API_KEY" not in os.environ
open({pid!r}, "w").write(str(os.getpid()))
if {fails}:
    sys.exit("no memory left")
ready = {{"event": "ready", "url": "http://127.0.0.1:1/v1", "model": "x"}}
print(json.dumps(ready), flush=True)
time.sleep(600)
"""


def fake_endpoint(folder: Path, *, fails: bool = False) -> Callable[[Study, str], list[str]]:
    script = FAKE.format(root=str(ROOT), pid=str(folder / "pid"), fails=fails)
    return lambda study, arm: [sys.executable, "-c", script]


@pytest.fixture
def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoints]:
    monkeypatch.setenv("ASSISTANT_BUILDER_API_KEY", "x" * 20)
    endpoints = Endpoints(fake_endpoint(tmp_path))
    yield endpoints
    endpoints.close()


def test_it_is_found_when_ready_and_ends_when_stopped(endpoints, tmp_path):
    study = new_study("x")
    assert endpoints.state("x") == EndpointState()
    endpoints.start(study, "lora")
    endpoints.start(study, "lora")  # a second click starts no second one
    wait_until(lambda: endpoints.state("x").phase == "running")
    assert endpoints.state("x") == EndpointState(
        "running", "http://127.0.0.1:1/v1", "x", arm="lora"
    )
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    endpoints.stop("x")
    assert not process.is_running() and endpoints.state("x").phase == "off"
    endpoints.stop("x")


def test_the_reason_of_a_failed_start_is_kept(tmp_path):
    endpoints = Endpoints(fake_endpoint(tmp_path, fails=True))
    endpoints.start(new_study("x"), "lora")
    wait_until(lambda: endpoints.state("x").phase == "failed")
    assert endpoints.state("x").error == "no memory left"


def test_it_ends_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\nfrom types import SimpleNamespace\n"
        "from tests.serving.test_endpoint_process import Endpoints, fake_endpoint\n"
        f"Endpoints(fake_endpoint(Path({str(tmp_path)!r}))).start(SimpleNamespace(name='x'), 'lora')\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    pid = tmp_path / "pid"
    wait_until(lambda: pid.is_file() and pid.read_text() != "")
    process = psutil.Process(int(pid.read_text()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
