"""Serve the page for a test as a process on a free port with its own home."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
"""Timeout for the start of ``assistant-builder app`` on a busy machine."""
USER, PASSWORD = "ann", "canary-correct-horse"


@dataclass(frozen=True)
class Site:
    """A served page.

    Attributes:
        start_url: Its URL with the token, to which ``&study=NAME`` can be added.
        home: Its ``ASSISTANT_BUILDER_HOME``.
        process: The server process.
    """

    start_url: str
    home: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL without the token, with a slash at the end."""
        return self.start_url.partition("?")[0]


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_site(
    home: Path, port: int, command: Sequence[str] = (sys.executable, str(ROOT / "app.py"))
) -> Site:
    """Serve the page and wait until it responds.

    Args:
        home: The ``ASSISTANT_BUILDER_HOME`` of the page.
        port: A free port.
        command: Command of the server.
    """
    environment = {
        **os.environ,
        "ASSISTANT_BUILDER_HOME": str(home),
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(list(command), env=environment, cwd=home.parent, stdout=output)
        start_url = _printed_url(
            process, lambda: os.pread(output.fileno(), 10_000, 0), PATIENCE_SECONDS
        )
    if not start_url:
        process.kill()
        process.wait()
        raise RuntimeError(f"the page did not start at port {port}")
    return Site(start_url, home, process)


def _printed_url(
    process: subprocess.Popen[bytes], output: Callable[[], bytes], seconds: float
) -> str:
    """Wait for the address that a server prints when it is ready; empty if it has exited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(rb"Assistant Builder is at (\S+) ", output()):
            return found[1].decode()
        time.sleep(0.1)
    return ""


@contextmanager
def serving(home: Path, port: int) -> Iterator[Site]:
    """:func:`start_site` as a context manager that stops the server."""
    site = start_site(home, port)
    assert site.process is not None
    try:
        yield site
    finally:
        site.process.terminate()
        site.process.wait(timeout=120)


@dataclass(frozen=True)
class App:
    """A running ``assistant-builder app``.

    Attributes:
        process: The server process.
        start_url: Its URL as it was printed: with the token, unless it has a login or is open to everyone.
        log: File with its output.
        home: Its ``ASSISTANT_BUILDER_HOME``.
        temporary: Its folder of temporary files.
    """

    process: subprocess.Popen[bytes]
    start_url: str
    log: Path
    home: Path
    temporary: Path

    @property
    def url(self) -> str:
        """Its URL without the token and without a slash at the end."""
        return self.start_url.partition("?")[0].rstrip("/")

    def client(self, **options: Any) -> httpx.Client:
        """A client of the server, without login and token."""
        return httpx.Client(base_url=self.url, timeout=120, **options)

    @contextmanager
    def logged_in(self, **options: Any) -> Iterator[httpx.Client]:
        """A client that is logged in."""
        with self.client(**options) as client:
            assert (
                client.post("/login", data={"username": USER, "password": PASSWORD}).status_code
                == 200
            )
            yield client

    def folder(self) -> Path:
        """The folder of its uploads."""
        return next(self.temporary.glob(f"{PREFIX}*"))


def start_app(folder: Path, *words: str, **environment: str) -> App:
    """Start ``assistant-builder app`` on a free port, and wait until it is ready or has exited.

    Args:
        folder: Its working folder, with its home, its temporary files and its log.
        words: Options.
        environment: Further variables.
    """
    temporary, home, log, port = folder / "tmp", folder / "home", folder / "log.txt", free_port()
    temporary.mkdir()
    settings = {
        **os.environ,
        "ASSISTANT_BUILDER_HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "assistant_builder", "app", "--port", str(port), *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=settings,
            cwd=folder,
        )
    return App(
        process, _printed_url(process, log.read_bytes, PATIENCE_SECONDS), log, home, temporary
    )


@contextmanager
def guarded_app(folder: Path, *words: str, **environment: str) -> Iterator[App]:
    """:func:`start_app` with a login, as a context manager that stops the server."""
    app = start_app(
        folder, "--auth", USER, *words, ASSISTANT_BUILDER_PASSWORD=PASSWORD, **environment
    )
    try:
        yield app
    finally:
        app.process.terminate()
        app.process.wait(timeout=120)


def log_in(page: Page, password: str = PASSWORD) -> None:
    """Fill in the login form."""
    page.get_by_label("User").fill(USER)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")


def tabs_of(
    page: Page, url: str, study: str, tabs: Iterable[str], *, width: int = 0
) -> Iterator[str]:
    """Open a study on the first tab, then select the other tabs in turn; yields each one.

    Args:
        page: The browser page.
        url: ``start_url`` of the page.
        study: Name of the study; empty for none.
        tabs: Names of the tabs in the URL.
        width: Width of the window in pixels while a tab is shown; 0: unchanged.
    """
    for number, tab in enumerate(tabs):
        if number == 0:
            page.goto(f"{url}&study={study}&tab={tab}")
            page.wait_for_function("window.abArrived")
        else:
            if width:
                page.set_viewport_size({"width": 1280, "height": 900})
            page.locator(f"#ab-tabs [data-tab-id={tab}]").click()
        if width:
            page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(700)
        yield tab


def leaves(url: str) -> bool:
    """Whether a request goes to another host."""
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "file:"))
