"""Talking to both assistants on the page, with a worker process that needs no model."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.serving import Site, free_port, start_site
from tests.chat.parrot import parrot_command
from tests.fabricated import finished_study, new_study

pytestmark = pytest.mark.browser


SERVE = """
import os, sys
from assistant_builder.chat.client import WorkerPool
from assistant_builder.ui.app import build_app, serve
serve(build_app(WorkerPool(sys.argv[1:])), "127.0.0.1", int(os.environ["GRADIO_SERVER_PORT"]))
"""


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page on a finished study whose assistants repeat the question."""
    home = tmp_path_factory.mktemp("chat") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        finished_study("parrots")
        new_study("untrained")
    site = start_site(home, free_port(), [sys.executable, "-c", SERVE, *parrot_command(home)])
    yield site
    assert site.process is not None
    site.process.terminate()
    site.process.wait(timeout=20)


def ask(page: Page, question: str) -> None:
    page.locator("#ab-question textarea").fill(question)
    page.locator("#ab-send").click()


def test_both_answer_one_question_with_their_speed(page: Page, chat: Site) -> None:
    page.goto(f"{chat.url}?study=parrots&tab=chat")
    ask(page, "When does the <b>library</b> open?")
    for arm in ("qlora", "lora"):
        pane = page.locator(f"#ab-pane-{arm}")
        expect(pane).to_contain_text(f"{arm}:When {arm}:does {arm}:the {arm}:<b>library</b> {arm}:open?")
        expect(pane.locator(".ab-speed")).to_contain_text("tokens/s")
        expect(pane.locator(".ab-speed")).to_contain_text("first token 0.10 s")
    expect(page.locator("#ab-question textarea")).to_have_value("")
    ask(page, "And close?")
    expect(page.locator("#ab-pane-lora .ab-turn")).to_have_count(4)
    page.get_by_role("button", name="Clear the conversation").click()
    expect(page.locator("#ab-pane-lora .ab-turn")).to_have_count(0)


def test_an_answer_is_stopped_and_what_came_stays(page: Page, chat: Site) -> None:
    page.goto(f"{chat.url}?study=parrots&tab=chat")
    ask(page, "long story")
    expect(page.locator("#ab-pane-qlora")).to_contain_text("qlora:story")
    page.locator("#ab-stop").click()
    expect(page.locator("#ab-pane-qlora .ab-speed")).to_contain_text("stopped")
    expect(page.locator("#ab-pane-lora .ab-speed")).to_contain_text("stopped")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:story")
    expect(page.locator("#ab-send")).to_be_enabled()


def test_each_window_has_its_own_conversation(page: Page, chat: Site, browser: Browser) -> None:
    page.goto(f"{chat.url}?study=parrots&tab=chat")
    ask(page, "my secret")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:secret")
    other = browser.new_context().new_page()
    other.goto(f"{chat.url}?study=parrots&tab=chat")
    ask(other, "another matter")
    expect(other.locator("#ab-pane-lora")).to_contain_text("lora:another")
    expect(other.locator("#ab-pane-lora")).not_to_contain_text("secret")
    other.context.close()


def test_a_crash_is_told_and_the_next_question_is_answered(page: Page, chat: Site) -> None:
    page.goto(f"{chat.url}?study=parrots&tab=chat")
    ask(page, "kill")
    expect(page.locator("#ab-pane-qlora")).to_contain_text("memory ran out")
    ask(page, "still there?")
    expect(page.locator("#ab-pane-qlora")).to_contain_text("qlora:still")


def test_a_held_out_question_comes_with_its_reference(page: Page, chat: Site) -> None:
    page.goto(f"{chat.url}?study=parrots&tab=chat")
    page.locator("#ab-suggested input").click()
    page.get_by_role("option").locator("visible=true").first.click()
    expect(page.get_by_text("Reference answer")).to_be_visible()
    assert page.locator("#ab-question textarea").input_value()


def test_an_untrained_study_has_nobody_to_talk_to(page: Page, chat: Site) -> None:
    page.goto(f"{chat.url}?study=untrained&tab=chat")
    expect(page.get_by_text("Nobody to talk to yet")).to_be_visible()
    expect(page.locator("#ab-question")).to_be_hidden()
