"""The finished example: the archive is a finished study, and opening it never replaces a study."""

import json
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from assistant_builder.atomic_io import read_json
from assistant_builder.chat.ask import ask_arms
from assistant_builder.config import load_config
from assistant_builder.errors import StudyError
from assistant_builder.runner import invalidation
from assistant_builder.runner.invalidation import first_stale_step
from assistant_builder.study import Study, example
from assistant_builder.study.admin import rename_study
from assistant_builder.study.example import example_archive, example_folder, open_example
from benchmarks.make_example import MOST_BYTES, round_adapter
from evals.report.conclusion import conclude
from tests.synthetic_study import new_study
from tests.typed_report import as_report

QUESTION, ANSWER = (
    "Which number do I ring to book?",
    "You can book on the website or by telephone on 01554 777 020.",
)


def test_the_example_is_finished_and_no_step_is_stale(home, monkeypatch):
    study = open_example()
    assert study.name == "example" and study.state == "succeeded"
    assert {study.step(step).state for step in study.steps} == {"succeeded"}
    recorded = read_json(study.folder / "provenance.json")["base_model"]["sha256"]
    monkeypatch.setattr(invalidation, "base_model_identity", lambda model: recorded)
    assert first_stale_step(study, redo=False) is None, (
        "make it again with 'python -m benchmarks.make_example'"
    )
    assert all(not invalidation.damaged_outputs(study, study.step(step)) for step in study.steps)
    # the data and settings of the repository are those packed
    settings = load_config(example_folder() / "study.yaml")
    assert (
        first_stale_step(study, redo=False, config=settings, source=example_folder() / "data.csv")
        is None
    )


def test_the_report_of_the_example_says_that_it_is_good_enough(home):
    study = open_example()
    report = read_json(study.folder / "report.json")
    assert conclude(as_report(report)).ready and report["provenance"]["hardware"]["cpu"]
    assert "Provenance" in (study.folder / "report.html").read_text(encoding="utf-8")
    assert (study.folder / "report.md").stat().st_size > 10_000


def test_the_archive_is_small_and_names_no_folder_of_a_machine():
    assert example_archive().stat().st_size <= MOST_BYTES
    folders = re.compile(rb"(?:/(?:home|root|tmp|work|Users|var|opt|mnt)/|[A-Z]:\\\\)[\w.-]")
    with zipfile.ZipFile(example_archive()) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        found = {
            name: folders.findall(archive.read(name))
            for name in names
            if not name.endswith(".safetensors")
        }
        statuses = [
            json.loads(archive.read(name)) for name in names if name.endswith("status.json")
        ]
    assert {name for name, paths in found.items() if paths} == set()
    assert {status["pid"] for status in statuses} == {None} and len(statuses) == 6
    assert not [
        name for name in names if "checkpoint" in name or name.endswith((".pt", "log.txt", ".lock"))
    ]


def test_a_second_call_opens_the_same_study_under_any_name(home):
    first = open_example()
    (first.folder / "votes.jsonl").write_text("{}\n", encoding="utf-8")
    assert open_example().folder == first.folder and open_example("example").folder == first.folder
    renamed = rename_study(first, "campsite")
    assert open_example().folder == renamed.folder and (renamed.folder / "votes.jsonl").exists()
    assert len(Study.all()) == 1


def test_two_clicks_at_once_open_one_study(home):
    with ThreadPoolExecutor() as threads:
        assert {study.name for study in threads.map(lambda _: open_example(), range(4))} == {
            "example"
        }
    assert len(Study.all()) == 1


def test_another_study_of_the_name_is_kept(home):
    own = new_study("example")
    before = (own.folder / "study.yaml").read_bytes()
    with pytest.raises(StudyError, match="already exists"):
        open_example("example")
    copy = open_example()
    assert copy.name == copy.config.name == "example-2" and copy.state == "succeeded"
    assert read_json(copy.folder / "report.json")["study"] == "example-2"
    assert [path.name for path in sorted((copy.folder / "evals" / "tasks").glob("*.yaml"))][
        0
    ].startswith("example-2_")
    assert (own.folder / "study.yaml").read_bytes() == before and own.state == "queued"


def test_a_missing_or_damaged_archive_is_reported(home, monkeypatch, tmp_path):
    for content in (None, b"no archive"):
        archive = tmp_path / "study.zip"
        if content is not None:
            archive.write_bytes(content)
        monkeypatch.setattr(example, "example_archive", lambda path=archive: path)
        with pytest.raises(StudyError, match="missing or damaged"):
            open_example()
    assert Study.all() == []


def test_a_rounded_adapter_is_recorded_with_its_new_hash(home):
    study = open_example()
    weights = study.arm_folder("lora") / "adapter" / "adapter_model.safetensors"
    stored = load_file(weights)
    assert {value.dtype for value in stored.values()} == {np.dtype(np.float16)}
    save_file({name: value.astype(np.float32) for name, value in stored.items()}, weights)
    assert invalidation.damaged_outputs(study, study.step("train-lora"))
    status = read_json(study.status_file("train-lora"))
    round_adapter(study, "train-lora")
    assert read_json(study.status_file("train-lora")) == status
    assert not invalidation.damaged_outputs(study, study.step("train-lora"))


@pytest.mark.long
@pytest.mark.train
def test_the_example_answers_a_question_that_it_was_not_trained_on(bundled_models):
    study = open_example()
    assert first_stale_step(study, redo=False) is None, "the base model is that of the archive"
    answers = ask_arms(study, QUESTION, study.config.arms)
    assert {answer["text"] for answer in answers.values()} == {ANSWER}
    assert all(answer["sources"][0]["answer"] == ANSWER for answer in answers.values())
