"""Where an export goes: whole or not at all, and nothing of the user's is lost."""

import errno
from pathlib import Path

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.errors import ConfigError, ResourceError, StudyError
from assistant_builder.export.atomic_dir import RECORD, atomic_directory


def fill(target: Path, names: dict[str, str], *, force: bool = False) -> None:
    with atomic_directory(target, force=force, needed=0) as scratch:
        for name, text in names.items():
            (scratch / name).parent.mkdir(exist_ok=True)
            (scratch / name).write_text(text)
        write_json(scratch / RECORD, {"files": [{"name": name} for name in names]})


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != RECORD}


def test_a_new_folder_appears_atomically(tmp_path):
    fill(tmp_path / "a" / "b", {"x": "1"})
    assert content(tmp_path / "a" / "b") == {"x": "1"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_filled_where_it_is(tmp_path):
    target = tmp_path / "mounted"
    target.mkdir()
    before = target.stat().st_ino
    fill(target, {"x": "1"})
    assert content(target) == {"x": "1"} and target.stat().st_ino == before


@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_leaves_nothing(exists, tmp_path):
    target = tmp_path / "out"
    if exists:
        target.mkdir()
    with pytest.raises(StudyError), atomic_directory(target, force=False, needed=0) as scratch:
        (scratch / "half").write_text("x")
        raise StudyError("stop")
    assert list(tmp_path.rglob("*")) == ([target] if exists else [])


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not empty \(mine\.txt"):
        fill(tmp_path, {"x": "1"})
    assert content(tmp_path) == {"mine.txt": "mine"}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        fill(tmp_path / "file", {"x": "1"}, force=True)


def test_force_removes_a_folder_that_the_new_export_does_not_have(tmp_path):
    target = tmp_path / "out"
    fill(target, {"x": "1", "facts/a": "private", "facts/b": "private"})
    assert (target / "facts").stat().st_mode & 0o777 == 0o755
    fill(target, {"x": "2", "facts/a": "private"}, force=True)
    assert [path.name for path in (target / "facts").iterdir()] == ["a"]
    (target / "facts" / "mine.txt").write_text("mine")
    fill(target, {"x": "3"}, force=True)
    assert [path.name for path in (target / "facts").iterdir()] == ["mine.txt"]
    (target / "facts" / "mine.txt").unlink()
    fill(target, {"x": "4", "facts/a": "again"}, force=True)
    fill(target, {"x": "5"}, force=True)
    assert content(target) == {"x": "5"}


def test_a_record_names_no_file_outside_the_export(tmp_path):
    fill(tmp_path / "out", {"x": "1"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "other")
    wrong = ["../other/mine.txt", "link/mine.txt", "../x", "", "/x", "a/b/c", "..", ".", 7]
    write_json(tmp_path / "out" / RECORD, {"files": [{"name": name} for name in wrong]})
    fill(tmp_path / "out", {"x": "2"}, force=True)
    assert (tmp_path / "other" / "mine.txt").read_text() == "mine"
    with pytest.raises(StudyError, match="it is a link"):
        fill(tmp_path / "out", {"x": "3", "link/mine.txt": "theirs"}, force=True)
    assert (tmp_path / "other" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "out" / "x").read_text() == "2" and (tmp_path / "out" / RECORD).exists()


def test_force_replaces_an_earlier_export_and_keeps_all_else(tmp_path):
    fill(tmp_path / "out", {"x": "1", "old": "1"})
    with pytest.raises(ConfigError, match="holds an earlier export"):
        fill(tmp_path / "out", {"x": "2"})
    (tmp_path / "out" / "mine.txt").write_text("mine")
    fill(tmp_path / "out", {"x": "2", "new": "2"}, force=True)
    assert content(tmp_path / "out") == {"x": "2", "new": "2", "mine.txt": "mine"}


def test_a_record_cannot_have_files_elsewhere_removed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    target = tmp_path / "out"
    target.mkdir()
    write_json(target / RECORD, {"files": [{"name": "../precious"}, {"name": 3}, {}]})
    fill(target, {"x": "1"}, force=True)
    write_json(target / RECORD, {"files": [{"name": "../precious"}]})
    fill(target, {"x": "1"}, force=True)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_full_disk_is_reported_before_and_while_writing(tmp_path):
    with (
        pytest.raises(
            ResourceError, match="the export needs 1,000,000,000 GB of disk space; .* are free"
        ),
        atomic_directory(tmp_path / "a", force=False, needed=10**18),
    ):
        pytest.fail("nothing is begun")
    with (
        pytest.raises(ResourceError, match="disk is full; nothing was written"),
        atomic_directory(tmp_path / "a", force=False, needed=0),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StudyError, match="cannot be written: Read-only"),
        atomic_directory(tmp_path / "a", force=False, needed=0),
    ):
        raise OSError(errno.EROFS, "Read-only file system")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed(tmp_path):
    left = tmp_path / ".assistant-builder-999999999-abc"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    fill(tmp_path, {"x": "1"})  # the rest of a dead export does not count as content
    assert not left.exists() and content(tmp_path) == {"x": "1"}
