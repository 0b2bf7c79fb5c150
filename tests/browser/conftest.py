"""Fixtures: a served page, and a browser that records requests to other hosts."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.serving import Site, free_port, leaves, serving

expect.set_options(timeout=45_000)  # rendering is slow on a busy machine


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page, served by ``app.py`` on a free port, for all files of a worker."""
    home = tmp_path_factory.mktemp("site") / "home"
    with serving(home, free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def site(server: Site) -> Iterator[Site]:
    """The page, without any study at first."""
    yield server
    shutil.rmtree(server.home / "studies", ignore_errors=True)


@pytest.fixture
def at_site(site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Set the home of the test process to that of the page, so that the test can create studies there."""
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(site.home))
    return site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The installed Chromium; tests are skipped without it, except on CI."""
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if path is None and not os.environ.get("CI"):
        pytest.skip("needs chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a new context; the test fails on requests to other hosts and on JavaScript errors."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    outside: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: outside.append(request.url) if leaves(request.url) else None)
    page.on("pageerror", lambda error: failures.append(str(error)))
    yield page
    context.close()
    assert outside == []
    assert failures == []
