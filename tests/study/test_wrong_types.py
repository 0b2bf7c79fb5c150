"""State files of valid JSON and a wrong type: every reader ends with a result, or with an error that says what to do.

Each file of two finished studies is replaced in turn, and each of its entries; a reader that opens the file at all is
then called again. The other study is read as before.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import append_jsonl, write_json
from assistant_builder.chat.feedback import (
    add_correction,
    heldout_matches,
    model_of,
    tally,
    votes_file,
)
from assistant_builder.cli import app
from assistant_builder.errors import AssistantBuilderError
from assistant_builder.export.job import ExportJob, JobRecord
from assistant_builder.export_formats import (
    ExportSpec,
    estimated_bytes,
    require_trained,
    shipped_file,
)
from assistant_builder.planning.memory_check import measured_seconds
from assistant_builder.retrieval.answering import reads_conversations
from assistant_builder.retrieval.build import answers_added
from assistant_builder.retrieval.decline import rule_of
from assistant_builder.retrieval.grounding import read_contexts
from assistant_builder.retrieval.index import Index
from assistant_builder.retrieval.own_questions import (
    assistants,
    read_questions,
    save_answers,
    save_questions,
    unasked,
)
from assistant_builder.retrieval.recall import recommended_approach
from assistant_builder.runner import invalidation
from assistant_builder.runner.invalidation import first_stale_step
from assistant_builder.runner.local_runner import active_tickets
from assistant_builder.serving.registry import select_models
from assistant_builder.serving.widget import site_token
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnAnswer, OwnQuestion
from assistant_builder.study.example import open_example
from assistant_builder.study.limits import answer_limit, pair_limit
from assistant_builder.study.steps import Progress
from assistant_builder.study.versions import add_version, publish
from assistant_builder.ui.app import build_app
from assistant_builder.ui.export.tab import ExportPanel
from assistant_builder.ui.refresh import Page, StudyView, page_versions
from assistant_builder.web.passwords import store_password, stored_password
from evals.report.build import build_report
from evals.report.own_questions import own_questions
from evals.study_compare.versions import pending_corrections
from tests.synthetic_study import finished_study
from tests.ui.blocks import inside_blocks

Reader = Callable[[], object]
OTHER = "other"
REFUSED = ("run", "compare", "compare itself", "ask", "serve", "export")
"""Readers that refuse a study as it is: its base is not there, it shares no questions, or it is not trained."""
SLOW = ("build", "versions", "compare")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the example, another study, and every state file that the program writes next to them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        patch.setattr(invalidation, "base_model_identity", lambda model: "hash")
        example, other = open_example(), finished_study(OTHER, eval__fidelity=True)
        version = open_example("example-v2")
        write_json(
            version.folder / "made_from.json",
            {
                "study": "example",
                "corrections": [{"time": "2026-01-01", "question": "When?", "answer": "Now."}],
            },
        )
        add_version(example, version)
        publish(example, version.name)
        publish(example, example.name)
        for study in (example, other):
            add_correction(study, "Who?", "We.")
            save_questions(study, [OwnQuestion("And who?", 1, "Who?", "We."), OwnQuestion("Why?")])
            for asked in ("And who?", "Why?"):
                given = OwnAnswer(text="We.", declined=False)
                save_answers(study, asked, dict.fromkeys(assistants(study), given))
            append_jsonl(
                votes_file(study),
                {
                    "time": datetime.now(UTC).isoformat(),
                    "question": "Who?",
                    "conversation": [{"role": "user"}],
                    "answers": {"lora": "a", "qlora": "b"},
                    "sides": {"a": "lora", "b": "qlora"},
                    "vote": "a",
                    "sampling": {},
                    "model": model_of(study),
                },
            )
        site_token(example)
        write_json(example.folder / "data" / "lengths.json", {"longest_answer": 12})
        example.write_run_record("succeeded")
        example.write_progress("evaluate", Progress(1, 2, "items"))
        job = ExportJob(example, ExportSpec("lora", "adapter"))
        job.write(JobRecord("succeeded", str(job.files), 1.0))
        write_json(
            job.files / "export.json",
            {
                "version": 1,
                "study": "example",
                "arm": "lora",
                "format": "adapter",
                "cell": "L16",
                "archive": None,
                "assistant_builder": "0.2.0",
                "base_model": "smollm2",
                "adapter_sha256": "a",
                "chat_template": None,
                "rescore": {"outcome": "as measured"},
                "sentences": ["Scored again."],
                "files": [{"name": "README.md", "bytes": 3}],
            },
        )
        write_json(
            home / "queue" / "000001.json",
            {"study": str(example.folder), "pid": 1, "process_started": 1.0},
        )
        store_password("someone", "four random words")
        yield home


@pytest.fixture(scope="module")
def page(attacked: Path) -> Page:
    return inside_blocks(build_app)


@pytest.fixture(autouse=True)
def home(attacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSISTANT_BUILDER_HOME", str(attacked))
    monkeypatch.setattr(invalidation, "base_model_identity", lambda model: "hash")
    return attacked


def command(*words: str) -> None:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


def drawn(page: Page, key: str, name: str | None) -> None:
    section = next(section for section in page.sections if section.key == key)
    view = StudyView(name)
    section.mark(view)
    section.values(view)


def readers(page: Page, name: str) -> dict[str, Reader]:
    study, spec = Study.open(name), ExportSpec("lora", "adapter")
    found: dict[str, Reader] = {
        "status": partial(command, "status", name),
        "status --json": partial(command, "status", name, "--json"),
        **{
            f"report {format}": partial(
                command, "report", name, "--format", format, "--fail-if", "worse"
            )
            for format in ("html", "md", "json")
        },
        "report": partial(command, "report", name),
        "inbox": partial(command, "inbox", name),
        "versions": partial(command, "versions", name),
        "compare": partial(command, "compare", name, OTHER),
        "run": lambda: first_stale_step(study, redo=False),
        "redo": lambda: first_stale_step(study, redo=True),
        "build": lambda: build_report(study),
        "tally": lambda: tally(study),
        "corrections": lambda: (pending_corrections(study), heldout_matches(study, ["Who?"])),
        "own": lambda: (read_questions(study), unasked(study), own_questions(study)),
        "limits": lambda: (
            answer_limit(study),
            pair_limit(study),
            study.template_date,
            study.recommended,
        ),
        "ask": lambda: (
            rule_of(study.arm_folder("lora") / "decline.json"),
            reads_conversations(study),
            Index.load(study.retrieval_folder),
            recommended_approach(study),
            answers_added(study),
            read_contexts(study.retrieval_folder, "train"),
        ),
        "rest": lambda: measured_seconds(study.arm_folder("lora")),
        "serve": lambda: select_models([name], lambda _: shipped_file(None).arm),
        "token": lambda: site_token(study),
        "export": lambda: (
            require_trained(study, spec),
            estimated_bytes(study, spec),
            ExportJob(study, spec).record(),
        ),
        "page: chosen export": lambda: inside_blocks(ExportPanel).updates(study, spec, local=True),
        **{
            f"page: {section.key}": partial(drawn, page, section.key, name)
            for section in page.sections
        },
    }
    return found


def of_the_home() -> dict[str, Reader]:
    return {"password": lambda: stored_password("someone")}


def everywhere(page: Page) -> dict[str, Reader]:
    """Readers that go on, whatever is wrong with one study."""
    return {
        "list": partial(command, "list"),
        "list --json": partial(command, "list", "--json"),
        "tickets": active_tickets,
        "status": partial(command, "status", OTHER),
        "pulse": lambda: page_versions(page.sections, StudyView("example")),
        **{
            f"page: {section.key}": partial(drawn, page, section.key, OTHER)
            for section in page.sections
        },
        **{
            f"home: {section.key}": lambda key=section.key: drawn(page, key, None)
            for section in page.sections
            if section.key in ("frame", "home", "strip")
        },
    }


_opened: set[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.add(arguments[0])


sys.addaudithook(_note)


@contextmanager
def opened() -> Iterator[set[str]]:
    global _opened
    _opened = set()
    try:
        yield _opened
    finally:
        _opened = None


def files_of(home: Path) -> list[str]:
    """State files, one of each kind: those of other arms, cells and studies have the same readers."""
    kinds: dict[str, str] = {}
    for path in sorted(home.rglob("*.json*")):
        if (
            path.suffix in (".json", ".jsonl")
            and path.parent.name != "adapter"
            and path.stat().st_size
        ):
            parts = ("", *path.relative_to(home).parts)
            folder = re.sub(
                r"^(lora|qlora|B16|B4|L16|Q4|L4|\d|train|validation|heldout).*", "", parts[-2]
            )
            kinds.setdefault(
                f"{folder}/{re.sub('train|validation|heldout', '', parts[-1])}", "/".join(parts[1:])
            )
    return sorted(kinds.values())


@pytest.fixture(scope="module")
def readers_of(attacked: Path, page: Page) -> Callable[[str], dict[str, tuple[Reader, bool]]]:
    """File → the readers that open it; those that must go on have True."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "base_model_identity", lambda model: "hash")
        known: dict[str, dict[str, tuple[Reader, bool]]] = {}
        studies = [(name, readers(page, name), False) for name in ("example", "example-v2", OTHER)]
        for study, found, must in [
            *studies,
            ("home", of_the_home(), False),
            ("all", everywhere(page), True),
        ]:
            for name, reader in found.items():
                _forget()
                with opened() as paths:
                    try:
                        reader()
                    except AssistantBuilderError:
                        assert name in REFUSED, name
                for path in paths:
                    if path.startswith(str(attacked)):
                        file = str(Path(path).relative_to(attacked))
                        known.setdefault(file, {})[f"{study}: {name}"] = (reader, must)
    return lambda file: known.get(file, {})


def _forget() -> None:
    """Make every file look new, so that none is taken from a cache."""
    for path in Path(os.environ["ASSISTANT_BUILDER_HOME"]).glob("studies/*/*"):
        if path.is_file():
            path.touch()


def attack(path: Path, content: str, found: dict[str, tuple[Reader, bool]]) -> list[str]:
    """The readers that end in something else than a result or a clear error."""
    before, failed = path.read_bytes(), []
    path.write_text(content, encoding="utf-8")
    try:
        for name, (reader, must) in found.items():
            try:
                reader()
            except AssistantBuilderError as error:
                assert error.remedy, error
                if must and f"/{OTHER}/" not in str(path):
                    failed.append(f"{name}: {error}")
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
    finally:
        path.write_bytes(before)
    return failed


def test_every_state_file_is_read_by_something(attacked, readers_of):
    unread = [file for file in files_of(attacked) if not readers_of(file)]
    assert unread == []


@pytest.mark.parametrize(
    ("document", "slow"),
    [([], False), ({}, False)]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (([], True), (None, False), ("x", False), (3, False))
    ],
    ids=repr,
)
def test_documents_of_a_wrong_type(attacked, readers_of, document, slow):
    failed = []
    for file in files_of(attacked):
        found = readers_of(file)
        if slow:
            found = {name: reader for name, reader in found.items() if name.endswith(SLOW)}
        else:
            found = {name: reader for name, reader in found.items() if not name.endswith(SLOW)}
        failed += [
            f"{file}: {line}" for line in attack(attacked / file, json.dumps(document), found)
        ]
    print("\n".join(failed))
    assert failed == []


def entries(value: Any, depth: int = 2) -> Iterator[tuple[Any, ...]]:
    """The places of the entries of a document; of a list the first one."""
    if depth and isinstance(value, dict):
        for key, inside in list(value.items())[:40]:
            yield (key,)
            yield from ((key, *rest) for rest in entries(inside, depth - 1))
    elif depth and isinstance(value, list) and value:
        yield (0,)
        yield from ((0, *rest) for rest in entries(value[0], depth - 1))


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copy


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.slow)])
def test_entries_of_a_wrong_type(attacked, readers_of, stride):
    failed, cases = [], 0
    for file in files_of(attacked):
        path = attacked / file
        found = {
            name: reader for name, reader in readers_of(file).items() if not name.endswith(SLOW)
        }
        text = path.read_text(encoding="utf-8")
        lines = (
            [*map(json.loads, text.splitlines())] if path.suffix == ".jsonl" else [json.loads(text)]
        )
        for place in entries(lines[0]):
            cases += 1
            if cases % stride:
                continue
            values = [
                value for value in ([], {}, "x", 3) if type(value) is not type(_at(lines[0], place))
            ]
            value = values[cases % len(values)]
            changed = [replaced(lines[0], place, value), *lines[1:]]
            text = (
                "\n".join(map(json.dumps, changed)) + "\n"
                if path.suffix == ".jsonl"
                else json.dumps(changed[0])
            )
            failed += [f"{file}: {place} = {value!r}: {line}" for line in attack(path, text, found)]
    print("\n".join(failed))
    assert failed == []


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value
