"""The study set against another one, on the page."""

from typing import Any

import pytest

from assistant_builder.atomic_io import write_json
from assistant_builder.study import Study
from assistant_builder.ui.evaluate.compare import (
    CompareStudiesPanel,
    comparison_panels,
    comparison_tables,
    no_comparison_note,
)
from assistant_builder.ui.evaluate.item_filters import (
    ItemFilter,
    comparable_studies,
    filter_items,
    parent_study,
    shared_items,
)
from assistant_builder.ui.refresh import StudyView
from evals.study_compare import compare_studies
from tests.evals.study_compare.scored_studies import each, edit, make
from tests.synthetic_study import LARGE, new_study, with_data
from tests.ui.blocks import inside_blocks


@pytest.fixture
def a() -> Study:
    return make("narrow")


@pytest.fixture
def b() -> Study:
    study = make("wide", train__rank=64)
    edit(
        study,
        each(lambda sample: {"answer": "Quite another one.", "nll": 1.5 * sample["nll"]}),
        ("Q4",),
    )
    return study


def test_the_picture_shows_the_loss_of_every_cell_and_the_scores_of_the_assistants(a, b):
    record = compare_studies(a, b)
    loss, scores, declines = comparison_panels(record)
    assert [row["label"] for row in declines["rows"]] == [
        "Q4 · False declines",
        "L16 · False declines",
    ]
    assert [row["label"].split(" ")[0] for row in loss["rows"]] == ["Q4", "L16", "B16"]
    assert {row["label"].split(" ")[0] for row in scores["rows"]} == {"Q4", "L16"}
    assert scores["rows"][0]["margin"] is None and loss["rows"][0]["margin"] > loss["zero"]
    assert comparison_tables(record).count('class="point"') == len(loss["rows"]) + len(
        scores["rows"]
    ) + len(declines["rows"])
    per_byte = {
        **record,
        "loss": "nll_per_byte",
        "contrasts": [
            {**row, "metric": "nll_per_byte" if row["metric"] == "nll_per_token" else row["metric"]}
            for row in record["contrasts"]
        ],
    }
    assert comparison_panels(per_byte)[0]["unit"] == "nats per byte"


def test_answers_that_changed_stand_side_by_side(a, b):
    items = shared_items(a, b)
    assert items.pair == ("A:Q4", "B:Q4") and items.cells["B:Q4"] == "B · wide · Q4"
    changed = filter_items(items, ItemFilter(*items.pair, show="different"))
    assert len(changed) == len(items.rows) == 12
    assert {row["answers"]["B:Q4"] for row in changed} == {"Quite another one."}
    assert filter_items(items, ItemFilter("A:L16", "B:L16", show="different")) == []


def test_the_study_it_was_made_from_is_proposed_first(a, b):
    third = make("third")
    other = make("other-data", train__rank=8)
    edit(other, each(lambda sample: {"reference": "elsewhere"}))
    assert comparable_studies(third) == {"narrow": 12, "wide": 12, "other-data": 0}
    assert parent_study(third) is None
    write_json(third.folder / "made_from.json", {"study": "narrow"})
    assert parent_study(third) == "narrow" and next(iter(comparable_studies(third))) == "narrow"
    write_json(third.folder / "made_from.json", {"study": "wide"})
    assert next(iter(comparable_studies(third))) == "wide"


# the part of the tab


@pytest.fixture
def panel() -> CompareStudiesPanel:
    return inside_blocks(CompareStudiesPanel)


def choices(panel: CompareStudiesPanel, name: str | None) -> list[Any]:
    section = panel.sections()[0]
    return list(section.draw(StudyView(name)))


def test_only_studies_with_shared_items_are_on_offer(panel, a):
    note, body, _ = choices(panel, a.name)
    assert "No other project has been evaluated yet" in note["value"] and not body["visible"]
    stranger = make("stranger")
    edit(stranger, each(lambda sample: {"reference": "elsewhere"}))
    note, body, _ = choices(panel, a.name)
    assert "No other project has the same test questions" in note["value"]
    assert "stranger" in note["value"]
    make("wide", train__rank=64)
    note, body, other = choices(panel, a.name)
    assert body["visible"]
    assert other["value"] == "wide"
    assert other["choices"] == [("wide  ·  12 shared items", "wide")]
    assert "stranger" in note["value"]
    fresh = with_data(new_study("fresh", LARGE))
    assert "Not evaluated yet" in choices(panel, fresh.name)[0]["value"]
    assert "No project chosen" in choices(panel, None)[0]["value"]
    assert "narrow" not in no_comparison_note("x", ["y"])


def test_what_cannot_be_compared_says_why(panel, a):
    with_data(new_study("fresh", LARGE))
    *_, last = panel._compare("narrow", "fresh")
    assert "has not been evaluated" in last[1] and last[0] is None and last[-1]["interactive"]
    (only,) = panel._compare("narrow", None)
    assert "Choose a project" in only[1]


def test_the_list_follows_other_studies_and_the_result_its_own(panel, a):
    before = [section.mark(StudyView(a.name)) for section in panel.sections()]
    make("wide", train__rank=64)
    after = [section.mark(StudyView(a.name)) for section in panel.sections()]
    assert before[0] != after[0] and before[1] == after[1]
