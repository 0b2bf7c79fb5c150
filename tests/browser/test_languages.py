"""The page in the language of the browser, and in one that is chosen."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser.serving import tabs_of
from tests.browser.test_accessibility import serious
from tests.synthetic_study import finished_study

pytestmark = pytest.mark.browser


@pytest.fixture
def german(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that asks for German."""
    context = browser.new_context(locale="de-DE", viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.mark.long
def test_home_data_and_chat_are_german(german, at_site):
    finished_study("fertig")
    page = german.new_page()
    page.goto(at_site.start_url)
    expect(page.locator("#ab-studies")).to_contain_text("gerade eben")
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.locator("html")).to_have_attribute("dir", "ltr")
    expect(page.locator("#ab-welcome")).to_contain_text("Neues Projekt aus meiner Datei")
    expect(page.get_by_role("button", name="Chat mit fertig")).to_be_visible()
    assert serious(page) == []
    for tab in tabs_of(page, at_site.start_url, "fertig", ("data", "evaluate", "chat")):
        if tab == "data":
            assert page.title() == "fertig · Daten · Assistant Builder"
            titles = page.locator("#ab-tabs [role=tab]").all_inner_texts()
            assert [
                title.strip("✓ ") for title in titles[:7]
            ] == "Daten Plan Training Ergebnis Chat Bericht Verwenden".split()
            expect(page.locator("#ab-data")).to_contain_text("Brauchbare Paare")
        elif tab == "evaluate":
            expect(page.locator("#ab-conclusion")).to_contain_text("Ist er gut genug?")
            expect(page.locator("#ab-conclusion")).to_contain_text(
                "Der trainierte Assistent (Voll) erreichte bei 12 neuen Fragen"
            )
        else:
            expect(page.locator("#ab-send")).to_have_text("Fragen")
            expect(page.locator("#ab-question textarea")).to_have_attribute(
                "placeholder", "Fragen… (Enter sendet, Umschalt+Enter beginnt eine neue Zeile)"
            )


@pytest.mark.long
def test_a_chosen_language_stays_and_does_not_reach_open_windows(german, at_site):
    """A window keeps its language: what is drawn later is in that of the page."""
    first, second = german.new_page(), german.new_page()
    first.goto(at_site.start_url)
    expect(first.locator("#ab-welcome")).to_contain_text("Neues Projekt aus meiner Datei")
    second.goto(at_site.start_url)
    second.get_by_role("combobox", name="Sprache").select_option("fr")
    expect(second.locator("#ab-welcome")).to_contain_text("Nouveau projet avec mon fichier")
    expect(second.locator("html")).to_have_attribute("lang", "fr")
    second.wait_for_function("!window.location.search.includes('lang')")
    second.reload()
    expect(second.locator("#ab-welcome")).to_contain_text("Nouveau projet avec mon fichier")
    first.get_by_role("button", name="Neues Projekt aus meiner Datei").click()
    expect(first.locator("#ab-strip")).to_contain_text("Laden Sie Ihre Fragen und Antworten hoch")
    expect(first.locator("#ab-file")).to_contain_text("Datei")
