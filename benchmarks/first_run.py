"""``python -m benchmarks.first_run [--clone] [--source FILE]``: when a first run reaches what its user waits for.

The study is run with an empty home folder. ``--clone`` begins with a clone of the last commit and its installation, so
that all moments count from there; without it this checkout and its environment are used. Moments that do not exist in
the release, such as an answer before training, are left out. The page is opened before the run, on a free port, and
stays open beside it. Printed are seconds and the target of each (``--json`` prints one JSON document).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from assistant_builder.devices import device_name
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.study import Study
from benchmarks.paths import ROOT, log_end, temporary_home

DEMO = Path("datasets_cards") / "ostrel-sound-ferries" / "study.yaml"
QUESTION = "What does a ticket cost?"
MOMENTS: dict[str, tuple[str, float | None]] = {
    "installed": ("clone installed", None),
    "page": ("page open", None),
    "example": ("finished example, asked as on the page: first answer", 5.0),
    "copied": ("first answer of the study, looked up before training", 30.0),
    "verdict": ("first verdict, assistant ready to chat", 600.0),
    "finished": ("all finished", 1080.0),
    "evaluate": ("ten cells scored: seconds of this step", 180.0),
    "formats": ("files of the recommended arm, written and scored: seconds of this step", 120.0),
}
"""Moment → what it is, and its target in seconds, from the start; that of the example counts from the question."""
_POLL_SECONDS = 0.5
_ASK_AS_THE_PAGE = """
import sys, tempfile, time
from assistant_builder.chat.client import WorkerPool
from assistant_builder.child_process import compute_environment, python_command
from assistant_builder.data import Message
from assistant_builder.devices import driver_present
from assistant_builder.forking import CHAT, Preloaded, start_python
from assistant_builder.inference.chunks import Sampling
from assistant_builder.study import Study
preloaded = Preloaded.where_safe(CHAT, gpu_driver=driver_present())
with tempfile.TemporaryFile() as log:  # as long as the page is open: until its libraries are imported
    command = python_command("-m", "this")
    start_python(command, compute_environment(), preloaded=preloaded, stderr=log, piped=False).wait()
pool, begun = WorkerPool(preloaded=preloaded), time.monotonic()
worker = pool.worker(Study.open("example").recommended)
for replies in worker.ask({"lora": [Message("user", sys.argv[1])]}, Sampling()):
    if any(reply.text for reply in replies.values()):
        break
else:
    sys.exit("no answer came")
print(time.monotonic() - begun)
pool.close()
"""


class Commands:
    """The command line of a checkout."""

    def __init__(self, root: Path, python: Path) -> None:
        self._root, self._words = root, [str(python), "-m", "assistant_builder"]

    def start(self, *words: str, log: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a command."""
        return subprocess.Popen(
            [*self._words, *words], cwd=self._root, stdout=log, stderr=subprocess.STDOUT
        )

    def text(self, *words: str) -> str:
        """The output of a command.

        Raises:
            RuntimeError: It failed.
        """
        return self.python(*self._words[1:], *words)

    def python(self, *words: str) -> str:
        """The output of Python with these arguments; see :meth:`text`."""
        done = subprocess.run(
            [self._words[0], *words], cwd=self._root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {log_end(done.stderr)}")
        return done.stdout


def measure(commands: Commands, source: Path, begun: float) -> dict[str, float]:
    """The moments of a run, in seconds since ``begun``, by their names in :data:`MOMENTS`.

    Raises:
        RuntimeError: The run or another command failed.
    """
    found: dict[str, float] = {}

    def reached(moment: str) -> None:
        found[moment] = time.monotonic() - begun
        print(f"{found[moment]:.0f} s: {MOMENTS[moment][0]}", file=sys.stderr, flush=True)

    with _page(commands, lambda: reached("page")), tempfile.TemporaryFile() as log:
        copies = "--mode" in commands.text("ask", "--help")
        run = commands.start("run", str(source), "--name", "first-run", log=log)
        while run.poll() is None:
            time.sleep(_POLL_SECONDS)
            status = _status()
            if copies and "copied" not in found and status:
                commands.text("ask", "first-run", QUESTION, "--mode", "copy")
                reached("copied")
            if "verdict" not in found and status.get("first_verdict_seconds") is not None:
                commands.text("ask", "first-run", QUESTION)
                reached("verdict")
        if run.returncode:
            log.seek(0)
            raise RuntimeError(f"the run failed: {log_end(log.read().decode())}")
        reached("finished")
        seconds = {step["name"]: step["seconds"] for step in _status()["steps"]}
        found |= {step: seconds[step] for step in ("evaluate", "formats")}
        commands.text("example")
        found["example"] = float(commands.python("-c", _ASK_AS_THE_PAGE, QUESTION))
    return found


@contextmanager
def _page(commands: Commands, on_open: Callable[[], None]) -> Iterator[None]:
    """The page, which is open when it answers, be it with the request to log in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = commands.start("app", "--port", str(port))
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        if process.poll() is not None:
            raise RuntimeError("the page did not open")
        on_open()
        yield
    finally:
        with suppress(psutil.Error):
            psutil.Process(process.pid).terminate()
        process.wait()


def _status() -> dict[str, Any]:
    """The state of the study; empty before there is one. A command for it would use a core."""
    try:
        return Study.open("first-run").status()
    except AssistantBuilderError:
        return {}


def in_clone(folder: Path) -> tuple[Path, Path]:
    """Clone the last commit of this checkout and install it; the clone and its Python."""
    root = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    subprocess.run(["make", "--silent", ".venv/.ready"], cwd=root, check=True, stdout=sys.stderr)
    return root, root / ".venv" / "bin" / "python"


def table(found: dict[str, float]) -> str:
    """A row for each moment: seconds, and the target."""
    lines = ["| moment | seconds | target |", "| --- | ---: | ---: |"]
    for name, (text, target) in MOMENTS.items():
        if name in found:
            aim = "–" if target is None else f"{target:.0f}"
            lines.append(f"| {text} | {found[name]:.0f} | {aim} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_run", description=__doc__)
    parser.add_argument(
        "--clone", action="store_true", help="begin with a clone and its installation"
    )
    parser.add_argument("--source", type=Path, help="data file or study.yaml; default: the demo")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    begun, found = time.monotonic(), {}
    with temporary_home(), tempfile.TemporaryDirectory() as folder:
        root, python = ROOT, Path(sys.executable)
        if options.clone:
            root, python = in_clone(Path(folder))
            found["installed"] = time.monotonic() - begun
        source = options.source.absolute() if options.source else root / DEMO
        found |= measure(Commands(root, python), source, begun)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    machine = f"{device_name('cpu')}, {os.cpu_count()} cores"
    record = {"processor": machine, "commit": commit, "date": date.today().isoformat()}
    if options.json:
        print(json.dumps({**record, "source": str(source), "seconds": found}))
    else:
        print(f"{machine}, commit {commit}, {record['date']}: {source.parent.name}/{source.name}")
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
