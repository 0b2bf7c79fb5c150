"""Serving the page for a test: ``app.py`` as a process on a free port, with a home of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 90


@dataclass(frozen=True)
class Site:
    """A served page.

    Attributes:
        url: Its address, ending in a slash.
        home: The ``ASSISTANT_BUILDER_HOME`` it works in.
        process: The server, where it is a process of its own.
    """

    url: str
    home: Path
    process: subprocess.Popen[bytes] | None = None


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_site(home: Path, port: int, command: Sequence[str] = (sys.executable, str(ROOT / "app.py"))) -> Site:
    """Serve the page and wait until it answers.

    Args:
        home: The ``ASSISTANT_BUILDER_HOME`` of the page.
        port: A free port.
        command: What serves it.
    """
    environment = {
        **os.environ, "ASSISTANT_BUILDER_HOME": str(home), "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(list(command), env=environment, cwd=home.parent)
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return Site(url, home, process)
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"app.py did not answer at {url}")


@contextmanager
def serving(home: Path, port: int) -> Iterator[Site]:
    """:func:`start_site`, ended afterwards whatever happens."""
    site = start_site(home, port)
    assert site.process is not None
    try:
        yield site
    finally:
        site.process.terminate()
        site.process.wait(timeout=20)


def leaves(url: str) -> bool:
    """Whether a request goes to another machine."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "file:"))
