"""The login in a browser, and the page behind it under its content security policy."""

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.serving import ROOT, START_SECONDS, App, guarded_app, log_in

pytestmark = pytest.mark.browser
SLOW = 240_000
"""Timeout in milliseconds for an action of about one second on a busy machine."""
FERRIES = ROOT / "datasets_cards" / "ostrel-sound-ferries" / "data.jsonl"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with a password, and uploads of at most 300 kB."""
    with guarded_app(
        tmp_path_factory.mktemp("guarded"), ASSISTANT_BUILDER_MAX_UPLOAD="300kB"
    ) as app:
        yield app


@pytest.mark.long
def test_login_work_and_logout(guarded, page, tmp_path):
    """The page fixture checks for requests to other hosts; this test, that the policy blocks nothing of the page."""
    blocked: list[str] = []
    page.on(
        "console",
        lambda message: (
            blocked.append(message.text) if "Content Security" in message.text else None
        ),
    )
    page.goto(f"{guarded.url}/?study=none", timeout=START_SECONDS * 1000)
    expect(page.get_by_role("heading", name="Assistant Builder")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    log_in(page, "wrong")
    expect(page.get_by_role("alert")).to_have_text(
        "The user name or password is incorrect.", timeout=SLOW
    )
    assert Axe().run(page).violations_count == 0
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="New project from my file").click(timeout=SLOW)
    upload = page.locator("#ab-file input[type=file]")
    upload.set_input_files(FERRIES)
    expect(page.locator("#ab-found")).to_contain_text("Usable pairs", timeout=SLOW)
    large = tmp_path / "large.csv"
    large.write_bytes(b"question,answer\n" + b"x,y\n" * 100_000)
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    page.get_by_role("button", name="New project from my file").click(timeout=SLOW)
    upload.set_input_files(large, timeout=SLOW)
    expect(page.get_by_text("maximum allowed size").first).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_have_text("You are logged out.", timeout=SLOW)
    page.go_back()
    expect(page.get_by_label("Password")).to_be_visible(timeout=SLOW)
    assert blocked == []


@pytest.mark.long
def test_a_link_from_another_site_keeps_the_login(guarded, browser, tmp_path):
    """The browser does not send the strict cookie with the link; the page reloads itself and then it does."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    other = context.new_page()
    other.route(
        "http://other.example/*",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<a href="{guarded.url}/">open</a><iframe src="{guarded.url}/"></iframe>',
        ),
    )
    other.goto("http://other.example/")
    assert "Assistant Builder" not in (other.frames[1].content() if len(other.frames) > 1 else "")
    sent = other.evaluate(
        "url => fetch(url + '/gradio_api/queue/join', {method: 'POST', mode: 'no-cors', credentials: 'include', "
        "body: '{}'}).then(answer => answer.type, error => 'failed')",
        guarded.url,
    )
    assert sent in ("opaque", "failed")
    other.get_by_role("link", name="open").click(timeout=SLOW)
    expect(other.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    context.close()


def test_without_a_login_the_page_asks_for_its_token(browser, site):
    """In the dark, on a narrow window; the form of the login is looked at in the light."""
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page, token = context.new_page(), site.start_url.partition("token=")[2]
    problems: list[str] = []
    page.on(
        "console",
        lambda message: (
            problems.append(message.text) if "Content Security" in message.text else None
        ),
    )
    page.on(
        "request",
        lambda request: (
            problems.append(request.url)
            if token in request.headers.get("referer", "")
            or token in request.url
            and request.resource_type != "document"
            else None
        ),
    )
    page.goto(f"{site.url}?study=none", timeout=SLOW)
    expect(page.get_by_text(f"{site.url}?token=…")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(f"{site.url}?study=none&token=wrong", timeout=SLOW)
    expect(page.get_by_role("alert")).to_contain_text("This token is wrong")
    assert Axe().run(page).violations_count == 0
    page.get_by_label("Token").fill(site.start_url)
    page.get_by_role("button", name="Open").click()
    page.wait_for_function("window.abArrived", timeout=SLOW)
    assert token not in page.url
    page.reload(timeout=SLOW)
    second = context.new_page()
    second.goto(site.start_url, timeout=SLOW)
    for window in (page, second):
        window.wait_for_function("window.abArrived", timeout=SLOW)
        assert token not in window.url and token not in window.content()
    assert problems == []
    second.goto(site.url.replace("127.0.0.1", "localhost"), timeout=SLOW)
    expect(second.get_by_label("Token")).to_be_visible()
    context.close()


@pytest.mark.long
def test_an_expired_session_leads_to_the_login(guarded, page):
    page.goto(guarded.url, timeout=START_SECONDS * 1000)
    log_in(page)
    expect(page.get_by_role("button", name="Log out")).to_be_visible(timeout=SLOW)
    page.context.clear_cookies()
    expect(page.get_by_role("status")).to_contain_text(
        "You were logged out after a period of inactivity", timeout=SLOW
    )
