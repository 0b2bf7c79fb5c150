"""Sync of a study folder with its store; an interrupted sync never looks finished."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec
import pytest

from assistant_builder.atomic_io import (
    append_jsonl,
    file_hash,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)
from assistant_builder.errors import StoreError, StudyError
from assistant_builder.store.mirror import Mirror
from assistant_builder.store.object_store import ObjectStore
from assistant_builder.study import CHECKPOINT_MARKER, Study
from assistant_builder.study.steps import StepRecord
from tests.synthetic_study import new_study, with_metrics

URL = "memory://bucket/library"
ARM = "arms/lora"
ADAPTER = f"{ARM}/adapter/adapter_model.safetensors"


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield
    memory.store.clear()


class Breaking(ObjectStore):
    """A store that fails after a number of changes."""

    def __init__(self, url: str, changes: float = float("inf")) -> None:
        super().__init__(url)
        self.left = changes
        self.changed: list[str] = []

    def _change(self, name: str) -> None:
        if self.left <= 0:
            raise StoreError("gone")
        self.left -= 1
        self.changed.append(name)

    def write(self, name: str, content: bytes) -> None:
        self._change(name)
        super().write(name, content)

    def upload(self, name: str, path: Path) -> None:
        self._change(name)
        super().upload(name, path)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._change(f"-{name}")
            super().remove([name])


def checkpoint(study: Study, step: int, text: str) -> None:
    folder = study.folder / ARM / "checkpoints" / f"checkpoint-{step}"
    write_text(folder / "optimizer.pt", text)
    write_text(folder / "trainer_state.json", text)
    write_json(
        folder / CHECKPOINT_MARKER,
        {name: file_hash(folder / name) for name in ("optimizer.pt", "trainer_state.json")},
    )


def trained(study: Study, text: str) -> Study:
    """Write the files of a finished training with ``text`` as weights."""
    with_metrics(study, "lora", 6)
    checkpoint(study, 6, text)
    write_text(study.folder / ADAPTER, text)
    write_json(study.arm_folder("lora") / "summary.json", {"adapter": text})
    outputs = {name: file_hash(study.folder / name) for name in (ADAPTER, f"{ARM}/summary.json")}
    study.write_step(StepRecord("train-lora", "succeeded", outputs=outputs))
    return study


def fetched(folder: Path) -> Study:
    study = Study(folder / "library")
    study.folder.mkdir(parents=True)
    Mirror(study, ObjectStore(URL)).pull()
    return study


def contents(study: Study) -> dict[str, bytes]:
    return {
        path.relative_to(study.folder).as_posix(): path.read_bytes()
        for path in study.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def require_honest(study: Study) -> None:
    """Check that files marked as complete are complete and equal."""
    if (study.folder / "study.yaml").exists() and study.step("train-lora").state == "succeeded":
        for name, digest in study.step("train-lora").outputs.items():
            assert file_hash(study.folder / name) == digest
    for marker in study.folder.rglob(CHECKPOINT_MARKER):
        for name, digest in read_json(marker).items():
            assert file_hash(marker.parent / name) == digest


def test_a_copy_contains_all_but_local_files(tmp_path):
    study = trained(new_study(), "weights")
    study.request_cancel()
    study.write_run_record("running")
    write_text(study.folder / "exports" / "merged" / "model.safetensors", "large")
    write_text(study.folder / ARM / "checkpoints" / "checkpoint-9" / "optimizer.pt", "not whole")
    store = Breaking(URL)
    Mirror(study, store).push()
    order = [name for name in store.changed if not name.startswith("-")]
    assert order[-1] == f"{ARM}/status.json"
    marker = f"{ARM}/checkpoints/checkpoint-6/{CHECKPOINT_MARKER}"
    assert order.index(marker) > max(
        order.index(name) for name in order if "checkpoint-6/" in name and name != marker
    )
    assert order.index("study.yaml") > order.index("data/source.csv")
    here_alone = ("cancel", "run.json", "exports/", f"{ARM}/checkpoints/checkpoint-9")
    expected = {
        name: content
        for name, content in contents(study).items()
        if not name.startswith(here_alone)
    }
    assert contents(fetched(tmp_path)) == expected
    before = list(store.changed)
    Mirror(study, store).push()
    assert store.changed == before  # nothing is put twice


def test_metrics_are_stored_in_chunks_and_restored_exactly(tmp_path):
    study = new_study()
    mirror = Mirror(study, ObjectStore(URL))
    path = study.arm_folder("lora") / "metrics.jsonl"
    for step in range(5):
        append_jsonl(path, {"event": "step", "step": step})
        mirror.push()
    # as after a resume from there
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    mirror.push()
    append_jsonl(path, {"event": "step", "step": 2, "again": True})
    Mirror(study, ObjectStore(URL)).push()  # another process resumes
    parts = sorted(name for name in mirror.store.versions() if "/metrics/" in name)
    assert len(parts) == 7 and parts[0] == f"{ARM}/metrics/000001-0.jsonl"
    assert contents(fetched(tmp_path))[f"{ARM}/metrics.jsonl"] == path.read_bytes()


def test_an_interrupted_push_never_looks_finished(tmp_path):
    """A finished training is pushed, then the same training with another result."""
    for changes in itertools.count():
        fsspec.filesystem("memory").store.clear()
        study = new_study(f"broken-{changes}")
        store = Breaking(URL, changes)
        mirror = Mirror(study, store)
        whole = False
        try:
            mirror.push()
            trained(study, "first")
            mirror.push()
            require_honest(fetched(tmp_path / f"{changes}-first"))
            study.delete_step_outputs("train-lora")
            checkpoint(study, 4, "second")
            study.write_step(StepRecord("train-lora", "running"))
            mirror.push()
            trained(study, "second")
            mirror.push()
            whole = True
        except StoreError:
            pass
        require_honest(fetched(tmp_path / f"{changes}"))
        store.left = float("inf")
        Mirror(study, store).push()  # another process resumes
        copy = fetched(tmp_path / f"{changes}-mended")
        assert contents(copy) == contents(study)
        if whole:
            assert changes > 20
            return


def test_pull_brings_an_outdated_copy_up_to_date(tmp_path):
    ours = new_study()
    checkpoint(ours, 2, "ours")
    append_jsonl(ours.folder / "votes.jsonl", {"vote": 1})
    mirror = Mirror(ours, ObjectStore(URL))
    mirror.push()
    other = fetched(tmp_path)
    other.write_step(StepRecord("train-lora", "running"))
    for path in sorted((other.folder / ARM / "checkpoints" / "checkpoint-2").glob("*")):
        path.unlink()
    going = Mirror(other, ObjectStore(URL))
    going.push()
    trained(other, "other")
    going.push()
    checkpoint(ours, 4, "never put")
    append_jsonl(ours.folder / "votes.jsonl", {"vote": 2})
    Mirror(ours, ObjectStore(URL)).pull()
    votes = read_jsonl(ours.folder / "votes.jsonl")
    assert {**contents(ours), "votes.jsonl": b""} == {**contents(other), "votes.jsonl": b""}
    assert votes == [{"vote": 1}, {"vote": 2}]
    require_honest(ours)


def test_pull_downloads_only_changed_files(tmp_path, monkeypatch):
    study = trained(new_study(), "weights")
    mirror = Mirror(study, ObjectStore(URL))
    mirror.push()
    mirror.refresh_versions()
    fetches: list[str] = []
    monkeypatch.setattr(ObjectStore, "download", lambda self, name, path: fetches.append(name))
    Mirror(study, ObjectStore(URL)).pull()
    assert fetches == []
    ObjectStore(URL).write("data/card.md", b"new")
    Mirror(study, ObjectStore(URL)).pull()
    assert fetches == ["data/card.md"]


def test_a_copy_without_lease_uploads_nothing():
    study = new_study()
    mirror = Mirror(study, ObjectStore(URL))
    mirror.push()
    mirror.may_write = lambda: False
    write_text(study.folder / "data" / "card.md", "late")
    with pytest.raises(StudyError, match="taken the study over"):
        mirror.push()
    assert "data/card.md" not in mirror.store.versions()


def test_pull_keeps_local_changes_of_the_user(tmp_path):
    study = new_study("library")
    write_text(study.folder / "data" / "source.csv", "question,answer\n")
    mirror = Mirror(study, ObjectStore(URL))
    mirror.push()
    mirror.refresh_versions()
    study.write_config(study.config.with_changes({"train.rank": 4}))
    (study.folder / "data" / "source.csv").unlink()
    write_text(study.folder / "data" / "source.jsonl", "{}\n")
    Mirror(study, ObjectStore(URL)).pull()
    assert study.config.train.rank == 4
    assert [path.name for path in (study.folder / "data").glob("source.*")] == ["source.jsonl"]
    mirror = Mirror(study, ObjectStore(URL))
    mirror.push()
    mirror.refresh_versions()
    assert {"data/source.jsonl"} == {
        name for name in ObjectStore(URL).versions() if name.startswith("data/source")
    }

    other = fetched(tmp_path / "library")
    assert other.config.train.rank == 4
    other.write_config(other.config.with_changes({"train.rank": 8}))
    Mirror(other, ObjectStore(URL)).push()
    study.write_config(study.config.with_changes({"train.rank": 2}))
    Mirror(study, ObjectStore(URL)).pull()
    assert study.config.train.rank == 8  # the store wins if both sides changed
