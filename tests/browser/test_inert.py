"""Hostile text on every tab of the page runs no script and causes no request."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from assistant_builder.atomic_io import read_jsonl, write_jsonl, write_text
from tests.browser.serving import Site, free_port, start_site, tabs_of
from tests.browser.test_chat import SERVE
from tests.chat.fake_worker import parrot_command
from tests.synthetic_study import evaluated, new_study, reported, trained, with_data

pytestmark = pytest.mark.browser

EVIL = "http://evil.invalid"
PLANTED = (
    f'<img src="{EVIL}/1.png" onerror="window.bad=1">',
    "<script>window.bad=2</script>",
    f"![picture]({EVIL}/3.png)",
    "[link](javascript:window.bad=4) <a href='javascript:window.bad=5' autofocus onfocus='window.bad=5'>go</a>",
    f"<div style=\"background:url('{EVIL}/6.png')\" onmouseover='window.bad=6'>hover</div>",
    f"<style>@import '{EVIL}/7.css'; body {{ background: url({EVIL}/8.png) }}</style>",
    f"<svg onload='window.bad=9'><image href='{EVIL}/9.png'/></svg>",
    "<iframe srcdoc='<script>top.bad=11</script>'></iframe>",
    f"$$\\href{{javascript:window.bad=10}}{{x}} \\includegraphics{{{EVIL}/10.png}}$$ $\\htmlData{{a=b}}{{c}}$",
    f"<base href='{EVIL}/'><link rel='prefetch' href='{EVIL}/11'><meta http-equiv='refresh' content='0;url={EVIL}/12'>",
    f"</textarea></template></script></style>--><object data='{EVIL}/13'></object><video src='{EVIL}/14' autoplay>",
    "{{ 7*7 }} {% raw %} \u202eright to left\u202c \u200bzero\u200b width",
)
ALL = " ".join(PLANTED)
TABS = ("data", "plan", "train", "evaluate", "chat", "report", "export")
UNFOLD = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
LIVE = """evil => [...document.querySelectorAll('*')].filter(element => [...element.attributes].some(attribute =>
  attribute.name.startsWith('on') && attribute.value.includes('window.bad')
  || ['src', 'href', 'data', 'poster'].includes(attribute.name) && /javascript:|evil/.test(attribute.value)
  || attribute.name === 'style' && attribute.value.includes(evil))).map(element => element.outerHTML.slice(0, 200))"""


def hostile_data(folder: Path) -> Path:
    """A data file with hostile questions, answers, groups and column names."""
    rows = []
    for number in range(60):
        planted = PLANTED[number % len(PLANTED)]
        rows.append(
            {
                "question": f"Question {number}: what of shelf {number * 7919} {planted}?",
                "answer": f"Answer {number}: row {number * 104729 % 1000} of it {planted}",
                "group": f"g{number} {planted}",
                ALL: "x",
            }
        )
    rows.append({"question": "", "answer": ALL})
    path = folder / "hostile.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page on a finished study with hostile text in every file; its assistants repeat the question."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        study = new_study(
            "planted", hostile_data(home), data__system=ALL, eval__bootstrap_resamples=200
        )
        evaluated(trained(with_data(study)))
        for samples in (study.folder / "evals").glob("*/samples.jsonl"):
            write_jsonl(
                samples,
                [
                    {
                        **sample,
                        "answer": None
                        if sample["answer"] is None
                        else f"{samples.parent.name} says {ALL}",
                    }
                    for sample in read_jsonl(samples)
                ],
            )
        reported(study)
        for arm in ("qlora", "lora"):
            write_text(study.arm_folder(arm) / "adapter" / "adapter_model.safetensors", "feathers")
            write_text(study.arm_folder(arm) / "log.txt", ALL)
    site = start_site(home, free_port(), [sys.executable, "-c", SERVE, *parrot_command(home)])
    yield site
    assert site.process is not None
    site.process.terminate()
    site.process.wait(timeout=20)


@pytest.fixture
def watched(page: Page) -> Iterator[Page]:
    """A page that must open no dialog and no window; the ``page`` fixture checks for requests to other hosts."""
    opened: list[str] = []
    page.on("dialog", lambda dialog: (opened.append(dialog.message), dialog.dismiss()))
    page.on("popup", lambda popup: opened.append(popup.url))
    page.on(
        "framenavigated", lambda frame: opened.append(frame.url) if "evil" in frame.url else None
    )
    yield page
    assert opened == []


def nothing_ran(page: Page) -> None:
    for frame in page.frames:  # the report is in a frame that the page cannot access
        assert frame.evaluate("window.bad ?? null") is None, frame.url
        assert frame.evaluate(LIVE, EVIL) == [], frame.url


@pytest.mark.long
def test_no_tab_runs_or_fetches_anything(watched, hostile):
    page = watched
    shown = 0
    for tab in tabs_of(page, hostile.start_url, "planted", TABS):
        page.wait_for_timeout(300)
        if tab == "evaluate":
            page.get_by_role("button", name="For specialists").click()
        page.evaluate(UNFOLD)
        page.wait_for_timeout(200)
        nothing_ran(page)
        shown += page.locator("body").inner_text().count("window.bad")
    assert shown > 20, "the hostile text is shown as text"


@pytest.mark.long
def test_a_conversation_runs_and_fetches_nothing(watched, hostile):
    page = watched
    page.goto(f"{hostile.start_url}&study=planted&tab=chat")
    page.locator("#ab-question textarea").fill(ALL)
    page.locator("#ab-send").click()
    pane = page.locator("#ab-pane-lora")
    expect(pane).to_contain_text("lora:<script>window.bad=2</script>")
    expect(pane.locator("[data-action=correct]")).to_be_visible()
    nothing_ran(page)
    pane.locator("[data-action=correct]").click()
    expect(pane.locator("form textarea").first).to_be_focused()
    nothing_ran(page)


@pytest.mark.long
def test_an_upload_runs_and_fetches_nothing(watched, hostile):
    page = watched
    page.goto(f"{hostile.start_url}&study=&tab=data")
    page.wait_for_function("window.abArrived")
    page.locator("#ab-file input[type=file]").set_input_files(str(hostile.home / "hostile.jsonl"))
    page.get_by_role("button", name="Edit rows, and check again").click()
    expect(page.locator("#ab-edit-table")).to_contain_text("window.bad")
    page.wait_for_timeout(500)
    nothing_ran(page)
