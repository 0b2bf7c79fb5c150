"""Editing data in a browser: pasted pairs, an edited cell, and a study created with unsaved edits."""

import pytest
from playwright.sync_api import Page, expect

from assistant_builder.data import load_pairs
from assistant_builder.study import Study

pytestmark = pytest.mark.browser

PASTED = "متى يفتح المكتب؟\tيفتح في الثامنة.\nWo ist das Büro?\tAm Pier.\nHow much?\t\nWho?\tThe clerk does it.\n"


def edit_cell(page: Page, *, row: int, column: int) -> None:
    """Open a cell of the row editor, and wait until it takes what is typed."""
    cell = page.locator(
        f"#ab-edit-table [role=row][aria-rowindex='{row}'] [aria-colindex='{column}']"
    ).first
    cell.dblclick()
    expect(cell.locator("textarea, input")).to_be_focused()


@pytest.mark.long
def test_other_wordings_are_pasted_looked_over_and_used(page, at_site, tmp_path):
    file = tmp_path / "bakery.csv"
    rows = "".join(
        f"What does loaf {n * 7919} cost?,It is {n} crowns today.\n" for n in range(1, 31)
    )
    file.write_text(f"question,answer\n{rows}")
    page.goto(f"{at_site.start_url}&study=&tab=data")
    page.wait_for_function("window.abArrived")
    page.locator("#ab-file input[type=file]").set_input_files(str(file))
    expect(page.locator("#ab-once")).to_contain_text("Each answer occurs once", timeout=20_000)
    page.locator("#ab-wordings-paste textarea").fill(
        "".join(f"Price of number {n}, please?\tIt is {n} crowns today.\n" for n in range(1, 31))
    )
    page.locator("#ab-wordings-match").click()
    expect(page.locator("#ab-wordings-table")).to_contain_text("Price of number 2, please?")
    page.locator("#ab-wordings-table [role=row] input[type=checkbox]:visible").nth(1).click()
    page.locator("#ab-wordings-use").click()
    expect(page.locator("#ab-brief")).to_contain_text("59 of 59 rows can be used", timeout=20_000)
    page.locator("#ab-name input, #ab-name textarea").fill("Krumm & Linde Bäckerei")
    page.locator("#ab-create").click()
    expect(page.locator("#ab-strip")).to_contain_text("Krumm & Linde Bäckerei", timeout=60_000)
    source = Study.open("krumm-linde-baeckerei").source
    assert source is not None and len(load_pairs(source).pairs) == 59


@pytest.mark.long
def test_a_study_is_created_from_pasted_and_edited_pairs(page, at_site):
    page.goto(f"{at_site.start_url}&study=&tab=data")
    page.wait_for_function("window.abArrived")
    page.get_by_role("button", name="Or paste pairs").click()
    page.locator("#ab-paste-text textarea").fill(PASTED)
    page.locator("#ab-paste-use").click()
    expect(page.locator("#ab-brief")).to_contain_text("3 of 4 rows can be used", timeout=20_000)
    with page.expect_download() as download:
        page.locator("#ab-left-out").click()
    assert "4,the answer is empty,How much?," in download.value.path().read_text(
        encoding="utf-8-sig"
    )

    page.get_by_role("button", name="Edit rows, and check again").click()
    edit_cell(page, row=2, column=4)
    page.keyboard.type("=5 Euro")
    page.keyboard.press("Enter")
    page.locator("#ab-edit-check").click()
    expect(page.locator("#ab-edit-message")).to_contain_text("1 cell changed", timeout=20_000)
    expect(page.locator("#ab-brief")).to_contain_text("4 of 4 rows can be used", timeout=20_000)
    expect(page.locator("#ab-edit-table")).to_contain_text("Am Pier.", timeout=20_000)

    edit_cell(page, row=3, column=4)
    page.keyboard.press("End")
    page.keyboard.type(" Rechts.")
    page.keyboard.press("Enter")
    page.locator("#ab-name input, #ab-name textarea").fill("edited")
    page.locator("#ab-create").click()  # the study includes edits that were not checked
    expect(page.locator("#ab-strip")).to_contain_text("edited", timeout=20_000)
    source = Study.open("edited").source
    assert source is not None
    assert [(pair.question, pair.answer) for pair in load_pairs(source).pairs] == [
        ("متى يفتح المكتب؟", "يفتح في الثامنة."),
        ("Wo ist das Büro?", "Am Pier. Rechts."),
        ("How much?", "=5 Euro"),
        ("Who?", "The clerk does it."),
    ]
