"""The tab “Use it”: its cards, each state of an export drawn from its files, and a reload that finds it again."""

import ast
import json
import os
import re
import shlex
import time
from dataclasses import asdict, replace
from html import unescape
from types import SimpleNamespace
from typing import Any

import gradio as gr
import psutil
import pytest
from starlette.requests import Request

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.export.atomic_dir import describe_files
from assistant_builder.export.job import ExportJob, JobRecord
from assistant_builder.export.verify import Rescore
from assistant_builder.export_formats import ExportSpec
from assistant_builder.serving.auth import check_access
from assistant_builder.serving.endpoint_process import EndpointState, Websites
from assistant_builder.serving.website import Website, published_file
from assistant_builder.serving.widget import opening_examples, site_token
from assistant_builder.study import Study
from assistant_builder.ui.export import use
from assistant_builder.ui.export.tab import ExportTab
from assistant_builder.ui.export.view import (
    curl_line,
    endpoint_card,
    not_ready_warning,
    python_lines,
)
from assistant_builder.ui.refresh import StudyView
from assistant_builder.web.access import LOCAL
from evals.report.audience import Audience
from tests.synthetic_study import finished_study, new_study, trained, with_data
from tests.typed_report import as_report
from tests.ui.blocks import in_order, inside_blocks

SPEC = ExportSpec("lora", "merged")
HERE, ELSEWHERE = (
    gr.Request(request=Request({"type": "http", "headers": [], LOCAL: local}))
    for local in (True, False)
)
STATE = EndpointState("running", "http://127.0.0.1:4321/v1", "library")


def drawn(tab: ExportTab, study: Study, *, local: bool = True) -> dict[str, list[Any]]:
    look = StudyView(study.name, local=local)
    return {section.key: [section.mark(look), *section.values(look)] for section in tab.sections()}


def chosen(shown: dict[str, list[Any]]) -> tuple[str, str]:
    """Arm and form that the tab has selected."""
    arm, form = shown["export-choice"][1:3]
    return arm["value"], form


def exported(tab: ExportTab, study: Study, spec: ExportSpec, *, local: bool = True) -> list[Any]:
    """What the tab shows of an export that is chosen: the values of the outputs of its panel."""
    chosen = (spec.arm, spec.format, spec.type)
    updates = tab.panel.show(study.name, *chosen, HERE if local else ELSEWHERE)
    return in_order(updates, tab.panel.outputs)


def record_of(job: ExportJob, **more: Any) -> None:
    process = psutil.Process()
    values = {
        "state": "running",
        "target": str(job.files),
        "started": time.time(),
        "pid": process.pid,
        "process_started": process.create_time(),
        **more,
    }
    job.write(JobRecord(**values))


def finish(study: Study, spec: ExportSpec, outcome: str = "as measured", **more: Any) -> ExportJob:
    job = ExportJob(study, spec)
    job.files.mkdir(parents=True, exist_ok=True)
    (job.files / "model.safetensors").write_bytes(b"0" * 1000)
    (job.files / "Modelfile").write_text("FROM .")
    (job.files / "README.md").write_text("# Card <b>of</b> it")
    rescore = Rescore(outcome, cell=spec.cell, items=20)
    sha = read_json(study.arm_folder(spec.arm) / "summary.json")["adapter_sha256"]
    write_json(
        job.files / "export.json",
        {
            "adapter_sha256": sha,
            "chat_template": "ChatML",
            "rescore": asdict(rescore),
            "archive": None,
            "sentences": ["It was scored <i>again</i>."],
            "files": describe_files(job.files),
            **more,
        },
    )
    job.archive.write_bytes(b"zip")
    record_of(job, state="succeeded", seconds=31.0)
    return job


def test_before_training_copied_answers_can_be_used():
    study, tab = new_study(), inside_blocks(ExportTab)
    shown = drawn(tab, study)
    assert shown["export-body"][2]["visible"] and not shown["export-all"][1]["visible"]
    assert "Looked up, not trained" in shown["use-warning"][1]
    assert shown["use-ollama"][1] == "" and not shown["use-ollama"][3]["visible"]
    tab.cards.endpoint._endpoints = endpoints = OneEndpoint()
    tab.cards.endpoint._start("slack", study.name, HERE)
    assert endpoints.started == [("library", "copy")]


class Bubbles(Websites):
    """Websites whose processes are only counted."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[str, str]] = []

    def start(self, study: Study, arm: str) -> None:
        self.started.append((study.name, arm))
        url = f"http://127.0.0.1:{Website.of(study).port}/v1"
        self._states[study.name] = EndpointState("running", url, study.name, arm=arm)


def test_a_bubble_is_put_on_a_website_without_a_terminal_and_its_line_stays_valid(monkeypatch):
    study, tab = new_study(), inside_blocks(ExportTab)
    form = tab.cards.website
    form._websites = bubbles = Bubbles()
    monkeypatch.setattr(use, "WEBSITES", bubbles)
    asked = "When do you open?\n\n  May I bring  a dog? \n"
    fields: list[Any] = ["Linde", "www.example.com", "http://chat.example.com", "", asked]
    fields += [True, "copy", False, False]
    assert "no https address" in form._publish(study.name, *fields) and not bubbles.started
    assert "is no address" in form._publish(study.name, "Linde", "x y", *fields[2:])
    for wrong in ("localhost", "https://[x", "https://a.b;}<script>", "https://*.example.com"):
        assert "is no address" in form._publish(study.name, "Linde", wrong, *fields[2:])
    fields[2] = "chat.example.com/"
    assert "ready for customers" in form._publish(study.name, *fields) and not bubbles.started
    fields[-1] = True
    refused = form._publish(study.name, *fields[:4], "x" * 121, *fields[5:])
    assert "at most 120 characters" in refused and not bubbles.started
    form._publish(study.name, *fields)
    assert bubbles.started == [("library", "copy")]
    shown = drawn(tab, study)["use-website"]
    assert "Visitors get copied answers." in shown[1]
    website = Website.of(study)
    assert website.running and website.port and website.origin == "https://www.example.com"
    assert shown[7] == "When do you open?\nMay I bring  a dog?"
    assert opening_examples(study) == shown[7].splitlines()
    line = f"data-site=&#34;{site_token(study)}&#34;"
    assert line in shown[1] and "https://chat.example.com/widget.js" in shown[1]
    assert f"http://127.0.0.1:{website.port}" in shown[1] and shown[3] == "Linde"
    served = website.config()
    assert (served.allow_host, served.remember) == (("chat.example.com",), "texts")
    assert check_access(served, None) == [
        "only the paths of the widget are served; for /v1 set a key in ASSISTANT_BUILDER_API_KEY"
    ]
    # another start of the page
    bubbles.started.clear()
    use.resume_websites()
    assert bubbles.started == [("library", "copy")]
    trained(with_data(study))
    # a training lets nobody else answer, also not by a restart
    bubbles.started.clear()
    use.resume_websites()
    assert bubbles.started == [("library", "copy")]
    fields[6] = "tuned"
    assert "The bubble still looks answers up" in drawn(tab, study)["use-website"][1]
    form._publish(study.name, *fields)
    assert bubbles.started[-1] == ("library", "lora") and Website.of(study).port == website.port
    served_now = drawn(tab, study)["use-website"][1]
    assert line in served_now and "still looks" not in served_now
    assert "Visitors get answers of the trained assistant." in served_now
    assert drawn(tab, study)["use-website"][10]["visible"] is False  # its report promises nothing
    monkeypatch.setattr(use, "promised_threshold", lambda study, arm: 0.7)
    form._publish(study.name, *fields[:7], True, True)
    assert study.config.retrieval.keep_promise
    box = drawn(tab, study)["use-website"][10]
    assert box["visible"] and box["value"] is True
    form._withdraw(study.name)
    bubbles.started.clear()
    use.resume_websites()
    assert not bubbles.started and not Website.of(study).running


def test_copied_answers_are_served_until_training_is_shown_to_be_better(monkeypatch):
    study, tab = new_study(), inside_blocks(ExportTab)
    form = tab.cards.website
    form._websites = bubbles = Bubbles()
    monkeypatch.setattr(use, "WEBSITES", bubbles)
    trained(with_data(study))
    made = as_report({"exports": []})
    who = SimpleNamespace(who="customers"), SimpleNamespace(who="colleagues")
    copying, tuned = (
        (SimpleNamespace(copied=who[0], audience=who[1]), "copy"),
        (
            SimpleNamespace(copied=None, audience=who[1]),
            "lora",
        ),
    )
    monkeypatch.setattr(use, "study_report", lambda study: made)
    for conclusion, assistant in (copying, tuned):
        monkeypatch.setattr(
            use,
            "audience_of_copies",
            lambda study, found=conclusion: found.copied.who if found.copied else "",
        )
        assert use.answering_assistant(study) == assistant
    assert use.answering_assistant(study, "copy") == "copy"
    monkeypatch.setattr(use, "audience_of_copies", lambda study: "customers")
    monkeypatch.setattr(use, "report_conclusion", lambda report: copying[0])
    fields = ["Linde", "www.example.com", "chat.example.com", "", "", False, "copy", False, False]
    form._publish(study.name, *fields)
    assert bubbles.started[-1] == ("library", "copy") and Website.of(study).mode == ""
    drawn_now = drawn(tab, study)["use-website"]
    assert "still looks" not in drawn_now[1]
    assert (drawn_now[9]["value"], drawn_now[9]["visible"]) == ("copy", True)
    fields[6] = "tuned"
    assert "ready for customers" in form._publish(study.name, *fields), "they have another audience"
    form._publish(study.name, *fields[:-1], True)
    assert bubbles.started[-1] == ("library", "lora") and Website.of(study).mode == "tuned"
    bubbles.started.clear()
    use.resume_websites()
    assert bubbles.started == [("library", "lora")]


def test_the_tick_for_one_assistant_is_not_that_for_another(monkeypatch):
    study, tab = new_study(), inside_blocks(ExportTab)
    tab.cards.website._websites = bubbles = Bubbles()
    monkeypatch.setattr(use, "WEBSITES", bubbles)
    fields = ["Linde", "www.example.com", "chat.example.com", "", "", False, "copy", False, True]
    tab.cards.website._publish(study.name, *fields)
    assert drawn(tab, study)["use-website"][11]["value"] is True
    trained(with_data(study))
    assert drawn(tab, study)["use-website"][11] == gr.update(value=False, visible=True)


def test_a_study_of_somebody_else_publishes_nothing(monkeypatch):
    study, tab = new_study(), inside_blocks(ExportTab)
    form = tab.cards.website
    form._websites = bubbles = Bubbles()
    monkeypatch.setattr(use, "WEBSITES", bubbles)
    evil = Website(
        origin="https://evil.example", address="https://chat.evil.example", port=22, running=True
    )
    write_json(study.folder / "website.json", asdict(evil))
    use.resume_websites()
    assert not bubbles.started
    fields = ["Linde", "www.example.com", "chat.example.com", "", "", False, "copy", False, True]
    form._publish(study.name, *fields)
    assert Website.of(study).port != 22  # one that this program chooses
    bubbles.started.clear()
    write_json(study.folder / "website.json", asdict(evil))  # another study of the same name
    use.resume_websites()
    assert not bubbles.started
    if os.name == "posix":
        assert published_file().stat().st_mode & 0o777 == 0o600


def test_every_state_is_drawn_and_the_latest_is_chosen():
    study = finished_study(eval__primary_metric="nll_per_token", eval__margin=0.03)
    tab = inside_blocks(ExportTab)
    ready = drawn(tab, study)
    assert chosen(ready) == ("lora", "adapter")  # as advised: 4-bit was worse
    state, start, cancel, download, *_ = exported(tab, study, SPEC)
    assert "About <b>275 MB</b>" in state
    assert start["visible"]
    assert not cancel["visible"]
    assert not download["visible"]
    other = exported(tab, study, ExportSpec("qlora", "merged"))
    assert "into the original weights it would be another" in other[0]
    assert "Full (LoRA, 16-bit)" in ready["export-choice"][-1]

    job = ExportJob(study, SPEC)
    record_of(job, percent=62, message="Scoring it again: 8 of 20 items")
    busy = drawn(tab, study)
    assert chosen(busy) == ("lora", "merged")
    state, start, cancel, download, *_ = exported(tab, study, SPEC)
    assert "62 %: Scoring it again: 8 of 20 items" in state
    assert not start["visible"]
    assert cancel["visible"]
    assert busy["export-jobs"][0] != ready["export-jobs"][0]

    record_of(
        job,
        state="failed",
        error={"what": "the <disk> is full", "where": "here", "remedy": "Free space"},
    )
    assert "the &lt;disk&gt; is full" in exported(tab, study, SPEC)[0]
    record_of(job, process_started=1.0)
    assert "interrupted" in exported(tab, study, SPEC)[0]
    record_of(job, state="cancelled")
    assert "No files were written" in exported(tab, study, SPEC)[0]


def test_only_a_grounded_study_offers_its_facts(monkeypatch):
    started: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        ExportJob, "start", lambda job, *, with_data: started.append((job.study.name, with_data))
    )
    tab = inside_blocks(ExportTab)
    for name in ("memory", "grounded"):
        study = trained(with_data(new_study(name, approaches=[name])))
        shown = drawn(tab, study)
        offered = shown["export-choice"][4]
        assert (offered["visible"], offered["value"]) == (name == "grounded", False)
        assert ("look nothing up" in exported(tab, study, SPEC)[0]) is (name == "grounded")
        for included in (True, False):
            tab.panel.begin(study.name, SPEC.arm, SPEC.format, SPEC.type, included)
    assert started == [("memory", False)] * 2 + [("grounded", True), ("grounded", False)]


def copied(html: str) -> list[str]:
    """The texts of the page that have a button for copying."""
    return [unescape(text) for text in re.findall(r"data-text>(.*?)</pre>", html, re.DOTALL)]


def test_a_finished_export_is_told_offered_and_explained():
    study = finished_study()
    tab = inside_blocks(ExportTab)
    job = finish(study, SPEC)
    state, start, _, download, ways, _ = exported(tab, study, SPEC)
    assert "its scores match the evaluation" in state
    assert "scored &lt;i&gt;again" in state
    assert str(job.files) in state
    assert "# Card &lt;b&gt;of&lt;/b&gt;" in state
    assert download["visible"]
    assert download["value"].endswith(job.archive.name)
    assert start["value"] == "Export again"
    python, ollama, _, command = copied(ways)
    assert str(job.files) in python and "\nollama create library" in ollama
    assert (
        command
        == "assistant-builder export library --arm lora --format merged --to library-lora-merged"
    )

    finish(study, SPEC, "moved", adapter_sha256="another", chat_template=None)
    state = exported(tab, study, SPEC)[0]
    for words in (
        "score differently than in the evaluation",
        "trained again after this export",
        "has no template",
    ):
        assert words in state
    (job.files / "export.json").unlink()
    gone = exported(tab, study, SPEC)
    assert "The export is missing" in gone[0] and not gone[3]["visible"]


def test_the_file_that_the_report_names_is_chosen_and_other_types_can_be(monkeypatch):
    study = finished_study()
    report = study.folder / "report.json"
    write_json(
        report,
        {
            **read_json(report),
            "smallest_no_worse": {"name": "Q4_0", "arm": "qlora"},
            "formats_sentence": "The smallest file is <Q4_0>.",
        },
    )
    tab = inside_blocks(ExportTab)
    shown = drawn(tab, study)
    assert chosen(shown) == ("qlora", "gguf")
    assert "The smallest file is &lt;Q4_0&gt;." in shown["export-choice"][-1]
    assert shown["export-choice"][3]["value"] == "Q4_0"
    *_, ways, type = exported(tab, study, ExportSpec("qlora", "gguf"))
    (command,) = copied(ways)
    assert (
        type["value"] == "Q4_0"
        and "--format gguf --type Q4_0 --to library-qlora-gguf-Q4_0" in command
    )
    *_, ways, type = exported(tab, study, ExportSpec("lora", "gguf"))
    assert type["value"] == "Q8_0" and "--type" not in ways

    started: list[str] = []
    monkeypatch.setattr(ExportJob, "start", lambda job, *, with_data: started.append(job.spec.name))
    state, *_, ways, type = exported(tab, study, ExportSpec("qlora", "gguf", "BF16"))
    assert "Compact (QLoRA, 4-bit), GGUF BF16" in state
    assert type["value"] == "BF16"
    assert "--type BF16" in ways
    for name in ("BF16", "Q8_0"):
        tab.panel.begin(study.name, "qlora", "gguf", name, False)
    assert started == ["qlora-gguf-BF16", "qlora-gguf"]
    record_of(ExportJob(study, ExportSpec("qlora", "gguf", "Q5_1")), percent=10)
    assert drawn(tab, study)["export-choice"][3]["value"] == "Q5_1"


# the cards


class OneEndpoint:
    """Endpoints that run at once."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []

    def state(self, name: str | None) -> EndpointState:
        return replace(STATE, arm=self.started[0][1]) if self.started else EndpointState()

    def start(self, study: Study, arm: str) -> None:
        self.started.append((study.name, arm))

    def stop(self, name: str) -> None:
        self.started.clear()


def test_each_card_of_the_endpoint_starts_it_and_shows_what_its_reader_needs():
    study = finished_study()
    tab = inside_blocks(ExportTab)
    cards, endpoints = tab.cards.endpoint, OneEndpoint()
    cards._endpoints = endpoints
    before = drawn(tab, study)["use-endpoint"]
    assert "4321" not in str(before)
    assert [update["visible"] for update in before[4:]] == [True] * 3 + [False] * 3
    started = cards._start("computer", study.name, HERE)
    website, computer, programs, *buttons = in_order(started, cards.outputs)
    assert endpoints.started == [("library", "lora")], "the assistant that the report recommends"
    assert [update["visible"] for update in buttons] == [True, False, True, False, True, False]
    assert "4321" in computer and "4321" not in f"{website}{programs}", "one click opens one card"
    cards._start("website", study.name, HERE)
    started = cards._start("programs", study.name, HERE)
    website, computer, programs, *buttons = in_order(started, cards.outputs)
    assert len(endpoints.started) == 1, "one endpoint for all cards"
    assert [update["visible"] for update in buttons] == [False] * 3 + [True] * 3
    assert "http://127.0.0.1:4321/v1" in computer and "curl" in computer
    assert 'href="http://127.0.0.1:4321/chat"' in website
    assert "Open the chat" not in in_order(cards.updates(study.name, local=False), cards.outputs)[0]
    assert "OpenAI(base_url=" in programs and "Only programs on the computer" not in programs
    assert drawn(tab, study)["use-endpoint"][0] != before[0]
    assert (
        "Only programs on the computer"
        in in_order(cards.updates(study.name, local=False), cards.outputs)[1]
    )
    ended = cards._end("computer", study.name, HERE)
    assert "curl" not in in_order(ended, cards.outputs)[1]
    assert endpoints.started, "another card is open"
    for key in ("website", "programs"):
        ended = cards._end(key, study.name, HERE)
    assert not endpoints.started and "4321" not in str(in_order(ended, cards.outputs))


def test_an_endpoint_that_was_started_before_training_says_so():
    study = finished_study()
    cards, endpoints = inside_blocks(ExportTab).cards.endpoint, OneEndpoint()
    cards._endpoints, note = endpoints, "What you try here still looks answers up"
    cards._start("computer", study.name, HERE)
    assert note not in str(cards.updates(study.name, local=True))
    endpoints.started = [(study.name, "copy")]
    assert note in in_order(cards.updates(study.name, local=True), cards.outputs)[1]


def test_the_lines_of_the_endpoint_are_valid():
    name, *words = shlex.split(curl_line(STATE))
    assert name == "curl" and words[0] == "http://127.0.0.1:4321/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "library"
    ast.parse(python_lines(STATE))
    failed = endpoint_card(
        "computer", EndpointState("failed", error="<b>no</b> memory"), "x", local=True
    )
    assert "&lt;b&gt;no&lt;/b&gt; memory" in failed
    assert "Starting" in endpoint_card("computer", EndpointState("starting"), "x", local=True)


@pytest.mark.parametrize(("key", "name"), [("ollama", "lora-gguf"), ("folder", "lora-merged")])
def test_the_cards_of_files_write_and_offer_them(key, name, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(ExportJob, "start", lambda job, *, with_data: started.append(job.spec.name))
    study, tab = finished_study(), inside_blocks(ExportTab)
    card = next(job for job in tab.cards.jobs if job._key == key)
    spec = card._spec_of(study)
    _, shown, download, start, cancel, _ = drawn(tab, study)[f"use-{key}"]
    assert spec.name == name and "about" in shown and start["visible"] and not download["visible"]
    card._begin(study.name, HERE)
    assert started == [name]
    job = ExportJob(study, spec)
    record_of(job, percent=40, message="Merging")
    assert "40 %: Merging" in drawn(tab, study)[f"use-{key}"][1]
    card._end(study.name)
    assert job.cancel_requested
    record_of(
        job,
        state="failed",
        error={"what": "disk full", "where": "/secret/place", "remedy": "Free space"},
    )
    assert "/secret/place" in drawn(tab, study)[f"use-{key}"][1]
    assert "/secret/place" not in drawn(tab, study, local=False)[f"use-{key}"][1]
    finish(study, spec)
    _, shown, download, start, cancel, _ = drawn(tab, study)[f"use-{key}"]
    assert download["visible"] and start["value"] == "Write it again" and not cancel["visible"]
    assert f"{job.files}" in shown
    if key == "ollama":
        assert f"ollama create library -f {job.files}/Modelfile" in shown
        assert "ollama run library" in shown
    assert str(study.folder.parent) not in str(drawn(tab, study, local=False)[f"use-{key}"][1:])


def test_no_path_of_the_server_is_shown_on_another_machine():
    study, tab = finished_study(), inside_blocks(ExportTab)
    finish(study, SPEC)
    assert str(study.folder) in str(exported(tab, study, SPEC))
    far = exported(tab, study, SPEC, local=False)
    assert str(study.folder.parent) not in str([far[0], *far[4:]])
    assert "library-lora-merged" in far[4]


def test_the_tab_warns_if_the_report_does_not_say_good_enough(monkeypatch):
    assert "Not measured yet" in not_ready_warning(None)
    study, tab = finished_study(), inside_blocks(ExportTab)
    found = SimpleNamespace(
        ready=False,
        good_enough="0 of 14 <b>right</b>.",
        action="Add wordings.",
        audience=Audience("nobody", "No."),
        recommended="",
    )
    monkeypatch.setattr("assistant_builder.ui.export.view.report_conclusion", lambda report: found)
    shown = drawn(tab, study)["use-warning"][1]
    assert "Not good enough yet" in shown
    assert "0 of 14 &lt;b&gt;" in shown
    assert "Add wordings." in shown
    found.ready, found.audience = (
        True,
        Audience("colleagues", "For customers not yet: 3 were wrong."),
    )
    assert "3 were wrong" in drawn(tab, study)["use-warning"][1]
    found.audience = Audience("customers", "Yes.")
    assert drawn(tab, study)["use-warning"][1] == ""


def test_an_archive_that_no_export_writes_is_not_copied(monkeypatch):
    """A file with holes takes no space in a study that is handed on, and all of it in a copy."""
    job = ExportJob(new_study("handed-on"), ExportSpec("lora", "adapter"))
    job.files.mkdir(parents=True)
    monkeypatch.setattr(use, "ZIP_LIMIT", 10_000)
    for size, visible in ((20_000, True), (20_001, False)):
        with job.archive.open("wb") as file:
            file.truncate(size)
        shown = use.download_update(job, {"archive": None, "folder": str(job.files)})
        assert shown["visible"] is visible and bool(shown["value"]) is visible
