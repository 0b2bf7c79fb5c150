"""Files of documents that somebody else made: wrong types, damage and links are errors, and no traceback."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from assistant_builder import api
from assistant_builder.atomic_io import write_jsonl
from assistant_builder.chat.feedback import add_correction
from assistant_builder.chat.stale_answers import answers_resting_on
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.documents.questions import (
    DocumentQuestion,
    Questions,
    trained_file,
    trained_statements,
)
from assistant_builder.documents.store import Documents
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models import embedding
from assistant_builder.retrieval.copying import Copier
from assistant_builder.retrieval.corrections import read_corrections
from assistant_builder.serving.endpoint_process import EndpointState
from assistant_builder.serving.website import Website
from assistant_builder.study import Study
from assistant_builder.ui.data.documents import documents_view
from assistant_builder.ui.export.view import website_view
from tests.retrieval.fake_embedder import FakeEmbedder
from tests.retrieval.test_passages import tell

WRONG: tuple[Any, ...] = (None, [], {"a": [1]}, "x", -1)
FILES = ("documents.json", "statements.jsonl", "pages.jsonl", "changes.jsonl")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of documents alone, with a change."""
    monkeypatch.setattr(embedding.Embedder, "of", lambda model, report=None: FakeEmbedder())
    found = Study.create(StudyConfig(name="guide"))
    tell(found, "Lockers need a coin.", "The pool has 31 degrees.")
    tell(found, "Lockers need a coin.", "The pool has 30 degrees.")
    return found


def use(study: Study) -> None:
    """Read everything, and answer from it."""
    documents = Documents(study)
    answers_resting_on(study, documents.changes)
    assert isinstance(documents.records, list)
    copier = Copier.load(study)
    for question in ("Do lockers need a coin?", "How warm is the pool?"):
        json.dumps(copier.answer([Message("user", question)]).sources)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*at, key))


def changed(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    found = json.loads(json.dumps(document))
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return found


@pytest.mark.parametrize("name", FILES)
def test_wrong_types_are_errors(study, name):
    path = study.folder / "documents" / name
    lines = [json.loads(line) for line in path.read_text().splitlines()] if name[-1] == "l" else []
    document = lines or [json.loads(path.read_text())]
    refused = 0
    for at in places(document):
        for value in WRONG:
            text = "\n".join(json.dumps(each) for each in changed(document, at, value))
            path.write_text(text + "\n")
            try:
                use(study)
            except AssistantBuilderError:
                refused += 1
    assert refused > len(WRONG), "nothing is checked"


def use_questions(study: Study) -> None:
    questions, path = Questions(study), study.folder / "list.csv"
    documents = Documents(study)
    json.dumps([asdict(each) for each in questions.all()])
    questions.write_list(path, documents.statements)
    questions.read_list(path)
    documents_view(study, documents.undecided)
    assert api.open(study.name).can_train in (True, False)


def use_trained(study: Study) -> None:
    found = trained_statements(study)
    json.dumps([(each.key, each.place, each.searched, each.answer) for each in found])


def use_website(study: Study) -> None:
    website = Website.of(study)
    website.is_published(study)
    for state in (EndpointState("running"), EndpointState()):
        assert "J<b>" not in website_view(website, state, study, trained=True)
    website.config()
    website.checked()


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("documents/questions.jsonl", use_questions),
        ("data/statements.jsonl", use_trained),
        ("website.json", use_website),
        ("corrections.jsonl", read_corrections),
    ],
)
def test_wrong_types_in_files_beside_the_documents_are_errors(study, name, use):
    statements = Documents(study).statements
    keys, path = (statements[0].key,), study.folder / name
    Questions(study).add(
        [
            DocumentQuestion("Do lockers need a coin?", "Yes.", keys, "part", "people", "accepted"),
            DocumentQuestion("How warm is it?", "", (), "unanswerable", "template"),
        ]
    )
    write_jsonl(trained_file(study), (each.to_record() for each in statements))
    Website(origin="https://a.example", address="https://b.example", port=8101).save(study)
    add_correction(study, "Who?", "We.")
    use(study)
    text = path.read_text()
    documents = (
        [json.loads(text)] if name.endswith(".json") else [*map(json.loads, text.split("\n")[:-1])]
    )
    refused = 0
    for at in places(documents):
        for value in (*WRONG, True, 3.5, "\x1b[2J<b>[", 10**30):
            lines = changed(documents, at, value)
            path.write_text("".join(json.dumps(each) + "\n" for each in lines))
            try:
                use(study)
            except AssistantBuilderError:
                refused += 1
    assert refused > len(WRONG), "nothing is checked"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["cut", "link", "pipe"])
def test_damaged_files_links_and_pipes_are_errors(study, tmp_path, name, kind):
    path: Path = study.folder / "documents" / name
    content = path.read_bytes()
    path.unlink()
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "link":
        shutil.copy(__file__, tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
    else:
        os.mkfifo(path)
    if kind == "cut" and name != FILES[0]:  # what was written to the end is used
        use(study)
    else:
        with pytest.raises(AssistantBuilderError):
            use(study)
