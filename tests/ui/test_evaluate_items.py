"""Looking through held-out items: choosing, marking words, turning pages."""

import re
from dataclasses import replace
from typing import Any

import pytest

from assistant_builder.atomic_io import read_jsonl, write_jsonl
from assistant_builder.data.types import RowNumbers
from assistant_builder.study import Study
from assistant_builder.ui.evaluate.item_browser import ItemBrowser
from assistant_builder.ui.evaluate.item_filters import (
    ItemFilter,
    ItemSet,
    answer_change,
    count_by_choice,
    filter_items,
    make_item_set,
    study_items,
)
from assistant_builder.ui.evaluate.item_view import (
    item_view,
)
from assistant_builder.ui.evaluate.view import example_table
from evals.metrics import METRICS
from evals.report.brief import Example
from evals.report.items import change
from evals.report.load import read_cells
from tests.synthetic_study import evaluated, new_study, trained, with_data
from tests.ui.blocks import inside_blocks

HOSTILE = '<img src=x onerror="bad()"><script>bad()</script>'
RIGHT = "the reference"


def item(row: int, first: str | None, second: str | None, **more: Any) -> dict[str, Any]:
    """An item as ``item_rows`` makes it; an answer is right when it equals the reference."""
    answers = {
        cell: answer for cell, answer in (("L16", first), ("Q4", second)) if answer is not None
    }
    metrics = {
        cell: {
            "nll_per_token": 0.5 + 0.1 * row * (cell == "Q4"),
            "exact_match": float(answer == RIGHT),
        }
        for cell, answer in answers.items()
    }
    return {
        "item": str(row),
        "row": row,
        "turn": 0,
        "cluster": None,
        "answerable": True,
        "question": f"Question {row}?",
        "context": [],
        "reference": RIGHT,
        "answers": answers,
        "declined": {},
        "tokens": 5,
        "nll": {"L16": 2.5, "Q4": 2.5},
        "metrics": metrics,
        **more,
    }


ROWS = [
    item(3, RIGHT, "another thing"),
    item(1, "another thing", RIGHT),
    item(2, "one thing", "another thing"),
    item(4, RIGHT, RIGHT, declined={"L16": True, "Q4": False}, answerable=False),
    item(5, None, "word"),
]
NAMES = {"L16": "L16 · LoRA", "Q4": "Q4 · QLoRA", "B16": "untuned"}
WISH = ItemFilter("L16", "Q4")


@pytest.fixture
def items() -> ItemSet:
    return make_item_set(ROWS, NAMES, ("L16", "Q4"))


def test_rows_are_those_of_the_users_file(items):
    after_a_title = replace(items, numbers=RowNumbers("", ((1, 1), (3, 2))))
    row = items.rows[2]
    assert "Row 3" in item_view(items, row, WISH)
    assert "Row 5" in item_view(after_a_title, row, WISH)
    assert "Row" not in item_view(items, {**row, "row": None}, WISH)
    found = [Example(4, "Open?", "At ten.", "At nine.", "wrong", "bad", None)]
    assert "Open? <small>Row 6</small>" in example_table(found, after_a_title.numbers)
    study = evaluated(trained(with_data(new_study())))
    shown = study_items(study)
    assert shown is not None and shown.numbers.shown(1) == 2, "the header is row 1"


def rows_of(items: ItemSet, **wish: Any) -> list[int]:
    return [row["row"] for row in filter_items(items, ItemFilter("L16", "Q4", **wish))]


@pytest.mark.parametrize(
    ("show", "found"),
    [
        ("different", [1, 2, 3]),
        ("lost", [3]),
        ("gained", [1]),
        ("declined", [4]),
        ("unanswerable", [4]),
    ],
)
def test_items_are_filtered(items, show, found):
    assert rows_of(items, show=show) == found
    assert count_by_choice(items, "L16", "Q4")[show] == len(found)


def test_flips_turn_round_with_the_cells(items):
    assert [row["row"] for row in filter_items(items, ItemFilter("Q4", "L16", "lost"))] == [1]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("question 3", [3]),
        ("ANOTHER", [1, 2, 3]),
        ("ｗｏｒｄ", [5]),
        ("nowhere", []),
        ("  ", [1, 2, 3, 4, 5]),
    ],
)
def test_items_are_searched(items, search, found):
    assert rows_of(items, search=search) == found


def scored() -> Study:
    return evaluated(trained(with_data(new_study())))


def test_relations_are_those_of_the_report():
    study = scored()
    cells, found = read_cells(study), study_items(study)
    assert found is not None
    for row in found.rows:
        for first, second in (("L16", "Q4"), ("B16", "LM"), ("Q4", "L4")):
            assert answer_change(row, first, second) == change(
                cells[first], cells[second], row["item"]
            )


def test_items_are_there_as_soon_as_both_assistants_are_scored():
    study = scored()
    found = study_items(study)
    assert found is not None and len(found.rows) == 12 and set(found.metrics) <= set(METRICS)
    (study.cell_folder("Q4") / "scores.json").unlink()
    assert study_items(study) is None


# drawing


def test_words_are_marked_by_more_than_colour(items):
    row = item(
        1,
        "opens at nine on the pier",
        "opens at ten on the pier",
        reference="opens at nine on the quay",
    )
    each = item_view(items, row, WISH)
    assert '<mark class="ab-own">nine</mark>' in each and '<mark class="ab-own">ten</mark>' in each


def test_scores_and_differences_are_shown_with_their_direction(items):
    said = re.sub(r"<[^>]+>", "", item_view(items, ROWS[0], WISH))
    assert "0.500 → 0.800 +0.300 ▼ worse" in said and "100.0% → 0.0% −100.0 ▼ worse" in said
    assert "correct → wrong" in said
    assert "No answer was generated" in item_view(items, ROWS[4], WISH)


def test_text_stays_text(items):
    row = item(
        1,
        HOSTILE,
        f"{HOSTILE} and more",
        question=HOSTILE,
        reference=HOSTILE,
        cluster=HOSTILE,
        context=[{"role": HOSTILE, "content": HOSTILE}],
    )
    drawn = item_view(items, row, WISH)
    assert "<img" not in drawn and "<script" not in drawn


# the browser


def test_turning_pages_stays_within_the_items():
    many = make_item_set([item(row, RIGHT, "x") for row in range(1, 24)], NAMES, ("L16", "Q4"))
    browser = inside_blocks(lambda: ItemBrowser(lambda key: many if key else None, "ab-some"))
    opened = dict(zip(map(id, browser.outputs), browser.open_values(many), strict=True))
    assert opened[id(browser.second)]["value"] == "Q4" and opened[id(browser.place)] == "1–10 of 23"
    assert len(browser.open_values(None)) == len(browser.outputs)
    asked = ("study", "L16", "Q4", "all", "")
    _, page, _, back, place, onward = browser._show_page(*asked, 3)
    assert (page, place, back["interactive"], onward["interactive"]) == (
        3,
        "21–23 of 23",
        True,
        False,
    )
    assert browser._show_page(*asked, 4)[1] == 3 and browser._show_page(*asked, 0)[1] == 1
    assert browser._show_page("study", *asked[1:4], "question 21", 1)[4] == "1–1 of 1"
    show = browser._show_page("study", *asked[1:], 1)[0]
    assert ("Correct → wrong (23)", "lost") in show["choices"]


def test_a_cell_that_is_gone_changes_nothing():
    study = scored()
    browser = inside_blocks(
        lambda: ItemBrowser(lambda key: study_items(Study.open(key)), "ab-some")
    )
    answer = browser._show_page(study.name, "L16", "gone", "all", "", 1)
    assert len(answer) == 6 and all("value" not in part for part in answer)


def test_empty_answers_are_told():
    study = scored()
    path = study.cell_folder("Q4") / "samples.jsonl"
    write_jsonl(path, [{**sample, "answer": ""} for sample in read_jsonl(path)])
    found = study_items(study)
    assert found is not None
    assert "The answer is empty" in item_view(found, found.rows[0], WISH)
