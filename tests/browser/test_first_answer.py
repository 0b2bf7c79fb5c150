"""The first answer on the page: from the upload of a sheet to an answer that is looked up, before any training."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from assistant_builder.models.bundled import BASE_MODEL, EMBEDDER
from tests.browser.serving import Site, free_port, serving
from tests.retrieval.test_copying import SHEET

pytestmark = [pytest.mark.browser, pytest.mark.train, pytest.mark.long]
SECONDS = 1_000.0


@pytest.fixture(scope="module")
def without_base(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Site]:
    """The page on a machine that has the sentence embedder, and of the base model a broken copy."""
    home = tmp_path_factory.mktemp("first") / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / EMBEDDER).symlink_to(model_cache / "models" / EMBEDDER)
    (home / "models" / BASE_MODEL).mkdir()
    with serving(home, free_port()) as site:
        yield site


def test_a_sheet_answers_before_it_is_trained(page, without_base, record_property):
    page.goto(f"{without_base.start_url}&study=&tab=data")
    page.wait_for_function("window.abArrived")
    started = time.perf_counter()
    page.locator("#ab-file input[type=file]").set_input_files(str(SHEET))
    expect(page.locator("#ab-found")).to_contain_text("Usable pairs")
    uploaded = time.perf_counter()
    page.locator("#ab-create").click()
    page.locator("#ab-strip").get_by_role("button", name="Ask it now").click()
    expect(page.locator("#ab-copying")).to_contain_text("Looked up, not trained")
    page.locator("#ab-question textarea").fill("do you have wifi")
    page.locator("#ab-send").click()
    pane = page.locator("#ab-pane-copy")
    expect(pane).to_contain_text("Wireless internet is free in the café", timeout=120 * SECONDS)
    answered = time.perf_counter()
    pane.get_by_text("Looked up: 1 fact of your data").click()
    expect(pane).to_contain_text("Row 62 of your file")
    page.locator("#ab-question textarea").fill("Write me a poem about autumn.")
    page.locator("#ab-send").click()
    expect(pane).to_contain_text("I can't answer that from what I was given.")
    record_property("seconds", (uploaded - started, answered - started))
    print(f"shown after {uploaded - started:.1f} s, answered after {answered - started:.1f} s")
