"""The commands and the API: documents are read, listed, compared and decided on."""

import json
from pathlib import Path

import pytest

pytest.importorskip("pypdfium2", reason="needs the extra documents")

from typer.testing import CliRunner

import assistant_builder as ab
from assistant_builder.chat.stale_answers import answers_resting_on
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.documents.questions import trained_file
from assistant_builder.documents.store import Documents
from assistant_builder.errors import StudyError
from assistant_builder.runner.open_documents import names_documents
from assistant_builder.study import Study
from tests.retrieval.test_copying import SHEET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "guide"
    place.mkdir()
    (place / "pool.md").write_text("# Pool\n\nThe teaching pool of the baths has 31 degrees.\n")
    (place / "shop.txt").write_text("The shop sells goggles.")
    (place / "empty.md").write_text("")
    return place


def run(*words: object, ends: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == ends, done.output
    return done.stdout


def change(folder: Path) -> None:
    (folder / "pool.md").write_text("# Pool\n\nThe teaching pool of the baths has 30 degrees.\n")


def test_a_folder_becomes_a_study_that_answers_and_is_not_trained(folder):
    document = json.loads(run("run", folder, "--json"))
    assert document["name"] == "guide" and document["state"] == "queued"
    read = document["documents"]
    assert read["read"] == ["pool.md", "shop.txt"] and read["statements"] == read["added"] == 2
    assert [each["document"] for each in read["problems"]] == ["empty.md"]
    assert Study.open("guide").source is None
    with pytest.raises(StudyError, match="0 questions to train on and 0 to test with") as caught:
        ab.open("guide").run()
    assert "answers from its documents already" in str(caught.value.remedy)
    assert Study.open("guide").source is None and not trained_file(Study.open("guide")).exists()


def test_documents_are_added_to_a_study_of_pairs_which_keeps_its_data(folder):
    study = Study.create(StudyConfig().named("baths"), SHEET)
    before = (study.folder / "study.yaml").read_bytes(), study.source.read_bytes()
    assert "2 documents with 2 statements" in run("data", "documents", "baths", folder)
    assert (study.folder / "study.yaml").read_bytes(), study.source.read_bytes() == before
    listed = json.loads(run("data", "documents", "baths", "--json"))["documents"]
    assert [(each["name"], each["kind"]) for each in listed] == [
        ("pool.md", "markdown"),
        ("shop.txt", "text"),
    ]


def test_what_rests_on_a_change_is_listed_and_decided_on(folder):
    study = Study.create(StudyConfig().named("baths"), SHEET)
    run("data", "documents", "baths", folder)
    assert "Nothing waits" in run("data", "changes", "baths")
    change(folder)
    said = run("data", "documents", "baths", folder)
    assert "rests on it (pair): How warm is the teaching pool?" in said
    (entry,) = json.loads(run("data", "changes", "baths", "--json"))["changes"]
    assert entry["new"]["text"].endswith("30 degrees.") and entry["decision"] is None
    assert {each["kind"] for each in entry["rests"]} == {"pair"}
    assert all("31" in each["answer"] for each in entry["rests"])
    run("data", "changes", "baths", "--keep", "nothing", ends=1)
    assert "Nothing waits" in run("data", "changes", "baths", "--drop", entry["key"])
    assert [each.decision for each in Documents(study).changes] == ["drop"]
    run("data", "changes", "baths", "--all", "perhaps", ends=2)


def test_a_study_without_documents_has_no_changes(folder):
    Study.create(StudyConfig().named("baths"), SHEET)
    run("data", "changes", "baths", ends=1)
    assert answers_resting_on(Study.open("baths"), []) == []


def test_what_a_source_names(folder, tmp_path):
    Study.create(StudyConfig().named("guide"), SHEET)
    sheet = tmp_path / "pairs.txt"
    sheet.write_text(
        "question\tanswer\n" + "".join(f"What is {n}?\tIt is {n}.\n" for n in range(9))
    )
    assert names_documents([str(folder)]) and names_documents([str(folder / "pool.md")])
    assert names_documents([str(folder / "shop.txt")]) and names_documents(["a.pdf", "b.pdf"])
    for other in (str(SHEET), str(sheet), "guide", "study.yaml", str(tmp_path / "none.pdf")):
        assert not names_documents([other])


def test_files_that_are_no_documents_and_no_source_are_refused(folder):
    run("run", folder / "pool.md", SHEET, ends=1)
    run("run", ends=2)
    assert not Study.all()


def test_the_python_api_reads_documents(folder):
    study = ab.run(folder, name="api")
    assert study.name == "api" and not study.has_pairs
    assert len(Documents(Study.open("api")).statements) == 2
    assert ab.run([folder / "pool.md", folder / "shop.txt"], name="api").name == "api"
