"""The registry of arms: what an arm brings, and that one registered outside of the product is found everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.arms import (
    ARMS,
    CELLS,
    TWIN_CELLS,
    TWINS,
    Arm,
    headline_arms,
    label,
    main_cells,
    plain_order,
)
from assistant_builder.chat.client import WorkerPool
from assistant_builder.chat.conversation import Conversation
from assistant_builder.config import StudyConfig
from assistant_builder.errors import ConfigError
from assistant_builder.i18n import t
from assistant_builder.planning.advice import to_document
from assistant_builder.planning.plan import plan_study
from assistant_builder.ui.chat.tab import ChatTab
from assistant_builder.ui.chat.view import PaneState, pane
from assistant_builder.ui.export.tab import ExportTab
from assistant_builder.ui.html import arm_styles
from assistant_builder.ui.html import arm_styles as page_styles
from assistant_builder.ui.settings_form import study_options
from evals.report.build import build_report, write_report
from evals.report.render import arm_styles as report_styles
from tests.commands import (
    FEW_SCORES,
    QUICK,
    command,
    python,
    record_of,
    set_words,
    with_plugin,
)
from tests.evals.report.synthetic_study import ALL_CELLS, Recipe, write_study
from tests.export.tiny import tiny_base
from tests.synthetic_study import SMALL
from tests.texts import parts
from tests.ui.blocks import inside_blocks

PLUGIN = """
from assistant_builder.arms import Arm, register

register(Arm("dummy", "Dummy (FP4)", "dummy FP4", "#7a3fb0", "#c79bf0", storage="fp4", cell="D4"))
"""
outside = pytest.mark.skipif(
    "dummy" not in ARMS, reason="runs in a process with the plugin, see below"
)


@pytest.fixture
def plugged(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the dummy arm is registered by a module outside of the repository."""
    return with_plugin(tmp_path / "plug", "dummy_arm", PLUGIN)


def test_the_twins_have_their_cells_in_order():
    assert TWINS == ("lora", "qlora")
    assert TWIN_CELLS == tuple("B16 B4 L16 Q4 L4 Q16 QD QR LM LR".split())
    assert StudyConfig().arms == list(TWINS) and StudyConfig().eval.cells == list(TWIN_CELLS)
    assert plain_order(TWINS) == ("qlora", "lora")
    assert main_cells(TWINS) == tuple("B16 B4 L16 Q4".split())
    assert (
        len({arm.color for arm in ARMS.values()})
        == len({arm.symbol for arm in ARMS.values()})
        == len(ARMS)
    )


def test_an_arm_fills_in_its_cells():
    wide = Arm("dora", "DoRA", "DoRA", "#123456", storage="float16")
    assert (wide.cell, wide.untuned_cell, wide.merged_cell, wide.dark_color) == tuple(
        "Dora B16 DoraM #123456".split()
    )
    narrow = Arm("eight", "8-bit", "8-bit", "#123456", storage="int8", cell="E8")
    assert narrow.cells == ("E8", "E8B", "E8M")
    assert narrow.base == narrow.base_storage("nf4") == "int8"
    shared = Arm("again", "Again", "again", "#123456", cell="A4")
    assert shared.untuned_cell == "B4"
    assert shared.base_storage("fp4") == "fp4"
    assert shared.base_label == "4-bit"


@pytest.mark.parametrize(
    "change", [{"name": "base"}, {"name": "lora-2"}, {"color": "red"}, {"cell": "../up"}]
)
def test_an_arm_with_an_unusable_name_or_colour_is_refused(change):
    with pytest.raises(ValueError, match="must"):
        Arm(**{"name": "fine", "label": "Fine", "short": "fine", "color": "#123456", **change})


def test_the_headline_is_the_twins_or_the_first_arm():
    assert headline_arms(["lora", "qlora", "dummy"]) == TWINS
    assert headline_arms(["qlora", "dummy"]) == ("qlora",) == headline_arms(["qlora"])


def test_page_and_report_give_an_arm_one_colour_and_one_name():
    for styles in (page_styles(), report_styles()):
        for arm in ARMS.values():
            assert f"--arm-{arm.name}: {arm.color};" in styles
            assert f"--arm-{arm.name}: {arm.dark_color};" in styles
    for folder in ("assistant_builder/ui/styles", "evals/report/templates"):
        for path in Path(__file__).parents[1].joinpath(folder).glob("*.css"):
            assert not any(
                f"--{name}:" in path.read_text() or f".{name} " in path.read_text() for name in ARMS
            ), path
    assert [t(CELLS[ARMS[arm].cell].label) for arm in TWINS] == [label(arm) for arm in TWINS]
    assert all(label(arm).startswith(f"{ARMS[arm].plain} (") for arm in TWINS)


# in a process of their own, with the dummy arm


@outside
def test_outside_config_knows_it():
    assert StudyConfig().arms == list(TWINS) and StudyConfig().eval.cells == list(TWIN_CELLS)
    config = StudyConfig().with_changes({"arms": "dummy,qlora,lora"})
    assert config.arms == ["lora", "qlora", "dummy"] and config.compares
    assert config.cells == [*TWIN_CELLS, "D4", "D4B", "D4M"]
    alone = StudyConfig().with_changes({"arms": "dummy"})
    # merging takes the memory of a 16-bit arm
    assert alone.cells == ["B4", "D4", "D4B"] and not alone.compares
    with pytest.raises(ConfigError, match="lora, qlora, qat, dummy"):
        StudyConfig().with_changes({"arms": "other"})


@outside
@pytest.mark.parametrize("name", ["ask", "export", "serve", "sweep"])
def test_outside_command_line_offers_it(name):
    assert "dummy" in command(f"{name} --help").stdout


@outside
def test_outside_page_offers_it():
    options = study_options()
    assert options["arms"].choices == ("lora", "qlora", "qat", "dummy")
    assert "D4" in options["eval.cells"].choices
    arms = ("lora", "qlora", "dummy")
    assert "Dummy (FP4)" in pane("dummy", PaneState(Conversation(), arms=arms))
    assert "--arm-dummy: #7a3fb0" in arm_styles()
    export, chat = inside_blocks(ExportTab), inside_blocks(lambda: ChatTab(WorkerPool(["false"])))
    assert ("Dummy (FP4)", "dummy") in export.panel.arm.choices
    assert list(chat.talk.panes) == ["copy", "a", "b", "qat", "dummy", "base"]


@outside
def test_outside_plan_counts_it():
    document = to_document(plan_study(StudyConfig().with_changes({"arms": "lora,qlora,dummy"})))
    assert list(document["methods"]) == ["qlora", "lora", "dummy"]
    assert (
        document["methods"]["dummy"]["weights_bytes"]
        == document["methods"]["qlora"]["weights_bytes"]
    )


@outside
def test_outside_report_shows_it_with_the_twins():
    cells = (*ALL_CELLS, "D4", "D4B", "D4M")
    study = write_study(Recipe(cells=cells, settings={"arms": ["lora", "qlora", "dummy"]}))
    report = build_report(study)
    check_report(report)
    html = write_report(study).read_text(encoding="utf-8")
    for shown in parts(
        """
        Dummy (FP4) | --arm-dummy: #7a3fb0 | class="mark dummy" | D4 − L16 | class="answer dummy"
        """
    ):
        assert shown in html, shown
    assert "Dummy (FP4)" in (study.folder / "report.md").read_text(encoding="utf-8")


def check_report(report: dict[str, Any]) -> None:
    """The dummy arm is in every table; the verdict is that of the twins."""
    assert report["verdict"]["contrast"] == "Q4-L16" and report["twins"]["matched"]
    assert set(report["twins"]["work"]) == set(TWINS)
    assert {"D4", "D4B", "D4M"} <= report["cells"].keys()
    assert report["cells"]["D4"]["label"] == "Dummy (FP4)"
    assert {"D4-L16", "D4-Q4", "D4-D4B", "D4M-D4"} <= {row["name"] for row in report["contrasts"]}
    assert list(report["resources"]) == list(report["curves"]) == ["lora", "qlora", "dummy"]
    assert {row["cell"]: row["arm"] for row in report["exports"]}.items() >= {
        "D4": "dummy",
        "D4M": "dummy",
    }.items()


@pytest.mark.long
def test_an_arm_from_outside_is_found_in_config_command_line_page_and_report(plugged):
    words = "-m pytest -q -p no:cacheprovider -k test_outside -m".split()
    done = python(*words, "not train", __file__, env=plugged)
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.train
@pytest.mark.slow
def test_a_third_arm_goes_from_training_to_report_answers_and_export(
    bundled_models, tmp_path, plugged
):
    base = tiny_base(tmp_path / "base")
    settings = {**QUICK, **FEW_SCORES, "arms": "dummy,qlora,lora", "model.base": base}
    status = record_of(f"run {SMALL} --name three", *set_words(settings), env=plugged)
    assert [
        step["name"] for step in status["steps"]
    ] == "data data-embed train-lora train-qlora train-dummy evaluate report".split()
    folder = Path(status["folder"])
    report = json.loads((folder / "report.json").read_text())
    check_report(report)
    assert (
        report["arms"]["dummy"]["base_storage"] == "fp4" != report["arms"]["qlora"]["base_storage"]
    )
    assert report["cells"]["D4"]["nll_per_token"] != report["cells"]["Q4"]["nll_per_token"]

    asked = record_of("ask three 'Where are the maps?' --arm dummy", env=plugged)
    assert list(asked["answers"]) == ["dummy"]
    taken = tmp_path / "taken"
    export = record_of("export three --arm dummy --sample 2 --to", taken, env=plugged)
    assert export["cell"] == "D4"
    assert "Dummy (FP4)" in (tmp_path / "taken" / "README.md").read_text()
