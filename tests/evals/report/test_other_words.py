"""Reports of files whose answers occur once: what was asked in other words decides, and respelled questions do not."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant_builder.atomic_io import read_json, read_jsonl, write_jsonl
from assistant_builder.chat.own_questions import ask_missing
from assistant_builder.cli import app
from assistant_builder.data.wordings import Wording, add_wordings
from assistant_builder.retrieval.own_questions import (
    facts_to_word,
    read_questions,
    save_questions,
    wording_of,
)
from assistant_builder.study import Study
from assistant_builder.study.contents import OwnQuestion
from assistant_builder.ui.evaluate.view import four_bit_card, good_enough_card
from assistant_builder.ui.export.view import not_ready_warning
from assistant_builder.ui.home.view import score
from evals.declaration import HeldOut
from evals.report import brief
from evals.report.conclusion import Conclusion, conclude
from evals.report.next_step import test_declining as declining_tested
from evals.report.other_words import decided_outcome
from evals.report.own_questions import own_questions
from evals.report.to_come import to_come_text
from tests.data.samples import jsonl, pair
from tests.data.test_one_wording import declines, sheet, typed
from tests.synthetic_study import evaluated, new_study, reported, trained, with_data
from tests.typed_report import as_report

NOTHING = "Nothing was tested in other words: your file has one wording of each question."


def scored(source: Path, *, right: int, declined: int = 0, **changes: Any) -> Study:
    """A finished study: both arms answer the first ``right`` questions right and decline ``declined`` others."""
    study = evaluated(trained(with_data(new_study("sheet", source, **changes))))
    for path in study.evals_folder.rglob("samples.jsonl"):
        samples = read_jsonl(path)
        for asked, wanted in ((True, right), (False, declined)):
            for place, sample in enumerate(each for each in samples if each["answerable"] == asked):
                good = float(place < wanted)
                loss = {
                    name: value
                    for name, value in sample["metrics"].items()
                    if name == "nll_per_token"
                }
                sample["declined"] = not asked and place < wanted
                sample["metrics"] = loss | (
                    {"exact_match": good, "token_f1": good, "false_decline": 0.0}
                    if asked
                    else {"right_decline": good}
                )
        write_jsonl(path, samples)
    return reported(study)


def everything(study: Study) -> tuple[dict[str, Any], Conclusion, str]:
    """The report, its conclusion, and all that page, command line and report files say first."""
    report = read_json(study.folder / "report.json")
    found = conclude(as_report(report))
    text = "\n".join(
        [
            *found.lines,
            good_enough_card(as_report(report), found),
            four_bit_card(as_report(report), found),
            score(found),
            not_ready_warning(as_report(report)),
            *brief.risks(as_report(report), found),
        ]
    )
    return report, found, text


def write(path: Path, pairs: list[Any]) -> Path:
    path.write_text(
        jsonl(
            [
                {
                    "question": p.question,
                    "answer": p.answer,
                    "split": p.split or "",
                    "answerable": p.answerable,
                }
                for p in pairs
            ]
        )
    )
    return path


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
@pytest.mark.parametrize("right", [20, 12, 0])
def test_a_test_of_respelled_questions_judges_nobody(tmp_path, right, metric):
    study = scored(
        write(tmp_path / "sheet.jsonl", sheet()), right=right, eval__primary_metric=metric
    )
    report, found, text = everything(study)
    assert not found.tested and found.ready and found.share is None
    assert found.next_tab == "evaluate" and found.commands == (
        "assistant-builder wordings sheet WORDINGS.csv",
    )
    assert found.audience.text == NOTHING
    assert found.audience.who == "colleagues"
    assert found.figures == ()
    assert found.good_enough == NOTHING
    assert found.four_bit == (
        "The test cannot show whether the compact one is as good. The questions of this test are those of your file, "
        "respelled."
    )
    assert "ten questions as people would ask them" in found.action
    assert "not tested in other words" in text
    assert not re.search(r"\b0 of 20", text) and "not ready" not in text
    assert all(
        "not ready" not in (study.folder / f"report.{ending}").read_text().lower()
        for ending in ("md", "html")
    )
    assert "On your 20 respelled questions" in report["sentence"]
    assert "about questions of training, respelled" in report["basis"][0]
    assert "other_claim" not in report
    assert decided_outcome(as_report(report)) == "inconclusive"
    done = CliRunner().invoke(app, ["report", study.name, "--fail-if", "inconclusive"])
    assert done.exit_code == 3, "it shows nothing of questions in other words"
    codes = [warning["code"] for warning in report["warnings"]]
    assert "respelled" in codes and "not_better_than_copy" not in codes
    assert report["taught"] == {"items": 20, "covered": 20}


def test_right_declines_are_told_of_a_test_that_asks_nothing_else_in_other_words(tmp_path):
    rows = [*sheet(split="train"), *declines(10, split="heldout")]
    study = scored(
        write(tmp_path / "sheet.jsonl", rows),
        right=20,
        declined=7,
        eval__primary_metric="exact_match",
    )
    _, found, _ = everything(study)
    assert (
        found.good_enough
        == f"{NOTHING} It declined 7 of 10 questions that your file does not answer."
    )
    assert [(figure.value, figure.what) for figure in found.figures] == [
        ("7 of 10", "declined rightly")
    ]


def asked_own(study: Study, right: int, declined: int) -> Study:
    """Ask ten wordings and four questions that the file does not answer; the full assistant is right on one less."""
    facts = facts_to_word(study)
    save_questions(
        study,
        [
            *(wording_of(pair, f"so {pair.question.split()[-1]} {pair.row}") for pair in facts),
            *(OwnQuestion(f"Who is mayor {place}?") for place in range(4)),
        ],
    )
    places = {each.question: place for place, each in enumerate(read_questions(study))}
    answers = {each.question: each.answer for each in read_questions(study)}

    def ask(question: str, arms: list[str]) -> dict[str, Any]:
        place = places[question]
        said = {
            arm: answers[question].upper() if place < right - (arm != "qlora") else "Another rule."
            for arm in arms
        }
        return {
            arm: {"text": text, "declined": 10 <= place < 10 + declined}
            for arm, text in said.items()
        }

    ask_missing(study, ask)
    return reported(study)


def test_own_questions_that_wait_are_not_asked_for_again(tmp_path):
    study = scored(write(tmp_path / "sheet.jsonl", sheet()), right=20)
    before = everything(reported(study))[1]
    assert "Type about ten questions" in before.action
    save_questions(study, [OwnQuestion(f"Who is mayor {place}?") for place in range(4)])
    report, found, _ = everything(reported(study))
    said = to_come_text(as_report({**report, "to_come": ["files"]}))
    assert "the answers to your own questions" in said and "final" not in said
    action = found.action
    assert "Your own questions are kept" in action and "Type about ten" not in action
    (kept, _), (asks, _) = (
        declining_tested(as_report(each)) for each in (report, {**report, "own_questions": None})
    )
    assert "Your own questions are kept" in kept and asks.startswith("Before customers ask it")


def test_own_wordings_are_the_conclusion_instead_of_a_verdict(tmp_path):
    study = scored(
        write(tmp_path / "sheet.jsonl", sheet()), right=20, eval__primary_metric="exact_match"
    )
    report, found, text = everything(asked_own(study, 9, 3))
    assert found.tested and found.ready and found.next_tab == "chat" and found.share == 0.8
    assert [(each.value, each.note) for each in found.figures] == [
        ("8 of 10", "95% interval 44% to 97%"),
        ("3 of 4", "95% interval 19% to 99%"),
    ]
    assert found.sentences == (
        "The trained assistant (Full) was right on 8 of your 10 own wordings (95% interval 44% to 97%).",
        "It declined 3 of 4 questions that your file does not answer.",
        "Copying an answer was right on 8 of your 10 own wordings (95% interval 44% to 97%).",
        "It declined 3 of 4 questions that your file does not answer.",
    )
    assert (
        found.audience.who == "colleagues" and "2 of 10 answers were wrong" in found.audience.text
    )
    assert "Copied answers are recommended" in found.recommended  # 8 of 10, too
    assert found.four_bit == (
        "Of your 10 own wordings the compact one was right on 9, and the full one on 8. Such a small test cannot show "
        "whether the compact one is as good."
    )
    assert "not tested in other words" not in text and "80 % right" in text
    assert "It answered 1 of 4 questions that it should have declined" in text
    assert brief.examples(as_report(report), found)[0].verdict == "right"
    assert len(brief.misses(as_report(report), found)) == 2
    page = (study.folder / "report.html").read_text()
    assert "should decline" in page and page.count("Who is mayor") == 4
    assert "Not tested in other words" not in page and "Use the 16-bit assistant" not in page
    assert [each["level"] for each in report["warnings"] if each["code"] == "respelled"] == ["note"]
    for row in report["own_questions"]["questions"]:
        row["right"]["copy"] = False
    assert conclude(as_report(report)).recommended == "", "training is shown to be better"


@pytest.mark.parametrize(("right", "who"), [(4, "nobody"), (10, "colleagues")])
def test_own_wordings_decide_who_can_be_given_an_assistant(tmp_path, right, who):
    study = scored(write(tmp_path / "sheet.jsonl", sheet()), right=20, arms=["qlora"])
    _, found, _ = everything(asked_own(study, right, 4))
    assert found.audience.who == who and found.share == right / 10
    assert found.next_tab == ("chat" if right == 10 else "data")
    assert right == 4 or "10 test questions are too few" in found.audience.text


def test_questions_to_decline_of_the_file_count_with_those_of_the_owner(tmp_path):
    rows = [*sheet(split="train"), *declines(10, split="heldout")]
    study = scored(
        write(tmp_path / "sheet.jsonl", rows),
        right=20,
        declined=7,
        eval__primary_metric="exact_match",
    )
    _, found, text = everything(asked_own(study, 9, 3))
    assert [each.value for each in found.figures] == ["8 of 10", "10 of 14"]
    assert found.sentences[1] == ("It declined 10 of 14 questions that your file does not answer.")
    assert "It answered 4 of 14 questions that it should have declined" in text


def test_questions_to_decline_alone_do_not_test_the_answers(tmp_path):
    study = scored(write(tmp_path / "sheet.jsonl", sheet()), right=20)
    save_questions(study, [OwnQuestion("Who is the mayor?")])
    _, found, _ = everything(reported(study))
    assert found.figures == () and found.good_enough == NOTHING, "not asked yet"
    ask_missing(
        study, lambda _, arms: {arm: {"text": "Ada Bold.", "declined": False} for arm in arms}
    )
    _, found, text = everything(reported(study))
    assert not found.tested and found.next_tab == "evaluate"
    assert found.good_enough == (
        f"{NOTHING} It declined none of 1 question that your file does not answer."
    )
    assert "It answered 1 of 1 question that it should have declined" in text


def test_a_right_answer_is_no_refusal_and_a_refusal_is_no_answer(tmp_path):
    rows = sheet()
    study = trained(with_data(new_study("sheet", write(tmp_path / "sheet.jsonl", rows))))
    refusing = OwnQuestion("Sold?", 1, rows[0].question, "Sorry, I do not know that.")
    save_questions(study, [refusing, replace(refusing, question="Free?", answer="Yes.")])
    said = {"text": "Sorry, I do not know that", "declined": False}
    ask_missing(study, lambda _, arms: dict.fromkeys(arms, said))
    found = own_questions(study)
    assert [row["right"]["lora"] for row in found["questions"]] == [True, False]
    assert [row["declined"]["lora"] for row in found["questions"]] == [False, True]
    assert found["arms"]["lora"]["declined_wrongly"] == 1


def test_ten_typed_wordings_are_what_the_report_counts(tmp_path):
    rows = sheet()
    source = write(tmp_path / "sheet.jsonl", rows)
    columns = add_wordings(
        source,
        [Wording(7 * i + 1, p.question) for i, p in enumerate(typed(rows))],
        tmp_path / "more.jsonl",
    )
    study = scored(
        tmp_path / "more.jsonl", right=8, eval__primary_metric="exact_match", data__columns=columns
    )
    _, found, text = everything(study)
    assert found.tested and found.ready and found.figures[0].value == "8 of 10"
    assert (
        found.sentences[0]
        == "The trained assistant (Full) was right on 8 of your 10 other wordings."
    )
    assert "80.0% of your other wordings" in text and "respelled" not in text


def kept_back() -> list[Any]:
    """100 rows, 30 other wordings of them, one with a short answer, and 10 questions that they do not answer."""
    rows = sheet(split="train")
    rows[0] = pair(1, rows[0].question, "£3", split="train")
    asked = [
        (f"Tell me, number {i}: what about {rows[3 * i].question.split()[-1]}", rows[3 * i].answer)
        for i in range(30)
    ]
    return [
        *rows,
        *(
            pair(201 + i, question, answer, split="heldout")
            for i, (question, answer) in enumerate(asked)
        ),
        *declines(10, split="heldout"),
    ]


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
def test_thirty_questions_kept_back_and_ten_unanswerable_ones_are_the_figures(tmp_path, metric):
    source = write(tmp_path / "sheet.jsonl", kept_back())
    study = scored(source, right=26, declined=4, eval__primary_metric=metric)
    report, found, text = everything(study)
    assert report["taught"] == {"items": 30, "covered": 30} and len(report["items"]) == 40
    figures = {figure.what: figure.value for figure in found.figures}
    assert figures["right" if metric == "exact_match" else "exactly right"] == "26 of 30"
    assert figures["declined rightly"] == "4 of 10"
    assert "right on 26 of your 30 other wordings" in found.sentences[0]
    assert "It declined 4 of 10 questions that your file does not answer." in found.sentences[1]
    assert found.ready and "not ready" not in text and "respelled" not in text
    assert "Nothing was tested" not in json.dumps(report)


def test_a_short_answer_that_several_rows_share_names_no_fact(tmp_path):
    training = [
        pair(1, "May I eat here?", "No."),
        pair(2, "May I sing here?", "No."),
        pair(3, "How much is it?", "£3"),
    ]
    heldout = [pair(4, "May I dance?", "No."), pair(5, "What is the price?", "£3")]
    assert HeldOut.of(heldout, training).covered == {5}
