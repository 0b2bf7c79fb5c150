"""``python -m tests.browser.pictures [NAME …]``: remake the pictures of README and docs.

Those of the page are of the finished example in ``ASSISTANT_BUILDER_HOME`` (after ``assistant-builder example``): both
assistants are asked one question, and the inbox has simulated visitors. The report is that of the study ``demo`` (after
``make demo``).
"""

import random
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from assistant_builder.chat.inbox import WEEK, group_with_embedder
from assistant_builder.chat.visitor_log import log_file, opened
from assistant_builder.data.similarity import casefold_normalize
from assistant_builder.study import Study
from assistant_builder.study.layout import home
from tests.browser.serving import free_port, serving

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
STUDY, REPORT_OF = "example", "demo"
QUESTION = "How late can we arrive?"
TABS = {"train": "#ab-train svg, #ab-train canvas", "evaluate": "#ab-conclusion"}
"""Tab → what it shows once it is drawn."""
ASKED: list[tuple[str, bool, int | None, int]] = [  # question, whether it is declined, vote, weight
    ("Can we book a wedding?", True, None, 5),
    ("Do you host weddings?", True, None, 4),
    ("wedding party", True, None, 2),
    ("Is there a vet nearby?", True, None, 4),
    ("Where is the next vet?", True, None, 3),
    ("Can I pay in euros?", False, -1, 3),
    ("Who won the football?", True, None, 1),
    ("When can we arrive?", False, 1, 25),
    ("Are dogs allowed?", False, None, 30),
]
ANSWER = "Weddings of up to 40 guests are held in the barn; the reception takes bookings."
WAIT = 180_000  # milliseconds, in which both assistants are loaded


def main() -> int:
    """Write a picture of the home screen, of each tab that the tour shows, and of the report."""
    wanted = sys.argv[1:] or ["home", *TABS, "chat", "report", "inbox"]
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    with serving(home(), free_port()) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(60_000)
        for name in wanted:
            _open(page, site.start_url, name)
            _shot(page, name)
        browser.close()
    return 0


def _open(page: Page, url: str, name: str) -> None:
    """Open what a picture shows."""
    if name == "home":
        page.goto(f"{url}&home")
        expect(page.get_by_role("button", name=f"Results of {STUDY}")).to_be_visible(timeout=60_000)
    elif name == "chat":
        page.goto(f"{url}&study={STUDY}&tab=chat")
        page.locator("#ab-question textarea").fill(QUESTION)
        page.locator("#ab-send").click()
        sources = page.get_by_text("of your data")
        expect(sources.nth(1)).to_be_visible(timeout=WAIT)
        sources.nth(0).click()
        sources.nth(1).click()
    elif name == "report":
        page.goto((Study.open(REPORT_OF).folder / "report.html").as_uri())
    elif name == "inbox":
        study = Study.open(STUDY)
        simulate_visitors(study)
        group_with_embedder(study)
        page.goto(f"{url}&study={STUDY}&tab=inbox")
        page.get_by_role("button", name=ASKED[0][0]).click()
        page.locator("#ab-answer-text textarea").fill(ANSWER)
        page.evaluate("window.scrollTo(0, 0)")
        page.set_viewport_size({"width": 1366, "height": 1420})
    else:
        page.goto(f"{url}&study={STUDY}&tab={name}")
        expect(page.locator(TABS[name]).first).to_be_visible(timeout=60_000)


def simulate_visitors(study: Study) -> None:
    """Questions of twelve weeks; the share that is declined falls, as it does when questions get answers."""
    chance = random.Random(0)
    log_file(study).unlink(missing_ok=True)
    with opened(log_file(study)) as connection:
        for number in range(1_200):
            weeks = chance.random() * 12
            question, declined, vote = chance.choices(ASKED, [each[3] for each in ASKED])[0][:3]
            if (declined or vote == -1) and chance.random() > 0.2 + weeks / 15:
                continue
            connection.execute(
                "INSERT INTO question (id, time, visitor, model, declined, question, answer, vote, wording) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    f"q-{number}",
                    time.time() - weeks * WEEK,
                    f"visitor {number}",
                    f"{STUDY}-lora",
                    int(declined),
                    question,
                    "I don't know." if declined else "Yes.",
                    vote,
                    casefold_normalize(question),
                ),
            )


def _shot(page: Page, name: str) -> None:
    page.wait_for_timeout(3_000)  # until drawing ends
    page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
    print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
