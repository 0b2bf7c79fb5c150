"""A study that is killed repeatedly has the same bytes and scores as an undisturbed one."""

import random
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.study import Study
from tests.export.tiny import tiny_base
from tests.fault_injection.corruption import damage_files
from tests.fault_injection.full_disk import full_disk
from tests.fault_injection.kills import kill_every_step
from tests.fault_injection.study import Row, differences, outcome, run, small_study, table
from tests.fault_injection.triggers import Trigger, training_trigger
from tests.synthetic_study import finished_study


@pytest.fixture(scope="module")
def undisturbed(
    model_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, dict[str, Any]]:
    """An undisturbed study on a base of two layers, run once for this module, and its results."""
    home = tmp_path_factory.mktemp("soak")
    (home / "models").symlink_to(model_cache / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        study = small_study("undisturbed", str(tiny_base(home / "base")), eval__similarity=False)
        code, output = run(study)
    assert code == 0, output
    wanted = outcome(study)
    assert {"lora", "qlora", "L16", "Q4", "verdict"} <= wanted.keys()
    return study, wanted


@pytest.mark.train
@pytest.mark.slow
def test_kills_in_every_step_lose_nothing(undisturbed):
    # `python -m tests.fault_injection` does the same with the bundled model, and more often
    told: list[str] = []
    row = kill_every_step(*undisturbed, 1, told.append)
    assert row.injected >= 4, told
    assert row.lost == [], table([row])


@pytest.mark.train
@pytest.mark.slow
def test_a_full_disk_in_training_is_reported_and_training_resumes(undisturbed):
    row = full_disk(*undisturbed, 1, 0, lambda line: None)
    if row.missed and "mounted" in row.missed[0]:
        pytest.skip(row.missed[0])
    assert (row.injected, row.compared) == (1, 2) and row.lost == [], table([row])


@pytest.mark.train
@pytest.mark.slow
def test_every_damaged_file_of_a_real_study_is_detected(undisturbed):
    row = damage_files(*undisturbed, 60, 0)
    assert row.injected == 60 and row.lost == [], table([row])


def test_differences_from_the_undisturbed_run_are_named():
    study = finished_study()
    wanted = outcome(study)
    assert differences(study, wanted) == []
    samples = study.cell_folder("Q4") / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-2])
    (study.cell_folder("L16") / "samples.jsonl").unlink()
    assert differences(study, wanted) == ["L16 is missing", "Q4 differs from the undisturbed run"]


def test_triggers_depend_on_the_seed_and_end_with_the_process():
    study = finished_study()
    names = [
        [training_trigger(study, "lora", draw).name for _ in range(8)]
        for draw in (random.Random("a"), random.Random("a"), random.Random("b"))
    ]
    assert names[0] == names[1] != names[2]
    assert Trigger("never", lambda: False).wait(lambda: False) is False
    assert Trigger("now", lambda: True).wait(lambda: True) is True


def test_the_table_counts_and_names_what_was_lost():
    row = Row("SIGKILL")
    row.add(True, "")
    row.add(False, "report: too late")
    row.compare(["lora differs"], "study 1")
    assert (row.injected, row.compared) == (1, 1)
    output = table([row])
    assert "| SIGKILL | 1 | 1 | 1 |" in output and "LOST  SIGKILL: study 1: lora differs" in output
    assert "late  SIGKILL: report: too late" in output
