"""A study, a store or a record from elsewhere reaches no file outside the study's own folder."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_json, write_json
from assistant_builder.cli import app
from assistant_builder.config import StudyConfig
from assistant_builder.errors import StoreError, StudyError
from assistant_builder.export.job import ExportJob
from assistant_builder.export_formats import ExportSpec
from assistant_builder.planning.training_time import load_measured_runs
from assistant_builder.runner.invalidation import damaged_outputs
from assistant_builder.runner.open_study import open_or_create
from assistant_builder.store.mirror import Mirror
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.store.sync import fetch_study
from assistant_builder.study import Study, containment, studies_folder
from assistant_builder.study.admin import duplicate_study
from assistant_builder.study.containment import check_folder, is_plain_name, path_inside
from assistant_builder.study.example import open_example
from assistant_builder.study.steps import StepRecord
from assistant_builder.ui.evaluate.item_filters import comparable_studies
from assistant_builder.ui.home.view import summarize
from assistant_builder.ui.study_snapshot import state_of
from assistant_builder.ui.train.preflight import scoring_seconds
from tests.synthetic_study import evaluated, new_study, trained, with_data


@pytest.fixture
def thesis(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user outside the study, which stays as it is."""
    folder = tmp_path / "Documents"
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / "thesis.txt").write_text("years of work")
    (folder / "private.json").write_text('{"secret": "canary"}')
    yield folder
    assert (folder / "chapters" / "thesis.txt").read_text() == "years of work"
    assert (folder / "private.json").read_text() == '{"secret": "canary"}'


def file_link(path: str) -> Callable[[Path, Path], Path]:
    def plant(study: Path, thesis: Path) -> Path:
        link = study / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(thesis / "private.json")
        return link

    return plant


def folder_link(path: str) -> Callable[[Path, Path], Path]:
    def plant(study: Path, thesis: Path) -> Path:
        link = study / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(thesis, target_is_directory=True)
        return link

    return plant


def chain(study: Path, thesis: Path) -> Path:
    """A link to a link in the study to a link beside it that leads outside."""
    (study / "evals").mkdir(exist_ok=True)
    (study.parent / "hop").symlink_to(thesis)
    (study / "evals" / "inner").symlink_to(study.parent / "hop")
    (study / "evals" / "seeds").symlink_to("inner")
    return study / "evals"


def broken(study: Path, thesis: Path) -> Path:
    """A link to a file that does not exist yet and that a write would create."""
    (study / "run.log.txt").symlink_to(thesis / "chapters" / "new.txt")
    return study / "run.log.txt"


def inside(study: Path, thesis: Path) -> Path:
    (study / "evals").symlink_to("data")
    return study / "evals"


def loop(study: Path, thesis: Path) -> Path:
    (study / "arms").symlink_to(".")
    return study / "arms"


def fifo(study: Path, thesis: Path) -> Path:
    os.mkfifo(study / "report.json")
    return study / "report.json"


def listening(study: Path, thesis: Path) -> Path:
    os.chdir(study)  # an address of a socket has 108 characters at most
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("votes.jsonl")
    return study / "votes.jsonl"


def enormous(study: Path, thesis: Path) -> Path:
    with (study / "report.json").open("wb") as file:  # sparse: it takes no space
        file.truncate(2**40)
    return study / "report.json"


def enormous_page(study: Path, thesis: Path) -> Path:
    with (study / "report.html").open("wb") as file:
        file.truncate(2**40)
    return study / "report.html"


def long_log(study: Path, thesis: Path) -> Path:
    with (study / "votes.jsonl").open("wb") as file:
        file.truncate(2**40)
    return study / "votes.jsonl"


def deep(study: Path, thesis: Path) -> Path:
    """Folders in folders, until no system can name the innermost."""
    here = os.open(study, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 200, dir_fd=here)
        there = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    return study


def newline(study: Path, thesis: Path) -> Path:
    link = study / "data" / "a\nb\x1b[2Kc"
    link.symlink_to(thesis)
    return study / "data"


PLANTS: list[Callable[[Path, Path], Path]] = [
    folder_link("evals/seeds"),
    folder_link("exports/lora-adapter"),
    folder_link("arms/lora/checkpoints"),
    file_link("data/card.md"),
    file_link("exports/lora-adapter/log.txt"),
    file_link("data/source.csv"),
    file_link("study.yaml"),
    file_link(".lock"),
    file_link(".versions.lock"),
    file_link("widget.json"),
    chain,
    broken,
    inside,
    loop,
    newline,
    enormous,
    enormous_page,
    long_log,
    *([fifo, listening, deep] if os.name == "posix" else []),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__ + plant.__qualname__[:4])
def test_a_study_with_anything_but_plain_files_is_not_opened(plant, thesis, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = new_study("handed-on")
    where = plant(study.folder, thesis)
    containment._known.clear()  # as in a process that has not seen it
    for use in (
        lambda: Study.open("handed-on"),
        lambda: study.config,
        lambda: study.state,
        lambda: duplicate_study(study, "copy"),
        lambda: check_folder(study.folder),
    ):
        with pytest.raises(StudyError) as caught:
            use()
        assert str(where) in str(caught.value)
        assert str(caught.value.remedy)
        assert "\n" not in str(caught.value)
    for words in (
        ["run", "handed-on"],
        ["status", "handed-on"],
        ["cancel", "handed-on"],
        ["run", "handed-on", "--redo"],
        [
            "export",
            "handed-on",
            "--arm",
            "lora",
            "--format",
            "adapter",
            "--to",
            str(tmp_path / "to"),
        ],
        ["serve", "handed-on"],
        ["ask", "handed-on", "How much?"],
        ["inbox", "handed-on"],
    ):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, StudyError), words
    # the page lists it, and opens the others
    new_study("own")
    assert {one.name: summarize(one).state for one in Study.all()} == {
        "handed-on": "damaged",
        "own": "queued",
    }
    assert state_of(study) == "damaged"
    listed = CliRunner().invoke(app, ["list"])
    assert listed.exit_code == 0 and "own" in listed.output and "handed-on" in listed.output
    assert not (tmp_path / "to").exists() and not (studies_folder() / "copy").exists()


def test_a_study_is_read_again_only_when_its_folder_changes(monkeypatch):
    study = new_study("own")
    for number in range(300):
        (study.folder / "data" / f"{number}.jsonl").touch()
    Study.open("own")
    calls: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(containment.os, "scandir", lambda path: calls.append(path) or scandir(path))
    for _ in range(3):
        assert Study.open("own").config.name == "own" and summarize(study).state == "queued"
    assert calls == []
    study.write_run_record("cancelled")
    calls.clear()  # writing looks for what killed writers left
    assert Study.open("own").state == "cancelled" and len(calls) == 1  # the folder that changed


def test_the_folder_of_all_studies_and_that_of_one_may_be_links(tmp_path):
    """They are the user's own: on another disk, for example."""
    study = new_study("own")
    disk = tmp_path / "disk"
    study.folder.rename(disk)
    study.folder.symlink_to(disk)
    assert Study.open("own").state == "queued"


# names from elsewhere

HOSTILE = [
    "/etc/passwd",
    "a//etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "..",
    ".",
    "a/./b",
    "",
    "a/",
    "\\\\host\\share\\x",
    "a\\..\\x",
    "a\x00b",
    "a\nb",
    "a\x1b[2K",
    "a\u202eb",
    "\u2028/x",
    "//x",
    "a/\u200b/b",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_outside_is_no_path(name, tmp_path):
    assert not is_plain_name(name)
    with pytest.raises(StudyError, match="not a path that a study can contain"):
        path_inside(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["a", "arms/lora/metrics.jsonl", "..a/b..", "a b/c", "ä/日本.json", ".store.json"]
)
def test_other_names_are_paths(name, tmp_path):
    assert path_inside(tmp_path, name) == tmp_path / name


def test_a_step_record_names_only_files_of_the_study(thesis):
    study = new_study("handed-on")
    (study.folder / "inner").symlink_to(thesis)
    names = [
        "../../../Documents/private.json",
        str(thesis / "private.json"),
        "/dev/zero",
        "inner/private.json",
    ]
    (secret,) = damaged_outputs(
        study, StepRecord("data", outputs={names[0]: file_digest(thesis / "private.json")})
    )
    assert secret == names[0]  # the hash is right, and the file is none of the study
    assert damaged_outputs(study, StepRecord("data", outputs=dict.fromkeys(names, "0"))) == names


def file_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def objects() -> Iterator[Callable[[str, bytes], None]]:
    """Writes objects to the store ``memory://of-somebody/study`` as its owner can, whatever their names."""
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    def write(name: str, content: bytes) -> None:
        path = f"/of-somebody/handed-on/{name}"
        MemoryFileSystem.store[path] = MemoryFile(MemoryFileSystem(), path, content)

    yield write
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize(
    "name",
    [
        "team/shared//HOME/x",
        "../../x",
        "arms/../../../x",
        "a/./x",
        "evals\\..\\..\\x",
        "a\nb",
        "arms/lora//metrics/000001-0.jsonl",
    ],
)
def test_an_object_is_never_written_outside(name, objects, thesis, tmp_path, home):
    objects("study.yaml", StudyConfig(name="handed-on").to_yaml().encode())
    objects(name.replace("HOME", str(tmp_path)), b"owned")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="not a file of a study") as caught:
        fetch_study("memory://of-somebody/handed-on")
    assert "\n" not in str(caught.value) and str(caught.value.remedy)
    assert (
        sorted(path for path in tmp_path.rglob("*") if home not in (path, *path.parents)) == before
    )
    assert not list(studies_folder().glob("*"))


def test_an_object_that_would_fill_the_memory_is_refused(objects):
    from fsspec.implementations.memory import MemoryFileSystem

    objects("study.yaml", StudyConfig(name="handed-on").to_yaml().encode())
    objects("arms/lora/status.json", b"{}")
    file = MemoryFileSystem.store["/of-somebody/handed-on/arms/lora/status.json"]
    file.seek(containment.MAX_STATE_BYTES[".json"] + 1)
    file.write(b"}")
    with pytest.raises(StoreError, match=r"arms/lora/status\.json"):
        ObjectStore("memory://of-somebody/handed-on").versions()


def test_a_store_that_swaps_an_object_after_the_check_changes_nothing_outside(
    objects, thesis, monkeypatch
):
    """The list of the objects is read twice, and the second one is hostile."""
    objects("study.yaml", StudyConfig(name="handed-on").to_yaml().encode())
    study = fetch_study("memory://of-somebody/handed-on")
    mirror = Mirror(study, ObjectStore("memory://of-somebody/handed-on"))
    monkeypatch.setattr(
        ObjectStore,
        "versions",
        lambda self: {"study.yaml": "", f"evals/{thesis}/private.json": "2"},
    )
    with pytest.raises(StudyError, match="not a path that a study can contain"):
        mirror.pull()
    monkeypatch.setattr(
        ObjectStore, "versions", lambda self: {"study.yaml": "", "evals/private.json": "2"}
    )
    (study.folder / "evals").symlink_to(thesis)  # and a folder of the study became a link meanwhile
    with pytest.raises(StudyError, match="it is a link"):
        mirror.pull()


def test_a_record_of_the_last_sync_deletes_nothing_outside(thesis):
    store = ObjectStore("memory://own/handed-on")
    study = new_study("handed-on")
    mirror = Mirror(study, store)
    mirror.push()
    record = read_json(study.folder / ".store.json")
    for name in (
        "../../../Documents/private.json",
        str(thesis / "private.json"),
        "arms/x/checkpoints/../../../../../../Documents/private.json",
    ):
        write_json(
            study.folder / ".store.json",
            {**record, "files": {**record["files"], name: [1, 2, "3"]}},
        )
        hostile = Mirror(study, store)
        assert not hostile.is_copy  # a damaged record is none
        hostile.pull()
        hostile.drop_local_checkpoints()
        write_json(study.folder / ".store.json", record)


def test_a_sync_uploads_no_link(thesis):
    study = new_study("handed-on")
    mirror = Mirror(study, ObjectStore("memory://own/linked"))
    mirror.push()
    (study.folder / "data" / "x.json").symlink_to(thesis / "private.json")
    with pytest.raises(StudyError, match="it is a link"):
        mirror.push()
    assert "data/x.json" not in mirror.store.versions()


@pytest.mark.parametrize("kind", ["file", "folder", "root"])
def test_links_in_a_shared_folder_are_neither_read_nor_written(kind, thesis, tmp_path):
    study, shared = new_study("handed-on"), tmp_path / "shared"
    url = f"file://{shared}/handed-on"
    Mirror(study, ObjectStore(url)).push()
    there = shared / "handed-on"
    if kind == "file":
        (there / ".newest.json").symlink_to(thesis / "private.json")
        (there / "report.json").symlink_to(thesis / "private.json")
    elif kind == "folder":
        (there / "evals").symlink_to(thesis)
    else:
        there.rename(shared / "moved")
        there.symlink_to(shared / "moved")  # of the user: a mount, for example
    store = ObjectStore(url)
    if kind == "root":
        assert "study.yaml" in store.versions()
        return
    with pytest.raises((StoreError, StudyError)):
        store.versions()
        store.read("evals/private.json")
    for name in (
        (".newest.json", "report.json")
        if kind == "file"
        else ("evals/private.json", "evals/new.json")
    ):
        for use in (
            lambda name: store.write(name, b"owned"),
            lambda name: store.remove([name]),
            store.read,
            lambda name: store.upload(name, study.folder / "study.yaml"),
        ):
            with pytest.raises((StoreError, StudyError)):
                use(name)


# hard links cannot be told from files, so what is written replaces them


def test_an_export_does_not_write_into_a_file_with_a_second_name(thesis, tmp_path, monkeypatch):
    study = evaluated(trained(with_data(new_study("handed-on"))))
    (study.arm_folder("lora") / "adapter").mkdir()
    (study.arm_folder("lora") / "adapter" / "adapter_model.safetensors").touch()
    job = ExportJob(study, ExportSpec("lora", "adapter"))
    job.folder.mkdir(parents=True)
    for path in (job.log_file, job.status_file):
        os.link(thesis / "private.json", path)
    monkeypatch.setattr("assistant_builder.export.job.python_command", lambda *words: ["true"])
    job.start().wait()
    assert read_json(job.status_file)["state"] == "running" and job.log_file.read_bytes() == b""


# what is planted, or read, where the program looks a second time


def test_a_link_that_arrives_after_the_check_is_found(thesis):
    """As while a study is copied into the folder of studies, and the page lists it already."""
    study = evaluated(trained(with_data(new_study("handed-on"))))
    assert study.step("evaluate").state == "succeeded"
    where = folder_link("evals/seeds")(study.folder, thesis)
    for use in (
        lambda: Study.open("handed-on"),
        lambda: study.config,
        lambda: study.step("evaluate"),
    ):
        with pytest.raises(StudyError, match="it is a link") as caught:
            use()
        assert str(where) in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
@pytest.mark.parametrize("path", ["provenance.json", "evals/status.json", "arms/lora/summary.json"])
@pytest.mark.parametrize("kind", ["pipe", "broken link"])
def test_a_study_that_is_only_there_stops_no_other(path, kind):
    """Lists, estimates and the example look into all studies; a pipe would be read for ever."""
    folder = evaluated(trained(with_data(new_study("handed-on")))).folder
    (folder / path).unlink(missing_ok=True)
    os.mkfifo(folder / path) if kind == "pipe" else (folder / path).symlink_to(folder / "missing")
    own = evaluated(trained(with_data(new_study("own"))))

    def look() -> None:
        open_example()
        scoring_seconds("any")
        comparable_studies(own)
        load_measured_runs(10**6)
        ended.set()

    ended = threading.Event()
    threading.Thread(target=look, daemon=True).start()
    assert ended.wait(20)


def test_the_name_in_study_yaml_names_no_other_study():
    own = with_data(new_study("own"))
    before = (own.folder / "study.yaml").read_bytes()
    shutil.copytree(own.folder, own.folder.with_name("handed-on"))
    copy = Study.open("handed-on")
    assert copy.config.name == "handed-on"
    open_or_create("handed-on", name=None, changes={"eval.judge_items": 7}, redo=True)
    assert (own.folder / "study.yaml").read_bytes() == before and copy.config.eval.judge_items == 7


def test_a_study_has_no_thousands_of_folders():
    folder = new_study("handed-on").folder
    for number in range(containment._MAX_FOLDERS):
        (folder / f"x{number}").mkdir()
    with pytest.raises(StudyError, match="more than 5,000 folders"):
        Study.open("handed-on")


def test_one_state_of_a_folder_is_kept(tmp_path):
    """A log changes the folder at every question of a visitor, in a server that runs for weeks."""
    check_folder(tmp_path)
    kept = len(containment._known)
    for number in range(20):
        (tmp_path / f"{number}.txt").touch()
        check_folder(tmp_path)
    assert len(containment._known) == kept
