"""Questions of the owner are asked in the background, never trained on, and go into the report."""

from pathlib import Path

import pytest

from assistant_builder.atomic_io import read_json
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.feedback import (
    add_correction,
    create_retraining_study,
    heldout_matches,
    plan_retraining,
    read_corrections,
)
from assistant_builder.chat.own_questions import OwnQuestionAsker, ask_missing, renew_report
from assistant_builder.data import load_split
from assistant_builder.errors import DataError
from assistant_builder.retrieval.own_questions import (
    read_answers,
    read_questions,
    save_questions,
    unasked,
    wording_of,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnQuestion
from evals.report.build import write_report
from tests.chat.fake_worker import parrot_command
from tests.data.samples import jsonl
from tests.data.test_one_wording import sheet
from tests.synthetic_study import finished_study, running

MINE = "printers, are they dear"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    source = tmp_path / "sheet.jsonl"
    source.write_text(jsonl([{"question": p.question, "answer": p.answer} for p in sheet()]))
    study = finished_study("sheet", source)
    first = load_split(study.folder / "data", "train")[0]
    save_questions(study, [wording_of(first, MINE), OwnQuestion("decline")])
    return study


@pytest.fixture
def pool(tmp_path: Path):
    pool = WorkerPool(parrot_command(tmp_path))
    yield pool
    pool.close()


def asked(asker: OwnQuestionAsker, study: Study) -> None:
    thread = asker.start(study)
    assert thread is not None and asker.start(study) is None, "one study at a time"
    thread.join(60)
    assert not asker.is_asking(study)


def test_questions_are_asked_in_the_background_and_reported(study, pool):
    done: list[Study] = []
    asker = OwnQuestionAsker(pool, done.append)
    asked(asker, study)
    assert asker.error(study) is None and unasked(study) == []
    assert [each.folder for each in done] == [study.folder]
    assert read_answers(study, "qlora") == {
        MINE: {
            "text": " ".join(f"qlora:{word}" for word in MINE.split()) + " ✓",
            "declined": False,
        },
        "decline": {"text": "I do not know.", "declined": True},
    }
    assert asker.start(study) is None, "nothing is missing"


def test_copied_answers_can_be_asked_alone(study, pool):
    asker = OwnQuestionAsker(pool, lambda study: None)
    asker.start(study, copies=True).join(60)
    assert set(read_answers(study, "copy")) == {MINE, "decline"}
    assert read_answers(study, "lora") == {} and len(unasked(study)) == 2
    assert asker.start(study, copies=True) is None


def test_an_error_keeps_the_answers_so_far_and_is_told(study, pool):
    save_questions(study, [*read_questions(study), OwnQuestion("refuse")])
    asker = OwnQuestionAsker(pool, lambda study: pytest.fail("not all were asked"))
    asked(asker, study)
    assert asker.error(study)["what"] == "there is no trained adapter"
    assert unasked(study) == [("refuse", ["lora", "qlora", "copy"])]
    save_questions(study, [each for each in read_questions(study) if each.question != "refuse"])
    assert asker.start(study) is None


def test_the_report_is_renewed_only_between_runs(study):
    ask_missing(
        study, lambda question, arms: {arm: {"text": "So.", "declined": False} for arm in arms}
    )
    before = study.step("report")
    assert renew_report(study, write_report)
    after, own = study.step("report"), read_json(study.report_file)["own_questions"]
    assert (own["arms"]["qlora"]["wordings"], own["arms"]["qlora"]["unanswered"]) == (1, 1)
    assert after.outputs.keys() == before.outputs.keys() and after.state == "succeeded"
    running(study, "evaluate")
    assert not renew_report(study, lambda study: pytest.fail("a run is going on"))


def test_own_questions_are_never_trained_on(study):
    assert heldout_matches(study, ["Printers: are they dear?", "decline", "another one"]) == {
        0: [load_split(study.folder / "data", "train")[0].row],
        1: [0],
    }
    add_correction(study, MINE, "They are free.")
    with pytest.raises(DataError, match="all of them answer test questions"):
        plan_retraining(study, read_corrections(study))
    add_correction(study, "Who mends the roof?", "Nobody.")
    plan = plan_retraining(study, read_corrections(study))
    assert [each.question for each in plan.trained] == ["Who mends the roof?"]
    new = create_retraining_study(study, plan, "again")
    assert read_questions(new) == read_questions(study), "the next version is asked the same"
    assert MINE not in new.source.read_text()
