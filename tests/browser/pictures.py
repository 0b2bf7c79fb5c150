"""``python -m tests.browser.pictures``: remake the pictures of README and docs from the finished study ``demo``.

The study is the one in ``ASSISTANT_BUILDER_HOME`` (after ``make demo``); both assistants are asked one question.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from assistant_builder.study import Study
from assistant_builder.study.study import home
from tests.browser.serving import free_port, serving

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
STUDY = "demo"
QUESTION = "What do I pay to take my bike along?"
TABS = {"train": "#ab-train svg, #ab-train canvas", "evaluate": "#ab-conclusion"}
"""Tab → what it shows once it is drawn."""
WAIT = 180_000  # milliseconds, in which both assistants are loaded


def main() -> int:
    """Write a picture of the home screen, of each tab that the tour shows, and of the report."""
    study = Study.open(STUDY)
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with serving(home(), free_port()) as site, \
            sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(site.url + "?home")
        expect(page.get_by_role("button", name=f"Results of {STUDY}")).to_be_visible(timeout=60_000)
        _shot(page, "home")
        for tab, shown in TABS.items():
            page.goto(f"{site.url}?study={STUDY}&tab={tab}")
            expect(page.locator(shown).first).to_be_visible(timeout=60_000)
            _shot(page, tab)
        page.goto(f"{site.url}?study={STUDY}&tab=chat")
        page.locator("#ab-question textarea").fill(QUESTION)
        page.locator("#ab-send").click()
        expect(page.get_by_text("of your data").nth(1)).to_be_visible(timeout=WAIT)
        _shot(page, "chat")
        page.goto((study.folder / "report.html").as_uri())
        _shot(page, "report")
        browser.close()
    return 0


def _shot(page: Page, name: str) -> None:
    page.wait_for_timeout(3_000)  # until drawing ends
    page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
    print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
