"""The report as a file in a browser: on paper, on a narrow screen, in the dark, and inside the app's frame."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from assistant_builder.ui.report.tab import report_frame
from evals.report.build import build_report
from evals.report.render import render_html
from evals.report.schema import Report
from tests.evals.report.additions import with_additions
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, write_study

pytestmark = pytest.mark.browser

A4 = round((210 - 2 * 15) / 25.4 * 96)
"""Width of the printed area in CSS pixels: A4 without the margins of the style sheet."""
LONG = "Aldermoor-" * 30
TOO_WIDE = """boxes => {
  const width = document.documentElement.clientWidth;
  const inside = element => boxes && element.parentElement.closest(boxes);
  return [...document.body.querySelectorAll('*')]
    .filter(element => !element.parentElement.closest('svg') && !inside(element))
    .filter(element => { const box = element.getBoundingClientRect();
                         return box.width && (box.right > width + 1 || box.left < -1); })
    .map(element => `${element.tagName}.${element.className.baseVal ?? element.className}: `
                    + element.textContent.trim().slice(0, 60));
}"""
OVERLAPPING = """() => {
  const found = [];
  for (const drawing of document.querySelectorAll('svg')) {
    const texts = [...drawing.children].filter(child => child.tagName === 'text');
    for (let one = 0; one < texts.length; one++)
      for (let other = one + 1; other < texts.length; other++) {
        const a = texts[one].getBoundingClientRect(), b = texts[other].getBoundingClientRect();
        if (a.width && b.width && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
          found.push(`${texts[one].textContent} and ${texts[other].textContent}`);
      }
  }
  return found;
}"""


@pytest.fixture
def report(home: Path) -> str:
    """The page of a report with everything in it, long words among the questions and answers."""
    recipe = Recipe(cells=ALL_CELLS, forced=("L4",), flips=0.1, question=LONG, answer=LONG)
    report = with_additions(build_report(write_study(recipe)), LONG)
    return render_html(Report.model_validate(report))


def test_the_report_prints_on_a4(page, report, tmp_path):
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4, "height": 900})
    page.set_content(report)
    assert page.evaluate(TOO_WIDE) == [], "on paper nothing scrolls, tables neither"
    assert page.evaluate(OVERLAPPING) == []
    expect(page.locator("nav")).to_be_hidden()
    expect(page.get_by_text("more are on the page and in").first).to_be_visible()
    expect(page.get_by_text("All differences on all metrics")).to_be_visible()
    printed = page.locator("article.item:visible").count()
    assert 0 < printed < page.locator("article.item").count() / 3
    pdf = page.pdf(prefer_css_page_size=True, path=tmp_path / "report.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 3
    assert re.search(rb"/MediaBox\s*\[0 0 59[45][.\d]* 84[12]", pdf), "A4 in points"


def test_the_first_page_is_one_sheet(page, report):
    """The outline of the PDF names the page of each heading: that after the first page is on the second, at its top."""
    page.set_content(report)
    pdf = page.pdf(prefer_css_page_size=True, outline=True, tagged=True)
    kids = re.search(rb"/Type\s*/Pages\b.*?/Kids\s*\[(.*?)\]", pdf, re.S)
    assert kids is not None
    pages = re.findall(rb"(\d+) 0 R", kids.group(1))
    places = dict(re.findall(rb"/Title \(([^)]*)\)\s*/Dest \[(\d+) 0 R", pdf))
    assert places[b"Examples"] == places[b"Risks"] == pages[0]
    # Chromium 156 writes the title of a heading at the top of a page twice
    top = re.search(
        rb"/Title \((?:What did 4-bit cost\?)+\)\s*/Dest \[(\d+) 0 R\s*/XYZ [\d.]+ ([\d.]+)", pdf
    )
    assert top is not None and top.group(1) == pages[1] and float(top.group(2)) > 780


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (380, "light")])
def test_the_report_fits_its_window(page, report, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.set_content(report)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE, ".scroll") == []
    for summary in page.locator("summary:visible").all():
        if summary.evaluate("element => !element.parentElement.open"):
            summary.click()
    assert page.evaluate(TOO_WIDE, ".scroll") == []
    assert page.evaluate(OVERLAPPING) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_marks_of_the_charts_are_where_they_should_be(page, report):
    page.set_content(report)
    lane = page.locator("#quality .interval-row .lane").first
    point, box = lane.locator("circle.point"), lane.bounding_box()
    mark, at = point.bounding_box(), float(str(point.get_attribute("cx")).rstrip("%"))
    assert box is not None and mark is not None
    middle = box["x"] + at / 100 * box["width"]
    assert mark["x"] + mark["width"] / 2 == pytest.approx(middle, abs=2)
    assert abs(mark["y"] + mark["height"] / 2 - box["y"] - box["height"] / 2) < 1.5


def test_links_of_the_report_stay_in_the_frame_of_the_app(page, report):
    page.set_content(f"<h1>The app</h1>{report_frame(report)}")
    frame = page.frames[1]
    frame.get_by_role("link", name="Exports", exact=True).click()
    expect(
        page.frame_locator("iframe").get_by_text("Which export keeps the measured quality")
    ).to_be_in_viewport()
    assert page.frames[1].url == "about:srcdoc#exports"
