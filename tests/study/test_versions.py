"""Which version of a published assistant is served."""

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from assistant_builder.atomic_io import read_json, write_json, write_text
from assistant_builder.errors import StudyError
from assistant_builder.study import Study
from assistant_builder.study.admin import delete_study, rename_study
from assistant_builder.study.versions import (
    add_version,
    next_name,
    publish,
    read_versions,
    reject,
    root_of,
    served_version,
    undo,
    versions_file,
)
from tests.synthetic_study import new_study


@pytest.fixture
def root() -> Study:
    """A study with a second version."""
    first = new_study("shop")
    add_version(first, new_study("shop-v2"))
    return first


def test_a_study_alone_is_its_only_version():
    study = new_study("shop")
    assert served_version(study) is study
    assert root_of(study) is study
    assert not versions_file(study).exists()
    assert read_versions(study).candidate is None and next_name(study) == "shop-v2"
    with pytest.raises(StudyError, match="no other version"):
        undo(study)


def test_the_published_version_is_served_until_it_is_undone(root):
    second = Study.open("shop-v2")
    assert read_versions(root).candidate == "shop-v2"
    assert served_version(root).name == "shop"
    assert root_of(second).name == "shop"
    assert next_name(root) == "shop-v3"
    publish(root, "shop-v2", "no worse")
    assert served_version(root).name == "shop-v2" and read_versions(root).candidate is None
    assert served_version(second).name == "shop-v2", "a later version stands for itself"
    publish(root, "shop-v2")
    assert undo(root) == "shop"
    assert served_version(root).name == "shop"
    assert read_versions(root).before == ()
    assert [event.action for event in read_versions(root).events] == [
        "created",
        "published",
        "undone",
    ]


def test_undo_goes_back_version_by_version(root):
    add_version(root, new_study("shop-v3"))
    publish(root, "shop-v2")
    publish(root, "shop-v3")
    assert (undo(root), undo(root)) == ("shop-v2", "shop")


def test_a_rejected_version_stays_with_its_reason(root):
    reject(root, "shop-v2", "worse by 3 points")
    found = read_versions(root)
    assert found.reason("shop-v2") == "worse by 3 points"
    assert found.candidate is None
    assert found.served == "shop"
    assert Study.open("shop-v2") and found.reason("shop") is None
    publish(root, "shop-v2", "after all")
    assert read_versions(root).reason("shop-v2") is None
    with pytest.raises(StudyError, match="is served"):
        reject(root, "shop-v2", "late")
    for change in (publish, lambda study, name: reject(study, name, "")):
        with pytest.raises(StudyError, match="no version of shop"):
            change(root, "other")


def test_the_served_version_and_the_first_one_are_not_deleted(root):
    with pytest.raises(StudyError, match="has versions"):
        delete_study(root)
    publish(root, "shop-v2")
    with pytest.raises(StudyError, match="is published"):
        delete_study(Study.open("shop-v2"))
    undo(root)
    delete_study(Study.open("shop-v2"))
    with pytest.raises(StudyError, match="shop-v2"):
        publish(root, "shop-v2")
    delete_study(root)


def test_versions_survive_renaming(root):
    publish(root, "shop-v2")
    second = rename_study(Study.open("shop-v2"), "spring")
    assert served_version(root).name == "spring" and root_of(second).name == "shop"
    store = rename_study(root, "store")
    assert root_of(Study.open("spring")).name == "store" and served_version(store).name == "spring"
    assert undo(store) == "store"


def test_a_version_whose_first_study_is_gone_stands_for_itself(root):
    second = Study.open("shop-v2")
    write_json(second.folder / "made_from.json", {"study": "shop", "version_of": "gone"})
    assert root_of(second).name == "shop-v2"
    write_json(versions_file(root), {**read_json(versions_file(root)), "served": "gone"})
    with pytest.raises(StudyError, match="gone"):
        served_version(root)
    write_text(versions_file(root), "{}")
    with pytest.raises(StudyError, match="damaged"):
        read_versions(root)


def test_a_time_that_no_calendar_has_is_damage(root):
    record = read_json(versions_file(root))
    for when in (1e300, -1e300, 9e15):
        record["events"][0]["time"] = when
        write_json(versions_file(root), record)
        with pytest.raises(StudyError, match="events.0.time"):
            read_versions(root)


def test_of_two_changes_at_a_time_none_is_lost(root):
    def change(number: int) -> None:
        for _ in range(15):
            reject(root, "shop-v2", f"reason {number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    reasons = [event.reason for event in read_versions(root).events[1:]]
    assert len(reasons) == 60 and set(reasons) == {f"reason {number}" for number in range(4)}


_SWITCHER = """
from assistant_builder.study import Study
from assistant_builder.study.versions import publish, undo

root = Study.open("shop")
print("ready", flush=True)
while True:
    publish(root, "shop-v2", "no worse")
    undo(root)
"""


@pytest.mark.long
def test_a_process_killed_while_it_publishes_leaves_one_version_or_the_other(root):
    rng = random.Random(7)
    served = []
    for _ in range(25):
        with subprocess.Popen(
            [sys.executable, "-c", _SWITCHER], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.05))
            process.kill()
        served.append(served_version(root).name)
        found = read_versions(root)
        assert found.before == (("shop",) if found.served == "shop-v2" else ()), "half of a change"
        assert [event.action for event in found.events[1:]] == (
            ["published", "undone"] * len(found.events)
        )[: len(found.events) - 1], "a change without its event"
        if found.served == "shop-v2":
            undo(root)
    assert set(served) == {"shop", "shop-v2"}, "no kill hit a published version"


@pytest.mark.parametrize("named", ["private", "../private", "Private", "private/", "/private"])
def test_a_study_from_elsewhere_serves_and_changes_no_other_study(named):
    private, theirs = new_study("private"), new_study("handed-on")
    write_json(
        versions_file(theirs),
        {
            "served": named,
            "names": ["handed-on", named],
            "before": [named],
            "events": [{"time": 0.0, "action": "created", "version": named, "reason": ""}],
        },
    )
    with pytest.raises(StudyError, match=f"{named} is no version of handed-on"):
        served_version(theirs)
    found = read_versions(theirs)
    assert found.names == ("handed-on",) and found.before == () and found.candidate is None
    for change in (
        lambda: undo(theirs),
        lambda: publish(theirs, named),
        lambda: reject(theirs, named, ""),
    ):
        with pytest.raises(StudyError):
            change()
    rename_study(theirs, "renamed")
    assert not (private.folder / "made_from.json").exists() and root_of(private) == private
    write_json(private.folder / "made_from.json", {"version_of": "other"})
    with pytest.raises(StudyError, match="is no version of renamed"):
        served_version(Study.open("renamed"))
    for content in ([], {"version_of": ["renamed"]}, "renamed", None):
        write_json(private.folder / "made_from.json", content)
        assert root_of(private) == private


def test_a_renamed_first_study_keeps_its_versions(root):
    publish(root, "shop-v2")
    renamed = rename_study(root, "store")
    assert served_version(renamed).name == "shop-v2"
    assert root_of(Study.open("shop-v2")).name == "store"
    rename_study(Study.open("shop-v2"), "store-v2")
    assert served_version(renamed).name == "store-v2"
    assert read_versions(renamed).names == ("store", "store-v2")
