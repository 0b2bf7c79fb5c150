"""Talking to both assistants on the page, with a worker process that needs no model."""

import json
import re
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from assistant_builder.atomic_io import write_text
from tests.browser.serving import Site, free_port, start_site
from tests.chat.fake_worker import parrot_command
from tests.synthetic_study import finished_study, new_study

pytestmark = pytest.mark.browser


STORED = "JSON.stringify(localStorage)"

SERVE = """
import os, sys
from assistant_builder.chat.client import WorkerPool
from assistant_builder.ui.train import actions
from assistant_builder.runner import invalidation
actions.start_run = lambda name: None  # nothing is trained here
invalidation.step_inputs = lambda study, step, **_: study.step(step).inputs  # the study is made by hand, of no inputs
from assistant_builder.ui.app import build_app
from assistant_builder.ui.server import serve_page
from assistant_builder.web.access import Access
serve_page(lambda: build_app(WorkerPool(sys.argv[1:])), Access(port=int(os.environ["GRADIO_SERVER_PORT"])))
"""


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page on a finished study whose assistants repeat the question."""
    home = tmp_path_factory.mktemp("chat") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        for study in (finished_study("parrots"), finished_study("spare")):
            for arm in ("qlora", "lora"):
                write_text(
                    study.arm_folder(arm) / "adapter" / "adapter_model.safetensors", "feathers"
                )
        # else it is not started unasked
        study.write_config(study.config.with_changes({"eval.judge_url": None}))
        new_study("untrained")
    site = start_site(home, free_port(), [sys.executable, "-c", SERVE, *parrot_command(home)])
    yield site
    assert site.process is not None
    site.process.terminate()
    site.process.wait(timeout=20)


def ask(page: Page, question: str) -> None:
    page.locator("#ab-question textarea").fill(question)
    page.locator("#ab-send").click()


@pytest.mark.long
def test_each_window_has_its_own_conversation(page, chat, browser):
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    ask(page, "my secret")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:secret")
    other = browser.new_context().new_page()
    other.goto(f"{chat.start_url}&study=parrots&tab=chat")
    ask(other, "another matter")
    expect(other.locator("#ab-pane-lora")).to_contain_text("lora:another")
    expect(other.locator("#ab-pane-lora")).not_to_contain_text("secret")
    other.context.close()


@pytest.mark.long
def test_a_decline_says_why_and_its_buttons_ask(page, chat):
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    ask(page, "near miss")
    pane = page.locator("#ab-pane-qlora")
    expect(pane.locator("[data-action=suggested]")).to_have_text(["one question", "another"])
    pane.get_by_text("Why did it decline this?").click()
    expect(pane.get_by_text("Nothing is near.")).to_be_visible()
    expect(pane.get_by_text("Add a row.")).to_be_visible()
    pane.locator("[data-action=suggested]").last.click()
    for arm in ("qlora", "lora"):
        expect(page.locator(f"#ab-pane-{arm}")).to_contain_text(f"{arm}:another")


@pytest.mark.long
@pytest.mark.parametrize(("width", "height"), [(1366, 700), (390, 844)])
def test_the_question_box_stays_in_view(page, chat, width, height):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    expect(page.locator("#ab-question textarea")).to_be_in_viewport(ratio=1)
    expect(page.locator("#ab-send")).to_be_in_viewport(ratio=1)
    page.locator("#ab-examples button").first.click()
    answer = page.locator("#ab-pane-lora [data-action=correct]")
    expect(answer).to_be_attached()
    expect(page.locator("#ab-examples button").first).to_be_hidden()
    page.locator("#ab-chat-options").get_by_text("Options").click()
    expect(page.locator("#ab-base")).to_be_in_viewport()
    expect(page.locator("#ab-question textarea")).to_be_in_viewport(ratio=1)
    page.locator("#ab-chat-options").get_by_text("Options").click()
    if width == 390:
        small = page.locator(
            "#ab-study button, #ab-top button, #ab-question textarea"
        ).evaluate_all(
            "all => all.filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 44)"
            ".map(one => one.outerHTML)"
        )
        assert small == [] and page.evaluate("document.documentElement.scrollWidth") == 390
    answer.click()
    form = page.locator("#ab-pane-lora form")
    expect(form.locator("[name=answer]")).to_be_focused()
    for part in (form.locator("[name=answer]"), form.get_by_role("button", name="Save correction")):
        expect(part).to_be_in_viewport(ratio=0.9)
        assert part.evaluate("""part => {
            const { x, y, width, height } = part.getBoundingClientRect();
            return part.contains(document.elementFromPoint(x + width / 2, y + height / 2));
        }"""), "nothing covers it"
    form.get_by_role("button", name="Cancel").click()
    expect(form).to_be_hidden()


@pytest.mark.long
def test_an_untrained_study_looks_answers_up_and_says_so(page, chat):
    page.goto(f"{chat.start_url}&study=untrained&tab=chat")
    expect(page.locator("#ab-copying")).to_contain_text("Looked up, not trained")
    ask(page, "When?")
    expect(page.locator("#ab-pane-copy")).to_contain_text("copy:When?")
    for element in ("#ab-side-a", "#ab-side-b", "#ab-blind", "#ab-only"):
        expect(page.locator(element)).to_be_hidden()
    page.reload()
    expect(page.locator("#ab-pane-copy")).to_contain_text("copy:When?")
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    expect(page.locator("#ab-copying")).to_be_hidden()
    expect(page.locator("#ab-side-copy")).to_be_hidden()
    page.locator("#ab-chat-options").get_by_text("Options").click()
    page.get_by_label("Look the answer up too").check()
    ask(page, "again?")
    expect(page.locator("#ab-pane-copy")).to_contain_text("copy:again?")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:again?")


@pytest.mark.long
def test_a_blind_vote_tells_who_is_who_only_afterwards(page, chat):
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    expect(page.locator("#ab-ready")).to_contain_text("loaded")
    page.get_by_label("Blind mode").check()
    seen = []
    for number in (1, 2):
        if page.locator("#ab-side-a .ab-turn").count():
            page.get_by_role("button", name="Clear conversation").click()
            expect(page.locator("#ab-side-a .ab-turn")).to_have_count(0)
        ask(page, f"blind question {number}")
        expect(page.locator("#ab-vote-a")).to_be_enabled()
        said = {
            side: page.locator(f"#ab-side-{side} [data-text]").last.inner_text() for side in "ab"
        }
        arms = {side: text.partition(":")[0] for side, text in said.items()}
        seen.append(arms)
        for side, text in said.items():
            shown = (
                page.locator(f"#ab-pane-side-{side}")
                .evaluate("pane => pane.outerHTML")
                .replace(text, "")
            )
            assert not re.search("lora|bit|tokens/s|MB", shown, re.IGNORECASE)
        page.locator("#ab-vote-b").press("Enter")
        winner = {"qlora": "Compact (QLoRA, 4-bit)", "lora": "Full (LoRA, 16-bit)"}[arms["b"]]
        expect(page.locator("#ab-outcome")).to_contain_text(f"You preferred {winner}")
        expect(page.locator("#ab-side-b .ab-was").last).to_have_text(f"{winner} · your choice")
    lines = (
        (chat.home / "studies" / "parrots" / "votes.jsonl").read_text(encoding="utf-8").splitlines()
    )
    recorded = [json.loads(line) for line in lines]
    assert [(vote["question"], vote["sides"], vote["vote"]) for vote in recorded] == [
        (f"blind question {number}", arms, "b") for number, arms in enumerate(seen, start=1)
    ]
    assert all(
        vote["answers"][arm].startswith(arm) for vote in recorded for arm in ("qlora", "lora")
    )
    compact, full = ([arms["b"] for arms in seen].count(arm) for arm in ("qlora", "lora"))
    expect(page.locator("#ab-tally")).to_contain_text(
        f"Compact {compact}, Full {full}: no preference"
    )
    page.reload()
    expect(page.get_by_label("Blind mode")).to_be_checked()
    expect(page.locator("#ab-tally")).to_contain_text("no preference shown")
    stored = page.evaluate(STORED)
    page.get_by_label("Blind mode").uncheck()
    page.wait_for_function(f"before => ({STORED}) !== before", arg=stored)
    for _ in range(2):
        for arm in ("qlora", "lora"):
            expect(page.locator(f"#ab-pane-{arm} [data-text]").last).to_contain_text(f"{arm}:blind")
        page.reload()


@pytest.mark.long
def test_a_reload_in_mid_chat_keeps_what_was_finished(page, chat):
    page.goto(f"{chat.start_url}&study=parrots&tab=chat")
    expect(page.locator("#ab-pane-lora")).to_be_visible()
    page.locator("#ab-chat-options").get_by_text("Options").click()
    page.wait_for_timeout(500)  # what opens is filled by the page once
    page.locator("#ab-system textarea").fill("Be a bird.")
    ask(page, "first")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:first")
    expect(page.locator("#ab-send")).to_be_enabled()
    ask(page, "long story")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:story")
    page.reload()
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:first")
    expect(page.locator("#ab-pane-lora")).to_contain_text("No answer:")
    page.locator("#ab-chat-options").get_by_text("Options").click()
    expect(page.locator("#ab-system textarea")).to_have_value("Be a bird.")
    page.locator("#ab-again").click()
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:story")
    page.locator("#ab-stop").click()
    expect(page.locator("#ab-pane-lora .ab-tools small")).to_have_text("stopped")
    expect(page.locator("#ab-pane-lora .ab-user")).to_have_count(2)


@pytest.mark.long
def test_a_wrong_answer_is_corrected_and_the_next_version_offered(page, chat):
    page.goto(f"{chat.start_url}&study=spare&tab=chat")
    ask(page, "Where do bicycles go?")
    page.get_by_role("button", name="Fix the answer 1 of Full").click()
    form = page.locator("#ab-pane-lora form")
    expect(form.locator("[name=question]")).to_have_value("Where do bicycles go?")
    form.locator("[name=answer]").fill("Behind the house.")
    form.get_by_role("button", name="Save correction").click()
    expect(page.locator("#ab-pane-lora .ab-corrected")).to_contain_text("Behind the house.")
    page.locator("#ab-corrections").get_by_text("Corrections (1)").click()
    expect(page.locator(".ab-corrections")).to_contain_text("Behind the house.")
    page.get_by_role("tab", name="Inbox").click()
    expect(page.locator("#ab-next-version")).to_have_text("Train the next version with 1 answer")


def tab_to(page: Page, name: str, *, most: int = 80) -> None:
    """Press Tab until the focus is on what has this name or text, and stays there while the page is drawn."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if name in focused(page):
            page.wait_for_timeout(500)
            if name in focused(page):
                return
    raise AssertionError(f"Tab does not reach {name!r}")


def focused(page: Page) -> str:
    """Name, text, label and placeholder of what has the focus."""
    return str(
        page.evaluate("""() => {
        const found = document.activeElement, label = found.labels?.[0]?.textContent;
        return found === document.body ? "" : [
            found.getAttribute("aria-label"), found.textContent, label, found.placeholder].join("|");
    }""")
    )


@pytest.mark.long
def test_the_keyboard_alone_goes_from_the_file_to_the_chat(page, chat, tmp_path):
    file = tmp_path / "towers.csv"
    file.write_text(
        "question,answer\n"
        + "".join(f"How high is tower {n}?,It is {n * 7} metres.\n" for n in range(30))
    )
    page.on("filechooser", lambda chooser: None)  # from here on choosers are intercepted
    page.goto(chat.start_url)
    page.wait_for_function("window.abArrived")
    tab_to(page, "New project from my file")
    page.keyboard.press("Enter")
    expect(page.locator("#ab-file")).to_be_visible()
    tab_to(page, "Click to upload")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(str(file))
    expect(page.locator("#ab-brief")).to_contain_text("30 of 30 rows can be used", timeout=20_000)
    tab_to(page, "Name of the project")
    page.keyboard.press("Control+A")
    page.keyboard.type("Towers")
    tab_to(page, "Create the project")
    page.keyboard.press("Enter")
    expect(page.locator("#ab-strip")).to_contain_text("Towers", timeout=60_000)
    tab_to(page, "Start")
    page.goto(chat.start_url)
    page.wait_for_function("window.abArrived")
    tab_to(page, "Open parrots")
    page.keyboard.press("Enter")
    expect(page.locator("#ab-strip")).to_contain_text("parrots")
    tab_to(page, "Chat with it")
    page.keyboard.press("Enter")
    expect(page.locator("#ab-question textarea")).to_be_visible()
    tab_to(page, "Your question")
    page.keyboard.type("good day")
    page.keyboard.press("Enter")
    expect(page.locator("#ab-pane-lora")).to_contain_text("lora:good lora:day")
