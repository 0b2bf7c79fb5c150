"""Serving the page for a test: as a process on a free port, with a home of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from assistant_builder.ui.uploads import PREFIX

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
START_SECONDS = 90
PATIENCE_SECONDS = 300
"""How long a busy machine may take to start ``assistant-builder app``, which says when it is ready."""
USER, PASSWORD = "ann", "canary-correct-horse"


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


@dataclass(frozen=True)
class App:
    """``assistant-builder app`` in a folder of its own.

    Attributes:
        process: The server.
        url: Its address, without a slash at the end.
        log: What it says.
        home: Its ``ASSISTANT_BUILDER_HOME``.
        temporary: Its folder of temporary files.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    home: Path
    temporary: Path

    def client(self, **options: Any) -> httpx.Client:
        """Someone who asks it."""
        return httpx.Client(base_url=self.url, timeout=120, **options)

    @contextmanager
    def logged_in(self, **options: Any) -> Iterator[httpx.Client]:
        """Someone who is in."""
        with self.client(**options) as client:
            assert client.post("/login", data={"username": USER, "password": PASSWORD}).status_code == 200
            yield client

    def folder(self) -> Path:
        """Where it keeps what is uploaded."""
        return next(self.temporary.glob(f"{PREFIX}*"))


def start_app(folder: Path, *words: str, **environment: str) -> App:
    """``assistant-builder app`` on a free port, once it says that it is ready, or as it ended.

    Args:
        folder: Where its home, its temporary files and its log lie; its working folder too.
        words: Options.
        environment: Further variables.
    """
    temporary, home, log, port = folder / "tmp", folder / "home", folder / "log.txt", free_port()
    temporary.mkdir()
    settings = {**os.environ, "ASSISTANT_BUILDER_HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT),
                **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "assistant_builder", "app", "--port", str(port), *words], stdout=output,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=settings, cwd=folder,
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None and b"Assistant Builder is at" not in log.read_bytes():
        time.sleep(0.1)
    scheme = "https" if "--certificate" in words else "http"
    return App(process, f"{scheme}://127.0.0.1:{port}", log, home, temporary)


@contextmanager
def guarded_app(folder: Path, *words: str, **environment: str) -> Iterator[App]:
    """:func:`start_app` behind the login, ended afterwards whatever happens."""
    app = start_app(folder, "--auth", USER, *words, ASSISTANT_BUILDER_PASSWORD=PASSWORD, **environment)
    try:
        yield app
    finally:
        app.process.terminate()
        app.process.wait(timeout=120)


def log_in(page: Page, password: str = PASSWORD) -> None:
    """Fill the login in."""
    page.get_by_label("User").fill(USER)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def tabs_of(page: Page, url: str, study: str, tabs: Iterable[str], *, width: int = 0) -> Iterator[str]:
    """Open a study at the first of some tabs, then go from one to the next; gives each once it is there.

    Args:
        page: A window.
        url: Address of the page, with a slash at the end.
        study: The study's name; empty: none.
        tabs: Their names in addresses.
        width: Pixels to which the window is narrowed at each tab, having been 1280 to get there; 0: as it is.
    """
    for number, tab in enumerate(tabs):
        if number == 0:
            page.goto(f"{url}?study={study}&tab={tab}")
            page.wait_for_function("window.abArrived")
        else:
            if width:
                page.set_viewport_size({"width": 1280, "height": 900})
            page.get_by_role("tab", name=tab.capitalize(), exact=True).click()
        if width:
            page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(700)
        yield tab


def leaves(url: str) -> bool:
    """Whether a request goes to another machine."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "file:"))
