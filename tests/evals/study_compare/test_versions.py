"""The next version of a published assistant, and its verdict against the served one."""

import pytest

from assistant_builder.atomic_io import append_jsonl, write_json
from assistant_builder.chat.feedback import add_correction
from assistant_builder.data import load_split
from assistant_builder.errors import DataError, StudyError
from assistant_builder.study import Study, home
from assistant_builder.study.versions import (
    add_version,
    read_versions,
    root_of,
    served_version,
    undo,
)
from evals.declaration import HeldOut, _Uses, freeze
from evals.study_compare.versions import (
    create_next_version,
    pending_corrections,
    publish_version,
    reject_if_worse,
    version_verdict,
)
from tests.commands import command, record_of, refusal_of
from tests.evals.study_compare.scored_studies import each, edit, make

NEW = "Where can I park a bicycle?"


@pytest.fixture
def root() -> Study:
    return make("shop")


def scored_version(root: Study, harm: float) -> Study:
    """A second version whose loss is higher by ``harm`` nats for each token."""
    version = make(f"{root.name}-v{len(read_versions(root).names) + 1}")
    edit(version, each(lambda sample: {"nll": sample["nll"] + harm * sample["tokens"]}))
    add_version(root, version)
    return version


def test_the_next_version_has_the_split_and_the_corrections_of_the_served_one(root):
    with pytest.raises(DataError, match="no correction"):
        create_next_version(root)
    add_correction(root, NEW, "By the gate.")
    assert [each.question for each in pending_corrections(root)] == [NEW]
    made, plan = create_next_version(root)
    assert made.name == "shop-v2" and len(plan.trained) == 1 and root_of(made).name == "shop"
    assert served_version(root).name == "shop", "it is not served before it has a verdict"
    assert made.source is not None and NEW in made.source.read_text()
    heldout = {pair.question for pair in load_split(root.folder / "data", "heldout")}
    assert heldout and made.config.data.columns["split"] == "split"
    with pytest.raises(StudyError, match="neither published nor rejected"):
        create_next_version(root)


def test_a_version_that_is_no_worse_is_published_and_undone(root):
    version = scored_version(root, 0.0)
    found = publish_version(root, version)
    assert found.outcome == "no worse" and served_version(root).name == version.name
    assert read_versions(root).events[-1].reason == str(found.sentence)
    assert undo(root) == "shop"


def test_a_version_that_is_worse_is_rejected_with_the_verdict_and_published_only_anyway(root):
    version = scored_version(root, 1.0)
    with pytest.raises(StudyError, match="not shown to be no worse"):
        publish_version(root, version)
    found = reject_if_worse(root, version)
    assert found.outcome == "worse" and read_versions(root).reason(version.name) == str(
        found.sentence
    )
    assert served_version(root).name == "shop"
    publish_version(root, version, anyway=True)
    assert served_version(root).name == version.name
    assert version_verdict(root, root).outcome == "no worse", (
        "the verdict is against the version that is served now"
    )


def test_a_version_that_cannot_keep_its_promise_is_not_published_as_it_could_not_be_served(root):
    version = scored_version(root, 0.0)
    version.write_config(version.config.with_changes({"retrieval.keep_promise": True}))
    for anyway in (False, True):
        with pytest.raises(StudyError, match="cannot make the promise"):
            publish_version(root, version, anyway=anyway)
    assert served_version(root).name == "shop"


def test_a_version_without_scores_has_no_verdict(root):
    add_correction(root, NEW, "By the gate.")
    made, _ = create_next_version(root)
    assert version_verdict(root, made).outcome == "not trained"
    with pytest.raises(StudyError, match="not evaluated"):
        publish_version(root, made, anyway=True)
    assert reject_if_worse(root, made).outcome == "not trained"
    assert read_versions(root).candidate == made.name


def test_a_version_that_may_be_worse_is_left_to_the_user(root):
    version = scored_version(root, 0.0)
    edit(
        version,
        lambda samples: [
            sample | {"nll": sample["nll"] * (0.2 if place % 2 else 1.8)}
            for place, sample in enumerate(samples)
        ],
    )
    assert reject_if_worse(root, version).outcome == "inconclusive"
    assert read_versions(root).candidate == version.name, (
        "it is neither rejected nor published by itself"
    )
    with pytest.raises(StudyError, match="inconclusive"):
        publish_version(root, version)
    publish_version(root, version, anyway=True)
    assert served_version(root).name == version.name


def test_the_command_creates_lists_publishes_and_undoes(root):
    add_correction(root, NEW, "By the gate.")

    def said(line: str) -> str:
        return command(f"versions shop {line}", inside=True).stdout

    assert "1 corrections for the next version" in said("")
    assert "assistant-builder run shop-v2" in said("--create")
    assert record_of("versions shop-v2", inside=True)["candidate"] == "shop-v2"
    assert "not evaluated" in refusal_of("versions shop --publish shop-v2", inside=True)
    assert "rejected" in said("--reject shop-v2 --why 'too slow'")
    assert "too slow" in said("")
    scored_version(root, 0.0)
    assert "shop-v3 is served now" in said("--publish shop-v3")
    assert "shop is served again" in said("--undo")
    command("versions shop --undo --create", ends=1, inside=True)


def test_a_version_is_compared_with_the_first_one_too_and_each_try_costs(root):
    """Two versions that each lose 0.02 nats of the 0.03 allowed: the second one loses more than that to the first."""
    first = scored_version(root, 0.02)
    assert version_verdict(root, first).outcome == "no worse"
    publish_version(root, first)
    second = scored_version(root, 0.04)
    found = version_verdict(root, second)
    assert found.record is not None and found.record["a"] == first.name
    assert found.record["verdicts"][0]["level"] == pytest.approx(0.975)
    assert "97.5% interval" in str(found.sentence) and "So far 2 versions" in str(found.sentence)
    assert found.outcome == "worse" and f"than in {root.name}" in str(found.sentence)
    with pytest.raises(StudyError, match="not shown to be no worse"):
        publish_version(root, second)


def test_a_version_is_judged_at_the_look_of_its_test(root):
    asked = HeldOut.read(root)
    append_jsonl(
        home() / "declarations.jsonl",
        {
            "heldout_sha256": "another test",
            "study": "earlier",
            "written": "2026-01-01T00:00:00+00:00",
            "questions": sorted(_Uses(asked).questions),
        },
    )
    found = version_verdict(root, scored_version(root, 0.0))
    assert found.record is not None and found.record["verdicts"][0]["level"] == pytest.approx(0.975)
    assert "97.5% interval" in str(found.sentence)


def test_a_version_that_is_trained_again_until_it_passes_pays_for_each_time(root):
    version = scored_version(root, 0.0)
    levels = []
    for adapter in ("first", "second", "second", "third"):
        write_json(version.arm_folder("qlora") / "summary.json", {"adapter_sha256": adapter})
        freeze(version)
        record = version_verdict(root, version).record
        assert record is not None
        levels.append(record["verdicts"][0]["level"])
    assert levels == pytest.approx([0.95, 0.975, 0.975, 0.9875])


def test_a_version_of_one_that_was_not_evaluated_can_be_published_by_its_owner(root):
    version = scored_version(root, 0.0)
    root.status_file("evaluate").unlink()
    found = version_verdict(root, version)
    assert found.outcome == "inconclusive" and "was not evaluated" in str(found.sentence)
    with pytest.raises(StudyError, match="not shown to be no worse"):
        publish_version(root, version)
    publish_version(root, version, anyway=True)
    assert served_version(root).name == version.name
