"""From an upload to an exported assistant, with four real layers, on a study of two steps."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from assistant_builder.models import bundled
from tests.browser.serving import Site, free_port, serving

pytestmark = [pytest.mark.browser, pytest.mark.train, pytest.mark.timeout(1500)]
MINUTES = 60_000.0


@pytest.fixture(scope="module")
def real_sites(
    tmp_path_factory: pytest.TempPathFactory, model_cache: Path
) -> Iterator[tuple[Site, Site]]:
    """The page, served twice over one home, with the bundled models at hand."""
    home = tmp_path_factory.mktemp("whole") / "home"
    (home / "models").mkdir(parents=True)
    for bundle in bundled.BUNDLES:
        (home / "models" / bundle.name).symlink_to(model_cache / "models" / bundle.name)
    with serving(home, free_port()) as one, serving(home, free_port()) as other:
        yield one, other


@pytest.mark.long
def test_from_upload_to_a_file_to_hand_on(page, real_sites, short_base, tmp_path):
    """The server that began it is killed while an arm is trained; the other one shows the same and goes on with it."""
    site, other = real_sites
    file = tmp_path / "towers.csv"
    rows = "".join(
        f'"How tall is tower {n}, in metres?","Tower {n} is {n * 7} metres tall."\n'
        for n in range(24)
    )
    file.write_text(f"question,answer\n{rows},no question\n", encoding="utf-8")
    page.goto(f"{site.start_url}&study=&tab=data")
    page.wait_for_function("window.abArrived")
    page.locator("#ab-file input[type=file]").set_input_files(str(file))
    expect(page.locator("#ab-found")).to_contain_text("Usable pairs")
    expect(page.locator("#ab-found")).to_contain_text("the question is empty")
    expect(page.locator("#ab-create")).to_be_in_viewport(ratio=1)
    page.locator("#ab-create").click()
    expect(page.locator("#ab-strip")).to_contain_text("towers")
    page.get_by_role("tab", name="Plan").click()
    expect(page.locator("#ab-plan")).to_contain_text("Memory by component")
    page.locator("#ab-after-plan").click()

    base = page.locator("#ab-model-base input")
    base.fill(str(short_base))
    base.press("Enter")
    page.get_by_role("button", name="Advanced").click()
    for option, value in (
        ("train-max_steps", "2"),
        ("train-evaluations", "1"),
        ("eval-max_new_tokens", "8"),
        ("formats-types", ""),
    ):
        page.locator(f"#ab-{option}").locator("input:visible, textarea:visible").first.fill(value)
    for option in (
        "eval-retention",
        "eval-noise_floor",
        "eval-fidelity",
        "eval-baselines",
    ):  # test_run has them all
        page.locator(f"#ab-{option} input[type=checkbox]").uncheck()
    for cell in ("L4", "Q16", "QD", "QR", "LM", "LR"):
        page.locator("#ab-eval-cells").get_by_label(cell, exact=True).uncheck()
    expect(page.get_by_text("Very few training pairs")).to_be_visible()
    page.locator("#ab-start").click()
    expect(page.locator("#ab-run")).to_contain_text("Training", timeout=3 * MINUTES)
    page.goto(f"{other.start_url}&study=towers&tab=train")
    expect(page.locator("#ab-strip")).to_contain_text("towers")
    expect(page.locator("#ab-run")).to_contain_text("Training")
    expect(page.locator("#ab-start")).to_be_hidden()  # it runs, whoever began it
    assert site.process is not None
    site.process.kill()

    page.get_by_role("tab", name="Report").click(timeout=8 * MINUTES)  # it opens once there is one
    report = page.frame_locator("#ab-report iframe")
    expect(report.get_by_role("heading", name="Is the assistant good enough?")).to_be_visible(
        timeout=8 * MINUTES
    )
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#ab-evaluation")).to_contain_text("Is it good enough?")

    page.get_by_role("tab", name="Chat").click()
    page.locator("#ab-chat-options").get_by_text("Options").click()
    longest = page.locator("#ab-chat-options").get_by_label("Maximum answer length")
    longest.fill("8")  # four layers find no end by themselves
    longest.press("Tab")
    page.locator("#ab-question textarea").fill("How tall is tower 3, in metres?")
    page.locator("#ab-send").click()
    for arm in ("qlora", "lora"):
        expect(page.locator(f"#ab-pane-{arm} [data-action=correct]")).to_be_visible(
            timeout=2 * MINUTES
        )
    page.get_by_label("Blind mode").check()
    page.locator("#ab-question textarea").fill("How tall is tower 4, in metres?")
    page.locator("#ab-send").click()
    page.locator("#ab-vote-both-bad").click(timeout=2 * MINUTES)
    expect(page.locator("#ab-tally")).to_contain_text("1 both bad")

    page.get_by_role("tab", name="Use it").click()
    page.locator("#ab-use-folder-start").click()
    with page.expect_download(timeout=4 * MINUTES) as download:
        page.get_by_text("Download .zip").locator("visible=true").click(timeout=4 * MINUTES)
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert any(name.endswith("model.safetensors") for name in names)
    assert any(name.endswith("README.md") for name in names)
    study = site.home / "studies" / "towers"
    assert (study / "report.json").is_file()
    assert len((study / "votes.jsonl").read_text().splitlines()) == 1
