"""From a visitor's question to the next version: the bubble, the inbox, the verdict, and the bubble again."""

import pytest
from playwright.sync_api import expect

from assistant_builder.chat.visitor_log import log_file, opened
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version
from tests.browser.test_accessibility import serious
from tests.chat.test_inbox import keep
from tests.evals.study_compare.scored_studies import make

pytestmark = pytest.mark.browser


def asked(study: Study) -> None:
    keep(
        study,
        ("Can I renew by phone?", "I don't know.", True, None),
        ("Is there parking?", "By bus.", False, -1),
        ("Can I renew by phone", "I don't know.", True, None),
        ("When do you open?", "At nine.", False, 1),
    )
    with opened(log_file(study)) as connection:
        connection.execute("UPDATE question SET time = time - 1e6 WHERE id = 'q-3'")


@pytest.mark.long
def test_the_keyboard_answers_a_group_and_publishes_a_version(page, at_site):
    study = make("library")
    asked(study)
    page.goto(f"{at_site.start_url}&study=library&tab=inbox")
    expect(page.locator("#ab-inbox-overview")).to_contain_text(
        "Share of the questions that were answered"
    )
    group = page.get_by_role("button", name="Can I renew by phone?")
    group.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ab-answer-text textarea")).to_be_focused()
    assert serious(page) == []
    page.keyboard.type("Yes, call 555.")
    page.locator("#ab-answer-accept").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ab-next-version")).to_contain_text("with 1 answer")
    expect(page.locator("#ab-inbox")).not_to_contain_text("renew")
    page.get_by_role("button", name="Is there parking?").click()
    expect(page.locator("#ab-answer-text textarea")).to_have_value("")
    page.get_by_role("button", name="Copy into the answer").click()
    # what the visitor suggested
    expect(page.locator("#ab-answer-text textarea")).to_have_value("Two weeks.")
    page.locator("#ab-answer-close").click()
    expect(page.locator("#ab-answer")).to_be_hidden()
    add_version(study, make("library-v2"))
    expect(page.locator("#ab-versions")).to_contain_text("library-v2 is no worse than library")
    page.locator("#ab-publish").click()
    expect(page.locator("#ab-versions")).to_contain_text("Served: library-v2")
    page.locator("#ab-undo-version").click()
    expect(page.locator("#ab-versions")).to_contain_text("Served: library")
    expect(page.locator("#ab-undo-version")).to_be_hidden()


@pytest.mark.long
def test_nothing_in_the_inbox_keeps_anyone_out(browser, at_site):
    study = make("hall")
    asked(study)
    context = browser.new_context(viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{at_site.start_url}&study={study.name}&tab=inbox&__theme=dark")
    page.get_by_role("button", name="Can I renew by phone?").click()
    expect(page.locator("#ab-answer-text textarea")).to_be_visible()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
