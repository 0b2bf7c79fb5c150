"""axe-core on every step of a study in each of its states: nothing serious, in light and in dark, wide and narrow."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from assistant_builder.study.steps import Progress, StepRecord
from tests.browser.serving import Site, tabs_of
from tests.synthetic_study import finished_study, new_study, running, with_data, with_metrics

pytestmark = pytest.mark.browser

STANDARD = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "resultTypes": ["violations"],
}
GRADIOS_OWN = (("aria-prohibited-attr", 'aria-label="Empty value"'),)
"""Rule and a part of the element's HTML: what Gradio renders and we cannot set."""


@pytest.fixture(scope="module")
def stocked(site: Site) -> Site:
    """The page with one study in each state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(site.home))
        finished_study("finished")
        running(
            with_metrics(with_data(new_study("busy")), "lora", 20),
            "train-lora",
            Progress(20, 60, "steps"),
        )
        failed = with_metrics(with_data(new_study("broken")), "lora", 9)
        error = {
            "type": "ResourceError",
            "what": "memory ran out",
            "where": "step train-lora",
            "remedy": "Lower train.micro_batch_size",
        }
        failed.write_step(StepRecord("train-lora", state="failed", error=error))
        failed.write_run_record("failed")
        new_study("fresh")
    return site


def serious(page: Page) -> list[str]:
    """What axe finds that keeps someone out, as lines to read."""
    found: list[dict[str, Any]] = Axe().run(page, options=STANDARD).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(violation["id"] == rule and part in node["html"] for rule, part in GRADIOS_OWN)
    ]


STATES = {
    "": ("data",),
    "fresh": ("data", "plan", "train"),
    "busy": ("data", "train"),
    "broken": ("train",),
    "finished": ("data", "plan", "train", "evaluate", "chat", "report", "export"),
}
"""The tabs of the study in each state; without a name: of none."""


FINISHED = {"finished": STATES["finished"]}


@pytest.mark.parametrize(
    ("width", "scheme", "language", "states"),
    [
        pytest.param(0, "light", "en", STATES, marks=pytest.mark.long),
        pytest.param(390, "dark", "de", FINISHED, marks=pytest.mark.long),
    ],
)
def test_no_serious_violation(browser, stocked, width, scheme, language, states):
    """Every place as it comes; a finished study in the dark on a narrow window, which it fits, in German, too."""
    context = browser.new_context(
        viewport={"width": width or 1280, "height": 900}, color_scheme=scheme, locale=language
    )
    page = context.new_page()
    found = {}
    if states is STATES:
        page.goto(stocked.start_url)
        page.wait_for_function("window.abArrived")
        page.wait_for_timeout(700)
        found["home"] = serious(page)
    for name, tabs in states.items():
        for tab in tabs_of(page, stocked.start_url, name, tabs, width=width):
            assert page.locator("html").get_attribute("lang") == language
            found[f"{name} {tab}"] = serious(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= (width or 1280), tab
            if tab == "evaluate":
                page.locator("button.label-wrap:visible").first.click()
                page.wait_for_timeout(700)
                found[f"{name} {tab}, unfolded"] = serious(page)
    context.close()
    assert not any(found.values()), "\n".join(
        f"{place}\n  " + "\n  ".join(lines) for place, lines in found.items()
    )
