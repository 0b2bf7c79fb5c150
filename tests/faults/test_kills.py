"""A study that is struck down again and again ends as one that was left alone: the same bytes, the same scores."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from assistant_builder.study import Study
from evals.soak.damage import damage_files
from evals.soak.disks import full_disk
from evals.soak.kills import kill_every_step
from evals.soak.moments import Moment, training_moment
from evals.soak.results import Row, table
from evals.soak.subject import differences, new_subject, outcome, run
from tests.evals.export.tiny import tiny_base
from tests.synthetic_study import finished_study


@pytest.fixture(scope="module")
def undisturbed(model_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict[str, Any]]:
    """A study on a base of two layers that nothing was done to, run once for this module, and what came out."""
    home = tmp_path_factory.mktemp("soak")
    (home / "models").symlink_to(model_cache / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSISTANT_BUILDER_HOME", str(home))
        study = new_subject("undisturbed", str(tiny_base(home / "base")), eval__similarity=False)
        code, said = run(study)
    assert code == 0, said
    wanted = outcome(study)
    assert {"lora", "qlora", "L16", "Q4", "verdict"} <= wanted.keys()
    return study, wanted


@pytest.mark.train
def test_a_kill_in_every_step_loses_nothing(undisturbed: tuple[Study, dict[str, Any]]) -> None:
    """``python -m evals.soak`` does it with the bundled model, and kills its trainings twenty times besides."""
    told: list[str] = []
    row = kill_every_step(*undisturbed, 1, told.append)
    assert row.injected >= 4, told
    assert row.lost == [], table([row])


@pytest.mark.train
def test_a_disk_that_fills_up_in_training_is_said_and_carried_on_from(
    undisturbed: tuple[Study, dict[str, Any]]
) -> None:
    row = full_disk(*undisturbed, 1, 0, lambda line: None)
    if row.missed and "mounted" in row.missed[0]:
        pytest.skip(row.missed[0])
    assert (row.injected, row.compared) == (1, 2) and row.lost == [], table([row])


@pytest.mark.train
def test_no_damaged_file_of_a_real_study_is_taken_for_whole(undisturbed: tuple[Study, dict[str, Any]]) -> None:
    row = damage_files(*undisturbed, 60, 0)
    assert row.injected == 60 and row.lost == [], table([row])


def test_what_differs_from_the_undisturbed_run_is_named() -> None:
    study = finished_study()
    wanted = outcome(study)
    assert differences(study, wanted) == []
    samples = study.cell_folder("Q4") / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-2])
    (study.cell_folder("L16") / "samples.jsonl").unlink()
    assert differences(study, wanted) == ["L16 is missing", "Q4 differs from the undisturbed run"]


def test_moments_are_drawn_from_the_seed_and_given_up_when_the_process_ends() -> None:
    study = finished_study()
    names = [[training_moment(study, "lora", draw).name for _ in range(8)]
             for draw in (random.Random("a"), random.Random("a"), random.Random("b"))]
    assert names[0] == names[1] != names[2]
    assert Moment("never", lambda: False).wait(lambda: False) is False
    assert Moment("now", lambda: True).wait(lambda: True) is True


def test_the_table_counts_and_names_what_was_lost() -> None:
    row = Row("SIGKILL")
    row.add(True, "")
    row.add(False, "report: too late")
    row.compare(["lora differs"], "study 1")
    assert (row.injected, row.compared) == (1, 1)
    said = table([row])
    assert "| SIGKILL | 1 | 1 | 1 |" in said and "LOST  SIGKILL: study 1: lora differs" in said
    assert "late  SIGKILL: report: too late" in said
