"""The owner's questions on the Results tab."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from assistant_builder.chat.client import WorkerPool
from assistant_builder.data import load_split
from assistant_builder.errors import DataError
from assistant_builder.retrieval.own_questions import (
    read_questions,
    save_answers,
    save_questions,
    unasked,
    wording_of,
)
from assistant_builder.study.contents import OwnQuestion
from assistant_builder.ui.app import ready_steps
from assistant_builder.ui.evaluate.own_questions import OwnQuestionsPanel
from assistant_builder.ui.refresh import StudyView
from tests.chat.fake_worker import parrot_command
from tests.cluster.conftest import wait_until
from tests.data.samples import jsonl
from tests.data.test_one_wording import sheet
from tests.synthetic_study import finished_study, new_study, running, trained, with_data
from tests.texts import plain
from tests.ui.blocks import inside_blocks


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.jsonl"
    path.write_text(jsonl([{"question": p.question, "answer": p.answer} for p in sheet()]))
    return path


@pytest.fixture
def panel(tmp_path: Path):
    pool = WorkerPool(parrot_command(tmp_path))
    yield inside_blocks(lambda: OwnQuestionsPanel(pool))
    pool.close()


def drawn(panel: OwnQuestionsPanel) -> dict[Any, Any]:
    """Component → value or update, of both regions."""
    view = StudyView("sheet")
    return {
        component: value
        for section in panel.sections()
        for component, value in zip(section.outputs, section.values(view), strict=True)
    }


def marks(panel: OwnQuestionsPanel) -> list[str]:
    return [section.mark(StudyView("sheet")) for section in panel.sections()]


def saved(
    panel: OwnQuestionsPanel,
    *wordings: str,
    ticked: Any = (),
    others: str = "",
    pasted: str = "",
) -> None:
    texts = [*wordings, *[""] * (len(panel.wordings) - len(wordings))]
    panel._save("sheet", ticked, others, pasted, *texts)


def test_the_questions_can_be_typed_while_it_trains(panel, source):
    study = with_data(new_study("sheet", source))
    assert "evaluate" in ready_steps(StudyView("sheet"))
    running(study, "train-lora")
    shown = drawn(panel)
    assert shown[panel.body]["visible"] and shown[panel.form]["open"]
    assert "while it trains" in plain(shown[panel.state]) and shown[panel.answers] == ""
    boxes = [shown[box] for box in panel.wordings]
    assert all(box["visible"] and box["value"] == "" for box in boxes) and len(boxes) == 10
    asked = {pair.question: pair.answer for pair in load_split(study.folder / "data", "train")}
    assert all(box["info"].startswith(asked[box["label"]]) for box in boxes)
    before = marks(panel)
    saved(panel, "", "how dear", ticked=["Write a poem about the sea."], others="Why?\n\nWho?\n")
    questions = read_questions(study)
    assert [each.question for each in questions] == [
        "how dear",
        "Write a poem about the sea.",
        "Why?",
        "Who?",
    ]
    assert questions[0].known == boxes[1]["label"]
    assert marks(panel) != before
    shown = drawn(panel)
    assert shown[panel.wordings[1]]["value"] == "how dear" and not shown[panel.form]["open"]
    assert set(shown[panel.unanswered]["value"]) == {"Write a poem about the sea.", "Why?", "Who?"}
    assert shown[panel.unanswered]["choices"][-2:] == ["Why?", "Who?"]
    wait_until(lambda: not panel.asker.is_asking(study), 60)
    shown = drawn(panel)
    assert "4 questions are kept for the test" in plain(shown[panel.state])
    assert shown[panel.waiting] == "" and unasked(study) == []
    view = plain(shown[panel.answers])
    assert "Copying an answer was right on 0 of your 1 own wording" in view


def test_questions_about_other_facts_are_pasted_and_can_be_taken_back(panel, source):
    study = with_data(new_study("sheet", source))
    labels = {drawn(panel)[box]["label"] for box in panel.wordings}
    other = next(
        pair
        for pair in load_split(study.folder / "data", "train")
        if pair.question not in labels and pair.respelled is None
    )
    saved(panel, "how dear", pasted=f'is "it" dear\t{other.answer}\nwho pays\t{other.question}\n')
    asked = [(each.question, each.row) for each in read_questions(study)[1:]]
    assert asked == [('is "it" dear', other.row), ("who pays", other.row)]
    text = drawn(panel)[panel.pasted]
    saved(panel, "how dear", pasted=text)
    assert [(each.question, each.row) for each in read_questions(study)[1:]] == asked
    saved(panel, "how dear", pasted=text.splitlines()[1])
    assert [each.question for each in read_questions(study)] == ["how dear", "who pays"]
    for wrong, said in (
        ("no answer", "not every line has a question and its answer"),
        ("why\tno such row", "no row has the answer of 'why'"),
        (f"{other.question}\t{other.answer}", "your file has the question"),
    ):
        with pytest.raises(DataError, match=said):
            panel._save("sheet", [], "", wrong, *[""] * len(panel.wordings))
    assert [each.question for each in read_questions(study)] == ["how dear", "who pays"]


def test_answers_are_shown_side_by_side_and_do_not_disturb_what_is_typed(panel, source):
    study = finished_study("sheet", source)
    first = load_split(study.folder / "data", "train")[0]
    save_questions(study, [wording_of(first, "printers <b>dear</b>"), OwnQuestion("Who?")])
    assert drawn(panel)[panel.waiting] == "sheet:2:all", "the page asks them by itself"
    form, answers = marks(panel)
    save_answers(
        study,
        "printers <b>dear</b>",
        {
            "lora": {"text": first.answer.lower(), "declined": False},
            "qlora": {"text": "Rule 9.", "declined": False},
            "copy": {"text": "Rule 8.", "declined": False},
        },
    )
    assert marks(panel)[0] == form and marks(panel)[1] != answers
    view = drawn(panel)[panel.answers]
    assert "<b>dear" not in view and "not asked yet" in plain(view)
    assert f"{first.answer.lower()} right" in plain(view) and "Rule 9. wrong" in plain(view)
    save_answers(
        study,
        "Who?",
        {arm: {"text": "Me!", "declined": arm == "lora"} for arm in ("lora", "qlora", "copy")},
    )
    shown = drawn(panel)
    assert shown[panel.waiting] == "" and shown[panel.state] == ""
    text = plain(shown[panel.answers])
    assert "Me! declined" in text and "Me! should decline" in text
    assert "Full was right on 1 of your 1 own wording" in text
    assert "Compact was right on 0 of your 1 own wording" in text


def test_saving_asks_at_once_even_during_a_run(panel, source):
    study = trained(with_data(new_study("sheet", source)))
    running(study, "evaluate")
    save_questions(study, [OwnQuestion("Who?")])
    assert drawn(panel)[panel.waiting] == "sheet:1:copies", "a run needs the memory"
    assert "They are asked when the run has ended" in plain(drawn(panel)[panel.state])
    saved(panel, "how dear", others="Who?")
    wait_until(lambda: not unasked(study), 60)


def test_what_cannot_be_asked_is_told(panel, source):
    study = finished_study("sheet", source)
    save_questions(study, [OwnQuestion("refuse")])
    panel._begin("sheet:1:all")
    wait_until(lambda: panel.asker.error(study) and not panel.asker.is_asking(study), 60)
    assert "no trained adapter" in plain(drawn(panel)[panel.state])


def test_a_question_of_the_file_is_refused_and_the_others_stay(panel, source):
    study = with_data(new_study("sheet", source))
    saved(panel, "how dear")
    known = load_split(study.folder / "data", "train")[0].question
    button = inside_blocks(lambda: (panel.wire(gr.Dropdown()), panel.save)[1])
    assert button is panel.save
    with pytest.raises(Exception, match="your file has the question"):
        saved(panel, known)
    assert [each.question for each in read_questions(study)] == ["how dear"]
