"""The walk of a user with a spreadsheet, from home to a useful answer, a correction, and the answer after it."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Locator, expect

from assistant_builder.models import bundled
from assistant_builder.study import Study
from tests.browser.serving import Site, free_port, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3000)]
MINUTES = 60_000.0
with Path(__file__).with_name("nursery.csv").open(encoding="utf-8", newline="") as file:
    HEADER, *NURSERY = csv.reader(file)  # question, answer; every answer occurs once


@pytest.fixture(scope="module")
def walk_site(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Iterator[Site]:
    """The page of a new user, with the bundled models downloaded."""
    home = tmp_path_factory.mktemp("walk") / "home"
    (home / "models").mkdir(parents=True)
    for bundle in bundled.BUNDLES:
        (home / "models" / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    with serving(home, free_port()) as site:
        yield site


def test_from_a_spreadsheet_to_a_useful_answer_and_a_correction(
    page, walk_site, tmp_path, monkeypatch
):
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(walk_site.home))
    book = openpyxl.Workbook()
    for row in (HEADER, *NURSERY):
        book.active.append(row)
    book.save(tmp_path / "Grün & Söhne.xlsx")
    clicks = 0

    def click(target: Locator, timeout: float = MINUTES) -> None:
        nonlocal clicks
        target.click(timeout=timeout)
        clicks += 1

    page.goto(walk_site.start_url)
    click(page.get_by_role("button", name="New project from my file"))
    page.locator("#ab-file input[type=file]").set_input_files(str(tmp_path / "Grün & Söhne.xlsx"))
    clicks += 2  # the box, and the file
    expect(page.locator("#ab-once")).to_contain_text("once")
    click(page.locator("#ab-create"))
    # gradio leaves the ampersand out of a file's name
    expect(page.locator("#ab-strip")).to_contain_text("Grün")
    study = only_study(walk_site, ())
    # so that a test run trains one assistant, for a few steps, and scores what the walk looks at
    study.write_config(
        study.config.with_changes(
            {
                "arms": ["lora"],
                "train.preset": "custom",
                "train.max_steps": 24,
                "train.evaluations": 1,
                "eval.cells": ["B16", "L16"],
                "eval.retention": False,
                "eval.noise_floor": False,
                "eval.fidelity": False,
                "formats.types": [],
            }
        )
    )
    page.goto(f"{walk_site.start_url}&study={study.name}&tab=train")
    page.wait_for_function("window.abArrived")
    click(page.locator("#ab-start"), 3 * MINUTES)
    wait_until_done(study)

    click(page.get_by_role("tab", name="Chat"), 2 * MINUTES)
    click(page.locator("#ab-examples button").first, 2 * MINUTES)
    pane = page.locator("#ab-pane-lora")
    expect(pane.locator("[data-action=correct]")).to_be_visible(timeout=4 * MINUTES)
    question = pane.locator(".ab-user").inner_text()
    assert pane.locator("[data-text]").inner_text() == dict(NURSERY)[question]
    assert clicks <= 9

    corrected = "Das hat sich geändert: Fragen Sie bitte Frau Böhm unter 0711 555 0199."
    pane.locator("[data-action=correct]").click()
    pane.locator("textarea[name=answer]").fill(corrected)
    pane.get_by_role("button", name="Save correction").click()
    page.get_by_role("tab", name="Inbox").click()
    page.locator("#ab-next-version").click()
    again = only_study(walk_site, (study.name,))
    wait_until_done(again)
    page.goto(f"{walk_site.start_url}&study={again.name}&tab=chat")
    page.locator("#ab-question textarea").fill(question)
    page.locator("#ab-send").click()
    expect(page.locator("#ab-pane-lora [data-text]")).to_have_text(corrected, timeout=4 * MINUTES)


def only_study(site: Site, others: tuple[str, ...]) -> Study:
    """The study besides the others, once it exists."""
    for _ in range(120):
        found = [path.parent.name for path in (site.home / "studies").glob("*/study.yaml")]
        (name, *_), more = ([each for each in found if each not in others] or [""]), found
        if name and len(more) == len(others) + 1:
            return Study.open(name)
        time.sleep(0.5)
    raise AssertionError("no project was made")


def wait_until_done(study: Study) -> None:
    """Wait until a study has its report."""
    for _ in range(2400):
        if study.state == "succeeded" and (study.folder / "report.json").is_file():
            return
        assert study.state not in ("failed", "lost", "cancelled"), study.state
        time.sleep(0.5)
    raise AssertionError(f"the study is {study.state} after twenty minutes")
