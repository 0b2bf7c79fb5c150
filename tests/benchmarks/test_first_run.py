"""The moments of a first run, of commands that answer at once."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import first_run

FAKE = """
import http.server, json, os, sys, time
words, home = sys.argv[3:], os.environ["ASSISTANT_BUILDER_HOME"]
with open(os.path.join(home, "calls"), "a") as calls:
    calls.write(" ".join(words) + "\\n")
if sys.argv[1] == "-c":
    print(4.5)
elif words[0] == "app":
    http.server.HTTPServer(("127.0.0.1", int(words[2])), http.server.BaseHTTPRequestHandler).serve_forever()
elif words[0] == "run":
    time.sleep(2)
    sys.exit(FAILS)
elif "--help" in words:
    print(HELP)
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> first_run.Commands:
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(tmp_path))
    steps = [{"name": "data-embed", "state": "succeeded"}]
    monkeypatch.setattr(
        first_run, "_status", lambda: {"steps": steps, "first_verdict_seconds": 1.5}
    )
    return fake(tmp_path)


def fake(folder: Path, *, fails: int = 0, shown: str = "--mode copy") -> first_run.Commands:
    script = folder / "python"
    code = FAKE.replace("FAILS", str(fails)).replace("HELP", repr(shown))
    script.write_text(f"#!{sys.executable}\n{code}")
    script.chmod(0o755)
    return first_run.Commands(folder, script)


def test_each_moment_is_timed(commands, tmp_path):
    found = first_run.measure(commands, tmp_path / "study.yaml", first_run.time.monotonic())
    assert list(found) == ["page", "copied", "verdict", "finished", "example"]
    assert found["example"] == 4.5
    assert found["page"] < found["copied"] < found["verdict"] < found["finished"] < 60
    calls = (tmp_path / "calls").read_text().splitlines()
    assert f"run {tmp_path / 'study.yaml'} --name first-run" in calls
    assert sum(call.startswith("ask first-run") for call in calls) == 2
    rows = first_run.table(found).splitlines()
    assert len(rows) == 2 + len(found) and rows[-1].endswith("| 1080 |")


def test_what_the_release_lacks_is_left_out(tmp_path, commands):
    older = fake(tmp_path, shown="--arm")
    found = first_run.measure(older, tmp_path / "data.csv", first_run.time.monotonic())
    assert "copied" not in found and "looked up" not in first_run.table(found)


def test_a_run_that_failed_is_no_measurement(tmp_path, commands):
    with pytest.raises(RuntimeError, match="the run failed"):
        first_run.measure(fake(tmp_path, fails=1), tmp_path / "data.csv", 0.0)


def test_the_table_names_machine_commit_and_date(monkeypatch, capsys):
    monkeypatch.setattr(first_run, "measure", lambda *_: {"verdict": 599.6})
    assert first_run.main(["--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["seconds"] == {"verdict": 599.6} and record["source"].endswith("study.yaml")
    assert {"processor", "commit", "date"} < record.keys()
    assert first_run.main([]) == 0
    shown = capsys.readouterr().out
    assert record["commit"] in shown and "| 600 | 600 |" in shown
