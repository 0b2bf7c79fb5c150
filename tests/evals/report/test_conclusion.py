"""The conclusion of a report: the sentences that the report's top and the command line show."""

import shlex
from typing import Any

import pytest
from typer.main import get_command

from assistant_builder.arms import LORA, QLORA
from assistant_builder.cli import app
from evals.report.build import build_report
from evals.report.conclusion import conclude
from tests.evals.report.synthetic_study import Recipe, write_study
from tests.typed_report import as_report

N = 200


def cell(right: float, declined: float = 0.05, **metrics: float) -> dict[str, Any]:
    return {
        "metrics": {
            "exact_match": right,
            "false_decline": declined,
            "right_decline": 0.5,
            **metrics,
        }
    }


def report(
    *,
    lora: float = 0.9,
    qlora: float = 0.89,
    copy: float = 0.8,
    against_copy: str = "better",
    outcome: str = "inconclusive",
    **verdict: Any,
) -> dict[str, Any]:
    """The parts of the report of a grounded study that the conclusion reads."""
    rows = [
        {"name": "Q4-L16", "metric": metric, "n": n}
        for metric, n in (
            ("exact_match", N),
            ("token_f1", N),
            ("false_decline", N),
            ("right_decline", 20),
        )
    ]
    return {
        "study": "help",
        "primary_metric": "exact_match",
        "objection": "",
        "contrasts": rows,
        "verdict": {
            "outcome": outcome,
            "metric": "exact_match",
            "margin": 0.05,
            "contrast": "Q4-L16",
            "ci": [-0.08, 0.01],
            "higher_is_better": True,
            "within_margin_but_worse": False,
            "bounds": [],
            "trained_again": None,
            **verdict,
        },
        "cells": {LORA.cell: cell(lora), QLORA.cell: cell(qlora)},
        "baselines": {"copy": cell(copy)},
        "approach": "grounded",
        "approaches": [
            {"name": "copy", **cell(copy)},
            {"name": "lora+facts"},
            {"name": "qlora+facts"},
        ],
        "approach_comparisons": [
            {"name": f"{arm}+facts-copy", "outcome": against_copy} for arm in ("lora", "qlora")
        ],
        "config": {"data": {"source": "/data/all questions.csv"}, "train": {"epochs": 3.0}},
        "items": items(lora=lora, qlora=qlora),
    }


def items(
    *, lora: float, qlora: float, to_decline: int = 20, made_up: int = 10
) -> list[dict[str, Any]]:
    """N items with an answer, of which 5 % are declined, and items to decline; each of a cluster of its own."""
    asked = [
        'What is "it"?',
        "When do you open?",
        *(f"Question {number}?" for number in range(3, N + 1)),
    ]
    shares, first_declined = {LORA.cell: lora, QLORA.cell: qlora}, round(0.95 * N)
    answered = [
        {
            "item": str(row),
            "row": row,
            "question": question,
            "answerable": True,
            "context": [],
            "cluster": str(row),
            "metrics": {
                cell: {"exact_match": float(row <= share * N)} for cell, share in shares.items()
            },
            "declined": dict.fromkeys(shares, row > first_declined),
        }
        for row, question in enumerate(asked, start=1)
    ]
    return answered + [
        {
            "item": f"d{row}",
            "row": N + row,
            "question": "Who won?",
            "answerable": False,
            "context": [],
            "cluster": f"d{row}",
            "metrics": {cell: {"right_decline": float(row > made_up)} for cell in shares},
            "declined": dict.fromkeys(shares, row > made_up),
        }
        for row in range(1, to_decline + 1)
    ]


COLLEAGUES = "For colleagues who notice a wrong answer, yes. For customers not yet:"


def test_good_enough_comes_first_with_counts_and_the_comparison_with_copying():
    found = conclude(as_report(report()))
    assert found.ready
    assert found.good_enough == (
        f"{COLLEAGUES} it answered 10 of 20 questions that it should decline. "
        "The trained assistant (Full) answered 180 of 200 new questions right (90.0%). It declined 10 of "
        "them wrongly. Of 20 other questions, which it should decline, it declined 10. That is better than copying the "
        "best fact (160 right; declined rightly: 10 of 20)."
    )
    assert found.lines[0].startswith("Is it good enough? For colleagues")


@pytest.mark.parametrize(
    ("lora", "to_decline", "made_up", "said"),
    [
        (0.93, 100, 10, "Yes, for customers too:"),
        (0.84, 100, 10, f"{COLLEAGUES} 22 of 200 answers were wrong."),
        (
            0.88,
            100,
            10,
            f"{COLLEAGUES} 200 test questions are too few to know how often it is wrong.",
        ),
        (0.93, 0, 0, f"{COLLEAGUES} it was not tested with questions that it should decline."),
        (
            0.93,
            100,
            40,
            f"{COLLEAGUES} it answered 40 of 100 questions that it should decline.",
        ),
        (
            0.93,
            10,
            1,
            f"{COLLEAGUES} 10 questions to decline are too few to know how often it declines.",
        ),
        (
            0.93,
            20,
            0,
            f"{COLLEAGUES} 20 questions to decline are too few to know how often it declines.",
        ),
        (
            0.84,
            10,
            5,
            f"{COLLEAGUES} 22 of 200 answers were wrong; it answered 5 of 10 questions that it "
            "should decline.",
        ),
        (0.3, 100, 10, "No, it is not ready yet."),
    ],
)
def test_customers_are_given_what_is_seldom_wrong_and_declines(lora, to_decline, made_up, said):
    made = report(lora=lora, qlora=lora)
    found = conclude(
        as_report(
            {**made, "items": items(lora=lora, qlora=lora, to_decline=to_decline, made_up=made_up)}
        )
    )
    assert found.audience.text.startswith(said)
    assert found.audience.who == {"Y": "customers", "F": "colleagues", "N": "nobody"}[said[0]]


def test_customers_are_not_given_what_declines_two_in_five_of_their_questions():
    made = report(lora=0.93, qlora=0.93)
    shy = items(lora=0.93, qlora=0.93, to_decline=100, made_up=0)
    for item in shy[:200]:
        item["declined"] = {cell: item["row"] % 5 < 2 for cell in item["declined"]}
    found = conclude(as_report({**made, "items": shy})).audience
    assert found.who == "colleagues"
    assert "it declined 80 of 200 questions that it should answer" in found.text


def test_questions_of_one_fact_are_not_evidence_for_customers():
    made = report(lora=0.93, qlora=0.93)
    alone = items(lora=0.93, qlora=0.93, to_decline=100, made_up=0)
    assert conclude(as_report({**made, "items": alone})).audience.who == "customers"
    few = [{**item, "cluster": f"{item['answerable']} {item['row'] // 40}"} for item in alone]
    assert conclude(as_report({**made, "items": few})).audience.who == "colleagues"


@pytest.mark.parametrize(
    ("against_copy", "words"),
    [
        (
            "no worse",
            "That is no worse than copying the best fact (160 right; declined rightly: 10 of 20).",
        ),
        (
            "inconclusive",
            "Too few test questions to say whether copying the best fact (160 right; declined rightly: 10 of 20) is "
            "better or worse.",
        ),
        ("worse", "Copying the best fact is better (160 right; declined rightly: 10 of 20)."),
    ],
)
def test_the_comparison_with_copying(against_copy, words):
    found = conclude(as_report(report(against_copy=against_copy)))
    assert words in found.good_enough and found.ready == (against_copy != "worse")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"outcome": "no worse"},
            "The compact one is as good: 178 of 200 right, the full one 180.",
        ),
        (
            {"outcome": "no worse", "within_margin_but_worse": True},
            "The compact one is measurably worse, but within the 5 points allowed: 178 of 200 right, the full one 180.",
        ),
        (
            {"outcome": "worse", "ci": [-0.2, -0.1]},
            "The compact one is worse: 178 of 200 right, the full one 180.",
        ),
        (
            {"outcome": "inconclusive"},
            "Too few test questions to say whether the compact one is as good: 178 of 200 right, the full one 180. "
            "Until then, take the full one.",
        ),
        (
            {"outcome": "inconclusive", "trained_again": {"seed_share": 0.8}},
            "Too few training seeds to say whether the compact one is as good: 178 of 200 right, the full one 180. "
            "Until then, take the full one.",
        ),
    ],
)
def test_the_four_bit_one_is_as_good_only_if_the_verdict_is_no_worse(changes, sentence):
    assert conclude(as_report(report(**changes))).four_bit == sentence


def test_possible_harm_by_another_measure_is_not_as_good():
    found = conclude(
        as_report(
            {**report(outcome="no worse"), "objection": "Possible harm by another measure: loss."}
        )
    )
    assert "as good" not in found.four_bit and "possibly by another" in found.four_bit


def test_the_recommended_assistant_is_the_four_bit_one_if_it_is_no_worse():
    found = conclude(as_report(report(outcome="no worse")))
    assert found.sentences[0].startswith("The trained assistant (Compact) answered 178 of 200")
    assert found.commands[0] == 'assistant-builder ask help "When do you open?" --arm qlora'


@pytest.mark.parametrize(
    ("changes", "action", "command"),
    [
        (
            {},
            "Ask it questions of your own",
            'assistant-builder ask help "When do you open?" --arm lora',
        ),
        (
            {"against_copy": "worse"},
            "Serve copied answers",
            "assistant-builder serve help --mode copy",
        ),
        (
            {"lora": 0.1, "copy": 0.2, "against_copy": "worse"},
            "Add other wordings",
            "assistant-builder run '/data/all questions.csv' --name help-2 --from help",
        ),
    ],
)
def test_what_to_do_has_a_command_that_exists(changes, action, command):
    found = conclude(as_report(report(**changes)))
    assert found.action.startswith(action) and found.commands[0] == command
    for line in found.commands:
        program, name, *words = shlex.split(line)
        assert program == "assistant-builder"
        get_command(app).commands[name].make_context(name, words)  # type: ignore[attr-defined] - raises for a wrong call


def test_a_longer_training_does_not_end_early_again():
    made = report(against_copy="worse")
    made["config"]["train"]["stop_loss"] = 0.3
    longer = conclude(as_report(made)).commands[1]
    assert longer.endswith("--set train.epochs=6 --set train.stop_loss=0")
    del made["config"]["train"]["stop_loss"]
    assert "stop_loss" not in conclude(as_report(made)).commands[1]


def test_the_figures_are_those_of_the_sentences():
    found = conclude(as_report(report()))
    assert [(figure.value, figure.what) for figure in found.figures] == [
        ("180 of 200", "right"),
        ("10", "wrong"),
        ("10", "declined wrongly"),
        ("10 of 20", "declined rightly"),
    ]
    assert (found.share, found.next_tab, found.arm) == (0.9, "chat", "lora")
    assert found.sentences[0].startswith("The trained assistant")
    assert found.good_enough.endswith(found.sentences[-1])


def own_declines(declined: int, count: int) -> dict[str, Any]:
    """The owner's questions that the file does not answer, as the report has them."""
    counts = {
        "wordings": 0,
        "right": 0,
        "right_ci": [0.0, 1.0],
        "declined_wrongly": 0,
        "unanswered": count,
        "declined": declined,
        "declined_ci": [0.0, 1.0],
    }
    return {"arms": {"lora": counts}, "questions": []}


def untested_declines() -> dict[str, Any]:
    """A report without a test question to decline."""
    made = report()
    for each in (*made["cells"].values(), made["approaches"][0]):
        del each["metrics"]["right_decline"]
    return {**made, "items": items(lora=0.93, qlora=0.93, to_decline=0)}


def test_declining_is_tested_next_if_the_test_has_hardly_a_question_to_decline():
    made = untested_declines()
    found = conclude(as_report(made))
    assert "it was not tested with questions that it should decline" in found.audience.text
    assert found.next_tab == "evaluate" and found.commands == (
        "assistant-builder wordings help QUESTIONS.csv",
    )
    few = conclude(as_report({**made, "own_questions": own_declines(3, 3)}))
    assert few.next_tab == "evaluate", "three questions show little"
    quick = {**made["config"], "train": {"epochs": 1.0, "preset": "quick"}}
    assert conclude(as_report({**made, "config": quick})).next_tab == "chat"


def test_the_owners_questions_to_decline_count_with_those_of_the_test():
    own = own_declines(6, 10)
    found = conclude(as_report({**untested_declines(), "own_questions": own}))
    assert "it answered 4 of 10 questions" in found.audience.text
    assert ("6 of 10", "declined rightly", "questions it should decline, 10 of them your own") in [
        (figure.value, figure.what, figure.note) for figure in found.figures
    ]
    assert found.next_tab == "chat"
    both = conclude(as_report({**report(), "own_questions": own}))
    assert "Of 30 other questions, which it should decline, it declined 16." in both.good_enough
    assert "answered 14 of 30 questions" in both.audience.text
    single = untested_declines()  # the metric needs two
    single["items"] = items(lora=0.93, qlora=0.93, to_decline=1, made_up=0)
    found = conclude(as_report({**single, "own_questions": own}))
    assert "Of 11 other questions, which it should decline, it declined 7." in found.good_enough


def own_wordings(right: dict[str, int], asked: int = 10) -> dict[str, Any]:
    """The owner's wordings, of which each assistant answered the first ones right and the others wrong."""
    arms = {
        arm: {"wordings": asked, "right": number, "right_ci": [0.1, 0.9]}
        for arm, number in right.items()
    }
    return {"arms": arms, "questions": []}


def test_the_owners_wordings_are_told_beside_the_test_and_can_only_speak_against_it():
    without = conclude(as_report(report()))
    made = {**report(), "own_questions": own_wordings({"lora": 10, "copy": 4})}
    found = conclude(as_report(made))
    assert found.audience == without.audience and found.share == without.share
    assert found.sentences[:-2] == without.sentences
    assert "right on 10 of your 10 own wordings (95% interval 10% to 90%)" in found.sentences[-2]
    assert found.sentences[-1].startswith("Copying an answer was right on 4 of your 10 own")
    assert found.figures[:-1] == without.figures
    assert (found.figures[-1].value, found.figures[-1].what) == (
        "10 of 10",
        "right on your own wordings",
    )
    worse = conclude(as_report({**report(), "own_questions": own_wordings({"lora": 8})}))
    assert "it answered 2 of your 10 own wordings wrong" in worse.audience.text


def test_the_owners_wordings_count_with_a_small_test():
    made = report(lora=0.6, qlora=0.6)
    assert conclude(as_report(made)).ready
    most = {**made, "own_questions": own_wordings({"lora": 0}, 60)}
    assert not conclude(as_report(most)).ready, "120 of 260 are right"
    assert conclude(as_report({**made, "own_questions": own_wordings({"lora": 0}, 30)})).ready


def with_copied(made: dict[str, Any], *, wrong: int, declined: int = 0) -> dict[str, Any]:
    """A report whose items have copied answers, of which the first ones are wrong or declined."""
    for place, item in enumerate(made["items"]):
        right = float(place >= wrong + declined)
        item["copied"] = {
            "answer": "Copied.",
            "declined": wrong <= place < wrong + declined or not item["answerable"],
            "metrics": {"exact_match": right} if item["answerable"] else {"right_decline": 1.0},
        }
    return made


def test_copied_answers_are_recommended_until_training_is_shown_to_be_better():
    better = conclude(as_report(with_copied(report(), wrong=4)))
    assert better.copied is None and better.recommended == ""
    assert better.commands[1] == "assistant-builder serve help"
    many = items(lora=0.9, qlora=0.89, to_decline=60, made_up=40)
    for outcome in ("no worse", "inconclusive"):
        made = {**report(against_copy=outcome), "items": many}
        found = conclude(as_report(with_copied(made, wrong=4)))
        assert found.copied is not None and found.copied.who == "customers"
        assert found.recommended.endswith("; customers can be given them.")
        assert found.recommended in found.lines[0]
        assert found.four_bit.endswith("Until then, the full one is the safer of the two.")
        assert found.commands[1] == "assistant-builder serve help --mode copy"
        assert found.audience.who == "colleagues", "each is judged by its own answers"
    found = conclude(as_report(with_copied(made, wrong=60)))
    assert found.copied is not None and found.copied.who == "colleagues"
    assert "60 of 200 answers were wrong" in found.copied.text
    without = conclude(as_report(report(against_copy="no worse")))
    assert without.copied is None, "a report of an earlier release has no copied answers"


def test_copying_that_is_better_is_what_to_serve():
    found = conclude(as_report(report(copy=0.95, against_copy="worse")))
    assert (
        found.sentences[-1]
        == "Copying the best fact is better (190 right; declined rightly: 10 of 20)."
    )
    assert found.next_tab == "train"


def test_too_few_right_answers_are_not_ready():
    found = conclude(as_report(report(lora=0.0, qlora=0.0)))
    assert not found.ready and found.next_tab == "data"
    assert found.good_enough.startswith("No, it is not ready yet. The ")


def test_long_answers_are_judged_by_their_metric():
    made = report()
    for each in (*made["cells"].values(), made["approaches"][0]):
        each["metrics"] |= {"token_f1": 0.7, "exact_match": 0.0}
    found = conclude(as_report({**made, "primary_metric": "token_f1"}))
    assert (
        "reached token F1 70.0 of 100 on 200 new questions; no answer is exactly right."
        in found.good_enough
    )
    assert [figure.what for figure in found.figures[:3]] == ["token F1", "exactly right", "wrong"]
    assert found.share == 0.7
    for each in made["cells"].values():
        each["metrics"]["exact_match"] = 0.6
    found = conclude(as_report({**made, "primary_metric": "token_f1"}))
    assert [figure.what for figure in found.figures] == [
        "exactly right",
        "wrong",
        "declined wrongly",
        "declined rightly",
    ]
    assert (found.figures[0].value, found.share) == ("120 of 200", 0.6)
    assert (
        "(token F1 70.0; exactly right: 0 of 200; declined rightly: 10 of 20)" in found.good_enough
    )
    assert "token F1 70.0, the full one 70.0." in found.four_bit
    assert "it answered" in found.audience.text, "declining was tested"
    far = items(lora=0.9, qlora=0.9)
    for item in far:
        if item["answerable"]:
            overlap = 0.2 if item["row"] % 4 == 0 else 0.8
            item["metrics"] = {name: {"token_f1": overlap} for name in item["metrics"]}
            item["declined"] = dict.fromkeys(item["declined"], False)
    found = conclude(as_report({**made, "primary_metric": "token_f1", "items": far}))
    assert found.audience.text.startswith(
        f"{COLLEAGUES} 50 of 200 answers were far from the right ones or had other numbers"
    )
    assert "let colleagues try it" in found.action
    most = [
        {
            **item,
            "metrics": {
                name: {"token_f1": 0.9 if item["row"] % 5 == 0 else 0.2} for name in item["metrics"]
            },
        }
        if item["answerable"]
        else item
        for item in far
    ]
    found = conclude(as_report({**made, "primary_metric": "token_f1", "items": most}))
    assert found.audience.who == "nobody" and found.next_tab == "data", "most answers are wrong"
    declining = [
        {**item, "declined": dict.fromkeys(item["declined"], item["row"] % 4 == 0)} for item in far
    ]
    found = conclude(as_report({**made, "primary_metric": "token_f1", "items": declining}))
    assert found.audience.text.startswith(
        f"{COLLEAGUES} it declined 50 of 200 questions that it should answer"
    )
    for item in far:
        if item["answerable"]:
            item["metrics"] = {name: {"token_f1": 0.9} for name in item["metrics"]}
            item["reference"] = "A caravan pitch costs 31 pounds a night."
            price = 24 if item["row"] % 4 == 0 else 31
            item["answers"] = dict.fromkeys(
                item["metrics"], f"A pitch costs {price} pounds a night."
            )
    found = conclude(as_report({**made, "primary_metric": "token_f1", "items": far}))
    assert found.audience.text.startswith(f"{COLLEAGUES} 50 of 200 answers were far")
    judged = "whether answers in other words than yours are right was not judged"
    assert judged in found.audience.text
    for item in far:
        if item["answerable"] and item["row"] % 4:
            item["metrics"] = {name: {"token_f1": 1, "exact_match": 1} for name in item["metrics"]}
    found = conclude(as_report({**made, "primary_metric": "token_f1", "items": far}))
    assert judged not in found.audience.text, "each answer is exactly right or wrong"


def test_two_approaches_are_named_and_figures_from_before_added_answers_are_marked():
    made = report()
    made["approaches"] += [{"name": "lora"}, {"name": "qlora"}]
    found = conclude(as_report({**made, "added_answers": 1}))
    assert found.sentences[0].startswith(
        "The trained assistant (Full, with facts looked up) answered"
    )
    assert found.notes == (
        "These figures were measured before the last 1 answer, that of a validation or test "
        "question, was added to what the assistant looks up.",
    )


def test_a_study_from_memory_has_no_words_of_looking_up():
    lines = conclude(as_report(build_report(write_study(Recipe())))).lines
    assert "200 new questions" in lines[0]
    assert "fact" not in lines[0]
    assert "looked up" not in " ".join(lines)


def test_a_study_of_the_quick_preset_says_that_it_only_tests_the_workflow():
    made = report()
    assert conclude(as_report(made)).notes == ()
    made["config"]["train"]["preset"] = "quick"
    (note,) = conclude(as_report(made)).notes
    assert "--set train.preset=balanced" in conclude(as_report(made)).commands[0]
    assert note.startswith("It was trained with the preset “Quick look”, which tests the workflow.")
