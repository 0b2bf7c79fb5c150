"""The Evaluate and Report tabs in a real browser: pictures, answers, another study, printing, dark and narrow."""

import re

import pytest
from playwright.sync_api import Page, expect

from assistant_builder.atomic_io import read_jsonl, write_jsonl
from assistant_builder.study import Study
from tests.browser.serving import Site
from tests.evals.study_compare.scored_studies import make
from tests.synthetic_study import (
    LARGE,
    evaluated,
    finished_study,
    new_study,
    reported,
    trained,
    with_data,
)

pytestmark = pytest.mark.browser
HOSTILE = (
    '<img src="http://evil.invalid/a.png" onerror="window.bad=1"><script>window.bad=2</script>'
)


def with_hostile_answers(study: Study) -> Study:
    for cell in ("L16", "Q4"):
        path = study.cell_folder(cell) / "samples.jsonl"
        write_jsonl(
            path,
            [{**sample, "answer": f"{cell} says {HOSTILE} پاسخ"} for sample in read_jsonl(path)],
        )
    return study


def open_at(page: Page, site: Site, name: str, tab: str, more: str = "") -> None:
    page.goto(f"{site.start_url}&study={name}&tab={tab}{more}")
    page.wait_for_function("window.abArrived")


@pytest.mark.long
def test_a_finished_evaluation_is_read_from_verdict_to_words(page, at_site):
    study = with_hostile_answers(
        evaluated(trained(with_data(new_study("looked-at", eval__bootstrap_resamples=400))))
    )
    reported(study)
    make("beside", train__rank=64)
    open_at(page, at_site, "looked-at", "evaluate", "&__theme=dark")
    expect(page.get_by_role("heading", name="Is it good enough?")).to_be_visible()
    expect(page.locator(".ab-intervals .panel:visible")).to_have_count(1)
    zero = page.locator(".ab-intervals .zero").first
    assert zero.evaluate("line => getComputedStyle(line).stroke") == page.evaluate(
        "getComputedStyle(document.querySelector('.gradio-container')).color"
    ), "the lines of a picture are as light as the words of the page"
    page.get_by_role("button", name="For specialists").click()
    sections = page.frame_locator("#ab-verdict iframe")
    expect(sections.locator(".verdict")).to_be_visible()
    expect(sections.get_by_role("heading", name="All cells")).to_be_attached()
    page.get_by_role("tab", name="Every answer").click()
    items = page.locator("#ab-items article")
    expect(items).to_have_count(10)
    expect(items.first.locator("mark.ab-own").first).to_be_visible()
    assert page.evaluate("window.bad") is None and page.locator("#ab-items img").count() == 0
    page.locator("#ab-items-next").click()
    expect(items).to_have_count(2)
    page.locator("#ab-items-search textarea, #ab-items-search input").fill("no such words")
    expect(page.locator("#ab-items")).to_contain_text("No matching items")
    page.get_by_role("tab", name="Compare projects").click()
    expect(page.locator("#ab-other input")).to_have_value(re.compile("beside"))
    page.locator("#ab-compare").click()
    expect(page.locator("#ab-comparison .ab-verdict")).to_have_count(2)
    expect(page.locator("#ab-across-items article")).to_have_count(10)


@pytest.mark.long
def test_the_result_is_short_and_its_button_leads_on(page, at_site):
    """Fewer than 350 words and 1,500 pixels until something is unfolded."""
    finished_study(
        "short", LARGE, eval__primary_metric="exact_match", eval__bootstrap_resamples=400
    )
    page.set_viewport_size({"width": 1366, "height": 900})
    open_at(page, at_site, "short", "evaluate")
    expect(page.locator(".ab-intervals .panel:visible")).to_have_count(1)
    expect(page.locator("#ab-conclusion")).to_contain_text("not answered right")
    assert len(page.evaluate("document.body.innerText").split()) < 350
    assert page.evaluate("document.documentElement.scrollHeight") < 1500
    expect(page.locator(".ab-shown-answers:visible tbody tr")).to_have_count(3)
    page.get_by_text(re.compile(r"^\d+ questions not answered right$")).click()
    assert page.locator(".ab-shown-answers:visible tbody tr").count() > 10
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Chat with the assistant").click()
    expect(page.get_by_role("tab", name="Chat", selected=True)).to_be_visible()


@pytest.mark.long
def test_the_report_prints_a_copy_of_itself(page, at_site):
    study = evaluated(trained(with_data(new_study("printed"))))
    for ending in ("html", "md", "json"):
        (study.folder / f"report.{ending}").write_text(
            '{"version": 1}' if ending == "json" else "<h1>Cost</h1>"
        )
    open_at(page, at_site, "printed", "report")
    expect(page.frame_locator("iframe.ab-report").get_by_text("Cost")).to_be_visible()
    page.evaluate("""() => { const append = document.body.append.bind(document.body);
        document.body.append = frame => { frame.addEventListener("load", () => {
            frame.contentWindow.print = () => { window.printed = frame.contentDocument.body.textContent; }; },
            {capture: true}); append(frame); }; }""")
    with page.expect_download() as download:
        page.locator("button:visible", has_text="Download .json").click()
    assert download.value.path().read_text() == '{"version": 1}'
    page.locator("#ab-print").click()
    page.wait_for_function("window.printed === 'Cost'")
