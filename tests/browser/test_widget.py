"""The chat bubble on a page of another origin, and the page of the server."""

from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from assistant_builder.config.serving import ServingConfig
from assistant_builder.serving.registry import ModelRegistry, ServedModel
from assistant_builder.serving.widget import embedding, site_token
from tests.browser.test_accessibility import serious
from tests.http_server import Server, running
from tests.serving.conftest import Served, serve  # noqa: F401 - a fixture
from tests.synthetic_study import new_study

pytestmark = pytest.mark.browser
CONTACT = "Write to help@shop.example"


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder whose files another origin serves, and that origin."""
    folder = tmp_path / "website"
    folder.mkdir()
    with running(Server(partial(_Files, directory=str(folder)))) as server:
        yield folder, server.endpoint


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(
    website: tuple[Path, str],
    home: Path,
    serve: Callable[..., Served],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The origin of pages, one of them Arabic, with the widget of an assistant that repeats questions.

    It declines the question "decline".
    """
    folder, origin = website
    study = new_study("library")
    assistant = ServedModel("library-lora", study.folder, "lora", 1_700_000_000, grounded=True)
    monkeypatch.setattr(
        "tests.serving.conftest.models",
        lambda folder: ModelRegistry((assistant,), {"library": "library-lora"}),
    )
    served = serve(
        config=ServingConfig(
            widget=True, allow_origin=(origin,), contact=CONTACT, title="The library"
        )
    )
    line = embedding(served.url, site_token(study))
    (folder / "index.html").write_text(
        f'<!doctype html><html lang="en"><title>Shop</title><body><h1>Shop</h1>{line}</body></html>'
    )
    (folder / "arabic.html").write_text(
        f'<!doctype html><html lang="ar" dir="rtl"><title>متجر</title><body><h1>متجر</h1>{line}</body></html>'
    )
    (folder / "served.txt").write_text(served.url)
    return origin


def test_the_keyboard_alone_asks_stops_and_closes(page, site):
    page.goto(site)
    expect(page.get_by_role("button", name="Ask a question")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="The library")).to_be_visible()
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("hello you")
    page.keyboard.press("Enter")
    log = page.get_by_role("log")
    expect(log).to_contain_text("library-lora:hello library-lora:you \u2713")
    expect(log).not_to_contain_text(CONTACT)
    page.keyboard.type("long talk")
    page.keyboard.press("Enter")
    expect(log).to_contain_text("library-lora:talk library-lora:long library-lora:talk")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Stop
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.keyboard.type("decline")
    page.keyboard.press("Enter")
    expect(log).to_contain_text("I do not know.")
    expect(page.get_by_role("link", name="help@shop.example")).to_have_attribute(
        "href", "mailto:help@shop.example"
    )
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Ask a question")).to_be_focused()
    page.reload()
    page.get_by_role("button", name="Ask a question").click()
    expect(page.get_by_role("log")).to_contain_text("library-lora:hello")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("log")).not_to_contain_text("library-lora:hello")


def test_a_suggested_question_is_asked_by_its_button(page, site):
    page.goto(site)
    page.get_by_role("button", name="Ask a question").click()
    box, log = page.get_by_label("Your question"), page.get_by_role("log")
    box.fill("near miss")
    box.press("Enter")
    suggested = page.get_by_role("group", name="Did you mean one of these?")
    expect(suggested.get_by_role("button")).to_have_text(["one question", "another"])
    suggested.get_by_role("button", name="one question").press("Enter")
    expect(log).to_contain_text("library-lora:one library-lora:question")
    expect(box).to_be_focused()


def test_a_question_that_is_sent_while_an_answer_is_written_follows_it(page, site):
    page.goto(site)
    page.get_by_role("button", name="Ask a question").click()
    box, log = page.get_by_label("Your question"), page.get_by_role("log")
    box.fill("long talk")
    box.press("Enter")
    expect(log).to_contain_text("library-lora:talk library-lora:long")
    box.fill("hello")
    box.press("Enter")
    expect(box).to_have_value("hello")
    page.get_by_role("button", name="Stop").click()
    expect(log).to_contain_text("library-lora:hello \u2713")
    expect(box).to_have_value("")


def test_a_new_conversation_begins_empty_while_an_answer_is_written(page, site):
    page.goto(site)
    page.get_by_role("button", name="Ask a question").click()
    box, log = page.get_by_label("Your question"), page.get_by_role("log")
    box.fill("long talk")
    box.press("Enter")
    expect(log).to_contain_text("library-lora:talk library-lora:long")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    with page.expect_request("**/widget/ask") as asked:
        box.fill("hello")
        box.press("Enter")
    assert asked.value.post_data_json["messages"] == [{"role": "user", "content": "hello"}]
    expect(log).to_contain_text("library-lora:hello \u2713")
    page.reload()
    page.get_by_role("button", name="Ask a question").click()
    expect(log).to_contain_text("library-lora:hello \u2713")
    expect(log).not_to_contain_text("talk")


def test_a_page_of_an_origin_that_is_not_allowed_shows_nothing(browser, site):
    page = browser.new_page()
    with page.expect_console_message(lambda message: "Assistant:" in message.text):
        # the same files, another origin
        page.goto(f"{site.replace('127.0.0.1', 'localhost')}/index.html")
    assert page.get_by_role("button").count() == 0
    page.close()


@pytest.mark.parametrize(
    ("scheme", "width", "path"),
    [("light", 1280, "index.html"), ("dark", 390, "index.html"), ("light", 390, "arabic.html")],
)
def test_nothing_keeps_anyone_out(browser, site, scheme, width, path):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{site}/{path}")
    page.get_by_role("button").first.click()
    page.get_by_role("textbox").fill("decline")
    page.get_by_role("textbox").press("Enter")
    expect(page.get_by_role("link")).to_be_visible()
    assert serious(page) == []
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    if width == 390:
        assert box["width"] == width
    context.close()


def test_the_page_of_the_server_is_the_same_chat(page, site, website):
    page.goto(f"{(website[0] / 'served.txt').read_text()}/chat")
    page.get_by_role("textbox").fill("hello")
    page.get_by_role("textbox").press("Enter")
    expect(page.get_by_role("log")).to_contain_text("library-lora:hello \u2713")
    assert serious(page) == []
