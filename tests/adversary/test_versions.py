"""Publishing a version: every bound of the verdict, on the items of the headline, and corrected test questions."""

from typing import Any

import pytest

from assistant_builder.chat.feedback import add_correction
from assistant_builder.data import load_split
from assistant_builder.data.prepare import prepare_dataset
from assistant_builder.errors import StudyError
from assistant_builder.study.versions import add_version
from evals.study_compare.versions import create_next_version, publish_version
from tests.adversary.rescored_study import right, scored


def invents(place: int, sample: dict[str, Any]) -> dict[str, Any]:
    """Answers all that it should, and invents answers to what it should decline."""
    found = right(place, sample)
    return (
        found
        if sample["answerable"]
        else {**found, "answer": "Yes, it is 12 crowns.", "declined": False}
    )


def evasive(place: int, sample: dict[str, Any]) -> dict[str, Any]:
    """Declines what it should, and one in eight of the questions that it should answer."""
    found = right(place, sample)
    evades = sample["answerable"] and place % 8 == 0
    return {**found, "answer": "I do not know that.", "declined": True} if evades else found


def garbage(place: int, sample: dict[str, Any]) -> dict[str, Any]:
    return {**right(place, sample), "answer": "zzz", "declined": False}


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [({}, invents, evasive), ({"eval__primary_metric": "nll_per_token"}, right, garbage)],
    ids=["declines", "garbage"],
)
def test_a_version_that_fails_another_bound_is_not_published(settings, before, after):
    root = scored("shop", before, before, **settings)
    version = scored("shop-v2", after, after, **settings)
    add_version(root, version)
    with pytest.raises(StudyError, match="not shown to be no worse"):
        publish_version(root, version)


def test_correcting_wrong_test_answers_changes_no_test():
    """Without the questions that the served version got wrong, an equal version looked worse in 99.8 % of the cases."""
    root = scored("shop", right, right)
    heldout = [pair.question for pair in load_split(root.folder / "data", "heldout")]
    for question in heldout[:40]:
        add_correction(root, question, "By the gate.")
    add_correction(root, "Where can I park a bicycle?", "By the gate.")
    made, plan = create_next_version(root)
    assert len(plan.trained) == 1 and len(plan.left_out) == 40 and made.source is not None
    prepare_dataset(made.source, made.config.data, folder=made.folder / "data", title=made.name)
    assert [pair.question for pair in load_split(made.folder / "data", "heldout")] == heldout
