"""The login in a browser, and the page behind it under its content security policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.serving import ROOT, START_SECONDS, App, guarded_app, log_in

pytestmark = pytest.mark.browser
SLOW = 240_000
"""Milliseconds that a busy machine may take for what takes one second."""
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with a password, and uploads of at most 300 kB."""
    with guarded_app(tmp_path_factory.mktemp("guarded"), ASSISTANT_BUILDER_MAX_UPLOAD="300kB") as app:
        yield app


def test_one_logs_in_works_and_logs_out(guarded: App, page: Page, tmp_path: Path) -> None:
    """The page fixture sees to it that nothing comes from elsewhere; here, that the policy stops nothing of ours."""
    stopped: list[str] = []
    page.on("console", lambda message: stopped.append(message.text) if "Content Security" in message.text else None)
    page.goto(f"{guarded.url}/?study=none", timeout=START_SECONDS * 1000)
    expect(page.get_by_role("heading", name="Assistant Builder")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    log_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text("The user name or password is incorrect.", timeout=SLOW)
    assert Axe().run(page).violations_count == 0
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="New study from my file").click(timeout=SLOW)
    upload = page.locator("#ab-file input[type=file]")
    upload.set_input_files(FERRIES)
    expect(page.locator("#ab-found")).to_contain_text("usable", timeout=SLOW)
    large = tmp_path / "large.csv"
    large.write_bytes(b"question,answer\n" + b"x,y\n" * 100_000)
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    page.get_by_role("button", name="New study from my file").click(timeout=SLOW)
    upload.set_input_files(large, timeout=SLOW)
    expect(page.get_by_text("maximum allowed size").first).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.", timeout=SLOW)
    page.go_back()
    expect(page.get_by_label("Password")).to_be_visible(timeout=SLOW)
    assert stopped == []


def test_a_link_from_another_site_finds_one_logged_in(guarded: App, browser: Browser, tmp_path: Path) -> None:
    """The strict cookie is not sent along the link; the page is opened once more from here, with it."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    other = context.new_page()
    other.route("http://other.example/*", lambda route: route.fulfill(
        content_type="text/html", body=f'<a href="{guarded.url}/">open</a><iframe src="{guarded.url}/"></iframe>'))
    other.goto("http://other.example/")
    assert "Assistant Builder" not in (other.frames[1].content() if len(other.frames) > 1 else "")
    sent = other.evaluate(
        "url => fetch(url + '/gradio_api/queue/join', {method: 'POST', mode: 'no-cors', credentials: 'include', "
        "body: '{}'}).then(answer => answer.type, error => 'failed')", guarded.url,
    )
    assert sent in ("opaque", "failed")
    other.get_by_role("link", name="open").click(timeout=SLOW)
    expect(other.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    context.close()


def test_a_page_whose_session_ended_leads_to_the_login(guarded: App, page: Page) -> None:
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    page.context.clear_cookies()
    expect(page.get_by_role("status")).to_contain_text("You were logged out after a while", timeout=SLOW)
