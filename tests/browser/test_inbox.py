"""From a visitor's question to the next version: the bubble, the inbox, the verdict, and the bubble again."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from assistant_builder.chat.visitor_log import log_file, opened
from assistant_builder.models import bundled
from assistant_builder.study import Study
from assistant_builder.study.versions import add_version, read_versions
from tests.browser.serving import free_port, serving
from tests.browser.test_accessibility import serious
from tests.chat.test_inbox import keep
from tests.evals.study_compare.scored_studies import make

pytestmark = pytest.mark.browser
MINUTES = 60_000.0


def asked(study: Study) -> None:
    keep(
        study,
        ("Can I renew by phone?", "I don't know.", True, None),
        ("Is there parking?", "By bus.", False, -1),
        ("Can I renew by phone", "I don't know.", True, None),
        ("When do you open?", "At nine.", False, 1),
    )
    with opened(log_file(study)) as connection:
        connection.execute("UPDATE question SET time = time - 1e6 WHERE id = 'q-3'")


@pytest.mark.long
def test_the_keyboard_answers_a_group_and_publishes_a_version(page, at_site):
    study = make("library")
    asked(study)
    page.goto(f"{at_site.start_url}&study=library&tab=inbox")
    expect(page.locator("#ab-inbox-overview")).to_contain_text(
        "Share of the questions that were answered"
    )
    group = page.get_by_role("button", name="Can I renew by phone?")
    group.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ab-answer-text textarea")).to_be_focused()
    page.keyboard.type("Yes, call 555.")
    page.locator("#ab-answer-accept").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#ab-next-version")).to_contain_text("with 1 answer")
    expect(page.locator("#ab-inbox")).not_to_contain_text("renew")
    page.get_by_role("button", name="Is there parking?").click()
    expect(page.locator("#ab-answer-text textarea")).to_have_value("")
    page.get_by_role("button", name="Copy into the answer").click()
    # what the visitor suggested
    expect(page.locator("#ab-answer-text textarea")).to_have_value("Two weeks.")
    page.locator("#ab-answer-close").click()
    expect(page.locator("#ab-answer")).to_be_hidden()
    add_version(study, make("library-v2"))
    expect(page.locator("#ab-versions")).to_contain_text("library-v2 is no worse than library")
    page.locator("#ab-publish").click()
    expect(page.locator("#ab-versions")).to_contain_text("Served: library-v2")
    page.locator("#ab-undo-version").click()
    expect(page.locator("#ab-versions")).to_contain_text("Served: library")
    expect(page.locator("#ab-undo-version")).to_be_hidden()


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_in_the_inbox_keeps_anyone_out(browser, at_site, width, scheme):
    study = make(f"hall-{width}")
    asked(study)
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{at_site.start_url}&study={study.name}&tab=inbox&__theme={scheme}")
    page.get_by_role("button", name="Can I renew by phone?").click()
    expect(page.locator("#ab-answer-text textarea")).to_be_visible()
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@contextmanager
def served_widget(home: Path, name: str) -> Iterator[str]:
    """``serve NAME --widget --remember texts``; yields its address."""
    port = free_port()
    environment = {**os.environ, "ASSISTANT_BUILDER_HOME": str(home), "OMP_NUM_THREADS": "2"}
    command = [
        sys.executable,
        "-m",
        "assistant_builder",
        "serve",
        name,
        "--widget",
        "--remember",
        "texts",
        "--port",
        str(port),
        "--contact",
        "ask@towers.example",
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and "at http" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(page: Page, question: str) -> str:
    """The answer of the bubble's page."""
    box = page.get_by_role("textbox", name="Your question")
    box.fill(question)
    box.press("Enter")
    answers = page.get_by_role("log").locator(".turn:not(.you)")
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=3 * MINUTES)
    return answers.last.inner_text()


@pytest.mark.long
@pytest.mark.train
@pytest.mark.timeout(1800)
def test_a_visitors_question_is_answered_by_the_next_version(
    browser, page, tmp_path, model_cache, monkeypatch
):
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    for bundle in bundled.BUNDLES:
        (home / "models" / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(home))
    file = tmp_path / "towers.csv"
    rows = "".join(
        f'"How tall is tower {n}, in metres?","Tower {n} is {n * 7} metres tall."\n'
        for n in range(24)
    )
    file.write_text(f"question,answer\n{rows}", encoding="utf-8")
    settings = {
        "arms": "lora",
        "train.max_steps": 12,
        "train.evaluations": 1,
        "eval.max_new_tokens": 16,
        "formats.types": "[]",
        "eval.retention": "false",
        "eval.noise_floor": "false",
        "eval.fidelity": "false",
        "eval.baselines": "false",
        "eval.cells": "L16",
        "retrieval.train_embedder": "false",
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(
        [sys.executable, "-m", "assistant_builder", "run", str(file), "--name", "towers", *changes],
        check=True,
        timeout=1200,
        stdout=subprocess.DEVNULL,
    )
    question, answer = "Can I climb the towers at night?", "Yes, on the first Friday of each month."
    with served_widget(home, "towers") as url, serving(home, free_port()) as site:
        visitor = browser.new_page()
        visitor.goto(f"{url}/chat")
        assert answer not in ask(visitor, question)
        visitor.get_by_role("button", name="Not helpful", exact=True).last.click()
        page.goto(f"{site.start_url}&study=towers&tab=inbox")
        page.get_by_role("button", name=question).click()
        page.locator("#ab-answer-text textarea").fill(answer)
        page.locator("#ab-answer-accept").click()
        page.locator("#ab-next-version").click()
        expect(page.locator("#ab-versions")).to_contain_text("towers-v2")
        publish = page.locator("#ab-publish")
        expect(publish).to_be_visible(timeout=15 * MINUTES)  # the verdict is there
        publish.click()
        expect(page.locator("#ab-versions")).to_contain_text("Served: towers-v2")
        for _ in range(60):
            if answer in ask(visitor, question):
                break
            visitor.wait_for_timeout(2_000)
        assert answer in ask(visitor, question)
        page.locator("#ab-undo-version").click()
        expect(page.locator("#ab-versions")).to_contain_text("Served: towers")
        visitor.close()
    assert [event.action for event in read_versions(Study.open("towers")).events] == [
        "created",
        "published",
        "undone",
    ]
