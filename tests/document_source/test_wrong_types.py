"""Files of documents that somebody else made: wrong types, damage and links are errors, and no traceback."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.chat.stale_answers import answers_resting_on
from assistant_builder.config import StudyConfig
from assistant_builder.data import Message
from assistant_builder.documents.store import Documents
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.models import embedding
from assistant_builder.retrieval.copying import Copier
from assistant_builder.study import Study
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
